"""Says what this computer lacks to run the host, in words."""

from __future__ import annotations

import ctypes.util
import importlib.util
import sys
from functools import cache

_PACKAGES = {"slicer": "slicer-core", "vtk": "vtk", "PySide6": "PySide6-Essentials"}
_LIBRARIES = {
    "EGL": "libegl1",
    "GL": "libgl1",
    "xkbcommon": "libxkbcommon0",
    "dbus-1": "libdbus-1-3",
    "fontconfig": "libfontconfig1",
}


@cache
def what_is_missing() -> str | None:
    """Return why the host cannot start here and the remedy, None where it can."""
    packages = [package for module, package in _PACKAGES.items() if not _can_be_found(module)]
    if packages:
        return f"{', '.join(packages)} not installed; pip install 'semisamplus[host]'"
    if sys.platform.startswith("linux"):
        libraries = [package for library, package in _LIBRARIES.items() if ctypes.util.find_library(library) is None]
        if libraries:
            return f"system libraries missing; apt-get install {' '.join(libraries)}"
    return None


def _can_be_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # It was made impossible to import.
        return False
