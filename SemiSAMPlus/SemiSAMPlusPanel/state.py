"""What the sections of the panel share: the logic, the parameters of the scene, and the run that is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from SemiSAMPlusLib.errors import SemiSAMPlusError

from .logic import ModuleLogic
from .parameters import Parameters
from .run import Run
from .runs import RunSummary
from .seams import JobStarter
from .signals import Signal


class PanelState:
    """What the sections share. They know of each other only through it.

    Args:
        logic: Does all the work.
        parameters: What the panel remembers with the present scene.
        scene: The MRML scene.
        start_job: Starts child processes for what is not the logic's: weights.

    Attributes:
        logic: Does all the work.
        parameters: What the panel remembers with the present scene.
        scene: As given.
        start_job: As given.
        missing: The Python packages that are missing.
        run: The run that is looked at; None where the next one is set up.
        run_chosen: Emitted without values when another run is looked at, or the same one changed hands.
        restored: Emitted without values when another scene's parameters took over.
        settings_changed: Emitted without values when what the next training does has changed.
        dependencies_changed: Emitted without values when packages were installed.
        train_on: Emitted with a run from whose specialist a new training is to start.
    """

    def __init__(self, logic: ModuleLogic, parameters: Parameters, scene: Any, start_job: JobStarter) -> None:
        self.logic, self.parameters, self.scene, self.start_job = logic, parameters, scene, start_job
        self.run: Run | None = None
        self._folder_is_ours = False
        self._runs: list[RunSummary] | None = None
        logic.runs_changed.connect(self.look_for_runs)
        self.missing: list[str] = []
        self.run_chosen, self.restored = Signal(), Signal()
        self.settings_changed, self.dependencies_changed = Signal(), Signal()
        self.train_on = Signal()

    def close(self) -> None:
        """Share nothing any more."""
        self.logic.runs_changed.disconnect(self.look_for_runs)

    def look_for_runs(self) -> None:
        """Look again which runs there are, when they are next asked for."""
        self._runs = None

    def runs(self) -> list[RunSummary]:
        """Return the runs in the folder of runs, as they were when something last changed."""
        if self._runs is None:
            self._runs = self.logic.runs()
        return self._runs

    def apply_runs_folder(self) -> None:
        """Make runs where the parameters say; where they say nothing, where the logic would make them without a panel."""
        folder = self.parameters.runsFolder
        if folder:
            self.logic.runs_folder = Path(folder)
        elif self._folder_is_ours:
            self.logic.runs_folder = None
        self._folder_is_ours = bool(folder)

    def restore(self, parameters: Parameters) -> None:
        """Take over what another scene's parameters remember; a run at work is watched on where these know of none."""
        self.parameters = parameters
        self.logic.parameters = parameters
        self.apply_runs_folder()
        if not parameters.run and self.run is not None and self.run.is_active:
            parameters.run = str(self.run.folder.path)
        self.run = self._remembered_run()
        self.restored.emit()
        self.run_chosen.emit()

    def choose_run(self, run: Run | None) -> None:
        """Look at a run, or set up the next one."""
        self.run = run
        self.parameters.run = str(run.folder.path) if run is not None else ""
        self.run_chosen.emit()

    def set(self, name: str, value: Any) -> None:
        """Remember a value, and tell whoever shows what the next training does."""
        if getattr(self.parameters, name) != value:
            setattr(self.parameters, name, value)
            self.settings_changed.emit()

    def _remembered_run(self) -> Run | None:
        if not self.parameters.run:
            return None
        try:
            return self.logic.open_run(Path(self.parameters.run))
        except (SemiSAMPlusError, OSError):  # It was deleted, or lies where it cannot be read now.
            self.parameters.run = ""
            return None
