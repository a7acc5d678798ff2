"""Copies of images that a Slicer which ended too soon left behind are swept out; nothing else is."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from SemiSAMPlusPanel.leftovers import sweep_leftovers

STAMP = "2026-01-02-03-04-05"


def write_old(path: Path, text: str = "x") -> Path:
    """Write a file, and let it and its folder be as old as leftovers are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for one in (path, path.parent, path.parent.parent):
        os.utime(one, (0, 0))
    return path


def exported(root: Path, name: str = f"liver-{STAMP}") -> Path:
    """Let there be what a training that never began leaves; return an image of it."""
    write_old(root / name / "inputs" / "cases.json", json.dumps({"name": "liver", "cases": {}}))
    write_old(root / name / "cohort.json")
    return write_old(root / name / "inputs" / "images" / "a.nrrd")


def copied(folder: Path, output: str = STAMP, copies: str = "inputs-a1_bcd2e") -> Path:
    """Let there be what a prediction copied; return an image of it."""
    return write_old(folder / "predictions" / output / copies / "a.nrrd")


def own(folder: Path, **owner: Any) -> None:
    process = psutil.Process()
    mine = {"host": socket.gethostname(), "pid": process.pid, "process_started": process.create_time()}
    write_old(folder / "job.json", json.dumps({**mine, "heartbeat": time.time(), **owner}))


def test_what_a_training_that_never_began_left_is_removed(tmp_path: Path) -> None:
    image, told = exported(tmp_path), exported(tmp_path, f"liver-{STAMP}-a0b1")
    write_old(told.parents[2] / "output.txt")
    sweep_leftovers(tmp_path)
    assert not image.parents[2].exists()
    assert [path.name for path in told.parents[2].iterdir()] == ["output.txt"], "it says why it did not begin"
    sweep_leftovers(tmp_path / "nowhere")


@pytest.mark.parametrize("entry", ["run.json", "job.json", "notes.txt", "inputs/mine.txt"])
def test_a_folder_that_holds_more_is_left(tmp_path: Path, entry: str) -> None:
    image = exported(tmp_path)
    write_old(image.parents[2] / entry, "{}")
    sweep_leftovers(tmp_path)
    assert image.exists()


def test_what_may_be_anothers_is_left(tmp_path: Path) -> None:
    named, unknown, foreign = exported(tmp_path, "study"), exported(tmp_path), exported(tmp_path / "b")
    (unknown.parents[1] / "cases.json").unlink()
    write_old(foreign.parents[1] / "cases.json", json.dumps([1]))
    at_work = exported(tmp_path / "c")
    at_work.touch()
    for folder in (tmp_path, tmp_path / "b", tmp_path / "c"):
        sweep_leftovers(folder)
    assert all(image.exists() for image in (named, unknown, foreign, at_work))


@pytest.mark.parametrize("owner", [{"ended": 1.0}, {"process_started": 0.0}, None])
def test_copies_of_a_prediction_that_is_over_are_removed(tmp_path: Path, owner: dict[str, Any] | None) -> None:
    images = [copied(tmp_path), copied(tmp_path / "run")]
    for image in images:
        write_old(image.parents[1] / "a.seg.nrrd")
        if owner is not None:
            own(image.parents[1], **owner)
    sweep_leftovers(tmp_path)
    for image in images:
        assert not image.parent.exists()
        assert (image.parents[1] / "a.seg.nrrd").exists()


def test_copies_that_are_needed_or_may_be_anothers_are_left(tmp_path: Path) -> None:
    works, broken, young = (copied(tmp_path, f"{STAMP}-000{number}") for number in range(3))
    own(works.parents[1])
    write_old(broken.parents[1] / "job.json", "{")
    young.touch()
    named, placed = copied(tmp_path, copies="inputs-of-anna"), copied(tmp_path, output="study")
    other = write_old(copied(tmp_path, f"{STAMP}-0009").parent / "notes.txt")
    sweep_leftovers(tmp_path)
    assert all(path.exists() for path in (works, broken, young, named, placed, other))
