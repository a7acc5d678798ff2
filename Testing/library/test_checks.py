"""Every fault of a cohort is found before training, and all of them together."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from tiny import with_case

from SemiSAMPlusLib.cohort.checks import check_cohort, input_hashes, require_sound
from SemiSAMPlusLib.cohort.cohort import Case, Class, Cohort, Role
from SemiSAMPlusLib.cohort.outputs import read_label, write_segmentation
from SemiSAMPlusLib.cohort.volume import Grid, read_image
from SemiSAMPlusLib.errors import CohortError, VolumeError

SHAPE = (6, 7, 8)


def noise(seed):
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def cube(*values):
    array = np.zeros(SHAPE, np.uint8)
    for index, value in enumerate(values):
        array[1 + index, 2:4, 2:5] = value
    return array


def save(array, path, *, spacing=(1.0, 1.0, 2.0), origin=(-3.0, 4.0, 5.0), direction=None, is_vector=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    if image.GetDimension() == 3:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        if direction:
            image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def cohort(tmp_path):
    """A sound cohort: cases a and b labelled, c and d unlabelled, e validation, f test."""
    root = tmp_path / "Fälle 病例"
    roles = dict(zip("abcdef", [*[Role.LABELED] * 2, *[Role.UNLABELED] * 2, Role.VALIDATION, Role.TEST], strict=True))
    cases = []
    for seed, (name, role) in enumerate(roles.items()):
        image = save(noise(seed), root / f"{name} image.nii.gz")
        label = save(cube(1, 2), root / f"{name} label.nii.gz") if role is not Role.UNLABELED else None
        cases.append(Case(name, (image,), label, role))
    return Cohort(tuple(cases), (Class("anterior", (1,)), Class("posterior", (2,))), ("MR",))


def image_of(cohort, name):
    return cohort.case(name).images[0]


def label_of(cohort, name):
    return cohort.case(name).label


def without(cohort, name):
    return replace(cohort, cases=tuple(case for case in cohort.cases if case.name != name))


# Each of these spoils one thing, and returns the cohort to check, where the fault must show, and the words it must
# have: the file, what was found, what was expected, the remedy.


def missing_image(cohort):
    image_of(cohort, "c").unlink()
    return cohort, ["c image.nii.gz", "does not exist", "expected a volume", "Correct the path"]


def missing_test_image(cohort):
    image_of(cohort, "f").unlink()
    return cohort, ["f image.nii.gz", "does not exist", "expected a volume", "Correct the path"]


def missing_label(cohort):
    label_of(cohort, "e").unlink()
    return cohort, ["e label.nii.gz", "does not exist", "expected a volume", "Correct the path"]


def no_bytes(cohort):
    image_of(cohort, "c").write_bytes(b"")
    return cohort, ["c image.nii.gz", "has 0 bytes", "expected a volume", "again"]


def unreadable(cohort):
    image_of(cohort, "c").write_text("hello", encoding="utf-8")
    return cohort, ["c image.nii.gz", "cannot be read", "expected a format that SimpleITK reads", "Save it anew"]


def unreadable_label(cohort):
    label_of(cohort, "a").write_text("hello", encoding="utf-8")
    return cohort, ["a label.nii.gz", "cannot be read", "expected a format that SimpleITK reads", "Save it anew"]


def cut_short_gz(cohort):
    data = image_of(cohort, "c").read_bytes()
    image_of(cohort, "c").write_bytes(data[: len(data) // 2])
    return cohort, ["c image.nii.gz", "truncated", "expected a complete one", "download it again"]


def cut_short(suffix):
    def spoil(cohort):
        case = cohort.case("d")
        path = save(noise(9), case.images[0].parent / f"d.{suffix}")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        cohort = with_case(cohort, replace(case, images=(path,)))
        return cohort, [f"d.{suffix}", "truncated", "expected a complete one", "download it again"]

    return spoil


def four_dimensions(cohort):
    volumes = [sitk.GetImageFromArray(noise(seed)) for seed in range(3)]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(image_of(cohort, "c")))
    return cohort, [
        "c image.nii.gz",
        "4 dimensions, size (8, 7, 6, 3)",
        "expected 3",
        "Save each time point or channel",
    ]


def several_components(cohort):
    save(np.stack([noise(1), noise(2)], axis=-1), image_of(cohort, "c"), is_vector=True)
    return cohort, ["c image.nii.gz", "2 values a voxel", "expected 1", "Save each component"]


def single_slice(cohort):
    save(noise(1)[:1], image_of(cohort, "c"))
    return cohort, ["c image.nii.gz", "single slice, size (8, 7, 1)", "expected several slices", "whole 3D volume"]


def plane(cohort):
    save(noise(1)[0], image_of(cohort, "c"))
    return cohort, ["c image.nii.gz", "single slice, size (8, 7)", "expected several slices", "whole 3D volume"]


def not_a_number(cohort):
    array = noise(2)
    array[0, 0, :3], array[1, 1, 1] = np.nan, np.inf
    save(array, image_of(cohort, "c"))
    return cohort, ["c image.nii.gz", "3 NaN and 1 infinite of 336", "expected finite", "Replace them"]


def not_a_number_big_endian(cohort):
    array = noise(2)
    array[0, 0, :3], array[1, 1, 1] = np.nan, np.inf
    case = cohort.case("c")
    path = save(array, case.images[0].with_name("c.nii"))
    # The other byte order, without a tool that writes it: the header's fields that matter, and the voxels.
    data = bytearray(path.read_bytes())
    for start, stop, size in ((0, 4, 4), (40, 56, 2), (68, 76, 2), (76, 120, 4), (252, 256, 2), (256, 328, 4)):
        for at in range(start, stop, size):
            data[at : at + size] = data[at : at + size][::-1]
    data[352:] = np.frombuffer(bytes(data[352:]), "<f4").byteswap().tobytes()
    path.write_bytes(data)
    cohort = with_case(cohort, replace(case, images=(path,)))
    return cohort, ["c.nii", "3 NaN and 1 infinite of 336", "expected finite", "Replace them"]


def not_a_number_in_label(cohort):
    array = cube(1, 2).astype(np.float64)
    array[0, 0, 0] = np.nan
    save(array, label_of(cohort, "b"))
    return cohort, ["b label.nii.gz", "not whole numbers (nan)", "expected one whole number per class", "integers"]


def infinite(cohort):
    array = noise(2)
    array[0, 0, 0] = -np.inf
    case = cohort.case("c")
    path = save(array, case.images[0].with_name("c.nrrd"))
    cohort = with_case(cohort, replace(case, images=(path,)))
    return cohort, ["c.nrrd", "0 NaN and 1 infinite of 336", "expected finite", "Replace them"]


def constant(cohort):
    save(np.full(SHAPE, 7, np.int16), image_of(cohort, "c"))
    return cohort, ["c image.nii.gz", "every voxel has the value 7", "expected an image with contrast", "right one"]


def not_orthonormal(cohort):
    case = cohort.case("c")
    path = save(noise(2), case.images[0].with_name("c.nii"))
    data = bytearray(path.read_bytes())
    # NIfTI-1: no qform, an sform (codes at bytes 252 and 254) whose first row (from byte 280) is sheared.
    data[252:256] = struct.pack("<2h", 0, 1)
    data[280:296] = struct.pack("<4f", 1, 0.5, 0, 0)
    path.write_bytes(data)
    cohort = with_case(cohort, replace(case, images=(path,)))
    return cohort, ["c.nii", "not at right angles", "expected orthonormal", "3D Slicer", "ITK_NIFTI_SFORM_PERMISSIVE"]


def sheared(suffix):
    def spoil(cohort):
        case = cohort.case("c")
        # 12° from a right angle; ITK asks for right angles in NIfTI alone.
        lean = float(np.deg2rad(12))
        direction = (1, 0, 0, 0, 1, np.sin(lean), 0, 0, np.cos(lean))
        path = save(noise(2), case.images[0].with_name(f"c.{suffix}"), direction=direction)
        cohort = with_case(cohort, replace(case, images=(path,)))
        return cohort, [f"c.{suffix}", "not at right angles", "0.2079", "expected orthonormal", "3D Slicer"]

    spoil.__qualname__ = f"sheared_{suffix}"
    return spoil


def empty_dicom_folder(cohort):
    folder = image_of(cohort, "c").parent / "series"
    folder.mkdir()
    cohort = with_case(cohort, replace(cohort.case("c"), images=(folder,)))
    return cohort, ["series", "0 DICOM series", "expected one", "a folder of its own"]


def not_whole_numbers(cohort):
    array = cube(1, 2).astype(np.float32)
    array[0, 0, 0] = 0.5
    save(array, label_of(cohort, "b"))
    return cohort, ["b label.nii.gz", "not whole numbers (0.5)", "expected one whole number per class", "nearest"]


def hardly_not_whole_numbers(cohort):
    save(cube(1, 2).astype(np.float32) * np.float32(1 - 1e-7), label_of(cohort, "b"))
    return cohort, ["b label.nii.gz", "not whole numbers (0.999999881, 1.99999976)"]


def unexpected_value(cohort):
    save(cube(1, 2, 5), label_of(cohort, "b"))
    return cohort, ["b label.nii.gz", "value(s) 5", "expected 0 and anterior = 1, posterior = 2", "--classes"]


def unexpected_value_in_validation(cohort):
    save(cube(1, 255), label_of(cohort, "e"))
    return cohort, ["e label.nii.gz", "value(s) 255", "expected 0 and anterior = 1, posterior = 2", "--classes"]


def no_class_in_a_labelled_case(cohort):
    save(cube(), label_of(cohort, "b"))
    return cohort, ["b label.nii.gz", "no voxel of any class, found 0", "expected anterior = 1", "Label it"]


def class_never_shown(cohort):
    for name in "ab":
        save(cube(1), label_of(cohort, name))
    return cohort, ["a label.nii.gz", "class 'posterior' (value 2)", "found 1", "in at least one", "Label a case"]


def other_size(cohort):
    save(cube(1, 2)[:, :, :-1], label_of(cohort, "a"))
    return cohort, ["a label.nii.gz", "a image.nii.gz", "size (7, 7, 6), expected (8, 7, 6)", "Resample"]


def other_spacing(cohort):
    save(cube(1, 2), label_of(cohort, "a"), spacing=(1.0, 1.0, 2.5))
    return cohort, ["a label.nii.gz", "a image.nii.gz", "spacing (1, 1, 2.5), expected (1, 1, 2)", "Resample"]


def other_origin(cohort):
    save(cube(1, 2), label_of(cohort, "e"), origin=(-3.0, 4.0, 6.0))
    return cohort, [
        "e label.nii.gz",
        "e image.nii.gz",
        "origin (-3, 4, 6), expected (-3, 4, 5)",
        "1 mm apart",
        "Resample",
    ]


def other_direction(cohort):
    save(cube(1, 2), label_of(cohort, "a"), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    words = "direction (-1, 0, 0, 0, -1, 0, 0, 0, 1), expected (1, 0, 0, 0, 1, 0, 0, 0, 1)"
    return cohort, ["a label.nii.gz", "a image.nii.gz", words, "Resample"]


def channels_on_two_grids(cohort):
    cases = []
    for seed, case in enumerate(cohort.cases):
        spacing = (1.0, 1.0, 2.1) if case.name == "c" else (1.0, 1.0, 2.0)
        second = save(noise(50 + seed), case.images[0].with_name(f"{case.name} T2.nii.gz"), spacing=spacing)
        cases.append(replace(case, images=(*case.images, second)))
    cohort = replace(cohort, cases=tuple(cases), channels=("T1", "T2"))
    return cohort, ["c T2.nii.gz", "the other channel", "spacing (1, 1, 2.1), expected (1, 1, 2)", "Resample"]


def too_few_channels(cohort):
    cases = tuple(replace(case, images=()) if case.name == "d" else case for case in cohort.cases)
    return replace(cohort, cases=cases), ["case 'd'", "0 image(s)", "expected 1", "Add what is missing"]


def same_name(cohort):
    cases = tuple(replace(case, name="c") if case.name == "d" else case for case in cohort.cases)
    return replace(cohort, cases=cases), ["d image.nii.gz", "2 cases are named 'c'", "expected one", "name of its own"]


def same_name_but_for_case(cohort):
    """Layers of both would lie in one folder where the system does not tell upper from lower case."""
    cases = tuple(replace(case, name="C") if case.name == "d" else case for case in cohort.cases)
    return replace(cohort, cases=cases), ["d image.nii.gz", "2 cases are named 'c' or 'C'", "name of its own"]


def same_path(cohort):
    image = image_of(cohort, "f")
    same = image.parent / ".." / image.parent.name / image.name
    cohort = with_case(cohort, replace(cohort.case("c"), images=(same,)))
    return cohort, [
        "f image.nii.gz",
        "case 'f' (test)",
        "case 'c' (unlabeled)",
        "expected once",
        "Remove one of the two",
    ]


def same_content(cohort):
    # Packed anew, the bytes of the file differ; the voxels are the same.
    image_of(cohort, "c").write_bytes(gzip.compress(gzip.decompress(image_of(cohort, "a").read_bytes()), 1))
    assert image_of(cohort, "a").read_bytes() != image_of(cohort, "c").read_bytes()
    return cohort, ["c image.nii.gz", "same voxels as", "a image.nii.gz", "of case 'a'", "expected different", "Remove"]


def no_labelled_case(cohort):
    cohort = without(without(cohort, "a"), "b")
    return cohort, ["None of the 4 case(s) is labelled", "expected at least one", "Label a case"]


def no_label_file(cohort):
    cohort = with_case(cohort, replace(cohort.case("e"), label=None))
    return cohort, ["e image.nii.gz", "the validation case 'e' has no label file", "Add its label"]


def no_class(cohort):
    return replace(cohort, classes=(), picked=True), ["has no class", "expected at least one", "--classes"]


def value_in_two_classes(cohort):
    classes = (Class("anterior", (1,)), Class("posterior", (2, 1)))
    return replace(cohort, classes=classes), ["value 1", "'anterior' and for 'posterior'", "expected one", "of its own"]


FAULTS = [
    missing_image,
    missing_test_image,
    missing_label,
    sheared("mha"),
    sheared("nrrd"),
    no_bytes,
    unreadable,
    unreadable_label,
    cut_short_gz,
    cut_short("nii"),
    cut_short("nrrd"),
    cut_short("mha"),
    four_dimensions,
    several_components,
    single_slice,
    plane,
    not_a_number,
    not_a_number_big_endian,
    not_a_number_in_label,
    infinite,
    constant,
    not_orthonormal,
    empty_dicom_folder,
    not_whole_numbers,
    hardly_not_whole_numbers,
    unexpected_value,
    unexpected_value_in_validation,
    no_class_in_a_labelled_case,
    class_never_shown,
    other_size,
    other_spacing,
    other_origin,
    other_direction,
    channels_on_two_grids,
    too_few_channels,
    same_name,
    same_name_but_for_case,
    same_path,
    same_content,
    no_labelled_case,
    no_label_file,
    no_class,
    value_in_two_classes,
]


def test_a_sound_cohort_has_no_fault(cohort):
    assert check_cohort(cohort) == []
    require_sound(cohort)


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__qualname__.replace(".<locals>", ""))
def test_each_fault_is_told(cohort, spoil):
    spoiled, words = spoil(cohort)
    faults = check_cohort(spoiled)
    assert len(faults) == 1, [str(fault) for fault in faults]
    text = str(faults[0])
    assert [word for word in words if word not in text] == [], text
    assert faults[0].remedy


def test_all_faults_come_together(cohort):
    spoils = [not_orthonormal, constant_d, unexpected_value, other_origin, missing_test_image]
    expected = []
    for spoil in spoils:
        cohort, words = spoil(cohort)
        expected += words
    with pytest.raises(CohortError) as caught:
        require_sound(cohort)
    assert len(caught.value.faults) == len(spoils)
    assert [word for word in expected if word not in str(caught.value)] == []


def constant_d(cohort):
    save(np.full(SHAPE, 7, np.int16), image_of(cohort, "d"))
    return cohort, ["d image.nii.gz", "every voxel has the value 7"]


def test_one_case_can_have_several_faults(cohort):
    save(noise(0)[:1], image_of(cohort, "a"))
    save(cube(1, 2)[:1].astype(np.float32) + 0.25, label_of(cohort, "a"))
    faults = [str(fault) for fault in check_cohort(cohort)]
    assert ["a image.nii.gz" in faults[0], "a label.nii.gz" in faults[1], len(faults)] == [True, True, 2]


def test_labels_of_unlabelled_cases_and_test_cases_are_not_opened(cohort):
    bad = image_of(cohort, "c").with_name("c label.nii.gz")
    bad.write_text("no label at all", encoding="utf-8")
    cohort = with_case(cohort, replace(cohort.case("c"), label=bad))
    cohort = with_case(cohort, replace(cohort.case("d"), label=bad.with_name("missing.nii.gz")))
    for path in (image_of(cohort, "f"), label_of(cohort, "f")):
        path.write_text("no volume at all", encoding="utf-8")
    assert check_cohort(cohort) == []
    opened = {key.rsplit("/", 1)[1] for key in input_hashes(cohort)}
    assert opened == {f"{name} image.nii.gz" for name in "abcde"} | {f"{name} label.nii.gz" for name in "abe"}


def test_picked_classes_leave_other_values_to_the_background(cohort):
    save(cube(1, 2, 5), label_of(cohort, "b"))
    picked = replace(cohort, classes=(Class("anterior", (1,)),), picked=True)
    assert check_cohort(picked) == []
    assert len(check_cohort(replace(picked, picked=False))) == 3


def test_labels_of_whole_floating_numbers_and_large_values_are_sound(cohort):
    save(cube(1, 2).astype(np.float64), label_of(cohort, "a"))
    save(cube(1, 2).astype(np.int32) * 1_000_000, label_of(cohort, "b"))
    wide = replace(cohort, classes=(Class("anterior", (1, 1_000_000)), Class("posterior", (2, 2_000_000))))
    assert check_cohort(wide) == []


def test_a_validation_case_may_lack_every_class(cohort):
    save(cube(), label_of(cohort, "e"))
    assert check_cohort(cohort) == []


def test_grids_that_differ_by_rounding_are_one(cohort):
    save(cube(1, 2), label_of(cohort, "a"), origin=(-3.00004, 4.0, 5.00001), spacing=(1.000001, 1.0, 2.0))
    assert check_cohort(cohort) == []
    assert len(check_cohort(cohort, tolerance=1e-6)) == 1


def test_whole_files_of_several_gzip_members_are_sound(cohort):
    path = image_of(cohort, "c")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))
    assert check_cohort(cohort) == []
    path.write_bytes(gzip.compress(data + b"more"))
    assert check_cohort(cohort) == []


def with_segments(cohort, name, *names):
    """Give a case a label with a segment of each name, numbered in this order, and the first one in the first place."""
    path = label_of(cohort, name).with_name(f"{name} label.seg.nrrd")
    grid = Grid.of(read_image(label_of(cohort, name)))
    write_segmentation(path, cube(*range(1, len(names) + 1)), grid, named(*names))
    return with_case(cohort, replace(cohort.case(name), label=path))


def named(*names):
    return tuple(Class(name, (number,)) for number, name in enumerate(names, start=1))


def test_segments_count_by_name_whatever_their_numbers(cohort):
    changed = with_segments(with_segments(cohort, "a", "anterior", "posterior"), "b", "posterior", "anterior")
    assert check_cohort(changed) == []
    found = sitk.GetArrayFromImage(read_label(label_of(changed, "b"), changed.classes))
    assert np.array_equal(found, cube(2, 1))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        # One class is absent beside a segment of another name.
        (["anterior", "posterior"], ["anterior", "rear"], ["b label", "has segments named rear", "expected posterior"]),
        # Some go by name, others could go by number only.
        (
            ["anterior", "posterior"],
            ["front", "rear"],
            ["b label", "front, rear", "expected anterior, posterior", "a label"],
        ),
        # All go by number, and the numbers contradict each other.
        (
            ["front", "rear"],
            ["rear", "front"],
            ["b label", "'rear' has the number of 'anterior', expected 'posterior'"],
        ),
        # A segment of no class.
        (
            ["anterior", "posterior"],
            ["anterior", "posterior", "x"],
            ["b label", "3 (x)", "expected 0 and anterior = 1"],
        ),
    ],
)
def test_segments_that_cannot_be_told_are_faults(cohort, a, b, words):
    faults = check_cohort(with_segments(with_segments(cohort, "a", *a), "b", *b))
    assert words[0] in faults[0].what
    assert all(word in faults[0].what for word in words), faults[0].what


def test_warnings_of_itk_are_shown_again_afterwards(cohort):
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    check_cohort(cohort)
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == before


def test_input_hashes_are_those_of_the_bytes_that_training_opens(cohort):
    hashes = input_hashes(cohort)
    opened = [image_of(cohort, name) for name in "abcde"] + [label_of(cohort, name) for name in "abe"]
    assert hashes == {path.absolute().as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in opened}


def test_input_hashes_cover_detached_data_and_dicom_folders(cohort, tmp_path):
    header = save(noise(7), tmp_path / "d.mhd")
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("2", "1"):
        (folder / name).write_bytes(name.encode())
    changed = with_case(cohort, replace(cohort.case("c"), images=(folder,)))
    changed = with_case(changed, replace(cohort.case("d"), images=(header,)))
    before = input_hashes(changed)
    assert before[folder.as_posix()] == hashlib.sha256(b"12").hexdigest()
    raw = header.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[::-1])
    assert input_hashes(changed)[header.as_posix()] != before[header.as_posix()]


def test_input_hashes_tell_a_missing_file(cohort):
    image_of(cohort, "a").unlink()
    with pytest.raises(VolumeError, match=r"a image\.nii\.gz: cannot be read"):
        input_hashes(cohort)


def test_real_volumes_are_sound(real_data, tmp_path):
    cohort = Cohort.from_folder(real_data / "left_atrium", labeled=2, cases="1-4", validation="4", test="41-60")
    assert check_cohort(cohort) == []
    cohort = Cohort.from_folder(real_data / "hippocampus", labeled=4, cases="1-20", test="101-140")
    assert check_cohort(cohort) == []
    # A real volume spoiled is found among the sound ones.
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(cohort.unlabeled[0].images[0], copy)
    cohort = with_case(cohort, replace(cohort.unlabeled[1], images=(copy,)))
    assert [fault.what.split(":")[0] for fault in check_cohort(cohort)] == [str(copy)]
