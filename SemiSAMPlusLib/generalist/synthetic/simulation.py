"""Prompts as users give them, click by click, and as a weak specialist makes them: from a mask that is wrong."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool3d, interpolate

from ...synthesis.appearance import diffuse
from ...synthesis.shapes import choose, smooth_noise, uniform
from .encoding import EncodedPrompts
from .synthesis import Samples

#: Points that a set can hold: those of a specialist, 10 inside and 30 outside, and some clicks.
INSIDE_POINTS, OUTSIDE_POINTS, CLICKS = 10, 30, 12
POINTS = INSIDE_POINTS + OUTSIDE_POINTS + CLICKS
#: How often a sample is first asked for as a specialist asks.
_SPECIALIST = 0.4
#: A specialist's mask that agrees less with the structure is replaced by a better one.
_LEAST_DICE = 0.4
#: Depths beyond this many voxels are all alike.
_DEEPEST = 10


def first_prompts(samples: Samples, random: torch.Generator) -> EncodedPrompts:
    """Return what is asked first: more often as a user asks (clicks, a box), else as a specialist does."""
    user, specialist = _user_prompts(samples, random), specialist_prompts(samples, random)
    by_specialist = choose((len(samples.images),), _SPECIALIST, random)
    return _either(by_specialist, specialist, user)


def next_prompts(
    samples: Samples, prompts: EncodedPrompts, answers: torch.Tensor, random: torch.Generator
) -> EncodedPrompts:
    """Return what is asked after an answer: a click where it is most wrong, with the answer as mask; or anew, by a specialist.

    Args:
        samples: What is asked about.
        prompts: What was asked before.
        answers: (sample, z, y, x) probabilities that were answered.
        random: Where chance comes from.
    """
    count = len(answers)
    predicted = answers > 0.5
    missing, extra = samples.targets & ~predicted, predicted & ~samples.targets & samples.known
    points, labels = prompts.points, _true_labels(samples, prompts)
    for _ in range(int(torch.randint(1, 3, (), generator=random))):
        lacks, place = _worst(missing, extra, random)
        points, labels = _with_point(points, labels, place, lacks)
        # The next click looks elsewhere.
        near = _ball(place, missing.shape[1:], 6.0)
        missing, extra = missing & ~near, extra & ~near
    forgets = choose((count, 1, 1, 1), 0.15, random)
    mask = torch.where(forgets, torch.full_like(answers, 0.5), answers)
    corrected = EncodedPrompts(mask, points, labels, prompts.boxes)
    return _either(choose((count,), 0.2, random), specialist_prompts(samples, random), corrected)


def specialist_prompts(samples: Samples, random: torch.Generator) -> EncodedPrompts:
    """Return prompts made from a wrong mask: the mask, points deep inside and well outside of it, and its box."""
    count = len(samples.images)
    mask = wrong_masks(samples, random)
    inside = mask > 0.5
    depth, distance = depths(inside), depths(~inside)
    greatest = depth.amax(dim=(1, 2, 3), keepdim=True)
    # As collaboration/prompts.py places them.
    positive = (mask > 0.8) & (depth >= 0.6 * greatest) & (greatest > 0)
    near = (distance >= 0.6 * greatest) & (distance <= (2.5 * greatest).clamp(max=_DEEPEST))
    negative = (mask < 0.2) & near & samples.known & (greatest > 0)
    points, labels = _no_points(count)
    with_points = choose((count,), 0.7, random)
    fewer = torch.rand((count,), generator=random)
    for start, number, candidates, label in (
        (0, INSIDE_POINTS, positive, 1),
        (INSIDE_POINTS, OUTSIDE_POINTS, negative, 0),
    ):
        places, found = _random_voxels(candidates, number, random)
        wanted = torch.arange(number)[None] < (0.3 + 0.7 * fewer[:, None]) * number
        points[:, start : start + number] = places
        labels[:, start : start + number] = torch.where(with_points[:, None] & found & wanted, label, -1)
    boxes = _boxes(inside, choose((count,), 0.6, random))
    return EncodedPrompts(mask, points, labels, boxes)


def wrong_masks(samples: Samples, random: torch.Generator) -> torch.Tensor:
    """Return (sample, z, y, x) probabilities of masks that are wrong as a weak specialist's are.

    The structure is blurred, which takes thin parts, and thresholded with a smooth random error. Then, each now and then:
    it is shifted, cut by a plane, a ball is taken out or added, it leaks into what looks alike or into a neighbour.
    """
    targets, size = samples.targets, samples.targets.shape[-1]
    count, half = len(targets), size // 2
    field = avg_pool3d(targets[:, None].float(), 2)[:, 0]
    share = uniform((count, 1, 1, 1), 0.05, 0.3, random)
    for axis in (1, 2, 3):
        for _ in range(int(torch.randint(1, 3, (), generator=random))):
            field = diffuse(field, axis, share)
    field = field * 2 - 1
    mild = field + 0.3 * smooth_noise(count, 1, 6, half, random)[:, 0]
    # How bad a specialist is: most errors are small.
    badness = uniform((count, 1, 1, 1), 0.0, 1.0, random) ** 1.5
    knots = int(torch.randint(4, 9, (), generator=random))
    field = field + badness * 0.75 * smooth_noise(count, 1, knots, half, random)[:, 0]
    field = field + badness * uniform((count, 1, 1, 1), -0.6, 0.6, random)
    axis_index = torch.arange(half, dtype=torch.float32)
    place = torch.stack(torch.meshgrid(axis_index, axis_index, axis_index, indexing="ij"))[None]
    within = _random_voxels(targets, 2, random)[0].float() / 2
    # A plane through the structure, beyond which nothing is seen.
    normal = torch.nn.functional.normalize(torch.randn((count, 3), generator=random), dim=1)
    beyond = ((place - within[:, 0].view(count, 3, 1, 1, 1)) * normal.view(count, 3, 1, 1, 1)).sum(dim=1)
    beyond = beyond - uniform((count, 1, 1, 1), 0.0, 0.15, random) * half
    cut = choose((count, 1, 1, 1), 0.2, random)
    field = torch.where(cut, torch.minimum(field, 1 - beyond), field)
    # A ball taken out, and two added: beside the structure and anywhere.
    anywhere = uniform((count, 3), 0, half, random)
    beside = within[:, 1] + torch.randn((count, 3), generator=random) * 0.15 * half
    for centre, sign, often in ((within[:, 1], -1.0, 0.2), (beside, 1.0, 0.25), (anywhere, 1.0, 0.2)):
        radius = uniform((count, 1, 1, 1), 0.05, 0.25, random) * half
        apart = (place - centre.view(count, 3, 1, 1, 1)).square().sum(dim=1).sqrt()
        ball = (1 - apart / radius).clamp(min=-1) * 2
        ball = torch.where(choose((count, 1, 1, 1), often, random), ball, -2.0)
        field = torch.minimum(field, -ball) if sign < 0 else torch.maximum(field, ball)
    field = torch.maximum(field, _leaks(samples, random))
    shift = torch.randint(-3, 4, (count, 3), generator=random) * choose((count, 1), 0.3, random)
    field = torch.stack([f.roll(tuple(s), (0, 1, 2)) for f, s in zip(field, shift.tolist(), strict=True)])
    # What has little to do with the structure asks for something else, and would teach nothing.
    seen, truth = field > 0, targets[:, ::2, ::2, ::2]
    axes = (1, 2, 3)
    share = 2 * (seen & truth).sum(axes) / (seen.sum(axes) + truth.sum(axes)).clamp(min=1)
    field = torch.where((share < _LEAST_DICE).view(-1, 1, 1, 1), mild, field)
    sharpness = torch.exp(uniform((count, 1, 1, 1), 1.0, 3.0, random))
    mask = torch.sigmoid(interpolate((field * sharpness)[:, None], (size,) * 3, mode="trilinear")[:, 0])
    return torch.where(samples.known, mask, 0.0)


def _leaks(samples: Samples, random: torch.Generator) -> torch.Tensor:
    """Return (sample, z, y, x) at half resolution, above 0 where a specialist takes something else for the structure.

    One in five takes one neighbour, whole or in part; one in eight whatever looks alike.
    """
    count = len(samples.images)
    labels, images = samples.labels[:, ::2, ::2, ::2], samples.images[:, ::2, ::2, ::2]
    targets, known = samples.targets[:, ::2, ::2, ::2], samples.known[:, ::2, ::2, ::2]
    around = depths(~targets)
    around = (around > 0) & (around <= 2) & known
    places, found = _random_voxels(around, 1, random)
    index = torch.arange(count)
    z, y, x = places[:, 0].long().T
    neighbour = labels == labels[index, z, y, x].view(-1, 1, 1, 1)
    apart = _apart(places[:, 0], labels.shape[1:])
    reach = uniform((count, 1, 1, 1), 0.1, 0.6, random) * labels.shape[-1]
    leak = neighbour & (apart < reach) & (choose((count,), 0.2, random) & found[:, 0]).view(-1, 1, 1, 1)
    mean = (images * targets).sum(dim=(1, 2, 3)) / targets.sum(dim=(1, 2, 3)).clamp(min=1)
    alike = (images - mean.view(-1, 1, 1, 1)).abs() < uniform((count, 1, 1, 1), 0.1, 0.4, random)
    alike = alike & choose((count, 1, 1, 1), 0.12, random) & (apart < reach)
    soft = (leak | alike).float() * 2 - 1
    for axis in (1, 2, 3):
        soft = diffuse(soft, axis, torch.full((1, 1, 1, 1), 0.25))
    return soft


def depths(mask: torch.Tensor) -> torch.Tensor:
    """Return (sample, z, y, x) int8 how many steps along the axes lead out of the mask, at most ``_DEEPEST``; 0 outside it."""
    depth = mask.to(torch.int8)
    left = mask
    for _ in range(_DEEPEST - 1):
        left = _eroded(left)
        depth = depth + left
    return depth


def _eroded(mask: torch.Tensor) -> torch.Tensor:
    result = mask.clone()
    for axis in (1, 2, 3):
        n = mask.shape[axis]
        result.narrow(axis, 0, n - 1).logical_and_(mask.narrow(axis, 1, n - 1))
        result.narrow(axis, 1, n - 1).logical_and_(mask.narrow(axis, 0, n - 1))
    return result


def _user_prompts(samples: Samples, random: torch.Generator) -> EncodedPrompts:
    """Return one click or a few, or a box, or both; the first click lies inside, often in the middle."""
    count = len(samples.images)
    points, labels = _no_points(count)
    depth = depths(samples.targets)
    greatest = depth.amax(dim=(1, 2, 3), keepdim=True)
    middle = choose((count, 1, 1, 1), 0.6, random)
    inside = samples.targets & (~middle | (depth >= 0.7 * greatest))
    outside = depths(~samples.targets)
    outside = (outside > 1) & (outside <= 7) & samples.known
    how = torch.rand((count,), generator=random)
    clicks = torch.where(how < 0.45, 1, torch.where(how < 0.7, torch.randint(2, 5, (count,), generator=random), 0))
    clicks = torch.where(how >= 0.85, 1, clicks)
    positive, found = _random_voxels(inside, 4, random)
    negative, has_outside = _random_voxels(outside, 4, random)
    is_positive = choose((count, 4), 0.6, random) & found | ~has_outside
    is_positive[:, 0] = True
    points[:, :4] = torch.where(is_positive[..., None], positive, negative)
    labels[:, :4] = torch.where(torch.arange(4)[None] < clicks[:, None], is_positive.long(), -1)
    boxes = _boxes(samples.targets, how >= 0.7)
    boxes = boxes + torch.randn(boxes.shape, generator=random) * 1.0
    mask = torch.full_like(samples.images, 0.5)
    return EncodedPrompts(mask, points, labels, boxes)


def _worst(missing: torch.Tensor, extra: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whether a click asks for more (sample,), and where it is put (sample, 3): deep in the deepest error."""
    depth_missing, depth_extra = depths(missing), depths(extra)
    most_missing, most_extra = (depth.amax(dim=(1, 2, 3)) for depth in (depth_missing, depth_extra))
    lacks = most_missing >= most_extra
    depth = torch.where(lacks.view(-1, 1, 1, 1), depth_missing, depth_extra)
    deepest = torch.maximum(most_missing, most_extra).view(-1, 1, 1, 1)
    place, found = _random_voxels((depth >= 0.75 * deepest) & (depth > 0), 1, random)
    return torch.where(found[:, 0], lacks.long(), -1), place[:, 0]


def _true_labels(samples: Samples, prompts: EncodedPrompts) -> torch.Tensor:
    """Return the points' labels without those that are wrong: who corrects an answer does not say what is not so."""
    size = samples.targets.shape[-1]
    z, y, x = prompts.points.round().long().clamp(0, size - 1).unbind(-1)
    truth = samples.targets[torch.arange(len(z))[:, None], z, y, x]
    return torch.where(truth.long() == prompts.labels, prompts.labels, -1)


def _with_point(
    points: torch.Tensor, labels: torch.Tensor, place: torch.Tensor, label: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a point into each sample's first free place, or into the last one."""
    free = (labels == -1).long().argmax(dim=1)
    free = torch.where((labels == -1).any(dim=1), free, POINTS - 1)
    index = torch.arange(len(points))
    points, labels = points.clone(), labels.clone()
    points[index, free], labels[index, free] = place, label
    return points, labels


def _no_points(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros((count, POINTS, 3)), torch.full((count, POINTS), -1)


def _random_voxels(mask: torch.Tensor, number: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sample, number, 3) indices of voxels of the mask, and (sample, number) whether there are any."""
    places = torch.zeros((len(mask), number, 3))
    found = torch.zeros((len(mask), number), dtype=torch.bool)
    for index, one in enumerate(mask):
        candidates = torch.nonzero(one)
        if len(candidates):
            drawn = torch.randint(len(candidates), (number,), generator=random)
            places[index], found[index] = candidates[drawn].float(), True
    return places, found


def _boxes(mask: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    boxes = torch.full((len(mask), 2, 3), torch.nan)
    for index in torch.nonzero(wanted)[:, 0].tolist():
        for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
            extent = torch.nonzero(mask[index].any(dim=others[1]).any(dim=others[0]))
            if len(extent):
                boxes[index, :, axis] = torch.stack([extent[0, 0], extent[-1, 0]]).float()
    return boxes


def _apart(place: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return (sample, z, y, x) how far voxels lie from a place (sample, 3)."""
    z, y, x = ((torch.arange(n) - place[:, a, None]) ** 2 for a, n in enumerate(shape))
    return (z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]).sqrt()


def _ball(place: torch.Tensor, shape: torch.Size, radius: float) -> torch.Tensor:
    return _apart(place, shape) < radius


def _either(first: torch.Tensor, ones: EncodedPrompts, others: EncodedPrompts) -> EncodedPrompts:
    """Return, sample by sample, those of ``ones`` where ``first`` is true, of ``others`` elsewhere."""

    def pick(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.where(first.view(-1, *(1,) * (one.dim() - 1)), one, other)

    return EncodedPrompts(
        pick(ones.mask, others.mask),
        pick(ones.points, others.points),
        pick(ones.labels, others.labels),
        pick(ones.boxes, others.boxes),
    )
