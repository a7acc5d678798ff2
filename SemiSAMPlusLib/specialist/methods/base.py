"""What a method is: how the specialist learns from labelled and unlabelled patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from math import exp
from typing import Literal

import torch
from torch import nn

from ..losses import dice_and_cross_entropy

#: What a method wants of the teacher's look at undeformed patches, see :attr:`Method.beliefs`.
Beliefs = Literal["none", "plain", "corrected"]


@dataclass(frozen=True)
class Batch:
    """The patches of one step.

    Attributes:
        labeled: (batch, channels, z, y, x) images that have labels.
        labels: (batch, 1, z, y, x) long class indices.
        unlabeled: (batch, channels, z, y, x) images without; the batch may be 0.
        iteration: Which step of the training, from 0.
        random: Where a method's chance comes from: seeded by the iteration, so a resumed run draws the same.
        beliefs: (batch, classes, z, y, x) for methods that want them, see :attr:`Method.beliefs`: what the teacher says
            of the unlabelled patches before they were deformed and disturbed, brought to the patches as they are; 0 for
            all classes beyond what it saw. None for other methods, and while they learn from labelled patches alone.
    """

    labeled: torch.Tensor
    labels: torch.Tensor
    unlabeled: torch.Tensor
    iteration: int
    random: torch.Generator
    beliefs: torch.Tensor | None = None

    def noise_like(self, image: torch.Tensor, scale: float = 0.1, bound: float = 0.2) -> torch.Tensor:
        """Return clamped Gaussian noise, drawn on the CPU so that it is the same on every device."""
        noise = torch.randn(image.shape, generator=self.random) * scale
        return noise.clamp(-bound, bound).to(image)


@dataclass(frozen=True)
class StepLosses:
    """What a step's losses are, and what the specialist said on the way.

    Attributes:
        losses: Name to scalar; their sum is what the step minimises.
        unlabeled_logits: (batch, classes, z, y, x) on the unlabelled patches as they came, where the method made them;
            with gradient.
    """

    losses: dict[str, torch.Tensor]
    unlabeled_logits: torch.Tensor | None = None


@dataclass(frozen=True)
class MethodSettings:
    """What a method may want to know.

    Attributes:
        iterations: Length of the training.
        classes: Number of classes with background.
        ema: Decay of the teacher's moving average.
        consistency: Greatest weight of the unlabelled loss, or None for the method's own.
        one_piece: One per class without background: whether it is a single connected structure.
        channels: Channels of an image.
    """

    iterations: int
    classes: int
    ema: float = 0.99
    consistency: float | None = None
    one_piece: tuple[bool, ...] = field(default=())
    channels: int = 1


class Method(nn.Module, ABC):
    """How the specialist learns; holds its network, an averaged teacher, and whatever else it trains.

    Every method keeps the exponential moving average of the weights: it makes pseudo-labels and prompts where they
    are wanted, and it is the specialist that a training results in.

    Args:
        make_network: Makes an untrained network.
        settings: What a method may want to know.

    Attributes:
        dropout: Share of features that the method wants dropped in training.
        begins_pretrained: Whether its networks may begin with weights that learned from made-up volumes.
        taught_from: Share of the training after which generalists teach it, where nothing else is set. What a specialist that
            knows little yet asks for, generalists confirm, and it learns to ask for more.
        beliefs: Whether it learns from what the teacher says of undeformed patches, see :class:`Batch`: ``none``, it
            makes its own targets; ``plain``, as the teacher says it; ``corrected``, as far as generalists are trusted
            corrected by them. These then teach through nothing else; other methods get a loss term beside their own.
    """

    dropout: float = 0.0
    begins_pretrained: bool = True
    taught_from: float = 0.5
    beliefs: Beliefs = "none"

    def __init__(self, make_network: Callable[[], nn.Module], settings: MethodSettings) -> None:
        super().__init__()
        self.settings = settings
        self.student = make_network()
        self.teacher = deepcopy(self.student).requires_grad_(False).eval()

    @abstractmethod
    def step_losses(self, batch: Batch) -> StepLosses:
        """Return the losses of one step, with gradient."""

    def learns_from_unlabeled(self, iteration: int) -> bool:
        """Return whether the step of ``iteration`` uses unlabelled patches, which else need not be cut."""
        return True

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return what the trainer's optimiser updates."""
        return list(self.student.parameters())

    def after_step(self, iteration: int) -> None:
        """Follow the student with the teacher: decay min(1 - 1/(t+1), ema), as in Mean Teacher (Tarvainen 2017)."""
        update_average(self.teacher, self.student, min(1 - 1 / (iteration + 1), self.settings.ema))

    def supervised_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss on labelled patches."""
        return dice_and_cross_entropy(logits, labels)

    def ramp(self, iteration: int) -> float:
        """Return the consistency ramp exp(-5 (1 - t/T)²), from nearly 0 to 1 (Laine & Aila 2017)."""
        return exp(-5 * (1 - min(1.0, iteration / max(1, self.settings.iterations))) ** 2)

    def consistency_weight(self, iteration: int, own: float) -> float:
        """Return the ramped weight of the unlabelled loss; ``own`` is the method's greatest where none was set."""
        greatest = own if self.settings.consistency is None else self.settings.consistency
        return greatest * self.ramp(iteration)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the weights of ``average`` towards those of ``network``; buffers are copied."""
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value.detach(), 1 - decay)
    for mean, value in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(value)
