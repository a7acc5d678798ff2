"""Predictions: on each input's own grid, named after it, and never in the place of anything else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import SemiSAMPlusLib.evaluation.prediction as prediction_module
from SemiSAMPlusLib.cohort.cohort import Case, Class, Cohort, Role
from SemiSAMPlusLib.cohort.inputs import find_inputs
from SemiSAMPlusLib.cohort.intensity import Normalization
from SemiSAMPlusLib.cohort.outputs import read_classes, read_segmentation, read_uncertainty
from SemiSAMPlusLib.cohort.plan import Plan
from SemiSAMPlusLib.cohort.volume import Grid, read_image
from SemiSAMPlusLib.errors import ConfigError, DeviceError, RunFolderError, SemiSAMPlusError, VolumeError, WeightsError
from SemiSAMPlusLib.evaluation.prediction import predict
from SemiSAMPlusLib.run.folder import JobFolder, RunFolder
from SemiSAMPlusLib.specialist.networks import build_specialist
from SemiSAMPlusLib.specialist.specialist import Specialist

CLASSES = (Class("Vorhof", (3,), (0.9, 0.6, 0.0)), Class("心耳", (7,), (0.3, 0.7, 0.9)))
#: A grid that is neither isotropic nor along the axes: turned by 20° about z, and its x axis runs to the right.
TURN = np.deg2rad(20)
DIRECTION = (-np.cos(TURN), -np.sin(TURN), 0.0, -np.sin(TURN), np.cos(TURN), 0.0, 0.0, 0.0, 1.0)


def _write_image(path: Path, *, seed: int = 0, size: tuple[int, int, int] = (12, 20, 17)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(100, 20, size).astype(np.float32)
    grid = Grid(size, (1.5, 1.1, 2.3), (-30.0, 12.5, 40.25), DIRECTION)
    sitk.WriteImage(grid.image(array), str(path))
    return path


def _write_series(folder: Path) -> Path:
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    rng = np.random.default_rng(3)
    for number in range(9):
        image = sitk.GetImageFromArray(rng.integers(0, 400, (16, 18)).astype(np.int16))
        image.SetSpacing((1.2, 1.2))
        for tag, value in (
            ("0008|0060", "MR"),
            ("0020|000e", "1.2.826.0.1.3680043.2.1125.1.4"),
            ("0020|000d", "1.2.826.0.1.3680043.2.1125.1.3"),
            ("0008|0018", f"1.2.826.0.1.3680043.2.1125.1.5.{number}"),
            ("0020|0032", f"5\\-7\\{3.0 * number}"),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0020|0013", str(number + 1)),
            ("0018|0050", "3"),
        ):
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"slice{number}.dcm"))
        writer.Execute(image)
    return folder


def _save_specialist(folder: Path, channels: Sequence[str] = ("image",)) -> Path:
    plan = Plan(2.0, (16, 16, 16), (Normalization("mr"),) * len(channels), "small", (None, None))
    network = build_specialist("unet3d", in_channels=len(channels), out_channels=3, patch=plan.patch, size="small")
    Specialist(network, "unet3d", plan, CLASSES, tuple(channels), "float32", {}).save(folder)
    return folder


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_specialist(tmp_path_factory.mktemp("Läufe") / "specialist")


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_specialist(tmp_path_factory.mktemp("runs") / "specialist", ("ct", "pet"))


def test_a_prediction_lies_on_its_images_own_grid(specialist: Path, tmp_path: Path) -> None:
    images = [_write_image(tmp_path / "Bilder" / f"{name}.nrrd", seed=i) for i, name in enumerate(("größe 1", "心房"))]
    output = tmp_path / "out put ü"
    written = predict(specialist, images, output, uncertainty=True, device="cpu")
    assert [path.name for path in written] == ["größe 1.seg.nrrd", "心房.seg.nrrd"]
    assert written[0].parent == output
    for image, path in zip(images, written, strict=True):
        labels, grid = read_segmentation(path, CLASSES)
        assert grid == Grid.of(read_image(image))
        assert labels.any()
        assert [one.name for one in read_classes(path)] == ["Vorhof", "心耳"]
        entropy, where, source = read_uncertainty(output / f"{image.stem}_uncertainty.nii.gz")
        assert where.shape == grid.shape
        assert source == "predictive entropy"
        assert 0 < entropy.max() <= 1


def test_a_labelmap_has_the_cohorts_own_values(specialist: Path, tmp_path: Path) -> None:
    image = _write_image(tmp_path / "a.nii.gz")
    segments = read_segmentation(predict(specialist, [image], tmp_path / "1", device="cpu")[0], CLASSES)[0]
    (path,) = predict(specialist, [image], tmp_path / "2", format="nii.gz", device="cpu")
    assert path.name == "a.nii.gz"
    numbers = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(numbers, np.array([0, 3, 7])[segments])
    assert Grid.of(sitk.ReadImage(str(path))) == Grid.of(read_image(image))


def test_files_folders_and_dicom_series(specialist: Path, tmp_path: Path) -> None:
    lone = _write_image(tmp_path / "lone.mha")
    folder = tmp_path / "folder"
    for seed, name in enumerate(("b.nii.gz", "a.nrrd"), start=1):
        _write_image(folder / name, seed=seed)
    (folder / "notes.txt").write_text("not a volume", encoding="utf-8")
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(folder / "a.seg.nrrd"))
    series = _write_series(tmp_path / "series 1")
    written = predict(specialist, [lone, folder, series], tmp_path / "out", device="cpu")
    assert [path.name.split(".")[0] for path in written] == ["lone", "series 1", "a", "b"]
    grid = read_segmentation(written[1], CLASSES)[1]
    assert grid.shape == (9, 16, 18)
    assert grid.spacing == pytest.approx((1.2, 1.2, 3.0))


def test_a_dicom_series_that_lacks_slices_is_refused_before_anything_is_predicted(
    specialist: Path, tmp_path: Path
) -> None:
    series = _write_series(tmp_path / "series")
    (series / "slice4.dcm").unlink()
    images = [_write_image(tmp_path / "lone.mha"), series]
    with pytest.raises(VolumeError, match=r"series: its slices lie 3 to 6 mm apart, .* slice3.dcm and slice5.dcm"):
        predict(specialist, images, tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").glob("*.nrrd"))


def test_a_cohorts_folder_is_read_as_the_cohort_is(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        _write_image(tmp_path / "images" / f"{name}.nii.gz")
        _write_image(tmp_path / "labels" / f"{name}.nii.gz")
    cases = find_inputs([tmp_path], ("image",))
    assert [(case.name, case.images[0].parent.name) for case in cases] == [("p1", "images"), ("p2", "images")]


@pytest.mark.parametrize(
    ("files", "given"),
    [
        (("p1_0000.nii", "p1_0001.nii", "p2_0000.nii", "p2_0001.nii"), "."),
        (("pet/p1.nii", "pet/p2.nii", "CT/p1.nii", "CT/p2.nii"), "."),
        (("images/p1_0000.nii", "images/p1_0001.nii", "images/p2_0000.nii", "images/p2_0001.nii"), "."),
        (("p1_0000.nii", "p1_0001.nii", "p2_0000.nii", "p2_0001.nii"), "*"),
    ],
    ids=["suffixes", "folders", "cohort", "files"],
)
def test_several_channels(files: Sequence[str], given: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    cases = find_inputs(sorted(tmp_path.glob(given)) if given == "*" else [tmp_path], ("ct", "pet"))
    assert [case.name for case in cases] == ["p1", "p2"]
    first = ["/".join(image.relative_to(tmp_path).parts) for image in cases[0].images]
    expected = [file for file in files if "p1" in file]
    assert first == (expected[::-1] if "pet/p1.nii" in files else expected)


def test_one_channel_of_many_is_picked_by_name(tmp_path: Path) -> None:
    for case in ("B1", "B2"):
        for channel in ("flair", "t1", "t1ce", "t2", "seg"):
            (tmp_path / case).mkdir(exist_ok=True)
            (tmp_path / case / f"{case}_{channel}.nii.gz").touch()
    names = [[image.name for image in case.images] for case in find_inputs([tmp_path], ("flair",))]
    assert names == [["B1_flair.nii.gz"], ["B2_flair.nii.gz"]]
    (case,) = find_inputs([tmp_path / "B2"], ("t2", "flair"))
    assert [image.name for image in case.images] == ["B2_t2.nii.gz", "B2_flair.nii.gz"]


def test_too_few_channels_are_told(two_channels: Path, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"1 channel.*expected 2 \(ct, pet\)"):
        predict(two_channels, [_write_image(tmp_path / "in" / "a.nii")], tmp_path / "out", device="cpu")
    for name in ("p1_0000", "p1_0001", "p2_0000"):
        _write_image(tmp_path / "many" / f"{name}.nii")
    with pytest.raises(VolumeError, match=r"case 'p2' has 1 image\(s\), expected 2"):
        predict(two_channels, [tmp_path / "many"], tmp_path / "out", device="cpu")


def test_all_inputs_are_checked_before_the_first_is_predicted(specialist: Path, tmp_path: Path) -> None:
    good = _write_image(tmp_path / "in" / "good.nii.gz")
    (tmp_path / "in" / "empty.nii.gz").touch()
    (tmp_path / "in" / "text.nrrd").write_text("not a volume", encoding="utf-8")
    with pytest.raises(VolumeError, match="2 faults") as found:
        predict(specialist, [tmp_path / "in"], tmp_path / "out", device="cpu")
    assert "empty.nii.gz" in found.value.what
    assert "text.nrrd" in found.value.what
    assert good.name not in found.value.what
    assert not list((tmp_path / "out").glob("*.seg.nrrd"))
    error = JobFolder(tmp_path / "out").events()[-1]
    assert (error["event"], error["what"]) == ("error", found.value.what)
    assert not JobFolder(tmp_path / "out").is_running()


@pytest.mark.parametrize("images", [["missing.nii"], []])
def test_nothing_to_predict_is_an_error(images: list[str], specialist: Path, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="no such file" if images else "No image"):
        predict(specialist, [tmp_path / name for name in images], tmp_path / "out", device="cpu")


def test_two_cases_of_one_name_are_refused(specialist: Path, tmp_path: Path) -> None:
    for name in ("1/Case.nii", "2/case.nii"):
        _write_image(tmp_path / name)
    with pytest.raises(VolumeError, match="names that differ"):
        predict(specialist, [tmp_path / "1", tmp_path / "2"], tmp_path / "out", device="cpu")


def test_inputs_and_labels_are_never_written_over(specialist: Path, tmp_path: Path) -> None:
    image = _write_image(tmp_path / "images" / "a.nii.gz")
    label = _write_image(tmp_path / "labels" / "a.nii.gz", seed=2)
    before = image.read_bytes(), label.read_bytes()
    for given in (image, tmp_path / "images"):
        with pytest.raises(VolumeError, match="holds the images"):
            predict(specialist, [given], tmp_path / "images", format="nii.gz", device="cpu")
    for given in (image, tmp_path):  # The second knows of the label, the first does not.
        with pytest.raises(VolumeError, match=r"is an input|was not written by a prediction"):
            predict(specialist, [given], tmp_path / "labels", format="nii.gz", device="cpu")
    assert before == (image.read_bytes(), label.read_bytes())


def test_what_was_refused_once_is_refused_again_and_leaves_nothing(specialist: Path, tmp_path: Path) -> None:
    image = _write_image(tmp_path / "images" / "a.nii.gz")
    mine = _write_image(tmp_path / "mine" / "a.nii.gz", seed=2)
    before = mine.read_bytes()
    for _ in range(2):
        with pytest.raises(VolumeError, match="was not written by a prediction"):
            predict(specialist, [image], mine.parent, format="nii.gz", device="cpu")
    assert mine.read_bytes() == before
    assert list(mine.parent.iterdir()) == [mine]


def test_a_file_laid_beside_predictions_is_none_of_them(specialist: Path, tmp_path: Path) -> None:
    images = [_write_image(tmp_path / f"{name}.nii.gz", seed=seed) for seed, name in enumerate("ab")]
    predict(specialist, images[:1], tmp_path / "out", format="nii.gz", device="cpu")
    for name, given in (("b.nii.gz", images[1]), ("a_uncertainty.nii.gz", images[0])):
        mine = _write_image(tmp_path / "out" / name, seed=3)
        before = mine.read_bytes()
        with pytest.raises(VolumeError, match=f"{name}: exists, and was not written by a prediction"):
            predict(specialist, [given], tmp_path / "out", format="nii.gz", uncertainty=True, device="cpu")
        assert mine.read_bytes() == before


def test_a_prediction_that_failed_amid_writing_may_be_made_again(
    specialist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _write_image(tmp_path / "a.nii.gz")

    def full(*_: object) -> None:
        raise VolumeError("a_uncertainty.nii.gz: no space left.", "Make room.")

    with monkeypatch.context() as patch:
        patch.setattr(prediction_module, "write_uncertainty", full)
        with pytest.raises(VolumeError, match="no space"):
            predict(specialist, [image], tmp_path / "out", uncertainty=True, device="cpu")
    (written,) = predict(specialist, [image], tmp_path / "out", uncertainty=True, device="cpu")
    assert written.exists()


def test_a_case_that_does_not_fit_into_memory_is_told(
    specialist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(Specialist, "probabilities", run_out)
    image = _write_image(tmp_path / "in" / "large.nii.gz")
    with pytest.raises(DeviceError, match="large: does not fit on cpu") as caught:
        predict(specialist, [image], tmp_path / "out", device="cpu")
    assert "--device cpu" not in caught.value.remedy
    (told,) = [event for event in JobFolder(tmp_path / "out").events() if event["event"] == "error"]
    assert (told["what"], told["remedy"]) == (caught.value.what, caught.value.remedy)


def test_two_predictions_of_one_file_are_refused(specialist: Path, tmp_path: Path) -> None:
    images = [_write_image(tmp_path / f"{name}.nii.gz") for name in ("a", "A_uncertainty")]
    with pytest.raises(VolumeError, match="would be written for case 'a' and for case 'A_uncertainty'"):
        predict(specialist, images, tmp_path / "out", format="nii.gz", uncertainty=True, device="cpu")
    assert len(predict(specialist, images, tmp_path / "out", format="nii.gz", device="cpu")) == 2


def test_predictions_may_be_made_again(specialist: Path, tmp_path: Path) -> None:
    image = _write_image(tmp_path / "a.nii.gz")
    (first,) = predict(specialist, [image], tmp_path / "out", uncertainty=True, device="cpu")
    first.write_bytes(b"old")
    (second,) = predict(specialist, [image], tmp_path / "out", uncertainty=True, device="cpu")
    assert first == second
    assert read_segmentation(second, CLASSES)[0].shape == (12, 20, 17)


def test_a_run_folder_is_no_place_for_predictions(specialist: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunFolderError, match="is a run folder"):
        predict(specialist, [_write_image(tmp_path / "a.nii")], tmp_path / "run", device="cpu")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def _run_with(tmp_path: Path, cases: Sequence[Case]) -> Path:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    _save_specialist(run.specialist)
    run.write_description({"cohort": Cohort(tuple(cases), CLASSES).to_dict()})
    return run.path


def test_without_images_the_runs_test_cases_are_predicted(tmp_path: Path) -> None:
    cases = [
        Case(name, (_write_image(tmp_path / f"{i}.nii.gz", seed=i),), role=role)
        for i, (name, role) in enumerate(
            [("first", Role.LABELED), ("a/b: c", Role.TEST), ("über", Role.TEST), ("other", Role.UNLABELED)]
        )
    ]
    written = predict(_run_with(tmp_path, cases), None, tmp_path / "out", device="cpu")
    assert len(written) == 2
    assert written[0].name.startswith("a_b_c-")  # No system takes the name itself.
    assert written[1].name == "über.seg.nrrd"
    assert all(path.exists() for path in written)


def test_a_run_that_names_no_cohort_is_told(tmp_path: Path) -> None:
    run = _run_with(tmp_path, [])
    RunFolder(run).write_description({})
    with pytest.raises(RunFolderError, match="has no 'cohort'"):
        predict(run, None, tmp_path / "out", device="cpu")


@pytest.mark.parametrize("kind", ["run", "specialist"])
def test_without_images_and_test_cases_there_is_an_error(kind: str, specialist: Path, tmp_path: Path) -> None:
    case = Case("a", (_write_image(tmp_path / "a.nii"),), role=Role.LABELED)
    source = _run_with(tmp_path, [case]) if kind == "run" else specialist
    with pytest.raises(VolumeError, match="test cases") as found:
        predict(source, None, tmp_path / "out", device="cpu")
    assert found.value.remedy.startswith("Name the images")


def test_a_stop_is_honoured_between_cases(specialist: Path, tmp_path: Path) -> None:
    for name in "abc":
        _write_image(tmp_path / "in" / f"{name}.nii")
    folder, seen = JobFolder(tmp_path / "out"), []

    def observe(event: dict) -> None:
        seen.append(event)
        if event["event"] == "progress" and event["iteration"] == 2:
            assert folder.is_running()
            assert folder.owner()["kind"] == "predict"
            folder.ask_to_stop()

    written = predict(specialist, [tmp_path / "in"], tmp_path / "out", device="cpu", observer=observe)
    assert [path.name for path in written] == ["a.seg.nrrd", "b.seg.nrrd"]
    assert not (tmp_path / "out" / "c.seg.nrrd").exists()
    assert seen == folder.events()
    each = ["writes", "progress"]
    assert [event["event"] for event in seen] == ["started", "message", *each, *each, "finished"]
    assert (seen[-1]["reason"], seen[-1]["iteration"]) == ("stopped", 2)
    assert seen[2]["files"] == ["a.seg.nrrd"]
    assert (seen[3]["case"], seen[3]["iterations"]) == ("a", 3)
    assert seen[1]["text"].startswith("Predicting on")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"source": "nowhere"}, WeightsError),
        ({"device": "cuda:77"}, SemiSAMPlusError),
        ({"format": "png"}, ConfigError),
    ],
)
def test_what_cannot_work_is_told(change: dict, error: type[Exception], specialist: Path, tmp_path: Path) -> None:
    arguments = {"source": specialist, "device": "cpu", "format": "seg.nrrd"} | change
    source = tmp_path / arguments.pop("source")
    with pytest.raises(error):
        predict(source, [_write_image(tmp_path / "a.nii")], tmp_path / "out", **arguments)


def test_a_moved_specialist_needs_nothing_of_its_run(specialist: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in specialist.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert sorted(path.name for path in moved.iterdir()) == ["model.json", "weights.safetensors"]
    image = _write_image(tmp_path / "a.nii")
    first, second = (predict(one, [image], tmp_path / one.name, device="cpu")[0] for one in (specialist, moved))
    assert np.array_equal(read_segmentation(first, CLASSES)[0], read_segmentation(second, CLASSES)[0])
    assert json.loads((moved / "model.json").read_text(encoding="utf-8"))["channels"] == ["image"]
