"""Mean Teacher: the specialist agrees with its own moving average (Tarvainen & Valpola, NeurIPS 2017)."""

from __future__ import annotations

import torch

from ..losses import known
from .base import Batch, Beliefs, Method, StepLosses


class MeanTeacher(Method):
    """Supervised loss plus the mean squared difference of student's and teacher's probabilities on unlabelled patches.

    The teacher sees a patch before it is deformed and disturbed, the student after (ours, as in copy-paste; the paper
    disturbs both alike, each with noise of its own).
    """

    beliefs: Beliefs = "plain"

    def step_losses(self, batch: Batch) -> StepLosses:
        """Return the supervised loss and the ramped consistency, 0.1·exp(-5(1 - t/T)²) at its defaults."""
        count = len(batch.labeled)
        logits = self.student(torch.cat([batch.labeled, batch.unlabeled]))
        losses = {"supervised": self.supervised_loss(logits[:count], batch.labels)}
        unlabeled = logits[count:]
        if len(unlabeled):
            weight = self.consistency_weight(batch.iteration, 0.1)
            losses["consistency"] = weight * self.consistency(unlabeled.float().softmax(dim=1), batch)
        return StepLosses(losses, unlabeled)

    def consistency(self, probability: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return how far the student is from its teacher.

        Args:
            probability: (batch, classes, z, y, x) the student's, on the unlabelled patches, with gradient.
            batch: The patches of the step.
        """
        assert batch.beliefs is not None
        return ((probability - batch.beliefs).square() * known(batch.beliefs)).mean()
