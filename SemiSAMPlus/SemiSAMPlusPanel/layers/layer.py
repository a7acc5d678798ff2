"""What every kind of layer is to its case."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from SemiSAMPlusLib.errors import VolumeError

from .files import Stamp, snapshot
from .site import Site


class Layer(ABC):
    """One kind of layer of one case; the nodes in the scene are its whole state.

    Args:
        site: The case.
        kind: What the layer is called in code, such as ``prediction``.
    """

    def __init__(self, site: Site, kind: str) -> None:
        self.site = site
        self.kind = kind

    @property
    def nodes(self) -> list[Any]:
        """The layer's nodes in the scene, none where it is not loaded."""
        return self.site.nodes(self.kind)

    @property
    @abstractmethod
    def is_available(self) -> bool:
        """Whether there is something to load, or loaded."""

    @abstractmethod
    def load(self) -> None:
        """Bring the layer into the scene, or bring it up to date; a new one is hidden.

        Raises:
            VolumeError: If its file cannot be read.
        """

    def is_shown(self) -> bool:
        """Return whether any part of it is visible."""
        return any(_is_visible(node) for node in self.nodes)

    def set_shown(self, shown: bool) -> None:
        """Show or hide what is loaded."""
        for node in self.nodes:
            if node.GetDisplayNode() is not None:
                node.GetDisplayNode().SetVisibility(shown)

    def remove(self) -> None:
        """Take the layer out of the scene."""
        self.set_shown(False)
        for node in self.nodes:
            self.site.remove(node)


def _is_visible(node: Any) -> bool:
    display = node.GetDisplayNode()
    return display is not None and bool(display.GetVisibility())


class FileLayer(Layer):
    """A layer that is read from a file of the case's folder.

    Args:
        site: The case.
        kind: What the layer is called in code.
        name: The file's name.
    """

    def __init__(self, site: Site, kind: str, name: str) -> None:
        super().__init__(site, kind)
        self.path = site.folder / name
        self._spoilt: Stamp | None = None

    @property
    def is_available(self) -> bool:
        """Whether the file has been written, or is loaded."""
        return os.path.isfile(self.path) or bool(self.nodes)

    def is_outdated(self) -> bool:
        """Return whether the layer is loaded and its file has been replaced since by one that may be readable."""
        nodes, now = self.nodes, Stamp.of(self.path)
        return bool(nodes) and now is not None and now != self._spoilt and self.site.stamp(nodes[0]) != now

    def load(self) -> None:
        """Read the file into our nodes; nodes that the user has edited become the user's, and new ones are made."""
        nodes = self.nodes
        if not os.path.exists(self.path) and nodes:
            return
        with snapshot(self.path) as (copy, stamp):
            if nodes and all(self.site.stamp(node) == stamp for node in nodes):
                return
            try:
                filled = self.fill(copy)
            except VolumeError as error:
                self._spoilt = stamp
                msg = f"{self.path}: {error.what.partition(': ')[2] or error.what}"
                raise VolumeError(msg, error.remedy) from error
        for node in filled:
            self.site.written(node, stamp)

    @abstractmethod
    def fill(self, path: Path) -> list[Any]:
        """Read ``path`` into our nodes, made where they are missing, and return them.

        Raises:
            VolumeError: If the file cannot be read.
        """
