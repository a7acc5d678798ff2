"""How far to trust a generalist as a whole: what its answers would gain on cases like the unlabelled ones.

The specialist has memorised its few labelled cases, so prompts made there would be near perfect and flatter whoever
answers them. Two measurements keep trust honest (both ours):

1. *The error to be expected.* On unlabelled cases, the specialist's segmentation is compared with the one that it
   makes of the same case strongly deformed. Their Dice is about its true Dice there.
2. *Views that are as hard.* Labelled cases are deformed and disturbed more and more, until the specialist's Dice on
   them has fallen to that value. Its errors there are of the kind that it makes on another patient.

On these views the generalist is asked as in training, and its trust is the share ω of its correction F̄ - f that
brings the specialist's f nearest to the truth y: ω = Σ w (F̄ - f)(y - f) / Σ w (F̄ - f)², in 0..1. Where taking that
share does not raise the Dice, the trust is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..cohort.augmentation import IntensityAugmentation, SpatialAugmentation, look_up
from ..cohort.patches import PreparedCase
from ..cohort.volume import triple
from ..specialist.inference import to_classes
from ..specialist.specialist import Specialist

#: How strongly labelled cases are deformed, in multiples of the training's augmentation; and how often each.
_STRENGTHS, _DRAWS = (1.0, 2.0, 3.0), 4
#: Views that are asked about, those whose Dice is nearest to the expected one.
_VIEWS = 6
#: Unlabelled cases on which the error to be expected is measured.
_EXPECTED_ON = 4
#: A gain in Dice below this is chance.
_LEAST_GAIN = 0.005


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
    """

    key: str
    image: torch.Tensor
    probabilities: torch.Tensor
    truth: torch.Tensor
    case: PreparedCase
    dice: float


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
    return float(np.mean(agreements)) if agreements else None


def hard_views(specialist: Specialist, cases: Sequence[PreparedCase], expected: float, seed: int) -> list[View]:
    """Return deformed labelled cases on which the specialist's Dice is about ``expected``."""
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
            segmented = to_classes(probabilities, specialist.plan.one_piece)
            dice = _mean_dice(segmented, truth, len(specialist.classes))
            if dice is not None and dice > 0:
                key = f"{case.case.name}/{draw}/{strength}"
                views.append(View(key, image, probabilities, truth, case, dice))
    return sorted(views, key=lambda view: abs(view.dice - expected))[:_VIEWS]


def trust_on(
    views: Sequence[View], ask: Callable[[View], tuple[torch.Tensor, torch.Tensor] | None], classes: int
) -> float:
    """Return the trust in a generalist, 0 to 1.

    Args:
        views: What :func:`hard_views` returned.
        ask: Returns the generalist's mean answer (classes with background, z, y, x) and its confidence (z, y, x) for
            a view, without NaN, or None where it could not be asked.
        classes: Number of structures.
    """
    along, across = 0.0, 0.0
    asked = []
    for view in views:
        if (answer := ask(view)) is None:
            continue
        mean, weight = answer
        truth = torch.stack([view.truth == index for index in range(1, classes + 1)]).float()
        correction, error = mean[1:] - view.probabilities[1:], truth - view.probabilities[1:]
        along += float((weight * correction * error).sum())
        across += float((weight * correction.square()).sum())
        asked.append((view, mean, weight))
    if across <= 0:
        return 0.0
    share = min(1.0, max(0.0, along / across))
    gains = [_gain(view, mean, weight, share, classes) for view, mean, weight in asked]
    return share if np.mean(gains) >= _LEAST_GAIN else 0.0


def choose_unlabeled(names: Sequence[str], seed: int) -> list[str]:
    """Choose the unlabelled cases on which the error to be expected is measured."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[index] for index in order[:_EXPECTED_ON]]


def _gain(view: View, mean: torch.Tensor, weight: torch.Tensor, share: float, classes: int) -> float:
    mixed = view.probabilities + share * weight * (mean - view.probabilities)
    before = _mean_dice(view.probabilities.max(dim=0).indices, view.truth, classes)
    after = _mean_dice(mixed.max(dim=0).indices, view.truth, classes)
    return (after or 0.0) - (before or 0.0)


def _segment(specialist: Specialist, image: torch.Tensor) -> torch.Tensor:
    return to_classes(specialist.probabilities(image), specialist.plan.one_piece)


def _centred(spatial: SpatialAugmentation, shape: tuple[int, int, int], random: np.random.Generator) -> torch.Tensor:
    return spatial.coordinates([(n - 1) / 2 for n in shape], random)


def _mean_dice(first: torch.Tensor, second: torch.Tensor, classes: int) -> float | None:
    """Return the mean Dice over the classes that either shows, None where neither shows any."""
    scores = []
    for index in range(1, classes + 1):
        one, other = first == index, second == index
        size = int(one.sum()) + int(other.sum())
        if size:
            scores.append(2 * int((one & other).sum()) / size)
    return float(np.mean(scores)) if scores else None
