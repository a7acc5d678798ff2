"""Which runs there are below a folder, and how each stands; cheap enough to ask whenever the module is entered."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SemiSAMPlusLib.run import events as kinds
from SemiSAMPlusLib.run.events import EventReader
from SemiSAMPlusLib.run.folder import RunFolder

#: How much of the end of events.jsonl is read: the last progress and how it ended stand there.
_TAIL_BYTES = 1 << 15


@dataclass(frozen=True)
class RunSummary:
    """How a run stands.

    Attributes:
        folder: The run folder.
        name: As the user called it.
        state: ``running``, ``done``, ``stopped``, ``unfinished`` (its process is gone; it can be resumed) or ``failed``.
        iteration: Steps taken.
        iterations: Steps in all, 0 where it is not known.
        started: When its last process started, seconds since 1970.
        has_specialist: Whether it left a specialist that can be applied.
    """

    folder: Path
    name: str
    state: str
    iteration: int
    iterations: int
    started: float
    has_specialist: bool


def find_runs(root: Path) -> list[RunSummary]:
    """Return the runs in ``root``, the latest first; the folder of a run itself is one too.

    Args:
        root: A folder; it need not exist.
    """
    root = Path(root)
    try:
        folders = [Path(entry) for entry in os.scandir(root) if entry.is_dir()]
    except OSError:
        return []
    found = [summarize(folder) for folder in [root, *folders] if is_run_folder(folder)]
    return sorted(found, key=lambda one: (one.started, one.folder.name), reverse=True)


def is_run_folder(folder: Path) -> bool:
    """Return whether a training has begun in ``folder``; predictions and other jobs are no runs."""
    run = RunFolder(folder)
    return os.path.isfile(run.run_file) or (run.owner() or {}).get("kind") == "train"


def summarize(folder: Path) -> RunSummary:
    """Return how the run in ``folder`` stands, from its last events."""
    run = RunFolder(folder)
    owner = run.owner() or {}
    iteration = iterations = 0
    ended: str | None = None
    for event in _last_events(run.events_file):
        kind = event["event"]
        if kind == kinds.PROGRESS:
            iteration, iterations, ended = event.get("iteration", 0), event.get("iterations", 0), None
        elif kind == kinds.STARTED:
            iterations, ended = event.get("iterations") or iterations, None
        elif kind == kinds.FINISHED:
            iteration, ended = event.get("iteration") or iteration, str(event.get("reason"))
        elif kind == kinds.ERROR:
            ended = "failed"
    at_rest = ended or ("unfinished" if os.path.isfile(run.run_file) else "failed")
    return RunSummary(
        folder=run.path,
        name=run_name(run.path),
        state="running" if run.is_running() else at_rest,
        iteration=int(iteration),
        iterations=int(iterations),
        started=float(owner.get("started") or _modified(run.run_file)),
        has_specialist=os.path.isfile(run.specialist / "model.json"),
    )


def run_name(folder: Path) -> str:
    """Return what the user called the run in ``folder``; the folder's name where it was not started here."""
    try:
        return str(json.loads((Path(folder) / "inputs" / "cases.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return Path(folder).name


def _last_events(path: Path) -> list[dict[str, Any]]:
    try:
        # What stands before the first newline is a part of a line, and passed over like any other leftovers.
        return EventReader(path, max(0, path.stat().st_size - _TAIL_BYTES)).read(_TAIL_BYTES)
    except OSError:
        return []


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
