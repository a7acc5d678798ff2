"""Plot charts drawn offscreen from their real nodes; Slicer's own plot view is a Qt widget, which slicer-core lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy


class PlotView:
    """A picture of a chart node: its titles, axes, series, colours and legend.

    Args:
        chart: The vtkMRMLPlotChartNode.
        size: Width and height in pixels.
    """

    def __init__(self, chart: Any, size: tuple[int, int] = (500, 300)) -> None:
        self.chart = chart
        self._view = vtk.vtkContextView()
        self._view.GetRenderer().SetBackground(1.0, 1.0, 1.0)
        self._view.GetRenderWindow().SetOffScreenRendering(1)
        self._view.GetRenderWindow().SetMultiSamples(0)
        self._view.GetRenderWindow().SetSize(*size)

    def pixels(self) -> np.ndarray:
        """Return the drawn chart, (height, width, 3) bytes, the upper left pixel first."""
        image = self._image()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()

    def png(self, path: str | Path) -> Path:
        """Draw the chart into a PNG file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputData(self._image())
        writer.Write()
        return path

    def _image(self) -> Any:
        self._draw()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._view.GetRenderWindow())
        grab.ReadFrontBufferOff()
        grab.Update()
        return grab.GetOutput()

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
        self._view.GetRenderWindow().Render()

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
