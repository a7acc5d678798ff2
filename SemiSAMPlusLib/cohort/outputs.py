"""What is written for a case, and read back: segmentations, uncertainty and prompts, as 3D Slicer and others open them.

Labels are segmentations too, and are read here as predictions are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import VolumeError
from ..run.files import replacing, write_text_atomically
from .cohort import CLASS_COLORS, Class, summary
from .volume import Grid, read_image

#: What an uncertainty volume can hold; the file's description says which.
PREDICTIVE_ENTROPY, REFINED_ENTROPY = "predictive entropy", "predictive entropy with generalists"

#: Suffixes of segmentations that name and colour their segments, and of labelmaps that hold plain numbers.
SEGMENTATION_SUFFIXES, LABELMAP_SUFFIXES = (".seg.nrrd",), (".nii.gz", ".nii", ".nrrd")

#: Says of a labelmap that its numbers are class indices, because no label value stands for a class alone.
_INDICES_NOTE = "SemiSAMPlus class indices"
#: SimpleITK keeps NIfTI's ``descrip``, of at most 79 bytes, under this name; NRRD keeps any name.
_NOTE_KEY = "ITK_FileNotes"
#: Slicer's own terminology of a segment about which nothing more is known.
_TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~Anatomic codes - DICOM master list~^^~^^"
)
_VALUES_TAG = "SemiSAMPlus.LabelValues"

_MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/"
    "Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)
#: Colours (sRGB, 0 to 1) of prompts. They differ in lightness too, and their glyphs in shape.
POSITIVE_COLOR, NEGATIVE_COLOR = (0.25, 0.95, 0.70), (0.90, 0.15, 0.45)
#: The axes of a control point in LPS that Slicer, which works in RAS, takes for upright.
_UPRIGHT = [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]


# Segmentations


def write_segmentation(path: Path, labels: np.ndarray, reference: Grid, classes: Sequence[Class]) -> None:
    """Write a segmentation on exactly the grid ``reference``, so that a reader sees the old file or the new one.

    A ``.seg.nrrd`` gets a named and coloured segment for each class. A ``.nii.gz``, ``.nii`` or ``.nrrd`` becomes a
    labelmap: with the cohort's own label values where each class has exactly one, else with class indices.

    Args:
        path: Where to write; its suffix chooses the format.
        labels: (z, y, x) class indices: 0 is background, ``i + 1`` is ``classes[i]``.
        reference: Where the voxels lie.
        classes: The structures.

    Raises:
        VolumeError: If the suffix is none of these, or the file cannot be written.
    """
    path = Path(path)
    if labels.shape != reference.shape:
        msg = f"The labels have shape {labels.shape}, their grid {reference.shape}."
        raise ValueError(msg)
    if labels.size and int(labels.max()) > len(classes):
        msg = f"The labels hold the class index {int(labels.max())}, but there are {len(classes)} classes."
        raise ValueError(msg)
    if _is_segmentation(path):
        image = reference.image(labels.astype(np.uint8))
        for key, value in _segment_fields(classes, reference).items():
            image.SetMetaData(key, value)
    elif path.name.lower().endswith(LABELMAP_SUFFIXES):
        image = _labelmap(labels, reference, classes)
    else:
        msg = f"{path}: a segmentation cannot be written to a file of this name."
        remedy = f"End the name with one of {', '.join((*SEGMENTATION_SUFFIXES, *LABELMAP_SUFFIXES))}."
        raise VolumeError(msg, remedy)
    _write(image, path)


def read_segmentation(path: Path, classes: Sequence[Class] | None = None) -> tuple[np.ndarray, Grid]:
    """Read a segmentation or a labelmap as class indices.

    Segments are found by name (upper and lower case alike), whatever their numbers; where none bears the name of a class,
    by the classes' label values, as the numbers of a labelmap are that does not say that it holds class indices. Where
    segments overlap, the later class wins.

    Args:
        path: A ``.seg.nrrd``, also one that Slicer saved, or a labelmap in any format that SimpleITK reads.
        classes: The structures to read. Without them, segment ``i`` becomes index ``i + 1``, and a labelmap's numbers
            stay as they are.

    Returns:
        The class indices (z, y, x), uint8, 0 where there is none of the classes, and the grid that they lie on.

    Raises:
        VolumeError: If the file cannot be read, or does not hold what ``classes`` say.
    """
    path = Path(path)
    if _is_segmentation(path):
        image = _read_with_layers(path)
        segments = _segments(image)
        if segments:
            return _merge(path, image, segments, classes), Grid.of(image)
    image = read_image(path)
    values = _whole_numbers(path, sitk.GetArrayFromImage(image))
    if classes is not None and not _holds_indices(image):
        return class_indices(values, classes), Grid.of(image)
    limit = 255 if classes is None else len(classes)
    if values.size and (values.min() < 0 or values.max() > limit):
        msg = f"{path}: holds values from {values.min()} to {values.max()}, expected 0 to {limit}."
        raise VolumeError(msg, "Give the classes that the file was written with.")
    return values.astype(np.uint8), Grid.of(image)


def read_label(path: Path, classes: Sequence[Class]) -> sitk.Image:
    """Read a label file as class indices, see :func:`read_segmentation`.

    Raises:
        VolumeError: If the file cannot be read, or does not hold what ``classes`` say.
    """
    indices, grid = read_segmentation(path, classes)
    return grid.image(indices)


def read_classes(path: Path) -> tuple[Class, ...]:
    """Return the classes that a ``.seg.nrrd`` describes: names, colours and the label values they stand for.

    Returns:
        One class for each segment, in order; none where the file is a plain labelmap.

    Raises:
        VolumeError: If the file cannot be read.
    """
    return tuple(Class(one.name, one.values, one.color) for one in read_segments(path))


def read_segments(path: Path) -> tuple[Segment, ...]:
    """Return the segments that a ``.seg.nrrd`` describes, in order; none where the file is a plain labelmap.

    Raises:
        VolumeError: If the file cannot be read.
    """
    path = Path(path)
    return tuple(_segments(_read_with_layers(path, only_header=True))) if _is_segmentation(path) else ()


def holds_class_indices(path: Path) -> bool:
    """Return whether a labelmap says that its numbers are class indices, not label values; only its header is read.

    Raises:
        VolumeError: If the file cannot be read.
    """
    return _holds_indices(_read_with_layers(Path(path), only_header=True))


def voxel_classes(path: Path, image: sitk.Image, classes: Sequence[Class]) -> dict[int, int]:
    """Return what :func:`read_segmentation` takes each value of a file without overlapping segments for.

    Args:
        path: The file.
        image: What it holds.
        classes: The structures.

    Returns:
        Class indices by voxel value, 0 for a segment of none of the classes; values that stand for nothing are left out.

    Raises:
        VolumeError: If the file's segments do not fit the classes.
    """
    if _is_segmentation(path) and (segments := _segments(image)):
        indices = _class_of_each(path, segments, classes)
        return {segment.label_value: index for segment, index in zip(segments, indices, strict=True)}
    if _holds_indices(image):
        return {index: index for index in range(1, len(classes) + 1)}
    return {value: index for index, one in enumerate(classes, start=1) for value in one.values}


def segment_name_faults(paths: Iterable[Path], classes: Sequence[Class]) -> list[VolumeError]:
    """Find segmentations whose segments can be told neither by name nor, together with the others, by number.

    Args:
        paths: Files that can be read; labelmaps among them are passed over.
        classes: The structures.
    """
    tables = [(path, segments) for path in paths if (segments := read_segments(path))]
    named = next((path for path, segments in tables if _some_named(segments, classes)), None)
    remedy = "Give classes and segments the same names in every file; they are then found by name."
    faults: list[VolumeError] = []
    known: dict[str, tuple[int, Path]] = {}
    for path, segments in tables:
        if _some_named(segments, classes):
            continue
        if named is not None:
            names, expected = summary(s.name for s in segments), summary(one.name for one in classes)
            what = f"{path}: has segments named {names}, expected {expected}, which {named} has."
            faults.append(VolumeError(what, remedy))
            continue
        for segment, index in zip(segments, _class_of_each(path, segments, classes), strict=True):
            other, where = known.setdefault(folded(segment.name), (index, path))
            if other != index:
                found, expected = (f"'{classes[i - 1].name}'" if i else "no class" for i in (index, other))
                what = f"{path}: the segment '{segment.name}' has the number of {found}, expected {expected} as in {where}."
                faults.append(VolumeError(what, remedy))
    return faults


def class_indices(values: np.ndarray, classes: Sequence[Class]) -> np.ndarray:
    """Map the values of a label file to class indices, 0 where a value belongs to no class.

    Args:
        values: Label values of any shape.
        classes: The structures; where two share a value, the later one has it.

    Returns:
        Class indices, uint8, of the shape of ``values``.
    """
    indices = np.zeros(values.shape, dtype=np.uint8)
    for index, one in enumerate(classes, start=1):
        indices[np.isin(values, one.values)] = index
    return indices


@dataclass(frozen=True)
class Segment:
    """A segment of a ``.seg.nrrd``.

    Attributes:
        name: What the user calls it.
        color: sRGB, 0 to 1.
        layer: Which of the file's layers it lies in.
        label_value: The value of its voxels there.
        values: The label values that it stands for in a cohort; its own value where the file does not say.
    """

    name: str
    color: tuple[float, float, float]
    layer: int
    label_value: int
    values: tuple[int, ...]


def _is_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(SEGMENTATION_SUFFIXES)


def _holds_indices(image: sitk.Image) -> bool:
    return image.HasMetaDataKey(_NOTE_KEY) and image.GetMetaData(_NOTE_KEY).strip() == _INDICES_NOTE


def _segment_fields(classes: Sequence[Class], grid: Grid) -> dict[str, str]:
    z, y, x = grid.shape
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # Slicer before 5.4
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, one in enumerate(classes):
        values = " ".join(map(str, one.values))
        fields |= {
            f"Segment{number}_ID": f"Segment_{number + 1}",
            f"Segment{number}_Name": " ".join(one.name.split()),
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_Color": " ".join(f"{part:.6g}" for part in one.color),
            f"Segment{number}_ColorAutoGenerated": "0",
            f"Segment{number}_Layer": "0",
            f"Segment{number}_LabelValue": str(number + 1),
            # The whole extent: some versions of Slicer crop every segment of a layer to that of the first.
            f"Segment{number}_Extent": f"0 {x - 1} 0 {y - 1} 0 {z - 1}",
            f"Segment{number}_Tags": f"TerminologyEntry:{_TERMINOLOGY}|{_VALUES_TAG}:{values}|",
        }
    return fields


def _segments(image: sitk.Image) -> list[Segment]:
    segments: list[Segment] = []
    while True:
        number = len(segments)
        fields = {
            key: image.GetMetaData(name) if image.HasMetaDataKey(name) else ""
            for key in ("ID", "Name", "Color", "Layer", "LabelValue", "Tags")
            for name in (f"Segment{number}_{key}",)
        }
        if not fields["ID"]:
            return segments
        label_value = int(fields["LabelValue"] or 1)
        # Slicer before 4.11 names neither: each segment is a layer of its own.
        layer = int(fields["Layer"] or (0 if fields["LabelValue"] else number))
        color = tuple(float(part) for part in fields["Color"].split())
        tags = dict(tag.split(":", 1) for tag in fields["Tags"].split("|") if ":" in tag)
        segments.append(
            Segment(
                name=fields["Name"] or fields["ID"],
                color=(color[0], color[1], color[2]) if len(color) == 3 else CLASS_COLORS[number % len(CLASS_COLORS)],
                layer=layer,
                label_value=label_value,
                values=tuple(int(value) for value in tags.get(_VALUES_TAG, "").split()) or (label_value,),
            )
        )


def _merge(path: Path, image: sitk.Image, segments: Sequence[Segment], classes: Sequence[Class] | None) -> np.ndarray:
    voxels = sitk.GetArrayViewFromImage(image)
    layers = voxels if voxels.ndim == 4 else voxels[..., np.newaxis]
    indices = np.zeros(layers.shape[:3], dtype=np.uint8)
    found = range(1, len(segments) + 1) if classes is None else _class_of_each(path, segments, classes)
    for index, segment in sorted(zip(found, segments, strict=True), key=lambda one: one[0]):
        if index:
            if segment.layer >= layers.shape[3]:
                msg = (
                    f"{path}: the segment '{segment.name}' is said to lie in layer {segment.layer}, "
                    f"but the file holds {layers.shape[3]} layer(s), counted from 0."
                )
                raise VolumeError(msg, "Save it again from 3D Slicer.")
            indices[layers[..., segment.layer] == segment.label_value] = index
    return indices


def _class_of_each(path: Path, segments: Sequence[Segment], classes: Sequence[Class]) -> list[int]:
    """Return the class index of each segment, 0 where it is none of them."""
    if not _some_named(segments, classes):
        values = {value: index for index, one in enumerate(classes, start=1) for value in one.values}
        return [next((values[value] for value in segment.values if value in values), 0) for segment in segments]
    names = {folded(one.name): index for index, one in enumerate(classes, start=1)}
    indices = [names.get(folded(segment.name), 0) for segment in segments]
    missing = [one.name for index, one in enumerate(classes, start=1) if index not in indices]
    strangers = [segment.name for segment, index in zip(segments, indices, strict=True) if not index]
    # A class that is absent is empty; but a class that is absent beside a segment of another name was likely renamed.
    if missing and strangers:
        msg = f"{path}: has segments named {summary(strangers)}, expected {summary(missing)}."
        remedy = (
            "Rename the segments as the classes are named, or add an empty segment for a class that the case lacks."
        )
        raise VolumeError(msg, remedy)
    return indices


def _some_named(segments: Iterable[Segment], classes: Iterable[Class]) -> bool:
    names = {folded(one.name) for one in classes}
    return any(folded(segment.name) in names for segment in segments)


def folded(name: str) -> str:
    """Return a name as the names of segments and classes are compared: upper and lower case, and spaces, alike."""
    return " ".join(name.split()).casefold()


def _labelmap(labels: np.ndarray, grid: Grid, classes: Sequence[Class]) -> sitk.Image:
    values = [one.values[0] for one in classes if len(one.values) == 1]
    if len(set(values) - {0}) == len(classes):
        table = np.array([0, *values])
        kind = next(kind for kind in (np.uint8, np.int16, np.int32) if _fits(table, kind))
        return grid.image(table.astype(kind)[labels])
    image = grid.image(labels.astype(np.uint8))
    image.SetMetaData(_NOTE_KEY, _INDICES_NOTE)
    return image


def _fits(values: np.ndarray, kind: type[np.integer[Any]]) -> bool:
    limits = np.iinfo(kind)
    return bool(values.min() >= limits.min and values.max() <= limits.max)


def _whole_numbers(path: Path, values: np.ndarray) -> np.ndarray:
    if np.issubdtype(values.dtype, np.integer):
        return values
    rounded = np.round(values)
    if not np.array_equal(rounded, values):
        msg = f"{path}: holds values such as {values[rounded != values].flat[0]}, expected whole numbers."
        raise VolumeError(msg, "Give a segmentation or a labelmap.")
    return rounded.astype(np.int64)


def _read_with_layers(path: Path, *, only_header: bool = False) -> sitk.Image:
    """Read a .seg.nrrd, whose layers of overlapping segments SimpleITK gives as the components of each voxel."""
    if not path.exists():
        msg = f"{path}: the file does not exist."
        raise VolumeError(msg, "Correct the path.")
    try:
        if not only_header:
            return sitk.ReadImage(str(path))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        header = sitk.Image(1, 1, sitk.sitkUInt8)
        for key in reader.GetMetaDataKeys():
            header.SetMetaData(key, reader.GetMetaData(key))
    except RuntimeError as error:
        msg = f"{path}: cannot be read as a segmentation ({_last_line(error)})."
        raise VolumeError(msg, "Save it again from 3D Slicer, or remove it.") from error
    return header


def _write(image: sitk.Image, path: Path) -> None:
    try:
        with replacing(path) as temporary:
            sitk.WriteImage(image, str(temporary), True)
    except (RuntimeError, OSError) as error:
        msg = f"{path}: cannot be written ({_last_line(error)})."
        raise VolumeError(msg, "Choose a folder with space that you may write to.") from error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1]


# Uncertainty


def write_uncertainty(path: Path, array: np.ndarray, grid: Grid, source: str) -> None:
    """Write an uncertainty volume, whose description says what was measured.

    Args:
        path: Where to write, a ``.nii.gz``.
        array: (z, y, x) uncertainty, 0 to 1.
        grid: Where the voxels lie.
        source: ``PREDICTIVE_ENTROPY`` or ``REFINED_ENTROPY``.

    Raises:
        VolumeError: If the file cannot be written.
    """
    image = grid.image(np.asarray(array, dtype=np.float32))
    image.SetMetaData(_NOTE_KEY, source)
    _write(image, Path(path))


def read_uncertainty(path: Path) -> tuple[np.ndarray, Grid, str]:
    """Read an uncertainty volume.

    Returns:
        The uncertainty (z, y, x) float32, its grid, and what was measured (empty where the file does not say).

    Raises:
        VolumeError: If the file cannot be read.
    """
    image = read_image(Path(path))
    source = image.GetMetaData(_NOTE_KEY).strip() if image.HasMetaDataKey(_NOTE_KEY) else ""
    return sitk.GetArrayFromImage(image).astype(np.float32, copy=False), Grid.of(image), source


# Prompts


@dataclass(frozen=True)
class Prompts:
    """The points and boxes that a generalist was asked with on one case.

    Attributes:
        points: (N, 3) points (x, y, z) in mm, LPS.
        labels: (N,) 1 where the point lies in its structure, 0 where it lies outside.
        class_names: The structure that each point asks for.
        boxes: For each structure asked for with a box, (2, 3) opposite corners (x, y, z) in mm, LPS.
    """

    points: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    boxes: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_prompts(
    path: Path,
    points: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    boxes: Mapping[str, np.ndarray] | None = None,
    direction: Sequence[float] = Grid.direction,
) -> None:
    """Write prompts in Slicer's Markups format: the lists "positive" and "negative", and a region for each box.

    Args:
        path: Where to write, a ``.mrk.json``.
        points: (N, 3) points (x, y, z) in mm, LPS; N may be 0.
        labels: (N,) 1 where the point lies in its structure, 0 where it lies outside.
        class_names: (N,) the structure that each point asks for.
        boxes: For each structure asked for with a box, (2, 3) opposite corners (x, y, z) in mm, LPS.
        direction: The 3×3 direction cosines (see :class:`Grid`) that the boxes' edges follow.
    """
    points, labels = np.reshape(np.asarray(points, dtype=float), (-1, 3)), np.asarray(labels).reshape(-1)
    if not len(points) == len(labels) == len(class_names):
        msg = f"There are {len(points)} points, {len(labels)} labels and {len(class_names)} class names."
        raise ValueError(msg)
    markups = [
        _points_markup(
            name, points[labels == label], [c for c, one in zip(class_names, labels, strict=True) if one == label]
        )
        for name, label in (("positive", 1), ("negative", 0))
    ]
    axes = np.reshape(np.asarray(direction, dtype=float), (3, 3))
    for name, corners in (boxes or {}).items():
        markups.append(_box_markup(name, np.asarray(corners, dtype=float), axes))
    text = json.dumps({"@schema": _MARKUPS_SCHEMA, "markups": markups}, indent=1, allow_nan=False)
    write_text_atomically(Path(path), text + "\n")


def read_prompts(path: Path) -> Prompts:
    """Read prompts that :func:`write_prompts` wrote, or that Slicer saved from them.

    Raises:
        VolumeError: If the file is no such markups file.
    """
    points, labels, names, boxes = [], [], [], {}
    try:
        for markup in json.loads(Path(path).read_text(encoding="utf-8"))["markups"]:
            to_lps = np.array([1.0, 1, 1] if markup.get("coordinateSystem", "LPS") == "LPS" else [-1.0, -1, 1])
            if markup["type"] == "ROI":
                axes = np.reshape(markup["orientation"], (3, 3))
                half = axes @ np.asarray(markup["size"]) / 2
                boxes[markup["name"]] = (np.asarray(markup["center"]) + np.array([[-1.0], [1.0]]) * half) * to_lps
                continue
            for point in markup.get("controlPoints", ()):
                points.append(np.asarray(point["position"], dtype=float) * to_lps)
                labels.append(0 if markup.get("name") == "negative" else 1)
                names.append(str(point.get("label", "")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        msg = f"{path}: cannot be read as Slicer markups ({type(error).__name__}: {error})."
        raise VolumeError(msg, "Remove the file; it is written anew with the next layers.") from error
    return Prompts(np.reshape(points, (-1, 3)), np.array(labels, dtype=int), tuple(names), boxes)


def _points_markup(name: str, points: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    positive = name == "positive"
    return {
        "type": "Fiducial",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,  # They show what was asked; a hand that slips must not change it.
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": [
            _control_point(number, class_name, f"{name} point for {class_name}", point)
            for number, (point, class_name) in enumerate(zip(points, class_names, strict=True), start=1)
        ],
        "measurements": [],
        "display": {
            **_display(POSITIVE_COLOR if positive else NEGATIVE_COLOR),
            "glyphType": "Sphere3D" if positive else "Diamond3D",
            "glyphScale": 1.5,
            "useGlyphScale": True,
        },
    }


def _box_markup(name: str, corners: np.ndarray, axes: np.ndarray) -> dict[str, Any]:
    center = corners.mean(axis=0)
    if np.linalg.det(axes) < 0:
        axes = axes * [1, 1, -1]  # Slicer wants right-handed axes, and a box is the same with one of them turned.
    return {
        "type": "ROI",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "roiType": "Box",
        "center": center.tolist(),
        "orientation": axes.ravel().tolist(),
        "size": np.abs(np.linalg.solve(axes, corners[1] - corners[0])).tolist(),
        "insideOut": False,
        "controlPoints": [_control_point(1, name, f"box around {name}", center)],
        "measurements": [],
        "display": {**_display(POSITIVE_COLOR), "opacity": 0.5, "fillVisibility": False},
    }


def _control_point(number: int, label: str, description: str, position: np.ndarray) -> dict[str, Any]:
    return {
        "id": str(number),
        "label": label,
        "description": description,
        "associatedNodeID": "",
        "position": position.tolist(),
        "orientation": _UPRIGHT,
        "selected": True,
        "locked": True,
        "visibility": True,
        "positionStatus": "defined",
    }


def _display(color: tuple[float, float, float]) -> dict[str, Any]:
    return {
        "visibility": True,
        "opacity": 1.0,
        "color": list(color),
        "selectedColor": list(color),
        "propertiesLabelVisibility": False,
        "pointLabelsVisibility": False,
    }
