"""From a cohort to a finished run folder: settle what is to be settled, train, export, report; and go on after a stop."""

from __future__ import annotations

import platform
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..cohort.checks import input_hashes, require_sound
from ..cohort.cohort import Cohort
from ..cohort.plan import Plan, plan_training, without_several_pieces
from ..collaboration.collaboration import Collaboration, CollaborationSettings
from ..collaboration.prompts import PromptSettings
from ..errors import ConfigError, RunFolderError, SemiSAMPlusError
from ..evaluation.report import write_report
from ..generalist.catalog import catalog
from ..generalist.registry import create_generalist
from ..generalist.weights import sha256_of
from ..run import events as kinds
from ..run.config import TrainingConfig
from ..run.events import EventWriter
from ..run.folder import RunFolder, specialist_in
from ..specialist.device import choose_device, is_out_of_memory, usable_precision
from ..specialist.methods import find_method
from ..specialist.networks import build_specialist, patch_step
from ..specialist.pretrained.weights import WEIGHTS as PRETRAINED
from ..specialist.specialist import Specialist
from .device import convolves_thinly, estimate_training_bytes, out_of_memory, require_memory
from .trainer import Settled, Trainer

FORMAT = "semisamplus-run-2"
#: What is called with each event of a run, as it is written.
Observer = Callable[[dict[str, Any]], None]
#: Disk that a run needs at least, in bytes: checkpoints, the specialist, a few layers.
_LEAST_DISK = 300_000_000
#: The share of the minutes asked for that steps may take; the rest is for validation, layers and the report.
_STEPS_SHARE = 0.9
#: Iterations where none are set: of a network that has learned before, and of one that has not.
_SHORT, _LONG = 2400, 5000


def train(
    cohort: Cohort,
    config: TrainingConfig,
    run_folder: Path,
    *,
    start_from: Path | None = None,
    observer: Observer | None = None,
) -> RunFolder:
    """Train a specialist.

    Everything that can be wrong with the cohort, the settings and the device is found before anything is started.

    Args:
        cohort: Which cases there are.
        config: How to train.
        run_folder: Where the run is to live; it must hold neither a run nor other things yet.
        start_from: Another run, or a specialist's folder: its weights are the start, and its plan is kept.
        observer: Called with each event as it is written.

    Returns:
        The run folder, when the training is done or was asked to stop.

    Raises:
        CohortError: If the cohort has faults; names them all.
        SemiSAMPlusError: If a setting, the device, the disk or the folder cannot be used.
    """
    folder = RunFolder(run_folder)
    if folder.run_file.exists():
        msg = f"{folder.path}: already holds a run."
        raise RunFolderError(msg, "Continue it with `semisamplus resume`, or give --run a new folder.")
    folder.require_own()
    require_sound(cohort)
    _require_unlabeled(cohort, config)
    config = replace(config, generalists=tuple(_with_absolute_file(spec) for spec in config.generalists))
    find_method(config.method)
    _set_threads(config.threads)
    device, device_text = choose_device(config.device)
    start = Specialist.load(start_from, "cpu") if start_from is not None else None
    plan = _plan(cohort, config, start, on_gpu=device.type != "cpu")
    generalists = {spec: create_generalist(spec, device) for spec in config.generalists}
    precision = _precision(cohort, config, plan, device, config.precision)
    settled = Settled(cohort, config, plan, device, precision, config.iterations or _SHORT, trains_on=start is not None)
    settled.require_layers()
    _require_room(settled, folder)
    with _working(folder, settled, observer) as events:
        description = {
            "format": FORMAT,
            "config": config.to_dict(),
            "cohort": cohort.to_dict(),
            "plan": plan.to_dict(),
            "device": str(device),
            "precision": settled.precision,
            "threads": torch.get_num_threads(),
            "started_from": None if start_from is None else str(Path(start_from).absolute()),
            "generalists": [_about_generalist(spec, generalist) for spec, generalist in generalists.items()],
            "versions": _versions(),
            "inputs": input_hashes(cohort),
        }
        trainer = _trainer(settled, folder, events, generalists, start)
        iterations = _iterations(config, trainer)
        if iterations != settled.iterations:
            settled = replace(settled, iterations=iterations)
            trainer = _trainer(settled, folder, events, generalists, start)
        description["iterations"] = iterations
        description["initial_weights_sha256"] = _initial_weights(trainer, start_from)
        folder.write_description(description)
        events.write(kinds.STARTED, device=str(settled.device), iterations=settled.iterations)
        _say_how(events, settled, device_text, trainer)
        _work(trainer, folder, events)
    return folder


def resume(run_folder: Path, *, device: str | None = None, observer: Observer | None = None) -> RunFolder:
    """Go on with a run that was stopped or killed, from its last checkpoint; nothing is needed but the folder.

    On a CPU it ends with the same weights as a run that was never interrupted.

    Args:
        run_folder: The run's folder.
        device: Where to go on, if not where it began; ``auto`` or a name.
        observer: Called with each event as it is written.

    Raises:
        SemiSAMPlusError: If it is no run folder or another version's, a job is running in it, the run is done, or its files
            have changed.
    """
    folder = RunFolder(run_folder)
    description = folder.describe("format")
    if description["format"] != FORMAT:
        msg = f"{folder.path}: the run has the format {description['format']!r}, expected {FORMAT!r}."
        raise RunFolderError(msg, "Continue with the version that began it, or start a new training.")
    if any(event["event"] == kinds.FINISHED and event.get("reason") == "done" for event in folder.events()):
        msg = f"{folder.path}: the run is done."
        raise RunFolderError(msg, "Train on from it with `semisamplus train COHORT --run NEW --from RUN`.")
    cohort = Cohort.from_dict(description["cohort"])
    config = TrainingConfig.from_dict(description["config"])
    require_sound(cohort)
    _require_unchanged(cohort, description["inputs"])
    _set_threads(description["threads"])
    place, device_text = choose_device(device or description["device"])
    plan = Plan.from_dict(description["plan"])
    precision = _precision(cohort, config, plan, place, description["precision"])
    trains_on = description["started_from"] is not None
    settled = Settled(cohort, config, plan, place, precision, description["iterations"], trains_on)
    generalists = {spec: create_generalist(spec, place) for spec in config.generalists}
    _require_same_weights(generalists, description)
    with _working(folder, settled, observer) as events:
        # First of all: what comes before it ends a pause, which would count as work.
        events.write(kinds.STARTED, device=str(settled.device), iterations=settled.iterations)
        trainer = _trainer(settled, folder, events, generalists)
        if (folder.checkpoints / "last.pt").exists():
            trainer.load_checkpoint("last")
        else:
            _require_same_beginning(trainer, description)
            if trains_on:
                trainer.start_from(Specialist.load(Path(description["started_from"]), "cpu"))
        if settled.precision != description["precision"]:
            text = f"The run began in {description['precision']}, which this device does not compute in hardware."
            events.write(kinds.WARNING, text=f"{text} It goes on in {settled.precision}.")
        events.write(kinds.MESSAGE, text=f"Continuing from iteration {trainer.iteration} of {settled.iterations}.")
        _say_how(events, settled, device_text, trainer)
        _work(trainer, folder, events)
    return folder


def _work(trainer: Trainer, folder: RunFolder, events: EventWriter) -> None:
    """Train, then leave what a user wants of a run: the specialist, also of a stopped one, and at the end the report."""
    reason = trainer.run()
    trainer.export()
    if reason == "done":
        write_report(folder, ended=reason)
    events.write(kinds.FINISHED, reason=reason, iteration=trainer.iteration)


@contextmanager
def _working(folder: RunFolder, settled: Settled, observer: Observer | None) -> Iterator[EventWriter]:
    """Own the folder; what goes wrong is said in events.jsonl, and told in full in log.txt."""
    events = folder.acquire("train")
    if observer is not None:
        events.listeners.append(observer)
    try:
        yield events
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            _log_unforeseen(folder, error, events)
            raise
        known = out_of_memory(settled.device, settled.plan.patch, settled.config.batch, "ran out of memory")
        _log(folder, error, events, known)
        raise known from error
    except SemiSAMPlusError as error:
        _log(folder, error, events, error)
        raise
    except Exception as error:
        _log_unforeseen(folder, error, events)
        raise
    finally:
        events.close()
        folder.release()


def _log_unforeseen(folder: RunFolder, error: Exception, events: EventWriter) -> None:
    what = f"The training failed: {type(error).__name__}: {error}."
    _log(folder, error, events, SemiSAMPlusError(what, f"The log {folder.log_file} says where."))


def _log(folder: RunFolder, error: Exception, events: EventWriter, known: SemiSAMPlusError) -> None:
    with folder.log_file.open("a", encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)) + "\n")
    events.write(kinds.ERROR, what=known.what, remedy=known.remedy, log=str(folder.log_file))


def _trainer(
    settled: Settled,
    folder: RunFolder,
    events: EventWriter,
    generalists: dict[str, Any],
    start: Specialist | None = None,
) -> Trainer:
    config = settled.config
    collaboration = None
    if generalists and settled.cohort.unlabeled:
        taught_from = config.collaboration_start
        taught_from = find_method(config.method).taught_from if taught_from is None else taught_from
        collaboration = Collaboration(
            generalists,
            CollaborationSettings(
                iterations=settled.iterations,
                prompts=PromptSettings(config.prompt_sets, config.positive_points, config.negative_points),
                temperature=config.temperature,
                start=taught_from,
                strength=config.collaboration,
                decay=config.collaboration_decay,
                resizes=config.collaboration_sizes == "specialist",
                every=config.collaboration_every,
                trust=config.trust,
                # Also a short training hears its generalists.
                trust_every=min(config.validate_every, max(1, settled.iterations // 4)),
                seed=config.seed,
            ),
            folder.embeddings,
        )
    trainer = Trainer(settled, folder, events, collaboration)
    if start is not None:
        trainer.start_from(start)
    return trainer


def _plan(cohort: Cohort, config: TrainingConfig, start: Specialist | None, *, on_gpu: bool) -> Plan:
    """Plan from the cohort, or keep the plan of the specialist that is the start, as far as the new labels allow it."""
    if start is None:
        return plan_training(cohort, config, on_gpu=on_gpu, step=patch_step(config.specialist))
    mine, theirs = [c.name for c in cohort.classes], [c.name for c in start.classes]
    if mine != theirs or len(cohort.channels) != len(start.channels):
        msg = (
            f"The specialist to start from segments {', '.join(theirs)} in {len(start.channels)} channel(s), "
            f"expected {', '.join(mine)} in {len(cohort.channels)}."
        )
        raise ConfigError(msg, "Start from a run with the same classes and channels, or leave --from out.")
    if start.name != config.specialist:
        msg = f"The specialist to start from is a {start.name}, expected {config.specialist}."
        raise ConfigError(msg, f"Give --specialist {start.name}, or leave --from out.")
    kinds_kept = {normalization.kind for normalization in start.plan.normalizations}
    for name, kept in {
        "spacing": start.plan.spacing,
        "patch": start.plan.patch,
        "size": start.plan.size,
        "intensity": kinds_kept.pop() if len(kinds_kept) == 1 else "its own for each channel",
    }.items():
        wanted = getattr(config, name)
        if wanted not in (None, "auto", kept):
            msg = f"The setting '{name}' is {wanted}, and the specialist to start from works with {kept}."
            raise ConfigError(msg, f"Leave --{name} out, or leave --from out.")
    return without_several_pieces(start.plan, cohort)


def _with_absolute_file(spec: str) -> str:
    """Return a generalist's name with the file that it may name as an absolute path, so that it is found from anywhere."""
    name, separator, file = (part.strip() for part in spec.partition("="))
    return f"{name}={Path(file).expanduser().absolute()}" if file else f"{name}{separator}"


def _require_unlabeled(cohort: Cohort, config: TrainingConfig) -> None:
    if cohort.unlabeled or config.method == "supervised":
        return
    msg = f"The cohort has no unlabelled cases, and the method '{config.method}' learns from them."
    raise ConfigError(msg, "Add unlabelled cases to the cohort, or train with --method supervised.")


def _step(
    cohort: Cohort, config: TrainingConfig, plan: Plan
) -> tuple[Callable[[], torch.nn.Module], tuple[int, int, int, int, int]]:
    """Return what makes the network, and the shape of what most methods send through it at once.

    That is the labelled and the unlabelled patches of a step.
    """

    def make_network() -> torch.nn.Module:
        return build_specialist(
            config.specialist,
            in_channels=len(cohort.channels),
            out_channels=len(cohort.classes) + 1,
            patch=plan.patch,
            size=plan.size,
        )

    return make_network, (2 * config.batch, len(cohort.channels), *plan.patch)


def _precision(cohort: Cohort, config: TrainingConfig, plan: Plan, device: torch.device, wanted: str) -> str:
    """Return the arithmetic to train in."""
    # Nobody need look where bfloat16 is out of the question in any case.
    in_question = device.type == "cpu" and usable_precision(device, wanted) == "bfloat16"
    thin = in_question and convolves_thinly(*_step(cohort, config, plan))
    return usable_precision(device, wanted, thin=thin)


def _require_room(settled: Settled, folder: RunFolder) -> None:
    config, plan = settled.config, settled.plan
    needed = estimate_training_bytes(*_step(settled.cohort, config, plan))
    if settled.precision != "float32":
        needed = needed * 6 // 10
    require_memory(settled.device, needed + int(config.cache_gb * 0.25e9), plan.patch, config.batch)
    existing = next(parent for parent in (folder.path, *folder.path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < _LEAST_DISK:
        msg = f"{folder.path}: {free / 1e6:.0f} MB are free on its disk, expected {_LEAST_DISK / 1e6:.0f} MB or more."
        raise RunFolderError(msg, "Make room, or give --run a folder on another disk.")


def _require_unchanged(cohort: Cohort, inputs: dict[str, str]) -> None:
    now = input_hashes(cohort)
    changed = sorted(path for path, value in inputs.items() if now.get(path) != value)
    if changed:
        msg = f"{changed[0]}: has changed since the run began" + (
            f" (and {len(changed) - 1} more)." if changed[1:] else "."
        )
        raise RunFolderError(msg, "Restore the file, or train on with `semisamplus train COHORT --run NEW --from RUN`.")


def _require_same_weights(generalists: dict[str, Any], description: dict[str, Any]) -> None:
    """Check that the generalists are those that the run began with."""
    began = {about["name"]: about.get("sha256") for about in description.get("generalists", ())}
    for spec, generalist in generalists.items():
        now = getattr(generalist, "weights_sha256", None) or None
        if began.get(spec) is not None and now != began[spec]:
            msg = f"{spec}: its weights have SHA256 {now}, and the run began with {began[spec]}."
            raise RunFolderError(
                msg, "Restore those weights, or train on with `semisamplus train COHORT --run NEW --from RUN`."
            )


def _initial_weights(trainer: Trainer, started_from: Path | None) -> str | None:
    """Return the SHA256 of the file of weights that a training begins with, None where it begins with chance."""
    if started_from is not None:
        return sha256_of((specialist_in(started_from) or started_from) / "weights.safetensors")
    return sha256_of(PRETRAINED) if trainer.pretrained else None


def _require_same_beginning(trainer: Trainer, description: dict[str, Any]) -> None:
    """Check that a run without a checkpoint begins again with the weights that it began with."""
    place, began = description["started_from"], description.get("initial_weights_sha256")
    now = _initial_weights(trainer, None if place is None else Path(place))
    if began is not None and now != began:
        msg = f"{place or PRETRAINED}: has weights with SHA256 {now}, and the run began with {began}."
        raise RunFolderError(msg, "The run ended before its first checkpoint; start it again with `semisamplus train`.")


def _iterations(config: TrainingConfig, trainer: Trainer) -> int:
    if config.minutes is not None:
        return max(10, int(config.minutes * 60 * _STEPS_SHARE / trainer.seconds_per_iteration()))
    if config.iterations is not None:
        return config.iterations
    return _SHORT if trainer.has_learned else _LONG


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _say_how(events: EventWriter, settled: Settled, device_text: str, trainer: Trainer) -> None:
    plan, cohort = settled.plan, settled.cohort
    events.write(kinds.MESSAGE, text=f"{device_text} Arithmetic: {settled.precision}.")
    events.write(
        kinds.MESSAGE,
        text=f"{len(cohort.labeled)} labelled and {len(cohort.unlabeled)} unlabelled cases at {plan.spacing:g} mm, "
        f"patches of {' × '.join(map(str, plan.patch))}, {settled.iterations} iterations.",
    )
    if trainer.pretrained and trainer.iteration == 0:
        events.write(
            kinds.MESSAGE, text="The specialist starts from weights that were pretrained on made-up volumes alone."
        )
    for spec in settled.config.generalists:
        entry = catalog().get(spec.partition("=")[0].strip())
        if entry is not None and entry.contamination:
            events.write(kinds.MESSAGE, text=f"{entry.title}: {entry.contamination}")
    if not cohort.validation:
        events.write(
            kinds.MESSAGE,
            text="No cases are held out, so Dice is that of the labelled cases themselves, which the specialist has "
            "learned by heart: it says nothing of other cases, and the last weights are kept, not the best.",
        )


def _about_generalist(spec: str, generalist: Any) -> dict[str, Any]:
    """Return what a reader of run.json and the report should know of a generalist."""
    about: dict[str, Any] = {"name": spec, "sha256": getattr(generalist, "weights_sha256", None) or None}
    entry = catalog().get(spec.partition("=")[0].strip())
    if entry is not None:
        about |= {"title": entry.title, "contamination": entry.contamination, "licence": entry.license}
    return about


def _versions() -> dict[str, str]:
    found = {"semisamplus": __version__, "python": platform.python_version()}
    for package in ("torch", "monai", "SimpleITK", "numpy", "scipy", "scikit-image"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # Slicer's own packages may come without metadata.
            continue
    return found
