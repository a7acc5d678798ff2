"""Several specialists side by side as a picture: what each finds in the same slices, and how well it does over all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..run.files import replacing
from .pictures import BACKGROUND, FONT, INK, MUTED, draw_tile, note
from .slices import TRUTH_COLOR, CaseLayers, View, views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    with rc_context({"font.family": "sans-serif", "font.sans-serif": FONT, "text.color": INK}):
        figure = Figure((width, height))
        FigureCanvasAgg(figure)
        figure.text(0.12 / width, 1 - 0.24 / height, title, size=13, weight="bold", va="center")
        for column, heading in enumerate(("Image and ground truth", *names)):
            x = (_GAP + column * (_TILE + _GAP) + 0.06) / width
            figure.text(x, 1 - (_HEAD - 0.15) / height, heading, size=9.5, va="center", color=MUTED)
        top = _HEAD
        for case, row, tall in zip(cases, rows, heights, strict=True):
            for column, view in enumerate(row):
                place = (_GAP + column * (_TILE + _GAP)) / width, 1 - (top + tall) / height
                axes = figure.add_axes((*place, _TILE / width, tall / height))
                draw_tile(axes, view, view.tiles[-1], widest, _TILE / widest * 72)
                words = case.name if column == 0 else f"Dice {case.dice[names[column - 1]]:.3f}"
                note(axes, 0.025, 1 - 0.07 / tall, words, "left", "top")
            top += tall + _GAP
        figure.text(
            0.12 / width, 0.16 / height, "White outline: ground truth. Bars: mean; dots: single cases.",
            size=8.5, color=MUTED, va="center",
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
            color=MUTED,
        )
        with replacing(Path(path)) as temporary:
            figure.savefig(temporary, dpi=150, facecolor=BACKGROUND)


def _row(case: ComparedCase, names: Sequence[str]) -> list[View]:
    """Return the axial view with the ground truth, then that of each prediction; the last tile is what to draw."""
    layers = replace(case.layers, focus=case.layers.truth)
    truth = views(replace(layers, prediction=None))[0]
    return [truth, *(views(replace(layers, prediction=case.predictions[name]))[0] for name in names)]


def _draw_chart(axes: Axes, dice: Mapping[str, Sequence[float]]) -> None:
    axes.set_facecolor(BACKGROUND)
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
    axes.set_xticks(places, labels, size=8, color=INK)
    axes.tick_params(axis="y", colors=MUTED, labelsize=8)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#30353d", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
