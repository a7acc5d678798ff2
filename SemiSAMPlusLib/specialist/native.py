"""From the training grid back to an input's own grid, slab by slab: there probabilities of all classes may fill the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import SimpleITK as sitk
import torch

from ..cohort.boxes import Box, bounding_box
from ..cohort.plan import Centroid
from ..cohort.volume import Grid
from .inference import predictive_entropy
from .pieces import in_voxels, keep_expected_pieces

#: Bytes of the probabilities of a slab.
_SLAB = 64_000_000
#: How much likelier than a structure background must be, for a voxel to be surely background whatever is rounded.
_SURE = 0.01


def native_classes(
    probabilities: np.ndarray, grid: Grid, native: Grid, centroids: Sequence[Centroid | None]
) -> np.ndarray:
    """Return the likeliest class of each voxel of an input's own grid.

    Only where a structure can be, probabilities are resampled: interpolation finds nothing between voxels that are all
    background.

    Args:
        probabilities: (classes with background, z, y, x) on ``grid``; they add up to 1.
        grid: The training grid.
        native: The input's own grid.
        centroids: The plan's: islands of structures that have one go to background.

    Returns:
        (z', y', x') uint8 class indices.
    """
    classes = np.zeros(native.shape, dtype=np.uint8)
    # Structure by structure and row by row: no temporary is as large as the probabilities.
    possible = np.zeros(grid.shape, dtype=bool)
    for row, found in enumerate(possible):
        found[:] = (probabilities[1:, row] > probabilities[0, row] - _SURE).any(axis=0)
    region = bounding_box(possible)
    if region is not None:
        inside = _box_on(native, grid, region)
        for box in _slabs(native, len(probabilities), inside):
            resampled = torch.from_numpy(_with_background(probabilities, grid, native, box))
            classes[box] = resampled.max(dim=0).indices.to(torch.uint8).numpy()  # argmax is ten times slower.
        start = [part.start for part in inside]
        expected = [
            None if index is None else native.to_index(grid.to_physical(index[None]))[0] - start
            for index in in_voxels(centroids, grid.shape)
        ]
        classes[inside] = keep_expected_pieces(
            torch.from_numpy(classes[inside]), expected, native.spacing[::-1]
        ).numpy()
    return classes


def native_entropy(probabilities: np.ndarray, grid: Grid, native: Grid) -> np.ndarray:
    """Return :func:`predictive_entropy` (z', y', x') on an input's own grid, of probabilities on the training grid."""
    entropy = np.empty(native.shape, dtype=np.float32)
    for box in _slabs(native, len(probabilities), (slice(None), slice(None), slice(None))):
        entropy[box] = predictive_entropy(_with_background(probabilities, grid, native, box))
    return entropy


def _with_background(probabilities: np.ndarray, grid: Grid, native: Grid, box: Box) -> np.ndarray:
    """Return (classes with background, z', y', x') of a box of the native grid; background is what structures leave."""
    start = [part.start for part in box]
    target = native.cropped(start, [part.stop - part.start for part in box])
    result = np.empty((len(probabilities), *target.shape), dtype=np.float32)
    result[1:] = to_native(probabilities[1:], grid, target)
    # Rounded, structures can add up to more than 1; the entropy of less than nothing would be below 0.
    np.subtract(1, result[1:].sum(axis=0).clip(max=1), out=result[0])
    return result


def to_native(maps: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """Resample maps onto an input's own grid, or a box of it; only what lies around it is looked at.

    Args:
        maps: (channels, z, y, x) on ``grid``.
        grid: The training grid.
        target: Where they are wanted.

    Returns:
        (channels, z', y', x') float32; beyond ``grid``, by at most half of its voxels, what lies nearest.
    """
    whole: Box = (slice(0, target.shape[0]), slice(0, target.shape[1]), slice(0, target.shape[2]))
    box = _box_on(grid, target, whole)
    part = grid.cropped([one.start for one in box], [one.stop - one.start for one in box])
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(target.reference())
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    # Clamped at the border: the training grid covers the field of view but for half a voxel of rounding.
    resampler.UseNearestNeighborExtrapolatorOn()
    result = np.empty((len(maps), *target.shape), dtype=np.float32)
    for channel, resampled in zip(maps, result, strict=True):
        # It has a name of its own: a view of its voxels does not keep it alive.
        image = resampler.Execute(part.image(channel[box].astype(np.float32)))
        resampled[:] = sitk.GetArrayViewFromImage(image)
    return result


def _box_on(grid: Grid, other: Grid, box: Box) -> Box:
    """Return the box on ``grid`` of all that a box on ``other`` can have to do with, by interpolation either way."""
    # A voxel reaches to its neighbours, and where the field of view ends half a voxel further.
    corners = np.array(list(product(*((part.start - 2, part.stop + 1) for part in box))), dtype=float)
    indices = grid.to_index(other.to_physical(corners))
    low = np.clip(np.floor(indices.min(axis=0)).astype(int) - 2, 0, np.array(grid.shape) - 1)
    high = np.clip(np.ceil(indices.max(axis=0)).astype(int) + 3, low + 1, grid.shape)
    first, second, third = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return first, second, third


def _slabs(native: Grid, classes: int, box: Box) -> Iterator[Box]:
    """Cut a box of the native grid along its first axis."""
    z, y, x = (slice(*part.indices(size)) for part, size in zip(box, native.shape, strict=True))
    rows = max(1, _SLAB // (4 * classes * (y.stop - y.start) * (x.stop - x.start)))
    for first in range(z.start, z.stop, rows):
        yield slice(first, min(first + rows, z.stop)), slice(y.start, y.stop), slice(x.start, x.stop)
