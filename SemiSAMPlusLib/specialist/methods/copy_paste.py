"""Bidirectional copy-paste of labelled and unlabelled patches under an averaged teacher (Bai et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..losses import dice_and_cross_entropy, known
from ..pieces import keep_largest_pieces
from .base import Batch, Beliefs, Method, StepLosses

#: Side of the pasted box as a share of the patch, and weight of a pseudo-label beside a label's 1 (both the paper's).
_BOX, _PSEUDO_WEIGHT = 2 / 3, 0.5
#: Weight of the labelled part of a mixture beside the whole labelled patch's 1 (ours).
_MIXED_WEIGHT = 0.5
#: Share of the training that is supervised only, until the teacher's pseudo-labels are worth something.
_ALONE = 0.25


class CopyPaste(Method):
    """A box of an unlabelled patch is pasted into a labelled one, and the other way round; both mixtures are learned.

    Their targets are mixed the same way from the label and a pseudo-label, of which only the largest piece is kept
    where the structure is known to be one piece. The labelled patches are learned whole beside the mixtures (ours):
    where several cases are labelled, mixtures alone show the specialist too little of them. The pseudo-label is what the teacher says of the patch before it was
    deformed and disturbed, an easier question than the one that the specialist is asked (as in FixMatch, Sohn et al.,
    NeurIPS 2020; the paper asks both the same).
    """

    beliefs: Beliefs = "corrected"
    taught_from = _ALONE

    def learns_from_unlabeled(self, iteration: int) -> bool:
        """Return whether the supervised beginning is over."""
        return iteration >= _ALONE * self.settings.iterations

    def step_losses(self, batch: Batch) -> StepLosses:
        """Return the supervised loss, and once the beginning is over those of the mixtures' labelled and unlabelled parts."""
        if batch.beliefs is None or not len(batch.unlabeled) or not self.learns_from_unlabeled(batch.iteration):
            return StepLosses({"supervised": self.supervised_loss(self.student(batch.labeled), batch.labels)})
        weight = _PSEUDO_WEIGHT if self.settings.consistency is None else self.settings.consistency
        pseudo, trusted = self._pseudo_labels(batch.beliefs), known(batch.beliefs)
        images, targets, real, made = [], [], [], []
        for number in range(max(len(batch.labeled), len(batch.unlabeled))):
            first, second = number % len(batch.labeled), number % len(batch.unlabeled)
            # In turn, also from step to step: the box is unlabelled in a labelled patch, or labelled in an unlabelled one.
            box = _random_box(batch.labeled.shape[2:], batch.random).to(batch.labeled.device)
            labeled = box if (number + batch.iteration) % 2 else ~box
            images.append(torch.where(labeled, batch.labeled[first], batch.unlabeled[second]))
            targets.append(torch.where(labeled, batch.labels[first], pseudo[second]))
            real.append(labeled[None].float())
            made.append(~labeled * trusted[second])
        mixed, target = torch.stack(images), torch.stack(targets)
        both = self.student(torch.cat([batch.labeled, mixed]))
        whole, logits = both[: len(batch.labeled)], both[len(batch.labeled) :]
        return StepLosses(
            {
                "supervised": self.supervised_loss(whole, batch.labels),
                "mixed": _MIXED_WEIGHT * dice_and_cross_entropy(logits, target, torch.stack(real)),
                "pseudo": weight * dice_and_cross_entropy(logits, target, torch.stack(made)),
            }
        )

    def _pseudo_labels(self, beliefs: torch.Tensor) -> torch.Tensor:
        """Return class indices (batch, 1, z, y, x), islands removed."""
        labels = beliefs.max(dim=1).indices.to(torch.uint8)  # argmax is ten times slower on a CPU.
        return torch.stack([keep_largest_pieces(label, self.settings.one_piece) for label in labels]).long()[:, None]


def _random_box(shape: Sequence[int], random: torch.Generator) -> torch.Tensor:
    """Return True inside a box of two thirds of ``shape`` (z, y, x), anywhere in it."""
    inside = torch.zeros(tuple(shape), dtype=torch.bool)
    sizes = [max(1, int(n * _BOX)) for n in shape]
    starts = [int(torch.randint(n - size + 1, (), generator=random)) for n, size in zip(shape, sizes, strict=True)]
    inside[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))] = True
    return inside
