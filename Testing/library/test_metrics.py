"""Measures against values worked out by hand, empty masks, folders, and that cropping changes nothing."""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
)
from rich.console import Console

from SemiSAMPlusLib.cohort.cohort import Class
from SemiSAMPlusLib.cohort.layouts import stem
from SemiSAMPlusLib.cohort.outputs import write_segmentation
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.errors import VolumeError
from SemiSAMPlusLib.evaluation.metrics import (
    EMPTY_NOTE,
    MEASURES,
    Evaluation,
    Row,
    evaluate_folders,
    evaluate_segmentation,
)
from SemiSAMPlusLib.run.folder import safe_id

ONE = (Class("cube", (1,)),)
TWO = (Class("anterior", (1,)), Class("posterior", (2,)))


def _cube(start: tuple[int, int, int], size: int = 4, shape: tuple[int, int, int] = (16, 16, 16)) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    array[tuple(slice(s, s + size) for s in start)] = 1
    return array


def test_shifted_cubes_in_mm() -> None:
    """Two cubes of 4³ voxels, one shifted by a voxel along x, of 2 mm (y: 3 mm, z: 5 mm).

    They share 3 of 4 layers: Dice 3/4, Jaccard 3/5. The 56 surface voxels of a cube are all but its inner 2³. The first
    cube's layer x = 0 (16 voxels) lies 2 mm from the other's nearest surface, the layer x = 1; its layer x = 1 is there
    itself, rim and the 4 voxels in the middle of the other's first face, of which only the 12 rim voxels are its surface;
    so are the 12 rim voxels of x = 2; of x = 3 the rim of 12 is surface of both, the 4 in the middle are not the other's
    surface: the nearest of it is the rim, or the layer x = 4, 2 mm away along x (3 mm along y). So 16 + 4 of 56 are at 2 mm.
    """
    (row,) = evaluate_segmentation(_cube((5, 5, 6)), _cube((5, 5, 5)), (2.0, 3.0, 5.0), ONE, case="a")
    assert (row.case, row.class_name) == ("a", "cube")
    assert row.dice == pytest.approx(0.75)
    assert row.jaccard == pytest.approx(0.6)
    assert row.hd95_mm == pytest.approx(2.0)
    assert row.asd_mm == pytest.approx(2.0 * 20 / 56)


@pytest.mark.parametrize(("axis", "mm"), [(0, 5.0), (1, 3.0), (2, 2.0)])
def test_spacing_belongs_to_its_axis(axis: int, mm: float) -> None:
    """Single voxels, two apart along one axis: every distance is twice that axis' voxel size."""
    other = [8, 8, 8]
    other[axis] += 2
    (row,) = evaluate_segmentation(_cube((8, 8, 8), 1), _cube(tuple(other), 1), (2.0, 3.0, 5.0), ONE)
    assert (row.dice, row.jaccard) == (0.0, 0.0)
    assert row.hd95_mm == pytest.approx(2 * mm)
    assert row.asd_mm == pytest.approx(2 * mm)


def test_95_percent_passes_over_a_few_far_voxels() -> None:
    label = _cube((1, 1, 1), 10, (32, 32, 32))
    prediction = label.copy()
    prediction[30, 30, 30] = 1
    (row,) = evaluate_segmentation(prediction, label, (1.0, 1.0, 1.0), ONE)
    assert row.hd95_mm == 0.0
    surface = 10**3 - 8**3
    assert row.asd_mm == pytest.approx(math.sqrt(3) * 20 / (2 * surface + 1), rel=1e-5)


@pytest.mark.parametrize(
    ("predicted", "labeled", "dice", "hd95", "asd"),
    [(False, True, 0.0, "nan", "inf"), (True, False, "nan", "nan", "inf"), (False, False, "nan", "nan", "nan")],
)
def test_empty_masks_as_monai_has_them(predicted: bool, labeled: bool, dice: object, hd95: str, asd: str) -> None:
    cube, empty = _cube((4, 4, 4)), np.zeros((16, 16, 16), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = evaluate_segmentation(cube if predicted else empty, cube if labeled else empty, (1.0, 1.0, 1.0), ONE)
    assert str(row.dice) == str(dice)
    assert str(row.jaccard) == str(dice)
    assert str(row.hd95_mm) == hd95
    assert str(row.asd_mm) == asd


@pytest.mark.parametrize("seed", range(6))
def test_cropping_changes_nothing_even_at_the_border(seed: int) -> None:
    """The same as MONAI says of the whole arrays, for blobs that lie inside, touch a border, or fill the array."""
    random = np.random.default_rng(seed)
    label, prediction = np.zeros((2, 20, 18, 16), dtype=np.uint8)
    # A corner, a face, the whole width, one voxel at the border, the inside, everything.
    region = [
        np.s_[:7, :5, :6],
        np.s_[5:12, 6:13, 9:],
        np.s_[:, 4:9, :],
        np.s_[-1:, -1:, -1:],
        np.s_[4:9, 5:9, 6:11],
        np.s_[:],
    ]
    label[region[seed]] = 1
    prediction[region[seed]] = random.random(label[region[seed]].shape) < 0.8
    prediction[0, 9, 9] = 1
    found, true = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, label))
    options = {"include_background": True, "spacing": (3.0, 1.5, 0.7)}
    expected = [
        compute_dice(found, true),
        compute_iou(found, true),
        compute_hausdorff_distance(found, true, percentile=95, **options),
        compute_average_surface_distance(found, true, symmetric=True, **options),
    ]
    (row,) = evaluate_segmentation(prediction, label, (0.7, 1.5, 3.0), ONE)
    assert [getattr(row, name) for name, _ in MEASURES] == pytest.approx([float(value) for value in expected], rel=1e-6)


def test_each_class_is_measured_by_itself() -> None:
    label = _cube((2, 2, 2)) + 2 * _cube((8, 8, 8))
    prediction = _cube((2, 2, 2)) + 2 * _cube((8, 8, 10))
    first, second = evaluate_segmentation(prediction, label, (1.0, 1.0, 1.0), TWO)
    assert (first.class_name, first.dice, first.hd95_mm) == ("anterior", 1.0, 0.0)
    assert (second.class_name, second.dice) == ("posterior", 0.5)
    with pytest.raises(ValueError, match="shape"):
        evaluate_segmentation(prediction[1:], label, (1.0, 1.0, 1.0), TWO)


GRID = Grid((16, 16, 16), (2.0, 3.0, 5.0), (1.0, 2.0, 3.0))


def _write_label(path: Path, array: np.ndarray, grid: Grid = GRID) -> None:
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(grid.image(array), str(path))


def test_folders_are_paired_by_case_name_and_values_mapped(tmp_path: Path) -> None:
    classes = (Class("edema", (2,), (0.1, 0.2, 0.3)), Class("core", (1, 4), (0.4, 0.5, 0.6)))
    label = 2 * _cube((2, 2, 2)) + 4 * _cube((8, 8, 8)) + _cube((8, 8, 12), 2)
    prediction = _cube((2, 2, 2)) + 2 * _cube((8, 8, 8)) + 2 * _cube((8, 8, 12), 2)
    for name in ("a", "fäll 2", "alone"):
        _write_label(tmp_path / "labels" / f"{name}.nii.gz", label)
    write_segmentation(tmp_path / "predictions" / "a.seg.nrrd", prediction, GRID, classes)
    by_id = tmp_path / "predictions" / f"{safe_id('fäll 2')}.nii.gz"
    assert by_id.name != "fäll 2.nii.gz"
    write_segmentation(by_id, prediction, GRID, classes)
    write_segmentation(tmp_path / "predictions" / "stranger.nrrd", prediction, GRID, classes)
    (tmp_path / "predictions" / "a-uncertainty.nii.gz").write_bytes(b"not a segmentation")
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", classes)
    assert [(row.case, row.class_name) for row in evaluation.rows] == [
        ("a", "edema"), ("a", "core"), ("fäll 2", "edema"), ("fäll 2", "core"),
    ]  # fmt: skip
    assert {row.dice for row in evaluation.rows} == {1.0}
    assert evaluation.notes == ("Not evaluated, for want of a label: stranger.",)

    by_id.unlink()
    (tmp_path / "predictions" / "stranger.nrrd").unlink()
    by_itself = evaluate_folders(tmp_path / "predictions", tmp_path / "labels")
    assert by_itself.rows == evaluation.rows[:2], "a .seg.nrrd says which values its classes have"


@pytest.mark.parametrize(
    ("prediction", "label"),
    [("a.b.nrrd", "a.b.nhdr"), ("a.hdr", "a.nii.gz"), ("a.nii", "a.gipl"), ("e\u0301.nii.gz", "\u00e9.mha")],
)
def test_cases_are_named_and_found_as_those_of_a_cohort(tmp_path: Path, prediction: str, label: str) -> None:
    for folder, name in (("predictions", prediction), ("labels", label)):
        _write_label(tmp_path / folder / name, _cube((2, 2, 2)))
    assert [row.case for row in evaluate_folders(tmp_path / "predictions", tmp_path / "labels", ONE).rows] == [
        stem(Path(label))
    ]


def test_labels_whose_segments_contradict_each_other_by_number_are_refused(tmp_path: Path) -> None:
    for name, (first, second) in (("a", ("front", "rear")), ("b", ("rear", "front"))):
        given = (Class(first, (1,)), Class(second, (2,)))
        write_segmentation(tmp_path / "labels" / f"{name}.seg.nrrd", _cube((2, 2, 2)), GRID, given)
        _write_label(tmp_path / "predictions" / f"{name}.nii.gz", _cube((2, 2, 2)))
    with pytest.raises(VolumeError, match=r"b\.seg\.nrrd: the segment 'rear' has the number of 'x', expected 'y'"):
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels", (Class("x", (1,)), Class("y", (2,))))


def test_without_classes_each_value_of_the_labels_is_one(tmp_path: Path) -> None:
    _write_label(tmp_path / "labels" / "a.nii.gz", 3 * _cube((2, 2, 2)) + 5 * _cube((8, 8, 8)))
    _write_label(tmp_path / "predictions" / "a.nii.gz", 3 * _cube((2, 2, 2)))
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "labels")
    assert [(row.class_name, row.dice) for row in evaluation.rows] == [("3", 1.0), ("5", 0.0)]
    assert evaluation.notes == (EMPTY_NOTE,)


def test_without_classes_the_segments_of_the_labels_say_what_values_mean(tmp_path: Path) -> None:
    classes, label = (Class("wall", (2,)), Class("blood", (5,))), _cube((2, 2, 2)) + 2 * _cube((8, 8, 8))
    write_segmentation(tmp_path / "labels" / "a.seg.nrrd", label, GRID, classes)
    write_segmentation(tmp_path / "predictions" / "a.nii.gz", label, GRID, classes)
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "labels")
    assert [(row.class_name, row.dice) for row in evaluation.rows] == [("wall", 1.0), ("blood", 1.0)]


@pytest.mark.parametrize("suffix", ["nii.gz", "seg.nrrd"])
def test_class_indices_are_not_taken_for_label_values(tmp_path: Path, suffix: str) -> None:
    """A prediction of the whole tumour of BraTS, 1 all over, beside labels in which the edema is 2."""
    whole = (Class("whole_tumour", (1, 2, 4)),)
    parts = (Class("core", (1,)), Class("edema", (2,)), Class("enhancing", (4,)))
    label = 2 * _cube((2, 2, 2), 8)
    label[4:6, 4:6, 4:6], label[6, 6, 6] = 1, 3
    write_segmentation(tmp_path / "labels" / f"a.{suffix}", label, GRID, parts)
    write_segmentation(tmp_path / "predictions" / "a.nii.gz", np.minimum(label, 1), GRID, whole)
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: holds label values") as error:
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels")
    assert error.value.remedy.startswith("Name the run or the cohort in place of the labels' folder, or give --classes")
    if suffix == "nii.gz":
        (row,) = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", whole).rows
        assert row.dice == 1.0


def test_classes_are_those_of_all_predictions(tmp_path: Path) -> None:
    """The first prediction lacks one, and spells the other in its own way."""
    label = _cube((2, 2, 2)) + 2 * _cube((8, 8, 8))
    for name in ("a", "b"):
        _write_label(tmp_path / "labels" / f"{name}.nii.gz", label)
    write_segmentation(tmp_path / "predictions" / "a.seg.nrrd", _cube((2, 2, 2)), GRID, (Class("Anterior", (1,)),))
    write_segmentation(tmp_path / "predictions" / "b.seg.nrrd", label, GRID, TWO)
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "labels")
    assert [(row.case, row.class_name, row.dice) for row in evaluation.rows] == [
        ("a", "Anterior", 1.0), ("a", "posterior", 0.0), ("b", "Anterior", 1.0), ("b", "posterior", 1.0),
    ]  # fmt: skip


def test_segments_of_one_number_do_not_say_what_a_plain_label_means(tmp_path: Path) -> None:
    """As Slicer numbers them, each alone in its file."""
    for name, value in (("a", 1), ("b", 2)):
        _write_label(tmp_path / "labels" / f"{name}.nii.gz", value * _cube((2, 2, 2)))
        given = (Class(TWO[value - 1].name, (1,)),)
        write_segmentation(tmp_path / "predictions" / f"{name}.seg.nrrd", _cube((2, 2, 2)), GRID, given)
    with pytest.raises(
        VolumeError, match=r"labels.a\.nii\.gz: has no segments.*value 1 stands for 'anterior', 'posterior'"
    ):
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels")
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", TWO)
    assert [row.dice for row in evaluation.rows if math.isfinite(row.dice)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Grid((16, 16, 16), (2.0, 3.0, 4.0), GRID.origin), r"spacing \(2, 3, 4\), expected \(2, 3, 5\)"),
        (Grid((16, 16, 16), GRID.spacing, (1.0, 2.0, 7.0)), r"origin \(1, 2, 7\), expected \(1, 2, 3\)"),
        (Grid((16, 16, 15), GRID.spacing, GRID.origin), r"size \(15, 16, 16\), expected \(16, 16, 16\)"),
        (Grid((16, 16, 16), GRID.spacing, GRID.origin, (-1, 0, 0, 0, -1, 0, 0, 0, 1)), r"direction \(-1, 0, 0"),
    ],
)
def test_another_grid_is_refused_with_both_values(tmp_path: Path, other: Grid, words: str) -> None:
    _write_label(tmp_path / "labels" / "a.nii.gz", _cube((2, 2, 2)))
    write_segmentation(tmp_path / "predictions" / "a.seg.nrrd", np.zeros(other.shape, np.uint8), other, ONE)
    with pytest.raises(VolumeError, match=rf"a\.seg\.nrrd.*not on the grid.*a\.nii\.gz.*{words}"):
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels", ONE)


def test_rounding_of_a_file_format_is_no_other_grid(tmp_path: Path) -> None:
    _write_label(tmp_path / "labels" / "a.nii.gz", _cube((2, 2, 2)))
    grid = Grid(GRID.shape, GRID.spacing, tuple(value + 1e-3 for value in GRID.origin))
    write_segmentation(tmp_path / "predictions" / "a.seg.nrrd", _cube((2, 2, 2)), grid, ONE)
    assert evaluate_folders(tmp_path / "predictions", tmp_path / "labels", ONE).rows[0].dice == 1.0


def test_folders_without_a_pair_or_with_two_of_a_name_are_refused(tmp_path: Path) -> None:
    _write_label(tmp_path / "labels" / "a.nii.gz", _cube((2, 2, 2)))
    _write_label(tmp_path / "predictions" / "b.nii.gz", _cube((2, 2, 2)))
    with pytest.raises(VolumeError, match="predictions are b, labels are a"):
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels", ONE)
    with pytest.raises(VolumeError, match="is not a folder"):
        evaluate_folders(tmp_path / "nowhere", tmp_path / "labels", ONE)
    _write_label(tmp_path / "labels" / "a.nrrd", _cube((2, 2, 2)))
    with pytest.raises(VolumeError, match=r"two files are named after the case 'a': a\.nii\.gz and a\.nrrd"):
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels", ONE)


def test_summary_table_and_json_say_what_is_finite(tmp_path: Path) -> None:
    rows = (
        Row("hippocampus_001", "atrium", 0.8, 0.7, 4.0, 1.0),
        Row("b", "atrium", 0.6, 0.5, 8.0, 2.0),
        Row("c", "atrium", 0.0, 0.0, math.nan, math.inf),
        Row("a", "wall", math.nan, math.nan, math.nan, math.inf),
    )
    evaluation = Evaluation(rows, (EMPTY_NOTE,))
    distance = evaluation.summary("atrium", "hd95_mm")
    assert (distance.mean, distance.finite, distance.count) == (6.0, 2, 3)
    assert distance.sd == pytest.approx(math.sqrt(8))

    console = Console(file=io.StringIO(), width=80)
    console.print(evaluation.rich_table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "hippocampus_001 atrium 0.800 0.700 4.00 1.00" in lines
    assert "mean of 3 atrium 0.467 0.400 6.00 1.50" in lines
    assert "sd atrium 0.416 0.361 2.83 0.71" in lines
    assert "n atrium 3 3 2 2" in lines
    assert "mean of 1 wall – – – –" in lines
    assert "n wall 0 0 0 0" in lines
    assert "handled as MONAI does" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80

    data = json.loads(evaluation.to_json(tmp_path / "metrics.json"))
    assert data == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert data["cases"][2] == {
        "case": "c", "class_name": "atrium", "dice": 0.0, "jaccard": 0.0, "hd95_mm": None, "asd_mm": "inf",
    }  # fmt: skip
    assert data["summary"]["atrium"]["hd95_mm"]["finite"] == 2
    assert data["summary"]["wall"]["dice"]["mean"] is None
