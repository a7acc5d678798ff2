"""The embedded cohort: equal from equal seeds, varied, and not solved by grey values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from SemiSAMPlusLib.cohort.cohort import Case, Cohort
from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort
from SemiSAMPlusLib.errors import ConfigError

SIZE = (24, 32, 28)


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_phantom_cohort(tmp_path_factory.mktemp("with space é"), cases=6, labeled=1, test=2, size=SIZE)


def test_roles_and_files(cohort: Cohort) -> None:
    assert [len(part) for part in (cohort.labeled, cohort.unlabeled, cohort.test)] == [1, 3, 2]
    assert len({case.name for case in cohort.cases}) == 6
    folder = cohort.cases[0].images[0].parents[1]
    assert Cohort.load(folder / "cohort.json") == cohort


def test_image_and_label_lie_on_one_grid(cohort: Cohort) -> None:
    for case in cohort.cases:
        image, label = sitk.ReadImage(str(case.images[0])), sitk.ReadImage(str(case.label))
        assert image.GetSize() == label.GetSize() == SIZE[::-1]
        assert image.GetSpacing() == pytest.approx(label.GetSpacing(), abs=1e-6)
        assert image.GetOrigin() == pytest.approx(label.GetOrigin(), abs=1e-4)
        assert (image.GetPixelID(), label.GetPixelID()) == (sitk.sitkInt16, sitk.sitkUInt8)


def test_the_field_of_view_does_not_depend_on_the_size(cohort: Cohort) -> None:
    image = sitk.ReadImage(str(cohort.cases[0].images[0]))
    extent = np.array(image.GetSize()) * image.GetSpacing()
    assert extent == pytest.approx([67.2, 76.8, 57.6], rel=0.1)


def test_the_target_is_one_piece_of_sensible_size(cohort: Cohort) -> None:
    for case in cohort.cases:
        label = read(case.label)
        assert set(np.unique(label)) == {0, 1}
        assert ndimage.label(label)[1] == 1
        assert 0.01 < label.mean() < 0.15


def test_equal_seeds_give_equal_volumes_and_others_do_not(tmp_path: Path, cohort: Cohort) -> None:
    again = make_phantom_cohort(tmp_path / "again", cases=3, labeled=1, test=1, size=SIZE)
    other = make_phantom_cohort(tmp_path / "other", cases=3, labeled=1, test=1, size=SIZE, seed=1)
    for ours, same, different in zip(cohort.cases, again.cases, other.cases, strict=False):
        assert np.array_equal(read(ours.images[0]), read(same.images[0]))
        assert np.array_equal(read(ours.label), read(same.label))
        assert not np.array_equal(read(ours.label), read(different.label))


def test_cases_differ_in_shape_place_and_grey_scale(cohort: Cohort) -> None:
    labels = [read(case.label) for case in cohort.cases]
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for i, a in enumerate(labels) for b in labels[:i]]
    assert max(dice) < 0.9
    means = [read(case.images[0])[label > 0].mean() for case, label in zip(cohort.cases, labels, strict=True)]
    assert max(means) / min(means) > 1.2


def test_less_variation_makes_cases_alike(tmp_path: Path, cohort: Cohort) -> None:
    def likeness(members: Cohort) -> float:
        a, b = (read(case.label) for case in members.cases[:2])
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    alike = make_phantom_cohort(tmp_path, cases=2, labeled=1, test=0, size=SIZE, variation=0.1)
    assert likeness(alike) > likeness(cohort)


def test_scanners_that_differ_more_leave_the_anatomy_as_it_is(tmp_path: Path, cohort: Cohort) -> None:
    def contrast(case: Case) -> float:
        image, label = read(case.images[0]).astype(float), read(case.label) > 0
        return image[label].mean() / np.quantile(image, 0.95)

    apart = make_phantom_cohort(tmp_path, cases=6, labeled=1, test=2, size=SIZE, scanners=4.0)
    for ours, same in zip(cohort.cases, apart.cases, strict=True):
        assert np.array_equal(read(ours.label), read(same.label))
        assert not np.array_equal(read(ours.images[0]), read(same.images[0]))
    assert np.std([contrast(case) for case in apart.cases]) > 1.2 * np.std([contrast(case) for case in cohort.cases])


def test_the_best_grey_value_window_does_not_find_the_target(cohort: Cohort) -> None:
    for case in cohort.cases:
        image, label = ndimage.gaussian_filter(read(case.images[0]).astype(float), 0.7), read(case.label) > 0
        levels = np.quantile(image, np.linspace(0, 1, 25))
        best = 0.0
        for low in levels:
            for high in levels[levels > low]:
                found = (image >= low) & (image <= high)
                best = max(best, 2 * (found & label).sum() / (found.sum() + label.sum()))
        assert best < 0.6


def test_the_target_shows_against_what_surrounds_it(cohort: Cohort) -> None:
    for case in cohort.cases:
        image, label = read(case.images[0]).astype(float), read(case.label) > 0
        ring = ndimage.binary_dilation(label, iterations=2) & ~ndimage.binary_dilation(label)
        assert image[label].mean() > 1.2 * image[ring].mean()


@pytest.mark.parametrize(("labeled", "test"), [(0, 1), (1, 3), (4, 0)])
def test_impossible_roles_are_refused(tmp_path: Path, labeled: int, test: int) -> None:
    with pytest.raises(ConfigError, match="3 cases"):
        make_phantom_cohort(tmp_path, cases=3, labeled=labeled, test=test, size=SIZE)
