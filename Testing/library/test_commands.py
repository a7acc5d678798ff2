"""The command line, called as a user calls it, on tiny cohorts."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from SemiSAMPlusLib.cohort.cohort import Cohort
from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort
from SemiSAMPlusLib.commands import main
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.run.folder import JobFolder, RunFolder
from SemiSAMPlusLib.terminal import Progress

ROOT = Path(__file__).resolve().parents[2]
#: Small enough for seconds; the name has a space and letters of several scripts.
PLACE = "Größe 心房"
TINY = ["--patch", "16", "16", "16", "--size", "small", "--batch", "1", "--device", "cpu", "--threads", "1"]
TINY += ["--precision", "float32", "--layers", "--validate-every", "100", "--checkpoint-every", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ and labels/ of five cases, and cohort.json: one labelled, one to test on."""
    place = tmp_path_factory.mktemp("commands") / PLACE
    make_phantom_cohort(place, cases=5, test=1, size=(18, 24, 20))
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A finished run of four iterations."""
    run = place / "läufe" / "first"
    assert (
        main(["train", str(place / "cohort.json"), "--run", str(run), "--generalists", "--iterations", "4", *TINY]) == 0
    )
    return run


def _fails(arguments: Sequence[object], capsys: pytest.CaptureFixture[str], code: int = 1) -> tuple[str, str]:
    """Call a command that must fail, and return the two lines that say why."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    what, remedy = error.strip().split("\n")
    return what, remedy


# Help and usage


def test_help_is_fast_and_loads_no_torch() -> None:
    program = """
import json, sys, time
began = time.perf_counter()
from SemiSAMPlusLib.commands import main
codes = [main(["--help"]), main(["train", "--help"]), main(["predict", "--help"])]
heavy = [name for name in ("torch", "monai", "SimpleITK", "matplotlib", "scipy", "numpy") if name in sys.modules]
print(json.dumps([codes, heavy, time.perf_counter() - began]), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    codes, heavy, seconds = json.loads(result.stderr.decode().splitlines()[-1])
    assert codes == [0, 0, 0]
    assert heavy == []
    assert seconds < 5


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "SemiSAMPlusLib", "generalists"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=True)
    assert re.search(r"random-walker +ready", result.stdout)


def test_every_setting_is_a_flag_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    documented = dict(re.findall(r"^        (\w+): (.+)$", TrainingConfig.__doc__ or "", re.MULTILINE))
    for field in dataclasses.fields(TrainingConfig):
        assert f"--{field.name.replace('_', '-')} " in text
        assert documented[field.name] in text
    assert "--from " in text
    assert "--config" not in text


def test_help_of_a_flag_that_switches_off_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--help"]) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    (told,) = re.findall(r"--no-refine (.*?) --device", text)
    assert told.startswith("The specialist alone")
    assert "True" not in told  # Which reads as if it were on.


@pytest.mark.parametrize(
    "arguments",
    [[], ["sing"], ["train", "cohort.json"], ["train", "c.json", "--run", "r", "--itrations", "3"], ["predict", "run"],
     ["train", "c.json", "--run", "r", "--size", "huge"], ["train", "c.json", "--run", "r", "--patch", "16", "16"]],
)  # fmt: skip
def test_a_command_line_that_makes_no_sense_ends_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    assert shown.err


# Errors


def test_an_error_is_two_lines(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what, remedy = _fails(["train", place / "nothing.json", "--run", place / "r"], capsys)
    assert what.startswith("Error: ")
    assert "nothing.json" in what
    assert "semisamplus cohort" in remedy


def test_a_setting_that_cannot_work_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what, remedy = _fails(["train", place / "cohort.json", "--run", place / "r", "--iterations", "0"], capsys)
    assert "'iterations' is 0" in what
    assert "--iterations" in remedy
    assert not (place / "r").exists()


def test_all_faults_of_a_cohort_are_told_at_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "images", tmp_path / "images")
    shutil.copytree(place / "labels", tmp_path / "labels")
    for name in ("phantom-02", "phantom-04"):
        (tmp_path / "images" / f"{name}.nii.gz").write_bytes(b"")
    assert main(["cohort", str(tmp_path), "-o", str(tmp_path / "cohort.json")]) == 1
    error = capsys.readouterr().err
    assert "phantom-02" in error
    assert "phantom-04" in error
    assert not (tmp_path / "cohort.json").exists()


def test_a_traceback_comes_when_it_is_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["resume", str(place), "--traceback"]) == 1
    assert "RunFolderError" in capsys.readouterr().err
    monkeypatch.setenv("SEMISAMPLUS_TRACEBACK", "1")
    assert main(["resume", str(place)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    what, _ = _fails(["cohort", place, "-o", tmp_path / "file" / "cohort.json"], capsys)
    assert "file" in what


# cohort


def test_a_case_that_is_called_by_a_number_is_meant_by_it(place: Path, tmp_path: Path) -> None:
    for number in range(1, 5):
        for part in ("images", "labels"):
            (tmp_path / part).mkdir(exist_ok=True)
            shutil.copy(place / part / f"phantom-0{number}.nii.gz", tmp_path / part / f"00{number}.nii.gz")
    for given, expected in (("003", ["003"]), ("3", ["001", "002", "003"])):
        assert main(["cohort", str(tmp_path), "--labeled", given, "-o", str(tmp_path / "c.json")]) == 0
        assert [case.name for case in Cohort.load(tmp_path / "c.json").labeled] == expected


def test_where_nobody_says_which_the_first_that_may_be_is_labelled_whatever_it_is_called(
    place: Path, tmp_path: Path
) -> None:
    for number in range(1, 4):
        for part in ("images", "labels"):
            (tmp_path / part).mkdir(exist_ok=True)
            shutil.copy(place / part / f"phantom-0{number}.nii.gz", tmp_path / part / f"{number}.nii.gz")
    assert main(["cohort", str(tmp_path), "--test", "1", "-o", str(tmp_path / "c.json")]) == 0
    assert [case.name for case in Cohort.load(tmp_path / "c.json").labeled] == ["2"]


def test_cohort_tells_what_it_found(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "my cohort.json"
    arguments = [
        "cohort",
        place,
        "--labeled",
        "2",
        "--validation",
        "3",
        "--test",
        "5",
        "--classes",
        "atrium=1",
        "-o",
        output,
    ]
    assert main([str(argument) for argument in arguments]) == 0
    found = Cohort.load(output)
    assert [len(part) for part in (found.labeled, found.unlabeled, found.validation, found.test)] == [2, 1, 1, 1]
    assert all(case.label is None for case in found.unlabeled)
    text = capsys.readouterr().out
    assert f"{place}: a folder with images/ and labels/" in text.splitlines()
    assert re.search(r"labelled +2 +phantom-01, phantom-02", text)
    assert re.search(r"test +1 +phantom-05", text)
    assert "atrium = 1" in text
    assert "20 × 24 × 18 voxels" in text
    command = text.strip().splitlines()[-1]
    assert command.split()[:2] == ["semisamplus", "train"]
    assert "my cohort.json" in command


def test_labeled_takes_a_number_or_names(place: Path, tmp_path: Path) -> None:
    for labeled, expected in (
        (["2"], ["phantom-01", "phantom-02"]),
        (["phantom-04", "phantom-02"], ["phantom-02", "phantom-04"]),
    ):
        assert main(["cohort", str(place), "--labeled", *labeled, "-o", str(tmp_path / "c.json")]) == 0
        assert [case.name for case in Cohort.load(tmp_path / "c.json").labeled] == expected


def test_cohort_says_what_a_selection_lacks(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what, remedy = _fails(["cohort", place, "--test", "4-9", "-o", tmp_path / "c.json"], capsys)
    assert "'4-9', expected numbers from 1 to 5" in what
    assert remedy == "Correct the range."


# From train to report


def test_generalists_with_nothing_after_it_are_none(run: Path) -> None:
    config = RunFolder(run).describe()["config"]
    assert config["generalists"] == []
    assert config["iterations"] == 4
    assert config["patch"] == [16, 16, 16]


def test_the_whole_way(run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "vorhergesagt"
    assert main(["predict", str(run), "--output", str(output), "--uncertainty", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "case 1/1 | phantom-05" in text
    assert f"semisamplus evaluate {output}" in text
    assert (output / "phantom-05.seg.nrrd").exists()
    assert (output / "phantom-05_uncertainty.nii.gz").exists()

    tables = []
    for labels in (place / "cohort.json", run, place / "labels"):
        scores = tmp_path / "scores.json"
        assert main(["evaluate", str(output), str(labels), "--json", str(scores)]) == 0
        assert re.search(r"phantom-05 +atrium +\d\.\d{3}", capsys.readouterr().out)
        tables.append(json.loads(scores.read_text(encoding="utf-8"))["cases"])
    assert tables[0] == tables[1] == tables[2]

    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_predict_takes_files_and_folders(run: Path, place: Path, tmp_path: Path) -> None:
    images = [place / "images" / f"phantom-0{number}.nii.gz" for number in (1, 3)]
    for source, given in ((run, images), (run / "specialist", images[:1])):
        output = tmp_path / source.name
        command = ["predict", source, *given, "-o", output, "--format", "nii.gz", "--device", "cpu"]
        assert main([str(argument) for argument in command]) == 0
        assert sorted(path.name for path in output.glob("*.nii.gz")) == sorted(path.name for path in given)


def test_an_evaluation_comes_next_only_where_there_are_labels(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    described = RunFolder(other).describe()
    for case in described["cohort"]["cases"]:
        if case["role"] == "test":
            del case["label"]
    RunFolder(other).write_description(described)
    for source, is_next in ((run, True), (other, False)):
        capsys.readouterr()
        assert main(["predict", str(source), "-o", str(tmp_path / f"labels {is_next}")]) == 0
        assert ("semisamplus evaluate" in capsys.readouterr().out) == is_next


def test_evaluate_takes_classes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = str(place / "labels")
    assert main(["evaluate", labels, labels, "--classes", "left atrium=1"]) == 0
    assert re.search(r"phantom-01 +left atrium +1\.000", capsys.readouterr().out)
    assert main(["evaluate", labels, str(place / "cohort.json"), "--classes", "atrium"]) == 0
    what, _ = _fails(["evaluate", labels, place / "cohort.json", "--classes", "ventricle"], capsys)
    assert "--classes names ventricle, expected of atrium" in what


def test_evaluate_says_which_cases_training_knew_and_which_test_cases_are_missing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = place / "labels"
    parts = ["--labeled", "phantom-01", "--validation", "phantom-02", "--test", "phantom-04", "phantom-05"]
    cohort = tmp_path / "cohort.json"
    assert main(["cohort", str(place), *parts, "-o", str(cohort)]) == 0
    predictions = tmp_path / "predictions"
    shutil.copytree(labels, predictions)
    capsys.readouterr()
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(predictions), str(cohort), "--json", str(scores)]) == 0
    learned, chose = json.loads(scores.read_text(encoding="utf-8"))["notes"][:2]
    assert learned.startswith("Labelled in training")
    assert learned.endswith(": phantom-01.")
    assert chose.startswith("Held out in training")
    assert chose.endswith(": phantom-02.")
    assert "Labelled in training" in capsys.readouterr().out

    for name in ("phantom-01", "phantom-02", "phantom-05"):
        next(predictions.glob(f"{name}.*")).unlink()
    assert main(["evaluate", str(predictions), str(cohort), "--json", str(scores)]) == 0
    notes = json.loads(scores.read_text(encoding="utf-8"))["notes"]
    assert notes[0] == "Test cases without a prediction: phantom-05."
    assert main(["evaluate", str(predictions), str(labels), "--json", str(scores)]) == 0
    assert json.loads(scores.read_text(encoding="utf-8"))["notes"] == []


def test_a_run_is_not_trained_twice(run: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what, remedy = _fails(["train", place / "cohort.json", "--run", run, "--generalists", *TINY], capsys)
    assert "already holds a run" in what
    assert "resume" in remedy


def test_from_starts_with_another_runs_specialist(run: Path, place: Path, tmp_path: Path) -> None:
    command = [
        "train",
        place / "cohort.json",
        "--run",
        tmp_path / "b",
        "--from",
        run,
        "--generalists",
        "--iterations",
        "1",
    ]
    assert main([str(argument) for argument in [*command, *TINY]]) == 0
    assert RunFolder(tmp_path / "b").describe()["started_from"] == str(run)


# Stop, resume, delete


def test_settings_in_lists_are_those_in_tuples() -> None:
    assert TrainingConfig(patch=[16, 16, 16], flips=["x"]) == TrainingConfig(patch=(16, 16, 16), flips=("x",))


def test_settings_may_come_from_a_file_and_flags_go_before_them(place: Path, tmp_path: Path) -> None:
    settings, again = tmp_path / "Einstellungen ü.json", tmp_path / "again"
    config = TrainingConfig.from_dict(
        {"iterations": 9, "seed": 5, "patch": [16, 16, 16], "size": "small", "batch": 1, "device": "cpu", "threads": 1}
        | {"precision": "float32", "layers": [], "generalists": [], "method": "supervised"}
    )
    settings.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    command = ["train", str(place / "cohort.json"), "--run", str(again), "--settings", str(settings)]
    assert main([*command, "--iterations", "2", "--seed", "0"]) == 0  # The seed that is the default elsewhere.
    used = RunFolder(again).describe()["config"]
    assert used == {**config.to_dict(), "iterations": 2, "seed": 0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds list"),
        ('{"iteration": 3}', "'iteration'"),
        (None, "cannot be read"),
        ('{"batch": "2"}', "settings.json: The setting 'batch' is '2', expected a whole number."),
        ('{"iterations": "5"}', "'iterations' is '5', expected a whole number or nothing (null)."),
        ('{"iterations": true}', "'iterations' is True, expected a whole number"),
        ('{"spacing": NaN}', "'spacing' is nan, expected a number"),
        ('{"seed": -1}', "'seed' is -1, expected 0 or more."),
        ('{"seed": 20261231235959}', "'seed' is 20261231235959, expected 1000000000000 or less."),
        ('{"size": "huge"}', "'size' is 'huge', expected one of 'auto', 'small', 'medium', 'large'."),
        ('{"intensity": "xray"}', "'intensity' is 'xray', expected one of 'auto', 'ct', 'mr', 'pet'."),
        ('{"generalists": "random-walker"}', "'random-walker', expected a list, in it text each."),
        ('{"flips": ["up"]}', "'flips' is ['up'], expected a list, in it one of 'z', 'y', 'x' each."),
        ('{"patch": ["16", 16, 16]}', "'patch' is ['16', 16, 16], expected a list, in it a whole number each"),
    ],
)
def test_settings_that_are_none_are_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    settings = tmp_path / "settings.json"
    if text is not None:
        settings.write_text(text, encoding="utf-8")
    what, _ = _fails(["train", place / "cohort.json", "--run", tmp_path / "x", "--settings", settings], capsys)
    assert words in what
    assert not (tmp_path / "x").exists()


def test_devices_are_listed_for_people_and_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json", str(tmp_path / "devices.json")]) == 0
    assert "cpu" in capsys.readouterr().out
    devices = json.loads((tmp_path / "devices.json").read_text(encoding="utf-8"))["devices"]
    assert devices[-1]["name"] == "cpu"
    for device in devices:
        assert set(device) == {"name", "title", "free", "total"}
        assert 0 < device["free"] <= device["total"]


def _interrupting(monkeypatch: pytest.MonkeyPatch, steps: Sequence[int]) -> None:
    """Press Ctrl-C in the middle of these steps, counted from 1."""
    from SemiSAMPlusLib.training.trainer import Trainer

    step, count = Trainer.step, 0

    def pressed(self: Trainer) -> dict:
        nonlocal count
        count += 1
        for _ in range(steps.count(count)):
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "step", pressed)


def test_ctrl_c_stops_gracefully_and_resume_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = tmp_path / "ein lauf", signal.getsignal(signal.SIGINT)
    _interrupting(monkeypatch, [3])
    command = ["train", str(place / "cohort.json"), "--run", str(run), "--generalists", "--iterations", "5", *TINY]
    assert main(command) == 130
    text = capsys.readouterr().out
    assert "Stopped at iteration 3." in text
    assert text.strip().splitlines()[-1].split() == ["semisamplus", "resume", *f"'{run}'".split()]
    assert signal.getsignal(signal.SIGINT) is before
    assert not RunFolder(run).is_running()

    assert main(["resume", str(run)]) == 0
    assert RunFolder(run).events()[-1]["reason"] == "done"
    assert "Continuing from iteration 3" in capsys.readouterr().out
    assert (run / "specialist" / "model.json").exists()


def test_a_second_ctrl_c_ends_at_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupting(monkeypatch, [2, 2])
    command = ["train", str(place / "cohort.json"), "--run", str(tmp_path / "run"), "--generalists", *TINY]
    assert main(command) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert not RunFolder(tmp_path / "run").is_running()


@contextmanager
def _unread() -> Iterator[None]:
    """Lead standard output into a pipe whose reader has gone."""
    if os.name == "nt":
        pytest.skip("Windows says otherwise that a pipe's reader has gone")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream, redirect_stdout(stream):
        yield


def test_ctrl_c_stops_gracefully_where_it_has_ended_the_reader_too(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    _interrupting(monkeypatch, [3])
    with _unread():  # As with `semisamplus train … | tee log`: Ctrl-C goes to both.
        assert main(["train", str(place / "cohort.json"), "--run", str(run), "--generalists", *TINY]) == 130
    assert RunFolder(run).events()[-1]["reason"] == "stopped"
    assert (run / "checkpoints" / "last.pt").exists()


@pytest.mark.parametrize("arguments", [["train", "--help"], ["generalists"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with _unread():
        assert main(arguments) in (0, 1)
        print("Python writes what is left when it ends.", flush=True)
    assert capsys.readouterr().err == ""


def test_stop_asks_only_a_running_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what, _ = _fails(["stop", tmp_path], capsys)
    assert "no job is running" in what
    folder = JobFolder(tmp_path / "job")
    events = folder.acquire("train")
    try:
        assert main(["stop", str(tmp_path / "job")]) == 0
        assert folder.is_asked_to_stop()
    finally:
        events.close()
        folder.release()


def test_delete_asks_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_description({"format": "test"})
    questions = []

    def answering(answer: str) -> None:
        monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or answer)

    answering("n")
    assert main(["delete", str(folder.path)]) == 1
    assert str(folder.path) in questions[0]
    assert folder.run_file.exists()
    answering("y")
    assert main(["delete", str(folder.path)]) == 0
    assert not folder.path.exists()

    folder.write_description({"format": "test"})
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked although --yes was given"))
    assert main(["delete", str(folder.path), "--yes"]) == 0
    assert not folder.path.exists()
    (tmp_path / "other").mkdir()
    what, _ = _fails(["delete", tmp_path / "other", "--yes"], capsys)
    assert "is not a run folder" in what
    assert (tmp_path / "other").is_dir()


# What a terminal shows


EVENTS = [
    {"event": "started", "device": "cpu", "iterations": 1000},
    {"event": "message", "text": "Training on the CPU [2 threads]."},
    {
        "event": "progress",
        "iteration": 120,
        "iterations": 1000,
        "seconds_left": 754.2,
        "losses": {"supervised": 0.31239},
    },
    {"event": "trust", "iteration": 120, "trust": {"random-walker": 0.4}},
    {"event": "metrics", "iteration": 120, "dice": {"atrium": 0.8312, "心耳": None}, "on": "validation", "best": True},
    {"event": "warning", "text": "The disk is nearly full."},
]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_the_latest_figures(terminal: bool) -> None:
    text = io.StringIO()
    with Progress(Console(file=text, force_terminal=terminal, width=100, color_system=None)) as progress:
        for event in EVENTS:
            progress(event)
            time.sleep(0.01)
        assert progress.reason is None
    shown = text.getvalue()
    for words in (
        "[2 threads]",
        "iteration 120/1000",
        "13 min left",
        "losses: supervised 0.312",
        "trust: random-walker 0.400",
        "Dice, held out: atrium 0.831, 心耳 –",
        "Warning: The disk is nearly full.",
    ):
        assert words in shown
    assert ("\x1b[" in shown) == terminal
    progress({"event": "finished", "reason": "stopped", "iteration": 120})
    assert (progress.reason, progress.iteration) == ("stopped", 120)


# Demo


@pytest.mark.slow
def test_the_demo_compares_three_ways(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "data", tmp_path / "démo"
    shutil.copytree(place / "images", data / "images")
    shutil.copytree(place / "labels", data / "labels")
    earlier = RunFolder(output / "runs" / "supervised-only")  # To be replaced.
    earlier.write_description({"format": "test"})
    assert main(["demo", "--data", str(data), "--output", str(output), "--iterations", "2"]) == 0
    assert earlier.describe()["config"]["method"] == "supervised"
    text = capsys.readouterr().out
    ways = ["supervised only", "mean-teacher", "mean-teacher + random-walker"]
    for way in ways:
        assert re.search(rf"^ +{re.escape(way)} +class 1 +\d\.\d{{3}}", text, re.MULTILINE)
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert list(results) == ways
    assert [results[way]["config"]["method"] for way in ways] == ["supervised", "mean-teacher", "mean-teacher"]
    assert [results[way]["config"]["generalists"] for way in ways] == [[], [], ["random-walker"]]
    assert {case["case"] for case in results["mean-teacher"]["cases"]} == {"phantom-05"}
    assert (output / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert text.count("report.html") >= 3


def test_a_demo_needs_three_labelled_cases(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for number in (1, 2):
            shutil.copy(place / part / f"phantom-0{number}.nii.gz", tmp_path / part)
    what, _ = _fails(["demo", "--data", tmp_path, "--output", tmp_path / "demo"], capsys)
    assert "expected 3 or more" in what
