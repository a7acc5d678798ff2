"""Makes the pictures of docs/images that the README shows: the panel in each state, layers in slices and in 3D.

Everything in them is real: a child process trains on volumes of the Medical Segmentation Decathlon where ../shared/data has
them (Task04 hippocampus, CC BY-SA 4.0), and on phantoms made by code; the panel and the views are those of the test host.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "SemiSAMPlus"), str(ROOT / "Testing")]

IMAGES = ROOT / "docs" / "images"
DATA = ROOT.parent / "shared" / "data" / "hippocampus"
CLASSES = {1: ("anterior hippocampus", (0.902, 0.624, 0.0)), 2: ("posterior hippocampus", (0.337, 0.706, 0.914))}
SETTINGS = {
    "batch": 1,
    "size": "small",
    "validate_every": 50,
    "collaboration_every": 4,
    "threads": 1,
}
#: Points of a slice view, and how many of its width the legend of the uncertainty takes, right of the volume.
VIEW, LEGEND = (720, 560), 190


class Photographer:
    """Uses the panel as a person would, and takes its picture.

    Args:
        folder: Where runs are made.
    """

    def __init__(self, folder: Path) -> None:
        import host

        host.start()
        host.new_scene()
        self.folder = folder
        self.module = host.load_module(ROOT / "SemiSAMPlus")
        self.module.find("runsFolderEdit").currentPath = str(folder)

    @property
    def panel(self) -> Any:
        """The panel."""
        return self.module.widget.panel

    def take(self, name: str) -> None:
        """Draw the whole panel, however high it is."""
        import slicer
        from host.pictures import picture_of
        from stage import settle

        window = slicer.util.mainWindow()
        settle(0.3)
        window.resize(400, 300)
        settle(0.2)
        bar = window.host_panel.verticalScrollBar()
        for _turn in range(4):  # Text that wraps is higher than it said at first.
            self.panel.tick()
            settle()
            window.resize(400, window.height + bar.maximum)
            settle(0.2)
        print(picture_of(window, IMAGES / f"{name}.png", scale=1.5))

    def setup(self, **settings: Any) -> None:
        """Set what a person would set under Method."""
        from SemiSAMPlusPanel.parameters import Quality

        parameters = self.panel.state.parameters
        parameters.quality, parameters.device = Quality.ITERATIONS, settings.pop("device", "auto")
        parameters.advanced = json.dumps({**SETTINGS, **settings})
        self.panel.restore()

    def start(self) -> Any:
        """Press Start, and return the run."""
        from stage import click, settle

        settle(2, until=lambda: self.module.find("startButton").enabled)
        click(self.module.find("startButton"))
        return self.panel.state.run

    def open_only(self, *names: str) -> None:
        """Open these sections, and collapse the others."""
        from stage import settle

        for name in ("volumes", "method", "training", "layers", "apply"):
            self.module.find(f"{name}Button").collapsed = name not in names
        settle()


def load_hippocampi(scene: Any) -> list[Any]:
    """Load seven cases, one with its segmentation and one to be held out."""
    from SemiSAMPlusPanel.nodes import load_volume
    from SemiSAMPlusPanel.sample import load_label

    files = sorted((DATA / "images").glob("*.nii.gz"))[:7]
    volumes = [load_volume(scene, file, file.name.removesuffix(".nii.gz")) for file in files]
    for number in (0, 1):
        load_label(scene, DATA / "labels" / files[number].name, volumes[number], CLASSES)
    return volumes


def place_to_show(layers: Path, orientation: str) -> tuple[float, ...]:
    """Return the middle (R, A, S in mm) of what a slice shows of a prediction: the one with most positive points of those that show much."""
    import numpy as np
    import SimpleITK as sitk

    image = sitk.ReadImage(str(layers / "prediction.seg.nrrd"))
    found = sitk.GetArrayViewFromImage(image) > 0
    axis = {"Axial": 0, "Coronal": 1, "Sagittal": 2}[orientation]
    seen = found.sum(axis=tuple({0, 1, 2} - {axis}))
    marked = np.zeros(len(seen))
    for markup in json.loads((layers / "prompts.mrk.json").read_text(encoding="utf-8"))["markups"]:
        if markup["name"] == "positive":
            for point in markup["controlPoints"]:
                index = image.TransformPhysicalPointToContinuousIndex(point["position"])
                marked[round(index[2 - axis])] += 1
    number = max(np.flatnonzero(seen >= 0.8 * seen.max()), key=lambda slice_: (marked[slice_], seen[slice_]))
    middle = np.insert(np.argwhere(np.take(found, number, axis)).mean(axis=0), axis, number)
    left, back, up = image.TransformContinuousIndexToPhysicalPoint(middle[::-1].tolist())
    return -left, -back, up


def picture_of_layers(path: Path, run: Any, volume: Any, *, orientation: str = "Axial") -> None:
    """Draw a slice three times: prediction and prompts; the generalist's answer; uncertainty."""
    import numpy as np
    from host.views import SliceView
    from matplotlib.image import imsave

    view = SliceView("Red", orientation, VIEW)
    layers = run.layers(volume)
    layers.load()
    layers.hide()
    layers.show_volume()
    place = place_to_show(run.folder.layers(volume.GetName()), orientation)
    generalists = [kind for kind in layers.kinds() if kind.startswith("generalist:")]
    shown: Sequence[Sequence[str]] = (("prediction", "prompts"), generalists, ("uncertainty", "uncertain-segment"))
    layers.set_threshold(0.5)
    pictures = []
    for kinds in shown:
        for kind in kinds:
            layers.show(kind)
        view.fit()
        view.node.JumpSliceByOffsetting(*place)
        width, height, depth = (size * VIEW[0] / (VIEW[0] - LEGEND) for size in view.node.GetFieldOfView())
        view.node.SetFieldOfView(width, height, depth * (1 - LEGEND / VIEW[0]))
        view.node.SetXYZOrigin(width * LEGEND / VIEW[0] / 2, 0, 0)
        pictures.append(view.pixels().copy())
        layers.hide()
    drawn = np.max(pictures, axis=(0, 3)) > 0  # Beside the volume a view is black.
    rows = np.flatnonzero(drawn.any(axis=1))
    widths = [np.flatnonzero((picture > 0).any(axis=(0, 2))) for picture in pictures]
    *pictures, last = [
        picture[rows[0] : rows[-1] + 1, w[0] : w[-1] + 1] for picture, w in zip(pictures, widths, strict=True)
    ]
    # Right of the last stands the legend, maybe far away.
    ends = np.flatnonzero(np.diff(widths[-1]) > 1)
    beside = int(widths[-1][ends[0]] - widths[-1][0]) + 1
    legend = last[:, int(widths[-1][ends[0] + 1] - widths[-1][0]) :]
    black, white = (np.full((len(last), width, 3), value, np.uint8) for width, value in ((12, 0), (6, 255)))
    imsave(path, np.hstack([pictures[0], white, pictures[1], white, last[:, :beside], black, legend, black]))
    view.close()
    print(path)


def picture_in_3d(path: Path, layers: Any) -> None:
    """Draw the prediction's surfaces with the prompts."""
    from host.views import ThreeDView

    view = ThreeDView("1", (640, 480))
    view.node.SetBoxVisible(False)
    view.node.SetAxisLabelsVisible(False)
    layers.show("prediction")
    layers.show("prompts")
    layers.set_surface_shown()
    view.fit()
    view.renderer.GetActiveCamera().Zoom(1.5)
    view.png(path)
    view.close()
    layers.hide()
    print(path)


def main() -> None:
    """Take all pictures."""
    from host import conversation, process_events, start
    from host.pictures import dark_style

    start()
    from stage import choose, settle, write

    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="SemiSAMPlus-") as folder:
        photographer = Photographer(Path(folder) / "runs")
        import slicer
        from SemiSAMPlusPanel.sample import make_sample

        scene, find = slicer.mrmlScene, photographer.module.find
        settle(30, until=lambda: bool(photographer.module.widget.logic.devices()))
        photographer.take("panel-empty")

        volumes = load_hippocampi(scene) if DATA.is_dir() else make_sample(scene, unlabeled=5)
        settle()
        if DATA.is_dir():
            choose(find("volumesTable").cellWidget(1, 1), "Hold out")
        photographer.take("panel-ready")

        photographer.setup(iterations=400)
        write(find("nameEdit"), "hippocampus" if DATA.is_dir() else "phantoms")
        run = photographer.start()
        settle(900, until=lambda: run.iteration >= 210 or not run.is_active)
        photographer.open_only("volumes", "training", "layers")
        choose(find("caseCombo"), volumes[2].GetName())
        settle(1)
        photographer.take("panel-training")
        settle(900, until=lambda: not run.is_active)
        print(run.state, run.error)
        photographer.open_only("training", "layers", "apply")
        settle(1)
        photographer.take("panel-finished")
        with dark_style():
            photographer.panel.restore()
            photographer.open_only("volumes", "method", "training")
            photographer.take("panel-dark")
        photographer.panel.restore()
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            node.GetDisplayNode().SetVisibility(False)  # Those of other cases would be drawn into the same slices.
        layers = run.layers(volumes[2])
        name = "hippocampus" if DATA.is_dir() else "phantom"
        picture_of_layers(IMAGES / f"layers-{name}.png", run, volumes[2], orientation="Sagittal")
        picture_in_3d(IMAGES / f"layers-{name}-3d.png", layers)

        choose(find("runCombo"), "New training")
        photographer.setup(iterations=10, device="cuda:7")
        failed = photographer.start()
        settle(90, until=lambda: not failed.is_active)
        photographer.open_only("training")
        settle(0.5)
        photographer.take("panel-error")

        if DATA.is_dir():
            scene.Clear(False)
            settle()
            find("runsFolderEdit").currentPath = str(photographer.folder)
            phantoms = make_sample(scene, unlabeled=2, size=(32, 48, 40))
            photographer.setup(iterations=250)
            run = photographer.start()
            settle(900, until=lambda: not run.is_active)
            print(run.state, run.error)
            picture_of_layers(IMAGES / "layers-phantom.png", run, phantoms[1])
        conversation.clear()
        process_events()


if __name__ == "__main__":
    main()
