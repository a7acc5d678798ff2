"""events.jsonl: what a job says while it works, one ASCII JSON object per line, only ever appended to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TextIO

#: The kinds of event that a job writes.
STARTED = "started"  # device and iterations, where there are such; once for each process that works on the folder
PROGRESS = "progress"  # iteration, iterations, seconds_left, losses {name: value}, memory {where: GB}, and what else a stage counts
# Of a download, PROGRESS has instead: file, bytes, bytes_total, speed in bytes a second, seconds_left.
METRICS = "metrics"  # iteration, dice {class: value}, on ("validation" or "labeled"), best (bool)
TRUST = "trust"  # iteration, trust {generalist: value}
WRITES = "writes"  # files [name]: a prediction is about to write them into its folder
LAYERS = "layers"  # iteration, case, folder: layers of a case were written
MESSAGE = "message"  # text: something that a user should know, not wrong
WARNING = "warning"  # text
ERROR = "error"  # what, remedy, log
FINISHED = "finished"  # reason ("done", "stopped"), iteration


class EventWriter:
    """Appends events to a job's events.jsonl, each a whole line at once.

    Args:
        path: The file; its folder exists.

    Attributes:
        listeners: Called with each event as it is written, for a terminal that shows progress.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self._file: TextIO = self.path.open("a+", encoding="ascii", newline="\n")
        self._end_a_line_cut_short()

    def _end_a_line_cut_short(self) -> None:
        """End what a killed process left without a newline, so that it spoils no line but its own."""
        with self.path.open("rb") as file:
            file.seek(0, 2)
            if file.tell() == 0:
                return
            file.seek(-1, 2)
            whole = file.read(1) == b"\n"
        if not whole:
            self._file.write("\n")
            self._file.flush()

    def write(self, kind: str, **values: Any) -> None:
        """Append one event; ``values`` must be JSON-ready, but numbers that JSON does not know are written as null."""
        event = {"event": kind, "time": round(time.time(), 3), **_finite(values)}
        self._file.write(json.dumps(event, allow_nan=False) + "\n")
        self._file.flush()
        for listener in self.listeners:
            listener(event)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class EventReader:
    """Reads events as they come, from where it last stopped; a line without its newline waits for the next call.

    Attributes:
        path: The file; it need not exist yet.
        position: How many bytes have been read.
    """

    path: Path
    position: int = 0

    def read(self, limit_bytes: int = 1 << 20) -> list[dict[str, Any]]:
        """Return the whole events that came since the last call, reading at most about ``limit_bytes``.

        Lines that are no JSON object (a crash's leftovers) are passed over.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                data = file.read(limit_bytes)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        events = []
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.append(event)
        return events


def _finite(value: Any) -> Any:
    """Return ``value`` with None for what is not finite: a loss that overflowed must not spoil the file for readers."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return every whole event of the file ``path``, none where it does not exist."""
    reader, events = EventReader(Path(path)), []
    while some := reader.read():
        events += some
    return events


def seconds_of_work(events: Iterable[Mapping[str, Any]]) -> float:
    """Return how long processes worked on a folder: pauses between a stop and a resumption do not count.

    Args:
        events: As :func:`read_events` returns them.
    """
    total, latest = 0.0, None
    for event in events:
        moment = event.get("time")
        if not isinstance(moment, (int, float)):
            continue
        if latest is not None and event["event"] != STARTED:
            total += moment - latest
        latest = moment
    return total


def duration(seconds: float) -> str:
    """Return a time as a reader wants it: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
