"""Applying a specialist to volumes: exported, predicted by a child process, loaded as segmentations."""

from __future__ import annotations

import shutil
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SemiSAMPlusLib.cohort.layouts import stem
from SemiSAMPlusLib.errors import RunFolderError, SemiSAMPlusError
from SemiSAMPlusLib.run import events as kinds
from SemiSAMPlusLib.run.folder import safe_id

from .cases import LAYER_ATTRIBUTE
from .export import image_file
from .job import OUTPUT_FILE, wait_for
from .nodes import load_segmentation
from .seams import Job, JobStarter
from .signals import Signal
from .text import _

#: The kind of layer that a prediction is: made by us, so never taken for a label; and the reference to its volume.
APPLIED, VOLUME_REFERENCE = "applied", "SemiSAMPlus.Volume"
#: The attribute of a prediction's node that names the file it was read from.
FILE_ATTRIBUTE = "SemiSAMPlus.File"
ENDED: frozenset[str] = frozenset({"done", "stopped", "failed"})


class Prediction:
    """Predictions on the way; made by :meth:`~.logic.ModuleLogic.start_prediction`.

    Args:
        source: The run folder, or the folder of an exported specialist.
        volumes: Volume nodes, files and folders.
        output: The folder for the predictions, one of its own.
        scene: The MRML scene.
        start_job: Starts the child process.
        device: Where to predict.
        uncertainty: Whether to write the predictive entropy too.
        refine: Whether the generalists that its training trusted correct what the specialist says.
        terminologies: What classes mean, by name.

    Attributes:
        output: The folder that they are written to.
        state: ``preparing``, ``running``, ``loading``, ``done``, ``stopped`` or ``failed``.
        progress: (done, total) volumes; the total is 0 before a folder's content is known.
        case: The volume done last, "" before the first.
        seconds_left: Until they are done, or None.
        nodes: The segmentation node of each predicted volume of the scene, by the volume's node ID.
        files: The predicted files, in order.
        messages: What the user should know.
        warning: What was not done as it was asked for, or nothing.
        error: (what, remedy, log) of what went wrong, or None.
        happened: Emitted with this object whenever something changed.
        ended: Emitted once with this object, after its last change.
    """

    def __init__(
        self,
        source: Path,
        volumes: Sequence[Any],
        output: Path,
        scene: Any,
        start_job: JobStarter,
        *,
        device: str = "auto",
        uncertainty: bool = False,
        refine: bool = True,
        terminologies: Mapping[str, str] | None = None,
    ) -> None:
        self.output = Path(output)
        self.state = "preparing"
        only_volumes = all(not isinstance(one, str | Path) for one in volumes)
        self.progress = (0, len(volumes) if only_volumes else 0)
        self.case = ""
        self.seconds_left: float | None = None
        self.nodes: dict[str, Any] = {}
        self.files: list[Path] = []
        self.messages: list[str] = []
        self.warning = ""
        self.error: tuple[str, str, Path] | None = None
        self.happened, self.ended = Signal(), Signal()
        self._source, self._scene, self._start_job = Path(source), scene, start_job
        self._options = ["--device", device, *(["--uncertainty"] if uncertainty else [])]
        self._options += [] if refine else ["--no-refine"]
        self._terminologies = dict(terminologies or {})
        self._waiting = list(volumes)
        self._inputs: list[Path] = []
        #: Where the copies of the scene's volumes lie, a folder that this prediction made; None before there are any.
        self._copies: Path | None = None
        #: The name of its prediction → a volume of the scene.
        self._volume_names: dict[str, Any] = {}
        self._job: Job | None = None
        self._reason: str | None = None
        self._to_load: list[tuple[Any, Path]] = []
        self._polling = False

    @property
    def is_active(self) -> bool:
        """Whether it prepares, runs or loads."""
        return self.state not in ENDED

    @property
    def is_hurried(self) -> bool:
        """Whether :meth:`poll` should be called again soon."""
        return self.state in ("preparing", "loading")

    def poll(self) -> None:
        """Look what is new; export or load one volume."""
        if self._polling:
            return
        self._polling = True
        try:
            if self.state == "preparing":
                self._prepare()
            elif self.state == "loading":
                self._load()
            elif self._job is not None:
                self._job.poll()
        except (SemiSAMPlusError, OSError) as error:
            remedy = getattr(error, "remedy", _("Check the folder's permissions and the free disk space."))
            self._fail(getattr(error, "what", str(error)), remedy)
        finally:
            self._polling = False

    def cancel(self) -> None:
        """Stop after the volume in work; called again, end the process at once. What is predicted stays."""
        if self.state == "preparing":
            self._end("stopped")
        elif self.state == "loading":
            self._to_load = []
        elif self._job is not None:
            if self._reason == "asked to stop":
                self._job.kill()
            else:
                self._reason = "asked to stop"
                self._job.stop()

    def wait(self, timeout: float | None = None) -> Prediction:
        """Wait until it has ended, while Slicer stays alive.

        Args:
            timeout: Return after so many seconds at the latest.

        Raises:
            SemiSAMPlusError: If it failed, or the user closes Slicer meanwhile.
        """
        wait_for(self, lambda: self.is_active, timeout)
        if self.error is not None:
            raise SemiSAMPlusError(self.error[0], self.error[1])
        return self

    # -- what is done, in order ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if not self._waiting:
            arguments = ["predict", str(self._source), *map(str, self._inputs), "--output", str(self.output)]
            job = self._start_job([*arguments, *self._options], self.output)
            job.happened.connect(self._on_events)
            job.ended.connect(self._on_ended)
            self._job, self.state = job, "running"
            self.happened.emit(self)
            return
        one = self._waiting.pop(0)
        if isinstance(one, str | Path):
            self._inputs.append(Path(one))
            return
        if one.GetScene() is None:
            what = _("'{volume}': is no longer in the scene.").format(volume=one.GetName())
            raise RunFolderError(what, _("Choose the volumes again."))
        # Under a name of its own: predictions are called as their images, and two images may be called the same.
        name = f"{safe_id(one.GetName() or one.GetID())}"
        while _key(name) in self._volume_names:
            name += "_"
        path, note = image_file(one, self._place_for_copy(name))
        if _key(stem(path)) in self._volume_names:
            from .export import geometry_of, write_volume

            path = self._place_for_copy(name)
            write_volume(one.GetImageData(), geometry_of(one).matrix, path)
        if note:
            self.messages.append(note)
        self._volume_names[_key(stem(path))] = one
        self._inputs.append(path)
        self.happened.emit(self)

    def _place_for_copy(self, name: str) -> Path:
        """Return where to copy a volume to: in a new folder, as a folder of any name may be there and be the user's."""
        if self._copies is None:
            self.output.mkdir(parents=True, exist_ok=True)
            self._copies = Path(tempfile.mkdtemp(prefix="inputs-", dir=self.output))
        return self._copies / f"{name}.nrrd"

    def _remove_copies(self) -> None:
        """Remove the copies of patients' images, which nobody needs once the child has ended or never began."""
        if self._copies is not None:
            shutil.rmtree(self._copies, ignore_errors=True)
            self._copies = None

    def _on_events(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            kind = event["event"]
            if kind == kinds.STARTED:
                self.progress = (0, int(event.get("iterations") or 0))
            elif kind == kinds.PROGRESS:
                self.progress = (int(event.get("iteration") or 0), int(event.get("iterations") or 0))
                self.case, self.seconds_left = str(event.get("case", "")), event.get("seconds_left")
                if event.get("file"):
                    self.files.append(self.output / str(event["file"]))
            elif kind in (kinds.MESSAGE, kinds.WARNING):
                self.messages.append(str(event.get("text", "")))
                if kind == kinds.WARNING:
                    self.warning = self.messages[-1]
            elif kind == kinds.FINISHED:
                self._reason = str(event.get("reason"))
        self.happened.emit(self)

    def _on_ended(self, job: Job) -> None:
        failure = job.failure()
        self._job = None
        self._remove_copies()
        if failure is not None:
            self.error = failure
            self._end("failed")
            return
        named = [(self._volume_names.get(_key(stem(file))), file) for file in self.files]
        if len(self.files) == len(self._inputs) == len(self._volume_names):
            # Names may have lost a channel's number on the way; the order has not.
            order = list(self._volume_names.values())
            named = [(volume or order[index], file) for index, (volume, file) in enumerate(named)]
        self._to_load = [(volume, file) for volume, file in named if volume is not None]
        self.state, self.seconds_left = "loading", None
        self.happened.emit(self)

    def _load(self) -> None:
        if not self._to_load:
            self._end("done" if self._reason == "done" else "stopped")
            return
        volume, file = self._to_load.pop(0)
        if volume.GetScene() is None:  # The scene was closed meanwhile; the file stays.
            return
        name = _("{volume} prediction").format(volume=volume.GetName())
        node = load_segmentation(self._scene, file, name, volume=volume, terminologies=self._terminologies)
        node.SetAttribute(LAYER_ATTRIBUTE, APPLIED)
        node.SetAttribute(FILE_ATTRIBUTE, str(file))
        node.SetNodeReferenceID(VOLUME_REFERENCE, volume.GetID())
        self.nodes[volume.GetID()] = node
        self.happened.emit(self)

    def _fail(self, what: str, remedy: str) -> None:
        self.error = (what, remedy, self.output / OUTPUT_FILE)
        self._end("failed")

    def _end(self, state: str) -> None:
        self._remove_copies()
        self.state, self.seconds_left, self._job = state, None, None
        self.happened.emit(self)
        self.ended.emit(self)


def _key(name: str) -> str:
    """Return a name as file systems compare it."""
    return unicodedata.normalize("NFC", name).casefold()
