"""Benchmarks are programs that nobody runs for weeks: what they use of the library must not go away under them."""

from __future__ import annotations

import importlib
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
