"""The panel: its sections, in the order in which a user works, and what they need of Slicer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from .apply_section import ApplySection
from .figures import CaseFigures
from .job import ChildJob
from .layers_section import LayersSection
from .logic import ModuleLogic
from .method_section import MethodSection
from .parameters import parameters_of
from .seams import JobStarter
from .setup_section import SetupSection
from .state import PanelState
from .training_section import TrainingSection
from .volumes_section import VolumesSection
from .widgets import Later, fit_labels, is_dark, load_ui

#: How often the panel looks after downloads and layers.
TICK_MILLISECONDS = 250


class PanelWidget(VTKObservationMixin):
    """The panel, built into a layout.

    Args:
        place: The layout to be in.
        logic: Does all the work.
        parameter_node: Returns the module's parameter node of the present scene.
        start_job: Starts child processes that are not the logic's; real ones by default.
    """

    def __init__(
        self,
        place: Any,
        logic: ModuleLogic,
        parameter_node: Callable[[], Any],
        *,
        start_job: JobStarter = ChildJob,
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._parameter_node = parameter_node
        parameters = parameters_of(parameter_node())
        logic.parameters = parameters
        self.state = PanelState(logic, parameters, slicer.mrmlScene, start_job)
        self.widget, self.ui = load_ui("SemiSAMPlus", place)
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.setup = SetupSection(self.ui.setupPlace.layout(), self.state)
        self.volumes = VolumesSection(self.ui.volumesButton.layout(), self.state)
        self.method = MethodSection(self.ui.methodButton.layout(), self.state)
        self.training = TrainingSection(self.ui.trainingButton.layout(), self.state)
        self.layers = LayersSection(self.ui.layersButton.layout(), self.state)
        self.apply = ApplySection(self.ui.applyButton.layout(), self.state)
        self._opened: set[str] = set()
        self._was_dark = is_dark()
        self._figures = CaseFigures(logic.cases)
        logic.run_changed.connect(self._figures.update)
        self.state.run_chosen.connect(self._open_sections)
        self.state.logic.run_changed.connect(self._open_sections)
        self._restore_later = Later(self.restore)
        for event in (
            slicer.mrmlScene.EndCloseEvent,
            slicer.mrmlScene.EndImportEvent,
            slicer.mrmlScene.EndRestoreEvent,
        ):
            self.addObserver(slicer.mrmlScene, event, self._restore_later)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self._on_node_removed)
        self._timer = qt.QTimer(self.widget)
        self._timer.setInterval(TICK_MILLISECONDS)
        self._timer.connect("timeout()", self.tick)
        self.restore()

    def enter(self) -> None:
        """Look again what may have changed while another module was shown."""
        if self._parameter_node() is not self.state.parameters.parameterNode:
            self.restore()
        self.state.logic.runs_changed.emit()
        self.state.logic.cases.changed.emit()  # The scene does not tell of what was drawn or linked there.
        self.setup.check()
        self.method.weights.look_again()
        self.state.logic.devices()
        self._timer.start()
        fit_labels(self.widget)

    def exit(self) -> None:
        """Rest while another module is shown, unless there is something to look after."""
        run = self.state.run
        if self.method.weights.job is None and (run is None or not run.is_active):
            self._timer.stop()

    def close(self) -> None:
        """Be unloaded: observe nothing, call nothing; what trains goes on."""
        self._timer.stop()
        self.removeObservers()
        self._restore_later.close()
        self.state.run_chosen.disconnect(self._open_sections)
        self.state.logic.run_changed.disconnect(self._figures.update)
        self.state.logic.run_changed.disconnect(self._open_sections)
        for section in (self.volumes, self.method, self.training, self.layers, self.apply):
            section.close()
        self.state.close()

    def tick(self) -> None:
        """Look after downloads and layers, each for one step, and after what a user sees."""
        fit_labels(self.widget)
        self.method.tick()
        self.layers.tick()
        if is_dark() != self._was_dark:  # The user has chosen another style.
            self._was_dark = not self._was_dark
            self.state.restored.emit()
            self.state.run_chosen.emit()

    def restore(self) -> None:
        """Take over the parameters of the present scene; a closed scene has new ones."""
        self.state.restore(parameters_of(self._parameter_node()))
        self._figures.read_again(self.state.run)

    def _open_sections(self, *_args: object) -> None:
        """Open Layers and Apply once, when there is something in them; what the user closes stays closed."""
        run = self.state.run
        if run is None:
            return
        for button, has_something in (
            (self.ui.layersButton, lambda: bool(run.layer_cases())),
            (self.ui.applyButton, lambda: run.has_specialist),
        ):
            if button.objectName not in self._opened and has_something():
                self._opened.add(button.objectName)
                button.collapsed = False

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_removed(self, _scene: Any, _event: str, node: Any) -> None:
        if node is self.state.parameters.parameterNode:
            self._restore_later()
