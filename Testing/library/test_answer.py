"""What a generalist says of several structures becomes one answer; those of which it says nothing leave the others alone."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch
from tiny import ball

from SemiSAMPlusLib.collaboration.answer import Answer, agreement, answer_together, compete, is_an_answer

SHAPE = (16, 16, 32)
LEFT, RIGHT = (torch.from_numpy(ball(SHAPE, 5, (8, 8, x))) for x in (8, 24))


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_competing_structures_and_background_sum_to_1(classes: int) -> None:
    answers = torch.from_numpy(np.random.default_rng(0).random((classes, 5, 5, 5), dtype=np.float32))
    answers[:, 0] = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0])
    competed = compete(answers)
    assert competed.shape == (classes + 1, 5, 5, 5)
    torch.testing.assert_close(competed.sum(dim=0), torch.ones(5, 5, 5))
    assert (competed >= 0).all()
    if classes == 1:
        torch.testing.assert_close(competed[1], answers[0].clamp(1e-4, 1 - 1e-4))
    else:
        assert torch.equal(competed[1:].argmax(dim=0)[1:], answers.argmax(dim=0)[1:])


def test_a_structure_without_opinion_claims_nothing_and_leaves_the_others_alone() -> None:
    answers = torch.rand(2, 3, 3, 3)
    answers[1, 0, 0, 0] = torch.nan
    answers[:, 0, 0, 1] = torch.nan
    competed = compete(answers)
    torch.testing.assert_close(competed[:, 0, 0, 0], torch.cat([compete(answers[:1])[:, 0, 0, 0], torch.zeros(1)]))
    assert torch.isnan(competed[:, 0, 0, 1]).all()
    assert torch.isfinite(competed[:, 1:]).all()


def _looked_at_by_half() -> torch.Tensor:
    """Return (2, K, z, y, x): each structure is known in its own half of the volume alone."""
    answers = torch.full((2, 3, *SHAPE), torch.nan)
    answers[0, :, ..., :16] = LEFT[..., :16].float()
    answers[1, :, ..., 16:] = RIGHT[..., 16:].float()
    return answers


def _belief(*structures: torch.Tensor) -> torch.Tensor:
    seen = torch.stack([one.float() for one in structures]) * 0.98
    return torch.cat([1 - seen.sum(dim=0, keepdim=True), seen])


def test_structures_that_are_looked_at_in_regions_of_their_own_are_all_answered() -> None:
    belief = _belief(LEFT, RIGHT)
    answer = answer_together((1, 2), _looked_at_by_half(), torch.ones(2, 3), belief, 0.05)
    assert torch.equal(answer.mean.argmax(dim=0), LEFT + 2 * RIGHT)
    assert torch.isfinite(answer.mean).all()
    assert agreement(answer, belief) == 1
    torch.testing.assert_close(answer.confidence, torch.ones(SHAPE))


def test_where_the_specialist_sees_a_structure_without_opinion_nobody_knows_better() -> None:
    elsewhere = torch.zeros(SHAPE, dtype=torch.bool)
    elsewhere[:3, :3, :3] = True  # Seen by the specialist in the half that was not looked at for it.
    belief = _belief(LEFT & ~elsewhere, RIGHT | elsewhere)
    answer = answer_together((1, 2), _looked_at_by_half(), torch.full((2, 3), 0.8), belief, 0.05)
    torch.testing.assert_close(answer.confidence[elsewhere], torch.full((27,), 0.02))
    torch.testing.assert_close(answer.confidence[~elsewhere], torch.full_like(answer.confidence[~elsewhere], 0.8))
    unasked = answer_together((1,), _looked_at_by_half()[:1], torch.ones(1, 3), belief, 0.05)
    assert unasked.confidence[..., :16][RIGHT[..., :16] | elsewhere[..., :16]].max() < 0.1


def test_where_nothing_was_looked_at_there_is_no_answer() -> None:
    answers = torch.full((1, 2, *SHAPE), torch.nan)
    answer = answer_together((1,), answers, torch.ones(1, 2), _belief(LEFT), 0.05)
    assert not answer.mean.any()
    assert not answer.confidence.any()


def test_an_answer_is_as_sure_as_its_prompt_sets_agree_and_silent_where_they_are() -> None:
    answers = torch.full((1, 2, *SHAPE), 0.9)
    answers[0, 1, 0] = 0.5
    answers[0, :, 1] = torch.nan
    answer = answer_together((1,), answers, torch.tensor([[0.6, 0.8]]), _belief(LEFT), 0.05)
    disagreeing, silent, agreeing = answer.confidence[0], answer.confidence[1], answer.confidence[2:]
    torch.testing.assert_close(disagreeing, torch.full_like(disagreeing, 0.7 * exp(-0.04 / 0.05)))
    torch.testing.assert_close(agreeing, torch.full_like(agreeing, 0.7))
    assert not silent.any()
    torch.testing.assert_close(answer.mean[1, 0], torch.full_like(disagreeing, 0.7))
    assert torch.isfinite(answer.mean).all()


def _segmented(*labels: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), 3).T.float()[..., None, None]


def test_agreement_is_the_mean_dice_of_what_both_say() -> None:
    first, second = _segmented(0, 1, 1, 2), _segmented(0, 1, 2, 2)
    sure = torch.ones(4, 1, 1)
    assert agreement(Answer(first, sure, (1, 2)), second) == pytest.approx(2 / 3)
    assert agreement(Answer(first, sure, (1, 2)), first) == 1
    nothing = torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1)
    assert agreement(Answer(nothing, sure[:1], (1, 2)), nothing) == 1


def test_a_structure_that_was_not_asked_about_is_no_disagreement() -> None:
    said, seen = _segmented(0, 1, 1, 0), _segmented(0, 1, 1, 2)
    assert agreement(Answer(said, torch.ones(4, 1, 1), (1,)), seen) == 1
    assert not is_an_answer(agreement(Answer(said, torch.ones(4, 1, 1), (2,)), seen))
