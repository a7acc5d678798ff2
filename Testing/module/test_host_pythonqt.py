"""The host's Qt has the manners of PythonQt, and refuses what PythonQt refuses."""

from __future__ import annotations

import functools

import pytest

pytestmark = pytest.mark.usefixtures("qt_app")


def test_properties_are_attributes_beside_setters_and_questions():
    import qt

    button = qt.QPushButton("Train")
    assert button.text == "Train"
    button.text = "Stop"
    button.setToolTip("Ends the training")
    assert (button.text, button.toolTip) == ("Stop", "Ends the training")
    button.enabled = False
    assert not button.enabled
    assert not button.isEnabled()


def test_a_name_that_qt_lacks_fails():
    import qt

    label = qt.QLabel()
    with pytest.raises(AttributeError, match="color"):
        label.color = "red"
    with pytest.raises(AttributeError):
        label.setColour("red")
    with pytest.raises(AttributeError):
        _ = label.isTrained
    with pytest.raises(AttributeError, match="not writable"):
        label.width = 3


def test_python_subclasses_may_have_attributes_of_their_own():
    import qt

    class Row(qt.QWidget):
        def __init__(self):
            super().__init__()
            self.case = "a"

    row = Row()
    row.case = "b"
    assert row.case == "b"


@pytest.mark.parametrize("value", [object(), "12", None, [1]])
def test_a_type_that_the_property_does_not_take_fails(value):
    import qt

    with pytest.raises(AttributeError, match="does not accept"):
        qt.QProgressBar().value = value
    with pytest.raises(AttributeError, match="does not accept"):
        qt.QCheckBox().checked = value


def test_dynamic_properties_are_attributes_once_they_are_set():
    import qt

    widget = qt.QWidget()
    with pytest.raises(AttributeError):
        _ = widget.SlicerParameterName
    widget.setProperty("SlicerParameterName", "minutes")
    assert widget.SlicerParameterName == "minutes"


def test_signals_connect_by_signature_and_pass_what_the_receiver_takes():
    import qt

    button, seen = qt.QPushButton(), []
    button.checkable = True
    assert button.connect("clicked(bool)", lambda on: seen.append(on))
    assert button.connect("clicked(bool)", lambda: seen.append("no argument wanted"))
    assert button.connect("clicked()", lambda *arguments: seen.append(arguments))
    button.click()
    assert seen == [True, "no argument wanted", ()]


def test_only_functions_and_methods_are_spared_arguments_that_they_do_not_take(capfd):
    import qt

    seen = []

    class Receiver:
        def __call__(self):
            seen.append("called")

        def method(self):
            seen.append("method")

    button = qt.QPushButton()
    button.connect("clicked(bool)", Receiver().method)
    button.connect("clicked(bool)", Receiver())
    button.connect("clicked(bool)", functools.partial(lambda: seen.append("partial")))
    button.click()
    assert seen == ["method"]
    assert capfd.readouterr().err.count("TypeError") == 2


def test_connections_end():
    import qt

    box, seen = qt.QSpinBox(), []
    box.connect("valueChanged(int)", seen.append)
    box.value = 3
    assert box.disconnect("valueChanged(int)", seen.append)
    assert not box.disconnect("valueChanged(int)", seen.append)
    box.value = 4
    assert seen == [3]


@pytest.mark.parametrize("signal", ["clicked", "pressed(bool)", "trained()", "clicked(int)"])
def test_signals_that_are_not_there_fail(signal):
    import qt

    with pytest.raises(ValueError, match="signal"):
        qt.QPushButton().connect(signal, print)


def test_objects_connect_to_slots_of_objects():
    import qt

    slider, box = qt.QSlider(), qt.QSpinBox()
    slider.connect("valueChanged(int)", box, "setValue(int)")
    slider.value = 7
    assert box.value == 7


def test_a_deleted_object_says_so():
    import host
    import qt

    label = qt.QLabel("gone")
    label.delete()
    host.process_events()
    with pytest.raises(ValueError, match="destroyed"):
        _ = label.text


def test_timers_and_processes_work_from_the_event_loop():
    import sys

    import host
    import qt

    seen = []
    qt.QTimer.singleShot(0, lambda: seen.append("timer"))
    process = qt.QProcess()
    process.connect("finished(int,QProcess::ExitStatus)", lambda code: seen.append(code))
    process.start(sys.executable, ["-c", "raise SystemExit(3)"])
    assert host.process_events(20, until=lambda: len(seen) == 2)
    assert seen == ["timer", 3]


def test_pyside_names_that_pythonqt_lacks_are_not_there():
    import qt

    assert not hasattr(qt, "Signal")
    assert not hasattr(qt, "Slot")


def test_names_of_objects_are_found():
    import qt
    import slicer

    parent = qt.QWidget()
    child = qt.QLabel("a", parent)
    child.name = "caseLabel"
    assert child.objectName == "caseLabel"
    assert parent.findChild(qt.QLabel, "caseLabel") is child
    assert slicer.util.childWidgetVariables(parent).caseLabel is child
    assert child.className() == "QLabel"
