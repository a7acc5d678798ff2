"""The test host for everything that touches Slicer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def qt_app() -> Any:
    """The started host's application; the test is skipped, with the reason, where the host cannot run."""
    from host.missing import what_is_missing

    reason = what_is_missing()
    if reason is not None:
        pytest.skip(f"the Slicer test host cannot run here: {reason}")
    import host

    return host.start()


@pytest.fixture
def scene(qt_app: Any) -> Iterator[Any]:
    """Slicer's scene, empty; modules and windows are closed before and after."""
    import host

    yield host.new_scene()
    host.new_scene()


@pytest.fixture
def stage(scene: Any, tmp_path: Path) -> Iterator[Any]:
    """The panel over an empty scene, with a logic that only records what it is asked; see ``stage.py``."""
    from stage import Stage

    the_stage = Stage(tmp_path / "runs")
    yield the_stage
    the_stage.close()
