"""Where a mask is: the box of what is true, and its centroid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

#: Slices along (z, y, x).
Box: TypeAlias = tuple[slice, slice, slice]


def extent(mask: np.ndarray | torch.Tensor) -> np.ndarray | None:
    """Return the first and the last index (2, 3) of what is true along each axis, or None where nothing is.

    Args:
        mask: (z, y, x) boolean.
    """
    array = mask if isinstance(mask, np.ndarray) else mask.cpu().numpy()
    lines = np.asarray(array.any(axis=2))
    if not lines.any():
        return None
    planes = (lines.any(axis=1), lines.any(axis=0), array.any(axis=(0, 1)))
    return np.array([np.flatnonzero(plane)[[0, -1]] for plane in planes]).T


def centroid(mask: np.ndarray) -> np.ndarray:
    """Return the mean index (3,) of what is true along each axis; 0 where nothing is.

    Args:
        mask: (z, y, x) boolean.
    """
    planes = (mask.sum(axis=(1, 2)), mask.sum(axis=(0, 2)), mask.sum(axis=(0, 1)))
    return np.array([counts @ np.arange(len(counts)) / max(1, counts.sum()) for counts in planes])


def bounding_box(mask: np.ndarray | torch.Tensor, margins: Sequence[int] = (0, 0, 0)) -> Box | None:
    """Return the box of what is true and so many voxels more along each axis, as far as there are any; None where nothing is.

    Args:
        mask: (z, y, x) boolean.
        margins: Voxels along (z, y, x).
    """
    ends = extent(mask)
    return None if ends is None else box_of(ends, margins, mask.shape)


def box_of(ends: np.ndarray, margins: Sequence[int], shape: Sequence[int]) -> Box:
    """Return the box of an extent (2, 3) and so many voxels more along each axis, as far as ``shape`` has any."""
    z, y, x = (
        slice(max(0, first - margin), min(size, last + 1 + margin))
        for first, last, margin, size in zip(*ends.tolist(), margins, shape, strict=True)
    )
    return z, y, x
