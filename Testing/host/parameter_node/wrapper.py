"""The decorator ``@parameterNodeWrapper``: attributes of a class become parameters of a node in the scene."""

from __future__ import annotations

import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

from .annotations import Default, first, split
from .connectors import GuiConnector, createGuiConnector
from .serializers import Serializer, create

#: The dynamic property by which a widget in a .ui file says which parameter it shows.
SlicerParameterNamePropertyName = "SlicerParameterName"


@dataclass(frozen=True)
class _Parameter:
    name: str
    datatype: Any
    serializer: Serializer
    default: Default

    def read(self, node: Any) -> Any:
        if not self.serializer.is_in(node, self.name):
            self.serializer.write(node, self.name, self.default.value)
        return self.serializer.read(node, self.name)


class _Value:
    """A parameter's value in one node, kept so that reading is cheap, and read again when the node changes."""

    def __init__(self, parameter: _Parameter, node: Any) -> None:
        self._parameter, self._node = parameter, node
        self._value = parameter.read(node)
        self._is_writing = False
        # Held weakly, so that the observer ends with the wrapper.
        itself = weakref.ref(self)
        self._tag = node.AddObserver(
            vtk.vtkCommand.ModifiedEvent, lambda *_: (value := itself()) and value._read_again()
        )

    def __del__(self) -> None:
        self._node.RemoveObserver(self._tag)

    def _read_again(self) -> None:
        if not self._is_writing:
            self._value = self._parameter.read(self._node)

    def get(self) -> Any:
        return self._value

    def set(self, value: Any) -> None:
        self._is_writing = True
        try:
            with slicer.util.NodeModify(self._node):
                self._parameter.serializer.write(self._node, self._parameter.name, value)
                self._value = self._parameter.read(self._node)
        finally:
            self._is_writing = False


class _Wrapper:
    """What the decorator adds to a class."""

    allParameters: dict[str, _Parameter]
    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._values = {
            name: _Value(_Parameter(f"{prefix or ''}{name}", one.datatype, one.serializer, one.default), parameterNode)
            for name, one in self.allParameters.items()
        }
        self._connected: dict[int, tuple[dict[str, GuiConnector], int]] = {}
        self._next_tag = 0
        self._is_updating_gui = False

    def default(self, name: str) -> Default:
        return self._parameter(name).default

    def dataType(self, name: str) -> Any:
        return self._parameter(name).datatype

    def getValue(self, name: str) -> Any:
        self._parameter(name)
        return self._values[name].get()

    def setValue(self, name: str, value: Any) -> None:
        self._parameter(name)
        self._values[name].set(value)

    def _parameter(self, name: str) -> _Parameter:
        if name not in self.allParameters:
            msg = f"Cannot find a param with the given name: {name}; there are {', '.join(self.allParameters)}"
            raise ValueError(msg)
        return self.allParameters[name]

    def connectGui(self, gui: Any) -> int:
        """Join every widget that names a parameter; return the tag that ends it. (Slicers before 5.10 return none.)"""
        widgets = gui.findChildren(QtWidgets.QWidget) if isinstance(gui, QtWidgets.QWidget) else vars(gui).values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Join widgets to parameters: name → widget or connector."""
        for name in mapping:
            self._parameter(name)
        connectors = {
            name: widget if isinstance(widget, GuiConnector) else createGuiConnector(widget, self.dataType(name))
            for name, widget in mapping.items()
        }
        tag = self._next_tag
        self._next_tag += 1
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.onChanged(self._take_over(name, connector))
        self._connected[tag] = (
            connectors,
            self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update_gui()),
        )
        return tag

    def disconnectGui(self, tag: int | None) -> None:
        """End what a connect call began; an unknown tag is passed over."""
        connectors, observer = self._connected.pop(tag, ({}, None)) if tag is not None else ({}, None)
        for connector in connectors.values():
            connector.onChanged(None)
        if observer is not None:
            self.RemoveObserver(observer)

    def _take_over(self, name: str, connector: GuiConnector) -> Callable[[], None]:
        def changed() -> None:
            if not self._is_updating_gui:
                with slicer.util.NodeModify(self):
                    self.setValue(name, connector.read())

        return changed

    def _update_gui(self) -> None:
        if self._is_updating_gui:
            return
        self._is_updating_gui = True
        try:
            for connectors, _ in list(self._connected.values()):
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
        finally:
            self._is_updating_gui = False

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, before: int) -> None:
        self.parameterNode.EndModify(before)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def parameterNodeWrapper(classtype: Any = None) -> Any:
    """Make a class of annotated attributes the typed face of a parameter node."""
    return _wrap if classtype is None else _wrap(classtype)


def isParameterNodeWrapper(class_or_object: Any) -> bool:
    """Return whether a class, or an object of one, was made by :func:`parameterNodeWrapper`."""
    return getattr(class_or_object, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget: Any, parameter: str) -> Any:
    """Return the widget below another one that shows that parameter, None where there is none."""
    children = widget.findChildren(QtWidgets.QWidget)
    return next((child for child in children if child.property(SlicerParameterNamePropertyName) == parameter), None)


def _wrap(cls: Any) -> Any:
    parameters: dict[str, _Parameter] = {}
    for name, datatype in typing.get_type_hints(cls, include_extras=True).items():
        kind, annotations = split(datatype)
        serializer = create(kind, annotations)
        if hasattr(cls, name):
            default = Default(getattr(cls, name))
        else:
            default = first(annotations, Default) or Default(serializer.default())
        parameters[name] = _Parameter(name, datatype, serializer, default)
        setattr(
            cls,
            name,
            property(
                lambda self, n=name: self._values[n].get(), lambda self, value, n=name: self._values[n].set(value)
            ),
        )
    cls.allParameters = parameters
    for name, member in vars(_Wrapper).items():
        if name in ("__init__", "_is_parameter_node_wrapper") or not name.startswith("__"):
            if name in vars(cls) and name not in ("__init__", "allParameters"):
                msg = f"Cannot use reserved name '{name}' in a parameterNodeWrapper"
                raise ValueError(msg)
            if name != "allParameters":
                setattr(cls, name, member)
    return cls
