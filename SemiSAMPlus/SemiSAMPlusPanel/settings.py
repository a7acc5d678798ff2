"""The settings of a training as the panel shows them: choices in words, and fields made from the library's one list."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from SemiSAMPlusLib.errors import ConfigError
from SemiSAMPlusLib.run.config import TrainingConfig

from .parameters import Parameters, Quality
from .text import _

#: Minutes that a training of each quality takes.
MINUTES = {Quality.QUICK: 5.0, Quality.STANDARD: 30.0, Quality.THOROUGH: 120.0}

#: What the panel asks for by widgets of their own; all other settings lie under Advanced.
PLAIN = ("specialist", "method", "generalists", "minutes", "device")


def qualities() -> list[tuple[Quality, str, str]]:
    """Return each quality, its name, and what it is good for."""
    return [
        (Quality.QUICK, _("Quick: about 5 minutes"), _("A first look, to see whether labels and volumes are right.")),
        (Quality.STANDARD, _("Standard: about 30 minutes"), _("Enough for most structures.")),
        (
            Quality.THOROUGH,
            _("Thorough: about 2 hours"),
            _("For the final specialist, and for structures that are hard to learn."),
        ),
        (Quality.ITERATIONS, _("By iterations"), _("As many iterations as are set under Advanced.")),
    ]


def methods() -> list[tuple[str, str, str]]:
    """Return each method, its title, and what it does, the default first."""
    return [
        (
            "mean-teacher",
            _("Mean teacher (default)"),
            _("The specialist must agree with its own moving average when images are perturbed."),
        ),
        (
            "copy-paste",
            _("Copy-paste"),
            _("Pastes parts of unlabelled volumes into labelled ones, and the other way round."),
        ),
        ("cps", _("Cross pseudo supervision"), _("Two networks teach each other; takes about twice as long.")),
        ("ua-mt", _("Uncertainty-aware mean teacher"), _("Mean teacher, only where the teacher is certain.")),
        ("dan", _("Adversarial network"), _("Segmentations of unlabelled volumes must look like labelled ones.")),
        (
            "supervised",
            _("Supervised"),
            _("Learns from the labelled cases alone: for cohorts in which all are labelled."),
        ),
    ]


def specialists() -> list[tuple[str, str, str]]:
    """Return each specialist, its title, and what it is good for, the default first."""
    return [
        ("unet3d", _("Residual U-Net (default)"), _("Small and fast; good on few labels and on a CPU.")),
        ("vnet", _("V-Net"), _("The network that papers in this field compare with.")),
        ("segresnet", _("SegResNet"), _("A residual encoder with a light decoder.")),
        ("dynunet", _("DynUNet"), _("Built like nnU-Net; larger and slower.")),
        ("swinunetr", _("Swin UNETR"), _("A transformer; wants a GPU and more labels.")),
    ]


@dataclass(frozen=True)
class Field:
    """A setting under Advanced.

    Attributes:
        name: As :class:`~SemiSAMPlusLib.run.config.TrainingConfig` has it.
        title: As it is shown.
        help: What it changes, in a sentence.
        choices: What it can be where it can be only these; several at once where ``many``.
        many: Whether any number of ``choices`` can be chosen.
        optional: Whether it may be left to the program.
        default: What it is where nobody says.
        kind: int, float or str: of one value.
        count: How many values it is made of, one or three; 0 for any number.
    """

    name: str
    title: str
    help: str
    choices: tuple[str, ...]
    many: bool
    optional: bool
    default: Any
    kind: type
    count: int

    @property
    def holds_names(self) -> bool:
        """Whether it is made of names: there may be spaces and commas in them, and ``;`` stands between them."""
        return self.kind is str and self.count == 0 and not self.choices

    def text(self, value: Any) -> str:
        """Return ``value`` as a user writes it, empty where it is left to the program."""
        if value is None:
            return ""
        values = value if isinstance(value, (list, tuple)) else (value,)
        between = "; " if self.holds_names else " "
        return between.join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)

    def value(self, text: str) -> Any:
        """Return what a user wrote as a value.

        Raises:
            ConfigError: If it is no such value.
        """
        if self.holds_names:
            words = [name.strip() for name in text.split(";") if name.strip()]
        else:
            words = text.replace(",", " ").split()
        if not words and self.optional:
            return None
        try:
            values = tuple(self.kind(word) for word in words)
        except ValueError:
            values = ()
        if self.kind is str and self.count != 1:
            return values
        if len(values) != self.count:
            number = _("a whole number") if self.kind is int else _("a number")
            expected = number if self.count == 1 else _("{count} whole numbers").format(count=self.count)
            what = _("'{title}' is '{text}', expected {expected}.").format(
                title=self.title, text=text, expected=expected
            )
            raise ConfigError(what, _("Correct it under Advanced."))
        return values[0] if self.count == 1 else values


def advanced_fields() -> list[Field]:
    """Return the settings under Advanced, in the order of the library's list."""
    hints, told = get_type_hints(TrainingConfig), _told()
    return [
        _field(field, hints[field.name], told[field.name])
        for field in dataclasses.fields(TrainingConfig)
        if field.name not in PLAIN
    ]


def advanced_values(parameters: Parameters) -> dict[str, Any]:
    """Return the settings under Advanced that differ from their defaults."""
    try:
        values = json.loads(parameters.advanced or "{}")
    except ValueError:  # A scene that another version saved must still open.
        return {}
    known = {field.name for field in dataclasses.fields(TrainingConfig)} - set(PLAIN)
    return {name: value for name, value in values.items() if name in known} if isinstance(values, dict) else {}


def training_config(parameters: Parameters) -> TrainingConfig:
    """Return how to train, as the panel says.

    Raises:
        ConfigError: If a setting cannot work.
    """
    return TrainingConfig.from_dict(
        {
            **advanced_values(parameters),
            "specialist": parameters.specialist,
            "method": parameters.method,
            "generalists": list(parameters.generalists),
            "minutes": MINUTES.get(parameters.quality),
            "device": parameters.device,
        }
    )


def _field(field: dataclasses.Field, hint: Any, told: str) -> Field:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    optional = type(None) in options
    one = next(option for option in options if option is not type(None))
    parts = get_args(one) if get_origin(one) is tuple else (one,)
    many = Ellipsis in parts
    first = parts[0]
    choices = tuple(get_args(first)) if get_origin(first) is Literal else ()
    made = Field(
        field.name,
        _(field.name.replace("_", " ").capitalize()),
        _(told),
        choices,
        many and bool(choices),
        optional,
        field.default,
        str if choices else first,
        0 if many else len(parts),
    )
    return replace(made, help=f"{made.help} {_('Separate names with semicolons.')}") if made.holds_names else made


def _told() -> dict[str, str]:
    """Return what the class's docstring says of each setting."""
    doc = inspect.cleandoc(TrainingConfig.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", doc, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}
