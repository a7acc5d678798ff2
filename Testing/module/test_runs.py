"""Runs are found by what lies in their folders, also those that a shell or another computer started."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
from locked import locked
from SemiSAMPlusPanel import runs as module
from SemiSAMPlusPanel.runs import find_runs, is_run_folder, run_name, summarize


def write_run(
    folder: Path, events: list[dict[str, Any]], *, run: bool = True, owner: dict[str, Any] | None = None, name: str = ""
) -> Path:
    """Write a run folder by hand, as the library would."""
    folder.mkdir(parents=True)
    if run:
        (folder / "run.json").write_text(json.dumps({"cohort": {"cases": []}}), encoding="utf-8")
    owned = {
        "kind": "train",
        "host": socket.gethostname(),
        "pid": 1 << 30,
        "process_started": 0,
        "started": time.time(),
    }
    (folder / "job.json").write_text(json.dumps({**owned, **(owner or {})}), encoding="utf-8")
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="ascii")
    if name:
        (folder / "inputs").mkdir()
        (folder / "inputs" / "cases.json").write_text(json.dumps({"name": name, "cases": {}}), encoding="utf-8")
    return folder


def alive() -> dict[str, Any]:
    process = psutil.Process()
    return {"pid": process.pid, "process_started": process.create_time(), "heartbeat": time.time()}


STARTED = {"event": "started", "device": "cpu", "iterations": 100}


def progress(iteration: int) -> dict[str, Any]:
    return {"event": "progress", "iteration": iteration, "iterations": 100, "losses": {}}


def finished(reason: str, iteration: int) -> dict[str, Any]:
    return {"event": "finished", "reason": reason, "iteration": iteration}


def test_each_state_is_told_by_the_folder_alone(tmp_path: Path) -> None:
    cases = {
        "done": write_run(tmp_path / "a", [STARTED, progress(100), finished("done", 100)]),
        "stopped": write_run(tmp_path / "b", [STARTED, progress(40), finished("stopped", 40)]),
        "unfinished": write_run(tmp_path / "c", [STARTED, progress(40)]),
        "running": write_run(tmp_path / "d", [STARTED, progress(40)], owner=alive()),
        "failed": write_run(tmp_path / "e", [STARTED, progress(40), {"event": "error", "what": "x", "remedy": "y"}]),
    }
    for state, folder in cases.items():
        found = summarize(folder)
        assert (found.state, found.iterations) == (state, 100)
        assert found.iteration == (100 if state == "done" else 40)


def test_a_run_that_died_before_it_described_itself_has_failed(tmp_path: Path) -> None:
    assert summarize(write_run(tmp_path / "a", [], run=False)).state == "failed"


def test_a_resumed_run_is_judged_by_what_came_last(tmp_path: Path) -> None:
    events = [STARTED, progress(40), finished("stopped", 40), STARTED, progress(60)]
    assert summarize(write_run(tmp_path / "a", events)).state == "unfinished"
    assert summarize(write_run(tmp_path / "b", events, owner=alive())).state == "running"
    assert summarize(write_run(tmp_path / "c", [*events, finished("done", 100)])).state == "done"


def test_a_run_elsewhere_lives_as_long_as_its_heart_beats(tmp_path: Path) -> None:
    elsewhere = {"host": "cluster-7", "pid": os.getpid()}
    young = write_run(tmp_path / "a", [STARTED], owner={**elsewhere, "heartbeat": time.time()})
    old = write_run(tmp_path / "b", [STARTED], owner={**elsewhere, "heartbeat": time.time() - 3600})
    assert summarize(young).state == "running"
    assert summarize(old).state == "unfinished"


def test_a_line_cut_short_and_leftovers_of_a_crash_are_passed_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [STARTED, progress(40)])
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'\x00\x00garbage\n{"event": "finished", "rea')
    assert summarize(folder).state == "unfinished"
    assert summarize(folder).iteration == 40


def test_only_the_end_of_a_long_history_is_read(tmp_path: Path) -> None:
    events = [STARTED, *(progress(number) for number in range(1, 5000)), finished("done", 5000)]
    folder = write_run(tmp_path / "a", events)
    assert (folder / "events.jsonl").stat().st_size > 4 * module._TAIL_BYTES
    read = module._last_events(folder / "events.jsonl")
    assert len(read) < 1000
    assert summarize(folder).state == "done"
    assert summarize(folder).iteration == 5000


def test_runs_come_latest_first_and_nothing_else_comes(tmp_path: Path) -> None:
    now = time.time()
    for number, name in enumerate(("älter", "neu er", "mittel")):
        write_run(tmp_path / name, [STARTED], owner={"started": now - (30, 0, 10)[number]})
    write_run(tmp_path / "predictions", [], run=False, owner={"kind": "predict"})
    (tmp_path / "other").mkdir()
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    assert [run.name for run in find_runs(tmp_path)] == ["neu er", "mittel", "älter"]


def test_a_run_that_may_not_be_read_hides_no_other(tmp_path: Path) -> None:
    mine, anna = write_run(tmp_path / "mine", [STARTED]), write_run(tmp_path / "anna", [STARTED])
    began = time.monotonic()
    with locked(anna):
        assert [run.folder for run in find_runs(tmp_path)] == [mine]
        assert not is_run_folder(anna)
    assert time.monotonic() - began < 2, "nobody waits for what is denied"
    with locked(anna):
        assert summarize(anna).state == "failed"


def test_a_missing_root_has_no_runs(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "nowhere") == []


def test_a_runs_own_folder_may_be_given_instead(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [STARTED])
    assert [run.folder for run in find_runs(folder)] == [folder]
    assert is_run_folder(folder)
    assert not is_run_folder(tmp_path)


def test_a_run_is_called_as_its_user_called_it(tmp_path: Path) -> None:
    assert run_name(write_run(tmp_path / "x-2026", [], name="Vorhof, zweiter Versuch")) == "Vorhof, zweiter Versuch"
    assert run_name(write_run(tmp_path / "from-a-shell", [])) == "from-a-shell"


def test_a_specialist_is_seen(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [STARTED, finished("stopped", 10)])
    assert not summarize(folder).has_specialist
    (folder / "specialist").mkdir()
    (folder / "specialist" / "model.json").write_text("{}", encoding="utf-8")
    assert summarize(folder).has_specialist
