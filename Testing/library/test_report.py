"""The report of a run folder written by hand, the slices that it shows, and the curves."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from SemiSAMPlusLib.cohort.cohort import Case, Class, Cohort, Role
from SemiSAMPlusLib.cohort.outputs import (
    REFINED_ENTROPY,
    Prompts,
    write_prompts,
    write_segmentation,
    write_uncertainty,
)
from SemiSAMPlusLib.cohort.volume import Grid
from SemiSAMPlusLib.errors import RunFolderError
from SemiSAMPlusLib.evaluation.comparison import ComparedCase, save_comparison
from SemiSAMPlusLib.evaluation.curves import LINE_COLORS, Curve, curves_of, draw_curves, smoothed
from SemiSAMPlusLib.evaluation.report import write_report
from SemiSAMPlusLib.evaluation.slices import (
    IMAGE,
    PREDICTION,
    PROMPTS,
    TRUTH,
    UNCERTAINTY,
    CaseLayers,
    uncertainty_limit,
    views,
)
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.run.events import EventWriter
from SemiSAMPlusLib.run.folder import RunFolder

CLASSES = (Class("left <atrium>", (1,), (0.9, 0.6, 0.0)), Class("wall", (2,), (0.3, 0.7, 0.9)))
#: Axes that run anterior, right and inferior, with three voxel sizes.
GRID = Grid((20, 24, 28), (1.5, 1.0, 2.0), (10.0, -20.0, 30.0), (0, -1, 0, -1, 0, 0, 0, 0, -1))


def _labels(center: tuple[int, int, int]) -> np.ndarray:
    """Return a ball of the first class in a shell of the second."""
    distance = np.linalg.norm(np.moveaxis(np.indices(GRID.shape), 0, -1) - center, axis=-1)
    return np.select([distance < 5, distance < 7], [1, 2], 0).astype(np.uint8)


def _prompts() -> Prompts:
    points = GRID.to_physical(np.array([[10, 12, 14], [10, 12, 15], [2, 2, 2]]))
    corners = GRID.to_physical(np.array([[4.5, 6.5, 8.5], [15.5, 17.5, 19.5]]))
    return Prompts(points, np.array([1, 1, 0]), ("wall",) * 3, {"wall": corners})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder as a training leaves it: a labelled, a held-out, an unlabelled and a test case."""
    folder = RunFolder(tmp_path / "läuft & fertig")
    random = np.random.default_rng(0)
    roles = {"one": Role.LABELED, "two": Role.VALIDATION, "drei <3>": Role.UNLABELED, "four": Role.TEST}
    cases = []
    for number, (name, role) in enumerate(roles.items()):
        truth = _labels((10, 12, 14))
        image, label = tmp_path / f"image{number}.nrrd", tmp_path / f"label{number}.nrrd"
        values = 100 * (truth > 0) + random.normal(0, 10, truth.shape)
        sitk.WriteImage(GRID.image(values.astype(np.float32)), str(image))
        if role in (Role.LABELED, Role.VALIDATION):
            sitk.WriteImage(GRID.image(truth), str(label))
        else:
            label.write_bytes(b"no one may read this")
        cases.append(Case(name, (image,), label, role))
        layers = folder.layers(name)
        write_segmentation(layers / "prediction.seg.nrrd", _labels((10, 12, 15)), GRID, CLASSES)
        write_uncertainty(
            layers / "uncertainty.nii.gz", 0.2 * random.random(GRID.shape, np.float32), GRID, REFINED_ENTROPY
        )
        prompts = _prompts()
        write_prompts(
            layers / "prompts.mrk.json", prompts.points, prompts.labels, prompts.class_names,
            boxes=prompts.boxes, direction=GRID.direction,
        )  # fmt: skip
    folder.write_description(
        {
            "config": TrainingConfig(iterations=60, generalists=("random-walker",)).to_dict(),
            "cohort": Cohort(tuple(cases), CLASSES).to_dict(),
            "plan": {"spacing": 1.25, "patch": [32, 32, 32]},
            "versions": {"torch": "2.13.0"},
            "generalists": [
                {"name": "random-walker", "contamination": "It learned from <nothing>.", "licence": "BSD-3"}
            ],
            "device": "cpu",
            "iterations": 60,
        }
    )
    with EventWriter(folder.events_file) as events:
        events.write("started", pid=1, host="here", device="cpu")
        for iteration in range(1, 61):
            losses = {"supervised": 1 / iteration, "consistency": 0.1}
            events.write("progress", iteration=iteration, iterations=60, losses=losses)
            if iteration % 20 == 0:
                dice = {"left <atrium>": 0.5 + iteration / 200, "wall": 0.4}
                events.write("metrics", iteration=iteration, dice=dice, on="validation", best=iteration == 40)
                events.write("trust", iteration=iteration, trust={"random-walker": 0.25})
        events.write("warning", text="Memory is <scarce>.")
        events.write("finished", reason="done", iteration=60)
    return folder


class _Page(HTMLParser):
    """Reads a page: its text, its tags, and whether every tag is closed where it should be."""

    _VOID = ("meta", "image", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _page(folder: RunFolder, **options: Any) -> _Page:
    path = write_report(folder, **options)
    assert path == folder.report
    return _Page(path.read_text(encoding="utf-8"))


def test_a_report_is_one_file_that_reaches_out_to_nothing(run: RunFolder) -> None:
    page = _page(run)
    html = run.report.read_text(encoding="utf-8")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href") and value[:1] != "#"]
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert re.findall(r"url\((?!#)|@import", html) == []
    # Namespaces of SVG are names, not addresses.
    assert set(re.findall(r"https?://[^\"'\s<]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    for link in links:
        with Image.open(io.BytesIO(base64.b64decode(link.split(",", 1)[1]))) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 1


def test_a_report_says_what_was_run_and_measured(run: RunFolder) -> None:
    page = _page(run)
    text = page.text
    assert "läuft & fertig" in text
    assert "mean-teacher with random-walker on unet3d (cpu)" in text
    assert "Best Dice 0.550 on held-out cases" in text, "the mean of 0.7 and 0.4 at iteration 40"
    assert "best (iteration 40)" in text
    assert "last (iteration 60)" in text
    assert "1 unlabelled, 1 held out, 1 test" in text
    assert "pictures of the cohort's volumes" in text
    assert "Dice was measured on held-out cases" in text
    assert "random-walker: It learned from <nothing>." in text
    assert "Memory is <scarce>." in text
    assert "Losses" in text
    assert "Trust in each generalist" in text
    assert "predictive entropy with generalists 0 0.2" in text
    assert "32 × 32 × 32 (planned)" in text
    assert page.tags.count("section") == 4
    for column in (IMAGE, TRUTH, PREDICTION, PROMPTS, UNCERTAINTY):
        assert column in text
    # Ground truth is shown of the labelled and the held-out case alone.
    assert page.words.count(TRUTH) == 2
    assert page.words.count(PREDICTION) == 4


def test_settings_that_were_left_open_are_shown_as_they_were_settled(run: RunFolder) -> None:
    described = {**run.describe(), "config": TrainingConfig().to_dict(), "iterations": 2400}
    run.write_description({**described, "precision": "bfloat16", "threads": 7})
    text = _page(run).text
    for setting in ("iterations 2400", "device cpu", "precision bfloat16", "threads 7", "spacing 1.25"):
        assert f"{setting} (planned)" in text


def test_measures_of_the_layers_are_in_the_table(run: RunFolder) -> None:
    from SemiSAMPlusLib.evaluation.metrics import evaluate_segmentation

    rows = evaluate_segmentation(_labels((10, 12, 15)), _labels((10, 12, 14)), GRID.spacing, CLASSES)
    text = _page(run).text
    for name, row in zip(("left <atrium>", "wall"), rows, strict=True):
        line = f"{name} {row.dice:.3f} {row.jaccard:.3f} {row.hd95_mm:.2f} {row.asd_mm:.2f}"
        assert f"two {line}" in text
        assert f"one {line}" in text
    assert text.index("Held-out cases two") < text.index("Labelled cases, which the specialist learned from one")


def test_labels_of_other_cases_are_never_opened(run: RunFolder, tmp_path: Path) -> None:
    assert "is not shown" not in _page(run).text, "the unreadable labels of unlabelled and test cases do not matter"
    before = run.report.read_bytes()
    (tmp_path / "label2.nrrd").unlink()
    (tmp_path / "label3.nrrd").unlink()
    write_report(run)
    assert run.report.read_bytes() == before
    (tmp_path / "label1.nrrd").write_bytes(b"broken")
    text = _page(run).text
    assert "The ground truth of two is not shown" in text
    assert "label1.nrrd: cannot be read" in text


def test_what_is_missing_is_left_out(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "image2.nrrd").unlink()
    (run.layers("one") / "uncertainty.nii.gz").unlink()
    (run.layers("one") / "prompts.mrk.json").unlink()
    page = _page(run)
    assert "Case drei <3> is not shown" in page.text
    assert "image2.nrrd: the file does not exist" in page.text
    assert page.tags.count("section") == 3
    assert page.words.count(UNCERTAINTY) == 2

    bare = RunFolder(tmp_path / "bare")
    bare.path.mkdir()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        write_report(bare)
    bare.write_description({})
    text = _page(bare).text
    assert "Nothing was measured yet." in text
    assert "No layers were written" in text
    bare.write_description(
        {"config": None, "cohort": {"format": "other"}, "generalists": ["sam"], "versions": [], "plan": 3}
    )
    assert "The cohort in run.json could not be read" in _page(bare).text


def test_without_held_out_cases_the_report_says_that_dice_is_flattered(run: RunFolder) -> None:
    text = run.events_file.read_text(encoding="ascii").replace('"validation"', '"labeled"')
    run.events_file.write_text(text, encoding="ascii")
    text = _page(run).text
    assert "There were no held-out cases" in text
    assert "Dice on labelled cases" in text
    assert "on held-out cases" not in text


def test_a_handful_holds_cases_of_every_part(run: RunFolder) -> None:
    page = _page(run, cases=3)
    assert page.tags.count("section") == 3
    headings = [word for word in page.words if word in ("one", "two", "drei <3>", "four")]
    assert {"one", "two", "drei <3>"} <= set(headings)


def test_layers_on_another_grid_are_moved_onto_the_image(run: RunFolder) -> None:
    smaller = GRID.cropped((2, 3, 4), (16, 18, 20))
    labels = _labels((10, 12, 15))[2:18, 3:21, 4:24]
    write_segmentation(run.layers("two") / "prediction.seg.nrrd", labels, smaller, CLASSES)
    page = _page(run)
    rows = page.text.split("Cases Slices")[0].split("Held-out cases")[-1].split()
    one = rows.index("one")
    assert rows[rows.index("two") + 1 : rows.index("two") + 7] == rows[one + 1 : one + 7]


def test_slices_are_seen_as_radiologists_do() -> None:
    """What grows brighter towards the patient's right, front and head is brightest at the upper left of each view."""
    physical = GRID.to_physical(np.argwhere(np.ones(GRID.shape, dtype=bool))).reshape(*GRID.shape, 3)
    shown = -physical[..., 0] - physical[..., 1] + physical[..., 2]
    for view in views(CaseLayers(shown, GRID, CLASSES)):
        pixels = view.tiles[0].pixels.astype(float)
        if view.name == "sagittal":
            assert view.sides == ("A", "P")
        else:
            assert view.sides == ("R", "L")
        assert pixels[0, 0] > pixels[0, -1], f"{view.name}: right or front is at the left"
        assert pixels[0, 0] > pixels[-1, 0], f"{view.name}: front or head is at the top"


def test_slices_pass_through_the_prediction_and_keep_its_proportions() -> None:
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[3, 4:8, 5:12] = 1  # A thin plate away from the middle.
    layers = CaseLayers(np.random.default_rng(0).random(GRID.shape), GRID, CLASSES, prediction=labels)
    for view in views(layers):
        image, prediction = view.tiles
        assert (image.name, prediction.name) == (IMAGE, PREDICTION)
        (outline,) = prediction.outlines
        low, high = outline.polygons[0].min(axis=0), outline.polygons[0].max(axis=0)
        # x of the array (1.5 mm, 7 voxels) runs forwards, y (1 mm, 4 voxels) to the right, z (2 mm, 1 voxel) downwards.
        assert high - low == pytest.approx({"axial": (4, 10.5), "coronal": (4, 2), "sagittal": (10.5, 2)}[view.name])
        assert (low >= 0).all()
        assert (high <= [view.width, view.height]).all()
        rows, columns = image.pixels.shape
        sizes = {"axial": (1.0, 1.5), "coronal": (1.0, 2.0), "sagittal": (1.5, 2.0)}[view.name]
        assert (view.width / columns, view.height / rows) == pytest.approx(sizes)


def test_prompts_lie_where_their_voxels_are() -> None:
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[6:13, 8:15, 10:17] = 1
    inside = GRID.to_physical(np.array([[9, 11, 13]]))
    corner = GRID.to_physical(np.array([[5.5, 7.5, 9.5], [12.5, 14.5, 16.5]]))
    prompts = Prompts(inside, np.array([1]), ("left <atrium>",), {"left <atrium>": corner})
    for view in views(CaseLayers(labels.astype(float), GRID, CLASSES, prediction=labels, prompts=prompts)):
        tile = view.tiles[-1]
        prediction, box = tile.outlines
        assert box.dashed
        np.testing.assert_allclose(box.polygons[0].min(axis=0), prediction.polygons[0].min(axis=0), atol=1e-6)
        (marker,) = tile.markers
        assert (marker.x, marker.y) == pytest.approx(prediction.polygons[0][:-1].mean(axis=0), abs=1.0)
        assert marker.positive
        assert marker.opacity == pytest.approx(1)


def test_without_a_prediction_slices_pass_through_the_most_uncertain_place() -> None:
    uncertainty = np.zeros(GRID.shape, dtype=np.float32)
    uncertainty[4, 20, 3] = 0.9
    layers = CaseLayers(
        np.ones(GRID.shape), GRID, CLASSES, prediction=np.zeros(GRID.shape, np.uint8), uncertainty=uncertainty
    )
    # The axes of the array run downwards, to the right, forwards, slices are counted from foot, right and front.
    expected = {"axial": 20 - 4, "sagittal": 24 - 20, "coronal": 28 - 3}
    assert {view.name: view.number for view in views(layers)} == expected


@pytest.mark.parametrize(("highest", "limit"), [(0.24, 0.25), (0.9, 1.0), (0.031, 0.05), (0.0, 1.0)])
def test_colours_of_uncertainty_end_at_a_round_number(highest: float, limit: float) -> None:
    assert uncertainty_limit([np.full((4, 4, 4), highest), np.zeros((4, 4, 4))]) == limit


def test_a_comparison_is_a_png(tmp_path: Path) -> None:
    truth = _labels((10, 12, 14))
    layers = CaseLayers(truth * 50.0, GRID, CLASSES, truth=truth)
    case = ComparedCase("fäll", layers, {"one": _labels((10, 12, 15)), "two": truth}, {"one": 0.8, "two": 1.0})
    path = tmp_path / "pictures" / "fäll.png"
    save_comparison(path, [case], {"one": [0.8, 0.7], "two": [1.0, float("nan")]}, "A comparison")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == pytest.approx(150 * (3 * 2.36 + 0.06 + 3.4), abs=2)
        tiles = picture.convert("RGB").crop((0, 0, 3 * 2.36 * 150, picture.height))
    blue = (np.abs(np.asarray(tiles).astype(int) - [77, 179, 230]) < 12).all(axis=-1).mean()
    assert blue > 1e-3, "the outer class is drawn in its colour"


def test_a_running_mean_does_not_lag_and_passes_over_gaps() -> None:
    ramp = np.arange(101.0)
    mean = smoothed(ramp, 3)
    np.testing.assert_allclose(mean[30:71], ramp[30:71], atol=0.02)
    gaps = np.where(np.arange(50) % 3 == 0, np.nan, 2.0)
    np.testing.assert_allclose(smoothed(gaps, 2), 2.0)
    assert np.isnan(smoothed(np.full(3, np.nan), 2)).all()


def test_what_a_resumed_run_says_twice_is_drawn_once() -> None:
    curve = Curve.of("loss", [(1, 5.0), (2, 4.0), (3, 9.0), (2, 3.0), (3, 2.0)])
    np.testing.assert_array_equal(curve.iterations, [1, 2, 3])
    np.testing.assert_array_equal(curve.values, [5, 3, 2])
    assert curves_of({"never": [(1, float("nan"))]}) == ()


def test_curves_take_their_colours_from_the_page_and_stay_small() -> None:
    points = [(i, 1 / i + 0.1 * (i % 7)) for i in range(1, 20_000)]
    svg = draw_curves(curves_of({"a": points, "b": points}), width=400, height=200, smooth=True, mark=9000)
    _Page(svg)
    assert svg.startswith('<svg viewBox="0 0 300 150"')
    assert "var(--muted)" in svg
    assert "var(--curve-1)" in svg
    assert not any(color in svg for color in LINE_COLORS)
    assert "<style" not in svg
    assert len(svg) < 120_000


def test_run_json_in_the_report_is_whole(run: RunFolder) -> None:
    page = _page(run)
    inside = page.text[page.text.index('{ "config"') :]
    description = json.JSONDecoder().raw_decode(inside)[0]
    assert description == json.loads(run.run_file.read_text(encoding="utf-8"))
