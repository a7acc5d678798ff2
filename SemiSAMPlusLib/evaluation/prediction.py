"""What a trained specialist says of volumes: one segmentation for each, on the volume's own grid, in a folder of their own."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..cohort.cohort import Case, Cohort
from ..cohort.inputs import check_inputs, find_inputs, raise_faults
from ..cohort.outputs import PREDICTIVE_ENTROPY, REFINED_ENTROPY, write_segmentation, write_uncertainty
from ..collaboration.collaboration import Collaboration
from ..collaboration.refinement import refiner, trusted_collaboration
from ..errors import ConfigError, DeviceError, RunFolderError, SemiSAMPlusError, VolumeError
from ..run import events as kinds
from ..run.events import EventWriter
from ..run.folder import JobFolder, RunFolder, safe_id
from ..specialist.device import choose_device, is_out_of_memory
from ..specialist.specialist import Prediction, Specialist

if TYPE_CHECKING:
    import torch

    from ..cohort.patches import PreparedCase

#: The formats of predictions, which are also their suffixes.
Format = Literal["seg.nrrd", "nii.gz"]

#: What Windows takes in no file name, and how a name must not end there.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def predict(
    source: Path,
    images: Sequence[Path] | None,
    output: Path,
    *,
    format: Format = "seg.nrrd",
    uncertainty: bool = False,
    refine: bool = True,
    device: str = "auto",
    observer: Callable[[dict[str, Any]], None] | None = None,
) -> list[Path]:
    """Segment volumes with a trained specialist.

    Every image is looked at before the first is predicted. The output folder is the folder of a job: it tells its
    progress in events.jsonl, and stops after the case in work when it is asked to.

    Args:
        source: A run folder, or the folder ``specialist`` of one.
        images: Files and folders, see :func:`SemiSAMPlusLib.cohort.inputs.find_inputs`; None takes the test cases of
            the run's cohort.
        output: The folder for ``CASE.seg.nrrd`` or ``CASE.nii.gz``; it need not exist.
        format: Segments with names and colours, or a plain labelmap with the cohort's label values.
        uncertainty: Whether to write ``CASE_uncertainty.nii.gz`` too: the predictive entropy, 0 to 1.
        refine: Whether the generalists that the training trusted in the end correct what the specialist says, as far as they
            were trusted. Where one is not at hand, the specialist predicts alone, and a warning says so.
        device: auto, cpu, cuda, cuda:1, mps, ...
        observer: Called with each event as it is written.

    Returns:
        The predictions, in the order of the cases; fewer than the cases where the job was asked to stop.

    Raises:
        WeightsError: If ``source`` holds no trained specialist.
        VolumeError: If an image is missing, cannot be read or has other channels, or a prediction would take the place
            of something that is no prediction, or of another one.
        RunFolderError: If another job works in ``output``, or it is a run folder.
        DeviceError: If the device cannot be used, or has too little memory for a case.
        ConfigError: If the format is none of these.
    """
    if format not in get_args(Format):
        msg = f"The format is '{format}', expected {' or '.join(get_args(Format))}."
        raise ConfigError(msg, "Choose one of them.")
    source, folder = Path(source), JobFolder(output)
    _require_own_folder(folder, images or ())
    chosen, sentence = choose_device(device, doing="Predicting")
    specialist = Specialist.load(source, chosen)
    cases = _test_cases(source) if images is None else find_inputs(images, specialist.channels)
    targets = [folder.path / f"{_file_name(case.name)}.{format}" for case in cases]
    # Before the folder is taken: what is refused leaves nothing in a stranger's folder.
    _require_no_loss(folder, cases, targets, uncertainty=uncertainty)
    with _working(folder, observer) as events:
        raise_faults(check_inputs(cases, specialist.channels))
        events.write(kinds.STARTED, device=str(chosen), iterations=len(cases))
        events.write(kinds.MESSAGE, text=sentence)
        collaboration = _generalists_of(specialist, events) if refine else None
        better = None if collaboration is None else refiner(collaboration, specialist)
        try:
            written = _predict_all(specialist, better, cases, targets, uncertainty, folder, events)
        finally:
            if collaboration is not None:
                collaboration.close()
        reason = "done" if len(written) == len(cases) else "stopped"
        events.write(kinds.FINISHED, reason=reason, iteration=len(written))
    return written


def _generalists_of(specialist: Specialist, events: EventWriter) -> Collaboration | None:
    """Return who refines the predictions, and say so; None where nobody does."""
    try:
        collaboration = trusted_collaboration(specialist)
    except SemiSAMPlusError as error:
        text = f"The specialist predicts alone: a generalist that its training trusted is not at hand. {error.what}"
        events.write(kinds.WARNING, text=f"{text} {error.remedy}")
        return None
    if collaboration is not None:
        shares = ", ".join(f"{name.partition('=')[0]} ({share:.0%})" for name, share in collaboration.trust.items())
        events.write(kinds.MESSAGE, text=f"Predictions are corrected by generalists, weighted by trust: {shares}.")
    return collaboration


def _predict_all(
    specialist: Specialist,
    refine: Callable[[PreparedCase, torch.Tensor], torch.Tensor] | None,
    cases: Sequence[Case],
    targets: Sequence[Path],
    uncertainty: bool,
    folder: JobFolder,
    events: EventWriter,
) -> list[Path]:
    began = time.monotonic()
    for done, (case, target) in enumerate(zip(cases, targets, strict=True)):
        if folder.is_asked_to_stop():
            return list(targets[:done])
        predicted = _predict_one(specialist, refine, case)
        beside = _uncertainty_of(target) if uncertainty else None
        # Said before, so that whatever ends it amid writing, the next prediction may replace what is there.
        events.write(kinds.WRITES, files=[path.name for path in (target, beside) if path is not None])
        write_segmentation(target, predicted.labels, predicted.grid, specialist.classes)
        if beside is not None:
            source = REFINED_ENTROPY if predicted.refined else PREDICTIVE_ENTROPY
            write_uncertainty(beside, predicted.entropy, predicted.grid, source)
        left = (time.monotonic() - began) / (done + 1) * (len(cases) - done - 1)
        events.write(
            kinds.PROGRESS,
            iteration=done + 1,
            iterations=len(cases),
            seconds_left=round(left, 1),
            losses={},
            case=case.name,
            file=target.name,
        )
    return list(targets)


def _predict_one(
    specialist: Specialist, refine: Callable[[PreparedCase, torch.Tensor], torch.Tensor] | None, case: Case
) -> Prediction:
    try:
        return specialist.predict(case.images, name=case.name, refine=refine)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        msg = f"{case.name}: does not fit on {specialist.device}: its prediction ran out of memory."
        elsewhere = "" if specialist.device.type == "cpu" else ", predict with --device cpu,"
        raise DeviceError(msg, f"Close other programs that use memory{elsewhere} or crop the volume.") from error


@contextmanager
def _working(folder: JobFolder, observer: Callable[[dict[str, Any]], None] | None) -> Iterator[EventWriter]:
    """Own the folder; what goes wrong is said in events.jsonl too."""
    events = folder.acquire("predict")
    if observer is not None:
        events.listeners.append(observer)
    try:
        yield events
    except SemiSAMPlusError as error:
        events.write(kinds.ERROR, what=error.what, remedy=error.remedy, log=None)
        raise
    except Exception as error:
        what = f"The prediction failed: {type(error).__name__}: {error}."
        events.write(kinds.ERROR, what=what, remedy="Predict from a shell with --traceback to see where.", log=None)
        raise
    finally:
        events.close()
        folder.release()


def _test_cases(source: Path) -> tuple[Case, ...]:
    run = RunFolder(source)
    remedy = "Name the images or folders to predict."
    if not run.run_file.exists():
        msg = f"{source}: holds a specialist but no run, so no test cases are known."
        raise VolumeError(msg, remedy)
    cases = Cohort.from_dict(run.describe("cohort")["cohort"], run.path).test
    if not cases:
        msg = f"{source}: the run's cohort has no test cases."
        raise VolumeError(msg, f"{remedy[:-1]}, or make the cohort with --test.")
    return cases


# What must not be lost


def _require_own_folder(folder: JobFolder, images: Sequence[Path]) -> None:
    """Refuse a folder that is no place for predictions."""
    if (folder.path / "run.json").exists():
        msg = f"{folder.path}: is a run folder, expected a folder for predictions."
        raise RunFolderError(msg, f"Give a folder of its own, such as {folder.path / 'predictions'}.")
    places = [Path(image) if Path(image).is_dir() else Path(image).absolute().parent for image in images]
    if folder.path.resolve() in {place.resolve() for place in places}:
        msg = f"{folder.path}: holds the images, and predictions would mix with them."
        raise VolumeError(msg, f"Give predictions a folder of their own, such as {folder.path / 'predictions'}.")


def _require_no_loss(folder: JobFolder, cases: Sequence[Case], targets: Sequence[Path], *, uncertainty: bool) -> None:
    """Refuse to write over an input, over its label, over anything that no prediction wrote, and one over another."""
    inputs = {_place(path) for case in cases for path in (*case.images, case.label) if path is not None}
    ours = {_place(path) for path in _written_before(folder)}
    writers: dict[str, str] = {}
    faults: list[SemiSAMPlusError] = []
    for case, target in zip(cases, targets, strict=True):
        for path in (target, _uncertainty_of(target)) if uncertainty else (target,):
            # Not every system tells upper from lower case.
            other = writers.setdefault(path.name.casefold(), case.name)
            if other != case.name:
                what = f"{path}: would be written for case '{other}' and for case '{case.name}'."
                remedy = "Predict them one after the other, each into an --output of its own."
                faults.append(VolumeError(what, remedy))
                continue
            if not path.exists():
                continue
            if _place(path) in inputs:
                what = f"{path}: is an input, and the prediction of '{case.name}' would overwrite it."
            elif _place(path) not in ours:
                what = f"{path}: exists, and was not written by a prediction."
            else:
                continue
            faults.append(VolumeError(what, "Give --output another folder."))
    raise_faults(faults)


def _written_before(folder: JobFolder) -> Iterator[Path]:
    """Yield the files that earlier predictions wrote into the folder, or began to."""
    for event in folder.events():
        if event["event"] == kinds.WRITES:
            yield from (folder.path / str(name) for name in event["files"])


def _place(path: Path) -> tuple[int, int] | Path:
    """Return what a file is, however its path is written: not every system tells upper from lower case."""
    try:
        status = path.stat()
    except OSError:
        return path.resolve()
    return status.st_dev, status.st_ino


def _uncertainty_of(target: Path) -> Path:
    suffix = next(suffix for suffix in get_args(Format) if target.name.endswith(suffix))
    return target.with_name(f"{target.name.removesuffix('.' + suffix)}_uncertainty.nii.gz")


def _file_name(name: str) -> str:
    """Return a case's name, letters of any script included, or a safe id where a system would not take it."""
    name = unicodedata.normalize("NFC", name)
    return safe_id(name) if not name or _UNSAFE.search(name) else name
