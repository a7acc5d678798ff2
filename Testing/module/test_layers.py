"""A case's layers in the scene: loaded as written, kept up to date, and never taken from the user's hands."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from layer_files import (
    CASE,
    CLASSES,
    CYST,
    HOT,
    LIVER,
    NEGATIVE,
    OBLIQUE,
    POSITIVE,
    add_volume,
    labels,
    ras,
    write_layers,
)
from layer_files import uncertainty as uncertainty_array

from SemiSAMPlusLib.errors import VolumeError

slicer = pytest.importorskip("slicer", exc_type=ImportError)
vtk = pytest.importorskip("vtk")

ALL = ["prediction", "prompts", "generalist:random-walker", "uncertainty", "uncertain-segment"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_layers(tmp_path / "läufe mit raum" / "run-1" / "layers" / "case")


@pytest.fixture
def volume(scene):
    return add_volume()


@pytest.fixture
def layers(scene, folder, volume):
    return make(scene, folder, volume)


def make(scene, folder, volume, **more):
    from SemiSAMPlusPanel.layers import CaseLayers

    return CaseLayers(scene, folder, volume, CASE, **more)


def node_of(layers, kind):
    (node,) = layers.nodes(kind)
    return node


def voxels(node, number=0):
    """Return a segment (z, y, x) on the case's grid, wherever its labelmap was cropped."""
    segment = node.GetSegmentation().GetNthSegment(number)
    labelmap = segment.GetRepresentation("Binary labelmap")
    x0, x1, y0, y1, z0, z1 = labelmap.GetExtent()
    array = vtk.util.numpy_support.vtk_to_numpy(labelmap.GetPointData().GetScalars())
    whole = np.zeros(OBLIQUE.shape, dtype=bool)
    whole[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1] = (
        array.reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1) == segment.GetLabelValue()
    )
    return whole


def paint(node, index, number=0):
    """Edit one voxel, as Segment Editor does: in the labelmap of the segment."""
    z, y, x = index
    segment = node.GetSegmentation().GetNthSegment(number)
    labelmap = segment.GetRepresentation("Binary labelmap")
    labelmap.SetScalarComponentFromFloat(x, y, z, 0, segment.GetLabelValue())
    labelmap.Modified()


def rewrite(folder, **changes):
    """Write the layers again, as a run does; the time differs however coarse the disk's clock is."""
    write_layers(folder, **changes)
    for path in folder.iterdir():
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def refresh_all(layers):
    return [kind for _ in range(10) for kind in layers.refresh()]


class TestLoading:
    def test_kinds_are_what_has_been_written(self, scene, volume, folder):
        layers = make(scene, folder, volume)
        assert layers.kinds() == ALL
        assert layers.about["iteration"] == 10
        (folder / "uncertainty.nii.gz").unlink()
        (folder / "prompts.mrk.json").unlink()
        assert layers.kinds() == ["prediction", "generalist:random-walker"]

    def test_a_case_without_layers_has_none(self, scene, volume, tmp_path):
        layers = make(scene, tmp_path / "run" / "layers" / "nothing", volume)
        assert layers.kinds() == []
        assert layers.refresh() == []
        assert layers.about == {}
        assert layers.most_uncertain() is None
        assert layers.jump_to_most_uncertain() is None
        layers.show()
        layers.hide()
        with pytest.raises(VolumeError, match="'prediction'"):
            layers.show("prediction")

    def test_a_loaded_layer_is_hidden_until_it_is_shown(self, layers):
        layers.load()
        assert [kind for kind in ALL if layers.is_shown(kind)] == []
        layers.show()
        assert [kind for kind in ALL if layers.is_shown(kind)] == ALL
        layers.hide("prompts")
        assert not layers.is_shown("prompts")
        assert layers.is_shown("prediction")

    def test_segments_keep_names_colours_and_voxels(self, layers):
        layers.load("prediction")
        segmentation = node_of(layers, "prediction").GetSegmentation()
        segments = [segmentation.GetNthSegment(number) for number in range(2)]
        assert [segment.GetName() for segment in segments] == ["liver", "große Zyste"]
        assert [segment.GetColor() for segment in segments] == [pytest.approx(one.color) for one in CLASSES]
        for number in range(2):
            assert np.array_equal(voxels(node_of(layers, "prediction"), number), labels() == number + 1)

    def test_the_terminology_of_the_case_wins_over_the_files(self, scene, folder, volume):
        from SemiSAMPlusPanel.export import terminology_of

        liver = "Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~~^^~^^"
        layers = make(scene, folder, volume, terminologies={"liver": liver})
        layers.load("prediction")
        segmentation = node_of(layers, "prediction").GetSegmentation()
        assert terminology_of(segmentation.GetNthSegment(0)) == liver
        assert "Tissue" in terminology_of(segmentation.GetNthSegment(1))
        assert segmentation.GetNthSegment(0).GetName() == "liver"

    def test_prompts_lie_where_they_were_asked(self, layers):
        layers.load("prompts")
        positive, negative, box = layers.nodes("prompts")
        for node, points in ((positive, POSITIVE), (negative, NEGATIVE)):
            assert slicer.util.arrayFromMarkupsControlPoints(node) == pytest.approx(np.array([ras(p) for p in points]))
        assert np.array(box.GetCenter()) == pytest.approx(ras((9, 8, 9)))
        assert np.array(box.GetSize()) == pytest.approx(np.array([10, 10, 8]) * OBLIQUE.spacing)
        assert all(node.GetLocked() for node in (positive, negative, box))

    def test_positive_and_negative_prompts_are_told_apart(self, layers):
        layers.load("prompts")
        positive, negative, _box = (node.GetDisplayNode() for node in layers.nodes("prompts"))
        assert positive.GetGlyphType() != negative.GetGlyphType()
        assert np.abs(np.subtract(positive.GetSelectedColor(), negative.GetSelectedColor())).max() > 0.5
        assert not positive.GetPointLabelsVisibility()
        assert not negative.GetPointLabelsVisibility()

    def test_uncertainty_has_the_cases_geometry_and_a_table_of_its_own(self, layers, volume):
        layers.load("uncertainty")
        node = node_of(layers, "uncertainty")
        assert np.allclose(slicer.util.arrayFromVolume(node), uncertainty_array())
        ours, theirs = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(ours)
        volume.GetIJKToRASMatrix(theirs)
        assert slicer.util.arrayFromVTKMatrix(ours) == pytest.approx(slicer.util.arrayFromVTKMatrix(theirs), abs=1e-4)
        display = node.GetDisplayNode()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 1)
        assert display.GetApplyThreshold()
        assert 0 < display.GetLowerThreshold() < 0.3
        table = display.GetColorNode()
        assert table.GetNumberOfColors() == 256
        brightness = [sum(table.GetLookupTable().GetTableValue(index)[:3]) for index in range(256)]
        assert np.all(np.diff(brightness) > -1e-6)

    def test_cases_share_one_colour_table(self, scene, layers, folder, tmp_path):
        from SemiSAMPlusPanel.layers import CaseLayers

        layers.load("uncertainty")
        other = CaseLayers(scene, write_layers(tmp_path / "run-1" / "layers" / "b"), None, "b")
        other.load("uncertainty")
        tables = {node_of(one, "uncertainty").GetDisplayNode().GetColorNodeID() for one in (layers, other)}
        assert len(tables) == 1

    def test_nothing_of_the_scene_is_saved_into_the_run_folder(self, layers, folder):
        layers.load()
        for node in layers.nodes():
            storage = node.GetStorageNode()
            assert storage is None or not (storage.GetFileName() or "").startswith(str(folder))

    def test_layers_lie_below_their_volume(self, layers, volume):
        layers.load()
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        folders = {tree.GetItemParent(tree.GetItemByDataNode(node)) for node in layers.nodes()}
        (folder_item,) = folders
        assert tree.GetItemName(folder_item) == "SemiSAM+ (run-1)"
        assert tree.GetItemDataNode(tree.GetItemParent(folder_item)) is volume

    def test_a_case_that_is_not_loaded_has_a_folder_with_its_name(self, scene, folder):
        layers = make(scene, folder, None)
        layers.show()
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        item = tree.GetItemParent(tree.GetItemByDataNode(layers.nodes()[0]))
        assert tree.GetItemName(item).startswith(CASE)
        assert tree.GetItemParent(item) == tree.GetSceneItemID()

    def test_two_objects_of_one_case_share_its_nodes(self, scene, layers, folder, volume):
        layers.load()
        count = len(layers.nodes())
        again = make(scene, folder, volume)
        again.load()
        assert len(again.nodes()) == count

    def test_removing_leaves_nothing_but_the_colour_table(self, scene, layers, volume):
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        tree.CreateItem(tree.GetSceneItemID(), volume)
        before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode", scene)}
        items = tree.GetNumberOfItems()
        layers.show()
        layers.remove()
        left = [n for n in slicer.util.getNodesByClass("vtkMRMLNode", scene) if n.GetID() not in before]
        left = [n for n in left if not n.IsA("vtkMRMLColorTableNode") and not n.IsA("vtkMRMLColorTableStorageNode")]
        assert [node.GetName() for node in left] == []
        assert tree.GetNumberOfItems() == items


class TestRefreshing:
    def test_nothing_is_read_while_nothing_changes(self, layers):
        layers.load()
        assert refresh_all(layers) == []

    def test_what_is_not_loaded_is_not_read(self, layers, folder):
        layers.load("prediction")
        rewrite(folder, grow=2)
        assert refresh_all(layers) == ["prediction"]
        assert layers.nodes("uncertainty") == []

    def test_one_file_is_read_at_a_time(self, layers, folder):
        layers.show()
        ids = {kind: [node.GetID() for node in layers.nodes(kind)] for kind in ALL}
        rewrite(folder, grow=2, peak=0.6)
        changed = [layers.refresh() for _ in range(6)]
        assert changed == [[ALL[0]], [ALL[1]], [ALL[2]], [ALL[3], ALL[4]], [], []]
        assert {kind: [node.GetID() for node in layers.nodes(kind)] for kind in ALL} == ids
        assert np.array_equal(voxels(node_of(layers, "prediction")), labels(2) == 1)
        assert np.allclose(slicer.util.arrayFromVolume(node_of(layers, "uncertainty")), uncertainty_array(0.6))
        assert np.array_equal(voxels(node_of(layers, "uncertain-segment")), uncertainty_array(0.6) > 0.5)
        assert all(layers.is_shown(kind) for kind in ALL)

    def test_how_the_user_looks_at_it_is_no_edit_and_is_kept(self, layers, folder):
        layers.show()
        prediction, uncertainty = node_of(layers, "prediction"), node_of(layers, "uncertainty")
        positive = layers.nodes("prompts")[0]
        prediction.GetSegmentation().GetNthSegment(0).SetColor(0, 1, 0)
        prediction.GetDisplayNode().SetSegmentVisibility("Segment_2", False)
        uncertainty.GetDisplayNode().SetThreshold(0.4, 2)
        positive.GetDisplayNode().SetGlyphScale(5)
        layers.hide("generalist:random-walker")
        rewrite(folder, grow=2)
        assert len(refresh_all(layers)) == 5
        assert node_of(layers, "prediction") is prediction
        assert prediction.GetSegmentation().GetNthSegment(0).GetColor() == (0, 1, 0)
        assert not prediction.GetDisplayNode().GetSegmentVisibility("Segment_2")
        assert uncertainty.GetDisplayNode().GetLowerThreshold() == 0.4
        assert positive.GetDisplayNode().GetGlyphScale() == 5
        assert not layers.is_shown("generalist:random-walker")

    def test_a_surface_follows_its_voxels(self, layers, folder):
        layers.show("prediction")
        layers.set_surface_shown("prediction")
        segment = node_of(layers, "prediction").GetSegmentation().GetNthSegment(0)

        def width():
            return np.diff(segment.GetRepresentation("Closed surface").GetBounds()[:2])[0]

        before = width()
        rewrite(folder, grow=3)
        refresh_all(layers)
        assert width() > before + 2

    def test_other_segments_replace_the_old(self, layers, folder):
        from SemiSAMPlusLib.cohort.outputs import write_segmentation

        layers.show("prediction")
        node = node_of(layers, "prediction")
        os.remove(folder / "prediction.seg.nrrd")
        write_segmentation(folder / "prediction.seg.nrrd", np.minimum(labels(), 1), OBLIQUE, CLASSES[:1])
        assert layers.refresh() == ["prediction"]
        assert node_of(layers, "prediction") is node
        assert node.GetSegmentation().GetNumberOfSegments() == 1

    def test_an_edited_segmentation_becomes_the_users(self, layers, folder):
        layers.show("prediction")
        edited = node_of(layers, "prediction")
        paint(edited, (2, 2, 2))
        rewrite(folder, grow=2)
        assert layers.refresh() == ["prediction"]
        fresh = node_of(layers, "prediction")
        assert fresh is not edited
        assert edited.GetName() == f"{CASE} prediction (edited)"
        assert [name for name in edited.GetAttributeNames() if name.startswith("SemiSAMPlus")] == []
        assert edited.GetDisplayNode().GetVisibility()
        assert not layers.is_shown("prediction")
        expected = labels() == 1
        expected[2, 2, 2] = True
        assert np.array_equal(voxels(edited), expected)
        assert np.array_equal(voxels(fresh), labels(2) == 1)
        layers.remove()
        assert edited.GetScene() is not None

    def test_edits_of_points_and_volumes_stay_too(self, layers, folder):
        layers.show()
        positive, uncertainty = layers.nodes("prompts")[0], node_of(layers, "uncertainty")
        positive.SetNthControlPointPosition(0, 1, 2, 3)
        slicer.util.arrayFromVolume(uncertainty)[0] = 0.7
        slicer.util.arrayFromVolumeModified(uncertainty)
        rewrite(folder, peak=0.6)
        refresh_all(layers)
        assert positive.GetNthControlPointPosition(0) == (1, 2, 3)
        assert positive not in layers.nodes("prompts")
        assert len(layers.nodes("prompts")) == 3
        assert np.all(slicer.util.arrayFromVolume(uncertainty)[0] == np.float32(0.7))
        fresh = node_of(layers, "uncertainty")
        assert fresh is not uncertainty
        assert np.allclose(slicer.util.arrayFromVolume(fresh), uncertainty_array(0.6))

    def test_a_renamed_or_added_segment_is_an_edit(self, layers, folder):
        layers.load()
        prediction, answer = node_of(layers, "prediction"), node_of(layers, "generalist:random-walker")
        prediction.GetSegmentation().GetNthSegment(0).SetName("tumour")
        answer.GetSegmentation().AddEmptySegment("mine", "mine")
        rewrite(folder)
        refresh_all(layers)
        assert node_of(layers, "prediction") is not prediction
        assert node_of(layers, "generalist:random-walker") is not answer

    def test_a_broken_file_is_passed_over_until_it_is_replaced(self, layers, folder, monkeypatch):
        from SemiSAMPlusPanel.layers import layer

        layers.show("uncertainty")
        (folder / "uncertainty.nii.gz").write_bytes(b"no image")
        reads, read = [], layer.snapshot
        monkeypatch.setattr(layer, "snapshot", lambda path: reads.append(path) or read(path))
        assert refresh_all(layers) == []
        assert len(reads) == 1
        with pytest.raises(VolumeError, match=r"uncertainty\.nii\.gz"):
            layers.load("uncertainty")
        assert np.allclose(slicer.util.arrayFromVolume(node_of(layers, "uncertainty")), uncertainty_array())
        rewrite(folder, peak=0.6)
        assert refresh_all(layers) == ["uncertainty"]

    def test_a_file_that_is_denied_is_tried_again(self, layers, folder, monkeypatch):
        layers.show("prediction")
        rewrite(folder, grow=2)
        opened, open_ = [], Path.open

        def denied(path, *arguments, **more):
            if path.name == "prediction.seg.nrrd" and len(opened) < 2:
                opened.append(path)
                raise PermissionError(13, "Permission denied")
            return open_(path, *arguments, **more)

        monkeypatch.setattr(Path, "open", denied)
        assert [layers.refresh() for _ in range(4)] == [[], [], ["prediction"], []]

    def test_a_file_that_is_gone_leaves_its_layer(self, layers, folder):
        layers.show()
        for path in folder.iterdir():
            path.unlink()
        assert refresh_all(layers) == []
        layers.load()
        assert layers.kinds() == ALL
        assert all(layers.is_shown(kind) for kind in ALL)


class TestUncertainty:
    def test_the_most_uncertain_place_is_no_single_voxel_of_noise(self, layers):
        point = layers.most_uncertain()
        assert np.linalg.norm(point - ras(HOT)) < 4

    def test_it_moves_with_a_transform(self, layers, scene):
        before = layers.most_uncertain()
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 100)
        transform.SetMatrixTransformToParent(matrix)
        node_of(layers, "uncertainty").SetAndObserveTransformNodeID(transform.GetID())
        assert layers.most_uncertain() - before == pytest.approx([100, 0, 0])

    def test_nowhere_uncertain_is_no_place(self, layers, folder):
        rewrite(folder, peak=0)
        layers.load("uncertainty")
        slicer.util.arrayFromVolume(node_of(layers, "uncertainty"))[:] = 0
        assert layers.most_uncertain() is None

    def test_slices_are_moved_to_it(self, layers, scene):
        point = layers.jump_to_most_uncertain()
        slices = slicer.util.getNodesByClass("vtkMRMLSliceNode", scene)
        assert slices
        for node in slices:
            normal = [node.GetSliceToRAS().GetElement(row, 2) for row in range(3)]
            assert np.dot(normal, point) == pytest.approx(node.GetSliceOffset(), abs=1e-3)

    def test_the_segment_follows_the_threshold(self, layers):
        layers.show("uncertain-segment")
        node = node_of(layers, "uncertain-segment")
        for threshold in (0.5, 0.2, 0.95, 0.59):
            layers.set_threshold(threshold)
            assert layers.threshold == pytest.approx(threshold)
            assert node_of(layers, "uncertain-segment") is node
            assert np.array_equal(voxels(node), uncertainty_array() > threshold)
        labelmap = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
        place = vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(place)
        z, y, x = HOT
        assert place.MultiplyPoint([x, y, z, 1])[:3] == pytest.approx(tuple(ras(HOT)), abs=1e-3)

    def test_an_edited_uncertain_region_is_not_overwritten(self, layers):
        layers.show("uncertain-segment")
        edited = node_of(layers, "uncertain-segment")
        paint(edited, (1, 1, 1))
        layers.set_threshold(0.2)
        assert node_of(layers, "uncertain-segment") is not edited
        assert voxels(edited)[1, 1, 1]
        assert voxels(edited)[HOT]

    def test_the_threshold_chosen_before_is_kept_until_it_is_loaded(self, layers):
        layers.set_threshold(0.25)
        layers.show("uncertain-segment")
        assert np.array_equal(voxels(node_of(layers, "uncertain-segment")), uncertainty_array() > 0.25)

    def test_the_foreground_comes_back(self, layers, scene):
        other = add_volume("other")
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene)
        assert composites
        composites[0].SetForegroundVolumeID(other.GetID())
        composites[0].SetForegroundOpacity(0.25)
        layers.show("uncertainty")
        assert all(c.GetForegroundVolumeID() == node_of(layers, "uncertainty").GetID() for c in composites)
        assert composites[0].GetForegroundOpacity() == 0.5
        layers.hide("uncertainty")
        assert composites[0].GetForegroundVolumeID() == other.GetID()
        assert composites[0].GetForegroundOpacity() == 0.25
        assert all(not c.GetForegroundVolumeID() for c in composites[1:])

    def test_a_foreground_that_the_user_chose_meanwhile_stays(self, layers, scene):
        layers.show("uncertainty")
        other = add_volume("other")
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene):
            composite.SetForegroundVolumeID(other.GetID())
        assert not layers.is_shown("uncertainty")
        layers.hide("uncertainty")
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene):
            assert composite.GetForegroundVolumeID() == other.GetID()

    def test_from_case_to_case_the_first_foreground_comes_back(self, layers, scene, tmp_path):
        from SemiSAMPlusPanel.layers import CaseLayers

        other = add_volume("other")
        composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene)[0]
        composite.SetForegroundVolumeID(other.GetID())
        composite.SetForegroundOpacity(0.25)
        second = CaseLayers(scene, write_layers(tmp_path / "run-1" / "layers" / "b"), None, "b")
        layers.show("uncertainty")
        second.show("uncertainty")
        layers.hide("uncertainty")
        assert second.is_shown("uncertainty")
        second.hide("uncertainty")
        assert composite.GetForegroundVolumeID() == other.GetID()
        assert composite.GetForegroundOpacity() == 0.25

    def test_its_colours_are_explained_while_it_is_shown(self, layers):
        layers.show("uncertainty")
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node_of(layers, "uncertainty"))
        assert legend.GetVisibility()
        assert legend.GetTitleText()
        layers.hide("uncertainty")
        assert not legend.GetVisibility()


class TestScenes:
    def save_and_load(self, scene, path):
        assert slicer.util.saveScene(str(path))
        scene.Clear(False)
        slicer.util.loadScene(str(path))

    def test_layers_are_found_again(self, layers, scene, folder, tmp_path):
        layers.show()
        layers.set_threshold(0.2)
        layers.set_surface_shown("prediction")
        names = sorted(node.GetName() for node in layers.nodes())
        self.save_and_load(scene, tmp_path / "scene.mrb")
        (volume,) = (n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetName() == CASE)
        again = make(scene, folder, volume)
        assert sorted(node.GetName() for node in again.nodes()) == names
        assert again.refresh() == []
        assert all(again.is_shown(kind) for kind in ALL)
        assert again.threshold == pytest.approx(0.2)
        again.show()
        assert sorted(node.GetName() for node in again.nodes()) == names
        rewrite(folder, grow=2, peak=0.6)
        ids = {node.GetID() for node in again.nodes()}
        assert refresh_all(again) == ALL
        assert {node.GetID() for node in again.nodes()} == ids
        assert np.array_equal(voxels(node_of(again, "prediction"), 1), labels(2) == 2)
        again.hide()
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            assert not composite.GetForegroundVolumeID()

    def test_the_object_from_before_finds_them_too(self, layers, scene, tmp_path):
        layers.show()
        self.save_and_load(scene, tmp_path / "scene.mrb")
        assert layers.volume.GetName() == CASE
        assert layers.refresh() == []
        assert all(layers.is_shown(kind) for kind in ALL)

    def test_an_edit_before_saving_is_known_after_loading(self, layers, scene, folder, tmp_path):
        layers.show()
        paint(node_of(layers, "prediction"), (2, 2, 2))
        self.save_and_load(scene, tmp_path / "scene.mrb")
        edited = node_of(layers, "prediction")
        rewrite(folder, grow=2)
        refresh_all(layers)
        assert edited.GetName().endswith("(edited)")
        assert voxels(edited)[2, 2, 2]
        answer = node_of(layers, "generalist:random-walker")
        assert not answer.GetName().endswith("(edited)")
        assert np.array_equal(voxels(answer), labels(4) == 1)

    def test_a_closed_scene_is_no_error(self, layers, scene):
        layers.show()
        scene.Clear(False)
        assert layers.volume is None
        assert layers.nodes() == []
        assert layers.refresh() == []
        assert not layers.is_shown("prediction")
        layers.hide()
        layers.set_threshold(0.3)
        layers.show_volume()
        layers.remove()
        layers.show()
        assert all(layers.is_shown(kind) for kind in ALL)

    def test_a_deleted_node_is_made_again(self, layers, scene):
        layers.show()
        scene.RemoveNode(node_of(layers, "uncertainty"))
        assert layers.refresh() == []
        assert not layers.is_shown("uncertainty")
        layers.show("uncertainty")
        assert layers.is_shown("uncertainty")

    def test_layers_of_a_moved_run_are_found(self, layers, scene, folder, volume, tmp_path):
        layers.show()
        moved = tmp_path / "elsewhere" / "run-1"
        moved.parent.mkdir()
        folder.parent.parent.rename(moved)
        again = make(scene, moved / "layers" / "case", volume)
        assert all(again.is_shown(kind) for kind in ALL)

    def test_layers_of_another_run_are_not_taken(self, layers, scene, volume, tmp_path):
        layers.show()
        other = make(scene, write_layers(tmp_path / "b" / "run-1" / "layers" / "case"), volume)
        assert other.nodes() == []

    def test_the_empty_background_is_filled_with_the_case(self, layers, volume, scene):
        layers.show("prediction")
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene):
            assert composite.GetBackgroundVolumeID() == volume.GetID()
        other = add_volume("other")
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene):
            composite.SetBackgroundVolumeID(other.GetID())
        layers.show("uncertainty")
        assert composite.GetBackgroundVolumeID() == other.GetID()
        layers.show_volume()
        assert composite.GetBackgroundVolumeID() == volume.GetID()


def test_the_middles_drawn_are_apart():
    assert labels()[LIVER] == 1
    assert labels()[CYST] == 2
    assert labels()[HOT] == 0
