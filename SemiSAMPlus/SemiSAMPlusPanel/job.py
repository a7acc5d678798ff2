"""Jobs in their folders: a child process that we start and that outlives Slicer, or one found at work that is watched.

Nothing passes between the processes but the folder: events.jsonl is read a piece at a time, ``stop`` is created, and
what a child prints lies in output.txt.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from SemiSAMPlusLib.errors import RunFolderError, SemiSAMPlusError
from SemiSAMPlusLib.run import events as kinds
from SemiSAMPlusLib.run.events import EventReader
from SemiSAMPlusLib.run.folder import JobFolder

from .signals import Signal
from .text import _

#: What a child prints lies in this file of its folder.
OUTPUT_FILE = "output.txt"
#: How much of events.jsonl one poll reads: about a thousand events, which take a few milliseconds.
POLL_BYTES = 1 << 17
#: How much of output.txt is looked at for its last lines.
_TAIL_BYTES = 1 << 14
#: The exit code of ``semisamplus`` when a job was stopped before its end.
_STOPPED = 130
#: How much less urgent than Slicer a child is on POSIX (``nice``), so that Slicer stays quick while it trains.
_NICENESS = 5


class FolderJob:
    """A job known by its folder alone; what :class:`ChildJob` and :class:`WatchedJob` share.

    Args:
        folder: Where it works.
        position: From where in events.jsonl to read, in bytes.

    Attributes:
        folder: Where it works.
        happened: Emitted with a list of new events, in the order of events.jsonl.
        ended: Emitted once with the job when it works no more, after its last events.
        is_behind: Whether the last poll found more events than it took; poll again soon.
        is_lost: Whether the last poll could not look into the folder, as on a share that is away; nothing is new then.
    """

    def __init__(self, folder: Path, position: int = 0) -> None:
        self.folder = JobFolder(folder)
        self.happened, self.ended = Signal(), Signal()
        self.is_behind = self.is_lost = False
        self._reader = EventReader(self.folder.events_file, position)
        self._error: dict[str, Any] | None = None
        self._wants_stop = self._has_ended = False

    def poll(self) -> None:
        """Look what is new, in a few milliseconds, and emit it."""
        if self._has_ended:
            return
        running = self.is_running()  # Asked before reading: what it said before it ended is read then.
        before = self._reader.position
        try:
            events = self._reader.read(POLL_BYTES)
        except OSError:
            self.is_behind, self.is_lost = False, True
            return
        self.is_lost = False
        self.is_behind = self._reader.position - before > POLL_BYTES // 2
        for event in events:
            if event["event"] == kinds.ERROR:
                self._error = event
            elif event["event"] == kinds.STARTED:
                self._error = None
        if events:
            self.happened.emit(events)
        if running and self._wants_stop:
            with suppress(RunFolderError):  # What was said when the user asked is not said at each look.
                self.stop()  # A child that had not begun yet cleared the folder of earlier wishes.
        elif not running and self._reader.position == before:
            self._has_ended = True
            self.ended.emit(self)

    def is_running(self) -> bool:
        """Return whether a living process owns the folder."""
        return self.folder.is_running()

    def stop(self) -> None:
        """Ask it to stop gracefully; it ends after the step in work.

        Raises:
            RunFolderError: If its folder cannot be written to.
        """
        self._wants_stop = True
        if not os.path.exists(self.folder.stop_file):
            self.folder.ask_to_stop()

    def kill(self) -> None:
        """End it and every process that it started, at once.

        Raises:
            RunFolderError: If it works on another computer.
        """
        owner = self.folder.owner()
        if owner is None or not self.folder.is_running():
            return
        if owner.get("host") != socket.gethostname():
            what = _("{folder}: the job runs on another computer, '{host}'.").format(
                folder=self.folder.path, host=owner.get("host")
            )
            raise RunFolderError(what, _("Wait until it stops by itself, or end it there."))
        end_process_tree(int(owner["pid"]))

    def failure(self) -> tuple[str, str, Path] | None:
        """Return what went wrong, the remedy and the log file, or None where nothing did."""
        if self._error is None:
            return None
        log = self._error.get("log")
        remedy = str(self._error.get("remedy") or _("The log says where."))
        return str(self._error.get("what")), remedy, Path(log) if log else self.output_file

    @property
    def output_file(self) -> Path:
        """What it printed."""
        return self.folder.path / OUTPUT_FILE

    def output_tail(self, lines: int = 8) -> list[str]:
        """Return the last lines that it printed, blank ones left out."""
        return self._output().splitlines()[-lines:]

    def _output(self, start: int = 0) -> str:
        """Return the end of what it printed since byte ``start``."""
        try:
            with self.output_file.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(start, file.tell() - _TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


class WatchedJob(FolderJob):
    """A job that someone else started (an earlier Slicer, a shell, another computer): it is read and asked, not owned."""


class ChildJob(FolderJob):
    """``semisamplus ARGUMENTS`` as a process of its own, which goes on when Slicer closes.

    Args:
        arguments: What follows the command's name.
        folder: Where it works; made where it is missing.
        command: What to run instead of ``python -m SemiSAMPlusLib``.

    Raises:
        RunFolderError: If another job works in the folder.
        SemiSAMPlusError: If the process cannot be started.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, *, command: Sequence[str] | None = None) -> None:
        super().__init__(folder, _size(JobFolder(folder).events_file))
        if self.folder.is_running():
            what = _("{folder}: another job is running in this folder.").format(folder=self.folder.path)
            raise RunFolderError(what, _("Wait for it, or stop it first."))
        self._killed, self._started = False, time.time()
        self._output_start = _size(self.output_file)
        command = [*(library_command() if command is None else command), *map(str, arguments)]
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            with self.output_file.open("ab") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=child_environment(),
                    **_detached(),
                )
        except OSError as error:
            what = _("{program}: cannot be started for {folder} ({reason}).").format(
                program=command[0], folder=self.folder.path, reason=error
            )
            raise SemiSAMPlusError(what, _("Check the folder's permissions and the free disk space.")) from error
        _make_less_urgent(self._process.pid)

    @property
    def pid(self) -> int:
        """The process that we started; Slicer's own Python is behind a launcher, so the one at work may be its child."""
        return self._process.pid

    def is_running(self) -> bool:
        """Return whether it lives; asking also clears away what the system keeps of a dead process.

        Slicer's Python works behind a launcher, which may be gone a moment, or for good, before the process that works.
        """
        if self._process.poll() is None:
            return True
        owner = self.folder.owner() or {}
        return float(owner.get("started") or 0.0) >= self._started and self.folder.is_running()

    def kill(self) -> None:
        """End it and every process that it started, at once."""
        if not self.is_running():
            return
        self._killed = True
        end_process_tree(self._process.pid)
        super().kill()  # Its launcher may have died before.
        if os.name == "posix":
            # It leads a session of its own, so this reaches whoever was orphaned before, and nobody else.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def failure(self) -> tuple[str, str, Path] | None:
        """Return what went wrong, the remedy and the log file, or None where nothing did or nothing is known yet."""
        code = self._process.poll()
        if self._killed or code in (None, 0, _STOPPED):
            return None
        return super().failure() or (*self._what_it_printed(code), self.output_file)

    def _what_it_printed(self, code: int | None) -> tuple[str, str]:
        """Return error and remedy from the output, of a process that ended before it could write events."""
        text = self._output(self._output_start)
        start = text.rfind("Error: ")
        if start >= 0 and (start == 0 or text[start - 1] == "\n"):
            *what, remedy = text[start + len("Error: ") :].splitlines()
            if what:
                return "\n".join(what), remedy
        last = (text.splitlines() or [""])[-1]
        if "No module named" in last or "DLL load failed" in last or "cannot open shared object" in last:
            what = _("A Python package that the training needs cannot be loaded ({reason}).").format(reason=last)
            return what, _("Install what is missing in the section Setup.")
        what = _("The child process ended with exit code {code}: {last}").format(code=code, last=last or "…")
        return what, _("The log has what it printed.")


def library_command() -> list[str]:
    """Return the command that runs the library: in Slicer by PythonSlicer, elsewhere by this Python."""
    return [shutil.which("PythonSlicer") or sys.executable, "-m", "SemiSAMPlusLib"]


def child_environment() -> dict[str, str]:
    """Return the environment for a child; that of Slicer stays as it is."""
    import SemiSAMPlusLib

    library = str(Path(SemiSAMPlusLib.__file__).resolve().parents[1])
    paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}


def end_process_tree(pid: int) -> None:
    """End a process and every process that it started, at once; one that is gone is passed over."""
    try:
        import psutil
    except ImportError:  # Without it no job can be running that has processes of its own.
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
        return
    try:
        process = psutil.Process(pid)
        # Listed before the first one ends: whose parent is gone can no longer be found.
        tree = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for one in tree:
        with suppress(psutil.Error):
            one.kill()


def _detached() -> dict[str, Any]:
    """Return what keeps a child alive when Slicer, or the terminal that it was started from, closes."""
    if os.name == "nt":
        flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
        return {"creationflags": flags}
    return {"start_new_session": True}


def _make_less_urgent(pid: int) -> None:
    """Let Slicer go first where both want the processor; a child that cannot be told so works as well."""
    if os.name == "posix":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def wait_a_little(seconds: float = 0.02) -> None:
    """Let time pass while Slicer stays alive: its events are handled where there is an application."""
    application = _application()
    if application is not None:
        application.processEvents()
    time.sleep(seconds)


def wait_for(work: Any, goes_on: Callable[[], bool], timeout: float | None) -> None:
    """Look after work that is polled until it has ended, while Slicer stays alive, also without a running event loop.

    Slicer ends only when whoever waits has returned: until then it would live on without a window. So a script that waits
    goes on no more where Slicer is being closed.

    Args:
        work: What is waited for; it has ``poll()`` and ``is_hurried``.
        goes_on: Whether it still has to be waited for.
        timeout: Return after so many seconds at the latest, where given.

    Raises:
        SemiSAMPlusError: If the user closes Slicer meanwhile.
    """
    until = None if timeout is None else time.monotonic() + timeout
    had_window = _has_main_window()
    while goes_on() and (until is None or time.monotonic() < until):
        work.poll()
        wait_a_little(0.0 if work.is_hurried else 0.05)
        if had_window and not _has_main_window():
            what = _("Slicer is being closed before the job that was waited for has finished.")
            raise SemiSAMPlusError(what, _("A training that has begun continues; logic.runs() finds it again."))


def _has_main_window() -> bool:
    """Return whether there is a main window that is not hidden, as a closed one is; a minimized one is there."""
    if _application() is None:
        return False
    import slicer

    window = slicer.util.mainWindow()
    return window is not None and not window.isHidden()


def _application() -> Any | None:
    try:
        import slicer
    except ImportError:
        return None
    return getattr(slicer, "app", None)
