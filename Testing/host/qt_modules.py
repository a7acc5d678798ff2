"""The modules ``qt`` and ``ctk`` as Slicer's Python has them."""

from __future__ import annotations

import sys
import types
from typing import Any

from PySide6 import QtWidgets

from . import dialogs, standins
from .pythonqt import QT_MODULES
from .ui_loader import UiLoader


def _qt() -> types.ModuleType:
    module: Any = types.ModuleType("qt", "Qt's classes in one namespace, as PythonQt gives them.")
    for source in QT_MODULES:
        for name in dir(source):
            if not name.startswith("_"):
                setattr(module, name, getattr(source, name))
    # PythonQt has no such names; scripts connect by signature, and Slicer's classes are made in C++.
    for name in ("Signal", "Slot", "Property", "SignalInstance"):
        if hasattr(module, name):
            delattr(module, name)
    module.QUiLoader = UiLoader
    module.QFileDialog = dialogs.FileDialog
    module.QInputDialog = dialogs.InputDialog
    module.QMessageBox = QtWidgets.QMessageBox
    return module


def _ctk() -> types.ModuleType:
    module: Any = types.ModuleType("ctk", "The Common Toolkit's classes, made when they are asked for.")
    module.__getattr__ = lambda name: standins.attribute("ctk", name)
    return module


def install() -> None:
    """Make ``import qt, ctk`` work, once in a process."""
    if "qt" not in sys.modules:
        sys.modules["qt"] = _qt()
        sys.modules["ctk"] = _ctk()
