"""Measure how cost grows: with cases, with the volume's size, with prompt sets, generalists and classes.

Every training is an ordinary one of tiny phantoms made by code, in a process of its own for its peak of memory. About
five minutes in all, and a minute more where the left atrium is at hand, on all volumes of which a training at the defaults
is begun twice. The first time its files may come from the disk; they do for certain after
``sync; echo 3 > /proc/sys/vm/drop_caches`` on Linux::

    python Testing/benchmarks/bench_scale.py
    python Testing/benchmarks/bench_scale.py --cases 10 100 1000 10000 --volumes 64 128 256 512 --iterations 40
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from measuring import DATA, peak_memory

from SemiSAMPlusLib.cohort.cohort import Case, Class, Cohort, Role
from SemiSAMPlusLib.cohort.discovery import find_cohort
from SemiSAMPlusLib.cohort.intensity import Normalization
from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort
from SemiSAMPlusLib.cohort.plan import Plan
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.run.folder import RunFolder
from SemiSAMPlusLib.specialist.device import usable_precision
from SemiSAMPlusLib.specialist.networks import build_specialist
from SemiSAMPlusLib.specialist.specialist import Specialist
from SemiSAMPlusLib.training.run import train

#: Phantoms of this many voxels (z, y, x).
SIZE = (24, 32, 28)
#: After so many iterations the specialist sees most classes of a phantom, so that they are asked about.
LEARNED = 150
COLORS = ((0.9, 0.6, 0.0), (0.3, 0.7, 0.9), (0.0, 0.6, 0.5), (0.8, 0.5, 0.7))


def make_cohort(folder: Path, cases: int) -> Cohort:
    """Write phantoms, a few drawn and the others these with noise of their own, for no two images may be the same."""
    drawn = make_phantom_cohort(folder / "drawn", cases=10, labeled=4, test=0, size=SIZE)
    images = [sitk.ReadImage(str(case.images[0])) for case in drawn.cases]
    random = np.random.default_rng(0)
    further = []
    for number in range(len(drawn.cases), cases):
        image = images[number % len(images)]
        array = sitk.GetArrayFromImage(image)
        array = np.maximum(array + np.round(random.normal(0, 5, array.shape)), 0).astype(np.int16)
        path = folder / f"{number:05d}.nii.gz"
        sitk.WriteImage(Grid.of(image).image(array), str(path))
        further.append(Case(f"{number:05d}", (path,), role=Role.UNLABELED))
    return replace(drawn, cases=(*drawn.cases[:cases], *further))


def with_classes(cohort: Cohort, count: int, folder: Path) -> Cohort:
    """Return the cohort with its structure cut into ``count`` classes along z."""
    cases = []
    for case in cohort.cases:
        if case.role is Role.LABELED and case.label is not None:
            label = sitk.ReadImage(str(case.label))
            array = sitk.GetArrayFromImage(label)
            rows = np.flatnonzero(array.any(axis=(1, 2)))
            parts = np.minimum((np.arange(len(array)) - rows[0]) * count // max(1, rows[-1] - rows[0] + 1), count - 1)
            array = np.where(array > 0, np.maximum(parts, 0)[:, None, None] + 1, 0).astype(np.uint8)
            path = folder / f"{case.name}-{count}.nii.gz"
            sitk.WriteImage(Grid.of(label).image(array), str(path))
            case = replace(case, label=path)
        cases.append(case)
    classes = tuple(Class(f"part {number}", (number,), COLORS[(number - 1) % 4]) for number in range(1, count + 1))
    return replace(cohort, cases=tuple(cases), classes=classes)


def _train_alone(
    cohort: dict[str, Any], settings: dict[str, Any], run: str, threads: int | None, settled: int
) -> dict[str, float]:
    if threads is not None:
        torch.set_num_threads(threads)
    told: list[tuple[float, dict[str, Any]]] = []
    begun = time.perf_counter()
    train(
        Cohort.from_dict(cohort),
        TrainingConfig(**settings),
        Path(run),
        observer=lambda event: told.append((time.perf_counter(), event)),
    )
    steps = [(when, event["iteration"]) for when, event in told if event["event"] == "progress"]
    started = steps[0][0]
    # A line of progress comes each second: from the last one before steps are settled on, so that there are steps between the two.
    (first, one), (last, count) = [step for step in steps if step[1] <= settled][-1], steps[-1]
    return {
        "start_s": started - begun,
        "iteration_s": (last - first) / max(1, count - one),
        "peak_gb": peak_memory() / 1e9,
    }


def train_alone(
    cohort: Cohort, run: Path, iterations: int, threads: int | None, *, settled: int = 1, **settings: Any
) -> dict[str, float]:
    """Train in a process of its own: seconds to the end of the first iteration and for each after ``settled``, and peak memory."""
    chosen = {
        "patch": (16, 24, 24),
        "size": "small",
        "device": "cpu",
        "iterations": settled - 1 + iterations,
        "threads": threads,
        "layers": (),
        "validate_every": 10**6,
        "checkpoint_every": 10**6,
        # From the first step on each step asks, so that what asking costs shows.
        "method": "mean-teacher",
        "generalists": ("random-walker",),
        "trust": 1.0,
        **settings,
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(_train_alone, cohort.to_dict(), chosen, str(run), threads, settled).result()


def start_alone(cohort: Path, run: Path) -> float:
    """Return the seconds from the start of ``semisamplus train`` at its defaults to the end of the first iteration."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "SemiSAMPlusLib", "train", str(cohort), "--run", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    events = RunFolder(run).events_file
    try:
        while not (events.exists() and '"progress"' in events.read_text(encoding="utf-8")):
            if process.poll() is not None:
                raise RuntimeError("the training ended before its first iteration")
            time.sleep(0.02)
        return time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait()


def _predict_alone(size: tuple[int, int, int], folder: str, threads: int | None) -> dict[str, float]:
    if threads is not None:
        torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    array = np.empty(size, dtype=np.int16)
    for part in array:
        part[:] = random.normal(100, 20, part.shape)
    middle = tuple(slice(n * 2 // 5, n * 3 // 5) for n in size)
    array[middle] += 400
    path = Path(folder) / "volume.nrrd"
    sitk.WriteImage(Grid(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).image(array), str(path))
    del array
    torch.manual_seed(0)
    patch = (64, 64, 64)
    network = build_specialist("unet3d", in_channels=1, out_channels=2, patch=patch, size="small")
    with torch.no_grad():  # Untrained it would see structures everywhere.
        list(network.parameters())[-1].copy_(torch.tensor([20.0, 0.0]))
    plan = Plan(2.0, patch, (Normalization("mr"),), "small", ((0.5, 0.5, 0.5),))
    precision = usable_precision(torch.device("cpu"), "auto")
    classes = (Class("structure", (1,), COLORS[0]),)
    specialist = Specialist(network.eval(), "unet3d", plan, classes, ("image",), precision, {})
    begun = time.perf_counter()
    specialist.predict([path])
    return {"seconds": time.perf_counter() - begun, "peak_gb": peak_memory() / 1e9}


def main(
    cases: Sequence[int] = (10, 100, 1000),
    volumes: Sequence[int] = (64, 128, 256, 600),
    prompt_sets: Sequence[int] = (1, 2, 4, 8),
    generalists: tuple[str, ...] = ("random-walker", "synthetic"),
    classes: Sequence[int] = (1, 2, 4),
    iterations: int = 12,
    threads: int | None = None,
    output: Path | None = None,
) -> None:
    """Measure and print tables.

    Args:
        cases: Sizes of cohorts.
        volumes: Edges in voxels of volumes to predict, 1 mm, looked at with 2 mm; from 512 on that many slices of
            512 × 512.
        prompt_sets: Numbers of ways (K) in which the generalist is asked.
        generalists: One, then two, ... of these teach.
        classes: Numbers of classes.
        iterations: Of each training.
        threads: CPU threads.
        output: Where to write all figures as JSON.
    """
    figures: dict[str, dict[str, dict[str, float]]] = {}

    def note(table: str, row: object, measured: dict[str, float]) -> None:
        if table not in figures:
            names = {"start_s": "start, s", "iteration_s": "an iteration, s", "seconds": "s", "peak_gb": "peak, GB"}
            print(f"\n| {table} | {' | '.join(names[key] for key in measured)} |\n|{'---|' * (1 + len(measured))}")
        figures.setdefault(table, {})[str(row)] = measured
        print(f"| {row} | {' | '.join(f'{value:.3f}' for value in measured.values())} |", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if (DATA / "left_atrium").is_dir():
            heart = find_cohort(DATA / "left_atrium", labeled=1)
            heart.save(folder / "heart.json")
            for time_ in ("the first time", "again"):
                seconds = start_alone(folder / "heart.json", folder / time_)
                note(f"{len(heart.cases)} volumes of left atrium", time_, {"start_s": seconds})
        for count in cases:
            cohort = make_cohort(folder / f"cases-{count}", count)
            note("cases", count, train_alone(cohort, folder / f"run-{count}", iterations, threads))
        for edge in volumes:
            size = (edge, min(edge, 512), min(edge, 512))
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
                measured = child.submit(_predict_alone, size, scratch, threads).result()
            note("volume to predict", " × ".join(map(str, reversed(size))), measured)
        small = make_cohort(folder / "small", 10)
        for count in prompt_sets:
            note("K", count, train_alone(small, folder / f"k-{count}", iterations, threads, prompt_sets=count))
        for count in range(len(generalists) + 1):
            chosen = generalists[:count]
            measured = train_alone(small, folder / f"g-{count}", iterations, threads, generalists=chosen)
            note("generalists", f"{count} ({', '.join(chosen)})" if chosen else "0", measured)
        for count in classes:
            several = with_classes(small, count, folder)
            measured = train_alone(several, folder / f"c-{count}", iterations, threads, settled=LEARNED)
            note("classes", count, measured)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
