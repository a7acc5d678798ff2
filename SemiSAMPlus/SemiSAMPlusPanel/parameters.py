"""What the panel remembers with the scene."""

from __future__ import annotations

import enum
from typing import Annotated, Any

from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


class Quality(enum.Enum):
    """How long to train: minutes that suit most cohorts, or as many iterations as are set."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"
    ITERATIONS = "iterations"


@parameterNodeWrapper
class Parameters:
    """The panel's state; saved with the scene, one for each scene.

    Attributes:
        fileCases: Cases that are files, not loaded: JSON that :class:`~.cases.CaseTable` reads and writes.
        leftOutSegments: Names of the structures that are not learned.
        generalists: Names of the generalists that teach.
        quality: How long to train.
        method: How the specialist learns from unlabelled cases.
        specialist: The network that learns.
        device: Where to train and to predict, as ``--device`` names it.
        advanced: The other settings of a training that differ from their defaults: JSON.
        runsFolder: Where runs are kept; Slicer's documents folder where empty.
        runName: What the next run is called.
        run: The folder of the run that is looked at; empty for a new one.
        layerCase: The case whose layers are looked at.
        shownLayers: Kinds of layers that the next case that is chosen is shown with.
        threshold: From which uncertainty on a voxel belongs to the uncertain segment.
        source: The folder of the run or of the exported specialist that is applied.
        refines: Whether the generalists that its training trusted correct what it says.
        appliesToFolder: Whether it is applied to a folder of files, not to volumes of the scene.
        inputFolder: That folder.
        outputFolder: Where its segmentations are written.
    """

    fileCases: str = ""  # noqa: N815 (Slicer's names of parameters)
    leftOutSegments: list[str] = []  # noqa: N815, RUF012
    generalists: list[str] = ["random-walker"]  # noqa: RUF012
    quality: Quality = Quality.STANDARD
    method: str = "mean-teacher"
    specialist: str = "unet3d"
    device: str = "auto"
    advanced: str = ""
    runsFolder: str = ""  # noqa: N815
    runName: str = ""  # noqa: N815
    run: str = ""
    layerCase: str = ""  # noqa: N815
    shownLayers: list[str] = ["prediction"]  # noqa: N815, RUF012
    threshold: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    source: str = ""
    refines: bool = True
    appliesToFolder: bool = False  # noqa: N815
    inputFolder: str = ""  # noqa: N815
    outputFolder: str = ""  # noqa: N815


def parameters_of(node: Any) -> Parameters:
    """Return what a parameter node says; a choice that this version does not know becomes the default."""
    # Slicer refuses the whole node for it, and a scene that another version saved must still open.
    if node.HasParameter("quality") and node.GetParameter("quality") not in Quality.__members__:
        node.UnsetParameter("quality")
    return Parameters(node)
