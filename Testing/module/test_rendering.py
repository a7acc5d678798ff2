"""Layers as they are seen: drawn by Slicer's own displayable managers, on a rotated and anisotropic grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layer_files import CASE, CYST, HOT, LIVER, NEGATIVE, OBLIQUE, POSITIVE, add_volume, labels, ras, write_layers

slicer = pytest.importorskip("slicer", exc_type=ImportError)

SIZE = (360, 360)
ORIENTATIONS = {"Axial": 2, "Coronal": 1, "Sagittal": 0}
#: What each kind of layer must draw at: voxels (z, y, x).
SEEN_AT = {
    "prediction": (LIVER, CYST),
    "generalist:random-walker": (),
    "uncertainty": (HOT,),
    "uncertain-segment": (),
    "prompts": (*POSITIVE, *NEGATIVE),
}
#: Far from all that is drawn.
FAR = (17, 3, 2)


@pytest.fixture
def layers(scene, tmp_path: Path):
    from SemiSAMPlusPanel.layers import CaseLayers

    volume = add_volume()
    folder = write_layers(tmp_path / "run-1" / "layers" / "case")
    return CaseLayers(scene, folder, volume, CASE)


@pytest.fixture(params=ORIENTATIONS)
def view(request, scene):
    from host.views import SliceView

    view = SliceView("Red", request.param, SIZE)
    yield view
    view.close()


def difference(first, second):
    return np.abs(first.astype(int) - second).max(axis=2)


def around(picture, pixel, reach=2):
    row, column = pixel
    return picture[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]


def look_at(view, index):
    view.fit()
    view.jump_to(tuple(ras(index)))


def test_a_layer_is_seen_when_on_and_gone_when_off(view, layers):
    layers.show_volume()
    layers.load()
    for kind in SEEN_AT:
        look_at(view, HOT if kind.startswith("uncertain") else LIVER)
        without = view.pixels()
        assert without.max() > 60, "the image itself is not drawn"
        layers.show(kind)
        assert np.count_nonzero(difference(without, view.pixels()) > 30) > 20, kind
        layers.hide(kind)
        assert np.array_equal(view.pixels(), without), kind


def test_a_voxel_of_a_layer_is_drawn_at_its_pixel(view, layers):
    layers.show_volume()
    layers.load()
    for kind, index in [(kind, index) for kind, places in SEEN_AT.items() for index in places]:
        look_at(view, index)
        without = view.pixels()
        layers.show(kind)
        for node in layers.nodes("prompts"):
            if node.IsA("vtkMRMLMarkupsROINode"):
                node.GetDisplayNode().SetVisibility(False)
        changed = difference(without, view.pixels()) > 15
        layers.hide()
        assert around(changed, view.pixel_of(tuple(ras(index))), 3).any(), (kind, index)
        assert not around(changed, view.pixel_of(tuple(ras(FAR))), 3).any(), (kind, index)


def test_what_is_drawn_covers_the_structure_and_no_more(view, layers):
    """The fill of the prediction, pixel by pixel, against the voxel that lies at each pixel."""
    layers.show_volume()
    look_at(view, LIVER)
    without = view.pixels()
    layers.show("prediction")
    node = layers.nodes("prediction")[0]
    node.GetDisplayNode().SetVisibility2DOutline(False)
    drawn = difference(without, view.pixels()) > 15
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    xy = np.stack([columns, SIZE[1] - 1 - rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1).reshape(-1, 4)
    to_ras = slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS())
    lps = (xy @ to_ras.T)[:, :3] * [-1, -1, 1]
    index = np.round(OBLIQUE.to_index(lps)).astype(int)
    inside = np.all((index >= 0) & (index < OBLIQUE.shape), axis=1)
    expected = np.zeros(len(index), dtype=bool)
    expected[inside] = labels()[tuple(index[inside].T)] > 0
    expected = expected.reshape(SIZE[1], SIZE[0])
    assert expected.sum() > 500
    assert np.count_nonzero(drawn & expected) > 0.97 * expected.sum()
    assert np.count_nonzero(drawn & ~expected) < 0.03 * expected.sum()


def test_structures_have_their_colours_and_the_heat_map_its_table(view, layers):
    layers.show_volume()
    for index, channel in ((LIVER, 0), (CYST, 2)):
        look_at(view, index)
        layers.hide()
        grey = around(view.pixels(), view.pixel_of(tuple(ras(index)))).reshape(-1, 3).mean(axis=0)
        layers.show("prediction")
        color = around(view.pixels(), view.pixel_of(tuple(ras(index)))).reshape(-1, 3).mean(axis=0)
        assert int(np.argmax(color - grey)) == channel
    layers.hide()
    look_at(view, HOT)
    layers.show("uncertainty")
    red, _green, blue = around(view.pixels(), view.pixel_of(tuple(ras(HOT))), 1).reshape(-1, 3).mean(axis=0)
    assert red > blue + 40


def test_positive_and_negative_prompts_look_different(view, layers):
    layers.show_volume()
    layers.show("prompts")
    looks = []
    for index in (POSITIVE[0], NEGATIVE[0]):
        look_at(view, index)
        pixels = around(view.pixels(), view.pixel_of(tuple(ras(index))), 6).astype(int)
        colored = pixels[(pixels.max(axis=2) - pixels.min(axis=2)) > 80]
        assert 4 < len(colored) < 100, "a prompt is seen, and hides little"
        looks.append(colored.mean(axis=0))
    (positive, negative) = looks
    assert positive[1] > positive[0]
    assert negative[0] > negative[1]


def test_most_uncertain_is_in_the_middle_of_the_view(view, layers):
    layers.show_volume()
    layers.show("uncertainty")
    view.fit()
    layers.jump_to_most_uncertain()
    shown = view.pixels()
    layers.hide("uncertainty")
    middle = (SIZE[1] // 2, SIZE[0] // 2)
    assert (around(difference(shown, view.pixels()), middle, 3) > 15).any()


def test_layers_are_seen_in_3d(scene, layers):
    from host.views import ThreeDView

    layers.load()
    view = ThreeDView("1", SIZE)
    layers.show("prediction")
    layers.set_surface_shown("prediction")
    view.fit()
    with_surface = view.pixels()
    layers.hide("prediction")
    empty = view.pixels()
    changed = difference(with_surface, empty) > 30
    assert 0.01 < changed.mean() < 0.6
    colors = with_surface[changed].astype(int)
    assert np.count_nonzero(colors[:, 0] > colors[:, 2] + 40) > 100, "liver"
    assert np.count_nonzero(colors[:, 2] > colors[:, 0] + 40) > 100, "cyst"
    layers.show("prompts")
    assert np.count_nonzero(difference(view.pixels(), empty) > 30) > 50
    layers.hide("prompts")
    assert np.array_equal(view.pixels(), empty)
    view.close()


def test_a_saved_scene_shows_the_same_picture(scene, layers, tmp_path):
    from host.views import SliceView, ThreeDView

    def picture():
        view, solid = SliceView("Red", None, SIZE), ThreeDView("1", SIZE)
        solid.fit()
        pixels = np.hstack([view.pixels(), solid.pixels()])
        view.close()
        solid.close()
        return pixels

    view = SliceView("Red", "Axial", SIZE)
    layers.show_volume()
    look_at(view, LIVER)
    view.close()
    layers.show()
    layers.set_surface_shown("prediction")
    before = picture()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert difference(picture(), before).max() > 50
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    after = picture()
    assert np.count_nonzero(difference(before, after) > 10) < 0.002 * before.shape[0] * before.shape[1]
