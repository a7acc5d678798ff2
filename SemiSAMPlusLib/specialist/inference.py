"""What a specialist says of a whole case: sliding windows in the training grid, brought back to the input's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from monai.transforms import KeepLargestConnectedComponent
from monai.utils import convert_to_tensor
from torch import nn

from ..cohort.volume import Grid


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return the context in which networks compute with ``precision``: float32, bfloat16 or float16."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


@torch.no_grad()
def predict_probabilities(
    network: nn.Module,
    image: torch.Tensor,
    *,
    patch: Sequence[int],
    precision: str = "float32",
    overlap: float = 0.5,
) -> torch.Tensor:
    """Return class probabilities of a whole case by MONAI's sliding windows.

    Args:
        network: A specialist; it is put into evaluation mode and left so.
        image: (channels, z, y, x) normalised, in the training grid.
        patch: Window size (z, y, x).
        precision: Of the network's arithmetic.
        overlap: Share of a window that the next one covers again.

    Returns:
        (classes, z, y, x) float32 on the device of ``image``.
    """
    network.eval()
    # Beyond the field of view there is the scan's least value, as in training; windows pad with zeros.
    floor = image.amin()
    shape = [max(n, p) for n, p in zip(image.shape[1:], patch, strict=True)]
    before = [(wide - n) // 2 for wide, n in zip(shape, image.shape[1:], strict=True)]
    padded = torch.full((1, image.shape[0], *shape), float(floor), device=image.device)
    inside = (..., *(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True)))
    padded[inside] = image
    with arithmetic(image.device, precision):
        logits = sliding_window_inference(
            padded, tuple(patch), 1, lambda window: network(window).float(), overlap=overlap, mode="gaussian"
        )
    return torch.as_tensor(logits)[inside][0].softmax(dim=0)


def to_classes(probabilities: torch.Tensor, one_piece: Sequence[bool]) -> torch.Tensor:
    """Return class indices (z, y, x) uint8; islands of structures that are one piece go to background."""
    classes = probabilities.max(dim=0, keepdim=True).indices  # argmax is ten times slower on a CPU.
    pieces = [index for index, whole in enumerate(one_piece, start=1) if whole]
    if pieces:
        keep = KeepLargestConnectedComponent(applied_labels=pieces, is_onehot=False, connectivity=3)
        classes = convert_to_tensor(keep(classes))
    return classes[0].to(torch.uint8)


def to_native(probabilities: np.ndarray, grid: Grid, native: Grid) -> np.ndarray:
    """Resample class probabilities onto an input's own grid.

    Args:
        probabilities: (classes, z, y, x) on ``grid``.
        grid: The training grid.
        native: The input's own grid.

    Returns:
        (classes, z', y', x') float32; beyond ``grid``, by at most half of its voxels, what lies nearest.
    """
    # Clamped at the border: the training grid covers the field of view but for half a voxel of rounding.
    resampled = [
        sitk.GetArrayFromImage(_resample_clamped(grid.image(channel.astype(np.float32)), native))
        for channel in probabilities
    ]
    return np.stack(resampled)


def _resample_clamped(image: sitk.Image, grid: Grid) -> sitk.Image:
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid.reference())
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    resampler.UseNearestNeighborExtrapolatorOn()
    return resampler.Execute(image)


def predictive_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of class probabilities (classes, z, y, x) as a share of the greatest possible, (z, y, x) in 0..1."""
    entropy = -(probabilities * np.log(np.clip(probabilities, 1e-6, 1))).sum(axis=0)
    return (entropy / np.log(len(probabilities))).astype(np.float32)
