"""What the network is shown: the region's grey values and the prompts, as channels on one grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool3d, max_pool3d

#: Channels at full resolution: image, field of view, mask, box, positive points, negative points, likeness. They are
#: gathered in blocks of 2 × 2 × 2 voxels; geodesic maps at half the resolution follow: from all that is meant, from all that is
#: excluded, which of them is nearer, and from the positive and the negative points alone.
CHANNELS = 7 * 8 + 5
#: The first of the mask's channels.
FIRST_MASK = 2 * 8
#: The channels of the geodesic maps of the positive and of the negative points.
NEAR_POSITIVE, NEAR_NEGATIVE = 7 * 8 + 3, 7 * 8 + 4
#: Points are drawn as balls that fade with this standard deviation, in voxels.
_POINT_SPREAD = 1.5
#: How dearly a path pays for a change of grey values by one standard deviation, and for each step.
_EDGE_COST, _STEP_COST = 3.0, 0.03
#: Sweeps along each axis, there and back, by which paths are found.
_SWEEPS = 3
#: Least variance of what looks alike.
_LEAST_VARIANCE = 0.05
#: Grey values are clipped at this many standard deviations.
_CLIP = 4.0


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts on the region's grid, one set for each sample; indices are (z, y, x) and may be fractional.

    Attributes:
        mask: (sample, z, y, x) probability of the structure, 0.5 where nothing is known.
        points: (sample, point, 3) indices.
        labels: (sample, point) 1 inside the structure, 0 outside it, -1 no point.
        boxes: (sample, 2, 3) least and greatest indices of the structure; NaN where there is none.
    """

    mask: torch.Tensor
    points: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor


def normalized(images: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return (sample, z, y, x) images with zero mean and unit spread over the field of view, and 0 outside it."""
    count = known.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    mean = (images * known).sum(dim=(1, 2, 3), keepdim=True) / count
    centred = (images - mean) * known
    spread = (centred.square().sum(dim=(1, 2, 3), keepdim=True) / count).sqrt()
    return (centred / spread.clamp(min=1e-6)).clamp(-_CLIP, _CLIP)


def encode(images: torch.Tensor, known: torch.Tensor, prompts: EncodedPrompts) -> torch.Tensor:
    """Return the network's input (sample, CHANNELS, z/2, y/2, x/2).

    Beside image and prompts it holds what would take a network long to learn: how much each voxel looks like those that the
    prompts mean, and how near it lies to them on a way that crosses no edges (geodesic maps as in DeepIGeoS,
    Wang et al., IEEE TPAMI 2019; ours are products of affinities, found by sweeps at half the resolution).

    Args:
        images: (sample, z, y, x) normalised; sizes even.
        known: (sample, z, y, x) whether a voxel lies in the field of view.
        prompts: On the same grid.
    """
    positive, negative = (_draw_points(prompts, wanted, images.shape[1:]) for wanted in (1, 0))
    box = _draw_boxes(prompts.boxes, images.shape[1:])
    points = [max_pool3d(values[:, None], 2)[:, 0] for values in (positive, negative)]
    inside, outside = _seeds(prompts, box, *points)
    coarse = avg_pool3d(images[:, None], 2)[:, 0]
    likeness = _likeness(images, coarse, inside)
    near, beyond, *from_points = _geodesic(coarse, torch.stack([inside, outside, *points])).unbind(0)
    full = torch.stack([images, known.float(), prompts.mask * 2 - 1, box, positive, negative, likeness], dim=1)
    half = torch.stack([near, beyond, (near - beyond) / (near + beyond + 1e-3), *from_points], dim=1)
    return torch.cat([_gathered(full), half], dim=1)


def spread(x: torch.Tensor) -> torch.Tensor:
    """Return (sample, z, y, x) of (sample, 8, z/2, y/2, x/2): the channels are the voxels of blocks of 2 × 2 × 2."""
    b, _, z, y, x_ = x.shape
    return x.reshape(b, 2, 2, 2, z, y, x_).permute(0, 4, 1, 5, 2, 6, 3).reshape(b, 2 * z, 2 * y, 2 * x_)


def _gathered(x: torch.Tensor) -> torch.Tensor:
    """Return (sample, 8 channels, z/2, y/2, x/2): each block of voxels as channels, so that no detail is lost."""
    b, c, z, y, x_ = x.shape
    x = x.view(b, c, z // 2, 2, y // 2, 2, x_ // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * 8, z // 2, y // 2, x_ // 2)


def _seeds(
    prompts: EncodedPrompts, box: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how surely the prompts mean each voxel, and how surely they exclude it, in 0..1, at half the resolution.

    Points say it; so do the middle of a box and what lies beyond it, and a mask where it is sure all around. A point
    overrules the others. Points are given at half the resolution.
    """
    box = max_pool3d(box[:, None], 2)[:, 0]
    mask = avg_pool3d(prompts.mask[:, None], 2)
    around = avg_pool3d(mask, 5, stride=1, padding=2, count_include_pad=False)[:, 0]
    inside, outside = ((around - 0.75) * 4).clamp(0, 1), ((0.2 - around) * 5).clamp(0, 1)
    has_box = box.amax(dim=(1, 2, 3), keepdim=True) > 0
    core = _draw_boxes(_cores(prompts.boxes) / 2 - 0.25, box.shape[1:])
    beyond = torch.where(has_box, 1 - max_pool3d(box[:, None], 3, 1, 1)[:, 0], 0.0)
    inside, outside = torch.maximum(inside, core), torch.maximum(outside, beyond)
    return torch.maximum(positive, inside * (1 - negative)), torch.maximum(negative, outside * (1 - positive))


def _cores(boxes: torch.Tensor) -> torch.Tensor:
    """Return the boxes (sample, 2, 3) of the middle third of each."""
    middle = boxes.mean(dim=1, keepdim=True)
    return middle + (boxes - middle) / 3


def _likeness(images: torch.Tensor, coarse: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return in 0..1 how much each voxel (sample, z, y, x) has the grey values of the seeds."""
    axes = (1, 2, 3)
    weight = inside + 1e-6
    total = weight.sum(axes, keepdim=True)
    mean = (coarse * weight).sum(axes, keepdim=True) / total
    variance = ((coarse - mean).square() * weight).sum(axes, keepdim=True) / total
    return torch.exp(-(images - mean).square() / (2 * (variance + _LEAST_VARIANCE)))


def _geodesic(image: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Return (kind, sample, z, y, x): the greatest product of affinities along any way from a seed, times how sure it is."""
    values = seeds.clone()
    affinities = [torch.exp(-_EDGE_COST * image.diff(dim=a).abs() - _STEP_COST) for a in (1, 2, 3)]
    for _ in range(_SWEEPS):
        for axis, affinity in zip((2, 3, 4), affinities, strict=True):
            lines, steps = values.unbind(axis), affinity.unbind(axis - 1)
            for i in range(1, len(lines)):
                torch.maximum(lines[i], lines[i - 1] * steps[i - 1], out=lines[i])
            for i in range(len(lines) - 2, -1, -1):
                torch.maximum(lines[i], lines[i + 1] * steps[i], out=lines[i])
    return values


def _axes(shape: torch.Size, like: torch.Tensor) -> list[torch.Tensor]:
    return [torch.arange(n, device=like.device, dtype=torch.float32) for n in shape]


def _draw_points(prompts: EncodedPrompts, wanted: int, shape: torch.Size) -> torch.Tensor:
    points = prompts.points.float()
    weight = (prompts.labels == wanted).float()
    axes = _axes(shape, points)
    z, y, x = (
        torch.exp(-((axis - points[:, :, a, None]) ** 2) / (2 * _POINT_SPREAD**2)) for a, axis in enumerate(axes)
    )
    return torch.einsum("bpz,bpy,bpx->bzyx", z * weight[..., None], y, x).clamp(max=1)


def _draw_boxes(boxes: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    axes = _axes(shape, boxes)
    # A comparison with NaN is false, so that where there is no box nothing lies in it.
    z, y, x = (
        ((axis >= boxes[:, 0, a, None] - 0.5) & (axis <= boxes[:, 1, a, None] + 0.5)).float()
        for a, axis in enumerate(axes)
    )
    return z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]
