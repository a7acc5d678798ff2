"""How large answers are beside predictions: where a structure ends without an edge, labels say how much is meant, not generalists.

A generalist that takes a little more than is meant, scan after scan, teaches the specialist to ask for more, and so on: predictions
grow. On the labelled cases, which the specialist knows by heart, that is not seen. So an answer's log-odds are shifted by one number
for each structure: that by which, in the median of a few unlabelled scans, it is as large as the specialist's own prediction. Scan by
scan it may be larger or smaller, as the edges have it (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import torch

from .answer import is_an_answer

#: No shift of log-odds is larger: who takes twice of what is meant, or half of it, has another structure in mind.
_MOST = 1.0
_LEAST_PROBABILITY = 1e-4


def shift_to_size(answer: torch.Tensor, belief: torch.Tensor, agreed: float) -> list[float | None]:
    """Return by how much to shift the log-odds of each structure in an answer, so that it is as large as the specialist sees it.

    Args:
        answer: (classes with background, z, y, x) a generalist's probabilities.
        belief: Like them, the specialist's.
        agreed: Their agreement (:func:`~SemiSAMPlusLib.collaboration.answer.agreement`).

    Returns:
        For each structure the shift; None where one of both sees nothing of it, or the answer is none to what was asked.
    """
    if not is_an_answer(agreed):
        return [None] * (len(answer) - 1)
    seen = belief.max(dim=0).indices
    return [_shift(answer[index], int((seen == index).sum())) for index in range(1, len(answer))]


def further_shifted(shifts: Sequence[float], needed: Sequence[Sequence[float | None]]) -> list[float]:
    """Return shifts with what answers still need in the median added; between -1 and 1, and as they were where no case tells.

    Args:
        shifts: For each structure, by how much the answers were shifted already.
        needed: For each case what :func:`shift_to_size` returned.
    """
    further = []
    for index, shift in enumerate(shifts):
        told = [each for case in needed if (each := case[index]) is not None]
        further.append(float(np.clip(shift + np.median(told), -_MOST, _MOST)) if told else shift)
    return further


def _shift(probability: torch.Tensor, size: int) -> float | None:
    """Return the shift of log-odds with which so many voxels have more than 1/2; None where one of both sees nothing."""
    if size == 0 or not bool((probability > 0.5).any()):
        return None
    least = float(torch.topk(probability.flatten(), min(size, probability.numel())).values[-1])
    # In plain Python: not every GPU has numbers of double precision.
    least = min(max(least, _LEAST_PROBABILITY), 1 - _LEAST_PROBABILITY)
    return log((1 - least) / least)


def shifted(probabilities: torch.Tensor, shifts: Sequence[float]) -> torch.Tensor:
    """Return probabilities (classes with background, z, y, x) with the structures' log-odds against background shifted."""
    if not any(shifts):  # Also where none are given.
        return probabilities
    factors = torch.tensor([0.0, *shifts], device=probabilities.device).exp().view(-1, 1, 1, 1)
    odds = probabilities * factors
    return odds / odds.sum(dim=0, keepdim=True).clamp(min=1e-8)
