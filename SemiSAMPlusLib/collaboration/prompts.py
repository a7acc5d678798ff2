"""Prompts from the specialist's output: confident points in and around the structure, the box, and the mask as logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..cohort.boxes import extent
from ..cohort.distances import depth_inside, distance_outside
from ..cohort.volume import Grid, triple
from ..generalist.generalist import PromptSet

#: A voxel is confidently foreground above this probability, and confidently background below one minus it.
_CONFIDENT = 0.8
#: Points keep away from the predicted edge, where the specialist is wrong if it is wrong: positive ones lie deeper
#: inside than this share of the structure's greatest depth, negative ones between these multiples of it outside.
_DEEP, _NEAR = 0.6, (0.6, 2.5)
#: Prompt sets ask with masks that are grown or shrunk by up to so much, in logits.
_MASK_SHIFT = 1.0
#: From so many confident voxels on, points are placed on every second voxel.
_MANY = 2000
#: Points are spread over at most so many candidates, drawn at random, which bounds the time.
_CANDIDATES = 512


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are made.

    Attributes:
        sets: K, the number of prompt sets for each structure.
        positive: Positive points in each set.
        negative: Negative points in each set.
    """

    sets: int = 2
    positive: int = 10
    negative: int = 30


def make_prompts(
    probability: np.ndarray, grid: Grid, settings: PromptSettings, random: np.random.Generator
) -> list[PromptSet]:
    """Make K prompt sets for one structure, which differ in their points and in how generous their mask is.

    A structure that the specialist does not see anywhere with confidence gets no prompts at all, because a
    generalist that is asked for nothing can only invent.

    Args:
        probability: (z, y, x) the specialist's probability of the structure.
        grid: Where its voxels lie.
        settings: How many.
        random: Where chance comes from.

    Returns:
        K prompt sets, or none.
    """
    if not (probability > _CONFIDENT).any():
        return []
    full, full_grid = probability, grid
    # Points need no finer grid than this to be well placed, and distances on it cost an eighth.
    halved = probability[::2, ::2, ::2]
    # A sheet one voxel thick may lie between every second voxel.
    if np.count_nonzero(probability > _CONFIDENT) > _MANY and (halved > _CONFIDENT).any():
        probability, grid = halved, _every_second(grid)
    mask = probability >= 0.5
    confident = probability > _CONFIDENT
    spacing = grid.spacing[::-1]
    depth = depth_inside(mask, spacing) if not mask.all() else np.ones(mask.shape)
    greatest = float(depth[confident].max())
    distance = distance_outside(mask, spacing, _NEAR[1] * greatest)
    inside = np.argwhere(confident & (depth >= _DEEP * greatest))
    near = (distance >= _NEAR[0] * greatest) & (distance <= _NEAR[1] * greatest)
    outside = np.argwhere((probability < 1 - _CONFIDENT) & near)
    limited = np.clip(full, 1e-4, 1 - 1e-4)
    logits = np.log(limited / (1 - limited))
    ends = extent(full >= 0.5)
    assert ends is not None
    box = full_grid.to_physical(ends)
    sets = []
    for shift in _shifts(settings.sets):
        positive = _spread(inside, settings.positive, spacing, random)
        negative = _spread(outside, settings.negative, spacing, random)
        sets.append(
            PromptSet(
                points=grid.to_physical(np.concatenate([positive, negative])),
                labels=np.repeat([1, 0], [len(positive), len(negative)]),
                mask=(logits + shift).astype(np.float32),
                mask_grid=full_grid,
                box=box,
            )
        )
    return sets


def _every_second(grid: Grid) -> Grid:
    """Return the grid of every second voxel along each axis."""
    shape = triple(((n + 1) // 2 for n in grid.shape), int)
    return Grid(shape, triple((2 * s for s in grid.spacing), float), grid.origin, grid.direction)


def _shifts(count: int) -> np.ndarray:
    """Return how far each set's mask is grown (in logits), evenly from shrunk to grown; one set takes it as it is."""
    return np.linspace(-_MASK_SHIFT, _MASK_SHIFT, count) if count > 1 else np.zeros(1)


def _spread(candidates: np.ndarray, count: int, spacing: tuple[float, ...], random: np.random.Generator) -> np.ndarray:
    """Return up to ``count`` of ``candidates`` (N, 3), each as far as can be from those before (farthest-point sampling)."""
    if count == 0 or not len(candidates):
        return np.zeros((0, 3))
    drawn = random.permutation(len(candidates))[:_CANDIDATES]
    points = candidates[np.sort(drawn)]
    places = points * np.asarray(spacing)
    chosen = [int(random.integers(len(points)))]
    distance = np.linalg.norm(places - places[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return points[chosen].astype(float)
