"""Draw SemiSAMPlus.png: one labelled organ in front of unlabelled ones, with a positive and a negative prompt.

Run it with ``python docs/images/make_icon.py``; it writes the icon at the root of the repository.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE, OVERSAMPLING = 128, 8

# Colours of middle lightness, told apart by colour-blind eyes, stand out on light and on dark alike.
LABELED, UNLABELED, FURTHER = (240, 160, 20), (74, 134, 198), (122, 176, 224)
POSITIVE, NEGATIVE, SIGN = (0, 128, 96), (204, 58, 44), (255, 255, 255)


class Canvas:
    """A transparent picture made of shapes given as signed distances in pixels, negative inside."""

    def __init__(self) -> None:
        axis = (np.arange(SIZE * OVERSAMPLING) + 0.5) / OVERSAMPLING
        self.x, self.y = np.meshgrid(axis, axis)
        self.pixels = np.zeros((*self.x.shape, 4))

    def lay(self, shape: np.ndarray, color: tuple[int, int, int], rim: float = 0.0) -> None:
        """Lay a shape over what is there, and clear a rim of ``rim`` pixels around it."""
        self.pixels[shape < rim] = 0
        self.pixels[shape < 0] = [*(value / 255 for value in color), 1]

    def disc(self, x: float, y: float, radius: float) -> np.ndarray:
        """Return the distance to a disc."""
        return np.hypot(self.x - x, self.y - y) - radius

    def bar(self, start: tuple[float, float], end: tuple[float, float], radius: float) -> np.ndarray:
        """Return the distance to a bar with round ends."""
        axis = np.subtract(end, start)
        x, y = self.x - start[0], self.y - start[1]
        along = np.clip((x * axis[0] + y * axis[1]) / max(axis @ axis, 1e-9), 0, 1)
        return np.hypot(x - along * axis[0], y - along * axis[1]) - radius

    def organ(self, x: float, y: float, scale: float) -> np.ndarray:
        """Return the distance to a chamber with lobes and the stumps of its veins, about ``scale`` pixels in radius."""
        lobes = [(-0.28, 0.08, 0.66), (0.26, 0.0, 0.68), (0.0, 0.34, 0.62)]
        veins = [(-0.80, -0.62, 0.19), (-0.93, 0.36, 0.17), (0.84, -0.64, 0.19)]
        parts = [self.disc(x + scale * a, y + scale * b, scale * r) for a, b, r in lobes]
        parts += [self.bar((x, y), (x + scale * a, y + scale * b), scale * r) for a, b, r in veins]
        softness = 0.09 * scale
        return -softness * np.logaddexp.reduce([-part / softness for part in parts], axis=0)

    def shrunk(self) -> Image.Image:
        """Return the picture at its size; colours are averaged by their opacity, so that edges get no dark seam."""
        weighted = self.pixels.copy()
        weighted[..., :3] *= weighted[..., 3:]
        small = weighted.reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING, 4).mean((1, 3))
        small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
        return Image.fromarray(np.round(255 * small).astype(np.uint8), "RGBA")


def draw() -> Image.Image:
    """Return the icon."""
    canvas = Canvas()
    canvas.lay(canvas.organ(77, 43, 45), FURTHER)
    canvas.lay(canvas.organ(66, 54.5, 46), UNLABELED, rim=3)
    canvas.lay(canvas.organ(55, 66, 48), LABELED, rim=3.5)
    x, y = 55, 72
    canvas.lay(canvas.disc(x, y, 24), POSITIVE)
    for dx, dy in ((13.5, 0), (0, 13.5)):
        canvas.lay(canvas.bar((x - dx, y - dy), (x + dx, y + dy), 4), SIGN)
    x, y = 106, 106
    canvas.lay(canvas.disc(x, y, 18), NEGATIVE, rim=3.5)
    canvas.lay(canvas.bar((x - 9, y), (x + 9, y), 4), SIGN)
    return canvas.shrunk()


if __name__ == "__main__":
    draw().save(Path(__file__).resolve().parents[2] / "SemiSAMPlus.png", optimize=True)
