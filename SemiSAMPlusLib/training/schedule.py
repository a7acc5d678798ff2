"""How the learning rate falls."""

from __future__ import annotations


def polynomial_decay(iteration: int, iterations: int, power: float = 0.9) -> float:
    """Return (1 - t/T)^power, the schedule of nnU-Net and of the released SemiSAM+ code."""
    return (1 - min(iteration, iterations) / iterations) ** power
