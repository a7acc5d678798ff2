"""Getting, importing and removing weights of a generalist: always in the child process, never in Slicer's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .seams import Job, JobStarter
from .signals import Signal


class WeightsJob:
    """One ``semisamplus weights …`` at work.

    Args:
        start_job: Starts child processes.
        action: ``download``, ``import`` or ``remove``.
        name: Of the generalist.
        more: What else follows on the command line.

    Attributes:
        action: As given.
        name: As given.
        bytes: How many have arrived.
        total: How many there are, or None where that is not known.
        seconds_left: Until all have arrived, or None.
        speed: Bytes a second, or None.
        message: The last thing it said.
        error: (what, remedy, log) of what went wrong, or None.
        is_cancelled: Whether it was asked to stop.
        changed: Emitted without values when any of these changed.
        ended: Emitted with this object when it works no more.
    """

    def __init__(self, start_job: JobStarter, action: str, name: str, more: Sequence[str] = ()) -> None:
        self.action, self.name = action, name
        self.bytes = 0
        self.total: int | None = None
        self.seconds_left: float | None = None
        self.speed: float | None = None
        self.message = ""
        self.error: tuple[str, str, Path] | None = None
        self.is_cancelled = False
        self.changed, self.ended = Signal(), Signal()
        self._folder = Path(tempfile.mkdtemp(prefix="semisamplus-weights-"))
        folder = self._folder / "job"
        self._job: Job = start_job(["weights", action, name, *more, "--job", str(folder)], folder)
        self._job.happened.connect(self._read)
        self._job.ended.connect(self._end)

    def poll(self) -> None:
        """Look what is new."""
        self._job.poll()

    def cancel(self) -> None:
        """Stop it; asked again, end its process at once. What arrived so far is thrown away by the job itself."""
        if self.is_cancelled:
            self._job.kill()
        else:
            self.is_cancelled = True
            self._job.stop()
        self.changed.emit()

    def is_running(self) -> bool:
        """Return whether it works."""
        return self._job.is_running()

    def _read(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "progress":
                self.bytes, self.total = int(event.get("bytes") or 0), event.get("bytes_total") or self.total
                self.seconds_left, self.speed = event.get("seconds_left"), event.get("speed")
            elif event["event"] in ("message", "warning"):
                self.message = str(event.get("text", ""))
        self.changed.emit()

    def _end(self, job: Job) -> None:
        self.error = None if self.is_cancelled else job.failure()
        self.ended.emit(self)
        if self.error is None:  # Else the log is still to be read.
            shutil.rmtree(self._folder, ignore_errors=True)
