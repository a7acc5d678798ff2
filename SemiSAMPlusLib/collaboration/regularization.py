"""The loss by which generalists teach the specialist: confidence-aware regularization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..cohort.augmentation import look_up
from ..specialist.losses import dice_and_cross_entropy, known


def combine(
    answers: Sequence[torch.Tensor], confidences: Sequence[torch.Tensor], trusts: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up the corrections of several generalists (ours; the paper names several but no code combines them).

    f + W (F̄ - f) with what is returned is f + Σ_g ω_g w_g (F̄_g - f), of which the trusts ω were fitted.

    Args:
        answers: Each (classes, z, y, x), NaN where that generalist has no opinion.
        confidences: Each (z, y, x) in 0..1.
        trusts: Each in 0..1.

    Returns:
        The weighted mean answer F̄ (classes, z, y, x) without NaN, and its weight W (z, y, x): trust times confidence,
        added up; at most 1, also where trusts were not fitted but given.
    """
    weights = torch.stack([t * c for t, c in zip(trusts, confidences, strict=True)])
    values = torch.stack([a.nan_to_num(nan=0.0) for a in answers])
    total = weights.sum(dim=0)
    mean = (values * weights[:, None]).sum(dim=0) / total.clamp(min=1e-8)
    return mean, total.clamp(max=1.0)


@dataclass(frozen=True)
class TaughtPatch:
    """What generalists teach on one patch; holds no gradient.

    Attributes:
        answer: (classes with background, z, y, x) F̄, the generalists' combined probabilities on the undeformed patch.
        weight: (z, y, x) w, trust times confidence, on the undeformed patch.
        belief: (classes with background, z, y, x) what the specialist's teacher says of the undeformed patch, f̄.
        coordinates: (3, z', y', x') where each voxel of the specialist's deformed patch lies in the undeformed one.
        strength: λ_sam of this iteration.
    """

    answer: torch.Tensor
    weight: torch.Tensor
    belief: torch.Tensor
    coordinates: torch.Tensor
    strength: float

    def corrected(self) -> torch.Tensor:
        """Return f̄ + w (F̄ - f̄), the teacher's belief as far corrected as the generalists are trusted (ours)."""
        return self.belief + self.weight * (self.answer - self.belief)

    def loss(self, logits: torch.Tensor, kind: str) -> torch.Tensor:
        """Return λ_sam · L_sam.

        Args:
            logits: (1, classes, z', y', x') the specialist's, on its deformed patch, with gradient.
            kind: ``pseudo-label``: Dice and cross entropy against the corrected belief, times the mean weight (ours);
                ``squared-error``: the paper's, see :func:`confidence_weighted_error`, which is small beside the loss on labels.
        """
        if kind == "squared-error":
            both = look_up(torch.cat([self.answer, self.weight[None]]), self.coordinates, outside=0.0)
            return self.strength * confidence_weighted_error(logits[0].float().softmax(dim=0), both[:-1], both[-1:])
        target = look_up(self.corrected(), self.coordinates, outside=0.0)[None]
        labels = target.max(dim=1, keepdim=True).indices
        return self.strength * self.weight.mean() * dice_and_cross_entropy(logits, labels, known(target))


def confidence_weighted_error(probability: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return L_sam = Σ_v w_v (f_v - F̄_v)² / Σ_v w_v, times the mean trust and confidence (SemiSAM+, eq. 5).

    In the paper's quotient a weight common to all voxels cancels out. Multiplied by the mean weight, it is
    Σ_v w_v (f_v - F̄_v)² / N: an answer that is trusted little everywhere then teaches little everywhere (ours).

    Args:
        probability: (classes, z, y, x) f, the specialist's, with gradient.
        target: (classes, z, y, x) F̄, the generalists'.
        weight: (1, z, y, x) w, trust times confidence.
    """
    return (weight * (probability - target.detach()).square()).mean()
