"""The random walker finds a structure from points or a mask, and says nothing where nothing is known."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from skimage.segmentation import random_walker
from tiny import ball

from SemiSAMPlusLib.cohort.volume import Grid, Volume, resample
from SemiSAMPlusLib.generalist.generalist import Generalist, PromptSet
from SemiSAMPlusLib.generalist.random_walker import RandomWalker, _first_arrival

TURNED = tuple(sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.3, -0.4, 1.1).GetMatrix())
GRID = Grid((24, 28, 32), (1.5, 1.5, 1.5), (-31.0, 12.5, 77.0), TURNED)
CENTRE, RADIUS = (11.0, 13.0, 17.0), 7.0
TRUTH = ball(GRID.shape, RADIUS, CENTRE)
NO_POINTS = (np.zeros((0, 3)), np.zeros(0, dtype=int))


def _volume(grid: Grid = GRID, truth: np.ndarray = TRUTH, contrast: float = 2.0, channels: int = 1) -> Volume:
    random = np.random.default_rng(0)
    array = contrast * truth[None] + random.normal(0, 0.1, (channels, *grid.shape))
    return Volume(array.astype(np.float32), grid)


def _points(grid: Grid = GRID) -> tuple[np.ndarray, np.ndarray]:
    """Return points in the middle of the ball and in a ring around it."""
    inside = [CENTRE, *(np.add(CENTRE, step) for step in ((3, 0, 0), (-3, 0, 0), (0, 3, 0), (0, 0, -3)))]
    around = [(2, 2, 2), (21, 25, 29), (11, 2, 17), (11, 25, 17), (11, 13, 4), (11, 13, 29), (1, 13, 17), (22, 13, 17)]
    points = grid.to_physical(np.array([*inside, *around], dtype=float))
    return points, np.repeat([1, 0], [len(inside), len(around)])


def _mask(shift: float = 0.0) -> np.ndarray:
    """Return the logits of a ball that lies beside the true one."""
    wrong = ball(GRID.shape, RADIUS - 1, np.add(CENTRE, (1, -1, 1)))
    return np.where(wrong, 3.0, -3.0).astype(np.float32) + np.float32(shift)


def _answer(prompts: PromptSet, volume: Volume | None = None, region: Grid = GRID) -> np.ndarray:
    walker = RandomWalker()
    answer = walker.answer(walker.embed(volume or _volume()), [prompts], region)
    assert answer.dtype == torch.float32
    assert answer.shape == (1, *region.shape)
    return answer[0].numpy()


def _dice(answer: np.ndarray, truth: np.ndarray = TRUTH) -> float:
    found = np.nan_to_num(answer) > 0.5
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_it_is_a_generalist() -> None:
    assert isinstance(RandomWalker(), Generalist)


def test_from_points_alone() -> None:
    answer = _answer(PromptSet(*_points()))
    assert _dice(answer) > 0.85
    known = answer[np.isfinite(answer)]
    assert known.min() >= 0
    assert known.max() <= 1


def test_from_a_mask_alone_it_follows_the_edge_and_not_the_mask() -> None:
    mask = _mask()
    answer = _answer(PromptSet(*NO_POINTS, mask=mask, mask_grid=GRID))
    assert _dice(answer) > max(0.85, _dice((mask > 0).astype(float)) + 0.02)


def test_from_a_mask_on_a_grid_of_its_own() -> None:
    """Half the resolution, other orientation of axes, only part of the volume."""
    patch = Grid((14, 15, 16), (2.0, 2.0, 2.0), tuple(GRID.to_physical(np.array([[1.0, 2, 4]]))[0]), TURNED)
    mask = sitk.GetArrayFromImage(resample(GRID.image(_mask()), patch, outside=-3.0))
    assert _dice(_answer(PromptSet(*NO_POINTS, mask=mask, mask_grid=patch))) > 0.8


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_where_the_image_shows_nothing_it_has_no_opinion(value: float) -> None:
    """Nor does it look for one for minutes, as an even image leaves its equations without a solution."""
    begun = time.monotonic()
    assert np.isnan(_answer(PromptSet(*_points()), Volume(np.full((1, *GRID.shape), value, np.float32), GRID))).all()
    half = _volume()
    half.array[:, :, :14] = value  # Masked away, as around a stripped skull; and there the prompts lie.
    points = GRID.to_physical(np.array([[11.0, 5, 16], [4, 3, 8], [18, 3, 24], [11, 10, 16]]))
    _answer(PromptSet(points, np.array([1, 0, 0, 0])), half)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "prompts",
    [
        PromptSet(*NO_POINTS),
        PromptSet(_points()[0][-2:], np.array([0, 0])),
        PromptSet(np.array([[1e4, 1e4, 1e4]]), np.array([1])),
        PromptSet(*NO_POINTS, mask=np.full(GRID.shape, -5, np.float32), mask_grid=GRID),
        PromptSet(*NO_POINTS, mask=np.full(GRID.shape, 5, np.float32), mask_grid=GRID),
        PromptSet(np.repeat(_points()[0][:1], 2, axis=0), np.array([1, 0])),
    ],
    ids=["nothing", "only negative", "beyond the volume", "empty mask", "full mask", "contradicting"],
)
def test_without_seeds_of_both_kinds_it_has_no_opinion(prompts: PromptSet) -> None:
    assert np.isnan(_answer(prompts)).all()


def test_one_positive_point_has_all_that_is_far_as_background() -> None:
    long = Grid((12, 12, 64), (1.5, 1.5, 1.5), (0.0, 0.0, 0.0))
    truth = ball(long.shape, 4, (6, 6, 10))
    answer = _answer(
        PromptSet(long.to_physical(np.array([[6.0, 6, 10]])), np.array([1])), _volume(long, truth), region=long
    )
    assert _dice(answer, truth) > 0.8


def test_beyond_the_volume_it_has_no_opinion() -> None:
    region = GRID.cropped((-6, 4, 20), (20, 20, 24))
    answer = _answer(PromptSet(*_points()), region=region)
    whole = _answer(PromptSet(*_points()))
    assert np.isnan(answer[:5]).all()
    assert np.isnan(answer[..., 13:]).all()
    np.testing.assert_allclose(answer[6:, :, :12], whole[:14, 4:24, 20:], atol=1e-4)
    far = Grid((4, 4, 4), (1.0, 1.0, 1.0), (1e4, 0.0, 0.0))
    assert np.isnan(_answer(PromptSet(*_points()), region=far)).all()


def test_the_answer_lies_where_the_structure_does_whatever_grid_it_is_asked_on() -> None:
    """The volume is large enough to be averaged down; the region is finer, turned otherwise, and not aligned."""
    fine = Grid((60, 64, 68), (0.7, 0.7, 0.7), (5.0, -8.0, 30.0), TURNED)
    middle = fine.to_physical(np.array([[27.0, 35.0, 31.0]]))[0]

    def inside(grid: Grid) -> np.ndarray:
        points = grid.to_physical(np.argwhere(np.ones(grid.shape)))
        return (np.linalg.norm(points - middle, axis=1) < 11).reshape(grid.shape)

    points = np.concatenate([middle[None], middle + 17 * np.concatenate([np.eye(3), -np.eye(3)])])
    prompts = PromptSet(points, np.repeat([1, 0], [1, 6]))
    other = tuple(sitk.Euler3DTransform((0.0, 0.0, 0.0), -0.2, 0.5, 0.1).GetMatrix())
    regions = [fine, Grid((30, 30, 30), (1.0, 1.0, 1.0), tuple(middle - 12), other)]
    for region in regions:
        truth = inside(region)
        answer = _answer(prompts, _volume(fine, inside(fine)), region)
        known = np.isfinite(answer)
        found, truth = (answer > 0.5) & known, truth & known
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
        drift = region.to_physical(np.argwhere(found).mean(axis=0)[None]) - region.to_physical(
            np.argwhere(truth).mean(axis=0)[None]
        )
        assert np.abs(drift).max() < 0.6  # mm, where the walker's own voxels are about 1.4


def test_several_channels_say_more_than_one() -> None:
    """The structure shows in the second channel alone; the first brightens from one side to the other."""
    blind = np.broadcast_to(np.linspace(0, 1, GRID.shape[1])[:, None], GRID.shape)
    both = Volume(np.stack([blind, _volume().array[0]]).astype(np.float32), GRID)
    alone = Volume(blind[None].astype(np.float32), GRID)
    prompts = PromptSet(*_points())
    with_both, with_one = _dice(_answer(prompts, both)), _dice(_answer(prompts, alone))
    assert with_both > 0.85
    assert with_both > with_one + 0.05


@pytest.mark.parametrize("shape", [(9, 11, 12), (1, 11, 12), (9, 1, 12), (9, 11, 1)])
@pytest.mark.parametrize("channels", [1, 2])
def test_walkers_arrive_as_scikit_images_do(shape: tuple[int, int, int], channels: int) -> None:
    random = np.random.default_rng(1)
    image = random.normal(0, 0.1, (*shape, channels)).astype(np.float32)
    # Seeds at corners too, where voxels have no neighbours on one side.
    labels = random.choice([0, 1, 2], p=[0.8, 0.1, 0.1], size=shape)
    labels[0, 0, 0], labels[-1, -1, -1] = 1, 2
    expected = random_walker(image, labels, beta=30.0, mode="bf", return_full_prob=True, channel_axis=-1)[0]
    assert expected.std() > 0.1
    assert _first_arrival(image, labels, 30.0) == pytest.approx(expected, abs=5e-3)


def test_k_sets_are_answered_each_by_itself_in_order() -> None:
    walker = RandomWalker()
    ground = walker.embed(_volume())
    sets = [
        PromptSet(*_points()),
        PromptSet(*NO_POINTS),
        PromptSet(*NO_POINTS, mask=_mask(), mask_grid=GRID),
    ]
    together = walker.answer(ground, sets, GRID)
    assert together.shape == (3, *GRID.shape)
    for one, answer in zip(sets, together, strict=True):
        torch.testing.assert_close(walker.answer(ground, [one], GRID)[0], answer, equal_nan=True)
    assert torch.isnan(together[1]).all()


def test_the_same_question_gives_the_same_answer() -> None:
    """Of masks too, whose seeds must not be read from memory that was given back."""
    prompts = PromptSet(*_points(), mask=_mask(), mask_grid=GRID)
    first = _answer(prompts)
    for _ in range(3):
        _ = [np.full(GRID.shape, 9.0, np.float32) for _ in range(20)]
        np.testing.assert_array_equal(_answer(prompts), first)


@pytest.mark.parametrize("shape", [(7, 200, 200), (51, 77, 75), (1, 300, 300)])
def test_each_voxel_of_a_volume_is_answered_whose_sides_blocks_do_not_divide(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape, (1.0, 1.2, 0.8), (5.0, -3.0, 2.0), TURNED)
    truth = np.zeros(shape, dtype=bool)
    truth[:, shape[1] // 2 :, shape[2] // 2 :] = True  # It goes on to the volume's end.
    deep = np.array([[shape[0] // 2, shape[1] - 3, shape[2] - 3]])
    far = np.array([[shape[0] // 2, 2, 2]])
    points = grid.to_physical(np.concatenate([deep, far]).astype(float))
    mask = np.where(truth, 3.0, -3.0).astype(np.float32)
    answer = _answer(PromptSet(points, np.array([1, 0]), mask, grid), _volume(grid, truth), grid)
    assert np.isfinite(answer).all()
    assert _dice(answer, truth) > 0.95


@pytest.mark.parametrize("shape", [(1, 220, 220), (2, 300, 300), (300, 3, 300)])
def test_a_thin_slab_is_walked_too(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    walker = RandomWalker()
    ground = walker.embed(Volume(np.random.default_rng(0).random((1, *shape), dtype=np.float32), grid))
    assert min(ground.grid.shape) >= 1
    middle = grid.to_physical(np.array([[n // 2 for n in shape]]))
    answer = walker.answer(ground, [PromptSet(middle, np.array([1]))], replace(grid, shape=shape))
    assert torch.isfinite(answer).any()
