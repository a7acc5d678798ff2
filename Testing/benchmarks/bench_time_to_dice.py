"""Minutes of training until the Dice on left atrium's tuning cases passes 0.70 and 0.80: the number that a user feels.

Each row is an ordinary `semisamplus train` with validation cases, so that what a user waits for is what is measured: reading
the volumes, steps, trust, layers and validation. A training is stopped when the greater Dice is passed, unless
``--to-the-end``. Nothing is measured without ``--output``, because it takes long: up to ten minutes for each recipe, size
and number of labels on two cores, about an hour for the defaults. What has been done already is not done again::

    python Testing/benchmarks/bench_time_to_dice.py --output runs/time-to-dice
    python Testing/benchmarks/bench_time_to_dice.py --output runs/time --recipes copy-paste --sizes medium --labeled 1
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measuring import DATA, table

from SemiSAMPlusLib.commands import STOPPED
from SemiSAMPlusLib.run.folder import RunFolder

PASSES = (0.70, 0.80)


def minutes_to(events: Sequence[dict], passes: Sequence[float] = PASSES) -> list[float | None]:
    """Return after how many minutes the mean Dice on validation cases first passed each value, None where it never did."""
    begun = next((event["time"] for event in events if event["event"] == "started"), 0.0)
    curve = []
    for event in events:
        if event["event"] == "metrics" and event["on"] == "validation":
            values = [value for value in event["dice"].values() if value is not None]
            curve.append(((event["time"] - begun) / 60, float(np.mean(values)) if values else 0.0))
    return [next((minutes for minutes, dice in curve if dice >= value), None) for value in passes]


def best_dice(events: Sequence[dict]) -> float:
    """Return the greatest mean Dice on validation cases."""
    found = [[v for v in e["dice"].values() if v is not None] for e in events if e["event"] == "metrics"]
    return max((float(np.mean(values)) for values in found if values), default=0.0)


def _train(cohort: Path, run: Path, words: Sequence[object], *, to_the_end: bool) -> list[dict]:
    """Train, unless it was done before, and return the events; a run that was interrupted begins anew, for its time counts."""
    folder = RunFolder(run)
    if folder.events_file.exists() and folder.events()[-1]["event"] == "finished":
        return folder.events()
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "SemiSAMPlusLib", "train", *map(str, (cohort, "--run", run, *words))]
    said = run.with_suffix(".log")
    with said.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(1)
            events = folder.events() if folder.events_file.exists() else []
            if not to_the_end and events and minutes_to(events)[-1] is not None:
                folder.ask_to_stop()
    if process.returncode not in (0, STOPPED):
        sys.exit(f"{' '.join(command)}\n{said.read_text(encoding='utf-8')}")
    return folder.events()


def _call(*words: object) -> None:
    command = [sys.executable, "-m", "SemiSAMPlusLib", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def main(
    output: Path | None = None,
    recipes: tuple[str, ...] = ("supervised", "mean-teacher", "copy-paste", "copy-paste+random-walker"),
    sizes: tuple[str, ...] = ("small", "medium"),
    labeled: tuple[int, ...] = (1, 4),
    cases: str = "1-36",
    validation: str = "37-40",
    iterations: int = 1000,
    every: int = 25,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    to_the_end: bool = False,
) -> None:
    """Train and print a table.

    Args:
        output: Where runs and result.json go.
        recipes: METHOD or METHOD+GENERALIST.
        sizes: Sizes of the specialist.
        labeled: Numbers of labelled cases.
        cases: Training cases, as in `semisamplus cohort`.
        validation: Cases that Dice is measured on.
        iterations: Length of each training.
        every: Iterations between validations.
        seed: Of each training.
        device: Where to train.
        threads: CPU threads; all cores where not given.
        to_the_end: Go on when the Dice have been passed.
    """
    if output is None:
        print("It takes hours. To measure: python Testing/benchmarks/bench_time_to_dice.py --output runs/time-to-dice")
        return
    folder = DATA / "left_atrium"
    if not folder.is_dir():
        print(f"{folder} is missing: the time to a Dice says something on real volumes only.")
        return
    output.mkdir(parents=True, exist_ok=True)
    rows, results = [], []
    for count in labeled:
        cohort = output / f"cohort-{count}.json"
        if not cohort.exists():
            chosen = ["--labeled", count, "--cases", cases, "--validation", validation]
            _call("cohort", folder, *chosen, "--output", cohort)
        for recipe in recipes:
            method, _, generalist = recipe.partition("+")
            for size in sizes:
                words: list[object] = ["--method", method, "--generalists", *([generalist] if generalist else [])]
                words += ["--size", size, "--iterations", iterations, "--validate-every", every, "--seed", seed]
                words += ["--device", device, *(["--threads", threads] if threads else [])]
                run = output / f"{recipe.replace('+', '-')}-{size}-{count}-seed{seed}"
                events = _train(cohort, run, words, to_the_end=to_the_end)
                passed, best = minutes_to(events), best_dice(events)
                whole = (events[-1]["time"] - events[0]["time"]) / 60
                told = ["never" if minutes is None else f"{minutes:.1f}" for minutes in passed]
                rows.append([str(count), recipe, size, *told, f"{best:.3f}", f"{whole:.1f}"])
                results.append(
                    {"labeled": count, "recipe": recipe, "size": size, "minutes": passed, "best": best, "whole": whole}
                )
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    headings = [
        "labelled",
        "recipe",
        "size",
        *(f"minutes to {value:.2f}" for value in PASSES),
        "best Dice",
        "minutes in all",
    ]
    print(table(headings, rows))
    (output / "result.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
