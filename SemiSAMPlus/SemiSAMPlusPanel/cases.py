"""Which volumes play which part: the table of cases, read from the scene, which is the truth about it."""

from __future__ import annotations

import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import slicer
import vtk

from SemiSAMPlusLib.cohort.cohort import Role
from SemiSAMPlusLib.cohort.layouts import Layout, recognize, recognize_images
from SemiSAMPlusLib.errors import CohortError, SemiSAMPlusError, VolumeError

from .geometry import geometry_of, geometry_of_file, to_world
from .signals import Signal
from .text import _

#: The attribute of a volume that says its part, and its value for a volume that plays none.
ROLE_ATTRIBUTE, IGNORED = "SemiSAMPlus.Role", "ignore"
#: The node reference from a volume to its segmentation.
SEGMENTATION_REFERENCE = "SemiSAMPlus.Segmentation"
#: The attribute of every node that this module made to show something.
LAYER_ATTRIBUTE = "SemiSAMPlus.Layer"
#: The attribute of a copied prediction that the user corrects.
DRAFT_ATTRIBUTE = "SemiSAMPlus.Draft"

#: The roles for which a case needs a label.
WITH_LABEL = (Role.LABELED, Role.VALIDATION)

#: What names of segmentations have beside the name of their volume.
_EXTRA_WORDS = {"seg", "segmentation", "segmentations", "segment", "label", "labels", "labelmap", "mask", "gt", "truth"}
_VOLUME_CLASS, _SEGMENTATION_CLASS = "vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"


class FileCases(Protocol):
    """Where cases that are not loaded are kept: the module's parameter node.

    Attributes:
        fileCases: JSON text, written by :class:`CaseTable` alone.
    """

    fileCases: str  # noqa: N815 (parameter nodes are written so)


@dataclass
class CaseRow:
    """One case of the table.

    Attributes:
        name: Unique in the table; the case's name in a cohort.
        role: The part that it plays; None where it is ignored.
        volume: The scene's volume, or None for a file that is not loaded.
        image: The file that is not loaded, or None for a volume of the scene.
        segmentation: The scene's segmentation of ``volume``, or None.
        label: The label file of ``image``, or None.
        fault: What keeps it from being used as its role says, with both values and the remedy, or None.
        dice: Mean Dice that a run measured on it, 0 to 1, or None.
        uncertainty: How unsure a run is of it, 0 to 1, or None.
        suggested: Whether the role is only suggested: nothing says it in the scene yet. It counts all the same.
        key: What identifies the row while the scene is open: the volume's node ID, or the image's path.
        values: The label values of each structure in ``label``, where the dataset names them.
    """

    name: str
    role: Role | None
    volume: Any = None
    image: Path | None = None
    segmentation: Any = None
    label: Path | None = None
    fault: str | None = None
    dice: float | None = None
    uncertainty: float | None = None
    suggested: bool = False
    key: str = field(default="", compare=False)
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False)

    @property
    def has_label(self) -> bool:
        """Whether there is a segmentation or a label file."""
        return self.segmentation is not None or self.label is not None


class CaseTable:
    """The scene's volumes, and files that are not loaded, with the part that each plays.

    Nothing is kept here that the scene does not keep: roles are attributes of the volumes, their segmentations node
    references, and files stand in the parameter node.

    Args:
        scene: The MRML scene.
        parameters: Where file cases are kept; without it, in memory.

    Attributes:
        changed: Emitted without values when rows may have changed; several changes may be told at once or one by one,
            so whoever redraws does it at most once a turn of the event loop.
    """

    def __init__(self, scene: Any, parameters: FileCases | None = None) -> None:
        self.changed = Signal()
        self._scene = scene
        self._in_memory: FileCases = SimpleNamespace(fileCases="")  # type: ignore[assignment]
        self._parameters = parameters
        self._figures: dict[str, tuple[float | None, float | None]] = {}
        self._faults: dict[str, tuple[Any, str | None]] = {}
        self._file_faults: dict[str, str | None] = {}
        self._tags = [
            scene.AddObserver(event, self._on_node) for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent)
        ]
        self._tags += [
            scene.AddObserver(event, self._on_scene)
            for event in (scene.EndBatchProcessEvent, scene.EndImportEvent, scene.EndCloseEvent)
        ]
        self._tags.append(scene.AddObserver(scene.EndCloseEvent, self._on_close))

    def close(self) -> None:
        """Observe the scene no more."""
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    @property
    def parameters(self) -> FileCases | None:
        """Where file cases are kept; set it when another parameter node takes over."""
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: FileCases | None) -> None:
        self._parameters = parameters
        self.changed.emit()

    # -- rows -------------------------------------------------------------------------------------------------------

    def rows(self) -> list[CaseRow]:
        """Return every case, volumes in the scene's order, then files."""
        volumes = self._volumes()
        matches = _Matches(volumes, self._segmentations())
        taken: set[str] = set()
        rows = [self._volume_row(volume, matches, taken) for volume in volumes]
        rows += [self._file_row(entry, taken) for entry in self._files()]
        for row in rows:
            row.dice, row.uncertainty = self._figures.get(row.key, (None, None))
            row.fault = self._fault(row)
        return rows

    def row(self, which: Any) -> CaseRow | None:
        """Return the row of a volume node, an image path, a row's key or a name, or None."""
        key = which.GetID() if hasattr(which, "GetID") else str(which)
        rows = self.rows()
        return next((row for row in rows if row.key == key), next((row for row in rows if row.name == key), None))

    def _volume_row(self, volume: Any, matches: _Matches, taken: set[str]) -> CaseRow:
        said = volume.GetAttribute(ROLE_ATTRIBUTE)
        segmentation = volume.GetNodeReference(SEGMENTATION_REFERENCE)
        if said is None:
            segmentation = segmentation or matches.of(volume)
            role: Role | None = Role.UNLABELED if segmentation is None else Role.LABELED
        else:
            role = _role(said)
        return CaseRow(
            name=unique_name(volume.GetName() or volume.GetID(), taken),
            role=role,
            volume=volume,
            segmentation=segmentation,
            suggested=said is None,
            key=volume.GetID(),
        )

    def _file_row(self, entry: dict[str, Any], taken: set[str]) -> CaseRow:
        return CaseRow(
            name=unique_name(entry["name"], taken),
            role=_role(entry.get("role")),
            image=Path(entry["image"]),
            label=Path(entry["label"]) if entry.get("label") else None,
            key=entry["image"],
            values={name: tuple(values) for name, values in (entry.get("classes") or {}).items()},
        )

    # -- changes ----------------------------------------------------------------------------------------------------

    def set_role(self, row: CaseRow, role: Role | None) -> None:
        """Give a case its part; None ignores it."""
        if row.volume is None:
            self._change_file(row, role=IGNORED if role is None else role.value)
            return
        if row.segmentation is not None and row.volume.GetNodeReference(SEGMENTATION_REFERENCE) is None:
            # What was shown when the user decided is what was decided about.
            row.volume.SetNodeReferenceID(SEGMENTATION_REFERENCE, row.segmentation.GetID())
        row.volume.SetAttribute(ROLE_ATTRIBUTE, IGNORED if role is None else role.value)
        self.changed.emit()

    def set_segmentation(self, row: CaseRow, node: Any | None) -> None:
        """Give a volume its segmentation, or take it away; a file case has no nodes and stays as it is.

        A volume whose part was only suggested becomes labelled with a segmentation, and unlabelled without.
        """
        if row.volume is None:
            return
        row.volume.SetNodeReferenceID(SEGMENTATION_REFERENCE, None if node is None else node.GetID())
        if row.suggested:
            role = Role.UNLABELED if node is None else Role.LABELED
            row.volume.SetAttribute(ROLE_ATTRIBUTE, role.value)
        self.changed.emit()

    def suggest(self) -> None:
        """Match segmentations with volumes, and write the parts down that follow from it, where nothing is said yet."""
        for row in self.rows():
            if row.volume is not None and row.suggested:
                if row.segmentation is not None:
                    row.volume.SetNodeReferenceID(SEGMENTATION_REFERENCE, row.segmentation.GetID())
                row.volume.SetAttribute(ROLE_ATTRIBUTE, (row.role or Role.UNLABELED).value)
        self.changed.emit()

    def add_folder(self, path: Path) -> list[CaseRow]:
        """Add the cases of a folder, or of a JSON datalist, without loading them; those that are here already are left.

        Raises:
            CohortError: If the folder holds no volumes in a layout that is known, or has several channels.
        """
        layout = _layout(Path(path))
        entries = self._files()
        known = {entry["image"] for entry in entries} | {_file_of(volume) for volume in self._volumes()}
        added = []
        for found in layout.cases:
            image, label = (str(path) if path else None for path in (*found.images.values(), found.label))
            if image in known:
                continue
            role = found.role if found.role is not None else (Role.LABELED if label else Role.UNLABELED)
            if role is Role.TEST:  # Kept for a later judgement: training never opens it, so it plays no part here.
                role = None  # type: ignore[assignment]
            entries.append(
                {
                    "name": found.name,
                    "image": image,
                    "label": label,
                    "role": IGNORED if role is None else role.value,
                    "classes": {name: list(values) for name, values in layout.labels.items()} if label else {},
                }
            )
            added.append(image)
        self._write_files(entries)
        return [row for row in self.rows() if row.key in added]

    def remove(self, row: CaseRow) -> None:
        """Take a case out of the table: a file is forgotten, a volume ignored; nothing is deleted."""
        if row.volume is not None:
            self.set_role(row, None)
            return
        self._write_files([entry for entry in self._files() if entry["image"] != row.key])

    def forget_file_of(self, volume: Any) -> None:
        """Take the file of a loaded volume out of the table, so that one image is not two cases."""
        path = _file_of(volume)
        entries = self._files()
        if path is not None and any(entry["image"] == path for entry in entries):
            self._write_files([entry for entry in entries if entry["image"] != path])

    def segments(self) -> list[tuple[str, tuple[float, float, float]]]:
        """Return name and colour (sRGB, 0 to 1) of each structure of the labelled and held-out cases, in order.

        Of label files only the structures that their dataset names are known before they are read.
        """
        found: dict[str, tuple[float, float, float]] = {}
        for row in self.rows():
            if row.role not in WITH_LABEL:
                continue
            if row.segmentation is not None:
                for segment in segments_of(row.segmentation):
                    found.setdefault(segment.GetName(), segment.GetColor())
            for name in row.values:
                found.setdefault(name, _next_color(len(found)))
        return list(found.items())

    def set_figures(self, key: str, *, dice: float | None = None, uncertainty: float | None = None) -> None:
        """Show what a run measured on the row of a key, until the scene is closed; what is None stays as it was."""
        before = self._figures.get(key, (None, None))
        after = (before[0] if dice is None else dice, before[1] if uncertainty is None else uncertainty)
        if after != before:
            self._figures[key] = after
            self.changed.emit()

    # -- faults -----------------------------------------------------------------------------------------------------

    def check_files(self, seconds: float = 0.02) -> bool:
        """Check headers of files for at most about ``seconds``; return whether some are left. Rows then show faults."""
        until, checked = time.monotonic() + seconds, False
        for entry in self._files():
            key = _file_key(entry)
            if key in self._file_faults:
                continue
            if time.monotonic() >= until:
                self.changed.emit()
                return True
            self._file_faults[key] = _file_fault(entry)
            checked = True
        if checked:
            self.changed.emit()
        return False

    def _fault(self, row: CaseRow) -> str | None:
        if row.role is None:
            return None
        if row.role in WITH_LABEL and not row.has_label:
            what = _("'{case}': is {role}, but has no segmentation.").format(case=row.name, role=_words(row.role))
            return f"{what} {_('Choose its segmentation, or make it unlabelled.')}"
        if row.volume is None:
            return self._file_faults.get(_file_key({"image": row.key, "label": row.label and str(row.label)}))
        segmentation = row.segmentation if row.role in WITH_LABEL else None
        state = (_state(row.volume), None if segmentation is None else _state(segmentation))
        cached = self._faults.get(row.key)
        if cached is None or cached[0] != state:
            cached = self._faults[row.key] = (state, volume_fault(row.volume, segmentation))
        return cached[1]

    # -- what is kept -----------------------------------------------------------------------------------------------

    def _volumes(self) -> list[Any]:
        # Label maps and colour volumes are subclasses, and no cases.
        return [node for node in self._shown(_VOLUME_CLASS) if node.GetClassName() == _VOLUME_CLASS]

    def _segmentations(self) -> list[Any]:
        # What the user is correcting is no label before it is said to be one.
        return [node for node in self._shown(_SEGMENTATION_CLASS) if node.GetAttribute(DRAFT_ATTRIBUTE) is None]

    def _shown(self, kind: str) -> list[Any]:
        nodes = slicer.util.getNodesByClass(kind, self._scene)
        return [node for node in nodes if not node.GetHideFromEditors() and node.GetAttribute(LAYER_ATTRIBUTE) is None]

    def _files(self) -> list[dict[str, Any]]:
        try:
            entries = json.loads((self._parameters or self._in_memory).fileCases or "[]")
        except ValueError:
            return []
        return [entry for entry in entries if isinstance(entry, dict) and "image" in entry and "name" in entry]

    def _write_files(self, entries: Iterable[dict[str, Any]]) -> None:
        (self._parameters or self._in_memory).fileCases = json.dumps(list(entries))
        self.changed.emit()

    def _change_file(self, row: CaseRow, **values: Any) -> None:
        self._write_files([{**entry, **values} if entry["image"] == row.key else entry for entry in self._files()])

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node(self, scene: Any, event: str, node: Any) -> None:
        if not scene.IsBatchProcessing() and (node.IsA(_VOLUME_CLASS) or node.IsA(_SEGMENTATION_CLASS)):
            self.changed.emit()

    def _on_close(self, *_: Any) -> None:
        self._figures.clear()  # Node IDs are given anew.

    def _on_scene(self, *_: Any) -> None:
        if not self._scene.IsBatchProcessing():
            self._faults.clear()
            self.changed.emit()


def segments_of(node: Any) -> list[Any]:
    """Return the vtkSegments of a segmentation node, in order."""
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]


def volume_fault(volume: Any, segmentation: Any | None) -> str | None:
    """Return what keeps a volume, with a segmentation or without, from being trained on, or None."""
    try:
        geometry_of(volume)  # Raises where it has none that can be written.
        if segmentation is not None:
            _require_overlap(volume, segmentation)
    except SemiSAMPlusError as error:
        return f"{error.what} {error.remedy}"
    return None


class _Matches:
    """Which segmentation belongs to which volume, as far as the scene says so; each is given once.

    The reference geometry says most, then equal names, then a place of their own in the subject hierarchy.
    """

    def __init__(self, volumes: list[Any], segmentations: list[Any]) -> None:
        chosen = {volume.GetNodeReferenceID(SEGMENTATION_REFERENCE) for volume in volumes}
        self._free = {node.GetID(): node for node in segmentations if node.GetID() not in chosen}
        self._by_volume: dict[str, Any] = {}
        if not self._free:
            return
        open_ones = [
            volume
            for volume in volumes
            if volume.GetAttribute(ROLE_ATTRIBUTE) is None and not volume.GetNodeReferenceID(SEGMENTATION_REFERENCE)
        ]
        for pairs in (self._by_reference(open_ones), self._by_name(open_ones), self._by_place(open_ones)):
            for volume, node in pairs:
                if volume.GetID() not in self._by_volume and node.GetID() in self._free:
                    self._by_volume[volume.GetID()] = self._free.pop(node.GetID())

    def of(self, volume: Any) -> Any | None:
        return self._by_volume.get(volume.GetID())

    def _by_reference(self, volumes: list[Any]) -> Iterator[tuple[Any, Any]]:
        by_id = {volume.GetID(): volume for volume in volumes}
        for node in list(self._free.values()):
            volume = by_id.get(node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()))
            if volume is not None:
                yield volume, node

    def _by_name(self, volumes: list[Any]) -> Iterator[tuple[Any, Any]]:
        yield from _unique_pairs(volumes, list(self._free.values()), lambda node: _plain_name(node.GetName() or ""))

    def _by_place(self, volumes: list[Any]) -> Iterator[tuple[Any, Any]]:
        if not volumes or not self._free:
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumes[0].GetScene())
        top = hierarchy.GetSceneItemID()

        def place(node: Any) -> int | None:
            item = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
            return item if item not in (0, top) else None

        for node in list(self._free.values()):
            # Drawn on the volume itself: below it in the tree.
            parent = place(node)
            above = hierarchy.GetItemDataNode(parent) if parent is not None else None
            if above is not None and above in volumes:
                yield above, node
        yield from _unique_pairs(volumes, list(self._free.values()), place)


def _unique_pairs(volumes: list[Any], segmentations: list[Any], key: Any) -> Iterator[tuple[Any, Any]]:
    """Pair those that share a key with nobody else."""
    groups: dict[Any, tuple[list[Any], list[Any]]] = {}
    for side, nodes in enumerate((volumes, segmentations)):
        for node in nodes:
            if (value := key(node)) not in (None, ""):
                groups.setdefault(value, ([], []))[side].append(node)
    for left, right in groups.values():
        if len(left) == 1 and len(right) == 1:
            yield left[0], right[0]


def _plain_name(name: str) -> str:
    """Return a name without what tells a segmentation from its volume: case, separators, "seg", "label" and the like."""
    words = re.split(r"[\W_]+", unicodedata.normalize("NFC", name).casefold())
    return " ".join(word for word in words if word and word not in _EXTRA_WORDS)


def unique_name(name: str, taken: set[str]) -> str:
    """Return a name that no earlier row has, upper and lower case taken as one: files are named so."""
    name = unicodedata.normalize("NFC", " ".join(name.split())) or "case"
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate, number = f"{name} ({number})", number + 1
    taken.add(candidate.casefold())
    return candidate


def _role(value: Any) -> Role | None:
    try:
        return Role(value)
    except ValueError:
        return None


def _words(role: Role) -> str:
    return {Role.LABELED: _("labelled"), Role.VALIDATION: _("held out")}.get(role, str(role))


def _next_color(index: int) -> tuple[float, float, float]:
    from SemiSAMPlusLib.cohort.cohort import CLASS_COLORS

    return CLASS_COLORS[index % len(CLASS_COLORS)]


def _layout(path: Path) -> Layout:
    try:
        layout = recognize(path)
    except CohortError as unknown:
        if not os.path.isdir(path):
            raise
        try:  # Volumes without labels, as they lie.
            layout = recognize_images(path, channels=1)
        except CohortError:
            raise unknown from None
    if len(layout.channels) > 1:
        what = _("{folder}: its cases have {count} channels ({names}), expected one.").format(
            folder=path, count=len(layout.channels), names=", ".join(layout.channels)
        )
        remedy = _(
            "Train on several channels from a shell with `semisamplus`; its runs can be opened and applied here."
        )
        raise CohortError([VolumeError(what, remedy)])
    return layout


def _file_of(volume: Any) -> str | None:
    storage = volume.GetStorageNode()
    name = storage.GetFullNameFromFileName() if storage is not None else None
    return str(Path(name)) if name else None


def _file_key(entry: dict[str, Any]) -> str:
    return f"{entry['image']}\n{entry.get('label') or ''}"


def _file_fault(entry: dict[str, Any]) -> str | None:
    """Return what the headers of an image and its label tell against them; the training checks them in full."""
    image, label = Path(entry["image"]), Path(entry["label"]) if entry.get("label") else None
    for path in filter(None, (image, label)):
        if not os.path.exists(path):
            what = _("{file}: does not exist, or may not be read, expected a volume.").format(file=path)
            return f"{what} {_('Restore the file, or remove the case from the table.')}"
    if label is None or os.path.isdir(image) or os.path.isdir(label):
        return None
    mine, other = geometry_of_file(label), geometry_of_file(image)
    if mine is None or other is None or mine.is_near(other):
        return None
    what = _("{label}: is not on the grid of its image: {mine}; expected {other}.").format(
        label=label, mine=mine.words(), other=other.words()
    )
    return f"{what} {_('Resample the label onto the image, or export it again.')}"


def _require_overlap(volume: Any, segmentation: Any) -> None:
    if not segments_of(segmentation):
        what = _("'{segmentation}': has no segments, expected at least one.").format(
            segmentation=segmentation.GetName()
        )
        raise VolumeError(what, _("Draw one in Segment Editor, or choose another segmentation."))
    to_world(segmentation)
    mine, other = [0.0] * 6, [0.0] * 6
    segmentation.GetRASBounds(mine)
    volume.GetRASBounds(other)
    if mine[0] > mine[1]:
        what = _("'{segmentation}': all its segments are empty, expected one that is drawn.")
        raise VolumeError(
            what.format(segmentation=segmentation.GetName()),
            _("Draw it in Segment Editor, or choose another segmentation."),
        )
    for axis, name in enumerate(("R", "A", "S")):
        if mine[2 * axis] > other[2 * axis + 1] or mine[2 * axis + 1] < other[2 * axis]:
            what = _(
                "'{segmentation}': does not overlap '{volume}': along {axis} it reaches from {a:.0f} to {b:.0f} mm, the volume from "
                "{c:.0f} to {d:.0f} mm."
            ).format(
                segmentation=segmentation.GetName(),
                volume=volume.GetName(),
                axis=name,
                a=mine[2 * axis],
                b=mine[2 * axis + 1],
                c=other[2 * axis],
                d=other[2 * axis + 1],
            )
            raise VolumeError(what, _("Choose the segmentation that was drawn on this volume."))


def _state(node: Any) -> tuple[Any, ...]:
    """Return what changes whenever the geometry of a node may have changed."""
    parent = node.GetParentTransformNode()
    inner = node.GetSegmentation() if node.IsA(_SEGMENTATION_CLASS) else node.GetImageData()
    return (
        node.GetID(),
        node.GetMTime(),
        None if inner is None else inner.GetMTime(),
        None if parent is None else parent.GetTransformToWorldMTime(),
    )
