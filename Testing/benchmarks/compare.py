"""Compare ways of training on real volumes: train, predict the test cases, evaluate, and print the table of docs/results.md.

Each row is an ordinary `semisamplus` run, so its numbers are what a user gets::

    python Testing/benchmarks/compare.py FOLDER --cases 1-60 --test 61-80 --labeled 1 4 --seeds 0 1 2 \\
        --rows supervised copy-paste copy-paste+random-walker --iterations 800 --output runs/left-atrium

With generalists there are two lines: what the specialist says, and what `semisamplus predict` makes of it with them.
FOLDER has images/ and labels/. What has been done already is not done again, so the command can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from SemiSAMPlusLib.run.events import read_events, seconds_of_work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", required=True, help="training cases, as in `semisamplus cohort`")
    parser.add_argument("--test", required=True, help="test cases")
    parser.add_argument("--classes", nargs="*", default=[])
    parser.add_argument("--labeled", type=int, nargs="+", default=[1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", required=True, help="METHOD, METHOD+GENERALIST or METHOD+ONE+ANOTHER")
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--flags", default="", help="further flags of `semisamplus train`, as one text")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time, one thread each")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [(labeled, row) for labeled in arguments.labeled for row in arguments.rows]
    todo = [(labeled, row, seed) for seed in arguments.seeds for labeled, row in rows]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = list(pool.map(lambda one: _run(arguments, *one), todo))
    print(
        "| labelled | row | seeds | Dice | sd of cases | 95HD mm | ASD mm | minutes |\n|---|---|---|---|---|---|---|---|"
    )
    for labeled, row in rows:
        results = [result for one, result in zip(todo, done, strict=True) if one[:2] == (labeled, row)]
        if any("alone" in result for result in results):
            alone = [{**result, "evaluation": result.get("alone", result["evaluation"])} for result in results]
            print(_line(labeled, f"{row}, the specialist alone", alone))
        print(_line(labeled, row, results))


def _run(arguments: argparse.Namespace, labeled: int, row: str, seed: int) -> dict:
    """Train, predict and evaluate once; returns the evaluation and the minutes of training."""
    name = f"{row.replace('+', '-')}-{labeled}-seed{seed}"
    folder = arguments.output / name
    result = folder / "result.json"
    if not result.exists():
        method, *generalists = row.split("+")
        cohort = arguments.output / f"cohort-{labeled}.json"
        chosen = ["--cases", arguments.cases, "--test", arguments.test]
        chosen += ["--classes", *arguments.classes] if arguments.classes else []
        if not cohort.exists():
            _call("cohort", arguments.folder, "--labeled", labeled, *chosen, "--output", cohort)
        train = ["--method", method, "--generalists", *generalists]
        train += ["--iterations", arguments.iterations, "--seed", seed, "--threads", 1, *arguments.flags.split()]
        if (folder / "run" / "run.json").exists():
            _call("resume", folder / "run")
        else:
            _call("train", cohort, "--run", folder / "run", *train)
        evaluations = {"evaluation": _evaluate(folder, "predictions", cohort)}
        if generalists:
            evaluations["alone"] = _evaluate(folder, "predictions-alone", cohort, "--no-refine")
        minutes = seconds_of_work(read_events(folder / "run" / "events.jsonl")) / 60
        result.write_text(json.dumps({"minutes": minutes, **evaluations}), encoding="utf-8")
        print(
            f"{name}: {_line(labeled, row, [json.loads(result.read_text(encoding='utf-8'))])}",
            file=sys.stderr,
            flush=True,
        )
    return json.loads(result.read_text(encoding="utf-8"))


def _evaluate(folder: Path, name: str, cohort: Path, *flags: str) -> dict:
    """Predict the test cases and return how well."""
    _call("predict", folder / "run", "--output", folder / name, *flags)
    _call("evaluate", folder / name, cohort, "--json", folder / f"{name}.json")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _call(*words: object) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "SemiSAMPlusLib", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def _line(labeled: int, row: str, results: list[dict]) -> str:
    """Return a row of the table: the mean over seeds ± their standard deviation, and that of the cases within a seed."""
    cases = [result["evaluation"]["cases"] for result in results]

    def over_seeds(key: str, scale: float, digits: int) -> str:
        means = [np.nanmean([_finite(entry[key]) for entry in rows]) * scale for rows in cases]
        spread = f" ± {np.std(means, ddof=1):.{digits}f}" if len(means) > 1 else ""
        return f"{np.mean(means):.{digits}f}{spread}"

    spread = np.mean([np.nanstd([_finite(entry["dice"]) for entry in rows]) for rows in cases]) * 100
    minutes = np.mean([result["minutes"] for result in results])
    return (
        f"| {labeled} | {row} | {len(results)} | {over_seeds('dice', 100, 1)} | {spread:.1f} | "
        f"{over_seeds('hd95_mm', 1, 1)} | {over_seeds('asd_mm', 1, 2)} | {minutes:.1f} |"
    )


def _finite(value: float | str | None) -> float:
    return float("nan") if value is None or not np.isfinite(float(value)) else float(value)


if __name__ == "__main__":
    main()
