"""What the stand-ins for Slicer's MRML widgets do, on the real scene and its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from .ctk_widgets import SliderWidget, row
from .standins import imitates


class _Observing:
    """Observes VTK objects for as long as the widget lives."""

    def _observe(self: Any, subject: Any, event: Any, react: Callable[[], None]) -> None:
        observations = self.__dict__.setdefault("_observations", [])
        tag = 0

        def happened(*_: Any) -> None:
            if shiboken6.isValid(self):
                react()
            else:
                subject.RemoveObserver(tag)

        tag = subject.AddObserver(event, happened)
        observations.append((subject, tag))

    def _observe_no_more(self: Any) -> None:
        for subject, tag in self.__dict__.pop("_observations", []):
            subject.RemoveObserver(tag)


class _KnowsScene:
    def mrmlScene(self: Any) -> Any:
        return self.__dict__.get("_scene")

    def setMRMLScene(self: Any, scene: Any) -> None:
        if scene is not self.__dict__.get("_scene"):
            self.__dict__["_scene"] = scene
            self.mrmlSceneChanged.emit(scene)


@imitates("qMRMLWidget")
class MRMLWidget(_KnowsScene):
    """A widget that knows the scene."""


@imitates("qSlicerWidget")
class SlicerWidget:
    """A widget that knows the scene; its ``mrmlScene()`` is not among what scripts may call."""

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self.__dict__.get("_scene"):
            self.__dict__["_scene"] = scene
            self.mrmlSceneChanged.emit(scene)


@imitates("qMRMLNodeComboBox")
class NodeComboBox(_Observing):
    """Chooses a node of the scene by its name."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        self._combo = QtWidgets.QComboBox()
        row(self, self._combo)
        self._nodes: list[Any] = []
        self._current: Any = None
        self._scene: Any = None
        self._attributes: list[tuple[str, str, Any]] = []
        for name in ("addEnabled", "removeEnabled", "showChildNodeTypes", "selectNodeUponCreation"):
            self.__dict__[f"_value_of_{name}"] = True
        self.__dict__["_value_of_noneDisplay"] = "None"
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._combo.currentIndexChanged.connect(
            lambda index: self._choose(self._nodes[index] if 0 <= index < len(self._nodes) else None)
        )
        self._combo.activated.connect(lambda index: self.nodeActivated.emit(self._current))

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        self._observe_no_more()
        self._scene = scene
        if scene is not None:
            for event in (
                "NodeAddedEvent",
                "NodeRemovedEvent",
                "EndBatchProcessEvent",
                "EndCloseEvent",
                "EndImportEvent",
            ):
                self._observe(scene, getattr(slicer.vtkMRMLScene, event), self._fill)
        self._fill()

    def _offered(self) -> list[Any]:
        if self._scene is None:
            return []
        found: list[Any] = []
        for kind in self.nodeTypes or []:
            for node in slicer.util.getNodesByClass(kind, self._scene):
                is_other_kind = node.GetClassName() != kind and not self.showChildNodeTypes
                is_hidden = node.GetHideFromEditors() and not self.showHidden
                if node not in found and not is_other_kind and not is_hidden and self._has_attributes(node, kind):
                    found.append(node)
        return found

    def _has_attributes(self, node: Any, kind: str) -> bool:
        wanted = [(name, value) for wanted_kind, name, value in self._attributes if wanted_kind == kind]
        return all(
            node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name)) for name, value in wanted
        )

    def _fill(self, _: Any = None) -> None:
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        offered = self._offered()
        for node in offered:
            if node not in self._nodes:
                self._observe(node, slicer.vtkMRMLNode.IDChangedEvent, self._fill)
                self._observe(node, vtk.vtkCommand.ModifiedEvent, self._rename)
        nodes = [None, *offered] if self.noneEnabled else offered
        blocker = QtCore.QSignalBlocker(self._combo)
        self._nodes = nodes
        self._combo.clear()
        self._combo.addItems([self.noneDisplay if node is None else node.GetName() for node in nodes])
        # Where "none" is not offered, the real one takes the first node there is for one that is gone.
        first = None if self.noneEnabled or not nodes else nodes[0]
        wanted = self._current if self._current in nodes else first
        self._combo.setCurrentIndex(nodes.index(wanted) if wanted in nodes else -1)
        blocker.unblock()
        self._choose(wanted)

    _on_nodeTypes = _on_noneEnabled = _on_showHidden = _on_showChildNodeTypes = _on_noneDisplay = _fill

    def _rename(self) -> None:
        for index, node in enumerate(self._nodes):
            if node is not None and self._combo.itemText(index) != node.GetName():
                self._combo.setItemText(index, node.GetName())

    def _choose(self, node: Any) -> None:
        if node is self._current:
            return
        self._current = node
        self.currentNodeChanged[object].emit(node)
        self.currentNodeChanged[bool].emit(node is not None)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def currentNode(self) -> Any:
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if self._scene is not None else None
        self._combo.setCurrentIndex(self._nodes.index(node) if node in self._nodes else -1)

    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(node_id)

    def setCurrentNodeIndex(self, index: int) -> None:
        self._combo.setCurrentIndex(index + (1 if self.noneEnabled else 0))

    def _read_currentNodeID(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    def _on_currentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(node_id)

    _read_currentNodeId, _on_currentNodeId = _read_currentNodeID, _on_currentNodeID

    def nodeCount(self) -> int:
        return sum(node is not None for node in self._nodes)

    def nodeFromIndex(self, index: int) -> Any:
        return [node for node in self._nodes if node is not None][index]

    def addAttribute(self, kind: str, name: str, value: Any = None) -> None:
        self._attributes.append((kind, name, value))
        self._fill()

    def addNode(self, kind: str | None = None) -> Any:
        kind = kind or self.nodeTypes[0]
        name = self.baseName or slicer.mrmlScene.GetTagByClassName(kind) or kind
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(name))
        self.nodeAddedByUser.emit(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._current is not None:
            self._scene.RemoveNode(self._current)


@imitates("qMRMLSegmentsTableView")
class SegmentsTableView(_KnowsScene, _Observing):
    """The segments of a segmentation, with name and colour."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        self._table = QtWidgets.QTableWidget(0, 2)
        self._table.setHorizontalHeaderLabels(["Colour", "Name"])
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        row(self, self._table)
        self._node: Any = None
        self._table.itemSelectionChanged.connect(lambda: self.selectionChanged.emit(None, None))

    def setSegmentationNode(self, node: Any) -> None:
        self._observe_no_more()
        self._node = node
        if node is not None:
            for event in ("SegmentAdded", "SegmentRemoved", "SegmentModified"):
                self._observe(node.GetSegmentation(), getattr(slicer.vtkSegmentation, event), self._fill)
        self._fill()

    def segmentationNode(self) -> Any:
        return self._node

    def _segment_ids(self) -> list[str]:
        return list(self._node.GetSegmentation().GetSegmentIDs()) if self._node is not None else []

    def _fill(self) -> None:
        chosen = self.selectedSegmentIDs()
        blocker = QtCore.QSignalBlocker(self._table)
        ids = self._segment_ids()
        self._table.setRowCount(len(ids))
        for index, segment_id in enumerate(ids):
            segment = self._node.GetSegmentation().GetSegment(segment_id)
            color, name = QtWidgets.QTableWidgetItem(), QtWidgets.QTableWidgetItem(segment.GetName())
            color.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            name.setData(QtCore.Qt.ItemDataRole.UserRole, segment_id)
            self._table.setItem(index, 0, color)
            self._table.setItem(index, 1, name)
        blocker.unblock()
        self.setSelectedSegmentIDs([segment_id for segment_id in chosen if segment_id in ids])

    def _read_segmentCount(self) -> int:
        return self._table.rowCount

    def tableWidget(self) -> Any:
        return self._table

    def selectedSegmentIDs(self) -> list[str]:
        rows = sorted({index.row() for index in self._table.selectedIndexes()})
        return [self._table.item(index, 1).data(QtCore.Qt.ItemDataRole.UserRole) for index in rows]

    def setSelectedSegmentIDs(self, segment_ids: list[str]) -> None:
        self._table.clearSelection()
        model = self._table.selectionModel()
        flags = QtCore.QItemSelectionModel.SelectionFlag
        for index in range(self._table.rowCount):
            if self._table.item(index, 1).data(QtCore.Qt.ItemDataRole.UserRole) in segment_ids:
                model.select(self._table.model().index(index, 0), flags.Select | flags.Rows)


@imitates("qMRMLSliderWidget")
class MRMLSliderWidget(SliderWidget):
    """A slider that knows the units of the scene; here, it has none."""

    def setMRMLScene(self, scene: Any) -> None:
        self.__dict__["_scene"] = scene
