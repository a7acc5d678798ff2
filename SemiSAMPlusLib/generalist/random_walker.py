"""The random walker as a generalist: no weights, nothing learned, any image; it follows edges from the prompts (Grady 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.sparse import csr_array
from skimage.measure import block_reduce

from ..cohort.boxes import bounding_box
from ..cohort.distances import depth_inside, distance_outside
from ..cohort.volume import Grid, Volume, triple
from .generalist import PromptSet
from .interpolation import interpolate, run_alike

#: Penalty of crossing an edge, on grey values scaled to unit spread; larger follows edges more closely.
_BETA = 1200.0
#: A volume is averaged down to about so many voxels: noise goes, edges of structures stay, an answer takes 0.05 s.
_VOXELS = 40_000
#: The mask is sure deeper inside, and farther outside, than this share of the structure's greatest depth; what lies
#: between is for the walker to decide. A thin undecided rim would only repeat the mask that asked.
_RIM = 0.6
#: What spreads less than this shows no edges to follow, and the walker's equations would have no solution.
_LEAST_SPREAD = 1e-4
#: Logits of a mask are kept within these bounds; beyond the mask's grid they are at the lower one.
_LOGIT_BOUND = 1e3
#: Without a mask, voxels farther than this from every positive point are background, in mm.
_FAR_MM = 30.0
#: The equations are solved to this relative residual, or as far as so many iterations bring them.
_TOLERANCE, _MOST_ITERATIONS = 1e-3, 1000
#: Added to every edge's weight, so that no voxel is cut off.
_LEAST_WEIGHT = 1e-10


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
    concurrent = True

    def __init__(self, *, beta: float = _BETA, device: str | torch.device = "cpu") -> None:
        self.beta = beta

    def embed(self, volume: Volume) -> WalkerGround:
        """Average the volume down and scale its grey values to unit spread."""
        factor = max(1, min(round((np.prod(volume.grid.shape) / _VOXELS) ** (1 / 3)), *volume.grid.shape))
        shape = -(-np.asarray(volume.grid.shape) // factor)
        array = np.moveaxis(np.asarray(volume.array, dtype=np.float32), 0, -1)
        # The last blocks are filled up with the voxels that end the volume, so that none of these is left out.
        missing = [(0, n * factor - have) for n, have in zip(shape, array.shape, strict=False)]
        array = np.pad(array, [*missing, (0, 0)], mode="edge")
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
        return _on_grid(walked, ground.grid, region, outside=float("nan"))

    def _walk(self, image: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray | None:
        """Return (z, y, x) float32 probabilities, None where the image shows nothing.

        Only the box around what is not surely negative is solved.
        """
        labels = np.where(positive, 1, np.where(negative, 2, 0))
        result = positive.astype(np.float32)
        if not (labels == 0).any():
            return result
        box = bounding_box(labels != 2, (1, 1, 1))
        assert box is not None
        if not (labels[box] == 2).any():
            box = (slice(None), slice(None), slice(None))
        if not image[box].std() > _LEAST_SPREAD:
            return None
        result[box] = _first_arrival(image[box], labels[box], self.beta)
        return result.clip(0, 1)


def _first_arrival(image: np.ndarray, labels: np.ndarray, beta: float) -> np.ndarray:
    """Return the probability that a walker meets a positive seed first, (z, y, x) float32.

    Edges weigh as in scikit-image's ``random_walker``, and the answer is the same; but of two kinds of seeds one is solved
    for, which gives the other, by conjugate gradients on the system scaled to a unit diagonal (Jacobi's preconditioner
    without its work), which takes a quarter of the time.

    Args:
        image: (z, y, x, channel) grey values.
        labels: (z, y, x) 1 at positive seeds, 2 at negative ones, 0 where a walker starts; there is one at least.
        beta: Penalty of crossing an edge.
    """
    flat = labels.ravel()
    unknown = np.flatnonzero(flat == 0)
    count = len(unknown)
    number = np.full(flat.size, -1, dtype=np.int32)
    number[unknown] = np.arange(count, dtype=np.int32)
    penalty = beta / (10 * float(image.std()) * np.sqrt(image.shape[-1]))
    # Of each unknown voxel a row of the Laplacian: three neighbours before it, itself, three behind.
    columns = np.full((count, 7), -1, dtype=np.int32)
    values = np.zeros((count, 7), dtype=np.float32)
    diagonal, known = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
    for axis, step in enumerate((labels.shape[1] * labels.shape[2], labels.shape[2], 1)):
        squared = np.square(np.diff(image, axis=axis)).sum(axis=-1)
        # The weight of the edge from each voxel to the next one along the axis, 0 behind the last.
        ends = [(0, int(other == axis)) for other in range(3)]
        weights = np.pad(np.exp(-penalty * squared) + _LEAST_WEIGHT, ends).ravel().astype(np.float32)
        # The first voxel's neighbour before it is the last one, which has no edge.
        for slot, neighbor, edge in ((axis, unknown - step, unknown - step), (6 - axis, unknown + step, unknown)):
            weight = weights[edge]
            neighbor = np.where(weight > 0, neighbor, 0)
            diagonal += weight
            known += weight * (flat[neighbor] == 1)
            columns[:, slot] = np.where(weight > 0, number[neighbor], -1)
            values[:, slot] = -weight
    columns[:, 3], values[:, 3] = number[unknown], diagonal
    scale = 1 / np.sqrt(diagonal)
    values *= scale[:, None] * scale[columns]
    there = columns >= 0
    rows = np.concatenate([[0], np.cumsum(np.count_nonzero(there, axis=1))]).astype(np.int32)
    matrix = csr_array((values[there], columns[there], rows), shape=(count, count))
    arrived = (flat == 1).astype(np.float32)
    arrived[unknown] = scale * _conjugate_gradients(matrix, scale * known)
    return arrived.reshape(labels.shape)


def _conjugate_gradients(matrix: csr_array, right: np.ndarray) -> np.ndarray:
    """Return x (n,) of ``matrix`` x = ``right``, for a symmetric positive definite matrix; in the precision of ``right``."""
    x, residual, direction = np.zeros_like(right), right.copy(), right.copy()
    squared = float(residual @ residual)
    enough = _TOLERANCE**2 * squared
    for _ in range(_MOST_ITERATIONS):
        if squared <= enough:
            break
        image = matrix @ direction
        step = right.dtype.type(squared / float(direction @ image))
        x += step * direction
        residual -= step * image
        before, squared = squared, float(residual @ residual)
        direction *= right.dtype.type(squared / before)
        direction += residual
    return x


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
    structure = _on_grid(mask.clip(-_LOGIT_BOUND, _LOGIT_BOUND), mask_grid, grid, outside=-_LOGIT_BOUND) > 0
    if not structure.any() or structure.all():
        return structure & False, structure & False
    spacing = grid.spacing[::-1]
    depth = depth_inside(structure, spacing)
    rim = _RIM * depth.max()
    return depth > rim, distance_outside(structure, spacing, rim) > rim


def _on_grid(array: np.ndarray, grid: Grid, target: Grid, *, outside: float) -> np.ndarray:
    """Return ``array`` (z, y, x) on ``grid`` interpolated on ``target``, float32, ``outside`` beyond it."""
    index_map = np.linalg.inv(grid.affine) @ target.affine
    if not run_alike(index_map, target.shape):
        image = grid.image(array.astype(np.float32))
        image = sitk.Resample(image, target.reference(), sitk.Transform(), sitk.sitkLinear, outside)
        return sitk.GetArrayFromImage(image)
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
    return interpolate(values, index_map, target.shape)[0].nan_to_num(nan=outside).numpy()
