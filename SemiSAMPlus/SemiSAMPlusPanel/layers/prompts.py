"""The prompts that generalists were asked with: points inside, points outside, and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..text import _
from .colors import NEGATIVE, POSITIVE, Color
from .files import read_markups
from .layer import FileLayer
from .site import PART_ATTRIBUTE, Site

PROMPTS = "prompts"
#: The name of the list of positive points in prompts.mrk.json, beside that of the negative ones.
_POSITIVE = "positive"
_BOX = "box "


class PromptsLayer(FileLayer):
    """Two lists of points, told apart by colour, lightness and glyph, and a box for each structure."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, PROMPTS, "prompts.mrk.json")

    def fill(self, path: Path) -> list[Any]:
        """Read points and boxes; a box whose structure is no longer asked for is removed."""
        was_shown = self.is_shown()
        _scene, read = read_markups(path)  # The scene keeps what was read alive.
        filled = [self._take(markup, was_shown) for markup in read]
        parts = {node.GetAttribute(PART_ATTRIBUTE) for node in filled}
        for node in self.nodes:
            if node.GetAttribute(PART_ATTRIBUTE) not in parts:
                self.site.remove(node)
        return filled

    def _take(self, read: Any, shown: bool) -> Any:
        name = read.GetName()
        is_box = read.IsA("vtkMRMLMarkupsROINode")
        part = f"{_BOX}{name}" if is_box else name
        known = self.site.node(PROMPTS, part)
        node = self.site.own(read.GetClassName(), PROMPTS, _title(name, is_box), part)
        title = node.GetName()
        for attribute in node.GetAttributeNames():  # CopyContent takes the attributes, and so our marks, too.
            read.SetAttribute(attribute, node.GetAttribute(attribute))
        node.CopyContent(read)
        node.SetName(title)
        if known is None or node.GetID() != known.GetID():
            display = node.GetDisplayNode()
            if is_box:
                _style_box(display)
            else:
                _style_points(display, positive=name == _POSITIVE)
            display.SetVisibility(shown and known is None)
        return node


def _title(name: str, is_box: bool) -> str:
    if is_box:
        return _("box prompt {structure}").format(structure=name)
    return _("positive prompts") if name == _POSITIVE else _("negative prompts")


def _style_points(display: Any, *, positive: bool) -> None:
    _paint(display, POSITIVE if positive else NEGATIVE)
    # A plus and a diamond: flat glyphs keep their shape in slice views, where a sphere and a diamond look alike.
    display.SetGlyphTypeFromString("ThickCross2D" if positive else "Diamond2D")
    display.SetUseGlyphScale(True)
    display.SetGlyphScale(2.6 if positive else 1.8)
    display.SetOccludedVisibility(True)  # Positive points lie inside the surfaces of 3D views.
    display.SetOccludedOpacity(0.5)
    display.SetPointLabelsVisibility(False)
    display.SetPropertiesLabelVisibility(False)


def _style_box(display: Any) -> None:
    _paint(display, POSITIVE)
    display.SetFillVisibility(False)
    display.SetOpacity(0.7)
    display.SetHandlesInteractive(False)
    display.SetPointLabelsVisibility(False)
    display.SetPropertiesLabelVisibility(False)
    display.SetGlyphScale(0.1)  # Its centre is no prompt.


def _paint(display: Any, color: Color) -> None:
    display.SetColor(*color)
    display.SetSelectedColor(*color)
    display.SetActiveColor(*color)
