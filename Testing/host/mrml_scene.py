"""The real MRML scene with the real logics around it."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slicer
import vtk

#: Names of Slicer's own modules → their logic classes in slicer-core.
_LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
}


class SceneAndLogics:
    """What Slicer's core makes before any window opens.

    Attributes:
        scene: The one scene.
        application_logic: The logic that knows all other logics.
        layout_logic: Makes the view nodes of the layout.
        module_logics: Name of a module → its logic.
    """

    def __init__(self, folder: Path) -> None:
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        self.application_logic = slicer.vtkSlicerApplicationLogic()
        with _no_errors_of_missing_files():
            self._join(folder)
            self.module_logics = dict(self._module_logics(folder))
            colors = self.application_logic.GetColorLogic()
            colors.SetMRMLScene(self.scene)
            colors.AddDefaultColorNodes()
        self._add_generic_colors()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.slice_logics: dict[str, Any] = {}
        self.view_logics: dict[str, Any] = {}
        self.layout_logic = slicer.vtkMRMLLayoutLogic()
        self.layout_logic.SetMRMLScene(self.scene)
        self.layout_logic.GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        for name in ("Red", "Green", "Yellow"):
            self.add_slice_logic(name)

    def _join(self, folder: Path) -> None:
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        self.scene.AddNode(crosshair)
        logic = self.application_logic
        logic.SetMRMLScene(self.scene)
        logic.SetSliceLogics(vtk.vtkCollection())
        logic.SetViewLogics(vtk.vtkCollection())
        for part in ("share", "temporary", "cache", "scene"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        logic.SetHomeDirectory(str(folder))
        logic.SetShareDirectory("share")
        logic.SetTemporaryPath(str(folder / "temporary"))
        self.scene.SetRootDirectory(str(folder / "scene"))
        self._remote = slicer.vtkMRMLRemoteIOLogic()
        self._remote.SetMRMLScene(self.scene)
        self._remote.GetCacheManager().SetRemoteCacheDirectory(str(folder / "cache"))
        self._data_io = slicer.vtkDataIOManagerLogic()
        self._data_io.SetMRMLScene(self.scene)
        self._data_io.SetMRMLApplicationLogic(logic)
        self._data_io.SetAndObserveDataIOManager(self._remote.GetDataIOManager())
        self._remote.AddDataIOToScene()
        for factory in (
            slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
            slicer.vtkMRMLSliceViewDisplayableManagerFactory,
        ):
            factory.GetInstance().SetMRMLApplicationLogic(logic)

    def _module_logics(self, folder: Path) -> Iterator[tuple[str, Any]]:
        for name, class_name in _LOGICS.items():
            logic = getattr(slicer, class_name)()
            if hasattr(logic, "SetModuleShareDirectory"):
                logic.SetModuleShareDirectory(str(folder / "share"))
            # The application's logic must be known before the scene: the other way round crashes some of them.
            logic.SetMRMLApplicationLogic(self.application_logic)
            logic.SetMRMLScene(self.scene)
            self.application_logic.SetModuleLogic(name, logic)
            yield name, logic

    def _add_generic_colors(self) -> None:
        """Add the colour table that segmentations and label volumes take by default; Slicer reads its from a file."""
        table = slicer.vtkMRMLColorTableNode()
        table.SetTypeToUser()
        table.SetName("GenericColors")
        table.SetSingletonTag("FileGenericColors.txt")
        table.SetAttribute("Category", "Discrete")
        table.SetSaveWithScene(False)
        table.SetHideFromEditors(True)
        table.SetNumberOfColors(64)
        table.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
        for index in range(1, 64):
            # The golden ratio puts neighbours far apart on the colour circle.
            red, green, blue = colorsys.hsv_to_rgb(index * 0.618 % 1.0, 0.65, 0.85)
            table.SetColor(index, f"Label_{index}", red, green, blue, 1.0)
        self.scene.AddNode(table)

    def add_slice_logic(self, name: str) -> Any:
        """Return the logic of the slice view of that name ("Red"), made where there is none."""
        if name not in self.slice_logics:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self.application_logic)
            self.application_logic.GetSliceLogics().AddItem(logic)
            logic.SetMRMLScene(self.scene)
            node = self.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
            if node is None:
                logic.AddSliceNode(name)
            else:
                logic.SetSliceNode(node)
            self.slice_logics[name] = logic
        return self.slice_logics[name]

    def view_logic(self, name: str) -> tuple[Any, Any]:
        """Return the logic and the node of the 3D view of that layout name ("1"), made where there is none."""
        if name not in self.view_logics:
            logic = slicer.vtkMRMLViewLogic()
            logic.SetName(name)  # By it, the logic finds its node again when the scene was closed.
            logic.SetMRMLApplicationLogic(self.application_logic)
            self.application_logic.GetViewLogics().AddItem(logic)
            logic.SetMRMLScene(self.scene)
            if logic.GetViewNode() is None:
                logic.AddViewNode(name)
            self.view_logics[name] = logic
        return self.view_logics[name], self.view_logics[name].GetViewNode()


@contextmanager
def _no_errors_of_missing_files() -> Iterator[None]:
    """Hush the logics: slicer-core comes without the files of colours and terminologies, and each one missing is an error."""
    shown = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.SetGlobalWarningDisplay(0)
    try:
        yield
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(shown)
