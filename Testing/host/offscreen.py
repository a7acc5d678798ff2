"""What VTK draws without a screen, as an array or a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy


class Drawn:
    """Something with an offscreen render window.

    Attributes:
        window: The vtkRenderWindow.
    """

    window: Any

    def pixels(self) -> np.ndarray:
        """Return what is drawn, (height, width, 3) bytes, the upper left pixel first."""
        image = self._image()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()

    def png(self, path: str | Path) -> Path:
        """Draw into a PNG file."""
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
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        return grab.GetOutput()

    def _draw(self) -> None:
        self.window.Render()
