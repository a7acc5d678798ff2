"""Volumes: an array with its place in the body. SimpleITK owns the geometry.

House rule: arrays are in SimpleITK's array order (z, y, x), channels first; physical points are (x, y, z) in mm, LPS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk

from ..errors import VolumeError
from .cohort import Case

#: The orientation of every training grid: array axes run superior, posterior, left with growing index.
ORIENTATION = "LPS"

#: Two grids are one where no corner of the field of view lies farther apart than this share of the smallest voxel side.
GRID_TOLERANCE = 0.1

#: How far a slice of a DICOM series may lie from its place in an even stack, as a share of the slices' distance: less than
#: a missing slice moves one, more than rounded positions do.
_UNEVEN = 0.25

#: Voxels along an axis that ITK's recursive Gaussian needs at least.
_LEAST_SMOOTHED = 4

Number = TypeVar("Number", int, float)


def triple(values: Iterable[float], kind: type[Number]) -> tuple[Number, Number, Number]:
    """Return three values as plain numbers of one kind."""
    first, second, third = (kind(value) for value in values)
    return first, second, third


def numbers_text(values: Iterable[float]) -> str:
    """Return numbers as a message shows them, such as ``(0.625, 0.625, 1)``."""
    return "(" + ", ".join(f"{value:.7g}" for value in values) + ")"


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array lie in the body.

    Attributes:
        shape: Voxels along (z, y, x).
        spacing: Voxel size in mm along (x, y, z).
        origin: Physical point (x, y, z) in mm, LPS, of the centre of voxel (0, 0, 0).
        direction: The 3×3 direction cosines, row by row, as SimpleITK gives them.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """Return the grid of a 3D SimpleITK image."""
        x, y, z = image.GetSize()
        return cls((z, y, x), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def affine(self) -> np.ndarray:
        """The 4×4 matrix from array index (z, y, x, 1) to physical point (x, y, z, 1) in mm, LPS."""
        matrix = np.eye(4)
        scaled = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        matrix[:3, :3] = scaled[:, ::-1]
        matrix[:3, 3] = self.origin
        return matrix

    def to_physical(self, indices: np.ndarray) -> np.ndarray:
        """Map array indices (N, 3) as (z, y, x), which may be fractional, to points (N, 3) as (x, y, z) in mm, LPS."""
        return np.asarray(indices, dtype=float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """Map points (N, 3) as (x, y, z) in mm, LPS, to fractional array indices (N, 3) as (z, y, x)."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(points, dtype=float) @ inverse[:3, :3].T + inverse[:3, 3]

    def difference(self, expected: Grid, tolerance: float = GRID_TOLERANCE) -> str | None:
        """Say how this grid differs from ``expected``, both values shown, or return None where they are one.

        Args:
            expected: What it is compared with.
            tolerance: How far a corner of the field of view may lie apart, as a share of the smallest voxel side.
        """
        distance = ""
        if self.shape == expected.shape:
            ends = np.array([(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * (np.array(self.shape) - 1)
            apart = float(np.linalg.norm(self.to_physical(ends) - expected.to_physical(ends), axis=1).max())
            if apart <= tolerance * min(expected.spacing):
                return None
            distance = f" (a corner lies {apart:.3g} mm apart)"
        rows = (
            ("size", self.shape[::-1], expected.shape[::-1], 0.5),
            ("spacing", self.spacing, expected.spacing, 1e-6),
            ("origin", self.origin, expected.origin, 1e-4),
            ("direction", self.direction, expected.direction, 1e-6),
        )
        different = [
            f"{name} {numbers_text(mine)}, expected {numbers_text(theirs)}"
            for name, mine, theirs, least in rows
            if not np.allclose(mine, theirs, rtol=0, atol=least)
        ]
        return "; ".join(different) + distance

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """Return the grid of the box that starts at array index ``start`` (z, y, x), which may lie outside."""
        origin = self.to_physical(np.asarray([start]))[0]
        return Grid(triple(shape, int), self.spacing, triple(origin, float), self.direction)

    def image(self, array: np.ndarray) -> sitk.Image:
        """Return ``array`` (z, y, x) as a SimpleITK image on this grid."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def reference(self) -> sitk.Image:
        """Return an image of zeros on this grid, to resample onto."""
        z, y, x = self.shape
        image = sitk.Image(x, y, z, sitk.sitkUInt8)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Volume:
    """A case's image: its array and where it lies.

    Attributes:
        array: (channel, z, y, x), float32, grey values as in the file.
        grid: Where the voxels lie.
    """

    array: np.ndarray
    grid: Grid


def read_image(path: Path) -> sitk.Image:
    """Read a 3D scalar image, or a folder that holds one DICOM series.

    Raises:
        VolumeError: If the file is missing, unreadable, or not one 3D volume.
    """
    path = Path(path)
    if not path.exists():
        msg = f"{path}: the file does not exist."
        raise VolumeError(msg, "Correct the path, or take the case out of the cohort.")
    try:
        image = _read_dicom(path) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no reason given"
        msg = f"{path}: cannot be read as an image ({reason})."
        raise VolumeError(msg, "Use a format that SimpleITK reads, such as .nii.gz, .nrrd or .mha.") from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        msg = (
            f"{path}: has size {image.GetSize()} with {image.GetNumberOfComponentsPerPixel()} value(s) a voxel, "
            "expected one value in three dimensions."
        )
        raise VolumeError(msg, "Save each time point or channel as a 3D file of its own.")
    return image


def read_grid(path: Path) -> Grid:
    """Return the grid of an image that :func:`read_image` reads; of a file only the header is read.

    Raises:
        VolumeError: If the file is missing, unreadable, or not one 3D volume.
    """
    path = Path(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        if path.is_file():
            reader.ReadImageInformation()
    except RuntimeError:
        return Grid.of(read_image(path))  # Which says what is wrong.
    # What is no plain volume of one value a voxel is looked at as a whole.
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or not path.is_file():
        return Grid.of(read_image(path))
    x, y, z = reader.GetSize()
    return Grid((z, y, x), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def series_files(folder: Path) -> tuple[str, ...]:
    """Return the files of a folder's one DICOM series in the order of its slices; no voxel is read.

    Raises:
        VolumeError: If the folder holds no series or several, or slices are missing, so that those that are there would be
            stacked where they do not lie.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        msg = f"{folder}: holds {len(series)} DICOM series, expected one."
        raise VolumeError(msg, "Give each series a folder of its own.")
    files = tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    _require_even(folder, files)
    return files


def _require_even(folder: Path, files: Sequence[str]) -> None:
    """Refuse slices that are not stacked evenly; those that do not say where they lie are taken for even."""
    reader = sitk.ImageFileReader()
    points = []
    for file in files:
        reader.SetFileName(file)
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return  # Reading the series whole says what is wrong.
        points.append(np.asarray(reader.GetOrigin())[:3])
    distances = np.linalg.norm(np.asarray(points) - points[0], axis=1)
    step = distances.max() / max(1, len(files) - 1)
    if np.abs(distances - step * np.arange(len(files))).max() <= _UNEVEN * step:
        return
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    widest = int(gaps.argmax())
    msg = (
        f"{folder}: its slices lie {gaps.min():.3g} to {gaps.max():.3g} mm apart, farthest between "
        f"{Path(files[widest]).name} and {Path(files[widest + 1]).name}, expected one distance."
    )
    raise VolumeError(
        msg, "Export the series again with all its slices, each time point or echo into a folder of its own."
    )


def _read_dicom(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(series_files(folder))
    return reader.Execute()


def training_grid(image: sitk.Image, spacing: float) -> Grid:
    """Return the isotropic grid over the image's field of view, its axes turned to the nearest of ``ORIENTATION``.

    Oblique directions are kept: axes are permuted and flipped, never rotated.

    Args:
        image: A 3D image.
        spacing: Voxel size in mm.
    """
    oriented = sitk.DICOMOrient(Grid.of(image).reference(), ORIENTATION)
    extent = np.asarray(oriented.GetSize()) * np.asarray(oriented.GetSpacing())
    size = np.maximum(1, np.round(extent / spacing)).astype(int)
    # Centre the grid on the field of view, so that what rounding adds or takes is shared by both sides.
    first = (np.asarray(oriented.GetSize()) - 1) / 2 - (size - 1) / 2 * spacing / np.asarray(oriented.GetSpacing())
    origin = oriented.TransformContinuousIndexToPhysicalPoint([float(i) for i in first])
    return Grid(triple(size[::-1], int), (float(spacing),) * 3, origin, oriented.GetDirection())


def resample(image: sitk.Image, grid: Grid, *, interpolator: int = sitk.sitkLinear, outside: float = 0.0) -> sitk.Image:
    """Resample ``image`` onto ``grid``; it is smoothed first along axes that lose resolution.

    Args:
        image: A 3D image.
        grid: Where the result's voxels lie.
        interpolator: One of SimpleITK's; labels need ``sitk.sitkNearestNeighbor`` and are never smoothed.
        outside: The value where ``grid`` reaches beyond the image.
    """
    if interpolator != sitk.sitkNearestNeighbor:
        image = sitk.Cast(image, sitk.sitkFloat32)
        ratio = min(grid.spacing) / np.asarray(image.GetSpacing())
        # The standard deviation that takes a voxel of size 1 to one of size r (both seen as Gaussians of FWHM = size).
        sigma = np.where(ratio > 1.05, np.sqrt(np.maximum(ratio**2 - 1, 0)) / 2.355 * np.asarray(image.GetSpacing()), 0)
        if sigma.any():
            image = _smoothed(image, [max(float(s), 1e-3) for s in sigma])
    return sitk.Resample(image, grid.reference(), sitk.Transform(), interpolator, outside, image.GetPixelID())


def _smoothed(image: sitk.Image, sigma: Sequence[float]) -> sitk.Image:
    """Smooth an image; ITK wants four voxels along every axis, so an axis that has fewer is continued as it ends."""
    beyond = [_LEAST_SMOOTHED if size < _LEAST_SMOOTHED else 0 for size in image.GetSize()]
    if not any(beyond):
        return sitk.SmoothingRecursiveGaussian(image, sigma)
    padded = sitk.ZeroFluxNeumannPad(image, beyond, beyond)
    return sitk.Crop(sitk.SmoothingRecursiveGaussian(padded, sigma), beyond, beyond)


def read_volume(case: Case, spacing: float) -> Volume:
    """Read a case's channels onto the isotropic training grid of its first channel, grey values as in the files.

    Args:
        case: The case.
        spacing: Voxel size in mm.

    Raises:
        VolumeError: If a file is missing, unreadable, or not one 3D volume.
    """
    first = read_image(case.images[0])
    grid = training_grid(first, spacing)
    images = [first, *(read_image(path) for path in case.images[1:])]
    channels = [
        sitk.GetArrayFromImage(resample(image, grid, outside=float(sitk.GetArrayViewFromImage(image).min())))
        for image in images
    ]
    return Volume(np.stack(channels).astype(np.float32, copy=False), grid)
