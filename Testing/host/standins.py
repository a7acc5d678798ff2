"""Stand-ins for Slicer's and CTK's own Qt classes, each held to the API that the real class has.

A name that the real class lacks raises AttributeError; one that it has but that nobody has imitated yet raises
NotImplementedError. What is imitated is written by hand in ``ctk_widgets`` and ``mrml_widgets``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from . import api

_PYTHON_TYPES: dict[str, tuple[Any, Any]] = {
    "bool": (bool, False),
    "int": (int, 0),
    "unsigned int": (int, 0),
    "double": (float, 0.0),
    "float": (float, 0.0),
    "QString": (str, ""),
    "QStringList": ("QStringList", []),
}

_behaviours: dict[str, type] = {}
_beyond_table: dict[str, tuple[str, ...]] = {}
_made: dict[str, type] = {}


def imitates(name: str, *, beyond_table: tuple[str, ...] = ()) -> Callable[[type], type]:
    """Say by a decorator that a class holds what the stand-in for ``name`` does.

    Args:
        name: The real class.
        beyond_table: Names that the real class has although the headers' table misses them (such as PythonQt's decorators).

    Its members are put over the generated ones. ``_on_PROPERTY(self, value)`` is called when the property is set;
    ``_read_PROPERTY(self)`` gives the value of one that is not simply kept. What only the host uses begins with ``host_``.
    """

    def register(behaviour: type) -> type:
        _behaviours[name] = behaviour
        _beyond_table[name] = beyond_table
        return behaviour

    return register


def attribute(module: str, name: str) -> type:
    """Return the stand-in class for a name of the modules ``ctk`` and ``slicer``.

    Raises:
        AttributeError: If the real module has no such class.
    """
    wanted = ("ctk",) if module == "ctk" else ("qMRML", "qSlicer")
    if not name.startswith(wanted) or api.facts(name) is None:
        msg = f"module '{module}' has no attribute '{name}'"
        raise AttributeError(msg)
    return stand_in(name)


def stand_in(name: str) -> type:
    """Return the stand-in class of that name, made on the first call."""
    if name not in _made:
        _made[name] = _make(name)
    return _made[name]


def is_stand_in(name: str) -> bool:
    """Return whether ``name`` is a class of Slicer's or CTK's rather than one of Qt's."""
    return api.facts(name) is not None


def _base(name: str) -> type:
    if api.facts(name) is not None:
        return stand_in(name)
    for module in (QtWidgets, QtGui, QtCore):
        if hasattr(module, name):
            return getattr(module, name)
    return QtWidgets.QWidget


def _make(name: str) -> type:
    facts = api.facts(name)
    if facts is None:
        msg = f"Slicer has no class {name}"
        raise AttributeError(msg)
    base: Any = _base(facts.base)
    members: dict[str, Any] = {"stand_in_for": name}
    for method in facts.methods:
        members[method] = _not_imitated(name, method)
    for signal, overloads in facts.signals.items():
        members[signal] = QtCore.Signal(*overloads) if len(overloads) > 1 else QtCore.Signal(*overloads[0])
    for prop, kind in facts.properties.items():
        members[prop], setter = _property(prop, kind)
        setter_name = f"set{prop[0].upper()}{prop[1:]}"
        if setter_name in facts.methods:
            members[setter_name] = setter
    behaviour = _behaviours.get(name)
    if behaviour is not None:
        for cls in reversed(behaviour.__mro__[:-1]):
            members.update(
                {key: value for key, value in vars(cls).items() if key == "__init__" or not key.startswith("__")}
            )
        _hold_to_api(name, behaviour, base)
    return type(base)(name, (base,), members)


def _hold_to_api(name: str, behaviour: type, base: type) -> None:
    """Refuse a behaviour with names that the real class lacks; what only the host uses begins with ``host_``."""
    known = {*api.names(name), *_beyond_table[name]}
    for cls in behaviour.__mro__[:-1]:
        for key in vars(cls):
            # Enum values, such as ctkPathLineEdit.Dirs, begin with a capital; the table does not list them.
            if key.startswith(("_", "host_")) or key[0].isupper() or key in known or hasattr(base, key):
                continue
            msg = f"The stand-in for {name} has '{key}', which Slicer's {name} has not"
            raise TypeError(msg)


def _not_imitated(cls: str, method: str) -> Callable[..., Any]:
    def refuse(self: Any, *_: Any) -> Any:
        msg = f"{cls}.{method} exists in Slicer, but the test host does not imitate it yet"
        raise NotImplementedError(msg)

    refuse.__name__ = method
    return refuse


def _property(name: str, kind: str) -> tuple[QtCore.Property, Callable[[Any, Any], None]]:
    python_type, default = _PYTHON_TYPES.get(kind, ("QVariant", None))
    key = f"_value_of_{name}"

    def read(self: Any) -> Any:
        reader = getattr(type(self), f"_read_{name}", None)
        return self.__dict__.get(key, default) if reader is None else reader(self)

    def write(self: Any, value: Any) -> None:
        self.__dict__[key] = value
        react = getattr(type(self), f"_on_{name}", None)
        if react is not None:
            react(self, value)

    return QtCore.Property(python_type, read, write), write
