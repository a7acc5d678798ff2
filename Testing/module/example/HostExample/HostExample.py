"""A small module as a Slicer developer writes it, by which the tests hold the host to Slicer's manners."""

import enum
from pathlib import Path
from typing import Annotated, Optional

import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class Quality(enum.Enum):
    QUICK = "quick"
    THOROUGH = "thorough"

    def label(self):
        return f"As {self.value} as can be"


class HostExample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Host example")
        self.parent.categories = ["Examples"]


@parameterNodeWrapper
class ExampleParameters:
    volume: vtkMRMLScalarVolumeNode
    minutes: Annotated[float, WithinRange(1, 32)] = 8
    iterations: Annotated[int, WithinRange(0, 500)] = 100
    isShown: bool = True
    quality: Quality
    device: Annotated[str, Choice(["cpu", "cuda:0"])] = "cpu"
    name: Annotated[str, Default("run")]
    folder: Path
    cases: list[str]
    others: list[vtkMRMLScalarVolumeNode]
    seed: Optional[int]  # noqa: UP045  # Slicer's wrapper does not know "int | None".


class HostExampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.happened = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/HostExample.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = HostExampleLogic()
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.addObserver(
            slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, lambda *_: self.happened.append("scene closed")
        )
        self.parameters = self.logic.getParameterNode()
        self.tag = self.parameters.connectGui(self.ui)
        self.addObserver(self.parameters, vtk.vtkCommand.ModifiedEvent, self.update)
        self.update()

    def update(self, caller=None, event=None):
        self.ui.applyButton.enabled = self.parameters.volume is not None

    def onApply(self):
        self.happened.append("applied")

    def enter(self):
        self.happened.append("entered")

    def exit(self):
        self.happened.append("exited")

    def cleanup(self):
        self.happened.append("cleaned up")
        self.parameters.disconnectGui(self.tag)
        self.removeObservers()


class HostExampleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return ExampleParameters(super().getParameterNode())


class HostExampleTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.delayDisplay("Tested")
        assert slicer.util.getModuleLogic("HostExample") is not None
