"""How far to trust a generalist as a whole: what its answers would gain on cases like the unlabelled ones.

The specialist has memorised its few labelled cases, so prompts made there would be near perfect and flatter whoever
answers them. Two measurements keep trust honest (both ours):

1. *The error to be expected.* On unlabelled cases, the specialist's segmentation is compared with the one that it
   makes of the same case strongly deformed. From their Dice follows about its true Dice there.
2. *Views that are as hard.* Labelled cases are deformed and disturbed more and more, and a view counts the more, the
   nearer the specialist's Dice on it is to that value: the weight v falls as a Gaussian as wide as the value is
   uncertain. Its errors on such views are of the kind that it makes on another patient.

On these views the generalists are asked as in training, and their trusts are the shares ω of their corrections that
together bring the specialist's f nearest to the truth y: ω minimises Σ v (y - f - Σ_g ω_g w_g (F̄_g - f))², each ω ≥ 0 and
all together at most 1. A share below 0.1 counts as 0, and where taking the shares does not raise the mean Dice, every
trust is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp

import numpy as np
import torch
from scipy.optimize import nnls

from ..cohort.augmentation import IntensityAugmentation, SpatialAugmentation, look_up
from ..cohort.patches import PreparedCase
from ..cohort.volume import triple
from ..specialist.overlap import dice_by_class
from ..specialist.pieces import to_classes
from ..specialist.specialist import Specialist

#: A specialist agrees with itself more than with the truth: the true error is so many times what it differs from itself
#: (1.6 to 2.2 in six specialists of left atrium, 1.2 in one of hippocampus; tuning split).
_ERROR_RATIO = 1.5
#: How strongly labelled cases are deformed, in multiples of the training's augmentation; and how often each.
_STRENGTHS, _DRAWS = (1.0, 2.0, 3.0), 4
#: How uncertain the expected Dice is: the standard deviation of the Gaussian by which views count; and the least that is
#: worth the asking.
_UNCERTAIN, _LEAST_COUNT = 0.1, 0.05
#: A smaller share is not worth the asking; what it gains on so few views, nonsense gains now and then.
_LEAST_SHARE = 0.1
#: Unlabelled cases on which the error to be expected is measured; each takes the specialist twice.
_EXPECTED_ON = 8


@dataclass(frozen=True)
class View:
    """A labelled case, deformed and disturbed, with what the specialist makes of it.

    Attributes:
        key: Names the case and the deformation; the same view has the same key all through a training.
        image: (channels, z, y, x) normalised.
        probabilities: (classes with background, z, y, x) the specialist's.
        truth: (z, y, x) class indices.
        case: The case it was made of, undeformed.
        dice: The specialist's mean Dice over the classes.
        counts: How much the view counts, 0 to 1, see :func:`hard_views`.
    """

    key: str
    image: torch.Tensor
    probabilities: torch.Tensor
    truth: torch.Tensor
    case: PreparedCase
    dice: float
    counts: float = 1.0


#: Returns a generalist's mean answer (classes with background, z, y, x) and its confidence (z, y, x) for a view, without
#: NaN, or None where it could not be asked.
Ask = Callable[[View], tuple[torch.Tensor, torch.Tensor] | None]


def expected_dice(specialist: Specialist, cases: Sequence[PreparedCase], seed: int) -> float | None:
    """Estimate the specialist's Dice on unlabelled cases without their labels; None where it sees nothing on any.

    Args:
        specialist: As it is now.
        cases: Unlabelled cases.
        seed: Fixes the deformations.
    """
    agreements = []
    for number, case in enumerate(cases):
        random = np.random.default_rng((seed, number))
        shape = triple(case.image.shape[1:], int)
        coordinates = _centred(SpatialAugmentation(shape), shape, random).to(case.image.device)
        plain = _segment(specialist, case.image)
        deformed = _segment(specialist, look_up(case.image, coordinates))
        moved = look_up(plain[None], coordinates, nearest=True, outside=0.0)[0].round()
        if (dice := _mean_dice(deformed, moved, len(specialist.classes))) is not None:
            agreements.append(dice)
    return max(0.0, 1 - _ERROR_RATIO * (1 - float(np.mean(agreements)))) if agreements else None


def hard_views(specialist: Specialist, cases: Sequence[PreparedCase], expected: float, seed: int) -> list[View]:
    """Return deformed labelled cases, which count the more, the nearer the specialist's Dice on them is to ``expected``."""
    views = []
    for draw in range(_DRAWS):
        case = cases[draw % len(cases)]
        assert case.label is not None
        shape = triple(case.image.shape[1:], int)
        for strength in _STRENGTHS:
            random = np.random.default_rng((seed, draw, round(strength * 10)))
            coordinates = _centred(SpatialAugmentation(shape, strength), shape, random).to(case.image.device)
            image = IntensityAugmentation(strength)(look_up(case.image, coordinates), random)
            truth = look_up(case.label, coordinates, nearest=True, outside=0.0)[0].round()
            probabilities = specialist.probabilities(image)
            segmented = to_classes(probabilities, specialist.plan.centroids)
            dice = _mean_dice(segmented, truth, len(specialist.classes))
            if dice is not None and dice > 0:
                key = f"{case.case.name}/{draw}/{strength}"
                views.append(View(key, image, probabilities, truth, case, dice))
    counts = _counts([view.dice for view in views], expected)
    return [replace(view, counts=count) for view, count in zip(views, counts, strict=True) if count >= _LEAST_COUNT]


def _counts(dice: Sequence[float], expected: float) -> list[float]:
    """Return how much views of these Dice count: by a Gaussian around the expected one, of which the nearest gets 1."""
    distances = [((one - expected) / _UNCERTAIN) ** 2 for one in dice]
    return [exp((min(distances) - distance) / 2) for distance in distances]


def trust_on(views: Sequence[View], ask: Mapping[str, Ask], classes: int) -> dict[str, float]:
    """Return the trust in each generalist, 0 to 1, and at most 1 all together.

    Args:
        views: What :func:`hard_views` returned.
        ask: Asks each generalist about a view, by name.
        classes: Number of structures.
    """
    names = list(ask)
    products, along = np.zeros((len(names), len(names))), np.zeros(len(names))
    asked: list[tuple[View, list[torch.Tensor]]] = []
    for view in views:
        answers = [one(view) for one in ask.values()]
        corrections = [_correction(view, answer) for answer in answers]
        error = torch.stack([view.truth == index for index in range(classes + 1)]).float() - view.probabilities
        for row, mine in enumerate(corrections):
            along[row] += view.counts * float((mine * error).sum())
            for column, other in enumerate(corrections):
                products[row, column] += view.counts * float((mine * other).sum())
        if any(answer is not None for answer in answers):
            asked.append((view, corrections))
    shares = _shares(products, along)
    shares[shares < _LEAST_SHARE] = 0.0
    gains = [view.counts * _gain(view, corrections, shares, classes) for view, corrections in asked]
    if sum(gains) <= 0:
        shares = np.zeros_like(shares)
    return dict(zip(names, map(float, shares), strict=True))


def _correction(view: View, answer: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """Return w (F̄ - f), 0 where there was no answer."""
    if answer is None:
        return torch.zeros_like(view.probabilities)
    mean, weight = answer
    return weight * (mean - view.probabilities)


def _shares(products: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Return the shares that fit best by non-negative least squares, of the corrections' products and those with the error."""
    values, vectors = np.linalg.eigh(products)
    roots = np.sqrt(values.clip(min=0.0))
    told = roots > 1e-6 * max(1.0, float(roots.max(initial=0.0)))  # Two that always say the same tell nothing apart.
    if not told.any():
        return np.zeros_like(along)
    shares = nnls(roots[told, None] * vectors.T[told], vectors.T[told] @ along / roots[told])[0]
    return np.asarray(shares / max(1.0, float(shares.sum())))


def choose_unlabeled(names: Sequence[str], seed: int) -> list[str]:
    """Choose the unlabelled cases on which the error to be expected is measured."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[index] for index in order[:_EXPECTED_ON]]


def _gain(view: View, corrections: Sequence[torch.Tensor], shares: np.ndarray, classes: int) -> float:
    corrected = view.probabilities + sum(share * one for share, one in zip(shares.tolist(), corrections, strict=True))
    before = _mean_dice(view.probabilities.max(dim=0).indices, view.truth, classes)
    after = _mean_dice(corrected.max(dim=0).indices, view.truth, classes)
    return (after or 0.0) - (before or 0.0)


def _segment(specialist: Specialist, image: torch.Tensor) -> torch.Tensor:
    return to_classes(specialist.probabilities(image), specialist.plan.centroids)


def _centred(spatial: SpatialAugmentation, shape: tuple[int, int, int], random: np.random.Generator) -> torch.Tensor:
    return spatial.coordinates([(n - 1) / 2 for n in shape], random)


def _mean_dice(first: torch.Tensor, second: torch.Tensor, classes: int) -> float | None:
    """Return the mean Dice over the classes that either shows, None where neither shows any."""
    scores = [dice for dice in dice_by_class(first, second, classes) if dice is not None]
    return float(np.mean(scores)) if scores else None
