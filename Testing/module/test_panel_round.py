"""The whole round through the real widgets, with a real child process that really trains: minutes become seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Networks and patches so small that a step takes a fraction of a second.
SMALL = {
    "patch": [16, 16, 16],
    "size": "small",
    "threads": 1,
    "precision": "float32",
    "iterations": 400,
    "validate_every": 5,
    "checkpoint_every": 5,
    "batch": 1,
    "collaboration_every": 5,
    "prompt_sets": 1,
    "trust": 0.5,
}


@pytest.fixture
def module(scene: Any, tmp_path: Path) -> Iterator[Any]:
    """The real module in the module panel."""
    import host

    panel = host.load_module(ROOT / "SemiSAMPlus")
    yield panel
    for run in list(panel.widget.logic.active_runs if panel.widget.logic is not None else []):
        run.kill()
        run.wait(20)


def settings(panel: Any, **more: Any) -> None:
    """Set what a person would set under Advanced."""
    from SemiSAMPlusPanel.parameters import Quality

    parameters = panel.widget.panel.state.parameters
    parameters.quality, parameters.device = Quality.ITERATIONS, "cpu"
    parameters.advanced = json.dumps({**SMALL, **more})
    panel.widget.panel.restore()


@pytest.mark.slow
def test_pick_train_watch_stop_resume_close_reopen_apply_correct_train_on(
    module: Any, scene: Any, tmp_path: Path
) -> None:
    import host
    import slicer
    from SemiSAMPlusPanel.sample import make_sample
    from stage import check, choose, click, settle

    def find(name: str) -> Any:
        return module.find(name)

    def is_seen(name: str) -> bool:
        try:
            return bool(find(name).isVisible())
        except LookupError:
            return False

    def the_run() -> Any:
        return module.widget.panel.state.run

    # Pick: the volumes are there, one with a segmentation.
    runs = tmp_path / "meine Läufe"
    make_sample(scene, unlabeled=2, size=(24, 32, 28))
    settle()
    find("runsFolderEdit").currentPath = str(runs)
    settings(module)
    assert settle(2, until=lambda: find("startButton").enabled), find("stateLabel").text

    # Train and watch.
    click(find("startButton"))
    run = the_run()
    assert settle(90, until=lambda: run.iteration >= 3 or not run.is_active), run.state
    assert run.state == "running", run.error
    assert settle(30, until=lambda: find("trainingProgress").maximum == 400)
    assert "Iteration" in find("progressLabel").text

    # Look at layers while it trains.
    assert settle(60, until=lambda: is_seen("predictionBox"))
    click(find("predictionBox"))
    layers = run.layers(find("caseCombo").currentText)
    assert layers.is_shown("prediction")
    before = run.iteration
    assert settle(60, until=lambda: run.iteration >= before + 3)  # They are refreshed meanwhile.
    click(find("chartButton"))
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") >= 2

    # Stop, resume.
    click(find("stopButton"))
    assert settle(60, until=lambda: find("resumeButton").isVisible()), run.state
    assert run.state == "stopped"
    stopped_at = run.iteration
    click(find("resumeButton"))
    assert settle(90, until=lambda: run.iteration > stopped_at), run.state

    # Close the scene, and then the module: the training goes on; it is found again.
    scene.Clear(False)
    settle()
    assert the_run() is run
    assert run.folder.is_running()
    host.close_modules()
    assert run.folder.is_running()
    again = host.load_module(ROOT / "SemiSAMPlus")
    module.module, module.widget, module.parent = again.module, again.widget, again.parent
    find("runsFolderEdit").currentPath = str(runs)
    settle()
    choose(find("runCombo"), run.name)
    found = the_run()
    assert found is not run
    assert settle(60, until=lambda: find("stopButton").isVisible())
    assert settle(60, until=lambda: found.iteration > stopped_at)
    click(find("stopButton"))
    assert settle(60, until=lambda: found.state == "stopped"), found.state
    assert found.has_specialist

    # Apply it to new volumes, correct the prediction, make it labelled, train on.
    volumes = make_sample(scene, unlabeled=2, size=(24, 32, 28))
    settings(module, iterations=2)
    find("runsFolderEdit").currentPath = str(runs)
    settle()
    listed = find("volumesList")
    for row in (0, 1):
        check(listed, listed.item(row))
    click(find("predictButton"))
    assert settle(90, until=lambda: not module.widget.panel.apply.prediction.is_active)
    assert "segmented" in find("predictNote").text, find("predictNote").text
    choose(find("correctCombo"), volumes[2].GetName())
    click(find("correctButton"))
    corrected = module.widget.logic.corrected(volumes[2])
    assert corrected is not None, find("correctNote").text
    segment = corrected.GetSegmentation().GetNthSegmentID(0)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(corrected, segment, volumes[2]).astype("uint8")
    array[8:14, 10:20, 10:20] = 1  # By the user's brush.
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, corrected, segment, volumes[2])
    click(find("makeLabeledButton"))
    assert "is now labelled" in find("correctNote").text, find("correctNote").text
    assert find("countLabel").text == "2 labelled, 1 unlabelled"
    click(find("trainOnButton"))
    second = the_run()
    assert second is not found, find("errorLabel").text
    assert settle(120, until=lambda: not second.is_active), second.state
    assert second.state == "done", second.error
    assert second.folder.describe()["started_from"] == str(found.folder.path)
    assert settle(5, until=lambda: find("reportButton").isVisible())
    table = find("volumesTable")
    assert any(table.item(row, 4).text() for row in range(table.rowCount)), "no case shows Dice or uncertainty"
