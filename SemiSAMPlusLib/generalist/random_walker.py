"""The random walker as a generalist: no weights, nothing learned, any image; it follows edges from the prompts (Grady 2006)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt
from skimage.measure import block_reduce
from skimage.segmentation import random_walker

from ..cohort.volume import Grid, Volume, resample, triple
from .generalist import PromptSet

#: Penalty of crossing an edge, on grey values scaled to unit spread; larger follows edges more closely.
_BETA = 1200.0
#: A volume is averaged down to about so many voxels: noise goes, edges of structures stay, an answer takes 0.05 s.
_VOXELS = 40_000
#: The mask is sure deeper inside, and farther outside, than this share of the structure's greatest depth; what lies
#: between is for the walker to decide. A thin undecided rim would only repeat the mask that asked.
_RIM = 0.6
#: What spreads less than this shows no edges to follow, and the walker's equations would have no solution.
_LEAST_SPREAD = 1e-4
#: Without a mask, voxels farther than this from every positive point are background, in mm.
_FAR_MM = 30.0


@dataclass(frozen=True)
class WalkerGround:
    """Where the walkers walk.

    Attributes:
        image: (z, y, x, channel) grey values of unit spread, averaged down.
        grid: Where its voxels lie.
    """

    image: np.ndarray
    grid: Grid


class RandomWalker:
    """Answers by the probability that a walker from each voxel first meets a positive rather than a negative seed.

    Seeds are the points, and the sure inside and outside of the mask where there is one.

    Args:
        beta: Penalty of crossing an edge.
        device: As every generalist is asked to take it; the walker walks on the CPU.
    """

    name = "random-walker"
    spacing: float | None = None

    def __init__(self, *, beta: float = _BETA, device: str | torch.device = "cpu") -> None:
        self.beta = beta

    def embed(self, volume: Volume) -> WalkerGround:
        """Average the volume down and scale its grey values to unit spread."""
        factor = max(1, min(round((np.prod(volume.grid.shape) / _VOXELS) ** (1 / 3)), *volume.grid.shape))
        shape = np.asarray(volume.grid.shape) // factor
        array = np.moveaxis(np.asarray(volume.array, dtype=np.float32), 0, -1)
        array = array[tuple(slice(n * factor) for n in shape)]
        image = block_reduce(array, (factor, factor, factor, 1), np.mean)
        image = (image - image.mean(axis=(0, 1, 2))) / np.maximum(image.std(axis=(0, 1, 2)), 1e-6)
        origin = volume.grid.to_physical(np.full((1, 3), (factor - 1) / 2))[0]
        spacing = triple((s * factor for s in volume.grid.spacing), float)
        grid = Grid(triple(shape, int), spacing, triple(origin, float), volume.grid.direction)
        return WalkerGround(np.ascontiguousarray(image, dtype=np.float32), grid)

    def answer(self, embedding: WalkerGround, prompt_sets: Sequence[PromptSet], region: Grid) -> torch.Tensor:
        """Return (K, z, y, x) probabilities on ``region``, NaN beyond the volume and where there are no seeds."""
        answers = [self._answer(embedding, prompts, region) for prompts in prompt_sets]
        return torch.from_numpy(np.stack(answers))

    def _answer(self, ground: WalkerGround, prompts: PromptSet, region: Grid) -> np.ndarray:
        positive, negative = _point_seeds(prompts, ground.grid)
        if prompts.mask is not None and prompts.mask_grid is not None:
            inside, outside = _mask_seeds(prompts.mask, prompts.mask_grid, ground.grid)
            positive, negative = positive | inside & ~negative, negative | outside & ~positive
        elif positive.any():
            negative |= distance_transform_edt(~positive, sampling=ground.grid.spacing[::-1]) > _FAR_MM
        if not positive.any() or not negative.any():
            return np.full(region.shape, np.nan, dtype=np.float32)
        walked = self._walk(ground.image, positive, negative)
        if walked is None:
            return np.full(region.shape, np.nan, dtype=np.float32)
        probability = ground.grid.image(walked)
        return sitk.GetArrayFromImage(resample(probability, region, outside=float("nan")))

    def _walk(self, image: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray | None:
        """Return (z, y, x) float32 probabilities, None where the image shows nothing.

        Only the box around what is not surely negative is solved.
        """
        labels = np.where(positive, 1, np.where(negative, 2, 0))
        result = positive.astype(np.float32)
        if not (labels == 0).any():
            return result
        box = tuple(slice(max(0, int(i.min()) - 1), int(i.max()) + 2) for i in np.nonzero(labels != 2))
        if not (labels[box] == 2).any():
            box = (slice(None),) * 3
        if not image[box].std() > _LEAST_SPREAD:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of islands that no walker leaves; they come back as 0.
            result[box] = random_walker(
                image[box],
                labels[box],
                beta=self.beta,
                mode="cg_j",
                tol=1e-3,
                return_full_prob=True,
                channel_axis=-1,
            )[0]
        return result.clip(0, 1)


def _point_seeds(prompts: PromptSet, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the positive and the negative points as seeds (z, y, x), each a small cross; where both claim a voxel, neither has it."""
    seeds = []
    for wanted in (1, 0):
        marked = np.zeros(grid.shape, dtype=bool)
        points = np.asarray(prompts.points, dtype=float).reshape(-1, 3)[np.asarray(prompts.labels) == wanted]
        indices = np.round(grid.to_index(points)).astype(int)
        indices = indices[((indices >= 0) & (indices < grid.shape)).all(axis=1)]
        if len(indices):
            marked[tuple(indices.T)] = True
            marked = binary_dilation(marked)
        seeds.append(marked)
    positive, negative = seeds
    return positive & ~negative, negative & ~positive


def _mask_seeds(mask: np.ndarray, mask_grid: Grid, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the sure inside and the sure outside (z, y, x) of a mask given as logits (z, y, x) on ``mask_grid``.

    Beyond ``mask_grid`` nothing is known, so there are no seeds there but far from the structure.
    """
    image = mask_grid.image(mask.astype(np.float32))
    on_grid = sitk.Resample(image, grid.reference(), sitk.Transform(), sitk.sitkLinear, -1e3)
    structure = sitk.GetArrayViewFromImage(on_grid) > 0  # A view does not keep its image alive; the name does.
    if not structure.any() or structure.all():
        return structure & False, structure & False
    spacing = grid.spacing[::-1]
    depth = distance_transform_edt(structure, sampling=spacing)
    rim = _RIM * depth.max()
    return depth > rim, distance_transform_edt(~structure, sampling=spacing) > rim
