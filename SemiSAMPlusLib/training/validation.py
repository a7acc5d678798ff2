"""How good the specialist is while it trains, on cases with labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ..cohort.patches import PreparedCase
from ..specialist.overlap import dice_by_class
from ..specialist.pieces import to_classes
from ..specialist.specialist import Specialist


def validate(specialist: Specialist, cases: Iterable[PreparedCase]) -> dict[str, float | None]:
    """Return the mean Dice of each class over the cases that show it, None where none does; one case is held at a time."""
    scores: dict[str, list[float]] = {structure.name: [] for structure in specialist.classes}
    for case in cases:
        if case.label is None:
            continue
        for name, dice in dice_on(case.label, specialist.probabilities(case.image), specialist).items():
            scores[name].append(dice)
    return {name: round(float(np.mean(values)), 5) if values else None for name, values in scores.items()}


def mean_dice(dice: dict[str, float | None]) -> float | None:
    """Return the mean over the classes that have a Dice, None where none has: then it says nothing of a specialist."""
    known = [value for value in dice.values() if value is not None]
    return float(np.mean(known)) if known else None


def dice_on(label: torch.Tensor, probabilities: torch.Tensor, specialist: Specialist) -> dict[str, float]:
    """Return the Dice of each class that a label shows.

    Args:
        label: (1, z, y, x) class indices.
        probabilities: (classes with background, z, y, x) what is said of the case.
        specialist: Whose classes they are.
    """
    predicted = to_classes(probabilities, specialist.plan.centroids)
    scores = dice_by_class(label[0], predicted, len(specialist.classes))
    return {
        structure.name: score
        for index, (structure, score) in enumerate(zip(specialist.classes, scores, strict=True), start=1)
        if score is not None and (label == index).any()
    }
