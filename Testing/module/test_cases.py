"""The table of cases: the scene says which volume plays which part, and what is matched is only suggested."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import OBLIQUE, write_volume

from SemiSAMPlusLib.cohort.cohort import Role
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.errors import CohortError

SIZE = (8, 10, 12)


@pytest.fixture
def table(scene: Any) -> Any:
    from SemiSAMPlusPanel.cases import CaseTable

    table = CaseTable(scene)
    yield table
    table.close()


def add_volume(scene: Any, name: str, size: tuple[int, int, int] = SIZE) -> Any:
    import slicer

    return slicer.util.addVolumeFromArray(np.random.default_rng(0).integers(0, 99, size).astype(np.int16), name=name)


def add_segmentation(scene: Any, name: str, volume: Any | None, *, segments: tuple[str, ...] = ("liver",)) -> Any:
    """Add a segmentation with a block for each segment, drawn on a volume."""
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    if volume is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for index, segment in enumerate(segments):
        identity = node.GetSegmentation().AddEmptySegment("", segment, [0.1 * (index + 1), 0.5, 0.25])
        if volume is not None:
            array = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
            array[2 + index, 2:5, 2:5] = 1
            slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, identity, volume)
    return node


def rows_by_name(table: Any) -> dict[str, Any]:
    return {row.name: row for row in table.rows()}


# Suggestions


def test_a_fresh_scene_is_suggested_and_nothing_is_written(scene: Any, table: Any) -> None:
    first, second = add_volume(scene, "one"), add_volume(scene, "two")
    segmentation = add_segmentation(scene, "drawn", first)
    rows = rows_by_name(table)
    assert (rows["one"].role, rows["two"].role) == (Role.LABELED, Role.UNLABELED)
    assert rows["one"].segmentation is segmentation
    assert rows["two"].segmentation is None
    assert all(row.suggested for row in rows.values())
    assert first.GetAttribute("SemiSAMPlus.Role") is None
    assert second.GetNodeReferenceID("SemiSAMPlus.Segmentation") is None


def test_suggest_writes_down_what_was_shown(scene: Any, table: Any) -> None:
    first = add_volume(scene, "one")
    segmentation = add_segmentation(scene, "drawn", first)
    add_volume(scene, "two")
    table.suggest()
    assert first.GetAttribute("SemiSAMPlus.Role") == "labeled"
    assert first.GetNodeReference("SemiSAMPlus.Segmentation") is segmentation
    assert not any(row.suggested for row in table.rows())


@pytest.mark.parametrize(
    ("volume", "segmentation"),
    [
        ("MRHead", "MRHead segmentation"),
        ("case_01", "case-01_seg"),
        ("Thorax", "Thorax.label"),
        ("Ä b", "ä B Segmentation"),
    ],
)
def test_names_match_without_what_tells_them_apart(scene: Any, table: Any, volume: str, segmentation: str) -> None:
    add_volume(scene, "another")
    mine = add_volume(scene, volume)
    node = add_segmentation(scene, segmentation, None)
    rows = {row.volume.GetID(): row for row in table.rows()}
    assert rows[mine.GetID()].segmentation is node


def test_the_reference_says_more_than_the_name(scene: Any, table: Any) -> None:
    first, second = add_volume(scene, "one"), add_volume(scene, "two")
    drawn_on_second = add_segmentation(scene, "one segmentation", second)
    rows = rows_by_name(table)
    assert rows["two"].segmentation is drawn_on_second
    assert rows["one"].segmentation is None
    assert first is not second


def test_a_place_of_their_own_matches(scene: Any, table: Any) -> None:
    import slicer

    volume, other = add_volume(scene, "x"), add_volume(scene, "y")
    node = add_segmentation(scene, "something else", None)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    for one in (volume, node):
        # The application makes the items; where only the scene is real, they are made by hand.
        item = hierarchy.GetItemByDataNode(one) or hierarchy.CreateItem(study, one)
        hierarchy.SetItemParent(item, study)
    rows = rows_by_name(table)
    assert rows["x"].segmentation is node
    assert rows["y"].segmentation is None
    assert other is not None


def test_names_that_fit_several_fit_none(scene: Any, table: Any) -> None:
    add_volume(scene, "CT")
    add_volume(scene, "CT")
    add_segmentation(scene, "CT segmentation", None)
    assert [row.segmentation for row in table.rows()] == [None, None]


def test_what_we_made_ourselves_is_no_case_and_no_label(scene: Any, table: Any) -> None:
    volume, heat = add_volume(scene, "one"), add_volume(scene, "one uncertainty")
    heat.SetAttribute("SemiSAMPlus.Layer", "uncertainty")
    predicted = add_segmentation(scene, "one prediction", volume)
    predicted.SetAttribute("SemiSAMPlus.Layer", "prediction")
    draft = add_segmentation(scene, "one corrected", volume)
    draft.SetAttribute("SemiSAMPlus.Draft", "1")
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "one label")
    (row,) = table.rows()
    assert (row.name, row.segmentation, row.role) == ("one", None, Role.UNLABELED)


# What the user says


def test_what_the_user_says_is_in_the_scene(scene: Any, table: Any) -> None:
    from SemiSAMPlusPanel.cases import CaseTable

    for name in ("a", "b", "c"):
        add_volume(scene, name)
    rows = rows_by_name(table)
    for name, role in {"a": Role.VALIDATION, "b": None, "c": Role.UNLABELED}.items():
        table.set_role(rows[name], role)
    another = CaseTable(scene)
    assert {name: row.role for name, row in rows_by_name(another).items()} == {
        "a": Role.VALIDATION,
        "b": None,
        "c": Role.UNLABELED,
    }
    another.close()


def test_a_role_keeps_the_segmentation_that_was_shown(scene: Any, table: Any) -> None:
    volume = add_volume(scene, "one")
    segmentation = add_segmentation(scene, "drawn", volume)
    table.set_role(table.rows()[0], Role.VALIDATION)
    segmentation.SetNodeReferenceID(segmentation.GetReferenceImageGeometryReferenceRole(), None)
    assert table.rows()[0].segmentation is segmentation


def test_a_segmentation_makes_a_labelled_case_and_its_loss_an_unlabelled(scene: Any, table: Any) -> None:
    add_volume(scene, "one")
    segmentation = add_segmentation(scene, "elsewhere", None)
    table.set_segmentation(table.rows()[0], segmentation)
    row = table.rows()[0]
    assert (row.role, row.segmentation, row.suggested) == (Role.LABELED, segmentation, False)
    table.set_segmentation(row, None)
    row = table.rows()[0]
    assert (row.role, row.segmentation) == (Role.LABELED, None)
    assert "no segmentation" in row.fault


def test_a_suggested_segmentation_can_be_refused(scene: Any, table: Any) -> None:
    volume = add_volume(scene, "one")
    add_segmentation(scene, "drawn", volume)
    table.set_segmentation(table.rows()[0], None)
    row = table.rows()[0]
    assert (row.role, row.segmentation) == (Role.UNLABELED, None)


def test_roles_are_saved_with_the_scene_and_survive_a_merge(scene: Any, table: Any, tmp_path: Path) -> None:
    volume = add_volume(scene, "Bild ä")
    segmentation = add_segmentation(scene, "drawn", volume)
    table.set_segmentation(table.rows()[0], segmentation)
    table.set_role(table.rows()[0], Role.VALIDATION)
    path = tmp_path / "Szene ü.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(False)
    assert table.rows() == []
    add_volume(scene, "other")
    add_segmentation(scene, "other drawn", None)
    assert scene.ReadFromMRB(str(path), False)
    row = rows_by_name(table)["Bild ä"]
    assert row.role is Role.VALIDATION
    assert row.segmentation.GetName() == "drawn"


def test_removing_a_volume_ignores_it_and_deletes_nothing(scene: Any, table: Any) -> None:
    volume = add_volume(scene, "one")
    table.remove(table.rows()[0])
    assert table.rows()[0].role is None
    assert volume.GetScene() is scene


def test_names_are_unique_also_where_case_is_not_told_apart(scene: Any, table: Any) -> None:
    for name in ("CT", "ct", "CT", "  CT  "):
        add_volume(scene, name)
    names = [row.name for row in table.rows()]
    assert names[0] == "CT"
    assert len({name.casefold() for name in names}) == 4


def test_rows_are_found_by_node_key_and_name(scene: Any, table: Any) -> None:
    volume = add_volume(scene, "one")
    for which in (volume, volume.GetID(), "one"):
        assert table.row(which).volume is volume
    assert table.row("nobody") is None


def test_changes_are_told(scene: Any, table: Any) -> None:
    told: list[int] = []
    table.changed.connect(lambda: told.append(1))
    volume = add_volume(scene, "one")
    assert told
    told.clear()
    table.set_role(table.rows()[0], Role.UNLABELED)
    assert told == [1]
    told.clear()
    scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    assert told == [], "what is no volume and no segmentation does not concern the table"
    scene.RemoveNode(volume)
    assert told == [1]
    told.clear()
    scene.StartState(scene.BatchProcessState)
    for number in range(5):
        add_volume(scene, f"v{number}")
    assert told == []
    scene.EndState(scene.BatchProcessState)
    assert told == [1]


def test_a_closed_table_hears_nothing_and_is_let_go(scene: Any) -> None:
    from SemiSAMPlusPanel.cases import CaseTable

    table = CaseTable(scene)
    told: list[int] = []
    table.changed.connect(lambda: told.append(1))
    table.close()
    add_volume(scene, "one")
    assert told == []
    gc.collect()


def test_structures_are_those_of_labelled_cases_in_order_with_their_colours(scene: Any, table: Any) -> None:
    first, second, third = (add_volume(scene, name) for name in ("a", "b", "c"))
    add_segmentation(scene, "a seg", first, segments=("liver", "spleen"))
    add_segmentation(scene, "b seg", second, segments=("spleen", "kidney"))
    add_segmentation(scene, "c seg", third, segments=("tumour",))
    table.set_role(table.row(third), Role.UNLABELED)
    names = [name for name, _ in table.segments()]
    assert names == ["liver", "spleen", "kidney"]
    assert np.allclose(dict(table.segments())["spleen"], (0.2, 0.5, 0.25))


# Faults


def test_faults_are_told_with_values_and_remedy(scene: Any, table: Any) -> None:
    import vtk

    sound = add_volume(scene, "sound")
    sheared = add_volume(scene, "sheared")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 1, 0.3)
    sheared.SetIJKToRASMatrix(matrix)
    bent = add_volume(scene, "bent")
    grid = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    grid.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    bent.SetAndObserveTransformNodeID(grid.GetID())
    add_volume(scene, "flat", (1, 10, 12))
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    lonely = add_volume(scene, "lonely")
    table.set_role(table.row(lonely), Role.LABELED)
    beside = add_volume(scene, "beside")
    node = add_segmentation(scene, "far away", sound)
    beside.SetOrigin(500, 0, 0)
    table.set_segmentation(table.row(beside), node)
    faults = {row.name: row.fault for row in table.rows()}
    assert faults.pop("sound") is None
    for name, words in {
        "sheared": ("right angles", "Resample"),
        "bent": ("not linear", "'warp'", "Harden"),
        "flat": ("single slice", "(12, 10, 1)"),
        "empty": ("no voxels",),
        "lonely": ("no segmentation", "unlabelled"),
        "beside": ("does not overlap", "500"),
    }.items():
        for word in words:
            assert word in faults[name], faults[name]
    table.set_role(table.row(sheared), None)
    assert rows_by_name(table)["sheared"].fault is None, "who plays no part needs no repair"


def test_a_mended_fault_is_forgotten(scene: Any, table: Any) -> None:
    import vtk

    volume = add_volume(scene, "one")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 1, 0.3)
    volume.SetIJKToRASMatrix(matrix)
    assert table.rows()[0].fault
    volume.SetIJKToRASMatrix(vtk.vtkMatrix4x4())
    assert table.rows()[0].fault is None
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    assert table.rows()[0].fault is None
    shear = vtk.vtkMatrix4x4()
    shear.SetElement(0, 1, 0.3)
    transform.SetMatrixTransformToParent(shear)
    assert "right angles" in table.rows()[0].fault


def test_a_segmentation_without_anything_drawn_is_told(scene: Any, table: Any) -> None:
    volume = add_volume(scene, "one")
    node = add_segmentation(scene, "drawn", None)
    table.set_segmentation(table.row(volume), node)
    assert "empty" in table.rows()[0].fault
    node.GetSegmentation().RemoveAllSegments()
    assert "no segments" in table.rows()[0].fault


# Cases that are not loaded


def write_cohort(folder: Path, names: tuple[str, ...] = ("fall ä", "b", "c"), labels: int = 1) -> Path:
    rng = np.random.default_rng(0)
    for index, name in enumerate(names):
        write_volume(folder / "images" / f"{name}.nii.gz", rng.normal(size=OBLIQUE.shape).astype(np.float32), OBLIQUE)
        if index < labels:
            write_volume(folder / "labels" / f"{name}.nii.gz", np.ones(OBLIQUE.shape, np.uint8), OBLIQUE)
    return folder


def test_a_folder_is_added_without_being_loaded_and_kept_by_the_parameters(
    scene: Any, table: Any, tmp_path: Path
) -> None:
    from SemiSAMPlusPanel.cases import CaseTable

    table.parameters = SimpleNamespace(fileCases="")
    folder = write_cohort(tmp_path / "Kohorte ü")
    added = table.add_folder(folder)
    assert {row.name: row.role for row in added} == {
        "b": Role.LABELED if (folder / "labels" / "b.nii.gz").exists() else Role.UNLABELED,
        "c": Role.UNLABELED,
        "fall ä": Role.LABELED,
    }
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert table.add_folder(folder) == [], "what is here already is not added twice"
    row = rows_by_name(table)["c"]
    table.set_role(row, None)
    table.remove(rows_by_name(table)["b"])
    json.loads(table.parameters.fileCases)
    another = CaseTable(scene, table.parameters)
    assert {row.name: row.role for row in another.rows()} == {"fall ä": Role.LABELED, "c": None}
    another.close()


def test_a_folder_of_volumes_alone_is_unlabelled(table: Any, tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nrrd", np.zeros(OBLIQUE.shape, np.float32), OBLIQUE)
    (row,) = table.add_folder(tmp_path)
    assert (row.name, row.role, row.label) == ("x", Role.UNLABELED, None)


def test_structures_that_a_dataset_names_are_known(table: Any, tmp_path: Path) -> None:
    folder = tmp_path / "Task"
    for part, name in (("imagesTr", "a"), ("labelsTr", "a"), ("imagesTr", "b"), ("imagesTs", "t")):
        write_volume(folder / part / f"{name}.nii.gz", np.ones(OBLIQUE.shape, np.uint8), OBLIQUE)
    described = {"labels": {"0": "background", "1": "anterior", "2": "posterior"}, "modality": {"0": "MRI"}}
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    rows = {row.name: row for row in table.add_folder(folder)}
    assert rows["t"].role is None, "what is kept for testing plays no part"
    assert rows["a"].values == {"anterior": (1,), "posterior": (2,)}
    assert [name for name, _ in table.segments()] == ["anterior", "posterior"]


def test_a_folder_without_volumes_is_refused_and_one_of_several_channels_too(table: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="no layout"):
        table.add_folder(tmp_path / "empty")
    for channel in ("t1", "t2"):
        write_volume(tmp_path / "two" / "images" / channel / "a.nrrd", np.zeros(OBLIQUE.shape, np.uint8), OBLIQUE)
    with pytest.raises(CohortError, match="2 channels"):
        table.add_folder(tmp_path / "two")


def test_headers_of_files_are_checked_beside_the_users_work(table: Any, tmp_path: Path) -> None:
    folder = write_cohort(tmp_path, labels=3)
    shifted = Grid(OBLIQUE.shape, OBLIQUE.spacing, (0.0, 0.0, 0.0), OBLIQUE.direction)
    write_volume(folder / "labels" / "b.nii.gz", np.ones(OBLIQUE.shape, np.uint8), shifted)
    table.add_folder(folder)
    (folder / "images" / "c.nii.gz").unlink()
    assert all(row.fault is None for row in table.rows())
    assert table.check_files(seconds=0.0), "no time, so something is left"
    assert not table.check_files(seconds=10.0)
    rows = rows_by_name(table)
    assert rows["fall ä"].fault is None
    assert "not on the grid" in rows["b"].fault
    assert "origin" in rows["b"].fault
    assert "does not exist" in rows["c"].fault


def test_the_file_of_a_loaded_volume_is_not_a_second_case(scene: Any, table: Any, tmp_path: Path) -> None:
    import slicer

    folder = write_cohort(tmp_path)
    table.add_folder(folder)
    volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(folder / "images" / "b.nii.gz"), "b", 0)
    table.forget_file_of(volume)
    assert [row.image.name for row in table.rows() if row.image] == ["c.nii.gz", "fall ä.nii.gz"]
    assert table.add_folder(folder) == []


def test_broken_parameters_are_no_cases(scene: Any, table: Any) -> None:
    for text in ("{", "[1, {}]", ""):
        table.parameters = SimpleNamespace(fileCases=text)
        assert table.rows() == []


def test_figures_of_a_run_are_shown(scene: Any, table: Any) -> None:
    key = add_volume(scene, "one").GetID()
    told: list[int] = []
    table.changed.connect(lambda: told.append(1))
    table.set_figures(key, dice=0.8)
    table.set_figures(key, uncertainty=0.1)
    table.set_figures(key, dice=0.8)
    row = table.rows()[0]
    assert (row.dice, row.uncertainty) == (0.8, 0.1)
    assert len(told) == 2


def test_figures_of_one_patient_are_never_shown_with_another_of_the_same_name(scene: Any, table: Any) -> None:
    first, second = add_volume(scene, "T1"), add_volume(scene, "T1")
    table.set_figures(first.GetID(), uncertainty=0.1)
    table.set_figures(second.GetID(), uncertainty=0.9)
    scene.RemoveNode(first)
    assert [(row.name, row.uncertainty) for row in table.rows()] == [("T1", 0.9)]
    scene.Clear(False)
    add_volume(scene, "T1")
    add_volume(scene, "T1")
    assert [row.uncertainty for row in table.rows()] == [None, None]
