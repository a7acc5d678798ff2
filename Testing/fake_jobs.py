"""Jobs that do what a test says, in real folders, and a ticker that ticks when a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from SemiSAMPlusPanel.job import FolderJob

from SemiSAMPlusLib.run.events import EventWriter


class FakeJob(FolderJob):
    """A child process that is none: the test writes its events and says when it ends.

    Attributes:
        arguments: What it was started with.
        running: Whether it lives.
        stopped: Whether it was asked to stop.
        killed: Whether it was ended at once.
        fault: What :meth:`failure` returns beside what its events say.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        events = Path(folder) / "events.jsonl"
        super().__init__(folder, events.stat().st_size if events.exists() else 0)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.arguments = [str(argument) for argument in arguments]
        self.running, self.stopped, self.killed = True, False, False
        self.fault: tuple[str, str, Path] | None = None

    def is_running(self) -> bool:
        return self.running

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.running, self.killed = False, True

    def failure(self) -> tuple[str, str, Path] | None:
        return None if self.killed else self.fault or super().failure()

    def say(self, kind: str, **values: Any) -> None:
        """Write an event."""
        with EventWriter(self.folder.events_file) as events:
            events.write(kind, **values)

    def begin(self, iterations: int = 100) -> None:
        """Do what a training does first."""
        (self.folder.path / "run.json").write_text(json.dumps({"cohort": {"cases": []}}), encoding="utf-8")
        self.say("started", device="cpu", iterations=iterations)

    def end(self, reason: str | None = "done", iteration: int = 100) -> None:
        """Say how it ended, and be gone."""
        if reason is not None:
            self.say("finished", reason=reason, iteration=iteration)
        self.running = False


class FakeStarter:
    """Starts fake jobs, and keeps them.

    Attributes:
        jobs: Every job that was started, in order.
        on_start: Called with each new job.
    """

    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []
        self.on_start: Callable[[FakeJob], None] | None = None

    def __call__(self, arguments: Sequence[str], folder: Path) -> FakeJob:
        job = FakeJob(arguments, folder)
        self.jobs.append(job)
        if self.on_start is not None:
            self.on_start(job)
        return job

    @property
    def last(self) -> FakeJob:
        return self.jobs[-1]


class FakeTicker:
    """Remembers how often it was to tick; ticks when it is told to.

    Attributes:
        interval: Milliseconds, None at rest.
    """

    def __init__(self) -> None:
        self.interval: int | None = None
        self._callback: Callable[[], None] | None = None

    def start(self, callback: Callable[[], None], milliseconds: int) -> None:
        self._callback, self.interval = callback, milliseconds

    def stop(self) -> None:
        self.interval = None

    def tick(self, times: int = 1) -> None:
        """Tick as long as it is not at rest."""
        for _ in range(times):
            if self.interval is not None and self._callback is not None:
                self._callback()
