"""UA-MT: Mean Teacher that learns only where the teacher is certain (Yu et al., MICCAI 2019)."""

from __future__ import annotations

from math import log

import torch

from ..losses import entropy_of
from .base import Batch, Beliefs
from .mean_teacher import MeanTeacher

#: Monte Carlo passes of the teacher, and how many are computed together, which bounds the memory.
_PASSES, _TOGETHER = 8, 2


class UncertaintyAwareMeanTeacher(MeanTeacher):
    """Mean Teacher with the consistency masked by the entropy of the teacher's mean over Monte Carlo dropout passes."""

    dropout = 0.2
    beliefs: Beliefs = "none"  # The paper's own targets: teacher and student see the same patch.

    def consistency(self, probability: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean squared difference where the teacher is certain."""
        squared = (probability - self.teach(batch)).square()
        certain = self.certain(batch)
        return (squared * certain).sum() / (certain.sum() * squared.shape[1] + 1e-6)

    @torch.no_grad()
    def teach(self, batch: Batch) -> torch.Tensor:
        """Return the teacher's probabilities on the unlabelled patches under noise."""
        return self.teacher(batch.unlabeled + batch.noise_like(batch.unlabeled)).float().softmax(dim=1)

    @torch.no_grad()
    def certain(self, batch: Batch) -> torch.Tensor:
        """Return 1 where the entropy is below (0.75 + 0.25·ramp)·ln(classes), else 0: (batch, 1, z, y, x)."""
        image = batch.unlabeled
        total: torch.Tensor | float = 0.0
        self.teacher.train()  # Dropout on; what batch norms count meanwhile is replaced after the step.
        for _ in range(_PASSES // _TOGETHER):
            repeated = image.repeat(_TOGETHER, 1, 1, 1, 1)
            answers = self.teacher(repeated + batch.noise_like(repeated)).float().softmax(dim=1)
            total = total + answers.unflatten(0, (_TOGETHER, len(image))).sum(dim=0)
        self.teacher.eval()
        threshold = (0.75 + 0.25 * self.ramp(batch.iteration)) * log(self.settings.classes)
        return (entropy_of(torch.as_tensor(total) / _PASSES) < threshold).float()
