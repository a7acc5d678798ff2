"""CPS: two networks, started apart, each learns from the other's hard labels (Chen et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..losses import dice_and_cross_entropy
from .base import Batch, Method, MethodSettings, StepLosses


class CrossPseudoSupervision(Method):
    """Supervised loss of both networks plus each one's loss against the other's pseudo-labels."""

    begins_pretrained = False  # Two networks that begin alike agree, and have nothing to learn of each other.

    def __init__(self, make_network: Callable[[], nn.Module], settings: MethodSettings) -> None:
        super().__init__(make_network, settings)
        self.partner = make_network()

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of both networks."""
        return [*self.student.parameters(), *self.partner.parameters()]

    def step_losses(self, batch: Batch) -> StepLosses:
        """Return both supervised losses and the ramped cross pseudo supervision (greatest weight 0.5)."""
        count = len(batch.labeled)
        images = torch.cat([batch.labeled, batch.unlabeled])
        first, second = self.student(images), self.partner(images)
        supervised = self.supervised_loss(first[:count], batch.labels) + self.supervised_loss(
            second[:count], batch.labels
        )
        losses = {"supervised": supervised}
        if len(batch.unlabeled):
            weight = self.consistency_weight(batch.iteration, 0.5)
            losses["cross"] = weight * (
                dice_and_cross_entropy(first[count:], _pseudo_label(second[count:]))
                + dice_and_cross_entropy(second[count:], _pseudo_label(first[count:]))
            )
        return StepLosses(losses, first[count:])


def _pseudo_label(logits: torch.Tensor) -> torch.Tensor:
    return logits.detach().argmax(dim=1, keepdim=True)
