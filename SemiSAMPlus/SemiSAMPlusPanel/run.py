"""The handle of one training: what a console holds on to, and what the panel watches."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import slicer

from SemiSAMPlusLib.cohort.cohort import summary
from SemiSAMPlusLib.errors import RunFolderError, SemiSAMPlusError, VolumeError
from SemiSAMPlusLib.run import events as kinds
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.run.files import write_text_atomically
from SemiSAMPlusLib.run.folder import RunFolder

from .export import IDENTITY_ATTRIBUTE, CohortExport, remove_export
from .geometry import geometry_of, geometry_of_file
from .job import OUTPUT_FILE, WatchedJob, wait_for
from .runs import is_run_folder, run_name, summarize
from .seams import Job, JobStarter
from .signals import Signal
from .text import _

if TYPE_CHECKING:
    from .layers import CaseLayers

#: ``unfinished``: its process is gone without a word, and it can be resumed.
State = Literal["preparing", "running", "stopping", "stopped", "done", "failed", "unfinished"]
ENDED: frozenset[str] = frozenset({"stopped", "done", "failed", "unfinished"})
#: How many of the last messages are kept.
_MESSAGES = 200
_VOLUME_CLASS = "vtkMRMLScalarVolumeNode"


@dataclass(frozen=True)
class Preparation:
    """What is still to be done before the child process can start.

    Attributes:
        export: Writes the cohort.
        config: How to train.
        start_from: The run or specialist whose weights are the start, or None.
    """

    export: CohortExport
    config: TrainingConfig
    start_from: Path | None = None


class Run:
    """One training, whoever trains: it knows nothing but what its folder says.

    Made by :class:`~.logic.ModuleLogic`: by ``train`` to be prepared and started, by ``open_run`` to be watched.

    Args:
        folder: The run folder.
        scene: The MRML scene, to find the volumes of its cases in.
        start_job: Starts its child process.
        preparation: What is to be done first; without it, what is found in the folder is watched.

    Attributes:
        folder: The run folder.
        name: As the user called it.
        changed: Emitted with the run when state or progress changed.
        state: What it does; see :data:`State`.
        exported: How many of how many volumes were looked at or written for it, while it is preparing.
        iteration: Steps taken.
        iterations: Steps in all, 0 before it is known.
        seconds_left: Until it is done, or None where it is not known.
        losses: Loss by name → (iteration, value) pairs.
        dice: (iteration, {class: value}, ``validation`` or ``labeled``) for each validation.
        trust: The latest trust in each generalist, 0 to 1.
        memory: The latest memory in use: ``process_gb``, ``gpu_gb`` (where there is a GPU) and ``gpu_total_gb``.
        device: Where it trains, as torch calls it, or "" before it is known.
        messages: The last lines that a user should see, oldest first.
        layers_written: Case name → at which iteration its layers were last written.
        error: (what, remedy, log) of what went wrong, or None.
    """

    def __init__(
        self, folder: Path, scene: Any, start_job: JobStarter, *, preparation: Preparation | None = None, name: str = ""
    ) -> None:
        self.folder = RunFolder(folder)
        self.name = name or run_name(self.folder.path)
        self.changed = Signal()
        self.exported = (0, 0)
        self.iteration = self.iterations = 0
        self.seconds_left: float | None = None
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.dice: list[tuple[int, dict[str, float], str]] = []
        self.trust: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self.device = ""
        self.messages: deque[str] = deque(maxlen=_MESSAGES)
        self.layers_written: dict[str, int] = {}
        self.error: tuple[str, str, Path] | None = None
        self.state: State = "preparing"
        self._scene, self._start_job, self._preparation = scene, start_job, preparation
        #: Whether what is exported here has not been taken over by a child that speaks.
        self._is_unused = preparation is not None
        self._job: Job | None = None
        self._reason: str | None = None
        self._layers: dict[str, CaseLayers] = {}
        self._known_cases: dict[str, dict[str, Any]] = {}
        self._polling = False
        if preparation is None:
            self._watch()

    # -- how it stands ----------------------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether it prepares, runs or is stopping."""
        return self.state not in ENDED

    @property
    def needs_polling(self) -> bool:
        """Whether :meth:`poll` has something to do: it is active, or what happened before is still being read."""
        return self.is_active or self._job is not None

    @property
    def is_hurried(self) -> bool:
        """Whether :meth:`poll` should be called again soon: volumes are to be written, or many events to be read."""
        return self.state == "preparing" or bool(getattr(self._job, "is_behind", False))

    @property
    def can_resume(self) -> bool:
        """Whether :meth:`resume` would go on with it."""
        return self.state in ("stopped", "failed", "unfinished") and os.path.isfile(self.folder.run_file)

    @property
    def has_specialist(self) -> bool:
        """Whether there is a specialist to apply or to start from."""
        return os.path.isfile(self.folder.specialist / "model.json")

    @property
    def report(self) -> Path:
        """The report; it is there when the run is done."""
        return self.folder.report

    # -- what is going on -------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Look what is new, for a few milliseconds (while preparing: write one volume), and emit it."""
        if self._polling:  # A receiver let Qt handle its events, and its timer came here again.
            return
        self._polling = True
        try:
            if self._preparation is not None:
                self._prepare(self._preparation)
            elif self._job is not None:
                self._job.poll()
        finally:
            self._polling = False

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until it has ended, while Slicer stays alive, also without a running event loop.

        Args:
            timeout: Return after so many seconds at the latest, whatever the run does.

        Raises:
            SemiSAMPlusError: If the training failed, or the user closes Slicer meanwhile.
        """
        wait_for(self, lambda: self.needs_polling, timeout)
        if self.error is not None and self.state in ("failed", "unfinished"):
            raise SemiSAMPlusError(self.error[0], self.error[1])
        return self

    def stop(self) -> None:
        """Ask it to stop after the step in work; it can be resumed then. While preparing, nothing is started.

        Raises:
            RunFolderError: If its folder cannot be written to.
        """
        if self.state == "preparing":
            self._preparation = None
            self._say(_("Stopped before the training began."))
            self._end("stopped")
        elif self._job is not None and self.is_active:
            self._job.stop()
            if self.state != "stopping":
                self.state = "stopping"
                self.changed.emit(self)

    def kill(self) -> None:
        """End its processes at once; it can be resumed from its last checkpoint.

        Raises:
            RunFolderError: If it trains on another computer.
        """
        if self.state == "preparing":
            self.stop()
        elif self._job is not None and self.is_active:
            self.state = "stopping"
            self._job.kill()
            self.changed.emit(self)

    def resume(self) -> Run:
        """Go on with it from its last checkpoint; returns at once.

        Raises:
            RunFolderError: If it is running, is done, or has nothing to go on from.
            SemiSAMPlusError: If the child process cannot be started.
        """
        if self.is_active or self.folder.is_running():
            what = _("{folder}: the run is in progress.").format(folder=self.folder.path)
            raise RunFolderError(what, _("Watch it, or stop it first."))
        if not self.can_resume:
            what = _("{folder}: the run cannot be resumed, it is {state}.").format(
                folder=self.folder.path, state=self.state
            )
            raise RunFolderError(what, _("Train on from its specialist, or start a new training."))
        while self._job is not None and not getattr(self._job, "is_lost", False):
            self._job.poll()  # What happened before is told before what happens next.
        self._attach(self._start_job(["resume", str(self.folder.path)], self.folder.path))
        return self

    def watch_again(self) -> None:
        """Watch a run that had ended and that someone else has resumed; nothing happens to one that is at rest."""
        if not self.needs_polling and self.folder.is_running():
            self._forget_progress()
            self._watch()

    def _watch(self) -> None:
        known = summarize(self.folder.path)
        self.iteration, self.iterations = known.iteration, known.iterations
        self._attach(WatchedJob(self.folder.path))
        if known.state != "running":
            self.state = known.state  # type: ignore[assignment]

    def _attach(self, job: Job) -> None:
        self._job, self._reason, self.error, self.state = job, None, None, "running"
        job.happened.connect(self._on_events)
        job.ended.connect(self._on_ended)
        self.changed.emit(self)

    def _prepare(self, preparation: Preparation) -> None:
        export = preparation.export
        try:
            more = export.step()
            self.exported = (export.done, export.total)
            while export.notes:
                self._say(export.notes.pop(0))
            if more:
                self.changed.emit(self)
                return
            self._preparation = None
            settings = self.folder.path / "inputs" / "settings.json"
            write_text_atomically(settings, json.dumps(preparation.config.to_dict(), indent=1) + "\n")
            arguments = ["train", str(self.folder.path / "cohort.json"), "--run", str(self.folder.path)]
            arguments += ["--settings", str(settings)]
            if preparation.start_from is not None:
                arguments += ["--from", str(preparation.start_from)]
            self._attach(self._start_job(arguments, self.folder.path))
        except (SemiSAMPlusError, OSError) as error:
            self._preparation = None
            remedy = getattr(error, "remedy", _("Check the folder's permissions and the free disk space."))
            self.error = (getattr(error, "what", str(error)), remedy, self.folder.path / OUTPUT_FILE)
            self._end("failed")

    def _end(self, state: State) -> None:
        if self._is_unused and not is_run_folder(self.folder.path):
            remove_export(self.folder.path)
        self._job, self.state, self.seconds_left = None, state, None
        self.changed.emit(self)

    def _on_events(self, events: list[dict[str, Any]]) -> None:
        self._is_unused = False
        for event in events:
            self._take(event)
        self.changed.emit(self)

    def _on_ended(self, job: Job) -> None:
        failure = job.failure()
        begun = os.path.isfile(self.folder.run_file)
        if self._reason in ("done", "stopped"):
            self._end(self._reason)  # type: ignore[arg-type]
            return
        told = self.error  # By the run itself, in an event.
        self.error = told or failure
        if told is None and begun:
            # Its process is gone without a word: killed, or the computer was switched off.
            self._end("unfinished")
            return
        if self.error is None and not begun and self.state == "stopping":
            self._end("stopped")
            return
        if self.error is None:
            what = _("{folder}: the process ended before the training began.").format(folder=self.folder.path)
            self.error = (what, _("Start it again."), self.folder.path / OUTPUT_FILE)
        self._end("failed")

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == kinds.STARTED:
            self.device, self.iterations = str(event.get("device", "")), int(event.get("iterations") or 0)
            self.error, self._reason = None, None
        elif kind == kinds.PROGRESS:
            self._take_progress(event)
        elif kind == kinds.METRICS:
            dice = {name: value for name, value in (event.get("dice") or {}).items() if value is not None}
            iteration = int(event.get("iteration") or 0)
            while self.dice and self.dice[-1][0] >= iteration:
                self.dice.pop()
            self.dice.append((iteration, dice, str(event.get("on", ""))))
        elif kind == kinds.TRUST:
            self.trust = {name: float(value) for name, value in (event.get("trust") or {}).items() if value is not None}
        elif kind == kinds.LAYERS:
            self.layers_written[str(event.get("case"))] = int(event.get("iteration") or 0)
        elif kind == kinds.MESSAGE:
            self._say(str(event.get("text", "")))
        elif kind == kinds.WARNING:
            self._say(_("Warning: {text}").format(text=event.get("text", "")))
        elif kind == kinds.ERROR:
            log = event.get("log")
            path = Path(log) if log else self.folder.path / OUTPUT_FILE
            self.error = (str(event.get("what")), str(event.get("remedy")), path)
        elif kind == kinds.FINISHED:
            self._reason, self.iteration = str(event.get("reason")), int(event.get("iteration") or self.iteration)

    def _take_progress(self, event: Mapping[str, Any]) -> None:
        iteration = int(event.get("iteration") or 0)
        for name, value in (event.get("losses") or {}).items():
            values = self.losses.setdefault(name, [])
            while values and values[-1][0] >= iteration:  # Resumed from an earlier checkpoint: taken again.
                values.pop()
            if value is not None:
                values.append((iteration, float(value)))
        self.iteration, self.iterations = iteration, int(event.get("iterations") or self.iterations)
        self.seconds_left = event.get("seconds_left")
        self.memory = dict(event.get("memory") or self.memory)

    def _forget_progress(self) -> None:
        self.losses, self.dice, self.layers_written = {}, [], {}
        self.messages.clear()

    def _say(self, text: str) -> None:
        self.messages.append(text)

    # -- cases and layers -------------------------------------------------------------------------------------------

    def layer_cases(self) -> list[str]:
        """Return the names of the cases whose layers have been written, in cohort order."""
        return [name for name in self._cases() if os.path.isdir(self.folder.layers(name))]

    def layers(self, which: Any) -> CaseLayers:
        """Return the layers of a volume or case name, the same object each time while the volume is the same.

        Raises:
            RunFolderError: If the run has no such case, or has written no layers of it.
        """
        case = which if isinstance(which, str) else self.case_of(which)
        called = which if isinstance(which, str) else which.GetName()
        if case not in self._cases():
            what = _("The run '{run}' has no case '{case}'.").format(run=self.name, case=called)
            raise RunFolderError(what, _("Its cases are {cases}.").format(cases=summary(self._cases())))
        folder = self.folder.layers(str(case))
        if not os.path.isdir(folder):
            what = _("The run '{run}' has written no layers of '{case}' (yet).").format(run=self.name, case=case)
            known = self.layer_cases()
            remedy = _("Wait for the next validation; or apply the specialist to it.")
            if known:
                remedy = _("There are layers of {cases}. Apply the specialist to see others.").format(
                    cases=summary(known)
                )
            raise RunFolderError(what, remedy)
        from .layers import CaseLayers

        volume, layers = self.volume_of(str(case)), self._layers.get(str(case))
        # Not by the volume's ID: another one may have it after the scene was closed.
        if layers is None or (volume is not None and layers.volume is not volume):
            layers = CaseLayers(self._scene, folder, volume, str(case), terminologies=self.terminologies())
            self._layers[str(case)] = layers
        return layers

    def case_of(self, volume: Any) -> str | None:
        """Return the case's name of a scene's volume, or None where the run does not have it."""
        cases = self._cases()
        same = [case for case, known in cases.items() if _is_same(volume, known)]
        if not same:  # One that only looks like it is the case where the scene has no better one.
            same = [case for case in cases if self._looks_like(volume, case) and self.volume_of(case) is volume]
        return same[0] if same else None

    def volume_of(self, case: str) -> Any | None:
        """Return the scene's volume of a case, or None where it is not (or no longer) loaded."""
        known = self._cases().get(case)
        if known is None:
            return None
        volumes = slicer.util.getNodesByClass(_VOLUME_CLASS, self._scene)
        volumes = [one for one in volumes if one.GetClassName() == _VOLUME_CLASS]
        same = [one for one in volumes if _is_same(one, known)]
        # A clone of the volume has its attributes too; the original is the earlier one.
        if same:
            return same[0]
        alike = [one for one in volumes if self._looks_like(one, case)]
        return alike[0] if len(alike) == 1 else None

    def image_of(self, case: str) -> Path:
        """Return the image file of a case.

        Raises:
            RunFolderError: If the run has no such case.
        """
        known = self._cases().get(case)
        if known is None or not known.get("image"):
            what = _("The run '{run}' has no case '{case}'.").format(run=self.name, case=case)
            raise RunFolderError(what, _("Its cases are {cases}.").format(cases=summary(self._cases())))
        return self.folder.path / known["image"]

    def _looks_like(self, volume: Any, case: str) -> bool:
        """Tell whether a volume of unknown origin may be a case: it has the case's name and lies on its grid.

        A name alone says little: the volumes of many patients are called the same.
        """
        known = self._cases()[case]
        if volume.GetName() != (known.get("volume") or case):
            return False
        if volume.GetAttribute(IDENTITY_ATTRIBUTE) and known.get("id"):  # Nothing is left to guess.
            return False
        try:
            mine = geometry_of(volume)
        except VolumeError:
            return False
        # The image may be on another computer; the layers lie on its grid.
        files = (self.image_of(case), self.folder.layers(case) / "prediction.seg.nrrd")
        grid = next((found for file in files if (found := geometry_of_file(file)) is not None), None)
        return grid is not None and grid.is_near(mine)

    def terminologies(self) -> dict[str, str]:
        """Return the terminology entry of each class that had one."""
        return terminologies(self.folder.path)

    def _cases(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each case: ``id``, ``volume`` (its name) and ``image``, as far as it was exported here."""
        if not self._known_cases:
            self._known_cases = dict(_read_json(self.folder.path / "inputs" / "cases.json").get("cases") or {})
        if not self._known_cases:
            # Started from a shell: run.json says which files its cases are.
            cohort = _read_json(self.folder.run_file).get("cohort") or {}
            cases = [case for case in cohort.get("cases", []) if case.get("images")]
            self._known_cases = {case["name"]: {"image": case["images"][0]} for case in cases}
        return self._known_cases


def terminologies(folder: Path) -> dict[str, str]:
    """Return the terminology entry of each class that had one, of the run in a folder; nothing where there is none."""
    data = _read_json(folder / "inputs" / "segments.json")
    return {str(name): str(entry) for name, entry in data.items()}


def _is_same(volume: Any, known: Mapping[str, Any]) -> bool:
    """Tell whether a scene's volume is a case for certain: by the identity that it was given, else by its file.

    A node's own ID says nothing after another scene was loaded, where it may be any volume.
    """
    identity = volume.GetAttribute(IDENTITY_ATTRIBUTE)
    if identity and known.get("id"):
        return bool(identity == known["id"])
    storage = volume.GetStorageNode()
    file = storage.GetFullNameFromFileName() if storage is not None else None
    return bool(file and known.get("image") and Path(file) == Path(known["image"]))


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds, nothing where it is missing or broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
