"""The section above all others, while Python packages are missing: install them, if the user agrees."""

from __future__ import annotations

from typing import Any

import slicer

from SemiSAMPlusLib.errors import SemiSAMPlusError

from .state import PanelState
from .text import _
from .widgets import ask, load_ui, say, show


class SetupSection:
    """Says what is missing, and installs it on request.

    Args:
        place: The layout to be in.
        state: What the sections share.
    """

    def __init__(self, place: Any, state: PanelState) -> None:
        self.state = state
        self.widget, self.ui = load_ui("Setup", place)
        self._is_installing = self._needs_restart = False
        self._error = ""
        self.ui.installButton.connect("clicked(bool)", self._install)
        self.ui.checkAgainButton.connect("clicked(bool)", self.check)
        self.ui.restartButton.connect("clicked(bool)", self._restart)
        self.check()

    def check(self, *_args: object) -> None:
        """Look which packages are missing."""
        missing = self.state.logic.installer.missing()
        if missing != self.state.missing:
            self.state.missing = missing
            self.state.dependencies_changed.emit()
        self.refresh()

    def refresh(self) -> None:
        """Show what is to be done; nothing where all is there."""
        missing, ui = self.state.missing, self.ui
        show(self.widget, bool(missing) or self._needs_restart or self._is_installing)
        if self._error:
            say(ui.setupLabel, self._error, "error")
        elif self._needs_restart:
            say(ui.setupLabel, _("The packages are installed. Restart Slicer to use them."), "good")
        elif missing:
            say(ui.setupLabel, self.state.logic.installer.summary())
        show(ui.installButton, bool(missing) and not self._needs_restart)
        show(ui.checkAgainButton, bool(missing) and not self._needs_restart)
        show(ui.restartButton, self._needs_restart)
        for button in (ui.installButton, ui.checkAgainButton):
            button.enabled = not self._is_installing
        show(ui.setupProgress, self._is_installing)
        if not self._is_installing:
            say(ui.setupProgressLabel, "")

    def _install(self, *_args: object) -> None:
        installer = self.state.logic.installer
        if self._is_installing or not ask(installer.summary() + "\n\n" + _("Download and install them now?")):
            return
        self._is_installing, self._error = True, ""
        self.refresh()
        try:
            self._needs_restart = installer.install(self._say_step)
        except SemiSAMPlusError as error:
            self._error = f"{error.what} {error.remedy}"
        finally:
            self._is_installing = False
            self.check()

    def _say_step(self, text: str) -> None:
        say(self.ui.setupProgressLabel, text, "quiet")
        slicer.app.processEvents()

    def _restart(self, *_args: object) -> None:
        if ask(_("Restart Slicer now? Save your work first.")):
            slicer.util.restart()
