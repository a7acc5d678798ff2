"""`synthetic` learns from what it is made, the same from a seed, and answers where the prompts are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import ball

from SemiSAMPlusLib.cohort.volume import Grid, Volume
from SemiSAMPlusLib.errors import ConfigError, WeightsError
from SemiSAMPlusLib.generalist.generalist import Generalist, PromptSet
from SemiSAMPlusLib.generalist.registry import create_generalist
from SemiSAMPlusLib.generalist.synthetic import generalist as adapter
from SemiSAMPlusLib.generalist.synthetic import network, pretrain
from SemiSAMPlusLib.generalist.synthetic.encoding import CHANNELS, EncodedPrompts, encode, normalized, spread
from SemiSAMPlusLib.generalist.synthetic.generalist import WEIGHTS, Synthetic
from SemiSAMPlusLib.generalist.synthetic.network import SyntheticNetwork
from SemiSAMPlusLib.generalist.synthetic.pretrain import PretrainConfig, Pretrainer, dice_of
from SemiSAMPlusLib.generalist.synthetic.simulation import depths, first_prompts, next_prompts, specialist_prompts
from SemiSAMPlusLib.generalist.synthetic.synthesis import _choose_structure, draw_samples
from SemiSAMPlusLib.run.folder import JobFolder
from SemiSAMPlusLib.synthesis.pretraining import load_checkpoint
from SemiSAMPlusLib.synthesis.shapes import FIRST_OBJECT, OBJECTS, LabelMaps

TURNED = tuple(sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.3, -0.4, 1.1).GetMatrix())
GRID = Grid((24, 40, 32), (1.5, 1.5, 1.5), (-31.0, 12.5, 77.0), TURNED)
CENTRE = (11.0, 24.0, 17.0)
TRUTH = ball(GRID.shape, 7.0, CENTRE)
SMALL = PretrainConfig(
    iterations=6, volumes=1, structures=2, rounds=3, size=48, small_size=32, small_share=0.5, warm_up=2, save_every=3
)


@pytest.fixture(scope="module")
def shipped() -> Synthetic:
    return Synthetic()


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _volume(grid: Grid = GRID, truth: np.ndarray = TRUTH) -> Volume:
    array = 2.0 * truth[None] + np.random.default_rng(0).normal(0, 0.2, (1, *grid.shape))
    return Volume(array.astype(np.float32), grid)


def _click(grid: Grid = GRID, place: tuple[float, float, float] = CENTRE) -> PromptSet:
    return PromptSet(grid.to_physical(np.array([place])), np.array([1]))


def _dice(answer: torch.Tensor, truth: np.ndarray = TRUTH) -> float:
    found = answer.nan_to_num(0.0).numpy() > 0.5
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


# -- synthesis --------------------------------------------------------------------------------------------------------


def test_samples_are_the_same_from_a_seed_and_others_from_another() -> None:
    first, again, other = (draw_samples(2, 2, 32, _random(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.images, other.images)


def test_samples_are_whole_structures_in_normalised_images() -> None:
    samples = draw_samples(6, 2, 32, _random())
    assert samples.images.shape == samples.targets.shape == samples.known.shape == (12, 32, 32, 32)
    assert samples.targets.flatten(1).any(dim=1).all()
    assert not (samples.targets & ~samples.known).any()
    assert (samples.images[~samples.known] == 0).all()
    for image, known in zip(samples.images, samples.known, strict=True):
        assert image[known].mean().abs() < 0.1
        assert 0.7 < image[known].std() < 1.1
    shares = samples.targets.float().mean(dim=(1, 2, 3))
    assert (shares < 0.5).all()
    assert shares.median() > 0.005


def test_a_small_piece_is_asked_for_only_where_there_is_no_larger() -> None:
    labels = torch.zeros((1, 32, 32, 32), dtype=torch.long)
    labels[0, 8:18, 8:16, 8:13], small = FIRST_OBJECT, labels[0, 22:27, 22:27, 22:27]
    small[:] = FIRST_OBJECT  # 125 voxels, 131 are 0.4 % of the volume; the other piece has 400.
    maps, known, random = LabelMaps(labels, torch.full((1, OBJECTS), -1)), torch.ones(labels.shape[1:]) > 0, _random()
    assert {int(_choose_structure(maps, 0, known, random).sum()) for _ in range(100)} == {400}
    labels[0, 8:18, 8:16, 8:13] = 0
    labels[0, 12:17, 12:17, 12:17] = FIRST_OBJECT
    assert {int(_choose_structure(maps, 0, known, random).sum()) for _ in range(5)} == {125}


def test_a_structure_mostly_looks_unlike_what_lies_around_it() -> None:
    samples = draw_samples(12, 1, 32, _random(1))
    inside = samples.targets
    around = (depths(~inside) > 0) & (depths(~inside) <= 3) & samples.known
    difference = [
        float((image[a].mean() - image[b].mean()).abs())
        for image, a, b in zip(samples.images, inside, around, strict=True)
    ]
    assert np.median(difference) > 0.4


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_a_specialists_masks_are_wrong_but_not_worthless() -> None:
    samples = draw_samples(16, 1, 32, _random())
    prompts = specialist_prompts(samples, _random())
    agreement = dice_of(prompts.mask > 0.5, samples.targets)
    assert 0.4 < agreement.median() < 0.95
    assert agreement.max() - agreement.min() > 0.2


def test_a_specialists_points_agree_with_its_mask() -> None:
    samples = draw_samples(8, 1, 32, _random())
    prompts = specialist_prompts(samples, _random())
    count = 0
    for mask, points, labels in zip(prompts.mask, prompts.points.long(), prompts.labels, strict=True):
        values = mask[tuple(points.T)]
        assert (values[labels == 1] > 0.8).all()
        assert (values[labels == 0] < 0.2).all()
        count += int((labels >= 0).sum())
    assert count > 50


def test_a_correction_is_true_and_lies_in_the_error() -> None:
    samples = draw_samples(8, 1, 32, _random())
    prompts = first_prompts(samples, _random())
    empty = torch.zeros_like(samples.images)
    corrected = next_prompts(samples, prompts, empty, _random(2))
    by_click = (corrected.mask == 0).flatten(1).all(dim=1)
    assert by_click.any()
    for row in torch.nonzero(by_click)[:, 0].tolist():
        labels, points = corrected.labels[row], corrected.points[row].round().long()
        truth = samples.targets[row][tuple(points.clamp(0, 31).T)]
        assert (truth[labels == 1]).all()
        assert not (truth[labels == 0]).any()
        assert (labels == 1).sum() >= 1


def test_depths_count_steps_to_the_border() -> None:
    mask = torch.zeros((1, 9, 9, 9), dtype=torch.bool)
    mask[0, 2:7, 2:7, 2:7] = True
    assert depths(mask)[0, 4, 4].tolist() == [0, 0, 1, 2, 3, 2, 1, 0, 0]


def test_encoding_keeps_every_voxel_and_places_points_and_boxes() -> None:
    image = torch.randn((1, 16, 16, 16), generator=_random())
    known = torch.ones_like(image, dtype=torch.bool)
    prompts = EncodedPrompts(
        torch.full_like(image, 0.5),
        torch.tensor([[[3.0, 9.0, 12.0]]]),
        torch.tensor([[1]]),
        torch.tensor([[[2.0, 8.0, 11.0], [4.0, 10.0, 13.0]]]),
    )
    x = encode(image, known, prompts)
    assert x.shape == (1, CHANNELS, 8, 8, 8)
    channels = [spread(x[:, 8 * c : 8 * c + 8]) for c in range(7)]
    assert torch.equal(channels[0], image)
    assert np.unravel_index(int(channels[4].argmax()), (16, 16, 16)) == (3, 9, 12)
    assert channels[3].sum() == 27
    assert channels[5].max() == 0


def test_geodesic_maps_stop_at_edges() -> None:
    image = torch.zeros((1, 32, 32, 32))
    image[:, :, :, 16:] = 3.0
    known = torch.ones_like(image, dtype=torch.bool)
    nothing = torch.full((1, 2, 3), torch.nan)
    prompts = EncodedPrompts(
        torch.full_like(image, 0.5), torch.tensor([[[16.0, 16.0, 8.0]]]), torch.tensor([[1]]), nothing
    )
    near = encode(normalized(image, known), known, prompts)[0, 56]
    assert near[8, 8, 7] > 10 * near[8, 8, 8]
    assert near[1, 1, 1] > 0.2


# -- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_is_the_same_from_a_seed_and_resumes_as_if_uninterrupted(tmp_path: Path) -> None:
    whole = Pretrainer(SMALL)
    for _ in range(6):
        whole.step()
    first = Pretrainer(SMALL)
    for _ in range(3):
        first.step()
    assert first.may_save
    torch.save(first.state(), tmp_path / "state.pt")
    second = Pretrainer(SMALL)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.size == 48
    for _ in range(3):
        second.step()
    for name, value in whole.average.items():
        assert torch.equal(value, second.average[name]), name


def test_a_training_that_ended_amid_a_batch_may_be_lengthened() -> None:
    trainer = Pretrainer(SMALL)
    for _ in range(2):
        trainer.step()
    assert not trainer.may_save
    longer = Pretrainer(SMALL)
    longer.load_state(trainer.state())
    longer.step()
    assert longer.may_save
    assert longer.iteration == 3


def test_the_job_stops_resumes_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    run = tmp_path / "run ü"
    monkeypatch.setattr(JobFolder, "is_asked_to_stop", lambda _: True)
    pretrain.train(run, SMALL)
    assert load_checkpoint(run)["iteration"] == 3
    monkeypatch.setattr(JobFolder, "is_asked_to_stop", lambda _: False)
    monkeypatch.setattr(pretrain, "_HOLD_OUT_VOLUMES", 2)
    pretrain.resume(run, cool_down_now=True)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["reason"] for event in events if event["event"] == "finished"] == ["stopped", "done"]
    assert any(event["event"] == "metrics" and "corrections_3" in event["measured"] for event in events)
    pretrain.export(run, tmp_path / "weights.safetensors")
    assert Synthetic(tmp_path / "weights.safetensors").network.step == 16


@pytest.mark.parametrize(("size", "is_thin"), [(32, True), (48, False), (64, False)])
def test_gradients_of_small_regions_are_computed_in_arithmetic_that_is_right_for_them(
    monkeypatch: pytest.MonkeyPatch, size: int, is_thin: bool
) -> None:
    asked = []
    monkeypatch.setattr(network, "fast_precision", lambda _, *, thin: asked.append(thin) or "float32")
    trainer = Pretrainer(replace(SMALL, size=size, small_share=0.0))
    assert trainer.dtype == torch.float32
    assert asked == [is_thin]


def test_a_folder_is_begun_once_and_must_hold_a_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no such training"):
        pretrain.resume(tmp_path)
    (tmp_path / "pretrain.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="has begun"):
        pretrain.train(tmp_path)


def test_a_region_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        PretrainConfig(size=40)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    trainer = Pretrainer(PretrainConfig(iterations=100, warm_up=10, cool_down=0.2))
    rates = []
    for trainer.iteration in range(100):
        rates.append(trainer._rate())
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:80]) == {1.0}
    assert rates[90] == pytest.approx(0.5)
    trainer.iteration = trainer.cool_from = 40
    assert trainer._rate() == 1.0
    trainer.iteration = 70
    assert trainer._rate() == pytest.approx(0.5)


# -- the generalist ---------------------------------------------------------------------------------------------------


def test_it_is_a_generalist_of_the_catalog() -> None:
    assert isinstance(create_generalist("synthetic"), Generalist)


def test_the_shipped_weights_are_small_and_say_how_they_were_made() -> None:
    from safetensors import safe_open

    assert WEIGHTS.stat().st_size < 20e6
    with safe_open(WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert PretrainConfig(**json.loads(metadata["recipe"])).seed == 0
    assert sum(value.numel() for value in SyntheticNetwork().parameters()) < 10e6


def test_the_shipped_weights_beat_what_they_were_shown_on_samples_they_never_saw(shipped: Synthetic) -> None:
    random = _random(1 << 41)
    samples = draw_samples(12, 1, 48, random)
    prompts = specialist_prompts(samples, random)
    with torch.inference_mode():
        logits, quality = shipped.network(encode(samples.images, samples.known, prompts))
    answered = dice_of(logits > 0, samples.targets)
    shown = dice_of(prompts.mask > 0.5, samples.targets)
    geodesic = dice_of(_upsampled(encode(samples.images, samples.known, prompts)[:, -1]) > 0, samples.targets)
    assert answered.mean() > shown.mean() + 0.02
    assert answered.mean() > geodesic.mean() + 0.02
    # What it expects of its answers tells better ones from worse.
    expected = quality.sigmoid()
    assert (expected - answered).abs().mean() < 0.2


def _upsampled(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(values[:, None], scale_factor=2)[:, 0]


def test_a_click_finds_a_ball_on_an_oblique_grid(shipped: Synthetic) -> None:
    answer, quality = shipped.answer_with_quality(shipped.embed(_volume()), [_click()], GRID)
    assert answer.shape == (1, *GRID.shape)
    assert answer.dtype == torch.float32
    assert _dice(answer[0]) > 0.85
    assert 0.5 < float(quality[0]) <= 1


def test_an_answer_does_not_depend_on_the_region_it_is_given_on(shipped: Synthetic) -> None:
    embedding = shipped.embed(_volume())
    whole = shipped.answer(embedding, [_click()], GRID)[0]
    part = shipped.answer(embedding, [_click()], GRID.cropped((4, 14, 8), (16, 20, 20)))[0]
    torch.testing.assert_close(whole[4:20, 14:34, 8:28], part, rtol=0, atol=1e-3, equal_nan=True)


def test_sets_are_answered_each_for_itself_in_one_batch(shipped: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = shipped.embed(_volume())
    corners = GRID.to_physical(np.array([(4.0, 17.0, 10.0), (18.0, 31.0, 24.0)]))
    boxed = PromptSet(np.zeros((0, 3)), np.zeros(0), box=corners)
    clicked = PromptSet(GRID.to_physical(np.array([CENTRE])), np.array([1]), box=corners)
    sizes = []
    forward = shipped.network.forward
    monkeypatch.setattr(shipped.network, "forward", lambda x: sizes.append(len(x)) or forward(x))
    both = shipped.answer(embedding, [clicked, boxed], GRID)
    assert sizes[0] == 2
    alone = shipped.answer(embedding, [boxed], GRID)
    assert _dice(both[0]) > 0.8
    assert _dice(both[1]) > 0.8
    found = both[1].nan_to_num(0.0) > 0.5
    assert (found == (alone[0].nan_to_num(0.0) > 0.5)).float().mean() > 0.999


@pytest.mark.parametrize(("logit", "taken"), [(0.9, False), (1.1, True)])
def test_what_the_network_hardly_takes_for_the_structure_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, logit: float, taken: bool
) -> None:
    cautious = Synthetic(network=SyntheticNetwork())

    def answer(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(x), *(2 * n for n in x.shape[2:])), logit), torch.zeros(len(x))

    monkeypatch.setattr(cautious.network, "forward", answer)
    answers = cautious.answer(cautious.embed(_volume()), [_click()], GRID)
    assert (answers.nan_to_num(0.0) > 0.5).any() == taken


def test_a_bad_mask_is_repaired(shipped: Synthetic) -> None:
    wrong = ball(GRID.shape, 6.0, np.add(CENTRE, (2.0, -3.0, 2.0)))
    mask = np.where(wrong, 4.0, -4.0).astype(np.float32)
    prompts = PromptSet(np.zeros((0, 3)), np.zeros(0), mask, GRID)
    answer = shipped.answer(shipped.embed(_volume()), [prompts], GRID)[0]
    assert _dice(answer) > _dice(torch.from_numpy(wrong).float()) + 0.05


def test_nothing_asked_nothing_answered(shipped: Synthetic) -> None:
    nothing = PromptSet(np.zeros((0, 3)), np.zeros(0), np.full(GRID.shape, -5.0, dtype=np.float32), GRID)
    outside = PromptSet(GRID.to_physical(np.array([CENTRE])), np.array([0]))
    answer, quality = shipped.answer_with_quality(shipped.embed(_volume()), [nothing, outside], GRID)
    assert answer.isnan().all()
    assert (quality == 0).all()


def test_there_is_no_opinion_beyond_the_region_looked_at(shipped: Synthetic) -> None:
    grid = Grid((40, 120, 120), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    truth = ball(grid.shape, 9.0, (20.0, 30.0, 30.0))
    corners = grid.to_physical(np.array([(11.0, 21.0, 21.0), (29.0, 39.0, 39.0)]))
    prompts = PromptSet(np.zeros((0, 3)), np.zeros(0), box=corners)
    answer = shipped.answer(shipped.embed(_volume(grid, truth)), [prompts], grid)[0]
    assert answer[:, 100:, 100:].isnan().all()
    assert answer[20, 30, 30] > 0.5
    assert _dice(answer, truth) > 0.8


def test_a_region_holds_the_prompts_with_a_margin_and_stays_in_the_volume() -> None:
    mask = np.where(TRUTH, 4.0, -4.0).astype(np.float32)
    region = adapter._first_region(PromptSet(np.zeros((0, 3)), np.zeros(0), mask, GRID), GRID)
    indices = region.to_index(GRID.to_physical(np.argwhere(TRUTH)))
    shape = np.asarray(region.shape)
    assert indices.min() > 1
    assert (indices.max(axis=0) < shape - 2).all()
    assert (np.ptp(indices, axis=0) / shape).max() > 0.5
    assert (shape % 16 == 0).all()
    wide = adapter._first_region(_click(), GRID)
    ends = wide.to_index(GRID.to_physical(np.array([(0.0, 0.0, 0.0), np.asarray(GRID.shape) - 1.0])))
    # The whole volume and not much more; the network wants multiples of 16 voxels.
    assert (ends.min(axis=0) > -0.2 * np.asarray(wide.shape)).all()
    assert (ends.max(axis=0) < 1.2 * np.asarray(wide.shape)).all()


def test_a_flat_structure_is_seen_in_a_flat_region() -> None:
    grid = Grid((100, 200, 200), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    corners = grid.to_physical(np.array([(45.0, 50.0, 50.0), (55.0, 150.0, 150.0)]))
    region = adapter._first_region(PromptSet(np.zeros((0, 3)), np.zeros(0), box=corners), grid)
    z, y, x = region.shape
    assert z < y == x
    assert z * y * x == pytest.approx(48**3, rel=0.6)
    assert region.spacing[0] < 3.0  # A cube around it would have voxels of 3.4 mm.


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"head.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError):
        Synthetic(tmp_path / "other.safetensors")
