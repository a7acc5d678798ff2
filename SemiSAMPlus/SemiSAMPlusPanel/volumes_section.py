"""The section Volumes: which cases there are, which part each plays, and which structures are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctk
import qt
import slicer

from SemiSAMPlusLib.cohort.cohort import Role
from SemiSAMPlusLib.errors import SemiSAMPlusError

from .cases import LAYER_ATTRIBUTE, CaseRow
from .state import PanelState
from .text import _
from .widgets import Later, color, color_icon, fit_height, load_ui, row_height, say, show

CASE, ROLE, SEGMENTATION, CHECK, FIGURE = range(5)
_ROWS_SHOWN, _STRUCTURES_SHOWN = 8, 4
_ROW_HEIGHT, _LINE_HEIGHT = 26, 20
#: Combo boxes that are made in one turn of the event loop: a table of 100 cases must not hold up anybody.
_ROWS_A_TURN = 8


class VolumesSection:
    """Shows :class:`~.cases.CaseTable`, and changes it as the user says.

    Args:
        place: The layout to be in.
        state: What the sections share.
    """

    def __init__(self, place: Any, state: PanelState) -> None:
        self.state = state
        self.widget, self.ui = load_ui("Volumes", place)
        self._rows: list[CaseRow] = []
        self._segmentations = qt.QStandardItemModel(self.widget)
        self._nodes: list[Any | None] = []
        self._message = ""
        self._refresh_later = Later(self.refresh)
        table = self.ui.volumesTable
        header = table.horizontalHeader()
        header.setMinimumSectionSize(20)
        for column, width in {ROLE: 96, SEGMENTATION: 88, CHECK: 24, FIGURE: 44}.items():
            header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
            header.resizeSection(column, width)
        header.setSectionResizeMode(CASE, qt.QHeaderView.Stretch)
        table.verticalHeader().setDefaultSectionSize(row_height(table, _ROW_HEIGHT))
        table.connect("itemSelectionChanged()", self._show_buttons)
        self.ui.addFolderButton.connect("clicked(bool)", self._add_folder)
        self.ui.suggestButton.connect("clicked(bool)", self._suggest)
        self.ui.removeButton.connect("clicked(bool)", self._remove)
        self.ui.segmentsList.connect("itemChanged(QListWidgetItem*)", self._pick_structure)
        state.logic.cases.changed.connect(self._refresh_later)
        state.restored.connect(self._refresh_later)
        self.refresh()

    def close(self) -> None:
        """Show nothing any more."""
        self._refresh_later.close()
        self.state.logic.cases.changed.disconnect(self._refresh_later)
        self.state.restored.disconnect(self._refresh_later)

    def refresh(self) -> None:
        """Show the table as it is now, touching only cells that differ."""
        self._rows = self.state.logic.cases.rows()
        self._show_segmentations()
        table = self.ui.volumesTable
        if table.rowCount != len(self._rows):
            table.setRowCount(len(self._rows))
        lacking = 0
        for number, row in enumerate(self._rows):
            if table.cellWidget(number, ROLE) is None:
                lacking += 1
                if lacking > _ROWS_A_TURN:
                    self._refresh_later()
                    break
                self._make_row(number)
            self._show_row(number, row)
        fit_height(
            table,
            min(max(len(self._rows), 2), _ROWS_SHOWN),
            _ROW_HEIGHT,
            header=table.horizontalHeader().sizeHint.height(),
        )
        show(self.ui.emptyLabel, not self._rows)
        show(table, bool(self._rows))
        self._show_structures()
        self._show_buttons()
        self._show_counts()
        self.state.settings_changed.emit()

    # -- the table --------------------------------------------------------------------------------------------------

    def _make_row(self, number: int) -> None:
        table = self.ui.volumesTable
        for column in (CASE, CHECK, FIGURE, SEGMENTATION):
            item = qt.QTableWidgetItem()
            if column in (CHECK, FIGURE):
                item.setTextAlignment(qt.Qt.AlignCenter)
            table.setItem(number, column, item)
        roles = _combo(_("The role of the case"))
        for role, text, tip in _roles():
            roles.addItem(text, role)
            roles.setItemData(roles.count - 1, tip, qt.Qt.ToolTipRole)
        roles.connect("activated(int)", lambda index, combo=roles: self._choose_role(combo, index))
        table.setCellWidget(number, ROLE, roles)
        segmentations = _combo(_("The segmentation that belongs to the volume"))
        segmentations.setModel(self._segmentations)
        segmentations.connect("activated(int)", lambda index, combo=segmentations: self._choose_node(combo, index))
        table.setCellWidget(number, SEGMENTATION, segmentations)

    def _show_row(self, number: int, row: CaseRow) -> None:
        table = self.ui.volumesTable
        tip = str(row.image) if row.image is not None else _("{name}, a volume of the scene").format(name=row.name)
        _set_item(table.item(number, CASE), row.name, tip)
        roles = table.cellWidget(number, ROLE)
        _set_index(roles, roles.findData(row.role.value if row.role is not None else ""))
        roles.toolTip = _("The role of the case") + (_("; suggested") if row.suggested else "")
        segmentations = table.cellWidget(number, SEGMENTATION)
        if row.volume is not None:
            _set_index(segmentations, self._nodes.index(row.segmentation) if row.segmentation in self._nodes else 0)
            segmentations.toolTip = segmentations.currentText if row.segmentation is not None else _("No segmentation")
            _set_item(table.item(number, SEGMENTATION), "", "")
        else:
            _set_item(table.item(number, SEGMENTATION), row.label.name if row.label else "–", str(row.label or ""))
        show(segmentations, row.volume is not None)
        check = table.item(number, CHECK)
        if row.fault is not None:
            _set_item(check, "✗", row.fault)
            check.setForeground(qt.QBrush(color("error")))
        elif row.role is None:
            _set_item(check, "", _("The case is left out"))
        else:
            _set_item(
                check, "✓", _("Image and segmentation fit together") if row.has_label else _("The image is valid")
            )
            check.setForeground(qt.QBrush(color("good")))
        _set_item(table.item(number, FIGURE), *_figure(row))

    def _show_segmentations(self) -> None:
        """Keep the one list of segmentations that all rows choose from."""
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode", self.state.scene)
        self._nodes = [None, *(node for node in nodes if node.GetAttribute(LAYER_ATTRIBUTE) is None)]
        nodes = self._nodes
        names = ["–", *(node.GetName() for node in nodes[1:])]
        model = self._segmentations
        while model.rowCount() > len(names):
            model.removeRow(model.rowCount() - 1)
        for number, name in enumerate(names):
            if number >= model.rowCount():
                model.appendRow(qt.QStandardItem(name))
            elif model.item(number).text() != name:
                model.item(number).setText(name)

    def _choose_role(self, combo: Any, index: int) -> None:
        value = combo.itemData(index)
        for row in self._rows_meant(combo, ROLE):
            self.state.logic.cases.set_role(row, Role(value) if value else None)

    def _choose_node(self, combo: Any, index: int) -> None:
        for row in self._rows_meant(combo, SEGMENTATION)[:1]:
            self.state.logic.cases.set_segmentation(row, self._nodes[index])

    def _rows_meant(self, combo: Any, column: int) -> list[CaseRow]:
        """Return the row of a combo box first, and with it all selected rows where it is one of them."""
        table = self.ui.volumesTable
        number = next(n for n in range(table.rowCount) if table.cellWidget(n, column) == combo)
        selected = self._selected()
        others = [self._rows[n] for n in selected if n != number] if number in selected else []
        return [self._rows[number], *others]

    def _selected(self) -> list[int]:
        return sorted({index.row() for index in self.ui.volumesTable.selectionModel().selectedRows()})

    # -- the buttons ------------------------------------------------------------------------------------------------

    def _add_folder(self, *_args: object) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.widget, _("Add the volumes of a folder"))
        if not folder:
            return
        self._message = ""
        try:
            added = self.state.logic.cases.add_folder(Path(folder))
            if not added:
                self._message = _("{folder} holds no volumes that are not in the table yet.").format(folder=folder)
        except SemiSAMPlusError as error:
            self._message = f"{error.what} {error.remedy}"
        self.refresh()

    def _suggest(self, *_args: object) -> None:
        self._message = ""
        self.state.logic.cases.suggest()

    def _remove(self, *_args: object) -> None:
        for row in [self._rows[number] for number in self._selected()]:
            if row.image is not None:
                self.state.logic.cases.remove(row)

    def _show_buttons(self) -> None:
        selected = [self._rows[number] for number in self._selected() if number < len(self._rows)]
        removable = any(row.image is not None for row in selected)
        show(self.ui.suggestButton, bool(self._rows))
        show(self.ui.removeButton, any(row.image is not None for row in self._rows))
        self.ui.removeButton.enabled = removable
        self.ui.removeButton.toolTip = (
            _("Remove the selected files from the list; the files on disk are kept")
            if removable
            else _("To remove files from the list, select their rows first")
        )

    # -- structures and counts --------------------------------------------------------------------------------------

    def _show_structures(self) -> None:
        structures, listed = self.state.logic.cases.segments(), self.ui.segmentsList
        left_out = set(self.state.parameters.leftOutSegments)
        was_blocked = listed.blockSignals(True)
        while listed.count > len(structures):
            listed.takeItem(listed.count - 1)
        for number, (name, rgb) in enumerate(structures):
            if number >= listed.count:
                listed.addItem(qt.QListWidgetItem())
                listed.item(number).setSizeHint(qt.QSize(40, row_height(listed, _LINE_HEIGHT)))
            item = listed.item(number)
            if item.text() != name:
                item.setText(name)
            if list(item.data(qt.Qt.UserRole) or ()) != list(rgb):
                item.setData(qt.Qt.UserRole, list(rgb))
                item.setIcon(color_icon(rgb))
                item.setToolTip(_("Check to learn this structure"))
            item.setCheckState(qt.Qt.Unchecked if name in left_out else qt.Qt.Checked)
        listed.blockSignals(was_blocked)
        show(listed, bool(structures))
        show(self.ui.segmentsLabel, bool(structures))
        if structures:
            fit_height(listed, min(len(structures), _STRUCTURES_SHOWN), _LINE_HEIGHT)

    def _pick_structure(self, item: Any) -> None:
        left_out = [name for name in self.state.parameters.leftOutSegments if name != item.text()]
        if item.checkState() == qt.Qt.Unchecked:
            left_out.append(item.text())
        self.state.set("leftOutSegments", left_out)

    def _show_counts(self) -> None:
        roles = [row.role for row in self._rows]
        parts = [
            (_("{n} labelled"), roles.count(Role.LABELED)),
            (_("{n} unlabelled"), roles.count(Role.UNLABELED)),
            (_("{n} held out"), roles.count(Role.VALIDATION)),
            (_("{n} ignored"), roles.count(None)),
        ]
        faults = [row for row in self._rows if row.fault is not None]
        if self._message:
            say(self.ui.countLabel, self._message, "error")
        elif faults:
            more = _(" (and {n} more)").format(n=len(faults) - 1) if faults[1:] else ""
            say(self.ui.countLabel, f"{faults[0].name}: {faults[0].fault}{more}", "error")
        else:
            say(self.ui.countLabel, ", ".join(text.format(n=n) for text, n in parts if n), "quiet")


def _roles() -> list[tuple[str, str, str]]:
    return [
        (Role.LABELED.value, _("Labelled"), _("Its segmentation teaches the specialist")),
        (Role.UNLABELED.value, _("Unlabelled"), _("Only its image is used")),
        (
            Role.VALIDATION.value,
            _("Hold out"),
            _("Its segmentation is used to measure Dice and to choose the best weights"),
        ),
        ("", _("Ignore"), _("The case is left out")),
    ]


def _combo(tip: str) -> Any:
    combo = ctk.ctkComboBox()
    combo.scrollWheelEffect = ctk.ctkComboBox.NeverScroll  # Scrolling the table must not change what stands in it.
    combo.elideMode = qt.Qt.ElideRight
    combo.setMinimumContentsLength(3)
    combo.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
    combo.setFrame(False)
    combo.toolTip = tip
    return combo


def _set_index(combo: Any, index: int) -> None:
    if combo.currentIndex != index:
        combo.setCurrentIndex(index)


def _set_item(item: Any, text: str, tip: str) -> None:
    if item.text() != text:
        item.setText(text)
    if item.toolTip() != tip:
        item.setToolTip(tip)


def _figure(row: CaseRow) -> tuple[str, str]:
    if row.dice is not None:
        if row.role is Role.LABELED:
            return f"{row.dice:.2f}", _("Mean Dice on a case used for training: it says nothing about other cases")
        return f"{row.dice:.2f}", _("Mean Dice of the last layers")
    if row.uncertainty is not None:
        tip = _(
            "Mean uncertainty of the last prediction; correcting the most uncertain case would teach the specialist most"
        )
        return f"~{row.uncertainty:.2f}", tip
    return "", ""
