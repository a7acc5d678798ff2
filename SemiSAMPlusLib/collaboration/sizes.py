"""How large answers are beside predictions: where a structure ends without an edge, labels say how much is meant, not generalists.

A generalist that takes a little more than is meant, scan after scan, teaches the specialist to ask for more, and so on: predictions
grow. On the labelled cases, which the specialist knows by heart, that is not seen. So an answer's log-odds are shifted by one number
for each structure: that by which, in the median of a few unlabelled scans, it is as large as the specialist's own prediction. Scan by
scan it may be larger or smaller, as the edges have it (ours).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .trust import is_an_answer

#: No shift of log-odds is larger: who takes twice of what is meant, or half of it, has another structure in mind.
_MOST = 1.0
_LEAST_PROBABILITY = 1e-4


def shifts_to_size(answers: Sequence[tuple[torch.Tensor, torch.Tensor]], before: Sequence[float]) -> list[float]:
    """Return by how much to shift the log-odds of each structure, so that answers are as large as predictions in the median.

    Args:
        answers: For each case a generalist's probabilities and the specialist's, both (classes with background, z, y, x).
        before: By how much each structure's were shifted already in these answers.

    Returns:
        For each structure the shift in all, between -1 and 1; as before where no case tells.
    """
    understood = [(answer, belief.max(dim=0).indices) for answer, belief in answers if is_an_answer(answer, belief)]
    shifts = []
    for index, then in enumerate(before, start=1):
        each = [_shift(answer[index], int((seen == index).sum())) for answer, seen in understood]
        told = [shift for shift in each if shift is not None]
        shifts.append(float(np.clip(then + np.median(told), -_MOST, _MOST)) if told else then)
    return shifts


def _shift(probability: torch.Tensor, size: int) -> float | None:
    """Return the shift of log-odds with which so many voxels have more than 1/2; None where one of both sees nothing."""
    if size == 0 or not bool((probability > 0.5).any()):
        return None
    least = torch.topk(probability.flatten(), min(size, probability.numel())).values[-1]
    return -float(torch.logit(least.double(), eps=_LEAST_PROBABILITY))


def shifted(probabilities: torch.Tensor, shifts: Sequence[float]) -> torch.Tensor:
    """Return probabilities (classes with background, z, y, x) with the structures' log-odds against background shifted."""
    if not any(shifts):
        return probabilities
    factors = torch.tensor([0.0, *shifts], device=probabilities.device).exp().view(-1, 1, 1, 1)
    odds = probabilities * factors
    return odds / odds.sum(dim=0, keepdim=True).clamp(min=1e-8)
