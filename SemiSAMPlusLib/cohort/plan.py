"""What is planned from the cohort and the device: spacing, patch, normalisation, size, and whether structures are in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk

from ..errors import ConfigError
from ..run.config import TrainingConfig
from .boxes import centroid
from .cohort import Case, Cohort
from .intensity import Kind, Normalization, ct_window, guess_kind
from .outputs import read_label
from .volume import read_grid, read_image, resample, training_grid, triple

#: Voxels of a median scan and of a patch that keep a step short: (scan, patch) on a CPU, and on a GPU.
_BUDGET = {"cpu": (320_000, 210_000), "gpu": (1_600_000, 1_000_000)}
#: Patch sizes are multiples of this many voxels, so that a network can halve them; some want larger steps.
PATCH_STEP = 8
#: More voxels than a scan may have on the training grid: as 32-bit numbers they would take 4 GB a channel.
_MOST_VOXELS = 10**9
#: Share of a labelled structure's voxels in its largest piece from which the structure is taken to be one piece.
_ONE_PIECE = 0.99

#: Where a structure lies: its centroid as shares (z, y, x) of the scan's extent in the training orientation.
Centroid: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Plan:
    """How the cohort is prepared and what the specialist sees of it.

    Attributes:
        spacing: Isotropic voxel size in mm.
        patch: Size of patches (z, y, x) in voxels.
        normalizations: One per channel.
        size: How large the network is: small, medium or large.
        centroids: One per class that is a single connected structure, so that islands are errors: where labelled cases have
            it in the mean; None for others.
    """

    spacing: float
    patch: tuple[int, int, int]
    normalizations: tuple[Normalization, ...]
    size: str
    centroids: tuple[Centroid | None, ...]

    @property
    def one_piece(self) -> tuple[bool, ...]:
        """One per class: whether it is a single connected structure."""
        return tuple(place is not None for place in self.centroids)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Return the plan that :meth:`to_dict` described."""
        return cls(
            float(data["spacing"]),
            tuple(data["patch"]),
            tuple(Normalization(**n) for n in data["normalizations"]),
            data["size"],
            tuple(None if one is None else triple(one, float) for one in data["centroids"]),
        )


def plan_training(cohort: Cohort, config: TrainingConfig, *, on_gpu: bool, step: int = PATCH_STEP) -> Plan:
    """Plan from the headers of all cases that training opens and from the pixels of the labelled ones.

    Args:
        cohort: A cohort without faults.
        config: What it sets is kept, the rest is planned.
        on_gpu: Whether training runs on a GPU, which affords more voxels.
        step: What the specialist wants patch sizes to be multiples of, in voxels.

    Raises:
        ConfigError: If a patch was set that cannot be halved, or voxels so small that a scan of them could not be held.
    """
    cases = cohort.labeled + cohort.unlabeled + cohort.validation
    headers = [_header(case) for case in cases]
    extents = np.asarray([extent for extent, _ in headers])
    if config.spacing is not None:
        _require_few_voxels(cases, extents, config.spacing)
    scan_budget, patch_budget = _BUDGET["gpu" if on_gpu else "cpu"]
    spacing = config.spacing or _spacing(extents, [native for _, native in headers], scan_budget)
    patch = config.patch or _patch(np.median(extents, axis=0) / spacing, patch_budget, step)
    if any(n % PATCH_STEP for n in patch):
        msg = f"The setting 'patch' is {tuple(patch)}, expected multiples of {PATCH_STEP}."
        raise ConfigError(msg, f"Give --patch such sizes, for example {_patch(np.asarray(patch), prod(patch), step)}.")
    # On a CPU a larger network is not only slower: with a few labels it also generalises worse (docs/results.md).
    size = config.size if config.size != "auto" else ("large" if on_gpu else "small")
    return Plan(
        spacing=float(spacing),
        patch=patch,
        normalizations=_normalizations(cohort, config.intensity),
        size=size,
        centroids=_centroids(cohort, float(spacing)),
    )


def without_several_pieces(plan: Plan, cohort: Cohort) -> Plan:
    """Return a plan that takes no structure for one piece which a labelled case of a further cohort shows in several.

    Args:
        plan: Made from another cohort with the same classes.
        cohort: A cohort without faults.
    """
    seen = _seen_in_one_piece(cohort, plan.spacing)
    kept = (None if now is None else before for before, now in zip(plan.centroids, seen, strict=True))
    return replace(plan, centroids=tuple(kept))


def _header(case: Case) -> tuple[np.ndarray, float]:
    """Return a scan's extent (z, y, x) in mm in the training orientation, and the middle one of its voxel's sides in mm."""
    native = read_grid(case.images[0])
    finest = min(native.spacing)  # Of which a scan has many, also one under a microscope.
    extent = np.asarray(training_grid(native.reference(), finest).shape) * finest
    return extent, float(np.median(native.spacing))


def _require_few_voxels(cases: Sequence[Case], extents: np.ndarray, spacing: float) -> None:
    counts = extents.prod(axis=1) / spacing**3
    largest = int(counts.argmax())
    if counts[largest] > _MOST_VOXELS:
        msg = (
            f"The setting 'spacing' is {spacing:g} mm, at which {cases[largest].name} has {counts[largest]:.2g} voxels"
        )
        raise ConfigError(f"{msg}, expected {_MOST_VOXELS:.0e} at most.", "Give --spacing a greater value, in mm.")


def _spacing(extents: np.ndarray, natives: Sequence[float], budget: int) -> float:
    """Return the voxel size that fits the median scan into the budget, no finer than scans are, in readable steps."""
    fitting = float((np.median(extents.prod(axis=1)) / budget) ** (1 / 3))
    spacing = max(fitting, float(np.median(natives)))
    magnitude = 10.0 ** min(0, np.floor(np.log10(spacing)) + 1)  # 1 from 0.1 mm on.
    readable = spacing / magnitude
    if fitting > np.median(natives):
        step = 0.05 if spacing < 2 else 0.25
        readable = np.ceil(readable / step - 1e-6) * step
    return round(float(round(readable, 4) * magnitude), 12)


def _patch(shape: np.ndarray, budget: int, step: int) -> tuple[int, int, int]:
    """Return the patch of the scan's proportions that fits the budget, in multiples of the step."""
    scale = min(1.0, (budget / float(np.prod(shape))) ** (1 / 3))
    wanted, least = np.asarray(shape, dtype=float) * scale, max(step, PATCH_STEP * 2)
    patch = np.maximum(least, np.ceil(wanted / step - 0.25) * step).astype(int)
    while patch.prod() > budget * 1.15 and patch.max() > least:
        patch[int(np.argmax(patch / wanted * (patch > least)))] -= step
    if patch.max() == step:  # Halved down to a single voxel there is nothing left to see.
        patch[int(np.argmax(wanted))] += step
    return triple(patch, int)


def _normalizations(cohort: Cohort, wanted: str) -> tuple[Normalization, ...]:
    found = []
    for channel, name in enumerate(cohort.channels):
        kind: Kind
        if wanted == "auto":
            kind = guess_kind(name, sitk.GetArrayFromImage(read_image(cohort.labeled[0].images[channel])))
        else:
            kind = wanted  # type: ignore[assignment]
        if kind == "ct":
            inside = [_structure_values(case, channel, cohort) for case in cohort.labeled[:8]]
            found.append(ct_window(np.concatenate(inside).astype(np.float32)))
        else:
            found.append(Normalization(kind))
    return tuple(found)


def _structure_values(case: Case, channel: int, cohort: Cohort) -> np.ndarray:
    """Return the grey values (N,) of a labelled case's structures."""
    assert case.label is not None
    # The images have names of their own: a view of their voxels does not keep them alive.
    image, label = read_image(case.images[channel]), read_label(case.label, cohort.classes)
    return sitk.GetArrayViewFromImage(image)[sitk.GetArrayViewFromImage(label) > 0]


def _centroids(cohort: Cohort, spacing: float) -> tuple[Centroid | None, ...]:
    """Return the mean centroid of each class that is one piece in every labelled case that shows it, at the working spacing."""
    found = _seen_in_one_piece(cohort, spacing)
    return tuple(triple(np.mean(places, axis=0), float) if places else None for places in found)


def _seen_in_one_piece(cohort: Cohort, spacing: float) -> list[list[np.ndarray] | None]:
    """Return for each class the centroids (3,) in the labelled cases that show it; None where one shows it in several pieces."""
    centroids: list[list[np.ndarray] | None] = [[] for _ in cohort.classes]
    for case in cohort.labeled:
        assert case.label is not None
        label = read_label(case.label, cohort.classes)
        label = resample(label, training_grid(label, spacing), interpolator=sitk.sitkNearestNeighbor)
        for index, found in enumerate(centroids):
            if found is None:
                continue
            pieces = sitk.RelabelComponent(sitk.ConnectedComponent(label == index + 1, True))
            array = sitk.GetArrayViewFromImage(pieces)
            sizes = np.bincount(array.ravel())[1:]
            if not sizes.size:
                continue
            if sizes[0] < _ONE_PIECE * sizes.sum():
                centroids[index] = None
            else:
                found.append((centroid(array == 1) + 0.5) / array.shape)
    return centroids
