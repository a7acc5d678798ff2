"""SAM-Med3D: its arithmetic against the plain form and fixed values, its preparation and geometry against hand-made cases."""

from __future__ import annotations

import hashlib
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from padded_attention import padded_attention
from torch import Tensor
from torch.nn import functional

from SemiSAMPlusLib.cohort.volume import Grid, Volume, training_grid
from SemiSAMPlusLib.generalist.generalist import Generalist, PromptSet
from SemiSAMPlusLib.generalist.sam_med3d.generalist import SamMed3D, _resample_answer, prepare
from SemiSAMPlusLib.generalist.sam_med3d.image_encoder import WindowAttention
from SemiSAMPlusLib.generalist.sam_med3d.model import SamMed3DModel
from SemiSAMPlusLib.generalist.sam_med3d.prompt_encoder import ABSENT, NOT_A_POINT

NO_POINTS = (np.zeros((0, 3)), np.zeros(0, dtype=int))


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """Fixed numbers that depend on no random generator."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase * phase).reshape(shape)


def tiny_model() -> SamMed3DModel:
    """The same classes in small, in double precision, with fixed weights."""
    model = SamMed3DModel(
        size=32, patch=8, width=24, depth=2, heads=2, window=6, global_blocks=(1,), channels=48, decoder_hidden=2048
    )
    model = model.double()
    for number, (_, tensor) in enumerate(sorted(model.state_dict().items())):
        tensor.copy_(0.3 * wave(tuple(tensor.shape), number))
    return model.eval()


@pytest.fixture
def tiny() -> SamMed3D:
    return SamMed3D(None, model=tiny_model().float())


def randomize(module: torch.nn.Module, scale: float = 0.5) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1 or "rel_pos" in name or "pos_embed" in name:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


# The network


def test_names_shapes_and_counts_are_the_official_ones() -> None:
    with torch.device("meta"):
        model = SamMed3DModel()
    state = model.state_dict()
    assert len(state) == 324
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (
            ("all", model),
            ("encoder", model.image_encoder),
            ("prompt", model.prompt_encoder),
            ("decoder", model.mask_decoder),
        )
    }
    assert counts == {"all": 100_509_232, "encoder": 92_924_928, "prompt": 8_668, "decoder": 7_575_636}
    listing = "\n".join(f"{key} {tuple(value.shape)}" for key, value in sorted(state.items()))
    # The SHA256 of the same listing of the official vit_b_ori.
    assert (
        hashlib.sha256(listing.encode()).hexdigest()
        == "9590214e821247565c21a3dd83d68795d7c218c2082a39bb91c987f08ddbbdc9"
    )


@pytest.mark.parametrize(("tokens", "window"), [(3, 5), (2, 7), (4, 4)])
def test_attention_without_padding_tokens_equals_attention_with_them(tokens: int, window: int) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(12, 2, tokens, window).double()
    randomize(attention)
    x = torch.randn(2, tokens, tokens, tokens, 12, dtype=torch.float64)
    with torch.inference_mode():
        expected = padded_attention(attention, x)
        found = attention(x)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-10


def test_attention_refuses_a_window_that_cannot_hold_the_tokens() -> None:
    with pytest.raises(ValueError, match="cannot hold 6 tokens"):
        WindowAttention(12, 2, 6, 5)


@pytest.mark.slow
def test_the_whole_encoder_equals_the_padded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = SamMed3DModel().image_encoder.eval()
    randomize(encoder, 0.2)
    x = torch.randn(1, 1, 128, 128, 128)
    with torch.inference_mode():
        found = encoder(x)
        monkeypatch.setattr(WindowAttention, "forward", padded_attention)
        expected = encoder(x)
    assert (found - expected).abs().max() <= 1e-4


def test_fixed_values_of_the_official_implementation() -> None:
    """A small network of the same classes; the numbers were computed by the official code in double precision."""
    model = tiny_model()
    points = torch.tensor([[[3, 20, 9], [15, 2, 30], [0, 0, 0]], [[8, 8, 8], [31, 0, 16], [0, 0, 0]]]).double()
    labels = torch.tensor([[1, 0, NOT_A_POINT], [0, 1, NOT_A_POINT]])
    masks = 5 * wave((2, 1, 16, 16, 16), 0.25)
    with torch.inference_mode():
        embedding = model.embed(wave((1, 1, 32, 32, 32), 0.5))
        sparse, dense = model.prompt_encoder(points, labels, masks)
        logits, quality = model.answer(embedding, points, labels, masks)
    expected = {
        "embedding": (671.7480124486016, 0.04613763302773164, 0.15182559345336052, 0.08303412291338624),
        "sparse": (132.8645641910001, 1.2351832947050405, 0.07301258625653101, 0.2884351439394847),
        "dense": (1984.7913751453816, 0.16743566326654818, 0.15618051619133438, -0.21556723379834605),
        "logits": (491.1989489165994, 0.02593719213952886, 0.025947006098768606, -0.014223364014429838),
        "quality": (44.59708098406085, -22.298540192910526, -22.29854079115033, -22.29854079115033),
    }
    found = {"embedding": embedding, "sparse": sparse, "dense": dense, "logits": logits, "quality": quality}
    for name, values in expected.items():
        flat = found[name].flatten()
        some = (flat.abs().sum(), flat[0], flat[flat.numel() // 2], flat[-1])
        assert torch.stack(some).numpy() == pytest.approx(values, rel=1e-9), name


def test_prompt_sets_of_different_length_share_a_batch_and_keep_their_answers() -> None:
    model = tiny_model()
    embedding = model.embed(wave((1, 1, 32, 32, 32), 0.5))
    masks = wave((3, 1, 16, 16, 16), 0.25)
    points = 15 + 14 * wave((3, 4, 3), 0.1)
    labels = torch.tensor([[1, 0, 1, NOT_A_POINT], [1, NOT_A_POINT, ABSENT, ABSENT], [ABSENT] * 4])
    together, _ = model.answer(embedding, points, labels, masks)
    for row, length in enumerate((4, 2, 0)):
        alone, _ = model.answer(
            embedding, points[row : row + 1, :length], labels[row : row + 1, :length], masks[row : row + 1]
        )
        assert (together[row] - alone[0]).abs().max() < 1e-12
    assert (together[0] - together[1]).abs().max() > 1e-6


def test_a_part_of_the_logits_is_what_it_is_in_the_whole() -> None:
    model = tiny_model()
    embedding, masks = model.embed(wave((1, 1, 32, 32, 32), 0.5)), wave((2, 1, 16, 16, 16), 0.25)
    points, labels = 15 + 14 * wave((2, 3, 3), 0.1), torch.tensor([[1, 0, NOT_A_POINT]] * 2)
    whole, quality = model.answer(embedding, points, labels, masks)
    part, same = model.answer(embedding, points, labels, masks, (slice(0, 1), slice(1, 4), slice(2, 4)))
    assert part.shape == (2, 1, 4, 12, 8)
    assert (part - whole[..., :4, 4:16, 8:16]).abs().max() < 1e-12
    assert torch.equal(quality, same)


def test_no_mask_has_its_own_embedding() -> None:
    model = tiny_model()
    _, dense = model.prompt_encoder(torch.zeros(2, 0, 3).double(), torch.zeros(2, 0), None)
    assert dense.shape == (2, 48, 4, 4, 4)
    assert torch.equal(dense[1, :, 2, 3, 1], model.prompt_encoder.no_mask_embed.weight[0])


# Preparation


def test_a_window_is_turned_to_right_anterior_superior_and_scored_over_what_is_above_zero() -> None:
    array = np.zeros((6, 8, 8), dtype=np.float32)
    array[1, 2, 3] = 10  # z, y, x: growing to superior, posterior, left
    array[4, 5, 6] = 30
    array[0, 0, 0] = -50
    x = prepare(array, (-1, 0, 0), 8)
    mean, deviation = 20.0, np.std([10, 30], ddof=1)
    assert x.shape == (1, 1, 8, 8, 8)
    assert x[0, 0, 7 - 3, 7 - 2, 1 + 1].item() == pytest.approx((10 - mean) / deviation)
    assert x[0, 0, 7 - 6, 7 - 5, 4 + 1].item() == pytest.approx((30 - mean) / deviation)
    assert x[0, 0, 7, 7, 1].item() == pytest.approx((-50 - mean) / deviation)
    assert x[0, 0, 0, 0, 0].item() == pytest.approx((0 - mean) / deviation)


def test_a_window_without_contrast_is_zero() -> None:
    assert not prepare(np.full((4, 4, 4), 7, dtype=np.float32), (0, 0, 0), 4).any()
    assert not prepare(np.full((4, 4, 4), -7, dtype=np.float32), (0, 0, 0), 4).any()


# Geometry

SPACING = (1.5, 1.5, 1.5)


def volume_of(shape: tuple[int, int, int], origin: tuple[float, float, float] = (-20.0, 13.0, 40.0)) -> Volume:
    generator = np.random.default_rng(5)
    return Volume(generator.uniform(1, 100, (1, *shape)).astype(np.float32), Grid(shape, SPACING, origin))


def echo(generalist: SamMed3D, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Let the model answer with the mask that it is given, and note what it is asked."""
    asked: list[dict[str, Tensor]] = []

    def answer(
        features: Tensor, points: Tensor, labels: Tensor, masks: Tensor, part: tuple[slice, ...]
    ) -> tuple[Tensor, Tensor]:
        asked.append({"features": features, "points": points, "labels": labels, "masks": masks})
        logits = masks[(..., *(slice(4 * s.start, 4 * s.stop) for s in part))]
        return logits.clone(), masks.new_zeros(len(masks), 1)

    monkeypatch.setattr(generalist.model, "answer", answer)
    return asked


def test_it_is_a_generalist(tiny: SamMed3D) -> None:
    assert isinstance(tiny, Generalist)
    assert tiny.spacing == 1.5


def test_points_fall_on_the_voxels_that_they_mean(tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = echo(tiny, monkeypatch)
    volume = volume_of((20, 27, 32))
    cubes = []
    embed = tiny.model.embed
    monkeypatch.setattr(tiny.model, "embed", lambda x: cubes.append(x) or embed(x))
    indices = np.asarray([[3, 20, 9], [19, 0, 31], [0, 26, 0]])
    points = volume.grid.to_physical(indices)
    tiny.answer(tiny.embed(volume), [PromptSet(points, np.asarray([1, 0, 1]))], volume.grid)
    assert asked[0]["labels"].tolist() == [[1, 0, 1, NOT_A_POINT]]
    places = asked[0]["points"][0, :3].round().long()
    assert (asked[0]["points"][0, :3] - places).abs().max() < 1e-4
    found = cubes[0][0, 0][tuple(places.T)].numpy()
    values = volume.array[0]
    expected = (values[tuple(indices.T)] - values.mean()) / values.std(ddof=1)
    assert found == pytest.approx(expected, rel=1e-4)


def test_points_outside_the_window_are_left_out(tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = echo(tiny, monkeypatch)
    volume = volume_of((32, 32, 32))
    points = volume.grid.to_physical(np.asarray([[5, 5, 5], [5, 5, 99]]))
    sets = [PromptSet(points, np.asarray([1, 1])), PromptSet(points[1:], np.asarray([0]))]
    tiny.answer(tiny.embed(volume), sets, volume.grid)
    assert asked[0]["labels"].tolist() == [[1, NOT_A_POINT], [ABSENT, ABSENT]]


def test_a_box_stands_for_a_point_at_its_centre(tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = echo(tiny, monkeypatch)
    volume = volume_of((32, 32, 32))
    box = volume.grid.to_physical(np.asarray([[4, 6, 8], [14, 10, 8]]))
    outside = volume.grid.to_physical(np.asarray([[1, 1, 1]]))
    sets = [
        PromptSet(*NO_POINTS, box=box),
        PromptSet(outside, np.asarray([0]), box=box),
        PromptSet(outside, np.asarray([1]), box=box),
    ]
    tiny.answer(tiny.embed(volume), sets, volume.grid)
    assert asked[0]["points"][0, 0].tolist() == pytest.approx([31 - 8, 31 - 8, 9])
    assert asked[0]["labels"].tolist() == [[1, -1, -2], [0, 1, -1], [1, -1, -2]]


@pytest.mark.parametrize("spacing", [1.5, 0.8, 2.3])
def test_a_mask_returns_to_the_place_where_it_was(
    tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch, spacing: float
) -> None:
    """Mask → the model's input → (echo) → answer: a blob keeps its centre and size, on a grid of another spacing."""
    asked = echo(tiny, monkeypatch)
    volume = volume_of((32, 32, 32))
    middle = volume.grid.to_physical(np.asarray([[13.0, 17.0, 19.0]]))[0]
    size = round(40 / spacing)
    mask_grid = Grid((size, size, size), (spacing,) * 3, tuple(middle - 20 + 0.4))
    away = np.linalg.norm(mask_grid.to_physical(np.argwhere(np.ones(mask_grid.shape))) - middle, axis=1)
    mask = (10.0 - away).reshape(mask_grid.shape).astype(np.float32)
    answer = tiny.answer(tiny.embed(volume), [PromptSet(*NO_POINTS, mask=mask, mask_grid=mask_grid)], mask_grid)[0]
    assert asked[0]["masks"].shape == (1, 1, 16, 16, 16)
    inside = (answer > 0.5).numpy()
    wanted = mask > 0
    assert (
        2 * (inside & wanted).sum() / (inside.sum() + wanted.sum()) > 0.88
    )  # The model's mask has voxels of 3 mm here.
    center = mask_grid.to_physical(np.argwhere(inside).mean(axis=0)[None])[0]
    assert center == pytest.approx(middle, abs=0.25)


def test_an_oblique_volume_is_answered_where_its_structure_lies(
    tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short-axis view of the heart: LPS is nearest, though two of its axes lie nearest to the same one of the body."""
    first, second = np.array([0.70, 0.66, -0.27]), np.array([-0.03, -0.35, -0.94])
    first /= np.linalg.norm(first)
    second -= first * (first @ second)
    second /= np.linalg.norm(second)
    image = sitk.Image(32, 32, 32, sitk.sitkFloat32)
    image.SetSpacing(SPACING)
    image.SetOrigin((-20.0, 13.0, 40.0))
    image.SetDirection(np.stack([first, second, np.cross(first, second)], axis=1).ravel().tolist())
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint((19.0, 17.0, 13.0)))
    grid = training_grid(image, 1.5)
    assert np.abs(np.reshape(grid.direction, (3, 3))).argmax(axis=0).tolist() == [0, 0, 2]
    away = np.linalg.norm(grid.to_physical(np.argwhere(np.ones(grid.shape))) - middle, axis=1).reshape(grid.shape)
    asked, cubes, embed = echo(tiny, monkeypatch), [], tiny.model.embed
    monkeypatch.setattr(tiny.model, "embed", lambda x: cubes.append(x) or embed(x))
    embedding = tiny.embed(Volume(np.where(away < 1, 9.0, 1.0).astype(np.float32)[None], grid))
    mask = (10.0 - away).astype(np.float32)
    answer = tiny.answer(embedding, [PromptSet(middle[None], np.array([1]), mask, grid)], grid)[0]
    (seen,) = np.argwhere(cubes[0][0, 0].numpy() > 1).tolist()
    assert asked[0]["points"][0, 0].tolist() == pytest.approx(seen, abs=1e-3)
    center = grid.to_physical(np.argwhere(answer.numpy() > 0.5).mean(axis=0)[None])[0]
    assert center == pytest.approx(middle, abs=0.25)


def test_certain_masks_stay_finite(tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = echo(tiny, monkeypatch)
    volume = volume_of((32, 32, 32))
    mask = np.full((32, 32, 32), np.inf, dtype=np.float32)
    mask[:16] = -np.inf
    mask[0, 0, 0] = np.nan
    tiny.answer(tiny.embed(volume), [PromptSet(*NO_POINTS, mask=mask, mask_grid=volume.grid)], volume.grid)
    assert asked[0]["masks"].isfinite().all()
    assert asked[0]["masks"].amax() > 5


def test_where_the_specialist_saw_nothing_the_mask_says_nothing(
    tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = echo(tiny, monkeypatch)
    volume = volume_of((32, 32, 32))
    part = volume.grid.cropped((0, 0, 0), (16, 32, 32))
    mask = np.full((16, 32, 32), 6, dtype=np.float32)
    tiny.answer(tiny.embed(volume), [PromptSet(*NO_POINTS, mask=mask, mask_grid=part)], volume.grid)
    given = asked[0]["masks"][0, 0]  # x, y, z
    assert given[..., :7] == pytest.approx(6, abs=1e-5)
    assert not given[..., 9:].any()


def test_only_the_part_asked_for_is_computed_and_it_is_the_same() -> None:
    logits = wave((2, 16, 16, 16), 0.3).float() * 4
    window = Grid((32, 32, 32), SPACING, (3.0, 4.0, 5.0))
    whole = functional.interpolate(logits[None], size=(32, 32, 32), mode="trilinear", align_corners=False)[0].sigmoid()
    for start, shape in (
        ((0, 0, 0), (32, 32, 32)),
        ((5, 9, 2), (7, 4, 11)),
        ((30, 30, 30), (2, 2, 2)),
        ((0, 13, 31), (1, 1, 1)),
    ):
        part = _resample_answer(logits, window, window.cropped(start, shape), 32)
        box = tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))
        assert torch.allclose(part, whole[(slice(None), *box)], atol=1e-5)


@pytest.mark.parametrize(
    ("start", "shape"), [((3, 1, 2), (9, 6, 5)), ((20, 22, 0), (12, 10, 7)), ((-4, 10, 25), (12, 30, 12))]
)
def test_a_region_is_answered_as_in_the_whole(
    tiny: SamMed3D, start: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    volume = volume_of((32, 32, 32))
    sets = [PromptSet(volume.grid.to_physical(np.asarray([[9, 19, z]])), np.asarray([1])) for z in (9, 20)]
    embedding = tiny.embed(volume)
    whole = functional.pad(tiny.answer(embedding, sets, volume.grid), (12,) * 6, value=torch.nan)
    found = tiny.answer(embedding, sets, volume.grid.cropped(start, shape))
    box = tuple(slice(12 + first, 12 + first + n) for first, n in zip(start, shape, strict=True))
    assert torch.allclose(found, whole[(slice(None), *box)], atol=1e-5, equal_nan=True)


def test_a_region_outside_the_window_asks_nothing_of_the_model(tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = echo(tiny, monkeypatch)
    volume = volume_of((32, 32, 32))
    sets = [PromptSet(volume.grid.to_physical(np.asarray([[9, 9, 9]])), np.asarray([1]))]
    assert tiny.answer(tiny.embed(volume), sets, volume.grid.cropped((40, 0, 0), (4, 5, 6))).isnan().all()
    assert not asked


def test_no_opinion_outside_the_window() -> None:
    logits = torch.zeros(1, 16, 16, 16)
    window = Grid((32, 32, 32), SPACING, (0.0, 0.0, 0.0))
    region = window.cropped((-3, 20, 0), (10, 20, 32))
    answer = _resample_answer(logits, window, region, 32)[0]
    assert answer[:3].isnan().all()
    assert answer[:, 12:].isnan().all()
    assert torch.equal(answer[3:, :12], torch.full((7, 12, 32), 0.5))
    assert _resample_answer(logits, window, window.cropped((40, 0, 0), (4, 4, 4)), 32).isnan().all()


def test_an_oblique_region_is_sampled_by_its_own_axes() -> None:
    ramp = torch.arange(16.0).expand(1, 16, 16, 16) * 0.4 - 3  # grows along x
    window = Grid((32, 32, 32), SPACING, (0.0, 0.0, 0.0))
    angle = np.deg2rad(20)
    direction = (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1)
    region = Grid((3, 5, 6), (1.1, 1.2, 1.3), (20.0, 18.0, 15.0), tuple(map(float, direction)))
    answer = _resample_answer(ramp, window, region, 32)[0]
    x = region.to_physical(np.argwhere(np.ones(region.shape)))[:, 0] / 1.5
    expected = 1 / (1 + np.exp(-(((x + 0.5) / 2 - 0.5) * 0.4 - 3)))
    assert answer.flatten().numpy() == pytest.approx(expected, abs=2e-3)


def test_a_large_field_of_view_is_embedded_where_it_is_prompted(
    tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = []
    embed = tiny.model.embed
    monkeypatch.setattr(tiny.model, "embed", lambda x: embedded.append(x) or embed(x))
    volume = volume_of((90, 30, 60))
    embedding = tiny.embed(volume)
    assert not embedded
    assert len(embedding.starts) == 5 * 1 * 3
    starts = np.asarray(embedding.starts)
    assert starts.min(axis=0).tolist() == [0, -1, 0]
    assert (starts.max(axis=0) + 32).tolist() == [90, 31, 60]

    low = PromptSet(volume.grid.to_physical(np.asarray([[14, 15, 14], [16, 15, 17]])), np.asarray([1, 1]))
    high = PromptSet(volume.grid.to_physical(np.asarray([[75, 15, 44]])), np.asarray([1]))
    answer = tiny.answer(embedding, [low, low], volume.grid)
    assert len(embedded) == 1
    assert answer[:, :32, :, :32].isfinite().all()
    assert answer[:, 32:].isnan().all()
    assert answer[:, :, :, 32:].isnan().all()
    both = tiny.answer(embedding, [low, high], volume.grid)
    assert both[1, 58:, :, 28:].isfinite().all()
    assert both[1, :58].isnan().all()
    assert len(embedded) == 2
    assert torch.equal(both[0].nan_to_num(2), answer[0].nan_to_num(2))


def test_two_patches_that_ask_at_the_same_time_embed_a_window_once(
    tiny: SamMed3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, embedded = tiny.model.embed, []

    def slow(x: Tensor) -> Tensor:
        embedded.append(embedding.nbytes)  # Asked for while others embed.
        time.sleep(0.3)
        return embed(x)

    monkeypatch.setattr(tiny.model, "embed", slow)
    volume = volume_of((90, 30, 60))
    embedding = tiny.embed(volume)
    prompts = [PromptSet(volume.grid.to_physical(np.asarray([[14, 15, 14]])), np.asarray([1]))]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: tiny.answer(embedding, prompts, volume.grid), range(2))
    assert embedded == [volume.array.nbytes]
    assert torch.equal(first.nan_to_num(2), second.nan_to_num(2))


def test_sets_for_one_structure_share_a_window(tiny: SamMed3D) -> None:
    """Points that waver around the border between two windows' reach must not answer on different windows."""
    volume = volume_of((48, 32, 32))
    embedding = tiny.embed(volume)
    assert len(embedding.starts) == 2
    sets = [PromptSet(volume.grid.to_physical(np.asarray([[z, 16, 16]])), np.asarray([1])) for z in (20, 22, 25, 26)]
    answers = tiny.answer(embedding, sets, volume.grid)
    assert len(embedding.features) == 1
    assert len({tuple(answer.isnan().any(dim=(1, 2)).tolist()) for answer in answers}) == 1


def test_an_answer_can_be_used_in_a_loss_and_no_gradient_reaches_the_generalist(tiny: SamMed3D) -> None:
    volume = volume_of((32, 32, 32))
    sets = [PromptSet(volume.grid.to_physical(np.asarray([[9, 9, z]])), np.asarray([1])) for z in (9, 20)]
    answers = tiny.answer(tiny.embed(volume), sets, volume.grid)
    specialist = torch.full(volume.grid.shape, 0.4, requires_grad=True)
    weight = torch.exp(-answers.var(dim=0))
    (weight * specialist * answers.mean(dim=0)).sum().backward()
    assert specialist.grad is not None
    assert specialist.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in tiny.model.parameters())


def test_an_embedding_survives_being_kept(tiny: SamMed3D) -> None:
    volume = volume_of((50, 32, 32))
    prompts = [PromptSet(volume.grid.to_physical(np.asarray([[9, 9, 9]])), np.asarray([1]))]
    embedding = tiny.embed(volume)
    expected = tiny.answer(embedding, prompts, volume.grid)
    tensors = tiny.dump(embedding)
    assert {tensor.dtype for name, tensor in tensors.items() if name != "grid"} == {torch.float16}
    reads = []
    restored = tiny.load(tensors, lambda: reads.append(1) or volume)
    assert torch.equal(tiny.answer(restored, prompts, volume.grid).nan_to_num(2), expected.nan_to_num(2))
    assert not reads
    other = [PromptSet(volume.grid.to_physical(np.asarray([[45, 9, 9]])), np.asarray([1]))]
    tiny.answer(restored, other, volume.grid)
    assert reads == [1]
    assert len(tiny.dump(restored)) == len(tensors) + 1


def test_no_prompt_sets_have_no_answers(tiny: SamMed3D) -> None:
    volume = volume_of((32, 32, 32))
    assert tiny.answer(tiny.embed(volume), [], volume.grid).shape == (0, 32, 32, 32)


@pytest.mark.parametrize(
    "grid",
    [
        Grid((8, 8, 8), (1.0, 1.5, 1.5), (0, 0, 0)),
        Grid((8, 8, 8), SPACING, (0, 0, 0), (-1, 0, 0, 0, 1, 0, 0, 0, 1)),
    ],
)
def test_a_volume_on_another_kind_of_grid_is_refused(tiny: SamMed3D, grid: Grid) -> None:
    with pytest.raises(ValueError, match="expected"):
        tiny.embed(Volume(np.ones((1, 8, 8, 8), dtype=np.float32), grid))


def test_mixed_precision_stays_near(tiny: SamMed3D) -> None:
    volume = volume_of((32, 32, 32))
    sets = [PromptSet(volume.grid.to_physical(np.asarray([[9, 9, 9]])), np.asarray([1]))]
    exact = tiny.answer(tiny.embed(volume), sets, volume.grid)
    half = SamMed3D(None, model=tiny_model().float(), precision="bf16")
    assert torch.allclose(half.answer(half.embed(volume), sets, volume.grid), exact, atol=0.03)
    assert half.preparation != tiny.preparation
