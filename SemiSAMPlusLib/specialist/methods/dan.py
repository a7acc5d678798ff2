"""DAN: an adversary makes segmentations of unlabelled images look like those of labelled ones (Zhang et al., MICCAI 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.blocks import Convolution
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from .base import Batch, Method, MethodSettings, StepLosses

#: Voxels along the longest side of a patch that the discriminator can halve four times and has several left.
_LEAST_PATCH = 32


class DeepAdversarialNetwork(Method):
    """Supervised loss plus fooling a discriminator that tells labelled from unlabelled by image and segmentation.

    The discriminator learns in the same step, with an Adam of its own (1e-4; 0.9, 0.99).
    """

    def __init__(self, make_network: Callable[[], nn.Module], settings: MethodSettings) -> None:
        super().__init__(make_network, settings)
        self.discriminator = _discriminator(settings.channels + settings.classes)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def step_losses(self, batch: Batch) -> StepLosses:
        """Return the supervised loss and the ramped adversarial one; the discriminator has learned by then."""
        count = len(batch.labeled)
        images = torch.cat([batch.labeled, batch.unlabeled])
        logits = self.student(images)
        losses = {"supervised": self.supervised_loss(logits[:count], batch.labels)}
        if len(batch.unlabeled):
            judged = torch.cat([images, logits.float().softmax(dim=1)], dim=1)
            self._teach_discriminator(judged.detach(), count)
            self.discriminator.requires_grad_(False)
            verdict = self._judge(judged[count:])
            self.discriminator.requires_grad_(True)
            weight = self.consistency_weight(batch.iteration, 0.1)
            losses["adversarial"] = weight * binary_cross_entropy_with_logits(
                verdict.float(), torch.ones_like(verdict).float()
            )
        return StepLosses(losses, logits[count:])

    def _teach_discriminator(self, judged: torch.Tensor, labeled: int) -> None:
        verdict = self._judge(judged).float()
        truth = torch.zeros_like(verdict)
        truth[:labeled] = 1
        self.optimizer.zero_grad()
        binary_cross_entropy_with_logits(verdict, truth).backward()
        self.optimizer.step()

    def _judge(self, judged: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's logits (batch, 1); small patches are enlarged, or its norms have one voxel left."""
        shape = judged.shape[2:]
        if max(shape) < _LEAST_PATCH or min(shape) < _LEAST_PATCH // 2:
            judged = interpolate(judged, [max(_LEAST_PATCH, n) for n in shape])
        return self.discriminator(judged)

    def get_extra_state(self) -> dict[str, object]:
        """Return the discriminator's optimiser, which a resumed run needs."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, object]) -> None:
        """Take back what :meth:`get_extra_state` returned."""
        self.optimizer.load_state_dict(state)


def _discriminator(channels: int) -> nn.Module:
    widths = (16, 32, 64, 128)
    layers: list[nn.Module] = [
        Convolution(
            3,
            before,
            after,
            strides=2,
            kernel_size=4,
            padding=1,
            act=("leakyrelu", {"negative_slope": 0.2}),
            norm="instance",
        )
        for before, after in zip((channels, *widths), widths, strict=False)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
