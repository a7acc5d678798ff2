"""A demo that anyone can run: three ways to train on the same few labels, compared on test cases, with a picture."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from .cohort.cohort import Cohort
from .cohort.layouts import recognize
from .cohort.outputs import read_label, read_segmentation
from .cohort.phantom import make_phantom_cohort
from .cohort.volume import Grid, read_image
from .errors import ConfigError
from .evaluation.comparison import ComparedCase, save_comparison
from .evaluation.metrics import MEASURES, Evaluation, evaluate_folders, format_summary
from .evaluation.prediction import predict
from .evaluation.slices import CaseLayers
from .run import events as kinds
from .run.config import TrainingConfig
from .run.files import write_text_atomically
from .run.folder import RunFolder
from .training.run import train

if TYPE_CHECKING:
    from rich.table import Table

#: What is called with each event of the demo's jobs, as it is written.
Observer = Callable[[dict[str, Any]], None]

#: Iterations of each training, on a folder of volumes, and on the cohort made by code, with the settings that bring it through in a
#: few minutes on two CPU cores.
_DATA_ITERATIONS, _PHANTOM_ITERATIONS = 2400, 600
_PHANTOM = TrainingConfig(size="small", device="cpu")
#: So often Dice and trust are measured and layers are written in a training.
_LOOKS = 4
#: Of a folder of volumes this part, and at most so many, are tested on.
_TEST_PART, _MOST_TESTED = 3, 20
#: So many cases are shown in the picture.
_SHOWN = 3


@dataclass(frozen=True)
class Arm:
    """One way to train, and what came of it.

    Attributes:
        name: As tables call it.
        run: Its run folder.
        minutes: How long the training took.
        predictions: What it finds in each test case.
        evaluation: How well it does on the test cases.
    """

    name: str
    run: RunFolder
    minutes: float
    predictions: Mapping[str, Path]
    evaluation: Evaluation

    def dice(self) -> dict[str, float]:
        """Return the mean Dice over the classes for each case."""
        scores: dict[str, list[float]] = {}
        for row in self.evaluation.rows:
            scores.setdefault(row.case, []).extend([row.dice] if math.isfinite(row.dice) else [])
        return {case: float(np.mean(values)) if values else math.nan for case, values in scores.items()}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        arms: The ways to train, in order.
        paths: What was written, by what it is.
    """

    arms: tuple[Arm, ...]
    paths: Mapping[str, Path]

    def rich_table(self) -> Table:
        """Return a table for a terminal: a line for each way and class, mean ± sd over the test cases."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        notes = dict.fromkeys(sentence for arm in self.arms for sentence in arm.evaluation.notes)
        table = Table(box=box.SIMPLE_HEAD, caption="\n".join(notes), caption_justify="left")
        table.add_column("Trained by")
        table.add_column("Class")
        shown = [(measure, heading) for measure, heading in MEASURES if measure in ("dice", "hd95_mm")]
        for _, heading in shown:
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("Minutes", justify="right")
        for arm in self.arms:
            for name in arm.evaluation.class_names:
                cells = [format_summary(arm.evaluation.summary(name, measure), measure) for measure, _ in shown]
                table.add_row(Text(arm.name), Text(name), *cells, f"{arm.minutes:.1f}")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {
            arm.name: {
                "minutes": round(arm.minutes, 2),
                "run": arm.run.path.as_posix(),
                "config": arm.run.describe()["config"],
                **arm.evaluation.to_dict(),
            }
            for arm in self.arms
        }


def run_demo(
    output: Path,
    *,
    data: Path | None = None,
    iterations: int | None = None,
    observer: Observer | None = None,
) -> DemoResult | None:
    """Train three ways, for as many iterations and with the same seed, predict the test cases, and compare.

    The ways are: the labels alone; the default method, which learns from unlabelled cases too; and the same with its
    default generalist.

    Args:
        output: Where to put ``cohort/``, ``runs/``, ``predictions/``, ``demo.png`` and ``results.json``. Runs and
            predictions of an earlier demo are replaced.
        data: A folder of volumes with labels: the first case is labelled, the last third tested on, the others are
            unlabelled. Without it a cohort is made by code, on which all takes a few minutes on two CPU cores.
        iterations: How long to train each; by default what suits the cohort.
        observer: Called with each event of each job.

    Returns:
        What was found, or None where a job was asked to stop.

    Raises:
        SemiSAMPlusError: If the folder gives no cohort, or ``output`` cannot be used.
    """
    output = Path(output).absolute()
    if data is None:
        cohort = make_phantom_cohort(output / "cohort")
        base, length = _PHANTOM, iterations or _PHANTOM_ITERATIONS
    else:
        cohort = _cohort_of(Path(data))
        cohort.save(output / "cohort.json")
        base, length = TrainingConfig(), iterations or _DATA_ITERATIONS
    # Layers of two cases are enough for the reports; each costs time that the demo has little of.
    layers = tuple(case.name for case in (*cohort.unlabeled[:1], *cohort.labeled[:1]))
    base = replace(base, iterations=length, validate_every=max(1, length // _LOOKS), layers=layers)
    arms: list[Arm] = []
    for number, (name, config) in enumerate(_ways(base).items(), start=1):
        _say(observer, f"{number} of {len(_ways(base))}: {name}")
        arm = _train_and_test(name, config, cohort, output, observer)
        if arm is None:
            return None
        arms.append(arm)
    picture = output / "demo.png"
    _draw(picture, cohort, arms)
    results = output / "results.json"
    paths = {"Picture": picture, "Results": results} | {f"Report ({arm.name})": arm.run.report for arm in arms}
    found = DemoResult(tuple(arms), paths)
    write_text_atomically(results, json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return found


def _ways(base: TrainingConfig) -> dict[str, TrainingConfig]:
    return {
        "supervised only": replace(base, method="supervised", generalists=()),
        base.method: replace(base, generalists=()),
        f"{base.method} + {', '.join(base.generalists)}": base,
    }


def _cohort_of(data: Path) -> Cohort:
    """Return the cohort of a folder: one labelled case, the last third to test on."""
    names = [found.name for found in recognize(data).cases if found.label is not None and found.role is None]
    tested = min(len(names) // _TEST_PART, _MOST_TESTED)
    if tested < 1 or len(names) - tested < 2:
        msg = f"{data}: has {len(names)} case(s) with a label, expected 3 or more."
        raise ConfigError(msg, "Give a folder of more cases: one to learn from, one unlabelled, one to test on.")
    return Cohort.from_folder(data, labeled=1, test=names[-tested:])


def _train_and_test(
    name: str, config: TrainingConfig, cohort: Cohort, output: Path, observer: Observer | None
) -> Arm | None:
    """Train one way from scratch and evaluate it; None where it was asked to stop."""
    slug = name.replace(" + ", "-").replace(", ", "-").replace(" ", "-")
    folder = RunFolder(output / "runs" / slug)
    if folder.run_file.exists():
        folder.delete()
    reasons: list[str] = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == kinds.FINISHED:
            reasons.append(event["reason"])
        if observer is not None:
            observer(event)

    began = time.monotonic()
    run = train(cohort, config, folder.path, observer=watch)
    minutes = (time.monotonic() - began) / 60
    if reasons[-1] == "stopped":
        return None
    written = predict(run.path, None, output / "predictions" / slug, device=config.device, observer=watch)
    if reasons[-1] == "stopped":
        return None
    predictions = {case.name: path for case, path in zip(cohort.test, written, strict=True)}
    labels = {case.name: case.label for case in cohort.test if case.label is not None}
    return Arm(name, run, minutes, predictions, evaluate_folders(predictions, labels, cohort.classes))


def _draw(path: Path, cohort: Cohort, arms: Sequence[Arm]) -> None:
    """Draw the test cases on which the first way does worst, middling and best."""
    dice = {arm.name: arm.dice() for arm in arms}
    ranked = sorted(dice[arms[0].name], key=lambda case: dice[arms[0].name][case])
    places = np.linspace(0, len(ranked) - 1, min(_SHOWN, len(ranked))).round().astype(int)
    cases = [_compared(cohort, ranked[place], arms, dice) for place in places]
    labeled = f"{len(cohort.labeled)} labelled, {len(cohort.unlabeled)} unlabelled cases"
    title = (
        f"{labeled}, {arms[0].run.describe()['iterations']} iterations: lowest, middle and highest Dice by labels alone"
    )
    save_comparison(path, cases, {name: list(values.values()) for name, values in dice.items()}, title)


def _compared(cohort: Cohort, name: str, arms: Sequence[Arm], dice: Mapping[str, Mapping[str, float]]) -> ComparedCase:
    case = cohort.case(name)
    assert case.label is not None
    image = read_image(case.images[0])
    truth = sitk.GetArrayFromImage(read_label(case.label, cohort.classes))
    layers = CaseLayers(sitk.GetArrayFromImage(image), Grid.of(image), cohort.classes, truth=truth)
    predictions = {arm.name: read_segmentation(arm.predictions[name], cohort.classes)[0] for arm in arms}
    return ComparedCase(name, layers, predictions, {arm.name: dice[arm.name][name] for arm in arms})


def _say(observer: Observer | None, text: str) -> None:
    if observer is not None:
        observer({"event": kinds.MESSAGE, "time": round(time.time(), 3), "text": text})
