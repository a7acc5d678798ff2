"""What the host draws lies where the scene says, in slices and in space."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("scene")

SHAPE = (30, 40, 50)


def matrix(rotated):
    """IJK to RAS with three different spacings, in mm; rotated about two axes where wanted."""
    angle = 0.35 if rotated else 0.0
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    result = np.eye(4)
    result[:3, :3] = rotation @ np.diag([-1.1, -1.4, 2.5])  # Left, posterior: as most volumes lie.
    result[:3, 3] = (30, 20, -40)
    return result


def window(volume, lower=0, upper=200):
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevelMinMax(lower, upper)


def scene_with_cube(rotated):
    """A volume and a segmentation whose one segment is the voxels 20:26, 12:17, 8:11 (i, j, k); and its centre in RAS."""
    import slicer

    volume = slicer.util.addVolumeFromArray(np.full(SHAPE, 100, np.float32), ijkToRAS=matrix(rotated), name="ct")
    window(volume)
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:11, 12:17, 20:26] = 1
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment_id = node.GetSegmentation().AddEmptySegment("cube", "cube", (1.0, 0.0, 0.0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, volume)
    return volume, node, tuple((matrix(rotated) @ [22.5, 14.0, 9.0, 1.0])[:3])


def changed(before, after):
    return np.argwhere(np.abs(after.astype(int) - before).max(axis=2) > 20)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("orientation", ["Axial", "Coronal", "Sagittal"])
def test_a_segment_is_drawn_where_its_voxels_are(orientation, rotated):
    from host.views import SliceView

    volume, segmentation, centre = scene_with_cube(rotated)
    view = SliceView("Red", orientation, (400, 300))
    view.show(volume)
    view.jump_to(centre)
    segmentation.GetDisplayNode().SetVisibility(False)
    without = view.pixels()
    segmentation.GetDisplayNode().SetVisibility(True)
    there = changed(without, view.pixels())
    assert len(there) > 100
    assert np.allclose(there.mean(axis=0), view.pixel_of(centre), atol=3)
    segmentation.GetDisplayNode().SetVisibility(False)
    assert len(changed(without, view.pixels())) == 0


def test_an_unrotated_segment_covers_exactly_its_voxels():
    from host.views import SliceView

    volume, segmentation, centre = scene_with_cube(False)
    view = SliceView("Red", "Axial", (400, 400))
    view.show(volume)
    view.jump_to(centre)
    segmentation.GetDisplayNode().SetVisibility(False)
    without = view.pixels()
    segmentation.GetDisplayNode().SetVisibility(True)
    there = changed(without, view.pixels())
    corners = [view.pixel_of(tuple((matrix(False) @ [i, j, 9, 1])[:3])) for i, j in ((19.5, 11.5), (25.5, 16.5))]
    expected = np.sort(np.array(corners), axis=0)
    assert np.allclose(there.min(axis=0), expected[0], atol=2)
    assert np.allclose(there.max(axis=0), expected[1], atol=2)
    inside = view.pixels()[view.pixel_of(centre)]
    assert inside[0] > inside[1] + 20, "the fill blends red into the grey of the image"
    assert inside[1] > 20


def test_a_single_voxel_of_the_volume_is_drawn_at_its_pixel():
    import slicer
    from host.views import SliceView

    values = np.zeros(SHAPE, np.float32)
    values[9, 14, 22] = 100
    volume = slicer.util.addVolumeFromArray(values, ijkToRAS=matrix(True), name="point")
    window(volume, 0, 100)
    volume.GetDisplayNode().SetInterpolate(False)
    view = SliceView("Red", "Axial", (600, 600))
    view.show(volume)
    point = tuple((matrix(True) @ [22, 14, 9, 1])[:3])
    view.jump_to(point)
    bright = np.argwhere(view.pixels()[..., 0] > 128)
    assert len(bright) > 0
    assert np.allclose(bright.mean(axis=0), view.pixel_of(point), atol=3)


def test_foreground_and_points_are_drawn(scene):
    import slicer
    from host.views import SliceView

    volume, _, centre = scene_with_cube(True)
    uncertainty = slicer.util.addVolumeFromArray(np.ones(SHAPE, np.float32), ijkToRAS=matrix(True), name="uncertainty")
    window(uncertainty, 0, 1)
    view = SliceView("Green", None, (300, 300))
    view.show(volume, uncertainty, 0.0)
    view.jump_to(centre)
    without = view.pixels()
    view.logic.GetSliceCompositeNode().SetForegroundOpacity(1.0)
    assert len(changed(without, view.pixels())) > 1000
    view.logic.GetSliceCompositeNode().SetForegroundOpacity(0.0)
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "prompts")
    points.CreateDefaultDisplayNodes()
    points.GetDisplayNode().SetTextScale(0)
    points.AddControlPoint(centre)
    there = changed(without, view.pixels())
    assert np.allclose(there.mean(axis=0), view.pixel_of(centre), atol=2)


def test_the_picture_is_the_same_after_saving_and_loading_the_scene(scene, tmp_path):
    import slicer
    from host.views import SliceView

    volume, _, centre = scene_with_cube(True)
    slicer.util.setSliceViewerLayers(background=volume)
    view = SliceView("Red", None, (300, 300))
    view.fit()
    view.jump_to(centre)
    before = view.pixels()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    assert view.pixels().max() == 0
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert len(changed(before, view.pixels())) < 20


def test_space_shows_surfaces(scene, tmp_path):
    from host.views import ThreeDView

    _, segmentation, _ = scene_with_cube(True)
    view = ThreeDView(size=(300, 300))
    without = view.pixels()
    segmentation.CreateClosedSurfaceRepresentation()
    view.fit()
    there = view.pixels()
    red = (there[..., 0].astype(int) - there[..., 2] > 60).sum()
    assert red > 50
    assert (without[..., 0].astype(int) - without[..., 2] > 60).sum() == 0
    assert view.png(tmp_path / "space.png").stat().st_size > 1000
    view.close()


def test_a_second_view_of_the_same_name_takes_over(scene):
    from host.views import SliceView

    volume, _, _ = scene_with_cube(False)
    first = SliceView("Red", "Axial", (200, 200))
    first.show(volume)
    assert first.pixels().max() > 0
    first.close()
    second = SliceView("Red", "Axial", (200, 200))
    second.show(volume)
    assert second.pixels().max() > 0
    assert second.node is first.node


def test_a_chart_is_drawn_in_the_colours_of_its_series(scene, tmp_path):
    import slicer
    from host.plots import PlotView

    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "losses")
    slicer.util.updateTableFromArray(table, np.array([[0.0, 1.0], [1.0, 0.5], [2.0, 0.2]]), ["iteration", "loss"])
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "training")
    view = PlotView(chart)
    assert (view.pixels().min(axis=2) == 255).mean() > 0.5
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "loss")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("iteration")
    series.SetYColumnName("loss")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetColor(1.0, 0.0, 0.0)
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    pixels = view.pixels().astype(int)
    assert ((pixels[..., 0] > 200) & (pixels[..., 1] < 80)).sum() > 100
    assert view.png(tmp_path / "chart.png").is_file()
