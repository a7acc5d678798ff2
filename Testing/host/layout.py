"""``slicer.app.layoutManager()``: the slice and 3D views by name, with real nodes and logics; they are drawn by ``views``."""

from __future__ import annotations

from typing import Any

import slicer

from .standins import imitates, stand_in


@imitates("qSlicerLayoutManager")
class LayoutManager:
    """Knows the views of the layout."""

    def host_open(self, core: Any) -> None:
        """Begin with the views that the application has."""
        self._core = core
        self._widgets: dict[str, Any] = {}

    def _layout_node(self) -> Any:
        return self._core.layout_logic.GetLayoutNode()

    def _read_layout(self) -> int:
        return self._layout_node().GetViewArrangement()

    def _on_layout(self, arrangement: int) -> None:
        self._layout_node().SetViewArrangement(arrangement)

    def setLayout(self, arrangement: int) -> None:
        self._on_layout(arrangement)

    def layoutLogic(self) -> Any:
        return self._core.layout_logic

    def mrmlScene(self) -> Any:
        return self._core.scene

    def mrmlSliceLogics(self) -> Any:
        return self._core.application_logic.GetSliceLogics()

    def mrmlViewLogics(self) -> Any:
        return self._core.application_logic.GetViewLogics()

    def sliceViewNames(self) -> list[str]:
        return list(self._core.slice_logics)

    def sliceWidget(self, name: str) -> Any:
        if name not in self._core.slice_logics:
            return None
        if name not in self._widgets:
            widget = stand_in("qMRMLSliceWidget")()
            widget._logic = self._core.slice_logics[name]
            self._widgets[name] = widget
        return self._widgets[name]

    def _read_threeDViewCount(self) -> int:
        return self._core.scene.GetNumberOfNodesByClass("vtkMRMLViewNode")

    def threeDWidget(self, index: int) -> Any:
        widget = self._widgets.setdefault(f"3D {index}", stand_in("qMRMLThreeDWidget")())
        widget._index = index
        return widget

    def _read_plotViewCount(self) -> int:
        return self._core.scene.GetNumberOfNodesByClass("vtkMRMLPlotViewNode")

    def plotWidget(self, index: int) -> Any:
        widget = self._widgets.setdefault(f"plot {index}", stand_in("qMRMLPlotWidget")())
        widget._index = index
        return widget

    def _read_tableViewCount(self) -> int:
        return self._core.scene.GetNumberOfNodesByClass("vtkMRMLTableViewNode")

    def resetSliceViews(self) -> None:
        for logic in self._core.slice_logics.values():
            logic.FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Do nothing: a drawn 3D view is fitted by ``views.ThreeDView.fit``."""

    def pauseRender(self) -> None:
        """Do nothing: nothing is drawn unless a test asks."""

    def resumeRender(self) -> None:
        """Do nothing: nothing is drawn unless a test asks."""


@imitates("qMRMLSliceWidget")
class SliceWidget:
    """A slice view's nodes and logic."""

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def sliceLogic(self) -> Any:
        return self._logic

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()


@imitates("qMRMLThreeDWidget")
class ThreeDWidget:
    """A 3D view's node."""

    def mrmlViewNode(self) -> Any:
        return slicer.mrmlScene.GetNthNodeByClass(self._index, "vtkMRMLViewNode")

    def threeDView(self) -> Any:
        if not hasattr(self, "_view"):
            self._view = stand_in("qMRMLThreeDView")()
        return self._view


@imitates("qMRMLThreeDView")
class ThreeDView:
    """A 3D view that draws nothing by itself."""

    def resetFocalPoint(self) -> None:
        """Do nothing: there is no camera to move."""

    def resetCamera(self) -> None:
        """Do nothing: there is no camera to move."""

    def forceRender(self) -> None:
        """Do nothing: nothing is drawn unless a test asks."""


@imitates("qMRMLPlotWidget")
class PlotWidget:
    """A plot view's node."""

    def mrmlPlotViewNode(self) -> Any:
        return slicer.mrmlScene.GetNthNodeByClass(self._index, "vtkMRMLPlotViewNode")
