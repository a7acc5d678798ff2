"""Whole cases: fewer windows than a sliding window has, and no structure lost; and from the training grid to the native one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from monai.transforms import KeepLargestConnectedComponent
from tiny import OBLIQUE, ball, plan, specialist_of, write_volume
from torch import nn

from SemiSAMPlusLib.cohort.volume import Grid, read_grid, read_image, training_grid
from SemiSAMPlusLib.errors import VolumeError
from SemiSAMPlusLib.specialist import inference, native
from SemiSAMPlusLib.specialist.inference import predict_probabilities, predictive_entropy
from SemiSAMPlusLib.specialist.native import native_classes, native_entropy, to_native
from SemiSAMPlusLib.specialist.networks import build_specialist
from SemiSAMPlusLib.specialist.windows import plan_windows

PATCH = (16, 24, 16)
MIDDLE = (0.5, 0.5, 0.5)
#: Smaller than the patch, equal, little larger, larger along some axes, and much larger along all.
SHAPES = [(9, 20, 11), PATCH, (17, 30, 20), (20, 24, 21), (20, 31, 60), (50, 80, 44), (16, 24, 90)]


class Grey(nn.Module):
    """Finds class 1 where the image is about 1, class 2 where it is about 2; counts how many windows it is shown."""

    def __init__(self, blur: int = 1) -> None:
        super().__init__()
        self.blur = nn.AvgPool3d(blur, 1, blur // 2, count_include_pad=False)
        self.windows = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.windows += len(image)
        grey = self.blur(image[:, 0])
        return torch.stack([torch.full_like(grey, 12.0), 24 - 24 * (grey - 1).abs(), 24 - 24 * (grey - 2).abs()], 1)


def plain(network: nn.Module, image: torch.Tensor, patch: Sequence[int] = PATCH) -> torch.Tensor:
    """Return what MONAI's sliding windows say, overlap one half, Gaussian weights."""
    shape = [max(n, p) for n, p in zip(image.shape[1:], patch, strict=True)]
    before = [(wide - n) // 2 for wide, n in zip(shape, image.shape[1:], strict=True)]
    inside = (..., *(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True)))
    padded = torch.full((1, image.shape[0], *shape), float(image.amin()))
    padded[inside] = image
    with torch.no_grad():
        logits = sliding_window_inference(padded, tuple(patch), 1, network, overlap=0.5, mode="gaussian")
    return torch.as_tensor(logits)[inside][0].softmax(dim=0)


def boxes(shape: Sequence[int], places: dict[tuple[int, int, int], int], edge: int = 3) -> torch.Tensor:
    """Return an image (1, z, y, x) of zeros with cubes of a grey value that begin at some places."""
    image = torch.zeros(1, *shape)
    for (z, y, x), grey in places.items():
        image[0, z : z + edge, y : y + edge, x : x + edge] = grey
    return image


# -- which windows


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if all(n >= p for n, p in zip(shape, PATCH, strict=True))])
def test_the_first_windows_cover_every_voxel_or_the_case_is_squeezed(shape: tuple[int, int, int]) -> None:
    windows = plan_windows(shape, PATCH)
    seen, all_seen = np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
    for start in (*windows.first, *windows.second):
        place = tuple(slice(s, s + p) for s, p in zip(start, PATCH, strict=True))
        assert seen[place].shape == PATCH
        seen[place] += start in windows.first
        all_seen[place] += 1
    assert len({*windows.first, *windows.second}) == len(windows.first) + len(windows.second)
    assert all_seen.min() >= 1
    assert (seen.min() >= 1) != windows.squeezed


def test_a_left_atrium_takes_half_of_the_windows_and_a_large_volume_an_eighth_at_first() -> None:
    atrium = plan_windows((44, 72, 95), (40, 64, 88))
    assert (len(atrium.first), len(atrium.second), atrium.squeezed) == (4, 4, True)
    large = plan_windows((320, 320, 320), (64, 64, 64))
    assert len(large.first) == 5**3
    assert len(large.first) + len(large.second) == (9**3 + 1) // 2


def test_windows_along_an_axis_overlap_by_half_or_more() -> None:
    for size in range(24, 120):
        places = sorted({start[1] for start in plan_windows((16, size, 16), PATCH).first})
        assert places[0] == 0
        assert places[-1] == size - 24
        assert max(np.diff(places), default=0) <= 24


# -- nothing is lost


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grey", [1, 2])
def test_a_structure_is_found_wherever_it_lies(shape: tuple[int, int, int], grey: int) -> None:
    ends = [sorted({0, n // 2, n - 3}) for n in shape]
    for place in product(*ends):
        image = boxes(shape, {place: grey})
        found = predict_probabilities(Grey(), image, patch=PATCH).max(dim=0).indices
        assert torch.equal(found, (image[0] == grey) * grey), place


@pytest.mark.parametrize("shape", SHAPES)
def test_several_pieces_of_all_classes_are_as_plain_sliding_windows_find_them(shape: tuple[int, int, int]) -> None:
    z, y, x = (n - 3 for n in shape)
    image = boxes(shape, {(0, 0, 0): 1, (z, y, x): 2, (0, y, 0): 2, (z, 0, 0): 1, (z // 2, y // 2, x // 2): 1})
    image += torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) * 0.2
    found, expected = predict_probabilities(Grey(), image, patch=PATCH), plain(Grey(), image)
    assert torch.equal(found.max(dim=0).indices, expected.max(dim=0).indices)
    assert (found - expected).abs().max() < 0.01
    assert torch.allclose(found.sum(dim=0), torch.ones(shape))


def test_a_single_voxel_on_the_seam_of_the_first_windows_is_found() -> None:
    shape = (48, 72, 48)
    for place in product((15, 16), (23, 24), (15, 16, 31, 32)):
        image = boxes(shape, {place: 1}, edge=1)
        assert predict_probabilities(Grey(), image, patch=PATCH).max(dim=0).indices[place] == 1


def test_where_a_structure_is_the_windows_of_the_chessboard_are_all_there() -> None:
    torch.manual_seed(0)
    network = build_specialist("unet3d", in_channels=1, out_channels=2, patch=PATCH, size="small").eval()
    # Every voxel is more than a tenth of a structure to an untrained network, so no window is left out.
    image = torch.rand(1, 48, 60, 40)
    windows = plan_windows(image.shape[1:], PATCH)
    assert windows.second
    weight = compute_importance_map(PATCH, mode="gaussian", sigma_scale=0.125)
    total, weights = torch.zeros(2, 48, 60, 40), torch.zeros(48, 60, 40)
    for start in (*windows.first, *windows.second):
        place = tuple(slice(s, s + p) for s, p in zip(start, PATCH, strict=True))
        with torch.no_grad():
            total[(slice(None), *place)] += network(image[(slice(None), *place)][None])[0] * weight
        weights[place] += weight
    found = predict_probabilities(network, image, patch=PATCH)
    assert torch.allclose(found, (total / weights).softmax(dim=0), atol=1e-4)


def test_what_a_further_window_sees_calls_for_more_of_them() -> None:
    class Shy(Grey):
        """Sees structures in the middle of windows alone."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = super().forward(image)
            middle = torch.zeros_like(logits[:, :1])
            middle[..., 4:-4, :, 4:-4] = 1
            return torch.cat([logits[:, :1], logits[:, 1:] * middle], 1)

    # A rod along the seams of the first windows from a place that they see.
    image = torch.zeros(1, 16, 24, 112)
    image[0, 8:10, 8:10, 6:109] = 1
    network = Shy()
    found = predict_probabilities(network, image, patch=PATCH).max(dim=0).indices
    assert (found[8:10, 8:10, 6:106] == 1).all()


def test_an_empty_volume_costs_each_first_window_once_and_shows_nothing() -> None:
    for shape in SHAPES:
        network = Grey()
        assert not predict_probabilities(network, torch.zeros(1, *shape), patch=PATCH).max(dim=0).indices.any()
        windows = plan_windows([max(n, p) for n, p in zip(shape, PATCH, strict=True)], PATCH)
        assert network.windows == len(windows.first) + windows.squeezed


def test_a_structure_calls_for_further_windows_only_around_itself() -> None:
    network = Grey()
    predict_probabilities(network, boxes((80, 120, 80), {(20, 30, 20): 1}), patch=PATCH)
    windows = plan_windows((80, 120, 80), PATCH)
    assert 0 < network.windows - len(windows.first) <= 14


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_in_half_precision_say_nearly_the_same(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = boxes(shape, {(2, 3, 4): 1, (5, 9, 1): 2})
    full = predict_probabilities(Grey(3), image, patch=PATCH)
    monkeypatch.setattr(inference, "_FLOAT32_BYTES", 0)
    half = predict_probabilities(Grey(3), image, patch=PATCH)
    assert half.dtype == (
        torch.float32
        if len(plan_windows([max(n, p) for n, p in zip(shape, PATCH, strict=True)], PATCH).first) == 1
        else torch.float16
    )
    assert (half.float() - full).abs().max() < 0.02


def test_the_same_case_gives_the_same_probabilities() -> None:
    torch.manual_seed(0)
    network = build_specialist("unet3d", in_channels=1, out_channels=3, patch=PATCH, size="small").eval()
    image = torch.rand(1, 20, 30, 40)
    first, second = (predict_probabilities(network, image, patch=PATCH) for _ in range(2))
    assert torch.equal(first, second)


# -- the native grid


def _case(seed: int, *, empty: bool = False) -> tuple[np.ndarray, Grid]:
    """Return probabilities of three classes on a training grid over ``OBLIQUE``, structures in corners and the middle."""
    grid = training_grid(OBLIQUE.reference(), 0.7)
    logits = np.random.default_rng(seed).normal(0, 0.5, (3, *grid.shape)).astype(np.float32)
    logits[0] += 4
    if not empty:
        logits[1] += 9 * ball(grid.shape, 3.0)
        logits[2] += 9 * ball(grid.shape, 5.0, (0, 0, 0)) + 9 * ball(grid.shape, 4.0, [n - 1 for n in grid.shape])
    return torch.from_numpy(logits).softmax(dim=0).numpy(), grid


@pytest.mark.parametrize("slab", [1, 4000, 10**9])
def test_slabs_give_what_the_whole_gives(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, grid = _case(0)
    whole = to_native(probabilities, grid, OBLIQUE)
    monkeypatch.setattr(native, "_SLAB", slab)
    assert set(np.unique(whole.argmax(axis=0))) == {0, 1, 2}
    assert np.array_equal(native_classes(probabilities, grid, OBLIQUE, (None, None)), whole.argmax(axis=0))
    entropy = native_entropy(probabilities, grid, OBLIQUE)
    assert np.allclose(entropy, predictive_entropy(whole), atol=1e-5)


def test_islands_go_to_background_on_the_native_grid() -> None:
    probabilities, grid = _case(0)
    classes = torch.from_numpy(to_native(probabilities, grid, OBLIQUE).argmax(axis=0))[None]
    keep = KeepLargestConnectedComponent(applied_labels=[2], is_onehot=False, connectivity=3)
    expected = np.asarray(keep(classes.clone()))[0]
    assert (expected != classes[0].numpy()).any()
    assert np.array_equal(native_classes(probabilities, grid, OBLIQUE, (None, MIDDLE)), expected)


def test_the_native_grid_of_an_empty_case_is_background() -> None:
    probabilities, grid = _case(1, empty=True)
    assert not native_classes(probabilities, grid, OBLIQUE, (MIDDLE, MIDDLE)).any()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_small_structure_is_found_wherever_it_lies_on_the_native_grid(share: float) -> None:
    """And where another structure is surely not."""
    grid = training_grid(OBLIQUE.reference(), 0.7)
    probabilities = np.zeros((3, *grid.shape), dtype=np.float32)
    probabilities[0] = 1
    place = tuple(round(share * (n - 1)) for n in grid.shape)
    probabilities[:, ball(grid.shape, 2.5, place)] = [[0.4], [0.6], [0.0]]
    expected = to_native(probabilities, grid, OBLIQUE).argmax(axis=0)
    assert (expected == 1).any()
    assert np.array_equal(native_classes(probabilities, grid, OBLIQUE, (None, None)), expected)


@pytest.mark.parametrize("spacing", [0.7, 1.3, 2.9])
def test_a_structure_that_fills_the_field_of_view_reaches_its_border(spacing: float) -> None:
    """The training grid, rounded to whole voxels, may end before it."""
    grid = training_grid(OBLIQUE.reference(), spacing)
    probabilities = np.stack([np.full(grid.shape, share, dtype=np.float32) for share in (0.1, 0.9)])
    assert (native_classes(probabilities, grid, OBLIQUE, (None,)) == 1).all()
    entropy = native_entropy(probabilities, grid, OBLIQUE)
    np.testing.assert_allclose(entropy, predictive_entropy(np.array([0.1, 0.9])), rtol=1e-5)


def test_half_precision_probabilities_are_taken_to_the_native_grid() -> None:
    probabilities, grid = _case(0)
    half = probabilities.astype(np.float16)
    exact = native_classes(probabilities, grid, OBLIQUE, (None, None))
    assert (native_classes(half, grid, OBLIQUE, (None, None)) != exact).mean() < 0.005


def test_entropy_is_not_negative_where_rounded_structures_add_up_to_more_than_one() -> None:
    grid = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    probabilities = np.zeros((3, *grid.shape), dtype=np.float16)
    probabilities[1], probabilities[2] = 0.0005, 0.99976
    assert probabilities[1:, 0, 0, 0].astype(float).sum() > 1
    expected = predictive_entropy(np.array([0.0, 0.0005, 0.99976])).item()
    assert native_entropy(probabilities, grid, grid) == pytest.approx(expected, rel=0.1)
    assert expected > 0


def test_which_of_two_rivals_is_meant_is_the_same_place_in_the_body_on_the_native_grid() -> None:
    """Both balls of the second class are in opposite corners; the larger has less than twice the other's voxels."""
    probabilities, grid = _case(0)
    everything = native_classes(probabilities, grid, OBLIQUE, (None, None))
    first = native_classes(probabilities, grid, OBLIQUE, (None, (0.0, 0.0, 0.0)))
    second = native_classes(probabilities, grid, OBLIQUE, (None, (1.0, 1.0, 1.0)))
    assert (first == 2).any()
    assert (second == 2).any()
    assert not ((first == 2) & (second == 2)).any()
    assert np.array_equal((first == 2) | (second == 2), everything == 2)
    native_corner = np.round(OBLIQUE.to_index(grid.to_physical(np.zeros((1, 3))))[0]).astype(int)
    place = tuple(np.clip(native_corner, 0, np.array(OBLIQUE.shape) - 1))
    assert everything[place] == first[place] == 2
    assert second[place] == 0


@pytest.mark.parametrize("shape", [(12, 40, 33), (30, 20, 60)])
def test_a_prediction_is_that_of_plain_sliding_windows(shape: tuple[int, int, int], tmp_path: Path) -> None:
    grid = Grid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    array = 100.0 * ball(shape, 5.0).astype(np.float32) + np.random.default_rng(0).normal(0, 1, shape)
    path = write_volume(tmp_path / "Bild ü" / "a.nii.gz", array.astype(np.float32), grid)
    network = nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        network.weight[:, 0, 0, 0, 0], network.bias[:] = torch.tensor([0.0, 5.0]), torch.tensor([0.0, -8.0])
    specialist = specialist_of(network, plan=plan(PATCH))
    prediction = specialist.predict([path])
    assert prediction.grid == grid
    assert prediction.labels.dtype == np.uint8
    assert prediction.labels.any()
    assert prediction.entropy.shape == shape
    assert prediction.entropy is prediction.entropy
    expected = plain(network, torch.from_numpy(_normalized(specialist, path)))
    assert np.array_equal(prediction.labels, expected.argmax(dim=0).numpy())
    assert np.allclose(prediction.entropy, predictive_entropy(expected.numpy()), atol=1e-3)


def _normalized(specialist: object, path: Path) -> np.ndarray:
    array = sitk.GetArrayFromImage(read_image(path))
    return specialist.plan.normalizations[0](array)[None]  # type: ignore[attr-defined]


# -- a grid without its voxels


@pytest.mark.parametrize("name", ["a.nii.gz", "b.nrrd", "c.mha", "größe d.nii"])
def test_a_grid_is_read_from_the_header(tmp_path: Path, name: str) -> None:
    path = write_volume(tmp_path / name, np.zeros(OBLIQUE.shape, dtype=np.int16), OBLIQUE)
    assert read_grid(path) == Grid.of(read_image(path))


def test_a_grid_of_one_time_point_is_that_of_the_volume(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.JoinSeries([OBLIQUE.reference()]), str(tmp_path / "a.nrrd"))
    assert read_grid(tmp_path / "a.nrrd") == Grid.of(read_image(tmp_path / "a.nrrd"))


def test_a_grid_of_no_volume_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    for path in (tmp_path / "a.nii.gz", tmp_path / "missing.nrrd", tmp_path):
        with pytest.raises(VolumeError, match=str(path.name)):
            read_grid(path)
