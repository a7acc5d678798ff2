"""Distances in and around a structure, computed no farther from it than they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from .boxes import bounding_box


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
    box = bounding_box(structure, (1, 1, 1))
    assert box is not None
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
    box = bounding_box(structure, [int(reach / s) + 1 for s in spacing])
    assert box is not None
    distance[box] = distance_transform_edt(~structure[box], sampling=spacing)
    return distance
