"""Where the layers of a case belong, and the marks by which their nodes are found again in a scene."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer
import vtk

from ..cases import LAYER_ATTRIBUTE
from ..text import _
from . import hierarchy
from .contents import Contents, fingerprint
from .files import Stamp

CASE_ATTRIBUTE, RUN_ATTRIBUTE, PART_ATTRIBUTE = "SemiSAMPlus.Case", "SemiSAMPlus.Run", "SemiSAMPlus.Part"
_FILE_ATTRIBUTE, _CONTENT_ATTRIBUTE = "SemiSAMPlus.File", "SemiSAMPlus.Content"
_VOLUME_REFERENCE = "SemiSAMPlus.Volume"
_MARK = "SemiSAMPlus."

_NODE_CLASSES = (
    "vtkMRMLSegmentationNode",
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLMarkupsFiducialNode",
    "vtkMRMLMarkupsROINode",
)


class Site:
    """One case of one run, in one scene; makes, finds and gives away the nodes of its layers.

    Nothing is remembered but names: a scene that was closed or loaded meanwhile is seen as it is now.

    Args:
        scene: The MRML scene.
        folder: The case's folder in the run's layers/.
        volume: The case's volume in the scene, or None where it is not loaded.
        case: The case's name.
        terminologies: Terminology entries by structure that win over those of the files.
    """

    def __init__(
        self, scene: Any, folder: Path, volume: Any, case: str, terminologies: Mapping[str, str] | None = None
    ) -> None:
        self.scene = scene
        self.folder = Path(folder).absolute()
        self.case = case
        self.terminologies = dict(terminologies or {})
        # Not kept alive when its scene is closed; and not by its ID, which another volume may have then.
        self._volume = vtk.vtkWeakReference()
        self._volume.Set(volume)
        self._contents = Contents()
        self._marked: tuple[int, list[str]] | None = None

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return self.folder.parent.parent

    @property
    def volume(self) -> Any:
        """The case's volume, or None where the scene has it no more; a loaded scene's layers know theirs."""
        node = self._volume.Get()
        if node is not None and node.GetScene() is self.scene:
            return node
        return next((v for one in self.nodes() if (v := one.GetNodeReference(_VOLUME_REFERENCE)) is not None), None)

    def nodes(self, kind: str | None = None, part: str | None = None) -> list[Any]:
        """Return the nodes of this case's layers, of one kind or of all."""
        nodes = (self.scene.GetNodeByID(node_id) for node_id in self._marked_ids())
        return [node for node in nodes if node is not None and self._is_ours(node, kind, part)]

    def _marked_ids(self) -> list[str]:
        """Return the IDs of all that was marked as this case's when nodes last came or went; a scene may have thousands."""
        time = self.scene.GetNodes().GetMTime()
        if self._marked is None or self._marked[0] != time:
            ids = [
                node.GetID()
                for name in _NODE_CLASSES
                for node in slicer.util.getNodesByClass(name, self.scene)
                if self._is_ours(node, None, None)
            ]
            self._marked = (time, ids)
        return self._marked[1]

    def node(self, kind: str, part: str = "") -> Any:
        """Return the node of a kind (and part of it), or None."""
        return next(iter(self.nodes(kind, part)), None)

    def _is_ours(self, node: Any, kind: str | None, part: str | None) -> bool:
        return (
            node.GetAttribute(LAYER_ATTRIBUTE) is not None
            and node.GetAttribute(CASE_ATTRIBUTE) == self.case
            and (kind is None or node.GetAttribute(LAYER_ATTRIBUTE) == kind)
            and (part is None or (node.GetAttribute(PART_ATTRIBUTE) or "") == part)
            and self.is_same_run(node.GetAttribute(RUN_ATTRIBUTE))
        )

    def is_same_run(self, value: str | None) -> bool:
        """Return whether a node's mark means this run, also where its folder was moved since."""
        if not value or value == str(self.run_folder):
            return bool(value)
        # A scene may come from another system, with its separators.
        return value.replace("\\", "/").rpartition("/")[2] == self.run_folder.name and not os.path.isdir(value)

    def make(self, node_class: str, kind: str, title: str, part: str = "") -> Any:
        """Add a marked node, hidden, with its display, in the case's folder of the subject hierarchy."""
        name = f"{self.case} {title}"
        node = self.scene.CreateNodeByClass(node_class)
        node.UnRegister(None)  # CreateNodeByClass leaves it to the caller.
        node.SetName(name)
        for attribute, value in (
            (LAYER_ATTRIBUTE, kind),
            (CASE_ATTRIBUTE, self.case),
            (RUN_ATTRIBUTE, str(self.run_folder)),
            (PART_ATTRIBUTE, part),
        ):
            if value:
                node.SetAttribute(attribute, value)  # Before it enters the scene: nobody takes it for a case.
        self.scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        if node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)
        volume = self.volume
        if volume is not None:
            node.SetNodeReferenceID(_VOLUME_REFERENCE, volume.GetID())
        self._put_in_folder(node)
        return node

    def _put_in_folder(self, node: Any) -> None:
        volume, name = self.volume, _("SemiSAM+ ({run})").format(run=self.run_folder.name)
        marks = {CASE_ATTRIBUTE: self.case, RUN_ATTRIBUTE: str(self.run_folder)}
        title = name if volume is not None else f"{self.case}: {name}"
        hierarchy.put_in_folder(node, title, marks, self._is_our_folder, under=volume)

    def _is_our_folder(self, marks: Mapping[str, str]) -> bool:
        return marks[CASE_ATTRIBUTE] == self.case and self.is_same_run(marks[RUN_ATTRIBUTE])

    def remove_empty_folder(self) -> None:
        """Take the case's folder out of the subject hierarchy, unless something lies in it."""
        hierarchy.remove_empty_folder(self.scene, (CASE_ATTRIBUTE, RUN_ATTRIBUTE), self._is_our_folder)

    def own(self, node_class: str, kind: str, title: str, part: str = "") -> Any:
        """Return the node to fill: ours as it is, or a new one where there is none or the user has edited it."""
        node = self.node(kind, part)
        if node is not None and self._contents.is_as_written(node, node.GetAttribute(_CONTENT_ATTRIBUTE)):
            return node
        if node is not None:
            self.give_away(node)
        return self.make(node_class, kind, title, part)

    def written(self, node: Any, stamp: Stamp | None = None) -> None:
        """Remember what we wrote into a node, so that an edit is noticed, and from which file."""
        node.SetAttribute(_CONTENT_ATTRIBUTE, fingerprint(node))
        if stamp is not None:
            node.SetAttribute(_FILE_ATTRIBUTE, stamp.text())
        self._contents.remember(node)

    def stamp(self, node: Any) -> Stamp | None:
        """Return which version of its file a node shows."""
        return Stamp.parse(node.GetAttribute(_FILE_ATTRIBUTE))

    def give_away(self, node: Any) -> None:
        """Let the user have a node that was edited: it is a layer of ours no more."""
        for attribute in [name for name in node.GetAttributeNames() if name.startswith(_MARK)]:
            node.RemoveAttribute(attribute)
        node.SetNodeReferenceID(_VOLUME_REFERENCE, None)
        node.SetName(_("{name} (edited)").format(name=node.GetName()))

    def remove(self, node: Any) -> None:
        """Take a node with its display and storage out of the scene."""
        helpers = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
        helpers += [node.GetNthStorageNode(index) for index in range(node.GetNumberOfStorageNodes())]
        hierarchy.remove_item(node)
        self.scene.RemoveNode(node)
        for helper in helpers:
            if helper is not None and self.scene.IsNodePresent(helper):
                self.scene.RemoveNode(helper)
