"""What every section of the panel does with widgets: load them, fill them, colour and word what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import qt
import slicer

from .text import _

_UI = Path(__file__).resolve().parents[1] / "Resources" / "UI"

Tone = Literal["plain", "quiet", "good", "warning", "error"]
#: How high a line of text usually is, in pixels, for which heights of rows are meant.
_USUAL_LINE = 16

#: Text colours on a light and on a dark panel; each has a contrast of 4.5 or more there.
_COLORS: dict[str, tuple[str, str]] = {
    "quiet": ("#5a5f66", "#a9afb8"),
    "good": ("#1a7037", "#7fd99c"),
    "warning": ("#845400", "#ffc966"),
    "error": ("#b3261e", "#ff9d94"),
}


def load_ui(name: str, place: Any) -> tuple[Any, Any]:
    """Load a Designer file into a layout.

    Args:
        name: The file's name without ``.ui``.
        place: The layout that the widget is added to.

    Returns:
        The widget, and its named children as attributes.
    """
    widget = slicer.util.loadUI(str(_UI / f"{name}.ui"))
    place.addWidget(widget)
    return widget, slicer.util.childWidgetVariables(widget)


class Later:
    """Calls a function at the next turn of the event loop, once however often it was asked to.

    Args:
        function: What to call.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function
        self._is_waiting = False

    def __call__(self, *_: object) -> None:
        """Ask for the call."""
        if not self._is_waiting:
            self._is_waiting = True
            qt.QTimer.singleShot(0, self._call)

    def close(self) -> None:
        """Call no more."""
        self._function = None

    def _call(self) -> None:
        self._is_waiting = False
        if self._function is not None:
            self._function()


def is_dark() -> bool:
    """Return whether Slicer has light text on a dark ground.

    The application is asked, not a widget: one that is hidden learns of another style only when it is shown.
    """
    return qt.QApplication.palette().color(qt.QPalette.Window).lightness() < 128


def say(label: Any, text: str, tone: Tone = "plain") -> None:
    """Show a text on a label, which is hidden where there is nothing to say."""
    if label.text != text:
        label.text = text
    style = f"color: {_COLORS[tone][is_dark()]};" if tone in _COLORS else ""
    if label.styleSheet != style:
        label.styleSheet = style
    show(label, bool(text))


def fit_labels(panel: Any) -> None:
    """Give every label that wraps the height that its text has at its present width.

    A scroll area asks a panel only for its least height, in which Qt counts a wrapped text by a width of its own: in a
    narrow panel lines would be cut.
    """
    for label in panel.findChildren(qt.QLabel):
        if label.wordWrap and label.isVisible():
            # heightForWidth() never says less than the least height that the label was given before.
            text = label.fontMetrics().boundingRect(0, 0, label.width, 10_000, int(qt.Qt.TextWordWrap), label.text)
            height = text.height()
            if label.minimumHeight != height:
                label.setMinimumHeight(height)


def show(widget: Any, shown: bool) -> None:
    """Show or hide a widget, touching it only where that changes something."""
    if widget.isHidden() == shown:
        widget.visible = shown


def color(tone: Tone) -> Any:
    """Return the colour of a tone."""
    return qt.QColor(_COLORS[tone][is_dark()])


def color_icon(rgb: Sequence[float]) -> Any:
    """Return a square of one colour (sRGB, 0 to 1)."""
    pixmap = qt.QPixmap(14, 14)
    pixmap.fill(qt.QColor(*(round(255 * part) for part in rgb)))
    return qt.QIcon(pixmap)


def fill_combo(combo: Any, choices: Iterable[tuple[Any, str, str]], chosen: Any) -> None:
    """Fill a combo box, touching it only where that changes something.

    Args:
        combo: The combo box.
        choices: Data, text and tool tip of each choice; data are plain values.
        chosen: The data of the choice that is taken.
    """
    choices = list(choices)
    was_blocked = combo.blockSignals(True)
    try:
        present = [(combo.itemData(row), combo.itemText(row)) for row in range(combo.count)]
        if present != [(data, text) for data, text, _tip in choices]:
            combo.clear()
            for data, text, _tip in choices:
                combo.addItem(text, data)
        for row, (_data, _text, tip) in enumerate(choices):
            combo.setItemData(row, tip, qt.Qt.ToolTipRole)
        rows = [row for row, (data, _text, _tip) in enumerate(choices) if data == chosen]
        combo.setCurrentIndex(rows[0] if rows else -1)
    finally:
        combo.blockSignals(was_blocked)


def set_path(edit: Any, path: str) -> None:
    """Show a path in a path editor without telling that it changed."""
    if edit.currentPath != path:
        was_blocked = edit.blockSignals(True)
        edit.currentPath = path
        edit.blockSignals(was_blocked)


def connect_path(edit: Any, changed: Callable[[str], Any]) -> None:
    """Call a function with the path that a path editor has now, whenever it is another one, nothing included."""
    edit.connect("currentPathChanged(QString)", changed)
    # An empty line is no valid path to the editor, and of those it says no more than that.
    edit.connect("validInputChanged(bool)", lambda valid: None if valid else changed(edit.currentPath))


def row_height(view: Any, usual: int) -> int:
    """Return how high a row of a list or table is: ``usual`` pixels, and more where text is larger than usually."""
    return usual + max(0, view.fontMetrics().height() - _USUAL_LINE)


def fit_height(view: Any, rows: int, usual: int, *, header: int = 0) -> None:
    """Make a list or table just high enough for so many rows, which :func:`row_height` tells the height of."""
    height = rows * row_height(view, usual) + header + 2 * view.frameWidth
    if view.maximumHeight != height or view.minimumHeight != height:
        view.setFixedHeight(height)


def bytes_text(size: float | None) -> str:
    """Return a number of bytes as a user reads it."""
    if size is None:
        return _("unknown size")
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.0f} GB" if size >= 10 else f"{size:.1f} GB"


def time_text(seconds: float) -> str:
    """Return a time as a user reads it."""
    if seconds < 90:
        return _("{number} s").format(number=round(seconds))
    minutes = round(seconds / 60)
    if minutes < 90:
        return _("{number} min").format(number=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def ask(question: str) -> bool:
    """Ask a question that is answered by yes or no; the only thing in the panel that waits for its answer."""
    return bool(slicer.util.confirmYesNoDisplay(question))


def open_file(path: Path) -> None:
    """Open a file or folder with whatever the desktop opens it with."""
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))
