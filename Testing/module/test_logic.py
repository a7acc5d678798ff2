"""The module's logic with fake jobs: what is started with what, what is told of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_jobs import FakeJob, FakeStarter, FakeTicker
from locked import locked
from tiny import OBLIQUE, ball, write_volume

from SemiSAMPlusLib.cohort.cohort import Class, Cohort, Role
from SemiSAMPlusLib.cohort.outputs import write_segmentation
from SemiSAMPlusLib.errors import ConfigError, RunFolderError, SemiSAMPlusError, VolumeError
from SemiSAMPlusLib.run.config import TrainingConfig

SIZE = OBLIQUE.shape


@dataclass
class World:
    """A scene with a labelled and two unlabelled volumes, and a logic whose jobs are fake."""

    scene: Any
    logic: Any
    starter: FakeStarter
    ticker: FakeTicker
    volumes: list[Any]
    segmentation: Any

    def train(self, **options: Any) -> Any:
        return self.logic.train([(self.volumes[0], self.segmentation)], self.volumes[1:], **options)

    def started(self, **options: Any) -> tuple[Any, FakeJob]:
        """Return a run whose volumes are exported, and its fake child."""
        run = self.train(**options)
        self.ticker.tick(50)
        assert run.state == "running", run.error
        return run, self.starter.last


def add_volume(name: str, seed: int) -> Any:
    import slicer

    array = np.random.default_rng(seed).integers(0, 99, SIZE).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(array, name=name)
    matrix = OBLIQUE.affine.copy()
    matrix[:, :3] = matrix[:, 2::-1]
    matrix[:2] *= -1
    import vtk

    vtk_matrix = vtk.vtkMatrix4x4()
    vtk_matrix.DeepCopy(matrix.ravel().tolist())
    volume.SetIJKToRASMatrix(vtk_matrix)
    return volume


def add_segmentation(volume: Any, name: str = "drawn", segment: str = "Vorhof") -> Any:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    identity = node.GetSegmentation().AddEmptySegment("", segment, [0.2, 0.4, 0.6])
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball(SIZE, 3).astype(np.uint8), node, identity, volume)
    return node


@pytest.fixture
def world(scene: Any, tmp_path: Path) -> Iterator[World]:
    from SemiSAMPlusPanel.logic import ModuleLogic

    starter, ticker = FakeStarter(), FakeTicker()
    logic = ModuleLogic(scene, start_job=starter, ticker=lambda: ticker, runs_folder=tmp_path / "Läufe ü")
    volumes = [add_volume(name, seed) for seed, name in enumerate(("MR ä", "zwei", "drei"))]
    yield World(scene, logic, starter, ticker, volumes, add_segmentation(volumes[0]))
    logic.close()


# Starting


def test_it_returns_at_once_and_writes_a_volume_a_tick(world: World) -> None:
    run = world.train()
    assert run.state == "preparing"
    assert not list(run.folder.path.iterdir())
    assert world.starter.jobs == []
    world.ticker.tick()
    assert len(list(run.folder.path.rglob("*.nrrd"))) == 1
    assert run.exported[0] < run.exported[1]
    world.ticker.tick(10)
    assert run.state == "running"


def test_the_child_is_told_everything_by_the_folder(world: World) -> None:
    run, job = world.started(generalists=["random-walker"], minutes=5, seed=7, name="Vorhof, Versuch 1")
    folder = run.folder.path
    assert job.folder.path == folder
    assert folder.parent == world.logic.runs_folder
    settings = folder / "inputs" / "settings.json"
    assert job.arguments == ["train", str(folder / "cohort.json"), "--run", str(folder), "--settings", str(settings)]
    config = TrainingConfig.from_dict(json.loads(settings.read_text(encoding="utf-8")))
    assert (config.generalists, config.minutes, config.seed) == (("random-walker",), 5, 7)
    assert config.layers == ("MR ä", "zwei", "drei"), "so few volumes are all refreshed"
    cohort = Cohort.load(folder / "cohort.json")
    assert {case.name: case.role for case in cohort.cases} == {
        "MR ä": Role.LABELED,
        "zwei": Role.UNLABELED,
        "drei": Role.UNLABELED,
    }
    assert [one.name for one in cohort.classes] == ["Vorhof"]
    assert run.name == "Vorhof, Versuch 1"


def test_a_run_has_a_name_and_a_folder_of_its_own(world: World) -> None:
    first, second = world.train(), world.train()
    assert first.folder.path != second.folder.path
    assert first.folder.path.is_dir()
    assert second.folder.path.is_dir(), "taken at once, so that another Slicer takes another"
    assert first.name == "Vorhof", "called by what it learns"
    world.ticker.tick(50)
    assert [run.state for run in world.logic.active_runs] == ["running", "running"]


def test_layers_that_the_user_named_stay(world: World) -> None:
    run, _ = world.started(layers=["zwei"])
    settings = json.loads((run.folder.path / "inputs" / "settings.json").read_text(encoding="utf-8"))
    assert settings["layers"] == ["zwei"]


def test_a_correction_that_changes_the_order_of_structures_can_be_trained_on(world: World) -> None:
    classes = [{"name": "Ventrikel", "values": [1]}, {"name": "Vorhof", "values": [2]}]
    first = finished_run(world)
    (first.folder.specialist / "model.json").write_text(json.dumps({"classes": classes}), encoding="utf-8")
    pairs = [(world.volumes[0], world.segmentation)]
    pairs += [
        (volume, add_segmentation(volume, "n", name))
        for volume, name in zip(world.volumes[1:], ("neu", "Ventrikel"), strict=True)
    ]
    for source in (first, first.folder.specialist):
        run = world.logic.train(pairs, method="supervised", start_from=source)
        world.ticker.tick(50)
        cohort = Cohort.load(run.folder.path / "cohort.json")
        assert [one.name for one in cohort.classes] == ["Ventrikel", "Vorhof", "neu"]


def test_train_on_starts_from_a_run(world: World) -> None:
    first, job = world.started()
    job.begin()
    job.end()
    second, job = world.started(start_from=first)
    assert job.arguments[-2:] == ["--from", str(first.folder.path)]
    _third, job = world.started(start_from=second.folder.path)
    assert job.arguments[-2:] == ["--from", str(second.folder.path)]


def test_files_may_stand_beside_nodes(world: World, tmp_path: Path) -> None:
    image = write_volume(tmp_path / "fall 7.nii.gz", np.random.default_rng(9).normal(size=SIZE), OBLIQUE)
    run = world.logic.train([(world.volumes[0], world.segmentation)], [world.volumes[1], str(image)])
    world.ticker.tick(50)
    cohort = Cohort.load(run.folder.path / "cohort.json")
    assert cohort.case("fall 7").images == (image,)


def test_the_rows_of_the_table_can_be_trained_on(world: World) -> None:
    rows = world.logic.cases.rows()
    world.logic.cases.set_role(rows[2], None)
    run = world.logic.train_rows(world.logic.cases.rows(), TrainingConfig(layers=()), segments=["Vorhof"])
    world.ticker.tick(50)
    assert [case.name for case in Cohort.load(run.folder.path / "cohort.json").cases] == ["MR ä", "zwei"]


# What is refused, before anything is written


def refused(world: World, kind: type[Exception], words: str, labeled: Any, unlabeled: Any = (), **options: Any) -> None:
    with pytest.raises(kind, match=words):
        world.logic.train(labeled, unlabeled, **options)
    assert not world.logic.runs_folder.exists()
    assert world.logic.active_runs == []


def test_what_cannot_be_trained_on_is_refused_in_words(world: World) -> None:
    pair, others = (world.volumes[0], world.segmentation), world.volumes[1:]
    refused(world, ConfigError, "No case is labelled", [], others)
    refused(world, ConfigError, "No case is unlabelled, but the method 'mean-teacher'", [pair])
    refused(world, ConfigError, "expected a pair", [world.volumes[0]], others)
    refused(world, ConfigError, "expected a segmentation node", [(world.volumes[0], world.volumes[1])], others)
    refused(world, ConfigError, "expected a scalar volume node", [pair], [world.segmentation])
    refused(world, ConfigError, "has no segmentation", [(world.volumes[0], None)], others)
    refused(world, ConfigError, "no setting 'iteration'", [pair], others, iteration=5)
    refused(world, ConfigError, "'minutes'", [pair], others, minutes=-1)
    world.volumes[0].SetOrigin(9999, 0, 0)
    refused(world, VolumeError, "does not overlap", [pair], others)


def test_runs_that_can_be_kept_nowhere_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    world.logic.runs_folder = tmp_path / "file"
    with pytest.raises(RunFolderError, match="the folder cannot be created"):
        world.train()


def test_supervised_needs_no_unlabelled_case(world: World) -> None:
    run = world.logic.train([(world.volumes[0], world.segmentation)], method="supervised")
    world.ticker.tick(50)
    assert run.state == "running"


def test_what_goes_wrong_while_preparing_is_told(world: World) -> None:
    run = world.train()
    world.scene.RemoveNode(world.volumes[2])
    world.ticker.tick(50)
    assert run.state == "failed"
    what, remedy, log = run.error
    assert "'drei': was taken out of the scene" in what
    assert remedy
    assert log.parent == run.folder.path
    assert world.starter.jobs == []
    with pytest.raises(SemiSAMPlusError, match="'drei'"):
        run.wait(1)


def test_a_child_that_cannot_be_started_is_told(world: World) -> None:
    def refuse(job: FakeJob) -> None:
        raise SemiSAMPlusError("PythonSlicer: cannot be started.", "Repair Slicer.")

    world.starter.on_start = refuse
    run = world.train()
    world.ticker.tick(50)
    assert run.state == "failed"
    assert run.error[:2] == ("PythonSlicer: cannot be started.", "Repair Slicer.")


# Watching


def test_what_the_child_says_is_at_hand(world: World) -> None:
    run, job = world.started()
    told: list[Any] = []
    world.logic.run_changed.connect(lambda changed: told.append((changed.state, changed.iteration)))
    job.begin(iterations=200)
    job.say("message", text="Training on cpu.")
    job.say("warning", text="Precision fell.")
    memory = {"process_gb": 1.5, "gpu_gb": 3.0, "gpu_total_gb": 80.0}
    for iteration in (10, 20):
        losses = {"supervised": 1.0 / iteration, "pseudo": None}
        job.say("progress", iteration=iteration, iterations=200, seconds_left=30.0, losses=losses, memory=memory)
    job.say("metrics", iteration=20, dice={"Vorhof": 0.5, "leer": None}, on="validation", best=True)
    job.say("trust", iteration=20, trust={"random-walker": 0.25})
    job.say("layers", iteration=20, case="zwei", folder="layers/zwei")
    world.ticker.tick()
    assert (run.state, run.device, run.iteration, run.iterations, run.seconds_left) == ("running", "cpu", 20, 200, 30.0)
    assert run.losses["supervised"] == [(10, 0.1), (20, 0.05)]
    assert run.losses["pseudo"] == []
    assert run.dice == [(20, {"Vorhof": 0.5}, "validation")]
    assert run.trust == {"random-walker": 0.25}
    assert run.memory == memory
    assert run.layers_written == {"zwei": 20}
    assert list(run.messages)[-2:] == ["Training on cpu.", "Warning: Precision fell."]
    assert told == [("running", 20)], "many events at once are one change"
    job.end("done", 200)
    world.ticker.tick(3)
    assert run.state == "done"
    assert run.seconds_left is None
    assert run.error is None
    assert not run.can_resume


def test_a_resumed_run_forgets_what_is_done_again(world: World) -> None:
    run, job = world.started()
    job.begin()
    for iteration in (10, 20, 30):
        job.say("progress", iteration=iteration, iterations=100, losses={"supervised": float(iteration)})
        job.say("metrics", iteration=iteration, dice={"Vorhof": 0.1}, on="labeled")
    job.running = False
    world.ticker.tick(5)
    assert run.state == "unfinished"
    assert run.can_resume
    run.resume()
    assert run.state == "running"
    job = world.starter.last
    assert job.arguments == ["resume", str(run.folder.path)]
    job.say("message", text="Continuing from iteration 10 of 100.")
    job.say("progress", iteration=20, iterations=100, losses={"supervised": 5.0})
    job.say("metrics", iteration=20, dice={"Vorhof": 0.2}, on="labeled")
    world.ticker.tick(2)
    assert run.losses["supervised"] == [(10, 10.0), (20, 5.0)]
    assert [(iteration, dice["Vorhof"]) for iteration, dice, _ in run.dice] == [(10, 0.1), (20, 0.2)]


def test_stop_is_graceful_and_kill_is_not(world: World) -> None:
    run, job = world.started()
    job.begin()
    run.stop()
    assert job.stopped
    assert not job.killed
    assert run.state == "stopping"
    run.stop()
    assert not job.killed, "only kill kills"
    job.end("stopped", 40)
    world.ticker.tick(3)
    assert (run.state, run.iteration, run.can_resume) == ("stopped", 40, True)
    run.resume()
    run.kill()
    assert world.starter.last.killed
    world.ticker.tick(3)
    assert (run.state, run.error, run.can_resume) == ("unfinished", None, True)
    assert run.wait(1) is run, "what the user ended is no failure"


def test_stopping_while_preparing_starts_nothing(world: World) -> None:
    run = world.train()
    world.ticker.tick()
    run.stop()
    assert run.state == "stopped"
    world.ticker.tick(50)
    assert world.starter.jobs == []
    assert not run.can_resume
    with pytest.raises(RunFolderError, match="cannot be resumed"):
        run.resume()


def test_no_images_stay_of_a_training_that_never_began(world: World) -> None:
    def refuse(job: FakeJob) -> None:
        raise SemiSAMPlusError("PythonSlicer: cannot be started.", "Repair Slicer.")

    def die(job: FakeJob) -> None:
        (job.folder.path / "output.txt").write_text("No module named 'torch'", encoding="utf-8")
        job.running = False

    stopped = world.train()
    world.ticker.tick(2)
    assert list(world.logic.runs_folder.rglob("*.nrrd"))
    stopped.stop()
    assert not stopped.folder.path.exists()
    world.starter.on_start = refuse
    refused = world.train()
    world.ticker.tick(50)
    assert refused.state == "failed"
    assert not refused.folder.path.exists()
    world.starter.on_start = die
    dead = world.train()
    world.ticker.tick(50)
    assert dead.state == "failed"
    assert [path.name for path in dead.folder.path.iterdir()] == ["output.txt"], "it says why"
    world.starter.on_start = None
    lost = world.train()
    world.ticker.tick(2)
    world.scene.RemoveNode(world.volumes[2])
    world.ticker.tick(50)
    assert lost.state == "failed"
    assert not lost.folder.path.exists()
    world.logic.delete_run(lost)


def test_killed_before_it_began_is_stopped(world: World) -> None:
    run, _job = world.started()
    run.kill()
    world.ticker.tick(3)
    assert run.state == "stopped"


def test_errors_are_told_with_remedy_and_log(world: World) -> None:
    run, job = world.started()
    job.begin()
    job.say("error", what="Out of memory.", remedy="Take a smaller patch.", log=str(run.folder.log_file))
    job.end(None)
    world.ticker.tick(3)
    assert run.state == "failed"
    assert run.error == ("Out of memory.", "Take a smaller patch.", run.folder.log_file)
    assert run.can_resume, "with more memory it may go on"
    with pytest.raises(SemiSAMPlusError, match=r"Out of memory\. Take a smaller patch"):
        run.wait()


def test_a_child_that_dies_before_it_owns_its_folder_has_failed(world: World) -> None:
    run, job = world.started()
    job.fault = ("The cohort has a fault.", "Mend it.", job.output_file)
    job.end(None)
    world.ticker.tick(3)
    assert run.state == "failed"
    assert run.error == job.fault
    assert not run.can_resume


def test_a_child_that_vanishes_without_a_word_is_unfinished(world: World) -> None:
    run, job = world.started()
    job.begin()
    job.fault = ("The child process ended with exit code -9: …", "See the log.", job.output_file)
    job.end(None)
    world.ticker.tick(3)
    assert (run.state, run.can_resume) == ("unfinished", True)
    assert "exit code -9" in run.error[0]


def test_wait_returns_when_its_time_is_over(world: World) -> None:
    run, job = world.started()
    job.begin()
    assert run.wait(timeout=0.1) is run
    assert run.state == "running"


@pytest.mark.parametrize("what", ["run", "prediction"])
def test_who_waits_lets_go_when_slicer_is_closed(world: World, what: str) -> None:
    import qt
    import slicer

    if what == "run":
        waiting, job = world.started()
        job.begin()
    else:
        waiting = world.logic.start_prediction(finished_run(world), world.volumes)
    window = slicer.app.host_main_window()
    window.show()
    window.showMinimized()
    waiting.wait(timeout=0.2)  # It is there all the same.
    timer = qt.QTimer()
    timer.connect("timeout()", lambda: window.close())
    timer.start(100)
    with pytest.raises(SemiSAMPlusError, match="is being closed") as raised:
        waiting.wait(timeout=10)
    assert "continues" in raised.value.remedy
    assert not world.starter.last.stopped
    assert not world.starter.last.killed
    waiting.wait(timeout=0.1)  # Where there was no window from the first, none is missed.


def test_wait_needs_nobody_who_ticks(world: World) -> None:
    world.starter.on_start = lambda job: (job.begin(), job.end())
    run = world.train()
    assert run.wait(30).state == "done"


def test_a_run_that_is_at_work_is_not_resumed(world: World) -> None:
    run, _ = world.started()
    with pytest.raises(RunFolderError, match="in progress"):
        run.resume()


# Runs that are found


def finished_run(world: World, **options: Any) -> Any:
    run, job = world.started(**options)
    job.begin()
    for iteration in (50, 100):
        job.say("progress", iteration=iteration, iterations=100, losses={"supervised": 1.0})
    job.end()
    world.ticker.tick(3)
    (run.folder.specialist).mkdir()
    (run.folder.specialist / "model.json").write_text("{}", encoding="utf-8")
    return run


def test_a_run_is_found_again_and_its_history_read(world: World, tmp_path: Path) -> None:
    from SemiSAMPlusPanel.logic import ModuleLogic

    run = finished_run(world)
    ticker = FakeTicker()
    another = ModuleLogic(
        world.scene, start_job=world.starter, ticker=lambda: ticker, runs_folder=world.logic.runs_folder
    )
    (summary,) = another.runs()
    assert (summary.folder, summary.state, summary.has_specialist) == (run.folder.path, "done", True)
    found = another.open_run(summary.folder)
    assert found.state == "done", "told at once"
    ticker.tick(10)
    assert found.losses["supervised"] == [(50, 1.0), (100, 1.0)]
    assert found.state == "done"
    assert ticker.interval is None, "nothing is left to look after"
    assert another.open_run(str(summary.folder)) is found
    another.close()


def test_a_folder_that_is_no_run_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not the folder of a run"):
        world.logic.open_run(tmp_path)


def test_a_run_is_deleted_with_all_it_has(world: World) -> None:
    run, job = world.started()
    with pytest.raises(RunFolderError, match="in progress"):
        world.logic.delete_run(run)
    job.begin()
    job.end()
    world.ticker.tick(3)
    world.logic.delete_run(run)
    assert not run.folder.path.exists()
    assert world.logic.runs() == []
    failed = world.train()
    world.ticker.tick()
    failed.stop()
    world.logic.delete_run(failed)
    assert not failed.folder.path.exists(), "also one that never began"


# Which volume is which case


def test_volumes_are_known_again_whatever_they_are_called(world: World, tmp_path: Path) -> None:
    run, _ = world.started()
    world.volumes[1].SetName("umbenannt")
    assert run.case_of(world.volumes[1]) == "zwei"
    assert run.volume_of("zwei") is world.volumes[1]
    stranger = add_volume("fremd", 9)
    assert run.case_of(stranger) is None
    path = tmp_path / "Szene ü.mrb"
    assert world.scene.WriteToMRB(str(path))
    world.scene.Clear(False)
    assert run.volume_of("zwei") is None
    add_volume("an other", 3)  # Takes the node ID that another volume had.
    assert run.volume_of("MR ä") is None
    assert world.scene.ReadFromMRB(str(path), False)
    assert run.volume_of("zwei").GetName() == "umbenannt"


def test_cases_of_a_run_from_a_shell_are_known_by_file_and_name(world: World, tmp_path: Path) -> None:
    import slicer

    image = write_volume(tmp_path / "bild.nii.gz", np.random.default_rng(9).normal(size=SIZE), OBLIQUE)
    folder = tmp_path / "run"
    folder.mkdir()
    cases = [{"name": "fall", "images": [str(image)]}, {"name": "zwei", "images": ["/gone.nii.gz"]}]
    (folder / "run.json").write_text(json.dumps({"cohort": {"cases": cases}}), encoding="utf-8")
    run = world.logic.open_run(folder)
    assert run.case_of(world.volumes[1]) is None, "nothing tells where the case lies"
    layer = run.folder.layers("zwei") / "prediction.seg.nrrd"
    write_segmentation(layer, ball(SIZE, 2).astype(np.uint8), OBLIQUE, (Class("Vorhof", (1,)),))
    assert run.volume_of("fall") is None
    volume = world.logic.load_case(run, "fall")
    assert run.case_of(volume) == "fall"
    assert run.volume_of("fall") is volume is world.logic.load_case(run, "fall")
    assert world.logic.cases.row(volume).role is None, "it is only looked at"
    assert run.case_of(world.volumes[1]) == "zwei"
    world.scene.RemoveNode(world.volumes[1])
    with pytest.raises(SemiSAMPlusError, match="cannot be loaded"):
        world.logic.load_case(run, "zwei")
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")


def test_the_volume_of_another_patient_is_no_case_for_its_name(world: World) -> None:
    world.volumes[1].SetName("CT")
    run = finished_run(world)
    layer = run.folder.layers("CT") / "prediction.seg.nrrd"
    write_segmentation(layer, ball(SIZE, 2).astype(np.uint8), OBLIQUE, (Class("Vorhof", (1,)),))
    identity = world.volumes[1].GetAttribute("SemiSAMPlus.Id")
    alike = add_volume("CT", 9)
    assert run.case_of(alike) is None, "the scene has the very volume"
    with pytest.raises(VolumeError, match="no prediction of it"):
        world.logic.correct(run, alike)
    world.scene.Clear(False)
    moved = add_volume("CT", 9)
    moved.SetOrigin(0, 0, 0)
    assert (run.case_of(moved), run.volume_of("CT")) == (None, None), "it lies elsewhere"
    alike = add_volume("CT", 1)
    assert (run.case_of(alike), run.volume_of("CT")) == ("CT", alike)
    assert run.case_of(moved) is None
    another = add_volume("CT", 2)
    assert (run.case_of(alike), run.case_of(another), run.volume_of("CT")) == (None, None, None), "who knows"
    another.SetAttribute("SemiSAMPlus.Id", identity)
    assert run.volume_of("CT") is another, "what is certain comes before what looks alike"


def test_layers_are_those_that_were_written(world: World) -> None:
    run, _ = world.started()
    assert run.layer_cases() == []
    with pytest.raises(RunFolderError, match="no layers of 'zwei'"):
        run.layers(world.volumes[1])
    with pytest.raises(RunFolderError, match="no case 'fremd'"):
        run.layers(add_volume("fremd", 9))
    for name in ("drei", "MR ä"):
        run.folder.layers(name).mkdir(parents=True)
    assert run.layer_cases() == ["MR ä", "drei"], "in the cohort's order"
    layers = run.layers(world.volumes[2])
    assert layers is run.layers("drei")


def test_layers_know_the_volume_that_is_loaded_again(world: World) -> None:
    run, _ = world.started()
    layer = run.folder.layers("zwei") / "prediction.seg.nrrd"
    write_segmentation(layer, ball(SIZE, 2).astype(np.uint8), OBLIQUE, (Class("Vorhof", (1,)),))
    before, identity = run.layers("zwei"), world.volumes[1].GetID()
    assert before.volume is world.volumes[1]
    world.scene.Clear(False)
    assert run.layers("zwei").volume is None
    add_volume("drei", 2)
    again = add_volume("zwei", 1)
    assert again.GetID() == identity, "as a scene that begins anew counts anew"
    layers = run.layers("zwei")
    layers.load("prediction")
    assert layers.volume is again
    assert layers.nodes("prediction")[0].GetNodeReference("SemiSAMPlus.Volume") is again
    assert run.layers(again) is layers


def test_a_closed_scene_does_not_concern_a_training(world: World) -> None:
    run, job = world.started()
    job.begin()
    world.scene.Clear(False)
    job.say("progress", iteration=5, iterations=100, losses={"supervised": 1.0})
    world.ticker.tick(2)
    assert (run.state, run.iteration) == ("running", 5)
    assert run.volume_of("zwei") is None


# Applying


def predicting(world: World, structure: np.ndarray | None = None) -> None:
    """Let the next fake child predict."""

    def predict(job: FakeJob) -> None:
        if job.arguments[0] != "predict":
            return
        images = [Path(argument) for argument in job.arguments[2 : job.arguments.index("--output")]]
        job.say("started", device="cpu", iterations=len(images))
        labels = (ball(SIZE, 3) if structure is None else structure).astype(np.uint8)
        for number, image in enumerate(images, start=1):
            target = job.folder.path / f"{image.name.partition('.')[0]}.seg.nrrd"
            write_segmentation(target, labels, OBLIQUE, (Class("Vorhof", (1,), (0.2, 0.4, 0.6)),))
            job.say("progress", iteration=number, iterations=len(images), case=image.stem, file=target.name)
        job.end("done", len(images))

    world.starter.on_start = predict


def test_a_volume_is_segmented(world: World) -> None:
    import slicer

    run = finished_run(world)
    entry = (
        "Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^59652004^Atrium~^^~Anatomic codes~^^~^^"
    )
    (run.folder.path / "inputs" / "segments.json").write_text(json.dumps({"Vorhof": entry}), encoding="utf-8")
    predicting(world)
    node = world.logic.predict(run, world.volumes[2])
    assert node.GetClassName() == "vtkMRMLSegmentationNode"
    segmentation = node.GetSegmentation()
    segment = segmentation.GetNthSegment(0)
    assert segment.GetName() == "Vorhof"
    assert np.allclose(segment.GetColor(), (0.2, 0.4, 0.6), atol=1e-3)
    import vtk

    value = vtk.reference("")
    segment.GetTag("TerminologyEntry", value)
    assert str(value) == entry
    drawn = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentation.GetNthSegmentID(0), world.volumes[2])
    assert np.array_equal(drawn > 0, ball(SIZE, 3))
    reference = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    assert reference is world.volumes[2]
    assert world.logic.cases.row(world.volumes[2]).segmentation is None, "a prediction is no label"
    folder = world.starter.last.folder.path
    assert [path.name for path in folder.rglob("*.nrrd")] == ["drei.seg.nrrd"], "copies of images do not stay"
    assert folder.parent == run.folder.path / "predictions"


def test_what_segments_mean_is_known_of_a_run_that_was_not_opened(world: World) -> None:
    from SemiSAMPlusPanel.export import terminology_of
    from SemiSAMPlusPanel.logic import ModuleLogic

    run = finished_run(world)
    (run.folder.path / "inputs" / "segments.json").write_text(json.dumps({"Vorhof": "a~b"}), encoding="utf-8")
    predicting(world)
    later = ModuleLogic(world.scene, start_job=world.starter, ticker=FakeTicker, runs_folder=world.logic.runs_folder)
    node = later.predict(run.folder.path, world.volumes[2])
    later.close()
    assert terminology_of(node.GetSegmentation().GetNthSegment(0)) == "a~b"


def test_several_volumes_of_one_name_are_told_apart(world: World) -> None:
    run = finished_run(world)
    for volume in world.volumes:
        volume.SetName("CT")
    predicting(world)
    nodes = world.logic.predict(run, world.volumes)
    assert len({node.GetID() for node in nodes}) == 3
    for node, volume in zip(nodes, world.volumes, strict=True):
        assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume


def test_files_are_predicted_into_a_folder(world: World, tmp_path: Path) -> None:
    run = finished_run(world)
    image = write_volume(tmp_path / "images" / "fall.nii.gz", np.random.default_rng(9).normal(size=SIZE), OBLIQUE)
    predicting(world)
    prediction = world.logic.predict(
        run, image, output=tmp_path / "Ausgabe ü", uncertainty=True, refine=False, device="cuda:1"
    )
    assert prediction.files == [tmp_path / "Ausgabe ü" / "fall.seg.nrrd"]
    assert prediction.state == "done"
    assert world.starter.last.arguments == [
        "predict",
        str(run.folder.path),
        str(image),
        "--output",
        str(tmp_path / "Ausgabe ü"),
        "--device",
        "cuda:1",
        "--uncertainty",
        "--no-refine",
    ]


def test_predictions_tell_their_progress_and_can_be_cancelled(world: World) -> None:
    run = finished_run(world)
    prediction = world.logic.start_prediction(run, world.volumes)
    told: list[Any] = []
    world.logic.prediction_changed.connect(lambda changed: told.append(changed.state))
    ended: list[Any] = []
    prediction.ended.connect(ended.append)
    assert (prediction.state, prediction.progress) == ("preparing", (0, 3))
    world.ticker.tick(10)
    job = world.starter.last
    assert prediction.state == "running"
    target = job.folder.path / f"{Path(job.arguments[2]).stem}.seg.nrrd"
    write_segmentation(target, ball(SIZE, 3).astype(np.uint8), OBLIQUE, (Class("Vorhof", (1,)),))
    job.say("progress", iteration=1, iterations=3, seconds_left=9.0, case="MR ä", file=target.name)
    world.ticker.tick()
    assert (prediction.progress, prediction.case, prediction.seconds_left) == ((1, 3), "MR ä", 9.0)
    prediction.cancel()
    assert (job.stopped, job.killed) == (True, False)
    job.end("stopped", 1)
    world.ticker.tick(10)
    assert prediction.state == "stopped"
    assert list(prediction.nodes) == [world.volumes[0].GetID()], "what is predicted stays"
    assert ended == [prediction]
    assert world.ticker.interval is None


def test_a_second_cancel_ends_at_once(world: World) -> None:
    run = finished_run(world)
    prediction = world.logic.start_prediction(run, world.volumes)
    world.ticker.tick(10)
    prediction.cancel()
    prediction.cancel()
    assert world.starter.last.killed
    world.ticker.tick(5)
    assert prediction.state == "stopped"


def test_a_failed_prediction_is_told(world: World) -> None:
    run = finished_run(world)
    prediction = world.logic.start_prediction(run, world.volumes)
    world.ticker.tick(10)
    world.starter.last.say("error", what="The GPU is gone.", remedy="Predict on the CPU.", log=None)
    world.starter.last.end(None)
    world.ticker.tick(5)
    assert prediction.state == "failed"
    assert prediction.error[:2] == ("The GPU is gone.", "Predict on the CPU.")
    with pytest.raises(SemiSAMPlusError, match="The GPU is gone"):
        prediction.wait()


def test_a_scene_closed_meanwhile_loads_nothing(world: World) -> None:
    run = finished_run(world)
    predicting(world)
    prediction = world.logic.start_prediction(run, world.volumes)
    while prediction.state != "loading":
        world.ticker.tick()
    world.scene.Clear(False)
    world.ticker.tick(10)
    assert prediction.state == "done"
    assert len(prediction.files) == 3
    assert prediction.nodes == {}


def test_copies_of_images_go_however_a_prediction_ends(world: World) -> None:
    run = finished_run(world)

    def begun() -> Any:
        prediction = world.logic.start_prediction(run, world.volumes)
        world.ticker.tick()
        assert len(list(prediction.output.rglob("*.nrrd"))) == 1
        return prediction

    def refuse(job: FakeJob) -> None:
        raise SemiSAMPlusError("PythonSlicer: cannot be started.", "Repair Slicer.")

    cancelled = begun()
    cancelled.cancel()
    world.starter.on_start = refuse
    failed = begun()
    world.ticker.tick(5)
    world.starter.on_start = None
    killed = begun()
    world.ticker.tick(5)
    killed.cancel()
    killed.cancel()
    world.ticker.tick(5)
    left = begun()
    world.scene.RemoveNode(world.volumes[1])
    world.ticker.tick(5)
    for prediction, state in ((cancelled, "stopped"), (failed, "failed"), (killed, "stopped"), (left, "failed")):
        assert prediction.state == state
        assert list(prediction.output.iterdir()) == []


def test_a_folder_of_the_user_is_left_alone(world: World, tmp_path: Path) -> None:
    run = finished_run(world)
    study = tmp_path / "study"
    image = write_volume(study / "inputs" / "fall.nii.gz", np.random.default_rng(9).normal(size=SIZE), OBLIQUE)
    predicting(world)
    prediction = world.logic.predict(run, [study / "inputs", world.volumes[1]], output=study)
    assert prediction.state == "done"
    assert image.is_file()
    assert [path.name for path in study.iterdir() if path.is_dir()] == ["inputs"]


def test_what_cannot_be_applied_is_refused(world: World, tmp_path: Path) -> None:
    run, _ = world.started()
    with pytest.raises(RunFolderError, match="no specialist yet"):
        world.logic.predict(run, world.volumes[0])
    with pytest.raises(VolumeError, match="No volume"):
        world.logic.start_prediction(run, [])


def test_an_exported_specialist_is_applied_from_its_own_folder(world: World, tmp_path: Path) -> None:
    (tmp_path / "specialist").mkdir()
    (tmp_path / "specialist" / "model.json").write_text("{}", encoding="utf-8")
    predicting(world)
    world.logic.predict(tmp_path / "specialist", world.volumes[0])
    assert world.starter.last.arguments[1] == str(tmp_path / "specialist")
    assert world.starter.last.folder.path.is_relative_to(world.logic.runs_folder)


def test_a_run_that_may_only_be_read_is_applied_into_the_folder_of_runs(world: World, tmp_path: Path) -> None:
    run = finished_run(world)
    (run.folder.path / "predictions").write_text("no folder can be made here", encoding="utf-8")
    predicting(world)
    assert world.logic.predict(run, world.volumes[2]) is not None
    assert world.starter.last.folder.path.parent == world.logic.runs_folder / "predictions"


# Correcting


def test_a_prediction_is_copied_corrected_and_taught(world: World) -> None:
    run = finished_run(world)
    volume = world.volumes[2]
    with pytest.raises(VolumeError, match="no prediction of it"):
        world.logic.correct(run, volume)
    predicting(world)
    predicted = world.logic.predict(run, volume)
    assert world.logic.corrected(volume) is None
    copy = world.logic.correct(run, volume)
    assert copy is not predicted
    copy.GetSegmentation().GetNthSegment(0).SetName("Vorhof links")
    assert predicted.GetSegmentation().GetNthSegment(0).GetName() == "Vorhof"
    assert world.logic.corrected(volume) is copy
    row = world.logic.cases.row(volume)
    assert (row.role, row.segmentation) == (Role.UNLABELED, None), "a draft is no label"
    row = world.logic.make_labeled(volume, copy)
    assert (row.role, row.segmentation) == (Role.LABELED, copy)
    assert world.logic.corrected(volume) is None
    run = world.logic.train_rows(world.logic.cases.rows(), TrainingConfig(), start_from=run)
    world.ticker.tick(50)
    cohort = Cohort.load(run.folder.path / "cohort.json")
    assert [case.name for case in cohort.labeled] == ["MR ä", "drei"]


def test_the_latest_prediction_is_what_is_corrected(world: World) -> None:
    import os

    import slicer

    run = finished_run(world)
    volume = world.volumes[1]
    layer = run.folder.layers("zwei") / "prediction.seg.nrrd"
    write_segmentation(layer, ball(SIZE, 2).astype(np.uint8), OBLIQUE, (Class("Vorhof", (1,)),))

    def size_of(node: Any) -> int:
        identity = node.GetSegmentation().GetNthSegmentID(0)
        return int((slicer.util.arrayFromSegmentBinaryLabelmap(node, identity, volume) > 0).sum())

    assert size_of(world.logic.correct(run, volume)) == ball(SIZE, 2).sum()
    predicting(world)
    world.logic.predict(run, volume)
    os.utime(layer, (0, 0))
    assert size_of(world.logic.correct(run.folder.path, volume)) == ball(SIZE, 3).sum()
    os.utime(layer, (4e9, 4e9))
    assert size_of(world.logic.correct(run, volume)) == ball(SIZE, 2).sum()


def test_an_unusable_correction_is_refused(world: World) -> None:
    empty = world.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "leer")
    with pytest.raises(VolumeError, match="no segments"):
        world.logic.make_labeled(world.volumes[1], empty)


# Facts


def test_devices_are_asked_of_a_child_once(world: World) -> None:
    told: list[int] = []
    world.logic.devices_changed.connect(lambda: told.append(1))
    assert world.logic.devices() == []
    world.logic.devices()
    (job,) = world.starter.jobs
    assert job.arguments[:2] == ["devices", "--json"]
    facts = [{"name": "cpu", "title": "CPU (8 threads)", "free": 5, "total": 9}]
    Path(job.arguments[2]).write_text(json.dumps({"devices": facts}), encoding="utf-8")
    job.running = False
    world.ticker.tick(2)
    assert world.logic.devices() == facts
    assert told == [1]
    assert not job.folder.path.exists(), "nothing is left behind"
    world.logic.ask_devices()
    assert len(world.starter.jobs) == 2


def test_devices_that_cannot_be_asked_are_asked_again_later(world: World) -> None:
    world.logic.devices()
    world.starter.last.running = False
    world.ticker.tick(2)
    assert world.logic.devices() == []
    assert len(world.starter.jobs) == 2


# Looking after it


def test_a_run_on_a_share_that_is_lost_holds_nothing_up(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "share" / "run"
    folder.mkdir(parents=True)
    for name, text in (("run.json", "{}"), ("events.jsonl", ""), ("job.json", '{"host": "far", "heartbeat": 9e9}')):
        (folder / name).write_text(text, encoding="utf-8")
    far = world.logic.open_run(folder)
    near = world.train()
    with locked(folder):
        world.ticker.tick(50)
        assert (far.state, near.state) == ("running", "running")
        with pytest.raises(RunFolderError, match="cannot be asked to stop"):
            far.stop()
        assert far.state == "running"


def test_what_may_not_be_read_is_refused_in_words_and_stops_nothing(world: World, tmp_path: Path) -> None:
    image = write_volume(tmp_path / "anna" / "a.nii.gz", np.zeros(SIZE), OBLIQUE)
    (tmp_path / "anna" / "run.json").write_text("{}", encoding="utf-8")
    world.logic.cases.add_folder(image.parent)
    run = world.train()
    with locked(tmp_path / "anna"):
        with pytest.raises(RunFolderError, match="not the folder of a run"):
            world.logic.open_run(tmp_path / "anna")
        with pytest.raises(RunFolderError, match="no specialist"):
            world.logic.start_prediction(tmp_path / "anna", world.volumes)
        world.ticker.tick(50)
        assert "may not be read" in world.logic.cases.rows()[-1].fault
    assert run.state == "running"


def test_the_ticker_hurries_works_and_rests(world: World) -> None:
    from SemiSAMPlusPanel import logic as module

    world.ticker.tick(3)
    assert world.ticker.interval is None
    run = world.train()
    assert world.ticker.interval == module._HURRIED
    world.ticker.tick(50)
    assert world.ticker.interval == module._WORKING
    world.starter.last.begin()
    world.starter.last.end()
    world.ticker.tick(3)
    assert run.state == "done"
    assert world.ticker.interval is None
    world.starter.last.running = True


def test_a_closed_logic_looks_after_nothing_and_ends_nothing(world: World) -> None:
    _, job = world.started()
    world.logic.close()
    assert world.ticker.interval is None
    assert job.running
    assert not job.stopped


def test_what_only_prepares_ends_with_the_logic_and_leaves_no_images(world: World) -> None:
    run = finished_run(world)
    other = world.train()
    prediction = world.logic.start_prediction(run, world.volumes)
    world.ticker.tick(2)
    copies = [*other.folder.path.rglob("*.nrrd"), *prediction.output.rglob("*.nrrd")]
    assert len(copies) == 4
    world.logic.close()
    assert (other.state, prediction.state) == ("stopped", "stopped")
    assert [path for path in copies if path.exists()] == []
    assert world.ticker.interval is None


def test_the_next_session_sweeps_out_what_a_killed_one_left(world: World) -> None:
    import os

    from SemiSAMPlusPanel.logic import ModuleLogic

    run = world.train()
    world.ticker.tick(2)
    assert world.logic.runs() == []
    assert len(list(run.folder.path.rglob("*.nrrd"))) == 2
    for path in run.folder.path.rglob("*"):
        os.utime(path, (0, 0))
    later = ModuleLogic(world.scene, start_job=world.starter, ticker=FakeTicker, runs_folder=world.logic.runs_folder)
    assert later.runs() == []
    assert not run.folder.path.exists()
    later.close()
