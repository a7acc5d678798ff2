"""What the module can do, without a panel: the console's logic, and what the panel calls.

From Slicer's Python console, with volumes ``volume``, ``v2``, ``v3`` and a segmentation node ``segmentation``::

    logic = slicer.util.getModuleLogic("SemiSAMPlus")
    run = logic.train(labeled=[(volume, segmentation)], unlabeled=[v2, v3], generalists=["random-walker"], minutes=5)
    run.wait()
    run.layers(v2).show()
    logic.predict(run, v3)  # a vtkMRMLSegmentationNode

The training is a process of its own: it goes on when Slicer closes, and ``logic.runs()`` finds it again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import slicer

from SemiSAMPlusLib.cohort.cohort import Role
from SemiSAMPlusLib.cohort.layouts import stem
from SemiSAMPlusLib.errors import ConfigError, RunFolderError, SemiSAMPlusError, VolumeError
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.run.folder import RunFolder, safe_id, specialist_in

from .cases import (
    DRAFT_ATTRIBUTE,
    IGNORED,
    LAYER_ATTRIBUTE,
    ROLE_ATTRIBUTE,
    CaseRow,
    CaseTable,
    FileCases,
    unique_name,
    volume_fault,
)
from .dependencies import SlicerInstaller
from .export import CohortExport, learned_structures
from .job import ChildJob
from .leftovers import sweep_leftovers
from .nodes import finish_segmentation, load_segmentation, load_volume
from .prediction import APPLIED, FILE_ATTRIBUTE, VOLUME_REFERENCE, Prediction
from .run import Preparation, Run, terminologies
from .runs import RunSummary, find_runs, is_run_folder
from .seams import DeviceFacts, Installer, Job, JobStarter, Ticker
from .signals import Signal
from .text import _

#: Milliseconds between two looks: while volumes are written or many events read, and while a job works.
_HURRIED, _WORKING = 20, 250
#: So many cases have their layers refreshed during training where the settings name none; more would cost too much.
_MOST_LAYERS = 6
_SEGMENTATION_CLASS = "vtkMRMLSegmentationNode"


class QtTicker:
    """Calls back from Qt's event loop; without Qt, whoever waits for a job calls :meth:`ModuleLogic.tick` instead."""

    def __init__(self) -> None:
        self._timer: Any = None

    def start(self, callback: Callable[[], None], milliseconds: int) -> None:
        """Call ``callback`` every so many milliseconds from now on."""
        if self._timer is None:
            try:
                import qt
            except ImportError:
                return
            if qt.QCoreApplication.instance() is None:
                return
            self._timer = qt.QTimer()
            self._timer.connect("timeout()", callback)
        self._timer.start(milliseconds)

    def stop(self) -> None:
        """Call no more."""
        if self._timer is not None:
            self._timer.stop()


class ModuleLogic:
    """Everything that the module does; no panel and no window is needed.

    Args:
        scene: The MRML scene.
        start_job: Starts child processes.
        ticker: Makes the ticker that looks after jobs from the event loop.
        installer: Installs what the child processes need.
        runs_folder: Where runs are made; the folder ``SemiSAMPlus`` among Slicer's documents by default.

    Attributes:
        cases: Which volumes play which part.
        installer: Installs what the child processes need.
        known_devices: What a child process last said of the devices, see :meth:`devices`; empty before.
        run_changed: Emitted with a run whenever its state or progress changed.
        runs_changed: Emitted without values when a run began, ended or was deleted.
        prediction_changed: Emitted with a prediction whenever it changed.
        devices_changed: Emitted without values when a child process was asked for the devices, whether it answered or not.
    """

    def __init__(
        self,
        scene: Any,
        *,
        start_job: JobStarter | None = None,
        ticker: Callable[[], Ticker] | None = None,
        installer: Installer | None = None,
        runs_folder: Path | None = None,
    ) -> None:
        self.cases = CaseTable(scene)
        self.installer: Installer = SlicerInstaller() if installer is None else installer
        self.run_changed, self.runs_changed = Signal(), Signal()
        self.prediction_changed, self.devices_changed = Signal(), Signal()
        self._scene = scene
        self._start_job: JobStarter = ChildJob if start_job is None else start_job
        self._runs_folder = runs_folder
        self._swept: set[Path] = set()
        self._runs: dict[Path, Run] = {}
        self._states: dict[Path, str] = {}
        self._predictions: list[Prediction] = []
        self.known_devices: list[DeviceFacts] = []
        self._asking: tuple[Job, Path] | None = None
        self._was_asked = False
        self._ticker: Ticker = (QtTicker if ticker is None else ticker)()
        self._interval: int | None = None
        self.cases.changed.connect(self._look_sooner)

    @property
    def parameters(self) -> FileCases | None:
        """The panel's parameter node, which keeps file cases; set it on setup, and after another scene was loaded."""
        return self.cases.parameters

    @parameters.setter
    def parameters(self, parameters: FileCases | None) -> None:
        self.cases.parameters = parameters

    @property
    def runs_folder(self) -> Path:
        """Where runs are made and looked for; may be set."""
        return documents_folder() / "SemiSAMPlus" if self._runs_folder is None else self._runs_folder

    @runs_folder.setter
    def runs_folder(self, folder: Path | str | None) -> None:
        self._runs_folder = Path(folder) if folder else None
        self.runs_changed.emit()

    @property
    def active_runs(self) -> list[Run]:
        """The runs opened or started here that are preparing or at work."""
        return [run for run in self._runs.values() if run.is_active]

    # -- training ---------------------------------------------------------------------------------------------------

    def train(
        self,
        labeled: Sequence[Any],
        unlabeled: Sequence[Any] = (),
        validation: Sequence[Any] = (),
        *,
        segments: Sequence[str] | None = None,
        generalists: Sequence[str] | None = None,
        minutes: float | None = None,
        name: str | None = None,
        wait: bool = False,
        start_from: Run | Path | None = None,
        **config: Any,
    ) -> Run:
        """Train a specialist; returns at once unless ``wait``.

        Args:
            labeled: (volume, segmentation) pairs, of nodes or of files.
            unlabeled: Volumes, nodes or files.
            validation: (volume, segmentation) pairs that are held out to choose the best weights.
            segments: The structures to learn, by segment name; all by default.
            generalists: Names such as ``random-walker``; the default of the settings where None.
            minutes: About how long to train.
            name: What to call the run.
            wait: Return when it has ended.
            start_from: A run (or its folder) whose specialist is the start.
            config: Any other setting of :class:`~SemiSAMPlusLib.run.config.TrainingConfig`.

        Raises:
            SemiSAMPlusError: If a case or setting cannot be used; with ``wait``, also if the training fails.

        Example:
            >>> run = logic.train([(volume, segmentation)], [v2, v3], minutes=5)
            >>> run.wait().layers(v2).show()
        """
        if generalists is not None:
            config["generalists"] = tuple(generalists)
        settings = TrainingConfig.from_dict({**config, **({} if minutes is None else {"minutes": minutes})})
        taken: set[str] = set()
        rows = [_labeled_row(pair, Role.LABELED, taken) for pair in labeled]
        rows += [_labeled_row(pair, Role.VALIDATION, taken) for pair in validation]
        rows += [_row(one, None, Role.UNLABELED, taken) for one in unlabeled]
        run = self.train_rows(rows, settings, segments=segments, name=name, start_from=start_from)
        return run.wait() if wait else run

    def train_rows(
        self,
        rows: Sequence[CaseRow],
        config: TrainingConfig,
        *,
        segments: Sequence[str] | None = None,
        name: str | None = None,
        start_from: Run | Path | None = None,
    ) -> Run:
        """Train on rows of the table, each with its part; returns at once. Rows whose role is None are left out.

        Raises:
            SemiSAMPlusError: If a row has a fault, or there is nothing to train on.
        """
        rows = [row for row in rows if row.role is not None]
        _require_trainable(rows, config)
        name = " ".join((name or _default_name(rows, segments)).split())
        folder = _new_folder(self.runs_folder, name)
        if config.layers is None and sum(row.volume is not None for row in rows) <= _MOST_LAYERS:
            config = replace(config, layers=tuple(row.name for row in rows if row.volume is not None) or None)
        source = start_from.folder.path if isinstance(start_from, Run) else start_from
        # A network's outputs have an order, whichever segment of a corrected case was drawn first.
        order = [] if source is None else learned_structures(Path(source))
        export = CohortExport(rows, folder, segments=segments, name=name, order=order)
        preparation = Preparation(export, config, None if source is None else Path(source))
        run = Run(folder, self._scene, self._start_job, preparation=preparation, name=name)
        return self._look_after(run)

    def open_run(self, folder: Path | str) -> Run:
        """Watch a run found in a folder, at work or not; the same object for the same folder.

        Raises:
            RunFolderError: If it is no run folder.
        """
        path = RunFolder(Path(folder)).path
        if path in self._runs:
            self._runs[path].watch_again()
            self._look_sooner()
            return self._runs[path]
        if not is_run_folder(path):
            what = _("{folder}: is not the folder of a run.").format(folder=path)
            raise RunFolderError(what, _("Choose a folder that a training created; it contains run.json."))
        return self._look_after(Run(path, self._scene, self._start_job))

    def runs(self) -> list[RunSummary]:
        """Return the runs in :attr:`runs_folder`, the latest first; what others left there is swept out on the first call."""
        if self.runs_folder not in self._swept:
            self._swept.add(self.runs_folder)
            sweep_leftovers(self.runs_folder)
        return find_runs(self.runs_folder)

    def delete_run(self, run: Run | Path) -> None:
        """Delete a run's folder with all that is in it, exported volumes included.

        Raises:
            RunFolderError: If it is no run folder, or is at work.
        """
        folder = run.folder if isinstance(run, Run) else RunFolder(Path(run))
        known = self._runs.get(folder.path)
        if known is not None and known.is_active:
            what = _("{folder}: the run is in progress.").format(folder=folder.path)
            raise RunFolderError(what, _("Stop it first."))
        if not os.path.isfile(folder.run_file) and known is not None:
            shutil.rmtree(folder.path, ignore_errors=True)  # It never came so far as to describe itself.
        else:
            folder.delete()
        self._runs.pop(folder.path, None)
        self.runs_changed.emit()

    def _look_after(self, run: Run) -> Run:
        self._runs[run.folder.path] = run
        self._states[run.folder.path] = run.state
        run.changed.connect(self._on_run_changed)
        self.runs_changed.emit()
        self._look_sooner()
        return run

    def _on_run_changed(self, run: Run) -> None:
        self.run_changed.emit(run)
        if self._states.get(run.folder.path) != run.state:
            self._states[run.folder.path] = run.state
            self.runs_changed.emit()
            self._look_sooner()  # Also one that was resumed.

    # -- applying and correcting ------------------------------------------------------------------------------------

    def predict(
        self,
        run: Run | Path,
        volumes: Any,
        *,
        device: str = "auto",
        uncertainty: bool = False,
        refine: bool = True,
        output: Path | None = None,
        wait: bool = True,
    ) -> Any:
        """Segment volumes with the specialist of a run, or an exported one.

        Args:
            run: A run, its folder, or the folder of an exported specialist.
            volumes: A volume node, or several; or files and folders.
            device: auto, cpu, cuda, cuda:1, mps, ...
            uncertainty: Write the predictive entropy too, as ``NAME_uncertainty.nii.gz`` beside the predictions.
            refine: Let the generalists that its training trusted correct what the specialist says, as far as they were trusted.
            output: A folder of its own for the predicted files; by default a new one in ``predictions`` of the run's
                folder, or of :attr:`runs_folder` for an exported specialist and for a run that may only be read.
            wait: Return when it has ended.

        Returns:
            The segmentation node of one volume node, a list of them for several; the finished
            :class:`Prediction` for files and folders; with ``wait=False`` the :class:`Prediction` at once.

        Raises:
            SemiSAMPlusError: If it failed.

        Example:
            >>> segmentation = logic.predict(run, volume)
        """
        several = list(volumes) if isinstance(volumes, list | tuple) else [volumes]
        prediction = self.start_prediction(
            run, several, output=output, device=device, uncertainty=uncertainty, refine=refine
        )
        if not wait:
            return prediction
        prediction.wait()
        if any(isinstance(one, str | Path) for one in several):
            return prediction
        nodes = [prediction.nodes.get(one.GetID()) for one in several]
        return nodes if isinstance(volumes, list | tuple) else nodes[0]

    def start_prediction(
        self,
        run: Run | Path,
        volumes: Sequence[Any],
        *,
        output: Path | None = None,
        device: str = "auto",
        uncertainty: bool = False,
        refine: bool = True,
    ) -> Prediction:
        """Segment volumes (nodes, files, folders) in the background; returns at once.

        Raises:
            SemiSAMPlusError: If there is no volume, or the run has no specialist yet.
        """
        if not volumes:
            raise VolumeError(_("No volume was chosen, expected at least one."), _("Choose a volume or a folder."))
        source = run.folder.path if isinstance(run, Run) else Path(run)
        if specialist_in(source) is None:
            what = _("{folder}: holds no specialist yet.").format(folder=source)
            raise RunFolderError(what, _("Wait until its training has ended or is stopped, or choose another run."))
        if output is None:
            output = self._place_for_predictions(source)
        prediction = Prediction(
            source,
            volumes,
            Path(output),
            self._scene,
            self._start_job,
            device=device,
            uncertainty=uncertainty,
            refine=refine,
            terminologies=terminologies(source),
        )
        prediction.happened.connect(self.prediction_changed.emit)
        self._predictions.append(prediction)
        self._look_sooner()
        return prediction

    def _place_for_predictions(self, source: Path) -> Path:
        if os.path.isfile(source / "run.json"):
            with suppress(RunFolderError):  # A colleague's run may be read and not written to.
                return _new_folder(source / "predictions", "")
        return _new_folder(self.runs_folder / "predictions", "")

    def correct(self, run: Run | Path | None, volume: Any) -> Any:
        """Copy the latest prediction of a volume to a new segmentation that the user may edit, and return it.

        It is no label before :meth:`make_labeled` makes it one.

        Args:
            run: The run whose layers are looked at too; None takes what was applied to the volume.
            volume: The volume.

        Raises:
            SemiSAMPlusError: If there is no prediction of it.
        """
        if run is not None and not isinstance(run, Run):  # An exported specialist has no layers.
            run = self.open_run(run) if is_run_folder(Path(run)) else None
        name = _("{volume} corrected").format(volume=volume.GetName())
        applied = self._applied_to(volume)
        layer = self._predicted_layer(run, volume) if run is not None else None
        terminologies = run.terminologies() if run is not None else {}
        if layer is not None and (applied is None or _age(layer) < _age(_file_of(applied))):
            node = load_segmentation(self._scene, layer, name, volume=volume, terminologies=terminologies)
        elif applied is not None:
            node = self._scene.AddNewNodeByClass(_SEGMENTATION_CLASS, name)
            node.GetSegmentation().DeepCopy(applied.GetSegmentation())
            finish_segmentation(node, volume, {})
        else:
            what = _("'{volume}': there is no prediction of it yet.").format(volume=volume.GetName())
            raise VolumeError(what, _("Apply the specialist to it first."))
        node.SetAttribute(DRAFT_ATTRIBUTE, "1")
        node.SetNodeReferenceID(VOLUME_REFERENCE, volume.GetID())
        return node

    def corrected(self, volume: Any) -> Any | None:
        """Return the latest segmentation that :meth:`correct` made of a volume and that is no label yet, or None."""
        nodes = self._segmentations_of(volume)
        drafts = [node for node in nodes if node.GetAttribute(DRAFT_ATTRIBUTE) is not None]
        return drafts[-1] if drafts else None

    def make_labeled(self, volume: Any, segmentation: Any) -> CaseRow:
        """Make a corrected case a labelled one: the next training learns from it.

        Raises:
            VolumeError: If the segmentation cannot be used for the volume.
        """
        fault = volume_fault(volume, segmentation)
        if fault is not None:
            raise VolumeError(fault, "")
        segmentation.RemoveAttribute(DRAFT_ATTRIBUTE)
        row = self.cases.row(volume)
        if row is None:
            what = _("'{volume}': is not a case in the table.").format(volume=volume.GetName())
            raise VolumeError(what, _("Use a scalar volume of the scene."))
        self.cases.forget_file_of(volume)
        self.cases.set_segmentation(row, segmentation)
        row = replace(row, segmentation=segmentation)
        self.cases.set_role(row, Role.LABELED)
        return self.cases.row(volume) or row

    def load_case(self, run: Run, case: str) -> Any:
        """Load the image of a run's case into the scene, to be looked at; a volume that is there already is returned.

        The volume plays no part in the next training: its file does, where the table has it.

        Raises:
            SemiSAMPlusError: If the run has no such case, or its image cannot be read.
        """
        volume = run.volume_of(case)
        if volume is None:
            volume = load_volume(self._scene, run.image_of(case), case)
            volume.SetAttribute(ROLE_ATTRIBUTE, IGNORED)
        return volume

    def _applied_to(self, volume: Any) -> Any | None:
        """Return the latest node that :meth:`predict` made of a volume."""
        ours = [node for node in self._segmentations_of(volume) if node.GetAttribute(LAYER_ATTRIBUTE) == APPLIED]
        return ours[-1] if ours else None

    def _segmentations_of(self, volume: Any) -> list[Any]:
        nodes = slicer.util.getNodesByClass(_SEGMENTATION_CLASS, self._scene)
        return [node for node in nodes if node.GetNodeReferenceID(VOLUME_REFERENCE) == volume.GetID()]

    def _predicted_layer(self, run: Run, volume: Any) -> Path | None:
        case = run.case_of(volume)
        path = run.folder.layers(case) / "prediction.seg.nrrd" if case is not None else None
        return path if path is not None and os.path.isfile(path) else None

    # -- facts ------------------------------------------------------------------------------------------------------

    def devices(self) -> list[DeviceFacts]:
        """Return what is known of the devices, empty until a child process has answered; asks one on the first call.

        Each has ``name`` (for the setting ``device``), ``title``, ``free`` and ``total`` memory in bytes.
        """
        if not self._was_asked:
            self.ask_devices()
        return list(self.known_devices)

    def ask_devices(self) -> None:
        """Ask again how much memory of each device is free."""
        if self._asking is not None:
            return
        self._was_asked = True
        folder = Path(tempfile.mkdtemp(prefix="SemiSAMPlus-"))
        try:
            job = self._start_job(["devices", "--json", str(folder / "devices.json")], folder)
        except SemiSAMPlusError:  # What cannot be asked is not known; training says why.
            shutil.rmtree(folder, ignore_errors=True)
            return
        job.ended.connect(self._on_devices)
        self._asking = (job, folder)
        self._look_sooner()

    def _on_devices(self, _job: Job) -> None:
        assert self._asking is not None
        folder, self._asking = self._asking[1], None
        try:
            data = json.loads((folder / "devices.json").read_text(encoding="utf-8"))
            self.known_devices = list(data["devices"])
        except (OSError, ValueError, KeyError, TypeError):
            self._was_asked = False  # For example because nothing is installed yet; asked again when it is.
        shutil.rmtree(folder, ignore_errors=True)
        self.devices_changed.emit()

    # -- looking after it -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look after everything that is going on, for a few milliseconds; the ticker calls it."""
        hurried = self.cases.check_files()
        for run in list(self._runs.values()):
            if run.needs_polling:
                run.poll()
                hurried |= run.needs_polling and run.is_hurried
        for prediction in list(self._predictions):
            prediction.poll()
            hurried |= prediction.is_hurried
            if not prediction.is_active:
                self._predictions.remove(prediction)
        if self._asking is not None:
            self._asking[0].poll()
        works = bool(self._predictions or self._asking or any(run.needs_polling for run in self._runs.values()))
        self._set_interval(_HURRIED if hurried else _WORKING if works else None)

    def close(self) -> None:
        """Look after nothing any more: what works goes on, what only prepares ends and leaves no copies of images."""
        for run in self.active_runs:
            if run.state == "preparing":
                run.stop()
        for prediction in self._predictions:
            if prediction.state == "preparing":
                prediction.cancel()
        self._set_interval(None)  # Last, for whatever ends would have it looked after again.
        self.cases.close()

    def _look_sooner(self) -> None:
        if self._interval != _HURRIED:
            self._set_interval(_HURRIED)

    def _set_interval(self, milliseconds: int | None) -> None:
        if milliseconds == self._interval:
            return
        self._interval = milliseconds
        if milliseconds is None:
            self._ticker.stop()
        else:
            self._ticker.start(self.tick, milliseconds)


# -- rows from what a console gives -----------------------------------------------------------------------------------


def _labeled_row(pair: Any, role: Role, taken: set[str]) -> CaseRow:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        what = _("A labelled case is {found}, expected a pair (volume, segmentation).").format(found=_called(pair))
        raise ConfigError(what, _("Give for example labeled=[(volume, segmentation)]."))
    return _row(pair[0], pair[1], role, taken)


def _row(image: Any, label: Any, role: Role, taken: set[str]) -> CaseRow:
    if isinstance(image, str | Path):
        path = Path(image).absolute()
        if label is not None and not isinstance(label, str | Path):
            what = _("{image}: its segmentation is {label}, expected a file, because the image is a file.").format(
                image=path, label=_called(label)
            )
            raise ConfigError(what, _("Load the image, or give a label file."))
        return CaseRow(
            unique_name(stem(path), taken),
            role,
            image=path,
            label=Path(label).absolute() if label else None,
            key=str(path),
        )
    if not hasattr(image, "IsA") or not image.IsA("vtkMRMLScalarVolumeNode"):
        raise ConfigError(
            _("A case is {found}, expected a scalar volume node or a file.").format(found=_called(image)),
            _("Give nodes, for example slicer.util.getNode('MRHead')."),
        )
    if label is not None and (not hasattr(label, "IsA") or not label.IsA(_SEGMENTATION_CLASS)):
        what = _("The label of '{volume}' is {found}, expected a segmentation node.").format(
            volume=image.GetName(), found=_called(label)
        )
        raise ConfigError(what, _("Convert a labelmap to a segmentation in the module Segmentations."))
    name = unique_name(image.GetName() or image.GetID(), taken)
    return CaseRow(name, role, volume=image, segmentation=label, key=image.GetID(), fault=volume_fault(image, label))


def _called(thing: Any) -> str:
    return f"'{thing.GetName()}' ({thing.GetClassName()})" if hasattr(thing, "GetClassName") else repr(thing)


def _require_trainable(rows: Iterable[CaseRow], config: TrainingConfig) -> None:
    """Refuse what the training would refuse, before volumes are written for it."""
    rows = list(rows)
    faults = [row.fault for row in rows if row.fault]
    if faults:
        more = _("({count} more cases have faults.)").format(count=len(faults) - 1) if faults[1:] else ""
        raise VolumeError(str(faults[0]), more)
    roles = [row.role for row in rows]
    if Role.LABELED not in roles:
        what = _("No case is labelled, expected at least one.")
        raise ConfigError(what, _("Draw a segmentation on one volume, and give the volume the role 'labelled'."))
    if Role.UNLABELED not in roles and config.method != "supervised":
        what = _("No case is unlabelled, but the method '{method}' learns from unlabelled cases.").format(
            method=config.method
        )
        raise ConfigError(what, _("Add unlabelled volumes, or choose the method 'supervised'."))
    unlabeled = [row.name for row in rows if row.role in (Role.LABELED, Role.VALIDATION) and not row.has_label]
    if unlabeled:
        what = _("'{case}': has no segmentation, expected one.").format(case=unlabeled[0])
        raise ConfigError(what, _("Choose its segmentation, or make it unlabelled."))


# -- folders ----------------------------------------------------------------------------------------------------------


def documents_folder() -> Path:
    """Return the user's documents folder, as Slicer or Qt knows it."""
    application = getattr(slicer, "app", None)
    root = getattr(application, "defaultScenePath", "") if application is not None else ""
    return Path(root) if isinstance(root, str) and root else Path.home() / "Documents"


def _default_name(rows: Sequence[CaseRow], segments: Sequence[str] | None) -> str:
    if segments:
        return ", ".join(segments)
    for row in rows:
        if row.segmentation is not None:
            inner = row.segmentation.GetSegmentation()
            names = [inner.GetNthSegment(index).GetName() for index in range(inner.GetNumberOfSegments())]
            return ", ".join(names[:3])
    return _("training")


def _new_folder(root: Path, name: str) -> Path:
    """Make a folder that nobody else has: the name, as far as every system takes it, and the time.

    Raises:
        RunFolderError: If it cannot be made.
    """
    stamp = time.strftime("%Y-%m-%d-%H-%M-%S")
    base = f"{safe_id(name)}-{stamp}" if name else stamp
    folder = root / base
    try:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
            except FileExistsError:  # Begun in the same second, maybe by another Slicer.
                folder = root / f"{base}-{uuid4().hex[:4]}"
            else:
                return folder
    except OSError as error:
        what = _("{folder}: the folder cannot be created ({reason}).").format(folder=folder, reason=error.strerror)
        raise RunFolderError(what, _("Choose another folder for runs.")) from error


def _file_of(node: Any) -> Path:
    return Path(node.GetAttribute(FILE_ATTRIBUTE) or "")


def _age(path: Path) -> float:
    """Return how old a file is in seconds; older than any where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
