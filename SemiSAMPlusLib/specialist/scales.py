"""A case shown to the specialist larger and smaller too, and the mean of what it says: test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from ..cohort.boxes import bounding_box
from .inference import where_structures_can_be

#: The sizes, beside its own, in which a case is shown. Where structures end a network is of several minds, and which of them
#: it says depends on the size; rotated, shifted, brighter or noisier looks told nothing more (docs/results.md).
FURTHER_SCALES = (0.9, 1.1)


def average_over_scales(
    look: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, *, scales: Sequence[float], patch: Sequence[int]
) -> torch.Tensor:
    """Return the mean class probabilities of a case in its own size and in others.

    Test-time augmentation by scale alone (Wang et al., Neurocomputing 2019). Further sizes are looked at only around what
    the first look gave more than 10 % anywhere; elsewhere, and where that is nowhere, the first look stands.

    Args:
        look: Maps an image (channels, z, y, x) to class probabilities (classes with background, z, y, x).
        image: (channels, z, y, x) normalised, in the training grid.
        scales: The further sizes, as multiples of its own.
        patch: (z, y, x) what the specialist sees at once; half of it around structures is looked at too.

    Returns:
        (classes with background, z, y, x), as the first look gave them.
    """
    said = look(image)
    box = bounding_box(where_structures_can_be(said), [n // 2 for n in patch]) if scales else None
    if box is None:
        return said
    part, mean = image[(slice(None), *box)].float(), said[(slice(None), *box)]
    size = tuple(part.shape[1:])
    for scale in scales:
        scaled = functional.interpolate(part[None], [max(1, round(n * scale)) for n in size], mode="trilinear")[0]
        for one, other in zip(mean, look(scaled), strict=True):  # Class by class, so that temporaries stay small.
            one += functional.interpolate(other[None, None].float(), size, mode="trilinear")[0, 0].to(one.dtype)
    mean /= 1 + len(scales)
    return said
