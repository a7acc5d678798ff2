"""Samples to learn from: a made-up volume, and one structure in it that is to be found. No real scan, no real label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ...synthesis.appearance import draw_images
from ...synthesis.shapes import FIRST_OBJECT, FIRST_REST, FIRST_WALL, OBJECTS, LabelMaps, choose, draw_label_maps
from .encoding import normalized

#: Labels that are asked for, alone or with what they hold, are no smaller and no larger than these shares of the volume.
_SMALLEST, _LARGEST = 0.006, 0.35
#: Pieces of a structure below this share of the volume are not asked for where a larger one is there.
_SMALLEST_PIECE = 0.004
#: How often an object, rather than a cell of the background, is asked for.
_OBJECT_WEIGHT, _CELL_WEIGHT = 1.0, 0.2


@dataclass(frozen=True)
class Samples:
    """Samples, several of each volume.

    Attributes:
        images: (sample, z, y, x) float32, normalised.
        known: (sample, z, y, x) whether a voxel lies in the field of view; the image is 0 elsewhere.
        targets: (sample, z, y, x) whether a voxel belongs to the structure; one piece.
        labels: (sample, z, y, x) the label map, for those who want to make mistakes with the structure's neighbours.
    """

    images: torch.Tensor
    known: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor


def draw_samples(volumes: int, structures: int, size: int, random: torch.Generator) -> Samples:
    """Draw samples.

    Args:
        volumes: How many volumes are made.
        structures: How many structures are asked for in each.
        size: Voxels along each side; even.
        random: Where chance comes from; equal states give equal samples.
    """
    maps = draw_label_maps(volumes, size, random)
    images = draw_images(maps.labels, random)
    known = _fields_of_view(volumes, size, random)
    images = normalized(images, known)
    targets = [
        _choose_structure(maps, index, known[index], random) for index in range(volumes) for _ in range(structures)
    ]
    return Samples(
        images.repeat_interleave(structures, dim=0),
        known.repeat_interleave(structures, dim=0),
        torch.stack(targets),
        maps.labels.repeat_interleave(structures, dim=0),
    )


def _fields_of_view(count: int, size: int, random: torch.Generator) -> torch.Tensor:
    """Return (count, z, y, x) what was scanned: one volume in three ends within the region, on one side or more."""
    known = torch.ones((count, *(size,) * 3), dtype=torch.bool)
    ends = choose((count,), 0.35, random)
    sides = torch.rand((count, 3, 2), generator=random) * 0.3 * choose((count, 3, 2), 0.45, random)
    for index in torch.nonzero(ends)[:, 0].tolist():
        for axis in range(3):
            low, high = (round(float(share) * size) for share in sides[index, axis])
            known[index].narrow(axis, 0, low).fill_(False)
            known[index].narrow(axis, size - high, high).fill_(False)
    return known


def _centred(labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return how readily each label is asked for: a region of interest has its structure in the middle, and whole."""
    size = labels.shape[-1]
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    outer = torch.ones_like(known)
    outer[1:-1, 1:-1, 1:-1] = False
    flat, number = labels.reshape(-1), FIRST_WALL + OBJECTS
    counts = torch.bincount(flat, minlength=number).clamp(min=1)
    offset = torch.zeros(number)
    for places in torch.meshgrid(axis, axis, axis, indexing="ij"):
        offset += (torch.bincount(flat, places.reshape(-1), minlength=number) / counts).square().float()
    at_border = torch.bincount(flat, outer.reshape(-1).float(), minlength=number) / counts ** (2 / 3)
    return torch.exp(-offset / 0.2 - at_border).float().clamp(min=1e-6)


def _choose_structure(maps: LabelMaps, index: int, known: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Return (z, y, x) one structure of a volume: a label, maybe with what it holds, of which one piece is kept."""
    labels = maps.labels[index]
    counts = torch.bincount(labels[known], minlength=FIRST_WALL + OBJECTS).float()
    fits = (counts >= _SMALLEST * labels.numel()) & (counts <= _LARGEST * labels.numel())
    weights = torch.full_like(counts, _OBJECT_WEIGHT)
    weights[:FIRST_OBJECT], weights[FIRST_REST:], weights[FIRST_WALL:] = _CELL_WEIGHT, 0.2, 0.05
    # The larger ones rather, as far as chance brings more small ones.
    weights = weights * counts.sqrt() * fits * _centred(labels, known)
    # A volume that shows nothing of a fitting size is asked for whatever fills it most.
    label = int(torch.multinomial(weights, 1, generator=random)) if weights.any() else int(counts.argmax())
    wanted = {label}
    with_rest, with_core, with_wall = choose((3,), 0.5, random).tolist()
    if FIRST_OBJECT <= label < FIRST_REST:
        k = label - FIRST_OBJECT
        if with_rest:
            wanted.add(FIRST_REST + k)
        if with_core:  # What it holds, and what that holds in its turn.
            for child in range(k + 1, OBJECTS):
                if int(maps.parents[index, child]) + FIRST_OBJECT in wanted:
                    wanted |= {FIRST_OBJECT + child, FIRST_REST + child, FIRST_WALL + child}
            if with_wall:
                wanted.add(FIRST_WALL + k)
    structure = torch.isin(labels, torch.tensor(sorted(wanted))) & known
    pieces, number = ndimage.label(structure.numpy())
    if number > 1:
        sizes = np.bincount(pieces.ravel())[1:].astype(float)
        sizes[sizes < min(_SMALLEST_PIECE * labels.numel(), sizes.max())] = 0
        piece = int(torch.multinomial(torch.from_numpy(sizes**2), 1, generator=random))
        structure = torch.from_numpy(pieces == piece + 1)
    return structure
