"""A case shown larger and smaller too: the mean of what is said, around structures alone, in as little memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tiny import Pointwise, plan, specialist_of

from SemiSAMPlusLib.specialist.scales import FURTHER_SCALES, average_over_scales

PATCH = (8, 8, 8)


def looking(
    say: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[torch.Tensor]]:
    """Return a look that gives the structure what ``say`` makes of the grey values, and the images that it was shown."""
    shown: list[torch.Tensor] = []

    def look(image: torch.Tensor) -> torch.Tensor:
        shown.append(image)
        structure = say(image)[0].clamp(0, 1)
        return torch.stack([1 - structure, structure])

    return look, shown


def soft_ball(shape: tuple[int, int, int], radius: float) -> torch.Tensor:
    """Return an image (1, z, y, x) that falls from 1 in its middle to 0, in a few voxels around a radius."""
    z, y, x = (torch.arange(n) - (n - 1) / 2 for n in shape)
    distance = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2).sqrt()
    return ((radius + 3 - distance) / 6).clamp(0, 1)[None]


def test_what_does_not_depend_on_the_size_stays() -> None:
    image = soft_ball((32, 40, 36), 10)
    look, shown = looking(lambda image: image)
    said = average_over_scales(look, image, scales=FURTHER_SCALES, patch=PATCH)
    assert len(shown) == 3
    torch.testing.assert_close(said[1], image[0], atol=0.05, rtol=0)
    torch.testing.assert_close(said.sum(dim=0), torch.ones(32, 40, 36))


def test_it_is_the_mean_of_the_looks() -> None:
    image = torch.ones(1, 20, 20, 20)
    look, shown = looking(lambda image: image * {20: 0.3, 10: 0.6, 40: 0.9}[image.shape[1]])
    said = average_over_scales(look, image, scales=(0.5, 2.0), patch=PATCH)
    assert [tuple(image.shape) for image in shown] == [(1, 20, 20, 20), (1, 10, 10, 10), (1, 40, 40, 40)]
    torch.testing.assert_close(said[1], torch.full((20, 20, 20), 0.6))


def test_only_the_surroundings_of_structures_are_looked_at_again() -> None:
    image = torch.zeros(1, 60, 24, 24)
    image[:, 8:14, 8:14, 8:14] = 1
    look, shown = looking(lambda image: image)
    said = average_over_scales(look, image, scales=(1.5,), patch=PATCH)
    assert tuple(shown[1].shape[1:]) == (21, 21, 21)  # 6 voxels, and 4 around them on each side, times 1.5.
    assert said[1, 18:].eq(0).all()
    assert said[1, 10, 10, 10] == pytest.approx(1)


@pytest.mark.parametrize(("grey", "scales"), [(0.0, (0.9, 1.1)), (1.0, ())])
def test_one_look_is_enough_where_nothing_is_seen_or_no_more_are_wanted(grey: float, scales: tuple[float, ...]) -> None:
    image = torch.full((1, 12, 12, 12), grey)
    look, shown = looking(lambda image: image)
    said = average_over_scales(look, image, scales=scales, patch=PATCH)
    assert len(shown) == 1
    torch.testing.assert_close(said[1], image[0])


def test_half_precision_is_kept() -> None:
    look, _ = looking(lambda image: image)
    said = average_over_scales(lambda image: look(image).half(), soft_ball((16, 16, 16), 5), scales=(0.9,), patch=PATCH)
    assert said.dtype == torch.float16


def test_a_specialist_says_the_mean() -> None:
    once = specialist_of(Pointwise(), plan=plan(patch=(16, 16, 16)))
    image = soft_ball((16, 16, 16), 5)
    looks = [once.probabilities(image)]
    for size in (14, 18):
        scaled = torch.nn.functional.interpolate(image[None], (size,) * 3, mode="trilinear")[0]
        said = torch.nn.functional.interpolate(once.probabilities(scaled)[None], (16, 16, 16), mode="trilinear")[0]
        looks.append(said)
    averaging = replace(once, further_scales=FURTHER_SCALES)
    torch.testing.assert_close(averaging.probabilities(image), torch.stack(looks).mean(dim=0))
