"""A stand-in for the Slicer application, for tests: Slicer's real scene, logics, storage and displayable managers
(slicer-core), real Qt (PySide6) with PythonQt's manners, and stand-ins for what only the application has.

See README.md beside this file for what is real and what is imitated.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import new_scene, process_events, start, without_main_window
    from .dialogs import Conversation, conversation
    from .missing import what_is_missing
    from .module_panel import ModulePanel, close_modules, load_module

# They are imported when they are asked for: where slicer-core is missing, this package can still say so.
_HOMES = {
    "Conversation": "dialogs",
    "ModulePanel": "module_panel",
    "close_modules": "module_panel",
    "conversation": "dialogs",
    "load_module": "module_panel",
    "new_scene": "application",
    "process_events": "application",
    "start": "application",
    "what_is_missing": "missing",
    "without_main_window": "application",
}

__all__ = [
    "Conversation",
    "ModulePanel",
    "close_modules",
    "conversation",
    "load_module",
    "new_scene",
    "process_events",
    "start",
    "what_is_missing",
    "without_main_window",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'host' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
