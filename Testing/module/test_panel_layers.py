"""The section Layers, by its widgets."""

from __future__ import annotations

from typing import Any

import pytest

KINDS = ["prediction", "prompts", "generalist:random-walker", "uncertainty", "uncertain-segment"]


@pytest.fixture
def run(stage: Any) -> Any:
    """A run with layers of three cases, looked at."""
    from stage import FakeLayers, choose, settle

    run = stage.logic.add_run("atrium", "running")
    for name in ("a", "b", "c"):
        run.case_layers[name] = FakeLayers(name, KINDS, volume=object())
    settle()
    choose(stage.find("runCombo"), "atrium")
    return run


def ticks(stage: Any, count: int = 5) -> None:
    for _ in range(count):
        stage.tick()


def test_without_a_run_it_says_what_to_do(stage: Any) -> None:
    stage.find("layersButton").collapsed = False
    assert "Choose a run" in stage.find("layersNote").text
    assert not stage.find("layersBody").isVisible()


def test_a_run_without_layers_says_when_they_come(stage: Any) -> None:
    from stage import choose, settle

    stage.logic.add_run("atrium", "running")
    settle()
    choose(stage.find("runCombo"), "atrium")
    assert "first validation" in stage.find("layersNote").text


def test_layers_open_the_section_once(stage: Any, run: Any) -> None:
    from stage import settle

    button = stage.find("layersButton")
    assert not button.collapsed
    button.collapsed = True
    run.changed.emit(run)
    settle()
    assert button.collapsed


def test_there_is_a_box_for_each_layer(stage: Any, run: Any) -> None:
    boxes = [stage.find(f"{kind}Box") for kind in KINDS]
    assert all(box.isVisible() and box.toolTip for box in boxes)
    assert boxes[2].text == "Answer of Random walker"


def test_one_click_shows_and_another_hides(stage: Any, run: Any) -> None:
    layers = run.case_layers["a"]
    stage.click("uncertaintyBox")
    assert layers.shown == {"uncertainty"}
    assert "uncertainty" in list(stage.parameters.shownLayers)
    stage.click("uncertaintyBox")
    assert layers.shown == set()


def test_the_next_case_is_shown_as_this_one_was(stage: Any, run: Any) -> None:
    stage.click("predictionBox")
    stage.click("promptsBox")
    first, second = run.case_layers["a"], run.case_layers["b"]
    stage.click("nextButton")
    assert stage.find("predictionBox").checked
    assert stage.find("promptsBox").checked, "who clicks a box now means to hide the layer"
    ticks(stage)
    assert stage.find("caseCombo").currentText == "b"
    assert first.shown == set()
    assert second.shown == {"prediction", "prompts"}
    assert second.volume_shown == 1
    assert stage.find("predictionBox").checked
    stage.click("previousButton")
    ticks(stage)
    assert first.shown == {"prediction", "prompts"}


def test_the_next_case_is_shown_at_the_threshold_of_the_slider(stage: Any, run: Any) -> None:
    stage.click("uncertain-segmentBox")
    stage.find("thresholdSlider").value = 0.2
    ticks(stage)
    assert run.case_layers["a"].threshold == 0.2
    stage.click("nextButton")
    ticks(stage)
    assert run.case_layers["b"].is_shown("uncertain-segment")
    assert run.case_layers["b"].threshold == 0.2


def test_at_most_one_layer_is_read_in_a_tick(stage: Any, run: Any) -> None:
    stage.parameters.shownLayers = KINDS
    stage.click("nextButton")
    layers = run.case_layers["b"]
    counts = []
    for _ in range(6):
        stage.tick()
        counts.append(len(layers.shown))
    assert counts == [1, 2, 3, 4, 5, 5]


def test_the_ends_of_the_list_are_told(stage: Any, run: Any) -> None:
    assert not stage.find("previousButton").enabled
    assert "first" in stage.find("previousButton").toolTip
    stage.click("nextButton")
    stage.click("nextButton")
    assert not stage.find("nextButton").enabled
    assert "last" in stage.find("nextButton").toolTip


def test_the_threshold_is_taken_once_a_tick(stage: Any, run: Any) -> None:
    slider, layers = stage.find("thresholdSlider"), run.case_layers["a"]
    for value in (0.6, 0.7, 0.8):
        slider.value = value
    assert layers.threshold == 0.5
    stage.tick()
    assert layers.threshold == 0.8
    assert stage.parameters.threshold == 0.8


def test_jump_goes_to_the_most_uncertain_place(stage: Any, run: Any) -> None:
    stage.click("jumpButton")
    assert run.case_layers["a"].jumps == 1
    run.case_layers["a"].jump_to_most_uncertain = lambda: None
    stage.click("jumpButton")
    assert "Nothing is uncertain" in stage.find("aboutLabel").text


def test_it_says_of_when_the_layers_are_and_what_uncertainty_means(stage: Any, run: Any) -> None:
    assert "iteration 300" in stage.find("aboutLabel").text
    assert "generalists" in stage.find("aboutLabel").text


def test_layers_are_refreshed_while_training_and_boxes_follow_the_scene(stage: Any, run: Any) -> None:
    layers = run.case_layers["a"]
    layers.shown.add("prompts")  # Somewhere else in Slicer.
    before = layers.refreshed
    ticks(stage, 4)
    assert layers.refreshed == before + 4
    assert stage.find("promptsBox").checked


def test_new_kinds_of_layers_get_boxes(stage: Any, run: Any) -> None:
    layers = run.case_layers["a"]
    layers._kinds.insert(3, "generalist:sam-med3d-turbo")
    ticks(stage, 4)
    assert stage.find("generalist:sam-med3d-turboBox").isVisible()


def test_a_case_that_is_a_file_is_loaded_on_request(stage: Any, run: Any) -> None:
    loaded = []
    stage.logic.load_case = lambda run, case: loaded.append(case)
    assert not stage.find("loadVolumeButton").isVisible()
    run.case_layers["b"].volume = None
    stage.click("nextButton")
    stage.click("loadVolumeButton")
    assert loaded == ["b"]


def test_what_cannot_be_read_is_told(stage: Any, run: Any) -> None:
    from SemiSAMPlusLib.errors import VolumeError

    def refuse(kind: str) -> None:
        raise VolumeError("uncertainty.nii.gz: is damaged.", "Wait for the next one.")

    run.case_layers["a"].show = refuse
    stage.click("uncertaintyBox")
    assert stage.find("aboutLabel").text == "uncertainty.nii.gz: is damaged. Wait for the next one."
    assert not stage.find("uncertaintyBox").checked
