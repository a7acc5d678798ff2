"""The section Volumes, by its widgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from SemiSAMPlusLib.cohort.cohort import Role

CASE, ROLE, SEGMENTATION, CHECK, FIGURE = range(5)


def names(table: Any) -> list[str]:
    return [table.item(row, CASE).text() for row in range(table.rowCount)]


def role(table: Any, row: int) -> str:
    return table.cellWidget(row, ROLE).currentText


def test_an_empty_scene_says_what_to_do(stage: Any) -> None:
    assert stage.find("emptyLabel").isVisible()
    assert not stage.find("volumesTable").isVisible()
    assert "load volumes" in stage.find("stateLabel").text
    assert not stage.find("startButton").enabled


def test_volumes_appear_with_the_part_that_follows_from_their_segmentation(stage: Any) -> None:
    from stage import add_segmentation, add_volume, settle

    add_segmentation(add_volume("one"))
    add_volume("two")
    settle()
    table = stage.find("volumesTable")
    assert names(table) == ["one", "two"]
    assert (role(table, 0), role(table, 1)) == ("Labelled", "Unlabelled")
    assert table.cellWidget(0, SEGMENTATION).currentText == "one segmentation"
    assert table.item(0, CHECK).text() == "✓"
    assert stage.find("countLabel").text == "1 labelled, 1 unlabelled"
    assert stage.find("stateLabel").text == "Ready to start."


def test_a_role_is_chosen_and_kept_by_the_volume(stage: Any) -> None:
    from stage import add_volume, choose, settle

    volume = add_volume("one")
    settle()
    choose(stage.find("volumesTable").cellWidget(0, ROLE), "Ignore")
    assert volume.GetAttribute("SemiSAMPlus.Role") == "ignore"
    assert role(stage.find("volumesTable"), 0) == "Ignore"


def test_a_role_is_chosen_for_all_selected_rows(stage: Any) -> None:
    from stage import add_volume, choose, settle

    for number in range(4):
        add_volume(f"v{number}")
    settle()
    table = stage.find("volumesTable")
    table.selectAll()
    choose(table.cellWidget(2, ROLE), "Ignore")
    assert [row.role for row in stage.logic.cases.rows()] == [None] * 4
    table.clearSelection()
    choose(table.cellWidget(1, ROLE), "Unlabelled")
    assert [row.role for row in stage.logic.cases.rows()] == [None, Role.UNLABELED, None, None]


def test_a_segmentation_is_chosen_in_the_row(stage: Any) -> None:
    from stage import add_segmentation, add_volume, choose, settle

    first, second = add_volume("first"), add_volume("second")
    node = add_segmentation(first)
    settle()
    table = stage.find("volumesTable")
    choose(table.cellWidget(1, SEGMENTATION), node.GetName())
    assert second.GetNodeReference("SemiSAMPlus.Segmentation") is node
    choose(table.cellWidget(1, SEGMENTATION), "–")
    assert second.GetNodeReference("SemiSAMPlus.Segmentation") is None


def test_a_fault_is_told_in_words(stage: Any) -> None:
    from stage import add_volume, choose, settle

    add_volume("one")
    settle()
    table = stage.find("volumesTable")
    choose(table.cellWidget(0, ROLE), "Labelled")
    assert table.item(0, CHECK).text() == "✗"
    assert "no segmentation" in table.item(0, CHECK).toolTip()
    assert "no segmentation" in stage.find("countLabel").text
    assert "correct one" in stage.find("stateLabel").text or "unlabelled" in stage.find("stateLabel").text


def test_structures_are_picked_by_their_boxes(stage: Any) -> None:
    from stage import add_segmentation, add_volume, check, settle

    add_segmentation(add_volume("one"), "left", "right")
    add_volume("two")
    settle()
    listed = stage.find("segmentsList")
    assert [listed.item(row).text() for row in range(listed.count)] == ["left", "right"]
    check(listed, listed.item(1))
    assert list(stage.parameters.leftOutSegments) == ["right"]
    stage.click("startButton")
    assert stage.logic.trained[-1]["segments"] == ["left"]


def test_nothing_to_learn_is_told(stage: Any) -> None:
    from stage import add_segmentation, add_volume, check, settle

    add_segmentation(add_volume("one"))
    add_volume("two")
    settle()
    listed = stage.find("segmentsList")
    check(listed, listed.item(0))
    assert not stage.find("startButton").enabled
    assert "structure" in stage.find("stateLabel").text


def test_a_folder_is_added_without_loading_and_taken_off_again(stage: Any, tmp_path: Path) -> None:
    from host import conversation
    from stage import click, settle

    folder = tmp_path / "Bilder ä"
    for kind, value in (("images", 7), ("labels", 1)):
        (folder / kind).mkdir(parents=True)
        for name in ("a", "b"):
            image = sitk.GetImageFromArray(np.full((4, 5, 6), value, np.uint8))
            sitk.WriteImage(image, str(folder / kind / f"{name}.nii.gz"))
    conversation.answers.append(str(folder))
    stage.click("addFolderButton")
    table = stage.find("volumesTable")
    assert names(table) == ["a", "b"]
    assert table.item(0, SEGMENTATION).text() == "a.nii.gz"
    assert role(table, 0) == "Labelled"
    assert stage.logic.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert not stage.find("removeButton").enabled
    rectangle = table.visualItemRect(table.item(1, CASE))
    click(table.viewport(), at=rectangle.center())
    assert stage.find("removeButton").enabled
    stage.click("removeButton")
    settle()
    assert names(table) == ["a"]
    assert (folder / "images" / "b.nii.gz").is_file()


def test_a_folder_without_volumes_is_refused_in_words(stage: Any, tmp_path: Path) -> None:
    from host import conversation

    (tmp_path / "empty").mkdir()
    conversation.answers.append(str(tmp_path / "empty"))
    stage.click("addFolderButton")
    assert str(tmp_path / "empty") in stage.find("countLabel").text
    assert not conversation.texts("error")


def test_suggest_writes_down_what_is_shown(stage: Any) -> None:
    from stage import add_segmentation, add_volume, settle

    assert not stage.find("suggestButton").isVisible()
    volume = add_volume("one")
    add_segmentation(volume)
    settle()
    stage.click("suggestButton")
    assert volume.GetAttribute("SemiSAMPlus.Role") == "labeled"


def test_figures_of_a_run_stand_in_the_last_column(stage: Any) -> None:
    from stage import add_volume, settle

    add_volume("one")
    add_volume("two")
    stage.logic.cases.set_figures(stage.logic.cases.row("one").key, dice=0.876)
    stage.logic.cases.set_figures(stage.logic.cases.row("two").key, uncertainty=0.12)
    settle()
    table = stage.find("volumesTable")
    assert [table.item(row, FIGURE).text() for row in (0, 1)] == ["0.88", "~0.12"]


def test_the_table_is_rebuilt_once_for_many_changes(stage: Any, monkeypatch: Any) -> None:
    from stage import add_volume, settle

    refreshed = []
    original = stage.logic.cases.rows
    monkeypatch.setattr(stage.panel.volumes, "_show_segmentations", lambda: refreshed.append(len(original())))
    for number in range(30):
        add_volume(f"v{number}")
    settle()
    assert refreshed[0] == 30
    assert len(refreshed) <= 3  # Combo boxes are made a few at a time.
    assert stage.find("volumesTable").rowCount == 30


def test_a_removed_or_renamed_volume_is_followed(stage: Any) -> None:
    from stage import add_volume, settle

    first, second = add_volume("first"), add_volume("second")
    settle()
    stage.logic.scene.RemoveNode(first)
    second.SetName("renamed")
    settle()
    assert names(stage.find("volumesTable")) == ["renamed"]


def test_what_was_drawn_and_linked_in_segment_editor_is_seen_on_coming_back(stage: Any) -> None:
    import slicer
    import vtk
    from stage import add_volume, settle

    volume, _other = add_volume("one"), add_volume("two")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.CreateDefaultDisplayNodes()
    settle()
    table, start = stage.find("volumesTable"), stage.find("startButton")

    def come_back() -> None:
        settle()
        stage.panel.enter()
        settle()

    stage.panel.exit()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    come_back()
    assert role(table, 0) == "Labelled"
    assert "has no segments" in table.item(0, CHECK).toolTip()
    stage.panel.exit()
    segment = node.GetSegmentation().AddEmptySegment("", "organ")
    drawn, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    drawn.SetDimensions(8, 8, 8)
    drawn.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    drawn.GetPointData().GetScalars().Fill(1)
    volume.GetIJKToRASMatrix(matrix)
    drawn.SetGeometryFromImageToWorldMatrix(matrix)
    slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(drawn, node, segment, 0)
    come_back()
    assert table.item(0, CHECK).text() == "✓"
    assert stage.find("segmentsList").count == 1
    assert start.enabled


def test_what_a_run_measures_on_a_case_reaches_the_table(stage: Any) -> None:
    import json

    from stage import add_volume, settle

    add_volume("one")
    run = stage.logic.add_run("atrium", "running")
    folder = run.folder.layers("one")
    folder.mkdir(parents=True)
    table = stage.find("volumesTable")
    for iteration, about in (
        (10, {"mean_uncertainty": 0.4}),
        (20, {"mean_uncertainty": 0.2, "dice": {"a": 0.8, "b": 0.9}}),
    ):
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        run.layers_written["one"] = iteration
        run.changed.emit(run)
        settle()
        assert table.item(0, FIGURE).text() == ("~0.40" if iteration == 10 else "0.85")


def test_a_broken_file_of_a_run_is_passed_over(stage: Any) -> None:
    from stage import add_volume, settle

    add_volume("one")
    run = stage.logic.add_run("atrium", "running")
    run.folder.layers("one").mkdir(parents=True)
    (run.folder.layers("one") / "about.json").write_text("{", encoding="utf-8")
    run.layers_written["one"] = 1
    run.changed.emit(run)
    settle()
    assert stage.find("volumesTable").item(0, FIGURE).text() == ""


def test_what_a_run_measured_goes_with_its_volume_and_comes_back_with_it(stage: Any, tmp_path: Path) -> None:
    import json

    import slicer
    from stage import add_volume, settle

    add_volume("one")
    run = stage.logic.add_run("atrium", "done")
    stage.panel.state.choose_run(run)
    run.folder.layers("one").mkdir(parents=True)
    (run.folder.layers("one") / "about.json").write_text(json.dumps({"mean_uncertainty": 0.4}), encoding="utf-8")
    run.layers_written["one"] = 10
    run.changed.emit(run)
    assert [row.uncertainty for row in stage.logic.cases.rows()] == [0.4]
    path = tmp_path / "scene.mrml"
    slicer.util.saveScene(str(path))
    stage.logic.scene.Clear(False)
    settle()
    add_volume("one")
    settle()
    assert [row.uncertainty for row in stage.logic.cases.rows()] == [None], "another patient's"
    stage.logic.scene.Clear(False)
    settle()
    slicer.util.loadScene(str(path))
    settle()
    assert [row.uncertainty for row in stage.logic.cases.rows()] == [0.4]


def test_what_a_run_measured_on_a_file_stands_in_its_row(stage: Any, tmp_path: Path) -> None:
    import json

    from tiny import OBLIQUE, write_volume

    image = write_volume(
        tmp_path / "study" / "one.nii.gz", np.random.default_rng(0).normal(size=OBLIQUE.shape), OBLIQUE
    )
    stage.logic.cases.add_folder(image.parent)
    run = stage.logic.add_run("atrium", "running")
    run.image_of = lambda case: image
    run.folder.layers("one").mkdir(parents=True)
    (run.folder.layers("one") / "about.json").write_text(json.dumps({"mean_uncertainty": 0.4}), encoding="utf-8")
    run.layers_written["one"] = 10
    run.changed.emit(run)
    assert [row.uncertainty for row in stage.logic.cases.rows()] == [0.4]
