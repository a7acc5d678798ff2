"""SAM-Med3D as a generalist: volumes prepared as the model was trained, prompts and answers placed by geometry.

The model sees arrays in (x, y, z) with indices that grow to the right, anterior and superior; volumes here are (z, y, x) and
their indices grow to the left, posterior and superior. One is the other transposed, with x and y flipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from ...cohort.volume import ORIENTATION, Grid, Volume
from ..generalist import PromptSet
from ..interpolation import interpolate, run_alike
from ..loading import check_state, load_state
from ..weights import known_sha256
from .model import SamMed3DModel
from .prompt_encoder import ABSENT, INSIDE, NOT_A_POINT, OUTSIDE

#: Voxel size in mm that the model was trained for.
SPACING = 1.5
#: Logits of a mask are kept within these bounds, so that certainty from a softmax stays finite.
_LOGIT_BOUND = 20.0
#: Precisions by name.
_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Embedding:
    """What :class:`SamMed3D` keeps of a case.

    A field of view that fits one window is embedded at once. Of a larger one each window is embedded when a prompt first
    falls on it.

    Attributes:
        grid: Where the volume's voxels lie.
        starts: The windows' first array indices (z, y, x) in ``grid``, which may lie outside.
        features: (1, C, t, t, t) half-precision embeddings by position in ``starts``; those that were made.
        read_volume: Returns the volume, for the windows still to embed.
        volume: The volume, once a window needed it and while others may.
        lock: Held by who embeds a window, which several patches of the case may need at the same time.
    """

    grid: Grid
    starts: tuple[tuple[int, int, int], ...]
    features: dict[int, Tensor] = field(default_factory=dict)
    read_volume: Callable[[], Volume] | None = None
    volume: Volume | None = None
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Memory that the embedding holds; told also while a window is being embedded."""
        volume, features = self.volume, list(self.features.values())
        return (0 if volume is None else volume.array.nbytes) + sum(one.nbytes for one in features)


class SamMed3D:
    """A frozen SAM-Med3D, SAM-Med3D-turbo or SegAnyPET.

    Args:
        weights: The file of weights, as :func:`SemiSAMPlusLib.generalist.loading.load_state` reads them; None only together
            with ``model``.
        device: Where it computes.
        precision: ``fp32``, or ``fp16`` or ``bf16`` for mixed precision. Embeddings are kept in half precision in any case.
        name: As users choose it.
        model: A model with its weights, instead of a file.
        channel: The channel of a volume that is looked at; the model knows one.

    Raises:
        WeightsError: If the weights are missing, unsafe or do not fit.
    """

    spacing: float | None = SPACING
    concurrent = True

    def __init__(
        self,
        weights: Path | None,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        name: str = "sam-med3d",
        model: SamMed3DModel | None = None,
        channel: int = 0,
    ) -> None:
        if precision not in _PRECISIONS:
            msg = f"precision is {precision!r}, expected one of {', '.join(_PRECISIONS)}"
            raise ValueError(msg)
        self.name = name
        self.device = torch.device(device)
        self.channel = channel
        self._dtype = _PRECISIONS[precision]
        if model is None:
            if weights is None:
                msg = "either weights or a model must be given"
                raise ValueError(msg)
            model = _load_model(Path(weights))
        self.weights_sha256 = known_sha256(weights) if weights is not None else ""
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.window = model.size

    @staticmethod
    def check_weights(path: Path) -> None:
        """Check that a file's tensors fit the model.

        Raises:
            WeightsError: If they do not, or the file is unsafe or damaged.
        """
        _checked_state(path)

    @property
    def preparation(self) -> str:
        """What, besides weights and volume, decides what an embedding is."""
        precision = next(name for name, dtype in _PRECISIONS.items() if dtype == self._dtype)
        return f"sam-med3d-1 spacing={self.spacing} window={self.window} channel={self.channel} precision={precision}"

    def embed(self, volume: Volume) -> Embedding:
        """Embed a case: at once where its field of view fits one window, else window by window as prompts ask.

        Args:
            volume: Grey values as in the file, (channel, z, y, x), on a grid of ``spacing`` in LPS orientation.
        """
        _check_grid(volume.grid)
        embedding = Embedding(volume.grid, _windows(volume.grid.shape, self.window), volume=volume)
        if len(embedding.starts) == 1:
            self._features(embedding, 0)
        return embedding

    def answer(self, embedding: Embedding, prompt_sets: Sequence[PromptSet], region: Grid) -> Tensor:
        """Answer K prompt sets of one case in one batched pass.

        Each set is answered on one window of the case: the one nearest to all positive points together where it holds the
        set's own with room to spare, else the one nearest to the set's own. Points outside the window are left out. A box
        stands for a point at its centre where a set has no positive point.

        Args:
            embedding: What :meth:`embed` returned for the case.
            prompt_sets: K ways of asking, maybe for several structures.
            region: The grid of the answer; it lies in the case but need not be its grid.

        Returns:
            (K, z, y, x) float32 probabilities on ``region``, NaN outside each set's window.
        """
        with torch.inference_mode():
            answer = self._answer(embedding, prompt_sets, region)
        return answer.clone()  # Made outside inference mode, so that a loss may use it.

    def dump(self, embedding: Embedding) -> dict[str, Tensor]:
        """Return the embedding as tensors, to be kept."""
        grid = embedding.grid
        numbers = [*grid.shape, *grid.spacing, *grid.origin, *grid.direction]
        windows = {f"window.{number}": features.cpu() for number, features in sorted(embedding.features.items())}
        return {"grid": torch.tensor(numbers, dtype=torch.float64), **windows}

    def load(self, tensors: Mapping[str, Tensor], read_volume: Callable[[], Volume]) -> Embedding:
        """Return the embedding that :meth:`dump` described.

        Args:
            tensors: What :meth:`dump` returned.
            read_volume: Returns the case's volume; called only if a window is asked for that was never embedded.
        """
        numbers = tensors["grid"].tolist()
        z, y, x = (int(number) for number in numbers[:3])
        grid = Grid((z, y, x), tuple(numbers[3:6]), tuple(numbers[6:9]), tuple(numbers[9:18]))
        features = {
            int(name.removeprefix("window.")): tensor.to(self.device)
            for name, tensor in tensors.items()
            if name.startswith("window.")
        }
        return Embedding(grid, _windows(grid.shape, self.window), features, read_volume)

    def _answer(self, embedding: Embedding, prompt_sets: Sequence[PromptSet], region: Grid) -> Tensor:
        answer = torch.full((len(prompt_sets), *region.shape), torch.nan, device=self.device)
        if not prompt_sets:
            return answer
        chosen = _choose_windows(embedding, prompt_sets, region, self.window)
        grids = [embedding.grid.cropped(embedding.starts[number], (self.window,) * 3) for number in chosen]
        boxes = [_cells(grid, region, self.window, self.model.mask_size) for grid in grids]
        asked = [box for box in boxes if box is not None]
        if not asked:
            return answer
        features = torch.cat([self._features(embedding, number) for number in chosen]).float()
        points, labels = self._points(prompt_sets, grids)
        masks = torch.stack([self._mask(prompts, grid) for prompts, grid in zip(prompt_sets, grids, strict=True)])
        logits = self._logits(features, points, labels, masks, asked)
        for number in set(chosen):
            rows = [row for row, own in enumerate(chosen) if own == number]
            answer[rows] = _resample_answer(logits[rows], grids[rows[0]], region, self.window)
        return answer

    def _logits(
        self,
        features: Tensor,
        points: Tensor,
        labels: Tensor,
        masks: Tensor,
        boxes: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> Tensor:
        """Return low-resolution logits (K, m, m, m) in (z, y, x), right at least in ``boxes``: the decoder fills no more."""
        tokens, size = features.shape[-1], self.model.mask_size
        ratio = size // tokens
        first = np.min([box[0] for box in boxes], axis=0) // ratio
        last = np.max([box[1] for box in boxes], axis=0) // ratio
        part = _box_to_ras(first, last, tokens)
        with self._mixed_precision():
            said, _ = self.model.answer(features, points, labels, masks, part)
        logits = torch.zeros(len(said), size, size, size, device=self.device)
        logits[(slice(None), *(slice(ratio * s.start, ratio * s.stop) for s in part))] = said[:, 0].float()
        return _to_lps(logits)

    def _features(self, embedding: Embedding, number: int) -> Tensor:
        """Return a window's embedding (1, C, t, t, t), made now where it was not yet."""
        with embedding.lock:
            if number not in embedding.features:
                if embedding.volume is None:
                    if embedding.read_volume is None:
                        msg = f"window {number} was never embedded, and the volume is not at hand"
                        raise RuntimeError(msg)
                    embedding.volume = embedding.read_volume()
                x = prepare(embedding.volume.array[self.channel], embedding.starts[number], self.window)
                with torch.inference_mode(), self._mixed_precision():
                    features = self.model.embed(x.to(self.device)).half()
                embedding.features[number] = features.clone()
            if len(embedding.features) == len(embedding.starts):
                embedding.volume = embedding.read_volume = None
            return embedding.features[number]

    def _mixed_precision(self) -> torch.autocast | nullcontext[None]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def _points(self, prompt_sets: Sequence[PromptSet], grids: Sequence[Grid]) -> tuple[Tensor, Tensor]:
        """Return the sets' points as array indices of the model's input (K, N, 3), and their labels (K, N).

        A set with points is closed by one that is none, as in training; sets are filled up to the longest.
        """
        places, kinds = [], []
        for prompts, grid in zip(prompt_sets, grids, strict=True):
            points, positive = _points_of(prompts)
            indices = grid.to_index(points)
            inside = np.all((indices >= -0.5) & (indices <= self.window - 0.5), axis=1)
            z, y, x = indices[inside].T
            place = np.stack([self.window - 1 - x, self.window - 1 - y, z], axis=1)
            kind = np.where(positive[inside], INSIDE, OUTSIDE)
            if len(place):
                place, kind = np.concatenate([place, np.zeros((1, 3))]), np.append(kind, NOT_A_POINT)
            places.append(place)
            kinds.append(kind)
        longest = max(map(len, kinds))
        points = np.zeros((len(kinds), longest, 3), dtype=np.float32)
        labels = np.full((len(kinds), longest), ABSENT)
        for row, (place, kind) in enumerate(zip(places, kinds, strict=True)):
            points[row, : len(kind)], labels[row, : len(kind)] = place, kind
        return torch.from_numpy(points).to(self.device), torch.from_numpy(labels).to(self.device)

    def _mask(self, prompts: PromptSet, window: Grid) -> Tensor:
        """Return a set's mask as the model takes it: logits (1, m, m, m), zero where nothing is known.

        A set without mask has zeros everywhere: the model was trained so, and never with its embedding of no mask.
        """
        size = self.model.mask_size
        if prompts.mask is None or prompts.mask_grid is None:
            return torch.zeros(1, size, size, size, device=self.device)
        ratio = self.window // size
        # The mask is first averaged to about the size of the voxels that it is sampled at.
        spacing = np.asarray(prompts.mask_grid.spacing)[::-1]
        factors = np.maximum(1, np.round(ratio * SPACING / spacing)).astype(int)
        mask = torch.from_numpy(np.ascontiguousarray(prompts.mask, dtype=np.float32)).to(self.device)
        mask = mask.nan_to_num(0.0, _LOGIT_BOUND, -_LOGIT_BOUND).clamp(-_LOGIT_BOUND, _LOGIT_BOUND)[None, None]
        excess = [int(-n % f) for n, f in zip(mask.shape[2:], factors, strict=True)]
        mask = functional.pad(mask, [n for e in reversed(excess) for n in (0, e)], mode="replicate")
        mask = functional.avg_pool3d(mask, tuple(int(f) for f in factors))
        to_window = _scaling((ratio,) * 3)
        from_mask = np.linalg.inv(prompts.mask_grid.affine @ _scaling(factors))
        index_map = from_mask @ window.affine @ to_window
        grid = _sampling_grid(index_map, mask.shape[2:], (size,) * 3, self.device)
        sampled = functional.grid_sample(mask, grid, padding_mode="zeros", align_corners=False)
        return _to_ras(sampled[0])


def prepare(array: np.ndarray, start: Sequence[int], size: int) -> Tensor:
    """Return a window as the model was trained to see it.

    Cropped, or padded with the grey value 0; then z-scored with the mean and the standard deviation (of a sample) of those of
    its voxels that are above 0; as SAM-Med3D's own inference does (TorchIO's crop or pad, then z-normalisation).

    Args:
        array: (z, y, x) grey values in LPS orientation at ``SPACING``.
        start: The window's first array index (z, y, x), which may lie outside.
        size: Voxels along each side of the window.

    Returns:
        (1, 1, size, size, size) in (x, y, z), indices growing to the right, anterior and superior.
    """
    within = tuple(
        slice(max(0, first), max(0, min(n, first + size))) for n, first in zip(array.shape, start, strict=True)
    )
    window = np.zeros((size,) * 3, dtype=np.float32)
    window[tuple(slice(s.start - first, s.stop - first) for s, first in zip(within, start, strict=True))] = array[
        within
    ]
    x = _to_ras(torch.from_numpy(window)[None])[None]
    body = x[x > 0]
    if body.numel() < 2 or not (deviation := body.std()) > 0:
        return torch.zeros_like(x)  # Nothing to see; a z-score does not exist.
    return (x - body.mean()) / deviation


def _checked_state(path: Path) -> tuple[dict[str, Tensor], SamMed3DModel]:
    """Return a file's tensors and the model, still without memory, that they fit."""
    with torch.device("meta"):  # No memory and no initial values: the weights take their place.
        model = SamMed3DModel()
    state = load_state(path)
    check_state(state, model)
    return state, model


def _load_model(path: Path) -> SamMed3DModel:
    state, model = _checked_state(path)
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True, assign=True)
    return model


def _check_grid(grid: Grid) -> None:
    if not np.allclose(grid.spacing, SPACING, rtol=1e-3):
        msg = f"the volume's spacing is {grid.spacing} mm, expected {SPACING} mm along each axis"
        raise ValueError(msg)
    if sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction) != ORIENTATION:
        msg = f"the volume's direction is {grid.direction}, expected axes nearest to {ORIENTATION}"
        raise ValueError(msg)


def _windows(shape: tuple[int, int, int], size: int) -> tuple[tuple[int, int, int], ...]:
    """Return where windows start along (z, y, x): one centred window along a short axis, half-overlapping ones along a long."""
    axes = []
    for axis, n in enumerate(shape):
        if n <= size:
            # An odd voxel of padding goes to the low side of the model's axes, as in training: along x and y the far side here.
            axes.append([-((size - n + (axis == 0)) // 2)])
        else:
            count = 1 + int(np.ceil((n - size) / (size // 2)))
            axes.append([round(first) for first in np.linspace(0, n - size, count)])
    return tuple((z, y, x) for z, y, x in itertools.product(*axes))


def _choose_windows(embedding: Embedding, prompt_sets: Sequence[PromptSet], region: Grid, size: int) -> list[int]:
    """Return for each prompt set the position in ``embedding.starts`` of the window that answers it."""
    if len(embedding.starts) == 1:
        return [0] * len(prompt_sets)
    centers = np.asarray(embedding.starts) + (size - 1) / 2
    margin = size / 8
    targets = [embedding.grid.to_index(_target(prompts, region)) for prompts in prompt_sets]

    def nearest(points: np.ndarray) -> int:
        return int(np.argmin(np.sum((centers - points.mean(axis=0)) ** 2, axis=1)))

    common = nearest(np.concatenate(targets))
    first = np.asarray(embedding.starts[common])
    # A window that ends where the body does needs no room there.
    least = np.where(first <= 0, -np.inf, first + margin)
    most = np.where(first + size >= embedding.grid.shape, np.inf, first + size - 1 - margin)
    return [common if np.all((least <= target) & (target <= most)) else nearest(target) for target in targets]


def _points_of(prompts: PromptSet) -> tuple[np.ndarray, np.ndarray]:
    """Return a set's points (N, 3) in mm and which are positive (N,); a box adds its centre where none is."""
    points = np.asarray(prompts.points, dtype=float).reshape(-1, 3)
    positive = np.asarray(prompts.labels).reshape(-1) > 0
    if prompts.box is not None and not positive.any():
        center = np.mean(np.asarray(prompts.box, dtype=float), axis=0)
        points, positive = np.vstack([points, center]), np.append(positive, True)
    return points, positive


def _target(prompts: PromptSet, region: Grid) -> np.ndarray:
    """Return points (N, 3) in mm of what is asked for: positive points, else the mask's centre, else the region's."""
    points, positive = _points_of(prompts)
    if positive.any():
        return points[positive]
    if prompts.mask is not None and prompts.mask_grid is not None:
        inside = np.argwhere(prompts.mask > 0)
        if len(inside):
            return prompts.mask_grid.to_physical(inside.mean(axis=0)[None])
    return region.to_physical((np.asarray(region.shape)[None] - 1) / 2)


def _resample_answer(logits: Tensor, window: Grid, region: Grid, size: int) -> Tensor:
    """Return probabilities on ``region``, NaN outside ``window``.

    The logits are brought to the window's voxels (trilinear) and become probabilities there, as the model was trained; only
    the part that ``region`` touches is computed.

    Args:
        logits: (n, m, m, m) low-resolution logits of the window, in (z, y, x).
        window: The window's grid.
        region: The grid of the answer.
        size: Voxels along each side of the window.
    """
    ratio = size // logits.shape[-1]
    index_map = np.linalg.inv(window.affine) @ region.affine
    touched = _cells(window, region, size, logits.shape[-1])
    if touched is None:
        return torch.full((len(logits), *region.shape), torch.nan, device=logits.device)
    first, last = touched
    part = logits[:, first[0] : last[0] + 1, first[1] : last[1] + 1, first[2] : last[2] + 1]
    fine = functional.interpolate(part[None], scale_factor=ratio, mode="trilinear", align_corners=False).sigmoid()
    shift = np.eye(4)
    shift[:3, 3] = -first * ratio
    if run_alike(index_map, region.shape):
        return interpolate(fine[0], shift @ index_map, region.shape)
    grid = _sampling_grid(shift @ index_map, fine.shape[2:], region.shape, logits.device)
    answer = functional.grid_sample(fine, grid, padding_mode="border", align_corners=False)[0]
    lengths = torch.tensor(fine.shape[:1:-1], device=logits.device)
    offset = torch.from_numpy(first[::-1].copy()).to(logits.device) * ratio
    indices = ((grid[0] + 1) * lengths - 1) / 2 + offset
    outside = ((indices < -0.5 - 1e-3) | (indices > size - 0.5 + 1e-3)).any(dim=-1)
    return answer.masked_fill(outside, torch.nan)


def _cells(window: Grid, region: Grid, size: int, cells: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the first and the last index (z, y, x) of a window's low-resolution logits that ``region`` needs.

    Args:
        window: The window's grid.
        region: The grid of the answer.
        size: Voxels along each side of the window.
        cells: Logits along each side of it.

    Returns:
        Both ends, or None where the region lies outside the window.
    """
    ratio = size // cells
    index_map = np.linalg.inv(window.affine) @ region.affine
    corners = np.asarray(list(itertools.product(*((0, n - 1) for n in region.shape))), dtype=float)
    corners = corners @ index_map[:3, :3].T + index_map[:3, 3]
    low, high = corners.min(axis=0), corners.max(axis=0)
    if np.any(high < -0.5) or np.any(low > size - 0.5):
        return None
    # One cell more on each side than the voxels touched need: what the crop's own border changes is never sampled.
    first = np.clip(np.floor((low + 0.5) / ratio - 0.5).astype(int) - 1, 0, cells - 1)
    last = np.clip(np.ceil((high + 0.5) / ratio - 0.5).astype(int) + 1, 0, cells - 1)
    return first, last


def _sampling_grid(index_map: np.ndarray, source: Sequence[int], target: Sequence[int], device: torch.device) -> Tensor:
    """Return PyTorch's sampling grid (1, *target, 3) for a 4×4 map from target to source array indices (z, y, x)."""

    def normalize(shape: Sequence[int]) -> np.ndarray:
        """Return the map from array indices to PyTorch's -1 to 1 from border to border."""
        matrix = np.diag([*(2 / n for n in shape), 1.0])
        matrix[:3, 3] = [1 / n - 1 for n in shape]
        return matrix

    matrix = normalize(source) @ index_map @ np.linalg.inv(normalize(target))
    theta = np.concatenate([matrix[2::-1, 2::-1], matrix[2::-1, 3:]], axis=1)  # PyTorch counts x, y, z.
    size = [1, 1, *(int(n) for n in target)]
    return functional.affine_grid(
        torch.from_numpy(theta.copy())[None].to(device, torch.float32), size, align_corners=False
    )


def _scaling(factors: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the 4×4 map from indices of a grid to those of one whose voxels are smaller by ``factors``, from the same corner."""
    matrix = np.diag([*(float(f) for f in factors), 1.0])
    matrix[:3, 3] = [(f - 1) / 2 for f in factors]
    return matrix


def _to_ras(x: Tensor) -> Tensor:
    """Turn (..., z, y, x) that grow to left, posterior, superior into (..., x, y, z) to right, anterior, superior."""
    return x.transpose(-1, -3).flip(-3, -2).contiguous()


def _box_to_ras(first: np.ndarray, last: np.ndarray, size: int) -> tuple[slice, ...]:
    """Turn a box, first and last index (z, y, x), in a cube of ``size`` as :func:`_to_ras` turns the cube itself."""
    (z, y, x), (deep, back, left) = first.tolist(), last.tolist()
    return slice(size - 1 - left, size - x), slice(size - 1 - back, size - y), slice(z, deep + 1)


def _to_lps(x: Tensor) -> Tensor:
    """Turn back what :func:`_to_ras` turned."""
    return x.flip(-3, -2).transpose(-1, -3).contiguous()
