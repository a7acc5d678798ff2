"""Benchmarks are programs that nobody runs for weeks: what they use of the library must not go away under them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from tiny import tiny_cohort

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def test_steps_are_measured_where_generalists_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("bench_step")
    tiny_cohort(tmp_path / "phantoms").save(tmp_path / "cohort.json")
    task = {"folder": str(tmp_path), "device": "cpu", "threads": 1}
    for method in ("mean-teacher", "copy-paste"):
        trainer = benchmark._trainer(task, method, "random-walker")
        benchmark._warm_up(trainer)
        assert trainer.collaboration.asks(trainer.iteration)
