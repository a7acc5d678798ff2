"""Measure generalists alone: Dice on real volumes from simulated clicks and boxes, nothing learned from these volumes.

The first click lies in the middle of the structure; each further one in the middle of the largest error, inside or
outside, as interactive segmentation is usually measured (Euclidean distance to the error's border, its greatest). A
generalist that takes masks is given its last answer with each further click. A box is the label's own.

    python Testing/benchmarks/bench_zero_shot.py --dataset left_atrium --generalists synthetic random-walker
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from measuring import DATA
from scipy.ndimage import distance_transform_edt, label

from SemiSAMPlusLib.cohort.intensity import Normalization
from SemiSAMPlusLib.cohort.volume import Grid, Volume, resample, training_grid
from SemiSAMPlusLib.generalist.generalist import Generalist, PromptSet
from SemiSAMPlusLib.generalist.registry import create_generalist
from SemiSAMPlusLib.generalist.synthetic.generalist import Synthetic

CLICKS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Task:
    """A data set with what is asked for in it.

    Attributes:
        structures: Name to label values.
        spacing: Voxel size in mm at which volumes are given and Dice is measured.
        tuning: First and last case, counted from 1, on which settings may be chosen.
        report: First and last case for final figures.
    """

    structures: dict[str, tuple[int, ...]]
    spacing: float
    tuning: tuple[int, int]
    report: tuple[int, int]


TASKS = {
    "left_atrium": Task({"left atrium": (1,)}, 1.25, (1, 40), (61, 80)),
    "hippocampus": Task({"hippocampus": (1, 2), "anterior": (1,), "posterior": (2,)}, 1.0, (1, 100), (141, 200)),
}


def load_case(folder: Path, name: str, spacing: float) -> tuple[Volume, np.ndarray]:
    """Return a case as generalists are given it (normalised), and its label (z, y, x) on the same grid."""
    image = sitk.ReadImage(str(folder / "images" / f"{name}.nii.gz"))
    truth = sitk.ReadImage(str(folder / "labels" / f"{name}.nii.gz"))
    grid = training_grid(image, spacing)
    array = sitk.GetArrayFromImage(resample(image, grid, outside=float(sitk.GetArrayViewFromImage(image).min())))
    labels = sitk.GetArrayFromImage(resample(truth, grid, interpolator=sitk.sitkNearestNeighbor))
    return Volume(Normalization("mr")(array)[None], grid), labels


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two boolean arrays."""
    return 2 * float((first & second).sum()) / max(1, int(first.sum() + second.sum()))


def next_click(answer: np.ndarray, truth: np.ndarray, spacing: float) -> tuple[np.ndarray, int]:
    """Return the middle (3,) of the largest piece of error as array index, and 1 where the structure is missing there."""
    best, place, wanted = -1, np.zeros(3), 1
    for kind, error in ((1, truth & ~answer), (0, answer & ~truth)):
        pieces, number = label(error)
        if number == 0:
            continue
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() > best:
            piece = np.pad(pieces == int(sizes.argmax()) + 1, 1)
            depth = distance_transform_edt(piece, sampling=spacing)
            best, wanted = int(sizes.max()), kind
            place = np.array(np.unravel_index(depth.argmax(), depth.shape)) - 1
    return place.astype(float), wanted


def by_clicks(generalist: Generalist, embedding: object, grid: Grid, truth: np.ndarray) -> dict[str, float]:
    """Return the Dice after 1, 3, 5 and 10 clicks."""
    answer = np.zeros(truth.shape, dtype=bool)
    points, labels, mask = [], [], None
    scores = {}
    for number in range(1, max(CLICKS) + 1):
        place, wanted = next_click(answer, truth, grid.spacing[0])
        points.append(place)
        labels.append(wanted)
        prompts = PromptSet(grid.to_physical(np.array(points)), np.array(labels), mask, None if mask is None else grid)
        probability = generalist.answer(embedding, [prompts], grid)[0].nan_to_num(0.0).cpu().numpy()
        answer = probability > 0.5
        if generalist.name != "random-walker":  # It would take its own errors for seeds.
            limited = probability.clip(1e-4, 1 - 1e-4)
            mask = np.log(limited / (1 - limited)).astype(np.float32)
        if number in CLICKS:
            scores[f"{number} click{'s' if number > 1 else ''}"] = dice(answer, truth)
    return scores


def by_box(generalist: Generalist, embedding: object, grid: Grid, truth: np.ndarray) -> dict[str, float]:
    """Return the Dice from a box; the walker, which knows none, is given the box filled as a mask."""
    where = np.argwhere(truth)
    corners = np.array([where.min(axis=0), where.max(axis=0)], dtype=float)
    if generalist.name == "random-walker":
        filled = np.full(truth.shape, -4.0, dtype=np.float32)
        filled[tuple(slice(int(a), int(b) + 1) for a, b in corners.T)] = 4.0
        prompts = PromptSet(np.zeros((0, 3)), np.zeros(0), filled, grid)
    else:
        prompts = PromptSet(np.zeros((0, 3)), np.zeros(0), box=grid.to_physical(corners))
    answer = generalist.answer(embedding, [prompts], grid)[0].nan_to_num(0.0).cpu().numpy() > 0.5
    return {"box": dice(answer, truth)}


def _create(spec: str) -> Generalist:
    """Return a generalist by name; ``synthetic=FILE`` takes other weights than those that are shipped."""
    name, _, file = spec.partition("=")
    return Synthetic(Path(file)) if name == "synthetic" and file else create_generalist(spec)


def measure(
    dataset: str,
    generalists: Sequence[str],
    cases: tuple[int, int] | None = None,
    every: int = 1,
    split: str = "tuning",
    spacing: float | None = None,
    structures: Sequence[str] | None = None,
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return Dice by generalist, structure and kind of prompt, one value for each case.

    Args:
        dataset: ``left_atrium`` or ``hippocampus``.
        generalists: As ``--generalist`` takes them.
        cases: First and last case, counted from 1; those of the split where not given.
        every: Take each so-many-th case.
        split: ``tuning`` or ``report``.
        spacing: Voxel size in mm, if not the usual one.
        structures: Those to ask for; all where not given.
    """
    task = TASKS[dataset]
    folder = DATA / dataset
    first, last = cases or getattr(task, split)
    names = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "images").glob("*.nii.gz"))
    chosen = names[first - 1 : last : every]
    wanted = {name: values for name, values in task.structures.items() if not structures or name in structures}
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    for spec in generalists:
        generalist = _create(spec)
        seconds, answers = 0.0, 0
        for name in chosen:
            volume, labels = load_case(folder, name, spacing or task.spacing)
            begun = time.perf_counter()
            embedding = generalist.embed(volume)
            for structure, values in wanted.items():
                truth = np.isin(labels, values)
                for how in (by_clicks, by_box):
                    for kind, value in how(generalist, embedding, volume.grid, truth).items():
                        scores.setdefault(spec, {}).setdefault(structure, {}).setdefault(kind, []).append(value)
                answers += max(CLICKS) + 1
            seconds += time.perf_counter() - begun
        for structure, kinds in scores[spec].items():
            row = "  ".join(f"{kind} {np.mean(v):.3f} ± {np.std(v):.3f}" for kind, v in kinds.items())
            print(
                f"{dataset} {spec} {structure} n={len(chosen)}: {row}  ({seconds / answers:.2f} s an answer)",
                flush=True,
            )
    return scores


def main(
    dataset: str = "left_atrium",
    generalists: tuple[str, ...] = ("synthetic", "random-walker"),
    cases: tuple[int, int] | None = None,
    every: int = 1,
    split: str = "tuning",
    spacing: float | None = None,
    structures: tuple[str, ...] = (),
    output: Path | None = None,
) -> None:
    """Measure, print a line for each structure, and write every value as JSON where ``output`` is given."""
    if not (DATA / dataset / "images").is_dir():
        print(f"Not measured: the volumes of {DATA / dataset} are not here")
        return
    torch.set_num_threads(1)
    scores = measure(dataset, generalists, cases, every, split, spacing, structures)
    if output is not None:
        output.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
