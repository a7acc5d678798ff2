"""Measure prediction: seconds, peak memory and Dice of a volume, beside MONAI's sliding_window_inference on the same network.

Ours is the specialist alone, one look is ours without the looks in further sizes, and refined is ours with a random walker
that is trusted by 0.4. Plain is overlap 0.5 with Gaussian weights over the whole volume, all class probabilities brought to
the native grid at once, and the largest piece kept. The left atrium is predicted in one process, the ways in turn; the large
volume, made by code, by each way in a process of its own, for its peak::

    python Testing/benchmarks/bench_infer.py                                # about 2 minutes
    python Testing/benchmarks/bench_infer.py --run RUN --cases 41 60       # with Dice, of a trained specialist
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from measuring import DATA, peak_memory
from monai.inferers import sliding_window_inference
from monai.transforms import KeepLargestConnectedComponent
from torch import nn

from SemiSAMPlusLib.cohort.cohort import Case, Class
from SemiSAMPlusLib.cohort.intensity import Normalization
from SemiSAMPlusLib.cohort.outputs import read_label
from SemiSAMPlusLib.cohort.patches import prepare
from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort
from SemiSAMPlusLib.cohort.plan import Plan
from SemiSAMPlusLib.cohort.volume import Grid, read_image
from SemiSAMPlusLib.collaboration.collaboration import Collaboration, CollaborationSettings
from SemiSAMPlusLib.collaboration.prompts import PromptSettings
from SemiSAMPlusLib.collaboration.refinement import refiner
from SemiSAMPlusLib.generalist.registry import create_generalist
from SemiSAMPlusLib.specialist.device import usable_precision
from SemiSAMPlusLib.specialist.inference import arithmetic
from SemiSAMPlusLib.specialist.networks import build_specialist
from SemiSAMPlusLib.specialist.specialist import Specialist

#: Columns, rows and slices of the large volume, and its voxel size in mm.
LARGE, VOXEL = (512, 512, 600), (0.8, 0.8, 1.0)
Way = Callable[[Specialist, Path], np.ndarray]


class Bright(nn.Module):
    """Costs what a specialist costs, and finds what is bright: a network that no training has to make."""

    def __init__(self, network: nn.Module, level: float) -> None:
        super().__init__()
        self.network, self.level = network, level

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes, z, y, x)."""
        logits = 1e-3 * self.network(image)
        logits[:, 1] += 6 * (image[:, 0] - self.level)
        return logits


def untrained(spacing: float, patch: tuple[int, int, int], level: float) -> Specialist:
    """Return the default specialist for a CPU with one class, which finds what is brighter than ``level``."""
    torch.manual_seed(0)
    network = build_specialist("unet3d", in_channels=1, out_channels=2, patch=patch, size="small")
    plan = Plan(spacing, patch, (Normalization("mr"),), "small", ((0.5, 0.5, 0.5),))
    precision = usable_precision(torch.device("cpu"), "auto")
    classes = (Class("structure", (1,), (1.0, 0.0, 0.0)),)
    return Specialist(Bright(network, level).eval(), "unet3d", plan, classes, ("image",), precision, {})


# -- the ways


def ours(specialist: Specialist, path: Path) -> np.ndarray:
    """Return labels (z, y, x) as the program predicts them without generalists."""
    return specialist.predict([path]).labels


def one_look(specialist: Specialist, path: Path) -> np.ndarray:
    """Return labels (z, y, x) as the program would predict them if it looked in one size alone."""
    return ours(replace(specialist, further_scales=()), path)


def refined(specialist: Specialist, path: Path) -> np.ndarray:
    """Return labels (z, y, x) as the program predicts them where the training trusted the random walker."""
    settings = CollaborationSettings(iterations=1, prompts=PromptSettings(), trust=0.4)
    collaboration = Collaboration({"random-walker": create_generalist("random-walker")}, settings)
    try:
        return specialist.predict([path], refine=refiner(collaboration, specialist)).labels
    finally:
        collaboration.close()


@torch.no_grad()
def plain_probabilities(specialist: Specialist, image: torch.Tensor) -> torch.Tensor:
    """Return class probabilities (classes, z, y, x) by MONAI's sliding windows alone."""
    patch = specialist.plan.patch
    shape = [max(n, p) for n, p in zip(image.shape[1:], patch, strict=True)]
    before = [(wide - n) // 2 for wide, n in zip(shape, image.shape[1:], strict=True)]
    inside = (..., *(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True)))
    padded = torch.full((1, image.shape[0], *shape), float(image.amin()))
    padded[inside] = image
    with arithmetic(image.device, specialist.precision):
        logits = sliding_window_inference(
            padded, patch, 1, lambda window: specialist.network(window).float(), overlap=0.5, mode="gaussian"
        )
    return torch.as_tensor(logits)[inside][0].softmax(dim=0)


def plain(specialist: Specialist, path: Path) -> np.ndarray:
    """Return labels (z, y, x) as a few lines of MONAI and SimpleITK predict them."""
    prepared = prepare(Case("case", (path,)), specialist.plan, None, "cpu")
    probabilities = plain_probabilities(specialist, prepared.image).numpy()
    reference = read_image(path)
    native = [
        sitk.GetArrayFromImage(sitk.Resample(prepared.grid.image(one), reference, sitk.Transform(), sitk.sitkLinear))
        for one in probabilities
    ]
    classes = torch.from_numpy(np.stack(native)).max(dim=0, keepdim=True).indices
    pieces = [index for index, whole in enumerate(specialist.plan.one_piece, start=1) if whole]
    keep = KeepLargestConnectedComponent(applied_labels=pieces, is_onehot=False, connectivity=3)
    return np.asarray(keep(classes))[0].astype(np.uint8)


WAYS: dict[str, Way] = {"plain": plain, "one look": one_look, "ours": ours, "refined": refined}


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two boolean arrays, 1 where both are empty."""
    size = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / size if size else 1.0


# -- volumes as they are in the field


@dataclass
class Measured:
    """What was measured of the cases of a cohort, one value a case.

    Attributes:
        seconds: By way, of the whole prediction.
        network: By way, of the windows alone.
        dice: By way, with the truth; empty where there is no trained specialist.
        agreement: Dice of plain and one look with each other.
    """

    seconds: dict[str, list[float]]
    network: dict[str, list[float]]
    dice: dict[str, list[float]]
    agreement: list[float]


def measure(specialist: Specialist, images: list[Path], labels: list[Path], repeats: int) -> Measured:
    """Predict each image by both ways in turn; the median of ``repeats`` counts."""
    measured = Measured(*({name: [] for name in WAYS} for _ in range(3)), [])
    for way in WAYS.values():
        way(specialist, images[0])
    for path, truth in zip(images, labels, strict=True):
        prepared = prepare(Case("case", (path,)), specialist.plan, None, "cpu").image
        by_network: dict[str, Callable[[], Any]] = {
            "plain": lambda image=prepared: plain_probabilities(specialist, image),
            "one look": lambda image=prepared: replace(specialist, further_scales=()).probabilities(image),
            "ours": lambda image=prepared: specialist.probabilities(image),
        }
        whole: dict[str, list[float]] = {name: [] for name in WAYS}
        network: dict[str, list[float]] = {name: [] for name in WAYS}
        found = {}
        for _ in range(repeats):
            for name, way in WAYS.items():
                begun = time.perf_counter()
                found[name] = way(specialist, path)
                whole[name].append(time.perf_counter() - begun)
                if name in by_network:
                    begun = time.perf_counter()
                    by_network[name]()
                    network[name].append(time.perf_counter() - begun)
        for name, labels_found in found.items():
            measured.seconds[name].append(statistics.median(whole[name]))
            if name in by_network:
                measured.network[name].append(statistics.median(network[name]))
            reference = sitk.GetArrayFromImage(read_label(truth, specialist.classes))
            for number in range(1, len(specialist.classes) + 1):
                measured.dice[name].append(dice(reference == number, labels_found == number))
        measured.agreement.append(dice(found["plain"] > 0, found["one look"] > 0))
    return measured


def print_table(title: str, measured: Measured, *, with_dice: bool) -> None:
    """Print the medians and their ratio."""
    print(f"\n{title}, {len(measured.agreement)} volumes, {torch.get_num_threads()} thread(s)\n")
    print("| | seconds a volume | of these the windows | Dice |\n|---|---|---|---|")
    for name in WAYS:
        score = f"{100 * np.mean(measured.dice[name]):.2f}" if with_dice else "–"
        windows = f"{statistics.median(measured.network[name]):.3f}" if measured.network[name] else "as ours"
        print(f"| {name} | {statistics.median(measured.seconds[name]):.3f} | {windows} | {score} |")
    ratios = [
        statistics.median(a / b for a, b in zip(times["plain"], times["one look"], strict=True))
        for times in (measured.seconds, measured.network)
    ]
    print(
        f"| plain / one look | {ratios[0]:.2f} | {ratios[1]:.2f} | agreement {100 * np.mean(measured.agreement):.2f} |"
    )


# -- a large volume


def write_large(path: Path, size: tuple[int, int, int]) -> None:
    """Write an int16 volume of soft tissue with a few bright ellipsoids, one across the middle and some in corners."""
    columns, rows, slices = size
    random = np.random.default_rng(0)
    array = np.empty((slices, rows, columns), dtype=np.int16)
    shape = np.array(array.shape)
    centres = (np.array([[0.5, 0.5, 0.5], [0.1, 0.12, 0.1], [0.9, 0.2, 0.85]]) * shape).tolist()
    y, x = np.ogrid[:rows, :columns]
    for z in range(slices):
        array[z] = random.normal(100, 20, (rows, columns))
        for a, b, c in centres:
            array[z][((z - a) / 60) ** 2 + ((y - b) / 45) ** 2 + ((x - c) / 45) ** 2 <= 1] += 400
    grid = Grid((slices, rows, columns), VOXEL, (0.0, 0.0, 0.0))
    sitk.WriteImage(grid.image(array), str(path))


def _predict_alone(name: str, path: str, spacing: float, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    specialist = untrained(spacing, (64, 64, 64), 3.0)
    begun = time.perf_counter()
    labels = WAYS[name](specialist, Path(path))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_gb": peak_memory() / 1e9, "voxels": int((labels > 0).sum())}


def predict_alone(name: str, path: Path, spacing: float) -> dict[str, float]:
    """Predict a volume in a process of its own: seconds, peak memory in GB, and how many voxels were found."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(_predict_alone, name, str(path), spacing, torch.get_num_threads()).result()


def main(
    run: Path | None = None,
    cases: tuple[int, int] = (41, 44),
    repeats: int = 3,
    large: tuple[int, int, int] | None = LARGE,
    spacing: float = 2.0,
    threads: int | None = None,
    output: Path | None = None,
) -> None:
    """Measure and print tables.

    Args:
        run: A run folder with a specialist of the left atrium; without it an untrained one is timed, without Dice.
        cases: First and last case, counted from 1.
        repeats: How often each volume is predicted by each way.
        large: Columns, rows and slices of the large volume.
        spacing: Voxel size in mm at which the large volume is looked at.
        threads: CPU threads of the network.
        output: Where to write all figures as JSON.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if (DATA / "left_atrium").is_dir():
            images = sorted((DATA / "left_atrium" / "images").glob("*.nii.gz"))[cases[0] - 1 : cases[1]]
            labels = [DATA / "left_atrium" / "labels" / path.name for path in images]
            specialist = Specialist.load(run) if run is not None else untrained(1.25, (40, 64, 88), 1.0)
            title = "Left atrium"
        else:
            cohort = make_phantom_cohort(Path(scratch), cases=4, test=0, size=(88, 140, 190))
            images, labels = [case.images[0] for case in cohort.cases], []
            labels = [path.parents[1] / "labels" / path.name for path in images]
            specialist, run, title = untrained(0.6, (40, 64, 88), 1.0), None, "Phantoms"
        measured = measure(specialist, images, labels, repeats)
        print_table(title, measured, with_dice=run is not None)
        figures["volumes"] = vars(measured)
        if large is not None:
            path = Path(scratch) / "large.nrrd"
            write_large(path, large)
            figures["large"] = {name: predict_alone(name, path, spacing) for name in WAYS}
            print(f"\n{' × '.join(map(str, large))} voxels, looked at with {spacing:g} mm\n")
            print("| | seconds | peak memory, GB | voxels found |\n|---|---|---|---|")
            for name, one in figures["large"].items():
                print(f"| {name} | {one['seconds']:.1f} | {one['peak_gb']:.2f} | {one['voxels']} |")
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
