"""The colours of layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from ..text import _

Color = tuple[float, float, float]

#: Prompts (sRGB, 0 to 1), as in prompts.mrk.json: they differ in lightness too, and their glyphs in shape.
POSITIVE, NEGATIVE = (0.25, 0.95, 0.70), (0.90, 0.15, 0.45)
#: The segment above the threshold of uncertainty.
UNCERTAIN: Color = (1.0, 1.0, 1.0)

#: Nine evenly spaced colours of matplotlib's "inferno", which the report uses too; even in steps of lightness, and
#: readable by colour-blind eyes. Between them it is linear to within 0.02.
_INFERNO: tuple[Color, ...] = (
    (0.001, 0.000, 0.014),
    (0.129, 0.047, 0.291),
    (0.342, 0.062, 0.429),
    (0.541, 0.135, 0.415),
    (0.736, 0.216, 0.330),
    (0.894, 0.353, 0.194),
    (0.978, 0.558, 0.035),
    (0.975, 0.798, 0.206),
    (0.988, 0.998, 0.645),
)
_ENTRIES = 256
_TABLE_ATTRIBUTE = "SemiSAMPlus.ColorTable"


def uncertainty_table(scene: Any) -> Any:
    """Return the scene's colour table of uncertainty; it is made where it is missing."""
    for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode", scene):
        if node.GetAttribute(_TABLE_ATTRIBUTE) == "uncertainty":
            return node
    node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", _("Uncertainty (inferno)"))
    node.SetAttribute(_TABLE_ATTRIBUTE, "uncertainty")
    node.SetAttribute("Category", "SemiSAM+")
    node.SetTypeToUser()
    node.SetNumberOfColors(_ENTRIES)
    for index, color in enumerate(_table()):
        node.SetColor(index, *map(float, color), 1.0)
    node.SetNamesFromColors()
    return node


def _table() -> np.ndarray:
    at, stops = np.linspace(0, 1, _ENTRIES), np.linspace(0, 1, len(_INFERNO))
    return np.stack([np.interp(at, stops, channel) for channel in np.transpose(_INFERNO)], axis=1)
