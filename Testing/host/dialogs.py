"""Questions and messages, answered by the test instead of a person: nothing here ever waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PySide6 import QtWidgets


@dataclass
class Shown:
    """What was shown to the user.

    Attributes:
        kind: "info", "warning", "error", "question", "message", "file" or "input".
        text: What it said.
        details: The words beside it, such as ``windowTitle`` and ``detailedText``.
        answer: What was answered.
    """

    kind: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)
    answer: Any = None


class Conversation:
    """What was shown to the user since the scene was made, and what is to be answered.

    Attributes:
        shown: Every dialog, in the order of appearance.
        answers: Taken from the front, one a question; where there is none, questions are refused ("No", "Cancel", no file).
    """

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self.answers: list[Any] = []

    def texts(self, kind: str | None = None) -> list[str]:
        """Return what was said, of one kind or of all."""
        return [shown.text for shown in self.shown if kind is None or shown.kind == kind]

    def tell(self, kind: str, text: str, refusal: Any = None, **details: Any) -> Any:
        """Record a dialog; return the next answer, or the refusal where none is prepared."""
        is_question = kind in ("question", "file", "input")
        answer = self.answers.pop(0) if is_question and self.answers else refusal
        self.shown.append(Shown(kind, str(text), details, answer))
        return answer

    def clear(self) -> None:
        """Forget what was shown and what was to be answered."""
        self.shown.clear()
        self.answers.clear()


#: The one conversation of the process.
conversation = Conversation()


class FileDialog(QtWidgets.QFileDialog):
    """A file dialog whose questions the test answers; PythonQt returns the path alone, without the filter."""

    @staticmethod
    def getOpenFileName(parent: Any = None, caption: str = "", *_: Any) -> str:
        """Return the path that the test prepared, empty where it refuses."""
        return conversation.tell("file", caption, "")

    getSaveFileName = getExistingDirectory = getOpenFileName

    @staticmethod
    def getOpenFileNames(parent: Any = None, caption: str = "", *_: Any) -> list[str]:
        """Return the paths that the test prepared, none where it refuses."""
        return conversation.tell("file", caption, [])


class InputDialog(QtWidgets.QInputDialog):
    """A question for one value; PythonQt returns the value alone."""

    @staticmethod
    def getText(parent: Any = None, title: str = "", label: str = "", *_: Any) -> str:
        """Return the text that the test prepared, empty where it refuses."""
        return conversation.tell("input", label, "", windowTitle=title)

    @staticmethod
    def getItem(parent: Any = None, title: str = "", label: str = "", items: Any = (), *_: Any) -> str:
        """Return the item that the test prepared, empty where it refuses."""
        return conversation.tell("input", label, "", windowTitle=title, items=list(items))


def _message_box(kind: str, refusal: QtWidgets.QMessageBox.StandardButton) -> Any:
    def ask(parent: Any = None, title: str = "", text: str = "", *_: Any) -> Any:
        return conversation.tell(kind, text, refusal, windowTitle=title)

    return staticmethod(ask)


def _execute(self: QtWidgets.QMessageBox) -> Any:
    """Answer a message box that a script put together itself."""
    refusal = self.defaultButton() or self.escapeButton()
    kind = "question" if len(self.buttons()) > 1 else "message"
    details = {name: self.property(name) for name in ("windowTitle", "informativeText", "detailedText")}
    return conversation.tell(
        kind, self.property("text"), self.standardButton(refusal) if refusal else self.StandardButton.Cancel, **details
    )


def install() -> None:
    """Replace everything in ``slicer.util`` and Qt that would wait for a person."""
    import slicer

    buttons = QtWidgets.QMessageBox.StandardButton
    box: Any = QtWidgets.QMessageBox
    box.question = _message_box("question", buttons.No)
    box.information = _message_box("info", buttons.Ok)
    box.warning = _message_box("warning", buttons.Ok)
    box.critical = _message_box("error", buttons.Ok)
    box.exec = box.exec_ = _execute

    def show(kind: str, refusal: Any) -> Any:
        def display(text: str, windowTitle: str | None = None, parent: Any = None, **details: Any) -> Any:
            return conversation.tell(kind, text, refusal, windowTitle=windowTitle, **details)

        return display

    util: Any = slicer.util
    util.infoDisplay = show("info", buttons.Ok)
    util.warningDisplay = show("warning", buttons.Ok)
    util.errorDisplay = show("error", buttons.Ok)
    util.confirmOkCancelDisplay = show("question", False)
    util.confirmYesNoDisplay = show("question", False)
    util.confirmRetryCloseDisplay = show("question", False)
    util.messageBox = lambda text, parent=None, **details: conversation.tell(
        "question" if details.get("standardButtons", buttons.Ok) != buttons.Ok else "message",
        text,
        buttons.Ok,
        **details,
    )
    util.delayDisplay = lambda message, autoCloseMsec=1000, parent=None, **details: conversation.tell(
        "message", message
    )
