"""What Slicer's and CTK's own Qt classes offer to Python, as read from their headers (see README.md)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ClassFacts:
    """The names that a class has of its own.

    Attributes:
        base: The class that it extends first.
        properties: Name → C++ type.
        methods: Public slots and invokable methods.
        signals: Name → the argument types of each overload.
    """

    base: str
    properties: dict[str, str]
    methods: frozenset[str]
    signals: dict[str, tuple[tuple[type, ...], ...]]


@cache
def table() -> dict[str, dict[str, Any]]:
    """Return the whole table: class name → bases, props, slots, signals, invokable."""
    return json.loads((Path(__file__).parent / "api.json").read_text(encoding="utf-8"))


@cache
def facts(name: str) -> ClassFacts | None:
    """Return what a class of Slicer's or CTK's offers, None where there is no such class."""
    entry = table().get(name)
    if entry is None:
        return None
    signals: dict[str, list[tuple[type, ...]]] = {}
    for signal, arguments in entry.get("signals", []):
        overload = _argument_types(arguments)
        if overload not in signals.setdefault(signal, []):
            signals[signal].append(overload)
    return ClassFacts(
        base=next(iter(entry.get("bases", [])), "QObject"),
        properties=entry.get("props", {}),
        methods=frozenset(method for method, _ in [*entry.get("slots", []), *entry.get("invokable", [])]),
        signals={signal: tuple(overloads) for signal, overloads in signals.items()},
    )


def names(name: str) -> frozenset[str]:
    """Return every name that a class and the classes it extends have, as far as the table goes."""
    found = facts(name)
    if found is None:
        return frozenset()
    own = {*found.properties, *found.methods, *found.signals}
    return frozenset(own.union(*(names(base) for base in table()[name].get("bases", []))))


def _argument_types(arguments: str) -> tuple[type, ...]:
    types: list[type] = []
    for argument in re.sub(r"<[^>]*>", "", arguments).split(","):
        kind = re.sub(r"\bconst\b|&", "", argument.split("=")[0]).strip().split(" ")[0]
        if kind:
            types.append({"bool": bool, "int": int, "double": float, "QString": str}.get(kind, object))
    return tuple(types)
