"""Tells whether a node still holds what we wrote into it, or whether the user has edited it."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SemiSAMPlusLib.cohort.boxes import bounding_box

#: Millimetres that coordinates may differ by after a scene was saved and loaded.
_TOLERANCE = 1e-3

_LABELMAP = "Binary labelmap"


class Contents:
    """Compares nodes with what was written into them.

    A fingerprint of the content is kept with the node, so that it holds after the scene was saved and loaded too;
    modification times spare most comparisons.
    """

    def __init__(self) -> None:
        self._times: dict[str, tuple[Any, ...]] = {}

    def remember(self, node: Any) -> None:
        """Remember that ``node`` holds at this moment what we wrote into it."""
        self._times[node.GetID()] = _times(node)

    def is_as_written(self, node: Any, kept: str | None) -> bool:
        """Return whether ``node`` holds what it held when ``kept`` was its fingerprint."""
        if kept is None:
            return False
        times = _times(node)
        if times and self._times.get(node.GetID()) == times:
            return True
        same = _are_equal(fingerprint(node), kept)
        if same:
            self.remember(node)
        return same


def fingerprint(node: Any) -> str:
    """Return a text that tells the content of a node: voxels and place, or points; not how it is displayed."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return json.dumps([_segment(segment_id, segment) for segment_id, segment in _segments(node)])
    if node.IsA("vtkMRMLVolumeNode"):
        return json.dumps([_volume(node)])
    return json.dumps([_markup(node)])


def _are_equal(first: str, second: str) -> bool:
    try:
        ours, theirs = json.loads(first), json.loads(second)
        return len(ours) == len(theirs) and all(
            a["is"] == b["is"]
            and len(a["at"]) == len(b["at"])
            and np.allclose(a["at"], b["at"], rtol=0, atol=_TOLERANCE)
            for a, b in zip(ours, theirs, strict=True)
        )
    except (ValueError, KeyError, TypeError):
        return False


def _times(node: Any) -> tuple[Any, ...]:
    """Return what changes whenever the content has changed; nothing where comparing the content is quick."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return tuple(
            (segment_id, segment.GetName(), labelmap.__this__, labelmap.GetMTime())
            for segment_id, segment in _segments(node)
            if (labelmap := segment.GetRepresentation(_LABELMAP)) is not None
        )
    if node.IsA("vtkMRMLVolumeNode"):
        image, matrix = node.GetImageData(), vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        place = tuple(matrix.GetElement(row, column) for row in range(3) for column in range(4))
        return () if image is None else (image.__this__, image.GetMTime(), place)
    return ()


def _segments(node: Any) -> list[tuple[str, Any]]:
    segmentation = node.GetSegmentation()
    numbers = range(segmentation.GetNumberOfSegments())
    return [(segmentation.GetNthSegmentID(number), segmentation.GetNthSegment(number)) for number in numbers]


def _segment(segment_id: str, segment: Any) -> dict[str, Any]:
    """Describe a segment by its voxels, however the labelmap around them was cropped or its values renumbered."""
    labelmap = segment.GetRepresentation(_LABELMAP)
    start, digest = (0.0, 0.0, 0.0), 0
    axes = vtk.vtkMatrix4x4()
    if labelmap is not None:
        labelmap.GetImageToWorldMatrix(axes)
        mask = array_of(labelmap) == segment.GetLabelValue()
        box = bounding_box(mask)
        if box is not None:
            first, extent = [side.start for side in box], labelmap.GetExtent()
            digest = crc32(np.packbits(mask[box])) ^ crc32(repr(mask[box].shape).encode())
            ijk = [extent[0] + first[2], extent[2] + first[1], extent[4] + first[0], 1.0]
            start = axes.MultiplyPoint(ijk)[:3]
    return {"is": [segment_id, segment.GetName(), digest], "at": [*map(float, start), *_axes(axes)]}


def _volume(node: Any) -> dict[str, Any]:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    array = array_of(node.GetImageData())
    origin = [matrix.GetElement(row, 3) for row in range(3)]
    return {"is": [list(array.shape), crc32(np.ascontiguousarray(array))], "at": [*origin, *_axes(matrix)]}


def _markup(node: Any) -> dict[str, Any]:
    numbers: list[float] = []
    for index in range(node.GetNumberOfControlPoints()):
        numbers += node.GetNthControlPointPosition(index)
    if node.IsA("vtkMRMLMarkupsROINode"):
        numbers += node.GetSize()
        numbers += _axes(node.GetObjectToNodeMatrix())
    return {"is": [node.GetNumberOfControlPoints()], "at": [float(number) for number in numbers]}


def _axes(matrix: Any) -> list[float]:
    return [matrix.GetElement(row, column) for row in range(3) for column in range(3)]


def array_of(image: Any) -> np.ndarray:
    """Return the voxels (z, y, x) of a vtkImageData, not copied."""
    x, y, z = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z, y, x)
