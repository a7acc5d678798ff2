"""report.html: what a training did, with curves, measures and pictures, made from its run folder alone."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..cohort.cohort import Case, Cohort, Role, summary
from ..cohort.outputs import NEGATIVE_COLOR, POSITIVE_COLOR, read_prompts, read_segmentation, read_uncertainty
from ..cohort.volume import Grid, read_image
from ..errors import SemiSAMPlusError
from ..run import events as kinds
from ..run.config import TrainingConfig
from ..run.files import write_text_atomically
from ..run.folder import RunFolder
from .curves import COLOR_STYLE, Curve, color_of, curves_of, draw_curves
from .metrics import (
    MEASURES,
    Evaluation,
    Row,
    empty_notes,
    evaluate_segmentation,
    format_measure,
    format_summary,
)
from .slices import (
    PROMPTS,
    TRUTH_COLOR,
    UNCERTAINTY,
    CaseLayers,
    Marker,
    Outline,
    Tile,
    View,
    heat,
    uncertainty_limit,
    views,
)
from .style import STYLE

#: The pictures of so many cases go into a report.
HANDFUL = 6

#: The order in which cases are shown, and how their parts are called.
_ROLE_NAMES = {Role.VALIDATION: "held out", Role.UNLABELED: "unlabelled", Role.LABELED: "labelled", Role.TEST: "test"}
#: Settings that run.json tells as they were settled, beside the plan.
_SETTLED = ("iterations", "device", "precision", "threads")
#: Only these cases' labels may be opened.
_KNOWN_TRUTH = (Role.VALIDATION, Role.LABELED)


def write_report(run_folder: RunFolder, *, cases: int = HANDFUL, ended: str | None = None) -> Path:
    """Write ``report.html`` of a run: one file, without scripts, that needs nothing else.

    Everything is read from the run folder and from the images that its cohort names. Labels are opened of labelled and
    validation cases only. What is missing is left out, and what cannot be read is said.

    Args:
        run_folder: The folder of the run.
        cases: How many cases are shown with pictures at most.
        ended: How the run ended (``done``, ``stopped``), for who writes the report before saying so in the events.

    Returns:
        The path of the report.

    Raises:
        RunFolderError: If it is no run folder.
    """
    run = _Run.read(run_folder)
    if ended is not None:
        run.events.append({"event": kinds.FINISHED, "reason": ended})
    shown, rows = _read_cases(run, cases)
    sections = [
        _header(run),
        _facts(run),
        _notes(run),
        _curves(run),
        _measures(run, rows),
        _pictures(shown),
        _settings(run),
        _cohort(run),
        _generalists(run),
        _footer(run),
    ]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # No part of the page can reach out: pictures of patients stay in the file.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(run.name)} · SemiSAM+ training report</title>\n<style>{STYLE}{COLOR_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )
    write_text_atomically(run_folder.report, page)
    return run_folder.report


# What the folder says


@dataclass
class _Run:
    """All that the run folder says, apart from its volumes."""

    folder: RunFolder
    description: dict[str, Any]
    events: list[dict[str, Any]]
    cohort: Cohort | None
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: RunFolder) -> _Run:
        description = folder.describe()
        problems: list[str] = []
        cohort = None
        if "cohort" in description:
            try:
                cohort = Cohort.from_dict(description["cohort"], folder.path)
            except SemiSAMPlusError as error:
                problems.append(f"The cohort in run.json could not be read: {error.what}")
        return cls(folder, description, folder.events(), cohort, problems)

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def config(self) -> dict[str, Any]:
        config = self.description.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def generalists(self) -> list[dict[str, Any]]:
        found = self.description.get("generalists") or []
        return [one if isinstance(one, dict) else {"name": str(one)} for one in found]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("event") == kind]

    def last(self, kind: str) -> dict[str, Any]:
        found = self.of_kind(kind)
        return found[-1] if found else {}

    @property
    def iteration(self) -> int | None:
        """The last iteration that was reached."""
        reached = [
            event["iteration"]
            for event in self.events
            if isinstance(event.get("iteration"), int)
            and event["event"] in (kinds.PROGRESS, kinds.METRICS, kinds.FINISHED)
        ]
        return max(reached, default=None)

    @property
    def iterations(self) -> int | None:
        """The iterations that were asked for."""
        for found in (
            self.description.get("iterations"),
            self.last(kinds.PROGRESS).get("iterations"),
            self.config.get("iterations"),
        ):
            if isinstance(found, int):
                return found
        return None

    @property
    def best(self) -> dict[str, Any]:
        """The validation of the best checkpoint, else the last one."""
        validations = self.of_kind(kinds.METRICS)
        chosen = [event for event in validations if event.get("best")]
        return (chosen or validations or [{}])[-1]

    @property
    def validated_on(self) -> str:
        """``validation``, ``labeled``, or nothing where it is not known."""
        return str(self.last(kinds.METRICS).get("on", ""))

    @property
    def seconds(self) -> float:
        """How long processes worked: pauses between a stop and a resumption do not count."""
        return kinds.seconds_of_work(self.events)

    def series(self, kind: str, key: str) -> dict[str, list[tuple[float, float]]]:
        """Return for each name in the events' ``key`` its points (iteration, value)."""
        found: dict[str, list[tuple[float, float]]] = {}
        for event in self.of_kind(kind):
            values, iteration = event.get(key), event.get("iteration")
            if isinstance(values, dict) and isinstance(iteration, (int, float)):
                for name, value in values.items():
                    number = float(value) if isinstance(value, (int, float)) else math.nan
                    found.setdefault(str(name), []).append((iteration, number))
        return found


@dataclass
class _ShownCase:
    case: Case
    layers: CaseLayers
    rows: tuple[Row, ...] = ()


def _read_cases(run: _Run, limit: int) -> tuple[list[_ShownCase], list[tuple[Role, Row]]]:
    """Read the layers of cases: pictures of a handful, measures of all whose truth may be known."""
    shown: list[_ShownCase] = []
    rows: list[tuple[Role, Row]] = []
    if run.cohort is None:
        return shown, rows
    for case in _order(run.cohort, run.folder, limit):
        folder = run.folder.layers(case.name)
        if case.role not in _KNOWN_TRUTH and len(shown) >= limit:
            continue
        try:
            found = _read_case(run, case, folder)
        except (SemiSAMPlusError, RuntimeError) as error:
            run.problems.append(f"Case {case.name} is not shown: {getattr(error, 'what', error)}")
            continue
        rows += [(case.role, row) for row in found.rows]
        if len(shown) < limit:
            shown.append(found)
    return shown, rows


def _order(cohort: Cohort, folder: RunFolder, limit: int) -> list[Case]:
    """Return the cases that have layers, of each part some, so that a handful shows all parts."""
    parts = [
        [case for case in cohort.with_role(role) if folder.layers(case.name).is_dir()]
        for role in _ROLE_NAMES
    ]  # fmt: skip
    share = max(1, math.ceil(limit / max(1, sum(1 for part in parts if part))))
    return [case for part in parts for case in part[:share]] + [case for part in parts for case in part[share:]]


def _read_case(run: _Run, case: Case, folder: Path) -> _ShownCase:
    assert run.cohort is not None
    classes = run.cohort.classes
    image = read_image(case.images[0])
    grid = Grid.of(image)
    prediction = truth = uncertainty = prompts = None
    source = ""
    if (path := folder / "prediction.seg.nrrd").is_file():
        prediction = _onto(grid, *read_segmentation(path, classes))
    if (path := folder / "uncertainty.nii.gz").is_file():
        values, where, source = read_uncertainty(path)
        uncertainty = _onto(grid, values, where)
    if (path := folder / "prompts.mrk.json").is_file():
        prompts = read_prompts(path)
    if case.role in _KNOWN_TRUTH and case.label is not None:
        try:
            truth = _onto(grid, *read_segmentation(case.label, classes))
        except SemiSAMPlusError as error:
            run.problems.append(f"The ground truth of {case.name} is not shown: {error.what}")
    rows: tuple[Row, ...] = ()
    if prediction is not None and truth is not None:
        rows = tuple(evaluate_segmentation(prediction, truth, grid.spacing, classes, case=case.name))
    array = sitk.GetArrayFromImage(image)
    layers = CaseLayers(array, grid, classes, prediction, truth, uncertainty, source or "uncertainty", prompts)
    return _ShownCase(case, layers, rows)


def _onto(grid: Grid, array: np.ndarray, where: Grid) -> np.ndarray:
    """Return what lies on ``where`` on ``grid``; layers lie on their image's own grid, but a user may have moved either."""
    if where.difference(grid) is None:
        return array
    interpolator = sitk.sitkLinear if array.dtype == np.float32 else sitk.sitkNearestNeighbor
    moved = sitk.Resample(where.image(array), grid.reference(), sitk.Transform(), interpolator, 0.0)
    return sitk.GetArrayFromImage(moved)


# Sections of the page


def _header(run: _Run) -> str:
    config = run.config
    how = " with ".join(part for part in (config.get("method"), ", ".join(config.get("generalists") or ())) if part)
    words = [how, f"on {config['specialist']}" if config.get("specialist") else ""]
    if device := run.description.get("device") or config.get("device"):
        words.append(f"on {device}" if not words[1] else f"({device})")
    finished = run.last(kinds.FINISHED)
    state = {"done": "finished", "stopped": "stopped early"}.get(str(finished.get("reason")), "not finished")
    began = run.events[0].get("time") if run.events else None
    sentence = " ".join(word for word in words if word)
    when = f"{_date(began)}, {state}" if began else state
    return (
        f'<header><p class="kind">SemiSAM+ training report</p><h1>{escape(run.name)}</h1>'
        f'<p class="sub">{escape(sentence)}{" · " if sentence else ""}{escape(when)}</p></header>'
    )


def _facts(run: _Run) -> str:
    facts: list[tuple[str, str, str]] = []
    dice = {name: value for name, value in (run.best.get("dice") or {}).items() if _is_number(value)}
    if dice:
        where = {"validation": "held-out cases", "labeled": "the labelled cases themselves"}.get(run.validated_on, "")
        detail = f"on {where}" if where else ""
        facts.append(
            ("Dice" if not run.best.get("best") else "Best Dice", f"{np.mean(list(dice.values())):.3f}", detail)
        )
    if run.cohort is not None:
        others = [f"{len(run.cohort.unlabeled)} unlabelled"]
        others += [f"{len(run.cohort.validation)} held out"] if run.cohort.validation else []
        others += [f"{len(run.cohort.test)} test"] if run.cohort.test else []
        facts.append(("Labelled cases", str(len(run.cohort.labeled)), ", ".join(others)))
    if run.iteration is not None:
        of = f"of {run.iterations:,}" if run.iterations and run.iterations != run.iteration else ""
        best = run.best.get("iteration") if run.best.get("best") else None
        facts.append(
            ("Iterations", f"{run.iteration:,}", ", ".join(filter(None, (of, f"best at {best:,}" if best else ""))))
        )
    if run.seconds:
        per = f"{run.seconds / run.iteration:.2f} s an iteration" if run.iteration else ""
        facts.append(("Time", kinds.duration(run.seconds), per))
    items = "".join(
        f'<div class="fact"><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(detail)}&nbsp;</small></dd></div>'
        for name, value, detail in facts
    )
    return f'<dl class="facts">{items}</dl>' if items else ""


def _notes(run: _Run) -> str:
    notes = [
        "This file holds pictures of the cohort's volumes. Where these are of patients, treat it as you treat them: "
        "it is one file, and nothing in it reaches out to a network."
    ]
    if run.validated_on == "labeled":
        notes.append(
            "There were no held-out cases: Dice was measured on the labelled cases that the specialist learned from, so it "
            "says how well these are remembered, and is higher than on new cases."
        )
    elif run.validated_on == "validation":
        notes.append(
            "Dice was measured on held-out cases, which also chose the best checkpoint; on cases that chose nothing it may "
            "be a little lower."
        )
    notes += [
        f"{one.get('name', 'A generalist')}: {one['contamination']}"
        for one in run.generalists
        if one.get("contamination")
    ]
    notes += [str(event["text"]) for event in run.of_kind(kinds.WARNING) if event.get("text")]
    notes += [f"Error: {event.get('what', '')}" for event in run.of_kind(kinds.ERROR)]
    notes += run.problems
    items = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return f'<ul class="notes">{items}</ul>'


def _curves(run: _Run) -> str:
    losses = curves_of(run.series(kinds.PROGRESS, "losses"))
    dice = curves_of(run.series(kinds.METRICS, "dice"))
    trust = curves_of(run.series(kinds.TRUST, "trust"))
    best = run.best.get("iteration") if run.best.get("best") else None
    panels: list[tuple[str, Sequence[Curve], dict[str, Any]]] = []
    if losses:
        panels.append(("Losses", losses, {"smooth": True}))
    if dice:
        on = {"validation": "Dice on held-out cases", "labeled": "Dice on labelled cases"}.get(run.validated_on, "Dice")
        panels.append((on, dice, {"limits": (0, 1), "mark": best}))
    if trust:
        panels.append(("Trust in each generalist", trust, {"limits": _trust_limits(trust)}))
    if not panels:
        return '<h2>Curves</h2><p class="sub">Nothing was measured yet.</p>'
    # Drawn as wide as the page shows them, so that their text has its size.
    width = {1: 760, 2: 519}.get(len(panels), 337)
    figures = "".join(
        f"<figure><h3>{escape(title)}</h3>{_curve_key(curves)}"
        f"{draw_curves(curves, width=width, height=230, iterations=run.iterations, **options)}</figure>"
        for title, curves, options in panels
    )
    hints = []
    if losses and any(len(curve.values) >= 25 for curve in losses):
        hints.append("Losses are drawn faintly as they were measured, and boldly as their running mean.")
    if best is not None and dice:
        hints.append("The dotted line marks the best checkpoint.")
    hint = f'<p class="hint">{" ".join(hints)}</p>' if hints else ""
    style = f"--columns: {len(panels)}" + ("; max-width: 760px" if len(panels) == 1 else "")
    return f'<h2>Curves</h2><div class="curves" style="{style}">{figures}</div>{hint}'


def _curve_key(curves: Sequence[Curve]) -> str:
    items = (
        f'<li><i style="--color: {color_of(number)}"></i>{escape(_words(curve.name))}</li>'
        for number, curve in enumerate(curves)
    )
    return f'<ul class="key">{"".join(items)}</ul>'


def _trust_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    values = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in curves])
    return min(0.0, float(values.min())), max(1.0, float(values.max()))


def _measures(run: _Run, rows: Sequence[tuple[Role, Row]]) -> str:
    parts = []
    for role, title in (
        (Role.VALIDATION, "Held-out cases"),
        (Role.LABELED, "Labelled cases, which the specialist learned from"),
    ):
        of_role = [row for its_role, row in rows if its_role == role]
        if not of_role:
            continue
        evaluation = Evaluation(tuple(of_role))
        body = [f'<tr class="group"><th colspan="{2 + len(MEASURES)}">{title}</th></tr>']
        for row in of_role:
            values = [format_measure(getattr(row, measure), measure) for measure, _ in MEASURES]
            body.append(_measure_line(row.case, row.class_name, values))
        if len(of_role) > len(evaluation.class_names):
            for name in evaluation.class_names:
                values = [format_summary(evaluation.summary(name, measure), measure) for measure, _ in MEASURES]
                body.append(_measure_line("mean ± sd", name, values, "mean"))
        parts.append("".join(body))
    validation = _validation_table(run)
    if not parts and not validation:
        return ""
    html = "<h2>Measures</h2>" + validation
    if parts:
        head = "".join(f'<th class="number">{escape(heading)}</th>' for _, heading in MEASURES)
        notes = "".join(f'<p class="hint">{escape(note)}</p>' for note in empty_notes([row for _, row in rows]))
        html += (
            '<p class="hint">Of the layers as they lie in the run folder, on each image’s own grid. 95HD is the 95th percentile '
            "of the Hausdorff distance, ASD the average symmetric surface distance.</p>"
            f'<div class="wide"><table><thead><tr><th>Case</th><th>Structure</th>{head}</tr></thead>'
            f"<tbody>{''.join(parts)}</tbody></table></div>{notes}"
        )
    return html


def _measure_line(case: str, class_name: str, values: Iterable[str], kind: str = "") -> str:
    # A line may end before the count only, never within a number.
    texts = (escape(value).replace(" ", "&nbsp;").replace("&nbsp;(n", " (n") for value in values)
    cells = "".join(f'<td class="number">{one}</td>' for one in texts)
    return (
        f'<tr class="{kind}"><td class="name">{escape(case)}</td><td class="name">{escape(class_name)}</td>{cells}</tr>'
    )


def _validation_table(run: _Run) -> str:
    """Return the Dice of each structure at the best and the last validation, as the training measured it."""
    events = [("last", run.last(kinds.METRICS))]
    if run.best.get("best"):
        events.insert(0, ("best", run.best))
    names = list(dict.fromkeys(str(name) for _, event in events for name in (event.get("dice") or {})))
    if not names:
        return ""
    head = "".join(
        f'<th class="number">{label} (iteration {event.get("iteration", "?")})</th>' for label, event in events
    )
    body = ""
    for name in names:
        cells = "".join(
            f'<td class="number">{_number((event.get("dice") or {}).get(name))}</td>' for _, event in events
        )
        body += f'<tr><td class="name">{escape(name)}</td>{cells}</tr>'
    return (
        f'<div class="wide" style="max-width: 560px; margin-bottom: 22px"><table><thead><tr><th>Mean Dice in training</th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _pictures(shown: Sequence[_ShownCase]) -> str:
    if not shown:
        return '<h2>Cases</h2><p class="sub">No layers were written that could be shown.</p>'
    limits: dict[str, float] = {}
    for source in {one.layers.uncertainty_source for one in shown}:
        # One scale for all cases, so that they can be compared.
        volumes = [one.layers.uncertainty for one in shown if one.layers.uncertainty_source == source]
        limits[source] = uncertainty_limit([volume for volume in volumes if volume is not None])
    cards = "".join(_card(one, limits[one.layers.uncertainty_source]) for one in shown)
    return (
        '<h2>Cases</h2><p class="hint">Slices through the middle of the prediction, seen as radiologists do: the patient’s right '
        "at the left. A prompt point is the fainter the farther it lies from the slice.</p>" + cards
    )


def _card(one: _ShownCase, limit: float) -> str:
    cuts = views(one.layers, uncertainty_limit=limit)
    widest = max(view.width for view in cuts)
    columns = one.layers.columns
    heads = "".join(f'<div class="column">{name}</div>' for name in columns)
    tiles = "".join(
        _tile_html(view, tile, number == 0, widest) for view in cuts for number, tile in enumerate(view.tiles)
    )
    dice = ", ".join(
        (f"{row.class_name} " if len(one.rows) > 1 else "") + f"{row.dice:.3f}"
        for row in one.rows
        if math.isfinite(row.dice)
    )
    missing = (
        "" if one.layers.prediction is None or one.layers.prediction.any() else "<span>nothing is predicted here</span>"
    )
    # A card of few columns is narrow, rather than fill the page with one slice.
    width = f"max-width: {len(columns) * 270 + 32}px"
    return (
        f'<section class="case" style="{width}"><div class="head"><h3>{escape(one.case.name)}</h3><span>{_ROLE_NAMES[one.case.role]}</span>'
        f"{f'<span>Dice {escape(dice)}</span>' if dice else ''}{missing}</div>"
        f'<div class="tiles" style="--columns: {len(columns)}">{heads}{tiles}</div>'
        f'<div class="foot">{_card_key(one.layers)}{_scale(one.layers, limit)}</div></section>'
    )


def _tile_html(view: View, tile: Tile, first: bool, widest: float) -> str:
    label = f"{view.name} {view.number} / {view.count}"
    where = f'<span class="where">{label}</span>' if first else ""
    sides = (
        ""
        if tile.name == UNCERTAINTY
        else f'<span class="left">{view.sides[0]}</span><span class="right">{view.sides[1]}</span>'
    )
    drawn = "".join(_outline_svg(outline) for outline in tile.outlines)
    drawn += "".join(_marker_svg(marker, 0.014 * widest) for marker in tile.markers)
    return (
        f'<div class="tile"><svg viewBox="0 0 {view.width:.2f} {view.height:.2f}" style="width: {view.width / widest:.2%}" '
        f'role="img" aria-label="{escape(tile.name)}, {label}">'
        f'<image width="{view.width:.2f}" height="{view.height:.2f}" preserveAspectRatio="none" href="{_data_uri(tile.pixels)}"/>'
        f"{drawn}</svg>{where}{sides}</div>"
    )


def _outline_svg(outline: Outline) -> str:
    path = "".join(
        "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in polygon[:-1]) + "Z"
        for polygon in outline.polygons
        if len(polygon) > 2
    )
    color = _css(outline.color)
    fill = f'fill="{color}" fill-opacity=".35"' if outline.filled else 'fill="none"'
    thin = outline.color == TRUTH_COLOR
    dash = ' stroke-dasharray="5 3"' if outline.dashed else ""
    # A dark seam keeps the white line visible over bright tissue.
    seam = f'<path d="{path}" fill="none" stroke="#000" stroke-opacity=".55" stroke-width="2.6"/>' if thin else ""
    line = f'<path d="{path}" {fill} fill-rule="evenodd" stroke="{color}" stroke-width="{1.1 if thin else 1.7}"{dash}/>'
    return seam + line


def _marker_svg(marker: Marker, radius: float) -> str:
    x, y, color, opacity = marker.x, marker.y, _css(marker.color), f"{marker.opacity:.2f}"
    if marker.positive:
        return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}" fill="{color}" stroke="#000" stroke-width=".8" opacity="{opacity}"/>'
    r = radius * 0.85
    cross = f"M{x - r:.2f} {y - r:.2f}L{x + r:.2f} {y + r:.2f}M{x - r:.2f} {y + r:.2f}L{x + r:.2f} {y - r:.2f}"
    return (
        f'<g opacity="{opacity}"><path d="{cross}" stroke="#000" stroke-width="3.6"/>'
        f'<path d="{cross}" stroke="{color}" stroke-width="2.2"/></g>'
    )


def _card_key(layers: CaseLayers) -> str:
    items = [
        f'<li><i class="area" style="--color: {_css(one.color)}"></i>{escape(one.name)}</li>' for one in layers.classes
    ]
    if layers.truth is not None and layers.prediction is not None:
        items.append('<li><i style="--color: #fff; height: 2px"></i>ground truth, over the prediction</li>')
    if PROMPTS in layers.columns:
        for words, positive, color in (
            ("point inside", True, POSITIVE_COLOR),
            ("point outside", False, NEGATIVE_COLOR),
        ):
            marker = _marker_svg(Marker(6.5, 6.5, positive, color, 1.0), 4)
            items.append(f'<li><svg viewBox="0 0 13 13" aria-hidden="true">{marker}</svg>{words}</li>')
        if layers.prompts is not None and layers.prompts.boxes:
            items.append("<li>– – box</li>")
    return f'<ul class="key">{"".join(items)}</ul>'


def _scale(layers: CaseLayers, limit: float) -> str:
    if layers.uncertainty is None:
        return ""
    stops = ", ".join(f"rgb({r} {g} {b})" for r, g, b in heat(np.linspace(0, 1, 17)))
    source = escape(layers.uncertainty_source)
    return f'<div class="scale">{source} 0<i style="background: linear-gradient(90deg, {stops})"></i>{limit:g}</div>'


def _settings(run: _Run) -> str:
    if not run.config:
        return ""
    usual = {one.name: getattr(TrainingConfig(), one.name) for one in fields(TrainingConfig)}
    planned = dict(plan) if isinstance(plan := run.description.get("plan"), dict) else {}
    planned |= {name: run.description[name] for name in _SETTLED if name in run.description}
    items = ""
    for name, value in run.config.items():
        changed = name in usual and _plain(value) != _plain(usual[name])
        text = _value(value)
        if value in (None, "auto") and name in planned:
            text = f"{_value(planned[name])} (planned)"
        kind = ' class="changed"' if changed else ""
        items += f"<div{kind}><dt>{escape(_words(name))}</dt><dd>{escape(text)}</dd></div>"
    return (
        f'<h2>Settings</h2><p class="hint">What differs from the defaults is bold.</p><dl class="settings">{items}</dl>'
        f"<details><summary>run.json</summary><pre>{escape(json.dumps(run.description, indent=1, ensure_ascii=False))}</pre></details>"
    )


def _cohort(run: _Run) -> str:
    if run.cohort is None:
        return ""
    cohort = run.cohort
    swatches = "".join(
        f'<li><i class="area" style="--color: {_css(one.color)}"></i>{escape(one.name)} '
        f"(value {', '.join(map(str, one.values))})</li>"
        for one in cohort.classes
    )
    lines = "".join(
        f'<tr><td>{_ROLE_NAMES[role]}</td><td class="number">{len(cases)}</td>'
        f'<td class="name" style="padding-left: 24px">{escape(summary([case.name for case in cases]))}</td></tr>'
        for role in (Role.LABELED, Role.UNLABELED, Role.VALIDATION, Role.TEST)
        if (cases := cohort.with_role(role))
    )
    channels = (
        f'<p class="hint">Channels: {escape(", ".join(cohort.channels))}.</p>' if len(cohort.channels) > 1 else ""
    )
    return f'<h2>Cohort</h2><ul class="key">{swatches}</ul>{channels}<div class="wide"><table><tbody>{lines}</tbody></table></div>'


def _generalists(run: _Run) -> str:
    if not run.generalists:
        return ""
    trust = run.last(kinds.TRUST).get("trust") or {}
    body = "".join(
        f'<tr><td class="short">{escape(str(one.get("name", "")))}</td><td class="number">{_number(trust.get(one.get("name")))}</td>'
        f'<td style="padding-left: 24px">{escape(str(one.get("contamination") or "nothing is known"))}</td>'
        f'<td class="short">{escape(str(one.get("licence") or "–"))}</td></tr>'
        for one in run.generalists
    )
    return (
        '<h2>Generalists</h2><div class="wide"><table><thead><tr><th>Name</th><th class="number">Last trust</th>'
        '<th style="padding-left: 24px">May its training have held these cases?</th><th>Licence</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _footer(run: _Run) -> str:
    versions = run.description.get("versions")
    text = ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, Mapping) else ""
    return f"<footer>{escape(text) if text else 'SemiSAM+'}</footer>"


# Small things


def _data_uri(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _css(color: Iterable[float]) -> str:
    return "#" + "".join(f"{round(min(max(part, 0), 1) * 255):02x}" for part in color)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(value: Any) -> str:
    if value is None or value in ([], ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return (" × " if all(_is_number(part) for part in value) else ", ").join(map(_value, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:.3f}" if _is_number(value) else "–"


def _date(time: float) -> str:
    from datetime import datetime

    moment = datetime.fromtimestamp(time)
    return f"{moment.day} {moment:%B %Y, %H:%M}"
