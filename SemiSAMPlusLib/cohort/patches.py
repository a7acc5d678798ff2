"""The two streams of patches: labelled and unlabelled, cut from volumes that are kept ready within a bound of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from .augmentation import IntensityAugmentation, SpatialAugmentation, look_up
from .cohort import Case, Class
from .outputs import read_label
from .plan import Plan
from .volume import Grid, read_volume, resample, triple

#: Applies a function to numbers, in order.
Map = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]


@dataclass(frozen=True)
class PreparedCase:
    """A case in its training grid.

    Attributes:
        case: Which case.
        image: (channel, z, y, x) float32, normalised.
        label: (1, z, y, x) uint8 class indices, or None where the label was not asked for.
        grid: Where the voxels lie.
    """

    case: Case
    image: torch.Tensor
    label: torch.Tensor | None
    grid: Grid

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.image.nbytes + (self.label.nbytes if self.label is not None else 0)


class CaseCache:
    """Prepares cases and keeps those used last within a bound of memory; several threads may ask it.

    Args:
        plan: Spacing and normalisation.
        classes: The structures to learn.
        limit_bytes: The bound; at least one case is kept whatever its size.
        device: Where the tensors are kept.
    """

    def __init__(self, plan: Plan, classes: Sequence[Class], limit_bytes: int, device: torch.device) -> None:
        self._plan, self._classes, self._limit, self._device = plan, tuple(classes), limit_bytes, device
        self._kept: OrderedDict[tuple[str, bool], PreparedCase] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, case: Case, *, with_label: bool) -> PreparedCase:
        """Return the case, prepared now or before.

        Args:
            case: Which case.
            with_label: Whether to open its label file; never so for unlabelled cases.
        """
        key = (case.name, with_label)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            prepared = prepare(case, self._plan, self._classes if with_label else None, self._device)
            self._kept[key] = prepared
            while len(self._kept) > 1 and sum(p.nbytes for p in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
            return prepared


def prepare(case: Case, plan: Plan, classes: Sequence[Class] | None, device: torch.device | str) -> PreparedCase:
    """Bring a case to its training grid and its grey values to one scale.

    Args:
        case: Which case.
        plan: Spacing and normalisation.
        classes: The structures of the label, or None to leave the label file closed.
        device: Where the tensors are wanted.
    """
    volume = read_volume(case, plan.spacing)
    image = np.stack([n(channel) for n, channel in zip(plan.normalizations, volume.array, strict=True)])
    label = None
    if classes is not None and case.label is not None:
        on_grid = resample(read_label(case.label, classes), volume.grid, interpolator=sitk.sitkNearestNeighbor)
        label = torch.from_numpy(sitk.GetArrayFromImage(on_grid)[None]).to(device)
    return PreparedCase(case, torch.from_numpy(image).to(device), label, volume.grid)


@dataclass(frozen=True)
class Patch:
    """A patch as the specialist sees it, and where it came from.

    Attributes:
        source: The case it was cut from.
        image: (channel, z, y, x) float32, deformed and disturbed.
        label: (1, z, y, x) long class indices, or None.
        coordinates: (3, z, y, x) array indices (z, y, x) in the case's training grid.
        start: Array index (z, y, x) of the first voxel of the same patch, undeformed.
    """

    source: PreparedCase
    image: torch.Tensor
    label: torch.Tensor | None
    coordinates: torch.Tensor
    start: tuple[int, int, int]

    def undeformed_coordinates(self) -> torch.Tensor:
        """Return (3, z, y, x) array indices in the same patch undeformed, to bring what was found there to this one."""
        start = torch.as_tensor(self.start, dtype=torch.float32, device=self.coordinates.device)
        return self.coordinates - start.view(3, 1, 1, 1)


class PatchStream:
    """Draws patches of cases; the same seed and iteration give the same patches, whatever was drawn before.

    Args:
        cases: What to draw from.
        cache: Where prepared cases come from.
        spatial: How patches are deformed.
        intensity: How their grey values are disturbed.
        seed: Of this stream.
        with_label: Whether labels are drawn too; half of such patches are centred on a structure.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        cache: CaseCache,
        spatial: SpatialAugmentation,
        intensity: IntensityAugmentation,
        *,
        seed: int,
        with_label: bool,
    ) -> None:
        self._cases, self._cache, self._seed, self._with_label = tuple(cases), cache, seed, with_label
        self._spatial, self._intensity = spatial, intensity

    def draw(self, iteration: int, count: int, *, map: Map = map) -> list[Patch]:
        """Return the ``count`` patches of an iteration; every case comes once before any comes again.

        Args:
            iteration: Which step.
            count: How many.
            map: What applies the drawing to each patch, maybe side by side; as Python's own ``map``.
        """
        return list(map(self._draw, range(iteration * count, (iteration + 1) * count)))

    def coming(self, iteration: int, count: int) -> list[Case]:
        """Return every case once, in the order in which ``count`` patches an iteration draw them from ``iteration`` on."""
        numbers = range(iteration * count, iteration * count + 2 * len(self._cases))
        return list({case.name: case for case in map(self._case, numbers)}.values())

    def _case(self, number: int) -> Case:
        turn, place = divmod(number, len(self._cases))
        order = np.random.default_rng((self._seed, 1, turn)).permutation(len(self._cases))
        return self._cases[order[place]]

    def _draw(self, number: int) -> Patch:
        source = self._cache.get(self._case(number), with_label=self._with_label)
        random = np.random.default_rng((self._seed, 2, number))
        centre = self._centre(source, random)
        coordinates = self._spatial.coordinates(centre, random).to(source.image.device)
        label = None
        if source.label is not None:
            label = look_up(source.label, coordinates, nearest=True, outside=0.0).round().long()
        image = self._intensity(look_up(source.image, coordinates), random)
        start = triple((round(c - (n - 1) / 2) for c, n in zip(centre, self._spatial.patch, strict=True)), int)
        return Patch(source, image, label, coordinates, start)

    def _centre(self, source: PreparedCase, random: np.random.Generator) -> tuple[float, float, float]:
        """Draw where the patch's middle lies; a patch that fits stays inside, one that does not is centred."""
        shape, patch = np.asarray(source.image.shape[1:]), np.asarray(self._spatial.patch)
        low = np.minimum((patch - 1) / 2, (shape - 1) / 2)
        high = np.maximum(shape - 1 - low, low)
        wanted = random.uniform(low, high)
        if source.label is not None and random.random() < 0.5:
            present = np.unique(source.label.cpu().numpy())
            structures = present[present > 0]
            if structures.size:
                voxels = torch.nonzero(source.label[0] == int(random.choice(structures)))
                wanted = voxels[int(random.integers(len(voxels)))].cpu().numpy() + random.uniform(-4, 4, 3)
        return triple(np.clip(wanted, low, high), float)
