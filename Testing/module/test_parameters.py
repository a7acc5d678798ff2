"""What the panel remembers, and the settings that it makes of it."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest

from SemiSAMPlusLib.errors import ConfigError
from SemiSAMPlusLib.run.config import TrainingConfig


def parameters(**values: Any) -> Any:
    from SemiSAMPlusPanel.parameters import Quality

    plain = {"generalists": ["random-walker"], "quality": Quality.STANDARD, "advanced": ""}
    return SimpleNamespace(**{**plain, "method": "copy-paste", "specialist": "unet3d", "device": "auto", **values})


def test_what_is_remembered_survives_saving_and_loading_the_scene(scene: Any, tmp_path: Any) -> None:
    from SemiSAMPlusPanel.parameters import Parameters, Quality
    from stage import parameter_node

    remembered = Parameters(parameter_node())
    assert remembered.generalists == ["random-walker"]
    remembered.generalists = ["sam-med3d-turbo"]
    remembered.quality, remembered.threshold, remembered.runName = Quality.QUICK, 0.25, "Vorhof ä"
    path = tmp_path / "scene.mrml"
    import slicer

    slicer.util.saveScene(str(path))
    scene.Clear(False)
    assert Parameters(parameter_node()).runName == ""
    slicer.util.loadScene(str(path))
    again = Parameters(parameter_node())
    assert (again.quality, again.threshold, again.runName) == (Quality.QUICK, 0.25, "Vorhof ä")
    assert again.generalists == ["sam-med3d-turbo"]


def test_a_scene_that_a_later_version_saved_opens(scene: Any, tmp_path: Any) -> None:
    import slicer
    from SemiSAMPlusPanel.parameters import Parameters, Quality
    from stage import Stage, parameter_node

    Parameters(parameter_node()).runName = "Vorhof"
    parameter_node().SetParameter("quality", "OVERNIGHT")
    path = tmp_path / "scene.mrml"
    slicer.util.saveScene(str(path))
    scene.Clear(False)
    slicer.util.loadScene(str(path))
    stage = Stage(tmp_path / "runs")
    assert (stage.parameters.quality, stage.parameters.runName) == (Quality.STANDARD, "Vorhof")
    assert stage.find("qualityCombo").currentText.startswith("Standard")
    stage.close()


def test_defaults_of_the_panel_are_those_of_the_library(scene: Any) -> None:
    from SemiSAMPlusPanel.parameters import Parameters
    from SemiSAMPlusPanel.settings import MINUTES, training_config
    from stage import parameter_node

    remembered = Parameters(parameter_node())
    expected = dataclasses.replace(TrainingConfig(), minutes=MINUTES[remembered.quality])
    assert training_config(remembered) == expected


def test_every_setting_is_shown_once_and_explained(qt_app: Any) -> None:
    from SemiSAMPlusPanel.settings import PLAIN, advanced_fields

    fields = advanced_fields()
    names = [field.name for field in fields]
    assert sorted([*names, *PLAIN]) == sorted(field.name for field in dataclasses.fields(TrainingConfig))
    assert all(field.help.endswith(".") for field in fields)
    for field in fields:
        assert field.value(field.text(field.default)) == field.default, field.name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("iterations", "250", 250),
        ("learning_rate", "1e-3", 1e-3),
        ("spacing", "", None),
        ("spacing", "0.8", 0.8),
        ("patch", "32 48, 64", (32, 48, 64)),
        ("flips", "x z", ("x", "z")),
        ("size", "large", "large"),
        ("layers", "4: Ax T2 (2); Meier, Anna;", ("4: Ax T2 (2)", "Meier, Anna")),
    ],
)
def test_what_a_user_writes_becomes_a_value(qt_app: Any, name: str, text: str, value: Any) -> None:
    from SemiSAMPlusPanel.settings import advanced_fields

    field = next(field for field in advanced_fields() if field.name == name)
    assert field.value(text) == value


@pytest.mark.parametrize(("name", "text"), [("iterations", "many"), ("iterations", "1.5"), ("patch", "32 32")])
def test_what_is_no_value_is_refused_by_name(qt_app: Any, name: str, text: str) -> None:
    from SemiSAMPlusPanel.settings import advanced_fields

    field = next(field for field in advanced_fields() if field.name == name)
    with pytest.raises(ConfigError, match=f"'{field.title}' is '{text}'"):
        field.value(text)


def test_advanced_settings_reach_the_training(qt_app: Any) -> None:
    from SemiSAMPlusPanel.parameters import Quality
    from SemiSAMPlusPanel.settings import training_config

    changed = {"batch": 1, "patch": [16, 16, 16], "unknown": 3}
    config = training_config(parameters(quality=Quality.ITERATIONS, advanced=json.dumps(changed)))
    assert (config.batch, config.patch, config.minutes) == (1, (16, 16, 16), None)
    assert training_config(parameters(quality=Quality.QUICK)).minutes == 5
    assert training_config(parameters(advanced="broken")).batch == TrainingConfig().batch


def test_every_choice_of_the_panel_is_one_of_the_library(qt_app: Any) -> None:
    from SemiSAMPlusPanel.settings import methods, qualities, specialists

    from SemiSAMPlusLib.specialist.methods import METHODS
    from SemiSAMPlusLib.specialist.networks import SPECIALISTS

    assert {value for value, _text, _tip in methods()} == set(METHODS)
    assert {value for value, _text, _tip in specialists()} == set(SPECIALISTS)
    assert (methods()[0][0], specialists()[0][0]) == (TrainingConfig().method, TrainingConfig().specialist)
    assert all(
        tip.endswith(".") for choices in (methods(), specialists(), qualities()) for _value, _text, tip in choices
    )
