"""Refined predictions: the generalists that a training trusted correct its specialist, as far as they were trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import FakeGeneralist, noise, tiny_cohort, tiny_config

from SemiSAMPlusLib.cohort.outputs import PREDICTIVE_ENTROPY, REFINED_ENTROPY, read_segmentation, read_uncertainty
from SemiSAMPlusLib.collaboration import refinement
from SemiSAMPlusLib.commands import main
from SemiSAMPlusLib.errors import WeightsError
from SemiSAMPlusLib.evaluation.prediction import predict
from SemiSAMPlusLib.run.events import read_events
from SemiSAMPlusLib.run.folder import RunFolder
from SemiSAMPlusLib.specialist.specialist import Specialist
from SemiSAMPlusLib.training import run as run_module
from SemiSAMPlusLib.training.run import train

#: An unlabelled case of the cohort.
LAYER = "phantom-02"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose generalist, a fake that answers noise, is trusted by half."""
    monkeypatch.setattr("SemiSAMPlusLib.collaboration.prompts._CONFIDENT", 0.01)
    for module in (run_module, refinement):
        monkeypatch.setattr(module, "create_generalist", lambda spec, device: FakeGeneralist(noise))
    config = tiny_config(iterations=4, generalists=("fake=somewhere",), trust=0.5, layers=(LAYER,))
    return train(tiny_cohort(tmp_path / "cohort"), config, tmp_path / "run")


def _labels(specialist: Path, output: Path, **given: Any) -> list[np.ndarray]:
    written = predict(specialist, None, output, device="cpu", **given)
    return [read_segmentation(path, Specialist.load(specialist).classes)[0] for path in written]


def _said(output: Path, kind: str) -> list[str]:
    return [event["text"] for event in read_events(output / "events.jsonl") if event["event"] == kind]


def test_a_trusted_generalist_corrects_predictions(run: RunFolder, tmp_path: Path) -> None:
    refined, alone = _labels(run.path, tmp_path / "refined"), _labels(run.path, tmp_path / "alone", refine=False)
    assert any(not np.array_equal(one, other) for one, other in zip(refined, alone, strict=True))
    assert any("fake (50%)" in text for text in _said(tmp_path / "refined", "message"))
    assert not any("fake" in text for text in _said(tmp_path / "alone", "message"))
    again = _labels(run.path, tmp_path / "again")
    assert all(np.array_equal(one, other) for one, other in zip(refined, again, strict=True))


def test_uncertainty_is_that_of_what_is_predicted(run: RunFolder, tmp_path: Path) -> None:
    """And of a training's layers, whose prediction is the specialist's own."""
    found = {}
    for name, refine in (("refined", True), ("alone", False)):
        (path,) = predict(run.path, None, tmp_path / name, device="cpu", uncertainty=True, refine=refine)
        array, _, source = read_uncertainty(path.with_name(path.name.replace(".seg.nrrd", "_uncertainty.nii.gz")))
        found[source] = array
    assert set(found) == {PREDICTIVE_ENTROPY, REFINED_ENTROPY}
    assert not np.array_equal(*found.values())
    layers = run.layers(LAYER)
    assert read_uncertainty(layers / "uncertainty.nii.gz")[2] == REFINED_ENTROPY
    image = next(case["images"][0] for case in run.describe()["cohort"]["cases"] if case["name"] == LAYER)
    (path,) = predict(run.path, [Path(image)], tmp_path / "again", device="cpu", uncertainty=True)
    expected = read_uncertainty(path.with_name(path.name.replace(".seg.nrrd", "_uncertainty.nii.gz")))[0]
    np.testing.assert_allclose(read_uncertainty(layers / "uncertainty.nii.gz")[0], expected, atol=1e-5)
    about = json.loads((layers / "about.json").read_text(encoding="utf-8"))
    assert about["uncertainty"] == REFINED_ENTROPY


def test_uncertainty_is_the_specialists_own_where_nobody_could_be_asked(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("SemiSAMPlusLib.collaboration.prompts._CONFIDENT", 1.0)  # It sees nothing with confidence.
    (path,) = predict(run.path, None, tmp_path / "out", device="cpu", uncertainty=True)
    beside = path.with_name(path.name.replace(".seg.nrrd", "_uncertainty.nii.gz"))
    assert read_uncertainty(beside)[2] == PREDICTIVE_ENTROPY


def test_the_specialists_folder_is_enough(run: RunFolder, tmp_path: Path) -> None:
    image = run.describe()["cohort"]["cases"][0]["images"][0]
    (path,) = predict(run.specialist, [Path(image)], tmp_path / "out", device="cpu")
    assert path.exists()
    assert any("fake (50%)" in text for text in _said(tmp_path / "out", "message"))


def test_a_generalist_that_is_not_at_hand_is_told_and_done_without(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(spec: str, device: Any) -> FakeGeneralist:
        assert spec == f"fake={Path('somewhere').absolute()}"
        raise WeightsError("somewhere: is missing.", "Bring it back.")

    alone = _labels(run.path, tmp_path / "alone", refine=False)
    monkeypatch.setattr(refinement, "create_generalist", missing)
    without = _labels(run.path, tmp_path / "without")
    assert all(np.array_equal(one, other) for one, other in zip(without, alone, strict=True))
    (text,) = _said(tmp_path / "without", "warning")
    assert "somewhere: is missing. Bring it back." in text


def test_who_is_not_trusted_is_not_even_made(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = json.loads((run.specialist / "model.json").read_text(encoding="utf-8"))
    described["collaboration"]["trust"] = {"fake=somewhere": 0.0}
    (run.specialist / "model.json").write_text(json.dumps(described), encoding="utf-8")
    monkeypatch.setattr(refinement, "create_generalist", lambda *given: pytest.fail("nobody is asked"))
    assert _labels(run.path, tmp_path / "out")
    assert _said(tmp_path / "out", "warning") == []


def test_without_generalists_there_is_nothing_to_refine_with(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "cohort")
    run = train(cohort, tiny_config(iterations=2, generalists=()), tmp_path / "run")
    specialist = Specialist.load(run.path)
    assert "collaboration" not in specialist.about
    assert refinement.trusted_collaboration(specialist) is None


def test_from_a_shell(run: RunFolder, tmp_path: Path) -> None:
    assert main(["predict", str(run.path), "-o", str(tmp_path / "refined"), "--device", "cpu"]) == 0
    assert main(["predict", str(run.path), "-o", str(tmp_path / "alone"), "--device", "cpu", "--no-refine"]) == 0
    assert any("fake" in text for text in _said(tmp_path / "refined", "message"))
    assert not any("fake" in text for text in _said(tmp_path / "alone", "message"))
