"""The list of generalists in the section Method: which teach, and whether their weights are here; fetches them on request."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from SemiSAMPlusLib.errors import SemiSAMPlusError
from SemiSAMPlusLib.generalist.catalog import catalog
from SemiSAMPlusLib.generalist.hub_errors import origin
from SemiSAMPlusLib.generalist.inventory import WeightsState, weights_states

from .state import PanelState
from .text import _
from .weights_job import WeightsJob
from .widgets import ask, bytes_text, color, fit_height, load_ui, row_height, say, show, time_text

NAME, STATE, LICENCE = range(3)
_ROWS_SHOWN, _ROW_HEIGHT = 8, 22


class WeightsSection:
    """Shows the generalists, and downloads, imports and removes weights in the child process.

    Args:
        place: The layout to be in.
        state: What the sections share.
    """

    def __init__(self, place: Any, state: PanelState) -> None:
        self.state = state
        self.widget, self.ui = load_ui("Weights", place)
        self.job: WeightsJob | None = None
        self._facts: dict[str, WeightsState] = {}
        self._message, self._tone, self._fault = "", "quiet", ""
        tree = self.ui.generalistsTree
        header = tree.header()
        header.setSectionResizeMode(NAME, qt.QHeaderView.Stretch)
        for column, width in ((STATE, 104), (LICENCE, 84)):
            header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
            header.resizeSection(column, width)
        tree.connect("itemChanged(QTreeWidgetItem*,int)", self._check)
        tree.connect("itemSelectionChanged()", self._show_details)
        self.ui.downloadButton.connect("clicked(bool)", self._download)
        self.ui.importButton.connect("clicked(bool)", self._import)
        self.ui.removeWeightsButton.connect("clicked(bool)", self._remove)
        self.ui.cancelDownloadButton.connect("clicked(bool)", self._cancel)
        state.restored.connect(self._show_list)
        self.look_again()

    def close(self) -> None:
        """Show nothing any more; a download at work goes on."""
        self.state.restored.disconnect(self._show_list)

    def tick(self) -> None:
        """Look after a download."""
        if self.job is not None:
            self.job.poll()

    def look_again(self) -> None:
        """Look which weights are here, and show it; what is known stays where that cannot be told."""
        try:
            self._facts = {facts.name: facts for facts in weights_states()}
            self._fault = ""
        except SemiSAMPlusError as error:
            self._fault = f"{error.what} {error.remedy}"
        self._show_list()

    # -- the list ---------------------------------------------------------------------------------------------------

    def _show_list(self) -> None:
        tree = self.ui.generalistsTree
        was_blocked = tree.blockSignals(True)
        if tree.topLevelItemCount != len(self._facts):
            tree.clear()
            for name, facts in self._facts.items():
                item = qt.QTreeWidgetItem([facts.title, "", _short_licence(facts)])
                item.setData(NAME, qt.Qt.UserRole, name)
                item.setSizeHint(NAME, qt.QSize(60, row_height(tree, _ROW_HEIGHT)))
                item.setToolTip(NAME, f"{facts.title} ({name})\n{catalog()[name].purpose}")
                item.setToolTip(LICENCE, facts.license)
                tree.addTopLevelItem(item)
            tree.setCurrentItem(tree.topLevelItem(0))
        for number in range(tree.topLevelItemCount):
            item = tree.topLevelItem(number)
            facts = self._facts[item.data(NAME, qt.Qt.UserRole)]
            text, tip, tone = self._state_text(facts)
            item.setText(STATE, text)
            item.setToolTip(STATE, tip)
            item.setForeground(STATE, qt.QBrush(color(tone)))
        tree.blockSignals(was_blocked)
        rows = min(tree.topLevelItemCount, _ROWS_SHOWN)
        fit_height(tree, rows, _ROW_HEIGHT, header=tree.header().sizeHint.height())
        self._show_checks()
        self._show_details()

    def _show_checks(self) -> None:
        tree, chosen = self.ui.generalistsTree, list(self.state.parameters.generalists)
        was_blocked = tree.blockSignals(True)
        for number in range(tree.topLevelItemCount):
            item = tree.topLevelItem(number)
            checked = item.data(NAME, qt.Qt.UserRole) in chosen
            item.setCheckState(NAME, qt.Qt.Checked if checked else qt.Qt.Unchecked)
        tree.blockSignals(was_blocked)

    def _state_text(self, facts: WeightsState) -> tuple[str, str, Any]:
        if self.job is not None and self.job.name == facts.name:
            share = f"{100 * self.job.bytes // self.job.total} %" if self.job.total else "…"
            return share, _("Its weights are being downloaded, imported or removed"), "warning"
        if facts.state == "ready" and facts.missing_package:
            tip = _('Install its package first: pip install "{package}"').format(package=facts.missing_package)
            return _("needs package"), tip, "warning"
        if facts.state == "ready":
            size = bytes_text(facts.size) if facts.size else _("no weights needed")
            return _("ready"), _("Ready: {size}").format(size=size), "good"
        if facts.state == "damaged":
            return _("damaged"), facts.remedy, "error"
        needs = _("needs {size}").format(size=bytes_text(facts.size)) if facts.size else _("needs weights")
        return needs, facts.remedy, "warning"

    def _check(self, item: Any, column: int) -> None:
        if column != NAME:
            return
        name = item.data(NAME, qt.Qt.UserRole)
        chosen = [one for one in self.state.parameters.generalists if one != name]
        if item.checkState(NAME) == qt.Qt.Checked:
            chosen.append(name)
        self.ui.generalistsTree.setCurrentItem(item)
        self.state.set("generalists", chosen)

    # -- the selected generalist ------------------------------------------------------------------------------------

    def _selected(self) -> WeightsState | None:
        item = self.ui.generalistsTree.currentItem()
        return None if item is None else self._facts.get(item.data(NAME, qt.Qt.UserRole))

    def _show_details(self) -> None:
        facts, ui = self._selected(), self.ui
        if facts is None:
            show(ui.weightsButtonsPlace, False)
            self._show_progress()
            return
        entry = catalog()[facts.name]
        lines = [entry.purpose]
        if entry.needs_weights:
            size = _("{size}, licence {licence}.").format(size=bytes_text(facts.size), licence=facts.license)
            lines.append(size[0].upper() + size[1:])
        if facts.unverified:
            unknown = " and ".join(facts.unverified)
            lines.append(
                _("Not verified by us: {what}; the first download is recorded, and later ones must match it.").format(
                    what=unknown
                )
            )
        if facts.contamination:
            lines.append(facts.contamination)
        say(ui.generalistLabel, "\n".join(lines), "quiet")
        is_at_work = self.job is not None
        is_here = facts.state != "missing"
        show(
            ui.downloadButton, facts.can_download and facts.state != "ready" and entry.needs_weights and not is_at_work
        )
        show(ui.importButton, entry.needs_weights and facts.state != "ready" and not is_at_work)
        show(ui.removeWeightsButton, entry.needs_weights and is_here and not is_at_work)
        show(ui.cancelDownloadButton, is_at_work)
        buttons = (ui.downloadButton, ui.importButton, ui.removeWeightsButton, ui.cancelDownloadButton)
        show(ui.weightsButtonsPlace, any(not button.isHidden() for button in buttons))
        self._show_progress()

    def _show_progress(self) -> None:
        job, ui = self.job, self.ui
        show(ui.weightsProgress, job is not None)
        if job is None:
            text, tone = (self._fault, "error") if self._fault else (self._message, self._tone)
            say(ui.weightsStatusLabel, text, tone)
            return
        ui.weightsProgress.setRange(0, 1000 if job.total else 0)
        if job.total:
            ui.weightsProgress.setValue(1000 * job.bytes // job.total)
        parts = [f"{bytes_text(job.bytes)} / {bytes_text(job.total)}"] if job.total else []
        if job.speed:
            parts.append(_("{size} a second").format(size=bytes_text(job.speed)))
        if job.seconds_left is not None:
            parts.append(_("{time} left").format(time=time_text(job.seconds_left)))
        if job.is_cancelled:
            parts = [_("Cancelling …")]
        say(ui.weightsStatusLabel, ", ".join(parts) or job.message or _("Starting …"), "quiet")

    # -- work -------------------------------------------------------------------------------------------------------

    def _download(self, *_args: object) -> None:
        facts = self._selected()
        if facts is None or self.job is not None:
            return
        entry = catalog()[facts.name]
        question = _("Download {title} ({size}) from {origin}?\nLicence: {licence}.").format(
            title=facts.title, size=bytes_text(facts.size), origin=origin(entry), licence=facts.license
        )
        if facts.contamination:
            question += "\n" + facts.contamination
        if ask(question) and self._acknowledges(facts):
            self._start("download", facts, [])

    def _import(self, *_args: object) -> None:
        facts = self._selected()
        if facts is None or self.job is not None:
            return
        title = _("The weights of {title}").format(title=facts.title)
        if len(catalog()[facts.name].files) > 1:
            path = qt.QFileDialog.getExistingDirectory(self.widget, title)
        else:
            path = qt.QFileDialog.getOpenFileName(self.widget, title)
        if path and self._acknowledges(facts):
            self._start("import", facts, [path])

    def _remove(self, *_args: object) -> None:
        facts = self._selected()
        if facts is None or self.job is not None:
            return
        question = _("Delete the weights of {title} ({size}) from this computer?").format(
            title=facts.title, size=bytes_text(facts.size)
        )
        if ask(question):
            self._start("remove", facts, [])

    def _acknowledges(self, facts: WeightsState) -> bool:
        """Ask once whether a licence that asks for more than a mention, or is not stated, is agreed to."""
        if not facts.needs_acknowledgement:
            return True
        return ask(
            _(
                "The licence of {title} is: {licence}.\nIt is restrictive, or not stated. "
                "Have you read it, and does it allow what you do with these weights?"
            ).format(title=facts.title, licence=facts.license)
        )

    def _start(self, action: str, facts: WeightsState, more: list[str]) -> None:
        if action != "remove" and facts.needs_acknowledgement:
            more = [*more, "--accept-license"]
        self._message = ""
        try:
            self.job = WeightsJob(self.state.start_job, action, facts.name, more)
        except SemiSAMPlusError as error:
            self._message, self._tone = f"{error.what} {error.remedy}", "error"
            self._show_details()
            return
        self.job.changed.connect(self._show_list)
        self.job.ended.connect(self._finish)
        self._show_list()

    def _cancel(self, *_args: object) -> None:
        if self.job is not None:
            self.job.cancel()

    def _finish(self, job: WeightsJob) -> None:
        self.job = None
        done = {
            "download": _("The weights have been downloaded and are intact."),
            "import": _("The weights have been imported."),
            "remove": _("The weights have been deleted."),
        }
        self._message, self._tone = done[job.action], "good"
        if job.is_cancelled:
            self._message, self._tone = _("Cancelled; nothing was left behind."), "quiet"
        if job.error is not None:
            self._message, self._tone = " ".join(job.error[:2]), "error"
        elif job.action == "download" and not job.is_cancelled:
            slicer.util.showStatusMessage(self._message, 5000)
        self.look_again()
        self.state.settings_changed.emit()


def _short_licence(facts: WeightsState) -> str:
    entry = catalog()[facts.name]
    return (entry.weights_license if entry.needs_weights else entry.code_license) or _("none stated")
