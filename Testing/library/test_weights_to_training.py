"""From a server to a trained specialist: weights of full size are downloaded, checked, converted, embedded with, trained with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, HubServer
from tiny import tiny_config, weights_of

from SemiSAMPlusLib.cohort.cohort import Cohort
from SemiSAMPlusLib.errors import RunFolderError
from SemiSAMPlusLib.generalist.catalog import catalog
from SemiSAMPlusLib.generalist.loading import load_state
from SemiSAMPlusLib.generalist.sam_med3d.generalist import SamMed3D
from SemiSAMPlusLib.generalist.sam_med3d.model import SamMed3DModel
from SemiSAMPlusLib.generalist.weights import cache_folder, find_weights
from SemiSAMPlusLib.training.run import resume, train

ROOT = Path(__file__).resolve().parents[2]
FILE = "sam_med3d_random.pth"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HubServer, str]]:
    """A server with random weights as SAM-Med3D's authors save theirs, a catalog that names them, and their SHA256."""
    torch.manual_seed(0)
    file = tmp_path / "server" / FILE
    file.parent.mkdir()
    torch.save({"model_state_dict": SamMed3DModel().state_dict(), "epoch": 1, "args": Namespace(lr=8e-4)}, file)
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    path = ROOT / "SemiSAMPlusLib" / "generalist" / "catalog.json"
    entries = {one["name"]: one for one in json.loads(path.read_text(encoding="utf-8"))["generalists"]}
    files = [{"path": FILE, "size": file.stat().st_size, "sha256": sha256}]
    entry = {**entries["sam-med3d-turbo"], "name": "served", "repository": "someone/served", "files": files}
    own = tmp_path / "catalog.json"
    own.write_text(json.dumps({"format": "semisamplus-catalog-1", "generalists": [entry]}), encoding="utf-8")
    for name in list(os.environ):
        if name.upper().startswith(("HF_", "HUGGINGFACE", "SEMISAMPLUS")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub é"))
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "cache é"))
    monkeypatch.setenv("SEMISAMPLUS_CATALOG", str(own))
    catalog.cache_clear()
    threads = torch.get_num_threads()
    with HubServer({f"someone/served/{FILE}": file}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub, sha256
    torch.set_num_threads(threads)
    catalog.cache_clear()
    for name in ("server", "hub é", "cache é"):  # More than a gigabyte, which pytest would keep for a while.
        shutil.rmtree(tmp_path / name, ignore_errors=True)


@pytest.mark.slow
def test_a_training_with_downloaded_weights_that_earn_no_trust_is_the_training_without(
    served: tuple[HubServer, str], real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, sha256 = served
    done = subprocess.run(
        [sys.executable, "-m", "SemiSAMPlusLib", "weights", "download", "served"],
        cwd=ROOT, env={**os.environ, "PYTHONUTF8": "1"}, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left atrium" in done.stdout
    assert len(hub.of_kind("content")) == 1
    asked = len(hub.requests)
    cohort = Cohort.from_folder(real_data / "left_atrium", labeled=1, cases="1-2")
    asked_of_it: list[str] = []
    for step in ("embed", "answer"):
        original = getattr(SamMed3D, step)

        def spied(self, *arguments, _step=step, _original=original):
            asked_of_it.append(_step)
            return _original(self, *arguments)

        monkeypatch.setattr(SamMed3D, step, spied)
    config = tiny_config(
        method="copy-paste", spacing=2.5, iterations=2, batch=1, positive_points=3, negative_points=3, augmentation=0.0
    )
    with_it = tiny_config(**{**config.to_dict(), "generalists": ("served",)})
    run = train(cohort, with_it, tmp_path / "with")
    alone = train(cohort, config, tmp_path / "without")
    assert len(hub.requests) == asked  # Training asks nobody.
    trust = [event["trust"] for event in run.events() if event["event"] == "trust"]
    assert trust
    assert all(one == {"served": 0.0} for one in trust)
    assert weights_of(run.path) == weights_of(alone.path)
    assert {*asked_of_it} == {"embed", "answer"}
    (about,) = run.describe()["generalists"]
    assert about["sha256"] == sha256
    assert "left atrium" in about["contamination"]
    said = [event["text"] for event in run.events() if event["event"] == "message"]
    assert any("left atrium" in text for text in said)
    assert "left atrium challenge" in run.report.read_text(encoding="utf-8")
    # Converted once; from then on it is mapped, and opening it takes no time.
    path = find_weights("served")
    assert COMMIT in path.parts
    assert [one.stem for one in (cache_folder() / "converted").glob("*.safetensors")] == [sha256]
    began = time.perf_counter()
    state = load_state(path)
    assert time.perf_counter() - began < 1.0
    assert len(state) == 324
    # A run goes on only with the weights that it began with.
    description = run.describe()
    description["generalists"][0]["sha256"] = "0" * 64
    run.write_description(description)
    run.events_file.unlink()
    with pytest.raises(RunFolderError, match="the run began with 0000"):
        resume(run.path)
