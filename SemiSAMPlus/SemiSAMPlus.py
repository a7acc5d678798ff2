"""SemiSAMPlus in 3D Slicer: the module as Slicer finds it. What it does stands in SemiSAMPlusPanel and SemiSAMPlusLib."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

if sys.version_info < (3, 11):  # noqa: UP036 (an older Slicer would only say which name it cannot import)
    _found = ".".join(map(str, sys.version_info[:2]))
    _msg = f"SemiSAMPlus needs Slicer 5.10 or later: this Slicer has Python {_found}, expected 3.11 or later."
    raise ImportError(_msg)

if importlib.util.find_spec("SemiSAMPlusLib") is None:
    # In a source tree the library lies beside the module's folder, and Slicer has only that on its path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from SemiSAMPlusPanel.logic import ModuleLogic
from SemiSAMPlusPanel.sample import make_sample, register_sample_data

#: The packages that belong to the module, loaded anew by the button Reload.
_OURS = ("SemiSAMPlusPanel", "SemiSAMPlusLib")


class SemiSAMPlus(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        self.parent.title = _("SemiSAMPlus")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["SemiSAMPlus contributors"]
        self.parent.helpText = _(
            "<p>Trains a segmentation specialist from a few labelled and many unlabelled volumes, helped by promptable "
            "foundation models. Pick volumes, a few of them with a segmentation; press <i>Start training</i>; watch loss, Dice, "
            "predictions, prompts and uncertainty while it trains; correct what is most uncertain, train on, and apply "
            "the specialist to new volumes. Training runs in a separate process: it continues when Slicer is closed.</p>"
            '<p>How to: <a href="https://github.com/SemiSAMPlus/SlicerSemiSAMPlus">README</a>. From the Python console: '
            "<code>slicer.util.getModuleLogic('SemiSAMPlus')</code>.</p>"
        )
        self.parent.acknowledgementText = _(
            "<p>An independent implementation of the method of Zhang et al., <i>SemiSAM+: Rethinking semi-supervised "
            "medical image segmentation in the era of foundation models</i>, Medical Image Analysis (2025). Networks and "
            "transforms by MONAI; volumes by SimpleITK.</p>"
        )
        slicer.app.connect("startupCompleted()", register_sample_data)


class SemiSAMPlusWidget(ScriptedLoadableModuleWidget):
    """The panel's place in Slicer; the panel itself is :class:`SemiSAMPlusPanel.widget.PanelWidget`.

    Attributes:
        logic: What ``slicer.util.getModuleLogic("SemiSAMPlus")`` returns.
    """

    def __init__(self, parent: Any = None) -> None:
        self.logic: SemiSAMPlusLogic | None = None
        self.panel: Any = None
        super().__init__(parent)

    def setup(self) -> None:
        """Build the panel; called once, when the module or its logic is first asked for."""
        super().setup()
        self.logic = SemiSAMPlusLogic()
        from SemiSAMPlusPanel.widget import PanelWidget

        self.panel = PanelWidget(self.layout, self.logic, self.logic.getParameterNode)
        if getattr(self.parent, "isEntered", False):  # Reloaded while it is shown: nobody enters it then.
            self.enter()

    def enter(self) -> None:
        """Look again what may have changed while another module was shown."""
        if self.panel is not None:
            self.panel.enter()

    def exit(self) -> None:
        """Rest while another module is shown; trainings go on."""
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self) -> None:
        """Let go of the scene; trainings go on."""
        if self.panel is not None:
            self.panel.close()
            self.panel = None
        if self.logic is not None:
            self.logic.close()
            self.logic = None

    def onReload(self) -> None:  # noqa: N802
        """Load everything of ours anew, for developers."""
        for name in [name for name in sys.modules if name.split(".")[0] in _OURS]:
            del sys.modules[name]
        super().onReload()


class SemiSAMPlusLogic(ModuleLogic, ScriptedLoadableModuleLogic):
    """What the module does, for the panel and for the console; see :class:`SemiSAMPlusPanel.logic.ModuleLogic`."""

    def __init__(self, **collaborators: Any) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        ModuleLogic.__init__(self, slicer.mrmlScene, **collaborators)


class SemiSAMPlusTest(ScriptedLoadableModuleTest):
    """The whole round on phantoms, for a person with Slicer: it needs the packages of the section Setup, and a minute."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802
        """Run all tests."""
        self.setUp()
        self.test_whole_round()

    def test_whole_round(self) -> None:
        """Train, stop, resume, look at layers, apply, correct, and train on."""
        # A folder whose name has a space and letters of other alphabets, as users' folders have.
        with tempfile.TemporaryDirectory(prefix="SemiSAM+ Läufe ") as folder:
            logic = SemiSAMPlusLogic(runs_folder=Path(folder))
            try:
                if missing := logic.installer.missing():
                    self.delayDisplay(f"Not tested: install {', '.join(missing)} in the section Setup first.")
                    return
                self._whole_round(logic)
            finally:
                for run in logic.active_runs:
                    run.kill()
                    run.wait(10)
                logic.close()
        self.delayDisplay("Test passed.")

    def _whole_round(self, logic: SemiSAMPlusLogic) -> None:
        self.delayDisplay("Making phantoms …")
        labeled, second, third, new = make_sample(slicer.mrmlScene, unlabeled=3, size=(24, 32, 28))
        segmentation = logic.cases.row(labeled).segmentation
        assert segmentation is not None, "the segmentation was not matched with its volume"
        settings = {
            "generalists": ["random-walker"],
            "patch": (16, 16, 16),
            "size": "small",
            "device": "cpu",
            "threads": 1,
            "precision": "float32",
            "validate_every": 1000,
        }

        self.delayDisplay("Training, to be stopped …")
        run = logic.train([(labeled, segmentation)], [second, third], iterations=500, **settings)
        while run.iteration < 2 and run.is_active:
            run.wait(0.2)
        run.stop()
        run.wait(120)
        assert run.state == "stopped"

        self.delayDisplay("Going on with it, then ending it at once …")
        run.resume()
        while run.state == "running" and run.seconds_left is None:
            run.wait(0.2)
        run.kill()
        run.wait(30)
        assert run.can_resume

        self.delayDisplay("Training to the end …")
        run = logic.train([(labeled, segmentation)], [second, third], iterations=4, wait=True, **settings)
        assert run.state == "done"
        assert run.report.is_file()
        run.layers(second).show()

        self.delayDisplay("Applying, correcting, training on …")
        prediction = logic.predict(run, new, device="cpu")
        assert prediction.GetClassName() == "vtkMRMLSegmentationNode"
        labeled_cases = [(labeled, segmentation)]
        if _is_drawn(prediction):
            corrected = logic.correct(run, new)
            logic.make_labeled(new, corrected)
            labeled_cases.append((new, corrected))
        again = logic.train(labeled_cases, [second, third], iterations=2, start_from=run, wait=True, **settings)
        assert again.state == "done"


def _is_drawn(segmentation: Any) -> bool:
    """Return whether any voxel belongs to a segment: after so short a training there may be none."""
    bounds = [0.0] * 6
    segmentation.GetRASBounds(bounds)
    return bounds[0] <= bounds[1]
