"""A stage for the panel: the real widgets on the real scene, with a logic that only records what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
from SemiSAMPlusPanel.cases import CaseRow, CaseTable
from SemiSAMPlusPanel.runs import RunSummary
from SemiSAMPlusPanel.signals import Signal

from SemiSAMPlusLib.errors import RunFolderError
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.run.folder import JobFolder, RunFolder

# -- what stands behind the panel -----------------------------------------------------------------------------------


class FakeInstaller:
    """Installs nothing; ``missing_now`` says what it claims to lack."""

    def __init__(self) -> None:
        self.missing_now: list[str] = []
        self.steps, self.error, self.restart = ["Downloading torch …"], None, False
        self.installed = 0

    def missing(self) -> list[str]:
        return list(self.missing_now)

    def summary(self) -> str:
        return f"Training needs {', '.join(self.missing_now)}: about 900 MB to download."

    def install(self, progress: Any) -> bool:
        self.installed += 1
        for step in self.steps:
            progress(step)
        if self.error is not None:
            raise self.error
        self.missing_now = []
        return self.restart


class FakeJob:
    """A child process that says what the test lets it say."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.arguments, self.folder = list(arguments), JobFolder(folder)
        self.happened, self.ended = Signal(), Signal()
        self.running, self.stopped, self.killed = True, False, False
        self.wrong: tuple[str, str, Path] | None = None

    def say(self, *events: dict[str, Any]) -> None:
        self.happened.emit(list(events))

    def end(self, wrong: tuple[str, str, Path] | None = None) -> None:
        self.running, self.wrong = False, wrong
        self.ended.emit(self)

    def poll(self) -> None:
        pass

    def is_running(self) -> bool:
        return self.running

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = True

    def failure(self) -> tuple[str, str, Path] | None:
        return self.wrong

    def output_tail(self, lines: int = 8) -> list[str]:
        return []


class FakeJobs:
    """Starts :class:`FakeJob`, and keeps them."""

    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []

    def __call__(self, arguments: Sequence[str], folder: Path) -> FakeJob:
        self.jobs.append(FakeJob(arguments, folder))
        return self.jobs[-1]


class FakeLayers:
    """The layers of a case, without a scene."""

    def __init__(self, case: str, kinds: Sequence[str], volume: Any = None) -> None:
        self.case_name, self._kinds, self.volume = case, list(kinds), volume
        self.shown: set[str] = set()
        self.threshold, self.jumps, self.volume_shown, self.refreshed = 0.5, 0, 0, 0
        self.about: dict[str, Any] = {
            "case": case,
            "iteration": 300,
            "uncertainty": "predictive entropy with generalists",
        }

    def kinds(self) -> list[str]:
        return list(self._kinds)

    def show(self, kind: str | None = None) -> None:
        self.shown |= {kind} if kind else set(self._kinds)

    def hide(self, kind: str | None = None) -> None:
        self.shown -= {kind} if kind else set(self._kinds)

    def is_shown(self, kind: str) -> bool:
        return kind in self.shown

    def show_volume(self) -> None:
        self.volume_shown += 1

    def set_threshold(self, value: float) -> None:
        self.threshold = value

    def jump_to_most_uncertain(self) -> Any:
        self.jumps += 1
        return np.zeros(3)

    def refresh(self) -> list[str]:
        self.refreshed += 1
        return []


class FakeRun:
    """A run in whatever state the test sets."""

    def __init__(self, folder: Path, state: str = "running") -> None:
        self.folder, self.name, self.state = RunFolder(folder), Path(folder).name, state
        self.changed = Signal()
        self.exported = (0, 0)
        self.has_begun = True
        self.iteration, self.iterations, self.seconds_left = 0, 0, None
        self.losses, self.dice, self.trust, self.memory, self.device = {}, [], {}, {}, ""
        self.messages: list[str] = []
        self.layers_written: dict[str, int] = {}
        self.error: tuple[str, str, Path] | None = None
        self.case_layers: dict[str, FakeLayers] = {}
        self.stops = self.kills = self.resumes = 0

    @property
    def is_active(self) -> bool:
        return self.state in ("preparing", "running", "stopping")

    @property
    def can_resume(self) -> bool:
        return self.state in ("stopped", "failed", "unfinished") and self.has_begun

    @property
    def has_specialist(self) -> bool:
        return (self.folder.specialist / "model.json").is_file()

    @property
    def report(self) -> Path:
        return self.folder.report

    def stop(self) -> None:
        self.stops += 1
        self.state = "stopping"
        self.changed.emit(self)

    def kill(self) -> None:
        self.kills += 1
        self.state = "unfinished"
        self.changed.emit(self)

    def resume(self) -> FakeRun:
        self.resumes += 1
        self.state = "running"
        self.changed.emit(self)
        return self

    def layer_cases(self) -> list[str]:
        return list(self.case_layers)

    def volume_of(self, case: str) -> Any:
        return slicer.mrmlScene.GetFirstNodeByName(case)

    def image_of(self, case: str) -> Path:
        return self.folder.path / "inputs" / "images" / f"{case}.nrrd"

    def layers(self, case: str) -> FakeLayers:
        return self.case_layers[case]


@dataclass
class FakePrediction:
    """A prediction in whatever state the test sets."""

    source: Path
    volumes: list[Any]
    output: Path | None
    device: str
    refine: bool = True
    state: str = "running"
    progress: tuple[int, int] = (0, 1)
    seconds_left: float | None = None
    nodes: dict[str, Any] = field(default_factory=dict)
    error: tuple[str, str, Path] | None = None
    warning: str = ""
    cancels: int = 0

    @property
    def is_active(self) -> bool:
        return self.state in ("preparing", "running", "loading")

    def cancel(self) -> None:
        self.cancels += 1


class FakeLogic:
    """Records what the panel asks for; the table of cases is the real one."""

    def __init__(self, scene: Any, folder: Path) -> None:
        self.scene = scene
        self.cases = CaseTable(scene)
        self.installer = FakeInstaller()
        self.run_changed, self.runs_changed = Signal(), Signal()
        self.prediction_changed, self.devices_changed = Signal(), Signal()
        self.default_folder = self._runs_folder = folder
        self.known_devices: list[dict[str, Any]] = []
        self.known_runs: dict[str, FakeRun] = {}
        self.trained: list[dict[str, Any]] = []
        self.predictions: list[FakePrediction] = []
        self.asked_devices = 0
        self.wrong: Exception | None = None
        self.corrections: dict[str, Any] = {}
        self.labeled: list[tuple[Any, Any]] = []

    @property
    def parameters(self) -> Any:
        return self.cases.parameters

    @parameters.setter
    def parameters(self, parameters: Any) -> None:
        self.cases.parameters = parameters

    @property
    def runs_folder(self) -> Path:
        return self._runs_folder

    @runs_folder.setter
    def runs_folder(self, folder: Path | None) -> None:
        self._runs_folder = folder or self.default_folder

    def add_run(self, name: str, state: str) -> FakeRun:
        """Let there be a run."""
        run = FakeRun(self._runs_folder / name, state)
        run.folder.path.mkdir(parents=True, exist_ok=True)
        run.changed.connect(self.run_changed.emit)
        self.known_runs[str(run.folder.path)] = run
        self.runs_changed.emit()
        return run

    def train_rows(self, rows: Sequence[CaseRow], config: TrainingConfig, **more: Any) -> FakeRun:
        if self.wrong is not None:
            raise self.wrong
        self.trained.append({"rows": list(rows), "config": config, **more})
        return self.add_run(more.get("name") or "training", "preparing")

    def open_run(self, folder: Path | str) -> FakeRun:
        try:
            return self.known_runs[str(folder)]
        except KeyError:
            raise RunFolderError(f"{folder}: is no run folder.", "Choose another.") from None

    def runs(self) -> list[RunSummary]:
        return [
            RunSummary(run.folder.path, run.name, run.state, run.iteration, run.iterations, 0.0, run.has_specialist)
            for run in self.known_runs.values()
        ]

    def delete_run(self, run: FakeRun) -> None:
        del self.known_runs[str(run.folder.path)]
        self.runs_changed.emit()

    def start_prediction(
        self,
        run: Any,
        volumes: Sequence[Any],
        *,
        output: Path | None = None,
        device: str = "auto",
        refine: bool = True,
    ) -> FakePrediction:
        if self.wrong is not None:
            raise self.wrong
        asked = FakePrediction(Path(run), list(volumes), output, device, refine=refine, progress=(0, len(volumes)))
        self.predictions.append(asked)
        return self.predictions[-1]

    def correct(self, run: Any, volume: Any) -> Any:
        if self.wrong is not None:
            raise self.wrong
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} corrected")
        self.corrections[volume.GetID()] = node
        return node

    def corrected(self, volume: Any) -> Any:
        return self.corrections.get(volume.GetID())

    def make_labeled(self, volume: Any, segmentation: Any) -> None:
        self.labeled.append((volume, segmentation))

    def devices(self) -> list[dict[str, Any]]:
        return self.known_devices

    def ask_devices(self) -> None:
        self.asked_devices += 1


# -- what stands in the scene ---------------------------------------------------------------------------------------


def add_volume(name: str, *, shape: tuple[int, int, int] = (12, 14, 16)) -> Any:
    """Add a volume to the scene."""
    array = np.random.default_rng(len(name)).normal(100, 20, shape).astype(np.float32)
    return slicer.util.addVolumeFromArray(array, name=name)


def add_segmentation(volume: Any, *segments: str) -> Any:
    """Add a segmentation of a volume, its segments side by side."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    shape = slicer.util.arrayFromVolume(volume).shape
    for number, name in enumerate(segments or ("organ",)):
        array = np.zeros(shape, dtype=np.uint8)
        array[2:6, 2:8, 2 + 4 * number : 6 + 4 * number] = 1
        segment = node.GetSegmentation().AddEmptySegment("", name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, volume)
    return node


# -- a person at the panel ------------------------------------------------------------------------------------------


def settle(seconds: float = 0.0, *, until: Any = None) -> bool:
    """Let the panel do what it put off; return whether ``until`` came true."""
    import host

    return host.process_events(seconds, until=until)


def click(widget: Any, *, at: Any = None) -> None:
    """Click a widget with the left button; it must be there to be clicked."""
    from PySide6 import QtTest

    if not widget.isVisible():
        msg = f"'{widget.objectName}' is not to be seen, so nobody can click it"
        raise AssertionError(msg)
    _reveal(widget)
    if at is not None:
        QtTest.QTest.mouseClick(widget, qt.Qt.LeftButton, qt.Qt.NoModifier, at)
    elif widget.inherits("QCheckBox") or widget.inherits("QRadioButton"):
        QtTest.QTest.mouseClick(widget, qt.Qt.LeftButton, qt.Qt.NoModifier, qt.QPoint(8, widget.height // 2))
    else:
        QtTest.QTest.mouseClick(widget, qt.Qt.LeftButton)
    settle()


def choose(combo: Any, text: str) -> None:
    """Choose what begins with ``text`` in a combo box, by its arrow keys."""
    from PySide6 import QtTest

    if not combo.isVisible():
        msg = f"'{combo.objectName}' is not to be seen, so nobody can choose in it"
        raise AssertionError(msg)
    texts = [combo.itemText(row) for row in range(combo.count)]
    wanted = [row for row, one in enumerate(texts) if one.startswith(text)]
    if not wanted:
        msg = f"'{combo.objectName}' has {texts}, not '{text}'"
        raise AssertionError(msg)
    while combo.currentIndex != wanted[0]:
        QtTest.QTest.keyClick(combo, qt.Qt.Key_Down if combo.currentIndex < wanted[0] else qt.Qt.Key_Up)
        settle()


def write(edit: Any, text: str) -> None:
    """Write a text into a line, and leave it."""
    from PySide6 import QtTest

    edit.setFocus()
    edit.selectAll()
    if text:
        QtTest.QTest.keyClicks(edit, text)
    else:
        QtTest.QTest.keyClick(edit, qt.Qt.Key_Delete)
    QtTest.QTest.keyClick(edit, qt.Qt.Key_Return)
    settle()


def check(view: Any, item: Any) -> None:
    """Click the box of an item of a list or tree."""
    rectangle = view.visualItemRect(item)
    click(view.viewport(), at=rectangle.topLeft() + qt.QPoint(10, rectangle.height() // 2))


def _reveal(widget: Any) -> None:
    above = widget.parent()
    while above is not None:
        if above.inherits("QScrollArea"):
            above.ensureWidgetVisible(widget)
            settle()
            return
        above = above.parent()


class Stage:
    """The panel in a window as wide as Slicer's module panel.

    Args:
        folder: Where runs are.
        logic: What stands behind it; by default one that only records.
        jobs: Starts child processes for weights; by default ones that only record.
    """

    def __init__(self, folder: Path, logic: Any = None, jobs: Any = None) -> None:
        from SemiSAMPlusPanel.widget import PanelWidget

        self.logic = logic or FakeLogic(slicer.mrmlScene, folder)
        self.jobs = jobs or FakeJobs()
        self.window = qt.QScrollArea()
        self.window.setWidgetResizable(True)
        self.window.setFrameShape(qt.QFrame.NoFrame)
        inner = qt.QWidget()
        layout = qt.QVBoxLayout(inner)
        layout.setContentsMargins(0, 0, 0, 0)
        self.window.setWidget(inner)
        self.window.resize(400, 1000)
        self.panel = PanelWidget(layout, self.logic, parameter_node, start_job=self.jobs)
        self.window.show()
        self.panel.enter()
        if logic is None and jobs is None:
            self.panel._timer.stop()  # Time passes by tick() alone, however slow the computer is.
        settle()

    @property
    def parameters(self) -> Any:
        """What the panel remembers."""
        return self.panel.state.parameters

    def find(self, name: str) -> Any:
        """Return a widget of the panel by its object name."""
        found = self.window.findChild(qt.QObject, name)
        if found is None:
            msg = f"the panel has no '{name}'"
            raise AssertionError(msg)
        return found

    def click(self, name: str) -> None:
        """Click a widget."""
        click(self.find(name))

    def tick(self) -> None:
        """Let a quarter of a second pass, as the panel sees it."""
        self.panel.tick()
        settle()

    def close(self) -> None:
        """Unload the panel."""
        self.panel.close()
        self.logic.cases.close()
        self.window.close()
        self.window.deleteLater()
        settle()


def parameter_node() -> Any:
    """Return the module's parameter node of the present scene, as ScriptedLoadableModuleLogic does."""
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    logic = ScriptedLoadableModuleLogic()
    logic.moduleName = "SemiSAMPlus"
    return logic.getParameterNode()
