"""What a generalist says of several structures together: probabilities, how sure it is, and whether it is an answer at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..specialist.overlap import dice_by_class
from .confidence import mean_and_variance, voxel_confidence

#: An answer whose Dice with the specialist's segmentation is less does not answer the prompts that were made of it.
_LEAST_AGREEMENT = 0.5


@dataclass(frozen=True)
class Answer:
    """What one generalist says of a region.

    Attributes:
        mean: (classes with background, z, y, x) probabilities without NaN.
        confidence: (z, y, x) in 0..1, the least over the classes; 0 where there is no opinion of any.
        asked: The indices, from 1, of the classes that it was asked about.
    """

    mean: torch.Tensor
    confidence: torch.Tensor
    asked: tuple[int, ...]


def answer_together(
    asked: Sequence[int], answers: torch.Tensor, quality: torch.Tensor, belief: torch.Tensor, temperature: float
) -> Answer:
    """Return the answer that several prompt sets for several structures have together.

    Where there is no opinion of a structure, because nobody was asked about it or the generalist did not look so far, the
    others' answers stand; but where the specialist sees that structure, nobody knows better (ours).

    Args:
        asked: The indices, from 1, of the classes that were asked about.
        answers: (asked, K, z, y, x) probabilities, each structure's own, NaN where there is no opinion.
        quality: (asked, K) the Dice that the generalist expects of each answer, 1 where it does not say.
        belief: (classes with background, z, y, x) what the specialist says.
        temperature: τ of the voxel confidence.
    """
    confidence = 1 - belief[1:].float()
    probability = torch.full_like(confidence, torch.nan)
    for place, index in enumerate(asked):
        mean, variance = mean_and_variance(answers[place])
        sure = quality[place].mean() * voxel_confidence(variance, temperature)
        probability[index - 1] = mean
        confidence[index - 1] = torch.where(mean.isnan(), confidence[index - 1], sure)
    silent = probability.isnan().all(dim=0)
    mean = compete(probability).nan_to_num(nan=0.0)
    return Answer(mean, torch.where(silent, 0.0, confidence.amin(dim=0)), tuple(asked))


def compete(probabilities: torch.Tensor) -> torch.Tensor:
    """Let the answers for several structures compete with each other and with background (ours; the paper is binary).

    Each structure's odds p/(1-p) stand against background's odds of 1; for one structure this is p itself.

    Args:
        probabilities: (classes, z, y, x), each structure's own answer, NaN where there is no opinion, which claims nothing.

    Returns:
        (classes with background, z, y, x) that sum to 1, NaN where there is no opinion of any structure.
    """
    limited = probabilities.clamp(1e-4, 1 - 1e-4)
    odds = limited / (1 - limited)
    silent = odds.isnan()
    odds = torch.where(silent & ~silent.all(dim=0), 0.0, odds)
    return torch.cat([torch.ones_like(odds[:1]), odds]) / (1 + odds.sum(dim=0, keepdim=True))


def agreement(answer: Answer, belief: torch.Tensor) -> float:
    """Return how far an answer agrees with the specialist: the mean Dice of the structures that it was asked about.

    Args:
        answer: A generalist's.
        belief: (classes with background, z, y, x) the specialist's probabilities.

    Returns:
        0 to 1; 1 where neither shows any of them.
    """
    dice = dice_by_class(answer.mean.max(dim=0).indices, belief.max(dim=0).indices, len(belief) - 1)
    shown = [one for index in answer.asked if (one := dice[index - 1]) is not None]
    return float(np.mean(shown)) if shown else 1.0


def is_an_answer(agreed: float) -> bool:
    """Return whether an answer agrees so far with the specialist that it is one to the prompts that were made of it."""
    return agreed >= _LEAST_AGREEMENT
