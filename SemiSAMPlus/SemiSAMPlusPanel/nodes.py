"""Volumes and segmentations read from files into the scene."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer

from SemiSAMPlusLib.errors import VolumeError

from .cases import segments_of
from .text import _


def load_volume(scene: Any, path: Path, name: str) -> Any:
    """Add a volume file to the scene, as Slicer's own Add Data does.

    Raises:
        VolumeError: If the file cannot be read.
    """
    logic = slicer.modules.volumes.logic()
    node = (
        logic.AddArchetypeVolume(str(path), name, 0) if os.path.exists(path) and logic.GetMRMLScene() is scene else None
    )
    if node is None:
        what = _("{file}: cannot be loaded as a volume.").format(file=path)
        raise VolumeError(what, _("Restore the file, or correct its path."))
    return node


def load_segmentation(
    scene: Any, path: Path, name: str, *, volume: Any | None = None, terminologies: Mapping[str, str] | None = None
) -> Any:
    """Add the segmentation of a ``.seg.nrrd`` to the scene.

    It is the scene's own from then on: saving the scene writes it anew and leaves ``path`` as it is.

    Args:
        scene: The MRML scene.
        path: The file.
        name: What to call the node.
        volume: The volume that it belongs to: its reference geometry, and its neighbour in the subject hierarchy.
        terminologies: What segments mean, by segment name.

    Raises:
        VolumeError: If the file cannot be read.
    """
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        scene.RemoveNode(node)
        what = _("{file}: cannot be read as a segmentation.").format(file=path)
        raise VolumeError(what, _("Predict it again."))
    node.SetName(name)
    finish_segmentation(node, volume, terminologies or {})
    return node


def finish_segmentation(node: Any, volume: Any | None, terminologies: Mapping[str, str]) -> None:
    """Give a new segmentation node its display, meaning and place beside its volume."""
    node.CreateDefaultDisplayNodes()
    for segment in segments_of(node):
        if entry := terminologies.get(segment.GetName()):
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
    if volume is None:
        return
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    beside, item = hierarchy.GetItemByDataNode(volume), hierarchy.GetItemByDataNode(node)
    if beside and item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))
