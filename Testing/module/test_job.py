"""Real child processes: started detached, read a piece at a time, stopped, ended with all their children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from locked import locked
from SemiSAMPlusPanel import job as jobs
from SemiSAMPlusPanel.job import ChildJob, WatchedJob, child_environment, library_command

from SemiSAMPlusLib.errors import RunFolderError, SemiSAMPlusError
from SemiSAMPlusLib.run.folder import JobFolder

ROOT = Path(__file__).resolve().parents[2]
#: How long to wait for what takes a moment, in seconds; only a fault waits so long.
PATIENCE = 30.0

#: Owns its folder, says that it began, and works until it is asked to stop.
WORKER = """
import sys, time
from pathlib import Path
from SemiSAMPlusLib.run.folder import JobFolder
folder = JobFolder(Path(sys.argv[1]))
events = folder.acquire("train")
events.write("started", device="cpu", iterations=3)
while not folder.is_asked_to_stop():
    time.sleep(0.02)
events.write("finished", reason="stopped", iteration=1)
events.close()
folder.release()
print("ended")
"""


def start(folder: Path, code: str, *arguments: str) -> ChildJob:
    return ChildJob(arguments, folder, command=[sys.executable, "-c", code])


def poll_until(job: Any, condition: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"never came; printed: {job.output_tail()}"
        job.poll()
        time.sleep(0.01)


def ended(job: Any) -> list[Any]:
    told: list[Any] = []
    job.ended.connect(told.append)
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "Läufe mit Abstand" / "run"


@pytest.fixture
def worker(folder: Path) -> Iterator[ChildJob]:
    job = start(folder, WORKER, str(folder))
    yield job
    job.kill()


def test_what_it_says_and_prints_is_told_and_kept(folder: Path) -> None:
    job = start(folder, "import sys; print('Grüße', sys.argv[1])", "ä b")
    told = ended(job)
    poll_until(job, lambda: told)
    assert told == [job]
    assert job.output_tail() == ["Grüße ä b"]
    assert job.failure() is None
    job.poll()
    assert told == [job], "the end is told once"


def test_events_are_told_in_order_and_the_end_after_the_last(worker: ChildJob) -> None:
    told: list[Any] = []
    worker.happened.connect(lambda events: told.extend(event["event"] for event in events))
    worker.ended.connect(lambda _: told.append("ended"))
    poll_until(worker, lambda: "started" in told)
    worker.stop()
    poll_until(worker, lambda: "ended" in told)
    assert told == ["started", "finished", "ended"]
    assert worker.failure() is None


def test_a_wish_to_stop_before_it_has_begun_is_not_lost(folder: Path) -> None:
    # Whoever takes a folder over clears it of earlier wishes, and so would clear this one.
    job = start(folder, "import time; time.sleep(0.3)\n" + WORKER, str(folder))
    job.stop()
    told = ended(job)
    poll_until(job, lambda: told)
    assert JobFolder(folder).events()[-1]["reason"] == "stopped"


def test_the_environment_is_the_childs_alone(folder: Path) -> None:
    before = dict(os.environ)
    code = "import os, sys, SemiSAMPlusLib; print(os.environ['PYTHONUTF8'], os.environ['PYTHONUNBUFFERED'], sys.flags.utf8_mode)"
    job = start(folder, code)
    told = ended(job)
    poll_until(job, lambda: told)
    assert job.output_tail() == ["1 1 1"]
    assert dict(os.environ) == before


def test_the_library_is_found_from_anywhere(tmp_path: Path) -> None:
    environment = child_environment()
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    result = subprocess.run(
        [*library_command(), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "resume" in result.stdout


def test_pythonslicer_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.shutil, "which", lambda name: None)
    assert library_command() == [sys.executable, "-m", "SemiSAMPlusLib"]
    monkeypatch.setattr(jobs.shutil, "which", lambda name: f"/slicer/bin/{name}")
    assert library_command() == ["/slicer/bin/PythonSlicer", "-m", "SemiSAMPlusLib"]


@pytest.mark.skipif(os.name != "posix", reason="sessions are a thing of POSIX")
def test_it_does_not_belong_to_our_session_and_goes_after_slicer(worker: ChildJob) -> None:
    assert os.getsid(worker.pid) == worker.pid != os.getsid(0)
    assert os.getpriority(os.PRIO_PROCESS, worker.pid) > os.getpriority(os.PRIO_PROCESS, 0)


def test_killing_ends_children_and_grandchildren(folder: Path) -> None:
    # As a launcher does: the process that works is its child, and that one has workers.
    code = """
import subprocess, sys, time
depth = int(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]]) if depth else None
if child is not None: print("child", child.pid, flush=True)
time.sleep(60)
"""
    job = start(folder, code, "2", code)
    until = time.monotonic() + PATIENCE
    while len(job.output_tail()) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    family = [psutil.Process(pid) for pid in [job.pid, *(int(line.split()[1]) for line in job.output_tail())]]
    job.kill()
    told = ended(job)
    poll_until(job, lambda: told)
    _gone, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert job.failure() is None, "what the user ended has not failed"


#: As Slicer's launcher does: the one that works is a child, here one that has left the family.
LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], start_new_session=True)
"""


def test_a_launcher_may_die_before_the_one_that_works(folder: Path) -> None:
    job = start(folder, LAUNCHER + "import time; time.sleep(1)", WORKER, str(folder))
    poll_until(job, lambda: job.folder.is_running())
    worker = psutil.Process(job.folder.owner()["pid"])
    assert worker.pid != job.pid
    poll_until(job, lambda: not psutil.pid_exists(job.pid))
    assert job.is_running()
    told = ended(job)
    job.kill()
    poll_until(job, lambda: told)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert not job.folder.is_running()


def test_the_dead_are_cleared_away(folder: Path) -> None:
    job = start(folder, "pass")
    told = ended(job)
    poll_until(job, lambda: told)
    assert not psutil.pid_exists(job.pid), "a zombie was left"


def test_an_error_in_an_event_is_told_with_its_remedy_and_log(folder: Path) -> None:
    code = """
import sys
from pathlib import Path
from SemiSAMPlusLib.run.folder import JobFolder
events = JobFolder(Path(sys.argv[1])).acquire("train")
events.write("error", what="The disk is full.", remedy="Make room.", log=str(Path(sys.argv[1]) / "log.txt"))
sys.exit(1)
"""
    job = start(folder, code, str(folder))
    told = ended(job)
    poll_until(job, lambda: told)
    assert job.failure() == ("The disk is full.", "Make room.", folder / "log.txt")


def test_an_error_before_the_folder_was_owned_is_read_from_what_it_printed(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "output.txt").write_text("Error: of another time\nForget it.\n", encoding="utf-8")
    code = "import sys; print('Getting ready'); print('Error: The cohort has 2 faults:\\n  1. A\\n  2. B\\nMend it.'); sys.exit(1)"
    job = start(folder, code)
    told = ended(job)
    poll_until(job, lambda: told)
    assert job.failure() == ("The cohort has 2 faults:\n  1. A\n  2. B", "Mend it.", folder / "output.txt")


def test_the_librarys_own_complaint_is_understood(folder: Path) -> None:
    job = ChildJob(["train", str(folder / "no-cohort.json"), "--run", str(folder)], folder)
    told = ended(job)
    poll_until(job, lambda: told)
    what, remedy, _log = job.failure()
    assert "no-cohort.json" in what
    assert "semisamplus cohort" in remedy


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; print('half a word'); sys.exit(3)", "exit code 3: half a word"),
        ("import a_package_that_is_not_there", "a_package_that_is_not_there"),
        ("import os; os.kill(os.getpid(), 9)", "exit code"),
    ],
    ids=["silent", "missing-package", "killed"],
)
def test_a_death_without_an_error_is_told_too(folder: Path, code: str, expected: str) -> None:
    if "os.kill" in code and os.name == "nt":
        pytest.skip("Windows has no signals")
    job = start(folder, code)
    told = ended(job)
    poll_until(job, lambda: told)
    what, remedy, log = job.failure()
    assert expected in what
    assert remedy
    assert log == folder / "output.txt"


def test_what_cannot_be_started_is_refused_in_words(folder: Path) -> None:
    with pytest.raises(SemiSAMPlusError, match="no-such-program") as error:
        ChildJob([], folder, command=["no-such-program"])
    assert error.value.remedy


def test_a_folder_in_which_another_works_is_left_alone(worker: ChildJob, folder: Path) -> None:
    poll_until(worker, lambda: worker.folder.is_running() and (folder / "events.jsonl").exists())
    before = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.name != "job.json")
    with pytest.raises(RunFolderError, match="another job is running"):
        start(folder, "print('mine')")
    after = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.name != "job.json")
    assert after == before


def test_a_second_job_reads_only_its_own_events(folder: Path) -> None:
    for _ in range(2):
        job = start(folder, WORKER, str(folder))
        told: list[str] = []
        job.happened.connect(lambda events, told=told: told.extend(event["event"] for event in events))
        over = ended(job)
        job.stop()
        poll_until(job, lambda over=over: over)
        assert told == ["started", "finished"]


# Jobs that someone else started


def test_someone_elses_job_is_watched_stopped_and_its_end_seen(worker: ChildJob, folder: Path) -> None:
    poll_until(worker, lambda: worker.folder.is_running())
    watched = WatchedJob(folder)
    told: list[Any] = []
    watched.happened.connect(lambda events: told.extend(event["event"] for event in events))
    over = ended(watched)
    poll_until(watched, lambda: "started" in told)
    assert watched.is_running()
    assert not over
    watched.stop()
    while worker.is_running():
        time.sleep(0.01)
    poll_until(watched, lambda: over)
    assert told == ["started", "finished"]
    assert watched.failure() is None


def test_someone_elses_job_can_be_ended(worker: ChildJob, folder: Path) -> None:
    poll_until(worker, lambda: worker.folder.is_running())
    watched = WatchedJob(folder)
    over = ended(watched)
    watched.kill()
    poll_until(watched, lambda: over)
    assert not worker.is_running()


def test_a_job_on_another_computer_is_not_ended_here(folder: Path) -> None:
    folder.mkdir(parents=True)
    owner = {"host": "cluster-7", "pid": os.getpid(), "process_started": 0, "heartbeat": time.time()}
    (folder / "job.json").write_text(json.dumps(owner), encoding="utf-8")
    watched = WatchedJob(folder)
    assert watched.is_running()
    with pytest.raises(RunFolderError, match="cluster-7"):
        watched.kill()


def write_events(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    event = {
        "event": "progress",
        "time": 0.0,
        "iteration": 1,
        "losses": {"supervised": 0.123, "pseudo": 0.2},
        "x": "x" * 100,
    }
    with (folder / "events.jsonl").open("a", encoding="ascii") as file:
        file.writelines(json.dumps({**event, "iteration": 10_000 + number}) + "\n" for number in range(count))


def test_one_poll_reads_no_more_than_its_share(folder: Path) -> None:
    write_events(folder, 10_000)
    size = (folder / "events.jsonl").stat().st_size
    watched = WatchedJob(folder)
    shares: list[int] = []
    watched.happened.connect(lambda events: shares.append(len(events)))
    over = ended(watched)
    watched.poll()
    assert watched.is_behind
    assert not over, "a dead job ends only when all it said is told"
    assert shares[0] < jobs.POLL_BYTES / (size / 10_000) + 1
    while not over:
        watched.poll()
    assert sum(shares) == 10_000
    assert max(shares) < 10_000 / 10
    assert not watched.is_behind


def test_a_folder_that_is_away_for_a_while_ends_nothing(folder: Path) -> None:
    write_events(folder, 3)
    owner = {"host": "cluster-7", "pid": 1, "heartbeat": time.time()}
    (folder / "job.json").write_text(json.dumps(owner), encoding="utf-8")
    watched = WatchedJob(folder)
    told: list[int] = []
    watched.happened.connect(lambda events: told.append(len(events)))
    over = ended(watched)
    began = time.monotonic()
    with locked(folder):
        watched.poll()
        assert watched.is_lost
        with pytest.raises(RunFolderError, match=r"cannot be asked to stop.*Ask whoever"):
            watched.stop()
    assert time.monotonic() - began < 2, "Slicer does not wait for it"
    assert (told, over) == ([], [])
    watched.poll()
    assert told == [3]
    assert watched.folder.is_asked_to_stop(), "the wish is not lost"
    assert not watched.is_lost
    assert not over


def test_an_earlier_error_is_forgotten_when_it_is_resumed(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines: Sequence[dict[str, Any]] = [
        {"event": "error", "what": "Out of memory.", "remedy": "Less."},
        {"event": "started", "device": "cpu"},
        {"event": "finished", "reason": "done"},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")
    watched = WatchedJob(folder)
    over = ended(watched)
    poll_until(watched, lambda: over)
    assert watched.failure() is None
