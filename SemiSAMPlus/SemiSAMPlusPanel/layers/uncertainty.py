"""Uncertainty as a heat map over the image, as a segment above a threshold, and where it is greatest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..text import _
from . import slices
from .colors import UNCERTAIN, uncertainty_table
from .contents import array_of
from .files import read_volume
from .layer import FileLayer, Layer
from .segmentation import LABELMAP
from .site import Site

UNCERTAINTY, UNCERTAIN_SEGMENT = "uncertainty", "uncertain-segment"

_OPACITY = 0.5
#: Voxels less uncertain than this are transparent: nearly all of a volume is a little uncertain.
_TRANSPARENT_BELOW = 0.1
#: Edge, in voxels, of the blocks whose mean tells where uncertainty is greatest: one voxel alone is often noise.
_BLOCK = 3
_THRESHOLD_ATTRIBUTE, _SEGMENT_ID = "SemiSAMPlus.Threshold", "uncertain"
_DEFAULT_THRESHOLD = 0.5


class UncertaintyLayer(FileLayer):
    """A scalar volume, 0 to 1, in the foreground of the slice views, with its colours explained."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, UNCERTAINTY, "uncertainty.nii.gz")

    @property
    def node(self) -> Any:
        """The volume, or None where it is not loaded."""
        return self.site.node(UNCERTAINTY)

    def fill(self, path: Path) -> list[Any]:
        """Read the volume; what is there keeps how the user chose to see it."""
        read, known, was_shown = read_volume(path), self.node, self.is_shown()
        node = self.site.own("vtkMRMLScalarVolumeNode", UNCERTAINTY, _("uncertainty"))
        node.CopyOrientation(read)
        node.SetAndObserveImageData(read.GetImageData())
        if known is None or known.GetID() != node.GetID():
            self._style(node)
            if was_shown:
                slices.put_in_foreground(node, _OPACITY)
        return [node]

    def _style(self, node: Any) -> None:
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(uncertainty_table(self.site.scene).GetID())
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0.0, 1.0)
        display.AutoThresholdOff()
        display.SetThreshold(_TRANSPARENT_BELOW, 2.0)
        display.ApplyThresholdOn()
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(display)
        if legend is not None:
            legend.SetTitleText(_("Uncertainty"))
            legend.SetNumberOfLabels(3)
            legend.SetLabelFormat("%.1f")
            legend.SetSize(0.08, 0.25)  # Its letters grow with it.
            legend.SetPosition(0.98, 0.5)
            legend.SetVisibility3D(False)
            legend.SetVisibility(False)

    def is_shown(self) -> bool:
        """Return whether it is in the foreground of a slice view."""
        node = self.node
        return node is not None and slices.is_foreground(node)

    def set_shown(self, shown: bool) -> None:
        """Put it over the image, or give the slice views back the foreground that they had."""
        node = self.node
        if node is None:
            return
        if shown:
            node.GetDisplayNode().SetVisibility(True)
            slices.put_in_foreground(node, _OPACITY)
        else:
            slices.take_from_foreground(node)
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        if legend is not None:
            legend.SetVisibility(shown)

    def most_uncertain(self) -> np.ndarray | None:
        """Return the point (RAS, mm) where uncertainty is greatest, None where it is not loaded, or 0 everywhere.

        The block of 3 × 3 × 3 voxels with the greatest mean is looked for, and in it the greatest voxel.
        """
        node = self.node
        if node is None:
            return None
        array = array_of(node.GetImageData())
        means = _block_means(array)
        corner = np.array(np.unravel_index(int(means.argmax()), means.shape)) * _BLOCK
        block = array[tuple(slice(start, start + _BLOCK) for start in corner)]
        if block.max() <= 0:
            return None
        z, y, x = corner + np.unravel_index(int(block.argmax()), block.shape)
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        point = matrix.MultiplyPoint([float(x), float(y), float(z), 1.0])[:3]
        transform = node.GetParentTransformNode()
        if transform is None:
            return np.array(point)
        to_world = vtk.vtkGeneralTransform()
        transform.GetTransformToWorld(to_world)
        return np.array(to_world.TransformPoint(point))


def _block_means(array: np.ndarray) -> np.ndarray:
    """Return the means of blocks (z, y, x); those at the far ends may be smaller."""
    sums, counts = array, np.ones((1, 1, 1))
    for axis, size in enumerate(array.shape):
        sums = _sums_of_blocks(sums, axis)
        counts = counts * np.expand_dims(_sums_of_blocks(np.ones(size), 0), tuple({0, 1, 2} - {axis}))
    return sums / counts


def _sums_of_blocks(array: np.ndarray, axis: int) -> np.ndarray:
    lines = np.moveaxis(array, axis, 0)
    sums = lines[::_BLOCK].copy()
    for offset in range(1, _BLOCK):  # Whole slices at a time: several times as quick as np.add.reduceat.
        part = lines[offset::_BLOCK]
        sums[: len(part)] += part
    return np.moveaxis(sums, 0, axis)


class UncertainSegment(Layer):
    """The voxels whose uncertainty is above a threshold, as a segment.

    Args:
        uncertainty: What is thresholded.
    """

    def __init__(self, uncertainty: UncertaintyLayer) -> None:
        super().__init__(uncertainty.site, UNCERTAIN_SEGMENT)
        self._uncertainty = uncertainty
        self._threshold = _DEFAULT_THRESHOLD

    @property
    def node(self) -> Any:
        """The segmentation, or None where it is not loaded."""
        return self.site.node(UNCERTAIN_SEGMENT)

    @property
    def is_available(self) -> bool:
        """Whether there is uncertainty to make it from."""
        return self._uncertainty.is_available

    @property
    def threshold(self) -> float:
        """Above which uncertainty a voxel belongs to the segment, 0 to 1."""
        node = self.node
        kept = None if node is None else node.GetAttribute(_THRESHOLD_ATTRIBUTE)
        return self._threshold if kept is None else float(kept)

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = min(max(float(value), 0.0), 1.0)
        node = self.node
        if node is not None:
            node.SetAttribute(_THRESHOLD_ATTRIBUTE, f"{self._threshold:.6g}")
            self.update()

    def load(self) -> None:
        """Load the uncertainty if need be, and make the segment."""
        if self._uncertainty.node is None:
            self._uncertainty.load()
        self.update()

    def update(self) -> None:
        """Compute the segment anew."""
        volume, known, threshold = self._uncertainty.node, self.node, self.threshold
        if volume is None:
            return
        node = self.site.own("vtkMRMLSegmentationNode", UNCERTAIN_SEGMENT, _("uncertain region"))
        mask = (array_of(volume.GetImageData()) > threshold).view(np.uint8)
        segment = node.GetSegmentation().GetSegment(_SEGMENT_ID)
        labelmap = None if segment is None else segment.GetRepresentation(LABELMAP)
        if labelmap is None or not _lies_on(labelmap, volume):
            self._make(node, volume, mask)
        else:
            array_of(labelmap)[:] = mask
            labelmap.GetPointData().GetScalars().Modified()
            labelmap.Modified()
        if known is None or known.GetID() != node.GetID():
            self._style(node)
        node.SetAttribute(_THRESHOLD_ATTRIBUTE, f"{threshold:.6g}")
        self.site.written(node)

    def _make(self, node: Any, volume: Any, mask: np.ndarray) -> None:
        labelmap = slicer.vtkOrientedImageData()
        z, y, x = mask.shape
        labelmap.SetDimensions(x, y, z)
        labelmap.GetPointData().SetScalars(numpy_to_vtk(mask.reshape(-1), deep=True))
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        labelmap.SetImageToWorldMatrix(matrix)
        node.GetSegmentation().RemoveAllSegments()
        segment = slicer.vtkSegment()
        segment.SetName(_("uncertain"))
        segment.SetNameAutoGenerated(False)
        segment.SetColor(*UNCERTAIN)
        segment.SetColorAutoGenerated(False)
        segment.SetLabelValue(1)
        segment.AddRepresentation(LABELMAP, labelmap)
        node.GetSegmentation().AddSegment(segment, _SEGMENT_ID)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)

    def _style(self, node: Any) -> None:
        display = node.GetDisplayNode()
        display.SetAllSegmentsVisibility2DFill(False)
        display.SetAllSegmentsOpacity2DOutline(1.0)
        display.SetOpacity3D(0.5)


def _lies_on(labelmap: Any, volume: Any) -> bool:
    """Return whether a labelmap has exactly the voxels of a volume."""
    ours, theirs = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(ours)
    volume.GetIJKToRASMatrix(theirs)
    same = all(
        abs(ours.GetElement(row, column) - theirs.GetElement(row, column)) < 1e-4
        for row in range(3)
        for column in range(4)
    )
    return same and labelmap.GetExtent() == volume.GetImageData().GetExtent()
