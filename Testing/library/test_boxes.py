"""The box of a mask, against what every true voxel's own index says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SemiSAMPlusLib.cohort.boxes import bounding_box, centroid, extent


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_the_extent_is_that_of_the_true_voxels(kind) -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 5):
        mask = np.zeros((7, 9, 11), dtype=bool)
        voxels = random.integers(0, mask.shape, (count, 3))
        mask[tuple(voxels.T)] = True
        np.testing.assert_array_equal(extent(kind(mask)), [voxels.min(axis=0), voxels.max(axis=0)])
        box = bounding_box(kind(mask))
        assert box is not None
        assert mask[box].sum() == mask.sum()
        assert [part.stop - part.start for part in box] == (np.ptp(voxels, axis=0) + 1).tolist()


def test_a_margin_is_what_there_is_room_for() -> None:
    mask = np.zeros((7, 9, 11), dtype=bool)
    mask[1, 4, 9] = True
    assert bounding_box(mask, (2, 3, 1)) == (slice(0, 4), slice(1, 8), slice(8, 11))


def test_of_nothing_there_is_no_box() -> None:
    empty = np.zeros((3, 4, 5), dtype=bool)
    assert extent(empty) is None
    assert bounding_box(empty, (1, 1, 1)) is None


def test_the_centroid_is_the_mean_index() -> None:
    mask = np.zeros((7, 9, 11), dtype=bool)
    mask[1:3, 4, 5:9] = True
    mask[5, 0, 0] = True
    np.testing.assert_allclose(centroid(mask), np.argwhere(mask).mean(axis=0))
    one = np.zeros((7, 9, 11), dtype=bool)
    one[3, 6, 10] = True
    np.testing.assert_array_equal(centroid(one), [3, 6, 10])
    np.testing.assert_array_equal(centroid(np.zeros((2, 2, 2), dtype=bool)), 0)
