"""Loads a scripted module as Slicer does, and holds its panel."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtWidgets

from . import application
from .standins import imitates, stand_in


@imitates("qSlicerScriptedLoadableModule", beyond_table=("logic", "widgetRepresentation"))
class Module:
    """A module written in Python, as C++ sees it."""

    def host_open(self, file: Path) -> None:
        """Load the module's file and make its module object."""
        self._name, self._file, self._representation = file.stem, file, None
        # A module's class asks for its own resources while it is made.
        slicer.app.moduleManager().host_add(self)
        self._python = _import(file)
        self._self = getattr(self._python, file.stem)(self)

    def _read_name(self) -> str:
        return self._name

    def _read_path(self) -> str:
        return str(self._file)

    def logic(self) -> Any:
        """Return nothing: the logic of a scripted module is kept by its widget."""
        return None

    def widgetRepresentation(self) -> Any:
        """Return the widget in the module panel, made and set up on the first call."""
        if self._representation is None:
            self._representation = stand_in("qSlicerScriptedLoadableModuleWidget")()
            self._representation.host_open(self._file)
        return self._representation

    def host_enter(self) -> None:
        """Show the panel, as opening the module does."""
        widget = self.widgetRepresentation()
        slicer.app.host_main_window().host_panel.setWidget(widget)
        widget.show()
        widget.enter()

    def host_exit(self) -> None:
        """Hide the panel, as opening another module does."""
        widget = self.widgetRepresentation()
        slicer.app.host_main_window().host_panel.takeWidget()
        widget.exit()

    def host_close(self) -> None:
        """Unload the module: its cleanup() is called and its panel deleted."""
        slicer.app.moduleManager().host_forget(self._name)
        if self._representation is not None:
            self._representation.setParent(None)
            self._representation.deleteLater()
            self._representation = None
        widget_class = f"{self._name}Widget"
        if hasattr(slicer.modules, widget_class):
            delattr(slicer.modules, widget_class)
        sys.modules.pop(self._name, None)


@imitates("qSlicerScriptedLoadableModuleWidget")
class ModuleWidget:
    """The widget in the module panel that holds what the Python class builds."""

    def host_open(self, file: Path) -> None:
        """Make the Python widget class and let it build its panel."""
        self._file = file
        QtWidgets.QVBoxLayout(self)
        self.setMRMLScene(slicer.mrmlScene)
        self._build()

    def _build(self) -> None:
        python = sys.modules.get(self._file.stem) or _import(self._file)
        name = f"{self._file.stem}Widget"
        self._self = getattr(python, name)(self)
        setattr(slicer.modules, name, self._self)
        self._self.setup()

    def self(self) -> Any:
        return self._self

    def reload(self) -> None:
        self._build()

    def enter(self) -> None:
        self.isEntered = True
        getattr(self._self, "enter", lambda: None)()

    def exit(self) -> None:
        self.isEntered = False
        getattr(self._self, "exit", lambda: None)()


@dataclass
class ModulePanel:
    """A loaded module with its panel open.

    Attributes:
        module: What ``slicer.util.getModule`` returns.
        widget: The module's own widget class, as ``slicer.util.getModuleWidget`` returns it.
        parent: The Qt widget that it builds its panel in.
    """

    module: Any
    widget: Any
    parent: Any

    def find(self, name: str) -> Any:
        """Return the Qt widget of that object name.

        Raises:
            LookupError: If there is none.
        """
        from PySide6 import QtCore

        found = self.parent.findChild(QtCore.QObject, name)
        if found is None:
            msg = f"The panel has no widget '{name}'"
            raise LookupError(msg)
        return found


def load_module(path: str | Path, *, select: bool = True) -> ModulePanel:
    """Load a scripted module and open it, as Slicer does with one in "Additional module paths".

    Args:
        path: The module's file, or its folder where the file has the folder's name.
        select: Open it in the module panel, which calls its ``enter()``.

    Returns:
        The module with its panel, 400 pixels wide.
    """
    application.start()
    file = Path(path)
    file = file / f"{file.name}.py" if file.is_dir() else file
    if slicer.app.moduleManager().module(file.stem) is not None:
        slicer.app.moduleManager().module(file.stem).host_close()
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    module: Any = stand_in("qSlicerScriptedLoadableModule")()
    module.host_open(file)
    if slicer.app.host_has_main_window:
        slicer.app.host_main_window().show()
    if select and slicer.app.host_has_main_window:
        slicer.util.selectModule(module)
    parent = module.widgetRepresentation()
    application.process_events()
    return ModulePanel(module, parent.self(), parent)


def close_modules() -> None:
    """Unload every scripted module and close the main window."""
    manager = slicer.app.moduleManager()
    for name in manager.modulesNames():
        module = manager.module(name)
        if hasattr(module, "host_close"):
            module.host_close()
    slicer.app.host_close_main_window()
    application.process_events()  # Deletes them.


def _import(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        msg = f"{file} is no Python file"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
