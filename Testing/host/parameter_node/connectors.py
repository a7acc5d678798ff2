"""Which widget can show which type of parameter, and how."""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable
from typing import Any

import slicer
from PySide6 import QtWidgets

from ..standins import stand_in
from .annotations import Choice, Decimals, Maximum, Minimum, SingleStep, WithinRange, first, split


class GuiConnector:
    """Joins one widget to one parameter.

    Args:
        widget: The widget.
        signal: The name of the signal that tells a change by the user.
        read: Returns the value that the widget shows.
        write: Lets the widget show a value.
    """

    def __init__(self, widget: Any, signal: str, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._widget, self._signal = widget, signal
        self.read, self.write = read, write
        self._callback: Callable[[], None] | None = None

    def widget(self) -> Any:
        """Return the widget."""
        return self._widget

    def onChanged(self, callback: Callable[[], None] | None) -> None:
        """Call back at each change by the user; None ends it."""
        signal = getattr(self._widget, self._signal)
        if callback is None and self._callback is not None:
            signal.disconnect(self._changed)
        elif callback is not None:
            signal.connect(self._changed)
        self._callback = callback

    def _changed(self, *_: Any) -> None:
        if self._callback is not None:
            self._callback()


def createGuiConnector(widget: Any, datatype: Any) -> GuiConnector:
    """Return what joins the widget to a parameter of that type.

    Raises:
        RuntimeError: If no such widget can show that type.
    """
    kind, annotations = split(datatype)
    for accepts, connect in _CONNECTORS:
        if accepts(type(widget), kind):
            return connect(widget, kind, annotations)
    msg = f"Unable to create GUI connector from datatype '{datatype}' to widget type '{type(widget)}'"
    raise RuntimeError(msg)


def _is(*names: str) -> Callable[[type], bool]:
    """Return a test for exactly these classes: Slicer does not take subclasses either."""

    def test(widget_class: type) -> bool:
        return any(
            widget_class is (stand_in(name) if name.startswith(("ctk", "qMRML")) else getattr(QtWidgets, name))
            for name in names
        )

    return test


def _property_connector(signal: str, name: str) -> Callable[[Any, Any, list[Any]], GuiConnector]:
    def connect(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
        return GuiConnector(widget, signal, lambda: getattr(widget, name), lambda value: setattr(widget, name, value))

    return connect


def _push_button(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
    widget.checkable = True
    return _property_connector("toggled", "checked")(widget, kind, annotations)


def _number(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
    for annotation, name in ((Decimals, "decimals"), (SingleStep, "singleStep")):
        found = first(annotations, annotation)
        if found is not None:
            setattr(widget, name, found.value)
    span = first(annotations, WithinRange)
    lower, upper = first(annotations, Minimum) or span, first(annotations, Maximum) or span
    is_slider = type(widget) in (QtWidgets.QSlider, stand_in("ctkSliderWidget"), stand_in("qMRMLSliderWidget"))
    if is_slider and (lower is None or upper is None):
        msg = f"A {type(widget).__name__} needs a parameter with WithinRange"
        raise RuntimeError(msg)
    unbounded = (
        (-(2**31), 2**31 - 1)
        if type(widget) in (QtWidgets.QSpinBox, QtWidgets.QSlider)
        else (-float("inf"), float("inf"))
    )
    widget.minimum = lower.minimum if lower is not None else unbounded[0]
    widget.maximum = upper.maximum if upper is not None else unbounded[1]
    return GuiConnector(
        widget, "valueChanged", lambda: kind(widget.value), lambda value: setattr(widget, "value", value)
    )


def _combo_of(widget: Any, labels: list[tuple[str, Any]]) -> GuiConnector:
    widget.clear()
    widget.addItems([label for label, _ in labels])
    values = [value for _, value in labels]

    def write(value: Any) -> None:
        if value not in values:
            msg = f"Unable to find value {value} in choices {values}"
            raise ValueError(msg)
        widget.currentIndex = values.index(value)

    return GuiConnector(widget, "currentIndexChanged", lambda: values[widget.currentIndex], write)


def _choices(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
    choice = first(annotations, Choice)
    if choice is None:
        msg = "A combo box needs a parameter with Choice"
        raise RuntimeError(msg)
    return _combo_of(widget, [(str(value), value) for value in choice.choices])


def _members(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
    label = getattr(kind, "label", lambda member: member.name)
    return _combo_of(widget, [(label(member), member) for member in kind])


def _text_edit(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
    return GuiConnector(widget, "textChanged", widget.toPlainText, widget.setPlainText)


def _path(signal: str, name: str) -> Callable[[Any, Any, list[Any]], GuiConnector]:
    def connect(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
        return GuiConnector(
            widget, signal, lambda: kind(getattr(widget, name)), lambda value: setattr(widget, name, str(value))
        )

    return connect


def _node(widget: Any, kind: Any, annotations: list[Any]) -> GuiConnector:
    widget.nodeTypes = [kind.__name__]
    return GuiConnector(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)


def _one_of(*kinds: Any) -> Callable[[Any], bool]:
    return lambda kind: any(kind is one for one in kinds)


def _subclass_of(base: type) -> Callable[[Any], bool]:
    return lambda kind: isinstance(kind, type) and issubclass(kind, base)


def _both(widget: Callable[[type], bool], kind: Callable[[Any], bool]) -> Callable[[type, Any], bool]:
    return lambda widget_class, value_type: widget(widget_class) and kind(value_type)


_CONNECTORS: tuple[tuple[Callable[[type, Any], bool], Callable[[Any, Any, list[Any]], GuiConnector]], ...] = (
    (_both(_is("QCheckBox", "ctkCheckBox"), _one_of(bool)), _property_connector("stateChanged", "checked")),
    (_both(_is("QPushButton"), _one_of(bool)), _push_button),
    (_both(_is("QSlider", "QSpinBox"), _one_of(int)), _number),
    (
        _both(_is("QDoubleSpinBox", "ctkSliderWidget", "ctkDoubleSpinBox", "qMRMLSliderWidget"), _one_of(float, int)),
        _number,
    ),
    (_both(_is("QComboBox", "ctkComboBox"), _one_of(int, float, str, bool)), _choices),
    (_both(_is("QComboBox", "ctkComboBox"), _subclass_of(enum.Enum)), _members),
    (_both(_is("QLineEdit"), _one_of(str)), _property_connector("textChanged", "text")),
    (_both(_is("QTextEdit"), _one_of(str)), _text_edit),
    (_both(_is("ctkPathLineEdit"), _subclass_of(pathlib.PurePath)), _path("currentPathChanged", "currentPath")),
    (_both(_is("ctkDirectoryButton"), _subclass_of(pathlib.PurePath)), _path("directoryChanged", "directory")),
    (_both(_is("qMRMLNodeComboBox"), _subclass_of(slicer.vtkMRMLNode)), _node),
)
