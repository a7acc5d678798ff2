"""The section Training, by its widgets, with runs in whatever state the test sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from SemiSAMPlusLib.errors import RunFolderError


@pytest.fixture
def ready(stage: Any) -> Any:
    """A stage on which a training can start."""
    from stage import add_segmentation, add_volume, settle

    add_segmentation(add_volume("one"))
    add_volume("two")
    settle()
    return stage


def watch(stage: Any, state: str, **values: Any) -> Any:
    """Let there be a run in a state, and look at it."""
    from stage import choose, settle

    run = stage.logic.add_run("atrium", state)
    for name, value in values.items():
        setattr(run, name, value)
    settle()
    choose(stage.find("runCombo"), "atrium")
    run.changed.emit(run)
    settle()
    return run


def shown(stage: Any, *names: str) -> list[bool]:
    return [stage.find(name).isVisible() for name in names]


BUTTONS = ("startButton", "stopButton", "resumeButton")


def test_start_trains_what_the_table_says(ready: Any) -> None:
    from stage import write

    write(ready.find("nameEdit"), "Vorhof")
    ready.click("startButton")
    asked = ready.logic.trained[-1]
    assert [row.name for row in asked["rows"]] == ["one", "two"]
    assert (asked["name"], asked["segments"], asked["start_from"]) == ("Vorhof", None, None)
    assert ready.panel.state.run.name == "Vorhof"
    assert ready.parameters.run == str(ready.panel.state.run.folder.path)
    assert shown(ready, *BUTTONS) == [False, True, False]


def test_what_cannot_start_says_what_and_the_remedy(ready: Any) -> None:
    ready.logic.wrong = RunFolderError("/full: no room.", "Choose another folder.")
    ready.click("startButton")
    assert ready.find("errorFrame").isVisible()
    assert ready.find("errorLabel").text == "/full: no room.\nChoose another folder."
    assert not ready.find("openLogButton").isVisible()
    ready.logic.wrong = None
    ready.click("startButton")
    assert not ready.find("errorFrame").isVisible()


def test_missing_packages_are_named_as_the_reason(ready: Any) -> None:
    ready.logic.installer.missing_now = ["torch>=2.6"]
    ready.panel.setup.check()
    from stage import settle

    settle()
    assert not ready.find("startButton").enabled
    assert "packages" in ready.find("stateLabel").text


def test_missing_weights_are_named_as_the_reason(ready: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from stage import check

    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEMISAMPLUS_WEIGHTS", raising=False)
    tree = ready.find("generalistsTree")
    rows = [tree.topLevelItem(number) for number in range(tree.topLevelItemCount)]
    check(tree, next(row for row in rows if row.data(0, 0x0100) == "sam-med3d"))
    assert not ready.find("startButton").enabled
    assert "sam-med3d" in ready.find("stateLabel").text


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("preparing", [False, True, False]),
        ("running", [False, True, False]),
        ("stopping", [False, True, False]),
        ("stopped", [False, False, True]),
        ("unfinished", [False, False, True]),
        ("failed", [False, False, True]),
        ("done", [False, False, False]),
    ],
)
def test_each_state_offers_only_what_makes_sense(stage: Any, state: str, buttons: list[bool]) -> None:
    watch(stage, state)
    assert shown(stage, *BUTTONS) == buttons
    assert stage.find("stateLabel").text
    assert not shown(stage, "nameEdit", "runsFolderEdit")[0]


def test_progress_is_shown_as_it_comes(stage: Any) -> None:
    from stage import settle

    run = watch(
        stage,
        "running",
        iteration=340,
        iterations=1000,
        seconds_left=720.0,
        dice=[(300, {"left": 0.8, "right": 0.6}, "validation")],
        trust={"random-walker": 0.41},
        memory={"process_gb": 2.14, "gpu_gb": 3.2, "gpu_total_gb": 24.0},
        device="cuda:0",
        messages=["first", "Iteration 300 was validated."],
    )
    bar = stage.find("trainingProgress")
    assert (bar.value, bar.maximum) == (340, 1000)
    text = stage.find("progressLabel").text
    for part in (
        "Iteration 340 of 1000",
        "12 min left",
        "Dice 0.70",
        "random-walker 0.41",
        "GPU 3.2 of 24 GB",
        "2.1 GB",
    ):
        assert part in text
    assert stage.find("logText").plainText.endswith("Iteration 300 was validated.")
    run.iteration = 500
    run.changed.emit(run)
    run.changed.emit(run)
    settle()
    assert bar.value == 500


def test_writing_volumes_is_progress_too(stage: Any) -> None:
    watch(stage, "preparing", exported=(3, 12))
    bar = stage.find("trainingProgress")
    assert (bar.value, bar.maximum) == (3, 12)
    assert "3 of 12" in stage.find("stateLabel").text


def test_what_was_stopped_while_preparing_promises_no_resumption(stage: Any) -> None:
    watch(stage, "stopped", has_begun=False)
    assert not stage.find("resumeButton").isVisible()
    assert "Resume" not in stage.find("stateLabel").text


def test_stop_asks_first_gracefully_then_after_a_question_at_once(stage: Any) -> None:
    from host import conversation

    run = watch(stage, "running")
    stage.click("stopButton")
    assert (run.stops, run.kills) == (1, 0)
    assert not conversation.shown
    assert stage.find("stopButton").text == "End now"
    stage.click("stopButton")
    assert (run.stops, run.kills) == (1, 0)  # The question was answered with no.
    conversation.answers.append(True)
    stage.click("stopButton")
    assert (run.stops, run.kills) == (1, 1)
    assert "resumed" in conversation.texts("question")[-1]
    assert shown(stage, *BUTTONS) == [False, False, True]


def test_resume_goes_on(stage: Any) -> None:
    run = watch(stage, "unfinished")
    stage.click("resumeButton")
    assert run.resumes == 1
    assert shown(stage, *BUTTONS) == [False, True, False]


def test_an_error_shows_its_sentence_remedy_and_log(stage: Any, monkeypatch: Any, tmp_path: Path) -> None:
    import SemiSAMPlusPanel.training_section as section

    opened = []
    monkeypatch.setattr(section, "open_file", opened.append)
    watch(stage, "failed", error=("The GPU is full.", "Choose a smaller patch.", tmp_path / "log.txt"))
    assert stage.find("errorLabel").text == "The GPU is full.\nChoose a smaller patch."
    stage.click("openLogButton")
    assert opened == [tmp_path / "log.txt"]


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_it_says_how_to_go_on_after_what_failed_or_was_stopped(stage: Any, state: str) -> None:
    from stage import settle

    run = watch(stage, state)
    assert "Resume" in stage.find("stateLabel").text
    run.has_begun = False
    run.changed.emit(run)
    settle()
    assert shown(stage, *BUTTONS) == [False, False, False]
    assert stage.find("runCombo").itemText(0) in stage.find("stateLabel").text


def test_runs_are_found_and_named_with_their_state(stage: Any) -> None:
    from stage import settle

    stage.logic.add_run("done one", "done")
    running = stage.logic.add_run("at work", "running")
    running.iteration, running.iterations = 25, 100
    stage.logic.runs_changed.emit()
    settle()
    combo = stage.find("runCombo")
    texts = [combo.itemText(row) for row in range(combo.count)]
    assert texts == ["New training", "done one (done)", "at work (running, 25 %)"]


def test_a_run_is_deleted_only_after_a_question(stage: Any) -> None:
    from host import conversation

    watch(stage, "done")
    delete = next(action for action in stage.find("runMenuButton").menu().actions() if action.text.startswith("Delete"))
    delete.trigger()
    assert "predictions" in conversation.texts("question")[-1]
    assert stage.logic.known_runs
    conversation.answers.append(True)
    delete.trigger()
    assert not stage.logic.known_runs
    assert stage.panel.state.run is None


def test_the_chart_is_drawn_when_asked_for_and_follows(stage: Any) -> None:
    from stage import settle

    drawn, run = [], watch(stage, "running", losses={"supervised": [(1, 1.5)]})

    class Chart:
        def update(self, losses: Any, dice: Any) -> None:
            drawn.append(len(losses["supervised"]))

        def show(self) -> None:
            drawn.append("shown")

    stage.panel.training._make_chart = lambda run: Chart()
    stage.click("chartButton")
    assert drawn == [1, "shown"]
    run.losses["supervised"].append((2, 1.2))
    run.changed.emit(run)
    settle()
    assert drawn == [1, "shown", 2]


def test_the_chart_is_made_of_plot_nodes(stage: Any) -> None:
    watch(stage, "running", losses={"supervised": [(1, 1.5), (2, 1.2)]}, dice=[(2, {"organ": 0.5}, "validation")])
    stage.click("chartButton")
    assert stage.logic.scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 1
    assert stage.logic.scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 2


def test_another_folder_of_runs_is_remembered(stage: Any, tmp_path: Path) -> None:
    stage.find("runsFolderEdit").currentPath = str(tmp_path / "andere Läufe")
    assert stage.parameters.runsFolder == str(tmp_path / "andere Läufe")
    assert stage.logic.runs_folder == tmp_path / "andere Läufe"
    stage.find("runsFolderEdit").currentPath = ""
    assert stage.parameters.runsFolder == ""
    assert stage.logic.runs_folder == stage.logic.default_folder


def test_closing_the_scene_keeps_watching_what_trains(stage: Any) -> None:
    from stage import settle

    run = watch(stage, "running")
    stage.logic.scene.Clear(False)
    settle()
    assert run.stops == run.kills == 0
    assert stage.panel.state.run is run
    assert stage.parameters.run == str(run.folder.path)


def test_closing_the_scene_forgets_what_was_set_up(ready: Any) -> None:
    from stage import settle, write

    write(ready.find("nameEdit"), "Vorhof")
    ready.parameters.generalists = []
    ready.logic.scene.Clear(False)
    settle()
    assert ready.find("nameEdit").text == ""
    assert list(ready.parameters.generalists) == ["random-walker"]
    assert ready.find("emptyLabel").isVisible()


def test_a_loaded_scene_brings_its_run_and_settings_back(ready: Any, tmp_path: Path) -> None:
    import slicer
    from stage import choose, settle

    run = watch(ready, "stopped")
    choose(ready.find("methodCombo"), "Supervised")
    path = tmp_path / "scene.mrml"
    slicer.util.saveScene(str(path))
    ready.logic.scene.Clear(False)
    settle()
    assert ready.panel.state.run is None
    slicer.util.loadScene(str(path))
    settle()
    assert ready.panel.state.run is run
    assert ready.find("methodCombo").currentText == "Supervised"
    assert ready.find("resumeButton").isVisible()


def test_a_run_that_is_gone_is_forgotten(stage: Any) -> None:
    stage.parameters.run = "/nowhere/run"
    stage.panel.restore()
    assert stage.panel.state.run is None
    assert stage.parameters.run == ""
