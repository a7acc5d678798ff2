"""Dice in the training grid, for what is decided while training; the final figures are those of the evaluation room."""

from __future__ import annotations

import torch


def dice_by_class(first: torch.Tensor, second: torch.Tensor, classes: int) -> list[float | None]:
    """Return the Dice of each class without background, None where neither segmentation shows it.

    Args:
        first: (z, y, x) class indices.
        second: The same of another segmentation.
        classes: Number of structures.
    """
    dice: list[float | None] = []
    for index in range(1, classes + 1):
        one, other = first == index, second == index
        size = int(one.sum()) + int(other.sum())
        dice.append(2 * int((one & other).sum()) / size if size else None)
    return dice
