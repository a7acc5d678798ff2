"""The curves of a run, losses and Dice, as Slicer's own table and plot nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf, isnan, nan
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .layers import hierarchy
from .text import _

CHART_ATTRIBUTE, RUN_ATTRIBUTE = "SemiSAMPlus.Chart", "SemiSAMPlus.Run"
_CHART, _LOSSES, _DICE = "chart", "losses", "dice"
_ITERATION = "iteration"
_ON = ("validation", "labeled")

#: More points than this a plot view neither shows nor draws quickly; then two of a curve become one, their mean.
_MOST_ROWS = 800
#: Losses, in turn: greys and muted tones that leave the strong colours to the structures.
_LOSS_COLORS = ((0.35, 0.35, 0.35), (0.55, 0.45, 0.70), (0.65, 0.50, 0.35), (0.40, 0.60, 0.60), (0.70, 0.55, 0.65))
_DICE_COLORS = ((0.90, 0.62, 0.0), (0.34, 0.71, 0.91), (0.0, 0.62, 0.45), (0.80, 0.47, 0.65), (0.0, 0.45, 0.70))


class RunChart:
    """Losses and Dice over the iterations of a run, in one chart that only grows.

    Nodes are found again by their attributes after the scene was saved and loaded, and made where they are missing.

    Args:
        scene: The MRML scene.
        run: What tells this run from all others, such as its folder.
        name: What users call it.
        colors: sRGB, 0 to 1, by structure.
    """

    def __init__(
        self, scene: Any, run: str, name: str, *, colors: Mapping[str, tuple[float, float, float]] | None = None
    ) -> None:
        self._scene = scene
        self._run = str(run)
        self._name = name
        self._colors = dict(colors or {})
        self._losses_seen: dict[str, int] = {}
        self._dice_seen = 0
        self._curves: dict[str, _Curves] = {}
        self._former_layout: int | None = None

    @property
    def chart(self) -> Any:
        """The vtkMRMLPlotChartNode, or None before there is anything to draw."""
        return self._find("vtkMRMLPlotChartNode", _CHART)

    def table(self, which: str) -> Any:
        """Return the vtkMRMLTableNode of ``losses`` or ``dice``, or None before there are any."""
        return self._find("vtkMRMLTableNode", which)

    def update(
        self,
        losses: Mapping[str, Sequence[tuple[int, float | None]]],
        dice: Sequence[tuple[int, Mapping[str, float | None], str]],
    ) -> bool:
        """Draw what has come since the last call; what was drawn stays as it is.

        Args:
            losses: Loss by name → (iteration, value) pairs of the whole run.
            dice: (iteration, {structure: value}, ``validation`` or ``labeled``) of the whole run.

        Returns:
            Whether anything came.
        """
        if self._is_to_be_redrawn(losses, dice):
            self._start_anew()
        rows: dict[int, dict[str, float]] = {}
        for name, values in losses.items():
            for iteration, value in _last_said(values[self._losses_seen.get(name, 0) :]):
                rows.setdefault(iteration, {})[name] = nan if value is None else value
            self._losses_seen[name] = len(values)
        scores = [
            (iteration, {_dice_title(name, on): nan if value is None else value for name, value in by_class.items()})
            for iteration, by_class, on in dice[self._dice_seen :]
        ]
        self._dice_seen = len(dice)
        self._append(_LOSSES, rows.items())
        self._append(_DICE, scores)
        return bool(rows or scores)

    def show(self) -> None:
        """Show the chart in a plot view; the layout is changed to one with a plot view where need be."""
        chart = self._chart()
        layout = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        before = None if layout is None else layout.GetViewArrangement()
        slicer.modules.plots.logic().ShowChartInLayout(chart)
        if layout is not None and layout.GetViewArrangement() != before:
            self._former_layout = before

    def hide(self) -> None:
        """Take the chart out of the plot views, and go back to the layout that :meth:`show` changed."""
        chart = self.chart
        for view in slicer.util.getNodesByClass("vtkMRMLPlotViewNode", self._scene):
            if chart is not None and view.GetPlotChartNodeID() == chart.GetID():
                view.SetPlotChartNodeID(None)
        layout = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layout is not None and self._former_layout is not None:
            layout.SetViewArrangement(self._former_layout)
        self._former_layout = None

    def is_shown(self) -> bool:
        """Return whether a plot view shows the chart."""
        chart = self.chart
        views = slicer.util.getNodesByClass("vtkMRMLPlotViewNode", self._scene)
        return chart is not None and any(view.GetPlotChartNodeID() == chart.GetID() for view in views)

    def remove(self) -> None:
        """Take chart, series and tables out of the scene."""
        self.hide()
        for name in ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"):
            for node in [node for node in slicer.util.getNodesByClass(name, self._scene) if self._is_ours(node)]:
                hierarchy.remove_item(node)
                self._scene.RemoveNode(node)
        hierarchy.remove_empty_folder(self._scene, (CHART_ATTRIBUTE, RUN_ATTRIBUTE), self._is_our_folder)
        self._forget()

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _is_ours(self, node: Any, part: str | None = None) -> bool:
        mark = node.GetAttribute(CHART_ATTRIBUTE)
        return mark is not None and node.GetAttribute(RUN_ATTRIBUTE) == self._run and part in (None, mark)

    def _is_our_folder(self, marks: Mapping[str, str]) -> bool:
        return marks[RUN_ATTRIBUTE] == self._run

    def _find(self, node_class: str, part: str) -> Any:
        nodes = slicer.util.getNodesByClass(node_class, self._scene)
        return next((node for node in nodes if self._is_ours(node, part)), None)

    def _make(self, node_class: str, part: str, name: str) -> Any:
        node = self._scene.AddNewNodeByClass(node_class, name)
        node.SetAttribute(CHART_ATTRIBUTE, part)
        node.SetAttribute(RUN_ATTRIBUTE, self._run)
        folder = _("SemiSAM+ curves ({run})").format(run=self._name)
        marks = {CHART_ATTRIBUTE: "folder", RUN_ATTRIBUTE: self._run}
        hierarchy.put_in_folder(node, folder, marks, self._is_our_folder)
        return node

    def _chart(self) -> Any:
        chart = self.chart
        if chart is None:
            chart = self._make("vtkMRMLPlotChartNode", _CHART, _("Losses and Dice ({run})").format(run=self._name))
            chart.SetTitle(self._name)
            chart.SetXAxisTitle(_("iteration"))
            chart.SetYAxisTitle(_("loss, Dice"))
        return chart

    # -- what has come ----------------------------------------------------------------------------------------------

    def _is_to_be_redrawn(self, losses: Mapping[str, Sequence[Any]], dice: Sequence[Any]) -> bool:
        """Return whether the curves are not the beginning of what is to be drawn: another scene, or other values."""
        shorter = len(dice) < self._dice_seen or any(
            len(losses.get(name, ())) < seen for name, seen in self._losses_seen.items()
        )
        return shorter or not all(self._is_drawn(which) for which in (_LOSSES, _DICE))

    def _is_drawn(self, which: str) -> bool:
        """Return whether a table is what we wrote it: there where we have written it, and not a loaded one."""
        table, curves = self.table(which), self._curves.get(which)
        return curves is None if table is None else curves is not None and curves.is_of(table)

    def _forget(self) -> None:
        self._losses_seen, self._dice_seen = {}, 0
        self._curves = {}

    def _start_anew(self) -> None:
        self._forget()
        for which in (_LOSSES, _DICE):
            table = self.table(which)
            if table is not None:
                table.RemoveAllColumns()

    def _append(self, which: str, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        rows = sorted(rows, key=lambda row: row[0]) if which == _LOSSES else list(rows)
        if not rows:
            return
        if which not in self._curves:
            title = _("losses ({run})") if which == _LOSSES else _("Dice ({run})")
            table = self.table(which) or self._make("vtkMRMLTableNode", which, title.format(run=self._name))
            self._curves[which] = _Curves(table)
        curves = self._curves[which]
        known = set(curves.names)
        curves.append(rows)
        for name in curves.names:
            if name not in known:
                self._draw(which, name, curves.table)

    def _draw(self, which: str, name: str, table: Any) -> None:
        """Add a series for a column, unless it is there already."""
        part, chart = f"{which}:{name}", self._chart()
        title = name if which == _DICE else _("loss: {name}").format(name=name)
        series = self._find("vtkMRMLPlotSeriesNode", part) or self._make("vtkMRMLPlotSeriesNode", part, title)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(_ITERATION)
        series.SetYColumnName(name)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
        is_dice = which == _DICE
        marker = slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle
        series.SetMarkerStyle(marker if is_dice else slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetMarkerSize(7)
        series.SetLineWidth(3 if is_dice else 1.5)
        series.SetColor(*self._color(which, name))
        if not chart.HasPlotSeriesNodeID(series.GetID()):
            chart.AddAndObservePlotSeriesNodeID(series.GetID())

    def _color(self, which: str, name: str) -> tuple[float, float, float]:
        number = self._curves[which].names.index(name)
        if which == _LOSSES:
            return _LOSS_COLORS[number % len(_LOSS_COLORS)]
        by_title = {_dice_title(structure, on): color for structure, color in self._colors.items() for on in _ON}
        return by_title.get(name, _DICE_COLORS[number % len(_DICE_COLORS)])


def _last_said(values: Sequence[tuple[int, float | None]]) -> Iterator[tuple[int, float | None]]:
    """Return the pairs, last first, without those of iterations that a resumed run took again."""
    earliest = inf
    for iteration, value in reversed(values):
        if iteration < earliest:
            earliest = iteration
            yield iteration, value


def _dice_title(structure: str, on: str) -> str:
    if on == "labeled":  # The specialist has learned these cases; nobody shall take it for the Dice of others.
        return _("Dice of {structure} (labelled cases)").format(structure=structure)
    return _("Dice of {structure}").format(structure=structure)


class _Curves:
    """The columns of a table, over one column of iterations; rows are means of equally many events.

    Args:
        table: The vtkMRMLTableNode; its rows are replaced.
    """

    def __init__(self, table: Any) -> None:
        self.table = table
        self.names: list[str] = []
        self._vtk_table = table.GetTable()
        self._stride = 1  # How many events are a row.
        self._iterations: list[int] = []
        self._sums: dict[str, list[float]] = {}
        self._counts: dict[str, list[int]] = {}
        self._events: list[int] = []

    def is_of(self, table: Any) -> bool:
        """Return whether these are the columns of ``table`` as it is now."""
        return table.GetTable() is self._vtk_table

    def append(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Append (iteration, {name: value}); what was drawn from a later iteration on is forgotten first."""
        for iteration, values in rows:
            self._append(iteration, values)
        self._write()

    def _append(self, iteration: int, values: Mapping[str, float]) -> None:
        if self._iterations and iteration <= self._iterations[-1]:  # Resumed from an earlier checkpoint.
            self._truncate(next(i for i, known in enumerate(self._iterations) if known >= iteration))
        for name in values:
            if name not in self._sums:
                self.names.append(name)
                self._sums[name], self._counts[name] = [0.0] * len(self._events), [0] * len(self._events)
        if not self._events or self._events[-1] >= self._stride:
            if len(self._events) >= _MOST_ROWS:
                self._halve()
            self._iterations.append(iteration)
            self._events.append(0)
            for name in self.names:
                self._sums[name].append(0.0)
                self._counts[name].append(0)
        self._iterations[-1] = iteration
        self._events[-1] += 1
        for name, value in values.items():
            if not isnan(value):
                self._sums[name][-1] += value
                self._counts[name][-1] += 1

    def _columns(self) -> list[list[Any]]:
        return [self._iterations, self._events, *self._sums.values(), *self._counts.values()]

    def _truncate(self, length: int) -> None:
        for column in self._columns():
            del column[length:]
        if self._events:
            self._events[-1] = self._stride

    def _halve(self) -> None:
        self._stride *= 2
        self._iterations[:] = self._iterations[1::2]
        for column in self._columns()[1:]:
            column[:] = [first + second for first, second in zip(column[::2], column[1::2], strict=True)]

    def _write(self) -> None:
        modified = self.table.StartModify()
        self._write_column(_ITERATION, np.array(self._iterations, dtype=float))
        for name in self.names:
            sums, counts = np.array(self._sums[name]), np.array(self._counts[name], dtype=float)
            means = np.divide(sums, counts, out=np.full(len(sums), nan), where=counts > 0)
            self._write_column(name, means)
        self._vtk_table.Modified()
        self.table.Modified()
        self.table.EndModify(modified)

    def _write_column(self, name: str, values: np.ndarray) -> None:
        column = self._vtk_table.GetColumnByName(name) or vtk.vtkDoubleArray()
        column.SetNumberOfTuples(len(values))
        vtk_to_numpy(column)[:] = values
        if column.GetName() is None:
            column.SetName(name)
            self._vtk_table.AddColumn(column)  # Which refuses a column that is not as long as those there.
        column.Modified()
