"""Where the host cannot run, it says why, and its tests are skipped rather than failing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_missing_packages_and_libraries_are_named(monkeypatch):
    import ctypes.util
    import importlib.util

    from host.missing import what_is_missing

    find_spec = importlib.util.find_spec
    what_is_missing.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "slicer" else find_spec(name))
        assert "slicer-core" in what_is_missing()
    what_is_missing.cache_clear()
    if sys.platform.startswith("linux") and what_is_missing() is None:
        what_is_missing.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(ctypes.util, "find_library", lambda name: None if name == "EGL" else "found")
            assert what_is_missing().endswith("apt-get install libegl1")
    what_is_missing.cache_clear()


def test_without_slicer_core_the_package_imports_and_start_says_what_is_missing():
    code = """
import sys
sys.modules["slicer"] = None
import host
try:
    host.start()
except RuntimeError as error:
    print(error)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if process.returncode:
        pytest.fail(process.stderr)
    assert "slicer-core" in process.stdout
