"""Downloads, by the Hub's real client, from a server on loopback that behaves well and badly."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import COMMIT, HubServer
from huggingface_hub import constants

from SemiSAMPlusLib.commands import main
from SemiSAMPlusLib.errors import WeightsError
from SemiSAMPlusLib.generalist import download as download_module
from SemiSAMPlusLib.generalist import hub_errors, inventory
from SemiSAMPlusLib.generalist.catalog import catalog
from SemiSAMPlusLib.generalist.download import download_weights, offer_weights
from SemiSAMPlusLib.generalist.inventory import remove_weights, verify_weights, weights_state
from SemiSAMPlusLib.generalist.weights import find_weights, hub_folder, quarantine_folder, read_pin
from SemiSAMPlusLib.run.events import read_events

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 4096  # 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER_COMMIT = "decade" * 6 + "deca"


def entry(name: str, **changes) -> dict:
    """One entry of a catalog, whole but for what ``changes`` says."""
    unknown = [] if changes.get("revision") == COMMIT else ["revision"]
    files = changes.get("files", [{"path": "tiny.pth", "size": len(CONTENT), "sha256": SHA256}])
    unknown += ["sha256"] if any(file["sha256"] is None for file in files) else []
    return {
        "name": name, "title": name.title(), "purpose": "Tests.", "modalities": ["any"], "anatomy": "nothing",
        "adapter": "sam-med3d", "package": None, "repository": "someone/tiny", "revision": "main", "last_change": None,
        "files": files, "unverified": unknown, "code_license": "MIT", "weights_license": "MIT", "citation": "Nobody.",
        "memory": 1, "contamination": None,
    } | changes  # fmt: skip


ENTRIES = [
    entry("tiny"),
    entry("fixed", revision=COMMIT),
    entry("unknown", files=[{"path": "tiny.pth", "size": None, "sha256": None}]),
    entry("unlicensed", weights_license=None),
    entry("noncommercial", weights_license="CC-BY-NC-SA-4.0", contamination="Trained on the test."),
    entry("gone", repository="someone/gone"),
    entry("no-file", files=[{"path": "other.pth", "size": 3, "sha256": SHA256}]),
    entry("replaced", files=[{"path": "tiny.pth", "size": 3, "sha256": "0" * 64}]),
    entry("imported", repository=None, revision=None, unverified=[]),
    entry(
        "several",
        files=[
            {"path": "model/fold_0/checkpoint.pth", "size": None, "sha256": SHA256},
            {"path": "model/plans.json", "size": None, "sha256": hashlib.sha256(b"{}").hexdigest()},
        ],
    ),
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The server, and an environment in which nothing else is known; folders with a space and letters of several scripts."""
    files = {
        "someone/tiny/tiny.pth": CONTENT,
        "someone/tiny/model/fold_0/checkpoint.pth": CONTENT,
        "someone/tiny/model/plans.json": b"{}",
    }
    own = tmp_path / "katalog ü.json"
    own.write_text(json.dumps({"format": "semisamplus-catalog-1", "generalists": ENTRIES}), encoding="utf-8")
    for name in list(os.environ):
        if name.upper().startswith(("HF_", "HUGGINGFACE", "SEMISAMPLUS")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    for name, value in {
        "HF_HOME": tmp_path / "hub é 心",
        "SEMISAMPLUS_CACHE": tmp_path / "cache é 心",
        "SEMISAMPLUS_CATALOG": own,
    }.items():
        monkeypatch.setenv(name, str(value))
    # What the client reads once, when it is imported; and nothing may leave this machine.
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(download_module, "_WAITS", (0.01, 0.02))
    catalog.cache_clear()
    with HubServer(files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
    catalog.cache_clear()


def leftovers() -> list[Path]:
    """What a transfer must never leave."""
    return [path for path in hub_folder().rglob("*") if path.name.endswith(".incomplete")]


def refused(name: str) -> WeightsError:
    """Download what cannot be had; nothing of it may be left."""
    with pytest.raises(WeightsError) as error:
        download_weights(name)
    assert leftovers() == []
    assert weights_state(name).state == "missing"
    return error.value


def child(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the command in a fresh process."""
    return subprocess.Popen(
        [sys.executable, "-m", "SemiSAMPlusLib", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONUTF8": "1", **variables}, encoding="utf-8",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


# Well


def test_what_arrives_is_the_file_of_the_pinned_commit(hub: HubServer) -> None:
    events: list[dict] = []
    path = download_weights("tiny", say=lambda kind, **values: events.append({"event": kind, **values}))
    assert path == hub_folder() / "models--someone--tiny" / "snapshots" / COMMIT / "tiny.pth"
    assert path.read_bytes() == CONTENT
    assert find_weights("tiny") == path
    assert read_pin(catalog()["tiny"]).commit == COMMIT
    texts = [event["text"] for event in events if event["event"] in ("message", "warning")]
    assert texts[0] == f"Tiny: 1 MB from {hub.url}/someone/tiny at {COMMIT}; licence: MIT."
    assert "Unverified: the catalog does not know the commit" in texts[1]
    assert len(hub.of_kind("content")) == 1
    # Again: nothing is asked and nothing is sent.
    before = len(hub.requests)
    assert download_weights("tiny") == path
    assert len(hub.requests) == before
    # Where its own client looks for it too: other users of the cache have it already.
    found = huggingface_hub.try_to_load_from_cache("someone/tiny", "tiny.pth", cache_dir=hub_folder(), revision=COMMIT)
    assert Path(found) == path


def test_an_offer_downloads_nothing(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    offer = offer_weights("several")
    assert (offer.size, offer.commit) == (len(CONTENT) + 2, COMMIT)
    assert main(["weights", "download", "noncommercial", "--dry-run"]) == 0
    assert "licence: weights: CC-BY-NC-SA-4.0; code: MIT." in capsys.readouterr().out
    assert hub.of_kind("content") == []
    assert not hub_folder().exists()


def test_several_files_arrive_as_the_repository_has_them(hub: HubServer) -> None:
    path = download_weights("several")
    assert path.parts[-3:] == ("model", "fold_0", "checkpoint.pth")
    assert (path.parents[1] / "plans.json").read_bytes() == b"{}"
    assert [one.fault for one in verify_weights("several")] == [None, None]


def test_progress_is_told(hub: HubServer) -> None:
    hub.behaviour.pause = 0.1
    events: list[dict] = []
    download_weights("tiny", say=lambda kind, **values: events.append({"event": kind, **values}))
    told = [event for event in events if event["event"] == "progress"]
    assert len(told) >= 3
    assert {event["file"] for event in told} == {"tiny.pth"}
    assert [event["bytes"] for event in told] == sorted(event["bytes"] for event in told)
    assert 0 < told[-1]["bytes"] < told[-1]["bytes_total"] == len(CONTENT)
    assert 1e5 < told[-1]["speed"] < 5e6
    assert 0 < told[-1]["seconds_left"] < 10


def test_a_pinned_commit_stays_when_the_branch_moves(hub: HubServer) -> None:
    path = download_weights("unknown")
    remove_weights("unknown")
    assert not path.exists()
    hub.files["someone/tiny/tiny.pth"] = b"another"
    error = refused("unknown")
    assert f"expected {SHA256}" in error.what
    hub.behaviour.commit = OTHER_COMMIT
    error = refused("unknown")
    assert "HTTP 404" in error.what
    assert "remove unknown --forget" in error.remedy
    remove_weights("unknown", forget=True)
    assert download_weights("unknown").read_bytes() == b"another"


def test_a_mirror_that_has_another_commit_is_refused(hub: HubServer) -> None:
    hub.behaviour.metadata = [(302, {"Location": "/x"})]
    hub.behaviour.commit = OTHER_COMMIT
    error = refused("fixed")
    assert "404" in error.what


# Badly


@pytest.mark.parametrize(
    ("name", "status", "headers", "what", "remedy"),
    [
        ("tiny", 401, {}, "not accessible to you (HTTP 401)", "HF_TOKEN"),
        ("tiny", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "HTTP 401", "HF_TOKEN"),
        ("tiny", 403, {}, "HTTP 403", "HF_TOKEN"),
        ("tiny", 403, {"X-Error-Code": "GatedRepo"}, "only on request", "Ask on that page"),
        ("gone", None, {}, "not accessible to you (HTTP 401)", "weights import gone FILE"),
        ("no-file", None, {}, "has no 'other.pth' at main (HTTP 404)", "weights import no-file FILE"),
        ("fixed", 404, {"X-Error-Code": "RevisionNotFound"}, f"has no 'tiny.pth' at {COMMIT}", "moved or removed"),
        ("replaced", None, {}, f"has SHA256 {SHA256}, expected {'0' * 64}", "replaced"),
        ("tiny", 429, {}, "too many requests", "in some minutes"),
        ("tiny", 429, {"Retry-After": "1000"}, "too many requests", "in 1000 s"),
        ("tiny", 500, {}, "out of order (HTTP 500)", "later"),
        ("tiny", 503, {}, "out of order (HTTP 503)", "later"),
        ("tiny", 418, {}, "refuses 'tiny.pth' (HTTP 418)", "weights import tiny FILE"),
        ("tiny", 200, {}, "this is no server of the Hub", "HF_ENDPOINT"),
    ],
)
def test_what_the_hub_refuses_is_told(hub: HubServer, name: str, status, headers, what: str, remedy: str) -> None:
    if status is not None:
        hub.behaviour.metadata, hub.behaviour.forever = [(status, headers)], True
    error = refused(name)
    assert what in error.what
    assert remedy in error.remedy
    assert hub.of_kind("content") == []


@pytest.mark.parametrize("status", [403, 404])
def test_content_that_is_refused_is_told(hub: HubServer, status: int) -> None:
    hub.behaviour.content, hub.behaviour.forever = [(status, {})], True
    assert f"HTTP {status}" in refused("tiny").what


@pytest.mark.parametrize("answers", [[(500, {})], [(503, {}), (502, {})], [(429, {"Retry-After": "1"})]])
@pytest.mark.parametrize("kind", ["metadata", "content"])
def test_what_may_be_better_later_is_tried_again(hub: HubServer, kind: str, answers: list) -> None:
    setattr(hub.behaviour, kind, list(answers))
    told: list[str] = []
    began = time.monotonic()
    path = download_weights("tiny", say=lambda kind, **values: told.append(values.get("text", "")))
    assert path.read_bytes() == CONTENT
    waited = answers[0][1].get("Retry-After")
    assert time.monotonic() - began >= (0.9 if waited else 0)
    assert any("trying again" in text for text in told) or (kind == "content" and waited)


def test_a_connection_that_is_cut_goes_on_where_it_was(hub: HubServer) -> None:
    hub.behaviour.cut = [300_000, 400_000]
    assert download_weights("tiny").read_bytes() == CONTENT
    assert len(hub.of_kind("content")) == 3
    assert [one.range is None for one in hub.of_kind("content")] == [True, False, False]


def test_a_connection_that_is_always_cut_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.behaviour.cut = [0] * 100
    error = refused("tiny")
    assert "was lost while" in error.what
    assert error.remedy == "Download again."
    hub.behaviour.cut = []
    assert download_weights("tiny").read_bytes() == CONTENT


def test_a_server_that_does_not_answer_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.behaviour.stall = True
    error = refused("tiny")
    assert "does not answer in time" in error.what


def test_nobody_at_the_address_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused("tiny")
    assert "http://127.0.0.1:9/someone/tiny cannot be reached" in error.what
    assert "HF_ENDPOINT" in error.remedy


@pytest.mark.parametrize("hashed", [True, False])
def test_wrong_content_goes_into_quarantine(hub: HubServer, hashed: bool) -> None:
    hub.behaviour.wrong, hub.behaviour.hashed = b"evil", hashed
    error = refused("tiny")
    assert f"expected {SHA256}" in error.what
    (kept,) = (quarantine_folder() / "tiny").iterdir()
    assert kept.read_bytes().startswith(b"evil")
    assert str(kept) in error.what
    assert "Download it again" in error.remedy
    assert read_pin(catalog()["tiny"]) is None
    hub.behaviour.wrong = b""
    assert download_weights("tiny").read_bytes() == CONTENT


def test_wrong_content_of_unknown_weights_is_seen_by_the_hubs_own_hash(hub: HubServer) -> None:
    hub.behaviour.wrong = b"evil"
    assert f"expected {SHA256}" in refused("unknown").what


def test_a_flipped_byte_is_refused_put_aside_and_mended(hub: HubServer) -> None:
    path = download_weights("tiny")
    damaged = bytearray(CONTENT)
    damaged[500_000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(WeightsError) as error:
        find_weights("tiny")
    assert "has SHA256" in error.value.what
    assert "quarantine" in error.value.what
    assert "`semisamplus weights download tiny`" in error.value.remedy
    assert not path.exists()
    assert [kept.read_bytes() for kept in (quarantine_folder() / "tiny").iterdir()] == [bytes(damaged)]
    assert weights_state("tiny").state == "missing"
    assert download_weights("tiny").read_bytes() == CONTENT
    assert len(remove_weights("tiny")) == 2  # The file, and that in quarantine.


def test_a_byte_that_rots_unseen_is_found_by_verify(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    path = download_weights("tiny")
    status = path.stat()
    path.write_bytes(CONTENT[:-1] + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main(["weights", "verify"]) == 1
    assert "Warning:" in (text := capsys.readouterr().out)
    assert "has SHA256" in text
    assert weights_state("tiny").state == "missing"


# Room


def test_too_little_room_is_told_before(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100_500_000})
    monkeypatch.setattr(inventory.shutil, "disk_usage", lambda path: usage)
    error = refused("tiny")
    assert "100 MB are free on its disk, expected 101 MB or more" in error.what
    assert "HF_HOME" in error.remedy
    assert hub.of_kind("content") == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size for a process")
def test_a_disk_that_fills_leaves_nothing(hub: HubServer) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000));"
        "from SemiSAMPlusLib.commands import main; sys.exit(main(['weights', 'download', 'tiny']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1, done.stderr
    assert "there is no room for 'tiny.pth'" in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.sent >= 400_000
    assert leftovers() == []
    assert download_weights("tiny").read_bytes() == CONTENT


# Licences


@pytest.mark.parametrize("name", ["unlicensed", "noncommercial"])
def test_a_licence_is_acknowledged_once(hub: HubServer, name: str) -> None:
    assert weights_state(name).needs_acknowledgement
    error = refused(name)
    assert "--accept-license" in error.remedy
    offers = []
    with pytest.raises(WeightsError):
        download_weights(name, confirm=lambda offer: bool(offers.append(offer)))  # The user says no.
    assert offers[0].size == len(CONTENT)
    assert hub.of_kind("content") == []
    assert download_weights(name, confirm=lambda offer: True) is not None
    assert not weights_state(name).needs_acknowledgement
    remove_weights(name)
    assert download_weights(name) is not None
    remove_weights(name, forget=True)
    assert weights_state(name).needs_acknowledgement
    assert download_weights(name, accept_license=True) is not None


def test_what_it_was_trained_on_is_told(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "download", "noncommercial", "--accept-license"]) == 0
    assert "Trained on the test." in capsys.readouterr().out
    assert main(["generalists"]) == 0
    assert "noncommercial: Trained on the test." in capsys.readouterr().out


def test_what_is_not_on_the_hub_says_how_to_get_it(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "download", "imported"]) == 1
    assert "weights import imported FILE" in capsys.readouterr().err


# Cancelling


def test_a_job_is_cancelled_by_its_stop_file(hub: HubServer, tmp_path: Path) -> None:
    hub.behaviour.pause = 0.2
    job = tmp_path / "job ü"
    process = child("weights", "download", "tiny", "--job", str(job))
    wait_until(lambda: any(event["event"] == "progress" for event in read_events(job / "events.jsonl")))
    assert json.loads((job / "job.json").read_text(encoding="utf-8"))["kind"] == "weights"
    (job / "stop").touch()
    began = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 12
    assert process.returncode == 130, err
    assert "Cancelled; nothing was kept." in out
    events = read_events(job / "events.jsonl")
    assert events[0]["event"] == "started"
    assert events[-1] == events[-1] | {"event": "finished", "reason": "stopped"}
    assert leftovers() == []
    hub.behaviour.pause = 0
    assert download_weights("tiny").read_bytes() == CONTENT


def test_a_dead_line_is_cancelled_too(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_GRACE_SECONDS", 0.2)
    hub.behaviour.stall = True
    timer = threading.Event()
    threading.Timer(0.5, timer.set).start()
    began = time.monotonic()
    assert download_weights("tiny", is_cancelled=timer.is_set) is None
    assert time.monotonic() - began < 8
    assert leftovers() == []


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to one process alone is POSIX's")
def test_control_c_cancels(hub: HubServer) -> None:
    hub.behaviour.pause = 0.2
    # What a shell starts in the background ignores Control-C, and so would the child.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = child("weights", "download", "tiny")
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until(lambda: hub.sent > 0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert leftovers() == []


def test_an_error_of_a_job_is_an_event(hub: HubServer, tmp_path: Path) -> None:
    assert main(["weights", "download", "gone", "--job", str(tmp_path / "job")]) == 1
    last = read_events(tmp_path / "job" / "events.jsonl")[-1]
    assert last["event"] == "error"
    assert "not accessible to you" in last["what"]


# Several processes


def wait_until(happened, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_killed_download_is_begun_again(hub: HubServer) -> None:
    hub.behaviour.pause = 0.1
    process = child("weights", "download", "tiny")
    wait_until(lambda: hub.sent > 200_000)
    process.kill()
    process.communicate()
    assert weights_state("tiny").state == "missing"
    hub.behaviour.pause = 0
    assert download_weights("tiny").read_bytes() == CONTENT
    assert leftovers() == []


def test_two_processes_at_once_make_one_transfer(hub: HubServer) -> None:
    hub.behaviour.pause = 0.1
    processes = [child("weights", "download", "tiny") for _ in range(2)]
    outs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert len(hub.of_kind("content")) == 1
    assert hub.sent == len(CONTENT)
    assert sum("waiting for it" in out or "already here" in out for out, _ in outs) == 1


def test_another_user_of_the_hubs_cache_makes_it_unneeded(hub: HubServer) -> None:
    program = "import huggingface_hub; print(huggingface_hub.hf_hub_download('someone/tiny', 'tiny.pth'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert len(hub.of_kind("content")) == 1
    assert weights_state("tiny").state == "ready"  # Its SHA256 is known,
    assert weights_state("unknown").state == "missing"  # and of this one it is not.
    assert str(download_weights("unknown")) == done.stdout.strip()
    assert len(hub.of_kind("content")) == 1
    assert weights_state("unknown").state == "ready"


# The environment


@pytest.mark.parametrize("name", ["tiny", "unknown"])
def test_offline_takes_what_is_there_and_asks_nobody(hub: HubServer, name: str, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = refused(name)
    assert "HF_HUB_OFFLINE is set" in error.what
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    huggingface_hub.hf_hub_download("someone/tiny", "tiny.pth", cache_dir=hub_folder(), endpoint=hub.url)
    before = len(hub.requests)
    process = child("weights", "download", name, HF_HUB_OFFLINE="1")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert COMMIT in out
    assert len(hub.requests) == before
    assert read_pin(catalog()[name]) is None or read_pin(catalog()[name]).commit == COMMIT


def test_a_token_goes_to_the_hub_and_to_nobody_else(hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    hub.behaviour.token = "hf_secret"
    monkeypatch.setattr(download_module, "token", lambda: None)  # As where the server is asked by https.
    assert "only on request" in refused("tiny").what
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["weights", "download", "tiny"]) == 0
    assert {one.token for one in hub.of_kind("metadata")} == {"Bearer hf_secret"}
    assert {one.token for one in hub.of_kind("content")} == {None}
    said = capsys.readouterr()
    assert "hf_secret" not in said.out + said.err


def test_a_token_is_not_sent_where_everybody_could_read_it(hub: HubServer) -> None:
    hub.behaviour.token = "hf_secret"
    _, err = (process := child("weights", "download", "tiny", HF_TOKEN="hf_secret")).communicate(timeout=20)
    assert process.returncode == 1
    assert {one.token for one in hub.requests} == {None}
    assert "No token is sent to an http address: set HF_ENDPOINT to an https one." in err


@pytest.mark.parametrize(
    ("address", "sent"), [(None, True), ("https://mirror", True), ("http://mirror", False), ("HTTP://mirror", False)]
)
def test_only_an_address_without_encryption_keeps_the_token_back(monkeypatch, address: str | None, sent: bool) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if address is not None:
        monkeypatch.setenv("HF_ENDPOINT", address)
    assert hub_errors.token() is (None if sent else False)


def test_a_proxy_is_used(hub: HubServer) -> None:
    variables = {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": hub.url, "http_proxy": hub.url}
    process = child("weights", "download", "tiny", **variables)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert {one.host for one in hub.of_kind("metadata")} == {"hub.invalid"}
    assert {one.host for one in hub.of_kind("content")} == {"cdn.invalid"}


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_cache_is_the_one_of_the_hubs_client(hub: HubServer, variable: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert hub_folder() == Path(done.stdout.strip())


def test_training_downloads_nothing(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort

    make_phantom_cohort(tmp_path / "data", cases=3, test=0, size=(16, 18, 16))
    arguments = [
        "train",
        str(tmp_path / "data" / "cohort.json"),
        "--run",
        str(tmp_path / "run"),
        "--generalists",
        "tiny",
    ]
    assert main([*arguments, "--device", "cpu", "--iterations", "1"]) == 1
    error = capsys.readouterr().err
    assert "tiny: the file of weights 'tiny.pth' is not in" in error
    assert "`semisamplus weights download tiny`" in error
    assert hub.requests == []


def test_listing_loads_neither_torch_nor_the_client(hub: HubServer) -> None:
    program = (
        "import sys; from SemiSAMPlusLib.generalist.inventory import weights_states;"
        "assert all(state.name for state in weights_states());"
        "print([name for name in ('torch', 'numpy', 'huggingface_hub', 'httpx', 'httpx2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
