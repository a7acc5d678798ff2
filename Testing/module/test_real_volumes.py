"""The module with real volumes: from nodes of the scene to layers in place, through a child process that really trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from SemiSAMPlusPanel import job as jobs

#: Value, name and colour of each structure, by data set.
STRUCTURES = {
    "hippocampus": {1: ("anterior", (0.9, 0.6, 0.0)), 2: ("posterior", (0.3, 0.7, 0.9))},
    "left_atrium": {1: ("left atrium", (0.9, 0.6, 0.0))},
}
#: With these a training takes seconds on one core.
TINY = {"iterations": 3, "patch": (16, 16, 16), "size": "small", "threads": 1, "device": "cpu", "spacing": 2.5}


@pytest.fixture
def logic(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from SemiSAMPlusPanel.logic import ModuleLogic

    monkeypatch.setattr(jobs, "_NICENESS", 0)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    logic = ModuleLogic(scene, runs_folder=tmp_path / "runs")
    yield logic
    for run in logic.active_runs:
        run.kill()
        run.wait(10)
    logic.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_real_volumes_go_through_the_scene(name: str, real_data: Path, scene: Any, logic: Any) -> None:
    import numpy as np
    import slicer
    from SemiSAMPlusPanel.nodes import load_volume
    from SemiSAMPlusPanel.sample import load_label

    files = sorted((real_data / name / "images").glob("*.nii.gz"))[:3]
    volumes = [load_volume(scene, file, file.name.removesuffix(".nii.gz")) for file in files]
    segmentation = load_label(scene, real_data / name / "labels" / files[0].name, volumes[0], STRUCTURES[name])
    case = volumes[1].GetName()
    run = logic.train([(volumes[0], segmentation)], volumes[1:], wait=True, layers=(case,), **TINY)
    assert run.state == "done"
    assert run.image_of(case) == files[1], "a volume that lies on the disk as it is loaded is not written again"
    assert [one["name"] for one in run.folder.describe()["cohort"]["classes"]] == [
        structure for structure, _ in STRUCTURES[name].values()
    ]
    layers = run.layers(volumes[1])
    layers.load()
    assert {"prediction", "prompts", "generalist:random-walker", "uncertainty"} <= set(layers.kinds())
    (uncertainty,) = layers.nodes("uncertainty")
    assert slicer.util.arrayFromVolume(uncertainty).shape == slicer.util.arrayFromVolume(volumes[1]).shape
    np.testing.assert_allclose(_ijk_to_ras(uncertainty), _ijk_to_ras(volumes[1]), atol=1e-4)
    predicted = logic.predict(run, volumes[2])
    names = [predicted.GetSegmentation().GetNthSegment(i).GetName() for i in range(len(STRUCTURES[name]))]
    assert names == [structure for structure, _ in STRUCTURES[name].values()]


def _ijk_to_ras(volume: Any) -> Any:
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
