"""Where the voxels of scene volumes and files lie, and what of it cannot be written to a file.

Matrices are 4×4, from voxel index (i, j, k, 1) to world coordinates in mm, RAS, as Slicer has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from SemiSAMPlusLib.errors import VolumeError

from .text import _

#: How far from right angles axes may be (as a cosine): volume files keep no others.
_RIGHT_ANGLE = 1e-4
#: How far apart, in voxels, the corners of two grids may lie that count as one.
_SAME_GRID = 0.02


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie.

    Attributes:
        size: Voxels along (i, j, k).
        matrix: 4×4, from voxel index to world coordinates in mm, RAS.
    """

    size: tuple[int, int, int]
    matrix: np.ndarray

    def is_near(self, other: Geometry) -> bool:
        """Return whether both are one grid: equal sizes, and corners within a fraction of a voxel."""
        if self.size != other.size:
            return False
        top = np.asarray(self.size) - 1
        corners = np.stack(np.meshgrid(*[(0, n) for n in top], (1,), indexing="ij"), axis=-1).reshape(-1, 4)
        apart = np.linalg.norm(corners @ (self.matrix - other.matrix).T, axis=1).max()
        return bool(apart <= _SAME_GRID * np.linalg.norm(self.matrix[:3, :3], axis=0).min())

    def words(self) -> str:
        """Return it for a sentence: size, spacing and origin."""
        spacing = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return _("size {size}, spacing {spacing} mm, origin {origin} (RAS)").format(
            size=" × ".join(map(str, self.size)),
            spacing=" × ".join(f"{value:.3g}" for value in spacing),
            origin="(" + ", ".join(f"{value:.1f}" for value in self.matrix[:3, 3]) + ")",
        )


def to_world(node: Any) -> np.ndarray:
    """Return the 4×4 matrix by which a node's transforms move it, the identity where it has none.

    Raises:
        VolumeError: If a transform is not linear: voxels would no longer lie on a grid.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        what = _("'{node}': lies under the transform '{transform}', which is not linear, expected a linear one.")
        remedy = _("Harden the transform (right click on the node in Data), or take the node out of it.")
        raise VolumeError(what.format(node=node.GetName(), transform=parent.GetName()), remedy)
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return array_of(matrix)


def geometry_of(volume: Any) -> Geometry:
    """Return where the voxels of a scene's volume lie in the world, its linear transforms included.

    Raises:
        VolumeError: If it holds no voxels, is a single slice, lies under a transform that is not linear, or its axes
            are not at right angles.
    """
    image = volume.GetImageData()
    if image is None or 0 in image.GetDimensions():
        what = _("'{volume}': holds no voxels, expected an image.").format(volume=volume.GetName())
        raise VolumeError(what, _("Load the volume again."))
    if min(image.GetDimensions()) == 1:
        what = _("'{volume}': is a single slice, size {size}, expected several slices along all three axes.")
        raise VolumeError(
            what.format(volume=volume.GetName(), size=image.GetDimensions()), _("Use the whole 3D volume.")
        )
    local = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(local)
    matrix = to_world(volume) @ array_of(local)
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    if not cosines <= _RIGHT_ANGLE:
        what = _("'{volume}': its axes are {degrees:.1f}° from right angles (it is sheared), expected right angles.")
        remedy = _("Resample it to right angles first (module Resample Scalar/Vector/DWI Volume, or Crop Volume).")
        degrees = np.degrees(np.arcsin(min(1.0, float(cosines)))) if np.isfinite(cosines) else 90.0
        raise VolumeError(what.format(volume=volume.GetName(), degrees=degrees), remedy)
    return Geometry(image.GetDimensions(), matrix)


def geometry_of_file(path: Path) -> Geometry | None:
    """Return where the voxels of a file lie, from its header, in about a millisecond; None where it says nothing."""
    reader = _header_reader()
    reader.SetArchetype(str(path))
    reader.SetSingleFile(1)
    reader.SetOutputScalarTypeToNative()
    reader.SetDesiredCoordinateOrientationToNative()
    reader.SetUseNativeOriginOn()
    warned = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.GlobalWarningDisplayOff()
    try:
        reader.UpdateInformation()
        matrix, information = reader.GetRasToIjkMatrix(), reader.GetOutputInformation(0)
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(warned)
    if matrix is None or reader.GetErrorCode() or information is None:
        return None
    extent = information.Get(vtk.vtkStreamingDemandDrivenPipeline.WHOLE_EXTENT())
    if extent is None or extent[1] < 1:
        return None
    size = (extent[1] + 1, extent[3] + 1, extent[5] + 1)
    return Geometry(size, np.linalg.inv(array_of(matrix)))


def array_of(matrix: Any) -> np.ndarray:
    """Return a vtkMatrix4x4 as an array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_of(array: np.ndarray) -> Any:
    """Return a 4×4 array as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=float).ravel().tolist())
    return matrix


def _header_reader() -> Any:
    try:
        from vtkITK import vtkITKArchetypeImageSeriesScalarReader as Reader
    except ImportError:
        Reader = slicer.vtkITKArchetypeImageSeriesScalarReader  # noqa: N806
    return Reader()
