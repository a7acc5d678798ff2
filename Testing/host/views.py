"""Slice and 3D views drawn offscreen by Slicer's real displayable managers."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from .offscreen import Drawn

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)
THREED_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager3D",
    "vtkMRMLColorLegendDisplayableManager",
)


class _View(Drawn):
    """An offscreen render window filled by displayable managers."""

    def __init__(
        self, factory: Any, managers: tuple[str, ...], size: tuple[int, int], background: tuple[float, float, float]
    ) -> None:
        self.size = size
        self.renderer = vtk.vtkRenderer()
        self.renderer.SetBackground(*background)
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self._add_first_prop()
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        factory = factory.GetInstance()
        for manager in managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.managers = slicer.vtkMRMLDisplayableManagerGroup()
        self.managers.SetRenderer(self.renderer)
        self.managers.Initialize(factory, self.renderer)

    def _add_first_prop(self) -> None:
        """Add what must be drawn below everything else."""

    def close(self) -> None:
        """Let go of the displayable managers and the window."""
        self.managers.SetMRMLDisplayableNode(None)
        self.interactor.SetRenderWindow(None)
        self.window.Finalize()


class SliceView(_View):
    """A slice view, such as Slicer's "Red".

    Args:
        name: Which view; "Red", "Green" and "Yellow" are those of the layout, any other is made.
        orientation: "Axial", "Coronal" or "Sagittal"; None leaves the node's own.
        size: Width and height in pixels.

    Attributes:
        logic: The real slice logic.
        node: The vtkMRMLSliceNode.
    """

    def __init__(
        self, name: str = "Red", orientation: str | None = "Axial", size: tuple[int, int] = (500, 500)
    ) -> None:
        super().__init__(slicer.vtkMRMLSliceViewDisplayableManagerFactory, SLICE_MANAGERS, size, (0.0, 0.0, 0.0))
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        overlay = vtk.vtkRenderer()  # Markups draw into the layer above the image.
        overlay.GetActiveCamera().ParallelProjectionOn()
        overlay.SetLayer(1)
        self.window.SetNumberOfLayers(2)
        self.window.AddRenderer(overlay)
        self.logic = slicer.app.host_core().add_slice_logic(name)
        self.node = self.logic.GetSliceNode()
        self.managers.SetMRMLDisplayableNode(self.node)
        if orientation is not None:
            self.node.SetOrientation(orientation)
        self.logic.ResizeSliceNode(*size)

    def _add_first_prop(self) -> None:
        # Slicer's view takes CTK's light box here. It must come first, or the fill of segments does not blend with the image.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._actor.SetVisibility(False)
        self.renderer.AddViewProp(self._actor)

    def _image(self) -> Any:
        # A loaded scene's segments appear when the slice node changes next, as Slicer's widget lets it when it lays itself out.
        self.node.Modified()
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._actor.SetVisibility(connection is not None)
        return super()._image()

    def show(self, background: Any, foreground: Any = None, opacity: float = 0.5) -> None:
        """Show volumes in this view, fit to the background, its middle slice."""
        composite = self.logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(background.GetID())
        composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
        composite.SetForegroundOpacity(opacity)
        self.fit()

    def fit(self) -> None:
        """Fit the view to its background volume."""
        self.logic.ResizeSliceNode(*self.size)
        self.logic.FitSliceToBackground()
        self.logic.SnapSliceOffsetToIJK()

    def jump_to(self, ras: tuple[float, float, float]) -> None:
        """Show the slice through a point, in the middle of the view."""
        self.node.JumpSliceByCentering(*ras)

    def pixel_of(self, ras: tuple[float, float, float]) -> tuple[int, int]:
        """Return (row, column) in :meth:`pixels` of a point in RAS mm, projected onto the slice."""
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), to_xy)
        x, y, _, _ = to_xy.MultiplyPoint((*ras, 1.0))
        return self.size[1] - 1 - round(y), round(x)


class ThreeDView(_View):
    """A 3D view.

    Args:
        name: Its layout name; "1" is the view of Slicer's layout.
        size: Width and height in pixels.

    Attributes:
        logic: The real view logic.
        node: The vtkMRMLViewNode.
    """

    def __init__(self, name: str = "1", size: tuple[int, int] = (500, 500)) -> None:
        super().__init__(slicer.vtkMRMLThreeDViewDisplayableManagerFactory, THREED_MANAGERS, size, (0.75, 0.77, 0.9))
        self.logic, self.node = slicer.app.host_core().view_logic(name)
        self.managers.SetMRMLDisplayableNode(self.node)

    def fit(self) -> None:
        """Move the camera so that everything is seen."""
        self.window.Render()  # Until it is drawn, a surface that was just made has no extent.
        self.renderer.ResetCamera()
        self.renderer.ResetCameraClippingRange()
