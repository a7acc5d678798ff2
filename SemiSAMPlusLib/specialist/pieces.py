"""Structures that are one connected piece: which of the pieces that are seen is meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import KeepLargestConnectedComponent
from monai.utils import convert_to_tensor
from skimage.measure import label

from ..cohort.boxes import bounding_box, centroid
from ..cohort.plan import Centroid

#: Pieces with this share of the largest one's voxels could be meant as well as it.
_RIVAL = 0.5


def to_classes(probabilities: torch.Tensor, centroids: Sequence[Centroid | None]) -> torch.Tensor:
    """Return the likeliest class of each voxel of a whole case, without islands of structures that are one piece.

    Args:
        probabilities: (classes with background, z, y, x) in the training grid.
        centroids: The plan's.

    Returns:
        (z, y, x) uint8 class indices.
    """
    classes = probabilities.max(dim=0).indices.to(torch.uint8)  # argmax is ten times slower on a CPU.
    return keep_expected_pieces(classes, in_voxels(centroids, classes.shape))


def keep_largest_pieces(classes: torch.Tensor, one_piece: Sequence[bool]) -> torch.Tensor:
    """Return class indices without the islands of structures that are one piece, of which the largest is kept.

    Args:
        classes: (z, y, x) uint8 class indices of any region.
        one_piece: The plan's.

    Returns:
        (z, y, x) uint8; islands are background.
    """
    pieces = [index for index, whole in enumerate(one_piece, start=1) if whole]
    box = bounding_box(classes > 0) if pieces else None
    if box is None:
        return classes
    keep = KeepLargestConnectedComponent(applied_labels=pieces, is_onehot=False, connectivity=3)
    kept = classes.clone()
    kept[box] = convert_to_tensor(keep(kept[box][None]))[0].to(torch.uint8)
    return kept


def keep_expected_pieces(
    classes: torch.Tensor, expected: Sequence[np.ndarray | None], spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> torch.Tensor:
    """Return class indices without the islands of structures that are one piece, where it is known where those lie.

    The largest piece is kept, or that of at least half its voxels which is nearest to where the structure is expected: what is
    taken for the structure elsewhere in the body can be as large.

    Args:
        classes: (z, y, x) uint8 class indices of a whole case.
        expected: One per structure: the array index (3,) where its centroid is expected, inside or not; None where it comes
            in several pieces, which are all kept.
        spacing: Voxel sizes along (z, y, x) in mm.

    Returns:
        (z, y, x) uint8 on the device of ``classes``; islands are background.
    """
    box = bounding_box(classes > 0) if any(one is not None for one in expected) else None
    if box is None:
        return classes
    kept = classes.clone()
    inside, start = kept[box].cpu().numpy(), [part.start for part in box]
    for index, one in enumerate(expected, start=1):
        if one is not None:
            pieces = label(inside == index, connectivity=3)
            if pieces.max() > 1:
                meant = _meant(pieces, one - start, np.asarray(spacing))
                inside[(pieces > 0) & (pieces != meant)] = 0
    kept[box] = torch.from_numpy(inside).to(kept.device)
    return kept


def in_voxels(centroids: Sequence[Centroid | None], shape: Sequence[int]) -> list[np.ndarray | None]:
    """Return a plan's centroids as (3,) array indices (z, y, x) of a whole case in the training grid."""
    return [None if shares is None else np.asarray(shares) * shape - 0.5 for shares in centroids]


def _meant(pieces: np.ndarray, expected: np.ndarray, spacing: np.ndarray) -> int:
    """Return the number of the piece that is the structure, of pieces numbered from 1."""
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    rivals = np.flatnonzero(sizes >= _RIVAL * sizes.max())
    if len(rivals) == 1:
        return int(rivals[0])
    return int(min(rivals, key=lambda rival: np.linalg.norm((centroid(pieces == rival) - expected) * spacing)))
