"""Points, masks and boxes that are made of what a specialist says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import OBLIQUE, ball

from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.collaboration.prompts import PromptSettings, make_prompts

SHAPE = (24, 24, 24)
GRID = Grid(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
K = 3
PROMPTS = PromptSettings(sets=K, positive=5, negative=8)


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _probability(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 0.95, 0.02).astype(np.float32)


@pytest.mark.parametrize("grid", [GRID, replace(OBLIQUE, shape=SHAPE)], ids=["straight", "turned and anisotropic"])
@pytest.mark.parametrize("radius", [5.0, 10.0])
def test_points_lie_where_they_say_in_the_body(grid: Grid, radius: float) -> None:
    mask = ball(SHAPE, radius, (11, 13, 10))
    sets = make_prompts(_probability(mask), grid, PROMPTS, _random())
    assert len(sets) == K
    for one in sets:
        assert one.points.shape == (13, 3)
        assert (one.labels == 1).sum() == 5
        indices = np.round(grid.to_index(one.points)).astype(int)
        assert ((indices >= 0) & (indices < SHAPE)).all()
        np.testing.assert_allclose(grid.to_index(one.points), indices, atol=1e-6)  # On voxels' middles.
        np.testing.assert_array_equal(mask[tuple(indices.T)], one.labels == 1)
        assert len(np.unique(indices, axis=0)) == len(indices)
        assert one.mask_grid == grid
        assert one.mask is not None
        assert one.mask.shape == SHAPE
        assert one.box is not None
        low, high = np.sort(grid.to_index(one.box), axis=0)
        corners = np.argwhere(mask)
        np.testing.assert_allclose(low, corners.min(axis=0), atol=1e-6)
        np.testing.assert_allclose(high, corners.max(axis=0), atol=1e-6)
    assert any(not np.array_equal(sets[0].points, one.points) for one in sets[1:])
    assert any(not np.array_equal(sets[0].mask, one.mask) for one in sets[1:])  # type: ignore[arg-type]


def test_points_are_spread_over_the_structure() -> None:
    mask = np.zeros((12, 12, 60), dtype=bool)
    mask[2:10, 2:10, 2:58] = True
    grid = Grid(mask.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    (one,) = make_prompts(_probability(mask), grid, PromptSettings(1, 6, 0), _random())
    assert np.ptp(one.points[:, 0]) > 30
    assert len(one.points) == 6


@pytest.mark.parametrize("radius", [8.0, 16.0])
def test_points_keep_away_from_the_edge_and_from_what_is_unsure(radius: float) -> None:
    """In mm: as the voxels are twice as wide as they are high, counting them would put points into a flat disc."""
    grid = Grid((64, 64, 32), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    middle = np.array([32.0, 32.0, 32.0])
    out = np.linalg.norm(grid.to_physical(np.argwhere(np.ones(grid.shape))) - middle, axis=1).reshape(grid.shape)
    probability = _probability(out <= radius)
    probability[32:][out[32:] > radius] = 0.4
    probability[:, :32][out[:, :32] <= radius] = 0.6
    (one,) = make_prompts(probability, grid, PromptSettings(1, 10, 30), _random())
    positive, negative = (np.linalg.norm(one.points[one.labels == label] - middle, axis=1) for label in (1, 0))
    assert len(positive) == 10
    assert len(negative) == 30
    assert (positive <= 0.4 * radius + 2).all()
    assert (negative >= 1.6 * radius - 2).all()
    assert (negative <= 3.5 * radius + 2).all()
    assert (one.points[one.labels == 0][:, 2] < 32).all()
    assert (one.points[one.labels == 1][:, 1] >= 32).all()


def test_masks_go_from_shrunk_to_grown_and_a_single_one_is_what_the_specialist_says() -> None:
    probability = _probability(ball(SHAPE, 6))
    said = np.log(probability / (1 - probability))
    (alone,) = make_prompts(probability, GRID, PromptSettings(1, 5, 8), _random())
    np.testing.assert_allclose(alone.mask, said, rtol=1e-5)
    shifts = [float(np.mean(one.mask - said)) for one in make_prompts(probability, GRID, PROMPTS, _random())]
    assert shifts == pytest.approx([-1, 0, 1], abs=1e-5)


def test_where_nothing_is_seen_nothing_is_asked() -> None:
    assert make_prompts(np.full(SHAPE, 0.02, np.float32), GRID, PROMPTS, _random()) == []
    assert (
        make_prompts(np.full(SHAPE, 0.6, np.float32), GRID, PROMPTS, _random()) == []
    )  # Seen, but without confidence.


def test_where_everything_is_seen_there_is_nothing_around_it() -> None:
    sets = make_prompts(np.full(SHAPE, 0.99, np.float32), GRID, PROMPTS, _random())
    assert len(sets) == K
    for one in sets:
        assert (one.labels == 1).all()
        assert np.isfinite(one.points).all()
        assert np.isfinite(one.mask).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [(0, 0, 0), (12, 12, 12), (23, 0, 23)])
def test_one_voxel_is_a_structure_too(place: tuple[int, int, int]) -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[place] = True
    for one in make_prompts(_probability(mask), GRID, PROMPTS, _random()):
        np.testing.assert_array_equal(GRID.to_index(one.points[one.labels == 1]), [place])
        assert (one.labels == 0).any()


@pytest.mark.parametrize("depth", [11, 12])
def test_a_sheet_of_one_voxel_is_found_wherever_it_lies(depth: int) -> None:
    mask = np.zeros((24, 64, 64), dtype=bool)
    mask[depth] = True
    grid = Grid(mask.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    for one in make_prompts(_probability(mask), grid, PROMPTS, _random()):
        assert (np.round(grid.to_index(one.points[one.labels == 1]))[:, 0] == depth).all()


def test_certainty_itself_makes_finite_logits() -> None:
    mask = ball(SHAPE, 6)
    for one in make_prompts(mask.astype(np.float32), GRID, PROMPTS, _random()):
        assert np.isfinite(one.mask).all()  # type: ignore[arg-type]
        assert ((one.mask > 0) == mask).all()  # type: ignore[operator]


def test_the_same_chance_makes_the_same_prompts() -> None:
    probability = _probability(ball(SHAPE, 6))
    one, same, other = (make_prompts(probability, GRID, PROMPTS, _random(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a.points, b.points) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a.points, b.points) for a, b in zip(one, other, strict=True))
