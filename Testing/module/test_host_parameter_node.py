"""The stand-in for Slicer's parameter node wrapper behaves as the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent / "example" / "HostExample"


@pytest.fixture
def panel(scene):
    import host

    return host.load_module(EXAMPLE)


@pytest.fixture
def parameters(panel):
    return panel.widget.parameters


def volume(name="volume"):
    import slicer

    return slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.float32), name=name)


def test_defaults_are_written_into_the_node(parameters):
    assert parameters.minutes == 8
    assert parameters.isShown is True
    assert parameters.quality.name == "QUICK", "an enum without a default takes its first member"
    assert parameters.name == "run"
    assert parameters.volume is None
    assert parameters.folder == Path()
    assert list(parameters.cases) == []
    assert parameters.seed is None
    node = parameters.parameterNode
    assert node.IsA("vtkMRMLScriptedModuleNode")
    assert (node.GetParameter("minutes"), node.GetParameter("isShown"), node.GetParameter("cases.len")) == (
        "8",
        "True",
        "0",
    )
    assert parameters.default("minutes").value == 8


def test_values_are_kept_in_the_form_that_slicer_writes(parameters):
    parameters.quality = type(parameters.quality).THOROUGH
    parameters.isShown = False
    parameters.folder = Path("/data/ä b")
    parameters.cases = ["a", "b"]
    parameters.cases.append("c")
    parameters.seed = 3
    parameters.volume = volume()
    node = parameters.parameterNode
    assert node.GetParameter("quality") == "THOROUGH"
    assert node.GetParameter("isShown") == "False"
    assert node.GetParameter("folder") == str(Path("/data/ä b"))
    assert [node.GetParameter(f"cases.{key}") for key in ("len", "0", "1", "2")] == ["3", "a", "b", "c"]
    assert node.GetParameter("seed.0") == "3"
    assert node.GetNodeReference("volume") is parameters.volume


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("minutes", 33, ValueError),
        ("minutes", "8", TypeError),
        ("iterations", 1.5, TypeError),
        ("device", "cuda:7", ValueError),
        ("name", None, ValueError),
        ("isShown", "yes", TypeError),
        ("folder", "/data", TypeError),
        ("cases", [1], TypeError),
    ],
)
def test_values_that_are_not_allowed_fail_and_change_nothing(parameters, name, value, error):
    before = parameters.getValue(name)
    with pytest.raises(error):
        setattr(parameters, name, value)
    assert parameters.getValue(name) == before


def test_unknown_names_fail(parameters):
    with pytest.raises(ValueError, match="hours"):
        parameters.getValue("hours")
    with pytest.raises(ValueError, match="hours"):
        parameters.connectParametersToGui({"hours": None})


def test_a_node_of_another_class_fails(parameters, scene):
    with pytest.raises(TypeError):
        parameters.volume = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")


def test_each_change_is_one_modified_event(parameters):
    import slicer
    import vtk

    events = []
    parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: events.append(parameters.minutes))
    parameters.minutes = 9
    assert events == [9], "observers see the new value"
    parameters.minutes = 9
    assert events == [9]
    with slicer.util.NodeModify(parameters):
        parameters.minutes = 10
        parameters.cases = ["a", "b"]
    assert events == [9, 10]


def test_two_wrappers_of_one_node_agree(panel):
    other = panel.widget.logic.getParameterNode()
    other.iterations = 7
    assert panel.widget.parameters.iterations == 7


def test_widgets_show_parameters(panel, parameters):
    node = volume("shown")
    parameters.minutes, parameters.iterations, parameters.isShown = 20, 33, False
    parameters.quality = type(parameters.quality).THOROUGH
    parameters.device, parameters.name, parameters.folder, parameters.volume = "cuda:0", "second", Path("/x"), node
    assert panel.find("minutesSlider").value == 20
    assert panel.find("iterationsSpinBox").value == 33
    assert panel.find("shownCheckBox").checked is False
    assert panel.find("qualityComboBox").currentText == "As thorough as can be"
    assert panel.find("deviceComboBox").currentText == "cuda:0"
    assert panel.find("nameLineEdit").text == "second"
    assert panel.find("folderLineEdit").currentPath == str(Path("/x"))
    assert panel.find("volumeSelector").currentNode() is node
    assert panel.find("applyButton").enabled


def test_widgets_change_parameters(panel, parameters):
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    node = volume("chosen")
    panel.find("minutesSlider").value = 12.5
    panel.find("iterationsSpinBox").value = 44
    QTest.mouseClick(panel.find("shownCheckBox"), Qt.MouseButton.LeftButton, pos=QPoint(8, 7))
    panel.find("qualityComboBox").currentIndex = 1
    panel.find("deviceComboBox").currentIndex = 1
    panel.find("nameLineEdit").clear()
    QTest.keyClicks(panel.find("nameLineEdit"), "mine")
    panel.find("folderLineEdit").currentPath = "/y"
    panel.find("volumeSelector").setCurrentNode(node)
    assert (parameters.minutes, parameters.iterations, parameters.isShown) == (12.5, 44, False)
    assert (parameters.quality.name, parameters.device, parameters.name) == ("THOROUGH", "cuda:0", "mine")
    assert parameters.folder == Path("/y")
    assert parameters.volume is node


def test_widgets_take_their_range_from_the_parameter(panel):
    slider, box = panel.find("minutesSlider"), panel.find("iterationsSpinBox")
    assert (slider.minimum, slider.maximum, box.minimum, box.maximum) == (1, 32, 0, 500)


def test_disconnected_widgets_are_left_alone(panel, parameters):
    parameters.disconnectGui(panel.widget.tag)
    parameters.minutes = 3
    assert panel.find("minutesSlider").value == 8
    panel.find("minutesSlider").value = 5
    assert parameters.minutes == 3
    parameters.disconnectGui(None)  # What Slicer 5.10's connectGui() returns.


def test_a_widget_that_cannot_show_the_type_fails(parameters):
    import ctk
    import qt

    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        parameters.connectParametersToGui({"name": qt.QSpinBox()})
    with pytest.raises(RuntimeError, match="Choice"):
        parameters.connectParametersToGui({"name": qt.QComboBox()})

    class OwnBox(qt.QCheckBox):
        pass

    with pytest.raises(RuntimeError, match="Unable"):
        parameters.connectParametersToGui({"isShown": OwnBox()})
    parameters.connectParametersToGui({"isShown": ctk.ctkCheckBox()})


def test_closing_the_scene_brings_the_defaults_back(panel, parameters, scene):
    parameters.minutes, parameters.volume = 20, volume()
    scene.Clear(0)
    assert parameters.minutes == 8
    assert parameters.volume is None
    assert panel.find("minutesSlider").value == 8
    assert panel.widget.happened[-1] == "scene closed"
    assert panel.widget.logic.getParameterNode().parameterNode is parameters.parameterNode


@pytest.mark.parametrize("name", ["scene.mrb", "scene.mrml", "folder with ä"])
def test_parameters_are_saved_and_loaded_with_the_scene(panel, parameters, scene, tmp_path, name):
    import slicer

    parameters.minutes, parameters.volume = 20, volume("kept")
    parameters.cases, parameters.folder = ["a", "b"], Path("/data/ä b")
    parameters.others = [parameters.volume]
    file = tmp_path / name
    if name.endswith(".mrml"):
        slicer.util.saveNode(parameters.volume, str(tmp_path / "kept.nrrd"))
    assert slicer.util.saveScene(str(file))
    scene.Clear(0)
    assert parameters.minutes == 8
    if file.is_dir():
        file = next(file.glob("*.mrml"))
    assert slicer.util.loadScene(str(file)) is None
    loaded = panel.widget.logic.getParameterNode()
    assert loaded.minutes == 20
    assert loaded.volume.GetName() == "kept"
    assert list(loaded.cases) == ["a", "b"]
    assert loaded.folder == Path("/data/ä b")
    assert [node.GetName() for node in loaded.others] == ["kept"]
    assert panel.find("minutesSlider").value == 20, "the same node, so the connected widgets follow"


def test_types_that_slicer_refuses_fail():
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    with pytest.raises(TypeError, match="Optional"):

        @parameterNodeWrapper
        class Modern:
            seed: int | None

    with pytest.raises(ValueError, match="reserved"):

        @parameterNodeWrapper
        class Reserved:
            name: str

            def connectGui(self):
                pass
