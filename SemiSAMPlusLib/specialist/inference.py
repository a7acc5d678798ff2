"""What a specialist says of a whole case in the training grid: windows everywhere, more of them where structures are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from math import log, prod

import numpy as np
import torch
from monai.data.utils import compute_importance_map
from torch import nn
from torch.nn import functional

from ..cohort.boxes import bounding_box
from .windows import Start, plan_windows

#: A structure can be where a window gives all of them together any more than this. To be the likeliest class, a structure
#: needs 0.5 of all together; at the corners of windows networks give a few per cent to nothing at all.
_SEEN = 0.1
#: So many voxels around what no window has covered are looked at too, before it is left at the squeezed look.
_MARGIN = 4
#: Windows that go through the network together: so many, but no more voxels than this, so that memory stays small.
_BATCH, _BATCH_VOXELS = 2, 1_000_000
#: Bytes that sums over windows may take in float32; larger ones are kept in half precision.
_FLOAT32_BYTES = 1_000_000_000


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return the context in which networks compute with ``precision``: float32, bfloat16 or float16."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


@torch.no_grad()
def predict_probabilities(
    network: nn.Module, image: torch.Tensor, *, patch: Sequence[int], precision: str = "float32"
) -> torch.Tensor:
    """Return class probabilities of a whole case by windows of the patch's size, blended by Gaussian weights.

    The windows are half of those of a sliding window with an overlap of one half, and fewer where nothing is to be
    seen; see :class:`~SemiSAMPlusLib.specialist.windows.WindowPlan`. Every voxel is looked at at least once, in the
    training grid or, in a case hardly larger than the patch, squeezed by a quarter at most. A window is left out only
    if no window that was looked at gave the structures together more than 10 % anywhere in it (where a structure is the
    likeliest class, they have 50 % or more); what further windows see can make further ones necessary.

    Args:
        network: A specialist; it is put into evaluation mode and left so.
        image: (channels, z, y, x) normalised, in the training grid.
        patch: Window size (z, y, x).
        precision: Of the network's arithmetic.

    Returns:
        (classes, z, y, x) on the device of ``image``: float32, or float16 where that would take more than a gigabyte.
    """
    network.eval()
    padded, inside = _padded(image, patch)
    with arithmetic(image.device, precision):
        if padded.shape[1:] == tuple(patch):
            return network(padded[None]).float()[0].softmax(dim=0)[inside]
        looks = _Looks(network, padded, tuple(patch))
        looks.look_everywhere()
        looks.look_closer()
    return looks.probabilities()[inside]


def _padded(image: torch.Tensor, patch: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Return the image no smaller than the patch, and where the image lies in it."""
    before = [max(0, p - n) // 2 for n, p in zip(image.shape[1:], patch, strict=True)]
    inside = (slice(None), *(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True)))
    shape = [max(n, p) for n, p in zip(image.shape[1:], patch, strict=True)]
    if list(image.shape[1:]) == shape:
        return image, inside
    # Beyond the field of view there is the scan's least value, as in training.
    padded = torch.full((image.shape[0], *shape), float(image.amin()), dtype=image.dtype, device=image.device)
    padded[inside] = image
    return padded, inside


class _Looks:
    """What windows have said so far of a case, and where they saw a structure.

    Blending logits, a voxel at which no window gives the structures together more than some share gets no more from
    all of them: the logarithm of a sum of exponentials is convex.
    """

    def __init__(self, network: nn.Module, image: torch.Tensor, window: tuple[int, ...]) -> None:
        self._network, self._image, self._window = network, image, window
        self._plan = plan_windows(image.shape[1:], window)
        self._weight = compute_importance_map(window, mode="gaussian", sigma_scale=0.125, device=image.device)
        self._seen = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
        self._sum: torch.Tensor | None = None
        self._weights = torch.empty(0)
        self._squeezed: torch.Tensor | None = None

    def look_everywhere(self) -> None:
        """Show the network the windows that are looked at always."""
        if self._plan.squeezed:
            squeezed = functional.interpolate(self._image[None], self._window, mode="trilinear")
            logits = functional.interpolate(
                self._network(squeezed).float(), tuple(self._image.shape[1:]), mode="trilinear"
            )[0]
            self._squeezed = logits
            self._seen |= _shows_structures(logits[None])[0]
        self._look(self._plan.first)

    def look_closer(self) -> None:
        """Show it the others where a structure can be, until nothing new comes to light."""
        left = list(self._plan.second)
        while chosen := [start for start in left if self._is_needed(start)]:
            self._look(chosen)
            left = [start for start in left if start not in chosen]

    def _is_needed(self, start: Start) -> bool:
        place = self._place(start)
        if not self._plan.squeezed:
            return bool(self._seen[place].any())
        # The corners that no other window covers; what windows see elsewhere they have seen well.
        assert self._sum is not None
        bare = bounding_box(self._weights[place] == 0)
        if bare is None:
            return False
        around = tuple(
            slice(max(0, s + part.start - _MARGIN), s + part.stop + _MARGIN)
            for s, part in zip(start, bare, strict=True)
        )
        if self._seen[around].any():
            return True
        # Nothing has been added up where no window was, and equal sums of all classes would pass for structures.
        blended = self._sum[(slice(None), *around)].float() / self._weights[around].float().clamp(min=1e-6)
        return bool((_shows_structures(blended[None])[0] & (self._weights[around] > 0)).any())

    def _place(self, start: Start) -> tuple[slice, ...]:
        return tuple(slice(s, s + n) for s, n in zip(start, self._window, strict=True))

    def _look(self, starts: Sequence[Start]) -> None:
        size = max(1, min(_BATCH, _BATCH_VOXELS // prod(self._window)))
        for first in range(0, len(starts), size):
            places = [self._place(start) for start in starts[first : first + size]]
            logits = self._network(torch.stack([self._image[(slice(None), *place)] for place in places])).float()
            total, weights = self._sums(logits.shape[1])
            for place, said in zip(places, logits, strict=True):
                total[(slice(None), *place)] += (said * self._weight).to(total.dtype)
                weights[place] += self._weight.to(weights.dtype)
                if not self._plan.squeezed:
                    self._seen[place] |= _shows_structures(said[None])[0]

    def _sums(self, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._sum is None:
            shape, device = self._image.shape[1:], self._image.device
            dtype = torch.float32 if 4 * (classes + 1) * prod(shape) <= _FLOAT32_BYTES else torch.float16
            self._sum = torch.zeros((classes, *shape), dtype=dtype, device=device)
            self._weights = torch.zeros(shape, dtype=dtype, device=device)
        return self._sum, self._weights

    def probabilities(self) -> torch.Tensor:
        """Return class probabilities (classes, z, y, x), in the place of the sums."""
        assert self._sum is not None
        for row in _rows(self._sum.shape[1]):
            weights = self._weights[row].float()
            logits = self._sum[:, row].float() / weights.clamp(min=1e-6)
            if self._squeezed is not None:
                logits = torch.where(weights > 0, logits, self._squeezed[:, row])
            self._sum[:, row] = logits.softmax(dim=0).to(self._sum.dtype)
        return self._sum


def _rows(count: int, size: int = 16) -> Iterator[slice]:
    """Cut the first axis, so that temporaries stay small."""
    return (slice(first, first + size) for first in range(0, count, size))


def _shows_structures(logits: torch.Tensor) -> torch.Tensor:
    """Return where (batch, z, y, x) all structures together have more than ``_SEEN``, of logits (batch, classes, ...)."""
    structures = logits[:, 1] if logits.shape[1] == 2 else logits[:, 1:].logsumexp(dim=1)
    return structures - logits[:, 0] > log(_SEEN / (1 - _SEEN))


def where_structures_can_be(probabilities: torch.Tensor) -> torch.Tensor:
    """Return where (z, y, x) all structures together have more than 10 %, of probabilities (classes with background, z, y, x)."""
    return probabilities[0] < 1 - _SEEN


def predictive_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of class probabilities (classes, z, y, x) as a share of the greatest possible, (z, y, x) in 0..1."""
    entropy = -(probabilities * np.log(np.clip(probabilities, 1e-6, 1))).sum(axis=0)
    return (entropy / np.log(len(probabilities))).astype(np.float32)
