"""Augmentation that suits tiny label counts: patches are deformed while they are cut, then disturbed in their grey values.

Deforming is a choice of coordinates: each voxel of a patch is looked up at a place in its case. So a case is never
copied whole, an image is interpolated once, and everything that lies on the case's grid (label, a generalist's
answer) can be brought to the same patch with the same coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import radians

import numpy as np
import torch
from monai.transforms import (
    AdjustContrast,
    AffineGrid,
    GaussianSmooth,
    RandBiasField,
    RandGaussianNoise,
)
from monai.utils import convert_to_tensor
from torch.nn.functional import grid_sample, interpolate


@dataclass(frozen=True)
class SpatialAugmentation:
    """Rotation, scale, anisotropic scale, smooth elastic deformation and, where anatomy allows, flips.

    Attributes:
        patch: Size of a patch (z, y, x) in voxels.
        strength: 1 as the ranges below say; 0 none.
        flips: Array axes (0 = z, 1 = y, 2 = x) that may be mirrored.
        rotation: Greatest rotation in degrees about the axes z, y, x.
        scale: Greatest relative change of size, the same along all axes.
        anisotropy: Greatest further change of size along each axis.
        elastic: Greatest displacement in voxels, along each axis, at the knots of a coarse grid.
        knots: Distance of those knots in voxels.
    """

    patch: tuple[int, int, int]
    strength: float = 1.0
    flips: tuple[int, ...] = ()
    rotation: tuple[float, float, float] = (25.0, 10.0, 10.0)
    scale: float = 0.22
    anisotropy: float = 0.1
    elastic: float = 4.0
    knots: int = 16

    def coordinates(self, centre: Sequence[float], random: np.random.Generator) -> torch.Tensor:
        """Draw a deformation of the patch around ``centre``.

        Args:
            centre: Array index (z, y, x) in the case that the middle of the patch is looked up at.
            random: Where chance comes from.

        Returns:
            (3, z, y, x) float32: for each voxel of the patch the array index (z, y, x) in the case.
        """
        angles = [radians(self.strength * a) * random.uniform(-1, 1) for a in self.rotation]
        grow = 1 + self.strength * self.scale * random.uniform(-1, 1)
        scales = [grow * (1 + self.strength * self.anisotropy * random.uniform(-1, 1)) for _ in range(3)]
        for axis in self.flips:
            if random.random() < 0.5:
                scales[axis] = -scales[axis]
        grid, _ = AffineGrid(rotate_params=angles, scale_params=scales)(spatial_size=self.patch)
        coordinates = convert_to_tensor(grid, torch.float32)[:3]
        if self.strength > 0 and self.elastic > 0:
            knots = [max(3, round(n / self.knots) + 1) for n in self.patch]
            field = random.uniform(-1, 1, (1, 3, *knots)).astype(np.float32) * self.elastic * self.strength
            coordinates = (
                coordinates + interpolate(torch.from_numpy(field), self.patch, mode="trilinear", align_corners=True)[0]
            )
        return coordinates + torch.as_tensor(centre, dtype=torch.float32).view(3, 1, 1, 1)


def straight_coordinates(start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Return the coordinates (3, z, y, x) of an undeformed patch whose first voxel is at ``start``."""
    axes = [torch.arange(n, dtype=torch.float32) + s for s, n in zip(start, shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def look_up(
    volume: torch.Tensor, coordinates: torch.Tensor, *, nearest: bool = False, outside: float | None = None
) -> torch.Tensor:
    """Interpolate ``volume`` at ``coordinates``.

    Args:
        volume: (channel, z, y, x).
        coordinates: (3, z', y', x') array indices (z, y, x) in ``volume``.
        nearest: Take the nearest voxel (labels) rather than interpolate linearly.
        outside: The value beyond the volume; the volume's least value where not given.

    Returns:
        (channel, z', y', x') float32.
    """
    volume = volume.to(torch.float32)
    floor = volume.amin() if outside is None else torch.as_tensor(outside, dtype=torch.float32, device=volume.device)
    last = torch.as_tensor(volume.shape[1:], device=coordinates.device).sub(1).clamp(min=1).view(3, 1, 1, 1)
    normalized = (coordinates / last * 2 - 1).flip(0).permute(1, 2, 3, 0)[None]
    mode = "nearest" if nearest else "bilinear"
    return grid_sample(volume[None] - floor, normalized.to(volume), mode, "zeros", align_corners=True)[0] + floor


def cut(volume: torch.Tensor, start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Return the undeformed patch of ``volume`` whose first voxel is at ``start``, beyond the volume its least value.

    It is what :func:`look_up` finds at :func:`straight_coordinates`, without interpolating.

    Args:
        volume: (channel, z, y, x).
        start: Array index (z, y, x), which may lie outside.
        shape: Voxels along (z, y, x).

    Returns:
        (channel, *shape) float32.
    """
    patch = volume.amin().to(torch.float32).expand(len(volume), *shape).clone()
    ends = [
        (min(max(0, s), size), min(max(0, s + n), size))
        for s, n, size in zip(start, shape, volume.shape[1:], strict=True)
    ]
    there = tuple(slice(first, last) for first, last in ends)
    here = tuple(slice(first - s, last - s) for (first, last), s in zip(ends, start, strict=True))
    patch[(slice(None), *here)] = volume[(slice(None), *there)].to(torch.float32)
    return patch


class IntensityAugmentation:
    """Contrast, gamma, bias field, blur and noise, each now and then, on normalised grey values.

    Args:
        strength: 1 as written here; 0 none.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    def __call__(self, image: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Return a disturbed copy of ``image`` (channel, z, y, x); ``random`` is where chance comes from."""
        s = self.strength
        if s == 0:
            return image
        if random.random() < 0.5:
            gamma = float(np.exp(s * 0.4 * random.uniform(-1, 1)))
            image = torch.as_tensor(AdjustContrast(gamma, retain_stats=True)(image))
        if random.random() < 0.5:
            field = RandBiasField(prob=1.0, coeff_range=(0.0, 0.15 * s))
            field.set_random_state(int(random.integers(2**31)))
            floor = image.amin()
            image = torch.as_tensor(field(image - floor)) + floor
        if random.random() < 0.3:
            image = torch.as_tensor(GaussianSmooth(sigma=s * random.uniform(0.3, 1.2))(image))
        if random.random() < 0.8:
            image = image * (1 + s * 0.25 * random.uniform(-1, 1)) + s * 0.2 * random.uniform(-1, 1)
        if random.random() < 0.5:
            noise = RandGaussianNoise(prob=1.0, std=0.15 * s)
            noise.set_random_state(int(random.integers(2**31)))
            image = torch.as_tensor(noise(image))
        # MONAI's own kind of tensor, which its transforms return, would slow down whatever is computed from it.
        return convert_to_tensor(image, torch.float32)
