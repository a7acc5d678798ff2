"""From folders as the field lays them out to cohorts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SemiSAMPlusLib.cohort.checks import check_cohort
from SemiSAMPlusLib.cohort.cohort import Class, Cohort, Role
from SemiSAMPlusLib.cohort.discovery import find_cohort
from SemiSAMPlusLib.cohort.layouts import recognize
from SemiSAMPlusLib.cohort.outputs import write_segmentation
from SemiSAMPlusLib.cohort.volume import Grid, read_image
from SemiSAMPlusLib.errors import CohortError, VolumeError

NAMES = [f"case{number:02d}" for number in range(1, 11)]


def write(path, values=(0, 1), seed=None):
    """Write a tiny label with ``values``, or, with a seed, a tiny image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((4, 5, 6), np.uint8)
    array.flat[: len(values)] = values
    if seed is not None:
        array = np.random.default_rng(seed).integers(0, 200, (4, 5, 6)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def touch(path):
    """Make a file that no test below may open: finding cases needs names only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not a volume")
    return path


def write_dicom(folder, seed, positions=(0, 1, 2, 3)):
    folder.mkdir(parents=True)
    volume = np.random.default_rng(seed).integers(0, 200, (4, 5, 6)).astype(np.int16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, (array, position) in enumerate(zip(volume, positions, strict=True)):
        image = sitk.GetImageFromArray(array)
        tags = {
            "0008|0060": "MR",
            "0020|000d": f"1.2.{seed}",
            "0020|000e": f"1.2.{seed}.1",
            "0008|0018": f"1.2.{seed}.1.{number}",
            "0020|0032": f"0\\0\\{position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(number),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        # Without an ending, as many archives write them: only the content says DICOM.
        writer.SetFileName(str(folder / f"slice{number}.dcm"))
        writer.Execute(image)
        (folder / f"slice{number}.dcm").rename(folder / f"slice{number}")
    return folder


def names(cases):
    return [case.name for case in cases]


@pytest.fixture
def folder(tmp_path):
    """Ten cases in images/ and labels/; only the labels can be opened. The path has a space and is not ASCII."""
    root = tmp_path / "Vorhöfe 左心房"
    for name in NAMES:
        touch(root / "images" / f"{name}.nii.gz")
        write(root / "labels" / f"{name}.nii.gz")
    touch(root / "images" / "._case01.nii.gz")
    return root


# --- Layouts


def make_images_labels(root):
    for seed, name in enumerate(["a", "b", "c d é"]):
        write(root / "images" / f"{name}.nrrd", seed=seed)
    write(root / "labels" / "a.seg.nrrd", (0, 1, 2))
    write(root / "labels" / "c d é.nii.gz")
    return root, {"names": ["a", "b", "c d é"], "channels": ("image",), "classes": {"class 1": (1,), "class 2": (2,)}}


def make_images_named_like_channels(root):
    for seed in range(3):
        write(root / "images" / f"case_000{seed}.nii.gz", seed=seed)
        write(root / "labels" / f"case_000{seed}.nii.gz")
    return root, {"names": ["case_0000", "case_0001", "case_0002"], "channels": ("image",)}


def make_images_with_suffixes(root):
    for name in "ab":
        for channel in range(2):
            write(root / "images" / f"{name}_000{channel}.nii.gz", seed=channel)
        write(root / "labels" / f"{name}.nii.gz")
    return root, {"names": ["a", "b"], "channels": ("channel 0", "channel 1"), "last": "_0001.nii.gz"}


def make_channel_folders(root):
    for name in "ab":
        for channel in ("ct", "pet"):
            write(root / "images" / channel / f"{name}.mha", seed=1)
        write(root / "labels" / f"{name}.mha")
    return root, {"names": ["a", "b"], "channels": ("ct", "pet"), "last": "pet/a.mha"}


def make_dicom(root):
    for seed, name in enumerate(["p1", "p 2"], start=1):
        write_dicom(root / "images" / name, seed)
        write(root / "labels" / f"{name}.nii.gz")
    return root, {"names": ["p 2", "p1"], "channels": ("image",), "last": "images/p 2"}


def make_decathlon(root):
    for name in ("la_001", "la_002"):
        write(root / "imagesTr" / f"{name}.nii.gz", seed=1)
        write(root / "labelsTr" / f"{name}.nii.gz")
        touch(root / "imagesTr" / f"._{name}.nii.gz")
    write(root / "imagesTs" / "la_000.nii.gz", seed=2)
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left atrium"}, "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return root, {
        "names": ["la_001", "la_002", "la_000"],
        "channels": ("MRI",),
        "classes": {"left atrium": (1,)},
        "test": ["la_000"],
    }


def make_nnunet(root):
    for name in ("case_001", "case_002"):
        for channel in range(2):
            write(root / "imagesTr" / f"{name}_000{channel}.nii.gz", seed=channel)
        write(root / "labelsTr" / f"{name}.nii.gz")
    for channel in range(2):
        write(root / "imagesTs" / f"case_003_000{channel}.nii.gz", seed=channel)
    write(root / "labelsTs" / "case_003.nii.gz")
    described = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "edema": 1, "core": [2, 3]},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described), encoding="utf-8-sig")
    return root, {
        "names": ["case_001", "case_002", "case_003"],
        "channels": ("T1", "FLAIR"),
        "classes": {"edema": (1,), "core": (2, 3)},
        "test": ["case_003"],
        "last": "case_001_0001.nii.gz",
    }


def make_brats(case_names, level=""):
    def make(root):
        for index, name in enumerate(case_names):
            case = root / (("HGG", "LGG")[index % 2] if level else "") / name
            ending = ".nii" if index else ".nii.gz"
            for channel in ("flair", "t1", "t1ce", "t2"):
                write(case / f"{name}_{channel}{ending}", seed=1)
            write(case / f"{name}_seg{ending}", (0, 1, 2, 4))
        (root / "survival_data.csv").write_text("", encoding="utf-8")
        return root, {
            "names": sorted(case_names),
            "channels": ("flair", "t1", "t1ce", "t2"),
            "classes": {"class 1": (1,), "class 2": (2,), "class 4": (4,)},
            "last": "_t2.nii.gz",
        }

    return make


def make_datalist(root):
    for number in range(1, 5):
        for channel in ("t1", "t2"):
            write(root / "data" / f"s{number}" / f"s{number}_{channel}.nii.gz", seed=number)
        write(root / "data" / f"s{number}" / f"s{number}_seg.nii.gz")

    def item(number, label=True):
        base = f"data/s{number}/s{number}"
        images = {"image": [f"{base}_t1.nii.gz", f"{base}_t2.nii.gz"]}
        return images | ({"label": f"{base}_seg.nii.gz"} if label else {})

    data = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "tumour"},
        "training": [item(2, label=False), item(1)],
        "validation": [item(3)],
        "test": [item(4, label=False)["image"]],
    }
    file = root / "données.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file, {
        "names": ["s1", "s2", "s3", "s4"],
        "channels": ("T1", "T2"),
        "classes": {"tumour": (1,)},
        "validation": ["s3"],
        "test": ["s4"],
        "last": "s1_t2.nii.gz",
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_images_labels, "images/ and labels/"),
        (make_images_named_like_channels, "images/ and labels/"),
        (make_images_with_suffixes, "numbered _0000"),
        (make_channel_folders, "one folder of images per channel"),
        (make_dicom, "images/ and labels/"),
        (make_decathlon, "Medical Segmentation Decathlon"),
        (make_nnunet, "nnU-Net"),
        (make_brats(["BraTS19_2013_10_1", "BraTS19_TMC_1"], "grades"), "BraTS"),
        (make_brats(["BraTS20_Training_001", "BraTS20_Training_002"]), "BraTS"),
        (make_brats(["BraTS2021_00000", "BraTS2021_00002"]), "BraTS"),
        (make_datalist, "datalist"),
    ],
)
def test_layouts_are_recognised(tmp_path, make, words):
    source, expected = make(tmp_path / "Daten – 数据 1")
    assert words in recognize(source).description
    cohort = find_cohort(source)
    assert names(cohort.cases) == expected["names"]
    assert cohort.channels == expected["channels"]
    assert {c.name: c.values for c in cohort.classes} == expected.get("classes", {"class 1": (1,)})
    assert not cohort.picked
    assert names(cohort.labeled) == expected["names"][:1]
    assert names(cohort.validation) == expected.get("validation", [])
    assert names(cohort.test) == expected.get("test", [])
    assert all(len(case.images) == len(cohort.channels) for case in cohort.cases)
    assert all(path.exists() for case in cohort.cases for path in (*case.images, *filter(None, [case.label])))
    assert cohort.cases[0].images[-1].as_posix().endswith(expected.get("last", ""))
    assert all(case.label is None for case in cohort.unlabeled)
    # What was found is sound: recognising and reading agree on what a volume is.
    cohort.save(tmp_path / "cohort.json")
    assert Cohort.load(tmp_path / "cohort.json").to_dict() == cohort.to_dict()


def test_paths_that_go_up_are_below_only_where_they_lie_below(tmp_path, monkeypatch):
    write(tmp_path / "heart" / "images" / "a.nii.gz", seed=1)
    write(tmp_path / "heart" / "labels" / "a.nii.gz")
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    find_cohort(Path("../heart")).save(Path("cohort.json"))
    find_cohort(Path("../heart")).save(Path("../beside/../cohort.json"))
    elsewhere, above = (
        json.loads(file.read_text(encoding="utf-8"))["cases"][0]
        for file in (Path("cohort.json"), tmp_path / "cohort.json")
    )
    assert elsewhere["images"] == [(tmp_path / "heart" / "images" / "a.nii.gz").as_posix()]
    assert above["label"] == "heart/labels/a.nii.gz"


def test_test_cases_keep_the_label_that_there_is(tmp_path):
    source, _ = make_nnunet(tmp_path)
    cohort = find_cohort(source)
    assert cohort.case("case_003").label == tmp_path / "labelsTs" / "case_003.nii.gz"
    # Named among the training cases, a case of imagesTs is one of them; unlabelled, its label is not recorded.
    cohort = find_cohort(source, cases="1-3")
    assert names(cohort.unlabeled) == ["case_002", "case_003"]
    assert cohort.case("case_003").label is None


def test_brats_odd_segmentation_name_is_found(tmp_path):
    """One case of BraTS 2020 has a segmentation that is not called after its folder."""
    for channel in ("flair", "t1"):
        write(tmp_path / "BraTS20_Training_355" / f"BraTS20_Training_355_{channel}.nii.gz", seed=1)
    odd = write(tmp_path / "BraTS20_Training_355" / "W39_1998.09.19_Segm.nii")
    assert find_cohort(tmp_path, channels=["flair"]).labeled[0].label == odd


def test_channels_are_picked_in_the_order_asked(tmp_path):
    source, _ = make_brats(["BraTS2021_00000"])(tmp_path)
    cohort = find_cohort(source, channels=["T2", "flair"], classes=["whole_tumour=1,2,4"])
    assert cohort.channels == ("t2", "flair")
    assert [image.name for image in cohort.cases[0].images] == [
        "BraTS2021_00000_t2.nii.gz",
        "BraTS2021_00000_flair.nii.gz",
    ]
    assert cohort.classes[0].values == (1, 2, 4)
    assert cohort.picked


def test_channels_without_names_can_be_named(tmp_path):
    source, _ = make_images_with_suffixes(tmp_path)
    cohort = find_cohort(source, channels=["CT", "PET"])
    assert cohort.channels == ("CT", "PET")
    assert [image.name for image in cohort.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert find_cohort(source, channels=["channel 1"]).cases[0].images[0].name == "a_0001.nii.gz"
    with pytest.raises(CohortError, match="'PET', expected of channel 0, channel 1"):
        find_cohort(source, channels=["PET"])
    with pytest.raises(CohortError, match="expected each channel once"):
        find_cohort(source, channels=["PET", "PET"])


def test_accented_names_match_however_they_are_composed(tmp_path):
    write(tmp_path / "images" / "e\u0301.nii.gz", seed=1)
    write(tmp_path / "labels" / "\u00e9.nii.gz")
    assert names(find_cohort(tmp_path, labeled=["e\u0301"]).labeled) == ["\u00e9"]


def test_the_names_of_a_datalist_are_composed_too(tmp_path):
    items = [
        {"name": "e\u0301", "image": "1.nii.gz", "label": "1.seg.nii.gz"},
        {"image": "e\u0301/t.nii.gz"},
        {"image": "o\u0301/t.nii.gz"},
    ]
    (tmp_path / "list.json").write_text(json.dumps({"training": items[:1]}), encoding="utf-8")
    assert names(recognize(tmp_path / "list.json").cases) == ["\u00e9"]
    (tmp_path / "list.json").write_text(json.dumps({"training": items[1:]}), encoding="utf-8")
    assert names(recognize(tmp_path / "list.json").cases) == ["\u00e9", "\u00f3"]


def test_a_channel_that_is_not_asked_for_may_be_missing(tmp_path):
    source, _ = make_brats(["BraTS2021_00000", "BraTS2021_00002"])(tmp_path)
    (tmp_path / "BraTS2021_00002" / "BraTS2021_00002_t1ce.nii").unlink()
    assert len(find_cohort(source, channels=["flair"]).cases) == 2
    with pytest.raises(CohortError, match=r"BraTS2021_00002.*has no t1ce, expected flair, t1, t1ce, t2.*--channels"):
        find_cohort(source)


# --- Parts


def test_parts_are_counted_over_all_cases(folder):
    cohort = find_cohort(folder, labeled=2, cases="1-7", validation="4-5", test="8-9")
    assert names(cohort.labeled) == ["case01", "case02"]
    assert names(cohort.unlabeled) == ["case03", "case06", "case07"]
    assert names(cohort.validation) == ["case04", "case05"]
    assert names(cohort.test) == ["case08", "case09"]
    assert "case10" not in names(cohort.cases)
    assert all(case.label is not None for case in (*cohort.labeled, *cohort.validation, *cohort.test))


@pytest.mark.parametrize("validation", ["1,3,7-9", ["1", "3", "7-9"], ["case01", "case03,7-9"], ["case01", "3", "7-9"]])
def test_selections_mix_numbers_ranges_and_names(folder, validation):
    cohort = find_cohort(folder, validation=validation)
    assert names(cohort.validation) == ["case01", "case03", "case07", "case08", "case09"]
    assert names(cohort.labeled) == ["case02"]


def test_labelled_cases_can_be_named(folder):
    cohort = find_cohort(folder, labeled=["case05", "2"], validation="1")
    assert names(cohort.labeled) == ["case02", "case05"]


def test_labelled_cases_are_the_first_that_have_a_label(folder):
    (folder / "labels" / "case01.nii.gz").unlink()
    assert names(find_cohort(folder, labeled=2).labeled) == ["case02", "case03"]


def test_cases_are_counted_in_plain_sorted_order(tmp_path):
    for name in ("a1", "a2", "a10"):
        touch(tmp_path / "images" / f"{name}.nii.gz")
        write(tmp_path / "labels" / f"{name}.nii.gz")
    assert names(find_cohort(tmp_path, test="2").test) == ["a10"]


def test_a_number_that_is_another_cases_name_is_refused_in_a_range(tmp_path):
    for number in range(1, 11):
        touch(tmp_path / "images" / f"{number}.nii.gz")
        write(tmp_path / "labels" / f"{number}.nii.gz")
    assert names(find_cohort(tmp_path, test="10").test) == ["10"]
    with pytest.raises(CohortError, match=r"'9-10'.*also the name of case"):
        find_cohort(tmp_path, test="9-10")


def test_finding_cases_opens_no_image_and_no_label_but_the_labelled(folder):
    for name in NAMES[1:]:
        touch(folder / "labels" / f"{name}.nii.gz")
    cohort = find_cohort(folder)
    assert len(cohort.unlabeled) == 9
    assert {case.label for case in cohort.unlabeled} == {None}


# --- Classes


@pytest.mark.parametrize(
    ("asked", "expected", "picked"),
    [
        ([], {"class 1": (1,), "class 2": (2,), "class 4": (4,)}, False),
        (["a", "b", "c"], {"a": (1,), "b": (2,), "c": (4,)}, False),
        (["whole=1,2,4"], {"whole": (1, 2, 4)}, True),
        (["core=1,4", "edema=2"], {"core": (1, 4), "edema": (2,)}, True),
        (["edema=2"], {"edema": (2,)}, True),
    ],
)
def test_classes_from_values(folder, asked, expected, picked):
    write(folder / "labels" / "case01.nii.gz", (0, 1, 2, 4))
    cohort = find_cohort(folder, classes=asked)
    assert {c.name: c.values for c in cohort.classes} == expected
    assert cohort.picked is picked
    assert len({c.color for c in cohort.classes}) == len(expected)


def _write_segments(path, *names):
    grid = Grid((4, 5, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    labels = np.zeros(grid.shape, np.uint8)
    labels.flat[: len(names) + 1] = range(len(names) + 1)
    classes = [Class(name, (number,)) for number, name in enumerate(names, start=1)]
    write_segmentation(path, labels, grid, classes)


@pytest.mark.parametrize(
    ("segments", "asked", "expected", "picked"),
    [
        ([["atrium", "tumour"], ["Tumour", "Atrium"]], [], {"atrium": (1,), "tumour": (2,)}, False),
        ([["atrium"], ["tumour"]], [], {"atrium": (1,), "tumour": (2,)}, False),
        ([["atrium", "tumour"], ["tumour", "atrium"]], ["Tumour"], {"Tumour": (2,)}, True),
        ([["Segment_1", "Segment_2"]] * 2, ["atrium", "tumour"], {"atrium": (1,), "tumour": (2,)}, False),
        ([["atrium"], None], [], {"atrium": (1,), "class 2": (2,)}, False),
    ],
)
def test_classes_are_named_after_segments(folder, segments, asked, expected, picked):
    for name, names_ in zip(NAMES, segments, strict=False):
        (folder / "labels" / f"{name}.nii.gz").unlink()
        if names_ is None:
            write(folder / "labels" / f"{name}.nrrd", (0, 1, 2))
        else:
            _write_segments(folder / "labels" / f"{name}.seg.nrrd", *names_)
    cohort = find_cohort(folder, labeled=2, classes=asked)
    assert {c.name: c.values for c in cohort.classes} == expected
    assert cohort.picked is picked


def test_segments_of_no_one_number_beside_plain_labels_are_told(folder):
    for name, segments in (("case01", ("atrium", "tumour")), ("case02", ("tumour", "atrium"))):
        (folder / "labels" / f"{name}.nii.gz").unlink()
        _write_segments(folder / "labels" / f"{name}.seg.nrrd", *segments)
    with pytest.raises(CohortError, match=r"'atrium' has not the same number.*--classes NAME=VALUE"):
        find_cohort(folder, labeled=3)


def test_classes_of_dataset_json_are_picked_by_name(tmp_path):
    source, _ = make_nnunet(tmp_path)
    cohort = find_cohort(source, classes=["Core", "oedema=1"])
    assert {c.name: c.values for c in cohort.classes} == {"Core": (2, 3), "oedema": (1,)}


# --- Faults


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"test": "8-12"}, ["--test takes '8-12'", "1 to 10"]),
        ({"test": "0"}, ["--test takes '0'", "1 to 10"]),
        ({"validation": "9-7"}, ["--validation takes '9-7'"]),
        ({"validation": "case11"}, ["'case11'", "case01, case02", "case10 (10 in all)"]),
        ({"cases": "1-6", "test": "5-8"}, ["--cases and --test both take case05, case06"]),
        ({"validation": "3", "test": "case03"}, ["--validation and --test both take case03"]),
        ({"labeled": 11}, ["asks for 11", "10 of the 10 have a label"]),
        ({"labeled": 0}, ["--labeled is 0", "at least 1"]),
        ({"labeled": "9", "cases": "1-5"}, ["--labeled takes case09"]),
        ({"labeled": "3", "validation": "3"}, ["--labeled takes case03"]),
        ({"test": "1-10"}, ["No case is left to train on", "10 for test"]),
        ({"channels": ["flair", "t1"]}, ["'flair'", "expected of image"]),
        ({"classes": ["a", "b"]}, ["names 2 class(es)", "hold 1 value(s): 1", "NAME=VALUE"]),
        ({"classes": ["a=1", "b"]}, ["'b'", "NAME=VALUE"]),
        ({"classes": ["a=1", "b=1"]}, ["value 1 stands for 'a' and for 'b'"]),
        ({"classes": ["a=0"]}, ["'a=0'", "0 is background"]),
        ({"classes": ["a=x"]}, ["'a=x'", "whole numbers"]),
        ({"classes": ["liver=1,tumour=2"]}, ["'liver=1,tumour=2'", "one NAME=VALUE", "liver=1 tumour=2"]),
        ({"classes": ["a=1", "a=2"]}, ["names a, a", "names that differ"]),
    ],
)
def test_what_cannot_be_is_refused_in_words(folder, arguments, words):
    with pytest.raises(CohortError) as caught:
        find_cohort(folder, **arguments)
    for word in words:
        assert word in str(caught.value)


def test_faults_of_the_selection_come_together(folder):
    with pytest.raises(CohortError) as caught:
        find_cohort(folder, labeled="nobody", cases="1-6", validation="40", test="6", channels=["image", "flair"])
    text = str(caught.value)
    assert all(word in text for word in ("'nobody'", "'40'", "both take case06", "'flair'"))
    assert len(caught.value.faults) == 4


def test_a_validation_case_needs_a_label(folder):
    (folder / "labels" / "case03.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"case03\.nii\.gz: the validation case has no label"):
        find_cohort(folder, validation="3")


def test_labels_without_an_image_are_told_where_labels_are_missing(folder):
    for name in NAMES:
        (folder / "labels" / f"{name}.nii.gz").rename(folder / "labels" / f"{name}_label.nii.gz")
    with pytest.raises(CohortError, match=r"0 of the 10 have a label.*10 label\(s\) belong to no image.*case01_label"):
        find_cohort(folder)


def test_a_labelled_label_that_holds_nothing_names_no_class(folder):
    write(folder / "labels" / "case01.nii.gz", (0,))
    with pytest.raises(CohortError, match=r"case01\.nii\.gz: no voxel has a label"):
        find_cohort(folder)


def test_an_image_in_place_of_a_label_is_noticed(folder):
    image = np.arange(200, dtype=np.int16).reshape(4, 5, 10)
    sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / "labels" / "case01.nii.gz"))
    with pytest.raises(CohortError, match=r"case01\.nii\.gz: holds 200 values from 0 to 199"):
        find_cohort(folder)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list"),
        ("{}", "no list 'training'"),
        ('{"format": "semisamplus-cohort-1"}', "a cohort already"),
        ('{"training": [{"label": "a.nii.gz"}]}', "item 1 of 'training' has the image None"),
        ('{"training": [{"image": "a.nii.gz", "label": ["b", "c"]}]}', "item 1 of 'training' has the label"),
        ('{"training": [{"image": "a.nii.gz"}, {"image": "a.nii.gz"}]}', "2 cases are named"),
        ('{"training": []}', "holds no cases"),
        ('{"training": [{"image": "a.nii"}], "labels": {"x": "y"}}', "the label 'x' has 'y'"),
    ],
)
def test_broken_datalists_are_told(tmp_path, data, words):
    file = tmp_path / "list.json"
    file.write_text(data, encoding="utf-8")
    with pytest.raises(CohortError) as caught:
        find_cohort(file)
    assert words in str(caught.value)
    assert "list.json" in str(caught.value)


def test_unknown_folders_are_told_what_is_known(tmp_path):
    with pytest.raises(CohortError, match="no such folder"):
        find_cohort(tmp_path / "nowhere")
    (tmp_path / "my_list.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CohortError, match=r"(?s)no layout.*imagesTr.*BraTS.*my_list\.json"):
        find_cohort(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(CohortError, match="holds no volumes"):
        find_cohort(tmp_path)


def test_decathlon_volumes_in_four_dimensions_are_told_with_the_way_out(tmp_path):
    touch(tmp_path / "imagesTr" / "BRATS_001.nii.gz")
    touch(tmp_path / "labelsTr" / "BRATS_001.nii.gz")
    described = {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "1": "edema"}}
    (tmp_path / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CohortError, match=r"BRATS_001\.nii\.gz: .*2 channels \(FLAIR, T1w.*4D.*_0000.*recipes\.md"):
        find_cohort(tmp_path)


def test_two_files_for_one_case_are_told(folder):
    touch(folder / "images" / "case02.nrrd")
    with pytest.raises(CohortError, match=r"case02\.nrrd: belongs to the same case as case02\.nii\.gz"):
        find_cohort(folder)


def test_overlapping_regions_of_nnunet_are_told(tmp_path):
    source, _ = make_nnunet(tmp_path)
    described = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "whole": [1, 2], "core": [2]}}
    (tmp_path / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CohortError, match="value 2 stands for 'whole' and for 'core'"):
        find_cohort(source)
    described["labels"] = {"background": 0, "whole": 1, "ignore": 2}
    (tmp_path / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CohortError, match="label value 2 ignored"):
        find_cohort(source)
    assert names(find_cohort(source, classes=["whole"]).labeled) == ["case_001"]


def test_the_recipe_for_four_dimensions_works(tmp_path, monkeypatch):
    """The lines that docs/recipes.md gives split a Decathlon task into one file per channel."""
    recipes = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", recipes[recipes.index("## Volumes with four dimensions") :], re.DOTALL)[1]
    task = tmp_path / "Task01_BrainTumour"
    for name in ("BRATS_001", "BRATS_002"):
        volume = [sitk.ReadImage(str(write(tmp_path / "v.nii.gz", seed=seed))) for seed in range(4)]
        (task / "imagesTr").mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.JoinSeries(volume), str(task / "imagesTr" / f"{name}.nii.gz"))
        write(task / "labelsTr" / f"{name}.nii.gz", (0, 1, 2, 3))
    described = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    }
    (task / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    cohort = find_cohort(tmp_path / "BrainTumour")
    assert cohort.channels == ("FLAIR", "T1w", "t1gd", "T2w")
    assert names(cohort.cases) == ["BRATS_001", "BRATS_002"]
    assert check_cohort(replace(cohort, cases=cohort.cases[:1])) == []


# --- Real volumes


def test_left_atrium_splits(real_data):
    cohort = Cohort.from_folder(
        real_data / "left_atrium", labeled=4, cases="1-40", test="41-60", classes=["left atrium"]
    )
    files = sorted(path.name for path in (real_data / "left_atrium" / "images").iterdir())
    assert [case.images[0].name for case in cohort.labeled] == files[:4]
    assert [case.images[0].name for case in cohort.unlabeled] == files[4:40]
    assert [case.images[0].name for case in cohort.test] == files[40:60]
    assert cohort.classes[0].values == (1,)


def test_hippocampus_splits(real_data):
    cohort = Cohort.from_folder(
        real_data / "hippocampus", labeled=4, cases="1-100", validation="91-100", test="101-140"
    )
    counts = [len(cohort.with_role(role)) for role in (Role.LABELED, Role.UNLABELED, Role.VALIDATION, Role.TEST)]
    assert counts == [4, 86, 10, 40]
    assert [c.values for c in cohort.classes] == [(1,), (2,)]


def test_a_dicom_series_that_lacks_a_slice_is_a_fault(tmp_path):
    make_dicom(tmp_path)
    cohort = find_cohort(tmp_path, labeled=["p 2"])
    before = len(check_cohort(cohort))
    (tmp_path / "images" / "p1" / "slice1").unlink()
    faults = [str(fault) for fault in check_cohort(cohort)]
    assert len(faults) == before + 1
    assert any("p1: its slices lie 1 to 2 mm apart, farthest between slice0 and slice2" in fault for fault in faults)


def test_a_dicom_series_whose_positions_are_rounded_is_sound(tmp_path):
    folder = write_dicom(tmp_path / "p1", 1, positions=(0, 0.6, 1.3, 1.9))
    assert read_image(folder).GetSpacing()[2] == pytest.approx(1.9 / 3)


def test_time_points_in_one_dicom_series_are_refused(tmp_path):
    folder = write_dicom(tmp_path / "p1", 1, positions=(0, 1, 0, 1))
    with pytest.raises(VolumeError, match=r"p1: its slices lie .* each time point or echo into a folder of its own"):
        read_image(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data["cases"][0].update(images="h/a.nii.gz"), "'images' is 'h/a.nii.gz', expected a list"),
        (lambda data: data["classes"][0].update(values="12"), "'values' is '12', expected a list"),
        (lambda data: data.update(channels="ct"), "'channels' is 'ct', expected a list"),
    ],
)
def test_a_text_is_not_taken_for_a_list_of_letters(folder, spoil, words):
    data = find_cohort(folder, classes=["atrium=1"]).to_dict()
    spoil(data)
    with pytest.raises(CohortError, match=re.escape(words)):
        Cohort.from_dict(data)
