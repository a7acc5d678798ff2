"""Distances near a structure are those of the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from tiny import ball

from SemiSAMPlusLib.cohort.distances import depth_inside, distance_outside

SHAPE, SPACING = (20, 24, 28), (2.5, 1.25, 0.8)


def _two_blobs() -> np.ndarray:
    return ball(SHAPE, 3, (4, 6, 5)) | ball(SHAPE, 5, (12, 15, 20))


def _at_the_border() -> np.ndarray:
    structure = np.zeros(SHAPE, dtype=bool)
    structure[:6, 10:, 3:9] = True
    return structure


def _one_voxel() -> np.ndarray:
    structure = np.zeros(SHAPE, dtype=bool)
    structure[19, 0, 13] = True
    return structure


def _all_but_one() -> np.ndarray:
    return ~_one_voxel()


SHAPES = [_two_blobs, _at_the_border, _one_voxel, _all_but_one]


@pytest.mark.parametrize("make", SHAPES)
def test_depth_is_that_in_the_whole_volume(make) -> None:
    structure = make()
    expected = distance_transform_edt(structure, sampling=SPACING)
    np.testing.assert_allclose(depth_inside(structure, SPACING), expected)


@pytest.mark.parametrize("make", SHAPES)
@pytest.mark.parametrize("reach", [0.0, 2.5, 6.1, 1000.0])
def test_distance_is_right_as_far_as_is_asked_and_greater_beyond(make, reach: float) -> None:
    structure = make()
    expected = distance_transform_edt(~structure, sampling=SPACING)
    found = distance_outside(structure, SPACING, reach)
    near = expected <= reach
    np.testing.assert_allclose(found[near], expected[near])
    assert (found[~near] > reach).all()
