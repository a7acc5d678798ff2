"""events.jsonl: whole ASCII lines, only ever appended to, and a line that a crash cut short spoils nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from SemiSAMPlusLib.run.events import EventReader, EventWriter, duration, read_events, seconds_of_work


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for events whose name has a space and a letter beyond ASCII."""
    folder = tmp_path / "Läufe 1"
    folder.mkdir()
    return folder / "events.jsonl"


def test_each_event_is_one_ascii_line_of_json(path: Path) -> None:
    with EventWriter(path) as events:
        events.write("message", text="Vorhof µ\nzweite Zeile – 心")
        events.write("progress", iteration=1, losses={"supervised": 0.5})
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == 2
    assert all(byte < 128 for line in lines for byte in line)
    first, second = map(json.loads, lines)
    assert (first["event"], first["text"]) == ("message", "Vorhof µ\nzweite Zeile – 心")
    assert first["time"] <= second["time"]
    assert second["losses"] == {"supervised": 0.5}


def test_an_event_can_be_read_as_soon_as_it_is_written(path: Path) -> None:
    with EventWriter(path) as events:
        events.write("message", text="now")
        assert [event["text"] for event in read_events(path)] == ["now"]


def test_a_second_writer_appends(path: Path) -> None:
    for text in ("first", "second"):
        with EventWriter(path) as events:
            events.write("message", text=text)
    assert [event["text"] for event in read_events(path)] == ["first", "second"]


def test_a_line_without_its_end_waits_and_is_then_read_once(path: Path) -> None:
    whole = b'{"event": "message", "text": "a"}\n'
    path.write_bytes(whole + whole[:12])
    reader = EventReader(path)
    assert len(reader.read()) == 1
    assert reader.read() == []
    with path.open("ab") as file:
        file.write(whole[12:])
    assert [event["text"] for event in reader.read()] == ["a"]
    assert reader.read() == []


@pytest.mark.parametrize("left", [b'{"event": "progr', b'{"event": "progress", "iteration": 7}', b"\xff\xfe{", b"7"])
def test_what_a_killed_process_left_spoils_no_other_line(path: Path, left: bytes) -> None:
    with EventWriter(path) as events:
        events.write("message", text="before")
    with path.open("ab") as file:
        file.write(left)
    with EventWriter(path) as events:
        events.write("message", text="after")
    texts = [event["text"] for event in read_events(path) if event["event"] == "message"]
    assert texts == ["before", "after"]


def test_a_file_that_ends_whole_gets_no_empty_line(path: Path) -> None:
    for _ in range(3):
        EventWriter(path).close()
    assert path.read_bytes() == b""
    for _ in range(2):
        with EventWriter(path) as events:
            events.write("message", text="x")
    assert b"\n\n" not in path.read_bytes()


def test_reading_in_small_bites_gives_the_same(path: Path) -> None:
    with EventWriter(path) as events:
        for number in range(50):
            events.write("progress", iteration=number)
    reader, found = EventReader(path), []
    while some := reader.read(limit_bytes=200):
        found += some
    assert [event["iteration"] for event in found] == list(range(50))


def test_a_file_that_is_not_there_yet_has_no_events(path: Path) -> None:
    reader = EventReader(path)
    assert reader.read() == []
    with EventWriter(path) as events:
        events.write("message", text="late")
    assert len(reader.read()) == 1


def test_listeners_hear_each_event_after_it_is_written(path: Path) -> None:
    heard = []
    with EventWriter(path) as events:
        events.listeners.append(lambda event: heard.append((event["event"], len(read_events(path)))))
        events.write("message", text="x")
        events.write("warning", text="y")
    assert heard == [("message", 1), ("warning", 2)]


def test_numbers_that_json_does_not_know_leave_the_line_readable_by_any_reader(path: Path) -> None:
    """A loss that is not finite is a likely thing to report, and NaN is no JSON (RFC 8259)."""
    with EventWriter(path) as events:
        losses = {"supervised": float("nan"), "pseudo": float("inf")}
        events.write("progress", iteration=3, losses=losses, latest=[0.5, float("nan")])

    def refuse(name: str) -> float:
        pytest.fail(f"{name} is no JSON")

    (line,) = path.read_text(encoding="ascii").splitlines()
    event = json.loads(line, parse_constant=refuse)
    assert event["losses"] == {"supervised": None, "pseudo": None}
    assert event["latest"] == [0.5, None]


def test_a_pause_before_a_resumption_is_no_work() -> None:
    times = [("started", 100.0), ("progress", 160.0), ("started", 9000.0), ("progress", 9010.0), ("finished", 9020.0)]
    events = [{"event": kind, "time": time} for kind, time in times]
    assert seconds_of_work(events) == 80.0
    assert seconds_of_work([*events, {"event": "message"}]) == 80.0
    assert seconds_of_work(events[3:]) == 10.0  # Of a process that did not say that it started, what it said counts.
    assert seconds_of_work([]) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (99, "99 s"), (130, "2 min"), (5990, "1 h 40 min"), (5900, "98 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
