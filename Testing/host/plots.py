"""Plot charts drawn offscreen from their real nodes; Slicer's own plot view is a Qt widget, which slicer-core lacks."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from .offscreen import Drawn


class PlotView(Drawn):
    """A picture of a chart node: its titles, axes, series, colours and legend.

    Args:
        chart: The vtkMRMLPlotChartNode.
        size: Width and height in pixels.
    """

    def __init__(self, chart: Any, size: tuple[int, int] = (500, 300)) -> None:
        self.chart = chart
        self._view = vtk.vtkContextView()
        self._view.GetRenderer().SetBackground(1.0, 1.0, 1.0)
        self.window = self._view.GetRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)

    def _draw(self) -> None:
        drawn = vtk.vtkChartXY()
        drawn.SetTitle(self.chart.GetTitle() if self.chart.GetTitleVisibility() and self.chart.GetTitle() else "")
        drawn.SetShowLegend(bool(self.chart.GetLegendVisibility()))
        for axis, title in (
            (vtk.vtkAxis.BOTTOM, self.chart.GetXAxisTitle()),
            (vtk.vtkAxis.LEFT, self.chart.GetYAxisTitle()),
        ):
            drawn.GetAxis(axis).SetTitle(title or "")
        for index in range(self.chart.GetNumberOfPlotSeriesNodes()):
            self._add(drawn, self.chart.GetNthPlotSeriesNode(index))
        self._view.GetScene().ClearItems()
        self._view.GetScene().AddItem(drawn)
        self.window.Render()

    def _add(self, drawn: Any, series: Any) -> None:
        table = series.GetTableNode()
        if table is None or table.GetNumberOfRows() < 2:
            return
        is_scatter = series.GetPlotType() != slicer.vtkMRMLPlotSeriesNode.PlotTypeLine
        plot = drawn.AddPlot(vtk.vtkChart.LINE)
        if is_scatter:
            plot.SetInputData(table.GetTable(), series.GetXColumnName(), series.GetYColumnName())
        else:
            plot.SetUseIndexForXSeries(True)
            plot.SetInputData(table.GetTable(), series.GetYColumnName(), series.GetYColumnName())
        plot.SetLabel(series.GetName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        plot.SetMarkerStyle(series.GetMarkerStyle())
        plot.GetPen().SetLineType(series.GetLineStyle())
