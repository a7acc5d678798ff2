"""Several specialists side by side as a picture: what each finds in the same slices, and how well it does over all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..run.files import replacing
from .slices import TRUTH_COLOR, CaseLayers, Outline, View, views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BACKGROUND, _INK, _MUTED = "#101216", "#f2f2f2", "#a9adb5"
_FONT = ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"]
#: Inches: width of a tile, the gap between tiles, the rooms above and below, and the chart's width with its margin.
_TILE, _GAP, _HEAD, _FOOT, _CHART, _MARGIN = 2.3, 0.06, 0.78, 0.36, 3.4, 0.75
#: The chart is no taller than this, in inches.
_TALLEST = 3.6
#: Colours of the bars, from what is compared with to what is proposed.
_BARS = ("#7d8590", "#56b4e9", "#e69f00", "#cc79a7")


@dataclass(frozen=True)
class ComparedCase:
    """One case, and what each specialist finds in it.

    Attributes:
        name: The case.
        layers: Its image, its ground truth and their grid.
        predictions: (z, y, x) class indices by the name of the specialist.
        dice: Mean Dice over the classes by the name of the specialist.
    """

    name: str
    layers: CaseLayers
    predictions: Mapping[str, np.ndarray]
    dice: Mapping[str, float]


def save_comparison(path: Path, cases: Sequence[ComparedCase], dice: Mapping[str, Sequence[float]], title: str) -> None:
    """Write a PNG: a row for each case, a column for each specialist, and a chart of the Dice of all cases.

    All tiles of a row show one axial slice, through the middle of the ground truth, whose outline is white.

    Args:
        path: Where to write.
        cases: The cases to show.
        dice: The Dice of every case, also of those not shown, by the name of the specialist.
        title: A line above the picture.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = tuple(dice)
    rows = [_row(case, names) for case in cases]
    widest = max(view.width for row in rows for view in row)
    heights = [max(_TILE * row[0].height / widest, 0.5) for row in rows]
    left = (len(names) + 1) * (_TILE + _GAP) + _GAP
    width, height = left + _CHART, _HEAD + sum(heights) + _GAP * len(rows) + _FOOT
    with rc_context({"font.family": "sans-serif", "font.sans-serif": _FONT, "text.color": _INK}):
        figure = Figure((width, height))
        FigureCanvasAgg(figure)
        figure.text(0.12 / width, 1 - 0.24 / height, title, size=13, weight="bold", va="center")
        for column, heading in enumerate(("Image and ground truth", *names)):
            x = (_GAP + column * (_TILE + _GAP) + 0.06) / width
            figure.text(x, 1 - (_HEAD - 0.15) / height, heading, size=9.5, va="center", color=_MUTED)
        top = _HEAD
        for case, row, tall in zip(cases, rows, heights, strict=True):
            for column, view in enumerate(row):
                place = (_GAP + column * (_TILE + _GAP)) / width, 1 - (top + tall) / height
                axes = figure.add_axes((*place, _TILE / width, tall / height))
                _draw_view(axes, view, widest)
                words = case.name if column == 0 else f"Dice {case.dice[names[column - 1]]:.3f}"
                _note(axes, 0.025, 1 - 0.07 / tall, words, "left", "top")
            top += tall + _GAP
        figure.text(
            0.12 / width, 0.16 / height, "White outline: ground truth. Bars: mean; dots: single cases.",
            size=8.5, color=_MUTED, va="center",
        )  # fmt: skip
        tall = min(top - _HEAD - 0.6, _TALLEST)
        place = (left + _MARGIN) / width, 1 - (_HEAD + 0.2 + tall) / height
        chart = figure.add_axes((*place, (_CHART - _MARGIN - 0.35) / width, tall / height))
        _draw_chart(chart, dice)
        figure.text(
            (left + 0.25) / width,
            1 - (_HEAD - 0.15) / height,
            "Dice of all test cases",
            size=9.5,
            va="center",
            color=_MUTED,
        )
        with replacing(Path(path)) as temporary:
            figure.savefig(temporary, dpi=150, facecolor=_BACKGROUND)


def _row(case: ComparedCase, names: Sequence[str]) -> list[View]:
    """Return the axial view with the ground truth, then that of each prediction; the last tile is what to draw."""
    layers = replace(case.layers, focus=case.layers.truth)
    truth = views(replace(layers, prediction=None))[0]
    return [truth, *(views(replace(layers, prediction=case.predictions[name]))[0] for name in names)]


def _draw_view(axes: Axes, view: View, widest: float) -> None:
    """Draw the last tile of a view on axes that show ``widest`` mm."""
    tile, aside = view.tiles[-1], (widest - view.width) / 2
    axes.set_facecolor("black")
    axes.imshow(
        tile.pixels, cmap="gray", vmin=0, vmax=255, extent=(0, view.width, view.height, 0), interpolation="bicubic"
    )
    axes.set(xlim=(-aside, view.width + aside), ylim=(view.height, 0), xticks=[], yticks=[], aspect="auto")
    axes.spines[:].set_visible(False)
    for outline in tile.outlines:
        _draw_outline(axes, outline)
    _note(axes, 0.02, 0.5, view.sides[0], "left", "center")
    _note(axes, 0.98, 0.5, view.sides[1], "right", "center")


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
            shape, facecolor="none", edgecolor=outline.color, linewidth=width,
            # A dark seam keeps the white line visible over bright tissue.
            path_effects=[withStroke(linewidth=width + 1.0, foreground=(0, 0, 0, 0.55))] if thin else None,
        )
    )  # fmt: skip


def _note(axes: Axes, x: float, y: float, text: str, horizontal: str, vertical: str) -> None:
    """Write a few words over a picture, at a place given in parts of the axes."""
    from matplotlib.patheffects import withStroke

    axes.text(
        x, y, text, transform=axes.transAxes, size=7.5, ha=horizontal, va=vertical,
        path_effects=[withStroke(linewidth=1.6, foreground="black")],
    )  # fmt: skip


def _draw_chart(axes: Axes, dice: Mapping[str, Sequence[float]]) -> None:
    axes.set_facecolor(_BACKGROUND)
    values = [np.asarray([one for one in scores if np.isfinite(one)]) for scores in dice.values()]
    means = [float(one.mean()) if one.size else 0.0 for one in values]
    colors = [_BARS[number % len(_BARS)] for number in range(len(values))]
    places = np.arange(len(values))
    axes.bar(places, means, width=0.62, color=colors, zorder=2)
    for place, scores, mean, color in zip(places, values, means, colors, strict=True):
        spread = (np.arange(scores.size) - (scores.size - 1) / 2) * min(0.06, 0.4 / max(scores.size, 1))
        axes.scatter(place + spread, scores, s=11, color=TRUTH_COLOR, edgecolors="black", linewidths=0.5, zorder=4)
        # Above the chart, where no dot can be.
        axes.text(float(place), 1.01, f"{mean:.3f}", ha="center", va="bottom", size=9.5, weight="bold", color=color)
    axes.set(ylim=(0, 1), xlim=(-0.6, len(values) - 0.4))
    # One word a line: names are longer than bars are wide.
    labels = [name.replace(" + ", "\n+ ").replace(" only", "\nonly").replace("-", "-\n") for name in dice]
    axes.set_xticks(places, labels, size=8, color=_INK)
    axes.tick_params(axis="y", colors=_MUTED, labelsize=8)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#30353d", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
