"""`synthetic` as a generalist: a region around the prompts is brought to the network's grid, and its answer back, by geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import avg_pool3d, pad

from ...cohort.augmentation import look_up, straight_coordinates
from ...cohort.boxes import extent
from ...cohort.volume import Grid, Volume, triple
from ..generalist import PromptSet
from ..loading import check_state, load_state
from ..weights import known_sha256
from .encoding import EncodedPrompts, encode, normalized
from .network import SyntheticNetwork, fast_dtype

#: The weights that come with the program.
WEIGHTS = Path(__file__).with_name("weights.safetensors")

#: Voxels of a region, as many as the cubes of 48 on which the network was trained.
_VOXELS = 48**3
#: A region's sides are multiples of this many voxels, since the network halves them four times.
_STEP = 16
#: No side of a region is shorter than this share of the longest.
_FLATTEST = 0.4
#: A structure shall fill this share of the region's side.
_SHARE = 0.62
#: The region's side in mm where nothing but points is known and the volume is larger.
_FIRST_SIDE = 160.0
#: Where the answer reaches nearer than this many voxels to the region's side, a larger region is looked at.
_RIM = 2
#: How often a region is looked at anew.
_LOOKS = 2
#: So much is taken off its logits. Made-up neighbours mostly look different, real ones do not, and it takes some of them in. This
#: number was chosen on tuning cases of left atrium and hippocampus; it is all that real scans decided.
_CAUTION = 1.0


@dataclass(frozen=True)
class Pyramid:
    """What is kept of a case: the volume, and averaged to half its resolution again and again.

    Attributes:
        levels: Images (z, y, x) and their grids, the finest first.
    """

    levels: tuple[tuple[torch.Tensor, Grid], ...]


class Synthetic:
    """A promptable network that was trained on made-up volumes alone.

    Args:
        weights: A file of weights; those that come with the program where not given.
        device: Where it computes.
        channel: The channel of a volume that is looked at.
        network: A network with its weights, instead of a file.

    Raises:
        WeightsError: If the weights are missing or do not fit.
    """

    name = "synthetic"
    spacing: float | None = None
    concurrent = True

    def __init__(
        self,
        weights: Path | None = None,
        *,
        device: str | torch.device = "cpu",
        channel: int = 0,
        network: SyntheticNetwork | None = None,
    ) -> None:
        self.device, self.channel = torch.device(device), channel
        self.dtype = fast_dtype(self.device)
        self.weights_sha256 = ""
        if network is None:
            weights = WEIGHTS if weights is None else Path(weights)
            network = SyntheticNetwork()
            state = load_state(weights)
            check_state(state, network)
            network.load_state_dict({name: value.float() for name, value in state.items()})
            self.weights_sha256 = known_sha256(weights)
        self.network = network.to(self.device, memory_format=torch.channels_last_3d).eval().requires_grad_(False)

    def embed(self, volume: Volume) -> Pyramid:
        """Average the volume down again and again, so that a region of any size can be looked at without aliasing."""
        image = torch.from_numpy(np.ascontiguousarray(volume.array[self.channel], dtype=np.float32)).to(self.device)
        levels = [(image, volume.grid)]
        while levels[-1][0].numel() > 4 * _VOXELS:
            levels.append(_halved(*levels[-1]))
        return Pyramid(tuple(levels))

    def answer(self, embedding: Pyramid, prompt_sets: Sequence[PromptSet], region: Grid) -> torch.Tensor:
        """Return (K, z, y, x) probabilities on ``region``, NaN outside the regions that were looked at."""
        return self.answer_with_quality(embedding, prompt_sets, region)[0]

    def answer_with_quality(
        self, embedding: Pyramid, prompt_sets: Sequence[PromptSet], region: Grid
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer K prompt sets of one case, and say how good the answers are.

        Args:
            embedding: What :meth:`embed` returned for the case.
            prompt_sets: K ways of asking, maybe for several structures.
            region: The grid of the answer; it lies in the case but need not be its grid.

        Returns:
            (K, z, y, x) float32 probabilities on ``region``, NaN outside the regions that were looked at or where nothing
            was asked; and (K,) the Dice to be expected of each answer.
        """
        result = torch.full((len(prompt_sets), *region.shape), torch.nan, device=self.device)
        quality = torch.zeros(len(prompt_sets), device=self.device)
        volume_grid = embedding.levels[0][1]
        asked = [index for index, prompts in enumerate(prompt_sets) if _says_something(prompts)]
        grids = {index: _first_region(prompt_sets[index], volume_grid) for index in asked}
        beliefs: dict[int, tuple[torch.Tensor, Grid]] = {}
        looking = asked
        for look in range(1 + _LOOKS):
            if not looking:
                break
            again = []
            for shape in dict.fromkeys(grids[index].shape for index in looking):
                alike = [index for index in looking if grids[index].shape == shape]
                logits, expected = self._look(embedding, [prompt_sets[i] for i in alike], alike, grids, beliefs)
                for row, index in enumerate(alike):
                    beliefs[index] = (logits[row], grids[index])
                    quality[index] = expected[row]
                    better = _better_region(logits[row], grids[index], volume_grid, prompt_sets[index])
                    if better is not None and look < _LOOKS:
                        grids[index] = better
                        again.append(index)
            looking = again
        for index, (logits, grid) in beliefs.items():
            result[index] = _on(region, logits, grid, outside=torch.nan).sigmoid()
        return result, quality

    def _look(
        self,
        embedding: Pyramid,
        prompt_sets: Sequence[PromptSet],
        indices: Sequence[int],
        grids: dict[int, Grid],
        beliefs: dict[int, tuple[torch.Tensor, Grid]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits on the regions' grids (K, z, y, x) and the Dice to be expected (K,), from one batch."""
        images, known = zip(*(_sampled(embedding, grids[index]) for index in indices), strict=True)
        masks = []
        for prompts, index in zip(prompt_sets, indices, strict=True):
            if index in beliefs:  # What was answered before, seen in the new region.
                logits, grid = beliefs[index]
                masks.append(_on(grids[index], logits, grid, outside=0.0).sigmoid())
            else:
                masks.append(self._mask(prompts, grids[index]))
        points, labels = _points(prompt_sets, [grids[index] for index in indices])
        boxes = np.stack(
            [_box_indices(prompts, grids[index]) for prompts, index in zip(prompt_sets, indices, strict=True)]
        )
        seen = torch.stack(known)
        prompts_on_grid = EncodedPrompts(
            torch.where(seen, torch.stack(masks), torch.stack(masks).clamp(max=0.5)),
            points.to(self.device),
            labels.to(self.device),
            torch.from_numpy(boxes).float().to(self.device),
        )
        x = encode(normalized(torch.stack(images), seen), seen, prompts_on_grid)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            logits, quality = self.network(x.contiguous())
        return logits.float() - _CAUTION, quality.float().sigmoid().clone()

    def _mask(self, prompts: PromptSet, grid: Grid) -> torch.Tensor:
        if prompts.mask is None or prompts.mask_grid is None:
            return torch.full(grid.shape, 0.5, device=self.device)
        mask = torch.from_numpy(np.ascontiguousarray(prompts.mask, dtype=np.float32)).to(self.device)
        return _on(grid, mask.sigmoid() - 0.5, prompts.mask_grid, outside=0.0) + 0.5


def _says_something(prompts: PromptSet) -> bool:
    has_mask = prompts.mask is not None and bool((prompts.mask > 0).any())
    return has_mask or prompts.box is not None or bool((np.asarray(prompts.labels) == 1).any())


def _first_region(prompts: PromptSet, volume: Grid) -> Grid:
    """Return the region to look at first: around mask, box and positive points; where there are but points, a wide one."""
    corners = []
    seen = extent(prompts.mask > 0) if prompts.mask is not None else None
    if seen is not None and prompts.mask_grid is not None:
        corners.append(prompts.mask_grid.to_physical(seen))
    if prompts.box is not None:
        corners.append(np.asarray(prompts.box, dtype=float))
    positive = np.asarray(prompts.points, dtype=float).reshape(-1, 3)[np.asarray(prompts.labels) == 1]
    if corners:
        return _region_around(np.concatenate([*corners, positive]), volume)
    size = np.asarray(volume.shape) * np.asarray(volume.spacing)[::-1]
    spread = np.ptp(volume.to_index(positive), axis=0) * np.asarray(volume.spacing)[::-1]
    sides = np.minimum(size, np.maximum(_FIRST_SIDE, spread / _SHARE))
    return _region(volume.to_index(positive).mean(axis=0), sides, volume)


def _better_region(logits: torch.Tensor, grid: Grid, volume: Grid, prompts: PromptSet) -> Grid | None:
    """Return the region that shows the answer larger, or whole where it is cut; None where there is none much better."""
    sides = extent(_asked_pieces(logits.cpu().numpy() > 0, grid, prompts))
    if sides is None:
        return None
    ends = grid.to_index(volume.to_physical(_ends(volume)))
    # It is cut where it comes near the region's side and the volume goes on.
    last = np.asarray(grid.shape) - 1
    cut = ((sides[0] < _RIM) & (ends.min(axis=0) < -_RIM)) | (
        (sides[1] > last - _RIM) & (ends.max(axis=0) > last + _RIM)
    )
    share = float(((sides[1] - sides[0] + 1) / (last + 1)).max())
    if not cut.any() and share > 0.7 * _SHARE:
        return None
    grown = np.where(cut, 0.3 * (last + 1), 0)
    return _region_around(grid.to_physical(np.stack([sides[0] - grown, sides[1] + grown])), volume)


def _asked_pieces(structure: np.ndarray, grid: Grid, prompts: PromptSet) -> np.ndarray:
    """Return the pieces of an answer that hold a positive point; the largest where none does."""
    pieces, number = ndimage.label(structure)
    if number < 2:
        return structure
    points = np.asarray(prompts.points, dtype=float).reshape(-1, 3)[np.asarray(prompts.labels) == 1]
    indices = np.round(grid.to_index(points)).astype(int)
    indices = indices[((indices >= 0) & (indices < grid.shape)).all(axis=1)]
    held = set(pieces[tuple(indices.T)].tolist()) - {0}
    if not held:
        held = {int(np.bincount(pieces.ravel())[1:].argmax()) + 1}
    return np.isin(pieces, list(held))


def _region_around(points: np.ndarray, volume: Grid) -> Grid:
    """Return the region of which the box around ``points`` (N, 3) in mm fills a share that the network is used to."""
    indices = volume.to_index(points)
    least, most = indices.min(axis=0), indices.max(axis=0)
    sides = (most - least + 1) * np.asarray(volume.spacing)[::-1] / _SHARE
    return _region((least + most) / 2, np.maximum(sides, _FLATTEST * sides.max()), volume)


def _region(centre: np.ndarray, sides: np.ndarray, volume: Grid) -> Grid:
    """Return a region of about ``sides`` (z, y, x) in mm around the index ``centre``, moved to lie within the volume.

    Its voxels are cubes, none smaller than a third of the volume's own; their number is about the one that the network is used to.
    """
    spacing, shape = np.asarray(volume.spacing)[::-1], np.asarray(volume.shape)
    sides = np.minimum(sides, shape * spacing)
    sides = np.maximum(sides, _FLATTEST * sides.max())
    voxel = max(float((sides.prod() / _VOXELS) ** (1 / 3)), spacing.min() / 3)
    counts = np.maximum(_STEP, np.ceil(sides / voxel / _STEP - 0.25) * _STEP).astype(int)
    counts[int(np.argmax(sides))] = max(
        counts.max(), 2 * _STEP
    )  # Halved down to one voxel there is nothing left to see.
    voxel = max(float((sides / counts).max()), spacing.min() / 3)
    half = counts * voxel / 2 / spacing
    low, high = half - 0.5, shape - 0.5 - half
    centre = np.where(low <= high, np.clip(centre, low, np.maximum(low, high)), (shape - 1) / 2)
    first = centre - (counts - 1) / 2 * voxel / spacing
    origin = volume.to_physical(first[None])[0]
    return Grid(triple(counts, int), (voxel,) * 3, triple(origin, float), volume.direction)


def _sampled(pyramid: Pyramid, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the image on the region's grid, and where the volume is; from the level whose voxels are as large as fits."""
    voxel = grid.spacing[0]
    image, source = pyramid.levels[0]
    for level, level_grid in pyramid.levels[1:]:
        if max(level_grid.spacing) <= 1.1 * voxel:
            image, source = level, level_grid
    coordinates = _coordinates(grid, source).to(image.device)
    shape = torch.as_tensor(image.shape, device=image.device).view(3, 1, 1, 1)
    known = ((coordinates >= -0.5) & (coordinates <= shape - 0.5)).all(dim=0)
    # Looked up no farther out than the outermost voxels, so that nothing blends with what is not there.
    inside = torch.minimum(coordinates.clamp(min=0), (shape - 1).to(coordinates))
    return look_up(image[None], inside)[0], known


def _on(grid: Grid, values: torch.Tensor, source: Grid, *, outside: float) -> torch.Tensor:
    """Return ``values`` (z, y, x) on ``source`` interpolated onto ``grid``."""
    coordinates = _coordinates(grid, source).to(values.device)
    shape = torch.as_tensor(values.shape, device=values.device).view(3, 1, 1, 1)
    known = ((coordinates >= -0.5 - 1e-3) & (coordinates <= shape - 0.5 + 1e-3)).all(dim=0)
    inside = torch.minimum(coordinates.clamp(min=0), (shape - 1).to(coordinates))
    return torch.where(known, look_up(values[None], inside)[0], outside)


def _coordinates(grid: Grid, source: Grid) -> torch.Tensor:
    """Return (3, z, y, x) the indices in ``source`` of the voxels of ``grid``."""
    matrix = np.linalg.inv(source.affine) @ grid.affine
    indices = straight_coordinates((0, 0, 0), grid.shape).reshape(3, -1).double()
    mapped = torch.from_numpy(matrix[:3, :3]) @ indices + torch.from_numpy(matrix[:3, 3:])
    return mapped.float().view(3, *grid.shape)


def _points(prompt_sets: Sequence[PromptSet], grids: Sequence[Grid]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points (K, N, 3) as indices of the grids, and their labels (K, N), -1 where a set has fewer or they lie outside."""
    longest = max(1, *(len(np.asarray(prompts.labels)) for prompts in prompt_sets))
    points = np.zeros((len(prompt_sets), longest, 3), dtype=np.float32)
    labels = np.full((len(prompt_sets), longest), -1)
    for row, (prompts, grid) in enumerate(zip(prompt_sets, grids, strict=True)):
        own = np.asarray(prompts.labels)
        if len(own):
            indices = grid.to_index(np.asarray(prompts.points, dtype=float).reshape(-1, 3))
            inside = ((indices >= -0.5) & (indices <= np.asarray(grid.shape) - 0.5)).all(axis=1)
            points[row, : len(own)], labels[row, : len(own)] = indices, np.where(inside, own, -1)
    return torch.from_numpy(points), torch.from_numpy(labels)


def _box_indices(prompts: PromptSet, grid: Grid) -> np.ndarray:
    if prompts.box is None:
        return np.full((2, 3), np.nan)
    corners = grid.to_index(np.asarray(prompts.box, dtype=float))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _ends(grid: Grid) -> np.ndarray:
    return np.array([(0, 0, 0), np.asarray(grid.shape) - 1], dtype=float)


def _halved(image: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, Grid]:
    """Return the image averaged over blocks of 2 × 2 × 2 voxels (fewer along axes of one voxel), and its grid."""
    factors = [min(2, n) for n in image.shape]
    excess = [n % f for n, f in zip(image.shape, factors, strict=True)]
    filled = pad(image[None, None], [n for e in reversed(excess) for n in (0, e)], mode="replicate")
    averaged = avg_pool3d(filled, tuple(factors))[0, 0]
    origin = grid.to_physical((np.asarray(factors)[None] - 1) / 2)[0]
    spacing = triple((s * f for s, f in zip(grid.spacing, reversed(factors), strict=True)), float)
    return averaged, Grid(triple(averaged.shape, int), spacing, triple(origin, float), grid.direction)
