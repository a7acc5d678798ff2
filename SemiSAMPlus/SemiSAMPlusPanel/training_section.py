"""The section Training: start, watch, stop and resume."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import qt

from SemiSAMPlusLib.cohort.cohort import Role
from SemiSAMPlusLib.errors import SemiSAMPlusError
from SemiSAMPlusLib.generalist.inventory import weights_state

from .chart import RunChart
from .run import Run
from .settings import training_config
from .state import PanelState
from .text import _
from .widgets import Later, ask, connect_path, fill_combo, load_ui, open_file, say, set_path, show, time_text

_LINES_SHOWN = 5


class TrainingSection:
    """Starts trainings, and shows the one that is looked at.

    Args:
        place: The layout to be in.
        state: What the sections share.
        make_chart: Makes the live chart of a run.
    """

    def __init__(self, place: Any, state: PanelState, make_chart: Callable[[Run], Any] | None = None) -> None:
        self.state = state
        self.widget, self.ui = load_ui("Training", place)
        self._make_chart = make_chart or self._new_chart
        self._chart: Any = None
        self._error: tuple[str, str, Any] | None = None
        self._refresh_later = Later(self.refresh)
        self._list_later = Later(self._list_runs)
        ui = self.ui
        ui.runMenuButton.setMenu(self._make_menu())
        ui.runCombo.connect("activated(int)", self._choose_run)
        ui.nameEdit.connect("textChanged(QString)", lambda text: self.state.set("runName", text))
        connect_path(ui.runsFolderEdit, self._choose_folder)
        ui.startButton.connect("clicked(bool)", lambda *_args: self.start())
        ui.stopButton.connect("clicked(bool)", self._stop)
        ui.resumeButton.connect("clicked(bool)", self._resume)
        ui.openLogButton.connect("clicked(bool)", self._open_log)
        ui.reportButton.connect("clicked(bool)", lambda *_args: open_file(self.state.run.report))
        ui.chartButton.connect("clicked(bool)", self._show_chart)
        state.logic.run_changed.connect(self._on_run)
        state.logic.runs_changed.connect(self._list_later)
        state.run_chosen.connect(self._on_chosen)
        state.restored.connect(self._on_restored)
        state.settings_changed.connect(self._refresh_later)
        state.dependencies_changed.connect(self._refresh_later)
        state.train_on.connect(self.start)
        self._on_restored()
        self.refresh()

    def close(self) -> None:
        """Show nothing any more; what trains goes on."""
        self._refresh_later.close()
        self._list_later.close()
        state = self.state
        state.logic.run_changed.disconnect(self._on_run)
        state.logic.runs_changed.disconnect(self._list_later)
        state.run_chosen.disconnect(self._on_chosen)
        state.restored.disconnect(self._on_restored)
        state.settings_changed.disconnect(self._refresh_later)
        state.dependencies_changed.disconnect(self._refresh_later)
        state.train_on.disconnect(self.start)

    def start(self, start_from: Run | None = None) -> None:
        """Start a training with the settings as they are shown.

        Args:
            start_from: A run whose specialist is the start.
        """
        state = self.state
        self._error = None
        try:
            run = state.logic.train_rows(
                state.logic.cases.rows(),
                training_config(state.parameters),
                segments=self._structures(),
                name=state.parameters.runName.strip() or None,
                start_from=start_from,
            )
        except SemiSAMPlusError as error:
            if start_from is not None:
                state.choose_run(None)
            self._error = (error.what, error.remedy, None)
            self.refresh()
            return
        state.choose_run(run)

    def what_is_missing(self) -> str:
        """Return what must be done before a training can start, or nothing."""
        state = self.state
        if state.missing:
            return _("Install the Python packages first, at the top of this panel.")
        rows = state.logic.cases.rows()
        roles = [row.role for row in rows]
        if not rows:
            return _("To start, load volumes or add a folder of files.")
        if Role.LABELED not in roles:
            return _("To start, at least one case must be labelled: choose its segmentation and its role.")
        if Role.UNLABELED not in roles and state.parameters.method != "supervised":
            return _("To start, at least one case must be unlabelled, or the method must be supervised.")
        faults = [row for row in rows if row.fault is not None and row.role is not None]
        if faults:
            return _("To start, correct {name} or ignore it: its mark ✗ says what is wrong.").format(
                name=faults[0].name
            )
        if self._structures() == []:
            return _("To start, check at least one structure to learn.")
        for name in state.parameters.generalists:
            try:
                if weights_state(name).state != "ready":
                    return _("To start, get the weights of {name}, or uncheck it.").format(name=name)
            except SemiSAMPlusError:  # Of an installed package: the child process knows it.
                continue
        try:
            training_config(state.parameters)
        except SemiSAMPlusError as error:
            return f"{error.what} {error.remedy}"
        return ""

    def refresh(self) -> None:
        """Show the run that is looked at, or what the next one lacks."""
        run, ui = self.state.run, self.ui
        is_new = run is None
        for widget in (ui.nameLabel, ui.nameEdit, ui.runsFolderLabel, ui.runsFolderEdit, ui.startButton):
            show(widget, is_new)
        show(ui.runMenuButton, not is_new)
        show(ui.trainingProgress, run is not None and (run.is_active or run.iterations > 0))
        show(ui.chartButton, run is not None and bool(run.losses))
        show(ui.logText, run is not None and bool(run.messages))
        show(ui.stopButton, run is not None and run.is_active)
        show(ui.resumeButton, run is not None and run.can_resume)
        buttons = (ui.startButton, ui.stopButton, ui.resumeButton)
        show(ui.trainingButtonsPlace, any(not button.isHidden() for button in buttons))
        show(ui.reportButton, run is not None and run.state == "done" and os.path.isfile(run.report))
        show(ui.watchPlace, not ui.chartButton.isHidden() or not ui.reportButton.isHidden())
        error = self._error or (run.error if run is not None else None)
        show(ui.errorFrame, error is not None)
        if error is not None:
            say(ui.errorLabel, f"{error[0]}\n{error[1]}", "error")
            show(ui.openLogButton, error[2] is not None)
        if run is None:
            missing = self.what_is_missing()
            ui.startButton.enabled = not missing
            say(ui.stateLabel, missing or _("Ready to start."), "warning" if missing else "good")
            say(ui.progressLabel, "")
            return
        ui.stopButton.text = _("End now") if run.state == "stopping" else _("Stop")
        say(ui.stateLabel, *_state_text(run))
        self._show_progress(run)
        text = "\n".join(list(run.messages)[-_LINES_SHOWN:])
        if ui.logText.plainText != text:
            ui.logText.plainText = text
            ui.logText.moveCursor(qt.QTextCursor.End)
            ui.logText.ensureCursorVisible()  # The scroll bar's maximum would leave an empty line below the last.

    def _show_progress(self, run: Run) -> None:
        bar = self.ui.trainingProgress
        done, total = run.exported if run.state == "preparing" else (run.iteration, run.iterations)
        bar.setRange(0, total if total or not run.is_active else 0)
        bar.setValue(done)
        parts = []
        if run.state != "preparing" and total:
            parts.append(_("Iteration {done} of {total}").format(done=done, total=total))
        if run.is_active and run.seconds_left is not None:
            parts.append(_("{time} left").format(time=time_text(run.seconds_left)))
        if run.dice:
            _iteration, values, on = run.dice[-1]
            if values:
                text = _("Dice {dice:.2f}") if on == "validation" else _("Dice {dice:.2f} on the labelled cases")
                parts.append(text.format(dice=sum(values.values()) / len(values)))
        lines = [", ".join(parts)] if parts else []
        if run.trust:
            trust = ", ".join(f"{name} {value:.2f}" for name, value in run.trust.items())
            lines.append(_("Trust: {trust}").format(trust=trust))
        memory = run.memory if run.is_active else {}
        used = []
        if memory.get("gpu_gb") is not None:
            used.append(_("GPU {gpu:.1f} of {total:.0f} GB").format(gpu=memory["gpu_gb"], total=memory["gpu_total_gb"]))
        if memory.get("process_gb") is not None:
            used.append(_("memory {size:.1f} GB").format(size=memory["process_gb"]))
        if used:
            device = [run.device.upper() if run.device == "cpu" else run.device] if run.device else []
            lines.append(_("In use: {used}").format(used=", ".join([*device, *used])))
        say(self.ui.progressLabel, "\n".join(lines))

    # -- which run --------------------------------------------------------------------------------------------------

    def _on_restored(self) -> None:
        self._error, self._chart = None, None
        parameters = self.state.parameters
        if self.ui.nameEdit.text != parameters.runName:
            self.ui.nameEdit.text = parameters.runName
        set_path(self.ui.runsFolderEdit, str(self.state.logic.runs_folder))
        self._list_runs()

    def _on_run(self, run: Run) -> None:
        if run is self.state.run:
            self._refresh_later()
            if self._chart is not None:
                self._chart.update(run.losses, run.dice)
        if not run.is_active:
            self._list_later()

    def _on_chosen(self) -> None:
        self._error, self._chart = None, None
        self._list_runs()
        self.refresh()

    def _list_runs(self) -> None:
        """Find the runs in the folder of runs, those at work or unfinished marked."""
        chosen = self.state.run
        choices = [("", _("New training"), _("Set up and start a new training"))]
        for one in self.state.runs():
            words = _STATES().get(one.state, one.state)
            if one.iterations and one.state != "done":
                words = f"{words}, {100 * one.iteration // one.iterations} %"
            choices.append((str(one.folder), f"{one.name} ({words})", str(one.folder)))
        path = str(chosen.folder.path) if chosen is not None else ""
        if path not in [data for data, _text, _tip in choices]:
            choices.insert(1, (path, f"{chosen.name} ({_STATES()[chosen.state]})", path))
        fill_combo(self.ui.runCombo, choices, path)

    def _choose_run(self, index: int) -> None:
        path = self.ui.runCombo.itemData(index)
        try:
            self.state.choose_run(self.state.logic.open_run(path) if path else None)
        except SemiSAMPlusError as error:
            self._error = (error.what, error.remedy, None)
            self.refresh()

    def _choose_folder(self, path: str) -> None:
        self.state.set("runsFolder", path)
        self.state.apply_runs_folder()
        self._list_later()

    # -- buttons ----------------------------------------------------------------------------------------------------

    def _stop(self, *_args: object) -> None:
        run = self.state.run
        if run.state == "stopping":
            question = _(
                "End the training at once? What it learned since the last checkpoint is lost; it can be resumed."
            )
            if not ask(question):
                return
            self._try(run.kill)
        else:
            self._try(run.stop)

    def _resume(self, *_args: object) -> None:
        self._try(self.state.run.resume)

    def _try(self, action: Callable[[], object]) -> None:
        self._error = None
        try:
            action()
        except SemiSAMPlusError as error:
            self._error = (error.what, error.remedy, None)
        self._list_runs()
        self.refresh()

    def _open_log(self, *_args: object) -> None:
        run = self.state.run
        if run is not None and run.error is not None:
            open_file(run.error[2])

    def _show_chart(self, *_args: object) -> None:
        if self._chart is None:
            self._chart = self._make_chart(self.state.run)
        self._chart.update(self.state.run.losses, self.state.run.dice)
        self._chart.show()

    def _new_chart(self, run: Run) -> RunChart:
        colors = dict(self.state.logic.cases.segments())
        return RunChart(self.state.scene, str(run.folder.path), run.name, colors=colors)

    def _make_menu(self) -> Any:
        menu = qt.QMenu(self.ui.runMenuButton)
        for text, action in (
            (_("Open folder"), lambda *_args: open_file(self.state.run.folder.path)),
            (_("Delete run…"), self._delete),
        ):
            menu.addAction(text).connect("triggered(bool)", action)
        return menu

    def _delete(self, *_args: object) -> None:
        run = self.state.run
        question = _("Delete {folder} with everything in it: weights, layers, report, predictions, copies of volumes?")
        if not ask(question.format(folder=run.folder.path)):
            return
        try:
            self.state.logic.delete_run(run)
        except SemiSAMPlusError as error:
            self._error = (error.what, error.remedy, None)
            self.refresh()
            return
        self.state.choose_run(None)

    def _structures(self) -> list[str] | None:
        """Return the structures to learn, None where all are or where only the files know them."""
        names = [name for name, _color in self.state.logic.cases.segments()]
        left_out = set(self.state.parameters.leftOutSegments)
        picked = [name for name in names if name not in left_out]
        return None if picked == names else picked


def _STATES() -> dict[str, str]:  # noqa: N802 (a table; a function only because texts are translated late)
    return {
        "preparing": _("preparing"),
        "running": _("running"),
        "stopping": _("stopping"),
        "stopped": _("stopped"),
        "done": _("done"),
        "failed": _("failed"),
        "unfinished": _("unfinished"),
    }


def _state_text(run: Run) -> tuple[str, Any]:
    done, total = run.exported
    return {
        "preparing": (_("Preparing: {done} of {total} volumes written.").format(done=done, total=total), "plain"),
        "running": (
            _("Training. It continues when the scene or Slicer is closed.") if run.iteration else _("Getting ready …"),
            "plain",
        ),
        "stopping": (_("Stopping after the current step …"), "warning"),
        "stopped": (
            _("Stopped. Resume continues from the last checkpoint.")
            if run.can_resume
            else _("Stopped before it began. To start again, choose the run 'New training'."),
            "warning",
        ),
        "done": (_("Done. Look at the layers, or apply the specialist."), "good"),
        "failed": (
            _("Failed. Resume continues from the last checkpoint.")
            if run.can_resume
            else _("Failed. To start again, choose the run 'New training'."),
            "error",
        ),
        "unfinished": (
            _(
                "Ended without a message, perhaps because the computer was shut down. Resume continues from the last checkpoint."
            ),
            "warning",
        ),
    }[run.state]
