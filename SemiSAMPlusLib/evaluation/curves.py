"""Curves of a training as SVG: losses, Dice and trust over the iterations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe-Ito colours in an order whose neighbours differ most, without the yellow that vanishes on white.
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
#: The same for a dark page, lightened where they would vanish on it.
DARK_LINE_COLORS = ("#3f9fdc", "#ee7733", "#1fbf92", "#dd94bd", "#e9ac22", "#8fd0f4", "#a3a3a3")


def _color_style(colors: Sequence[str]) -> str:
    return ":root { " + " ".join(f"--curve-{number}: {color};" for number, color in enumerate(colors)) + " }"


#: What a page's style sheet needs for ``color_of``.
COLOR_STYLE = f"{_color_style(LINE_COLORS)}\n@media screen and (prefers-color-scheme: dark) {{ {_color_style(DARK_LINE_COLORS)} }}\n"

#: Stand-ins that matplotlib draws with, and what a page's style sheet sets in their place.
_INK, _FAINT = "#010203", "#040506"
_STAND_INS = {_INK: "var(--muted)", _FAINT: "var(--line)"}
#: The page's pixels are 96 to the inch.
_PIXELS = 96


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        name: What it is.
        iterations: (N,) where it was measured.
        values: (N,) what was measured.
    """

    name: str
    iterations: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, name: str, points: Sequence[tuple[float, float]]) -> Curve:
        """Return the curve through ``points`` (iteration, value); later points replace earlier ones at an iteration."""
        # A run that was killed and resumed says some iterations twice; what it said last is what it became.
        unique = dict(points)
        order = sorted(unique)
        return cls(name, np.array(order, dtype=float), np.array([unique[one] for one in order], dtype=float))


def color_of(number: int) -> str:
    """Return the colour of the curve of this number, as CSS; ``COLOR_STYLE`` defines it."""
    return f"var(--curve-{number % len(LINE_COLORS)})"


def _thinned(curve: Curve, most: int = 400) -> Curve:
    """Return the means of so many stretches at most, so that a long training does not make a heavy page."""
    if len(curve.values) <= most:
        return curve
    parts = np.array_split(np.arange(len(curve.values)), most)
    means = [(curve.iterations[part[-1]], _finite_mean(curve.values[part])) for part in parts]
    return Curve(curve.name, *np.array(means).T)


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else np.nan


def smoothed(values: np.ndarray, half_life: float) -> np.ndarray:
    """Return a running mean in which a value weighs half as much ``half_life`` values away, before or after.

    Args:
        values: (N,) values; those that are not finite are passed over.
        half_life: In values.
    """
    # Looking both ways keeps the mean from lagging behind a falling loss.
    forth, back = _sums_so_far(values, half_life), _sums_so_far(values[::-1], half_life)[:, ::-1]
    here = np.stack([np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), np.isfinite(values)])
    total, weight = forth + back - here
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)


def _sums_so_far(values: np.ndarray, half_life: float) -> np.ndarray:
    """Return (2, N): the sums of the values up to each, weighted by their age, and of the weights."""
    decay = 0.5 ** (1 / half_life)
    sums, running = np.zeros((2, len(values))), np.zeros(2)
    for index, value in enumerate(values):
        running = running * decay + (np.array([value, 1.0]) if np.isfinite(value) else 0.0)
        sums[:, index] = running
    return sums


def draw_curves(
    curves: Sequence[Curve],
    *,
    width: int,
    height: int,
    smooth: bool = False,
    limits: tuple[float, float] | None = None,
    mark: float | None = None,
    iterations: int | None = None,
) -> str:
    """Return curves as an SVG element whose text and frame take their colours from the page (``--muted``, ``--line``).

    Args:
        curves: The lines; that of number ``i`` has the colour ``color_of(i)``.
        width: In CSS pixels.
        height: In CSS pixels.
        smooth: Draw the measured values faintly, and over them their running mean.
        limits: Least and greatest value shown, or None to fit the curves.
        mark: An iteration to mark, such as that of the best checkpoint.
        iterations: The last iteration of the axis.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(_style()):
        figure = Figure((width / _PIXELS, height / _PIXELS), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        curves = [_thinned(curve) for curve in curves]
        for number, curve in enumerate(curves):
            _draw(axes, curve, LINE_COLORS[number % len(LINE_COLORS)], smooth)
        shown = np.concatenate([c.values[np.isfinite(c.values)] for c in curves]) if curves else np.zeros(0)
        last = max([float(c.iterations[-1]) for c in curves if len(c.iterations)] + [float(iterations or 1)])
        axes.set_xlim(0, last)
        if limits is not None:
            axes.set_ylim(*limits)
        elif _wants_logarithm(curves):
            axes.set_yscale("log")
        elif shown.size:
            low, high = min(0.0, float(shown.min())), float(np.quantile(shown, 0.995))
            axes.set_ylim(low, high * 1.06 if high > low else low + 1)
        if mark is not None:
            axes.axvline(mark, color=_INK, linewidth=0.8, dashes=(2, 3), zorder=1)
        if axes.get_yscale() == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, prune="upper"))
        axes.grid(axis="y")
        axes.tick_params(length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel("iteration", loc="right")
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(text.getvalue(), width, height)


def curves_of(series: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[Curve, ...]:
    """Return a curve for each named series of (iteration, value), without those that say nothing."""
    curves = (Curve.of(name, points) for name, points in series.items())
    return tuple(curve for curve in curves if np.isfinite(curve.values).any())


def _style() -> dict[str, object]:
    return {
        "font.family": "sans-serif",
        "font.size": 8.5,  # points; 11.3 CSS pixels
        "svg.fonttype": "none",
        "svg.hashsalt": "semisamplus",
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "axes.axisbelow": True,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _FAINT,
        "grid.linewidth": 0.7,
        "text.color": _INK,
    }


def _draw(axes: Axes, curve: Curve, color: str, smooth: bool) -> None:
    few = len(curve.values) < 25
    if not smooth or few:
        marker = "o" if few else ""
        axes.plot(
            curve.iterations,
            curve.values,
            color=color,
            linewidth=1.8,
            marker=marker,
            markersize=3.2,
            zorder=3,
            clip_on=False,
        )
        return
    axes.plot(curve.iterations, curve.values, color=color, linewidth=0.6, alpha=0.28, zorder=2)
    mean = smoothed(curve.values, max(2.0, len(curve.values) / 80))
    axes.plot(curve.iterations, mean, color=color, linewidth=1.8, zorder=3)


def _wants_logarithm(curves: Sequence[Curve]) -> bool:
    """Losses of which one is many times another are readable on a logarithmic scale only."""
    middles = [float(np.median(curve.values[np.isfinite(curve.values)])) for curve in curves]
    positive = all((curve.values[np.isfinite(curve.values)] > 0).all() for curve in curves)
    return len(middles) > 1 and positive and max(middles) > 20 * min(middles)


def _for_page(svg: str, width: int, height: int) -> str:
    """Turn matplotlib's SVG file into an element of a page: no prolog, the page's fonts, its colours and its width."""
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    opening = f'<svg viewBox="0 0 {width * 0.75:g} {height * 0.75:g}" role="img">'
    body = re.sub(r"<svg\b[^>]*>", opening, body, count=1)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.S)  # It would reach all of the page.
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # Several figures would say the same names.
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"\s*\n\s*", " ", body)
    colors = {color: color_of(number) for number, color in enumerate(LINE_COLORS)}
    for stand_in, style in {**_STAND_INS, **colors}.items():
        body = body.replace(stand_in, style)
    return body
