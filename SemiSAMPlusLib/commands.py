"""The command line, made from typed functions: every one below is a subcommand of ``semisamplus``."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from json import dumps, loads
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from .errors import CohortError, ConfigError, RunFolderError, SemiSAMPlusError
from .run.allocator import keep_freed_memory
from .run.config import TrainingConfig
from .run.files import write_text_atomically
from .run.folder import JobFolder, RunFolder
from .terminal import Progress, byte_text, drop_output, make_console

if TYPE_CHECKING:
    from .cohort.cohort import Cohort

#: Set, it stands for ``--traceback``.
TRACEBACK_VARIABLE = "SEMISAMPLUS_TRACEBACK"

#: Exit codes: an error that the user can mend, a job that ended before its end.
FAILED, STOPPED = 1, 130

_DESCRIPTION = (
    "Train a segmentation specialist from a few labelled and many unlabelled volumes, helped by promptable generalists. "
    "The usual way: cohort, train, predict, evaluate. Errors are told in two lines; --traceback behind any command "
    "tells where they arose."
)
_WEIGHTS_DESCRIPTION = "The weights of generalists: where they are, where they come from, whether they are whole. Training never downloads."


def cohort(
    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]],
    /,
    *,
    output: Annotated[Path, arg(aliases=["-o"])],
    labeled: tuple[str, ...] = (),
    cases: tuple[str, ...] = (),
    validation: tuple[str, ...] = (),
    test: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    channels: tuple[str, ...] = (),
) -> None:
    """Find the cases of a folder, say which part each plays, and check them.

    Args:
        folder: A folder with images/ and labels/, of the Decathlon, of nnU-Net or of BraTS, or a JSON datalist.
        output: Where to write the cohort, such as cohort.json.
        labeled: How many cases are labelled (the first that have a label), or which, by name; a number alone is how many,
            unless a case bears it as its name. The first one where not given.
        cases: The cases to train on, by name or number (1-60); all that are not for validation or test by default.
        validation: Labelled cases that are held out to choose the best checkpoint, by name or number (41-50).
        test: Cases that are kept for later and never opened by training, by name or number (61-80).
        classes: The structures: NAME=VALUE, NAME=VALUE,VALUE or, where dataset.json knows it, NAME.
        channels: The channels to use, in this order.
    """
    from .cohort.checks import require_sound
    from .cohort.discovery import find_cohort
    from .cohort.layouts import recognize

    console = make_console()
    layout = recognize(folder)
    is_count = len(labeled) == 1 and labeled[0].isdecimal() and labeled[0] not in {case.name for case in layout.cases}
    found = find_cohort(
        folder,
        labeled=int(labeled[0]) if is_count else labeled or 1,
        cases=cases or None,
        validation=validation,
        test=test,
        classes=classes,
        channels=channels,
    )
    opened = len(found.cases) - len(found.test)
    with console.status(f"Checking {opened} volumes …"):
        require_sound(found)
    found.save(output)
    _show_cohort(found, f"{folder}: {layout.description}")
    _next(f"Written: {output}. Next:", "semisamplus", "train", output, "--run", Path("runs") / output.stem)


def train(
    cohort: Positional[Annotated[Path, arg(metavar="COHORT.json")]],
    /,
    *,
    run: Path,
    config: Annotated[TrainingConfig, arg(name="")] = TrainingConfig(),  # noqa: B008 (it is frozen)
    settings: Path | None = None,
    start_from: Annotated[Path | None, arg(name="from")] = None,
) -> int:
    """Train a specialist on a cohort. Ctrl-C stops it after the step, to be resumed; a second one ends it at once.

    Args:
        cohort: What `semisamplus cohort` wrote.
        run: The run's folder; it must hold neither a run nor other things yet.
        config: How to train.
        settings: A JSON file of settings, such as the part `config` of a run.json; a flag given beside it counts more.
        start_from: Start from the specialist of another run, for example with a corrected case added to the cohort.
    """
    from .cohort.cohort import Cohort

    loaded = Cohort.load(cohort)
    _announce("Checking the cohort and getting ready …")
    from .training.run import train as train_it

    return _train(run, lambda observer: train_it(loaded, config, run, start_from=start_from, observer=observer))


def resume(run: Positional[Annotated[Path, arg(metavar="RUN")]], /, *, device: str | None = None) -> int:
    """Go on with a run that was stopped or killed, from its last checkpoint.

    Args:
        run: The run's folder.
        device: Where to go on, if not on the device where it began.
    """
    RunFolder(run).describe()
    _announce("Checking the cohort and getting ready …")
    from .training.run import resume as resume_it

    return _train(run, lambda observer: resume_it(run, device=device, observer=observer))


def stop(run: Positional[Annotated[Path, arg(metavar="RUN")]], /) -> None:
    """Ask a training or a prediction to stop gracefully: it ends after the step or the case in work.

    Args:
        run: The folder of the run, or of the predictions.
    """
    folder = JobFolder(run)
    if not folder.is_running():
        msg = f"{run}: no job is running in it."
        raise RunFolderError(msg, "There is nothing to stop.")
    folder.ask_to_stop()
    make_console().print(f"Asked the job in {run} to stop.", markup=False, soft_wrap=True)


def delete(
    run: Positional[Annotated[Path, arg(metavar="RUN")]], /, *, yes: Annotated[bool, arg(aliases=["-y"])] = False
) -> int:
    """Delete a run's folder with all that is in it: weights, layers, report, and what was laid there since.

    Args:
        run: The run's folder.
        yes: Do not ask first.
    """
    folder = RunFolder(run)
    folder.describe()
    if not yes:
        size = sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file())
        question = f"Delete {folder.path} with all that is in it ({byte_text(size)})? [y/N] "
        try:
            answer = input(question)
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("\nNothing was deleted; --yes deletes without asking.")
            return FAILED
    folder.delete()
    make_console().print(f"Deleted {folder.path}.", markup=False, soft_wrap=True)
    return 0


def predict(
    source: Positional[Annotated[Path, arg(metavar="RUN")]],
    images: Positional[Annotated[tuple[Path, ...], arg(metavar="[IMAGE_OR_FOLDER ...]")]] = (),
    /,
    *,
    output: Annotated[Path, arg(aliases=["-o"])],
    format: Literal["seg.nrrd", "nii.gz"] = "seg.nrrd",
    uncertainty: bool = False,
    refine: Annotated[bool, arg(help_behavior_hint="(default: they do)")] = True,
    device: str = "auto",
) -> int:
    """Segment volumes with a trained specialist, each on its own grid.

    Args:
        source: A run's folder, or its folder `specialist`.
        images: Files and folders; without any, the test cases of the run's cohort.
        output: The folder for the predictions, one of its own.
        format: Segments with names and colours, or a plain labelmap with the cohort's label values.
        uncertainty: Write the predictive entropy too, 0 to 1.
        refine: The specialist alone: without the generalists that its training trusted, which else correct it as far as they
            were trusted.
        device: auto, cpu, cuda, cuda:1, mps, ...
    """
    keep_freed_memory()
    from .evaluation.prediction import predict as predict_them

    console = make_console()
    folder = JobFolder(output)
    with Progress(console) as progress, _stopping(folder, console):
        written = predict_them(
            source,
            images or None,
            output,
            format=format,
            uncertainty=uncertainty,
            refine=refine,
            device=device,
            observer=progress,
        )
    if progress.reason == "stopped":
        console.print(f"Stopped after {len(written)} predictions, in {output}.", markup=False, soft_wrap=True)
        return STOPPED
    if images or not any(case.label for case in _cohort_of(RunFolder(source)).test):
        console.print(f"{len(written)} predictions in {output}.", markup=False, soft_wrap=True)
    else:
        _next(f"{len(written)} predictions in {output}. Next:", "semisamplus", "evaluate", output, source)
    return 0


def evaluate(
    predictions: Positional[Annotated[Path, arg(metavar="PREDICTIONS")]],
    labels: Positional[Annotated[Path, arg(metavar="LABELS")]],
    /,
    *,
    json: Path | None = None,
    classes: tuple[str, ...] = (),
) -> None:
    """Compare predictions with labels: Dice, Jaccard, 95 % Hausdorff and average surface distance.

    Args:
        predictions: The folder that `semisamplus predict` wrote, or any folder of segmentations named as the labels.
        labels: A folder of label files, or a cohort or a run, whose label files and classes are then used.
        json: Write the figures to this file too.
        classes: Only these structures, by name; or, where nothing else says what labels mean, NAME=VALUE for each.
    """
    from .cohort.cohort import CLASS_COLORS, Class, Cohort, summary
    from .cohort.discovery import class_values
    from .evaluation.metrics import Evaluation, evaluate_folders, part_notes

    known: tuple[Class, ...] | None = None
    loaded: Cohort | None = None
    files: Path | dict[str, Path] = labels
    if labels.is_file() or RunFolder(labels).run_file.exists():
        loaded = Cohort.load(labels) if labels.is_file() else _cohort_of(RunFolder(labels))
        known = loaded.classes
        files = {case.name: case.label for case in loaded.cases if case.label is not None}
    names = tuple(item.rpartition("=")[0].strip() or item for item in classes)
    if classes and all("=" in item for item in classes):
        known = tuple(
            Class(name, class_values(item), CLASS_COLORS[number % len(CLASS_COLORS)])
            for number, (name, item) in enumerate(zip(names, classes, strict=True))
        )
    evaluation = evaluate_folders(predictions, files, known)
    if loaded is not None:
        told = part_notes(loaded, {row.case for row in evaluation.rows})
        evaluation = Evaluation(evaluation.rows, (*told, *evaluation.notes))
    if names:
        if unknown := [name for name in names if name not in evaluation.class_names]:
            msg = f"--classes names {summary(unknown)}, expected of {summary(evaluation.class_names, 12)}."
            raise ConfigError(msg, "Correct the name, or give every class as NAME=VALUE.")
        evaluation = Evaluation(tuple(row for row in evaluation.rows if row.class_name in names), evaluation.notes)
    console = make_console()
    console.print(evaluation.rich_table())
    if json is not None:
        evaluation.to_json(json)
        console.print(f"Written: {json}", markup=False, soft_wrap=True)


def report(run: Positional[Annotated[Path, arg(metavar="RUN")]], /) -> None:
    """Write the report of a run anew: settings, curves, table and pictures in one file.

    Args:
        run: The run's folder.
    """
    from .evaluation.report import write_report

    path = write_report(RunFolder(run))
    make_console().print(f"Written: {path}", markup=False, soft_wrap=True)


def demo(*, output: Path = Path("demo"), data: Path | None = None, iterations: int | None = None) -> int:
    """Train three ways for the same iterations and compare them: labels only, with unlabelled cases, with a generalist.

    Args:
        output: Where to put cohort, runs, predictions and pictures; an earlier demo in it is replaced.
        data: A folder of real volumes and labels; without it a cohort is made by code.
        iterations: How long to train each; what suits the cohort by default.
    """
    from .demo import run_demo

    console = make_console()
    console.print("A demo: one labelled case, the others unlabelled, three ways to train.")
    with Progress(console) as progress, _stopping(lambda: _working_below(output), console):
        result = run_demo(output, data=data, iterations=iterations, observer=progress)
    if result is None:
        console.print("Stopped.")
        return STOPPED
    console.print(result.rich_table())
    for what, path in result.paths.items():
        console.print(f"{what}: {path}", markup=False, soft_wrap=True)
    return 0


def generalists() -> None:
    """List the generalists that can teach a specialist, and whether they are ready."""
    from .weights_commands import show_generalists

    show_generalists()


def devices(*, json: Path | None = None) -> None:
    """List the devices that can be computed on, and how much memory of each is free.

    Args:
        json: Write the list to this file too.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from .specialist.device import describe_devices

    found = describe_devices()
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("Device", "What it is", "Free", "Memory"):
        table.add_column(heading, overflow="fold")
    for one in found:
        table.add_row(Text(one.name), Text(one.title), byte_text(one.free), byte_text(one.total))
    console = make_console()
    console.print(table)
    if json is not None:
        write_text_atomically(json, dumps({"devices": [asdict(one) for one in found]}, indent=1) + "\n")
        console.print(f"Written: {json}", markup=False, soft_wrap=True)


def weights() -> None:
    """Get, import, verify and remove the weights of generalists; `semisamplus weights --help` lists how."""
    raise AssertionError  # Its commands are a table of their own.


_COMMANDS: dict[str, Callable[..., int | None]] = {
    one.__name__: one
    for one in (cohort, train, resume, stop, delete, predict, evaluate, report, demo, generalists, devices, weights)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``semisamplus``.

    Args:
        arguments: What follows the command's name; those of the process by default.

    Returns:
        The exit code: 0, 1 after an error, 2 for a command line that makes no sense, 130 for a job that was stopped.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with_traceback = "--traceback" in given or bool(os.environ.get(TRACEBACK_VARIABLE))
    given = [argument for argument in given if argument != "--traceback"]
    for stream in (sys.stdout, sys.stderr):
        # An old code page must not end a training because of a name or a Greek letter.
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    commands, prog, description = _COMMANDS, "semisamplus", _DESCRIPTION
    if given[:1] == ["weights"]:
        from .weights_commands import COMMANDS

        commands, prog, description, given = COMMANDS, "semisamplus weights", _WEIGHTS_DESCRIPTION, given[1:]
    try:
        if given[:1] == ["train"] and (file := _settings_file(given)) is not None:
            commands = {**commands, "train": partial(train, config=_read_settings(file))}
        code = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog=prog,
            description=description,
            args=given,
            config=(OmitArgPrefixes, FlagCreatePairsOff),
        )
    except SystemExit as end:  # Help, or a command line that makes no sense.
        return int(end.code or 0)
    except SemiSAMPlusError as error:
        if with_traceback:
            traceback.print_exc()
        if isinstance(error, CohortError) and len(error.faults) == 1:
            error = error.faults[0]
        _complain(error.what, error.remedy)
        return FAILED
    except BrokenPipeError:  # Help was asked for, and who read it has seen enough.
        drop_output()
        return FAILED
    except OSError as error:
        if with_traceback:
            traceback.print_exc()
        _complain(f"{error}.", "Check the path, the permissions and the room on the disk.")
        return FAILED
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return STOPPED
    return code or 0


# Jobs


def _train(run: Path, work: Callable[[Callable[[dict[str, Any]], None]], RunFolder]) -> int:
    """Train or train on, showing how it goes, until it is done or stopped."""
    keep_freed_memory()
    console = make_console()
    with Progress(console) as progress, _stopping(RunFolder(run), console):
        folder = work(progress)
    if progress.reason == "stopped":
        _next(f"Stopped at iteration {progress.iteration}. Go on with:", "semisamplus", "resume", run)
        return STOPPED
    console.print(f"Done. Report: {folder.report}", markup=False, soft_wrap=True)
    images = () if _cohort_of(folder).test else ("IMAGE_OR_FOLDER",)
    _next("Next:", "semisamplus", "predict", run, *images, "--output", "predictions")
    return 0


def _settings_file(given: Sequence[str]) -> Path | None:
    """Return what follows ``--settings`` on the command line."""
    for word, following in pairwise([*given, ""]):
        name, is_joined, value = word.partition("=")
        if name == "--settings":
            return Path(value if is_joined else following)
    return None


def _read_settings(path: Path) -> TrainingConfig:
    try:
        data = loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read as settings ({error})."
        raise ConfigError(msg, "Give a JSON file of settings, such as the part `config` of a run.json.") from error
    if not isinstance(data, dict):
        msg = f"{path}: holds {type(data).__name__}, expected an object of settings."
        raise ConfigError(msg, "Give a JSON file of settings, such as the part `config` of a run.json.")
    try:
        return TrainingConfig.from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what}", f"Correct the file. {error.remedy}") from error


def _cohort_of(folder: RunFolder) -> Cohort:
    from .cohort.cohort import Cohort

    return Cohort.from_dict(folder.describe("cohort")["cohort"], folder.path)


@contextmanager
def _stopping(job: JobFolder | Callable[[], JobFolder | None], console: Any) -> Iterator[None]:
    """Take the first Ctrl-C for a wish to stop gracefully; the second one ends at once, as does one before the job began."""

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        folder = job if isinstance(job, JobFolder) else job()
        if folder is None or not folder.is_running() or (folder.owner() or {}).get("pid") != os.getpid():
            raise KeyboardInterrupt
        folder.ask_to_stop()
        console.print("Stopping after the step in work; Ctrl-C again ends at once.", markup=False)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # Not in the main thread, which alone hears signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _working_below(folder: Path) -> JobFolder | None:
    """Return the job of this process in ``folder`` or below it."""
    for file in Path(folder).glob("**/job.json"):
        job = JobFolder(file.parent)
        if job.is_running() and (job.owner() or {}).get("pid") == os.getpid():
            return job
    return None


# What is said


def _announce(text: str) -> None:
    make_console().print(text, style="dim")


def _complain(what: str, remedy: str) -> None:
    print(f"Error: {what.strip()}\n{remedy.strip()}", file=sys.stderr)


def _next(text: str, *words: object) -> None:
    """Say which command comes next, so that it can be copied."""
    parts = [str(word) for word in words]
    command = subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)
    make_console().print(f"{text}\n    {command}", markup=False, soft_wrap=True)


def _show_cohort(found: Cohort, title: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from .cohort.cohort import summary

    console = make_console()
    console.print(title, style="bold", markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Part")
    table.add_column("Cases", justify="right")
    table.add_column("Which", overflow="fold")
    for name, members in (
        ("labelled", found.labeled),
        ("unlabelled", found.unlabeled),
        ("validation", found.validation),
        ("test", found.test),
    ):
        table.add_row(name, str(len(members)), Text(summary([case.name for case in members])))
    console.print(table)
    classes = ", ".join(f"{one.name} = {', '.join(map(str, one.values))}" for one in found.classes)
    for text in (f"Classes: {classes}", f"Channels: {', '.join(found.channels)}", *_volumes_text(found)):
        console.print(text, markup=False, soft_wrap=True)
    if not found.unlabeled:
        console.print(
            "No case is unlabelled: --method supervised is the only one that can train on this.", style="yellow"
        )


def _volumes_text(found: Cohort) -> list[str]:
    """Say how large the volumes are, by their headers; test cases stay closed, and series of DICOM files too."""
    import SimpleITK as sitk

    sizes, spacings = [], []
    for case in found.cases:
        if case in found.test or case.images[0].is_dir():
            continue
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(case.images[0]))
        reader.ReadImageInformation()
        sizes.append(reader.GetSize()[:3])
        spacings.append(reader.GetSpacing()[:3])
    if not sizes:
        return []
    size, spacing = (
        " × ".join(_range_text(min(along), max(along)) for along in zip(*values, strict=True))
        for values in (sizes, spacings)
    )
    return [f"Volumes: {size} voxels of {spacing} mm (x, y, z)"]


def _range_text(low: float, high: float) -> str:
    texts = f"{low:.3g}", f"{high:.3g}"
    if isinstance(low, int):
        texts = str(low), str(high)
    return texts[0] if texts[0] == texts[1] else f"{texts[0]}–{texts[1]}"
