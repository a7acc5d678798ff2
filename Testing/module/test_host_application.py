"""The host's application: scene, files, messages, modules, processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent / "example" / "HostExample"


def matrix():
    """IJK to RAS of an oblique volume with three different spacings, in mm."""
    c, s = np.cos(0.4), np.sin(0.4)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    result = np.eye(4)
    result[:3, :3] = rotation @ np.diag([0.7, 1.1, 2.5])
    result[:3, 3] = (12, -34, 56)
    return result


def volume(name="ct"):
    import slicer

    values = np.arange(6 * 7 * 8, dtype=np.float32).reshape(6, 7, 8)
    return slicer.util.addVolumeFromArray(values, ijkToRAS=matrix(), name=name)


def test_starting_again_changes_nothing(qt_app):
    import host
    import slicer

    assert host.start() is qt_app is slicer.app
    assert slicer.app.mrmlScene() is slicer.mrmlScene
    with pytest.raises(NotImplementedError):
        slicer.app.openSettingsDialog()
    with pytest.raises(AttributeError):
        slicer.app.trainNow()


def test_a_new_scene_is_empty(scene):
    import host
    import slicer

    number_of_nodes = scene.GetNumberOfNodes()
    volume()
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    parameters = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
    parameters.SetSingletonTag("Some")
    scene.AddNode(parameters)
    slicer.util.errorDisplay("wrong")
    host.new_scene()
    assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode") == 0
    assert host.conversation.shown == []
    assert scene.GetNumberOfNodes() <= number_of_nodes


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz"])
def test_volumes_are_saved_exported_and_loaded(scene, tmp_path, extension):
    import slicer

    node = volume()
    saved, exported = tmp_path / f"größe 1{extension}", tmp_path / f"copy{extension}"
    assert slicer.util.saveNode(node, str(saved))
    assert node.GetStorageNode().GetFileName() == str(saved)
    assert not node.GetModifiedSinceRead()
    assert slicer.util.exportNode(node, str(exported))
    assert node.GetStorageNode().GetFileName() == str(saved), "an export leaves the node's own file"
    for file in (saved, exported):
        loaded = slicer.util.loadVolume(str(file))
        assert np.array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(node))
        import vtk

        found = vtk.vtkMatrix4x4()
        loaded.GetIJKToRASMatrix(found)
        assert np.allclose(slicer.util.arrayFromVTKMatrix(found), matrix(), atol=1e-5)


def test_an_export_to_the_world_hardens_the_copy_alone(scene, tmp_path):
    import slicer

    node = volume()
    moved = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift = np.eye(4)
    shift[:3, 3] = (10, 20, 30)
    slicer.util.updateTransformMatrixFromArray(moved, shift)
    node.SetAndObserveTransformNodeID(moved.GetID())
    slicer.util.exportNode(node, str(tmp_path / "moved.nrrd"), world=True)
    assert node.GetParentTransformNode() is moved
    assert np.allclose(node.GetOrigin(), (12, -34, 56))
    assert np.allclose(slicer.util.loadVolume(str(tmp_path / "moved.nrrd")).GetOrigin(), (22, -14, 86), atol=1e-4)


def test_files_that_are_not_there_fail(scene, tmp_path):
    import slicer

    with pytest.raises(RuntimeError, match="Failed to load"):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"))
    with pytest.raises(ValueError, match="no known file format"):
        slicer.util.exportNode(
            volume(), str(tmp_path / "a.docx"), {}
        )  # Its default properties remember the last format.
    assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 1


def test_segmentations_markups_and_tables_round_trip(scene, tmp_path):
    import slicer

    reference = volume()
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[2:4, 3:5, 4:6] = 1
    segment_id = segmentation.GetSegmentation().AddEmptySegment("liver", "liver", (0.2, 0.4, 0.6))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment_id, reference)
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "prompts")
    points.AddControlPoint((1.0, 2.0, 3.0), "here")
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "losses")
    slicer.util.updateTableFromArray(table, np.array([[1.0, 2.0]]), ["a", "b"])
    files = {segmentation: "organs.seg.nrrd", points: "prompts.mrk.json", table: "losses.tsv"}
    for node, name in files.items():
        assert slicer.util.saveNode(node, str(tmp_path / name))
    again = slicer.util.loadSegmentation(str(tmp_path / "organs.seg.nrrd"))
    assert np.array_equal(
        slicer.util.arrayFromSegmentBinaryLabelmap(again, again.GetSegmentation().GetNthSegmentID(0), reference), mask
    )
    assert np.allclose(again.GetSegmentation().GetNthSegment(0).GetColor(), (0.2, 0.4, 0.6), atol=0.01)
    assert slicer.util.loadMarkups(str(tmp_path / "prompts.mrk.json")).GetNthControlPointLabel(0) == "here"
    assert slicer.util.loadTable(str(tmp_path / "losses.tsv")).GetNumberOfRows() == 1


def test_messages_do_not_wait_and_questions_take_the_prepared_answers(scene):
    import host
    import qt
    import slicer

    slicer.util.errorDisplay("It failed", detailedText="why")
    assert slicer.util.confirmOkCancelDisplay("Install 2 GB?") is False, "what nobody answers is refused"
    host.conversation.answers = [True, qt.QMessageBox.Yes]
    assert slicer.util.confirmYesNoDisplay("Install 2 GB?") is True
    assert qt.QMessageBox.question(None, "Title", "Stop?") == qt.QMessageBox.Yes
    box = qt.QMessageBox()
    box.text = "Restart?"
    box.setStandardButtons(qt.QMessageBox.Yes | qt.QMessageBox.No)
    host.conversation.answers = [qt.QMessageBox.No]
    assert box.exec_() == qt.QMessageBox.No
    assert host.conversation.texts("error") == ["It failed"]
    assert host.conversation.shown[0].details["detailedText"] == "why"
    assert host.conversation.texts("question") == ["Install 2 GB?", "Install 2 GB?", "Stop?", "Restart?"]
    with pytest.raises(RuntimeError, match="lost"), slicer.util.tryWithErrorDisplay("Export failed"):
        raise RuntimeError("lost")
    assert host.conversation.texts("error")[-1] == "Export failed\n\nlost"


def test_util_works_as_in_slicer(scene):
    import qt
    import slicer

    assert Path(slicer.util.tempDirectory()).is_dir()
    qt.QSettings().setValue("SemiSAMPlus/x", 3)
    assert slicer.util.settingsValue("SemiSAMPlus/x", 0, converter=int) == 3
    assert slicer.util.settingsValue("SemiSAMPlus/none", "default") == "default"
    with slicer.util.RenderBlocker(), slicer.util.WaitCursor():
        pass
    assert slicer.util.getModuleLogic("Segmentations").IsA("vtkSlicerSegmentationsModuleLogic")
    with pytest.raises(RuntimeError, match="Nothing"):
        slicer.util.getModule("Nothing")
    assert slicer.app.moduleLogic("Volumes") is slicer.modules.volumes.logic()


def test_slice_views_show_layers(scene):
    import slicer

    first, second = volume("first"), volume("second")
    slicer.util.setSliceViewerLayers(background=first, foreground=second, foregroundOpacity=0.3, fit=True)
    slicer.util.resetSliceViews()
    names = slicer.app.layoutManager().sliceViewNames()
    assert sorted(names) == ["Green", "Red", "Yellow"]
    for name in names:
        composite = slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode()
        assert composite.GetBackgroundVolumeID() == first.GetID()
        assert composite.GetForegroundOpacity() == pytest.approx(0.3)
    assert slicer.app.applicationLogic().GetSliceLogics().GetNumberOfItems() == 3


def test_python_slicer_is_a_launcher_with_a_child(scene, tmp_path):
    launcher = shutil.which("PythonSlicer")
    code = "import os, sys; print(os.getpid(), sys.argv[1:], sys.prefix)"
    process = subprocess.Popen([launcher, "-c", code, "a b", "ä"], stdout=subprocess.PIPE, text=True, encoding="utf-8")
    output = process.communicate(timeout=60)[0]
    assert "['a b', 'ä']" in output
    assert sys.prefix in output
    assert int(output.split()[0]) != process.pid
    assert subprocess.run([launcher, "-c", "raise SystemExit(7)"], check=False).returncode == 7


def test_python_modules_run_in_slicers_python(scene):
    import slicer

    lines = []
    slicer.util.executePythonModule("platform", [], blocking=True, logCallback=lines.append)
    assert lines


def test_modules_are_set_up_entered_left_reloaded_and_cleaned_up(scene):
    import host
    import slicer

    panel = host.load_module(EXAMPLE)
    assert slicer.util.getModuleWidget("HostExample") is panel.widget is slicer.modules.HostExampleWidget
    assert slicer.util.getModuleLogic("HostExample") is panel.widget.logic
    assert slicer.modules.hostexample.title == "Host example"
    assert slicer.util.modulePath("HostExample") == str(EXAMPLE / "HostExample.py")
    assert slicer.util.selectedModule() == "HostExample"
    slicer.util.selectModule("Segmentations")
    slicer.util.selectModule(panel.module)
    assert panel.widget.happened == ["entered", "exited", "entered"]
    panel.widget.onReload()
    assert panel.widget.happened[-1] == "cleaned up"
    again = slicer.util.getModuleWidget("HostExample")
    assert again is not panel.widget
    host.process_events()
    assert again.ui.applyButton.visible
    slicer.selfTests["HostExample"]()
    assert host.conversation.texts("message") == ["Tested"]
    host.close_modules()
    assert again.happened[-1] == "cleaned up"
    assert slicer.util.mainWindow() is None
    assert not hasattr(slicer.modules, "hostexample")


def test_the_module_panel_is_400_pixels_wide(scene):
    import host
    import slicer

    panel = host.load_module(EXAMPLE)
    area = slicer.util.mainWindow().host_panel
    assert slicer.util.mainWindow().width == 400
    assert area.horizontalScrollBar().maximum == 0, "the example fits without scrolling sideways"
    panel.find("applyButton").minimumWidth = 500
    host.process_events()
    assert area.horizontalScrollBar().maximum > 0


def test_clicks_reach_the_module(scene):
    import host
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    panel = host.load_module(EXAMPLE)
    button = panel.find("applyButton")
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    assert "applied" not in panel.widget.happened, "a disabled button takes no click"
    panel.find("volumeSelector").setCurrentNode(volume())
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    assert panel.widget.happened[-1] == "applied"
    advanced, label = panel.find("advancedButton"), panel.find("advancedLabel")
    assert advanced.collapsed
    assert not label.visible
    with pytest.raises(LookupError, match="cancelButton"):
        panel.find("cancelButton")


def test_without_a_main_window_there_is_neither_window_nor_layout(scene):
    import host
    import slicer

    with host.without_main_window():
        assert slicer.util.mainWindow() is None
        assert slicer.app.layoutManager() is None
        panel = host.load_module(EXAMPLE)
        assert slicer.util.mainWindow() is None
        assert slicer.util.getModuleLogic("HostExample") is panel.widget.logic
        slicer.util.setSliceViewerLayers(background=volume(), fit=True)
        with pytest.raises(RuntimeError, match="main window"):
            slicer.util.selectModule("HostExample")
    assert slicer.app.layoutManager() is not None


def test_installations_are_written_down_and_asked_for(scene, tmp_path):
    import host
    import slicer
    from host.packaging import environment

    file = tmp_path / "requirements.txt"
    file.write_text("# needed\nnumpy>=1\nno-such-package>=3  # a comment\n--index-url x\n", encoding="utf-8")
    environment.clear()
    requirements = slicer.packaging.load_requirements(file)
    assert [requirement.name for requirement in requirements] == ["numpy", "no-such-package"]
    assert [slicer.packaging.pip_check(requirement) for requirement in requirements] == [True, False]
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure(requirements, requester="Test")
    host.conversation.answers = [True]
    slicer.packaging.pip_ensure(requirements, requester="Test")
    slicer.util.pip_install("another")
    assert [call.requirements for call in environment.recorded] == [["no-such-package>=3"], ["another"]]
    with pytest.raises(TypeError):
        slicer.packaging.pip_ensure(requirements, quiet=True)
    environment.failure = subprocess.CalledProcessError(1, "pip")
    with pytest.raises(subprocess.CalledProcessError):
        slicer.util.pip_install("another")
    environment.clear()


def test_translations_know_their_context(scene):
    from slicer.i18n import getContext, tr, translate

    assert tr("Train") == translate("SemiSAMPlus", "Train") == "Train"
    assert getContext(str(EXAMPLE / "HostExample.py")) == "HostExample"
    assert getContext(str(Path(__file__).parents[1] / "host" / "views.py")) == "host.views"


def test_pictures_in_both_styles(scene, tmp_path):
    import host
    import qt
    import slicer
    from host import pictures

    host.load_module(EXAMPLE)
    light = qt.QImage(str(pictures.picture_of(slicer.util.mainWindow(), tmp_path / "light.png")))
    with pictures.dark_style():
        dark = qt.QImage(str(pictures.picture_of(slicer.util.mainWindow(), tmp_path / "dark.png", scale=1)))
    assert (light.width(), dark.width()) == (800, 400)
    assert light.pixelColor(10, 900).lightness() > 240
    assert dark.pixelColor(5, 900).lightness() < 60
