"""Where the parts of the module meet: whoever needs one of these is given it, and tests give their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from SemiSAMPlusLib.run.folder import JobFolder

from .signals import Signal


class Job(Protocol):
    """A job in its folder: a child process of ours, or one found at work (or dead) that is only watched.

    Attributes:
        folder: Where it works.
        happened: Emitted with a list of new events, in the order of events.jsonl.
        ended: Emitted once with the job when it works no more, after its last events.
    """

    folder: JobFolder
    happened: Signal
    ended: Signal

    def poll(self) -> None:
        """Look what is new, in a few milliseconds, and emit it."""

    def is_running(self) -> bool:
        """Return whether it works, or is about to."""

    def stop(self) -> None:
        """Ask it to stop gracefully; it ends after the step in work."""

    def kill(self) -> None:
        """End it and every process that it started, at once."""

    def failure(self) -> tuple[str, str, Path] | None:
        """Return what went wrong, the remedy and the log file, or None where nothing did."""

    def output_tail(self, lines: int = 8) -> list[str]:
        """Return the last lines that it printed."""


class JobStarter(Protocol):
    """Starts a child process that outlives Slicer."""

    def __call__(self, arguments: Sequence[str], folder: Path) -> Job:
        """Run ``semisamplus ARGUMENTS`` as a job that owns ``folder``."""


class Ticker(Protocol):
    """Calls back again and again from the event loop."""

    def start(self, callback: Callable[[], None], milliseconds: int) -> None:
        """Call ``callback`` every so many milliseconds from now on."""

    def stop(self) -> None:
        """Call no more."""


class Installer(Protocol):
    """Installs the Python packages that the child process needs."""

    def missing(self) -> list[str]:
        """Return the requirements that are not met, empty where all is there."""

    def summary(self) -> str:
        """Return what would be installed and about how large it is, to be agreed to."""

    def install(self, progress: Callable[[str], None]) -> bool:
        """Install what is missing, saying each step; return whether Slicer must be restarted.

        Raises:
            SemiSAMPlusError: If it does not succeed; nothing of Slicer's own was replaced.
        """


#: What the program knows of a device: its name for ``--device``, how users call it, and free and total memory in bytes.
DeviceFacts = dict[str, Any]
