"""The panel as a whole: it fits, it explains itself, it is translated, it can be unloaded, it never holds up Slicer."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UI = sorted((ROOT / "SemiSAMPlus" / "Resources" / "UI").glob("*.ui"))
PANEL = sorted((ROOT / "SemiSAMPlus" / "SemiSAMPlusPanel").rglob("*.py"))

#: What a user can click, choose in or write into.
INTERACTIVE = {
    "QPushButton", "QToolButton", "QComboBox", "ctkComboBox", "QLineEdit", "QCheckBox", "QRadioButton", "QTableWidget",
    "QTreeWidget", "QListWidget", "QSpinBox", "QPlainTextEdit", "QProgressBar", "ctkSliderWidget", "ctkPathLineEdit",
    "ctkCollapsibleButton", "qMRMLNodeComboBox",
}  # fmt: skip
#: Properties and methods that show a text to the user.
SHOWING = {
    "text",
    "toolTip",
    "placeholderText",
    "windowTitle",
    "title",
    "setText",
    "setToolTip",
    "addItem",
    "addAction",
}


@pytest.mark.parametrize("path", UI, ids=lambda path: path.stem)
def test_every_control_of_the_designer_files_says_what_it_changes(path: Path) -> None:
    mute = [
        widget.get("name")
        for widget in ElementTree.parse(path).getroot().iter("widget")
        if widget.get("class") in INTERACTIVE
        and not any(prop.get("name") == "toolTip" and prop.findtext("string") for prop in widget.findall("property"))
    ]
    assert mute == []


@pytest.mark.parametrize("path", UI, ids=lambda path: path.stem)
def test_every_custom_widget_of_the_designer_files_is_declared(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    used = {widget.get("class", "") for widget in root.iter("widget")}
    declared = {custom.findtext("class") for custom in root.iter("customwidget")}
    assert {name for name in used if name.startswith(("ctk", "qMRML", "qSlicer"))} == declared
    assert root.findtext("class") == path.stem


def test_the_help_and_the_readme_call_the_button_as_it_is_called() -> None:
    start = ElementTree.parse(ROOT / "SemiSAMPlus" / "Resources" / "UI" / "Training.ui").find(
        ".//widget[@name='startButton']/property[@name='text']/string"
    )
    assert start is not None
    assert f"<i>{start.text}</i>" in (ROOT / "SemiSAMPlus" / "SemiSAMPlus.py").read_text(encoding="utf-8")
    assert f"*{start.text}*" in (ROOT / "README.md").read_text(encoding="utf-8")


def _literals(node: ast.AST) -> list[str]:
    """Return the words in a value that are shown as they stand, not through ``_()``."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) and re.search(r"[A-Za-z]{3}", node.value) else []
    if isinstance(node, ast.JoinedStr):
        return [word for part in node.values if isinstance(part, ast.Constant) for word in _literals(part)]
    if isinstance(node, ast.IfExp):
        return _literals(node.body) + _literals(node.orelse)
    if isinstance(node, ast.BinOp):
        return _literals(node.left) + _literals(node.right)
    if isinstance(node, (ast.Tuple, ast.List)):
        return [word for item in node.elts for word in _literals(item)]
    return []


def _untranslated(source: str) -> list[str]:
    """Return the words that a file shows to the user as they stand."""
    found = []
    for node in ast.walk(ast.parse(source)):
        values: list[ast.AST] = []
        if isinstance(node, ast.Assign):
            names = {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
            values = [node.value] if names & SHOWING else []
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            values = node.args if name in {*SHOWING, "ask"} else node.args[1:2] if name == "say" else []
        found += [word for value in values for word in _literals(value)]
    return found


def test_a_text_that_is_not_translated_is_found() -> None:
    assert _untranslated(
        'label.text = "Words"; say(label, f"{n} cases"); ask(_("Right?")); box.setText(_("x") + "Wrong")'
    ) == [
        "Words",
        " cases",
        "Wrong",
    ]


@pytest.mark.parametrize("path", PANEL, ids=lambda path: path.stem)
def test_what_the_panel_shows_goes_through_the_translation(path: Path) -> None:
    assert _untranslated(path.read_text(encoding="utf-8")) == []


def _hidden_by_width(stage: Any) -> list[str]:
    """Return the names of visible widgets that reach beyond the window's right edge."""
    import qt

    viewport = stage.window.viewport()
    beyond = []
    for widget in stage.window.findChildren(qt.QWidget):
        if widget.isVisible() and widget.objectName:
            right = widget.mapTo(viewport, qt.QPoint(widget.width, 0)).x() if viewport.isAncestorOf(widget) else 0
            if right > viewport.width:
                beyond.append(widget.objectName)
    return beyond


@pytest.mark.parametrize("state", ["empty", "ready", "running", "failed", "done"])
def test_it_fits_a_panel_of_400_pixels(stage: Any, state: str, tmp_path: Path) -> None:
    from stage import FakeLayers, add_segmentation, add_volume, choose, settle

    if state != "empty":
        add_segmentation(add_volume("a case with a name that is longer than the table is wide, and then some"))
        add_volume("two")
    if state not in ("empty", "ready"):
        run = stage.logic.add_run("a run with a name that is longer than anybody would write, and then some", state)
        run.iteration, run.iterations, run.seconds_left = 34_000, 100_000, 7200.0
        run.memory, run.device = {"process_gb": 11.1, "gpu_gb": 70.0, "gpu_total_gb": 80.0}, "cuda:0"
        run.case_layers["two"] = FakeLayers("two", ["prediction", "generalist:sam-med3d-turbo-cvpr", "uncertainty"])
        run.error = ("/a/path/" + "without_a_place_to_break/" * 6 + ": is gone.", "Bring it back.", tmp_path)
        settle()
        choose(stage.find("runCombo"), "a run")
    for name in ("advancedButton", "layersButton", "applyButton"):
        stage.find(name).collapsed = False
    stage.logic.installer.missing_now = ["torch>=2.6"]
    stage.panel.setup.check()
    settle()
    assert not stage.window.horizontalScrollBar().isVisible()
    assert _hidden_by_width(stage) == []


def test_no_line_of_a_text_is_cut(stage: Any) -> None:
    import qt
    from stage import settle

    stage.find("applyButton").collapsed = stage.find("layersButton").collapsed = False
    for width in (400, 320, 500):
        stage.window.resize(width, 300)
        settle()
        stage.tick()
        labels = [label for label in stage.window.findChildren(qt.QLabel) if label.wordWrap and label.isVisible()]
        assert len(labels) > 5
        for label in labels:
            wrapped = label.fontMetrics().boundingRect(0, 0, label.width, 9999, qt.Qt.TextWordWrap.value, label.text)
            assert wrapped.height() <= label.height, label.objectName
            assert label.minimumHeight == wrapped.height(), label.objectName  # Nor does a gap stay.


def test_another_style_is_followed_also_where_nothing_is_shown(stage: Any) -> None:
    from host.pictures import dark_style
    from stage import settle

    stage.find("methodButton").collapsed = True
    labels = [stage.find(name) for name in ("stateLabel", "methodChoiceNote", "generalistLabel")]
    light = [label.styleSheet for label in labels]
    with dark_style():
        stage.tick()
        dark = [label.styleSheet for label in labels]
    assert all(one and one != other for one, other in zip(dark, light, strict=True))
    stage.tick()
    settle()
    assert [label.styleSheet for label in labels] == light


def test_unloaded_it_observes_and_calls_nothing(stage: Any) -> None:
    from stage import add_volume, settle

    logic = stage.logic
    stage.panel.close()
    for signal in (logic.run_changed, logic.runs_changed, logic.prediction_changed, logic.devices_changed):
        assert signal._receivers == []
    assert logic.cases.changed._receivers == []
    rows = stage.find("volumesTable").rowCount
    add_volume("later")
    settle()
    assert stage.find("volumesTable").rowCount == rows


@pytest.fixture
def our_modules() -> Iterator[None]:
    """Keep what was imported of ours: other tests know its classes."""

    def ours() -> dict[str, Any]:
        tops = ("SemiSAMPlus", "SemiSAMPlusPanel", "SemiSAMPlusLib")
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] in tops}

    before = ours()
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


def test_an_older_slicer_is_told_which_one_is_needed(scene: Any, our_modules: None, monkeypatch: Any) -> None:
    import host

    monkeypatch.setattr(sys, "version_info", (3, 9, 10, "final", 0))
    with pytest.raises(ImportError, match=r"needs Slicer 5\.10 or later: this Slicer has Python 3\.9"):
        host.load_module(ROOT / "SemiSAMPlus")


def test_reloaded_while_it_is_shown_it_works_on(scene: Any, our_modules: None) -> None:
    import host
    import slicer

    opened = host.load_module(ROOT / "SemiSAMPlus")
    assert opened.widget.panel._timer.active
    opened.widget.onReload()
    again = slicer.util.getModuleWidget("SemiSAMPlus")
    assert again is not opened.widget
    assert again.panel._timer.active, "nobody enters a module that is shown already"
    slicer.util.selectModule("Segmentations")
    assert not again.panel._timer.active
    again.onReload()
    assert not slicer.util.getModuleWidget("SemiSAMPlus").panel._timer.active


def test_nothing_that_is_chosen_by_name_is_lost_when_the_panel_is_left_and_entered(stage: Any) -> None:
    from stage import choose

    choose(stage.find("methodCombo"), "Supervised")
    stage.panel.exit()
    stage.panel.enter()
    assert stage.find("methodCombo").currentText == "Supervised"


@pytest.mark.parametrize(("points", "least"), [(8, 20), (30, 21)])
def test_rows_are_as_high_as_their_text_needs(scene: Any, points: int, least: int) -> None:
    import host
    import qt

    host.load_module(ROOT / "SemiSAMPlus")
    from SemiSAMPlusPanel.widgets import fit_height, row_height

    listed = qt.QListWidget()
    listed.setFont(qt.QFont("Sans Serif", points))
    high = row_height(listed, 20)
    assert high >= max(least, listed.fontMetrics().height() + 4)
    assert (high == 20) == (points == 8)
    fit_height(listed, 3, 20)
    assert listed.maximumHeight == 3 * high + 2 * listed.frameWidth
