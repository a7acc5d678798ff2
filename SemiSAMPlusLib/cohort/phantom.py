"""A cohort made by code: phantoms of a chest around the heart, whose left atrium is to be found.

The target is a lobed chamber with an appendage and with veins that are labelled for a short way only, although the
image shows them go on. Other chambers and vessels of nearly its grey value touch it, shape, pose, contrast, grey scale,
shading and noise change from case to case, so neither grey values nor one labelled case are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import ConfigError
from ..run.files import replacing
from .cohort import Case, Class, Cohort, Role
from .volume import Grid

#: The field of view in mm along (z, y, x); ``size`` says by how many voxels it is sampled.
_FIELD_OF_VIEW = np.array([57.6, 76.8, 67.2])

#: Thickness in mm of the walls between pools of blood, and of the heart's muscle around the left ventricle.
_WALL, _MUSCLE = 1.3, 4.5


def make_phantom_cohort(
    folder: Path,
    *,
    cases: int = 19,
    labeled: int = 1,
    test: int = 6,
    seed: int = 0,
    size: tuple[int, int, int] = (48, 64, 56),
    variation: float = 1.0,
    scanners: float = 1.0,
) -> Cohort:
    """Write phantoms as images/NAME.nii.gz and labels/NAME.nii.gz with cohort.json beside them.

    Args:
        folder: Where to write; it need not exist.
        cases: How many cases in all.
        labeled: How many of them, the first, are labelled.
        test: How many of them, the last, are held out for testing; those between are unlabelled.
        seed: Equal seeds give equal volumes.
        size: Voxels along (z, y, x); the field of view is about 58 × 77 × 67 mm whatever the size.
        variation: How much cases differ in pose, shape and contrast: 0 hardly at all, more for a harder cohort.
        scanners: How much of that there is in what scanners do, their noise, sharpness, contrast and grey scale: with 4 some scans are
            hardly like the labelled ones.

    Returns:
        The cohort, with one class, ``atrium``.

    Raises:
        ConfigError: If there are fewer cases than are to be labelled or tested on.
    """
    if labeled < 1 or test < 0 or labeled + test > cases:
        msg = f"{cases} cases cannot give {labeled} labelled and {test} test cases."
        raise ConfigError(msg, "Ask for one labelled case or more, and for no more of both than there are cases.")
    folder = Path(folder)
    members = []
    for index in range(cases):
        name = f"phantom-{index + 1:02d}"
        image, label = _make_case(_Draw(np.random.default_rng([seed, index]), variation, scanners), size)
        paths = [folder / part / f"{name}.nii.gz" for part in ("images", "labels")]
        for path, volume in zip(paths, (image, label), strict=True):
            with replacing(path) as temporary:
                sitk.WriteImage(volume, str(temporary), useCompression=True)
        role = Role.LABELED if index < labeled else Role.TEST if index >= cases - test else Role.UNLABELED
        members.append(Case(name, (paths[0],), paths[1], role))
    cohort = Cohort(tuple(members), (Class("atrium", (1,)),))
    cohort.save(folder / "cohort.json")
    return cohort


@dataclass(frozen=True)
class _Draw:
    """Draws what differs from case to case."""

    rng: np.random.Generator
    variation: float
    scanners: float

    def about(self, value: Any, deviation: Any) -> Any:
        """Return ``value``, number or array, varied by ``deviation``, never by more than twice that."""
        value, deviation = np.asarray(value, dtype=float), np.asarray(deviation, dtype=float)
        shape = np.broadcast_shapes(value.shape, deviation.shape)
        return value + self.variation * deviation * np.clip(self.rng.standard_normal(shape), -2, 2)

    def about_scanner(self, value: float, deviation: float) -> float:
        """Return ``value``, which the scanner decides, varied as far as scanners differ."""
        return float(self.about(value, self.scanners * deviation))

    def smooth_noise(self, size: tuple[int, ...], sigma: np.ndarray) -> np.ndarray:
        """Return noise of mean 0 and deviation 1 that is smooth over ``sigma`` voxels."""
        noise = ndimage.gaussian_filter(self.rng.standard_normal(size), sigma, mode="reflect")
        return (noise - noise.mean()) / noise.std()


def _make_case(draw: _Draw, size: tuple[int, int, int]) -> tuple[sitk.Image, sitk.Image]:
    """Return the image (int16) and the label (uint8) of one case."""
    # Rounded, because NIfTI keeps single precision and the two files must agree with what is made here.
    spacing = np.round(_FIELD_OF_VIEW / size * draw.about(np.ones(3), 0.03), 3)
    origin = np.round(draw.about(np.zeros(3), 40), 1)
    grid = Grid(size, _triple(spacing[::-1]), _triple(origin))
    anatomy = _Anatomy(draw, size, spacing)
    label = anatomy.atrium_label()
    return grid.image(_scan(draw, anatomy.paint(draw), spacing)), grid.image(label)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = values.tolist()
    return first, second, third


# Shapes are signed distances in mm, negative inside; only roughly so where they are stretched or joined. Points are
# (z, y, x) in mm from the middle of the field of view: z grows to the head, y to the back, x to the left.


def _ellipsoid(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    scaled = (points - centre[:, None, None, None]) / radii[:, None, None, None]
    return (np.sqrt((scaled**2).sum(0)) - 1) * radii.min()


def _tube(points: np.ndarray, path: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the distance to a tube along ``path`` (N, 3), with a radius at each of its N points."""
    distance = np.full(points.shape[1:], np.inf)
    for start, end, first, last in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        axis = end - start
        offset = points - start[:, None, None, None]
        along = np.clip(np.tensordot(axis, offset, 1) / (axis @ axis), 0, 1)
        nearest = np.sqrt(((offset - axis[:, None, None, None] * along) ** 2).sum(0))
        distance = np.minimum(distance, nearest - first - (last - first) * along)
    return distance


def _join(*shapes: np.ndarray, softness: float = 2.0) -> np.ndarray:
    """Return the union of shapes, its creases filled over about ``softness`` mm."""
    return -softness * np.logaddexp.reduce([-shape / softness for shape in shapes], axis=0)


def _inside(shape: np.ndarray, edge: float = 0.5) -> np.ndarray:
    """Return how much of each voxel lies inside, from 0 to 1, the edge blurred over about ``edge`` mm."""
    return 1 / (1 + np.exp(np.clip(shape / edge, -30, 30)))


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Return the rotation by ``angles`` (radians) about z, then y, then x, for points (z, y, x)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


class _Anatomy:
    """The shapes of one case, and how they are painted."""

    def __init__(self, draw: _Draw, size: tuple[int, int, int], spacing: np.ndarray) -> None:
        self.size, self.spacing = size, spacing
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
        bend = 1.3 * draw.variation * np.stack([draw.smooth_noise(size, 9 / spacing) for _ in range(3)])
        self.body = np.stack(np.meshgrid(*axes, indexing="ij")) + bend
        # Within the body the heart is turned, shifted and scaled as a whole.
        turn = _rotation(np.deg2rad(draw.about(np.zeros(3), [9, 7, 7])))
        shift, scale = draw.about(np.zeros(3), 2.5), draw.about(1.12, 0.08)
        self.heart = np.tensordot(turn, self.body - shift[:, None, None, None], 1) / scale
        self._make_atrium(draw)
        self._make_neighbours(draw)

    def _make_atrium(self, draw: _Draw) -> None:
        centre = draw.about([3.0, 4.0, 0.0], 1.0)
        radii = draw.about([10.5, 9.0, 14.0], [1.0, 0.9, 1.3])
        lobes = [_ellipsoid(self.heart, centre, radii)]
        for _ in range(draw.rng.integers(1, 4)):
            direction = draw.rng.normal(0, 1, 3) * [0.8, 0.5, 1.0]
            direction /= np.linalg.norm(direction)
            lobes.append(_ellipsoid(self.heart, centre + 0.7 * radii * direction, draw.about([6.0, 6.0, 6.0], 1.0)))
        # The appendage: a hook that leaves to the left and turns forward.
        hook = np.array([[0.0, 0.0, 0.0], [1.0, -4.0, 4.0], [-1.0, -9.0, 4.0], [-3.0, -13.0, 1.0]])
        hook[1:] = draw.about(hook[1:], 1.3)
        path = centre + radii * [0.2, -0.5, 0.8] + hook
        lobes.append(_tube(self.heart, path, draw.about(1, 0.12) * np.array([4.5, 4.0, 3.2, 1.8])))
        veins = [self._make_vein(draw, centre, radii, up, side) for up in (1, -1) for side in (1, -1)]
        kind = draw.rng.random()  # Most people have four veins; some a common trunk, some one more.
        if kind < 0.15:
            veins.pop(draw.rng.integers(4))
        elif kind > 0.85:
            veins.append(self._make_vein(draw, centre, radii, 0, -1))
        self._chamber, self._cut = _join(*lobes, softness=1.5), draw.about(8.0, 0.7)
        self.atrium = _join(self._chamber, *veins, softness=1.2)

    def _make_vein(self, draw: _Draw, centre: np.ndarray, radii: np.ndarray, up: int, side: int) -> np.ndarray:
        start = centre + radii * [0.45 * up, 0.35, 0.6 * side]
        steps = [draw.about([0.45 * up, 0.45, side], 0.18)]
        for _ in range(2):
            steps.append(draw.about(steps[-1], 0.3))
        lengths = draw.about([10.0, 10.0, 25.0], [1.5, 1.5, 0.0])
        path = np.cumsum([start, *(n * step / np.linalg.norm(step) for n, step in zip(lengths, steps, strict=True))], 0)
        return _tube(self.heart, path, draw.about(3.5, 0.4) * np.array([1.25, 1.0, 0.9, 0.6]))

    def _make_neighbours(self, draw: _Draw) -> None:
        heart, body = self.heart, self.body

        def ellipsoid(points: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
            return _ellipsoid(points, draw.about(centre, 1.5), radii * draw.about(np.ones(3), 0.08))

        def tube(points: np.ndarray, path: list[tuple[float, float, float]], radius: float) -> np.ndarray:
            moved = np.array(path) + draw.about(np.zeros(3), 1.5)
            return _tube(points, moved, np.full(len(path), draw.about(radius, 0.08 * radius)))

        self.pools = {
            "left ventricle": ellipsoid(heart, (-15, -13, 11), (13, 12, 13)),
            "right ventricle": ellipsoid(heart, (-16, -29, -10), (12, 10, 16)),
            "right atrium": ellipsoid(heart, (-4, -5, -24), (14, 12, 9)),
            "ascending aorta": tube(heart, [(-4, -13, -3), (10, -16, -8), (40, -17, -10)], 7),
            "pulmonary artery": tube(heart, [(4, -25, 10), (18, -11, 6), (20, 3, -6), (17, 6, -30)], 6.5),
            "descending aorta": tube(body, [(-40, 24, 11), (0, 23, 12), (40, 25, 11)], 6),
            "vena cava": tube(body, [(4, -8, -23), (40, -6, -23)], 5.5),
        }
        self.muscle = np.minimum(self.pools["left ventricle"] - _MUSCLE, self.pools["right ventricle"] - 2.0)
        self.spine = ellipsoid(body, (0, 42, -2), (60, 11, 15))
        self.gullet = tube(body, [(-40, 19, 2), (0, 18, 1), (40, 20, 3)], 3.5)
        sides = [sign * (0.55 * body[2] - 0.06 * body[0]) - 0.35 * body[1] for sign in (1, -1)]
        self.lungs = np.minimum(*(draw.about(22, 1.2) - side for side in sides))

    def atrium_label(self) -> np.ndarray:
        """Return the label (uint8): the chamber, and of its veins what is near it."""
        label = (self.atrium < 0) & (self._chamber < self._cut)
        parts, count = ndimage.label(label)
        if count > 1:  # A vein that bends back into reach is not meant.
            label = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
        return label.astype(np.uint8)

    def paint(self, draw: _Draw) -> np.ndarray:
        """Return the tissues' signal (z, y, x) before the scanner adds its part, about 0 to 1.5."""
        coarse, fine = (draw.smooth_noise(self.size, sigma / self.spacing) for sigma in (6.0, 1.6))
        signal = draw.about(0.50, 0.03) + 0.05 * coarse + 0.04 * fine
        fat = _inside(0.55 - coarse - 0.3 * fine, 0.12)
        signal += fat * draw.about(0.35, 0.05)

        def lay(shape: np.ndarray, value: float | np.ndarray, edge: float = 0.5) -> None:
            weight = _inside(shape, edge)
            signal[...] = signal * (1 - weight) + value * weight

        lay(self.lungs, 0.12 + 0.05 * fine + 0.6 * np.maximum(fine - 1.6, 0), edge=1.0)  # The bright dots are vessels.
        lay(self.spine, draw.about(0.72, 0.06) + 0.12 * fine + 0.05 * coarse)
        lay(self.gullet, draw.about(0.45, 0.07))
        lay(self.muscle, draw.about(0.44, 0.03) + 0.04 * fine)
        for shape in self.pools.values():
            lay(shape - _WALL, 0.42 + 0.05 * fine)
        lay(self.atrium - _WALL, draw.about(0.5, 0.06) + 0.06 * fine)  # Scar brightens some people's wall.
        blood = draw.about_scanner(0.98, 0.03)  # As bright as the contrast agent left it.
        for name, shape in self.pools.items():
            rough = 0.08 if "ventricle" in name else 0.03  # Ventricles are lined with trabeculae.
            # A neighbour gives way to the atrium and leaves a thin wall.
            value = draw.about(blood, 0.06) + rough * fine + 0.03 * coarse
            lay(np.maximum(shape, 0.5 - self.atrium), value)
        lay(self.atrium, draw.about(blood, 0.06) + 0.04 * coarse + 0.03 * fine)
        return signal


def _scan(draw: _Draw, signal: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return what a scanner makes of ``signal``: blurred, shaded, noisy (Rician), on a grey scale of its own (int16)."""
    blurred = ndimage.gaussian_filter(signal, max(0.1, draw.about_scanner(0.7, 0.1)) / spacing)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in signal.shape), indexing="ij")
    terms = np.stack([z, y, x, z * y, y * x, z * x, y * y - 0.33, x * x - 0.33])
    shading = np.exp(np.tensordot(draw.about(np.zeros(len(terms)), 0.1), terms, 1))
    level = max(0.02, draw.about_scanner(0.08, 0.012))
    real, imaginary = draw.rng.normal(0, level, (2, *signal.shape))
    magnitude = np.hypot(blurred * shading + real, imaginary)
    grey = magnitude ** draw.about_scanner(1.0, 0.07) * draw.about(500, 150)
    return np.round(grey).astype(np.int16)
