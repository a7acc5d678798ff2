"""Answers that are made as large as predictions, without a case being told what size it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SemiSAMPlusLib.collaboration.answer import Answer, agreement
from SemiSAMPlusLib.collaboration.sizes import further_shifted, shift_to_size, shifted

SHAPE = (24, 24, 24)


def _soft(radius: float, width: float = 1.0) -> torch.Tensor:
    """Return probabilities (2, *SHAPE) of a ball whose edge is blurred; 1/2 at the radius."""
    distance = torch.from_numpy(np.linalg.norm(np.indices(SHAPE).T - np.array((12, 11, 13)), axis=-1).T)
    inside = torch.sigmoid((radius - distance) / width).float()
    return torch.stack([1 - inside, inside])


def _needed(answer: torch.Tensor, belief: torch.Tensor) -> list[float | None]:
    whole = Answer(answer, torch.ones(SHAPE), tuple(range(1, len(belief))))
    return shift_to_size(answer, belief, agreement(whole, belief))


def _shifts(answers: list[torch.Tensor], beliefs: list[torch.Tensor], before: list[float]) -> list[float]:
    """Return the shifts of answers to several cases that were shifted before."""
    return further_shifted(before, [_needed(a, b) for a, b in zip(answers, beliefs, strict=True)])


def _size(probabilities: torch.Tensor) -> int:
    return int((probabilities[1] > 0.5).sum())


def test_answers_are_as_large_as_predictions_in_the_median() -> None:
    answers = [_soft(6.5), _soft(7.5), _soft(6.2)]
    beliefs = [_soft(6), _soft(6), _soft(6)]
    shifts = _shifts(answers, beliefs, [0.0])
    assert shifts == [pytest.approx(-0.5, abs=0.1)]
    sizes = [_size(shifted(answer, shifts)) for answer in answers]
    assert sizes[0] == pytest.approx(_size(beliefs[0]), rel=0.06)  # Whole shells of voxels lie as far out.
    assert sizes[2] < sizes[0] < sizes[1]  # Scan by scan they differ as before.
    again = _shifts([shifted(answer, shifts) for answer in answers], beliefs, shifts)
    assert again == pytest.approx(shifts, abs=1e-3)


def test_no_answer_is_shifted_by_more_than_twice_or_half_would_be() -> None:
    for _ in range(3):
        shifts = _shifts([_soft(8)], [_soft(6)], [-0.9])
        assert shifts == [-1.0]


@pytest.mark.parametrize("answer", [_soft(3), 1 - _soft(6), torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])])
def test_who_did_not_answer_tells_nothing_of_sizes(answer: torch.Tensor) -> None:
    assert _needed(answer, _soft(6)) == [None]
    assert _shifts([answer], [_soft(6)], [0.25]) == [0.25]
    assert _shifts([answer, _soft(6.5)], [_soft(6), _soft(6)], [0.0]) == [pytest.approx(-0.5, abs=0.1)]
    assert _shifts([], [], [0.25]) == [0.25]


def test_structures_are_sized_each_for_itself() -> None:
    large, right = _soft(6.5)[1].clone(), _soft(6)[1].clone()
    large[:, :, 13:], right[:, :, :13] = 0, 0
    wanted = _soft(6)[1]
    belief = torch.stack([1 - wanted, wanted * (large > 0), wanted * (right > 0)])
    answer = torch.stack([1 - large - right, large, right])
    assert _needed(answer, belief) == [pytest.approx(-0.5, abs=0.1), pytest.approx(0, abs=0.1)]


def test_what_only_one_of_both_sees_has_no_size_to_be_brought_to() -> None:
    left, right = _soft(6)[1].clone(), _soft(6)[1].clone()
    left[:, :, 13:], right[:, :, :13] = 0, 0
    both = torch.stack([1 - left - right, left, right])
    one = torch.stack([1 - left, left, torch.zeros(SHAPE)])
    assert _needed(both, one) == [pytest.approx(0, abs=0.1), None]
    assert _needed(one, both) == [pytest.approx(0, abs=0.1), None]


def test_an_answer_without_any_doubt_is_shifted_no_further_than_others() -> None:
    certain = (_soft(6.5) > 0.5).float()
    assert _shifts([certain], [_soft(6)], [0.0]) == [-1.0]


def test_structures_are_shifted_each_for_itself() -> None:
    given = torch.tensor([0.5, 0.3, 0.2]).view(3, 1, 1, 1)
    for shifts in ([-0.7, 0.0], [0.0, 0.4]):
        result = shifted(given, shifts)
        assert (result[1:] / result[0]).log().flatten().tolist() == pytest.approx(
            ((given[1:] / given[0]).log().flatten() + torch.tensor(shifts)).tolist(), abs=1e-5
        )


def test_shifted_probabilities_are_probabilities_and_no_opinion_stays_none() -> None:
    given = _soft(6)
    given[:, 0, 0, 0] = torch.nan
    result = shifted(given, [-0.7])
    torch.testing.assert_close(result.sum(dim=0), given.sum(dim=0), equal_nan=True)
    torch.testing.assert_close(
        torch.logit(result[1]), torch.logit(given[1]) - 0.7, equal_nan=True, atol=1e-3, rtol=1e-3
    )
    assert shifted(given, [0.0]) is given
