"""Dice in the training grid, while training; the final figures are those of the evaluation room, on the input's own grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..cohort.patches import PreparedCase
from ..specialist.inference import to_classes
from ..specialist.specialist import Specialist


def validate(specialist: Specialist, cases: Sequence[PreparedCase]) -> dict[str, float | None]:
    """Return the mean Dice of each class over the cases that show it, None where none does."""
    scores: dict[str, list[float]] = {structure.name: [] for structure in specialist.classes}
    for case in cases:
        if case.label is None:
            continue
        predicted = to_classes(specialist.probabilities(case.image), specialist.plan.one_piece)
        for index, structure in enumerate(specialist.classes, start=1):
            truth, answer = case.label[0] == index, predicted == index
            if truth.any():
                scores[structure.name].append(dice_of(answer, truth))
    return {name: round(float(np.mean(values)), 5) if values else None for name, values in scores.items()}


def mean_dice(dice: dict[str, float | None]) -> float:
    """Return the mean over the classes that have a Dice."""
    return float(np.mean([value for value in dice.values() if value is not None] or [0.0]))


def dice_of(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the Dice of two boolean masks, 1 where both are empty."""
    size = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / size if size else 1.0
