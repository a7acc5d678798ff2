"""A case's slices as a picture file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cohort.cohort import Class
from ..cohort.outputs import NEGATIVE_COLOR, POSITIVE_COLOR, Prompts
from ..cohort.volume import Grid
from ..run.files import replacing
from .slices import PROMPTS, TRUTH_COLOR, UNCERTAINTY, CaseLayers, Outline, Tile, View, uncertainty_limit, views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND, INK, MUTED = "#101216", "#f2f2f2", "#a9adb5"
#: Inches: width of a tile, the gap between tiles, the room for headings above and for the legend below.
_TILE, _GAP, _HEAD, _FOOT = 2.3, 0.06, 0.34, 0.42
FONT = ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"]


def save_case_picture(
    path: Path,
    image: np.ndarray,
    grid: Grid,
    classes: Sequence[Class],
    *,
    prediction: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    uncertainty: np.ndarray | None = None,
    uncertainty_source: str = "",
    prompts: Prompts | None = None,
    title: str = "",
) -> None:
    """Write a PNG of a case: axial, coronal and sagittal slices with what is known, side by side.

    Args:
        path: Where to write.
        image: (z, y, x) grey values.
        grid: Where the voxels lie; every other array is on it too.
        classes: The structures.
        prediction: (z, y, x) class indices.
        truth: (z, y, x) class indices of the ground truth.
        uncertainty: (z, y, x), 0 to 1.
        uncertainty_source: What the uncertainty is; written beside its colours.
        prompts: What generalists were asked with.
        title: A line above the picture.
    """
    layers = CaseLayers(image, grid, classes, prediction, truth, uncertainty, uncertainty_source, prompts)
    figure = _figure(layers, title)
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, dpi=150, facecolor=BACKGROUND)


def _figure(layers: CaseLayers, title: str) -> Figure:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limit = uncertainty_limit([] if layers.uncertainty is None else [layers.uncertainty])
    cuts = views(layers, uncertainty_limit=limit)
    columns = layers.columns
    widest = max(view.width for view in cuts)
    heights = [max(_TILE * view.height / widest, 0.5) for view in cuts]
    head = _HEAD + (0.36 if title else 0.0)
    width = len(columns) * (_TILE + _GAP) + _GAP
    height = head + sum(heights) + _GAP * len(cuts) + _FOOT
    with rc_context({"font.family": "sans-serif", "font.sans-serif": FONT, "text.color": INK}):
        figure = Figure((width, height))
        FigureCanvasAgg(figure)
        if title:
            figure.text(_GAP / width, 1 - 0.20 / height, title, size=12, weight="bold", va="center")
        for column, name in enumerate(columns):
            x = (_GAP + column * (_TILE + _GAP)) / width
            figure.text(x, 1 - (head - 0.15) / height, name, size=9.5, va="center", color=MUTED)
        top = head
        for view, tall in zip(cuts, heights, strict=True):
            for column, tile in enumerate(view.tiles):
                x = _GAP + column * (_TILE + _GAP)
                axes = figure.add_axes((x / width, 1 - (top + tall) / height, _TILE / width, tall / height))
                draw_tile(axes, view, tile, widest, _TILE / widest * 72)
                if column == 0:
                    note(axes, 0.025, 1 - 0.07 / tall, f"{view.name} {view.number} / {view.count}", "left", "top")
            top += tall + _GAP
        _legend(figure, layers, limit, width, height)
    return figure


def draw_tile(axes: Axes, view: View, tile: Tile, widest: float, points_per_mm: float) -> None:
    """Draw a tile of a view.

    Args:
        axes: Where.
        view: The view.
        tile: One of its tiles.
        widest: The width in mm that the axes show.
        points_per_mm: Points (1/72 inch) on the figure for each mm.
    """
    aside = (widest - view.width) / 2
    axes.set_facecolor("black")
    axes.imshow(
        tile.pixels, cmap="gray", vmin=0, vmax=255, extent=(0, view.width, view.height, 0), interpolation="bicubic"
    )
    axes.set(xlim=(-aside, view.width + aside), ylim=(view.height, 0), xticks=[], yticks=[], aspect="auto")
    axes.spines[:].set_visible(False)
    for outline in tile.outlines:
        _draw_outline(axes, outline)
    size = (0.026 * widest * points_per_mm) ** 2
    for marker in tile.markers:
        axes.scatter(
            marker.x, marker.y, s=size, marker="o" if marker.positive else "X", color=marker.color, alpha=marker.opacity,
            edgecolors="black", linewidths=0.6, zorder=5,
        )  # fmt: skip
    if tile.name != UNCERTAINTY:
        note(axes, 0.02, 0.5, view.sides[0], "left", "center")
        note(axes, 0.98, 0.5, view.sides[1], "right", "center")


def _draw_outline(axes: Axes, outline: Outline) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Shape
    from matplotlib.patheffects import withStroke

    shape = Shape.make_compound_path(*(Shape(polygon, closed=True) for polygon in outline.polygons))
    if outline.filled:
        axes.add_patch(PathPatch(shape, facecolor=outline.color, alpha=0.35, linewidth=0))
    thin = outline.color == TRUTH_COLOR
    width = 0.8 if thin else 1.3
    axes.add_patch(
        PathPatch(
            shape, facecolor="none", edgecolor=outline.color, linewidth=width, linestyle="--" if outline.dashed else "-",
            # A dark seam keeps the white line visible over bright tissue.
            path_effects=[withStroke(linewidth=width + 1.0, foreground=(0, 0, 0, 0.55))] if thin else None,
        )
    )  # fmt: skip


def note(axes: Axes, x: float, y: float, text: str, horizontal: str, vertical: str) -> None:
    """Write a few words over a picture, at a place given in parts of the axes."""
    from matplotlib.patheffects import withStroke

    axes.text(
        x, y, text, transform=axes.transAxes, size=7.5, ha=horizontal, va=vertical,
        path_effects=[withStroke(linewidth=1.6, foreground="black")],
    )  # fmt: skip


def _legend(figure: Figure, layers: CaseLayers, limit: float, width: float, height: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [Patch(color=one.color, label=one.name) for one in layers.classes]
    if layers.truth is not None and layers.prediction is not None:
        handles.append(Line2D([], [], color=TRUTH_COLOR, linewidth=1, label="ground truth"))
    if PROMPTS in layers.columns:
        for name, glyph, color in (("inside", "o", POSITIVE_COLOR), ("outside", "X", NEGATIVE_COLOR)):
            handles.append(Line2D([], [], linestyle="", marker=glyph, color=color, markersize=5, label=f"{name} point"))
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0, 0.21 / height), ncols=len(handles), frameon=False,
        fontsize=8.5, handlelength=1.1, handletextpad=0.5, columnspacing=1.4, borderaxespad=0.4,
    )  # fmt: skip
    if layers.uncertainty is not None:
        left = width - _TILE - _GAP
        bar = figure.add_axes((left / width, 0.25 / height, _TILE / width, 0.09 / height))
        bar.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto")
        bar.set_axis_off()
        for x, text, side in (
            (0.0, "0", "left"),
            (0.5, layers.uncertainty_source, "center"),
            (1.0, f"{limit:g}", "right"),
        ):
            figure.text((left + x * _TILE) / width, 0.13 / height, text, size=7.5, ha=side, va="center", color=MUTED)
