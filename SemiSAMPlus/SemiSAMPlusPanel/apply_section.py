"""The section Apply: segment volumes with a trained specialist, correct the result, and train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import qt
import slicer

from SemiSAMPlusLib.cohort.cohort import Role
from SemiSAMPlusLib.errors import SemiSAMPlusError
from SemiSAMPlusLib.run.folder import specialist_in, trusted_generalists

from .cases import CaseRow
from .prediction import Prediction
from .run import Run
from .state import PanelState
from .text import _
from .widgets import Later, connect_path, fill_combo, fit_height, load_ui, row_height, say, set_path, show, time_text

_ROWS_SHOWN, _ROW_HEIGHT = 5, 20


class ApplySection:
    """Starts predictions, and hands corrected ones back to the training.

    Args:
        place: The layout to be in.
        state: What the sections share.
    """

    def __init__(self, place: Any, state: PanelState) -> None:
        self.state = state
        self.widget, self.ui = load_ui("Apply", place)
        self.prediction: Prediction | None = None
        self._unchecked: set[str] = set()
        self._rows: list[CaseRow] = []
        self._message: tuple[str, Any] = ("", "plain")
        self._note: tuple[str, Any] = ("", "plain")
        self._refresh_later = Later(self.refresh)
        ui = self.ui
        ui.sourceCombo.connect("activated(int)", lambda index: self._choose_source(ui.sourceCombo.itemData(index)))
        ui.browseSourceButton.connect("clicked(bool)", self._browse)
        ui.volumesRadio.connect("toggled(bool)", lambda on: self._choose_target(not on))
        ui.volumesList.connect("itemChanged(QListWidgetItem*)", self._check)
        connect_path(ui.inputFolderEdit, lambda path: self._choose_path("inputFolder", path))
        connect_path(ui.outputFolderEdit, lambda path: self._choose_path("outputFolder", path))
        ui.refineCheck.connect("toggled(bool)", self._choose_refining)
        ui.predictButton.connect("clicked(bool)", self._predict)
        ui.cancelPredictButton.connect("clicked(bool)", self._cancel)
        ui.correctCombo.connect("activated(int)", lambda *_args: self._show_correction())
        ui.correctButton.connect("clicked(bool)", self._correct)
        ui.makeLabeledButton.connect("clicked(bool)", self._make_labeled)
        ui.trainOnButton.connect("clicked(bool)", self._train_on)
        state.logic.cases.changed.connect(self._refresh_later)
        state.logic.runs_changed.connect(self._refresh_later)
        state.logic.prediction_changed.connect(self._on_prediction)
        state.run_chosen.connect(self._on_run_chosen)
        state.restored.connect(self._on_restored)
        state.dependencies_changed.connect(self._refresh_later)
        self._on_restored()

    def close(self) -> None:
        """Show nothing any more."""
        self._refresh_later.close()
        state = self.state
        state.logic.cases.changed.disconnect(self._refresh_later)
        state.logic.runs_changed.disconnect(self._refresh_later)
        state.logic.prediction_changed.disconnect(self._on_prediction)
        state.run_chosen.disconnect(self._on_run_chosen)
        state.restored.disconnect(self._on_restored)
        state.dependencies_changed.disconnect(self._refresh_later)

    def refresh(self) -> None:
        """Show what can be applied to what."""
        parameters, ui = self.state.parameters, self.ui
        self._rows = [row for row in self.state.logic.cases.rows() if row.volume is not None]
        self._show_sources()
        on_folder = parameters.appliesToFolder
        (ui.folderRadio if on_folder else ui.volumesRadio).checked = True
        show(ui.foldersPlace, on_folder)
        show(ui.volumesList, not on_folder and bool(self._rows))
        self._show_volumes()
        self._show_prediction()
        self._show_correction()

    # -- the specialist ---------------------------------------------------------------------------------------------

    def _show_sources(self) -> None:
        found = [one for one in self.state.runs() if one.has_specialist]
        choices = [(str(one.folder), one.name, str(one.folder)) for one in found]
        source = self.state.parameters.source
        known = [folder for folder, _text, _tip in choices]
        if source and source not in known and specialist_in(Path(source)) is not None:
            choices.append((source, Path(source).name, source))
        elif source not in known:
            run = self.state.run
            own = str(run.folder.path) if run is not None else ""
            source = own if own in known else (known[0] if known else "")
        fill_combo(self.ui.sourceCombo, choices or [("", _("None yet"), "")], source)
        self._show_refining()

    def _show_refining(self) -> None:
        """Say who would correct the specialist, where anybody was trusted to."""
        trusted = trusted_generalists(Path(self._source())) if self._source() else {}
        box = self.ui.refineCheck
        show(box, bool(trusted))
        shares = ", ".join(f"{name.partition('=')[0]} ({share:.0%})" for name, share in trusted.items())
        text = _("Let {generalists} correct it").format(generalists=shares)
        if box.text != text:
            box.text = text
        box.checked = self.state.parameters.refines

    def _choose_refining(self, on: bool) -> None:
        if self.state.parameters.refines != on:
            self.state.parameters.refines = on

    def _source(self) -> str:
        return self.ui.sourceCombo.currentData or ""

    def _choose_source(self, folder: str) -> None:
        self.state.parameters.source = folder
        self.refresh()

    def _browse(self, *_args: object) -> None:
        title = _("The folder of a run, or of an exported specialist")
        folder = qt.QFileDialog.getExistingDirectory(self.widget, title)
        if not folder:
            return
        if specialist_in(Path(folder)) is None:
            text = _("{folder} holds no specialist, expected a run's folder, or its folder 'specialist'.")
            self._message = (text.format(folder=folder), "error")
            self._show_prediction()
            return
        self._message = ("", "plain")
        self._choose_source(folder)

    # -- volumes and folders ----------------------------------------------------------------------------------------

    def _choose_target(self, on_folder: bool) -> None:
        if self.state.parameters.appliesToFolder != on_folder:
            self.state.parameters.appliesToFolder = on_folder
            self.refresh()

    def _choose_path(self, name: str, path: str) -> None:
        if getattr(self.state.parameters, name) != path:
            setattr(self.state.parameters, name, path)
            self._show_prediction()

    def _show_volumes(self) -> None:
        listed = self.ui.volumesList
        was_blocked = listed.blockSignals(True)
        while listed.count > len(self._rows):
            listed.takeItem(listed.count - 1)
        for number, row in enumerate(self._rows):
            if number >= listed.count:
                listed.addItem(qt.QListWidgetItem())
                listed.item(number).setSizeHint(qt.QSize(40, row_height(listed, _ROW_HEIGHT)))
            item = listed.item(number)
            if item.text() != row.name:
                item.setText(row.name)
                item.setToolTip(_("Check to segment {name}").format(name=row.name))
            item.setData(qt.Qt.UserRole, row.key)
            item.setCheckState(qt.Qt.Checked if self._is_checked(row) else qt.Qt.Unchecked)
        listed.blockSignals(was_blocked)
        fit_height(listed, min(max(len(self._rows), 1), _ROWS_SHOWN), _ROW_HEIGHT)

    def _is_checked(self, row: CaseRow) -> bool:
        return row.key not in self._unchecked

    def _check(self, item: Any) -> None:
        key = item.data(qt.Qt.UserRole)
        (self._unchecked.discard if item.checkState() == qt.Qt.Checked else self._unchecked.add)(key)
        self._show_prediction()

    def what_is_missing(self) -> str:
        """Return what must be done before a specialist can be applied, or nothing."""
        parameters = self.state.parameters
        if self.state.missing:
            return _("Install the Python packages first, at the top of this panel.")
        if not self._source():
            return _("No run has left a specialist yet. Train one, or choose the folder of an exported one.")
        if parameters.appliesToFolder:
            if not parameters.inputFolder or not os.path.isdir(parameters.inputFolder):
                return _("Choose the folder with the volumes to segment.")
            if not parameters.outputFolder:
                return _("Choose the folder to write to.")
        elif not any(self._is_checked(row) for row in self._rows):
            return _("Check at least one volume to segment.") if self._rows else _("Load volumes to segment first.")
        return ""

    # -- the prediction ---------------------------------------------------------------------------------------------

    def _predict(self, *_args: object) -> None:
        parameters = self.state.parameters
        self._message = ("", "plain")
        on_folder = parameters.appliesToFolder
        volumes = (
            [Path(parameters.inputFolder)] if on_folder else [row.volume for row in self._rows if self._is_checked(row)]
        )
        try:
            self.prediction = self.state.logic.start_prediction(
                Path(self._source()),
                volumes,
                output=Path(parameters.outputFolder) if on_folder else None,
                device=parameters.device,
                refine=parameters.refines,
            )
        except SemiSAMPlusError as error:
            self._message = (f"{error.what} {error.remedy}", "error")
        self._show_prediction()

    def _cancel(self, *_args: object) -> None:
        if self.prediction is None:
            return
        try:
            self.prediction.cancel()
        except SemiSAMPlusError as error:
            say(self.ui.predictNote, f"{error.what} {error.remedy}", "error")

    def _on_prediction(self, prediction: Prediction) -> None:
        if prediction is not self.prediction:
            return
        if prediction.state == "done":
            text = _("{n} volumes are segmented.") if prediction.progress[1] != 1 else _("The volume is segmented.")
            self._message = (text.format(n=prediction.progress[1]), "good")
            if not prediction.nodes:
                self._message = (_("The segmentations are in {folder}.").format(folder=prediction.output), "good")
            if prediction.warning:
                self._message = (f"{self._message[0]} {prediction.warning}", "warning")
        elif prediction.state == "stopped":
            self._message = (_("Cancelled; finished segmentations are kept."), "warning")
        elif prediction.error is not None:
            self._message = (" ".join(prediction.error[:2]), "error")
        self._show_prediction()
        if not prediction.is_active:
            self._refresh_later()

    def _show_prediction(self) -> None:
        ui, prediction = self.ui, self.prediction
        is_active = prediction is not None and prediction.is_active
        show(ui.cancelPredictButton, is_active)
        show(ui.predictProgress, is_active)
        missing = self.what_is_missing()
        ui.predictButton.enabled = not missing and not is_active
        if is_active:
            done, total = prediction.progress
            ui.predictProgress.setRange(0, total)
            ui.predictProgress.setValue(done)
            text = _("{done} of {total} volumes").format(done=done, total=total)
            if prediction.seconds_left is not None:
                text += _(", {time} left").format(time=time_text(prediction.seconds_left))
            say(ui.predictNote, text)
        elif self._message[0]:
            say(ui.predictNote, *self._message)
        else:
            say(ui.predictNote, missing, "warning")

    # -- correcting -------------------------------------------------------------------------------------------------

    def _show_correction(self) -> None:
        ui = self.ui
        # What would teach most comes first: the most uncertain of those that do not teach yet.
        rows = sorted(self._rows, key=lambda row: (row.role is Role.LABELED, -(row.uncertainty or 0.0)))
        choices = []
        for row in rows:
            text = row.name if row.uncertainty is None else f"{row.name} (~{row.uncertainty:.2f})"
            choices.append((row.key, text, row.name))
        present = ui.correctCombo.currentData
        chosen = present if present in [row.key for row in rows] else (rows[0].key if rows else None)
        fill_combo(ui.correctCombo, choices, chosen)
        show(ui.correctFrame, bool(rows) and bool(self._source()))
        row = self._corrected_row()
        corrected = self.state.logic.corrected(row.volume) if row is not None else None
        ui.makeLabeledButton.enabled = corrected is not None
        ui.makeLabeledButton.toolTip = (
            _("Train with {name}: the case becomes a labelled one").format(name=corrected.GetName())
            if corrected is not None
            else _("Edit a copy of the prediction first")
        )
        say(ui.correctNote, *self._note)

    def _corrected_row(self) -> CaseRow | None:
        key = self.ui.correctCombo.currentData
        return next((row for row in self._rows if row.key == key), None)

    def _correct(self, *_args: object) -> None:
        row = self._corrected_row()
        if row is None:
            return
        try:
            node = self.state.logic.correct(Path(self._source()), row.volume)
        except SemiSAMPlusError as error:
            self._note = (f"{error.what} {error.remedy}", "error")
        else:
            self._note = (
                _("'{name}' is a copy that you can edit; then press Make labelled.").format(name=node.GetName()),
                "good",
            )
            _open_segment_editor(node, row.volume)
        self._show_correction()

    def _make_labeled(self, *_args: object) -> None:
        row = self._corrected_row()
        if row is None:
            return
        try:
            self.state.logic.make_labeled(row.volume, self.state.logic.corrected(row.volume))
        except SemiSAMPlusError as error:
            self._note = (f"{error.what} {error.remedy}", "error")
        else:
            self._note = (_("{name} is now labelled. Press Train on to learn from it.").format(name=row.name), "good")
        self._refresh_later()

    def _train_on(self, *_args: object) -> None:
        self._note = ("", "plain")
        self.state.train_on.emit(Path(self._source()))
        self._show_correction()

    # -- what happens elsewhere -------------------------------------------------------------------------------------

    def _on_run_chosen(self) -> None:
        run: Run | None = self.state.run
        if run is not None and specialist_in(run.folder.path) is not None:
            self.state.parameters.source = str(run.folder.path)
        self._refresh_later()

    def _on_restored(self) -> None:
        # One at work goes on whatever the scene does.
        if self.prediction is not None and not self.prediction.is_active:
            self.prediction = None
        self._message, self._note = ("", "plain"), ("", "plain")
        set_path(self.ui.inputFolderEdit, self.state.parameters.inputFolder)
        set_path(self.ui.outputFolderEdit, self.state.parameters.outputFolder)
        self.refresh()


def _open_segment_editor(segmentation: Any, volume: Any) -> None:
    """Open a segmentation in Slicer's Segment Editor, where there is one to see."""
    if not hasattr(slicer.modules, "segmenteditor") or slicer.util.mainWindow() is None:
        return
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(segmentation)
    editor.setSourceVolumeNode(volume)
