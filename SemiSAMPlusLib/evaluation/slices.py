"""The slices of a case that are worth a look: what to draw and where, before any drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..cohort.boxes import extent
from ..cohort.cohort import Class
from ..cohort.outputs import NEGATIVE_COLOR, POSITIVE_COLOR, Prompts
from ..cohort.volume import ORIENTATION, Grid

Color = tuple[float, float, float]

#: Outlines of the ground truth, and of the prediction over an uncertainty map.
TRUTH_COLOR: Color = (1.0, 1.0, 1.0)

IMAGE, TRUTH, PREDICTION, PROMPTS, UNCERTAINTY = "Image", "Ground truth", "Prediction", "Prompts", "Uncertainty"

# View: its name, the array axis (z, y, x) that it cuts, the axes that its rows and columns run along, whether rows are
# drawn upwards, and the sides that a reader sees at its left and right. Axes run superior, posterior, left.
_VIEWS = (
    ("axial", 0, (1, 2), False, ("R", "L")),
    ("coronal", 1, (0, 2), True, ("R", "L")),
    ("sagittal", 2, (0, 1), True, ("A", "P")),
)
#: The shown box is so many times as large as the structure, at least this part of the field of view.
_ROOM, _LEAST_PART = 1.7, 0.4
#: Points as far from a slice as this part of the box are still drawn, faintly.
_NEAR = 0.12


@dataclass(frozen=True)
class CaseLayers:
    """What is known of a case; every array is (z, y, x) on ``grid``.

    Attributes:
        image: Grey values.
        grid: Where the voxels lie.
        classes: The structures.
        prediction: Class indices, or None.
        truth: Class indices of the ground truth, or None where it is not known.
        uncertainty: 0 to 1, or None.
        uncertainty_source: What the uncertainty is.
        prompts: What generalists were asked with, or None.
        focus: What the slices pass through and are cropped to, a mask; the prediction and the truth where it is None.
    """

    image: np.ndarray
    grid: Grid
    classes: Sequence[Class]
    prediction: np.ndarray | None = None
    truth: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    uncertainty_source: str = ""
    prompts: Prompts | None = None
    focus: np.ndarray | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What there is to show of the case, from left to right."""
        asked = self.prompts is not None and (len(self.prompts.points) > 0 or len(self.prompts.boxes) > 0)
        there = {
            IMAGE: True,
            TRUTH: self.truth is not None,
            PREDICTION: self.prediction is not None,
            PROMPTS: asked,
            UNCERTAINTY: self.uncertainty is not None,
        }
        return tuple(name for name, shown in there.items() if shown)


@dataclass(frozen=True)
class Outline:
    """The outline of a region, in mm from the tile's upper left corner.

    Attributes:
        polygons: Closed lines (N, 2) as (x, y); those of holes run the other way round.
        color: sRGB, 0 to 1.
        filled: Whether the region is tinted.
        dashed: Whether the line is broken.
    """

    polygons: tuple[np.ndarray, ...]
    color: Color
    filled: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Marker:
    """A prompt point: (x, y) in mm from the tile's upper left corner, fainter with its distance from the slice."""

    x: float
    y: float
    positive: bool
    color: Color
    opacity: float


@dataclass(frozen=True)
class Tile:
    """One picture: a slice with what is drawn on it.

    Attributes:
        name: Which of the columns it belongs to.
        pixels: (rows, columns) uint8 grey, or (rows, columns, 3) uint8 sRGB, drawn from the top.
        outlines: Lines to draw.
        markers: Points to draw.
    """

    name: str
    pixels: np.ndarray
    outlines: tuple[Outline, ...] = ()
    markers: tuple[Marker, ...] = ()


@dataclass(frozen=True)
class View:
    """One cut through a case.

    Attributes:
        name: axial, coronal or sagittal.
        number: The slice, counted from 1, along the axis from foot to head, front to back, or right to left.
        count: How many slices there are.
        width: Of the cut in mm.
        height: Of the cut in mm.
        sides: The letters of the body's sides at left and right.
        tiles: The columns.
    """

    name: str
    number: int
    count: int
    width: float
    height: float
    sides: tuple[str, str]
    tiles: tuple[Tile, ...]


def views(layers: CaseLayers, *, uncertainty_limit: float = 1.0) -> tuple[View, ...]:
    """Return the axial, coronal and sagittal slices of a case through the middle of its prediction.

    Where nothing is predicted they pass through the most uncertain place. They are cropped to the structure with room
    around it, and seen as radiologists do: the patient's right at the left, the front at the left of a sagittal slice.

    Args:
        layers: What is known of the case.
        uncertainty_limit: The uncertainty that is drawn brightest.
    """
    turned = _Turned(layers)
    center, (start, stop) = turned.center(), turned.box()
    found = []
    for name, axis, (rows, columns), upwards, sides in _VIEWS:
        cut = _Cut(turned, axis, rows, columns, upwards, int(center[axis]), start, stop)
        found.append(
            View(
                name,
                number=int(center[axis]) + 1,
                count=turned.image.shape[axis],
                width=float((stop - start)[columns] * turned.spacing[columns]),
                height=float((stop - start)[rows] * turned.spacing[rows]),
                sides=sides,
                tiles=tuple(cut.tile(column, uncertainty_limit) for column in layers.columns),
            )
        )
    return tuple(found)


def uncertainty_limit(values: Sequence[np.ndarray]) -> float:
    """Return a round limit for the colours of several uncertainty volumes: few voxels lie above it."""
    highest = max((float(np.quantile(one[one > 0], 0.995)) for one in values if (one > 0).any()), default=1.0)
    steps = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8)
    return next((step for step in steps if highest <= step * 1.05), 1.0)


class _Turned:
    """A case's layers, their axes turned to superior, posterior, left."""

    def __init__(self, layers: CaseLayers) -> None:
        self.classes, self.prompts = layers.classes, layers.prompts
        oriented = sitk.DICOMOrient(layers.grid.image(layers.image.astype(np.float32)), ORIENTATION)
        self.grid = Grid.of(oriented)
        self.image = sitk.GetArrayFromImage(oriented)
        self.prediction, self.truth, self.uncertainty, self.focus = (
            None if array is None else sitk.GetArrayFromImage(sitk.DICOMOrient(layers.grid.image(array), ORIENTATION))
            for array in (layers.prediction, layers.truth, layers.uncertainty, layers.focus)
        )
        self.spacing = np.array(self.grid.spacing[::-1])
        self.window = self._window()

    def _window(self) -> tuple[float, float]:
        values = self.image[np.isfinite(self.image)]
        # What is air or padding says nothing about how bright the body is.
        inside = values[values > values.min()] if values.size else values
        if not inside.size:
            return 0.0, 1.0
        low, high = np.percentile(inside[:: max(1, inside.size // 500_000)], (1, 99.5))
        return float(low), float(high if high > low else low + 1)

    def center(self) -> np.ndarray:
        """Return the voxel to cut through: of the structure, the one nearest to its centre of mass."""
        for mask in (self.focus, self.prediction, self.truth):
            if mask is not None and mask.any():
                where = np.argwhere(mask > 0)
                return where[np.argmin((((where - where.mean(axis=0)) * self.spacing) ** 2).sum(axis=1))]
        if self.uncertainty is not None and np.nanmax(self.uncertainty) > 0:
            return np.array(np.unravel_index(np.nanargmax(self.uncertainty), self.uncertainty.shape))
        return np.array(self.image.shape) // 2

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return first and past-the-last voxel of what is shown: the structures with room, square in the axial plane."""
        shape = np.array(self.image.shape)
        masks = (self.prediction, self.truth) if self.focus is None else (self.focus,)
        extents = [ends for mask in masks if mask is not None and (ends := extent(mask > 0)) is not None]
        if not extents:
            return np.zeros(3, dtype=int), shape
        low, high = np.min(extents, axis=(0, 1)), np.max(extents, axis=(0, 1)) + 1
        size = np.maximum((high - low) * _ROOM, shape * _LEAST_PART) * self.spacing
        size[1:] = size[1:].max()
        voxels = np.minimum(np.ceil(size / self.spacing).astype(int), shape)
        start = np.clip((low + high - voxels) // 2, 0, shape - voxels)
        return start, start + voxels


class _Cut:
    """One cut through turned layers."""

    def __init__(
        self,
        turned: _Turned,
        axis: int,
        rows: int,
        columns: int,
        upwards: bool,
        index: int,
        start: np.ndarray,
        stop: np.ndarray,
    ) -> None:
        self._turned, self._axis, self._rows, self._columns = turned, axis, rows, columns
        self._upwards, self._index, self._start, self._stop = upwards, index, start, stop

    def tile(self, name: str, limit: float) -> Tile:
        turned = self._turned
        low, high = turned.window
        grey = np.clip((np.nan_to_num(self._plane(turned.image), nan=low) - low) / (high - low) * 255, 0, 255)
        pixels = grey.astype(np.uint8)
        if name == TRUTH and turned.truth is not None:
            return Tile(name, pixels, self._classes(turned.truth, filled=True))
        if name == PREDICTION and turned.prediction is not None:
            truth = () if turned.truth is None else self._classes(turned.truth, color=TRUTH_COLOR)
            return Tile(name, pixels, (*self._classes(turned.prediction, filled=True), *truth))
        if name == PROMPTS:
            outlines = () if turned.prediction is None else self._classes(turned.prediction)
            return Tile(name, pixels, (*outlines, *self._boxes()), self._markers())
        if name == UNCERTAINTY and turned.uncertainty is not None:
            outlines = () if turned.prediction is None else self._classes(turned.prediction, color=TRUTH_COLOR)
            return Tile(name, heat(self._plane(turned.uncertainty) / limit), outlines)
        return Tile(name, pixels)

    def _plane(self, array: np.ndarray) -> np.ndarray:
        cropped = array[tuple(slice(a, b) for a, b in zip(self._start, self._stop, strict=True))]
        plane = np.take(cropped, self._index - self._start[self._axis], axis=self._axis)
        return plane[::-1] if self._upwards else plane

    def _classes(self, labels: np.ndarray, *, filled: bool = False, color: Color | None = None) -> tuple[Outline, ...]:
        from skimage.measure import find_contours

        outlines = []
        plane = self._plane(labels)
        scale = self._turned.spacing[[self._rows, self._columns]]
        for index, one in enumerate(self._turned.classes, start=1):
            mask = plane == index
            if not mask.any():
                continue
            # A rim of background closes the outlines of what reaches the tile's edge.
            lines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
            polygons = tuple(((line - 0.5) * scale)[:, ::-1] for line in lines)
            outlines.append(Outline(polygons, color or one.color, filled))
        return tuple(outlines)

    def _to_tile(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map array indices (N, 3) to (x, y) in mm on the tile, and to the distance from the slice in mm."""
        turned = self._turned
        mm = (indices - self._start + 0.5) * turned.spacing
        height = (self._stop - self._start)[self._rows] * turned.spacing[self._rows]
        y = height - mm[:, self._rows] if self._upwards else mm[:, self._rows]
        distance = np.abs(indices[:, self._axis] - self._index) * turned.spacing[self._axis]
        return np.stack([mm[:, self._columns], y], axis=1), distance

    def _markers(self) -> tuple[Marker, ...]:
        prompts = self._turned.prompts
        if prompts is None or not len(prompts.points):
            return ()
        places, distance = self._to_tile(self._turned.grid.to_index(prompts.points))
        extent = (self._stop - self._start) * self._turned.spacing
        near = max(_NEAR * float(extent.max()), 1.5 * float(self._turned.spacing[self._axis]))
        size = extent[[self._columns, self._rows]]
        markers = []
        for (x, y), far, label in zip(places.tolist(), distance.tolist(), prompts.labels, strict=True):
            if far <= near and 0 <= x <= size[0] and 0 <= y <= size[1]:
                color = POSITIVE_COLOR if label == 1 else NEGATIVE_COLOR
                markers.append(Marker(x, y, bool(label == 1), color, opacity=1 - 0.7 * far / near))
        return tuple(markers)

    def _boxes(self) -> tuple[Outline, ...]:
        prompts, outlines = self._turned.prompts, []
        colors = {one.name: one.color for one in self._turned.classes}
        for name, corners in (prompts.boxes if prompts is not None else {}).items():
            indices = self._turned.grid.to_index(corners)
            low, high = indices.min(axis=0), indices.max(axis=0)
            if low[self._axis] - 0.5 <= self._index <= high[self._axis] + 0.5:
                ((x0, y0), (x1, y1)), _ = self._to_tile(np.stack([low, high]))
                square = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])
                outlines.append(Outline((square,), colors.get(name, POSITIVE_COLOR), dashed=True))
        return tuple(outlines)


def heat(values: np.ndarray) -> np.ndarray:
    """Return the colours of values from 0 to 1, (..., 3) uint8: black over red to pale yellow, readable to the colour-blind."""
    from matplotlib import colormaps

    return colormaps["inferno"](np.clip(np.nan_to_num(values), 0, 1), bytes=True)[..., :3]
