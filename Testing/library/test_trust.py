"""What trust generalists earn, and with which answers they earn none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ball, bright_case, earned_by, plan, specialist_of
from torch import nn

from SemiSAMPlusLib.cohort.patches import PreparedCase
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.collaboration.answer import Answer
from SemiSAMPlusLib.collaboration.trust import Ask, EarnedTrust, Lesson, View, earn_trust, make_views
from SemiSAMPlusLib.specialist.specialist import Specialist

SHAPE = (24, 24, 24)
GRID = Grid(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


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
    cases = [bright_case(tmp_path, ball(SHAPE, 6 + n, (12, 11 + n, 13)), GRID, name=f"case-{n}") for n in range(count)]
    return specialist, cases, _make(specialist, cases)


def _make(specialist: Specialist, cases: list[PreparedCase]) -> list[View]:
    prepared = {one.case: one for one in cases}
    return make_views(specialist, list(prepared), prepared.__getitem__, seed=0)


def _saying(say: Callable[[View], torch.Tensor], weight: float = 1.0) -> Ask:
    """Make one who answers with a probability."""

    def ask(view: View) -> Answer:
        probability = say(view)
        return Answer(torch.stack([1 - probability, probability]), torch.full(probability.shape, weight), (1,))

    return ask


def _typical(views: list[View], ask: dict[str, Ask]) -> dict[str, float]:
    """Return the mean shares on scans whose answers agree as they do on the views, where they agree at all."""
    earned = earn_trust(views, ask)
    agreeing = [dict(zip(ask, lesson.agreements, strict=True)) for lesson in earned.lessons]
    shares = [earned.shares(agreements) for agreements in agreeing if min(agreements.values()) >= 0.5]
    return {name: float(np.mean([one[name] for one in shares])) if shares else 0.0 for name in ask}


def _trust(views: list[View], say: Callable[[View], torch.Tensor], weight: float = 1.0) -> float:
    return _typical(views, {"one": _saying(say, weight)})["one"]


def test_views_are_easy_and_hard(tmp_path: Path) -> None:
    specialist, cases, views = _views(tmp_path)
    assert max(view.dice for view in views) > min(view.dice for view in views) + 0.1
    for view in views:
        assert view.truth.shape == SHAPE
        assert view.probabilities.shape == (2, *SHAPE)
    again = _make(specialist, cases)
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
    earned = earned_by([({"one": agreed}, {"one": best}) for agreed, best in ((0.95, 0.0), (0.8, 0.2), (0.5, 0.9))])
    assert earned.shares({"one": 0.95}) == {"one": 0.0}
    assert earned.shares({"one": 0.8})["one"] == pytest.approx(0.2, abs=0.01)
    assert earned.shares({"one": 0.5}) == {"one": 0.5}  # No one alone overrules a specialist that is certain.
    assert earned.shares({"one": 1.0}) == {"one": 0.0}  # The nearest view counts, however far it is.
    assert 0.2 < earned.shares({"one": 0.65})["one"] <= 0.5
    assert earned.shares({"one": 0.49}) == {"one": 0.0}  # That is no answer to the question.
    assert earned.shares({}) == {}


def test_few_views_move_trust_less_than_many() -> None:
    shares = [
        earned_by([({"one": 0.8}, {"one": right})], views=views).shares({"one": 0.8})["one"]
        for right in (0.0, 0.3)
        for views in (1, 4, 100)
    ]
    assert shares == [pytest.approx(one, abs=0.01) for one in (0.4, 0.25, 0.0, 0.46, 0.4, 0.3)]


def test_where_views_like_it_lost_nobody_is_trusted() -> None:
    told = [({"one": 0.9}, {"one": 0.4}), ({"one": 0.6}, {"one": 0.4})]
    lost, won = earned_by(told[:1], gain=-0.1), earned_by(told[1:])
    mixed = EarnedTrust(("one",), (*lost.lessons, *won.lessons))
    assert earned_by(told, gain=-0.004).shares({"one": 0.9})["one"] == pytest.approx(0.4, abs=0.01)  # That is chance.
    assert mixed.shares({"one": 0.9}) == {"one": 0.0}
    assert mixed.shares({"one": 0.6})["one"] == pytest.approx(0.4, abs=0.01)


def test_who_did_not_answer_gets_no_share_and_changes_nobodys() -> None:
    told = [({"one": 0.9, "two": 0.5}, {"one": 0.2, "two": 0.3}), ({"one": 0.5, "two": 0.9}, {"one": 0.4, "two": 0.1})]
    earned = earned_by(told)
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
