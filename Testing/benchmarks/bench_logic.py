"""How long the module's logic keeps Slicer waiting: a look at a run of 10,000 events, and a table of 100 cases."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "SemiSAMPlus"), str(ROOT / "Testing")]

EVENTS, CASES = 10_000, 100


def _milliseconds(action: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begun)


def _report(what: str, times: list[float]) -> None:
    print(f"{what:<52} {len(times):4d} × {statistics.median(times):6.1f} ms, longest {max(times):6.1f} ms")


def bench_polls(folder: Path) -> None:
    """Open a run that has said a lot, and look at it until all is read."""
    import slicer
    from SemiSAMPlusPanel.job import ChildJob
    from SemiSAMPlusPanel.run import Run

    folder.mkdir()
    (folder / "run.json").write_text("{}", encoding="utf-8")
    losses = {"supervised": 0.5, "mixed": 0.4, "pseudo": 0.3}
    with (folder / "events.jsonl").open("w", encoding="ascii") as file:
        for number in range(EVENTS):
            event = {"event": "progress", "time": 0.0, "iteration": number, "iterations": EVENTS, "losses": losses}
            file.write(json.dumps({**event, "seconds_left": 1.0, "memory": {"process_gb": 1.0, "gpu_gb": 2.0}}) + "\n")
    runs: list[Run] = []
    _report("open it", [_milliseconds(lambda: runs.append(Run(folder, slicer.mrmlScene, ChildJob)))])
    # Python tidies up a whole Slicer now and then, which takes longer than any poll and comes to nobody's account here.
    gc.collect()
    gc.freeze()
    times = []
    while runs[0].needs_polling:
        times.append(_milliseconds(runs[0].poll))
    assert runs[0].iteration == EVENTS - 1
    _report(f"poll it until its {EVENTS} events are read", times)


def bench_table(folder: Path) -> None:
    """Ask for the rows of a scene with many volumes, of which some have segmentations, and of many files."""
    import numpy as np
    import slicer
    from SemiSAMPlusPanel.cases import CaseTable

    table = CaseTable(slicer.mrmlScene)
    slicer.mrmlScene.StartState(slicer.mrmlScene.BatchProcessState)
    for number in range(CASES):
        volume = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8), np.int16), name=f"volume {number}")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"segmentation {number}")
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.GetSegmentation().AddEmptySegment("", "structure")
    slicer.mrmlScene.EndState(slicer.mrmlScene.BatchProcessState)
    _report(f"rows of {CASES} volumes, the first time", [_milliseconds(table.rows)])
    _report(f"rows of {CASES} volumes", [_milliseconds(table.rows) for _ in range(20)])
    _report("write the suggestions down", [_milliseconds(table.suggest)])
    slicer.mrmlScene.Clear(False)
    (folder / "images").mkdir()
    for number in range(CASES):
        (folder / "images" / f"case {number}.nrrd").write_bytes(b"NRRD0004\n")
    _report(f"add a folder of {CASES} files", [_milliseconds(lambda: table.add_folder(folder))])
    _report(f"rows of {CASES} files", [_milliseconds(table.rows) for _ in range(20)])
    table.close()


def main() -> None:
    """Print what each takes."""
    from host.missing import what_is_missing

    if (reason := what_is_missing()) is not None:
        print(f"Not measured: {reason}")
        return
    import host

    host.start()
    host.new_scene()
    with tempfile.TemporaryDirectory() as folder:
        bench_polls(Path(folder) / "run")
        bench_table(Path(folder))


if __name__ == "__main__":
    main()
