"""The folder of a job: who owns it, what it says, how it is asked to stop; and the folder of a run, a job that trains.

The folder is the whole protocol between who trains and who looks: nothing else passes between them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import RunFolderError
from .events import EventWriter, read_events
from .files import read_text_patiently, replacing, sweep_temporaries, write_text_atomically

#: A job on another host is taken for dead when its heartbeat is older than this many seconds; on this host its process is asked.
HEARTBEAT_SECONDS, DEAD_AFTER_SECONDS = 5.0, 60.0
#: What may lie in a run's folder: what the run writes, and what 3D Slicer's panel lays there for it before.
_OF_A_RUN = (
    *("job.json", "events.jsonl", "stop", "log.txt", "run.json", "checkpoints", "layers", "specialist", "embeddings"),
    *("report.html", "cohort.json", "inputs", "output.txt"),
)
#: Where model.json tells of the collaboration that a specialist came from.
COLLABORATION = "collaboration"


class JobFolder:
    """A folder with job.json, events.jsonl and stop.

    Args:
        path: The folder; it need not exist.
    """

    #: Whether all folders below are the job's own too.
    _owns_below = False

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        self._heartbeat: _Heartbeat | None = None

    @property
    def job_file(self) -> Path:
        """Who owns the folder."""
        return self.path / "job.json"

    @property
    def events_file(self) -> Path:
        """What the job says."""
        return self.path / "events.jsonl"

    @property
    def stop_file(self) -> Path:
        """Whoever creates this file asks for a graceful stop."""
        return self.path / "stop"

    def owner(self) -> dict[str, Any] | None:
        """Return what job.json says of the last owner (host, pid, started, heartbeat), or None where there was none."""
        try:
            data = json.loads(read_text_patiently(self.job_file))
        except (OSError, ValueError):  # Also where it may not be read: whose it is cannot be told then.
            return None
        return data if isinstance(data, dict) else None

    def is_running(self) -> bool:
        """Return whether a living process owns the folder."""
        owner = self.owner()
        if owner is None or owner.get("ended"):
            return False
        if owner.get("host") == socket.gethostname():
            return _is_alive(owner)
        return _beats(owner)

    def acquire(self, kind: str) -> EventWriter:
        """Make this process the folder's owner, sweep out what a killed owner left half written, and return the writer of its events.

        Args:
            kind: What the job does: ``train``, ``predict``, ...

        Raises:
            RunFolderError: If another living process owns the folder, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{self.path}: the folder cannot be created ({error.strerror})."
            raise RunFolderError(msg, "Choose a folder that you may write to.") from error
        claim = self.path / ".claim"
        try:  # Whoever creates the claim goes on; it is held for an instant, so that two starting at once see each other.
            descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if time.time() - _modified(claim) < HEARTBEAT_SECONDS:
                msg = f"{self.path}: another job is starting in this folder."
                raise RunFolderError(msg, "Wait for it, or choose another folder.") from None
            descriptor = os.open(claim, os.O_CREAT | os.O_WRONLY)
        except OSError as error:
            msg = f"{self.path}: cannot be written to ({error.strerror})."
            raise RunFolderError(msg, "Choose a folder that you may write to.") from error
        try:
            os.close(descriptor)
            owner = self.owner()
            if owner is not None and self.is_running():
                msg = f"{self.path}: a {owner.get('kind')} job is running in it (process {owner['pid']} on {owner['host']})."
                raise RunFolderError(msg, "Wait for it, stop it with `semisamplus stop`, or choose another folder.")
            self._heartbeat = _Heartbeat(self.job_file, kind)
        finally:
            claim.unlink(missing_ok=True)
        self.stop_file.unlink(missing_ok=True)
        sweep_temporaries(self.path, below=self._owns_below, older_than=DEAD_AFTER_SECONDS)
        return EventWriter(self.events_file)

    def release(self) -> None:
        """Say that this process has ended its work in the folder."""
        if self._heartbeat is not None:
            self._heartbeat.end()
            self._heartbeat = None

    def ask_to_stop(self) -> None:
        """Ask whoever works in the folder to stop gracefully.

        Raises:
            RunFolderError: If the folder cannot be written to.
        """
        try:
            self.stop_file.touch()
        except OSError as error:
            msg = f"{self.path}: the job in it cannot be asked to stop ({error.strerror})."
            raise RunFolderError(
                msg, "Ask whoever started it, or try again when the folder can be written to."
            ) from error

    def is_asked_to_stop(self) -> bool:
        """Return whether someone asked for a graceful stop."""
        return self.stop_file.exists()

    def events(self) -> list[dict[str, Any]]:
        """Return every event so far."""
        return read_events(self.events_file)


class RunFolder(JobFolder):
    """The folder of one training; see the class's properties for what lies in it."""

    _owns_below = True

    @property
    def run_file(self) -> Path:
        """Config, cohort, plan, versions, seeds and hashes: all that is needed to do the run again."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """last.pt, all that a resumed run needs; and best/, the specialist that did best on held-out cases."""
        return self.path / "checkpoints"

    @property
    def specialist(self) -> Path:
        """weights.safetensors and model.json: enough to predict elsewhere without the run."""
        return self.path / "specialist"

    @property
    def embeddings(self) -> Path:
        """What generalists keep of the cases; made again where it is missing."""
        return self.path / "embeddings"

    @property
    def report(self) -> Path:
        """What happened, with pictures."""
        return self.path / "report.html"

    @property
    def log_file(self) -> Path:
        """Tracebacks and other things that only a developer wants to read."""
        return self.path / "log.txt"

    def layers(self, case_name: str) -> Path:
        """Return the folder of a case's layers."""
        return self.path / "layers" / safe_id(case_name)

    def describe(self, *needed: str) -> dict[str, Any]:
        """Return run.json.

        Args:
            needed: What it must tell.

        Raises:
            RunFolderError: If the folder holds no readable run.json, or that lacks what is needed.
        """
        try:
            data = json.loads(self.run_file.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise ValueError(f"holds {type(data).__name__}, expected an object")
            if missing := [key for key in needed if key not in data]:
                raise ValueError(f"has no '{missing[0]}'")
        except (OSError, ValueError) as error:
            msg = f"{self.path}: is not a run folder (run.json: {error})."
            raise RunFolderError(msg, "Give the folder that `semisamplus train --run` named.") from error
        return data

    def require_own(self) -> None:
        """Refuse a folder that holds other things than a run, for with the run they would be deleted.

        Raises:
            RunFolderError: If it does.
        """
        entries = self.path.iterdir() if self.path.is_dir() else ()
        others = sorted(one.name for one in entries if one.name not in _OF_A_RUN and not one.name.startswith("."))
        if others:
            msg = f"{self.path}: already contains '{others[0]}', expected an empty or a new folder for the run."
            raise RunFolderError(msg, f"Give --run a folder of its own, such as {self.path / 'run'}.")

    def write_description(self, description: dict[str, Any]) -> None:
        """Write run.json."""
        write_text_atomically(self.run_file, json.dumps(description, indent=1, ensure_ascii=False) + "\n")

    def delete(self) -> None:
        """Remove the folder with all that is in it.

        Raises:
            RunFolderError: If it is not a run folder, or a job is running in it.
        """
        self.describe()
        if self.is_running():
            msg = f"{self.path}: a job is running in it."
            raise RunFolderError(msg, "Stop it first with `semisamplus stop`.")
        shutil.rmtree(self.path)


def specialist_in(folder: Path) -> Path | None:
    """Return the folder of the specialist in a run's folder, or in its own, or None where there is none."""
    places = (folder, folder / "specialist")
    return next((place for place in places if os.path.isfile(place / "model.json")), None)


def trusted_generalists(folder: Path) -> dict[str, float]:
    """Return the generalists that a specialist's training trusted in the end, and how far (0 to 1).

    Args:
        folder: A run's folder, or that of a specialist; empty is returned where it holds none.
    """
    place = specialist_in(folder)
    try:
        return {} if place is None else trusted_in(json.loads((place / "model.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def trusted_in(model: dict[str, Any]) -> dict[str, float]:
    """Return the same of what model.json describes."""
    trust = model.get(COLLABORATION, {}).get("trust", {})
    return {name: float(value) for name, value in trust.items() if value > 0}


def safe_id(name: str) -> str:
    """Return a file name for ``name`` that every system takes, and that differs for names that differ in more than case.

    Names of letters, digits, ``-`` and ``_`` stay as they are; others lose what is unsafe and gain a hash.
    """
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:48]
    reserved = re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", kept) is not None
    if name and kept == name and not reserved:
        return name
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class _Heartbeat:
    """Writes job.json now, every few seconds from a thread, and once more at the end."""

    def __init__(self, path: Path, kind: str) -> None:
        import psutil

        self._path = path
        process = psutil.Process()
        self._data: dict[str, Any] = {
            "kind": kind,
            "host": socket.gethostname(),
            "pid": process.pid,
            "process_started": process.create_time(),
            "started": time.time(),
        }
        self._ended = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _write(self, **more: Any) -> None:
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps({**self._data, "heartbeat": time.time(), **more}), encoding="utf-8")

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self._write()
            except OSError:  # A full disk or a lost share must not end a training; the next beat tries again.
                continue

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._write(ended=time.time())


def _is_alive(owner: dict[str, Any]) -> bool:
    """Ask for the owner's process on this host."""
    try:
        import psutil
    except ImportError:  # Who only looks, as Slicer before anything is installed, goes by the heartbeat.
        return _beats(owner)
    try:
        process = psutil.Process(int(owner["pid"]))
        # A process id is used again after a while; the start time tells the owner from a later namesake.
        same = abs(process.create_time() - float(owner["process_started"])) < 2.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _beats(owner: dict[str, Any]) -> bool:
    return time.time() - float(owner.get("heartbeat", 0)) < DEAD_AFTER_SECONDS


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
