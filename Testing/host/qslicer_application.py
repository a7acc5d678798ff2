"""What ``slicer.app`` does."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from . import module_manager
from .mrml_scene import SceneAndLogics
from .standins import imitates, stand_in


@imitates("qSlicerApplication", beyond_table=("testingEnabled",))  # It comes from PythonQt's decorators.
class Application:
    """The parts of qSlicerApplication that scripts use."""

    host_has_main_window = True

    def host_open(self, folder: Path) -> None:
        """Make the scene and everything that hangs on the application."""
        slicer.modules = types.SimpleNamespace()
        self._core = SceneAndLogics(folder)
        self._folder = folder
        self._io = stand_in("qSlicerIOManager")(self)
        self._modules = stand_in("qSlicerModuleManager")(self)
        for name, logic in self._core.module_logics.items():
            self._modules.host_add(module_manager.CoreModule(name, logic))
        self._layout = stand_in("qSlicerLayoutManager")(self)
        self._layout.host_open(self._core)
        self._main_window: Any = None
        self._render_pauses = 0
        versions = {"majorVersion": 5, "minorVersion": 13, "applicationLocaleName": "en-US", "isInstalled": True}
        paths = {"slicerHome": folder, "temporaryPath": folder / "temporary", "defaultScenePath": folder / "documents"}
        (folder / "documents").mkdir()
        for name, value in {**versions, **{name: str(path) for name, path in paths.items()}}.items():
            setattr(self, name, value)

    def host_core(self) -> SceneAndLogics:
        """Return the scene and logics, for the host's own parts."""
        return self._core

    def mrmlScene(self) -> Any:
        return self._core.scene

    def applicationLogic(self) -> Any:
        return self._core.application_logic

    def moduleLogic(self, name: str) -> Any:
        return self._core.application_logic.GetModuleLogic(name)

    def coreIOManager(self) -> Any:
        return self._io

    def ioManager(self) -> Any:
        return self._io

    def moduleManager(self) -> Any:
        return self._modules

    def layoutManager(self) -> Any:
        return self._layout if self.host_has_main_window else None

    def topLevelWidgets(self) -> list[Any]:
        """Return Qt's top level widgets; the main window is there once a module was selected or loaded."""
        widgets = QtWidgets.QApplication.topLevelWidgets()
        return (
            widgets if self.host_has_main_window else [widget for widget in widgets if widget is not self._main_window]
        )

    def host_main_window(self) -> Any:
        """Return the main window, made when it is first asked for (the real one is there from the start)."""
        if self._main_window is None:
            self._main_window = stand_in("qSlicerAppMainWindow")()
        return self._main_window

    def host_close_main_window(self) -> None:
        """Delete the main window."""
        if self._main_window is not None:
            self._main_window.hide()
            self._main_window.deleteLater()
            self._main_window = None

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def userSettings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def revisionUserSettings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    environment = startupEnvironment

    def commandOptions(self) -> Any:
        return types.SimpleNamespace(noMainWindow=not self.host_has_main_window, testingEnabled=False)

    def testingEnabled(self) -> bool:
        return False

    def pauseRender(self) -> None:
        self._render_pauses += 1

    def resumeRender(self) -> None:
        self._render_pauses -= 1

    def setRenderPaused(self, paused: bool) -> None:
        self._render_pauses += 1 if paused else -1

    def restart(self) -> None:
        from .dialogs import conversation

        conversation.tell("message", "Slicer restarts")

    def openUrl(self, url: str) -> None:
        from .dialogs import conversation

        conversation.tell("message", url)
