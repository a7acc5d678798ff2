"""What a user wants predicted: files and folders as they come, made cases, and checked before anything is started."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import SemiSAMPlusError, VolumeError
from .checks import file_faults
from .cohort import Case, Role, summary
from .layouts import Layout, is_dicom_series, recognize_images
from .volume import series_files


def find_inputs(paths: Sequence[Path], channels: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases that files and folders hold, in the order given, those of a folder sorted by name.

    A file is a case, and so is the folder of a DICOM series. Several channels are told apart by nnU-Net's suffixes
    (``CASE_0000``, ``CASE_0001``, …) or by a folder for each. A folder may also be one that a cohort can be made from.

    Args:
        paths: Files and folders.
        channels: The channels that every case must have.

    Raises:
        VolumeError: If there is nothing, or there are two cases of a name.
        CohortError: If a folder holds no volumes, or contradicts itself.
    """
    # "." and ".." are no names for a case.
    paths = [Path(os.path.abspath(path)) for path in paths]
    missing = [path for path in paths if not path.exists()]
    if missing or not paths:
        raise_faults(
            [VolumeError(f"{path}: there is no such file or folder.", "Correct the path.") for path in missing]
        )
        raise VolumeError("No image was given, expected at least one.", "Name files or folders.")
    volumes = [path for path in paths if path.is_file() or is_dicom_series(path)]
    cases: list[Case] = []
    if volumes:
        cases += _cases(recognize_images(volumes, channels=len(channels)), channels)
    for folder in paths:
        if folder not in volumes:
            cases += _cases(recognize_images(folder, channels=len(channels)), channels)
    raise_faults(_repeated(cases))
    return tuple(cases)


def check_inputs(cases: Iterable[Case], channels: Sequence[str]) -> list[SemiSAMPlusError]:
    """Return the faults of the cases' images: missing files, unreadable headers, too few or too many channels.

    Args:
        cases: The cases; their labels stay closed.
        channels: The channels that every case must have.
    """
    faults: list[SemiSAMPlusError] = []
    for case in cases:
        if len(case.images) != len(channels):
            what = (
                f"{summary(map(str, case.images))}: case '{case.name}' has {len(case.images)} image(s), expected "
                f"{len(channels)}, one per channel ({summary(channels, 12)})."
            )
            faults.append(VolumeError(what, "Give one image for each channel that the specialist was trained on."))
        for image in case.images:
            faults += _series_faults(image) if image.is_dir() else file_faults(image)
    return faults


def raise_faults(faults: Sequence[SemiSAMPlusError]) -> None:
    """Raise what was found: one fault as it is, several as one error that tells them all.

    Raises:
        VolumeError: If there are several faults.
        SemiSAMPlusError: If there is one.
    """
    if len(faults) == 1:
        raise faults[0]
    if faults:
        listed = "\n".join(f"  {number}. {one.what} {one.remedy}" for number, one in enumerate(faults, start=1))
        msg = f"The images have {len(faults)} faults:\n{listed}"
        raise VolumeError(msg, "Nothing was predicted; correct the files named above and try again.")


def _cases(layout: Layout, channels: Sequence[str]) -> list[Case]:
    wanted = _matching(layout, channels)
    return [
        Case(found.name, tuple(found.images[one] for one in wanted if one in found.images), found.label, Role.TEST)
        for found in layout.cases
    ]


def _matching(layout: Layout, channels: Sequence[str]) -> tuple[str, ...]:
    """Return the layout's channels that are those of the specialist: by name, else by number where names say nothing."""
    known = {name.lower(): name for name in layout.channels}
    if all(name.lower() in known for name in channels):
        return tuple(known[name.lower()] for name in channels)
    names_say_nothing = len(channels) == 1 or not layout.named or not _named(channels)
    if len(layout.channels) == len(channels) and names_say_nothing:
        return layout.channels
    example = next((path for found in layout.cases for path in found.images.values()), Path())
    what = (
        f"{example}: lies among images of {len(layout.channels)} channel(s) ({summary(layout.channels, 12)}), expected "
        f"{len(channels)} ({summary(channels, 12)})."
    )
    remedy = (
        "Give them as CASE_0000, CASE_0001, … in this order, or in a folder for each channel, named as the channel."
    )
    raise VolumeError(what, remedy)


def _named(channels: Sequence[str]) -> bool:
    return Layout("", (), tuple(channels)).named


def _repeated(cases: Sequence[Case]) -> list[SemiSAMPlusError]:
    # Predictions are files, and not every system tells Case.nii.gz from case.nii.gz.
    counts = Counter(case.name.casefold() for case in cases)
    faults: list[SemiSAMPlusError] = []
    for folded in (name for name, count in counts.items() if count > 1):
        same = [case for case in cases if case.name.casefold() == folded]
        what = f"{summary(str(image) for case in same for image in case.images[:1])}: are all called '{same[0].name}', expected names that differ."
        faults.append(VolumeError(what, "Predict them one after the other, each into an --output of its own."))
    return faults


def _series_faults(folder: Path) -> list[SemiSAMPlusError]:
    try:
        series_files(folder)
    except VolumeError as fault:
        return [fault]
    return []
