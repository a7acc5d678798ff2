"""The list of generalists and their weights, by its widgets; child processes are fakes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from SemiSAMPlusLib.generalist.catalog import catalog
from SemiSAMPlusLib.weights_commands import COMMANDS

NAME, STATE, LICENCE = range(3)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are here, whatever the computer's own cache holds."""
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("SEMISAMPLUS_WEIGHTS", raising=False)


def select(stage: Any, name: str) -> Any:
    """Select a generalist by a click on its state, which checks nothing."""
    from stage import click

    tree = stage.find("generalistsTree")
    rows = [tree.topLevelItem(row) for row in range(tree.topLevelItemCount)]
    item = next(row for row in rows if row.data(NAME, 0x0100) == name)
    rectangle = tree.visualItemRect(item)
    import qt

    click(tree.viewport(), at=qt.QPoint(tree.columnViewportPosition(STATE) + 4, rectangle.center().y()))
    return item


def test_every_generalist_of_the_catalog_is_listed_with_state_size_and_licence(stage: Any) -> None:
    tree = stage.find("generalistsTree")
    rows = [tree.topLevelItem(row) for row in range(tree.topLevelItemCount)]
    assert [row.data(NAME, 0x0100) for row in rows] == list(catalog())
    assert rows[0].text(STATE) == "ready"
    turbo = select(stage, "sam-med3d-turbo")
    assert turbo.text(STATE) == "needs 402 MB"
    assert turbo.text(LICENCE) == "Apache-2.0"
    assert "none stated" in [row.text(LICENCE) for row in rows]


def test_the_selected_one_says_what_it_is_for_and_what_it_was_trained_on(stage: Any) -> None:
    select(stage, "sam-med3d-turbo")
    text = stage.find("generalistLabel").text
    assert catalog()["sam-med3d-turbo"].purpose in text
    assert catalog()["sam-med3d-turbo"].contamination in text
    select(stage, "random-walker")
    assert not stage.find("downloadButton").isVisible()
    assert not stage.find("importButton").isVisible()


def test_one_that_is_not_on_the_hub_can_only_be_imported(stage: Any) -> None:
    select(stage, "sam-med3d")
    assert not stage.find("downloadButton").isVisible()
    assert stage.find("importButton").isVisible()


def test_a_damaged_list_of_pinned_weights_is_told_and_what_is_known_stays(stage: Any, tmp_path: Path) -> None:
    from stage import Stage, settle

    pins = tmp_path / "cache" / "pins.json"
    pins.parent.mkdir(parents=True, exist_ok=True)
    pins.write_text("", encoding="utf-8")
    tree, status = stage.find("generalistsTree"), stage.find("weightsStatusLabel")
    stage.panel.enter()
    settle()
    assert tree.topLevelItemCount == len(catalog())
    assert "pins.json: cannot be read" in status.text
    pins.unlink()
    stage.panel.enter()
    settle()
    assert not status.isVisible()
    pins.write_text("", encoding="utf-8")
    other = Stage(tmp_path / "other runs")
    try:
        assert "Repair it, or remove it" in other.find("weightsStatusLabel").text
        assert not other.find("downloadButton").isVisible()
    finally:
        other.close()


def test_nothing_is_downloaded_without_consent(stage: Any) -> None:
    from host import conversation

    select(stage, "sam-med3d-turbo")
    stage.click("downloadButton")
    question = conversation.texts("question")[-1]
    assert "402 MB" in question
    assert "Apache-2.0" in question
    assert "https://huggingface.co/blueyo0/SAM-Med3D" in question
    assert not [job for job in stage.jobs.jobs if job.arguments[0] == "weights"]


def test_consent_is_asked_to_the_server_that_will_be_asked(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from host import conversation

    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    select(stage, "sam-med3d-turbo")
    stage.click("downloadButton")
    question = conversation.texts("question")[-1]
    assert "from https://mirror.example/blueyo0/SAM-Med3D?" in question
    assert "huggingface" not in question


def test_a_download_shows_progress_and_then_is_ready(stage: Any, monkeypatch: Any) -> None:
    from host import conversation
    from stage import settle

    select(stage, "sam-med3d-turbo")
    conversation.answers.append(True)
    stage.click("downloadButton")
    job = stage.jobs.jobs[-1]
    assert job.arguments == ["weights", "download", "sam-med3d-turbo", "--job", str(job.folder.path)]
    job.say({"event": "progress", "bytes": 201_000_000, "bytes_total": 402_000_000, "speed": 5e6, "seconds_left": 40})
    settle()
    assert stage.find("weightsProgress").value == 500
    assert stage.find("weightsStatusLabel").text == "201 MB / 402 MB, 5 MB a second, 40 s left"
    assert not stage.find("downloadButton").isVisible()
    job.end()
    settle()
    assert "intact" in stage.find("weightsStatusLabel").text
    assert not stage.find("weightsProgress").isVisible()


def test_cancel_stops_and_a_second_press_ends_it(stage: Any) -> None:
    from host import conversation

    select(stage, "sam-med3d-turbo")
    conversation.answers.append(True)
    stage.click("downloadButton")
    job = stage.jobs.jobs[-1]
    stage.click("cancelDownloadButton")
    assert (job.stopped, job.killed) == (True, False)
    assert "Cancelling" in stage.find("weightsStatusLabel").text
    stage.click("cancelDownloadButton")
    assert job.killed
    job.end(("It was killed.", "", Path("log")))
    assert "Cancelled" in stage.find("weightsStatusLabel").text
    assert stage.find("downloadButton").isVisible()


def test_a_failed_download_is_told_with_its_remedy(stage: Any) -> None:
    from host import conversation

    select(stage, "sam-med3d-turbo")
    conversation.answers.append(True)
    stage.click("downloadButton")
    stage.jobs.jobs[-1].end(("The Hub does not answer.", "Try again later.", Path("log")))
    assert stage.find("weightsStatusLabel").text == "The Hub does not answer. Try again later."


def test_a_licence_that_asks_for_more_is_acknowledged_by_a_question_of_its_own(stage: Any) -> None:
    from host import conversation

    select(stage, "seganypet")
    conversation.answers += [True, False]
    stage.click("downloadButton")
    assert not stage.jobs.jobs
    assert "none stated" in conversation.texts("question")[-1]
    conversation.answers += [True, True]
    stage.click("downloadButton")
    assert "--accept-license" in stage.jobs.jobs[-1].arguments
    known = inspect.signature(COMMANDS["download"]).parameters
    assert {"accept_license", "job"} <= set(known)  # The command line has what the panel writes.


def test_a_file_is_imported_by_the_child_process(stage: Any, tmp_path: Path) -> None:
    from host import conversation

    select(stage, "sam-med3d-turbo")
    stage.click("importButton")
    assert not stage.jobs.jobs  # No file was chosen.
    conversation.answers.append(str(tmp_path / "Gewichte ä.pth"))
    stage.click("importButton")
    assert stage.jobs.jobs[-1].arguments[:4] == [
        "weights",
        "import",
        "sam-med3d-turbo",
        str(tmp_path / "Gewichte ä.pth"),
    ]


def test_weights_that_are_here_can_be_removed_after_a_question(stage: Any, tmp_path: Path) -> None:
    from host import conversation
    from stage import settle

    from SemiSAMPlusLib.generalist.weights import place_of_import

    file = next(iter(place_of_import(catalog()["sam-med3d"]).values()))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    stage.panel.method.weights.look_again()
    item = select(stage, "sam-med3d")
    assert item.text(STATE) == "ready"
    stage.click("removeWeightsButton")
    assert not stage.jobs.jobs
    conversation.answers.append(True)
    stage.click("removeWeightsButton")
    assert stage.jobs.jobs[-1].arguments[:3] == ["weights", "remove", "sam-med3d"]
    file.unlink()
    stage.jobs.jobs[-1].end()
    settle()
    assert select(stage, "sam-med3d").text(STATE) == "needs weights"


def test_weights_without_their_package_are_not_said_to_be_ready(stage: Any, monkeypatch: Any) -> None:
    from SemiSAMPlusLib.generalist import inventory
    from SemiSAMPlusLib.generalist.weights import place_of_import

    monkeypatch.setattr(inventory, "_is_installed", lambda package: False)
    for file in place_of_import(catalog()["nninteractive"]).values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")
    stage.panel.method.weights.look_again()
    item = select(stage, "nninteractive")
    assert item.text(STATE) == "needs package"
    assert 'pip install "nnInteractive>=2.6,<3"' in item.toolTip(STATE)


def test_the_real_child_process_refuses_what_is_no_file_of_weights(scene: Any, tmp_path: Path) -> None:
    """The command line that the panel writes is the one that the program reads."""
    from host import conversation
    from SemiSAMPlusPanel.job import ChildJob
    from stage import Stage, settle

    file = tmp_path / "Gewichte ä.pth"
    file.write_text("<html>not found</html>", encoding="utf-8")
    the_stage = Stage(tmp_path / "runs", jobs=ChildJob)
    select(the_stage, "sam-med3d")
    conversation.answers.append(str(file))
    the_stage.click("importButton")
    assert the_stage.find("cancelDownloadButton").isVisible()
    assert settle(60, until=lambda: the_stage.panel.method.weights.job is None)
    assert "web page" in the_stage.find("weightsStatusLabel").text
    the_stage.close()
