"""The section Apply, by its widgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from SemiSAMPlusLib.errors import RunFolderError, VolumeError


@pytest.fixture
def done(stage: Any) -> Any:
    """A run with a specialist, looked at, and two volumes."""
    from stage import add_volume, choose, settle

    add_volume("one")
    add_volume("two")
    run = stage.logic.add_run("atrium", "done")
    run.folder.specialist.mkdir(parents=True)
    (run.folder.specialist / "model.json").write_text("{}", encoding="utf-8")
    stage.logic.runs_changed.emit()
    settle()
    choose(stage.find("runCombo"), "atrium")
    return run


def test_without_a_specialist_it_says_what_to_do(stage: Any) -> None:
    stage.find("applyButton").collapsed = False
    assert not stage.find("predictButton").enabled
    assert "No run has left a specialist" in stage.find("predictNote").text
    assert stage.find("sourceCombo").currentText == "None yet"


def test_checked_volumes_are_segmented(stage: Any, done: Any) -> None:
    from stage import check

    listed = stage.find("volumesList")
    check(listed, listed.item(0))
    stage.click("predictButton")
    asked = stage.logic.predictions[-1]
    assert [volume.GetName() for volume in asked.volumes] == ["two"]
    assert (asked.source, asked.output, asked.device) == (done.folder.path, None, "auto")


def test_nothing_checked_is_told(stage: Any, done: Any) -> None:
    from stage import check

    listed = stage.find("volumesList")
    for row in range(listed.count):
        check(listed, listed.item(row))
    assert not stage.find("predictButton").enabled
    assert "at least one volume" in stage.find("predictNote").text


def test_a_folder_is_segmented_into_another(stage: Any, done: Any, tmp_path: Path) -> None:
    stage.click("folderRadio")
    assert "folder with the volumes" in stage.find("predictNote").text
    (tmp_path / "in").mkdir()
    stage.find("inputFolderEdit").currentPath = str(tmp_path / "in")
    assert "write to" in stage.find("predictNote").text
    stage.find("outputFolderEdit").currentPath = str(tmp_path / "out")
    stage.click("predictButton")
    asked = stage.logic.predictions[-1]
    assert (asked.volumes, asked.output) == ([tmp_path / "in"], tmp_path / "out")


def test_a_folder_that_is_emptied_is_not_written_to(stage: Any, done: Any, tmp_path: Path) -> None:
    stage.click("folderRadio")
    stage.find("inputFolderEdit").currentPath = str(tmp_path)
    stage.find("outputFolderEdit").currentPath = str(tmp_path / "out")
    assert stage.find("predictButton").enabled
    stage.find("outputFolderEdit").currentPath = ""
    assert stage.parameters.outputFolder == ""
    assert not stage.find("predictButton").enabled
    assert "write to" in stage.find("predictNote").text


def test_progress_cancel_and_the_end_are_shown(stage: Any, done: Any) -> None:
    from stage import settle

    stage.click("predictButton")
    prediction = stage.logic.predictions[-1]
    prediction.progress, prediction.seconds_left = (1, 2), 30.0
    stage.logic.prediction_changed.emit(prediction)
    settle()
    bar = stage.find("predictProgress")
    assert (bar.value, bar.maximum) == (1, 2)
    assert stage.find("predictNote").text == "1 of 2 volumes, 30 s left"
    stage.click("cancelPredictButton")
    assert prediction.cancels == 1
    prediction.state = "stopped"
    stage.logic.prediction_changed.emit(prediction)
    settle()
    assert "Cancelled" in stage.find("predictNote").text
    assert not bar.isVisible()
    assert stage.find("predictButton").enabled


def test_a_prediction_that_cannot_be_asked_to_stop_is_told(stage: Any, done: Any) -> None:
    def refuse() -> None:
        raise RunFolderError("out: the job in it cannot be asked to stop.", "Try again.")

    stage.click("predictButton")
    stage.logic.predictions[-1].cancel = refuse
    stage.click("cancelPredictButton")
    assert stage.find("predictNote").text == "out: the job in it cannot be asked to stop. Try again."


def test_a_prediction_at_work_is_shown_on_in_another_scene(stage: Any, done: Any) -> None:
    import slicer
    from stage import settle

    stage.click("predictButton")
    prediction = stage.logic.predictions[-1]
    slicer.mrmlScene.Clear(False)
    settle()
    assert stage.find("predictProgress").isVisible()
    stage.click("cancelPredictButton")
    assert prediction.cancels == 1
    prediction.state = "stopped"
    stage.logic.prediction_changed.emit(prediction)
    assert "Cancelled" in stage.find("predictNote").text
    slicer.mrmlScene.Clear(False)
    settle()
    assert "Cancelled" not in stage.find("predictNote").text


def test_what_failed_is_told_in_words(stage: Any, done: Any, tmp_path: Path) -> None:
    stage.click("predictButton")
    prediction = stage.logic.predictions[-1]
    prediction.state, prediction.error = "failed", ("two.nii.gz: is empty.", "Give another.", tmp_path / "log.txt")
    stage.logic.prediction_changed.emit(prediction)
    assert stage.find("predictNote").text == "two.nii.gz: is empty. Give another."


def test_trusted_generalists_correct_it_unless_the_user_does_not_want_it(stage: Any, done: Any) -> None:
    from stage import settle

    box = stage.find("refineCheck")
    assert not box.isVisible()  # Nobody was trusted.
    trust = {"random-walker": 0.324, "sam-med3d=/weights/a.pth": 0.1, "synthetic": 0.0}
    described = json.dumps({"collaboration": {"trust": trust}})
    (done.folder.specialist / "model.json").write_text(described, encoding="utf-8")
    stage.logic.runs_changed.emit()
    settle()
    assert box.isVisible()
    assert box.text == "Let random-walker (32%), sam-med3d (10%) correct it"
    stage.click("predictButton")
    assert stage.logic.predictions[-1].refine
    stage.logic.predictions[-1].state = "done"
    stage.logic.prediction_changed.emit(stage.logic.predictions[-1])
    settle()
    box.checked = False
    assert not stage.parameters.refines
    stage.click("predictButton")
    assert not stage.logic.predictions[-1].refine


def test_a_generalist_that_was_not_at_hand_is_told(stage: Any, done: Any) -> None:
    stage.click("predictButton")
    prediction = stage.logic.predictions[-1]
    prediction.state, prediction.warning = "done", "The specialist predicts alone."
    stage.logic.prediction_changed.emit(prediction)
    assert stage.find("predictNote").text.endswith("The specialist predicts alone.")


def test_an_exported_specialist_is_chosen_by_its_folder(stage: Any, tmp_path: Path) -> None:
    from host import conversation
    from stage import add_volume, settle

    add_volume("one")
    settle()
    stage.find("applyButton").collapsed = False
    conversation.answers += [str(tmp_path), str(tmp_path / "exported")]
    (tmp_path / "exported").mkdir()
    stage.click("browseSourceButton")
    assert "holds no specialist" in stage.find("predictNote").text
    (tmp_path / "exported" / "model.json").write_text("{}", encoding="utf-8")
    stage.click("browseSourceButton")
    assert stage.find("sourceCombo").currentText == "exported"
    stage.click("predictButton")
    assert stage.logic.predictions[-1].source == tmp_path / "exported"


def test_a_scene_that_names_what_may_not_be_read_opens(stage: Any, done: Any, tmp_path: Path) -> None:
    from locked import locked

    anna = tmp_path / "anna" / "run"
    stage.logic.open_run = lambda folder: folder.stat()
    stage.parameters.run = stage.parameters.source = stage.parameters.inputFolder = str(anna)
    stage.parameters.appliesToFolder = True
    with locked(tmp_path / "anna"):
        stage.panel.restore()
        assert stage.panel.state.run is None
        assert stage.find("sourceCombo").currentText == "atrium"
        assert stage.find("predictNote").text == "Choose the folder with the volumes to segment."


def test_a_prediction_is_corrected_made_labelled_and_trained_on(stage: Any, done: Any) -> None:
    from stage import add_segmentation, add_volume, choose, settle

    stage.logic.cases.set_figures(stage.logic.cases.row("two").key, uncertainty=0.3)
    settle()
    combo = stage.find("correctCombo")
    assert combo.currentText == "one"
    assert combo.itemText(0) == "two (~0.30)"  # The most uncertain comes first.
    choose(combo, "two")
    assert not stage.find("makeLabeledButton").enabled
    assert "first" in stage.find("makeLabeledButton").toolTip
    stage.click("correctButton")
    assert "two corrected" in stage.find("correctNote").text
    stage.click("makeLabeledButton")
    volume, segmentation = stage.logic.labeled[-1]
    assert (volume.GetName(), segmentation.GetName()) == ("two", "two corrected")
    add_segmentation(add_volume("three"))
    settle()
    stage.click("trainOnButton")
    assert stage.logic.trained[-1]["start_from"] == done.folder.path
    assert stage.panel.state.run is not done


def test_what_cannot_be_corrected_or_trained_on_is_told(stage: Any, done: Any) -> None:
    stage.logic.wrong = VolumeError("'one': there is no prediction of it yet.", "Apply the specialist to it first.")
    stage.click("correctButton")
    assert "no prediction of it yet" in stage.find("correctNote").text
    stage.click("trainOnButton")
    assert "no prediction of it yet" in stage.find("errorLabel").text  # Where trainings say what is wrong.
