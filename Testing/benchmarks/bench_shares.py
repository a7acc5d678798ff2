"""Measure what trust should be: Dice and distance of refined predictions, by the share that is taken of a generalist's corrections.

For each run, its specialist predicts the test cases on the training grid, and what a generalist corrects is taken by
shares from 0 to 1, the same in every case. Beside them stands what trust takes, case by case, as it would be measured now;
it knows none of these labels::

    python Testing/benchmarks/bench_shares.py runs/tuning/copy-paste-1-seed0/run --generalists random-walker

Generalists are asked as by default, whether the run knew them or not. With several their trusts are fitted together,
and the last column has what all of them make of the prediction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from measuring import table

from SemiSAMPlusLib.cohort.cohort import Case, Cohort
from SemiSAMPlusLib.cohort.patches import CaseCache, prepare
from SemiSAMPlusLib.collaboration.collaboration import Collaboration, CollaborationSettings
from SemiSAMPlusLib.collaboration.prompts import PromptSettings
from SemiSAMPlusLib.evaluation.metrics import evaluate_segmentation
from SemiSAMPlusLib.generalist.registry import create_generalist
from SemiSAMPlusLib.specialist.pieces import to_classes
from SemiSAMPlusLib.specialist.specialist import Specialist


def measure(run: Path, names: Sequence[str], shares: Sequence[float]) -> dict[str, list[tuple[float, float]]]:
    """Return the mean Dice and mean 95HD in mm of each test case, by what was taken.

    What was taken is named ``NAME SHARE``, or ``trust`` with what it is on average.
    """
    specialist = Specialist.load(run)
    cohort = Cohort.from_dict(json.loads((run / "run.json").read_text(encoding="utf-8"))["cohort"], run)
    settings = CollaborationSettings(iterations=1, prompts=PromptSettings())
    collaboration = Collaboration({name: create_generalist(name, specialist.device) for name in names}, settings)
    cache = CaseCache(specialist.plan, specialist.classes, 1 << 30, specialist.device)
    collaboration.measure_trust(cache, cohort, specialist, 0, force=True)
    measured_trust = ", ".join(f"{value:.2f}" for value in collaboration.trust.values())
    taken: dict[str, dict[str, Any]] = {
        f"{name} {share:g}": {"trust": {name: share}} for name in names for share in shares
    }
    taken[f"trust {measured_trust}"] = collaboration.state()
    measured: dict[str, list[tuple[float, float]]] = {what: [] for what in taken}
    for case in cohort.test:
        for what, values in _of_case(case, specialist, collaboration, taken).items():
            measured[what].append(values)
    return measured


def _of_case(
    case: Case, specialist: Specialist, collaboration: Collaboration, taken: dict[str, dict[str, Any]]
) -> dict[str, tuple[float, float]]:
    prepared = prepare(case, specialist.plan, specialist.classes, specialist.device)
    assert prepared.label is not None
    truth = prepared.label[0].cpu().numpy()
    probabilities = specialist.probabilities(prepared.image)
    opinions = collaboration.ask_about(prepared, probabilities, specialist)
    found = {}
    for what, state in taken.items():
        collaboration.load_state(state)
        refined = to_classes(collaboration.refined(probabilities, opinions), specialist.plan.centroids).cpu().numpy()
        rows = evaluate_segmentation(refined, truth, prepared.grid.spacing, specialist.classes)
        found[what] = (float(np.nanmean([row.dice for row in rows])), float(np.nanmean([row.hd95_mm for row in rows])))
    return found


def main(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    generalists: tuple[str, ...] = ("random-walker",),
    shares: tuple[float, ...] = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
) -> None:
    """Print a table for each run."""
    torch.set_num_threads(1)
    for run in runs:
        measured = measure(run, generalists, shares)
        means = [np.nanmean(values, axis=0) for values in measured.values()]
        rows = [
            ["Dice %", *(f"{100 * dice:.2f}" for dice, _ in means)],
            ["95HD mm", *(f"{distance:.2f}" for _, distance in means)],
        ]
        print(f"{run}\n\n{table(['', *measured], rows)}\n", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
