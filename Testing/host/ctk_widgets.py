"""What the stand-ins for the Common Toolkit's widgets do."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .dialogs import conversation
from .standins import imitates


def row(parent: QtWidgets.QWidget, *widgets: QtWidgets.QWidget) -> None:
    """Put widgets side by side into another one, without margins."""
    layout = QtWidgets.QHBoxLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)


class _Collapsing:
    """Hides its children while it is collapsed, those too that are added or shown meanwhile."""

    def _begin_collapsing(self: Any) -> None:
        self._hidden_by_collapse: list[QtWidgets.QWidget] = []
        self._is_hiding = False

    def _is_collapsed(self: Any) -> bool:
        return bool(self.__dict__.get("_value_of_collapsed"))

    def _collapse(self: Any, collapsed: bool) -> bool:
        """Collapse or open, and return whether that changed anything."""
        changed = self.__dict__.get("_shown_collapsed", False) != collapsed
        self.__dict__["_value_of_collapsed"] = self.__dict__["_shown_collapsed"] = collapsed
        if changed:
            self._apply_collapse(collapsed)
            self.setChecked(not collapsed)
        return changed

    def _apply_collapse(self: Any, collapsed: bool) -> None:
        self._is_hiding = True
        if collapsed:
            for child in self.children():
                if isinstance(child, QtWidgets.QWidget) and not child.isHidden():
                    self._hidden_by_collapse.append(child)
                    child.hide()
        else:
            for child in self._hidden_by_collapse:
                child.show()
            self._hidden_by_collapse.clear()
        self._is_hiding = False
        self.updateGeometry()

    def childEvent(self: Any, event: QtCore.QChildEvent) -> None:
        child = event.child()
        if event.type() == QtCore.QEvent.Type.ChildAdded and isinstance(child, QtWidgets.QWidget):
            child.installEventFilter(self)
        # A widget is complete only when it is polished; until then it cannot be hidden for good.
        if event.type() == QtCore.QEvent.Type.ChildPolished and self._is_collapsed():
            self._apply_collapse(True)

    def eventFilter(self: Any, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        if event.type() == QtCore.QEvent.Type.ShowToParent and self._is_collapsed() and not self._is_hiding:
            self._apply_collapse(True)
        return False


@imitates("ctkCollapsibleButton")
class CollapsibleButton(_Collapsing):
    """A button above the widgets that it shows and hides."""

    _HEAD = 22

    def __init__(self, *arguments: Any) -> None:
        parents = [argument for argument in arguments if not isinstance(argument, str)]
        QtWidgets.QAbstractButton.__init__(self, *parents)
        self._begin_collapsing()
        self.setText("".join(argument for argument in arguments if isinstance(argument, str)))
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(2, self._HEAD, 2, 2)
        QtWidgets.QAbstractButton.toggled.__get__(self).connect(lambda on: self._on_collapsed(not on))

    def _on_collapsed(self, collapsed: bool) -> None:
        if self._collapse(collapsed):
            self.contentsCollapsed.emit(collapsed)

    def sizeHint(self) -> QtCore.QSize:
        return self.minimumSizeHint().expandedTo(self._layout_size("totalSizeHint"))

    def minimumSizeHint(self) -> QtCore.QSize:
        return QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text) + 40, self._HEAD).expandedTo(
            self._layout_size("totalMinimumSize")
        )

    def _layout_size(self, which: str) -> QtCore.QSize:
        layout = QtWidgets.QWidget.layout(self)
        return QtCore.QSize(0, 0) if layout is None or self._is_collapsed() else getattr(layout, which)()

    def hitButton(self, point: QtCore.QPoint) -> bool:
        return point.y() < self._HEAD

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        button = QtWidgets.QStyleOptionButton()
        button.initFrom(self)
        button.rect = QtCore.QRect(0, 0, QtWidgets.QWidget.width(self), self._HEAD - 2)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, button)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, 4, 12, 12)
        kind = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            kind.PE_IndicatorArrowRight if self._is_collapsed() else kind.PE_IndicatorArrowDown, arrow
        )
        text = button.rect.adjusted(24, 0, 0, 0)
        alignment = QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.AlignmentFlag.AlignLeft
        painter.drawItemText(
            text,
            alignment.value,
            QtWidgets.QWidget.palette(self),
            self.isEnabled(),
            self.text,
            QtGui.QPalette.ColorRole.ButtonText,
        )
        painter.end()


@imitates("ctkCollapsibleGroupBox")
class CollapsibleGroupBox(_Collapsing):
    """A group box that hides its contents when it is unchecked."""

    def __init__(self, *arguments: Any) -> None:
        QtWidgets.QGroupBox.__init__(self, *arguments)
        self._begin_collapsing()
        self.setCheckable(True)
        self.setChecked(True)
        QtWidgets.QGroupBox.toggled.__get__(self).connect(lambda on: self._on_collapsed(not on))

    def _on_collapsed(self, collapsed: bool) -> None:
        self._collapse(collapsed)


class _Number:
    """A number between a minimum and a maximum, in steps."""

    def _begin_number(self: Any, maximum: float) -> None:
        self._spin_box = QtWidgets.QDoubleSpinBox()
        self._last: float | None = None
        for name, value in {"minimum": 0.0, "maximum": maximum, "singleStep": 1.0, "value": 0.0, "decimals": 2}.items():
            self.__dict__[f"_value_of_{name}"] = value
        self._spin_box.setKeyboardTracking(False)

    def _number(self: Any, name: str) -> Any:
        return self.__dict__[f"_value_of_{name}"]

    def _update_range(self: Any, _: Any = None) -> None:
        self._spin_box.setDecimals(self._number("decimals"))
        self._spin_box.setRange(self._number("minimum"), self._number("maximum"))
        self._spin_box.setSingleStep(self._number("singleStep"))
        self._take(self._number("value"))

    _on_minimum = _on_maximum = _on_singleStep = _on_decimals = _update_range

    def _on_prefix(self: Any, text: str) -> None:
        self._spin_box.setPrefix(text)

    def _on_suffix(self: Any, text: str) -> None:
        self._spin_box.setSuffix(text)

    def _on_value(self: Any, value: float) -> None:
        self._take(value)

    def setValue(self: Any, value: float) -> None:
        self._take(value)

    def _take(self: Any, value: float) -> None:
        value = round(
            min(max(float(value), self._number("minimum")), self._number("maximum")), self._number("decimals")
        )
        self.__dict__["_value_of_value"] = value
        if value == self._last:
            return
        self._last = value
        self._spin_box.setValue(value)
        self._show_value(value)
        self.valueChanged[float].emit(value)

    def _show_value(self: Any, value: float) -> None:
        """Show it elsewhere than in the spin box."""


@imitates("ctkDoubleSpinBox")
class DoubleSpinBox(_Number):
    """A spin box for numbers with decimals."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        self._begin_number(99.99)
        row(self, self._spin_box)
        self._spin_box.valueChanged.connect(self._take)
        self._spin_box.editingFinished.connect(self.editingFinished.emit)
        self._update_range()


@imitates("ctkSliderWidget")
class SliderWidget(_Number):
    """A slider with a spin box."""

    def __init__(self, *arguments: Any) -> None:
        QtWidgets.QWidget.__init__(
            self, *[argument for argument in arguments if isinstance(argument, QtWidgets.QWidget)]
        )
        self._begin_number(99.0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        row(self, self._slider, self._spin_box)
        self._spin_box.valueChanged.connect(self._take)
        self._slider.valueChanged.connect(lambda step: self._take(self._number("minimum") + step * self._step()))
        self._update_range()

    def _step(self) -> float:
        return self._number("singleStep") or 1.0

    def _update_range(self, _: Any = None) -> None:
        blocker = QtCore.QSignalBlocker(self._slider)
        self._slider.setRange(0, round((self._number("maximum") - self._number("minimum")) / self._step()))
        blocker.unblock()
        _Number._update_range(self)
        self._show_value(self._number("value"))

    _on_minimum = _on_maximum = _on_singleStep = _on_decimals = _update_range

    def _show_value(self, value: float) -> None:
        blocker = QtCore.QSignalBlocker(self._slider)
        self._slider.setValue(round((value - self._number("minimum")) / self._step()))
        blocker.unblock()

    def _on_spinBoxVisible(self, visible: bool) -> None:
        self._spin_box.setVisible(visible)

    def _on_tracking(self, tracking: bool) -> None:
        self._slider.setTracking(tracking)


@imitates("ctkPathLineEdit")
class PathLineEdit:
    """A line for a path with a button to browse."""

    Dirs, Files, Drives, NoSymLinks, AllEntries = 1, 2, 4, 8, 7
    Readable, Writable, Executable, Hidden = 0x10, 0x20, 0x40, 0x100
    NoDotAndDotDot = 0x1000

    def __init__(self, *arguments: Any) -> None:
        QtWidgets.QWidget.__init__(
            self, *[argument for argument in arguments if isinstance(argument, QtWidgets.QWidget)]
        )
        self._line, self._is_valid = QtWidgets.QLineEdit(), False
        button = QtWidgets.QToolButton()
        button.setText("…")
        button.clicked.connect(lambda: self.browse())
        self._browse_button = button
        row(self, self._line, button)
        self._line.textChanged.connect(self._changed)

    def _read_currentPath(self) -> str:
        return self._line.text

    def _on_currentPath(self, path: str) -> None:
        self._line.setText(path)

    def _on_showBrowseButton(self, shown: bool) -> None:
        self._browse_button.setVisible(shown)

    def _changed(self, path: str) -> None:
        # The real one takes any text but none for valid, and tells the path only while it is valid.
        was_valid, self._is_valid = self._is_valid, bool(path)
        if self._is_valid:
            self.currentPathChanged.emit(path)
        if self._is_valid != was_valid:
            self.validInputChanged.emit(self._is_valid)

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    def browse(self) -> None:
        path = conversation.tell("file", self.property("label") or "", "")
        if path:
            self._line.setText(str(path))

    def addCurrentPathToHistory(self) -> None:
        """Do nothing: no history is kept."""

    def retrieveHistory(self) -> None:
        """Do nothing: no history is kept."""


@imitates("ctkDirectoryButton")
class DirectoryButton:
    """A button that names a folder."""

    def __init__(self, *arguments: Any) -> None:
        QtWidgets.QWidget.__init__(
            self, *[argument for argument in arguments if isinstance(argument, QtWidgets.QWidget)]
        )
        self._button = QtWidgets.QPushButton()
        row(self, self._button)
        self._button.clicked.connect(lambda: self.browse())
        self._directory = ""

    def _read_directory(self) -> str:
        return self._directory

    def _on_directory(self, directory: str) -> None:
        # The real one holds the absolute path too.
        absolute = QtCore.QDir(directory).absolutePath()
        if absolute != self._directory:
            self._directory = absolute
            self._button.setText(QtCore.QDir(absolute).dirName())
            self.directoryChanged.emit(absolute)

    def browse(self) -> None:
        directory = conversation.tell("file", self.property("caption") or "", "")
        if directory:
            self._on_directory(str(directory))
            self.directorySelected.emit(self._directory)


@imitates("ctkCheckableComboBox")
class CheckableComboBox:
    """A combo box whose items can be checked."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QComboBox.__init__(self, parent)
        model = QtGui.QStandardItemModel(0, 1, self)
        self.setModel(model)
        model.rowsInserted.connect(self._inserted)
        model.itemChanged.connect(lambda item: self.checkedIndexesChanged.emit())
        self._items = model

    def _inserted(self, _: QtCore.QModelIndex, start: int, end: int) -> None:
        blocker = QtCore.QSignalBlocker(self._items)
        for index in range(start, end + 1):
            item = self._items.item(index)
            item.setFlags(
                QtCore.Qt.ItemFlag.ItemIsEnabled
                | QtCore.Qt.ItemFlag.ItemIsUserCheckable
                | QtCore.Qt.ItemFlag.ItemIsSelectable
            )
            item.setCheckState(QtCore.Qt.CheckState.Unchecked)
        blocker.unblock()

    def checkableModel(self) -> QtGui.QStandardItemModel:
        return self._items

    def checkedIndexes(self) -> list[QtCore.QModelIndex]:
        rows = range(self._items.rowCount())
        return [
            self._items.index(row, 0)
            for row in rows
            if self._items.item(row).checkState() == QtCore.Qt.CheckState.Checked
        ]

    def allChecked(self) -> bool:
        return len(self.checkedIndexes()) == self._items.rowCount()

    def noneChecked(self) -> bool:
        return not self.checkedIndexes()

    def checkState(self, index: QtCore.QModelIndex) -> QtCore.Qt.CheckState:
        return self._items.itemFromIndex(index).checkState()

    def setCheckState(self, index: QtCore.QModelIndex, state: QtCore.Qt.CheckState) -> None:
        self._items.itemFromIndex(index).setCheckState(state)


@imitates("ctkComboBox")
class ComboBox:
    """A combo box with a text for "nothing chosen"."""

    NeverScroll, AlwaysScroll, ScrollWithFocus, ScrollWithNoVScrollBar = range(4)

    def _on_defaultText(self, text: str) -> None:
        self.setPlaceholderText(text)

    def _read_currentUserDataAsString(self) -> str:
        data = self.currentData()
        return "" if data is None else str(data)

    def _on_currentUserDataAsString(self, data: str) -> None:
        self.setCurrentIndex(self.findData(data))


@imitates("ctkFittedTextBrowser")
class FittedTextBrowser:
    """A text as high as it is long."""

    def setCollapsibleText(self, text: str) -> None:
        self.setText(text)
