"""The section Method, by its widgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GB = 1_000_000_000


def test_what_is_chosen_is_remembered_and_explained(stage: Any) -> None:
    from SemiSAMPlusPanel.parameters import Quality
    from stage import choose

    choose(stage.find("qualityCombo"), "Quick")
    choose(stage.find("methodCombo"), "Supervised")
    choose(stage.find("specialistCombo"), "V-Net")
    parameters = stage.parameters
    assert (parameters.quality, parameters.method, parameters.specialist) == (Quality.QUICK, "supervised", "vnet")
    assert "labelled cases alone" in stage.find("methodChoiceNote").text
    assert stage.find("qualityNote").text
    assert stage.find("specialistNote").text


def test_devices_are_listed_by_name_with_free_memory(stage: Any) -> None:
    from stage import choose, settle

    combo = stage.find("deviceCombo")
    assert combo.count == 1
    stage.logic.known_devices = [
        {"name": "cuda:1", "title": "NVIDIA RTX 4090", "free": 20 * GB, "total": 24 * GB},
        {"name": "cpu", "title": "CPU (16 threads)", "free": 50 * GB, "total": 64 * GB},
    ]
    stage.logic.devices_changed.emit()
    settle()
    assert [combo.itemText(row) for row in range(combo.count)] == [
        "Automatic: NVIDIA RTX 4090",
        "NVIDIA RTX 4090: 20 GB of 24 GB free",
        "CPU (16 threads): 50 GB of 64 GB free",
    ]
    choose(combo, "CPU")
    assert stage.parameters.device == "cpu"
    stage.click("refreshDevicesButton")
    assert stage.logic.asked_devices == 1


def test_devices_that_cannot_be_asked_are_asked_again_when_the_panel_is_entered_or_packages_come(
    scene: Any, tmp_path: Path
) -> None:
    from fake_jobs import FakeJob, FakeStarter, FakeTicker
    from SemiSAMPlusPanel.logic import ModuleLogic
    from stage import FakeInstaller, Stage, settle

    def die(job: FakeJob) -> None:
        job.running = False

    starter, ticker, installer = FakeStarter(), FakeTicker(), FakeInstaller()
    starter.on_start = die
    installer.missing_now = ["torch>=2.6"]
    logic = ModuleLogic(
        scene, start_job=starter, ticker=lambda: ticker, installer=installer, runs_folder=tmp_path / "runs"
    )
    stage = Stage(tmp_path / "runs", logic)

    def asked() -> int:
        for _ in range(10):
            ticker.tick()
            settle()
        return len(starter.jobs)

    assert asked() == 1
    stage.panel.exit()
    stage.panel.enter()
    assert asked() == 2
    installer.missing_now = []
    stage.click("checkAgainButton")
    assert asked() == 3
    stage.close()
    logic.close()


def test_a_device_that_is_gone_stays_chosen_and_is_marked(stage: Any) -> None:
    stage.parameters.device = "cuda:7"
    stage.logic.known_devices = [{"name": "cpu", "title": "CPU", "free": GB, "total": GB}]
    stage.panel.method.refresh()
    assert stage.find("deviceCombo").currentText == "cuda:7 (not available now)"


def test_generalists_are_checked_by_their_boxes(stage: Any) -> None:
    from stage import check

    tree = stage.find("generalistsTree")
    assert list(stage.parameters.generalists) == ["random-walker"]
    check(tree, tree.topLevelItem(0))
    assert list(stage.parameters.generalists) == []
    check(tree, tree.topLevelItem(0))
    assert list(stage.parameters.generalists) == ["random-walker"]


def test_an_advanced_setting_is_kept_only_where_it_differs(stage: Any) -> None:
    from stage import choose, click, write

    button = stage.find("advancedButton")
    assert button.collapsed
    import qt

    click(button, at=qt.QPoint(12, 8))
    assert not button.collapsed
    write(stage.find("batchEdit"), "4")
    write(stage.find("spacingEdit"), "1.5")
    choose(stage.find("sizeEdit"), "large")
    assert json.loads(stage.parameters.advanced) == {"batch": 4, "spacing": 1.5, "size": "large"}
    write(stage.find("batchEdit"), "1")
    write(stage.find("spacingEdit"), "")
    assert json.loads(stage.parameters.advanced) == {"size": "large"}
    stage.click("resetAdvancedButton")
    assert stage.parameters.advanced == ""
    assert stage.find("sizeEdit").currentText == "auto"


def test_an_impossible_setting_is_told_and_not_taken(stage: Any) -> None:
    import qt
    from stage import click, write

    click(stage.find("advancedButton"), at=qt.QPoint(12, 8))
    write(stage.find("batchEdit"), "0")
    assert "batch" in stage.find("methodNote").text
    assert stage.parameters.advanced == ""
    write(stage.find("emaEdit"), "much")
    assert "'much'" in stage.find("methodNote").text
    write(stage.find("emaEdit"), "0.9")
    assert not stage.find("methodNote").isVisible()


def test_names_of_cases_may_hold_spaces_and_commas(stage: Any) -> None:
    import qt
    from stage import click, write

    click(stage.find("advancedButton"), at=qt.QPoint(12, 8))
    edit = stage.find("layersEdit")
    assert "semicolon" in edit.toolTip
    assert "semicolon" not in stage.find("flipsEdit").toolTip
    write(edit, "4: Ax T2 (2);Meier, Anna ; ")
    assert json.loads(stage.parameters.advanced) == {"layers": ["4: Ax T2 (2)", "Meier, Anna"]}
    stage.panel.restore()
    assert edit.text == "4: Ax T2 (2); Meier, Anna"
    write(edit, "")
    assert stage.parameters.advanced == ""


def test_settings_reach_the_training(stage: Any) -> None:
    from stage import add_segmentation, add_volume, choose, settle

    add_segmentation(add_volume("one"))
    add_volume("two")
    settle()
    choose(stage.find("qualityCombo"), "Thorough")
    choose(stage.find("methodCombo"), "Mean teacher")
    stage.click("startButton")
    config = stage.logic.trained[-1]["config"]
    assert (config.minutes, config.method, config.generalists) == (120, "mean-teacher", ("random-walker",))


def test_the_wheel_changes_no_setting_while_the_panel_is_scrolled(stage: Any) -> None:
    import ctk

    for name in ("qualityCombo", "methodCombo", "specialistCombo", "deviceCombo", "runCombo"):
        assert stage.find(name).scrollWheelEffect == ctk.ctkComboBox.ScrollWithFocus
