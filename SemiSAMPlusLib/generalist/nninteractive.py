"""nnInteractive as a generalist, through its authors' own package (Isensee et al. 2025, arXiv:2503.08373).

Its package takes arrays in SimpleITK's order, as nnU-Net does, and points as array indices in the same order, so that nothing
is turned here. It unpickles model files, which runs whatever they hold: so it is given none whose SHA256 is not the catalog's.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..cohort.boxes import extent
from ..cohort.volume import Grid, Volume, resample
from ..errors import ConfigError, WeightsError
from .catalog import catalog
from .generalist import PromptSet
from .weights import sha256_of

#: What pip is asked for, and the releases that it means: the first is the oldest whose interface was tried.
REQUIREMENT = "nnInteractive>=2.6,<3"
_RELEASES = ((2, 6), (3,))
#: Voxel size in mm. The model was trained on volumes as they are, whose voxels are mostly about so large, and sees 192 at once.
SPACING = 1.0
#: What spreads less than this shows nothing, and cannot be normalised.
_LEAST_SPREAD = 1e-6

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """What :class:`NNInteractive` keeps of a case: nothing can be computed before the first prompt.

    Attributes:
        image: (1, z, y, x) float32 grey values.
        grid: Where its voxels lie.
    """

    image: np.ndarray
    grid: Grid


class NNInteractive:
    """A frozen nnInteractive. It answers yes or no for each voxel: its package gives no probabilities.

    Each prompt set is answered by one prediction on the 192³ voxels around its last prompt. On two CPU cores that takes about
    two minutes and 7 GB, so that training needs a GPU. Growing this field of view automatically (the package's AutoZoom) is
    left out, since it multiplies the time, and compiling the model, since that costs minutes at each start.

    Args:
        weights: The file of the model itself; the others lie about it as in the repository.
        device: Where it computes.
        name: As users choose it; the catalog's entry of that name says which files there are.
        sha256: The files' SHA256 by their paths relative to the model's folder, instead of the catalog's.
        channel: The channel of a volume that is looked at; the model knows one.

    Raises:
        ConfigError: If its package is missing or of a release that was never tried.
        WeightsError: If a file is missing, unreadable, or its SHA256 is not the known one; none has been opened then.
    """

    spacing: float | None = SPACING

    def __init__(
        self,
        weights: Path,
        *,
        device: str | torch.device = "cpu",
        name: str = "nninteractive",
        sha256: Mapping[str, str | None] | None = None,
        channel: int = 0,
    ) -> None:
        release = _check_package()
        self.name = name
        self.device = torch.device(device)
        self.channel = channel
        folder = Path(weights).parents[1]
        self.weights_sha256 = _check_files(folder, _known_files(name) if sha256 is None else sha256, name)
        self.preparation = f"nninteractive-1 package={release} spacing={self.spacing} channel={self.channel}"
        self.session = _start_session(folder, Path(weights), self.device, name)
        self._scene: Scene | None = None
        self._decisions = np.zeros((0, 0, 0), dtype=np.uint8)

    def embed(self, volume: Volume) -> Scene:
        """Keep the case's image; the model sees it together with the prompts and so knows no embedding.

        Args:
            volume: Grey values as in the file, (channel, z, y, x), on a grid of ``spacing`` in LPS orientation.
        """
        array = np.asarray(volume.array[self.channel : self.channel + 1], dtype=np.float32)
        return Scene(np.ascontiguousarray(array), volume.grid)

    def answer(self, embedding: Scene, prompt_sets: Sequence[PromptSet], region: Grid) -> Tensor:
        """Answer K prompt sets of one case, one after the other: the model answers one at a time.

        A set's mask is what the model starts from. Of a box, which it knows as a rectangle in one slice only, the middle
        slice is asked with, and only where a set has no positive point.

        Args:
            embedding: What :meth:`embed` returned for the case.
            prompt_sets: K ways of asking, maybe for several structures.
            region: The grid of the answer; it lies in the case but need not be its grid.

        Returns:
            (K, z, y, x) float32 on ``region``: 1 in the structure, 0 outside, between them on the border where ``region``
            has other voxels, and NaN where the prediction did not reach or nothing was asked for.
        """
        answers = torch.full((len(prompt_sets), *region.shape), torch.nan)
        if not float(np.ptp(embedding.image)) > _LEAST_SPREAD:
            return answers  # Nothing to see; the package could not normalise it.
        for row, prompts in enumerate(prompt_sets):
            with _fixed_chance():
                self._show(embedding)
                touched = self._ask(embedding.grid, prompts)
            if touched is None:
                continue
            start, stop = np.asarray(touched).T
            decided = self._decisions[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
            part = embedding.grid.cropped(start, stop - start).image(decided.astype(np.float32))
            answers[row] = torch.from_numpy(sitk.GetArrayFromImage(resample(part, region, outside=float("nan"))))
        return answers

    def _show(self, scene: Scene) -> None:
        """Give the package the case's image, unless it has it, and take back all prompts."""
        if self._scene is scene:
            self.session.reset_interactions()
            return
        self._scene = None
        self._decisions = np.zeros(scene.grid.shape, dtype=np.uint8)
        self.session.set_image(scene.image)
        self.session.set_target_buffer(self._decisions)
        self._scene = scene

    def _ask(self, grid: Grid, prompts: PromptSet) -> Sequence[Sequence[int]] | None:
        """Give one prompt set to the package and let it predict once, around the last of its prompts.

        Returns:
            [[z, z], [y, y], [x, x]], array indices of where what was predicted starts and ends; None where nothing was asked.
        """
        points, positive = _places(prompts, grid)
        mask = _mask_on(grid, prompts)
        rectangle = None if positive.any() else _middle_slice(prompts, mask, grid, among_points=len(points) > 0)
        only_mask = rectangle is None and not positive.any()
        if mask is None and only_mask:
            return None
        touched = None
        if mask is not None:
            touched = self.session.add_initial_seg_interaction(mask, run_prediction=only_mask)
        order = _order(points, positive)
        for number, row in enumerate(order, start=1):
            z, y, x = (int(index) for index in points[row])
            predict = number == len(order) and rectangle is None
            touched = self.session.add_point_interaction((z, y, x), bool(positive[row]), run_prediction=predict)
        if rectangle is not None:
            touched = self.session.add_bbox_interaction(rectangle, True, run_prediction=True)
        return touched


def _places(prompts: PromptSet, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return a set's points as whole array indices (N, 3) of ``grid``, and which are positive (N,); none from outside it."""
    places = np.round(grid.to_index(np.asarray(prompts.points, dtype=float).reshape(-1, 3))).astype(int)
    positive = np.asarray(prompts.labels).reshape(-1) > 0
    inside = np.all((places >= 0) & (places < grid.shape), axis=1)
    return places[inside], positive[inside]


def _order(points: np.ndarray, positive: np.ndarray) -> list[int]:
    """Return in which order to give points (N, 3): by turns, each kind from the farthest to the nearest, a positive one last.

    The model heeds later prompts more, and predicts around the last: that is the positive point nearest to their middle.
    """
    middle = points[positive].mean(axis=0) if positive.any() else points.mean(axis=0) if len(points) else 0.0
    nearest = np.argsort(np.sum((points - middle) ** 2, axis=1), kind="stable")
    kinds = [nearest[positive[nearest]], nearest[~positive[nearest]]]
    turns = [rows[turn] for turn in range(len(points)) for rows in kinds if turn < len(rows)]
    return [int(row) for row in reversed(turns)]


def _mask_on(grid: Grid, prompts: PromptSet) -> np.ndarray | None:
    """Return a set's mask as yes and no (z, y, x) on ``grid``, no where it is not known; None where that is all there is."""
    if prompts.mask is None or prompts.mask_grid is None:
        return None
    logits = prompts.mask_grid.image(np.nan_to_num(np.asarray(prompts.mask, dtype=np.float32)))
    on_grid = sitk.Resample(logits, grid.reference(), sitk.Transform(), sitk.sitkLinear, -1e3)
    mask = (sitk.GetArrayViewFromImage(on_grid) > 0).astype(np.uint8)
    return mask if mask.any() else None


def _middle_slice(
    prompts: PromptSet, mask: np.ndarray | None, grid: Grid, *, among_points: bool
) -> list[list[int]] | None:
    """Return what stands for positive points that a set lacks: the middle slice of its box.

    Beside negative points alone it is that of the mask, so that the model does not look around these.

    Returns:
        [[z, z + 1], [y, y], [x, x]], array indices of ``grid`` where it starts and ends; None where there is none.
    """
    if prompts.box is not None:
        frame = prompts.mask_grid or grid
        sides = frame.to_index(np.asarray(prompts.box, dtype=float))
        corners = grid.to_index(frame.to_physical(np.array(list(itertools.product(*sides.T)))))
        first, last = np.round(corners.min(axis=0)).astype(int), np.round(corners.max(axis=0)).astype(int)
    elif mask is not None and among_points:
        ends = extent(mask)
        assert ends is not None
        first, last = ends
    else:
        return None
    first, last = np.maximum(first, 0), np.minimum(last, np.subtract(grid.shape, 1))
    if (last < first).any():
        return None
    middle = int(first[0] + last[0]) // 2
    (_, y, x), (_, to_y, to_x) = first.tolist(), last.tolist()
    return [[middle, middle + 1], [y, to_y + 1], [x, to_x + 1]]


def _check_package() -> str:
    """Return the package's release."""
    try:
        release = version("nnInteractive")
    except PackageNotFoundError as error:
        msg = "nnInteractive needs its authors' package, which is not installed."
        raise ConfigError(msg, f'Install it with `pip install "{REQUIREMENT}"`.') from error
    found = tuple(int(number) for number in re.findall(r"\d+", release))
    if not _RELEASES[0] <= found < _RELEASES[1]:
        msg = f"The package nnInteractive has release {release}, expected {REQUIREMENT.removeprefix('nnInteractive')}."
        raise ConfigError(msg, f'Install another with `pip install "{REQUIREMENT}"`.')
    return release


def _known_files(name: str) -> dict[str, str | None]:
    """Return the SHA256 of the files of the catalog's entry, by their paths relative to the model's folder."""
    files = catalog()[name].files
    folder = PurePosixPath(files[0].path).parents[1]
    return {PurePosixPath(file.path).relative_to(folder).as_posix(): file.sha256 for file in files}


def _check_files(folder: Path, known: Mapping[str, str | None], name: str) -> str:
    """Check all files before any is opened, and return the SHA256 of the first: the model itself.

    They are read whole, whatever was noted of them before: this is what stands between a file and its being run.
    """
    why = f"The package that loads {name} runs whatever a model file holds, so only files of a known SHA256 are given to it"
    found = {}
    for place, expected in known.items():
        path = folder / place
        if not path.is_file():
            msg = f"{path}: this file of {name}'s model does not exist."
            raise WeightsError(msg, f"Get all its files with `semisamplus weights download {name}`.")
        if expected is None:
            msg = f"{path}: the catalog knows no SHA256 of it, and it was not opened. {why}."
            remedy = "Where you trust the file, write its SHA256 into a catalog of your own (docs/weights.md)."
            raise WeightsError(msg, remedy)
        found[place] = sha256_of(path)
        if found[place] != expected:
            msg = f"{path}: has SHA256 {found[place]}, expected {expected} for {name}, and was not opened. {why}."
            raise WeightsError(msg, f"Get it anew with `semisamplus weights download {name}`.")
    return next(iter(found.values()))


def _start_session(folder: Path, weights: Path, device: torch.device, name: str) -> Any:
    """Return the package's session with the model loaded; what it sets for the whole process is put back."""
    with redirect_stdout(io.StringIO()):  # nnU-Net tells of folders that only its training needs.
        from nnInteractive.inference import inference_session
        from nnInteractive.interaction import point

    for module in (inference_session, point):
        vars(module)["print"] = (
            _note  # It tells each step on the terminal; threads may write there too, so it stays open.
        )
    benchmark = torch.backends.cudnn.benchmark
    try:
        session = inference_session.nnInteractiveInferenceSession(
            device=device,
            use_torch_compile=False,
            torch_n_threads=torch.get_num_threads(),
            do_autozoom=False,
            enable_undo=False,
        )
        session.initialize_from_trained_model_folder(
            str(folder), weights.parent.name.removeprefix("fold_"), weights.name
        )
        session.network.eval().requires_grad_(False)
    except Exception as error:  # Whatever fails in the package with files that are the right ones.
        msg = f"{weights}: the package nnInteractive cannot load {name} ({type(error).__name__}: {error})."
        raise WeightsError(msg, f'Install it anew with `pip install "{REQUIREMENT}"`, or leave {name} out.') from error
    finally:
        torch.backends.cudnn.benchmark = benchmark
    return session


@contextmanager
def _fixed_chance() -> Iterator[None]:
    """Fix what the package draws from numpy's global generator when it refines a large structure, and put that back."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def _note(*words: object, **_: object) -> None:
    _logger.debug(" ".join(map(str, words)))
