"""From the scene to files that the library reads: a volume at a time, so that Slicer never waits for a whole cohort."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SemiSAMPlusLib.cohort.cohort import Case, Class, Cohort, Role
from SemiSAMPlusLib.cohort.layouts import SUFFIXES
from SemiSAMPlusLib.errors import VolumeError
from SemiSAMPlusLib.run.files import write_text_atomically
from SemiSAMPlusLib.run.folder import safe_id, specialist_in

from .cases import WITH_LABEL, CaseRow, segments_of
from .geometry import Geometry, geometry_of, geometry_of_file, matrix_of, to_world
from .text import _

#: The attribute by which a run knows the volumes of its cases again, also when they were renamed, saved and loaded.
IDENTITY_ATTRIBUTE = "SemiSAMPlus.Id"
#: How long a step may take where it writes and reads no volume, in seconds.
_STEP_SECONDS = 0.02
_LABELMAP = "Binary labelmap"


class CohortExport:
    """Writes what a training needs into the folder ``inputs`` of its run, and cohort.json beside it.

    A volume that lies on the disk as it is in the scene is used where it lies; others are written by Slicer's own
    writers. Segmentations become labelmaps on exactly the grid of their volume. What linear transforms do to a volume
    goes into the file; the scene stays as it is.

    Args:
        rows: The cases, each with its part; those without a part are left out.
        folder: The run's folder.
        segments: The structures to learn, by name; all by default.
        name: What the user calls the run.
        order: The structures that come first, and how: those that a specialist to start from has learned. Others follow as
            they are found.

    Attributes:
        total: How many files are to be looked at or written.
        done: How many of them are.
        notes: What the user should know of how it was exported.
        cohort: The cohort, when all is done; None before.
    """

    def __init__(
        self,
        rows: Sequence[CaseRow],
        folder: Path,
        *,
        segments: Sequence[str] | None = None,
        name: str = "",
        order: Sequence[str] = (),
    ) -> None:
        self._rows = [row for row in rows if row.role is not None]
        self._folder, self._name = Path(folder), name or Path(folder).name
        self._picked = None if segments is None else list(segments)
        self._order = list(order)
        self.notes: list[str] = []
        self.cohort: Cohort | None = None
        self._images: dict[str, Path] = {}
        self._labels: dict[str, Path] = {}
        self._found_values: set[int] = set()
        self._found_names: list[str] = []
        self._classes: list[Class] = []
        self._terminologies: dict[str, str] = {}
        self._tasks = self._plan()
        self.total, self.done = len(self._tasks), 0

    def step(self) -> bool:
        """Write or read one volume, or settle a few cases for which that is not needed; return whether more is to do.

        Raises:
            VolumeError: If a volume, segmentation or label file cannot be used.
        """
        until = time.monotonic() + _STEP_SECONDS
        if self.done == 0:  # Known as ours from the first file on, should Slicer end before the last.
            self._describe({})
        while self.done < self.total:
            was_heavy = self._tasks[self.done]()
            self.done += 1
            if was_heavy or time.monotonic() >= until:
                return True
        if self.cohort is None:
            self._finish()
        return False

    def _plan(self) -> list[Callable[[], bool]]:
        """Return what is to be done, each a call that returns whether it wrote or read a volume."""
        labeled = [row for row in self._rows if row.role in WITH_LABEL]
        unnamed = [row for row in labeled if row.segmentation is None and row.label is not None and not row.values]
        tasks: list[Callable[[], bool]] = [lambda row=row: self._read_values(row) for row in unnamed]  # type: ignore[misc]
        tasks.append(self._settle_classes)
        for row in self._rows:
            tasks.append(lambda row=row: self._export_image(row))  # type: ignore[misc]
            if row in labeled:
                tasks.append(lambda row=row: self._export_label(row))  # type: ignore[misc]
        return tasks

    # -- classes ----------------------------------------------------------------------------------------------------

    def _read_values(self, row: CaseRow) -> bool:
        """Find the structures of a label that no dataset names: its segments, or else its values."""
        from SemiSAMPlusLib.cohort.outputs import read_segments

        assert row.label is not None
        if segments := read_segments(row.label):
            self._found_names += [segment.name for segment in segments]
            return True
        values = np.unique(_read_array(row.label))
        odd = [value for value in values.tolist() if value != int(value) or value < 0]
        if odd:
            what = _("{file}: holds the value {value:g}, expected whole numbers from 0.").format(
                file=row.label, value=odd[0]
            )
            raise VolumeError(what, _("Save the label as integers, one for each structure."))
        self._found_values |= {int(value) for value in values.tolist()} - {0}
        return True

    def _settle_classes(self) -> bool:
        """Give each structure its label value: files have theirs already, segments take what is free."""
        values: dict[str, tuple[int, ...]] = {}
        colors: dict[str, tuple[float, float, float]] = {}
        labeled = [row for row in self._rows if row.role in WITH_LABEL]
        for row in labeled:
            for name, of_file in row.values.items():
                if values.setdefault(name, of_file) != of_file:
                    what = _(
                        "{file}: '{name}' has the value(s) {found}, expected {expected} as in other cases."
                    ).format(file=row.label, name=name, found=of_file, expected=values[name])
                    raise VolumeError(what, _("Train on one dataset at a time, or give labels the same values."))
        segments = [
            segment for row in labeled if row.segmentation is not None for segment in segments_of(row.segmentation)
        ]
        free = (value for value in range(1, 1 << 15) if not any(value in taken for taken in values.values()))
        for name in self._found_names:  # In files, too, segments are found by their names.
            if name not in values:
                values[name] = (next(free),)
        for segment in segments:
            name = segment.GetName()
            if self._picked is not None and name not in self._picked:
                continue
            if name not in values:
                values[name] = (next(free),)
            colors.setdefault(name, segment.GetColor())
            if terminology := terminology_of(segment):
                self._terminologies.setdefault(name, terminology)
        covered = {value for of_class in values.values() for value in of_class}
        for value in sorted(self._found_values - covered):
            values[_("class {value}").format(value=value)] = (value,)
        if self._picked is not None:
            values = {name: values[name] for name in self._picked if name in values}
        values = {name: values[name] for name in (*self._order, *values) if name in values}
        if not values:
            what = _("No structure is left to learn: the labelled cases have {found}.").format(
                found=", ".join(dict.fromkeys(f"'{segment.GetName()}'" for segment in segments)) or _("no segments")
            )
            raise VolumeError(what, _("Pick at least one of their segments, or draw one in Segment Editor."))
        from SemiSAMPlusLib.cohort.cohort import CLASS_COLORS

        self._classes = [
            Class(name, of_class, colors.get(name, CLASS_COLORS[index % len(CLASS_COLORS)]))
            for index, (name, of_class) in enumerate(values.items())
        ]
        return False

    # -- files ------------------------------------------------------------------------------------------------------

    def _export_image(self, row: CaseRow) -> bool:
        if row.volume is None:
            assert row.image is not None
            self._images[row.key] = row.image
            return False
        self._require_in_scene(row.volume, row.name)
        target = self._folder / "inputs" / "images" / f"{safe_id(row.name)}.nrrd"
        path, note = image_file(row.volume, target)
        if note:
            self.notes.append(note)
        self._images[row.key] = path
        return path == target

    def _export_label(self, row: CaseRow) -> bool:
        if row.segmentation is None:
            assert row.label is not None
            self._labels[row.key] = row.label
            return False
        self._require_in_scene(row.segmentation, row.name)
        geometry = geometry_of(row.volume)
        values = {one.name: one.values[0] for one in self._classes}
        labels, overlap = labelmap(row.segmentation, geometry, values)
        if not _voxels(labels).any():
            what = _("'{case}': nothing of {structures} is drawn in '{segmentation}' within the volume.").format(
                case=row.name, structures=", ".join(values), segmentation=row.segmentation.GetName()
            )
            raise VolumeError(what, _("Draw it in Segment Editor, choose another segmentation, or make it unlabelled."))
        if overlap:
            text = _(
                "'{segmentation}': {count} voxels belong to several segments; they are assigned to the later segment in the list."
            )
            self.notes.append(text.format(segmentation=row.segmentation.GetName(), count=overlap))
        target = self._folder / "inputs" / "labels" / f"{safe_id(row.name)}.nrrd"
        write_volume(labels, geometry.matrix, target, compress=True)
        self._labels[row.key] = target
        return True

    def _require_in_scene(self, node: Any, case: str) -> None:
        if node.GetScene() is None:
            what = _("'{case}': was taken out of the scene before it was exported.").format(case=case)
            raise VolumeError(what, _("Start the training again."))

    def _finish(self) -> None:
        cases = tuple(
            Case(row.name, (self._images[row.key],), self._labels.get(row.key), row.role or Role.UNLABELED)
            for row in self._rows
        )
        cohort = Cohort(cases, tuple(self._classes), picked=self._picked is not None)
        inputs = self._folder / "inputs"
        _write_json(inputs / "segments.json", self._terminologies)
        described = {
            row.name: {
                "id": identity_of(row.volume) if row.volume is not None else None,
                "volume": row.volume.GetName() if row.volume is not None else None,
                "image": str(self._images[row.key]),
            }
            for row in self._rows
        }
        self._describe(described)
        cohort.save(self._folder / "cohort.json")
        self.cohort = cohort

    def _describe(self, cases: dict[str, Any]) -> None:
        """Write which volume is which case."""
        path = self._folder / "inputs" / "cases.json"
        try:
            _write_json(path, {"name": self._name, "cases": cases})
        except OSError as error:
            raise _not_written(path, str(error.strerror)) from error


def learned_structures(specialist: Path) -> list[str]:
    """Return the structures that a specialist has learned, in its order; none where the folder holds none.

    Args:
        specialist: A run's folder, or that of a specialist.
    """
    place = specialist_in(specialist)
    if place is None:
        return []
    try:
        described = json.loads((place / "model.json").read_text(encoding="utf-8"))
        return [str(one["name"]) for one in described["classes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def remove_export(folder: Path) -> None:
    """Remove what was written for a training that never began: nobody would find the patients' images again."""
    shutil.rmtree(folder / "inputs", ignore_errors=True)
    with suppress(OSError):  # The folder stays where a child printed something.
        (folder / "cohort.json").unlink(missing_ok=True)
        folder.rmdir()


def identity_of(volume: Any) -> str:
    """Return what a volume is known by in runs, given to it now where it has none."""
    if not volume.GetAttribute(IDENTITY_ATTRIBUTE):
        volume.SetAttribute(IDENTITY_ATTRIBUTE, uuid4().hex)
    return str(volume.GetAttribute(IDENTITY_ATTRIBUTE))


def image_file(volume: Any, target: Path) -> tuple[Path, str | None]:
    """Return a file with a volume's voxels where they lie in the world, written where there is none yet.

    Args:
        volume: The scene's volume.
        target: Where to write it, where that is needed.

    Returns:
        The file, and what the user should know of it, or None.

    Raises:
        VolumeError: If the volume cannot be written: no voxels, sheared, or under a transform that is not linear.
    """
    geometry = geometry_of(volume)
    existing = unmodified_file(volume, geometry)
    if existing is not None:
        return existing, None
    write_volume(volume.GetImageData(), geometry.matrix, target)
    if volume.GetParentTransformNode() is None:
        return target, None
    text = _("'{volume}': its transform was applied to the copy used for training; the scene is not changed.")
    return target, text.format(volume=volume.GetName())


def unmodified_file(volume: Any, geometry: Geometry) -> Path | None:
    """Return the file that holds exactly what the scene shows of a volume, or None where there is none."""
    storage = volume.GetStorageNode()
    if storage is None or volume.GetParentTransformNode() is not None or volume.GetModifiedSinceRead():
        return None
    if storage.GetNumberOfFileNames() > 1 or not (name := storage.GetFullNameFromFileName()):
        return None
    path = Path(name)
    if not path.name.lower().endswith(SUFFIXES) or not os.path.isfile(path):
        return None
    # Slicer can be told to centre a volume or to turn its axes while it reads; then the file is another grid.
    lies = geometry_of_file(path)
    return path if lies is not None and lies.is_near(geometry) else None


def labelmap(segmentation: Any, geometry: Geometry, values: Mapping[str, int]) -> tuple[Any, int]:
    """Return the segments of a segmentation node as a labelmap on a grid in the world.

    Args:
        segmentation: The segmentation node, maybe under a linear transform; it stays as it is.
        geometry: The grid.
        values: The label value of each segment name; other segments are left out. Where segments overlap, the later
            one has the voxel.

    Returns:
        The labelmap, a vtkOrientedImageData, and how many voxels belong to several of the segments.

    Raises:
        VolumeError: If the segmentation lies under a transform that is not linear, or cannot be sampled.
    """
    to_local = np.linalg.inv(to_world(segmentation))
    grid = slicer.vtkOrientedImageData()
    grid.SetDimensions(*geometry.size)
    grid.SetGeometryFromImageToWorldMatrix(matrix_of(to_local @ geometry.matrix))
    node = _with_labelmaps(segmentation, grid)
    inner = node.GetSegmentation()
    chosen = [
        (inner.GetNthSegmentID(index), values[inner.GetNthSegment(index).GetName()])
        for index in range(inner.GetNumberOfSegments())
        if inner.GetNthSegment(index).GetName() in values
    ]
    labels = _merged(node, grid, chosen)
    overlap = 0
    if len(chosen) > 1 and inner.GetNumberOfLayers(_LABELMAP) > 1:
        # In the other order the other one of two segments wins where they overlap.
        overlap = int(np.count_nonzero(_voxels(labels) != _voxels(_merged(node, grid, chosen[::-1]))))
    return labels, overlap


def _merged(node: Any, grid: Any, chosen: Sequence[tuple[str, int]]) -> Any:
    labels = slicer.vtkOrientedImageData()
    if not chosen:
        labels.DeepCopy(grid)
        labels.AllocateScalars(vtk.VTK_SHORT, 1)
        labels.GetPointData().GetScalars().Fill(0)
        return labels
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for segment, value in chosen:
        ids.InsertNextValue(segment)
        values.InsertNextValue(value)
    extent = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not node.GenerateMergedLabelmapForAllSegments(labels, extent, grid, ids, values):
        what = _("'{segmentation}': cannot be sampled on the grid of its volume.").format(segmentation=node.GetName())
        raise VolumeError(what, _("Open it in Segment Editor, set its source volume, and try again."))
    return labels


def _with_labelmaps(segmentation: Any, grid: Any) -> Any:
    """Return the node itself, or a copy with labelmaps where it has only surfaces or contours."""
    if segmentation.GetSegmentation().ContainsRepresentation(_LABELMAP):
        return segmentation
    copy = slicer.vtkMRMLSegmentationNode()
    copy.SetName(segmentation.GetName())
    inner = copy.GetSegmentation()
    inner.DeepCopy(segmentation.GetSegmentation())
    converter = slicer.vtkSegmentationConverter
    inner.SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(grid)
    )
    if not inner.CreateRepresentation(_LABELMAP, True):
        what = _("'{segmentation}': its {source} cannot be turned into a labelmap.").format(
            segmentation=segmentation.GetName(), source=segmentation.GetSegmentation().GetSourceRepresentationName()
        )
        raise VolumeError(what, _("Convert it in the module Segmentations, and try again."))
    return copy


def terminology_of(segment: Any) -> str:
    """Return what a segment means in a terminology, as Slicer writes it down; empty where it says nothing."""
    value = vtk.reference("")
    found = segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), value)
    return str(value) if found else ""


def write_volume(image: Any, matrix: np.ndarray, path: Path, *, compress: bool = False) -> None:
    """Write voxels by Slicer's own writer, without adding anything to the scene.

    Args:
        image: A vtkImageData.
        matrix: 4×4, from voxel index to world coordinates in mm, RAS.
        path: Where to write, .nrrd.
        compress: Whether to spend time on a smaller file; what pays for labels does not for images.

    Raises:
        VolumeError: If it cannot be written.
    """
    node = slicer.vtkMRMLScalarVolumeNode()
    bare = vtk.vtkImageData()
    bare.ShallowCopy(image)
    # A volume node keeps its geometry beside the voxels, and wants them bare.
    bare.SetOrigin(0, 0, 0)
    bare.SetSpacing(1, 1, 1)
    bare.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    node.SetAndObserveImageData(bare)
    node.SetIJKToRASMatrix(matrix_of(matrix))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(compress)
    if compress:
        storage.SetCompressionParameter("gzip_fastest")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = storage.WriteData(node)
    except OSError as error:
        raise _not_written(path, str(error.strerror)) from error
    if not written or not path.is_file():
        raise _not_written(path, storage.GetUserMessages().GetAllMessagesAsString().strip() or _("no reason given"))


def _not_written(path: Path, reason: str) -> VolumeError:
    what = _("{file}: cannot be written ({reason}).").format(file=path, reason=reason)
    return VolumeError(what, _("Check the folder's permissions and the free disk space, or choose another folder."))


def _read_array(path: Path) -> np.ndarray:
    """Read the voxels of a file through Slicer."""
    node, storage = slicer.vtkMRMLScalarVolumeNode(), slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(1)
    if not storage.ReadData(node) or node.GetImageData() is None:
        what = _("{file}: cannot be read as a label.").format(file=path)
        raise VolumeError(what, _("Restore the file, or remove the case from the table."))
    return _voxels(node.GetImageData())


def _voxels(image: Any) -> np.ndarray:
    return vtk_to_numpy(image.GetPointData().GetScalars())


def _write_json(path: Path, data: Any) -> None:
    write_text_atomically(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
