"""Endless label maps: cells, blobs, ellipsoids, tubes, trees, shells, chambers with vessels; nested, touching, cut, deformed.

Shapes are implicit: each is the set where a function of place is negative, and places are bent by a smooth random
displacement first. Functions are computed for a whole batch of volumes on a grid of half the resolution, then interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

#: Objects in a volume, and round-ended cones that an object is made of.
OBJECTS, CONES = 8, 6
#: Cells that fill the space between the objects.
CELLS = 6
#: Labels: cells come first, then the objects, what is cut off from them, and their walls.
FIRST_OBJECT = CELLS
FIRST_REST = FIRST_OBJECT + OBJECTS
FIRST_WALL = FIRST_REST + OBJECTS
LABELS = FIRST_WALL + OBJECTS

#: Kinds of object and how often each is drawn.
_KINDS = {"ellipsoid": 2.0, "blob": 3.0, "tube": 2.0, "tree": 1.0, "chamber": 3.0}


@dataclass(frozen=True)
class LabelMaps:
    """A batch of label maps.

    Attributes:
        labels: (volume, z, y, x) label of each voxel, below :data:`LABELS`.
        parents: (volume, object) the object that each object lies within, -1 where none.
    """

    labels: torch.Tensor
    parents: torch.Tensor


def draw_label_maps(count: int, size: int, random: torch.Generator) -> LabelMaps:
    """Draw label maps.

    Args:
        count: How many.
        size: Voxels along each side; even.
        random: Where chance comes from.
    """
    half = size // 2
    places = _bent_places(count, half, random)
    cells = _cells(places, random)
    objects, centres, parents = _objects(places, random)
    cells, objects = (interpolate(values, (size,) * 3, mode="trilinear") for values in (cells, objects))
    labels = _least(cells)
    labels = _compose(labels, objects, centres, random)
    return LabelMaps(labels, parents)


def _least(values: torch.Tensor) -> torch.Tensor:
    """Return the index of the least along the second axis; one by one, which is far faster than ``argmin`` across memory."""
    least, index = values[:, 0], torch.zeros_like(values[:, 0], dtype=torch.long)
    for k in range(1, values.shape[1]):
        index.masked_fill_(values[:, k] < least, k)
        least = torch.minimum(least, values[:, k])
    return index


def smooth_noise(count: int, channels: int, knots: int, size: int, random: torch.Generator) -> torch.Tensor:
    """Return noise (count, channels, size, size, size) of about unit spread, smooth over ``size / knots`` voxels."""
    values = torch.randn((count, channels, *(knots,) * 3), generator=random)
    # Interpolation between knots averages, which takes about half of the spread.
    return interpolate(values, (size,) * 3, mode="trilinear", align_corners=True) * 1.6


def uniform(shape: tuple[int, ...], low: float, high: float, random: torch.Generator) -> torch.Tensor:
    """Return numbers drawn evenly between ``low`` and ``high``."""
    return torch.rand(shape, generator=random) * (high - low) + low


def choose(shape: tuple[int, ...], probability: float, random: torch.Generator) -> torch.Tensor:
    """Return booleans that are true with ``probability``."""
    return torch.rand(shape, generator=random) < probability


def _bent_places(count: int, size: int, random: torch.Generator) -> torch.Tensor:
    """Return (count, 3, z, y, x) places in -1..1 that are displaced smoothly at two scales."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))[None]
    coarse, fine = (uniform((count, 1, 1, 1, 1), 0, most, random) for most in (0.14, 0.06))
    bend = smooth_noise(count, 3, 4, size, random) * coarse + smooth_noise(count, 3, 9, size, random) * fine
    return places + bend


def _cells(places: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Return (count, CELLS, z, y, x), least in whose cell a place lies: Voronoi cells or the regions of smooth noise."""
    count, size = places.shape[0], places.shape[-1]
    seeds = uniform((count, CELLS, 3, 1, 1, 1), -1.2, 1.2, random)
    stretch = uniform((count, CELLS, 3, 1, 1, 1), 0.5, 2.0, random)
    voronoi = (((places[:, None] - seeds) * stretch) ** 2).sum(dim=2)
    knots = int(torch.randint(3, 8, (), generator=random))
    noise = smooth_noise(count, CELLS, knots, size, random)
    cells = torch.where(choose((count, 1, 1, 1, 1), 0.5, random), voronoi, noise)
    # Some volumes have few cells, and one in four but a single one: an even background.
    few = torch.randint(1, CELLS + 1, (count, 1, 1, 1, 1), generator=random)
    few = torch.where(choose((count, 1, 1, 1, 1), 0.25, random), 1, few)
    return cells.masked_fill(torch.arange(CELLS).view(1, -1, 1, 1, 1) >= few, 1e3)


def _objects(places: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return objects as (count, OBJECTS, z, y, x) about the distance to their surface, negative inside; centres; parents."""
    count, size = places.shape[0], places.shape[-1]
    starts, ends, first, last, centres, sizes = _cones(count, random)
    parents = torch.full((count, OBJECTS), -1)
    # Later objects lie before earlier ones. Some keep an earlier one's shape, a little smaller: a lumen, a core, a shell.
    inset = torch.zeros((count, OBJECTS))
    for k in range(1, OBJECTS):
        nested = choose((count,), 0.3, random)
        for values in (starts, ends, first, last, centres, sizes):
            values[:, k] = torch.where(nested.view(-1, *(1,) * (values.dim() - 2)), values[:, k - 1], values[:, k])
        deeper = inset[:, k - 1] + uniform((count,), 0.15, 0.6, random) * sizes[:, k] * 0.5
        inset[:, k] = torch.where(nested, deeper, inset[:, k])
        parents[:, k] = torch.where(nested, k - 1, -1)
    flat = places.reshape(count, 3, -1)
    distance = torch.empty((count, OBJECTS, flat.shape[-1]))
    sharpness = 1 / (0.25 * sizes.clamp(min=0.05))
    for k in range(OBJECTS):
        pieces = _cone_distance(flat, starts[:, k], ends[:, k], first[:, k], last[:, k])
        # A smooth union: the sharper, the nearer to the least of the pieces.
        sharp = sharpness[:, k, None, None]
        distance[:, k] = -torch.logsumexp(-pieces * sharp, dim=1) / sharp[:, 0]
    distance = distance.view(count, OBJECTS, *(size,) * 3)
    rough = smooth_noise(count, OBJECTS, 7, size, random) * uniform((count, OBJECTS, 1, 1, 1), 0, 0.35, random)
    return distance + rough * (sizes * 0.3)[..., None, None, None] + inset[..., None, None, None], centres, parents


def _cones(count: int, random: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Draw the cones of all objects.

    Returns:
        Ends (count, OBJECTS, CONES, 3) twice, radii at the ends (count, OBJECTS, CONES) twice, centres
        (count, OBJECTS, 3), and sizes (count, OBJECTS). A cone that is not needed repeats the first one.
    """
    shape = (count, OBJECTS)
    weights = torch.tensor(list(_KINDS.values()))
    kinds = torch.multinomial(weights.expand(count * OBJECTS, -1), 1, generator=random).view(shape)
    kind = {name: kinds == index for index, name in enumerate(_KINDS)}
    sizes = torch.exp(uniform(shape, -1.8, -0.45, random))  # Radii from 0.17 to 0.64 of half the side.
    centres = uniform((*shape, 3), -0.7, 0.7, random)
    # Every second object touches the one before it.
    towards = torch.nn.functional.normalize(torch.randn((*shape, 3), generator=random), dim=-1)
    touching = choose(shape, 0.5, random)
    for k in range(1, OBJECTS):
        reach = (sizes[:, k] + sizes[:, k - 1]) * uniform((count,), 0.7, 1.1, random)
        beside = (centres[:, k - 1] + towards[:, k] * reach[:, None]).clamp(-0.95, 0.95)
        centres[:, k] = torch.where(touching[:, k, None], beside, centres[:, k])
    steps = torch.nn.functional.normalize(torch.randn((*shape, CONES, 3), generator=random), dim=-1)
    size = sizes[..., None]
    # Blobs: balls around the centre. An ellipsoid is a short cone. Both lie in the first lines; the others in the next.
    offsets = steps * uniform((*shape, CONES, 1), 0.2, 0.9, random) * size[..., None]
    starts = centres[:, :, None] + offsets
    ends = starts + steps.roll(1, dims=2) * uniform((*shape, CONES, 1), 0.0, 0.5, random) * size[..., None]
    first = size * uniform((*shape, CONES), 0.4, 0.8, random)
    last = first * uniform((*shape, CONES), 0.6, 1.0, random)
    # Tubes: a walk through the volume that turns a little at each step.
    direction = steps[:, :, :1] + 0.9 * torch.cumsum(steps, dim=2) / CONES**0.5
    direction = torch.nn.functional.normalize(direction, dim=-1)
    length = uniform((*shape, 1, 1), 0.25, 0.6, random)
    walk = centres[:, :, None] + torch.cumsum(direction * length, dim=2) - direction[:, :, :1] * length * CONES / 2
    before = torch.cat([walk[:, :, :1] - direction[:, :, :1] * length, walk[:, :, :-1]], dim=2)
    thin = torch.exp(uniform((*shape, 1), -3.2, -1.5, random)).expand(*shape, CONES)
    thick = thin * uniform((*shape, CONES), 0.7, 1.4, random)
    # Trees: the walk's first half, with branches from its joints; chambers: balls with vessels that leave them.
    joints = walk[:, :, torch.arange(CONES) % 3]
    branches = joints + steps * length * uniform((*shape, CONES, 1), 0.6, 1.6, random)
    is_branch = (torch.arange(CONES) >= 3)[:, None]
    tree_start, tree_end = torch.where(is_branch, joints, before), torch.where(is_branch, branches, walk)
    vessel = (torch.arange(CONES) >= 2)[:, None]
    away = centres[:, :, None] + steps * (size[..., None] + uniform((*shape, CONES, 1), 0.2, 0.9, random))
    chamber_start = torch.where(vessel, centres[:, :, None] + steps * size[..., None] * 0.5, starts)
    chamber_end = torch.where(vessel, away, ends)
    narrow = size * uniform((*shape, CONES), 0.15, 0.4, random)
    chamber_first = torch.where(vessel[:, 0], narrow, size * uniform((*shape, CONES), 0.6, 0.9, random))
    for name, values in {
        "tube": (before, walk, thin, thick),
        "tree": (tree_start, tree_end, thin, thick),
        "chamber": (chamber_start, chamber_end, chamber_first, chamber_first * 0.9),
    }.items():
        wanted = kind[name][..., None]
        starts, ends = (torch.where(wanted[..., None], v, o) for v, o in zip(values[:2], (starts, ends), strict=True))
        first, last = (torch.where(wanted, v, o) for v, o in zip(values[2:], (first, last), strict=True))
    sizes = torch.where(kind["tube"] | kind["tree"], thin[..., 0] * 2, sizes)
    # Ellipsoids use one cone.
    single = kind["ellipsoid"][..., None]
    starts = torch.where(single[..., None], starts[:, :, :1], starts)
    ends = torch.where(single[..., None], ends[:, :, :1], ends)
    first, last = (torch.where(single, size * 0.9, values) for values in (first, last))
    return starts, ends, first, last, centres, sizes


def _cone_distance(
    places: torch.Tensor, start: torch.Tensor, end: torch.Tensor, first: torch.Tensor, last: torch.Tensor
) -> torch.Tensor:
    """Return about the distance (count, CONES, P) of ``places`` (count, 3, P) to the surface of round-ended cones."""
    axis = end - start
    squared = (axis**2).sum(dim=-1).clamp(min=1e-6)
    # |p - s - t a|² = |p - s|² - 2 t a·(p - s) + t² |a|², with products by matrix multiplication, which is far cheaper.
    along = axis @ places - (axis * start).sum(dim=-1, keepdim=True)
    share = (along / squared[..., None]).clamp_(0, 1)
    apart = (places**2).sum(dim=1, keepdim=True) - 2 * start @ places + (start**2).sum(dim=-1, keepdim=True)
    apart = apart - share * (2 * along - share * squared[..., None])
    return apart.clamp_(min=0).sqrt_() - (first[..., None] + share * (last - first)[..., None])


def _compose(
    labels: torch.Tensor, objects: torch.Tensor, centres: torch.Tensor, random: torch.Generator
) -> torch.Tensor:
    """Paint objects over the cells, later over earlier; some with a wall, some cut off where no edge is seen."""
    count, size = labels.shape[0], labels.shape[-1]
    present = choose((count, OBJECTS), 0.65, random)
    voxel = 2 / size
    walls = torch.where(choose((count, OBJECTS), 0.5, random), uniform((count, OBJECTS), 0.7, 2.5, random) * voxel, 0.0)
    cut = choose((count, OBJECTS), 0.3, random)
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    normals = torch.nn.functional.normalize(torch.randn((count, OBJECTS, 3), generator=random), dim=-1)
    depths = uniform((count, OBJECTS), 0.05, 0.5, random)
    for k in range(OBJECTS):
        distance = objects[:, k]
        limit = torch.where(present[:, k], 0.0, -9.0).view(-1, 1, 1, 1)
        labels = torch.where(distance < limit + walls[:, k].view(-1, 1, 1, 1), FIRST_WALL + k, labels)
        z, y, x = (normals[:, k, a].view(-1, 1) * (axis - centres[:, k, a].view(-1, 1)) for a in range(3))
        beyond = z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :] > depths[:, k].view(-1, 1, 1, 1)
        own = torch.where(beyond & cut[:, k].view(-1, 1, 1, 1), FIRST_REST + k, FIRST_OBJECT + k)
        labels = torch.where(distance < limit, own, labels)
    return labels
