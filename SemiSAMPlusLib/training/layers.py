"""The layers of a case: what a user looks at while a run trains, written into its run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cohort.outputs import (
    PREDICTIVE_ENTROPY,
    REFINED_ENTROPY,
    write_prompts,
    write_segmentation,
    write_uncertainty,
)
from ..cohort.patches import PreparedCase
from ..cohort.volume import Grid, read_grid
from ..collaboration.collaboration import Collaboration
from ..generalist.generalist import PromptSet
from ..run.files import write_text_atomically
from ..run.folder import safe_id
from ..specialist.native import native_classes, native_entropy
from ..specialist.specialist import Specialist
from .validation import dice_on


def write_layers(
    folder: Path, case: PreparedCase, specialist: Specialist, collaboration: Collaboration | None, *, iteration: int
) -> None:
    """Write prediction, uncertainty, and with generalists the prompts and each one's answer, on the case's own grid.

    The prediction is the specialist's own; its uncertainty is that of the refined prediction where generalists are trusted,
    which finds more of its errors (docs/method.md).

    Args:
        folder: The case's folder in layers/.
        case: Which case.
        specialist: As it is now.
        collaboration: Where generalists are asked, or None.
        iteration: Which step; goes into about.json with what else a viewer should say of the layers: what uncertainty
            measures, its mean in the predicted structures, and Dice where the case has a label.
    """
    native = read_grid(case.case.images[0])
    probabilities = specialist.probabilities(case.image)
    on_training_grid = probabilities.cpu().numpy()
    labels = native_classes(on_training_grid, case.grid, native, specialist.plan.centroids)
    write_segmentation(folder / "prediction.seg.nrrd", labels, native, specialist.classes)
    refined, source = probabilities, PREDICTIVE_ENTROPY
    if collaboration is not None:
        opinions = collaboration.ask_about(case, probabilities, specialist)
        _write_prompts(folder / "prompts.mrk.json", opinions.prompts, case.grid, specialist)
        for name in collaboration.generalists:
            said = np.zeros_like(on_training_grid)
            said[0] = 1.0  # Background where it was not asked, and everywhere if it had no answer.
            if name in opinions.answers:
                said[(slice(None), *opinions.place)] = opinions.answers[name].mean.cpu().numpy()
            classes = native_classes(said, case.grid, native, [None] * len(specialist.classes))
            write_segmentation(folder / f"generalist-{safe_id(name)}.seg.nrrd", classes, native, specialist.classes)
        refined = collaboration.refined(probabilities, opinions)
        source = PREDICTIVE_ENTROPY if refined is probabilities else REFINED_ENTROPY
    uncertainty = native_entropy(refined.cpu().numpy(), case.grid, native)
    write_uncertainty(folder / "uncertainty.nii.gz", uncertainty, native, source)
    about: dict[str, Any] = {"case": case.case.name, "iteration": iteration, "uncertainty": source}
    inside = uncertainty[labels > 0]
    about["mean_uncertainty"] = round(float((inside if inside.size else uncertainty).mean()), 5)
    if case.label is not None:
        dice = dice_on(case.label, probabilities, specialist)
        about["dice"] = {name: round(value, 5) for name, value in dice.items()}
    write_text_atomically(folder / "about.json", json.dumps(about) + "\n")


def _write_prompts(path: Path, prompts: Sequence[Sequence[PromptSet]], grid: Grid, specialist: Specialist) -> None:
    """Write the points of the first prompt set of each class; the others differ only by chance."""
    points, labels, names, boxes = [np.zeros((0, 3))], [np.zeros(0, dtype=int)], [], {}
    for structure, sets in zip(specialist.classes, prompts, strict=True):
        for prompt_set in sets[:1]:
            points.append(prompt_set.points)
            labels.append(prompt_set.labels)
            names += [structure.name] * len(prompt_set.labels)
            if prompt_set.box is not None:
                boxes[structure.name] = prompt_set.box
    write_prompts(path, np.concatenate(points), np.concatenate(labels), names, boxes=boxes, direction=grid.direction)
