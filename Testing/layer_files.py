"""A case's layers as a run writes them, on a grid that is rotated and anisotropic, and its volume in a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from SemiSAMPlusLib.cohort.cohort import Class
from SemiSAMPlusLib.cohort.outputs import (
    PREDICTIVE_ENTROPY,
    write_prompts,
    write_segmentation,
    write_uncertainty,
)
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.run.files import write_text_atomically

#: Turned about all axes, off the origin, each axis with its own spacing.
OBLIQUE = Grid(
    (20, 26, 32),
    (1.0, 1.4, 2.2),
    (-31.0, 12.5, 77.0),
    tuple(sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.2, -0.3, 0.5).GetMatrix()),
)
CLASSES = (Class("liver", (1,), (0.9, 0.1, 0.1)), Class("große Zyste", (2,), (0.1, 0.3, 0.9)))
CASE = "Fall 1 (links)"

#: Array indices (z, y, x) of the middles of what is drawn.
LIVER, CYST, HOT = (9, 8, 9), (11, 17, 22), (6, 16, 10)
POSITIVE, NEGATIVE = ((9, 8, 9), (11, 17, 22)), ((4, 20, 4), (15, 5, 27))


def ball(centre: tuple[int, int, int], radius: float, grid: Grid = OBLIQUE) -> np.ndarray:
    """Return True within a distance in mm of a voxel."""
    axes = np.ogrid[tuple(slice(n) for n in grid.shape)]
    sizes = grid.spacing[::-1]
    return sum(((a - c) * s) ** 2 for a, c, s in zip(axes, centre, sizes, strict=True)) <= radius**2


def labels(grow: float = 0.0) -> np.ndarray:
    """Return class indices: two balls, larger by ``grow`` mm."""
    return np.where(ball(LIVER, 7 + grow), 1, np.where(ball(CYST, 6 + grow), 2, 0)).astype(np.uint8)


def uncertainty(peak: float = 0.9) -> np.ndarray:
    """Return a hill of uncertainty around ``HOT``, and one hot voxel of noise elsewhere."""
    hill = np.zeros(OBLIQUE.shape, dtype=np.float32)
    for radius, value in ((8, 0.3), (5, 0.6), (2.5, 0.9)):
        hill[ball(HOT, radius)] = value * peak / 0.9
    hill[14, 22, 28] = 1.0
    return hill


def write_layers(folder: Path, *, grow: float = 0.0, peak: float = 0.9, iteration: int = 10) -> Path:
    """Write every layer of a case into ``folder``, and return it."""
    write_segmentation(folder / "prediction.seg.nrrd", labels(grow), OBLIQUE, CLASSES)
    write_segmentation(folder / "generalist-random-walker.seg.nrrd", labels(grow + 2), OBLIQUE, CLASSES)
    write_uncertainty(folder / "uncertainty.nii.gz", uncertainty(peak), OBLIQUE, PREDICTIVE_ENTROPY)
    points = OBLIQUE.to_physical(np.array([*POSITIVE, *NEGATIVE]))
    corners = OBLIQUE.to_physical(np.array([[5, 3, 4], [13, 13, 14]]))
    names = [CLASSES[0].name, CLASSES[1].name] * 2
    write_prompts(
        folder / "prompts.mrk.json",
        points,
        [1, 1, 0, 0],
        names,
        boxes={CLASSES[0].name: corners},
        direction=OBLIQUE.direction,
    )
    write_text_atomically(
        folder / "about.json", f'{{"case": "x", "iteration": {iteration}, "uncertainty": "predictive entropy"}}\n'
    )
    return folder


def ras(index: tuple[int, int, int]) -> np.ndarray:
    """Return where in RAS mm a voxel of the grid, by array index (z, y, x), has its centre."""
    return OBLIQUE.to_physical(np.array([index]))[0] * [-1, -1, 1]


def add_volume(name: str = CASE) -> Any:
    """Add the case's image to Slicer's scene: bright where the structures are."""
    import slicer

    image = 100 + 60 * (labels() > 0) + 3 * np.indices(OBLIQUE.shape)[2]
    matrix = np.eye(4)
    matrix[:3, :3] = OBLIQUE.affine[:3, 2::-1]
    matrix[:3, 3] = OBLIQUE.origin
    node = slicer.util.addVolumeFromArray(image.astype(np.int16), np.diag([-1, -1, 1, 1]) @ matrix, name)
    node.CreateDefaultDisplayNodes()
    return node
