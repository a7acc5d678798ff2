"""Pictures of panels, in Slicer's light and dark style; those of views are made by ``views``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PySide6 import QtGui, QtWidgets

from .application import process_events

#: The colours of Slicer's two styles: (light, dark), and where it differs that of disabled widgets.
_COLORS: dict[str, tuple[str, str]] = {
    "Window": ("#ffffff", "#323232"),
    "WindowText": ("#000000", "#ffffff"),
    "Base": ("#ffffff", "#1e1e1e"),
    "AlternateBase": ("#e4e4fe", "#323232"),
    "ToolTipBase": ("#ffffdc", "#ffffff"),
    "ToolTipText": ("#000000", "#323232"),
    "Text": ("#000000", "#ffffff"),
    "PlaceholderText": ("#808080", "#c0c0c0"),
    "Button": ("#fcfcfc", "#323232"),
    "ButtonText": ("#000000", "#ffffff"),
    "BrightText": ("#ff0000", "#ff4444"),
    "Light": ("#c8c8c8", "#828284"),
    "Midlight": ("#e6e6e6", "#5a5a5b"),
    "Dark": ("#aaaaaa", "#232323"),
    "Mid": ("#c8c8c8", "#2b2b2b"),
    "Shadow": ("#5a5a5a", "#141414"),
    "Highlight": ("#308cc6", "#3ca4ff"),
    "HighlightedText": ("#ffffff", "#ffffff"),
    "Link": ("#0000ff", "#3ca4ff"),
}
_DISABLED: dict[str, tuple[str, str]] = {
    "WindowText": ("#bebebe", "#6d6d6d"),
    "Text": ("#bebebe", "#6d6d6d"),
    "ButtonText": ("#bebebe", "#b4b4b4"),
    "Highlight": ("#919191", "#505050"),
    "HighlightedText": ("#ffffff", "#6d6d6d"),
}


def palette(*, dark: bool) -> QtGui.QPalette:
    """Return the colours of Slicer's light or dark style."""
    result = QtGui.QPalette()
    for group, colors in ((None, _COLORS), (QtGui.QPalette.ColorGroup.Disabled, _DISABLED)):
        for name, pair in colors.items():
            role, color = QtGui.QPalette.ColorRole[name], QtGui.QColor(pair[int(dark)])
            if group is None:
                result.setColor(role, color)
            else:
                result.setColor(group, role, color)
    return result


def use_style(*, dark: bool) -> None:
    """Give every widget Slicer's light or dark style."""
    QtWidgets.QApplication.setStyle("Fusion")
    QtWidgets.QApplication.setPalette(palette(dark=dark))


@contextmanager
def dark_style() -> Iterator[None]:
    """Use Slicer's dark style meanwhile."""
    use_style(dark=True)
    try:
        yield
    finally:
        use_style(dark=False)


def picture_of(widget: Any, path: str | Path, *, scale: float = 2.0) -> Path:
    """Draw a widget into a PNG file.

    Args:
        widget: The widget; it is laid out and drawn as it is now.
        path: The file to write.
        scale: Pixels of the picture for each pixel of the widget, so that text stays sharp in documents.

    Returns:
        The file.
    """
    process_events()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = widget.size
    image = QtGui.QImage(round(size.width() * scale), round(size.height() * scale), QtGui.QImage.Format.Format_RGB32)
    image.setDevicePixelRatio(scale)
    image.fill(QtWidgets.QApplication.palette().color(QtGui.QPalette.ColorRole.Window))
    widget.render(image)
    if not image.save(str(path)):
        msg = f"The picture could not be written to {path}"
        raise OSError(msg)
    return path
