"""The section Layers: what the specialist and the generalists say of a case."""

from __future__ import annotations

from typing import Any

import qt

from SemiSAMPlusLib.errors import SemiSAMPlusError
from SemiSAMPlusLib.generalist.catalog import catalog

from .layers import CaseLayers
from .layers.uncertainty import UNCERTAIN_SEGMENT
from .run import Run
from .state import PanelState
from .text import _
from .widgets import Later, fill_combo, load_ui, say, show

#: Visibility can be changed elsewhere in Slicer; it is looked at every so many ticks.
_TICKS_BETWEEN_LOOKS = 4


class LayersSection:
    """Shows and hides the layers of a case of the run that is looked at, and keeps them fresh.

    Args:
        place: The layout to be in.
        state: What the sections share.
    """

    def __init__(self, place: Any, state: PanelState) -> None:
        self.state = state
        self.widget, self.ui = load_ui("Layers", place)
        self._layers: CaseLayers | None = None
        self._boxes: dict[str, Any] = {}
        self._to_show: list[str] = []
        self._threshold: float | None = None
        self._ticks = 0
        self._error = ""
        self._refresh_later = Later(self.refresh)
        ui = self.ui
        ui.caseCombo.connect("activated(int)", lambda index: self._choose(ui.caseCombo.itemData(index)))
        ui.previousButton.connect("clicked(bool)", lambda *_args: self._step(-1))
        ui.nextButton.connect("clicked(bool)", lambda *_args: self._step(1))
        ui.thresholdSlider.connect("valueChanged(double)", self._choose_threshold)
        ui.jumpButton.connect("clicked(bool)", self._jump)
        ui.loadVolumeButton.connect("clicked(bool)", self._load_volume)
        state.logic.run_changed.connect(self._on_run)
        state.run_chosen.connect(self._refresh_later)
        state.restored.connect(self._on_restored)
        self._on_restored()

    def close(self) -> None:
        """Show nothing any more; what is in the scene stays."""
        self._refresh_later.close()
        self.state.logic.run_changed.disconnect(self._on_run)
        self.state.run_chosen.disconnect(self._refresh_later)
        self.state.restored.disconnect(self._on_restored)

    def tick(self) -> None:
        """Read at most one layer, and follow what was changed elsewhere."""
        layers = self._layers
        if layers is None:
            return
        self._ticks += 1
        if self._to_show:
            self._try(layers.show, self._to_show.pop(0))
        elif self._threshold is not None:
            threshold, self._threshold = self._threshold, None
            self._try(layers.set_threshold, threshold)
        elif layers.refresh() or self._ticks % _TICKS_BETWEEN_LOOKS == 0:
            self._show_boxes()

    def refresh(self) -> None:
        """Show which cases and layers there are."""
        run, ui = self.state.run, self.ui
        cases = run.layer_cases() if run is not None else []
        show(ui.layersBody, bool(cases))
        if run is None:
            say(ui.layersNote, _("Choose a run under Training to look at its layers."), "quiet")
        elif not cases:
            text = _("No layers yet: the first ones come with the first validation.") if run.is_active else ""
            say(ui.layersNote, text or _("The run has written no layers."), "quiet")
        else:
            say(ui.layersNote, "")
        if not cases:
            self._layers = None
            return
        case = self.state.parameters.layerCase
        case = case if case in cases else cases[0]
        fill_combo(ui.caseCombo, [(name, name, name) for name in cases], case)
        number = cases.index(case)
        ui.previousButton.enabled, ui.nextButton.enabled = number > 0, number < len(cases) - 1
        ui.previousButton.toolTip = _("Show the layers of the previous case") if number else _("This is the first case")
        is_last = number == len(cases) - 1
        ui.nextButton.toolTip = _("This is the last case") if is_last else _("Show the layers of the next case")
        self._layers = self._layers_of(run, case)
        self._show_boxes()
        self._show_about()

    # -- the case ---------------------------------------------------------------------------------------------------

    def _layers_of(self, run: Run, case: str) -> CaseLayers | None:
        try:
            return run.layers(case)
        except SemiSAMPlusError as error:
            say(self.ui.layersNote, f"{error.what} {error.remedy}", "error")
            return None

    def _step(self, by: int) -> None:
        index = self.ui.caseCombo.currentIndex + by
        if 0 <= index < self.ui.caseCombo.count:
            self._choose(self.ui.caseCombo.itemData(index))

    def _choose(self, case: str) -> None:
        """Show another case as the last one was shown."""
        self._error = ""
        if self._layers is not None and self._layers.case_name != case:
            self._layers.hide()
        self.state.set("layerCase", case)
        self.refresh()
        if self._layers is not None:
            self._layers.show_volume()
            wanted = list(self.state.parameters.shownLayers)
            self._to_show = [kind for kind in self._layers.kinds() if kind in wanted]
            self._show_boxes()
            threshold = self.ui.thresholdSlider.value
            if UNCERTAIN_SEGMENT in self._to_show and self._layers.threshold != threshold:
                self._try(self._layers.set_threshold, threshold)  # Before it is made, as that takes a while.

    def _load_volume(self, *_args: object) -> None:
        self._try(self.state.logic.load_case, self.state.run, self._layers.case_name)
        self.refresh()
        if self._layers is not None:
            self._layers.show_volume()

    # -- its layers -------------------------------------------------------------------------------------------------

    def _show_boxes(self) -> None:
        """Show one box for each layer, checked as the scene is."""
        layers = self._layers
        if layers is None:
            return
        kinds = layers.kinds()
        place = self.ui.layerChecks.layout()
        # Boxes that stay are kept: the layers of a case come one after another, and one may be about to be clicked.
        for kind in [kind for kind in self._boxes if kind not in kinds]:
            box = self._boxes.pop(kind)
            place.removeWidget(box)
            box.hide()
            box.deleteLater()  # It may be the one that was just clicked.
        for index, kind in enumerate(kinds):
            if kind not in self._boxes:
                box = self._boxes[kind] = qt.QCheckBox()
                box.objectName = f"{kind}Box"
                box.text, box.toolTip = _words(kind)
                box.connect("clicked(bool)", lambda checked, kind=kind: self._toggle(kind, checked))
                place.insertWidget(index, box)
        for kind, box in self._boxes.items():
            shown = layers.is_shown(kind) or kind in self._to_show
            if box.checked != shown:
                box.checked = shown
        show(self.ui.loadVolumeButton, layers.volume is None)
        has_uncertainty = "uncertainty" in kinds
        for widget in (self.ui.thresholdLabel, self.ui.thresholdSlider, self.ui.jumpButton):
            show(widget, has_uncertainty)

    def _toggle(self, kind: str, checked: bool) -> None:
        self._error = ""
        if self._layers is None:
            return
        self._try(self._layers.show if checked else self._layers.hide, kind)
        shown = [one for one in self.state.parameters.shownLayers if one != kind]
        self.state.parameters.shownLayers = [*shown, kind] if checked else shown
        if kind == UNCERTAIN_SEGMENT and checked:
            self._threshold = self.ui.thresholdSlider.value
        self._show_boxes()

    def _choose_threshold(self, value: float) -> None:
        """Take the threshold at the next tick: a slider that is dragged says many."""
        if value != self.state.parameters.threshold:
            self.state.parameters.threshold = value
        self._threshold = value

    def _jump(self, *_args: object) -> None:
        self._error = ""
        if self._layers is None:
            return
        point = self._try(self._layers.jump_to_most_uncertain)
        if point is None and not self._error:
            self._error = _("Nothing is uncertain here.")
        self._show_about()

    def _try(self, action: Any, *values: object) -> Any:
        try:
            return action(*values)
        except SemiSAMPlusError as error:
            self._error = f"{error.what} {error.remedy}"
            self._show_about()
            return None

    def _show_about(self) -> None:
        if self._error:
            say(self.ui.aboutLabel, self._error, "error")
            return
        about = self._layers.about if self._layers is not None else {}
        if not about:
            say(self.ui.aboutLabel, "")
            return
        source = {
            "predictive entropy": _("how undecided the specialist is"),
            "predictive entropy with generalists": _("how undecided specialist and trusted generalists are together"),
        }.get(str(about.get("uncertainty")), str(about.get("uncertainty")))
        text = _("As of iteration {iteration}. Uncertainty: {source}.")
        say(self.ui.aboutLabel, text.format(iteration=about.get("iteration"), source=source), "quiet")

    # -- what happens elsewhere -------------------------------------------------------------------------------------

    def _on_run(self, run: Run) -> None:
        if run is self.state.run:
            self._refresh_later()

    def _on_restored(self) -> None:
        self._layers, self._to_show, self._error = None, [], ""
        slider = self.ui.thresholdSlider
        was_blocked = slider.blockSignals(True)
        slider.value = self.state.parameters.threshold
        slider.blockSignals(was_blocked)
        self._threshold = None
        self.refresh()


def _words(kind: str) -> tuple[str, str]:
    """Return what a kind of layer is called, and what it is."""
    if kind.startswith("generalist:"):
        name = kind.partition(":")[2]
        entry = catalog().get(name)
        title = entry.title if entry is not None else name
        return _("Answer of {name}").format(name=title), _("This generalist's answer to the prompts")
    return {
        "prediction": (_("Prediction"), _("What the specialist segments")),
        "prompts": (
            _("Prompts"),
            _("The points in and around the structures, and the boxes, with which the generalists are prompted"),
        ),
        "uncertainty": (_("Uncertainty"), _("How uncertain each voxel is, as a map over the slices")),
        UNCERTAIN_SEGMENT: (_("Uncertain segment"), _("Every voxel more uncertain than the threshold below")),
    }.get(kind, (kind, kind))
