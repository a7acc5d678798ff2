"""From the scene to files: every voxel lands where the scene shows it, and what lies on the disk is used as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from tiny import OBLIQUE, write_volume

from SemiSAMPlusLib.cohort.checks import require_sound
from SemiSAMPlusLib.cohort.cohort import Class, Cohort, Role
from SemiSAMPlusLib.cohort.outputs import read_label, write_segmentation
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.errors import VolumeError

#: From RAS, as Slicer has it, to LPS, as files and SimpleITK have it.
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def matrix_of(array: np.ndarray) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(array.ravel().tolist())
    return matrix


def rotated(angle: float = 0.5, scale: float = 1.0) -> np.ndarray:
    """Return a 4×4 matrix that turns about an odd axis, scales and moves."""
    matrix = np.eye(4)
    euler = sitk.Euler3DTransform((0.0, 0.0, 0.0), angle, -0.3, 0.8)
    matrix[:3, :3] = scale * np.reshape(euler.GetMatrix(), (3, 3))
    matrix[:3, 3] = (11.0, -7.0, 3.5)
    return matrix


def ijk_to_ras(grid: Grid) -> np.ndarray:
    """Return the 4×4 matrix of a grid from (i, j, k) to RAS."""
    affine = grid.affine.copy()
    affine[:, :3] = affine[:, 2::-1]
    return TO_LPS @ affine


def add_volume(scene: Any, name: str, grid: Grid = OBLIQUE, array: np.ndarray | None = None) -> Any:
    import slicer

    if array is None:
        array = np.random.default_rng(0).integers(-500, 500, grid.shape).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(array, name=name)
    volume.SetIJKToRASMatrix(matrix_of(ijk_to_ras(grid)))
    return volume


def drawn(grid: Grid = OBLIQUE, start: tuple[int, int, int] = (2, 3, 4)) -> np.ndarray:
    """Return a block of another length along each axis, so that turned axes are seen."""
    array = np.zeros(grid.shape, np.uint8)
    array[tuple(slice(a, a + n) for a, n in zip(start, (2, 3, 5), strict=True))] = 1
    return array


def add_segmentation(volume: Any, arrays: dict[str, np.ndarray], name: str = "drawn") -> Any:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for index, (segment, array) in enumerate(arrays.items()):
        identity = node.GetSegmentation().AddEmptySegment("", segment, [0.1, 0.2, 0.3 + 0.1 * index])
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, identity, volume)
    return node


def row(volume: Any, role: Role = Role.UNLABELED, segmentation: Any = None, name: str = "") -> Any:
    from SemiSAMPlusPanel.cases import CaseRow

    return CaseRow(name or volume.GetName(), role, volume=volume, segmentation=segmentation, key=volume.GetID())


def file_row(image: Path, role: Role = Role.UNLABELED, label: Path | None = None, values: Any = None) -> Any:
    from SemiSAMPlusPanel.cases import CaseRow

    return CaseRow(image.name.partition(".")[0], role, image=image, label=label, key=str(image), values=values or {})


def export(rows: list[Any], folder: Path, **options: Any) -> tuple[Cohort, Any]:
    from SemiSAMPlusPanel.export import CohortExport

    exporter = CohortExport(rows, folder, **options)
    for _ in range(200):
        if not exporter.step():
            break
    loaded = Cohort.load(folder / "cohort.json")
    assert loaded.to_dict() == exporter.cohort.to_dict()
    return loaded, exporter


def assert_same_grid(path: Path, other: Path) -> None:
    mine, theirs = Grid.of(sitk.ReadImage(str(path))), Grid.of(sitk.ReadImage(str(other)))
    assert mine.shape == theirs.shape
    assert np.allclose(mine.affine, theirs.affine, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "Läufe mit Abstand" / "Vorhof-ü"


# Where voxels land

GRIDS = {
    "axial": Grid((8, 10, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "anisotropic": Grid((8, 10, 12), (0.4, 0.7, 5.0), (30.0, -20.0, 110.0)),
    "oblique": OBLIQUE,
    "sagittal": Grid((8, 10, 12), (1.0, 1.5, 2.0), (5.0, 6.0, 7.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    "left-handed": Grid((8, 10, 12), (1.0, 1.5, 2.0), (5.0, 6.0, 7.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_volume_and_label_are_written_exactly_where_they_lie(scene: Any, folder: Path, name: str) -> None:
    grid = GRIDS[name]
    array = np.random.default_rng(1).integers(-500, 500, grid.shape).astype(np.int16)
    volume = add_volume(scene, "Bild ä/ö", grid, array)
    segmentation = add_segmentation(volume, {"Vorhof": drawn(grid)})
    cohort, exporter = export([row(volume, Role.LABELED, segmentation)], folder)
    (case,) = cohort.cases
    image, label = sitk.ReadImage(str(case.images[0])), sitk.ReadImage(str(case.label))
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert np.array_equal(sitk.GetArrayFromImage(label), drawn(grid))
    assert np.allclose(Grid.of(image).affine, grid.affine, atol=1e-6)
    assert_same_grid(case.label, case.images[0])
    assert exporter.notes == []
    require_sound(cohort)


def test_linear_transforms_are_applied_to_the_copy_alone(scene: Any, folder: Path) -> None:
    volume = add_volume(scene, "moved")
    segmentation = add_segmentation(volume, {"a": drawn()})
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(matrix_of(rotated()))
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "p")
    parent.SetMatrixTransformToParent(matrix_of(rotated(-0.2, scale=1.5)))
    transform.SetAndObserveTransformNodeID(parent.GetID())
    for node in (volume, segmentation):
        node.SetAndObserveTransformNodeID(transform.GetID())
    cohort, exporter = export([row(volume, Role.LABELED, segmentation)], folder)
    (case,) = cohort.cases
    expected = TO_LPS @ rotated(-0.2, scale=1.5) @ rotated() @ TO_LPS @ OBLIQUE.affine
    assert np.allclose(Grid.of(sitk.ReadImage(str(case.images[0]))).affine, expected, atol=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(case.label))), drawn())
    assert_same_grid(case.label, case.images[0])
    assert "'moved'" in exporter.notes[0]
    assert volume.GetParentTransformNode() is transform
    matrix = matrix_of(np.eye(4))
    volume.GetIJKToRASMatrix(matrix)
    assert np.allclose([matrix.GetElement(0, 3)], ijk_to_ras(OBLIQUE)[0, 3])
    require_sound(cohort)


def test_a_segmentation_may_lie_under_a_transform_of_its_own(scene: Any, folder: Path) -> None:
    # Drawn beside the volume, and brought back by exactly what its transform does.
    grid = GRIDS["axial"]
    volume = add_volume(scene, "v", grid)
    beside = add_volume(scene, "beside", Grid(grid.shape, grid.spacing, (20.0, 0.0, 0.0)))
    segmentation = add_segmentation(beside, {"a": drawn(grid)})
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    shift = np.eye(4)
    shift[0, 3] = 20.0  # 20 mm towards R: the other way round in LPS.
    transform.SetMatrixTransformToParent(matrix_of(shift))
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    cohort, _ = export([row(volume, Role.LABELED, segmentation)], folder)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(cohort.cases[0].label))), drawn(grid))


def test_a_segmentation_drawn_on_another_grid_is_sampled_onto_the_volumes(scene: Any, folder: Path) -> None:
    coarse = Grid((8, 10, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    # Every coarse voxel is covered by 2 × 2 × 2 fine ones.
    fine = Grid((16, 20, 24), (1.0, 1.0, 1.0), (-0.5, -0.5, -0.5))
    volume, other = add_volume(scene, "fine", fine), add_volume(scene, "coarse", coarse)
    segmentation = add_segmentation(other, {"a": drawn(coarse)})
    cohort, _ = export([row(volume, Role.LABELED, segmentation)], folder)
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(cohort.cases[0].label)))
    assert np.array_equal(label, np.kron(drawn(coarse), np.ones((2, 2, 2), np.uint8)))


def test_surfaces_become_labelmaps_in_a_copy(scene: Any, folder: Path) -> None:
    import vtk

    volume = add_volume(scene, "v", Grid((20, 20, 20), (1.0, 1.0, 1.0), (-10.0, -10.0, -10.0)))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "from a surface")
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(5)
    sphere.SetThetaResolution(40)
    sphere.SetPhiResolution(40)
    sphere.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1.0, 0.0, 0.0])
    cohort, _ = export([row(volume, Role.LABELED, node)], folder)
    count = int(sitk.GetArrayFromImage(sitk.ReadImage(str(cohort.cases[0].label))).sum())
    assert abs(count - 4 / 3 * np.pi * 5**3) < 60
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


# What cannot be written


def test_transforms_that_are_not_linear_are_refused(scene: Any, folder: Path) -> None:
    import vtk

    volume = add_volume(scene, "bent")
    warp = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    warp.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    volume.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(VolumeError, match="'warp', which is not linear") as error:
        export([row(volume, Role.LABELED, add_segmentation(volume, {"a": drawn()}))], folder)
    assert "Harden" in error.value.remedy
    volume.SetAndObserveTransformNodeID(None)
    segmentation = add_segmentation(volume, {"a": drawn()}, "bent too")
    segmentation.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(VolumeError, match=r"'bent too'.*not linear"):
        export([row(volume, Role.LABELED, segmentation)], folder / "other")


@pytest.mark.parametrize("by", ["itself", "transform"])
def test_sheared_volumes_are_refused(scene: Any, folder: Path, by: str) -> None:
    volume = add_volume(scene, "sheared", GRIDS["axial"])
    shear = np.eye(4)
    shear[0, 1] = 0.2
    if by == "itself":
        volume.SetIJKToRASMatrix(matrix_of(shear))
    else:
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
        transform.SetMatrixTransformToParent(matrix_of(shear))
        volume.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(VolumeError, match=r"11\.\d° from right angles") as error:
        export([row(volume, Role.LABELED, add_segmentation(volume, {"a": drawn(GRIDS["axial"])}))], folder)
    assert "Resample" in error.value.remedy


def test_a_label_with_nothing_in_the_volume_is_refused(scene: Any, folder: Path) -> None:
    volume = add_volume(scene, "v")
    segmentation = add_segmentation(volume, {"a": np.zeros(OBLIQUE.shape, np.uint8)})
    with pytest.raises(VolumeError, match="nothing of a is drawn"):
        export([row(volume, Role.LABELED, segmentation)], folder)


def test_a_volume_that_left_the_scene_meanwhile_is_refused(scene: Any, folder: Path) -> None:
    volume = add_volume(scene, "v")
    gone = add_volume(scene, "gone")
    rows = [row(volume, Role.LABELED, add_segmentation(volume, {"a": drawn()})), row(gone)]
    scene.RemoveNode(gone)
    with pytest.raises(VolumeError, match="'gone': was taken out of the scene"):
        export(rows, folder)


def test_a_folder_that_cannot_be_written_is_told(scene: Any, folder: Path) -> None:
    volume = add_volume(scene, "v")
    folder.parent.mkdir(parents=True)
    folder.write_text("a file stands where the folder should be", encoding="utf-8")
    with pytest.raises(VolumeError, match="cannot be written"):
        export([row(volume, Role.LABELED, add_segmentation(volume, {"a": drawn()}))], folder)


# What need not be written


def load(path: Path, name: str = "loaded") -> Any:
    import slicer

    return slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, 0)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_an_unmodified_file_is_used_as_it_lies(scene: Any, folder: Path, tmp_path: Path, suffix: str) -> None:
    path = write_volume(tmp_path / f"Datei ä{suffix}", np.random.default_rng(0).normal(size=OBLIQUE.shape), OBLIQUE)
    volume = load(path)
    volume.SetName("renamed")
    segmentation = add_segmentation(volume, {"a": drawn()})
    cohort, _ = export([row(volume, Role.LABELED, segmentation)], folder)
    assert cohort.cases[0].images == (path,)
    assert not (folder / "inputs" / "images").exists()
    label = sitk.ReadImage(str(cohort.cases[0].label))
    assert np.array_equal(sitk.GetArrayFromImage(label), drawn())
    require_sound(cohort)


@pytest.mark.parametrize("how", ["voxels", "origin", "transform", "gone", "centred"])
def test_what_differs_from_its_file_is_written(scene: Any, folder: Path, tmp_path: Path, how: str) -> None:
    import slicer

    array = np.random.default_rng(0).normal(size=OBLIQUE.shape).astype(np.float32)
    path = write_volume(tmp_path / "file.nii.gz", array, OBLIQUE)
    if how == "centred":
        volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), "v", 2)  # As the option "Centered" does.
        assert abs(volume.GetOrigin()[2] - OBLIQUE.origin[2]) > 1
    else:
        volume = load(path)
    if how == "voxels":
        slicer.util.arrayFromVolume(volume)[0, 0, 0] = 99.0
        slicer.util.arrayFromVolumeModified(volume)
    elif how == "origin":
        volume.SetOrigin(1, 2, 3)
    elif how == "gone":
        path.unlink()
    shown = slicer.util.arrayFromVolume(volume).copy()
    segmentation = add_segmentation(volume, {"a": drawn()})
    if how == "transform":
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
        transform.SetMatrixTransformToParent(matrix_of(rotated()))
        for node in (volume, segmentation):
            node.SetAndObserveTransformNodeID(transform.GetID())
    cohort, _ = export([row(volume, Role.LABELED, segmentation)], folder)
    (image,) = cohort.cases[0].images
    assert image.parent == folder / "inputs" / "images"
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(image))), shown)
    assert_same_grid(cohort.cases[0].label, image)


def test_one_step_writes_one_volume(scene: Any, folder: Path) -> None:
    from SemiSAMPlusPanel.export import CohortExport

    volumes = [add_volume(scene, f"v{number}") for number in range(3)]
    rows = [row(volumes[0], Role.LABELED, add_segmentation(volumes[0], {"a": drawn()})), *map(row, volumes[1:])]
    exporter = CohortExport(rows, folder)
    counts, more = [], True
    while more:
        more = exporter.step()
        counts.append(len(list(folder.rglob("*.nrrd"))))
    assert counts == [1, 2, 3, 4, 4]
    assert exporter.done == exporter.total
    assert exporter.cohort is not None


def test_the_scene_stays_as_it_was(scene: Any, folder: Path) -> None:
    volume = add_volume(scene, "v")
    segmentation = add_segmentation(volume, {"a": drawn()})
    names = {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}
    export([row(volume, Role.LABELED, segmentation)], folder)
    assert {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())} == names


# Structures


def test_equal_names_have_equal_values_in_every_case(scene: Any, folder: Path) -> None:
    volumes = [add_volume(scene, name) for name in ("a", "b")]
    first = add_segmentation(volumes[0], {"liver": drawn(), "spleen": drawn(start=(5, 3, 4))})
    # In the other order, and with one more.
    second = add_segmentation(volumes[1], {"kidney": drawn(start=(7, 8, 4)), "spleen": drawn()})
    rows = [row(volumes[0], Role.LABELED, first), row(volumes[1], Role.VALIDATION, second)]
    cohort, _ = export(rows, folder)
    assert [one.name for one in cohort.classes] == ["liver", "spleen", "kidney"]
    assert np.allclose(cohort.classes[1].color, (0.1, 0.2, 0.4))
    values = {one.name: one.values[0] for one in cohort.classes}
    arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(case.label))) for case in cohort.cases]
    assert np.array_equal(arrays[0] == values["liver"], drawn() == 1)
    assert np.array_equal(arrays[0] == values["spleen"], drawn(start=(5, 3, 4)) == 1)
    assert np.array_equal(arrays[1] == values["spleen"], drawn() == 1)
    assert np.array_equal(arrays[1] == values["kidney"], drawn(start=(7, 8, 4)) == 1)
    assert not cohort.picked


def test_picked_structures_alone_are_exported(scene: Any, folder: Path) -> None:
    volume = add_volume(scene, "v")
    segmentation = add_segmentation(volume, {"liver": drawn(), "spleen": drawn(start=(5, 3, 4))})
    cohort, _ = export([row(volume, Role.LABELED, segmentation)], folder, segments=["spleen"])
    assert [one.name for one in cohort.classes] == ["spleen"]
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(cohort.cases[0].label)))
    assert np.array_equal(label > 0, drawn(start=(5, 3, 4)) == 1)
    with pytest.raises(VolumeError, match=r"No structure is left to learn.*'liver', 'spleen'"):
        export([row(volume, Role.LABELED, segmentation)], folder / "none", segments=[])


def test_overlapping_segments_are_told(scene: Any, folder: Path) -> None:
    import slicer

    volume = add_volume(scene, "v")
    segmentation = add_segmentation(volume, {"organ": drawn()})
    identity = segmentation.GetSegmentation().AddEmptySegment("", "tumour")
    inside = np.zeros(OBLIQUE.shape, np.uint8)
    inside[2, 3, 4] = 1
    # Written into a layer of its own, as Segment Editor does where segments may overlap.
    segmentation.GetSegmentation().SeparateSegmentLabelmap(identity)
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside, segmentation, identity, volume)
    cohort, exporter = export([row(volume, Role.LABELED, segmentation)], folder)
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(cohort.cases[0].label)))
    assert label[2, 3, 4] == 2, "the later segment has it"
    if segmentation.GetSegmentation().GetNumberOfLayers("Binary labelmap") > 1:
        assert "1 voxels belong to several" in exporter.notes[0]


def test_what_segments_mean_is_kept(scene: Any, folder: Path) -> None:
    volume = add_volume(scene, "v")
    segmentation = add_segmentation(volume, {"Leber": drawn()})
    entry = (
        "Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Anatomic codes~^^~^^"
    )
    segmentation.GetSegmentation().GetNthSegment(0).SetTag("TerminologyEntry", entry)
    export([row(volume, Role.LABELED, segmentation)], folder)
    assert json.loads((folder / "inputs" / "segments.json").read_text(encoding="utf-8")) == {"Leber": entry}


def test_which_volume_is_which_case_is_kept(scene: Any, folder: Path) -> None:
    volume, other = add_volume(scene, "CT"), add_volume(scene, "CT")
    rows = [row(volume, Role.LABELED, add_segmentation(volume, {"a": drawn()})), row(other, name="CT (2)")]
    export(rows, folder, name="Vorhof, erster Versuch")
    described = json.loads((folder / "inputs" / "cases.json").read_text(encoding="utf-8"))
    assert described["name"] == "Vorhof, erster Versuch"
    assert described["cases"]["CT (2)"]["id"] == other.GetAttribute("SemiSAMPlus.Id")
    assert described["cases"]["CT"]["id"] != described["cases"]["CT (2)"]["id"]
    assert Path(described["cases"]["CT"]["image"]).is_file()


# Files and scene together


def test_files_are_used_where_they_lie_and_their_values_kept(scene: Any, folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = write_volume(tmp_path / "datei.nii.gz", rng.normal(size=OBLIQUE.shape).astype(np.float32), OBLIQUE)
    label = write_volume(tmp_path / "datei-label.nii.gz", drawn() * np.uint8(7), OBLIQUE)
    volume = add_volume(scene, "v")
    segmentation = add_segmentation(volume, {"spleen": drawn(), "liver": drawn(start=(5, 3, 4))})
    rows = [
        row(volume, Role.LABELED, segmentation),
        file_row(image, Role.LABELED, label, {"liver": (7,)}),
    ]
    cohort, _ = export(rows, folder)
    assert {one.name: one.values for one in cohort.classes} == {"liver": (7,), "spleen": (1,)}
    assert cohort.cases[1].images == (image,)
    assert cohort.cases[1].label == label
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(cohort.cases[0].label)))
    assert np.array_equal(written == 7, drawn(start=(5, 3, 4)) == 1)
    require_sound(cohort)


def test_values_of_labels_that_nobody_names_are_found(scene: Any, folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for name, value in (("a", 1), ("b", 4)):
        image = write_volume(tmp_path / f"{name}.nii.gz", rng.normal(size=OBLIQUE.shape).astype(np.float32), OBLIQUE)
        label = write_volume(tmp_path / f"{name}-label.nii.gz", drawn() * np.uint8(value), OBLIQUE)
        rows.append(file_row(image, Role.LABELED, label))
    cohort, _ = export(rows, folder)
    assert [(one.name, one.values) for one in cohort.classes] == [("class 1", (1,)), ("class 4", (4,))]
    require_sound(cohort)


def test_segments_of_files_that_nobody_names_are_structures_by_their_names(
    scene: Any, folder: Path, tmp_path: Path
) -> None:
    """Beside a segmentation of the scene, and numbered otherwise in each file."""
    rng = np.random.default_rng(0)
    volume = add_volume(scene, "v")
    rows = [row(volume, Role.LABELED, add_segmentation(volume, {"liver": drawn()}))]
    for name, order in (("a", ("liver", "spleen")), ("b", ("spleen", "liver"))):
        image = write_volume(tmp_path / f"{name}.nii.gz", rng.normal(size=OBLIQUE.shape).astype(np.float32), OBLIQUE)
        both = drawn() + 2 * drawn(start=(6, 9, 4))
        numbers = np.array([0, *(1 + order.index(one) for one in ("liver", "spleen"))], np.uint8)
        classes = [Class(one, (number,)) for number, one in enumerate(order, start=1)]
        label = tmp_path / f"{name}-label.seg.nrrd"
        write_segmentation(label, numbers[both], OBLIQUE, classes)
        rows.append(file_row(image, Role.LABELED, label))
    cohort, _ = export(rows, folder)
    assert [one.name for one in cohort.classes] == ["liver", "spleen"]
    require_sound(cohort)
    found = [sitk.GetArrayFromImage(read_label(case.label, cohort.classes)) for case in cohort.cases]
    assert np.array_equal(found[0], drawn())
    assert np.array_equal(found[1], found[2])
    assert np.array_equal(found[1] == 1, drawn() == 1)


def test_a_label_of_broken_values_is_refused(scene: Any, folder: Path, tmp_path: Path) -> None:
    image = write_volume(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=OBLIQUE.shape), OBLIQUE)
    label = write_volume(tmp_path / "a-label.nii.gz", drawn() * np.float32(0.5), OBLIQUE)
    with pytest.raises(VolumeError, match=r"value 0\.5"):
        export([file_row(image, Role.LABELED, label)], folder)
    with pytest.raises(VolumeError, match="cannot be read"):
        export([file_row(image, Role.LABELED, tmp_path / "gone.nii.gz")], folder / "other")


def test_datasets_that_disagree_are_refused(scene: Any, folder: Path, tmp_path: Path) -> None:
    rows = []
    for name, value in (("a", 1), ("b", 2)):
        image = write_volume(tmp_path / f"{name}.nii.gz", np.zeros(OBLIQUE.shape, np.float32), OBLIQUE)
        rows.append(file_row(image, Role.LABELED, image, {"liver": (value,)}))
    with pytest.raises(VolumeError, match="'liver' has the value"):
        export(rows, folder)


def test_the_voxels_of_a_huge_value_range_survive(scene: Any, folder: Path) -> None:
    array = np.zeros(OBLIQUE.shape, np.float64)
    array[0, 0, :3] = (-1e9, 1e-9, 12345.678901)
    volume = add_volume(scene, "v", array=array)
    cohort, _ = export([row(volume, Role.LABELED, add_segmentation(volume, {"a": drawn()}))], folder)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(cohort.cases[0].images[0]))), array)
