"""A plain-Python signal, so that what happens can be told without Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls what is connected to it, in the order in which it was connected.

    Example:
        >>> changed = Signal()
        >>> changed.connect(print)
        >>> changed.emit("a case")
        a case
    """

    def __init__(self) -> None:
        self._receivers: list[Callable[..., Any]] = []

    def connect(self, receiver: Callable[..., Any]) -> None:
        """Call ``receiver`` at each :meth:`emit` from now on; connecting it twice is the same as once."""
        if receiver not in self._receivers:
            self._receivers.append(receiver)

    def disconnect(self, receiver: Callable[..., Any]) -> None:
        """Call ``receiver`` no more; one that is not connected is passed over."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def emit(self, *values: Any) -> None:
        """Call every receiver with ``values``; one that is disconnected meanwhile is not called."""
        for receiver in tuple(self._receivers):
            if receiver in self._receivers:
                receiver(*values)
