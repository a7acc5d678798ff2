"""The folder of a job: one living owner at a time, a graceful stop, and names that every system takes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from SemiSAMPlusLib.errors import RunFolderError
from SemiSAMPlusLib.run import folder as folder_module
from SemiSAMPlusLib.run.files import replacing, write_text_atomically
from SemiSAMPlusLib.run.folder import JobFolder, RunFolder, safe_id


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "Übung 1" / "run")


def _write_owner(job: JobFolder, **values: object) -> None:
    job.path.mkdir(parents=True, exist_ok=True)
    job.job_file.write_text(json.dumps({"kind": "train", **values}), encoding="utf-8")


# -- ownership


def test_the_owner_says_who_it_is_and_that_it_ended(job: JobFolder) -> None:
    assert job.owner() is None
    assert not job.is_running()
    job.acquire("train").close()
    owner = job.owner()
    assert owner is not None
    assert (owner["kind"], owner["pid"], owner["host"]) == ("train", os.getpid(), socket.gethostname())
    assert job.is_running()
    assert JobFolder(job.path).is_running()
    job.release()
    assert not job.is_running()
    job.acquire("train").close()
    job.release()


def test_a_folder_with_a_living_owner_is_refused_and_left_alone(job: JobFolder) -> None:
    job.acquire("predict").close()
    before = sorted(path.name for path in job.path.iterdir())
    job.ask_to_stop()
    with pytest.raises(RunFolderError, match=f"predict job is running in it .process {os.getpid()} on") as error:
        JobFolder(job.path).acquire("train")
    assert "semisamplus stop" in error.value.remedy
    assert job.is_asked_to_stop()  # The request was meant for the owner.
    assert sorted(path.name for path in job.path.iterdir()) == sorted([*before, "stop"])
    job.release()


def test_the_heartbeat_goes_on_and_ends(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "HEARTBEAT_SECONDS", 0.05)
    job.acquire("train").close()
    first = job.owner()
    assert first is not None
    deadline = time.monotonic() + 5
    while job.owner()["heartbeat"] == first["heartbeat"] and time.monotonic() < deadline:  # type: ignore[index]
        time.sleep(0.02)
    later = job.owner()
    assert later is not None
    assert later["heartbeat"] > first["heartbeat"]
    assert later["started"] == first["started"]
    job.release()
    ended = job.owner()
    time.sleep(0.15)
    assert job.owner() == ended


def test_a_folder_is_taken_over_when_its_owner_died(job: JobFolder) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from SemiSAMPlusLib.run.folder import JobFolder\n"
        "JobFolder(Path(sys.argv[1])).acquire('train')\n"
        "print('mine', flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(job.path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "mine"
        assert job.is_running()
        with pytest.raises(RunFolderError, match=f"process {process.pid} "):
            job.acquire("train")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not job.is_running()
    job.acquire("train").close()
    assert job.owner()["pid"] == os.getpid()  # type: ignore[index]
    job.release()


def test_another_process_with_the_same_id_is_not_the_owner(job: JobFolder) -> None:
    process = psutil.Process()
    here = {"host": socket.gethostname(), "pid": process.pid, "heartbeat": time.time()}
    _write_owner(job, **here, process_started=process.create_time() - 1000)
    assert not job.is_running()
    _write_owner(job, **here, process_started=process.create_time())
    assert job.is_running()


def test_an_owner_on_another_host_lives_while_its_heartbeat_is_young(job: JobFolder) -> None:
    owner = {"host": "another-host", "pid": os.getpid(), "process_started": psutil.Process().create_time()}
    _write_owner(job, **owner, heartbeat=time.time() - 5)
    assert job.is_running()
    with pytest.raises(RunFolderError, match="another-host"):
        job.acquire("train")
    _write_owner(job, **owner, heartbeat=time.time() - 3600)
    assert not job.is_running()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"host": null}'])
def test_a_damaged_job_file_owns_nothing(job: JobFolder, text: str) -> None:
    job.path.mkdir(parents=True)
    job.job_file.write_text(text, encoding="utf-8")
    assert not job.is_running()
    job.acquire("train").close()
    job.release()


def test_two_that_start_at_once_see_each_other(job: JobFolder) -> None:
    job.path.mkdir(parents=True)
    (job.path / ".claim").touch()
    with pytest.raises(RunFolderError, match="another job is starting"):
        job.acquire("train")
    old = time.time() - 60  # Who claimed it was killed in that instant.
    os.utime(job.path / ".claim", (old, old))
    job.acquire("train").close()
    assert not (job.path / ".claim").exists()
    job.release()


def test_a_folder_that_cannot_be_made_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(RunFolderError, match="file"):
        JobFolder(tmp_path / "file" / "run").acquire("train")


# -- stop


def test_a_request_to_stop_is_for_who_works_now(job: JobFolder) -> None:
    job.acquire("train").close()
    assert not job.is_asked_to_stop()
    JobFolder(job.path).ask_to_stop()
    assert job.is_asked_to_stop()
    job.release()
    job.acquire("train").close()
    assert not job.is_asked_to_stop()
    job.release()


# -- a run


def test_a_description_is_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "Lauf é")
    run.write_description({"cohort": "Vorhof é", "numbers": [1, 2.5, None]})
    assert run.describe() == {"cohort": "Vorhof é", "numbers": [1, 2.5, None]}


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe", b"[1]"])
def test_a_folder_that_is_no_run_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    run = RunFolder(tmp_path / "holiday pictures")
    run.path.mkdir()
    (run.path / "beach.jpg").write_bytes(b"x")
    if content is not None:
        run.run_file.write_bytes(content)
    with pytest.raises(RunFolderError, match="holiday pictures"):
        run.describe()
    with pytest.raises(RunFolderError, match="holiday pictures"):
        run.delete()
    assert (run.path / "beach.jpg").exists()


def test_a_description_that_lacks_what_is_needed_is_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.write_description({"format": 1})
    assert run.describe("format") == {"format": 1}
    with pytest.raises(RunFolderError, match=r"is not a run folder \(run\.json: has no 'cohort'\)"):
        run.describe("format", "cohort")


def test_a_run_is_deleted_wholly_but_not_while_it_runs(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.write_description({})
    events = run.acquire("train")
    with pytest.raises(RunFolderError, match="running"):
        run.delete()
    assert run.path.exists()
    events.close()
    run.release()
    run.delete()
    assert not run.path.exists()


# -- names and files


@pytest.mark.parametrize("name", ["LA_001", "case-7", "phantom-01", "0", "A" * 48])
def test_a_plain_name_stays(name: str) -> None:
    assert safe_id(name) == name


ODD = [
    *(
        "a b",
        "a/b",
        "a\\b",
        "../up",
        "..",
        ".",
        "",
        " ",
        "Fall Ä",
        "Fall Ö",
        "心",
        "con",
        "NUL",
        "com1",
        "lpt9",
        "x" * 200,
    ),
    *("x" * 201, "a:b", "a*b", "case.", "case ", "a\nb", "-", "a_b"),
]


def test_odd_names_become_file_names_that_differ_and_every_system_takes() -> None:
    ids = [safe_id(name) for name in ODD]
    assert len(set(ids)) == len(ODD)
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
    for one in ids:
        assert 0 < len(one) <= 64
        assert set(one) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
        assert one.lower() not in reserved


def test_layers_stay_inside_the_run_whatever_a_case_is_called(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in ODD:
        assert run.layers(name).parent == tmp_path / "layers"


def test_a_folder_is_not_replaced_by_a_file_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named").mkdir()
    monkeypatch.chdir(tmp_path)
    for folder in (Path("named"), Path(".")):
        with pytest.raises(OSError, match=r"named|irectory|denied"):
            write_text_atomically(folder, "new")
    assert [one.name for one in tmp_path.iterdir()] == ["named"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "volume.nii.gz"
    write_text_atomically(path, "old")

    def break_off() -> None:
        with replacing(path) as temporary:
            assert temporary.name.endswith(".volume.nii.gz")  # Writers choose their format by the suffix.
            temporary.write_text("half", encoding="utf-8")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert path.read_text(encoding="utf-8") == "old"
    write_text_atomically(path, "new é\n")
    assert path.read_bytes() == "new é\n".encode()
    assert [one.name for one in tmp_path.iterdir()] == ["volume.nii.gz"]


@pytest.mark.skipif(os.name == "nt", reason="Windows counts the folders of a path too")
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'ü' * 120}.nii.gz"
    write_text_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("kind", [RunFolder, JobFolder])
def test_a_new_owner_sweeps_out_nothing_of_others(tmp_path: Path, kind: type[JobFolder]) -> None:
    theirs = [tmp_path / ".20240131.notes.txt", tmp_path / "below" / ".deadbeef.notes.txt"]
    if kind is JobFolder:
        theirs.append(tmp_path / "below" / ".semisamplus-0badcafe.last.pt")  # Of another job, in a folder of its own.
    for path in theirs:
        write_text_atomically(path, "theirs")
        os.utime(path, (time.time() - 3600,) * 2)
    job = kind(tmp_path)
    job.acquire("train").close()
    job.release()
    assert all(path.exists() for path in theirs)


def test_a_new_owner_sweeps_out_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    job = RunFolder(tmp_path)
    with contextlib.ExitStack() as killed:
        old, young = (
            killed.enter_context(replacing(job.path / "checkpoints" / name)) for name in ("last.pt", "best.pt")
        )
        others = [job.path / "checkpoints" / "last.pt", job.path / ".DS_Store", job.path / ".claims.json"]
        for path in (old, *others):
            path.write_text("half", encoding="utf-8")
            os.utime(path, (time.time() - 3600,) * 2)
        job.acquire("train").close()
        job.release()

        assert not old.exists()
        assert young.exists()
        assert all(path.exists() for path in others)
        old.touch()  # The writer that was killed is alive here, and wants to end well.


def test_a_file_may_be_read_by_whom_new_files_may_be_read_by(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    usual = tmp_path / "usual"
    usual.touch()
    with replacing(tmp_path / "weights.safetensors") as temporary:
        save_file({"a": zeros(1)}, temporary)
    assert (tmp_path / "weights.safetensors").stat().st_mode == usual.stat().st_mode


def test_a_reader_that_holds_the_old_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a file that someone reads cannot be replaced."""
    really, refused = os.replace, iter([True, True])

    def replace(source: Path, target: Path) -> None:
        if next(refused, False):
            raise PermissionError("held by a reader")
        really(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_text_atomically(tmp_path / "layer.json", "new")
    assert (tmp_path / "layer.json").read_text(encoding="utf-8") == "new"


def test_without_psutil_a_job_is_judged_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In Slicer nothing is installed at first, and runs are looked for all the same.
    monkeypatch.setitem(sys.modules, "psutil", None)
    folder = JobFolder(tmp_path)
    for age, living in ((1.0, True), (3600.0, False)):
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "heartbeat": time.time() - age}
        folder.job_file.write_text(json.dumps(owner), encoding="utf-8")
        assert folder.is_running() is living
