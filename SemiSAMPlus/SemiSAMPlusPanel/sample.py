"""A cohort made by code, to try the module without patients: phantoms of a chest, one of them labelled."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import slicer

from .cases import segments_of
from .nodes import load_volume
from .text import _

#: What the sample is called among Slicer's sample data.
SAMPLE_NAME, SAMPLE_CATEGORY = "SemiSAMPlusPhantoms", "SemiSAMPlus"


def make_sample(
    scene: Any, *, unlabeled: int = 4, size: tuple[int, int, int] = (48, 64, 56), folder: Path | None = None
) -> list[Any]:
    """Make phantoms and load them, the first with a segmentation of the left atrium.

    Args:
        scene: The MRML scene.
        unlabeled: How many phantoms beside the labelled one.
        size: Voxels along (z, y, x).
        folder: Where to write their files; a new temporary folder by default.

    Returns:
        The volume nodes, the labelled one first.
    """
    # Of the library only this, and only now: it needs SimpleITK and SciPy, which are Slicer's own, and no torch.
    from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort

    home = Path(tempfile.mkdtemp(prefix="SemiSAMPlus-")) if folder is None else Path(folder)
    cohort = make_phantom_cohort(home, cases=unlabeled + 1, labeled=1, test=0, size=size)
    volumes = [load_volume(scene, case.images[0], case.name) for case in cohort.cases]
    first = cohort.cases[0]
    assert first.label is not None
    load_label(scene, first.label, volumes[0], {1: (cohort.classes[0].name, cohort.classes[0].color)})
    return volumes


def load_label(
    scene: Any, path: Path, volume: Any, structures: dict[int, tuple[str, tuple[float, float, float]]]
) -> Any:
    """Load a label file as a segmentation of a volume.

    Args:
        scene: The MRML scene.
        path: The label file.
        volume: The volume that it belongs to.
        structures: Name and colour of each label value.

    Returns:
        The segmentation node.
    """
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.ReadData(labels)
    node = scene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", _("{volume} segmentation").format(volume=volume.GetName())
    )
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node)
    scene.RemoveNode(labels)
    for segment in segments_of(node):
        name, color = structures[segment.GetLabelValue()]
        segment.SetName(name)
        segment.SetColor(*color)
    return node


def register_sample_data() -> None:
    """Offer the phantoms among Slicer's sample data, where there is such a module."""
    try:
        from SampleData import SampleDataLogic
    except ImportError:
        return
    SampleDataLogic.registerCustomSampleDataSource(
        category=SAMPLE_CATEGORY,
        sampleName=SAMPLE_NAME,
        uris=[],
        fileNames=[],
        nodeNames=[],
        checksums=[],
        customDownloader=lambda _source: make_sample(slicer.mrmlScene),
    )
