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
    bright_case,
    earned_by,
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
from SemiSAMPlusLib.collaboration.prompts import PromptSettings
from SemiSAMPlusLib.collaboration.refinement import refiner
from SemiSAMPlusLib.collaboration.regularization import TaughtPatch
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
    return bright_case(tmp_path, mask, grid, name=name)


def _collaboration(*generalists: FakeGeneralist, trust: float | None = 1.0, **settings) -> Collaboration:
    given = {"iterations": 100, "prompts": PROMPTS, "every": 1, "trust_every": 10, **settings}
    return Collaboration({one.name: one for one in generalists}, CollaborationSettings(trust=trust, **given))


def _patch(case: PreparedCase, start: tuple[int, int, int] = (4, 4, 4), *, deformed: bool = False) -> Patch:
    shape = (16, 16, 16)
    coordinates = straight_coordinates(start, shape)
    if deformed:
        centre = [s + 7.5 for s in start]
        coordinates = SpatialAugmentation(shape).coordinates(centre, np.random.default_rng(1))
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
    first.earned = earned_by([({"a": 0.5, "b": 0.9}, {"a": 0.4, "b": 0.3})])
    first.shifts = {"a": [-0.5], "b": [0.25]}
    second.load_state(json.loads(json.dumps(first.state())))
    assert second.earned == first.earned
    assert second.shifts == first.shifts


# -- what is learned on typical cases


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

    def size(probabilities: torch.Tensor) -> int:
        return int((probabilities[1] > 0.5).sum())

    as_it_is = _collaboration(FakeGeneralist(say), trust=None, resizes=False)
    as_large = _collaboration(FakeGeneralist(say), trust=None, resizes=True)
    before = answer(as_large)
    for collaboration in (as_it_is, as_large):
        collaboration.measure_trust(cache, cohort, specialist, 10)
    assert as_it_is.shifts == {}
    torch.testing.assert_close(answer(as_it_is), before)
    assert -1 <= as_large.shifts["fake"][0] < -0.2
    place = as_large.ask_about(typical, probabilities, specialist).place
    assert size(before) > size(answer(as_large)) == pytest.approx(size(probabilities[:, *place]), rel=0.05)
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


def test_a_scan_on_which_answers_differ_is_corrected_more(tmp_path: Path) -> None:
    specialist = specialist_of(Blurry(), plan=plan())
    generalist = FakeGeneralist(_truth_of(MASK))
    collaboration = _collaboration(generalist, trust=None)
    collaboration.trust = {generalist.name: 0.2}
    collaboration.earned = earned_by(
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
