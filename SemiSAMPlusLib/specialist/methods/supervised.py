"""Supervised only: the unlabelled patches are left alone."""

from __future__ import annotations

from .base import Batch, Method, StepLosses


class Supervised(Method):
    """Learn from the labelled patches."""

    def learns_from_unlabeled(self, iteration: int) -> bool:
        """Return False: it never does."""
        return False

    def step_losses(self, batch: Batch) -> StepLosses:
        """Return the supervised loss."""
        return StepLosses({"supervised": self.supervised_loss(self.student(batch.labeled), batch.labels)})
