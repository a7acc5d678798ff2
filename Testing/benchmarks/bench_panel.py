"""How long the panel keeps Slicer's event loop waiting, with a cohort of 100 cases and a run of 10,000 events.

A heartbeat timer beats every 5 ms; the longest time between two beats is the longest that a user could have waited.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "SemiSAMPlus"), str(ROOT / "Testing")]

CASES, EVENTS, BEAT_MILLISECONDS = 100, 10_000, 5


class Heartbeat:
    """Measures the longest time between two turns of the event loop."""

    def __init__(self) -> None:
        import qt

        self._timer = qt.QTimer()
        self._timer.setInterval(BEAT_MILLISECONDS)
        self._timer.connect("timeout()", self._beat)
        self._timer.start()
        self._last = time.perf_counter()
        self.longest = 0.0

    def _beat(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last)
        self._last = now

    def during(self, what: str, action: Callable[[], object], seconds: float = 1.0) -> None:
        """Do something as a signal would, let the loop run for a while, and print the longest gap."""
        import qt
        from stage import settle

        settle(0.2)
        gc.collect()  # What others left behind is not what is measured.
        self.longest, self._last = 0.0, time.perf_counter()
        qt.QTimer.singleShot(0, action)
        settle(seconds)
        print(f"{what:<58} {1000 * self.longest:6.0f} ms")


def write_run(folder: Path, cases: list[str]) -> None:
    """Write the folder of a run that said a lot, and that ended without a word."""
    from SemiSAMPlusLib.run.folder import RunFolder

    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    cohort = {"cases": [{"name": name, "images": [f"{name}.nii.gz"]} for name in cases]}
    run.write_description({"config": {}, "cohort": cohort})
    lines = [{"event": "started", "device": "cpu", "iterations": EVENTS}]
    for number in range(1, EVENTS):
        losses = {"supervised": 1 / number, "copy-paste": 2 / number}
        event = {"event": "progress", "iteration": number, "iterations": EVENTS, "seconds_left": 1.0, "losses": losses}
        if number % 100 == 0:
            event = {"event": "metrics", "iteration": number, "dice": {"organ": 0.5}, "on": "validation", "best": False}
        lines.append(event)
    run.events_file.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="ascii")


def add_cases() -> None:
    """Fill the scene with volumes, every tenth with a segmentation."""
    import slicer
    from stage import add_segmentation, add_volume

    slicer.mrmlScene.StartState(slicer.mrmlScene.BatchProcessState)
    for number in range(CASES):
        volume = add_volume(f"case {number:03d}", shape=(16, 16, 16))
        if number % 10 == 0:
            add_segmentation(volume, "organ")
    slicer.mrmlScene.EndState(slicer.mrmlScene.BatchProcessState)


def main() -> None:
    """Measure."""
    from host.missing import what_is_missing

    if (reason := what_is_missing()) is not None:
        print(f"Not measured: {reason}")
        return
    import host

    host.start()
    scene = host.new_scene()
    with tempfile.TemporaryDirectory() as folder:
        from SemiSAMPlusPanel.logic import ModuleLogic
        from stage import Stage, settle

        write_run(Path(folder) / "runs" / "long", [f"case {number:03d}" for number in range(CASES)])
        logic = ModuleLogic(scene, runs_folder=Path(folder) / "runs")
        add_cases()
        begun = time.perf_counter()
        stage = Stage(Path(folder), logic)
        print(
            f"{'the panel is built (once, when the module is opened)':<58} {1000 * (time.perf_counter() - begun):6.0f} ms"
        )
        settle(3)
        beat = Heartbeat()
        beat.during("at rest", lambda: None)
        stage.find("volumesTable").setRowCount(0)
        beat.during(f"{CASES} cases are shown", lambda: logic.cases.changed.emit(), 3)
        beat.during("a role is changed", lambda: _change_role(logic))
        beat.during("a volume is added", lambda: _add_one())
        beat.during("the panel is left and entered", lambda: (stage.panel.exit(), stage.panel.enter()))
        run: list[Any] = []
        beat.during(f"a run of {EVENTS} events is opened", lambda: run.append(_open(stage, folder)), 5)
        print(f"{'  events read':<58} {run[0].iteration:6}")
        beat.during("its chart is shown", lambda: stage.panel.training._show_chart(), 2)
        beat.during("the scene is closed", lambda: scene.Clear(False), 2)
        settle()
        stage.close()
        logic.close()
        host.new_scene()


def _change_role(logic: Any) -> None:
    from SemiSAMPlusLib.cohort.cohort import Role

    logic.cases.set_role(logic.cases.rows()[3], Role.UNLABELED)


def _add_one() -> None:
    from stage import add_volume

    add_volume("one more", shape=(16, 16, 16))


def _open(stage: Any, folder: str) -> Any:
    run = stage.logic.open_run(Path(folder) / "runs" / "long")
    stage.panel.state.choose_run(run)
    return run


if __name__ == "__main__":
    main()
