"""The specialists: MONAI's 3D networks by name, in three sizes.

A user's own comes through the entry-point group ``semisamplus.specialists``: a callable that takes the keywords
``in_channels``, ``out_channels``, ``patch`` (z, y, x), ``size`` and ``dropout``, and returns a module that maps
(batch, in_channels, z, y, x) to logits (batch, out_channels, z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from monai.networks.nets import DynUNet, SegResNet, SwinUNETR, UNet, VNet
from torch import nn

from ..cohort.plan import PATCH_STEP
from ..errors import ConfigError
from ..plugins import find_plugin

SPECIALISTS = {name: f"{__name__}:{name}" for name in ("unet3d", "vnet", "segresnet", "dynunet", "swinunetr")}

_CHANNELS = {"small": (16, 32, 64, 128), "medium": (24, 48, 96, 192), "large": (32, 64, 128, 256, 320)}
#: How many voxels the specialists that are picky want a patch's sizes to be multiples of.
_STEPS = {"vnet": 16, "swinunetr": 32}


def patch_step(name: str) -> int:
    """Return how many voxels the specialist of that name wants a patch's sizes to be multiples of."""
    return _STEPS.get(name, PATCH_STEP)


def build_specialist(
    name: str, *, in_channels: int, out_channels: int, patch: Sequence[int], size: str, dropout: float = 0.0
) -> nn.Module:
    """Return an untrained specialist.

    Args:
        name: One of :data:`SPECIALISTS` or of a plug-in.
        in_channels: Channels of an image.
        out_channels: Classes with background.
        patch: Size (z, y, x) of the patches it will see.
        size: ``small``, ``medium`` or ``large``.
        dropout: Share of features that are dropped while training, for the methods that need it.

    Raises:
        ConfigError: If there is no such specialist, or it does not take that patch.
    """
    factory = find_plugin("specialists", name, SPECIALISTS)
    return factory(in_channels=in_channels, out_channels=out_channels, patch=tuple(patch), size=size, dropout=dropout)


def _depth(patch: Sequence[int], wanted: int) -> int:
    """Return how often a patch can be halved along all axes, at most ``wanted`` times, and is more than one voxel."""
    common = gcd(*patch)
    depth = 0
    # A norm over a single voxel has nothing to normalise by.
    while depth < wanted and common % 2 ** (depth + 1) == 0 and max(patch) > 2 ** (depth + 1):
        depth += 1
    return depth


def unet3d(*, in_channels: int, out_channels: int, patch: Sequence[int], size: str, dropout: float) -> nn.Module:
    """Return MONAI's residual U-Net; its first layer halves the resolution, which makes a step about five times cheaper."""
    channels = _CHANNELS[size]
    depth = _depth(patch, len(channels) - 1)
    channels = channels[: depth + 1]
    network = UNet(
        3, in_channels, out_channels, channels, (2,) * depth, num_res_units=2, norm="instance", dropout=dropout
    )
    return _dropping_channels(network)


def _dropping_channels(network: nn.Module) -> nn.Module:
    """Let dropout take whole channels, as V-Net's does in UA-MT: it disturbs more, and draws far fewer random numbers."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, nn.Dropout3d(child.p))
    return network


def vnet(*, in_channels: int, out_channels: int, patch: Sequence[int], size: str, dropout: float) -> nn.Module:
    """Return MONAI's V-Net, of one size (the field's on the left atrium; 16 to 256 channels)."""
    _require_multiple("vnet", patch)
    if 16 % in_channels:
        msg = f"The specialist 'vnet' takes 1, 2, 4, 8 or 16 channels, and the cohort has {in_channels}."
        raise ConfigError(msg, "Choose another --specialist, or leave channels out of the cohort.")
    network = VNet(3, in_channels, out_channels, act=("elu", {"inplace": True}))
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):  # MONAI's own arguments do not reach them all.
            module.p = dropout
    return network


def segresnet(*, in_channels: int, out_channels: int, patch: Sequence[int], size: str, dropout: float) -> nn.Module:
    """Return MONAI's SegResNet."""
    filters = {"small": 8, "medium": 16, "large": 32}[size]
    depth = _depth(patch, 3) + 1
    return SegResNet(
        3,
        filters,
        in_channels,
        out_channels,
        dropout_prob=dropout or None,
        blocks_down=(1, 2, 2, 4)[:depth],
        blocks_up=(1,) * (depth - 1),
    )


def dynunet(*, in_channels: int, out_channels: int, patch: Sequence[int], size: str, dropout: float) -> nn.Module:
    """Return MONAI's DynUNet, the network of nnU-Net."""
    filters = {"small": (16, 32, 64, 128, 160), "medium": (24, 48, 96, 192, 240), "large": (32, 64, 128, 256, 320)}[
        size
    ]
    depth = _depth(patch, len(filters) - 1)
    strides = (1, *(2,) * depth)
    return DynUNet(
        3,
        in_channels,
        out_channels,
        kernel_size=(3,) * (depth + 1),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=filters[: depth + 1],
        norm_name="instance",
        dropout=dropout or None,
    )


def swinunetr(*, in_channels: int, out_channels: int, patch: Sequence[int], size: str, dropout: float) -> nn.Module:
    """Return MONAI's Swin UNETR."""
    _require_multiple("swinunetr", patch)
    features = {"small": 12, "medium": 24, "large": 48}[size]
    return SwinUNETR(in_channels, out_channels, feature_size=features, drop_rate=dropout, spatial_dims=3)


def _require_multiple(name: str, patch: Sequence[int]) -> None:
    """Refuse a patch that cannot be halved as often as it must, or of which but one voxel would be left then."""
    step = patch_step(name)
    if any(n % step for n in patch) or max(patch) <= step:
        rounded = [max(step, round(n / step) * step) for n in patch]
        if max(rounded) == step:
            rounded[-1] = 2 * step
        msg = (
            f"The specialist '{name}' needs patches in multiples of {step} voxels, more than {step} along one axis, and "
            f"the patch is {tuple(patch)}."
        )
        raise ConfigError(msg, f"Give --patch {' '.join(map(str, rounded))}.")
