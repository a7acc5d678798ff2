"""What is planned from headers like those of real cohorts, and that what a user sets is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny import ball, write_volume

from SemiSAMPlusLib.cohort.cohort import Case, Class, Cohort, Role
from SemiSAMPlusLib.cohort.plan import PATCH_STEP, Plan, plan_training, without_several_pieces
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.errors import ConfigError
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.specialist.networks import SPECIALISTS, build_specialist, patch_step

CONFIG = TrainingConfig()


def _write(
    folder: Path,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    *,
    label: np.ndarray | None = None,
    direction: tuple[float, ...] = Grid.direction,
    air: float = 100.0,
    inside: float = 200.0,
    unlabeled: int = 2,
    channels: tuple[str, ...] = ("image",),
    classes: tuple[Class, ...] = (Class("structure", (1,)),),
) -> Cohort:
    """Write one labelled case and some unlabelled ones, alike but for noise."""
    grid = Grid(shape, spacing, (-20.0, 35.0, 10.0), direction)
    label = ball(shape, min(shape) / 3).astype(np.uint8) if label is None else label
    cases = []
    for number in range(1 + unlabeled):
        random = np.random.default_rng(number)
        noise = random.integers(-20, 20, shape, dtype=np.int16)
        image = np.where(label > 0, inside, air).astype(np.int16) + noise
        images = tuple(write_volume(folder / f"{number}-{one}.nii", image, grid) for one in channels)
        path = write_volume(folder / f"{number}-label.nii", label, grid)
        role = Role.LABELED if number == 0 else Role.UNLABELED
        cases.append(Case(f"case-{number}", images, path, role))
    return Cohort(tuple(cases), classes, channels)


def _check(plan: Plan, budget: int) -> None:
    assert all(n % PATCH_STEP == 0 and n >= 2 * PATCH_STEP for n in plan.patch)
    assert np.prod(plan.patch) <= 1.15 * budget


def test_the_left_atrium(tmp_path: Path) -> None:
    """LGE-MR at 0.625 mm: coarser on a CPU, so that a scan is a few steps wide; finer on a GPU."""
    cohort = _write(tmp_path, (88, 143, 193), (0.625, 0.625, 0.625), unlabeled=1)
    cpu, gpu = plan_training(cohort, CONFIG, on_gpu=False), plan_training(cohort, CONFIG, on_gpu=True)
    _check(cpu, 210_000)
    _check(gpu, 1_000_000)
    assert 1.0 <= cpu.spacing <= 1.5
    assert 0.625 <= gpu.spacing < cpu.spacing
    assert (cpu.size, gpu.size) == ("small", "large")
    assert list(cpu.patch) == sorted(cpu.patch)  # The patch has the scan's proportions.
    assert cpu.patch[2] * cpu.spacing > 0.6 * 193 * 0.625
    assert [n.kind for n in cpu.normalizations] == ["mr"]


def test_the_hippocampus(tmp_path: Path) -> None:
    """A small scan at 1 mm is neither coarsened nor made finer than it is, and fits one patch."""
    label = np.zeros((36, 50, 35), np.uint8)
    label[10:18, 10:40, 10:25], label[18:26, 10:40, 10:25] = 1, 2
    classes = (Class("anterior", (1,)), Class("posterior", (2,)))
    plan = plan_training(
        _write(tmp_path, label.shape, (1.0, 1.0, 1.0), label=label, classes=classes), CONFIG, on_gpu=False
    )
    _check(plan, 210_000)
    assert plan.spacing == 1.0
    assert all(abs(p - n) <= PATCH_STEP for p, n in zip(plan.patch, label.shape, strict=True))
    assert plan.one_piece == (True, True)


@pytest.mark.parametrize("spacing", [0.02, 0.0006])
def test_a_scan_under_a_microscope_is_planned_like_a_large_one(tmp_path: Path, spacing: float) -> None:
    """Micro-CT and OCT: extents far below a millimetre, voxels of micrometres."""
    large = plan_training(_write(tmp_path / "a", (60, 120, 140), (1000 * spacing,) * 3), CONFIG, on_gpu=False)
    tiny = plan_training(_write(tmp_path / "b", (60, 120, 140), (spacing,) * 3), CONFIG, on_gpu=False)
    assert tiny.patch == large.patch
    assert tiny.spacing == pytest.approx(large.spacing / 1000, rel=0.1)


def test_a_spacing_in_a_wrong_unit_is_refused(tmp_path: Path) -> None:
    cohort = _write(tmp_path, (60, 120, 140), (1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match=r"'spacing' is 0.001 mm, at which case-0 has 1e\+15 voxels") as error:
        plan_training(cohort, TrainingConfig(spacing=0.001), on_gpu=False)
    assert "--spacing" in error.value.remedy


def test_a_ct(tmp_path: Path) -> None:
    """Thick slices; values in HU, whose window is that of the labelled structure."""
    cohort = _write(tmp_path, (40, 160, 160), (1.6, 1.6, 5.0), air=-1000, inside=60)
    plan = plan_training(cohort, CONFIG, on_gpu=False)
    _check(plan, 210_000)
    assert plan.spacing > 1.6
    (normalize,) = plan.normalizations
    assert normalize.kind == "ct"
    assert -400 < normalize.low < 60 < normalize.high < 500
    assert normalize.mean == pytest.approx(60, abs=15)


def test_the_window_of_a_ct_is_that_of_all_labelled_cases(tmp_path: Path) -> None:
    first = _write(tmp_path / "a", (12, 20, 20), (2.0, 2.0, 2.0), air=-1000, inside=60, unlabeled=0)
    second = _write(tmp_path / "b", (12, 20, 20), (2.0, 2.0, 2.0), air=-1000, inside=400, unlabeled=0)
    both = Cohort((*first.cases, replace(second.cases[0], name="other")), first.classes)
    (alone,) = plan_training(first, CONFIG, on_gpu=False).normalizations
    (together,) = plan_training(both, CONFIG, on_gpu=False).normalizations
    assert alone.high < 400 < together.high
    assert together.mean > alone.mean + 100


def test_planning_twice_gives_the_same(tmp_path: Path) -> None:
    """Grey values must be those of the files, not of memory that was given back."""
    cohort = _write(tmp_path, (24, 40, 40), (2.0, 2.0, 2.0), air=-1000, inside=60)
    plans = []
    for _ in range(3):
        plans.append(plan_training(cohort, CONFIG, on_gpu=False))
        _ = [np.full(24 * 40 * 40, 7, dtype=np.int16) for _ in range(20)]
    assert plans[0] == plans[1] == plans[2]


def test_the_window_is_that_of_the_structure_exactly(tmp_path: Path) -> None:
    cohort = _write(tmp_path, (24, 40, 40), (2.0, 2.0, 2.0), air=-1000, inside=60, unlabeled=0)
    case = cohort.labeled[0]
    image, label = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (case.images[0], case.label))
    low, high = np.percentile(image[label > 0], (0.5, 99.5))
    (normalize,) = plan_training(cohort, CONFIG, on_gpu=False).normalizations
    assert normalize.low == pytest.approx(low - 100)
    assert normalize.high == pytest.approx(high + 100)


def test_each_channel_has_its_own_normalisation(tmp_path: Path) -> None:
    cohort = _write(tmp_path, (16, 20, 20), (2.0, 2.0, 2.0), channels=("CT", "PET"))
    assert [n.kind for n in plan_training(cohort, CONFIG, on_gpu=False).normalizations] == ["ct", "pet"]
    forced = plan_training(cohort, replace(CONFIG, intensity="mr"), on_gpu=False)
    assert [n.kind for n in forced.normalizations] == ["mr", "mr"]


def test_how_a_scan_lies_in_its_file_changes_nothing(tmp_path: Path) -> None:
    """A sagittal acquisition, and one turned by a few degrees, give the patch of the axial one."""
    shape, spacing = (30, 44, 52), (1.0, 1.0, 1.0)
    axial = plan_training(_write(tmp_path / "axial", shape, spacing), CONFIG, on_gpu=False)
    # Columns of the direction: file axes i, j, k run posterior, superior and left.
    sagittal = _write(
        tmp_path / "sagittal", (52, 30, 44), spacing, direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    )
    turned = tuple(sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.1, -0.15, 0.2).GetMatrix())
    oblique = _write(tmp_path / "oblique", shape, spacing, direction=turned)
    for cohort in (sagittal, oblique):
        plan = plan_training(cohort, CONFIG, on_gpu=False)
        assert (plan.spacing, plan.patch) == (axial.spacing, axial.patch)
    assert axial.patch[0] < axial.patch[2]


def test_the_median_scan_decides_not_the_largest(tmp_path: Path) -> None:
    small = _write(tmp_path / "small", (30, 30, 30), (1.0, 1.0, 1.0), unlabeled=4)
    large = _write(tmp_path / "large", (60, 200, 200), (1.0, 1.0, 1.0), unlabeled=0)
    outlier = replace(large.cases[0], name="outlier", role=Role.UNLABELED)
    plan = plan_training(Cohort((*small.cases, outlier), small.classes), CONFIG, on_gpu=False)
    assert (plan.spacing, plan.patch) == (1.0, plan_training(small, CONFIG, on_gpu=False).patch)


def test_islands_that_the_labels_show_are_no_errors(tmp_path: Path) -> None:
    shape = (24, 32, 32)
    label = np.zeros(shape, np.uint8)
    label[4:20, 4:12, 4:12], label[4:20, 20:28, 20:28] = 1, 1  # Two kidneys, say,
    label[8:16, 14:18, 14:18] = 2  # and one structure,
    label[0, 0, 0] = 2  # with a speck that a slip of the hand drew.
    classes = (Class("pair", (1,)), Class("one", (2,)), Class("absent", (3,)))
    plan = plan_training(_write(tmp_path, shape, (2.0, 2.0, 2.0), label=label, classes=classes), CONFIG, on_gpu=False)
    assert plan.one_piece == (False, True, False)
    assert plan.centroids[1] == pytest.approx((12 / 24, 16 / 32, 16 / 32), abs=0.01)


def test_where_a_structure_lies_is_the_mean_of_labelled_cases_that_show_it(tmp_path: Path) -> None:
    shape, classes = (20, 20, 20), (Class("one", (1,)), Class("two", (2,)))
    low, high, both = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    low[2:6, 8:12, 8:12], high[14:18, 8:12, 12:16] = 1, 1
    both[6:8, 6:8, 6:8], both[12:14, 6:8, 6:8] = 2, 2
    cases = []
    for name, label in (("low", low), ("high", high), ("both", both)):
        cohort = _write(tmp_path / name, shape, (1.0, 1.0, 1.0), label=label, classes=classes, unlabeled=0)
        cases.append(replace(cohort.cases[0], name=name))
    plan = plan_training(Cohort(tuple(cases), classes), CONFIG, on_gpu=False)
    assert plan.centroids[0] == pytest.approx((0.5, 0.5, 0.6))
    assert plan.centroids[1] is None
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_kept_plan_takes_nothing_for_one_piece_that_a_new_label_shows_in_several(tmp_path: Path) -> None:
    shape, classes = (20, 20, 20), (Class("one", (1,)), Class("two", (2,)), Class("not shown again", (3,)))
    before, corrected = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    before[2:6, 8:12, 8:12], before[6:8, 6:8, 6:8], before[14:16, 6:8, 6:8] = 1, 2, 3
    corrected[14:18, 8:12, 12:16], corrected[6:8, 6:8, 6:8], corrected[12:14, 6:8, 6:8] = 1, 2, 2
    first, second = (
        _write(tmp_path / name, shape, (1.0, 1.0, 1.0), label=label, classes=classes, unlabeled=0)
        for name, label in (("before", before), ("corrected", corrected))
    )
    plan = plan_training(first, CONFIG, on_gpu=False)
    assert plan.one_piece == (True, True, True)
    kept = without_several_pieces(plan, second)
    assert kept.one_piece == (True, False, True)
    assert replace(kept, centroids=plan.centroids) == plan
    assert kept.centroids[0] == plan.centroids[0]


def test_where_a_structure_lies_does_not_depend_on_how_the_file_is_turned(tmp_path: Path) -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:6, 4:8, 12:16] = 1
    straight = _write(tmp_path / "a", label.shape, (1.0, 1.0, 1.0), label=label)
    turned = _write(
        tmp_path / "b", label.shape, (1.0, 1.0, 1.0), label=label[::-1, ::-1], direction=(1, 0, 0, 0, -1, 0, 0, 0, -1)
    )
    first, second = (plan_training(cohort, CONFIG, on_gpu=False).centroids for cohort in (straight, turned))
    assert first[0] == pytest.approx(second[0])
    assert first[0] == pytest.approx((0.2, 0.3, 0.7))


def test_what_is_set_is_kept(tmp_path: Path) -> None:
    cohort = _write(tmp_path, (24, 32, 32), (1.0, 1.0, 3.0))
    config = replace(CONFIG, spacing=1.7, patch=(16, 24, 32), size="small", intensity="pet")
    plan = plan_training(cohort, config, on_gpu=False)
    assert (plan.spacing, plan.patch, plan.size) == (1.7, (16, 24, 32), "small")
    assert [n.kind for n in plan.normalizations] == ["pet"]


def test_a_patch_that_cannot_be_halved_is_refused_with_one_that_can(tmp_path: Path) -> None:
    cohort = _write(tmp_path, (24, 32, 32), (1.0, 1.0, 1.0), unlabeled=0)
    with pytest.raises(ConfigError, match=r"\(20, 32, 33\).*multiples of 8") as error:
        plan_training(cohort, replace(CONFIG, patch=(20, 32, 33)), on_gpu=False)
    offered = [int(n) for n in error.value.remedy.partition("(")[2].partition(")")[0].split(",")]
    plan_training(cohort, replace(CONFIG, patch=tuple(offered)), on_gpu=False)  # type: ignore[arg-type]


def test_a_plan_is_written_as_json_and_read_back(tmp_path: Path) -> None:
    cohort = _write(tmp_path, (24, 32, 32), (1.0, 1.0, 1.0), air=-1000, inside=60, unlabeled=0)
    plan = plan_training(cohort, CONFIG, on_gpu=False)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("shape", [(44, 72, 96), (36, 50, 35), (20, 20, 20), (10, 120, 120)])
def test_what_is_planned_suits_the_specialist(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """With no flag but --specialist, a training must start."""
    cohort = _write(tmp_path, shape, (1.25, 1.25, 1.25), unlabeled=0)
    for name in SPECIALISTS:
        plan = plan_training(cohort, replace(CONFIG, size="small"), on_gpu=False, step=patch_step(name))
        _check(plan, 210_000)
        build_specialist(name, in_channels=1, out_channels=2, patch=plan.patch, size=plan.size)
