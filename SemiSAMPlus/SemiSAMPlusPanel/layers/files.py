"""Reads layer files with Slicer's own readers, while another process may be replacing them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import fstat, stat_result
from pathlib import Path
from typing import Any

import slicer

from SemiSAMPlusLib.errors import VolumeError


@dataclass(frozen=True)
class Stamp:
    """One version of a file.

    Attributes:
        modified: When it was written, in nanoseconds.
        size: In bytes.
    """

    modified: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Return the version that lies at ``path`` now, or None where nothing can be seen."""
        try:
            return cls._from(Path(path).stat())
        except OSError:
            return None

    @classmethod
    def _from(cls, status: stat_result) -> Stamp:
        return cls(status.st_mtime_ns, status.st_size)

    @classmethod
    def parse(cls, text: str | None) -> Stamp | None:
        """Return what :meth:`text` wrote, None where it is no such text."""
        try:
            modified, size = (text or "").split()
            return cls(int(modified), int(size))
        except ValueError:
            return None

    def text(self) -> str:
        """Return it as text for a node's attribute."""
        return f"{self.modified} {self.size}"


@contextmanager
def snapshot(path: Path) -> Iterator[tuple[Path, Stamp]]:
    """Copy a file, and give the copy and the version that it is of.

    The original is open for the time of a copy only: on Windows an open file cannot be replaced, and Slicer's
    readers report a file that is denied to them at this moment as an error.

    Raises:
        VolumeError: If the file cannot be read now; it may be a moment later.
    """
    with tempfile.TemporaryDirectory(prefix="SemiSAMPlus-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / path.name
        try:
            with path.open("rb") as source, copy.open("wb") as target:
                stamp = Stamp._from(fstat(source.fileno()))
                shutil.copyfileobj(source, target, 1 << 20)
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror or error})."
            raise VolumeError(msg, "Wait until the run has written its layers, and try again.") from error
        yield copy, stamp


def read_segmentation(path: Path) -> Any:
    """Return the vtkSegmentation of a ``.seg.nrrd``.

    Raises:
        VolumeError: If Slicer cannot read the file.
    """
    node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
    scene = (
        slicer.vtkMRMLScene()
    )  # The reader adds a display node, and reports an error where there is no scene for it.
    scene.AddNode(node)
    _read(storage, node, path)
    return node.GetSegmentation()


def read_volume(path: Path) -> Any:
    """Return a scalar volume node that is in no scene.

    Raises:
        VolumeError: If Slicer cannot read the file.
    """
    node, storage = slicer.vtkMRMLScalarVolumeNode(), slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetSingleFile(True)
    _read(storage, node, path)
    if node.GetImageData() is None:
        raise _unreadable(path)
    return node


def _read(storage: Any, node: Any, path: Path) -> None:
    # The storage node is forgotten here: saving the user's scene must never write into the run folder.
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise _unreadable(path)


def read_markups(path: Path) -> tuple[Any, list[Any]]:
    """Return every markups node of a ``.mrk.json``.

    Returns:
        The private scene that they lie in, which must be kept as long as they are used, and the nodes.

    Raises:
        VolumeError: If Slicer cannot read the file.
    """
    try:
        types = [str(markup["type"]) for markup in json.loads(path.read_text(encoding="utf-8"))["markups"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path) from error
    scene, nodes = slicer.vtkMRMLScene(), []
    for index, markup_type in enumerate(types):
        # A region keeps its size where only the reader of regions looks.
        name = "vtkMRMLMarkupsROIJsonStorageNode" if markup_type == "ROI" else "vtkMRMLMarkupsJsonStorageNode"
        if scene.GetTagByClassName(name) is None:
            scene.RegisterNodeClass(getattr(slicer, name)())
        node = scene.AddNewNodeByClass(name).AddNewMarkupsNodeFromFile(str(path), None, index)
        if node is None:
            raise _unreadable(path)
        nodes.append(node)
    return scene, nodes


def _unreadable(path: Path) -> VolumeError:
    msg = f"{path.name}: Slicer cannot read it."
    return VolumeError(msg, "Remove the file from the run folder; it is written anew with the next layers.")
