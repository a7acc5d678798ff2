"""What a user sees of one case: its layers in the scene, loaded, shown, and kept up to date while a run trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from SemiSAMPlusLib.errors import SemiSAMPlusError, VolumeError

from ..text import _
from . import slices
from .layer import FileLayer, Layer
from .prompts import PROMPTS, PromptsLayer
from .segmentation import SegmentationLayer, set_surface_shown
from .site import LAYER_ATTRIBUTE, Site
from .uncertainty import UNCERTAIN_SEGMENT, UNCERTAINTY, UncertainSegment, UncertaintyLayer

PREDICTION, GENERALIST = "prediction", "generalist:"
_GENERALIST_FILE, _SUFFIX = "generalist-", ".seg.nrrd"


class CaseLayers:
    """The layers of one case of one run, in one scene.

    Layers are files of the run folder; a loaded layer is one or more nodes that carry the attributes
    ``SemiSAMPlus.Layer``, ``SemiSAMPlus.Case`` and ``SemiSAMPlus.Run``, by which they are found again after the scene
    was saved and loaded. They lie in a folder below the case's volume in the subject hierarchy. Kinds of layer are
    ``prediction``, ``prompts``, ``generalist:NAME``, ``uncertainty`` and ``uncertain-segment``.

    Args:
        scene: The MRML scene.
        folder: The case's folder in the run's layers/; it need not exist yet.
        volume: The case's volume in the scene, or None where it is not loaded.
        case_name: The case's name in the cohort.
        terminologies: Terminology entries by structure, as Slicer serialises them; they win over those of the files.

    Example:
        >>> layers = run.layers(volume)  # doctest: +SKIP
        >>> layers.show("uncertainty")  # doctest: +SKIP
        >>> layers.jump_to_most_uncertain()  # doctest: +SKIP
    """

    def __init__(
        self,
        scene: Any,
        folder: Path,
        volume: Any,
        case_name: str,
        *,
        terminologies: Mapping[str, str] | None = None,
    ) -> None:
        self._site = Site(scene, folder, volume, case_name, terminologies)
        self._prediction = SegmentationLayer(
            self._site, PREDICTION, f"{PREDICTION}{_SUFFIX}", _("prediction"), filled=True
        )
        self._prompts = PromptsLayer(self._site)
        self._uncertainty = UncertaintyLayer(self._site)
        self._segment = UncertainSegment(self._uncertainty)
        self._generalists: dict[str, SegmentationLayer] = {}

    @property
    def case_name(self) -> str:
        """The case's name in the cohort."""
        return self._site.case

    @property
    def volume(self) -> Any:
        """The case's volume in the scene, or None."""
        return self._site.volume

    @property
    def about(self) -> dict[str, Any]:
        """What the run says of the layers: ``iteration`` and what ``uncertainty`` measures; empty before they exist."""
        try:
            about = json.loads((self._site.folder / "about.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    def kinds(self) -> list[str]:
        """Return the kinds of layer that can be loaded or are loaded, in the order in which users look at them."""
        return [kind for kind, layer in self._layers().items() if layer.is_available]

    def nodes(self, kind: str | None = None) -> list[Any]:
        """Return the nodes of a loaded kind of layer, or of all."""
        return self._site.nodes(kind)

    def load(self, kind: str | None = None) -> None:
        """Load a kind of layer, or all; what is loaded is brought up to date. New layers are hidden.

        Raises:
            VolumeError: If there is no such layer, or its file cannot be read.
        """
        for one in self.kinds() if kind is None else [kind]:
            self._layer(one).load()

    def refresh(self) -> list[str]:
        """Bring at most one loaded layer up to date whose file has been replaced.

        Call it at every tick: it costs a look at each file, and at most one of them is read. A layer that the user
        has edited stays as it is and becomes the user's; a new, hidden one takes its place. A file that cannot be
        read at this moment is tried again later.

        Returns:
            The kinds that changed, in most calls none.
        """
        for kind, layer in self._layers().items():
            if not isinstance(layer, FileLayer) or not layer.is_outdated():
                continue
            try:
                layer.load()
            except SemiSAMPlusError:
                continue
            if layer is self._uncertainty and self._segment.nodes:
                self._segment.update()
                return [kind, UNCERTAIN_SEGMENT]
            return [kind]
        return []

    def show(self, kind: str | None = None) -> None:
        """Show a kind of layer, or all; it is loaded if need be.

        Raises:
            VolumeError: If there is no such layer, or its file cannot be read.
        """
        volume = self.volume
        if volume is not None:
            slices.show_in_background(volume, only_empty=True)
        for one in self.kinds() if kind is None else [kind]:
            layer = self._layer(one)
            if not layer.nodes:
                layer.load()
            layer.set_shown(True)

    def hide(self, kind: str | None = None) -> None:
        """Hide a kind of layer, or all; the slice views get back the foreground that they had before."""
        for one, layer in self._layers().items():
            if kind in (None, one):
                layer.set_shown(False)

    def is_shown(self, kind: str) -> bool:
        """Return whether a kind of layer is visible."""
        layer = self._layers().get(kind)
        return layer is not None and layer.is_shown()

    def show_volume(self) -> None:
        """Make the case's volume the background of every slice view, and fit it in."""
        volume = self.volume
        if volume is not None:
            slices.show_in_background(volume)

    def set_surface_shown(self, kind: str = PREDICTION, shown: bool = True) -> None:
        """Show the segments of a loaded layer in 3D views, or not. Making their surfaces may take seconds."""
        for node in self._site.nodes(kind):
            if node.IsA("vtkMRMLSegmentationNode"):
                set_surface_shown(node, shown)

    @property
    def threshold(self) -> float:
        """Above which uncertainty a voxel belongs to the uncertain segment, 0 to 1."""
        return self._segment.threshold

    def set_threshold(self, threshold: float) -> None:
        """Choose above which uncertainty, 0 to 1, a voxel belongs to the uncertain segment."""
        self._segment.threshold = threshold

    def most_uncertain(self) -> np.ndarray | None:
        """Return the point (R, A, S in mm) where uncertainty, a little smoothed, is greatest.

        Returns:
            The point, or None where no uncertainty has been written, or it is 0 everywhere.
        """
        if self._uncertainty.node is None:
            if not self._uncertainty.is_available:
                return None
            self._uncertainty.load()
        return self._uncertainty.most_uncertain()

    def jump_to_most_uncertain(self) -> np.ndarray | None:
        """Centre every slice view on the most uncertain place, and return it (R, A, S in mm), or None."""
        point = self.most_uncertain()
        if point is not None:
            slices.jump_to(self._site.scene, point)
        return point

    def remove(self) -> None:
        """Take the layers out of the scene; what the user has edited stays."""
        for layer in self._layers().values():
            layer.remove()
        self._site.remove_empty_folder()

    def _layer(self, kind: str) -> Layer:
        layer = self._layers().get(kind)
        if layer is None or not layer.is_available:
            msg = f"{self._site.folder}: holds no layer '{kind}'."
            raise VolumeError(msg, f"The layers of '{self.case_name}' so far: {', '.join(self.kinds()) or 'none'}.")
        return layer

    def _layers(self) -> dict[str, Layer]:
        return {
            PREDICTION: self._prediction,
            PROMPTS: self._prompts,
            **self._found_generalists(),
            UNCERTAINTY: self._uncertainty,
            UNCERTAIN_SEGMENT: self._segment,
        }

    def _found_generalists(self) -> dict[str, SegmentationLayer]:
        """Return the layers of every generalist that has answered or whose answer is loaded."""
        files = self._site.folder.glob(f"{_GENERALIST_FILE}*{_SUFFIX}")
        names = {path.name[len(_GENERALIST_FILE) : -len(_SUFFIX)] for path in files}
        kinds = (node.GetAttribute(LAYER_ATTRIBUTE) for node in self._site.nodes())
        names |= {kind[len(GENERALIST) :] for kind in kinds if kind.startswith(GENERALIST)}
        for name in names - self._generalists.keys():
            self._generalists[name] = SegmentationLayer(
                self._site, f"{GENERALIST}{name}", f"{_GENERALIST_FILE}{name}{_SUFFIX}", name, filled=False
            )
        return {f"{GENERALIST}{name}": self._generalists[name] for name in sorted(names)}
