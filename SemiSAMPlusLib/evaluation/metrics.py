"""How well predictions match labels: Dice, Jaccard, 95 % Hausdorff and average surface distance, by MONAI."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cohort.boxes import bounding_box
from ..cohort.cohort import CLASS_COLORS, Class, Cohort, summary
from ..cohort.layouts import SUFFIXES, stem
from ..cohort.outputs import folded, holds_class_indices, read_classes, read_segmentation, segment_name_faults
from ..errors import VolumeError
from ..run.files import write_text_atomically
from ..run.folder import safe_id

if TYPE_CHECKING:
    from rich.table import Table

#: The measures of a row, in the order of tables: attribute and heading.
MEASURES = (("dice", "Dice"), ("jaccard", "Jaccard"), ("hd95_mm", "95HD, mm"), ("asd_mm", "ASD, mm"))

#: What is said wherever a class was empty.
EMPTY_NOTE = (
    "Empty masks are handled as MONAI does. Where the label lacks a class, its Dice and Jaccard are nan. Where only the "
    "prediction lacks it, they are 0. Where either lacks it, 95HD is nan and ASD is inf; where both do, all are nan. "
    "Means are over finite values, n says how many these are."
)

#: What is measured of masks in which nothing is true.
_ONE_VOXEL = (slice(0, 1),) * 3


@dataclass(frozen=True)
class Row:
    """How well one class of one case was predicted.

    Attributes:
        case: The case's name.
        class_name: The structure.
        dice: Dice coefficient, 0 to 1.
        jaccard: Jaccard index (intersection over union), 0 to 1.
        hd95_mm: 95th percentile of the Hausdorff distance, the greater of both directions, mm.
        asd_mm: Average symmetric surface distance, mm.
    """

    case: str
    class_name: str
    dice: float
    jaccard: float
    hd95_mm: float
    asd_mm: float


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation of the sample (n − 1), and how many finite values of how many."""

    mean: float
    sd: float
    finite: int
    count: int


@dataclass(frozen=True)
class Evaluation:
    """The rows of a set of cases, and what should be said about them.

    Attributes:
        rows: One for each case and class, case by case.
        notes: Sentences for a reader of the table.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the rows."""
        return tuple(dict.fromkeys(row.class_name for row in self.rows))

    def summary(self, class_name: str, measure: str) -> Summary:
        """Return mean and spread of one of ``MEASURES`` over the cases."""
        values = [getattr(row, measure) for row in self.rows if row.class_name == class_name]
        finite = [value for value in values if math.isfinite(value)]
        mean = float(np.mean(finite)) if finite else math.nan
        sd = float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan
        return Summary(mean, sd, len(finite), len(values))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data; JSON knows neither nan nor inf, so they become null and "inf"."""
        return {
            "cases": [{key: _json_value(value) for key, value in asdict(row).items()} for row in self.rows],
            "summary": {
                name: {
                    measure: {key: _json_value(value) for key, value in asdict(self.summary(name, measure)).items()}
                    for measure, _ in MEASURES
                }
                for name in self.class_names
            },
            "notes": list(self.notes),
        }

    def to_json(self, path: Path | None = None) -> str:
        """Return the evaluation as JSON text, and write it to ``path`` where one is given."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        if path is not None:
            write_text_atomically(Path(path), text)
        return text

    def rich_table(self) -> Table:
        """Return a table for a terminal, 80 columns and up: a line for each case and class, then mean and sd of each class."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, caption="\n".join(self.notes), caption_justify="left")
        table.add_column("Case", overflow="fold")
        table.add_column("Class", overflow="fold")
        for _, heading in MEASURES:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(Text(row.case), Text(row.class_name), *_cells(row))
        if self.rows:
            table.add_section()
        for name in self.class_names:
            for what, cells in self._summary_lines(name):
                table.add_row(what, Text(name), *cells, style="bold")
        return table

    def _summary_lines(self, class_name: str) -> Iterator[tuple[str, list[str]]]:
        """Yield mean, sd and, where it is not all of them, how many values were finite: a text for each of ``MEASURES``."""
        found = {measure: self.summary(class_name, measure) for measure, _ in MEASURES}
        count = found[MEASURES[0][0]].count
        yield f"mean of {count}", [_text_if_finite(one.mean, measure) for measure, one in found.items()]
        if count > 1:
            yield "sd", [_text_if_finite(one.sd, measure) for measure, one in found.items()]
        if any(one.finite < count for one in found.values()):
            yield "n", [str(one.finite) for one in found.values()]


def evaluate_segmentation(
    prediction: np.ndarray,
    label: np.ndarray,
    spacing: Sequence[float],
    classes: Sequence[Class],
    *,
    case: str = "",
) -> list[Row]:
    """Compare a predicted segmentation with its label, class by class.

    Both are cropped to the box around the class in either; beyond it nothing is, and MONAI takes what lies beyond an
    array for background, so this changes no measure.

    Args:
        prediction: (z, y, x) class indices: 0 is background, ``i + 1`` is ``classes[i]``.
        label: (z, y, x) class indices, on the same grid.
        spacing: Voxel size in mm along (x, y, z), as :class:`Grid` has it.
        classes: The structures.
        case: The name that the rows bear.

    Returns:
        One row for each class; see ``EMPTY_NOTE`` for empty masks.
    """
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_iou,
    )

    if prediction.shape != label.shape:
        msg = f"The prediction has shape {prediction.shape}, the label {label.shape}."
        raise ValueError(msg)
    zyx = tuple(float(size) for size in spacing)[::-1]
    rows = []
    for index, one in enumerate(classes, start=1):
        masks = prediction == index, label == index
        box = bounding_box(masks[0] | masks[1], (1, 1, 1)) or _ONE_VOXEL
        found, true = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None].float() for mask in masks)
        with warnings.catch_warnings():
            # The first is said in EMPTY_NOTE; the second is MONAI's word about its own call.
            warnings.filterwarnings("ignore", message=".*may result in nan/inf distance.*")
            warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*")
            measures = (
                compute_dice(found, true),
                compute_iou(found, true),
                compute_hausdorff_distance(found, true, include_background=True, percentile=95, spacing=zyx),
                compute_average_surface_distance(found, true, include_background=True, symmetric=True, spacing=zyx),
            )
        rows.append(Row(case, one.name, *(float(measure) for measure in measures)))
    return rows


def evaluate_folders(
    predictions: Path | Mapping[str, Path],
    labels: Path | Mapping[str, Path],
    classes: Sequence[Class] | None = None,
) -> Evaluation:
    """Compare the predictions of a folder with the labels of another, paired by case name.

    Args:
        predictions: A folder of .seg.nrrd files or labelmaps named after their cases, or a path for each case name.
        labels: A folder of label files named after their cases, or a path for each case name.
        classes: The structures and their label values. Without them they are what the predictions' segments say, else
            what the labels' segments say, else each value that is found in the labels.

    Returns:
        The rows in order of case name. Cases that have a label but no prediction are left out, and the reverse is noted.

    Raises:
        VolumeError: If there is no pair, a file cannot be read, a prediction lies on another grid than its label, or it
            holds class indices and nothing says of which classes, or segments and values cannot be brought together.
    """
    found, true = _by_name(predictions), _by_name(labels)
    # `semisamplus predict` may have named a file by the case's safe id.
    matches = {name: found.get(name, found.get(safe_id(name))) for name in sorted(true)}
    pairs = {name: path for name, path in matches.items() if path is not None}
    if not pairs:
        msg = f"No prediction bears the name of a label: predictions are {summary(found)}, labels are {summary(true)}."
        raise VolumeError(msg, "Name each prediction as its label is named, whatever the suffix.")
    notes = []
    if alone := [name for name, path in found.items() if path not in pairs.values()]:
        notes.append(f"Not evaluated, for want of a label: {summary(alone)}.")
    references = [true[name] for name in pairs]
    classes = classes or _classes_found(list(pairs.values()), references)
    if faults := segment_name_faults(references, classes):
        raise faults[0]
    rows: list[Row] = []
    for name, path in pairs.items():
        prediction, grid = read_segmentation(path, classes)
        label, label_grid = read_segmentation(true[name], classes)
        if difference := grid.difference(label_grid):
            msg = f"{path}: is not on the grid of its label {true[name]}: {difference}."
            raise VolumeError(msg, "Predict on the image that the label was drawn on, or resample one onto the other.")
        rows += evaluate_segmentation(prediction, label, grid.spacing, classes, case=name)
    return Evaluation(tuple(rows), (*notes, *empty_notes(rows)))


def empty_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return ``EMPTY_NOTE`` where one of the rows has a value that is not finite."""
    finite = all(math.isfinite(getattr(row, measure)) for row in rows for measure, _ in MEASURES)
    return () if finite else (EMPTY_NOTE,)


def part_notes(cohort: Cohort, cases: Collection[str]) -> tuple[str, ...]:
    """Return what a reader of an evaluation should know of the parts that its cases play in their cohort.

    Args:
        cohort: The cohort that the specialist was trained on.
        cases: The names of the cases that were evaluated.
    """
    learned = [case.name for case in cohort.labeled if case.name in cases]
    chose = [case.name for case in cohort.validation if case.name in cases]
    lacking = [case.name for case in cohort.test if case.label is not None and case.name not in cases]
    told = (
        (learned, "Labelled in training, which learned them by heart, so that they say nothing of other cases"),
        (chose, "Held out in training, where they chose the checkpoint, so that others may be a little lower"),
        (lacking, "Test cases without a prediction"),
    )
    return tuple(f"{what}: {summary(names)}." for names, what in told if names)


def format_measure(value: float, measure: str) -> str:
    """Return a value of one of ``MEASURES`` as text: three decimals for ratios, two for mm."""
    return f"{value:.{2 if measure.endswith('_mm') else 3}f}"


def _text_if_finite(value: float, measure: str) -> str:
    return format_measure(value, measure) if math.isfinite(value) else "–"


def format_summary(value: Summary, measure: str) -> str:
    """Return mean ± sd as text, with the count of finite values."""
    if not value.finite:
        return f"– (n = 0 of {value.count})"
    text = format_measure(value.mean, measure)
    if math.isfinite(value.sd):
        text += f" ± {format_measure(value.sd, measure)}"
    return text + (
        f" (n = {value.finite})" if value.finite == value.count else f" (n = {value.finite} of {value.count})"
    )


def _cells(row: Row) -> Iterator[str]:
    return (format_measure(getattr(row, measure), measure) for measure, _ in MEASURES)


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def _by_name(files: Path | Mapping[str, Path]) -> dict[str, Path]:
    if isinstance(files, Mapping):
        return {name: Path(path) for name, path in files.items()}
    folder = Path(files)
    if not folder.is_dir():
        msg = f"{folder}: is not a folder."
        raise VolumeError(msg, "Give the folder that holds one file for each case.")
    by_name: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = stem(path)
        # Hidden files are being written; uncertainty lies beside predictions and is none.
        if path.name.startswith(".") or not path.name.lower().endswith(SUFFIXES) or name.endswith("uncertainty"):
            continue
        if name in by_name:
            msg = f"{folder}: two files are named after the case '{name}': {by_name[name].name} and {path.name}."
            raise VolumeError(msg, "Remove one of them.")
        by_name[name] = path
    return by_name


def _classes_found(predictions: Sequence[Path], references: Sequence[Path]) -> tuple[Class, ...]:
    """Return what is compared where nobody says it: the segments of the predictions, of the labels, or plain values."""
    classes = _classes_of(predictions)
    if not classes:
        _refuse_indices(predictions)
        classes = _classes_of(references)
    if not classes:
        return _values_of(references)
    plain = next((path for path in (*predictions, *references) if not read_classes(path)), None)
    values = [value for one in classes for value in one.values]
    repeated = next((value for value in values if values.count(value) > 1), None)
    if plain is not None and repeated is not None:
        names = summary(f"'{one.name}'" for one in classes if repeated in one.values)
        msg = f"{plain}: has no segments, and in files that have them the value {repeated} stands for {names}."
        raise VolumeError(msg, "Say which value is which: --classes NAME=VALUE,... for each class.")
    return classes


def _classes_of(paths: Iterable[Path]) -> tuple[Class, ...]:
    """Return the segments of all files: a case may lack some of them."""
    classes: dict[str, Class] = {}
    for path in paths:
        for one in read_classes(path):
            classes.setdefault(folded(one.name), one)
    return tuple(classes.values())


def _refuse_indices(paths: Iterable[Path]) -> None:
    for path in paths:
        if holds_class_indices(path):
            msg = f"{path}: holds label values, and nothing says which classes they stand for."
            remedy = (
                "Name the run or the cohort in place of the labels' folder, "
                "or give --classes NAME=VALUE,... for each class, in the order of the cohort."
            )
            raise VolumeError(msg, remedy)


def _values_of(paths: Iterable[Path]) -> tuple[Class, ...]:
    values = sorted({int(value) for path in paths for value in np.unique(read_segmentation(path)[0])} - {0})
    if not values:
        msg = "The labels hold nothing but zeros."
        raise VolumeError(msg, "Give the folder of the label files.")
    return tuple(Class(str(v), (v,), CLASS_COLORS[i % len(CLASS_COLORS)]) for i, v in enumerate(values))
