"""Trainings end to end: interrupted and resumed, refused where they must be, and blind to what they must not see."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import FakeGeneralist, noise, tiny_cohort, tiny_config, weights_of, with_case

import SemiSAMPlusLib.cohort.patches as patches_module
import SemiSAMPlusLib.training.device as device_module
import SemiSAMPlusLib.training.run as run_module
import SemiSAMPlusLib.training.trainer as trainer_module
from SemiSAMPlusLib.cohort.cohort import Class, Cohort, Role
from SemiSAMPlusLib.cohort.outputs import read_prompts, read_segmentation, read_uncertainty
from SemiSAMPlusLib.cohort.volume import Grid, read_image
from SemiSAMPlusLib.collaboration.collaboration import Collaboration
from SemiSAMPlusLib.collaboration.trust import EarnedTrust, Lesson
from SemiSAMPlusLib.errors import (
    CohortError,
    ConfigError,
    DeviceError,
    DivergenceError,
    RunFolderError,
    SemiSAMPlusError,
    WeightsError,
)
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.run.folder import JobFolder, RunFolder
from SemiSAMPlusLib.specialist import specialist as specialist_module
from SemiSAMPlusLib.specialist.methods import METHODS
from SemiSAMPlusLib.specialist.scales import FURTHER_SCALES
from SemiSAMPlusLib.specialist.specialist import Specialist
from SemiSAMPlusLib.training.run import resume, train
from SemiSAMPlusLib.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return tiny_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return tiny_cohort(tmp_path_factory.mktemp("validated"), validation=1)


def _events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["event"] == kind]


def _after(monkeypatch: pytest.MonkeyPatch, iteration: int, act: Any) -> None:
    """Do something with the trainer once a step has come to ``iteration``."""
    step = Trainer.step

    def stepped(self: Trainer) -> dict[str, torch.Tensor]:
        losses = step(self)
        if self.iteration == iteration:
            act(self)
        return losses

    monkeypatch.setattr(Trainer, "step", stepped)


def _stopped(monkeypatch: pytest.MonkeyPatch, cohort: Cohort, config: TrainingConfig, folder: Path) -> RunFolder:
    """Train two steps, until somebody asked to stop."""
    with monkeypatch.context() as patch:
        _after(patch, 2, lambda trainer: trainer.folder.ask_to_stop())
        return train(cohort, config, folder)


def _break(_: Trainer) -> None:
    raise ZeroDivisionError("the lights went out")


# -- a whole run


def test_a_run_leaves_what_a_user_wants_of_it(cohort: Cohort, tmp_path: Path) -> None:
    """In a folder whose name has a space and letters beyond ASCII."""
    heard: list[dict[str, Any]] = []
    config = tiny_config(generalists=("random-walker",), trust=1.0, layers=None, validate_every=4)
    run = train(cohort, config, tmp_path / "Läufe 1" / "心", observer=heard.append)
    for path in ("run.json", "events.jsonl", "job.json", "report.html", "specialist/model.json", "checkpoints/last.pt"):
        assert (run.path / path).stat().st_size > 0
    assert "not finished" not in (run.path / "report.html").read_text(encoding="utf-8")
    assert not run.is_running()
    assert not [path for path in run.path.rglob(".*") if path.is_file()]  # Nothing half written stays.
    description = run.describe()
    assert description["iterations"] == 8
    assert Cohort.from_dict(description["cohort"]) == replace(
        cohort, cases=tuple(Cohort.from_dict(cohort.to_dict()).cases)
    )
    assert description["config"]["patch"] == [16, 16, 16]
    assert description["versions"]["torch"]
    assert heard == run.events()
    assert [event["reason"] for event in _events(run, "finished")] == ["done"]
    assert _events(run, "progress")[-1]["iteration"] == 8
    assert 0 < _events(run, "progress")[-1]["memory"]["process_gb"] < 100
    assert [event["iteration"] for event in _events(run, "metrics")] == [4, 8]
    assert {event["on"] for event in _events(run, "metrics")} == {"labeled"}
    specialist = Specialist.load(run.path)
    assert [c.name for c in specialist.classes] == ["atrium"]
    checkpoint = torch.load(run.checkpoints / "last.pt", weights_only=True)
    assert checkpoint["iteration"] == 8


def test_events_are_whole_ascii_lines(cohort: Cohort, tmp_path: Path) -> None:
    named = with_case(cohort, cohort.unlabeled[0])
    cases = tuple(replace(case, name=f"Fäll {case.name}") for case in named.cases)
    run = train(replace(named, cases=cases), tiny_config(iterations=2, layers=("Fäll phantom-02",)), tmp_path / "é")
    lines = run.events_file.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert all(byte < 128 for line in lines for byte in line)
    assert all("event" in json.loads(line) for line in lines)
    assert _events(run, "layers")[0]["case"] == "Fäll phantom-02"


def test_the_seed_fixes_the_result(cohort: Cohort, tmp_path: Path) -> None:
    runs = [train(cohort, tiny_config(iterations=3, seed=seed), tmp_path / str(n)) for n, seed in enumerate((5, 5, 6))]
    one, same, other = (weights_of(run.path) for run in runs)
    assert one == same
    assert one != other


# -- interrupted and resumed


def test_a_killed_run_resumes_to_the_same_weights(cohort: Cohort, tmp_path: Path) -> None:
    """SIGKILL (or TerminateProcess) in the middle, with a generalist in play."""
    settings: dict[str, Any] = {
        "iterations": 40,
        "checkpoint_every": 3,
        "generalists": ["random-walker"],
        "trust": 0.7,
        "validate_every": 15,
    }
    cohort.save(tmp_path / "cohort.json")
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tiny import tiny_config\n"
        "from SemiSAMPlusLib import Cohort, train\n"
        "settings = json.loads(sys.argv[1])\n"
        "settings['generalists'] = tuple(settings['generalists'])\n"
        "train(Cohort.load(Path(sys.argv[2])), tiny_config(**settings), Path(sys.argv[3]))\n"
    )
    folder = RunFolder(tmp_path / "killed run")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "Testing")])}
    command = [sys.executable, "-c", script, json.dumps(settings), str(tmp_path / "cohort.json"), str(folder.path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (folder.checkpoints / "last.pt").exists():
            assert process.poll() is None, "the training ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(RunFolderError, match=f"process {process.pid} "):
            resume(folder.path)
        time.sleep(0.3)
    finally:
        process.kill()
        process.wait()
    assert not _events(folder, "finished")
    reached = torch.load(folder.checkpoints / "last.pt", weights_only=True)["iteration"]
    assert 0 < reached < 40
    with folder.events_file.open("ab") as file:  # And a line was cut short.
        file.write(b'{"event": "progress", "itera')
    resume(folder.path)
    assert f"from iteration {reached} of 40" in " ".join(event["text"] for event in _events(folder, "message"))
    settings["generalists"] = tuple(settings["generalists"])
    whole = train(cohort, tiny_config(**settings), tmp_path / "whole")
    assert weights_of(folder.path) == weights_of(whole.path)
    assert [event["reason"] for event in _events(folder, "finished")] == ["done"]


QUICK = {"copy-paste", "dan"}


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]
)
def test_a_stopped_run_resumes_to_the_same_weights(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Asked to stop between two measurements of trust, which must then be remembered."""
    lesson = Lesson(number=0, agreements=[0.6], products=[[1.0]], along=[0.4], gain=0.1)
    monkeypatch.setattr(
        "SemiSAMPlusLib.collaboration.collaboration.earn_trust", lambda *args: EarnedTrust(("fake",), (lesson,))
    )
    monkeypatch.setattr("SemiSAMPlusLib.collaboration.prompts._CONFIDENT", 0.01)
    fakes = []

    def create(spec: str, device: Any) -> FakeGeneralist:
        fakes.append(FakeGeneralist(noise))
        return fakes[-1]

    monkeypatch.setattr(run_module, "create_generalist", create)
    config = tiny_config(iterations=10, method=method, generalists=("fake",), validate_every=2, collaboration_every=1)
    whole = train(cohort, config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        _after(patch, 5, lambda trainer: trainer.folder.ask_to_stop())
        stopped = train(cohort, config, tmp_path / "stopped")
    (finished,) = _events(stopped, "finished")
    assert (finished["reason"], finished["iteration"]) == ("stopped", 5)
    assert not stopped.is_running()
    assert Specialist.load(stopped.path).about["iteration"] == 5  # What it had learned by then can be used.
    resume(stopped.path)
    assert weights_of(stopped.path) == weights_of(whole.path)
    assert _events(stopped, "finished")[-1]["reason"] == "done"
    assert not stopped.is_asked_to_stop()
    assert all(fake.asked > 0 for fake in fakes)
    with pytest.raises(RunFolderError, match="the run is done") as error:
        resume(stopped.path)
    assert "--from" in error.value.remedy


def test_a_run_that_broke_before_its_first_checkpoint_begins_anew(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(iterations=4)
    with monkeypatch.context() as patch:
        _after(patch, 2, _break)
        with pytest.raises(ZeroDivisionError):
            train(cohort, config, tmp_path / "broken")
    broken = RunFolder(tmp_path / "broken")
    (error,) = _events(broken, "error")
    assert "the lights went out" in error["what"]
    assert "the lights went out" in broken.log_file.read_text(encoding="utf-8")
    assert not broken.is_running()
    resume(broken.path)
    assert weights_of(broken.path) == weights_of(train(cohort, config, tmp_path / "whole").path)


def test_a_run_that_broke_after_its_last_step_is_finished(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "export", _break)
        with pytest.raises(ZeroDivisionError):
            train(cohort, tiny_config(iterations=3), tmp_path / "run")
    with pytest.raises(WeightsError) as error:
        Specialist.load(tmp_path / "run")
    assert f"`semisamplus resume {tmp_path / 'run'}`" in error.value.remedy
    run = resume(tmp_path / "run")
    assert weights_of(run.path) == weights_of(train(cohort, tiny_config(iterations=3), tmp_path / "whole").path)
    assert run.report.exists()


def test_a_damaged_checkpoint_is_said_by_name_and_without_it_the_run_begins_anew(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _stopped(monkeypatch, cohort, tiny_config(iterations=4), tmp_path / "run")
    (run.checkpoints / "last.pt").write_bytes(b"PK\x03\x04 no longer a checkpoint")
    with pytest.raises(RunFolderError, match=r"last\.pt") as error:
        resume(run.path)
    assert "Remove the file: `semisamplus resume`" in error.value.remedy
    (run.checkpoints / "last.pt").unlink()
    resume(run.path)
    assert weights_of(run.path) == weights_of(train(cohort, tiny_config(iterations=4), tmp_path / "whole").path)


def test_a_run_whose_device_is_gone_goes_on_where_it_is_told(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _stopped(monkeypatch, cohort, tiny_config(iterations=3), tmp_path / "run")
    run.write_description({**run.describe(), "device": "cuda:93"})
    with pytest.raises(DeviceError, match="cuda:93"):
        resume(run.path)
    resume(run.path, device="cpu")
    assert _events(run, "started")[-1]["device"] == "cpu"
    assert _events(run, "finished")[-1]["reason"] == "done"


def test_a_run_may_go_on_in_float16_that_began_in_other_arithmetic(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _stopped(monkeypatch, cohort, tiny_config(iterations=3), tmp_path / "run")
    make = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, *, enabled: make(device, enabled=True))
    resume(run.path)
    assert _events(run, "finished")[-1]["reason"] == "done"


def test_validation_and_trust_hold_few_cases_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0
    prepare = patches_module.prepare

    def counted(*given: Any) -> Any:
        nonlocal most
        case = prepare(*given)
        held.add(case.image)
        most = max(most, len(held))
        return case

    monkeypatch.setattr(patches_module, "prepare", counted)
    many = tiny_cohort(tmp_path / "cohort", cases=20, labeled=8, validation=8)
    monkeypatch.setattr(run_module, "create_generalist", lambda spec, device: FakeGeneralist(noise))
    config = tiny_config(iterations=2, validate_every=1, generalists=("fake",), collaboration_start=0.0, cache_gb=1e-9)
    train(many, config, tmp_path / "run")
    assert most < 8


def test_a_file_of_weights_is_found_again_from_any_folder(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "create_generalist", lambda spec, device: FakeGeneralist(noise))
    monkeypatch.chdir(tmp_path)
    run = train(cohort, tiny_config(iterations=1, generalists=("fake = own/w.pth", "other")), tmp_path / "run")
    assert run.describe()["config"]["generalists"] == [f"fake={tmp_path / 'own' / 'w.pth'}", "other"]


def test_what_another_version_made_is_refused(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _after(monkeypatch, 2, lambda trainer: trainer.folder.ask_to_stop())
    run = train(cohort, tiny_config(iterations=4), tmp_path / "run")
    for described in (run.path / "run.json", run.path / "specialist" / "model.json"):
        described.write_text(
            re.sub(r'(semisamplus-\w+)-\d+"', r'\1-0"', described.read_text(encoding="utf-8")), "utf-8"
        )
    with pytest.raises(RunFolderError, match="semisamplus-run-0"):
        resume(run.path)
    with pytest.raises(WeightsError, match="semisamplus-specialist-0"):
        Specialist.load(run.path)


def test_the_reports_time_counts_no_pause(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _stopped(monkeypatch, cohort, tiny_config(iterations=4, generalists=()), tmp_path / "run")
    # Ten hours ago.
    before = [event | {"time": event["time"] - 36_000} for event in run.events()]
    run.events_file.write_text("".join(json.dumps(event) + "\n" for event in before), encoding="ascii")
    with monkeypatch.context() as patch:  # What breaks on the way in is no work of the night before either.
        patch.setattr(Trainer, "load_checkpoint", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resume(run.path)
    resume(run.path)
    assert re.search(r"<dt>Time</dt><dd>\d+ (s|min)\b", run.report.read_text(encoding="utf-8"))


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match="is not a run folder"):
            resume(folder)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunFolderError, match="has no 'format'"):
        resume(tmp_path)


@pytest.mark.parametrize("which", ["labeled", "unlabeled"])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    cohort = tiny_cohort(tmp_path / "cohort")
    run = _stopped(monkeypatch, cohort, tiny_config(iterations=4), tmp_path / "run")
    case = cohort.labeled[0] if which == "labeled" else cohort.unlabeled[1]
    changed = case.label if which == "labeled" else case.images[0]
    assert changed is not None
    before = changed.read_bytes()
    image = sitk.ReadImage(str(changed))
    image[3, 3, 3] = 1
    sitk.WriteImage(image, str(changed), useCompression=True)
    with pytest.raises(RunFolderError, match=changed.name) as error:
        resume(run.path)
    assert "--from" in error.value.remedy
    assert not run.is_running()
    changed.write_bytes(before)
    cohort.unlabeled[0].label.write_bytes(b"changed, and none of our business")  # type: ignore[union-attr]
    cohort.test[0].images[0].write_bytes(b"changed, and none of our business")
    resume(run.path)


# -- what must not be seen


@pytest.mark.parametrize("hidden", ["labels of unlabelled cases", "test cases"])
def test_what_must_not_be_seen_changes_nothing(tmp_path: Path, hidden: str) -> None:
    """Found in images/ and labels/, trained with a generalist whose trust is measured, layers and report written."""
    weights = []
    for readable in (True, False):
        folder = tmp_path / str(readable)
        made = tiny_cohort(folder)
        if not readable:
            for case in made.test if hidden == "test cases" else made.unlabeled:
                assert case.label is not None
                case.label.write_bytes(b"unreadable")
                if hidden == "test cases":
                    case.images[0].write_bytes(b"unreadable")
        found = Cohort.from_folder(folder, labeled=1, test=[made.test[0].name])
        assert [case.role for case in found.cases] == [case.role for case in made.cases]
        config = tiny_config(
            iterations=6, generalists=("random-walker",), validate_every=3, layers=None, collaboration_every=1
        )
        weights.append(weights_of(train(found, config, tmp_path / f"run-{readable}").path))
    assert weights[0] == weights[1]


# -- refused


def test_a_folder_with_other_things_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "heart" / "images").mkdir(parents=True)
    (tmp_path / "heart" / "cohort.json").touch()
    with pytest.raises(RunFolderError, match=r"heart: already contains 'images'") as error:
        train(cohort, tiny_config(iterations=2), tmp_path / "heart")
    assert "--run" in error.value.remedy
    assert sorted(path.name for path in (tmp_path / "heart").iterdir()) == ["cohort.json", "images"]


def test_a_folder_that_someone_works_in_is_refused(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JobFolder(tmp_path / "run")
    job.acquire("predict").close()
    with pytest.raises(RunFolderError, match="predict job is running"):
        train(cohort, tiny_config(iterations=2), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    job.release()
    train(cohort, tiny_config(iterations=2), tmp_path / "run")
    with pytest.raises(RunFolderError, match="already holds a run") as error:
        train(cohort, tiny_config(iterations=2), tmp_path / "run")
    assert "resume" in error.value.remedy


def _refused(cohort: Cohort, tmp_path: Path, kind: type[SemiSAMPlusError], match: str, **settings: Any) -> str:
    """Train, expect an error and no trace of a run, and return the remedy."""
    with pytest.raises(kind, match=match) as error:
        train(cohort, tiny_config(**settings), tmp_path / "runs" / "run")
    assert not (tmp_path / "runs").exists()
    return error.value.remedy


@pytest.mark.parametrize("device", ["cuda:93", "gpu", "abacus"])
def test_an_unknown_device_is_refused_with_those_there_are(cohort: Cohort, tmp_path: Path, device: str) -> None:
    assert "cpu" in _refused(cohort, tmp_path, DeviceError, device, device=device)


def test_too_little_memory_is_refused_with_a_smaller_step(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "free_memory", lambda device: 10_000_000)
    match = "patch 16 16 16 and batch 2 does not fit on cpu.*0.0 GB are free"
    assert "--batch 1" in _refused(cohort, tmp_path, DeviceError, match, batch=2)
    assert "--patch" in _refused(cohort, tmp_path, DeviceError, "batch 1", batch=1, patch=(24, 32, 24))


def test_a_full_disk_is_refused(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(run_module.shutil, "disk_usage", lambda path: usage)
    _refused(cohort, tmp_path, RunFolderError, "5 MB are free")


@pytest.mark.parametrize("where", ["step", "seconds_per_iteration"])
@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")]
)
def test_memory_that_ends_on_the_way_is_said_with_a_smaller_step(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def fail(_: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, where, fail)
    minutes = 1.0 if where == "seconds_per_iteration" else None
    with pytest.raises(DeviceError, match="16 16 16") as caught:
        train(cohort, tiny_config(minutes=minutes, batch=2), tmp_path / "run")
    assert "--batch 1" in caught.value.remedy
    (event,) = _events(RunFolder(tmp_path / "run"), "error")
    assert event["what"] == caught.value.what


@pytest.mark.parametrize("ends", ["goes on", "is stopped"])
def test_a_training_that_diverges_says_so_and_keeps_its_last_good_checkpoint(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    def diverge(trainer: Trainer) -> None:
        with torch.no_grad():
            next(iter(trainer.method.trained_parameters())).mul_(float("nan"))

    def overtake(trainer: Trainer) -> None:
        if ends == "is stopped":
            trainer.folder.ask_to_stop()

    _after(monkeypatch, 5, diverge)
    _after(monkeypatch, 6, overtake)
    with pytest.raises(DivergenceError, match=r"diverged: by iteration \d+ the loss 'supervised'") as caught:
        train(cohort, tiny_config(iterations=40, checkpoint_every=4, validate_every=8), tmp_path / "run")
    assert "--learning-rate (it was 0.001)" in caught.value.remedy
    run = RunFolder(tmp_path / "run")
    (event,) = _events(run, "error")
    assert event["what"] == caught.value.what
    assert trainer_module.load_checkpoint(run.checkpoints / "last.pt")["iteration"] == 4
    assert not (run.specialist / "model.json").exists()


def test_a_loss_that_left_the_weights_finite_stops_nothing(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step
    broken = {"supervised": torch.tensor(float("inf"))}
    monkeypatch.setattr(
        Trainer, "step", lambda trainer: {**step(trainer), **(broken if trainer.iteration == 3 else {})}
    )
    run = train(cohort, tiny_config(iterations=6), tmp_path / "run")
    assert _events(run, "finished")[-1]["reason"] == "done"


def test_a_faulty_cohort_is_refused_with_all_its_faults(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "cohort")
    cohort.unlabeled[0].images[0].write_bytes(b"junk")
    cohort.unlabeled[1].images[0].unlink()
    with pytest.raises(CohortError) as error:
        train(cohort, tiny_config(), tmp_path / "run")
    assert len(error.value.faults) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "mean-student"}, "mean-student"),
        ({"specialist": "unet4d"}, "unet4d"),
        ({"generalists": ("no-such",)}, "no-such"),
        ({"layers": ("nobody",)}, "nobody"),
        ({"layers": ("phantom-05",)}, "phantom-05"),
        ({"specialist": "swinunetr"}, "swinunetr"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_made(
    cohort: Cohort, tmp_path: Path, settings: dict[str, Any], match: str
) -> None:
    _refused(cohort, tmp_path, SemiSAMPlusError, match, **settings)


def test_without_unlabelled_cases_only_supervised_trains(cohort: Cohort, tmp_path: Path) -> None:
    alone = replace(cohort, cases=cohort.labeled)
    assert "supervised" in _refused(alone, tmp_path, ConfigError, "no unlabelled cases")
    config = tiny_config(iterations=2, method="supervised", generalists=("random-walker",))
    assert train(alone, config, tmp_path / "run").report.exists()


# -- minutes


def test_minutes_become_iterations_and_leave_the_training_as_it_was(cohort: Cohort, tmp_path: Path) -> None:
    timed = train(cohort, tiny_config(minutes=0.005, iterations=50), tmp_path / "timed")
    count = timed.describe()["iterations"]
    assert count >= 10
    assert _events(timed, "progress")[-1]["iterations"] == count
    counted = train(cohort, tiny_config(iterations=count), tmp_path / "counted")
    assert weights_of(timed.path) == weights_of(counted.path)


def test_more_minutes_are_more_iterations_and_a_resumed_run_keeps_its_count(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "seconds_per_iteration", lambda self: 1.0)
    run = _stopped(monkeypatch, cohort, tiny_config(minutes=0.25), tmp_path / "run")
    assert run.describe()["iterations"] == pytest.approx(15, abs=3)
    monkeypatch.setattr(Trainer, "seconds_per_iteration", lambda self: pytest.fail("measured again"))
    resume(run.path)
    assert _events(run, "finished")[-1]["iteration"] == run.describe()["iterations"]


@pytest.mark.parametrize("iterations", [1, 3])
def test_minutes_work_whatever_the_iterations_are(cohort: Cohort, tmp_path: Path, iterations: int) -> None:
    run = train(cohort, tiny_config(minutes=0.001, iterations=iterations), tmp_path / "run")
    assert run.describe()["iterations"] == 10


@pytest.mark.parametrize(("weights", "count", "rate"), [("pretrained", 2400, 1e-3), ("random", 5000, 3e-3)])
def test_a_network_that_has_learned_before_trains_for_less_and_gently(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, count: int, rate: float
) -> None:
    rates = []

    def note_and_stop(trainer: Trainer) -> None:
        rates.append(trainer.learning_rate)
        trainer.folder.ask_to_stop()

    for iteration in (1, 2):
        _after(monkeypatch, iteration, note_and_stop)
    config = tiny_config(iterations=None, initial_weights=weights)
    first = train(cohort, config, tmp_path / "first")
    assert first.describe()["iterations"] == _events(first, "progress")[-1]["iterations"] == count
    second = train(cohort, config, tmp_path / "second", start_from=first.path)
    assert second.describe()["iterations"] == 2400
    resume(second.path)
    assert rates == [rate, 1e-3, 1e-3]


def test_the_learning_rate_falls_from_what_was_set_towards_nothing(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    for iteration in range(1, 5):
        _after(monkeypatch, iteration, lambda trainer: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    train(cohort, tiny_config(iterations=4, learning_rate=2e-3), tmp_path / "run")
    assert rates == pytest.approx([2e-3 * (left / 4) ** 0.9 for left in (4, 3, 2, 1)])


def test_a_step_looks_once_and_what_a_user_is_shown_is_a_mean_of_looks(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[float, ...]] = []
    average = specialist_module.average_over_scales

    def noted(*args: Any, scales: tuple[float, ...], **others: Any) -> torch.Tensor:
        looked.append(scales)
        return average(*args, scales=scales, **others)

    monkeypatch.setattr(specialist_module, "average_over_scales", noted)
    of_steps: list[tuple[float, ...]] = []
    _after(monkeypatch, 2, lambda _: of_steps.extend(looked))
    train(cohort, tiny_config(iterations=2, layers=("phantom-02",)), tmp_path / "run")
    assert set(of_steps) == {()}
    assert set(looked[len(of_steps) :]) == {FURTHER_SCALES}


# -- from another run


def test_a_corrected_case_is_trained_on_from_another_run(cohort: Cohort, tmp_path: Path) -> None:
    first = train(cohort, tiny_config(iterations=3), tmp_path / "first")
    corrected = with_case(cohort, replace(cohort.unlabeled[0], role=Role.LABELED))
    config = tiny_config(iterations=1, learning_rate=1e-12, weight_decay=0.0, patch=None)
    second = train(corrected, config, tmp_path / "second", start_from=first.path)
    assert Specialist.load(second.path).plan == Specialist.load(first.path).plan
    states = [Specialist.load(run.path).network.state_dict() for run in (first, second)]
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert second.describe()["started_from"] == str(first.path)
    assert "2 labelled" in " ".join(event["text"] for event in _events(second, "message"))


def test_a_broken_run_that_started_from_another_starts_from_it_again(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(cohort, tiny_config(iterations=3), tmp_path / "first")
    config = tiny_config(iterations=4)
    whole = train(cohort, config, tmp_path / "whole", start_from=first.path / "specialist")
    with monkeypatch.context() as patch:
        _after(patch, 2, _break)
        with pytest.raises(ZeroDivisionError):
            train(cohort, config, tmp_path / "broken", start_from=first.path / "specialist")
    resume(tmp_path / "broken")
    assert weights_of(tmp_path / "broken") == weights_of(whole.path)
    assert weights_of(whole.path) != weights_of(train(cohort, config, tmp_path / "fresh").path)


def test_a_broken_run_does_not_begin_again_with_other_weights(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = (train(cohort, tiny_config(iterations=n), tmp_path / f"{n}") for n in (1, 2))
    with monkeypatch.context() as patch:
        _after(patch, 1, _break)
        with pytest.raises(ZeroDivisionError):
            train(cohort, tiny_config(), tmp_path / "broken", start_from=first.path)
    shutil.copytree(other.specialist, first.specialist, dirs_exist_ok=True)
    with pytest.raises(RunFolderError, match="has weights with SHA256"):
        resume(tmp_path / "broken")


def test_what_does_not_fit_is_no_start(cohort: Cohort, tmp_path: Path) -> None:
    first = train(cohort, tiny_config(iterations=1), tmp_path / "first")
    renamed = replace(cohort, classes=(Class("ventricle", (1,)),))
    cases: list[tuple[Cohort, dict[str, Any], Path, type[SemiSAMPlusError], str]] = [
        (renamed, {}, first.path, ConfigError, "atrium.*ventricle"),
        (cohort, {"specialist": "segresnet"}, first.path, ConfigError, "unet3d.*segresnet"),
        (cohort, {"patch": (24, 24, 24)}, first.path, ConfigError, "patch"),
        (cohort, {"spacing": 1.0}, first.path, ConfigError, "spacing"),
        (cohort, {"size": "large"}, first.path, ConfigError, "size"),
        (cohort, {"intensity": "pet"}, first.path, ConfigError, "intensity"),
        (cohort, {}, tmp_path / "nowhere", WeightsError, "nowhere"),
    ]
    for given, settings, start, kind, match in cases:
        with pytest.raises(kind, match=match):
            train(given, tiny_config(**settings), tmp_path / "second", start_from=start)
        assert not (tmp_path / "second").exists()


# -- validation


def _scripted(monkeypatch: pytest.MonkeyPatch, *dice: float) -> None:
    """Let validations find these Dice, one after the other."""
    scores = iter(dice)
    monkeypatch.setattr(trainer_module, "validate", lambda specialist, cases: {"atrium": next(scores)})


def test_the_best_on_held_out_cases_is_kept(validated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _scripted(monkeypatch, 0.2, 0.9, 0.5, 0.4)
    run = train(validated, tiny_config(iterations=8, validate_every=2), tmp_path / "run")
    metrics = _events(run, "metrics")
    assert [event["best"] for event in metrics] == [True, True, False, False]
    assert {event["on"] for event in metrics} == {"validation"}
    assert json.loads((run.specialist / "model.json").read_text(encoding="utf-8"))["iteration"] == 4
    with monkeypatch.context() as patch:
        _after(patch, 4, lambda trainer: trainer.folder.ask_to_stop())
        _scripted(patch, 0.2, 0.9)
        early = train(validated, tiny_config(iterations=8, validate_every=2), tmp_path / "early")
    _scripted(monkeypatch, 0.5, 0.4)
    resume(early.path)  # It remembers which was best.
    assert weights_of(early.path) == weights_of(run.path)


def test_trust_is_measured_beside_the_specialist_that_is_kept(
    validated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second validation finds the best; what is trusted later, beside others, is not what predictions are refined by."""
    monkeypatch.setattr(run_module, "create_generalist", lambda spec, device: FakeGeneralist(noise))
    beside = []

    def measure(
        self: Collaboration, cache: Any, cohort: Cohort, specialist: Specialist, iteration: int, **_: Any
    ) -> Any:
        beside.append(specialist.about["iteration"])
        self.trust = {"fake": len(beside) / 100}
        return {"trust": dict(self.trust)}

    monkeypatch.setattr(Collaboration, "measure_trust", measure)
    _scripted(monkeypatch, 0.2, 0.9, 0.5, 0.4)
    config = tiny_config(iterations=8, validate_every=2, generalists=("fake",), collaboration_start=0.0)
    run = train(validated, config, tmp_path / "run")
    about = Specialist.load(run.path).about
    assert (about["iteration"], beside[-1]) == (4, 4)
    assert about["collaboration"]["trust"] == {"fake": len(beside) / 100}
    assert _events(run, "trust")[-1]["trust"] == about["collaboration"]["trust"]
    beside.clear()
    _scripted(monkeypatch, 0.2, 0.4, 0.5, 0.9)
    last = train(validated, config, tmp_path / "last")
    assert beside.count(8) == 1  # The last is the best: it was measured beside it, and is not again.
    assert Specialist.load(last.path).about["collaboration"]["trust"] == _events(last, "trust")[-1]["trust"]


def test_without_held_out_cases_the_last_is_kept_and_it_is_said(cohort: Cohort, tmp_path: Path) -> None:
    run = train(cohort, tiny_config(iterations=4, validate_every=2), tmp_path / "run")
    assert json.loads((run.specialist / "model.json").read_text(encoding="utf-8"))["iteration"] == 4
    assert any("No cases are held out" in event["text"] for event in _events(run, "message"))


def test_held_out_cases_that_show_no_structure_choose_nothing(
    validated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "validate", lambda specialist, cases: {"atrium": None})
    run = train(validated, tiny_config(iterations=8, validate_every=2, patience=2), tmp_path / "run")
    assert _events(run, "finished")[-1]["iteration"] == 8
    assert not any(event["best"] for event in _events(run, "metrics"))
    assert json.loads((run.specialist / "model.json").read_text(encoding="utf-8"))["iteration"] == 8


def test_patience_stops_early(validated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _scripted(monkeypatch, 0.2, 0.9, 0.5, 0.4, 0.3)
    run = train(validated, tiny_config(iterations=20, validate_every=2, patience=2), tmp_path / "run")
    (finished,) = _events(run, "finished")
    assert (finished["reason"], finished["iteration"]) == ("done", 8)
    assert json.loads((run.specialist / "model.json").read_text(encoding="utf-8"))["iteration"] == 4
    assert any("Stopped early" in event["text"] for event in _events(run, "message"))


def test_a_run_that_broke_after_it_stopped_early_does_not_train_on(
    validated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted(monkeypatch, 0.9, 0.5, 0.4, 0.95)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "export", _break)
        with pytest.raises(ZeroDivisionError):
            train(validated, tiny_config(iterations=20, validate_every=2, patience=2), tmp_path / "run")
    run = resume(tmp_path / "run")
    assert _events(run, "finished")[-1]["iteration"] == 6
    assert json.loads((run.specialist / "model.json").read_text(encoding="utf-8"))["iteration"] == 2


# -- layers


def test_layers_of_chosen_cases_lie_on_their_own_grids(tmp_path: Path) -> None:
    """Of a case with an odd name, and of one whose scan lies otherwise in its file."""
    cohort = tiny_cohort(tmp_path / "cohort")
    odd = replace(cohort.unlabeled[0], name="Fall Ä: 1/2")
    turned = cohort.unlabeled[1]
    image = sitk.PermuteAxes(sitk.ReadImage(str(turned.images[0])), [2, 0, 1])
    sitk.WriteImage(image, str(turned.images[0]), useCompression=True)
    cohort = replace(cohort, cases=tuple(odd if case == cohort.unlabeled[0] else case for case in cohort.cases))
    config = tiny_config(
        iterations=2, layers=(odd.name, turned.name), generalists=("random-walker",), trust=0.5, validate_every=1
    )
    run = train(cohort, config, tmp_path / "run")
    assert sorted(path.name for path in (run.path / "layers").iterdir()) == sorted(
        run.layers(name).name for name in (odd.name, turned.name)
    )
    assert {(event["iteration"], event["case"]) for event in _events(run, "layers")} == {
        (iteration, name) for iteration in (1, 2) for name in (odd.name, turned.name)
    }
    for event in _events(run, "layers"):
        assert (run.path / event["folder"]).is_dir()
        assert "\\" not in event["folder"]
    for case in (odd, turned):
        folder, own = run.layers(case.name), Grid.of(read_image(case.images[0]))
        labels, grid = read_segmentation(folder / "prediction.seg.nrrd", cohort.classes)[:2]
        uncertainty, other, source = read_uncertainty(folder / "uncertainty.nii.gz")
        assert labels.shape == uncertainty.shape == own.shape
        for one in (grid, other):
            corners = np.array([[0, 0, 0], np.array(own.shape) - 1])
            np.testing.assert_allclose(one.to_physical(corners), own.to_physical(corners), atol=1e-3)
        assert uncertainty.min() >= 0
        assert uncertainty.max() <= 1
        assert source.startswith("predictive entropy")
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        assert (about["case"], about["iteration"], about["uncertainty"]) == (case.name, 2, source)
        inside = uncertainty[labels > 0]
        assert about["mean_uncertainty"] == pytest.approx((inside if inside.size else uncertainty).mean(), abs=1e-3)
        assert "dice" not in about
        prompts = read_prompts(folder / "prompts.mrk.json")
        assert len(prompts.points) == len(prompts.labels) == len(prompts.class_names)


def test_layers_of_a_labelled_case_say_its_dice(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "cohort")
    case = cohort.labeled[0]
    run = train(cohort, tiny_config(iterations=1, layers=(case.name,), validate_every=1), tmp_path / "run")
    about = json.loads((run.layers(case.name) / "about.json").read_text(encoding="utf-8"))
    metrics = next(event for event in run.events() if event["event"] == "metrics")
    assert about["dice"] == metrics["dice"]  # It is the only case that is validated on.


def _two_of_each(folder: Path) -> Cohort:
    """Write a cohort of two channels, the second inverted, and two classes, the upper and the lower half."""
    cohort = tiny_cohort(folder)
    cases = []
    for case in cohort.cases:
        image = sitk.ReadImage(str(case.images[0]))
        inverted = folder / "inverted" / case.images[0].name
        inverted.parent.mkdir(exist_ok=True)
        sitk.WriteImage(1000 - image, str(inverted))
        label = sitk.ReadImage(str(case.label))
        array = sitk.GetArrayFromImage(label)
        array[: int(np.argwhere(array)[:, 0].mean())] *= 2
        grid = Grid.of(label)
        sitk.WriteImage(grid.image(array), str(case.label))
        cases.append(replace(case, images=(*case.images, inverted)))
    return Cohort(tuple(cases), (Class("upper", (1,)), Class("lower", (2,))), ("T1", "T2"))


def test_two_classes_and_two_channels_end_to_end(tmp_path: Path) -> None:
    cohort = _two_of_each(tmp_path / "cohort")
    config = tiny_config(
        iterations=8, generalists=("random-walker",), trust=1.0, layers=None, validate_every=8, collaboration_every=1
    )
    run = train(cohort, config, tmp_path / "run")
    (metrics,) = _events(run, "metrics")
    assert set(metrics["dice"]) == {"upper", "lower"}
    specialist = Specialist.load(run.path)
    assert (specialist.channels, [c.name for c in specialist.classes]) == (("T1", "T2"), ["upper", "lower"])
    prediction = specialist.predict(cohort.test[0].images)
    assert set(np.unique(prediction.labels)) <= {0, 1, 2}
    assert prediction.grid == Grid.of(read_image(cohort.test[0].images[0]))
    with pytest.raises(SemiSAMPlusError, match=r"1 image.*expected 2"):
        specialist.predict(cohort.test[0].images[:1])


def test_training_teaches(cohort: Cohort, tmp_path: Path) -> None:
    """Not only numbers come and go: the Dice of the labelled case rises well above where it began."""
    run = train(cohort, tiny_config(iterations=60, method="supervised", ema=0.8, validate_every=5), tmp_path / "run")
    dice = [event["dice"]["atrium"] for event in _events(run, "metrics")]
    assert max(dice[-3:]) > dice[0] + 0.2
