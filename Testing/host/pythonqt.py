"""PySide6 with the manners of PythonQt, the binding through which Slicer's Python sees Qt.

PythonQt reads and writes Qt's properties as attributes (``button.text = "Train"``) beside the setters and ``isX()`` methods,
allows no new attributes on widgets made in C++, and connects signals by their signature (``button.connect("clicked(bool)", f)``).
What it refuses is refused here too, so that a panel that runs in the tests uses nothing that Slicer lacks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtWidgets

QT_MODULES = (QtCore, QtGui, QtWidgets, QtNetwork)

_object_getattribute = object.__getattribute__
_find_children = QtCore.QObject.findChildren


class _Property(NamedTuple):
    """What Qt says of a property: whether there is one, whether it can be set, and whether it is a number or a truth value."""

    exists: bool
    is_writable: bool
    is_number: bool


_NUMBERS = {
    QtCore.QMetaType.Type[name].value for name in ("Bool", "Int", "UInt", "LongLong", "ULongLong", "Double", "Float")
}

#: What was found out already, by class and name.
_properties: dict[tuple[str, str], _Property] = {}

#: (id of an object, property) that is being read: Shiboken looks up overrides of virtual getters such as QLayout::spacing by
#: getattr in the middle of the read, which would never end.
_being_read: set[tuple[int, str]] = set()

#: How many .ui files are being loaded: QUiLoader sets the children as attributes of their parent, which a script may not.
_loading = 0


@contextmanager
def loading_ui() -> Iterator[None]:
    """Let Qt's own loader set attributes on widgets meanwhile."""
    global _loading
    _loading += 1
    try:
        yield
    finally:
        _loading -= 1


def is_qt_class(cls: type) -> bool:
    """Return whether the class is Qt's own rather than one written in Python."""
    return cls.__module__.startswith("PySide6")


def _python_attribute(obj: QtCore.QObject, name: str) -> tuple[bool, Any]:
    """Return whether a Python subclass defines ``name`` itself, and what it defines."""
    for cls in type(obj).__mro__:
        if is_qt_class(cls):
            return False, None
        if name in cls.__dict__:
            return True, cls.__dict__[name]
    return False, None


def _is_made_in_cpp(obj: QtCore.QObject) -> bool:
    """Return whether Slicer's Python sees an object of a C++ class, which a stand-in is to it too."""
    cls = type(obj)
    return is_qt_class(cls) or getattr(cls, "stand_in_for", None) == cls.__name__


def _qt_property(obj: QtCore.QObject, name: str) -> _Property:
    meta = QtCore.QObject.metaObject(obj)
    key = (meta.className(), name)
    if key not in _properties:
        index = meta.indexOfProperty(name)
        known = meta.property(index)
        _properties[key] = _Property(index >= 0, known.isWritable(), known.metaType().id() in _NUMBERS)
    return _properties[key]


def _fits(prop: _Property, value: Any) -> bool:
    # PySide6 takes any object for a truth value, and texts for numbers; PythonQt does not.
    return not prop.is_number or (
        not isinstance(value, str) and (hasattr(value, "__index__") or hasattr(value, "__float__"))
    )


def _has_dynamic_property(obj: QtCore.QObject, name: str) -> bool:
    return any(bytes(known.data()).decode() == name for known in QtCore.QObject.dynamicPropertyNames(obj))


def _get(self: QtCore.QObject, name: str) -> Any:
    if name.startswith("_") or name in ("metaObject", "property", "setProperty"):
        return _object_getattribute(self, name)
    defined, value = _python_attribute(self, name)
    if defined:
        return value.fget(self) if isinstance(value, QtCore.Property) else _object_getattribute(self, name)
    if not shiboken6.isValid(self):
        msg = f"Trying to read attribute '{name}' of a destroyed {type(self).__name__} object"
        raise ValueError(msg)
    if _qt_property(self, name).exists and (id(self), name) not in _being_read:
        _being_read.add((id(self), name))
        try:
            return QtCore.QObject.property(self, name)
        finally:
            _being_read.discard((id(self), name))
    try:
        return _object_getattribute(self, name)
    except AttributeError:
        if _has_dynamic_property(self, name):
            return QtCore.QObject.property(self, name)
        raise


def _set(self: QtCore.QObject, name: str, value: Any) -> None:
    if isinstance(value, QtCore.SignalInstance):
        self.__dict__[name] = value  # PySide6 keeps bound signals this way.
        return
    defined, descriptor = _python_attribute(self, name)
    if defined and isinstance(descriptor, QtCore.Property):
        descriptor.fset(self, value)
        return
    if defined and hasattr(type(descriptor), "__set__"):
        descriptor.__set__(self, value)
        return
    prop = _qt_property(self, name)
    if prop.exists:
        if not prop.is_writable:
            msg = f"Property '{name}' of type '{type(self).__name__}' is not writable"
            raise AttributeError(msg)
        if not _fits(prop, value) or not QtCore.QObject.setProperty(self, name, value):
            msg = f"Property '{name}' of type '{type(self).__name__}' does not accept {value!r}"
            raise AttributeError(msg)
        return
    if name == "name":
        QtCore.QObject.setObjectName(self, value)
        return
    if _has_dynamic_property(self, name):
        QtCore.QObject.setProperty(self, name, value)
        return
    if _is_made_in_cpp(self) and not name.startswith(("_", "host_")) and not _loading:
        msg = f"'{name}' does not exist on {type(self).__name__}, and a C++ object takes no new attributes"
        raise AttributeError(msg)
    self.__dict__[name] = value


_SIGNATURE = re.compile(r"^\s*(\w+)\s*(?:\((.*)\))?\s*$")
_PYTHON_TYPES = {"bool": bool, "int": int, "double": float, "float": float, "QString": str, "PyObject": object}


def _bound_signal(obj: QtCore.QObject, signature: str) -> tuple[QtCore.SignalInstance, bool]:
    """Return the signal of that signature, and whether the receiver is to get no arguments."""
    match = _SIGNATURE.match(signature.removeprefix("2"))
    if match is None:
        msg = f"'{signature}' is no signature of a signal"
        raise ValueError(msg)
    name, arguments = match.groups()
    meta = QtCore.QObject.metaObject(obj)
    signals = [meta.method(index) for index in range(meta.methodCount())]
    signals = [method for method in signals if method.methodType() == QtCore.QMetaMethod.MethodType.Signal]
    known = [bytes(method.methodSignature().data()).decode() for method in signals]
    if arguments is None:
        # PythonQt takes the bare name only where it is a method; a signature without parentheses connects nothing there.
        msg = f"{meta.className()}: write the signal '{signature}' with its parentheses"
        raise ValueError(msg)
    plain = re.sub(r"\bconst\b|[&\s]", "", arguments)
    wanted = bytes(meta.normalizedSignature(f"{name}({plain})").data()).decode()
    # A stand-in's signals carry Python objects where the real ones carry pointers to nodes.
    for candidate in (
        wanted,
        re.sub(r"[\w:]+\*", "PyObject", wanted),
        re.sub(r"\bq[A-Z]\w+|Q[A-Z]\w+Selection", "PyObject", wanted),
    ):
        if candidate in known:
            types = candidate[len(name) + 1 : -1]
            break
    else:
        msg = f"{meta.className()} has no signal '{signature}'; it has {', '.join(sorted(set(known)))}"
        raise ValueError(msg)
    signal = _object_getattribute(obj, name)
    if types:
        chosen = tuple(_PYTHON_TYPES.get(kind, kind) for kind in types.split(","))
        with suppress(KeyError, IndexError, TypeError):  # There may be but one of that name.
            signal = signal[chosen if len(chosen) > 1 else chosen[0]]
    return signal, not plain


def _number_of_arguments(receiver: Callable[..., Any]) -> int | None:
    """Return how many arguments the receiver takes by position, None where it is given all.

    Only functions and methods are looked into: a ``functools.partial``, or an object with ``__call__``, is given all.
    """
    is_method = inspect.ismethod(receiver)
    function: Any = receiver.__func__ if is_method else receiver
    if not inspect.isfunction(function) or function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - is_method


def _connect(self: QtCore.QObject, signal: str, receiver: Any, slot: str | None = None, *_: Any) -> bool:
    """Connect as ``a.connect("clicked(bool)", function)`` or ``a.connect("clicked()", object, "close()")``."""
    if slot is not None:
        receiver = _object_getattribute(receiver, slot.split("(")[0])
    bound, silent = _bound_signal(self, signal)
    accepted = 0 if silent else _number_of_arguments(receiver)

    def forward(*arguments: Any) -> Any:
        return receiver(*(arguments if accepted is None else arguments[:accepted]))

    self.__dict__.setdefault("_connections", []).append((signal, receiver, bound, forward))
    bound.connect(forward)
    return True


def _disconnect(self: QtCore.QObject, signal: str, receiver: Any = None, slot: str | None = None) -> bool:
    if slot is not None:
        receiver = _object_getattribute(receiver, slot.split("(")[0])
    connections = self.__dict__.get("_connections", [])
    ended = [entry for entry in connections if entry[0] == signal and (receiver is None or entry[1] == receiver)]
    for entry in ended:
        entry[2].disconnect(entry[3])
        connections.remove(entry)
    return bool(ended)


def _find_children_by_type(self: QtCore.QObject, kind: Any = QtCore.QObject, name: str = "", *_: Any) -> list[Any]:
    return list(_find_children(self, kind, name) if name else _find_children(self, kind))


def qt_classes() -> list[type]:
    """Return every class of Qt that is a QObject; PySide6 makes its classes late, so only dir() lists them all."""
    found: dict[type, None] = {}
    for module in QT_MODULES:
        for name in dir(module):
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, QtCore.QObject):
                found[value] = None
    return list(found)


def install() -> None:
    """Put PythonQt's manners onto PySide6's classes, once in a process."""
    if QtCore.QObject.__getattribute__ is _get:
        return
    for cls in qt_classes():
        cls.__setattr__ = _set  # type: ignore[method-assign, assignment]  # PySide6 gives each class its own.
    base: Any = QtCore.QObject
    base.__getattribute__ = _get
    base.connect = _connect
    base.disconnect = _disconnect
    base.findChildren = _find_children_by_type
    base.delete = lambda self: self.deleteLater()
    base.className = lambda self: QtCore.QObject.metaObject(self).className()
    base.name = property(lambda self: QtCore.QObject.objectName(self))
