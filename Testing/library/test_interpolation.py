"""Interpolation axis by axis is linear interpolation, and is used only where axes run alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import OBLIQUE

from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.generalist.interpolation import interpolate, run_alike

VALUES = np.random.default_rng(3).random((2, *OBLIQUE.shape), dtype=np.float32)


def _map(source: Grid, target: Grid) -> np.ndarray:
    return np.linalg.inv(source.affine) @ target.affine


def _rescaled(start: tuple[float, float, float], factor: float, shape: tuple[int, int, int]) -> Grid:
    origin = tuple(OBLIQUE.to_physical(np.asarray([start]))[0])
    return Grid(shape, tuple(factor * s for s in OBLIQUE.spacing), origin, OBLIQUE.direction)


@pytest.mark.parametrize(
    "target",
    [
        OBLIQUE,
        OBLIQUE.cropped((2, 3, 4), (5, 6, 7)),
        _rescaled((0.3, 1.7, 2.2), 0.5, (15, 16, 20)),
        _rescaled((-3.2, -2.1, -4.3), 0.7, (30, 33, 35)),
        _rescaled((1.2, 0.4, -2.6), 2.1, (7, 5, 6)),
    ],
    ids=["the same", "a part", "finer", "finer and larger", "coarser"],
)
def test_it_is_what_simpleitk_interpolates(target: Grid) -> None:
    index_map = _map(OBLIQUE, target)
    assert run_alike(index_map, target.shape)
    found = interpolate(torch.from_numpy(VALUES), index_map, target.shape).numpy()
    for one, values in zip(found, VALUES, strict=True):
        resampled = sitk.Resample(
            OBLIQUE.image(values), target.reference(), sitk.Transform(), sitk.sitkLinear, float("nan")
        )
        np.testing.assert_allclose(one, sitk.GetArrayFromImage(resampled), atol=1e-5)


def test_an_axis_may_run_backwards() -> None:
    target = Grid((3, 4, 5), (1.0, 1.0, 1.0), (4.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    source = Grid((3, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    values = torch.from_numpy(VALUES[:, :3, :4, :5].copy())
    index_map = _map(source, target)
    assert run_alike(index_map, target.shape)
    torch.testing.assert_close(interpolate(values, index_map, target.shape), values.flip(-1))


def test_what_is_turned_or_has_other_axes_does_not_run_alike() -> None:
    straight = replace(OBLIQUE, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    assert not run_alike(_map(straight, OBLIQUE), OBLIQUE.shape)
    swapped = replace(straight, direction=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    assert not run_alike(_map(straight, swapped), swapped.shape)
    slight = replace(straight, direction=tuple(sitk.Euler3DTransform((0.0, 0.0, 0.0), 0, 0, 0.002).GetMatrix()))
    assert not run_alike(_map(straight, slight), slight.shape)
