"""The console's way, with a real child process that really trains: no fake but the patients."""

from __future__ import annotations

import re
import runpy
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from SemiSAMPlusPanel import job as jobs
from SemiSAMPlusPanel import logic as documented

ROOT = Path(__file__).resolve().parents[2]

#: With these a training takes seconds on one core.
TINY = {
    "patch": (16, 16, 16),
    "size": "small",
    "threads": 1,
    "device": "cpu",
    "precision": "float32",
    "validate_every": 1000,
    "checkpoint_every": 1,
    "layers": ("phantom-02",),
    "generalists": ["random-walker"],
}
#: How long to wait for a child, in seconds; only a fault, or a computer with much else to do, waits so long.
PATIENCE = 180.0


@pytest.fixture(autouse=True)
def _not_last_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of tests need not leave the processor to a Slicer that is not there, nor share it among threads."""
    monkeypatch.setattr(jobs, "_NICENESS", 0)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")


@pytest.fixture
def volumes(scene: Any, tmp_path: Path) -> list[Any]:
    """Four phantoms, the first with a segmentation."""
    from SemiSAMPlusPanel.sample import make_sample

    return make_sample(scene, unlabeled=3, size=(24, 32, 28), folder=tmp_path / "Phantome ä")


@pytest.fixture
def logic(scene: Any, tmp_path: Path) -> Iterator[Any]:
    from SemiSAMPlusPanel.logic import ModuleLogic

    logic = ModuleLogic(scene, runs_folder=tmp_path / "Läufe mit Abstand")
    yield logic
    for run in logic.active_runs:
        run.kill()
        run.wait(10)
    logic.close()


def wait_until(run: Any, condition: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert run.is_active, (run.state, run.error)
        assert time.monotonic() < until, (run.state, list(run.messages))
        run.wait(timeout=0.1)


def voxels_of(node: Any, volume: Any) -> Any:
    import slicer

    return slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), volume)


@pytest.mark.slow
def test_the_documented_example_works(scene: Any, volumes: list[Any], tmp_path: Path) -> None:
    import host
    import slicer

    host.load_module(ROOT / "SemiSAMPlus")
    slicer.util.getModuleLogic("SemiSAMPlus").runs_folder = tmp_path / "runs"
    example = re.search(r"((?:    .*\n)+)", documented.__doc__)[1].replace("\n    ", "\n").strip()
    assert example.startswith('logic = slicer.util.getModuleLogic("SemiSAMPlus")')
    shorter = {k: v for k, v in TINY.items() if k != "generalists"}
    example = example.replace("minutes=5", f"iterations=2, **{shorter!r}")
    first, v2, v3, _ = volumes
    segmentation = slicer.util.getNode("phantom-01 segmentation")
    names = {"slicer": slicer, "volume": first, "segmentation": segmentation, "v2": v2, "v3": v3}
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    run = runpy.run_path(str(script), names)["run"]
    assert run.state == "done"
    assert run.report.is_file()
    assert run.layers(v2).is_shown("prediction")
    predicted = [one for one in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "phantom-03" in one.GetName()]
    assert predicted
    assert voxels_of(predicted[-1], v3).shape == slicer.util.arrayFromVolume(v3).shape


@pytest.mark.slow
def test_the_round_in_the_documentation_works(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import host
    import slicer
    from SemiSAMPlusPanel import sample

    host.load_module(ROOT / "SemiSAMPlus")
    slicer.util.getModuleLogic("SemiSAMPlus").runs_folder = tmp_path / "runs"
    make_small = partial(sample.make_sample, size=(24, 32, 28), folder=tmp_path / "phantoms")
    monkeypatch.setattr(sample, "make_sample", make_small)
    text = (ROOT / "docs" / "slicer.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "make_sample" in block)
    shorter = {key: value for key, value in TINY.items() if key != "generalists"}
    code = re.sub(r"iterations=\d+", f"iterations=2, **{shorter!r}", code)
    code, edits = re.subn(r"  # .* edit it in Segment Editor", "\ndraw(draft)", code)
    assert edits == 1

    def draw(draft: Any) -> None:
        """Draw what a training of two steps does not find."""
        volume = slicer.util.getNode("phantom-05")
        voxels = (slicer.util.arrayFromVolume(volume) > 0).astype("uint8")
        segment = draft.GetSegmentation().GetNthSegmentID(0)
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, draft, segment, volume)

    script = tmp_path / "round.py"
    script.write_text(code, encoding="utf-8")
    better = runpy.run_path(str(script), {"slicer": slicer, "draw": draw})["better"]
    assert better.report.is_file()
    labeled = [case["name"] for case in better.folder.describe()["cohort"]["cases"] if case["role"] == "labeled"]
    assert labeled == ["phantom-01", "phantom-05"]


@pytest.mark.slow
def test_a_training_goes_on_whatever_happens_to_the_scene(
    scene: Any, logic: Any, volumes: list[Any], tmp_path: Path
) -> None:
    from SemiSAMPlusPanel.logic import ModuleLogic

    saved = tmp_path / "Szene.mrb"
    row = logic.cases.row(volumes[0])
    run = logic.train([(volumes[0], row.segmentation)], volumes[1:3], iterations=2000, name="Vorhof ü", **TINY)
    wait_until(run, lambda: run.iteration >= 3)
    assert run.memory["process_gb"] > 0
    assert scene.WriteToMRB(str(saved))
    scene.Clear(False)
    wait_until(run, lambda: run.iteration >= 4)
    # As another Slicer would, while the training is at work.
    another = ModuleLogic(scene, runs_folder=logic.runs_folder)
    (summary,) = another.runs()
    assert (summary.state, summary.name) == ("running", "Vorhof ü")
    watched = another.open_run(summary.folder)
    assert scene.ReadFromMRB(str(saved), False)
    watched.stop()
    assert watched.wait(PATIENCE).state == "stopped"
    assert run.wait(PATIENCE).state == "stopped"
    assert run.losses == watched.losses
    assert run.can_resume
    volume = watched.volume_of("phantom-02")
    assert volume is not None
    another.close()


@pytest.mark.slow
def test_a_run_is_resumed_applied_corrected_and_trained_on(logic: Any, volumes: list[Any]) -> None:
    row = logic.cases.row(volumes[0])
    pair = (volumes[0], row.segmentation)
    run = logic.train([pair], volumes[1:3], iterations=6, **TINY)
    wait_until(run, lambda: run.iteration >= 1)
    run.kill()
    assert run.wait(PATIENCE).state == "unfinished"
    before = run.iteration
    run.resume()
    assert run.wait(PATIENCE).state == "done"
    assert run.iteration == 6 > before >= 1
    assert [iteration for iteration, _ in run.losses["supervised"]][-1] == 6
    assert run.layer_cases() == ["phantom-02"]
    node = logic.predict(run, volumes[3])
    assert voxels_of(node, volumes[3]).ndim == 3
    draft = logic.correct(run, volumes[3])
    voxels = voxels_of(row.segmentation, volumes[0])
    import slicer

    slicer.util.updateSegmentBinaryLabelmapFromArray(
        (voxels > 0).astype("uint8"), draft, draft.GetSegmentation().GetNthSegmentID(0), volumes[3]
    )
    logic.make_labeled(volumes[3], draft)
    again = logic.train([pair, (volumes[3], draft)], volumes[1:3], iterations=2, start_from=run, wait=True, **TINY)
    assert again.state == "done"
    described = again.folder.describe()
    assert described["started_from"] == str(run.folder.path)
    assert [case["name"] for case in described["cohort"]["cases"] if case["role"] == "labeled"] == [
        "phantom-01",
        "phantom-04",
    ]


def test_what_the_child_refuses_is_told_in_its_own_words(logic: Any, volumes: list[Any]) -> None:
    from SemiSAMPlusLib.errors import SemiSAMPlusError

    row = logic.cases.row(volumes[0])
    run = logic.train([(volumes[0], row.segmentation)], volumes[1:], **{**TINY, "device": "cuda:7"})
    with pytest.raises(SemiSAMPlusError, match="cuda:7") as error:
        run.wait(PATIENCE)
    assert "Choose one of" in error.value.remedy
    assert run.state == "failed"
    assert run.error[2].name == "output.txt"
