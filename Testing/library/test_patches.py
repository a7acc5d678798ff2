"""The two streams of patches: fair to all cases, the same whatever was drawn before, within a bound of memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import OBLIQUE, ball, plan, write_volume

from SemiSAMPlusLib.cohort.augmentation import IntensityAugmentation, SpatialAugmentation, look_up
from SemiSAMPlusLib.cohort.cohort import Case, Class, Role
from SemiSAMPlusLib.cohort.patches import CaseCache, Patch, PatchStream, prepare
from SemiSAMPlusLib.cohort.volume import Grid, resample

CPU = torch.device("cpu")
CLASSES = (Class("inner", (7,)), Class("outer", (2, 3)))
GRID = Grid((20, 24, 22), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Five cases; a small inner ball (7) in an outer one (2 above the middle, 3 below)."""
    folder = tmp_path_factory.mktemp("cases")
    made = []
    for number in range(5):
        random = np.random.default_rng(number)
        label = np.where(ball(GRID.shape, 8), 2, 0)
        label[10:][label[10:] == 2] = 3
        label[ball(GRID.shape, 3)] = 7
        image = (label * 40 + random.normal(0, 5, GRID.shape) + 100).astype(np.int16)
        made.append(
            Case(
                f"case-{number}",
                (write_volume(folder / f"images/{number}.nii.gz", image, GRID),),
                write_volume(folder / f"labels/{number}.nii.gz", label.astype(np.uint8), GRID),
                Role.LABELED,
            )
        )
    return made


def _cache(limit: int = 1 << 30, **settings) -> CaseCache:
    return CaseCache(plan(classes=2, **settings), CLASSES, limit, CPU)


def _stream(
    cases: list[Case],
    *,
    patch: tuple[int, int, int] = (16, 16, 16),
    strength: float = 1.0,
    seed: int = 1,
    with_label: bool = True,
    cache: CaseCache | None = None,
) -> PatchStream:
    return PatchStream(
        cases,
        cache or _cache(),
        SpatialAugmentation(patch, strength),
        IntensityAugmentation(strength),
        seed=seed,
        with_label=with_label,
    )


# -- preparing


def test_a_case_is_prepared_in_its_training_grid(cases: list[Case]) -> None:
    found = prepare(cases[0], plan(spacing=2.0, classes=2), CLASSES, CPU)
    assert found.image.shape == (1, 10, 12, 11)
    assert found.image.dtype == torch.float32
    assert abs(float(found.image.mean())) < 0.5
    assert found.label is not None
    assert found.label.shape == (1, 10, 12, 11)
    assert sorted(found.label.unique().tolist()) == [0, 1, 2]
    assert found.grid.spacing == (2.0, 2.0, 2.0)
    assert found.nbytes == 10 * 12 * 11 * 5


def test_label_values_become_class_indices(cases: list[Case]) -> None:
    label = prepare(cases[0], plan(classes=2), CLASSES, CPU).label
    assert label is not None
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(cases[0].label)))
    expected = np.select([values == 7, (values == 2) | (values == 3)], [1, 2])
    assert np.array_equal(label[0].numpy(), expected)


def test_image_and_label_lie_alike_on_an_oblique_anisotropic_grid(tmp_path: Path) -> None:
    """The label is drawn on the image's bright part; both are resampled, by different interpolators."""
    grid = Grid((16, 40, 48), OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction)
    centre = grid.to_physical(np.array([[7.5, 19.5, 23.5]]))
    points = grid.to_physical(np.argwhere(np.ones(grid.shape)))
    inside = (np.linalg.norm(points - centre, axis=1) < 12).reshape(grid.shape)
    case = Case(
        "oblique",
        (write_volume(tmp_path / "image.nrrd", (inside * 100.0).astype(np.float32), grid),),
        write_volume(tmp_path / "label.nrrd", inside.astype(np.uint8), grid),
        Role.LABELED,
    )
    found = prepare(case, plan(), (Class("ball", (1,)),), CPU)
    assert found.label is not None
    truth = np.linalg.norm(found.grid.to_physical(np.argwhere(np.ones(found.grid.shape))) - centre, axis=1) < 12
    truth = truth.reshape(found.grid.shape)
    bright = found.image[0].numpy() > (found.image.max() + found.image.min()).item() / 2
    for mask in (found.label[0].numpy() == 1, bright):
        dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        assert dice > 0.93
        drift = np.argwhere(mask).mean(axis=0) - np.argwhere(truth).mean(axis=0)
        assert np.abs(drift).max() < 0.25  # voxels of 1 mm


def test_two_channels_on_two_grids_come_to_one(tmp_path: Path) -> None:
    fine, coarse = GRID, Grid((10, 12, 11), (2.0, 2.0, 2.0), (0.5, 0.5, 0.5))
    images = []
    for name, grid in (("t1", fine), ("t2", coarse)):
        points = grid.to_physical(np.argwhere(np.ones(grid.shape)))
        bright = (np.linalg.norm(points - [10.5, 11.5, 9.5], axis=1) < 6).reshape(grid.shape)
        images.append(write_volume(tmp_path / f"{name}.nii.gz", (bright * 50.0).astype(np.float32), grid))
    found = prepare(Case("two", tuple(images)), plan(channels=2), None, CPU)
    assert found.image.shape == (2, *GRID.shape)
    assert found.label is None
    one, other = (channel > (channel.max() + channel.min()) / 2 for channel in found.image)
    assert 2 * int((one & other).sum()) / int(one.sum() + other.sum()) > 0.85


# -- labels stay closed


def test_without_a_label_asked_for_its_file_is_never_opened(cases: list[Case], tmp_path: Path) -> None:
    junk = tmp_path / "label.nii.gz"
    junk.write_bytes(b"no image at all")
    case = Case("secret", cases[0].images, junk, Role.UNLABELED)
    patches = _stream([case], with_label=False).draw(0, 3)
    assert all(patch.label is None and patch.source.label is None for patch in patches)


def test_a_labelled_and_an_unlabelled_look_at_one_case_do_not_mix(cases: list[Case]) -> None:
    cache = _cache()
    assert cache.get(cases[0], with_label=True).label is not None
    assert cache.get(cases[0], with_label=False).label is None


# -- the cache


def test_what_is_kept_is_the_same_object(cases: list[Case]) -> None:
    cache = _cache()
    first = cache.get(cases[0], with_label=True)
    assert cache.get(cases[0], with_label=True) is first


def test_memory_stays_within_its_bound(cases: list[Case]) -> None:
    size = _cache().get(cases[0], with_label=True).nbytes
    cache = _cache(2 * size + size // 2)
    for case in cases:
        cache.get(case, with_label=True)
        assert sum(kept.nbytes for kept in cache._kept.values()) <= 2 * size + size // 2
    assert [name for name, _ in cache._kept] == ["case-3", "case-4"]
    third = cache.get(cases[3], with_label=True)  # Used again, it is no longer the oldest.
    cache.get(cases[0], with_label=True)
    assert cache.get(cases[3], with_label=True) is third


def test_a_case_larger_than_the_bound_is_kept_alone(cases: list[Case]) -> None:
    cache = _cache(1)
    assert cache.get(cases[0], with_label=True) is cache.get(cases[0], with_label=True)
    cache.get(cases[1], with_label=True)
    assert len(cache._kept) == 1


# -- drawing


def _equal(first: Patch, second: Patch) -> bool:
    return (
        first.source.case.name == second.source.case.name
        and torch.equal(first.image, second.image)
        and torch.equal(first.coordinates, second.coordinates)
        and first.start == second.start
        and (first.label is None) == (second.label is None)
        and (first.label is None or torch.equal(first.label, second.label))
    )


@pytest.mark.parametrize("with_label", [True, False])
def test_an_iteration_gives_the_same_patches_whatever_was_drawn_before(cases: list[Case], with_label: bool) -> None:
    stream = _stream(cases, with_label=with_label)
    history = [stream.draw(iteration, 2) for iteration in range(6)]
    fresh = _stream(cases, with_label=with_label, cache=_cache(1)).draw(5, 2)
    assert all(_equal(one, other) for one, other in zip(history[5], fresh, strict=True))
    assert not _equal(history[5][0], history[4][0])
    other = _stream(cases, with_label=with_label, seed=2).draw(5, 2)
    assert not any(_equal(one, another) for one, another in zip(fresh, other, strict=True))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_case_comes_once_before_any_comes_again(cases: list[Case], count: int) -> None:
    stream = _stream(cases, patch=(8, 8, 8), strength=0.0)
    names = [patch.source.case.name for iteration in range(15) for patch in stream.draw(iteration, count)]
    turns = [names[n : n + 5] for n in range(0, len(names), 5)]
    assert all(len(set(turn)) == 5 for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


def test_images_and_labels_move_together(cases: list[Case]) -> None:
    for patch in _stream(cases).draw(0, 10):
        assert patch.label is not None
        assert patch.label.dtype == torch.long
        assert patch.image.shape == patch.label.shape == (1, 16, 16, 16)
        # Grey values are 100, 180, 220 and 380: brighter with the label's value, so that class 1 is the brightest.
        means = [float(patch.image[patch.label == index].mean()) for index in (0, 2, 1) if (patch.label == index).any()]
        assert means == sorted(means)
        source = patch.source.label
        assert source is not None
        expected = look_up(source, patch.coordinates, nearest=True, outside=0.0).round().long()
        assert torch.equal(patch.label, expected)


def test_an_undeformed_patch_is_a_cutting_of_its_case(cases: list[Case]) -> None:
    """What ``start`` says is where the generalists are asked: it must be where the patch is, to half a voxel."""
    for patch in _stream(cases, strength=0.0).draw(0, 12):
        first = patch.coordinates[:, 0, 0, 0]
        assert float((first - torch.tensor(patch.start)).abs().max()) <= 0.5 + 1e-4
        assert patch.coordinates.amin() >= -1e-3
        assert all(float(c.max()) <= n - 1 + 1e-3 for c, n in zip(patch.coordinates, GRID.shape, strict=True))


@pytest.mark.parametrize("patch", [(32, 32, 32), (16, 32, 24), (8, 64, 8)])
def test_a_volume_smaller_than_the_patch_lies_in_its_middle(cases: list[Case], patch: tuple[int, int, int]) -> None:
    drawn = _stream(cases, patch=patch, strength=0.0).draw(0, 4)
    for one in drawn:
        assert one.image.shape == (1, *patch)
        for axis, (n, p) in enumerate(zip(GRID.shape, patch, strict=True)):
            if p >= n:
                middle = float(one.coordinates[axis].mean())
                assert middle == pytest.approx((n - 1) / 2, abs=1e-3)
        assert one.label is not None
        outside = torch.zeros(patch, dtype=torch.bool)
        for axis, n in enumerate(GRID.shape):
            c = one.coordinates[axis]
            outside |= (c < -1) | (c > n)
        assert not one.label[0][outside].any()
        if outside.any():
            floor = one.source.image.amin()
            torch.testing.assert_close(one.image[0][outside], floor.expand(int(outside.sum())))


def test_half_of_the_labelled_patches_are_centred_on_a_structure(tmp_path: Path) -> None:
    """A structure of few voxels in a large volume is hit far more often than chance would."""
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    label = ball(grid.shape, 2, (40, 8, 30)).astype(np.uint8)
    image = np.random.default_rng(0).normal(100, 5, grid.shape).astype(np.float32)
    case = Case(
        "small",
        (write_volume(tmp_path / "i.nii.gz", image, grid),),
        write_volume(tmp_path / "l.nii.gz", label, grid),
        Role.LABELED,
    )
    cache = CaseCache(plan(), (Class("speck", (1,)),), 1 << 30, CPU)
    stream = PatchStream(
        [case],
        cache,
        SpatialAugmentation((16, 16, 16), 0.0),
        IntensityAugmentation(0.0),
        seed=0,
        with_label=True,
    )
    hits = Counter(bool(patch.label.any()) for patch in stream.draw(0, 60) if patch.label is not None)
    assert 25 <= hits[True] <= 50


def test_a_labelled_case_that_shows_nothing_is_drawn_from_all_the_same(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(100, 5, GRID.shape).astype(np.float32)
    case = Case(
        "empty",
        (write_volume(tmp_path / "i.nii.gz", image, GRID),),
        write_volume(tmp_path / "l.nii.gz", np.zeros(GRID.shape, np.uint8), GRID),
        Role.LABELED,
    )
    (patch,) = _stream([case]).draw(0, 1)
    assert patch.label is not None
    assert not patch.label.any()


@pytest.mark.parametrize("slices", [2, 3])
@pytest.mark.parametrize("thick", [1.0, 0.5])
def test_a_volume_of_few_slices_is_smoothed_as_one_of_many_that_are_alike(slices: int, thick: float) -> None:
    pattern = np.random.default_rng(0).normal(100, 20, (24, 22)).astype(np.float32)
    few, many = (
        Grid((count, 24, 22), (1.0, 1.0, thick), (5.0, -7.0, 3.0), OBLIQUE.direction).image(np.stack([pattern] * count))
        for count in (slices, 40)
    )
    coarse = Grid((1, 8, 7), (3.0, 3.0, 3.0), (6.0, -6.0, 3.0), OBLIQUE.direction)
    coarse = replace(coarse, origin=few.TransformContinuousIndexToPhysicalPoint((1.0, 1.0, (slices - 1) / 2)))
    expected = replace(coarse, origin=many.TransformContinuousIndexToPhysicalPoint((1.0, 1.0, 19.5)))
    found, right = (sitk.GetArrayFromImage(resample(*pair)) for pair in ((few, coarse), (many, expected)))
    assert right.std() > 1
    np.testing.assert_allclose(found, right, atol=0.05)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_is_smoothed_along_axes_that_lose_resolution_and_no_others(axis: int) -> None:
    """Seen as Gaussians as wide at half of their height, voxels three times as wide leave so much of a wave of six."""
    spacing = [2.1, 2.1, 2.1]
    spacing[axis] = 0.7
    shape = [20, 20, 20]
    shape[axis] = 60
    where = np.indices(shape)
    wave = 100 + 20 * np.sin(2 * np.pi * (where[axis] + 0.5) / 6)
    stripes = 50.0 * (where[axis - 1] % 2)  # As narrow as the voxels are to be.
    grid = Grid(tuple(shape), tuple(spacing[::-1]), (0.0, 0.0, 0.0))
    coarse = Grid((20, 20, 20), (2.1, 2.1, 2.1), (0.0, 0.0, 0.0))
    kept = exp(-2 * (np.pi / 6) ** 2 * (3**2 - 1**2) / (8 * log(2)))
    every_third = tuple(slice(None, None, 3 if one == axis else 1) for one in range(3))
    expected = (100 + kept * (wave - 100) + stripes)[every_third]
    image = grid.image((wave + stripes).astype(np.float32))
    inside = tuple(slice(4, -4) if one == axis else slice(None) for one in range(3))
    np.testing.assert_allclose(sitk.GetArrayFromImage(resample(image, coarse))[inside], expected[inside], atol=0.5)
    nearest = sitk.GetArrayFromImage(resample(image, coarse, interpolator=sitk.sitkNearestNeighbor))
    np.testing.assert_allclose(nearest, (wave + stripes)[every_third], rtol=1e-6)  # As labels are read.
