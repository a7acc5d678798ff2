"""Patches are looked up where they should be: images, labels and answers move together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import ball

from SemiSAMPlusLib.cohort.augmentation import (
    IntensityAugmentation,
    SpatialAugmentation,
    cut,
    look_up,
    straight_coordinates,
)


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _volume(shape: tuple[int, int, int] = (20, 24, 28), channels: int = 1) -> torch.Tensor:
    return torch.from_numpy(_random(5).random((channels, *shape), dtype=np.float32)) - 3.0


# -- looking up


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("start", [(0, 0, 0), (3, 5, 7)])
def test_straight_coordinates_give_the_voxels_themselves(start: tuple[int, int, int], nearest: bool) -> None:
    volume, shape = _volume(channels=2), (8, 9, 10)
    found = look_up(volume, straight_coordinates(start, shape), nearest=nearest)
    z, y, x = start
    torch.testing.assert_close(found, volume[:, z : z + 8, y : y + 9, x : x + 10], rtol=0, atol=1e-5)


def test_beyond_the_volume_there_is_its_least_value_or_what_is_asked_for() -> None:
    volume, inside = _volume((6, 6, 6)), (slice(None), slice(2, 8), slice(3, 9), slice(1, 7))
    coordinates = straight_coordinates((-2, -3, -1), (12, 12, 12))
    for outside, expected in ((None, float(volume.amin())), (0.0, 0.0), (-9.0, -9.0)):
        found = look_up(volume, coordinates, outside=outside)
        torch.testing.assert_close(found[inside], volume, rtol=0, atol=1e-5)
        beyond = torch.ones_like(found, dtype=torch.bool)
        beyond[inside] = False
        torch.testing.assert_close(found[beyond], torch.full_like(found[beyond], expected))


@pytest.mark.parametrize("start", [(0, 0, 0), (3, 5, 7), (-4, 20, -1), (-30, 2, 2), (2, 40, 2)])
def test_a_cut_is_what_is_looked_up_at_straight_coordinates(start: tuple[int, int, int]) -> None:
    volume, shape = _volume(channels=2), (8, 9, 10)
    found = cut(volume, start, shape)
    torch.testing.assert_close(found, look_up(volume, straight_coordinates(start, shape)), rtol=0, atol=1e-5)
    before = volume.clone()
    found += 1  # It is a copy.
    assert torch.equal(volume, before)


def test_half_way_between_two_voxels_is_their_mean() -> None:
    volume = _volume()
    coordinates = straight_coordinates((4, 4, 4), (5, 5, 5)) + torch.tensor([0.5, 0.0, 0.0]).view(3, 1, 1, 1)
    expected = (volume[:, 4:9, 4:9, 4:9] + volume[:, 5:10, 4:9, 4:9]) / 2
    torch.testing.assert_close(look_up(volume, coordinates), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axes_are_z_y_x(axis: int) -> None:
    """A ramp along one axis is looked up by the coordinate along that axis."""
    shape = (20, 24, 28)
    ramp = straight_coordinates((0, 0, 0), shape)[axis][None]
    coordinates = torch.from_numpy(_random().uniform(2, 17, (3, 4, 5, 6)).astype(np.float32))
    torch.testing.assert_close(look_up(ramp, coordinates), coordinates[axis][None], rtol=0, atol=1e-4)


def test_gradient_passes_through_looking_up() -> None:
    volume = _volume().requires_grad_(True)
    look_up(volume, straight_coordinates((2, 2, 2), (4, 4, 4)), outside=0.0).sum().backward()
    assert volume.grad is not None
    assert float(volume.grad.sum()) == pytest.approx(64, rel=1e-4)


# -- deforming


def test_without_strength_a_patch_is_straight() -> None:
    coordinates = SpatialAugmentation((8, 10, 12), 0.0).coordinates((20.0, 30.5, 40.0), _random())
    expected = straight_coordinates((0, 0, 0), (8, 10, 12)) + torch.tensor([16.5, 26.0, 34.5]).view(3, 1, 1, 1)
    torch.testing.assert_close(coordinates, expected, rtol=0, atol=1e-4)


def test_the_middle_of_a_patch_stays_where_it_was_put_but_for_the_elastic_part() -> None:
    spatial = SpatialAugmentation((9, 11, 13), elastic=0.0)
    for seed in range(10):
        middle = spatial.coordinates((50.0, 60.0, 70.0), _random(seed))[:, 4, 5, 6]
        torch.testing.assert_close(middle, torch.tensor([50.0, 60.0, 70.0]), rtol=0, atol=1e-3)


def _linear_part(spatial: SpatialAugmentation, seed: int) -> np.ndarray:
    """Return the 3×3 matrix of an undisturbed deformation, column by column from steps along z, y and x."""
    c = spatial.coordinates((0.0, 0.0, 0.0), _random(seed)).numpy().astype(float)
    return np.stack([c[:, 1, 0, 0] - c[:, 0, 0, 0], c[:, 0, 1, 0] - c[:, 0, 0, 0], c[:, 0, 0, 1] - c[:, 0, 0, 0]], 1)


def test_turning_and_scaling_stay_in_their_ranges_and_differ() -> None:
    spatial = SpatialAugmentation((8, 8, 8), elastic=0.0)
    sizes, angles = [], []
    for seed in range(60):
        singular = np.linalg.svd(_linear_part(spatial, seed), compute_uv=False)
        assert singular.min() > (1 - 0.22) * (1 - 0.1) - 1e-3
        assert singular.max() < (1 + 0.22) * (1 + 0.1) + 1e-3
        assert np.linalg.det(_linear_part(spatial, seed)) > 0  # Never mirrored unless asked for.
        sizes.append(float(np.prod(singular) ** (1 / 3)))
        turned = SpatialAugmentation((8, 8, 8), elastic=0.0, scale=0.0, anisotropy=0.0, rotation=(25.0, 0.0, 0.0))
        matrix = _linear_part(turned, seed)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-4)
        np.testing.assert_allclose(matrix[0], [1, 0, 0], atol=1e-4)  # About z alone.
        angles.append(np.degrees(np.arctan2(matrix[2, 1], matrix[1, 1])))
    assert min(sizes) < 0.9
    assert max(sizes) > 1.1
    assert np.abs(angles).max() <= 25.001
    assert min(angles) < -15
    assert max(angles) > 15


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_axes_that_are_allowed_are_mirrored(axis: int) -> None:
    spatial = SpatialAugmentation((8, 8, 8), 0.0, flips=(axis,))
    signs = np.array([np.diag(_linear_part(spatial, seed)) for seed in range(40)])
    others = [other for other in range(3) if other != axis]
    assert (signs[:, others] > 0).all()
    assert 8 < int((signs[:, axis] < 0).sum()) < 32


def test_the_elastic_part_is_bounded_smooth_and_scales_with_strength() -> None:
    settings = {"rotation": (0.0, 0.0, 0.0), "scale": 0.0, "anisotropy": 0.0}
    straight = straight_coordinates((0, 0, 0), (32, 32, 32)) - 15.5
    for strength in (0.5, 1.0):
        moved = SpatialAugmentation((32, 32, 32), strength, **settings).coordinates((0, 0, 0), _random()) - straight  # type: ignore[arg-type]
        assert 1.0 * strength < float(moved.abs().max()) <= 4.0 * strength + 1e-3
        assert float(moved.diff(dim=1).abs().max()) < 1.0  # It never folds.


def test_the_same_chance_gives_the_same_deformation() -> None:
    spatial = SpatialAugmentation((8, 8, 8), flips=(0, 2))
    one, same, other = (spatial.coordinates((4, 4, 4), _random(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_image_and_label_move_together() -> None:
    shape = (40, 40, 40)
    label = torch.from_numpy(ball(shape, 11, (18, 21, 20)))[None]
    image = label.float() * 100
    for seed in range(5):
        coordinates = SpatialAugmentation((32, 32, 32)).coordinates((19.5, 19.5, 19.5), _random(seed))
        moved_image, moved_label = look_up(image, coordinates), look_up(label, coordinates, nearest=True, outside=0.0)
        image_mask, label_mask = moved_image > 50, moved_label.bool()
        assert int(label_mask.sum()) > 1000
        # Linear and nearest interpolation part at the rim alone, and to neither side.
        assert 2 * int((image_mask & label_mask).sum()) / int(image_mask.sum() + label_mask.sum()) > 0.96
        drift = torch.nonzero(image_mask).float().mean(dim=0) - torch.nonzero(label_mask).float().mean(dim=0)
        assert float(drift.abs().max()) < 0.1


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_what_comes_out_are_plain_tensors(strength: float) -> None:
    """MONAI's transforms return a kind of its own, with which all that follows would be computed more slowly."""
    spatial = SpatialAugmentation((8, 8, 8), strength)
    for seed in range(4):
        coordinates = spatial.coordinates((5.0, 5.0, 5.0), _random(seed))
        image = look_up(_volume(), coordinates)
        assert type(coordinates) is torch.Tensor
        assert type(image) is torch.Tensor
        assert type(IntensityAugmentation(strength)(image, _random(seed))) is torch.Tensor


# -- grey values


def test_without_strength_grey_values_stay() -> None:
    image = _volume()
    assert torch.equal(IntensityAugmentation(0.0)(image, _random()), image)


@pytest.mark.parametrize("strength", [1.0, 3.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_grey_values_are_disturbed_but_stay_what_they_show(channels: int, strength: float) -> None:
    shape = (16, 16, 16)
    structure = np.stack([ball(shape, 5)] * channels).astype(np.float32)
    image = torch.from_numpy(structure * 2 - 0.3)
    before = image.clone()
    for seed in range(20):
        disturbed = IntensityAugmentation(strength)(image, _random(seed))
        assert disturbed.shape == image.shape
        assert disturbed.dtype == torch.float32
        assert torch.isfinite(disturbed).all()
        if strength == 1.0:
            assert np.corrcoef(disturbed.numpy().ravel(), structure.ravel())[0, 1] > 0.6
    assert torch.equal(image, before)


def test_the_same_chance_gives_the_same_grey_values_whatever_came_before() -> None:
    image, augment = _volume(), IntensityAugmentation()
    first = [augment(image, _random(seed)) for seed in range(6)]
    torch.manual_seed(99)
    np.random.seed(99)
    second = [IntensityAugmentation()(image, _random(seed)) for seed in reversed(range(6))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert len({float(one.sum()) for one in first}) > 3


def test_an_even_image_stays_finite() -> None:
    for seed in range(10):
        assert torch.isfinite(IntensityAugmentation()(torch.full((1, 8, 8, 8), -2.0), _random(seed))).all()
