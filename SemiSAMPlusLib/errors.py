"""The one family of errors that a user can cause and can mend."""

from __future__ import annotations

from collections.abc import Sequence


class SemiSAMPlusError(Exception):
    """An error with one sentence of what is wrong and one of what to do.

    Args:
        what: What is wrong, naming the file or setting, the value found and the value expected.
        remedy: What the user can do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


class ConfigError(SemiSAMPlusError):
    """A setting has a value that cannot work."""


class RunFolderError(SemiSAMPlusError):
    """A run folder cannot be used as asked: owned by a living job, incomplete, or not a run folder."""


class VolumeError(SemiSAMPlusError):
    """An image or label file cannot be read, written or used."""


class WeightsError(SemiSAMPlusError):
    """Weights are missing, damaged, unsafe to load, or do not fit the model."""


class DeviceError(SemiSAMPlusError):
    """A device was asked for that is not there, or has not enough memory."""


class DivergenceError(SemiSAMPlusError):
    """A training's weights are no longer finite numbers."""


class CohortError(SemiSAMPlusError):
    """A cohort cannot be trained on. All faults are reported together.

    Args:
        faults: Every fault that was found, each a :class:`SemiSAMPlusError` that names its file.
    """

    def __init__(self, faults: Sequence[SemiSAMPlusError]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        what = f"The cohort has {count} fault{'s' if count != 1 else ''}:\n" + "\n".join(
            f"  {number}. {fault.what} {fault.remedy}" for number, fault in enumerate(self.faults, start=1)
        )
        super().__init__(what, "\nNothing was started; mend the files named above and try again.")
