"""How grey values are brought to one scale, chosen from what kind of image it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["ct", "mr", "pet"]

#: SUV above which more uptake says nothing more; and the SUV around which the scale turns from linear to logarithmic.
_PET_CEILING, _PET_KNEE = 25.0, 1.0


@dataclass(frozen=True)
class Normalization:
    """Brings the grey values of one channel to about zero mean and unit spread.

    CT: values mean the same in every scan, so the window and scale come from the labelled structures once.
    MR: values mean nothing by themselves, so each scan is clipped at its 0.5 and 99.5 % and z-scored.
    PET in SUV: compressed as asinh(SUV), so that faint and intense uptake both show, then z-scored per scan.

    Attributes:
        kind: What kind of image it is.
        low: CT only: the window's lower end in HU.
        high: CT only: the window's upper end in HU.
        mean: CT only: mean within the window.
        std: CT only: standard deviation within the window.
    """

    kind: Kind
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Return normalised grey values, float32, of one channel of any shape."""
        array = np.asarray(array, dtype=np.float32)
        if self.kind == "ct":
            return (np.clip(array, self.low, self.high) - self.mean) / max(self.std, 1e-3)
        if self.kind == "pet":
            array = np.arcsinh(np.clip(array, 0, _PET_CEILING) / _PET_KNEE)
        # Zeros around a masked or skull-stripped scan are no tissue and must not set the scale.
        tissue = array[array != 0]
        if tissue.size < 0.02 * array.size:
            tissue = array.ravel()
        low, high = np.percentile(tissue, (0.5, 99.5))
        inside = np.clip(tissue, low, high)
        return ((np.clip(array, min(low, 0.0), high) - inside.mean()) / max(float(inside.std()), 1e-6)).astype(
            np.float32
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


def guess_kind(channel: str, array: np.ndarray) -> Kind:
    """Guess what kind of image a channel is, from its name or else its values.

    Args:
        channel: The channel's name, as a dataset's description gives it.
        array: Grey values of one scan.
    """
    words = channel.lower().replace("-", " ").replace("_", " ").split()
    for kind, names in {
        "ct": ("ct", "cbct"),
        "pet": ("pet", "suv", "pt"),
        "mr": ("mr", "mri", "flair", "t1", "t2"),
    }.items():
        if any(word in names or (word.startswith(("t1", "t2")) and kind == "mr") for word in words):
            return kind  # type: ignore[return-value]
    # Only CT has air at about -1000; 1 % keeps a few odd voxels of an MR from deciding.
    return "ct" if np.percentile(array, 1) <= -500 else "mr"


def ct_window(values: np.ndarray) -> Normalization:
    """Return a CT window around the labelled structures.

    Args:
        values: Grey values in HU in and near the labelled structures of the labelled cases.
    """
    low, high = np.percentile(values, (0.5, 99.5))
    margin = max(100.0, 0.5 * float(high - low))
    low, high = float(low) - margin, float(high) + margin
    inside = np.clip(values, low, high)
    return Normalization("ct", low, high, float(inside.mean()), max(float(inside.std()), 50.0))
