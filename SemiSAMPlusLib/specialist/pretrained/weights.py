"""Weights that learned from made-up volumes, put into an untrained network of their kind."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

#: The weights that come with the program, of `unet3d` in the size `small`.
WEIGHTS = Path(__file__).with_name("weights.safetensors")

#: What sees the image; trained on one channel.
_FIRST = ("model.0.conv.unit0.conv.weight", "model.0.residual.weight")


def begin_pretrained(network: nn.Module) -> bool:
    """Give a network the pre-trained weights, if it is of their kind; its last layers, which know the classes, stay untrained.

    Args:
        network: Untrained; of several channels it sees the mean at first.

    Returns:
        Whether it is of their kind; another one is left as it is.
    """
    weights, own = load_file(WEIGHTS), network.state_dict()
    for name in _FIRST:
        if name in own:
            channels = own[name].shape[1]
            weights[name] = weights[name].repeat(1, channels, 1, 1, 1) / channels
    if any(name not in own or own[name].shape != value.shape for name, value in weights.items()):
        return False
    network.load_state_dict(weights, strict=False)
    return True
