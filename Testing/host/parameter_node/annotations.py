"""What ``Annotated[float, WithinRange(0, 1)]`` may say of a parameter."""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


class Validator(ABC):
    """Refuses values."""

    @abstractmethod
    def validate(self, value: Any) -> None:
        """Raise an exception if the value is not allowed."""


class NotNone(Validator):
    """Refuses None."""

    def validate(self, value: Any) -> None:
        """Raise ValueError for None."""
        if value is None:
            msg = "The value must not be None"
            raise ValueError(msg)


@dataclass
class IsInstance(Validator):
    """Refuses values of other types; None passes."""

    classtype: Any

    def validate(self, value: Any) -> None:
        """Raise TypeError for a value of another type."""
        if value is not None and not isinstance(value, self.classtype):
            msg = f"The value {value!r} is of type {type(value)}, not of {self.classtype}"
            raise TypeError(msg)


@dataclass
class WithinRange(Validator):
    """Refuses values outside a range, whose ends are allowed."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError for a value outside."""
        if not self.minimum <= value <= self.maximum:
            msg = f"The value {value} is not within {self.minimum} and {self.maximum}"
            raise ValueError(msg)


@dataclass
class Minimum(Validator):
    """Refuses smaller values."""

    minimum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError for a smaller value."""
        if value < self.minimum:
            msg = f"The value {value} is less than {self.minimum}"
            raise ValueError(msg)


@dataclass
class Maximum(Validator):
    """Refuses larger values."""

    maximum: float

    def validate(self, value: Any) -> None:
        """Raise ValueError for a larger value."""
        if value > self.maximum:
            msg = f"The value {value} is greater than {self.maximum}"
            raise ValueError(msg)


@dataclass
class Choice(Validator):
    """Refuses values that are not in a list."""

    choices: list[Any]

    def validate(self, value: Any) -> None:
        """Raise ValueError for any other value."""
        if value not in self.choices:
            msg = f"The value {value!r} is none of {self.choices}"
            raise ValueError(msg)


@dataclass
class Exclude(Validator):
    """Refuses values that are in a list."""

    excludedValues: list[Any]

    def validate(self, value: Any) -> None:
        """Raise ValueError for one of these values."""
        if value in self.excludedValues:
            msg = f"The value {value!r} is excluded"
            raise ValueError(msg)


@dataclass
class Default:
    """The value that a parameter has at first."""

    value: Any


@dataclass
class Decimals:
    """How many decimals a widget shows."""

    value: int


@dataclass
class SingleStep:
    """By how much a widget changes the value in one step."""

    value: float


def split(annotated: Any) -> tuple[Any, list[Any]]:
    """Return the type itself and what its annotations say."""
    if typing.get_origin(annotated) is typing.Annotated:
        plain, *annotations = typing.get_args(annotated)
        return plain, annotations
    return annotated, []


def first(annotations: list[Any], kind: type) -> Any:
    """Return the first annotation of that kind, None where there is none."""
    return next((annotation for annotation in annotations if isinstance(annotation, kind)), None)
