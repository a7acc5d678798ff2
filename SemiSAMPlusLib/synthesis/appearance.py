"""Grey values for label maps: tissues, texture, shading, blur, thick slices, noise, contrast; as a scanner's, but any scanner's."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from .shapes import FIRST_OBJECT, FIRST_REST, LABELS, OBJECTS, choose, smooth_noise, uniform

#: Tissues of a volume; labels that are of one tissue look nearly alike.
_TISSUES = 6


def draw_images(labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Draw an image for each label map.

    Args:
        labels: (volume, z, y, x).
        random: Where chance comes from.

    Returns:
        (volume, z, y, x) float32 grey values of no particular scale.
    """
    count, size = labels.shape[0], labels.shape[-1]
    means, spreads = _tissues(count, random)
    flat = labels.reshape(count, -1)
    image = means.gather(1, flat).view(labels.shape)
    texture = smooth_noise(count, 1, size // 2, size, random)[:, 0]
    coarse = smooth_noise(count, 1, size // 6, size, random)[:, 0]
    mixed = torch.where(choose((count, 1, 1, 1), 0.5, random), texture, coarse)
    image = image + mixed * spreads.gather(1, flat).view(labels.shape)
    image = _blur(image, random)
    image = _thick_slices(image, random)
    knots = int(torch.randint(2, 5, (), generator=random))
    strength = _sometimes(count, 0.6, 0.0, 0.25, random)
    image = image * torch.exp(strength * smooth_noise(count, 1, knots, size, random)[:, 0])
    image = image + _noise(image, random)
    return _contrast(image, random)


def _tissues(count: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and spread of each label's grey values, each (count, LABELS)."""
    tissues = (torch.arange(_TISSUES) + uniform((count, _TISSUES), 0.0, 0.8, random)) / _TISSUES
    own = torch.randint(0, _TISSUES, (count, LABELS), generator=random)
    # An object mostly looks unlike the one before it, beside or within which it may lie.
    for k in range(FIRST_OBJECT + 1, FIRST_REST):
        other = (own[:, k - 1] + torch.randint(1, _TISSUES, (count,), generator=random)) % _TISSUES
        own[:, k] = torch.where(choose((count,), 0.75, random), other, own[:, k])
    # What is cut off an object looks as the object does.
    own[:, FIRST_REST : FIRST_REST + OBJECTS] = own[:, FIRST_OBJECT : FIRST_OBJECT + OBJECTS]
    jitter = torch.randn((count, LABELS), generator=random) * uniform((count, 1), 0.0, 0.12, random)
    jitter[:, FIRST_REST : FIRST_REST + OBJECTS] = jitter[:, FIRST_OBJECT : FIRST_OBJECT + OBJECTS]
    spreads = uniform((count, LABELS), 0.0, 0.08, random) * choose((count, 1), 0.7, random)
    spreads[:, FIRST_REST : FIRST_REST + OBJECTS] = spreads[:, FIRST_OBJECT : FIRST_OBJECT + OBJECTS]
    return tissues.gather(1, own) + jitter, spreads


def _sometimes(count: int, probability: float, low: float, high: float, random: torch.Generator) -> torch.Tensor:
    """Return (count, 1, 1, 1) strengths, 0 but with ``probability``."""
    return uniform((count, 1, 1, 1), low, high, random) * choose((count, 1, 1, 1), probability, random)


def _blur(image: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Let grey values spread to the neighbours along each axis by steps of diffusion, by shares of its own for each volume."""
    count = image.shape[0]
    share = uniform((count, 1, 1, 1), 0.0, 0.33, random)
    for axis in (1, 2, 3):
        own = share * uniform((count, 1, 1, 1), 0.5, 1.0, random)
        for _ in range(2):
            image = diffuse(image, axis, own)
    return image


def diffuse(image: torch.Tensor, axis: int, share: torch.Tensor) -> torch.Tensor:
    """Return ``image`` with ``share`` of each voxel given to either neighbour along ``axis``; the border keeps its own."""
    n = image.shape[axis]
    step = share * (image.narrow(axis, 1, n - 1) - image.narrow(axis, 0, n - 1))
    result = image.clone()
    result.narrow(axis, 0, n - 1).add_(step)
    result.narrow(axis, 1, n - 1).sub_(step)
    return result


def _thick_slices(image: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Let one volume in three have been taken with thick slices along one axis, and interpolated since."""
    result = image.clone()
    for index in range(image.shape[0]):
        chance = torch.rand((), generator=random)
        axis = int(torch.randint(0, 3, (), generator=random))
        factor = 2 + int(torch.randint(0, 3, (), generator=random))
        if chance < 0.33:
            shape = [n // (factor if a == axis else 1) for a, n in enumerate(image.shape[1:])]
            thick = interpolate(image[index][None, None], shape, mode="area")
            result[index] = interpolate(thick, image.shape[1:], mode="trilinear")[0, 0]
    return result


def _noise(image: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Return noise as strong as a share of each volume's own contrast, sometimes with a grain of two voxels."""
    count, size = image.shape[0], image.shape[-1]
    strength = uniform((count, 1, 1, 1), 0.0, 1.0, random) ** 2 * 0.35 * image.std(dim=(1, 2, 3), keepdim=True)
    fine = torch.randn(image.shape, generator=random)
    grain = interpolate(torch.randn((count, 1, *(size // 2,) * 3), generator=random), (size,) * 3, mode="trilinear")
    return strength * torch.where(choose((count, 1, 1, 1), 0.4, random), grain[:, 0] * 1.6, fine)


def _contrast(image: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Bend the grey scale of some volumes by a power between 0.5 and 2, up to here all lie at about 0..1."""
    count = image.shape[0]
    least, most = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
    scaled = (image - least) / (most - least).clamp(min=1e-6)
    power = torch.exp(_sometimes(count, 0.5, -0.7, 0.7, random))
    return scaled.clamp_(min=1e-4) ** power
