"""Whether a cohort can be trained on: every fault of its files, found before training starts."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk

from ..errors import CohortError, SemiSAMPlusError, VolumeError
from .cohort import Case, Cohort, Role, summary
from .content import content_sha256
from .outputs import read_segments, segment_name_faults, voxel_classes
from .volume import GRID_TOLERANCE, Grid, numbers_text, read_image

#: NIfTI-1's codes of floating point numbers (nifti1.h), and numpy's.
_NIFTI_FLOATS = {"16": "f4", "64": "f8"}

#: How far the axes of a direction may be from right angles and unit length (Frobenius norm of DᵀD - 1): what rounding does.
_RIGHT_ANGLES = 1e-4

#: How a gzip file begins (RFC 1952).
_GZIP = b"\x1f\x8b"

_CHUNK = 1 << 20

#: Cases that are looked at together, at most.
_THREADS = 4


def require_sound(cohort: Cohort, *, tolerance: float = GRID_TOLERANCE) -> None:
    """Raise one error that tells every fault of ``cohort``; see :func:`check_cohort`.

    Raises:
        CohortError: If there is any fault.
    """
    faults = check_cohort(cohort, tolerance=tolerance)
    if faults:
        raise CohortError(faults)


def check_cohort(cohort: Cohort, *, tolerance: float = GRID_TOLERANCE) -> list[SemiSAMPlusError]:
    """Find every fault that would stop or spoil a training.

    What training opens is opened here, each volume once and a few at a time: images of labelled, unlabelled and
    validation cases, labels of labelled and validation cases. Labels of unlabelled cases are not touched at all, and
    test cases are never opened: only that their files exist, and are not a training case's, is looked at. Two images
    are the same where their voxels are, however they were packed.

    Args:
        cohort: The cohort.
        tolerance: How far a corner of one grid may lie from the same corner of a grid that it must match, in parts
            of the smallest voxel edge.

    Returns:
        The faults: first those of the cohort as a whole, then those of the files in cohort order. Each names the
        file, what was found, what was expected, and the remedy.
    """
    faults = [*_cohort_faults(cohort), *_repeated_files(cohort)]
    known: dict[str, tuple[str, Path]] = {}
    shown: set[int] = set()
    values: set[int] = set()
    unread = False
    opened = [case for case in cohort.cases if case.role is not Role.TEST]
    # SimpleITK, numpy and hashlib let other threads work meanwhile. A few volumes at a time fit into the memory.
    with _quiet(), ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        checked = dict(
            zip(map(id, opened), pool.map(lambda case: _check_files(case, cohort, tolerance), opened), strict=True)
        )
    for case in cohort.cases:
        if case.role is Role.TEST:
            faults += [_missing(path) for path in _files(case) if not path.exists()]
            continue
        found = checked[id(case)]
        for path, own, digest in found.images:
            faults += own
            if digest is not None:
                faults += _same_voxels(path, digest, case, known)
        faults += found.label_faults
        if case.role is Role.LABELED:
            shown |= found.classes or set()
            values |= found.values
            unread |= found.classes is None
    # A class may be shown by a label that could not be read, so its absence is certain only when all were.
    if cohort.labeled and not unread:
        faults += _absent_classes(cohort, shown, values)
    read = [case.label for case in opened if case.label is not None and checked[id(case)].classes is not None]
    return [*faults, *segment_name_faults(read, cohort.classes)]


def read_label_values(path: Path) -> list[int]:
    """Return the values that a label file holds, ascending.

    Raises:
        VolumeError: If the file is missing, is no 3D volume, or holds values that are not whole numbers.
    """
    with _quiet():
        faults = file_faults(path)
        if faults:
            raise faults[0]
        return _label_values(path, read_image(path))


def input_hashes(cohort: Cohort) -> dict[str, str]:
    """Return :func:`content_sha256` of every volume that training opens, by its absolute path with forward slashes.

    Raises:
        VolumeError: If a file is missing or cannot be read.
    """
    hashes: dict[str, str] = {}
    for case in cohort.with_role(Role.LABELED, Role.UNLABELED, Role.VALIDATION):
        for path in _files(case):
            key = path.absolute().as_posix()
            if key not in hashes:
                hashes[key] = content_sha256(path)
    return hashes


# --- The cohort as a whole


def _cohort_faults(cohort: Cohort) -> Iterator[SemiSAMPlusError]:
    if not cohort.labeled:
        what = f"None of the {len(cohort.cases)} case(s) is labelled, expected at least one."
        yield SemiSAMPlusError(what, "Label a case: a specialist has to be shown what it is to find.")
    if not cohort.classes:
        yield SemiSAMPlusError("The cohort has no class, expected at least one.", "Name one: --classes NAME=VALUE.")
    yield from _shared_names(cohort)
    for kind, names in (("classes", [c.name for c in cohort.classes]), ("channels", list(cohort.channels))):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            what = f"Several {kind} are named {summary(repeated)}, expected names that differ."
            yield SemiSAMPlusError(what, "Give each a name of its own.")
    owners: dict[int, str] = {0: "background"}
    for one in cohort.classes:
        if not one.values:
            yield SemiSAMPlusError(
                f"The class '{one.name}' has no value, expected at least one.", f"Write {one.name}=1."
            )
        for value in one.values:
            if value in owners:
                what = f"The label value {value} stands for '{owners[value]}' and for '{one.name}', expected one."
                yield SemiSAMPlusError(what, "Give each class values of its own; 0 is background.")
            owners[value] = one.name
    for case in cohort.cases:
        if len(case.images) != len(cohort.channels):
            what = (
                f"{summary(map(str, case.images))}: case '{case.name}' has {len(case.images)} image(s), expected "
                f"{len(cohort.channels)}, one per channel ({summary(cohort.channels)})."
            )
            yield SemiSAMPlusError(what, "Add what is missing, or leave the case out.")
        if case.role in (Role.LABELED, Role.VALIDATION) and case.label is None:
            what = f"{summary(map(str, case.images))}: the {case.role.value} case '{case.name}' has no label file."
            yield SemiSAMPlusError(what, "Add its label, or give the case another role.")


def _shared_names(cohort: Cohort) -> Iterator[SemiSAMPlusError]:
    """Find names that several cases have; layers and predictions lie under them, and not every system tells A from a."""
    sharing: dict[str, list[Case]] = {}
    for case in cohort.cases:
        sharing.setdefault(case.name.casefold(), []).append(case)
    for cases in (several for several in sharing.values() if len(several) > 1):
        names = " or ".join(f"'{name}'" for name in dict.fromkeys(case.name for case in cases))
        images = summary(str(image) for case in cases for image in case.images[:1])
        what = f"{len(cases)} cases are named {names}, expected one ({images})."
        yield SemiSAMPlusError(what, "Give each case a name of its own; upper and lower case count as one.")


def _repeated_files(cohort: Cohort) -> Iterator[SemiSAMPlusError]:
    """Find paths that stand twice in the cohort, however they are written."""
    owners: dict[Path, str] = {}
    for case in cohort.cases:
        for path in _files(case):
            place = f"case '{case.name}' ({case.role.value})"
            # Resolving follows links and spellings; it opens nothing.
            resolved = path.resolve()
            if resolved in owners:
                what = f"{path}: is listed in {place} and already in {owners[resolved]}, expected once."
                yield SemiSAMPlusError(what, "Remove one of the two: the same data must not have two roles.")
            else:
                owners[resolved] = place


def _absent_classes(cohort: Cohort, shown: set[int], values: set[int]) -> Iterator[SemiSAMPlusError]:
    labels = [str(case.label) for case in cohort.labeled]
    covered = {value for index in shown for value in cohort.classes[index - 1].values}
    for one in cohort.classes:
        if one.values and covered.isdisjoint(one.values):
            what = (
                f"{summary(labels)}: no voxel of the class '{one.name}' (value {_listed(one.values)}) in the labelled "
                f"cases, found {_listed(values - {0}) or 'only background'}, expected it in at least one."
            )
            yield SemiSAMPlusError(what, "Label a case that shows it, or leave the class out with --classes.")


# --- Images


@dataclass
class _Checked:
    """What the files of a case say, other cases left aside.

    Attributes:
        images: Each image, its faults, and the digest of its voxels or None where they could not be read.
        grid: The grid that the label must have.
        values: The label's.
        classes: The indices of the classes that the label shows, None where it could not be read.
        label_faults: The label's.
    """

    images: list[tuple[Path, list[SemiSAMPlusError], str | None]] = field(default_factory=list)
    grid: Grid | None = None
    values: set[int] = field(default_factory=set)
    classes: set[int] | None = None
    label_faults: list[SemiSAMPlusError] = field(default_factory=list)


def _check_files(case: Case, cohort: Cohort, tolerance: float) -> _Checked:
    found = _check_images(case, tolerance)
    if case.role is not Role.UNLABELED and case.label is not None:
        found.label_faults += _check_label(case, case.label, cohort, found, tolerance)
    return found


def _check_images(case: Case, tolerance: float) -> _Checked:
    """Check the images of a case, and find the grid that its label must have."""
    result = _Checked()
    first: Path | None = None
    for path in case.images:
        faults: list[SemiSAMPlusError] = [*file_faults(path)]
        if faults:
            result.images.append((path, faults, None))
            continue
        try:
            image = read_image(path)
        except VolumeError as error:
            result.images.append((path, [_cut_short(path) if path.is_file() else error], None))
            continue
        grid = Grid.of(image)
        if result.grid is None or first is None:
            result.grid, first = grid, path
        else:
            faults += _grid_faults(path, grid, first, result.grid, tolerance, f"the other channel {first}")
        faults += _voxel_faults(path, image)
        result.images.append((path, faults, _digest(image)))
    return result


def _same_voxels(path: Path, digest: str, case: Case, known: dict[str, tuple[str, Path]]) -> Iterator[VolumeError]:
    """Compare an image with those that came before it, and remember it."""
    if digest in known:
        name, other = known[digest]
        if path.resolve() != other.resolve():
            what = f"{path}: has the same voxels as {other} of case '{name}', expected different images."
            yield VolumeError(what, "Remove the copy: one image must not be two cases or two channels.")
    known.setdefault(digest, (case.name, path))


def _voxel_faults(path: Path, image: sitk.Image) -> Iterator[VolumeError]:
    array = sitk.GetArrayViewFromImage(image)
    nan, infinite = _count_not_finite(path, image)
    if nan or infinite:
        what = f"{path}: has {nan} NaN and {infinite} infinite of {array.size} voxels, expected finite values."
        yield VolumeError(what, "Replace them, e.g. by the value of the background (numpy.nan_to_num).")
    elif array.min() == array.max():
        what = f"{path}: every voxel has the value {array.flat[0]:g}, expected an image with contrast."
        yield VolumeError(what, "Replace the file by the right one, or leave the case out.")


def _count_not_finite(path: Path, image: sitk.Image) -> tuple[int, int]:
    """Return how many voxels of the file are NaN, and how many are infinite."""
    array = sitk.GetArrayViewFromImage(image)
    if not np.issubdtype(array.dtype, np.floating):
        return 0, 0
    # A NaN makes both NaN, an infinity shows as one of them: no second pass over a sound volume.
    if not np.isfinite(array.min()) or not np.isfinite(array.max()):
        return int(np.isnan(array).sum()), int(np.isinf(array).sum())
    return _count_not_finite_in_nifti(path, image)


def _count_not_finite_in_nifti(path: Path, image: sitk.Image) -> tuple[int, int]:
    """Count in the bytes of a NIfTI file, because ITK reads what is not finite there as zeros and says nothing."""
    if not _is_nifti(path) or not image.HasMetaDataKey("datatype"):
        return 0, 0
    kind = _NIFTI_FLOATS.get(image.GetMetaData("datatype"))
    if kind is None:
        return 0, 0
    nan = infinite = 0
    with _unpacked(path) as file:
        order = "<" if int.from_bytes(file.read(4), "little") in (348, 540) else ">"
        file.seek(int(float(image.GetMetaData("vox_offset"))))
        left = image.GetNumberOfPixels() * np.dtype(kind).itemsize
        while left and (data := file.read(min(left, _CHUNK))):
            left -= len(data)
            part = np.frombuffer(data, order + kind)
            if not np.isfinite(part).all():
                nan += int(np.isnan(part).sum())
                infinite += int(np.isinf(part).sum())
    return nan, infinite


def _digest(image: sitk.Image) -> str:
    array = sitk.GetArrayViewFromImage(image)
    # BLAKE2 is quick on every processor; this never leaves the check.
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    for part in array:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


# --- Labels


def _check_label(
    case: Case, path: Path, cohort: Cohort, found: _Checked, tolerance: float
) -> Iterator[SemiSAMPlusError]:
    """Check a label, and note what it holds."""
    faults = file_faults(path)
    if faults:
        yield from faults
        return
    try:
        label = read_image(path)
    except VolumeError as error:
        yield _cut_short(path) if path.is_file() else error
        return
    if found.grid is not None:
        grid = Grid.of(label)
        yield from _grid_faults(path, grid, case.images[0], found.grid, tolerance, f"its image {case.images[0]}")
    try:
        found.values = set(_label_values(path, label))
        meanings = voxel_classes(path, label, cohort.classes)
    except VolumeError as error:
        yield error
        return
    found.classes = {meanings[value] for value in found.values if meanings.get(value)}
    expected = ", ".join(f"{one.name} = {_listed(one.values)}" for one in cohort.classes)
    uncovered = {value for value in found.values if value and not meanings.get(value)}
    if uncovered and not cohort.picked:
        names = {one.label_value: one.name for one in read_segments(path)}
        listed = summary(
            [f"{value} ({names[value]})" if value in names else f"{value}" for value in sorted(uncovered)], 12
        )
        what = f"{path}: holds the value(s) {listed}, expected 0 and {expected}."
        remedy = "Correct the label, or pick classes with --classes: the other values are background then."
        yield VolumeError(what, remedy)
    if case.role is Role.LABELED and cohort.classes and not found.classes:
        what = f"{path}: no voxel of any class, found {_listed(found.values)}, expected {expected}."
        yield VolumeError(what, "Label it, correct the classes' values, or use another labelled case.")


def _label_values(path: Path, label: sitk.Image) -> list[int]:
    array = sitk.GetArrayViewFromImage(label)
    values: set[int] = set()
    odd: set[float] = set()
    for part in array:
        if np.issubdtype(part.dtype, np.integer):
            low, high = int(part.min()), int(part.max())
            if high - low < 1 << 16:
                # Counting is many times quicker than the sorting that numpy.unique does.
                counted = np.bincount((part.astype(np.int64) - low).ravel())
                values.update((np.flatnonzero(counted) + low).tolist())
                continue
        for value in np.unique(part).tolist():
            if math.isfinite(value) and value == int(value):
                values.add(int(value))
            else:
                odd.add(value)
    if any(_count_not_finite(path, label)):
        odd.add(math.nan)
    if odd:
        shown = summary([f"{value:.9g}" for value in sorted(odd)], 4)
        what = f"{path}: holds values that are not whole numbers ({shown}), expected one whole number per class."
        remedy = (
            "Save the label as integers; if it was resampled, resample it again with nearest-neighbour interpolation."
        )
        raise VolumeError(what, remedy)
    return sorted(values)


# --- Geometry


def _grid_faults(
    path: Path, grid: Grid, other_path: Path, other: Grid, tolerance: float, whose: str
) -> list[VolumeError]:
    """Compare two grids, as :meth:`Grid.difference` does."""
    difference = grid.difference(other, tolerance)
    if difference is None:
        return []
    what = f"{path}: is not on the grid of {whose}: {difference}."
    remedy = (
        f"Resample it onto {other_path.name} (in 3D Slicer: Resample Image; with SimpleITK: sitk.Resample; labels with "
        "nearest neighbour), or export it anew from the image that it was drawn on."
    )
    return [VolumeError(what, remedy)]


def _listed(values: set[int] | tuple[int, ...]) -> str:
    return summary([str(value) for value in sorted(values)], 12) if values else ""


# --- Files


def _files(case: Case) -> tuple[Path, ...]:
    """Return the files of a case that are its own to use: never the label of an unlabelled case."""
    return case.images if case.label is None or case.role is Role.UNLABELED else (*case.images, case.label)


def _missing(path: Path) -> VolumeError:
    return VolumeError(
        f"{path}: the file does not exist, expected a volume.", "Correct the path, or take the case out of the cohort."
    )


def _cut_short(path: Path) -> VolumeError:
    return VolumeError(
        f"{path}: its header can be read but not its voxels: the file is truncated or damaged, expected a complete one.",
        "Copy or download it again.",
    )


def file_faults(path: Path) -> list[VolumeError]:
    """Return what a volume's header tells against it; no voxel is read.

    Args:
        path: A volume file, or the folder of a DICOM series.
    """
    if not path.exists():
        return [_missing(path)]
    if path.is_dir():
        # What a DICOM series holds shows only when its slices are read together, and then at right angles.
        return []
    if path.stat().st_size == 0:
        return [VolumeError(f"{path}: has 0 bytes, expected a volume.", "Copy or download it again.")]
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        return [_unreadable(path, str(error))]
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    # Some formats keep a fourth axis of one time point, which is nothing to stumble over.
    dimensions = len(size) - 1 if len(size) == 4 and size[3] == 1 else len(size)
    if dimensions > 3:
        what = f"{path}: has {dimensions} dimensions, size {numbers_text(size)}, expected 3."
        return [VolumeError(what, "Save each time point or channel as a 3D file of its own; see docs/recipes.md.")]
    if components != 1:
        what = f"{path}: has {components} values a voxel, expected 1."
        return [VolumeError(what, "Save each component as a 3D file of its own, a label as one map of values.")]
    if 0 in size:
        what = f"{path}: is empty, size {numbers_text(size)}, expected voxels along all three axes."
        return [VolumeError(what, "Export the volume again.")]
    if dimensions < 3 or min(size[:3]) == 1:
        what = f"{path}: is a single slice, size {numbers_text(size)}, expected several slices along all three axes."
        return [VolumeError(what, "Use the whole 3D volume, or leave the case out.")]
    faults = _direction_faults(path, reader.GetDirection())
    return faults if _is_whole(path, reader) else [*faults, _cut_short(path)]


def _direction_faults(path: Path, direction: Sequence[float]) -> list[VolumeError]:
    """Tell of axes that are not at right angles: no NIfTI could be written for such a volume in its place."""
    count = math.isqrt(len(direction))
    matrix = np.reshape(direction, (count, count))
    if np.linalg.norm(matrix.T @ matrix - np.eye(count)) <= _RIGHT_ANGLES:
        return []
    return [_not_orthonormal(path, f"direction {numbers_text(direction)}", "")]


def _unreadable(path: Path, message: str) -> VolumeError:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason given"
    if "orthonormal" in message:
        rounded = (
            "; or, where it is off by rounding only, set the environment variable ITK_NIFTI_SFORM_PERMISSIVE to 1, "
            "which takes the nearest right angles"
        )
        return _not_orthonormal(path, reason, rounded)
    what = f"{path}: cannot be read as a volume ({reason}), expected a format that SimpleITK reads."
    return VolumeError(what, "Save it anew as .nii.gz, .nrrd or .mha; if it was copied or downloaded, do that again.")


def _not_orthonormal(path: Path, reason: str, otherwise: str) -> VolumeError:
    what = (
        f"{path}: its header's direction has axes that are not at right angles, or scaled unlike the voxels "
        f"({reason}), expected orthonormal directions."
    )
    return VolumeError(what, f"Load it in 3D Slicer, harden its transform and save it anew{otherwise}.")


def _is_whole(path: Path, reader: sitk.ImageFileReader) -> bool:
    """Tell whether a NIfTI file has all the bytes that its header promises.

    ITK fills what is missing with zeros and says nothing; the other formats complain by themselves.
    """
    if not _is_nifti(path) or not {"bitpix", "vox_offset"} <= set(reader.GetMetaDataKeys()):
        return True
    voxels = math.prod(reader.GetSize()) * int(reader.GetMetaData("bitpix")) // 8
    promised = int(float(reader.GetMetaData("vox_offset"))) + voxels
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            return path.stat().st_size >= promised
        file.seek(-4, 2)
        # The last four bytes of a gzip file are its unpacked size modulo 2³² (RFC 1952); a file cut short has others.
        if int.from_bytes(file.read(4), "little") == promised % (1 << 32):
            return True
    # Files of several gzip members, or with bytes behind the volume, are whole too: only unpacking tells.
    try:
        with _unpacked(path) as file:
            file.seek(promised - 1)
            return len(file.read(1)) == 1
    except (EOFError, OSError, zlib.error):
        return False


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _unpacked(path: Path) -> BinaryIO:
    """Open a file that may be packed by gzip, whatever it is called."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings from standing between the faults, which say the same in words."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
