"""The application around the scene: ``slicer.app``, ``slicer.mrmlScene``, ``slicer.modules`` and what hangs on them."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_folder: Path | None = None

#: The modules that say what stand-ins do; importing them is enough.
_BEHAVIOURS = (
    "core_io",
    "ctk_widgets",
    "layout",
    "main_window",
    "module_manager",
    "module_panel",
    "mrml_widgets",
    "qslicer_application",
)


def start() -> Any:
    """Start the host once in a process and return ``slicer.app``; further calls return the same.

    Raises:
        RuntimeError: If packages or libraries are missing; it says which.
    """
    global _folder
    from .missing import what_is_missing

    reason = what_is_missing()
    if reason is not None:
        raise RuntimeError(reason)

    if _folder is not None:
        import slicer

        return slicer.app
    # Qt draws into memory, and VTK by EGL, whether there is a display or not.
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    if sys.platform.startswith("linux"):
        os.environ.pop("DISPLAY", None)
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    import slicer

    _folder = Path(tempfile.mkdtemp(prefix="slicer-host-"))
    _put_python_slicer_on_path(_folder / "bin")

    from PySide6 import QtCore

    from . import dialogs, pythonqt, qt_modules, slicer_modules

    _make_singletons_immortal()
    QtCore.qInstallMessageHandler(_qt_message)
    pythonqt.install()
    qt_modules.install()
    slicer_modules.install()
    _keep_settings_apart(_folder / "settings")

    for name in _BEHAVIOURS:
        importlib.import_module(f".{name}", __package__)
    from . import pictures
    from .standins import stand_in

    app: Any = stand_in("qSlicerApplication")(["Slicer"])
    slicer.app = app
    app.host_open(_folder)
    atexit.register(remove_folder)
    pictures.use_style(dark=False)
    dialogs.install()
    return app


def folder() -> Path:
    """Return the temporary folder of this host, removed when the process ends."""
    if _folder is None:
        msg = "The host is not started."
        raise RuntimeError(msg)
    return _folder


def new_scene() -> Any:
    """Close all modules, clear the scene as "Close scene" does, forget what was shown; return the scene."""
    import slicer

    from .dialogs import conversation
    from .module_panel import close_modules

    start()
    close_modules()
    scene = slicer.mrmlScene
    scene.Clear(0)
    # Clearing keeps singletons, among them the modules' parameter nodes, which would carry values into the next test.
    for node in list(slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")):
        scene.RemoveNode(node)
    scene.SetURL("")
    scene.SetRootDirectory(str(folder() / "scene"))
    process_events()
    conversation.clear()
    return scene


def process_events(seconds: float = 0.0, *, until: Callable[[], bool] | None = None) -> bool:
    """Let Qt's timers and events happen.

    Args:
        seconds: How long; at least what is already waiting is done.
        until: Ends it early as soon as it returns True.

    Returns:
        Whether ``until`` came true; True where none was given.
    """
    from PySide6 import QtCore

    end = time.monotonic() + seconds
    rounds = 3  # A layout asks for the layout around it, and that for the one around itself.
    while True:
        QtCore.QCoreApplication.processEvents()
        # What deleteLater() left is otherwise deleted only by a running event loop.
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
        if until is not None and until():
            return True
        rounds -= 1
        if rounds <= 0:
            if time.monotonic() >= end:
                return until is None
            time.sleep(0.002)


@contextmanager
def without_main_window() -> Iterator[None]:
    """Be as ``Slicer --no-main-window`` meanwhile: there is neither a main window nor a layout."""
    app = start()
    app.host_has_main_window = False
    try:
        yield
    finally:
        app.host_has_main_window = True


def _put_python_slicer_on_path(binaries: Path) -> None:
    """Make ``PythonSlicer`` a launcher, as it is in Slicer: a process whose child is the Python that does the work."""
    binaries.mkdir(parents=True)
    if sys.platform == "win32":
        (binaries / "PythonSlicer.bat").write_text(
            f'@"{sys.executable}" %*\r\n@exit /b %errorlevel%\r\n', encoding="utf-8"
        )
    else:
        launcher = binaries / "PythonSlicer"
        launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n', encoding="utf-8")
        launcher.chmod(0o755)
    os.environ["PATH"] = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"


def _make_singletons_immortal() -> None:
    """Keep Python 3.11 from freeing ``None``, ``True`` and ``False``: PySide6 returns them without counting the reference.

    From Python 3.12 on, they are immortal by themselves.
    """
    if sys.version_info < (3, 12):
        for singleton in (None, True, False):
            ctypes.c_ssize_t.from_address(id(singleton)).value += 1 << 40


def _keep_settings_apart(settings: Path) -> None:
    """Keep the settings of tests out of the user's own."""
    from PySide6 import QtCore

    QtCore.QCoreApplication.setOrganizationName("slicer-test-host")
    QtCore.QCoreApplication.setApplicationName("Slicer")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(settings))


def _qt_message(kind: object, context: object, message: str) -> None:
    """Pass on what Qt says, but for what it says of every window that is drawn into memory."""
    if "propagateSizeHints" not in message:
        print(f"Qt: {message}", file=sys.stderr)


def remove_folder() -> None:
    """Remove the temporary folder of this host."""
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)
