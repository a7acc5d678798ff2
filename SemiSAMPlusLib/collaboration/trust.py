"""How far to trust a generalist: as far as its corrections were right where it disagreed with the specialist as much.

A specialist is good on most scans and poor on some, and generalists know better just there. So trust is no one number:
it is measured as it depends on how far an answer agrees with the specialist, which is seen on any scan, without a label.

1. *Views.* The specialist has memorised its few labelled cases, so prompts made there would be near perfect and flatter
   whoever answers them. The cases are deformed and disturbed, the more, the poorer the specialist is on them.
2. *Lessons.* On each view the generalists are asked as in training. What is kept of it: their agreements with the
   specialist, the products of their corrections w_g (F̄_g - f), and the products of these with the error y - f.
3. *Shares.* For a patch or a scan, the shares ω of the corrections minimise Σ v (y - f - Σ_g ω_g w_g (F̄_g - f))² over the
   views; v falls as a Gaussian of how far a view's agreements are from those here. Before any view has spoken, those who
   answer share 1/2, and that counts as much as a few views: there are few, and even deformed, labelled cases flatter the
   specialist. Each ω is 0 to 1/2, so no generalist alone overrules a specialist that is certain, and all together are at
   most 1. A share below 0.1 counts as 0; so does that of an answer that agrees by less than 1/2, which is none to the
   question that was asked; and all are 0 where shares fitted so, each view's on the other views, lower the Dice.

All of it is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from ..cohort.augmentation import IntensityAugmentation, SpatialAugmentation, look_up
from ..cohort.cohort import Case
from ..cohort.patches import PreparedCase
from ..cohort.volume import triple
from ..specialist.overlap import dice_by_class
from ..specialist.pieces import to_classes
from ..specialist.specialist import Specialist
from .answer import Answer, agreement, is_an_answer

#: How strongly labelled cases are deformed, in multiples of the training's augmentation; and how often each.
_STRENGTHS, _DRAWS = (1.0, 2.0, 3.0), 4
#: There are so many sets of such views. Measured in turn, each counts until it is measured again: a dozen views at a time
#: are too few, and as what they teach changes slowly, those of before count too.
SETS = 2
#: The standard deviation of the Gaussian by which views count, in Dice; a half or twice as much makes little difference.
_ALIKE = 0.03
#: A smaller share is not worth the asking; what it gains on so few views, nonsense gains now and then. With a larger one
#: a generalist would overrule a specialist that is certain, and far leaks with it.
_LEAST_SHARE, _MOST_SHARE = 0.1, 0.5
#: Beforehand those who answer share so much equally, and that counts as much as so many views.
_BEFOREHAND, _WORTH = 0.5, 4.0
#: Shares lower the Dice of views if they lower it by more than this on average; less is chance.
_LEAST_GAIN = -0.005
#: Unlabelled cases on which trust on average is measured.
_TYPICAL = 8


@dataclass(frozen=True)
class View:
    """A labelled case, deformed and disturbed, with what the specialist makes of it.

    Attributes:
        key: Names the case and the deformation; the same view has the same key all through a training.
        number: Of the set of views that it belongs to.
        image: (channels, z, y, x) normalised.
        probabilities: (classes with background, z, y, x) the specialist's.
        truth: (z, y, x) class indices.
        case: The case it was made of, undeformed.
        dice: The specialist's mean Dice over the classes.
    """

    key: str
    number: int
    image: torch.Tensor
    probabilities: torch.Tensor
    truth: torch.Tensor
    case: PreparedCase
    dice: float


#: Returns a generalist's answer about a view, or None where it could not be asked.
Ask = Callable[[View], Answer | None]


@dataclass(frozen=True)
class Lesson:
    """What asking the generalists about one view taught; lists are in the order of the generalists' names.

    Attributes:
        number: Of the set of views that it was of.
        agreements: Each answer's agreement with the specialist; 1 where there was no answer, and so no correction.
        products: Of each correction with each.
        along: Product of each correction with the specialist's error.
        gain: What the shares that the other views give do to the specialist's mean Dice.
    """

    number: int
    agreements: list[float]
    products: list[list[float]]
    along: list[float]
    gain: float = 0.0


@dataclass(frozen=True)
class EarnedTrust:
    """How far each generalist is to be trusted, by how far the answers agree with the specialist.

    Attributes:
        names: The generalists.
        lessons: What was learned on each view.
    """

    names: tuple[str, ...]
    lessons: tuple[Lesson, ...]

    def shares(self, agreements: Mapping[str, float]) -> dict[str, float]:
        """Return the shares of the corrections to take, each 0 to 1/2 and at most 1 all together.

        Args:
            agreements: Of those who answered, by name, as :func:`agreement` gives them.
        """
        here = np.array([agreements.get(name, 0.0) for name in self.names])
        counts = _counts(self.lessons, here)
        gains = [lesson.gain - _LEAST_GAIN for lesson in self.lessons]
        shares = _fitted(self.lessons, counts, here) if counts @ gains > 0 else np.zeros(len(here))
        return {name: float(share) for name, share in zip(self.names, shares, strict=True) if name in agreements}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {"names": list(self.names), "lessons": [asdict(lesson) for lesson in self.lessons]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EarnedTrust:
        """Return what :meth:`to_dict` described."""
        return cls(tuple(data["names"]), tuple(Lesson(**lesson) for lesson in data["lessons"]))


def choose_typical(names: Sequence[str], seed: int) -> list[str]:
    """Choose the unlabelled cases on which trust on average is measured."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[index] for index in order[:_TYPICAL]]


def make_views(
    specialist: Specialist, cases: Sequence[Case], prepare: Callable[[Case], PreparedCase], seed: int, number: int = 0
) -> list[View]:
    """Return deformed labelled cases, easy ones and hard ones; none on which the specialist is right nowhere.

    Args:
        specialist: As it is now.
        cases: Labelled cases.
        prepare: Prepares one of them, with its label; only those are that views are made of.
        seed: Fixes the deformations.
        number: Which of the sets of views, below ``SETS``.
    """
    views = []
    for draw in range(number * _DRAWS, (number + 1) * _DRAWS):
        case = prepare(cases[draw % len(cases)])
        assert case.label is not None
        shape = triple(case.image.shape[1:], int)
        for strength in _STRENGTHS:
            random = np.random.default_rng((seed, draw, round(strength * 10)))
            spatial = SpatialAugmentation(shape, strength)
            coordinates = spatial.coordinates([(n - 1) / 2 for n in shape], random).to(case.image.device)
            image = IntensityAugmentation(strength)(look_up(case.image, coordinates), random)
            truth = look_up(case.label, coordinates, nearest=True, outside=0.0)[0].round()
            probabilities = specialist.probabilities(image)
            segmented = to_classes(probabilities, specialist.plan.centroids)
            dice = _mean_dice(segmented, truth, len(specialist.classes))
            if dice is not None and dice > 0:
                key = f"{case.case.name}/{draw}/{strength}"
                views.append(View(key, number, image, probabilities, truth, case, dice))
    return views


def earn_trust(views: Sequence[View], ask: Mapping[str, Ask], before: Sequence[Lesson] = ()) -> EarnedTrust:
    """Ask the generalists about the views, and return what trust they earn by it.

    Args:
        views: What :func:`make_views` returned.
        ask: Asks each generalist about a view, by name.
        before: What other views taught before and counts too, with the generalists in the same order.

    Returns:
        Trust by the lessons of these views, which come first, and those of before.
    """
    lessons: list[Lesson] = []
    corrections: list[list[torch.Tensor]] = []
    for view in views:
        answers = [one(view) for one in ask.values()]
        lesson, correction = _learn(view, answers)
        lessons.append(lesson)
        corrections.append(correction)
    gains = []
    for place, view in enumerate(views):  # Of shares that were fitted without it.
        others, here = [*lessons[:place], *lessons[place + 1 :], *before], np.array(lessons[place].agreements)
        gains.append(_gain(view, corrections[place], _fitted(others, _counts(others, here), here)))
    now = [replace(lesson, gain=gain) for lesson, gain in zip(lessons, gains, strict=True)]
    return EarnedTrust(tuple(ask), (*now, *before))


def _learn(view: View, answers: Sequence[Answer | None]) -> tuple[Lesson, list[torch.Tensor]]:
    """Return what the answers to one view teach, its gain still open, and the corrections w (F̄ - f) in them."""
    belief = view.probabilities
    error = torch.stack([view.truth == index for index in range(len(belief))]).float() - belief
    corrections = [torch.zeros_like(error) if a is None else a.confidence * (a.mean - belief) for a in answers]
    lesson = Lesson(
        number=view.number,
        agreements=[1.0 if a is None else agreement(a, belief) for a in answers],
        products=[[float((mine * other).sum()) for other in corrections] for mine in corrections],
        along=[float((mine * error).sum()) for mine in corrections],
    )
    return lesson, corrections


def _counts(lessons: Sequence[Lesson], here: np.ndarray) -> np.ndarray:
    """Return how much each lesson counts for agreements like those ``here``; the nearest counts 1, however far it is."""
    answering = np.flatnonzero([is_an_answer(agreed) for agreed in here])
    if not lessons or not answering.size:
        return np.zeros(len(lessons))
    agreements = np.array([lesson.agreements for lesson in lessons])
    squared = np.square(agreements - here)[:, answering].mean(axis=1)
    return np.exp((squared.min() - squared) / (2 * _ALIKE**2))


def _fitted(lessons: Sequence[Lesson], counts: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Return the shares of the generalists' corrections that fit best where the agreements are those ``here``.

    It is a non-negative least squares fit of the corrections to the specialist's error, of which the lessons keep all
    products that it needs, with what is held of the shares beforehand as further equations.
    """
    shares, answering = np.zeros(len(here)), np.flatnonzero([is_an_answer(agreed) for agreed in here])
    if not lessons or not answering.size:
        return shares
    products = np.tensordot(counts, [lesson.products for lesson in lessons], axes=1)[np.ix_(answering, answering)]
    along = np.tensordot(counts, [lesson.along for lesson in lessons], axes=1)[answering]
    weights = _WORTH * products.diagonal() / counts.sum()
    products, along = products + np.diag(weights), along + weights * _BEFOREHAND / answering.size
    values, vectors = np.linalg.eigh(products)
    roots = np.sqrt(values.clip(min=0.0))
    told = roots > 1e-6 * max(1.0, float(roots.max(initial=0.0)))  # One that corrects nothing tells nothing.
    if told.any():
        best = nnls(roots[told, None] * vectors.T[told], vectors.T[told] @ along / roots[told])[0]
        shares[answering] = (best / max(1.0, float(best.sum()))).clip(max=_MOST_SHARE)
    return np.where(shares < _LEAST_SHARE, 0.0, shares)


def _gain(view: View, corrections: Sequence[torch.Tensor], shares: np.ndarray) -> float:
    """Return what taking so much of the corrections does to the specialist's mean Dice."""
    classes = len(view.probabilities) - 1
    corrected = view.probabilities + sum(share * one for share, one in zip(shares.tolist(), corrections, strict=True))
    before = _mean_dice(view.probabilities.max(dim=0).indices, view.truth, classes)
    after = _mean_dice(corrected.max(dim=0).indices, view.truth, classes)
    return (after or 0.0) - (before or 0.0)


def _mean_dice(first: torch.Tensor, second: torch.Tensor, classes: int) -> float | None:
    """Return the mean Dice over the classes that either shows, None where neither shows any."""
    scores = [dice for dice in dice_by_class(first, second, classes) if dice is not None]
    return float(np.mean(scores)) if scores else None
