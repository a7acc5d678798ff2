"""What kind of image a channel is guessed to be, and how its grey values come to one scale."""

from __future__ import annotations

import numpy as np
import pytest

from SemiSAMPlusLib.cohort.intensity import Normalization, ct_window, guess_kind

SHAPE = (20, 24, 28)


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _ct(seed: int = 0) -> np.ndarray:
    """Air, soft tissue and a little bone, in HU."""
    array = _random(seed).normal(-1000, 20, SHAPE)
    array[4:16, 4:20, 4:24] = _random(seed).normal(40, 20, (12, 16, 20))
    array[9:11, 9:11] = 700
    return np.round(array).astype(np.int16)


def _mr(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.abs(_random(seed).normal(300, 120, SHAPE) * scale).astype(np.float32)


@pytest.mark.parametrize(
    ("channel", "kind"),
    [
        *(("CT", "ct"), ("cbct", "ct"), ("CT_portal", "ct"), ("PET", "pet"), ("SUV", "pet"), ("pet-suv", "pet")),
        *(("MRI", "mr"), ("FLAIR", "mr"), ("T1w", "mr"), ("t1ce", "mr"), ("T2", "mr"), ("MR T2-FLAIR", "mr")),
    ],
)
def test_a_name_that_says_it_decides(channel: str, kind: str) -> None:
    for array in (_ct(), _mr()):
        assert guess_kind(channel, array) == kind


@pytest.mark.parametrize("channel", ["image", "0000", "impact", "spectrum", "contrast", ""])
def test_without_such_a_name_the_values_decide(channel: str) -> None:
    assert guess_kind(channel, _ct()) == "ct"
    assert guess_kind(channel, _mr()) == "mr"
    assert guess_kind(channel, _mr() - 300) == "mr"  # Negative values alone are no CT.


def test_a_few_odd_voxels_make_no_ct() -> None:
    array = _mr()
    array.flat[: array.size // 200] = -3000
    assert guess_kind("image", array) == "mr"


def test_ct_is_scaled_alike_in_every_scan() -> None:
    """The same HU come to the same value, whatever else is in the scan."""
    normalize = ct_window(_random().normal(60, 15, 5000).astype(np.float32))
    assert normalize.low < 0 < 120 < normalize.high
    scan = _ct()
    alone, beside_metal = normalize(scan), normalize(np.where(scan > 600, 3000, scan))
    assert np.array_equal(alone[scan < 600], beside_metal[scan < 600])
    soft = normalize(np.array([60.0]))
    assert abs(float(soft[0])) < 0.5
    assert normalize(np.array([-1000.0])) == normalize(np.array([-2000.0]))


def test_a_ct_structure_of_one_value_has_a_window_all_the_same() -> None:
    normalize = ct_window(np.full(100, 55.0, np.float32))
    assert normalize.high - normalize.low >= 200
    assert np.isfinite(normalize(_ct())).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_mr_is_scaled_by_itself(scale: float) -> None:
    """The scanner's own scale vanishes."""
    found = Normalization("mr")(_mr(scale=scale))
    np.testing.assert_allclose(found, Normalization("mr")(_mr()), atol=1e-3)
    assert abs(float(found.mean())) < 0.05
    assert float(found.std()) == pytest.approx(1, abs=0.05)
    assert found.dtype == np.float32


def test_outliers_of_mr_do_not_set_the_scale() -> None:
    array = _mr()
    spoiled = array.copy()
    spoiled.flat[:20] = 1e6
    np.testing.assert_allclose(Normalization("mr")(spoiled).flat[20:], Normalization("mr")(array).flat[20:], atol=0.15)
    assert Normalization("mr")(spoiled).max() < 5


def test_zeros_around_a_stripped_skull_do_not_set_the_scale() -> None:
    brain = _mr() + 200
    padded = np.pad(brain, 20)
    np.testing.assert_allclose(
        Normalization("mr")(padded)[20:-20, 20:-20, 20:-20], Normalization("mr")(brain), atol=1e-3
    )
    assert np.isfinite(Normalization("mr")(padded)).all()


def test_pet_shows_faint_and_intense_uptake() -> None:
    suv = np.abs(_random().normal(0.6, 0.2, SHAPE))
    suv[8:11, 8:11, 8:11] = 18.0
    suv[14, 14, 14] = 400.0  # The bladder, say: more than the ceiling says nothing more.
    found = Normalization("pet")(suv)
    assert np.isfinite(found).all()
    faint, hot, hottest = Normalization("pet")(suv)[[5, 9, 14], [5, 9, 14], [5, 9, 14]]
    assert faint < hot <= hottest
    assert hottest - hot < hot - faint
    assert np.ptp(found[:6]) > 1  # Faint uptake is not squeezed into nothing.


@pytest.mark.parametrize("kind", ["mr", "pet", "ct"])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_even_scan_stays_finite(kind: str, value: float) -> None:
    assert np.isfinite(Normalization(kind)(np.full(SHAPE, value))).all()  # type: ignore[arg-type]


def test_a_scan_of_mostly_zeros_stays_finite() -> None:
    array = np.zeros(SHAPE)
    array[5, 5, 5:9] = 100
    assert np.isfinite(Normalization("mr")(array)).all()


@pytest.mark.parametrize("kind", ["mr", "pet", "ct"])
def test_what_is_given_is_left_as_it_is(kind: str) -> None:
    array = _mr()
    before = array.copy()
    Normalization(kind)(array)  # type: ignore[arg-type]
    assert np.array_equal(array, before)


def test_a_normalization_is_written_and_read_back() -> None:
    normalize = ct_window(_random().normal(60, 15, 500).astype(np.float32))
    assert Normalization(**normalize.to_dict()) == normalize
