"""What is written for a case is read back: voxels, place, names, colours, notes, points and boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicerio

from SemiSAMPlusLib.cohort.cohort import Class
from SemiSAMPlusLib.cohort.outputs import (
    REFINED_ENTROPY,
    class_indices,
    read_classes,
    read_label,
    read_prompts,
    read_segmentation,
    read_uncertainty,
    write_prompts,
    write_segmentation,
    write_uncertainty,
)
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.errors import VolumeError

CLASSES = (Class("left atrium", (1,), (0.9, 0.6, 0.0)), Class("Wand müßig", (2, 4), (0.25, 0.5, 0.125)))
SINGLE = (Class("anterior", (7,)), Class("posterior", (300,)))


def _rotation(*degrees: float) -> np.ndarray:
    a, b, c = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    return about_z @ about_x @ about_y


@pytest.fixture
def grid() -> Grid:
    """A rotated grid with three different voxel sizes and numbers of voxels."""
    return Grid((5, 6, 7), (0.7, 1.1, 3.3), (12.3456789, -7.0, 100 / 3), tuple(_rotation(25, -40, 15).ravel()))


@pytest.fixture
def labels(grid: Grid) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, grid.shape).astype(np.uint8)


def _assert_same(found: Grid, expected: Grid, tolerance: float) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.affine, expected.affine, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".seg.nrrd", 1e-12), (".nrrd", 1e-12), (".nii.gz", 1e-5), (".nii", 1e-5)]
)
@pytest.mark.parametrize("classes", [CLASSES, SINGLE])
def test_a_segmentation_comes_back_voxel_for_voxel_and_in_its_place(
    tmp_path: Path, grid: Grid, labels: np.ndarray, classes: tuple[Class, ...], suffix: str, tolerance: float
) -> None:
    path = tmp_path / "mit Leerzeichen und Ümlaut" / f"case{suffix}"
    write_segmentation(path, labels, grid, classes)
    found, where = read_segmentation(path, classes)
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8
    _assert_same(where, grid, tolerance)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file stays"


def test_slicerio_reads_the_segments_that_were_written(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    path = tmp_path / "case.seg.nrrd"
    write_segmentation(path, labels, grid, CLASSES)
    read = slicerio.read_segmentation(str(path))
    assert read["encoding"] == "gzip"
    np.testing.assert_array_equal(read["voxels"].transpose(2, 1, 0), labels)
    ijk_to_lps = read["ijkToLPS"][:, [2, 1, 0, 3]]
    np.testing.assert_allclose(ijk_to_lps, grid.affine, atol=1e-12)
    first, second = read["segments"]
    assert (first["name"], first["id"], first["labelValue"], first["layer"]) == ("left atrium", "Segment_1", 1, 0)
    assert first["color"] == pytest.approx([0.9, 0.6, 0.0])
    assert second["color"] == pytest.approx([0.25, 0.5, 0.125])
    assert first["extent"] == [0, 6, 0, 5, 0, 4]
    assert first["terminology"]["type"] == ["SCT", "85756007", "Tissue"]
    assert second["labelValue"] == 2
    assert read["containedRepresentationNames"] == ["Binary labelmap"]


def test_a_segmentation_says_its_classes(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    path = tmp_path / "case.seg.nrrd"
    write_segmentation(path, labels, grid, CLASSES)
    assert read_classes(path) == CLASSES
    np.testing.assert_array_equal(read_segmentation(path)[0], labels)
    write_segmentation(tmp_path / "case.nii.gz", labels, grid, CLASSES)
    assert read_classes(tmp_path / "case.nii.gz") == ()


def test_segments_are_found_by_name_whatever_their_order(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    path = tmp_path / "case.seg.nrrd"
    write_segmentation(path, labels, grid, CLASSES)
    found, _ = read_segmentation(path, (Class("WAND MÜSSIG", (9,)), Class("Left Atrium", (1,))))
    np.testing.assert_array_equal(found, np.array([0, 2, 1], dtype=np.uint8)[labels])
    found, _ = read_segmentation(path, CLASSES[:1])
    np.testing.assert_array_equal(found, labels == 1)


def test_segments_without_a_class_name_are_found_by_label_value(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    write_segmentation(tmp_path / "case.seg.nrrd", labels, grid, (Class("Segment_1", (1,)), Class("Segment_2", (4,))))
    found = sitk.GetArrayFromImage(read_label(tmp_path / "case.seg.nrrd", CLASSES[::-1]))
    np.testing.assert_array_equal(found, np.array([0, 2, 1], dtype=np.uint8)[labels])


def test_a_label_that_holds_class_indices_is_read_as_such(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    write_segmentation(tmp_path / "case.nii.gz", labels, grid, CLASSES)
    classes = (Class("left atrium", (2,)), Class("Wand müßig", (1, 4)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_label(tmp_path / "case.nii.gz", classes)), labels)


def test_a_renamed_segment_is_refused_by_both_names(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    path = tmp_path / "case.seg.nrrd"
    write_segmentation(path, labels, grid, (Class("Segment_1", (1,)), CLASSES[1]))
    with pytest.raises(VolumeError, match=r"case\.seg\.nrrd: has segments named Segment_1, expected left atrium"):
        read_segmentation(path, CLASSES)


def test_overlapping_segments_as_slicer_saves_them(tmp_path: Path, grid: Grid) -> None:
    heart = np.zeros(grid.shape, dtype=bool)
    heart[1:4, 1:5, 1:6] = True
    atrium = np.zeros(grid.shape, dtype=bool)
    atrium[2:5, 2:3, 2:6] = True
    matrix = grid.affine[:, [2, 1, 0, 3]]
    segmentation = slicerio.create_segmentation(grid.shape[::-1], matrix)
    for name, mask in (("heart", heart), ("atrium", atrium)):
        slicerio.add_segment(segmentation, mask.transpose(2, 1, 0), {"name": name, "color": [0.1, 0.2, 0.3]})
    assert segmentation["voxels"].ndim == 4
    path = tmp_path / "case.seg.nrrd"
    slicerio.write_segmentation(str(path), segmentation)
    found, where = read_segmentation(path, (Class("heart", (1,)), Class("atrium", (2,))))
    np.testing.assert_array_equal(found, np.where(atrium, 2, heart))
    _assert_same(where, grid, 1e-9)
    assert [one.values for one in read_classes(path)] == [(1,), (1,)]  # Each its own, where the file does not say.


def _write_as_slicer_before_4_11(path: Path, masks: list[np.ndarray], grid: Grid, names: list[str]) -> None:
    """Each segment is a layer of 0 and 1, in order; neither layers nor label values are named."""
    voxels = np.stack(masks, axis=-1).astype(np.uint8)
    image = sitk.GetImageFromArray(voxels, isVector=True)
    image.CopyInformation(grid.reference())
    for number, name in enumerate(names):
        fields = {"ID": f"Segment_{number + 1}", "Name": name, "Color": "0.1 0.2 0.3", "Extent": "0 6 0 5 0 4"}
        for key, value in fields.items():
            image.SetMetaData(f"Segment{number}_{key}", value)
    sitk.WriteImage(image, str(path))


def test_segments_that_name_no_layer_have_one_each_in_order(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    path = tmp_path / "case.seg.nrrd"
    _write_as_slicer_before_4_11(path, [labels == 1, labels == 2], grid, ["Wand müßig", "left atrium"])
    found, where = read_segmentation(path, CLASSES)
    np.testing.assert_array_equal(found, np.array([0, 2, 1])[labels])
    _assert_same(where, grid, 1e-12)
    _write_as_slicer_before_4_11(path, [labels == 1], grid, ["left atrium"])
    np.testing.assert_array_equal(read_segmentation(path, CLASSES)[0], labels == 1)


def test_a_segment_in_a_layer_that_is_not_there_is_told(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    path = tmp_path / "case.seg.nrrd"
    _write_as_slicer_before_4_11(path, [labels == 1], grid, ["left atrium", "Wand müßig"])
    with pytest.raises(
        VolumeError,
        match=r"case\.seg\.nrrd: the segment 'Wand müßig' is said to lie in layer 1, but the file holds 1 layer",
    ):
        read_segmentation(path, CLASSES)


def test_a_labelmap_has_the_cohorts_own_values_where_they_are_unique(
    tmp_path: Path, grid: Grid, labels: np.ndarray
) -> None:
    write_segmentation(tmp_path / "own.nii.gz", labels, grid, SINGLE)
    own = sitk.ReadImage(str(tmp_path / "own.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(own), np.array([0, 7, 300])[labels])
    write_segmentation(tmp_path / "indices.nii.gz", labels, grid, CLASSES)
    indices = sitk.ReadImage(str(tmp_path / "indices.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(indices), labels)


def test_label_values_become_class_indices() -> None:
    values = np.array([[0, 1, 2], [3, 4, 1]])
    np.testing.assert_array_equal(class_indices(values, CLASSES), [[0, 1, 2], [0, 2, 1]])


def test_what_cannot_be_written_or_read_is_said(tmp_path: Path, grid: Grid, labels: np.ndarray) -> None:
    with pytest.raises(VolumeError, match=r"case\.png.*\.seg\.nrrd, \.nii\.gz"):
        write_segmentation(tmp_path / "case.png", labels, grid, CLASSES)
    with pytest.raises(ValueError, match="class index 2"):
        write_segmentation(tmp_path / "case.seg.nrrd", labels, grid, CLASSES[:1])
    with pytest.raises(ValueError, match="shape"):
        write_segmentation(tmp_path / "case.seg.nrrd", labels[1:], grid, CLASSES)
    with pytest.raises(VolumeError, match="does not exist"):
        read_segmentation(tmp_path / "nothing.seg.nrrd")
    (tmp_path / "broken.seg.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(VolumeError, match=r"broken\.seg\.nrrd: cannot be read"):
        read_segmentation(tmp_path / "broken.seg.nrrd")
    sitk.WriteImage(grid.image(labels.astype(np.float32) / 2), str(tmp_path / "half.nii.gz"))
    with pytest.raises(VolumeError, match=r"such as 0\.5, expected whole numbers"):
        read_segmentation(tmp_path / "half.nii.gz", CLASSES)
    for value in (-1, 300):
        sitk.WriteImage(grid.image(labels.astype(np.int16) // 2 * value), str(tmp_path / "far.nii.gz"))
        with pytest.raises(
            VolumeError, match=rf"holds values from {min(value, 0)} to {max(value, 0)}, expected 0 to 255"
        ):
            read_segmentation(tmp_path / "far.nii.gz")
    (tmp_path / "file").touch()
    with pytest.raises(VolumeError, match="cannot be written"):
        write_segmentation(tmp_path / "file" / "case.seg.nrrd", labels, grid, CLASSES)


def test_uncertainty_comes_back_with_what_it_is(tmp_path: Path, grid: Grid) -> None:
    array = np.random.default_rng(1).random(grid.shape, dtype=np.float32)
    path = tmp_path / "uncertainty.nii.gz"
    write_uncertainty(path, array, grid, REFINED_ENTROPY)
    found, where, source = read_uncertainty(path)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.float32
    assert source == "predictive entropy with generalists"
    _assert_same(where, grid, 1e-5)
    assert sitk.ReadImage(str(path)).GetPixelID() == sitk.sitkFloat32


@pytest.mark.parametrize("mirrored", [False, True])
def test_prompts_come_back_with_points_and_oriented_boxes(tmp_path: Path, grid: Grid, mirrored: bool) -> None:
    points = np.array([[1.5, -2, 3], [4, 5, -6.25], [0, 0, 0.125]])
    axes = np.reshape(grid.direction, (3, 3)) * ([1, 1, -1] if mirrored else [1, 1, 1])
    # Corners that are opposite along the grid's axes, though not along those of the body.
    box = np.array([[10.0, 20, 30], np.array([10, 20, 30]) + axes @ [4, 6, 9]])
    path = tmp_path / "prompts.mrk.json"
    write_prompts(path, points, np.array([1, 0, 1]), ["a", "b", "b"], boxes={"b": box}, direction=axes.ravel())
    found = read_prompts(path)
    np.testing.assert_allclose(found.points, points[[0, 2, 1]])
    np.testing.assert_array_equal(found.labels, [1, 1, 0])
    assert found.class_names == ("a", "b", "b")

    markups = json.loads(path.read_text(encoding="utf-8"))["markups"]
    assert [(m["type"], m["name"]) for m in markups] == [
        ("Fiducial", "positive"),
        ("Fiducial", "negative"),
        ("ROI", "b"),
    ]
    assert {m["coordinateSystem"] for m in markups} == {"LPS"}
    assert markups[0]["display"]["color"] != markups[1]["display"]["color"]
    assert markups[0]["controlPoints"][0]["position"] == [1.5, -2.0, 3.0]
    region = markups[2]
    assert region["size"] == pytest.approx([4, 6, 9])
    assert region["center"] == pytest.approx(box.mean(axis=0).tolist())
    orientation = np.reshape(region["orientation"], (3, 3))
    assert np.linalg.det(orientation) == pytest.approx(1)
    # The region reaches both corners, seen along its own axes.
    reach = np.abs((box - region["center"]) @ orientation)
    np.testing.assert_allclose(reach, [[2, 3, 4.5]] * 2, atol=1e-9)
    if not mirrored:
        np.testing.assert_allclose(found.boxes["b"], box, atol=1e-9)


def test_prompts_that_slicer_saved_in_ras_are_turned(tmp_path: Path) -> None:
    path = tmp_path / "prompts.mrk.json"
    point = {"label": "a", "position": [1, 2, 3]}
    markup = {"type": "Fiducial", "name": "negative", "coordinateSystem": "RAS", "controlPoints": [point]}
    path.write_text(json.dumps({"@schema": "", "markups": [markup]}), encoding="utf-8")
    found = read_prompts(path)
    np.testing.assert_array_equal(found.points, [[-1, -2, 3]])
    np.testing.assert_array_equal(found.labels, [0])


def test_no_prompts_at_all(tmp_path: Path) -> None:
    path = tmp_path / "prompts.mrk.json"
    write_prompts(path, np.zeros((0, 3)), np.zeros(0), [])
    found = read_prompts(path)
    assert found.points.shape == (0, 3)
    assert found.labels.shape == (0,)
    assert not found.boxes
    path.write_text("{", encoding="utf-8")
    with pytest.raises(VolumeError, match=r"prompts\.mrk\.json: cannot be read"):
        read_prompts(path)
