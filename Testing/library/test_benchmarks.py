"""Benchmarks are programs that nobody runs for weeks: what they use of the library must not go away under them."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest
from tiny import tiny_cohort

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def test_without_the_real_volumes_clicks_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("bench_zero_shot")
    monkeypatch.setattr(benchmark, "DATA", tmp_path)
    benchmark.main()
    assert capsys.readouterr().out == f"Not measured: the volumes of {tmp_path / 'left_atrium'} are not here\n"


def test_the_minutes_of_a_resumed_training_hold_no_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("compare")
    times = [("started", 0.0), ("progress", 60.0), ("started", 9000.0), ("finished", 9120.0)]
    run = tmp_path / "supervised-1-seed0" / "run"
    run.mkdir(parents=True)
    (run / "run.json").touch()
    lines = [json.dumps({"event": kind, "time": time}) + "\n" for kind, time in times]
    (run / "events.jsonl").write_text("".join(lines), encoding="ascii")
    monkeypatch.setattr(benchmark, "_call", lambda *words: None)
    evaluation = {"cases": [{"dice": 0.5, "hd95_mm": 1.0, "asd_mm": 1.0}]}
    monkeypatch.setattr(benchmark, "_evaluate", lambda *arguments: evaluation)
    arguments = argparse.Namespace(
        output=tmp_path, folder=tmp_path, cases="1", test="2", classes=[], iterations=1, flags=""
    )
    assert benchmark._run(arguments, 1, "supervised", 0)["minutes"] == 3.0


def test_without_the_host_the_panel_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from host import missing

    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("bench_panel")
    monkeypatch.setattr(missing, "what_is_missing", lambda: "it is not here")
    benchmark.main()
    assert capsys.readouterr().out == "Not measured: it is not here\n"


def test_steps_are_measured_where_generalists_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("bench_step")
    tiny_cohort(tmp_path / "phantoms").save(tmp_path / "cohort.json")
    task = {"folder": str(tmp_path), "device": "cpu", "threads": 1}
    for method in ("mean-teacher", "copy-paste"):
        trainer = benchmark._trainer(task, method, "random-walker")
        benchmark._warm_up(trainer)
        assert trainer.collaboration.asks(trainer.iteration)
