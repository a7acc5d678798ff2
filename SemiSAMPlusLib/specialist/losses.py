"""The loss of a segmentation, voxel by voxel weighted: Dice plus cross entropy, as nnU-Net and most of the field use it."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, one_hot


def dice_and_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Return soft Dice loss (mean over the classes without background) plus cross entropy.

    MONAI's DiceCELoss has no weight per voxel, which copy-paste and pseudo-labels need; with equal weights this is
    the same but for the smoothing.

    Args:
        logits: (batch, classes, z, y, x).
        target: (batch, 1, z, y, x) long class indices.
        weight: (batch, 1, z, y, x) how much each voxel counts, or None for all alike.

    Returns:
        A scalar; 0 where no voxel counts.
    """
    logits = logits.float()
    weight = torch.ones_like(target, dtype=logits.dtype) if weight is None else weight
    total = weight.sum().clamp(min=1e-6)
    entropy = (cross_entropy(logits, target[:, 0], reduction="none") * weight[:, 0]).sum() / total
    probability = logits.softmax(dim=1)[:, 1:]
    truth = one_hot(target[:, 0], logits.shape[1]).movedim(-1, 1)[:, 1:].to(probability)
    axes = (0, 2, 3, 4)
    overlap = (probability * truth * weight).sum(axes)
    size = ((probability + truth) * weight).sum(axes)
    dice = 1 - (2 * overlap + 1) / (size + 1)
    return dice.mean() + entropy


def entropy_of(probability: torch.Tensor) -> torch.Tensor:
    """Return the entropy of class probabilities (batch, classes, z, y, x) in nats, as (batch, 1, z, y, x)."""
    return -(probability * probability.clamp(min=1e-6).log()).sum(dim=1, keepdim=True)


def known(beliefs: torch.Tensor) -> torch.Tensor:
    """Return 1 where ``beliefs`` (batch, classes, z, y, x) say something, 0 beyond where they were looked up."""
    return (beliefs.sum(dim=1, keepdim=True) > 0.5).float()
