"""The curves of a run as table and plot nodes: they grow, stay small, and are found again."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", exc_type=ImportError)


@pytest.fixture
def chart(scene):
    return make(scene)


def make(scene, run="/runs/one"):
    from SemiSAMPlusPanel.chart import RunChart

    return RunChart(scene, run, "one", colors={"liver": (0.9, 0.1, 0.1)})


def column(chart, which, name):
    return slicer.util.arrayFromTableColumn(chart.table(which), name)


def series_names(chart):
    node = chart.chart
    return [node.GetNthPlotSeriesNode(index).GetName() for index in range(node.GetNumberOfPlotSeriesNodes())]


def test_curves_are_drawn_as_they_come(chart):
    losses = {"supervised": [(1, 2.0)]}
    dice = []
    assert chart.chart is None
    assert chart.update(losses, dice)
    table = chart.table("losses")
    assert not chart.update(losses, dice)
    losses["supervised"] += [(2, 1.5), (3, 1.0)]
    losses["pseudo"] = [(3, 0.25)]
    dice.append((3, {"liver": 0.5, "cyst": None}, "validation"))
    assert chart.update(losses, dice)
    assert chart.table("losses") is table
    assert column(chart, "losses", "iteration").tolist() == [1, 2, 3]
    assert column(chart, "losses", "supervised").tolist() == [2, 1.5, 1]
    assert np.array_equal(column(chart, "losses", "pseudo"), [np.nan, np.nan, 0.25], equal_nan=True)
    assert series_names(chart) == ["loss: supervised", "loss: pseudo", "Dice of liver", "Dice of cyst"]
    assert chart.chart.GetNthPlotSeriesNode(2).GetColor() == pytest.approx((0.9, 0.1, 0.1))
    for index in range(4):
        series = chart.chart.GetNthPlotSeriesNode(index)
        assert series.GetTableNode().GetTable().GetColumnByName(series.GetYColumnName()) is not None


def test_dice_of_labelled_cases_is_named_as_such(chart):
    chart.update({}, [(3, {"liver": 0.99}, "labeled")])
    assert series_names(chart) == ["Dice of liver (labelled cases)"]
    assert chart.chart.GetNthPlotSeriesNode(0).GetColor() == pytest.approx((0.9, 0.1, 0.1))


def test_a_long_run_stays_a_short_table(chart):
    values = np.linspace(2, 0, 10_000)
    losses = {"supervised": []}
    for start in range(0, 10_000, 700):
        losses["supervised"] += [(i + 1, float(values[i])) for i in range(start, min(start + 700, 10_000))]
        chart.update(losses, [])
    iterations, drawn = column(chart, "losses", "iteration"), column(chart, "losses", "supervised")
    assert 300 < len(drawn) <= 800
    assert iterations[-1] == 10_000
    assert np.all(np.diff(iterations) > 0)
    # Each point is the mean of the events up to its iteration: half a step behind.
    assert np.abs(drawn - np.interp(iterations, np.arange(1, 10_001), values)).max() < 0.002 * 2


def test_drawn_at_once_and_bit_by_bit_are_the_same(scene):
    values = [(i, float(i % 7)) for i in range(1, 3001)]
    whole, bits = make(scene, "/a"), make(scene, "/b")
    whole.update({"supervised": values}, [])
    for end in range(0, 3001, 13):
        bits.update({"supervised": values[:end]}, [])
    bits.update({"supervised": values}, [])
    assert np.array_equal(column(whole, "losses", "supervised"), column(bits, "losses", "supervised"))


@pytest.mark.parametrize("at_once", [True, False])
def test_what_a_resumed_run_does_again_is_drawn_once(chart, at_once):
    losses = {"supervised": [(i, 1.0) for i in range(1, 16)]}
    dice = [(10, {"liver": 0.1}, "validation"), (15, {"liver": 0.2}, "validation")]
    if not at_once:
        chart.update(losses, dice)
    losses["supervised"] += [(i, 3.0) for i in range(11, 21)]
    dice += [(15, {"liver": 0.3}, "validation"), (20, {"liver": 0.4}, "validation")]
    chart.update(losses, dice)
    assert column(chart, "losses", "iteration").tolist() == list(range(1, 21))
    assert column(chart, "losses", "supervised").tolist() == [1.0] * 10 + [3.0] * 10
    assert column(chart, "dice", "iteration").tolist() == [10, 15, 20]
    assert column(chart, "dice", "Dice of liver").tolist() == [0.1, 0.3, 0.4]


def test_a_value_that_is_not_finite_leaves_a_gap(chart):
    chart.update({"supervised": [(1, 2.0), (2, None), (3, float("nan")), (4, 1.0)]}, [])
    assert np.array_equal(column(chart, "losses", "supervised"), [2, np.nan, np.nan, 1], equal_nan=True)


def test_curves_are_found_again_after_the_scene_was_loaded(chart, scene, tmp_path):
    losses = {"supervised": [(1, 2.0), (2, 1.0)]}
    dice = [(2, {"liver": 0.5}, "validation")]
    chart.update(losses, dice)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    for one in (make(scene), chart):
        losses["supervised"].append((losses["supervised"][-1][0] + 1, 0.5))
        one.update(losses, dice)
        assert column(one, "losses", "supervised").tolist() == [value for _, value in losses["supervised"]]
        assert series_names(one) == ["loss: supervised", "Dice of liver"]
    assert len(slicer.util.getNodesByClass("vtkMRMLTableNode")) == 2
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) == 1


def test_after_the_scene_was_closed_all_is_drawn_again(chart, scene):
    losses = {"supervised": [(1, 2.0)]}
    chart.update(losses, [])
    scene.Clear(False)
    assert chart.chart is None
    assert not chart.is_shown()
    chart.hide()
    losses["supervised"].append((2, 1.0))
    chart.update(losses, [])
    assert column(chart, "losses", "supervised").tolist() == [2, 1]


def test_runs_have_curves_of_their_own(scene):
    first, second = make(scene, "/a"), make(scene, "/b")
    first.update({"supervised": [(1, 2.0)]}, [])
    second.update({"supervised": [(1, 3.0)]}, [])
    assert first.chart is not second.chart
    assert column(first, "losses", "supervised").tolist() == [2]
    second.remove()
    assert second.chart is None
    assert first.chart is not None
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")) == 1


def test_showing_changes_the_layout_and_hiding_gives_it_back(chart, scene):
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    chart.update({"supervised": [(1, 2.0)]}, [])
    chart.show()
    assert chart.is_shown()
    assert layout.GetViewArrangement() != slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    chart.hide()
    assert not chart.is_shown()
    assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


def test_all_lies_in_one_folder(chart, scene):
    import vtk

    chart.update({"supervised": [(1, 2.0)]}, [(2, {"liver": 0.5}, "validation")])
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    items = vtk.vtkIdList()
    tree.GetItemChildren(tree.GetItemParent(tree.GetItemByDataNode(chart.chart)), items)
    assert items.GetNumberOfIds() == 5
    chart.remove()
    assert tree.GetNumberOfItems() == 0
