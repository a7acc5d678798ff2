"""The stand-ins for Slicer's widgets have the names of the real ones, and do what a panel needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("scene")


def click(widget, x=20, y=8):
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(x, y))


def volume(name="volume"):
    import slicer

    return slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.float32), name=name)


def test_classes_that_slicer_lacks_fail():
    import ctk
    import slicer

    with pytest.raises(AttributeError, match="ctkTrainingWidget"):
        _ = ctk.ctkTrainingWidget
    with pytest.raises(AttributeError, match="qMRMLCaseTable"):
        _ = slicer.qMRMLCaseTable
    with pytest.raises(AttributeError, match="vtkMRMLCaseNode"):
        _ = slicer.vtkMRMLCaseNode
    assert not hasattr(ctk, "qMRMLNodeComboBox")


def test_names_that_a_class_lacks_fail_and_others_are_not_imitated():
    import slicer

    combo = slicer.qMRMLNodeComboBox()
    with pytest.raises(AttributeError):
        combo.setNodeTypes  # noqa: B018  # Slicer's Python knows the property alone.
    with pytest.raises(AttributeError, match="noneAllowed"):
        combo.noneAllowed = True
    with pytest.raises(NotImplementedError, match="editCurrentNode"):
        combo.editCurrentNode()


def test_a_stand_in_cannot_do_more_than_the_real_class():
    from host import standins

    class Button:
        def trainNow(self):
            pass

    standins.imitates("ctkMenuButton")(Button)
    try:
        with pytest.raises(TypeError, match="trainNow"):
            standins.stand_in("ctkMenuButton")
    finally:
        standins._behaviours.pop("ctkMenuButton")


def test_every_stand_in_can_be_made():
    from host import standins

    for name in standins._behaviours:
        assert standins.stand_in(name).__name__ == name


def test_collapsible_button_hides_and_shows_by_click():
    import ctk
    import host
    import qt

    window = qt.QWidget()
    qt.QVBoxLayout(window)
    button = ctk.ctkCollapsibleButton()
    button.text = "Advanced"
    window.layout().addWidget(button)
    button.collapsed = True
    qt.QFormLayout(button)
    inside, never = qt.QLabel("inside"), qt.QLabel("never shown")
    never.visible = False
    button.layout().addRow(inside)
    button.layout().addRow(never)
    window.show()
    host.process_events()
    seen = []
    button.connect("contentsCollapsed(bool)", seen.append)
    assert not inside.visible
    click(button)
    host.process_events()
    assert not button.collapsed
    assert inside.visible
    assert not never.visible
    assert inside.y >= 20, "the contents lie below the head"
    click(button)
    assert (button.collapsed, inside.visible, seen) == (True, False, [False, True])
    inside.visible = True
    host.process_events()
    assert not inside.visible, "what is shown while its section is collapsed waits until that is opened"


def test_collapsible_group_box_hides():
    import ctk
    import host
    import qt

    box = ctk.ctkCollapsibleGroupBox()
    qt.QVBoxLayout(box)
    label = qt.QLabel("inside")
    box.layout().addWidget(label)
    box.show()
    box.collapsed = True
    host.process_events()
    assert not label.visible
    box.checked = True
    assert label.visible
    assert not box.collapsed


def test_slider_and_its_spin_box_agree():
    import ctk

    slider, seen = ctk.ctkSliderWidget(), []
    slider.connect("valueChanged(double)", seen.append)
    slider.minimum, slider.maximum, slider.singleStep, slider.decimals = 0, 1, 0.05, 2
    slider.value = 0.5
    slider._slider.setValue(15)
    slider._spin_box.setValue(0.2)
    slider.setValue(7)
    assert seen == [0.5, 0.75, 0.2, 1.0]
    slider.maximum = 0.6
    assert slider.value == 0.6


def test_path_line_and_directory_button_take_the_prepared_answer(tmp_path):
    import ctk
    import host
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    line, seen = ctk.ctkPathLineEdit(), []
    line.filters = ctk.ctkPathLineEdit.Dirs
    line.connect("currentPathChanged(QString)", seen.append)
    line.currentPath = "/a folder/ä"
    host.conversation.answers = [str(tmp_path), str(tmp_path)]
    QTest.mouseClick(line._browse_button, Qt.MouseButton.LeftButton)
    assert seen == ["/a folder/ä", str(tmp_path)]
    button = ctk.ctkDirectoryButton()
    button.connect("directoryChanged(QString)", seen.append)
    QTest.mouseClick(button._button, Qt.MouseButton.LeftButton)
    assert Path(button.directory) == tmp_path
    assert len(seen) == 3
    QTest.mouseClick(button._button, Qt.MouseButton.LeftButton)
    assert len(seen) == 3, "no answer is a refusal"


def test_a_path_line_that_is_emptied_tells_only_that_it_is_not_valid():
    import ctk

    line, seen = ctk.ctkPathLineEdit(), []
    line.connect("currentPathChanged(QString)", seen.append)
    line.connect("validInputChanged(bool)", seen.append)
    line.currentPath = "/a"
    line.currentPath = "/ab"
    line.currentPath = ""
    line.currentPath = "/c"
    assert seen == ["/a", True, "/ab", False, "/c", True]


def test_checkable_combo_box():
    import ctk
    import qt

    combo, seen = ctk.ctkCheckableComboBox(), []
    combo.connect("checkedIndexesChanged()", lambda: seen.append(len(combo.checkedIndexes())))
    combo.addItems(["liver", "spleen"])
    assert combo.noneChecked()
    combo.setCheckState(combo.checkableModel().index(1, 0), qt.Qt.Checked)
    assert [index.data() for index in combo.checkedIndexes()] == ["spleen"]
    assert seen == [1]


def test_node_combo_box_follows_the_scene(scene):
    import slicer

    combo, seen = slicer.qMRMLNodeComboBox(), []
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.noneEnabled = True
    combo.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: seen.append(node and node.GetName()))
    combo.connect("currentNodeChanged(bool)", seen.append)
    combo.setMRMLScene(scene)
    first, second = volume("first"), volume("second")
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert combo.nodeCount() == 2
    combo.setCurrentNode(second)
    assert combo.currentNodeID == second.GetID()
    assert seen == ["second", True]
    second.SetName("renamed")
    assert combo._combo.currentText == "renamed"
    scene.RemoveNode(second)
    assert combo.currentNode() is None
    assert seen[2:] == [None, False]
    combo.setCurrentNodeID(first.GetID())
    scene.Clear(0)
    assert combo.nodeCount() == 0
    assert combo.currentNode() is None


def test_node_combo_box_without_none_takes_the_first_and_filters_by_attribute(scene):
    import slicer

    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(scene)
    first = volume("first")
    assert combo.currentNode() is first
    first.SetHideFromEditors(True)
    volume("second").SetAttribute("role", "labeled")
    assert combo.currentNode().GetName() == "second"
    combo.addAttribute("vtkMRMLScalarVolumeNode", "role", "unlabeled")
    assert combo.nodeCount() == 0


def test_a_deleted_widget_observes_no_more(scene, capfd):
    import host
    import slicer

    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(scene)
    combo.delete()
    host.process_events()
    volume("after")
    assert capfd.readouterr().err == "", "VTK prints what an observer raises"


def test_segments_table_shows_and_chooses_segments(scene):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    table, seen = slicer.qMRMLSegmentsTableView(), []
    table.connect("selectionChanged(QItemSelection,QItemSelection)", lambda *_: seen.append(table.selectedSegmentIDs()))
    table.setMRMLScene(scene)
    table.setSegmentationNode(node)
    node.GetSegmentation().AddEmptySegment("a", "liver", (1, 0, 0))
    node.GetSegmentation().AddEmptySegment("b", "spleen")
    assert table.segmentCount == 2
    table.setSelectedSegmentIDs(["b"])
    assert seen[-1] == ["b"]
    node.GetSegmentation().RemoveSegment("b")
    assert table.selectedSegmentIDs() == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "<connections><connection><sender>a</sender><signal>clicked(int)</signal><receiver>b</receiver><slot>hide()</slot></connection></connections>",
            "no signal",
        ),
        (
            "<connections><connection><sender>a</sender><signal>clicked()</signal><receiver>c</receiver><slot>hide()</slot></connection></connections>",
            "'c'",
        ),
    ],
)
def test_a_wrong_connection_in_a_ui_file_fails(tmp_path, text, complaint):
    import slicer

    file = tmp_path / "wrong.ui"
    widgets = '<widget class="QPushButton" name="a"/><widget class="QLabel" name="b"/>'
    file.write_text(
        f'<ui version="4.0"><widget class="QWidget" name="w">{widgets}</widget>{text}</ui>', encoding="utf-8"
    )
    with pytest.raises((RuntimeError, ValueError), match=complaint):
        slicer.util.loadUI(str(file))
