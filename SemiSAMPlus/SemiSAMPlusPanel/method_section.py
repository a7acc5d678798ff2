"""The section Method: how the specialist learns, for how long, and on which device."""

from __future__ import annotations

import json
from typing import Any

import qt

from SemiSAMPlusLib.errors import ConfigError
from SemiSAMPlusLib.run.config import TrainingConfig

from .parameters import Quality
from .settings import Field, advanced_fields, advanced_values, methods, qualities, specialists, training_config
from .state import PanelState
from .text import _
from .weights_section import WeightsSection
from .widgets import bytes_text, fill_combo, load_ui, say


class MethodSection:
    """Shows the settings of the next training, and remembers what the user chooses.

    Args:
        place: The layout to be in.
        state: What the sections share.
    """

    def __init__(self, place: Any, state: PanelState) -> None:
        self.state = state
        self.widget, self.ui = load_ui("Method", place)
        self.weights = WeightsSection(self.ui.weightsPlace.layout(), state)
        self._fields = {field.name: field for field in advanced_fields()}
        self._editors: dict[str, Any] = {}
        self._make_advanced()
        ui = self.ui
        ui.qualityCombo.connect("activated(int)", self._choose_quality)
        for combo, name in ((ui.methodCombo, "method"), (ui.specialistCombo, "specialist"), (ui.deviceCombo, "device")):
            combo.connect("activated(int)", lambda index, combo=combo, name=name: self._choose(combo, name, index))
        ui.refreshDevicesButton.connect("clicked(bool)", self._ask_devices)
        ui.resetAdvancedButton.connect("clicked(bool)", self._restore_defaults)
        state.restored.connect(self.refresh)
        state.logic.devices_changed.connect(self._show_devices)
        state.dependencies_changed.connect(self._ask_devices)
        self.refresh()

    def close(self) -> None:
        """Show nothing any more."""
        self.weights.close()
        self.state.restored.disconnect(self.refresh)
        self.state.logic.devices_changed.disconnect(self._show_devices)
        self.state.dependencies_changed.disconnect(self._ask_devices)

    def tick(self) -> None:
        """Look after downloads."""
        self.weights.tick()

    def refresh(self) -> None:
        """Show what the parameters say."""
        parameters, ui = self.state.parameters, self.ui
        chosen = [(quality.value, text, tip) for quality, text, tip in qualities()]
        fill_combo(ui.qualityCombo, chosen, parameters.quality.value)
        fill_combo(ui.methodCombo, _with_own(methods(), parameters.method), parameters.method)
        fill_combo(ui.specialistCombo, _with_own(specialists(), parameters.specialist), parameters.specialist)
        self._show_devices()
        values = advanced_values(parameters)
        for name, editor in self._editors.items():
            field = self._fields[name]
            _write(editor, field, values.get(name, field.default))
        self._show_note()

    # -- plain choices ----------------------------------------------------------------------------------------------

    def _choose_quality(self, index: int) -> None:
        self.state.set("quality", Quality(self.ui.qualityCombo.itemData(index)))
        self._show_note()

    def _choose(self, combo: Any, name: str, index: int) -> None:
        self.state.set(name, combo.itemData(index))
        self._show_note()

    def _show_note(self) -> None:
        """Say in a line each what is chosen, and what of it cannot work."""
        parameters, ui = self.state.parameters, self.ui
        for label, choices, chosen in (
            (ui.qualityNote, qualities(), parameters.quality),
            (ui.methodChoiceNote, methods(), parameters.method),
            (ui.specialistNote, specialists(), parameters.specialist),
        ):
            say(label, next((tip for value, _text, tip in choices if value == chosen), ""), "quiet")
        try:
            training_config(parameters)
        except ConfigError as error:
            say(self.ui.methodNote, f"{error.what} {error.remedy}", "error")
            return
        say(self.ui.methodNote, "")

    # -- devices ----------------------------------------------------------------------------------------------------

    def _show_devices(self) -> None:
        known = self.state.logic.known_devices
        choices = [("auto", _("Automatic: the GPU with most free memory, else the CPU"), "")]
        if known:
            best = next((one for one in known if one["name"] != "cpu"), known[0])
            choices = [("auto", _("Automatic: {title}").format(title=best["title"]), "")]
        for device in known:
            text = _("{title}: {free} of {total} free").format(
                title=device["title"], free=bytes_text(device.get("free")), total=bytes_text(device.get("total"))
            )
            choices.append((device["name"], text, _("The device '{name}'").format(name=device["name"])))
        chosen = self.state.parameters.device
        if chosen not in [name for name, _text, _tip in choices]:
            unknown = _("not available now") if known else _("not checked yet")
            choices.append((chosen, f"{chosen} ({unknown})", ""))
        fill_combo(self.ui.deviceCombo, choices, chosen)
        self.ui.deviceCombo.toolTip = self.ui.deviceCombo.currentText

    def _ask_devices(self, *_args: object) -> None:
        self.state.logic.ask_devices()

    # -- Advanced ---------------------------------------------------------------------------------------------------

    def _make_advanced(self) -> None:
        form = self.ui.advancedPlace.layout()
        for field in self._fields.values():
            editor = _editor(field)
            editor.objectName = f"{field.name}Edit"
            editor.toolTip = field.help
            label = qt.QLabel(_("{name}:").format(name=field.title))
            label.toolTip = field.help
            form.addRow(label, editor)
            self._editors[field.name] = editor
            signal = "activated(int)" if field.choices and not field.many else "editingFinished()"
            editor.connect(signal, lambda *_args, name=field.name: self._take(name))

    def _take(self, name: str) -> None:
        field, editor = self._fields[name], self._editors[name]
        text = editor.currentText if field.choices and not field.many else editor.text
        values = advanced_values(self.state.parameters)
        try:
            value = field.value(text)
            values.pop(name, None)
            if value != field.default:
                values[name] = list(value) if isinstance(value, tuple) else value
            TrainingConfig.from_dict({key: one for key, one in values.items() if key == name})
        except ConfigError as error:
            say(self.ui.methodNote, f"{error.what} {error.remedy}", "error")
            return
        self.state.set("advanced", json.dumps(values) if values else "")
        self._show_note()

    def _restore_defaults(self, *_args: object) -> None:
        self.state.set("advanced", "")
        self.refresh()


def _with_own(choices: list[tuple[str, str, str]], chosen: str) -> list[tuple[str, str, str]]:
    """Add what was chosen where it is none of ours: a plug-in's, or of another version of the program."""
    known = {value for value, _text, _tip in choices}
    return choices if chosen in known else [*choices, (chosen, chosen, _("From an installed package"))]


def _editor(field: Field) -> Any:
    if field.choices and not field.many:
        combo = qt.QComboBox()
        for choice in field.choices:
            combo.addItem(choice)
        return combo
    edit = qt.QLineEdit()
    if field.choices:
        edit.placeholderText = _("any of {choices}").format(choices=" ".join(field.choices))
    elif field.optional or field.default == ():
        edit.placeholderText = _("automatic")
    return edit


def _write(editor: Any, field: Field, value: Any) -> None:
    if field.choices and not field.many:
        editor.setCurrentIndex(field.choices.index(value) if value in field.choices else 0)
    elif editor.text != field.text(value):
        editor.text = field.text(value)
