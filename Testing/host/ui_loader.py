"""Loads .ui files as Qt Designer writes them, with Slicer's and CTK's widgets among Qt's own."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import standins
from .api import facts
from .pythonqt import loading_ui


class UiLoader(QtUiTools.QUiLoader):
    """A QUiLoader that makes stand-ins, connects by PythonQt's manners and fails where Designer's file is wrong."""

    def createWidget(
        self, class_name: str, parent: QtWidgets.QWidget | None = None, name: str = ""
    ) -> QtWidgets.QWidget:
        """Make one widget of the file."""
        if not standins.is_stand_in(class_name):
            return super().createWidget(class_name, parent, name)
        cls = standins.stand_in(class_name)
        widget = cls() if parent is None else cls(parent)
        widget.setObjectName(name)
        return widget

    def load(self, device: Any, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
        """Load a widget from an open file, or from the path of one.

        Raises:
            RuntimeError: If the file cannot be loaded, or sets or connects what is not there.
        """
        if isinstance(device, str):
            device = QtCore.QFile(device)
            device.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        root = ElementTree.fromstring(bytes(device.readAll().data()))
        connections = _take_connections(root)
        choices = _take_choices(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        with loading_ui():
            widget = super().load(buffer, parent)
        if widget is None:
            raise RuntimeError(self.errorString())

        def find(name: str) -> Any:
            found = widget if widget.objectName == name else widget.findChild(QtCore.QObject, name)
            if found is None:
                msg = f"The .ui file connects or sets '{name}', which is not in it"
                raise RuntimeError(msg)
            return found

        for name, prop, value in choices:
            setattr(find(name), prop, value)
        for sender, signal, receiver, slot in connections:
            find(sender).connect(signal, find(receiver), slot)
        return widget


def _take_connections(root: ElementTree.Element) -> list[tuple[str, str, str, str]]:
    """Take the <connections> out of the file: Qt's loader cannot make those of stand-ins."""
    taken: list[tuple[str, str, str, str]] = []
    for group in root.findall("connections"):
        for connection in group.findall("connection"):
            sender, signal, receiver, slot = (
                connection.findtext(key, "") for key in ("sender", "signal", "receiver", "slot")
            )
            taken.append((sender, signal, receiver, slot))
        root.remove(group)
    return taken


def _take_choices(root: ElementTree.Element) -> list[tuple[str, str, Any]]:
    """Take out the properties of stand-ins whose values are the real class's enums: (object, property, value)."""
    taken: list[tuple[str, str, Any]] = []
    for widget in root.iter("widget"):
        known = facts(widget.get("class", ""))
        for prop in list(widget.findall("property")) if known is not None else []:
            text = prop.findtext("set") or prop.findtext("enum")
            name = prop.get("name", "")
            if (
                text is None
                or known is None
                or name not in known.properties
                or known.properties[name].startswith(("Qt::", "QFrame::"))
            ):
                continue
            cls = standins.stand_in(widget.get("class", ""))
            value = 0
            for part in text.split("|"):
                value |= getattr(cls, part.split("::")[-1])
            taken.append((widget.get("name", ""), name, value))
            widget.remove(prop)
    return taken
