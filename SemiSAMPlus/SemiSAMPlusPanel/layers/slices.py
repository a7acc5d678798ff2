"""A volume in the foreground of the slice views, and what was there before."""

from __future__ import annotations

from typing import Any

import slicer

from ..cases import LAYER_ATTRIBUTE

#: Kept with the volume, so that the former foreground comes back after the scene was saved and loaded too.
_BEFORE = "SemiSAMPlus.Before."


def is_foreground(node: Any) -> bool:
    """Return whether ``node`` is the foreground of a slice view."""
    return any(composite.GetForegroundVolumeID() == node.GetID() for composite in _composites(node.GetScene()))


def put_in_foreground(node: Any, opacity: float) -> None:
    """Make ``node`` the foreground of every slice view, and keep with it what was there."""
    scene = node.GetScene()
    for composite in _composites(scene):
        if composite.GetForegroundVolumeID() == node.GetID():
            continue
        volume_id, former = composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()
        other = scene.GetNodeByID(volume_id) if volume_id else None
        role = _BEFORE + composite.GetLayoutName()
        if other is not None and other.GetAttribute(LAYER_ATTRIBUTE) is not None and other.GetAttribute(role):
            # Another layer of ours: what comes back at last is what was there before all layers.
            volume_id, former = other.GetNodeReferenceID(role), float(other.GetAttribute(role))
        node.SetNodeReferenceID(role, volume_id)
        node.SetAttribute(role, f"{former:.6g}")
        composite.SetForegroundVolumeID(node.GetID())
        composite.SetForegroundOpacity(opacity)


def take_from_foreground(node: Any) -> None:
    """Give the slice views that have ``node`` in the foreground back what they had."""
    for composite in _composites(node.GetScene()):
        role = _BEFORE + composite.GetLayoutName()
        if composite.GetForegroundVolumeID() == node.GetID():
            composite.SetForegroundVolumeID(node.GetNodeReferenceID(role))
            composite.SetForegroundOpacity(float(node.GetAttribute(role) or 0))
        node.SetNodeReferenceID(role, None)
        node.RemoveAttribute(role)


def show_in_background(volume: Any, *, only_empty: bool = False) -> None:
    """Make ``volume`` the background of every slice view, or of those that have none, and fit it in."""
    for composite in _composites(volume.GetScene()):
        shown = composite.GetBackgroundVolumeID()
        if shown == volume.GetID() or (only_empty and shown):
            continue
        composite.SetBackgroundVolumeID(volume.GetID())
        logic = slicer.app.applicationLogic().GetSliceLogicByLayoutName(composite.GetLayoutName())
        if logic is not None:
            logic.FitSliceToBackground()


def jump_to(scene: Any, point: Any) -> None:
    """Centre every slice view on a point (RAS, mm)."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *map(float, point), slicer.vtkMRMLSliceNode.CenteredJumpSlice)


def _composites(scene: Any) -> list[Any]:
    return [] if scene is None else list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene))
