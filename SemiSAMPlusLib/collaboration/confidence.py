"""How far to trust a generalist at each voxel: little where its answers to several prompt sets disagree."""

from __future__ import annotations

import torch


def mean_and_variance(answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of the answers to K prompt sets (SemiSAM+, eq. 4).

    F̄ = mean_k σ(F(x, p_k)) and U = Var_k σ(F(x, p_k)), voxel by voxel, of probabilities, not of logits.

    Args:
        answers: (K, ...) probabilities, NaN where there is no opinion.

    Returns:
        Mean and variance, each (...), both NaN where any of the answers has no opinion. The variance is at most 0.25.
    """
    mean = answers.mean(dim=0)
    return mean, (answers - mean).square().mean(dim=0)  # torch's var over a first axis is ten times slower on a CPU.


def voxel_confidence(variance: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return exp(-U / τ), 0 where there is no opinion (SemiSAM+, eq. 5, there with τ = 1).

    Args:
        variance: (...) of answers to several prompt sets, NaN where there is no opinion.
        temperature: τ. The variance of probabilities is at most 0.25, so τ must be small to weigh at all.
    """
    return torch.exp(-variance / temperature).nan_to_num(nan=0.0)
