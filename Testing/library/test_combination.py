"""Several answers to one question, to several prompt sets and from several generalists, become one with a confidence."""

from __future__ import annotations

import pytest
import torch

from SemiSAMPlusLib.collaboration.confidence import mean_and_variance, voxel_confidence
from SemiSAMPlusLib.collaboration.regularization import combine

SHAPE = (24, 24, 24)


def test_equal_answers_have_confidence_1() -> None:
    answers = torch.rand(1, 4, 4, 4).expand(5, -1, -1, -1)
    mean, variance = mean_and_variance(answers)
    torch.testing.assert_close(mean, answers[0])
    torch.testing.assert_close(voxel_confidence(variance, 0.05), torch.ones(4, 4, 4))


def test_contradicting_answers_have_little_and_no_opinion_has_none() -> None:
    answers = torch.tensor([[0.0, 0.4, torch.nan], [1.0, 0.6, 0.5]])
    mean, variance = mean_and_variance(answers)
    assert variance[0] == pytest.approx(0.25)  # The greatest that there is.
    confidence = voxel_confidence(variance, 0.05)
    assert confidence[0] < 0.01 < 0.5 < confidence[1] < 1
    assert confidence[2] == 0
    assert mean[:2].tolist() == pytest.approx([0.5, 0.5])


def test_one_answer_is_taken_at_its_word() -> None:
    mean, variance = mean_and_variance(torch.full((1, 3), 0.3))
    assert mean.tolist() == pytest.approx([0.3] * 3)
    assert voxel_confidence(variance, 0.05).tolist() == [1.0] * 3


def _answers(count: int, classes: int = 2) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    answers = [torch.rand(classes, 4, 4, 4, generator=random).softmax(dim=0) for _ in range(count)]
    return answers, [torch.rand(4, 4, 4, generator=random) * 0.8 + 0.2 for _ in range(count)]


@pytest.mark.parametrize("trust", [0.01, 0.6, 1.0])
def test_one_generalist_combined_is_itself(trust: float) -> None:
    (answer,), (confidence,) = _answers(1)
    mean, weight = combine([answer], [confidence], [trust])
    torch.testing.assert_close(mean, answer)
    torch.testing.assert_close(weight, trust * confidence)


def test_corrections_of_several_add_up() -> None:
    (a, b), (one, other) = _answers(2)
    belief = torch.full_like(a, 0.5)
    mean, weight = combine([a, b], [one, other], [0.6, 0.3])
    added = belief + 0.6 * one * (a - belief) + 0.3 * other * (b - belief)
    torch.testing.assert_close(belief + weight * (mean - belief), added)


def test_several_that_are_trusted_by_command_take_the_specialists_place_at_most() -> None:
    (a, b), (one, other) = _answers(2)
    mean, weight = combine([a, b], [one, other], [1.0, 1.0])
    torch.testing.assert_close(mean, (one * a + other * b) / (one + other))
    assert float(weight.max()) == 1.0


def test_a_generalist_without_opinion_or_trust_says_nothing() -> None:
    (a, b), (one, _) = _answers(2)
    silent = torch.full_like(b, torch.nan)
    mean, _ = combine([a, silent], [one, torch.zeros_like(one)], [0.9, 0.9])
    torch.testing.assert_close(mean, a)
    mean, _ = combine([a, b], [one, one], [0.9, 0.0])
    torch.testing.assert_close(mean, a)
    mean, weight = combine([a, silent], [one * 0, one * 0], [0.9, 0.9])
    assert torch.isfinite(mean).all()
    assert not weight.any()
