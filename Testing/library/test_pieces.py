"""Which piece is kept of a structure that is one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import ball

from SemiSAMPlusLib.specialist.pieces import in_voxels, keep_expected_pieces, keep_largest_pieces, to_classes

SHAPE = (24, 24, 60)


def _pieces(first: float, second: float) -> torch.Tensor:
    """Return two balls of class 1, in the left and the right third."""
    return torch.from_numpy(ball(SHAPE, first, (12, 12, 12)) | ball(SHAPE, second, (12, 12, 46))).to(torch.uint8)


LEFT, RIGHT = np.array([12.0, 12.0, 12.0]), np.array([12.0, 12.0, 46.0])


@pytest.mark.parametrize(
    ("first", "second", "expected", "kept"),
    [
        (7, 3, LEFT, "left"),
        (7, 3, RIGHT, "left"),  # An island is one wherever it lies.
        (7, 6, LEFT, "left"),
        (7, 6, RIGHT, "right"),
        (6, 7, np.array([12.0, 12.0, -50.0]), "left"),  # Outside of a patch, on that side.
    ],
)
def test_the_largest_is_kept_or_a_rival_that_lies_where_it_is_expected(
    first: float, second: float, expected: np.ndarray, kept: str
) -> None:
    classes = _pieces(first, second)
    result = keep_expected_pieces(classes, [expected])
    one = classes.clone()
    one[..., slice(30, None) if kept == "left" else slice(0, 30)] = 0
    assert torch.equal(result, one)


def test_distances_are_measured_in_the_body() -> None:
    """In thick slices a few voxels are far: so is what lies two slices off, and near what lies four voxels off."""
    classes = torch.zeros(9, 9, 9, dtype=torch.uint8)
    classes[6, 4, 4], classes[4, 4, 8] = 1, 1
    middle = np.array([4.0, 4.0, 4.0])
    assert keep_expected_pieces(classes, [middle])[6, 4, 4] == 1
    assert keep_expected_pieces(classes, [middle], (5.0, 1.0, 1.0))[4, 4, 8] == 1
    assert keep_expected_pieces(classes, [middle], (5.0, 1.0, 1.0)).sum() == 1


def test_pieces_are_told_apart_class_by_class_and_the_input_stays() -> None:
    classes = torch.zeros(30, 30, 30, dtype=torch.uint8)
    classes[4:9, 4:9, 4:9] = 1
    classes[12:14, 5, 5] = 1
    classes[20:22, 20, 20] = 2
    classes[24, 20, 20] = 2
    given = classes.clone()
    for kept in (keep_largest_pieces(classes, (True, False)), keep_expected_pieces(classes, [np.zeros(3), None])):
        assert torch.equal(classes, given)
        assert kept[4:9, 4:9, 4:9].all()
        assert not kept[12:14].any()
        assert kept.sum() == 125 + 2 * 3
    for kept in (keep_largest_pieces(classes, (False, False)), keep_expected_pieces(classes, [None, None])):
        assert torch.equal(kept, classes)
    nothing = torch.zeros_like(classes)
    assert not keep_largest_pieces(nothing, (True, False)).any()
    assert not keep_expected_pieces(nothing, [np.zeros(3), None]).any()


def test_voxels_that_touch_at_a_corner_are_one_piece() -> None:
    classes = torch.zeros(6, 6, 6, dtype=torch.uint8)
    classes[1, 1, 1] = classes[2, 2, 2] = 1
    assert keep_expected_pieces(classes, [np.zeros(3)]).sum() == 2


def test_a_whole_case_is_decided_by_the_plans_shares() -> None:
    structure = _pieces(7, 6).float()
    probabilities = torch.stack([1 - structure, structure])
    assert to_classes(probabilities, [(0.5, 0.5, 0.2)])[12, 12, 12] == 1
    assert to_classes(probabilities, [(0.5, 0.5, 0.8)])[12, 12, 12] == 0
    assert torch.equal(to_classes(probabilities, [None]), structure.to(torch.uint8))


def test_shares_are_of_the_extent_not_of_the_centres_of_voxels() -> None:
    middle, nothing, corner = in_voxels([(0.5, 0.5, 0.5), None, (0.0, 1.0, 0.0)], (10, 20, 31))
    assert nothing is None
    assert middle is not None
    assert corner is not None
    assert middle.tolist() == [4.5, 9.5, 15.0]
    assert corner.tolist() == [-0.5, 19.5, -0.5]
