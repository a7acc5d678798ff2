"""Whether the device has room for a training: estimated before anything is started."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch
from torch import nn

from ..errors import DeviceError


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def estimate_training_bytes(make_network: Callable[[], nn.Module], image_shape: tuple[int, ...]) -> int:
    """Estimate the memory that a training step takes, without taking it.

    Every layer's output is kept for the backward pass and most once more as its gradient; weights come five times
    (themselves, gradient, two moments of AdamW, average).

    Args:
        make_network: Makes the network.
        image_shape: Shape (batch, channels, z, y, x) of what goes through it in one step.
    """
    kept = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal kept
        if isinstance(output, torch.Tensor):
            kept += output.numel()

    # Of a network that does not come through as much is known as it came to.
    network, _ = _send_through(make_network, image_shape, count)
    weights = sum(parameter.numel() for parameter in network.parameters())
    return 4 * (2 * kept + 5 * weights)


def convolves_thinly(make_network: Callable[[], nn.Module], image_shape: tuple[int, ...]) -> bool:
    """Return whether some layer convolves fewer slices than its kernel is deep, or nobody can tell.

    Args:
        make_network: Makes the network.
        image_shape: Shape (batch, channels, z, y, x) of what goes through it in one step.
    """
    thin = False

    def look(layer: nn.Module, given: tuple[torch.Tensor, ...], _: object) -> None:
        nonlocal thin
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
            thin = thin or given[0].shape[2] < layer.kernel_size[0]

    _, came_through = _send_through(make_network, image_shape, look)
    return thin or not came_through


def _send_through(
    make_network: Callable[[], nn.Module], image_shape: tuple[int, ...], look: Callable[..., None]
) -> tuple[nn.Module, bool]:
    """Send an image without numbers through a network, and show each innermost layer with what it is given and gives.

    Returns:
        The network, and whether it came through: a user's own may look at numbers, which are not there.
    """
    # Made with memory of its own and moved then: some networks look at numbers while they are made.
    with torch.random.fork_rng(devices=[]):
        network = make_network().to("meta")
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(look)
    try:
        network(torch.zeros(image_shape, device="meta"))
    except RuntimeError:
        return network, False
    return network, True


def require_memory(device: torch.device, needed: int, patch: tuple[int, int, int], batch: int) -> None:
    """Refuse a training that cannot fit.

    Raises:
        DeviceError: If the estimate is beyond the free memory; offers a smaller batch or patch.
    """
    free = free_memory(device)
    if needed <= free:
        return
    raise out_of_memory(device, patch, batch, f"needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")


def out_of_memory(device: torch.device, patch: tuple[int, int, int], batch: int, reason: str) -> DeviceError:
    """Return the error that says a step does not fit, and offers the next smaller one."""
    smaller = " ".join(str(max(16, n * 3 // 4 // 8 * 8)) for n in patch)
    offer = "--batch 1" if batch > 1 else f"--patch {smaller}"
    msg = f"A training step with patch {' '.join(map(str, patch))} and batch {batch} does not fit on {device}: it {reason}."
    return DeviceError(msg, f"Train with {offer}, with --size small, or on another device.")
