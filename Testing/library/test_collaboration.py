"""Where specialist and generalists meet: what is asked, what is trusted, what is taught, and that no harm is done."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import (
    OBLIQUE,
    FakeGeneralist,
    Pointwise,
    ball,
    noise,
    plan,
    prepared,
    specialist_of,
    tiny_cohort,
    tiny_config,
    weights_of,
)
from torch import nn

import SemiSAMPlusLib.training.run as run_module
from SemiSAMPlusLib.cohort.augmentation import SpatialAugmentation, look_up, straight_coordinates
from SemiSAMPlusLib.cohort.cohort import Class, Cohort, Role
from SemiSAMPlusLib.cohort.outputs import read_segmentation
from SemiSAMPlusLib.cohort.patches import Patch, PreparedCase
from SemiSAMPlusLib.cohort.volume import Grid, Volume
from SemiSAMPlusLib.collaboration.collaboration import Collaboration, CollaborationSettings
from SemiSAMPlusLib.collaboration.confidence import mean_and_variance, voxel_confidence
from SemiSAMPlusLib.collaboration.prompts import PromptSettings, make_prompts
from SemiSAMPlusLib.collaboration.refinement import refiner
from SemiSAMPlusLib.collaboration.regularization import TaughtPatch, combine, compete
from SemiSAMPlusLib.collaboration.sizes import further_shifted, shift_to_size, shifted
from SemiSAMPlusLib.collaboration.trust import Ask, EarnedTrust, Lesson, View, agreement, earn_trust, make_views
from SemiSAMPlusLib.generalist.generalist import PromptSet
from SemiSAMPlusLib.run.folder import RunFolder
from SemiSAMPlusLib.specialist.methods.base import Batch
from SemiSAMPlusLib.specialist.specialist import Specialist
from SemiSAMPlusLib.training.layers import write_layers
from SemiSAMPlusLib.training.run import train
from SemiSAMPlusLib.training.trainer import Trainer

SHAPE = (24, 24, 24)
GRID = Grid(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
K = 3
PROMPTS = PromptSettings(sets=K, positive=5, negative=8)


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- prompts


def _probability(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 0.95, 0.02).astype(np.float32)


@pytest.mark.parametrize("grid", [GRID, replace(OBLIQUE, shape=SHAPE)], ids=["straight", "turned and anisotropic"])
@pytest.mark.parametrize("radius", [5.0, 10.0])
def test_points_lie_where_they_say_in_the_body(grid: Grid, radius: float) -> None:
    mask = ball(SHAPE, radius, (11, 13, 10))
    sets = make_prompts(_probability(mask), grid, PROMPTS, _random())
    assert len(sets) == K
    for one in sets:
        assert one.points.shape == (13, 3)
        assert (one.labels == 1).sum() == 5
        indices = np.round(grid.to_index(one.points)).astype(int)
        assert ((indices >= 0) & (indices < SHAPE)).all()
        np.testing.assert_allclose(grid.to_index(one.points), indices, atol=1e-6)  # On voxels' middles.
        np.testing.assert_array_equal(mask[tuple(indices.T)], one.labels == 1)
        assert len(np.unique(indices, axis=0)) == len(indices)
        assert one.mask_grid == grid
        assert one.mask is not None
        assert one.mask.shape == SHAPE
        assert one.box is not None
        low, high = np.sort(grid.to_index(one.box), axis=0)
        corners = np.argwhere(mask)
        np.testing.assert_allclose(low, corners.min(axis=0), atol=1e-6)
        np.testing.assert_allclose(high, corners.max(axis=0), atol=1e-6)
    assert any(not np.array_equal(sets[0].points, one.points) for one in sets[1:])
    assert any(not np.array_equal(sets[0].mask, one.mask) for one in sets[1:])  # type: ignore[arg-type]


def test_points_are_spread_over_the_structure() -> None:
    mask = np.zeros((12, 12, 60), dtype=bool)
    mask[2:10, 2:10, 2:58] = True
    grid = Grid(mask.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    (one,) = make_prompts(_probability(mask), grid, PromptSettings(1, 6, 0), _random())
    assert np.ptp(one.points[:, 0]) > 30
    assert len(one.points) == 6


def test_where_nothing_is_seen_nothing_is_asked() -> None:
    assert make_prompts(np.full(SHAPE, 0.02, np.float32), GRID, PROMPTS, _random()) == []
    assert (
        make_prompts(np.full(SHAPE, 0.6, np.float32), GRID, PROMPTS, _random()) == []
    )  # Seen, but without confidence.


def test_where_everything_is_seen_there_is_nothing_around_it() -> None:
    sets = make_prompts(np.full(SHAPE, 0.99, np.float32), GRID, PROMPTS, _random())
    assert len(sets) == K
    for one in sets:
        assert (one.labels == 1).all()
        assert np.isfinite(one.points).all()
        assert np.isfinite(one.mask).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [(0, 0, 0), (12, 12, 12), (23, 0, 23)])
def test_one_voxel_is_a_structure_too(place: tuple[int, int, int]) -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[place] = True
    for one in make_prompts(_probability(mask), GRID, PROMPTS, _random()):
        np.testing.assert_array_equal(GRID.to_index(one.points[one.labels == 1]), [place])
        assert (one.labels == 0).any()


@pytest.mark.parametrize("depth", [11, 12])
def test_a_sheet_of_one_voxel_is_found_wherever_it_lies(depth: int) -> None:
    mask = np.zeros((24, 64, 64), dtype=bool)
    mask[depth] = True
    grid = Grid(mask.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    for one in make_prompts(_probability(mask), grid, PROMPTS, _random()):
        assert (np.round(grid.to_index(one.points[one.labels == 1]))[:, 0] == depth).all()


def test_certainty_itself_makes_finite_logits() -> None:
    mask = ball(SHAPE, 6)
    for one in make_prompts(mask.astype(np.float32), GRID, PROMPTS, _random()):
        assert np.isfinite(one.mask).all()  # type: ignore[arg-type]
        assert ((one.mask > 0) == mask).all()  # type: ignore[operator]


def test_the_same_chance_makes_the_same_prompts() -> None:
    probability = _probability(ball(SHAPE, 6))
    one, same, other = (make_prompts(probability, GRID, PROMPTS, _random(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a.points, b.points) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a.points, b.points) for a, b in zip(one, other, strict=True))


# -- confidence, competition, combination


def test_equal_answers_have_confidence_1() -> None:
    answers = torch.rand(1, 4, 4, 4).expand(5, -1, -1, -1)
    mean, variance = mean_and_variance(answers)
    torch.testing.assert_close(mean, answers[0])
    torch.testing.assert_close(voxel_confidence(variance, 0.05), torch.ones(4, 4, 4))


def test_contradicting_answers_have_little_and_no_opinion_has_none() -> None:
    answers = torch.tensor([[0.0, 0.4, torch.nan], [1.0, 0.6, 0.5]])
    mean, variance = mean_and_variance(answers)
    assert variance[0] == pytest.approx(0.25)  # The greatest that there is.
    confidence = voxel_confidence(variance, 0.05)
    assert confidence[0] < 0.01 < 0.5 < confidence[1] < 1
    assert confidence[2] == 0
    assert mean[:2].tolist() == pytest.approx([0.5, 0.5])


def test_one_answer_is_taken_at_its_word() -> None:
    mean, variance = mean_and_variance(torch.full((1, 3), 0.3))
    assert mean.tolist() == pytest.approx([0.3] * 3)
    assert voxel_confidence(variance, 0.05).tolist() == [1.0] * 3


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_competing_structures_and_background_sum_to_1(classes: int) -> None:
    answers = torch.from_numpy(_random().random((classes, 5, 5, 5), dtype=np.float32))
    answers[:, 0] = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0])
    competed = compete(answers)
    assert competed.shape == (classes + 1, 5, 5, 5)
    torch.testing.assert_close(competed.sum(dim=0), torch.ones(5, 5, 5))
    assert (competed >= 0).all()
    if classes == 1:
        torch.testing.assert_close(competed[1], answers[0].clamp(1e-4, 1 - 1e-4))
    else:
        assert torch.equal(competed[1:].argmax(dim=0)[1:], answers.argmax(dim=0)[1:])


def test_no_opinion_of_a_structure_is_none_of_the_voxel() -> None:
    answers = torch.rand(2, 3, 3, 3)
    answers[1, 0, 0, 0] = torch.nan
    competed = compete(answers)
    assert torch.isnan(competed[:, 0, 0, 0]).all()
    assert torch.isfinite(competed[:, 1:]).all()


def _answers(count: int, classes: int = 2) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    answers = [torch.rand(classes, 4, 4, 4, generator=random).softmax(dim=0) for _ in range(count)]
    return answers, [torch.rand(4, 4, 4, generator=random) * 0.8 + 0.2 for _ in range(count)]


@pytest.mark.parametrize("trust", [0.01, 0.6, 1.0])
def test_one_generalist_combined_is_itself(trust: float) -> None:
    (answer,), (confidence,) = _answers(1)
    mean, weight = combine([answer], [confidence], [trust])
    torch.testing.assert_close(mean, answer)
    torch.testing.assert_close(weight, trust * confidence)


def test_corrections_of_several_add_up() -> None:
    (a, b), (one, other) = _answers(2)
    belief = torch.full_like(a, 0.5)
    mean, weight = combine([a, b], [one, other], [0.6, 0.3])
    added = belief + 0.6 * one * (a - belief) + 0.3 * other * (b - belief)
    torch.testing.assert_close(belief + weight * (mean - belief), added)


def test_several_that_are_trusted_by_command_take_the_specialists_place_at_most() -> None:
    (a, b), (one, other) = _answers(2)
    mean, weight = combine([a, b], [one, other], [1.0, 1.0])
    torch.testing.assert_close(mean, (one * a + other * b) / (one + other))
    assert float(weight.max()) == 1.0


def test_a_generalist_without_opinion_or_trust_says_nothing() -> None:
    (a, b), (one, _) = _answers(2)
    silent = torch.full_like(b, torch.nan)
    mean, _ = combine([a, silent], [one, torch.zeros_like(one)], [0.9, 0.9])
    torch.testing.assert_close(mean, a)
    mean, _ = combine([a, b], [one, one], [0.9, 0.0])
    torch.testing.assert_close(mean, a)
    mean, weight = combine([a, silent], [one * 0, one * 0], [0.9, 0.9])
    assert torch.isfinite(mean).all()
    assert not weight.any()


# -- asking and teaching


class Blurry(nn.Module):
    """A specialist that sees the bright structure a little too large: grey values 0 and 1, threshold 0.2."""

    def __init__(self, threshold: float = 0.2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(20.0))
        self.threshold = threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        soft = nn.functional.avg_pool3d(nn.functional.pad(x, (2,) * 6, mode="replicate"), 5, 1)
        logit = (soft - self.threshold) * self.weight
        return torch.cat([-logit, logit], dim=1)


def _case(tmp_path: Path, mask: np.ndarray, *, grid: Grid = GRID, name: str = "case") -> PreparedCase:
    """Return a case whose structure has grey value 1 and the rest 0; its file is on the disk, as content is hashed."""
    path = tmp_path / f"{name}.nrrd"
    sitk.WriteImage(grid.image(mask.astype(np.float32)), str(path))
    return prepared(mask.astype(np.float32), mask.astype(np.uint8), grid, name=name, images=(path,))


def _collaboration(*generalists: FakeGeneralist, trust: float | None = 1.0, **settings) -> Collaboration:
    given = {"iterations": 100, "prompts": PROMPTS, "every": 1, "trust_every": 10, **settings}
    return Collaboration({one.name: one for one in generalists}, CollaborationSettings(trust=trust, **given))


def _patch(case: PreparedCase, start: tuple[int, int, int] = (4, 4, 4), *, deformed: bool = False) -> Patch:
    shape = (16, 16, 16)
    coordinates = straight_coordinates(start, shape)
    if deformed:
        centre = [s + 7.5 for s in start]
        coordinates = SpatialAugmentation(shape).coordinates(centre, _random(1))
    return Patch(case, look_up(case.image, coordinates), None, coordinates, start)


def _truth_of(mask: np.ndarray) -> Callable[[Volume, PromptSet, Grid], np.ndarray]:
    """Return a generalist's say: the truth of a case on whatever region it is asked about."""

    def say(volume: Volume, prompts: PromptSet, region: Grid) -> np.ndarray:
        points = volume.grid.to_index(region.to_physical(np.argwhere(np.ones(region.shape))))
        indices = np.clip(np.round(points).astype(int), 0, np.array(mask.shape) - 1)
        return mask[tuple(indices.T)].reshape(region.shape).astype(np.float32)

    return say


MASK = ball(SHAPE, 6, (12, 11, 13))


@pytest.mark.parametrize("kind", ["squared-error", "pseudo-label"])
@pytest.mark.parametrize("deformed", [False, True])
def test_the_term_teaches_the_specialist_and_only_it(tmp_path: Path, kind: str, deformed: bool) -> None:
    class Learned(FakeGeneralist):
        """One that has weights, which a careless caller might train."""

        def __init__(self) -> None:
            super().__init__(_truth_of(MASK))
            self.weights = torch.ones(1, requires_grad=True)

        def answer(self, *args) -> torch.Tensor:
            return super().answer(*args) * self.weights

    generalist, specialist = Learned(), specialist_of(Blurry(), plan=plan())
    patch = _patch(_case(tmp_path, MASK), deformed=deformed)
    lesson = _collaboration(generalist).ask(patch, specialist, 0)
    assert lesson is not None
    student = Blurry(threshold=0.7)
    student(patch.image[None]).mean().backward()
    student.weight.grad = None
    logits = student(patch.image[None]).requires_grad_()
    logits.retain_grad()
    loss = lesson.loss(logits, kind)
    assert torch.isfinite(loss)
    assert loss.item() > 0
    loss.backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) > 0
    assert float(student.weight.grad) != 0
    assert generalist.weights.grad is None
    assert all(p.grad is None for p in specialist.network.parameters())
    for tensor in (lesson.answer, lesson.weight, lesson.belief):
        assert not tensor.requires_grad


@pytest.mark.parametrize("kind", ["squared-error", "pseudo-label"])
def test_the_term_pulls_towards_the_answer(tmp_path: Path, kind: str) -> None:
    patch = _patch(_case(tmp_path, MASK))
    lesson = _collaboration(FakeGeneralist(_truth_of(MASK))).ask(patch, specialist_of(Blurry(), plan=plan()), 0)
    assert lesson is not None
    logits = torch.zeros(1, 2, 16, 16, 16, requires_grad=True)
    lesson.loss(logits, kind).backward()
    assert logits.grad is not None
    truth = torch.from_numpy(MASK[4:20, 4:20, 4:20])
    assert (logits.grad[0, 1][truth] < 0).all()
    assert (logits.grad[0, 1][~truth] > 0).float().mean() > 0.99
    right = torch.where(truth, 20.0, -20.0)
    assert lesson.loss(torch.stack([-right, right])[None], kind) < lesson.loss(logits, kind) * 0.1


@pytest.mark.parametrize("kind", ["squared-error", "pseudo-label"])
def test_who_is_trusted_little_teaches_little(tmp_path: Path, kind: str) -> None:
    patch = _patch(_case(tmp_path, MASK), deformed=True)
    lesson = _collaboration(FakeGeneralist(_truth_of(MASK))).ask(patch, specialist_of(Blurry(), plan=plan()), 0)
    assert lesson is not None
    lesson = replace(lesson, answer=lesson.belief)  # So that the target stays the same.
    little = replace(lesson, weight=lesson.weight * 0.2)
    logits = torch.zeros(1, 2, 16, 16, 16)
    assert lesson.loss(logits, kind) > 0
    assert little.loss(logits, kind) == pytest.approx(0.2 * float(lesson.loss(logits, kind)), rel=1e-4)


@pytest.mark.parametrize("grid", [GRID, Grid(SHAPE, (1.3, 1.3, 1.3), OBLIQUE.origin, OBLIQUE.direction)])
def test_answers_come_back_to_the_deformed_patch(tmp_path: Path, grid: Grid) -> None:
    """The generalist is asked about the patch undeformed; what it teaches lies on the patch as it is."""
    case = _case(tmp_path, MASK, grid=grid)
    for start in ((4, 4, 4), (0, 7, 8), (-3, 10, 2)):
        patch = _patch(case, start, deformed=True)
        lesson = _collaboration(FakeGeneralist(_truth_of(MASK))).ask(patch, specialist_of(Blurry(), plan=plan()), 0)
        assert lesson is not None
        taught = look_up(lesson.answer, lesson.coordinates, outside=0.0)[1] > 0.5
        truth = look_up(case.label, patch.coordinates, nearest=True, outside=0.0)[0] > 0  # type: ignore[arg-type]
        seen = look_up(torch.ones(1, 16, 16, 16), lesson.coordinates, outside=0.0)[0] > 0.99
        taught, truth = taught & seen, truth & seen
        assert int(truth.sum()) > 50
        assert 2 * int((taught & truth).sum()) / int(taught.sum() + truth.sum()) > 0.93


def test_a_case_is_embedded_once_however_often_it_is_asked_about(tmp_path: Path) -> None:
    generalist, specialist = FakeGeneralist(_truth_of(MASK)), specialist_of(Blurry(), plan=plan())
    collaboration = _collaboration(generalist)
    case = _case(tmp_path, MASK)
    for iteration in range(4):
        collaboration.ask(_patch(case, (iteration, 4, 4)), specialist, iteration)
    assert (generalist.embedded, generalist.asked) == (1, 4)


def test_nobody_is_asked_where_nothing_is_seen(tmp_path: Path) -> None:
    generalist = FakeGeneralist(noise)
    case = _case(tmp_path, np.zeros(SHAPE, dtype=bool))
    assert _collaboration(generalist).ask(_patch(case), specialist_of(Blurry(), plan=plan()), 0) is None
    assert generalist.asked == 0


@pytest.mark.parametrize("mask", [np.ones(SHAPE, dtype=bool), ball(SHAPE, 0.5, (12, 12, 12))], ids=["all", "one voxel"])
def test_odd_predictions_are_asked_about_all_the_same(tmp_path: Path, mask: np.ndarray) -> None:
    specialist = specialist_of(Pointwise(scale=20.0), plan=plan())
    lesson = _collaboration(FakeGeneralist(_truth_of(mask))).ask(_patch(_case(tmp_path, mask)), specialist, 0)
    assert lesson is not None
    assert torch.isfinite(lesson.answer).all()
    assert torch.isfinite(lesson.loss(torch.zeros(1, 2, 16, 16, 16), "pseudo-label"))


def test_where_a_generalist_has_no_opinion_it_weighs_nothing(tmp_path: Path) -> None:
    def half(volume: Volume, prompts: PromptSet, region: Grid) -> np.ndarray:
        answer = _truth_of(MASK)(volume, prompts, region)
        answer[:, :, :8] = np.nan
        return answer

    specialist = specialist_of(Blurry(), plan=plan())
    lesson = _collaboration(FakeGeneralist(half)).ask(_patch(_case(tmp_path, MASK)), specialist, 0)
    assert lesson is not None
    assert not lesson.weight[:, :, :8].any()
    torch.testing.assert_close(lesson.weight[:, :, 8:], torch.ones(16, 16, 8))
    assert torch.isfinite(lesson.answer).all()
    torch.testing.assert_close(lesson.corrected()[..., :8], lesson.belief[..., :8])
    silent = FakeGeneralist(lambda volume, prompts, region: np.full(region.shape, np.nan))
    alone = _collaboration(silent).ask(_patch(_case(tmp_path, MASK)), specialist, 0)
    assert alone is None or not alone.weight.any()


def test_who_expects_little_of_its_own_answers_weighs_little(tmp_path: Path) -> None:
    class Doubting(FakeGeneralist):
        def answer_with_quality(
            self, embedding: Volume, prompt_sets: Sequence[PromptSet], region: Grid
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return self.answer(embedding, prompt_sets, region), torch.linspace(0.2, 0.4, len(prompt_sets))

    specialist, patch = specialist_of(Blurry(), plan=plan()), _patch(_case(tmp_path, MASK))
    sure, doubting = (
        _collaboration(kind(_truth_of(MASK))).ask(patch, specialist, 0) for kind in (FakeGeneralist, Doubting)
    )
    assert sure is not None
    assert doubting is not None
    torch.testing.assert_close(doubting.weight, 0.3 * sure.weight)
    torch.testing.assert_close(doubting.answer, sure.answer)


def test_structures_are_asked_for_in_one_call_and_compete(tmp_path: Path) -> None:
    labels = np.where(MASK, 1, 0)
    labels[:, :, 14:][MASK[:, :, 14:]] = 2
    path = tmp_path / "two.nrrd"
    sitk.WriteImage(GRID.image(labels.astype(np.float32)), str(path))
    case = prepared(labels, labels, GRID, images=(path,))
    specialist = specialist_of(Pointwise(classes=3, scale=40.0), classes=("one", "two"), plan=plan(classes=2))
    asked = []

    def say(volume: Volume, prompts: PromptSet, region: Grid) -> np.ndarray:
        asked.append(prompts)
        inside = volume.grid.to_index(prompts.points[prompts.labels == 1])
        value = labels[tuple(np.round(inside[0]).astype(int))]
        return _truth_of(labels == value)(volume, prompts, region) * 0.9

    generalist = FakeGeneralist(say)
    lesson = _collaboration(generalist).ask(_patch(case), specialist, 0)
    assert lesson is not None
    assert generalist.asked == 1
    assert len(asked) == 2 * K
    assert lesson.answer.shape == (3, 16, 16, 16)
    torch.testing.assert_close(lesson.answer.sum(dim=0), torch.ones(16, 16, 16))
    found = lesson.answer.argmax(dim=0).numpy()
    assert np.array_equal(found, labels[4:20, 4:20, 4:20])


def test_several_generalists_are_heard_by_their_trust(tmp_path: Path) -> None:
    right = FakeGeneralist(_truth_of(MASK), "right")
    wrong = FakeGeneralist(_truth_of(~MASK), "wrong")
    collaboration = _collaboration(right, wrong)
    collaboration.trust = {"right": 0.9, "wrong": 0.1}
    specialist, patch = specialist_of(Blurry(), plan=plan()), _patch(_case(tmp_path, MASK))
    lesson = collaboration.ask(patch, specialist, 0)
    assert lesson is not None
    truth = MASK[4:20, 4:20, 4:20]
    np.testing.assert_allclose(lesson.answer[1].numpy(), np.where(truth, 0.9, 0.1), atol=1e-3)
    collaboration.trust = {"right": 0.9, "wrong": 0.0}
    collaboration.ask(patch, specialist, 0)
    assert (right.asked, wrong.asked) == (2, 1)


def test_who_is_not_trusted_is_not_asked(tmp_path: Path) -> None:
    generalist = FakeGeneralist(noise)
    collaboration = _collaboration(generalist, trust=0.0)
    assert not collaboration.asks(0)
    assert collaboration.ask(_patch(_case(tmp_path, MASK)), specialist_of(Blurry(), plan=plan()), 0) is None
    assert generalist.embedded == generalist.asked == 0


@pytest.mark.parametrize("concurrent", [False, True])
def test_who_has_not_said_that_this_is_well_is_asked_by_one_at_a_time(tmp_path: Path, concurrent: bool) -> None:
    inside, most = 0, 0
    lock, both = threading.Lock(), threading.Event()

    class Slow(FakeGeneralist):
        def answer(self, embedding, prompt_sets, region):
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
                if inside == 2:
                    both.set()
            both.wait(20 if concurrent else 0.2)
            with lock:
                inside -= 1
            return super().answer(embedding, prompt_sets, region)

    slow = Slow(noise)
    slow.concurrent = concurrent
    collaboration, specialist = _collaboration(slow), specialist_of(Blurry(), plan=plan())
    patch = _patch(_case(tmp_path, MASK))
    with ThreadPoolExecutor(2) as pool:
        asked = list(pool.map(lambda _: collaboration.ask(patch, specialist, 0), range(2)))
    assert all(asked)
    assert most == (2 if concurrent else 1)


def test_generalists_teach_alike_all_through_unless_told_to_fade_and_at_their_iterations() -> None:
    steady = _collaboration(FakeGeneralist(noise), strength=2.0)
    assert {steady.strength(t) for t in range(101)} == {2.0}
    collaboration = _collaboration(FakeGeneralist(noise), every=3, strength=2.0, decay=5.0)
    strengths = [collaboration.strength(t) for t in range(101)]
    assert strengths[0] == pytest.approx(2.0)
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[100] < 0.05
    assert [t for t in range(10) if collaboration.asks(t)] == [0, 3, 6, 9]
    late = _collaboration(FakeGeneralist(noise), strength=2.0, start=0.5)
    assert [t for t in range(101) if late.asks(t)] == [*range(50, 101)]
    assert {late.strength(t) for t in range(50, 101)} == {2.0}
    assert not _collaboration(FakeGeneralist(noise), strength=0.0).asks(0)


def test_trust_is_kept_in_the_state() -> None:
    first = _collaboration(FakeGeneralist(noise, "a"), FakeGeneralist(noise, "b"), trust=None)
    assert first.trust == {"a": 0.0, "b": 0.0}  # Nobody is trusted before it is earned.
    first.trust = {"a": 0.25, "b": 0.5}
    second = _collaboration(FakeGeneralist(noise, "a"), FakeGeneralist(noise, "b"), trust=None)
    second.load_state(first.state())
    assert second.trust == {"a": 0.25, "b": 0.5}
    assert second.earned is None
    first.earned = _earned([({"a": 0.5, "b": 0.9}, {"a": 0.4, "b": 0.3})])
    first.shifts = {"a": [-0.5], "b": [0.25]}
    second.load_state(json.loads(json.dumps(first.state())))
    assert second.earned == first.earned
    assert second.shifts == first.shifts


# -- trust


class Ragged(nn.Module):
    """A specialist that has learned one patient by heart and is unsure of others: right only where it is bright.

    On what it learned from it is right; deformed and disturbed, it loses part of the structure, as after a real
    training of a few labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(12.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit = (x - 0.75) * self.weight
        return torch.cat([-logit, logit], dim=1)


def _views(tmp_path: Path, count: int = 2) -> tuple[Specialist, list[PreparedCase], list[View]]:
    specialist = specialist_of(Ragged(), plan=plan())
    cases = [_case(tmp_path, ball(SHAPE, 6 + n, (12, 11 + n, 13)), name=f"case-{n}") for n in range(count)]
    return specialist, cases, make_views(specialist, cases, seed=0)


def _saying(say: Callable[[View], torch.Tensor], weight: float = 1.0) -> Ask:
    """Make one who answers with a probability."""

    def ask(view: View) -> tuple[torch.Tensor, torch.Tensor]:
        probability = say(view)
        return torch.stack([1 - probability, probability]), torch.full(probability.shape, weight)

    return ask


def _typical(views: list[View], ask: dict[str, Ask]) -> dict[str, float]:
    """Return the mean shares on scans whose answers agree as they do on the views, where they agree at all."""
    earned = earn_trust(views, ask)
    agreeing = [dict(zip(ask, lesson.agreements, strict=True)) for lesson in earned.lessons]
    shares = [earned.shares(agreements) for agreements in agreeing if min(agreements.values()) >= 0.5]
    return {name: float(np.mean([one[name] for one in shares])) if shares else 0.0 for name in ask}


def _trust(views: list[View], say: Callable[[View], torch.Tensor], weight: float = 1.0) -> float:
    return _typical(views, {"one": _saying(say, weight)})["one"]


def _earned(
    told: Sequence[tuple[dict[str, float], dict[str, float]]], gain: float = 0.1, views: int = 1000
) -> EarnedTrust:
    """Return trust after so many views of a kind, with these agreements, on which these shares of unlike corrections would have been right."""
    lessons = tuple(
        Lesson(0, list(agreements.values()), np.eye(len(best)).tolist(), list(best.values()), gain)
        for agreements, best in told
        for _ in range(views)
    )
    return EarnedTrust(tuple(told[0][0]), lessons)


def test_views_are_easy_and_hard(tmp_path: Path) -> None:
    specialist, cases, views = _views(tmp_path)
    assert max(view.dice for view in views) > min(view.dice for view in views) + 0.1
    for view in views:
        assert view.truth.shape == SHAPE
        assert view.probabilities.shape == (2, *SHAPE)
    again = make_views(specialist, cases, seed=0)
    assert [view.key for view in again] == [view.key for view in views]
    assert all(torch.equal(one.image, other.image) for one, other in zip(views, again, strict=True))
    assert len({view.key for view in views}) == len(views)
    assert {view.case.case.name for view in views} == {"case-0", "case-1"}


def test_views_image_and_truth_lie_alike(tmp_path: Path) -> None:
    _, _, views = _views(tmp_path)
    for view in views:
        bright = view.image[0][view.truth == 1].mean() - view.image[0][view.truth == 0].mean()
        assert bright > 0.3


def test_the_truth_earns_all_the_trust_that_there_is(tmp_path: Path) -> None:
    _, _, views = _views(tmp_path)
    assert views
    assert np.mean([view.dice for view in views]) < 0.97
    assert _trust(views, lambda view: view.truth.float()) == 0.5


def test_noise_the_whole_nothing_and_the_opposite_earn_none(tmp_path: Path) -> None:
    _, _, views = _views(tmp_path)
    for say in (
        lambda view: torch.rand(view.truth.shape, generator=torch.Generator().manual_seed(1)),
        lambda view: torch.ones(view.truth.shape),
        lambda view: torch.zeros(view.truth.shape),
        lambda view: (view.truth == 0).float(),
    ):
        assert _trust(views, say) < 0.05


def test_repeating_what_the_specialist_said_earns_none(tmp_path: Path) -> None:
    """A generalist that gives back the mask that it was asked with confirms errors."""
    _, _, views = _views(tmp_path)
    assert _trust(views, lambda view: view.probabilities[1]) == 0
    assert _trust(views, lambda view: (view.probabilities[1] > 0.5).float()) < 0.05


def test_a_generalist_that_is_half_right_earns_something_in_between(tmp_path: Path) -> None:
    _, _, views = _views(tmp_path)
    random = torch.Generator().manual_seed(0)

    def say(view: View) -> torch.Tensor:
        spoiled = torch.rand(view.truth.shape, generator=random) < 0.1
        return torch.where(spoiled, 1 - view.truth.float(), view.truth.float())

    assert 0 < _trust(views, say) < 0.5


def test_better_probabilities_of_a_worse_segmentation_earn_none(tmp_path: Path) -> None:
    """Surer of the background far away, and wrong around the structure, where the specialist was right."""
    _, _, views = _views(tmp_path)
    far, near, structure = (ball(SHAPE, radius, (12, 12, 12)) for radius in (24, 9, 6))
    truth = torch.from_numpy(structure).long()
    probability = torch.where(truth == 1, 0.9, torch.where(torch.from_numpy(far), 0.45, 0.0))
    answer = torch.from_numpy(near).float()
    correction, error = answer - probability, truth - probability
    assert float((correction * error).sum() / correction.square().sum()) > 0.3  # What least squares would take.
    unsure = replace(views[0], probabilities=torch.stack([1 - probability, probability]), truth=truth)
    assert _trust([unsure, unsure], lambda view: answer) == 0


def test_trust_is_that_of_views_where_answers_agreed_as_much() -> None:
    earned = _earned([({"one": agreed}, {"one": best}) for agreed, best in ((0.95, 0.0), (0.8, 0.2), (0.5, 0.9))])
    assert earned.shares({"one": 0.95}) == {"one": 0.0}
    assert earned.shares({"one": 0.8})["one"] == pytest.approx(0.2, abs=0.01)
    assert earned.shares({"one": 0.5}) == {"one": 0.5}  # No one alone overrules a specialist that is certain.
    assert earned.shares({"one": 1.0}) == {"one": 0.0}  # The nearest view counts, however far it is.
    assert 0.2 < earned.shares({"one": 0.65})["one"] <= 0.5
    assert earned.shares({"one": 0.49}) == {"one": 0.0}  # That is no answer to the question.
    assert earned.shares({}) == {}


def test_few_views_move_trust_less_than_many() -> None:
    shares = [
        _earned([({"one": 0.8}, {"one": right})], views=views).shares({"one": 0.8})["one"]
        for right in (0.0, 0.3)
        for views in (1, 4, 100)
    ]
    assert shares == [pytest.approx(one, abs=0.01) for one in (0.4, 0.25, 0.0, 0.46, 0.4, 0.3)]


def test_where_views_like_it_lost_nobody_is_trusted() -> None:
    told = [({"one": 0.9}, {"one": 0.4}), ({"one": 0.6}, {"one": 0.4})]
    lost, won = _earned(told[:1], gain=-0.1), _earned(told[1:])
    mixed = EarnedTrust(("one",), (*lost.lessons, *won.lessons))
    assert _earned(told, gain=-0.004).shares({"one": 0.9})["one"] == pytest.approx(0.4, abs=0.01)  # That is chance.
    assert mixed.shares({"one": 0.9}) == {"one": 0.0}
    assert mixed.shares({"one": 0.6})["one"] == pytest.approx(0.4, abs=0.01)


def test_who_did_not_answer_gets_no_share_and_changes_nobodys() -> None:
    told = [({"one": 0.9, "two": 0.5}, {"one": 0.2, "two": 0.3}), ({"one": 0.5, "two": 0.9}, {"one": 0.4, "two": 0.1})]
    earned = _earned(told)
    assert earned.shares({"one": 0.9}) == {"one": pytest.approx(0.2, abs=0.01)}
    assert earned.shares({"one": 0.9, "two": 0.5}) == {
        "one": pytest.approx(0.2, abs=0.01),
        "two": pytest.approx(0.3, abs=0.01),
    }


def test_a_view_tells_nothing_of_its_own_gain(tmp_path: Path) -> None:
    """One that is right on a single view: what that view alone would take of it is not taken for a gain."""
    _, _, views = _views(tmp_path)
    views = [view for view in views if 0.7 < view.dice < 0.93]

    def say(view: View) -> torch.Tensor:
        right = view.truth.float() if view.key == views[0].key else 2 * view.probabilities[1] - view.truth
        return right.clamp(0, 1)

    earned = earn_trust(views, {"one": _saying(say)})
    lesson = earned.lessons[0]
    assert lesson.along[0] / lesson.products[0][0] > 0.5  # As it would take.
    assert len(views) > 2
    assert lesson.gain <= 0


def test_one_that_never_answers_or_without_confidence_earns_none(tmp_path: Path) -> None:
    _, _, views = _views(tmp_path)
    assert earn_trust(views, {"silent": lambda view: None}).shares({"silent": 0.7}) == {"silent": 0}
    assert earn_trust([], {"silent": lambda view: None}).shares({"silent": 0.7}) == {"silent": 0}
    assert earn_trust(views, {}).shares({}) == {}
    assert _trust(views, lambda view: view.truth.float(), weight=0.0) == 0


def test_trusts_in_several_are_fitted_together(tmp_path: Path) -> None:
    """Each half of the truth is worth as much as the whole, and nonsense next to nothing beside it."""
    _, _, views = _views(tmp_path)

    def half(view: View, *, upper: bool) -> torch.Tensor:
        known = (torch.arange(SHAPE[0]) >= SHAPE[0] // 2).view(-1, 1, 1) == upper
        return torch.where(known, view.truth.float(), view.probabilities[1])

    truth = _saying(lambda view: view.truth.float())
    nonsense = _saying(lambda view: view.truth.float().roll(3, dims=2))
    beside = _typical(views, {"nonsense": nonsense, "truth": truth})
    assert beside["nonsense"] < 0.2  # What it is given beforehand is not all taken away by so few views.
    assert beside["truth"] == pytest.approx(0.5, abs=0.01)
    halves = _typical(
        views,
        {"upper": _saying(lambda v: half(v, upper=True)), "lower": _saying(lambda v: half(v, upper=False))},
    )
    assert halves["upper"] == pytest.approx(0.5, abs=0.05)  # One each would be best, but all together get no more.
    assert halves["lower"] == pytest.approx(0.5, abs=0.05)


def test_who_says_the_same_twice_is_believed_once() -> None:
    for views in (1, 1000):
        shares = []
        for times in (1, 2):
            names = tuple("ab"[:times])
            lesson = Lesson(0, [0.8] * times, np.ones((times, times)).tolist(), [0.3] * times, gain=0.1)
            shares.append(sum(EarnedTrust(names, (lesson,) * views).shares(dict.fromkeys(names, 0.8)).values()))
        assert shares[1] == pytest.approx(shares[0], abs=0.1)
    assert shares == [pytest.approx(0.3, abs=0.01)] * 2


def test_agreement_is_the_mean_dice_of_what_both_say() -> None:
    first = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 2]), 3).T.float()[..., None, None]
    second = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 2]), 3).T.float()[..., None, None]
    assert agreement(first, second) == pytest.approx(2 / 3)
    assert agreement(first, first) == 1
    nothing = torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1)
    assert agreement(nothing, nothing) == 1


def test_a_scan_on_which_answers_differ_is_corrected_more(tmp_path: Path) -> None:
    specialist = specialist_of(Blurry(), plan=plan())
    generalist = FakeGeneralist(_truth_of(MASK))
    collaboration = _collaboration(generalist, trust=None)
    collaboration.trust = {generalist.name: 0.2}
    collaboration.earned = _earned(
        [({generalist.name: 0.95}, {generalist.name: 0.1}), ({generalist.name: 0.6}, {generalist.name: 0.4})]
    )
    case = _case(tmp_path, MASK)
    plain = specialist.probabilities(case.image)
    worse = plain.clone()
    worse[1, :, :, 14:] = 0  # Most of the right half is not seen.
    worse[0] = 1 - worse[1]
    shares = []
    for probabilities in (plain, worse):
        opinions = collaboration.ask_about(case, probabilities, specialist)
        inside = (slice(None), *opinions.place)
        refined = collaboration.refined(probabilities, opinions)
        change = (refined - probabilities)[inside][1]
        possible = opinions.answers[generalist.name].mean[1] - probabilities[inside][1]
        shares.append(float((change * possible).sum() / possible.square().sum()))
    assert shares == [pytest.approx(0.12, abs=0.03), pytest.approx(0.4, abs=0.02)]


# -- sizes


def _soft(radius: float, width: float = 1.0) -> torch.Tensor:
    """Return probabilities (2, *SHAPE) of a ball whose edge is blurred; 1/2 at the radius."""
    distance = torch.from_numpy(np.linalg.norm(np.indices(SHAPE).T - np.array((12, 11, 13)), axis=-1).T)
    inside = torch.sigmoid((radius - distance) / width).float()
    return torch.stack([1 - inside, inside])


def _shifts(answers: list[torch.Tensor], beliefs: list[torch.Tensor], before: list[float]) -> list[float]:
    """Return the shifts of answers to several cases that were shifted before."""
    return further_shifted(before, [shift_to_size(a, b) for a, b in zip(answers, beliefs, strict=True)])


def _size(probabilities: torch.Tensor) -> int:
    return int((probabilities[1] > 0.5).sum())


def test_answers_are_as_large_as_predictions_in_the_median() -> None:
    answers = [_soft(6.5), _soft(7.5), _soft(6.2)]
    beliefs = [_soft(6), _soft(6), _soft(6)]
    shifts = _shifts(answers, beliefs, [0.0])
    assert shifts == [pytest.approx(-0.5, abs=0.1)]
    sizes = [_size(shifted(answer, shifts)) for answer in answers]
    assert sizes[0] == pytest.approx(_size(beliefs[0]), rel=0.06)  # Whole shells of voxels lie as far out.
    assert sizes[2] < sizes[0] < sizes[1]  # Scan by scan they differ as before.
    again = _shifts([shifted(answer, shifts) for answer in answers], beliefs, shifts)
    assert again == pytest.approx(shifts, abs=1e-3)


def test_no_answer_is_shifted_by_more_than_twice_or_half_would_be() -> None:
    for _ in range(3):
        shifts = _shifts([_soft(8)], [_soft(6)], [-0.9])
        assert shifts == [-1.0]


@pytest.mark.parametrize("answer", [_soft(3), 1 - _soft(6), torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])])
def test_who_did_not_answer_tells_nothing_of_sizes(answer: torch.Tensor) -> None:
    assert shift_to_size(answer, _soft(6)) == [None]
    assert _shifts([answer], [_soft(6)], [0.25]) == [0.25]
    assert _shifts([answer, _soft(6.5)], [_soft(6), _soft(6)], [0.0]) == [pytest.approx(-0.5, abs=0.1)]
    assert _shifts([], [], [0.25]) == [0.25]


def test_structures_are_sized_each_for_itself() -> None:
    large, right = _soft(6.5)[1].clone(), _soft(6)[1].clone()
    large[:, :, 13:], right[:, :, :13] = 0, 0
    wanted = _soft(6)[1]
    belief = torch.stack([1 - wanted, wanted * (large > 0), wanted * (right > 0)])
    answer = torch.stack([1 - large - right, large, right])
    assert shift_to_size(answer, belief) == [pytest.approx(-0.5, abs=0.1), pytest.approx(0, abs=0.1)]


def test_shifted_probabilities_are_probabilities_and_no_opinion_stays_none() -> None:
    given = _soft(6)
    given[:, 0, 0, 0] = torch.nan
    result = shifted(given, [-0.7])
    torch.testing.assert_close(result.sum(dim=0), given.sum(dim=0), equal_nan=True)
    torch.testing.assert_close(
        torch.logit(result[1]), torch.logit(given[1]) - 0.7, equal_nan=True, atol=1e-3, rtol=1e-3
    )
    assert shifted(given, [0.0]) is given


def test_a_training_learns_that_a_generalist_takes_too_much_and_asks_it_for_less(tmp_path: Path) -> None:
    specialist = specialist_of(Blurry(), plan=plan())

    def say(volume: Volume, prompts: PromptSet, region: Grid) -> np.ndarray:
        """Say a little more than the mask that is shown."""
        assert prompts.mask is not None
        return 1 / (1 + np.exp(-(prompts.mask.clip(-3, 3) + 0.6)))

    labeled, typical = _case(tmp_path, MASK, name="labeled"), _case(tmp_path, MASK, name="typical")
    roles = replace(labeled.case, role=Role.LABELED), replace(typical.case, role=Role.UNLABELED)
    cohort = Cohort(roles, (Class("ball", (1,)),))
    cache: Any = SimpleNamespace(get=lambda case, with_label: labeled if case.name == "labeled" else typical)
    probabilities = specialist.probabilities(typical.image)

    def answer(collaboration: Collaboration) -> torch.Tensor:
        return collaboration.ask_about(typical, probabilities, specialist).answers["fake"].mean

    as_it_is = _collaboration(FakeGeneralist(say), trust=None, resizes=False)
    as_large = _collaboration(FakeGeneralist(say), trust=None, resizes=True)
    before = answer(as_large)
    for collaboration in (as_it_is, as_large):
        collaboration.measure_trust(cache, cohort, specialist, 10)
    assert as_it_is.shifts == {}
    torch.testing.assert_close(answer(as_it_is), before)
    assert -1 <= as_large.shifts["fake"][0] < -0.2
    place = as_large.ask_about(typical, probabilities, specialist).place
    assert _size(before) > _size(answer(as_large)) == pytest.approx(_size(probabilities[:, *place]), rel=0.05)
    kept = as_large.shifts["fake"][0]
    as_large.measure_trust(cache, cohort, specialist, 20)
    assert as_large.shifts["fake"][0] == pytest.approx(kept, abs=0.02)  # It is as large already.


# -- refining a prediction


def _refined(
    collaboration: Collaboration, case: PreparedCase, probabilities: torch.Tensor, specialist: Specialist
) -> torch.Tensor:
    return refiner(collaboration, specialist)(case, probabilities)


def test_refined_is_the_belief_corrected_as_far_as_trusted(tmp_path: Path) -> None:
    specialist, case = specialist_of(Blurry(), plan=plan()), _case(tmp_path, MASK)
    probabilities = specialist.probabilities(case.image)
    truth = torch.from_numpy(MASK).float()
    seen = (probabilities[1] > 0.1).nonzero()
    inside = tuple(slice(int(low), int(high) + 1) for low, high in zip(seen.amin(0), seen.amax(0), strict=True))
    errors = []
    for trust in (0.0, 0.4, 1.0):
        refined = _refined(
            _collaboration(FakeGeneralist(_truth_of(MASK)), trust=trust), case, probabilities, specialist
        )
        wanted = probabilities[1] + trust * (truth - probabilities[1])
        torch.testing.assert_close(refined[1][inside], wanted[inside], atol=1e-3, rtol=0)
        torch.testing.assert_close(refined.sum(dim=0), torch.ones(SHAPE))
        errors.append(float((refined[1] - truth).abs().sum()))
    assert errors[0] > errors[1] > errors[2]
    assert refined.dtype == probabilities.dtype


def test_a_small_structure_is_refined_without_asking_about_all_of_a_large_case(tmp_path: Path) -> None:
    regions = []

    def say(volume: Volume, prompts: PromptSet, region: Grid) -> np.ndarray:
        regions.append(region)
        return _truth_of(small)(volume, prompts, region)

    shape = (24, 40, 64)
    small = ball(shape, 4, (12, 10, 12))
    grid = Grid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    specialist, case = specialist_of(Blurry(), plan=plan()), _case(tmp_path, small, grid=grid)
    probabilities = specialist.probabilities(case.image).half()
    refined = _refined(_collaboration(FakeGeneralist(say)), case, probabilities, specialist)
    assert np.prod(regions[0].shape) < np.prod(shape) / 2
    assert refined.dtype == torch.float16
    assert torch.equal(refined[1] > 0.5, torch.from_numpy(small))
    assert torch.equal(refined[..., 40:], probabilities[..., 40:])


def _two_balls(second: float) -> np.ndarray:
    return ball((24, 24, 48), 6, (12, 12, 12)) | ball((24, 24, 48), second, (12, 12, 36))


@pytest.mark.parametrize(("second", "one_piece", "clear"), [(3.0, True, True), (5.0, True, False), (5.0, False, True)])
def test_a_structure_of_one_piece_that_is_seen_as_two_is_not_asked_about(
    tmp_path: Path, second: float, one_piece: bool, clear: bool
) -> None:
    """An answer to prompts on the wrong piece would confirm it, and take away the right one."""
    seen = _two_balls(second)
    grid = Grid(seen.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    its_plan = replace(plan(patch=seen.shape), centroids=((0.5, 0.5, 0.5) if one_piece else None,))
    specialist, case = specialist_of(Pointwise(scale=8), plan=its_plan), _case(tmp_path, seen, grid=grid)
    generalist = FakeGeneralist(_truth_of(ball(seen.shape, 6, (12, 12, 12))))
    probabilities = specialist.probabilities(case.image)
    refined = _refined(_collaboration(generalist), case, probabilities, specialist)
    assert (generalist.asked > 0) == clear
    assert torch.equal(refined, probabilities) != clear


def test_where_a_class_is_seen_that_is_not_asked_for_it_stays(tmp_path: Path) -> None:
    """Two pieces of the second class are no clear question; the answer about the first says nothing of them."""
    shape = (24, 24, 64)
    first, second = ball(shape, 6, (12, 12, 12)), ball(shape, 5, (12, 12, 32)) | ball(shape, 5, (12, 12, 50))
    labels = first + 2.0 * second
    grid = Grid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    specialist = specialist_of(Pointwise(classes=3, scale=8), classes=("one", "two"), plan=plan(patch=shape, classes=2))
    case = _case(tmp_path, labels, grid=grid)
    smaller = ball(shape, 4, (12, 12, 12))
    probabilities = specialist.probabilities(case.image)
    refined = _refined(_collaboration(FakeGeneralist(_truth_of(smaller))), case, probabilities, specialist)
    kept, gone = torch.from_numpy(second), torch.from_numpy(first & ~smaller)
    torch.testing.assert_close(refined[:, kept], probabilities[:, kept], atol=0.05, rtol=0)
    assert (probabilities[1][gone] > 0.9).all()
    assert (refined[1][gone] < 0.1).all()


def test_layers_ask_once_and_show_no_answer_of_before(tmp_path: Path) -> None:
    specialist, case = specialist_of(Blurry(), plan=plan()), _case(tmp_path, MASK)
    generalist = FakeGeneralist(_truth_of(MASK))
    collaboration = _collaboration(generalist)
    write_layers(tmp_path / "layers", case, specialist, collaboration, iteration=1)
    assert generalist.asked == 1  # Prompts, answer and refined prediction are of one asking.
    path = tmp_path / "layers" / f"generalist-{generalist.name}.seg.nrrd"
    classes = specialist.classes
    np.testing.assert_array_equal(read_segmentation(path, classes)[0] > 0, MASK)
    unseen = replace(case, image=torch.zeros_like(case.image))
    write_layers(tmp_path / "layers", unseen, specialist, collaboration, iteration=2)
    assert generalist.asked == 1
    assert not read_segmentation(path, classes)[0].any()


def test_where_nothing_is_seen_nothing_is_refined(tmp_path: Path) -> None:
    specialist, case = specialist_of(Blurry(), plan=plan()), _case(tmp_path, np.zeros(SHAPE, dtype=bool))
    generalist = FakeGeneralist(_truth_of(MASK))
    probabilities = specialist.probabilities(case.image)
    assert torch.equal(_refined(_collaboration(generalist), case, probabilities, specialist), probabilities)
    assert generalist.asked == 0


# -- in a training


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return tiny_cohort(tmp_path_factory.mktemp("cohort"))


def _train(
    cohort: Cohort, folder: Path, monkeypatch: pytest.MonkeyPatch, generalist: FakeGeneralist | None, **settings
) -> RunFolder:
    monkeypatch.setattr(run_module, "create_generalist", lambda spec, device: generalist)
    names = () if generalist is None else ("fake",)
    return train(cohort, tiny_config(generalists=names, collaboration_every=1, **settings), folder)


@pytest.mark.parametrize("method", ["copy-paste", "mean-teacher"])
@pytest.mark.parametrize("trust", [0.0, None])
def test_with_trust_zero_the_run_is_the_run_without_it(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: float | None, method: str
) -> None:
    """Bit for bit, given or measured; and with trust it is another run, or this test could not fail."""
    settings = {"iterations": 6, "validate_every": 2, "method": method}
    without = _train(cohort, tmp_path / "without", monkeypatch, None, **settings)
    fake = FakeGeneralist(noise)
    untrusted = _train(cohort, tmp_path / "untrusted", monkeypatch, fake, trust=trust, **settings)
    assert weights_of(untrusted.path) == weights_of(without.path)
    measured = [event["trust"] for event in untrusted.events() if event["event"] == "trust"]
    # A quarter of so short a training is one iteration; before the first there is nothing to measure, and after the last too.
    assert measured == ([{"fake": 0.0}] * 6 if trust is None else [])


def test_with_trust_it_is_another_run(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever the specialist believes so early, it is asked about.
    monkeypatch.setattr("SemiSAMPlusLib.collaboration.prompts._CONFIDENT", 0.01)
    settings = {"iterations": 4, "method": "mean-teacher"}
    without = _train(cohort, tmp_path / "without", monkeypatch, None, **settings)
    fake = FakeGeneralist(noise)
    trusted = _train(cohort, tmp_path / "trusted", monkeypatch, fake, trust=1.0, **settings)
    assert fake.asked > 0
    assert weights_of(trusted.path) != weights_of(without.path)


@pytest.mark.parametrize("sizes", ["own", "specialist"])
def test_a_run_keeps_how_answers_were_made_as_large_as_predictions(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: str
) -> None:
    before = []
    monkeypatch.setattr(
        "SemiSAMPlusLib.collaboration.collaboration.further_shifted", lambda shifts, _: before.append(shifts) or [-0.5]
    )
    run = _train(cohort, tmp_path / "run", monkeypatch, FakeGeneralist(noise), iterations=4, collaboration_sizes=sizes)
    kept = torch.load(run.checkpoints / "last.pt", weights_only=True)["collaboration"]["shifts"]
    assert kept == ({"fake": [-0.5]} if sizes == "specialist" else {})
    assert before == ([[0.0], *[[-0.5]] * (len(before) - 1)] if sizes == "specialist" else [])


@pytest.mark.parametrize(
    ("method", "start", "first"),
    [("copy-paste", None, 2), ("copy-paste", 0.0, 2), ("mean-teacher", None, 4), ("mean-teacher", 0.0, 0)],
)
def test_generalists_are_asked_from_their_start_on_where_they_have_a_way_to_teach(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, start: float | None, first: int
) -> None:
    """Copy-paste learns from labelled patches alone for a quarter of the training, and has no beliefs to correct until then."""
    iterations = set()
    ask = Collaboration.ask

    def recorded(self: Collaboration, patch: Patch, specialist: Specialist, iteration: int) -> TaughtPatch | None:
        iterations.add(iteration)
        return ask(self, patch, specialist, iteration)

    monkeypatch.setattr(Collaboration, "ask", recorded)
    settings = {"iterations": 8, "method": method, "trust": 1.0, "collaboration_start": start}
    _train(cohort, tmp_path / "run", monkeypatch, FakeGeneralist(noise), **settings)
    assert sorted(iterations) == [*range(first, 8)]


@pytest.mark.parametrize(("method", "first"), [("copy-paste", 1), ("mean-teacher", 2)])
def test_generalists_correct_the_beliefs_of_copy_paste_and_leave_mean_teachers_alone(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, first: int
) -> None:
    """Mean teacher gets a loss beside its own, as in the paper."""
    monkeypatch.setattr("SemiSAMPlusLib.collaboration.prompts._CONFIDENT", 0.01)
    settings = {"iterations": 4, "method": method, "trust": 1.0}
    beliefs: list[dict[int, torch.Tensor]] = []
    losses = []
    make = Trainer._batch

    def recorded(self: Trainer, *arguments: Any) -> Batch:
        batch = make(self, *arguments)
        if batch.beliefs is not None:
            beliefs[-1][batch.iteration] = batch.beliefs
        return batch

    monkeypatch.setattr(Trainer, "_batch", recorded)
    for number, generalist in enumerate((None, FakeGeneralist(noise))):
        beliefs.append({})
        run = _train(cohort, tmp_path / str(number), monkeypatch, generalist, **settings)
        losses.append({name for event in run.events() if event["event"] == "progress" for name in event["losses"]})
    alone, taught = (one[first] for one in beliefs)  # Until then both have learned the same.
    assert torch.equal(alone, taught) == (method == "mean-teacher")
    assert losses[1] - losses[0] == ({"collaboration"} if method == "mean-teacher" else set())


def test_trust_is_measured_without_the_labels_of_unlabelled_cases(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    really = sitk.ReadImage

    def read(path, *args, **kwargs):
        opened.append(Path(str(path)).resolve())
        return really(path, *args, **kwargs)

    monkeypatch.setattr(sitk, "ReadImage", read)
    _train(cohort, tmp_path / "run", monkeypatch, FakeGeneralist(noise), iterations=4, validate_every=2)
    labels = {case.label.resolve() for case in (*cohort.unlabeled, *cohort.test) if case.label is not None}
    tests = {image.resolve() for case in cohort.test for image in case.images}
    assert opened
    assert not labels & set(opened)
    assert not tests & set(opened)
