"""The network: a residual U-Net of MONAI's blocks that works at half resolution, with a second output that says how good it is."""

from __future__ import annotations

from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from monai.networks.blocks.dynunet_block import UnetResBlock, UnetUpBlock
from torch import nn
from torch.nn.functional import avg_pool3d

from ...run.hardware import fast_precision
from .encoding import CHANNELS, FIRST_MASK, NEAR_NEGATIVE, NEAR_POSITIVE, spread

#: Channels of the levels, at 1/2, 1/4, 1/8 and 1/16 of the resolution.
WIDTHS = (24, 48, 96, 128)

#: How deep the kernels are.
_KERNEL = 3
#: The logit with which a mask that is sure is believed at first.
_MASK_LOGIT = 3.0


class SyntheticNetwork(nn.Module):
    """Answers prompts about a region of interest.

    The first layer gathers blocks of 2 × 2 × 2 voxels into channels and the last one spreads them out again, so that no
    detail is lost while every convolution works at half the resolution, which costs an eighth.

    Args:
        widths: Channels of the levels.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        norm = ("instance", {"affine": True})
        act = ("leakyrelu", {"negative_slope": 0.01, "inplace": True})
        pairs = list(pairwise(widths))
        self.stem = nn.Sequential(
            Convolution(3, CHANNELS, widths[0], norm=norm, act=act), UnetResBlock(3, widths[0], widths[0], 3, 1, norm)
        )
        self.down = nn.ModuleList(UnetResBlock(3, fine, coarse, 3, 2, norm) for fine, coarse in pairs)
        self.bottom = UnetResBlock(3, widths[-1], widths[-1], 3, 1, norm)
        self.up = nn.ModuleList(UnetUpBlock(3, coarse, fine, 3, 2, 2, norm) for fine, coarse in reversed(pairs))
        self.head = nn.Conv3d(widths[0], 8, 3, padding=1)
        # The answer begins as the mask that was shown and as the points correct it; what is learned is how to mend it.
        self.shortcut = nn.Conv3d(CHANNELS, 8, 1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.shortcut.weight.mul_(0.1)
            for voxel in range(8):
                self.shortcut.weight[voxel, FIRST_MASK + voxel] = _MASK_LOGIT
            self.shortcut.weight[:, NEAR_POSITIVE] = 2 * _MASK_LOGIT
            self.shortcut.weight[:, NEAR_NEGATIVE] = -2 * _MASK_LOGIT
            self.shortcut.bias.fill_(-_MASK_LOGIT / 2)
        judged = 2 * widths[0] + widths[-1] + 2
        self.quality = nn.Sequential(nn.LayerNorm(judged), nn.Linear(judged, 64), nn.LeakyReLU(0.01), nn.Linear(64, 1))
        self.step = 2 ** len(widths)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer.

        Args:
            x: (sample, CHANNELS, z/2, y/2, x/2) as :func:`.encoding.encode` makes it; z, y, x in multiples of 16.

        Returns:
            Logits of the structure (sample, z, y, x), and of the Dice to be expected of it (sample,).
        """
        features = [self.stem(x.contiguous(memory_format=torch.channels_last_3d))]
        for block in self.down:
            features.append(block(features[-1]))
        bottom = deep = self.bottom(features.pop())
        for block in self.up:
            deep = block(deep, features.pop())
        coarse = self.head(deep) + self.shortcut(x)
        logits = spread(coarse.float())
        return logits, self._expected(deep.detach().float(), bottom.detach().float(), logits.detach())

    def _expected(self, deep: torch.Tensor, bottom: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return logits of the Dice to be expected (sample,), judged from the features inside and at the rim of the answer.

        The answer's own probabilities, taken at their word, say most of it: Σ p over the answer, twice, by the sizes. What is
        learned here does not bend the answer itself.
        """
        probability = logits.sigmoid()[:, None]
        answer = (probability > 0.5).float()
        axes = (2, 3, 4)
        overlap, sizes = (probability * answer).sum(axes), probability.sum(axes) + answer.sum(axes)
        own = (2 * overlap + 1) / (sizes + 2)
        share = avg_pool3d(probability, 2)
        rim = share * (1 - share)
        pooled = [(deep * weight).sum(axes) / weight.sum(axes).clamp(min=1e-3) for weight in (share, rim)]
        features = torch.cat([*pooled, bottom.mean(axes), torch.logit(own, eps=1e-3), answer.mean(axes).sqrt()], dim=1)
        return self.quality(features)[:, 0] + torch.logit(own, eps=1e-3)[:, 0]


def fast_dtype(device: torch.device, *, trained_on: int | None = None) -> torch.dtype:
    """Return the arithmetic that the device's hardware is fast in; bfloat16 and float16 are never emulated.

    Args:
        device: Where the network computes.
        trained_on: Voxels along each side of the regions that it learns from; None where it only answers.
    """
    slices = None if trained_on is None else trained_on // 2 ** len(WIDTHS)
    dtype: torch.dtype = getattr(torch, fast_precision(device, thin=slices is not None and slices < _KERNEL))
    return dtype
