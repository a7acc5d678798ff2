"""Slicer's main window as far as a module sees it: the module panel, the module selector and the status bar."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from .standins import imitates, stand_in

#: The width of the module panel in pixels, on a screen 1080 pixels high without title bars.
PANEL_SIZE = (400, 1000)


@imitates("qSlicerAppMainWindow")
class MainWindow:
    """A window with the module panel alone: a scroll area as wide as Slicer's."""

    def __init__(self) -> None:
        QtWidgets.QMainWindow.__init__(self)
        self.setObjectName("qSlicerMainWindow")
        self._selector = stand_in("qSlicerModuleSelectorToolBar")(self)
        self.host_panel = QtWidgets.QScrollArea()
        self.host_panel.setObjectName("ModulePanel")
        self.host_panel.setWidgetResizable(True)
        self.host_panel.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        self.setCentralWidget(self.host_panel)
        self.resize(*PANEL_SIZE)

    def moduleSelector(self) -> Any:
        return self._selector


@imitates("qSlicerModuleSelectorToolBar")
class ModuleSelector:
    """Opens one module and leaves the other."""

    def selectModule(self, name: str) -> None:
        """Open a module: the one that was open is exited, this one is entered."""
        if name == self.selectedModule:
            return
        module = slicer.util.getModule(name)
        before = slicer.app.moduleManager().module(self.selectedModule or "")
        if before is not None and hasattr(before, "host_exit"):
            before.host_exit()
        self.selectedModule = name
        if hasattr(module, "host_enter"):
            module.host_enter()
        self.moduleSelected.emit(name)

    def modulesMenuComboBox(self) -> QtCore.QObject:
        return self
