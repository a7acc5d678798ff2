"""Distances in and around a structure, computed no farther from it than they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt


def depth_inside(structure: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return how deep each voxel lies in a structure: the distance to the nearest voxel that is not of it.

    Args:
        structure: (z, y, x) true in the structure, which is neither empty nor everywhere.
        spacing: Voxel size in mm along (z, y, x).

    Returns:
        (z, y, x) in mm, 0 outside.
    """
    depth = np.zeros(structure.shape)
    # Beyond the layer of voxels around the structure's box no voxel is the nearest: one of the layer is nearer.
    box = _box(structure, (1, 1, 1))
    depth[box] = distance_transform_edt(structure[box], sampling=spacing)
    return depth


def distance_outside(structure: np.ndarray, spacing: Sequence[float], reach: float) -> np.ndarray:
    """Return how far each voxel lies from a structure.

    Args:
        structure: (z, y, x) true in the structure, which is not empty.
        spacing: Voxel size in mm along (z, y, x).
        reach: Distances beyond this, in mm, may be given as infinite.

    Returns:
        (z, y, x) in mm, 0 inside.
    """
    distance = np.full(structure.shape, np.inf)
    box = _box(structure, [int(reach / s) + 1 for s in spacing])
    distance[box] = distance_transform_edt(~structure[box], sampling=spacing)
    return distance


def _box(structure: np.ndarray, margins: Sequence[int]) -> tuple[slice, ...]:
    """Return the box around a structure and so many voxels more along each axis, as far as there are any."""
    ends = [np.flatnonzero(structure.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(max(0, int(e[0]) - m), int(e[-1]) + 1 + m) for e, m in zip(ends, margins, strict=True))
