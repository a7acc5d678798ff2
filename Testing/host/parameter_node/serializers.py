"""How values of each type are written into a vtkMRMLScriptedModuleNode, in the form that Slicer writes them."""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from collections.abc import MutableSequence
from typing import Any

import slicer

from .annotations import IsInstance, NotNone, Validator, split

_PATHS = (
    pathlib.Path,
    pathlib.PurePath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
)


class Serializer:
    """Writes and reads one parameter of a type that one text can hold.

    Args:
        kind: The type.
        validators: What refuses values before they are written.
    """

    def __init__(self, kind: Any, validators: list[Validator]) -> None:
        self.kind = kind
        self.validators = [*self._own_validators(), *validators]

    def _own_validators(self) -> list[Validator]:
        return [NotNone(), IsInstance((int, float) if self.kind is float else self.kind)]

    def default(self) -> Any:
        """Return the value of a parameter that says nothing else."""
        return 0 if self.kind in (int, float) else self.kind()

    def validate(self, value: Any) -> None:
        """Raise an exception if the value is not allowed."""
        for validator in self.validators:
            validator.validate(value)

    def is_in(self, node: Any, name: str) -> bool:
        """Return whether the node has a value of that name."""
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Write a value, if it is allowed."""
        self.validate(value)
        node.SetParameter(name, str(value))

    def read(self, node: Any, name: str) -> Any:
        """Read the value."""
        return self.kind(node.GetParameter(name))

    def remove(self, node: Any, name: str) -> None:
        """Remove the value from the node."""
        node.UnsetParameter(name)


class BoolSerializer(Serializer):
    """Writes "True" or "False"."""

    def read(self, node: Any, name: str) -> bool:
        """Read the value."""
        return node.GetParameter(name) == "True"


class EnumSerializer(Serializer):
    """Writes the name of the member."""

    def _own_validators(self) -> list[Validator]:
        return [IsInstance(self.kind)]

    def default(self) -> Any:
        """Return the first member."""
        return next(iter(self.kind))

    def write(self, node: Any, name: str, value: Any) -> None:
        """Write the name of a member."""
        self.validate(value)
        node.SetParameter(name, value.name)

    def read(self, node: Any, name: str) -> Any:
        """Read a member by its name."""
        key = node.GetParameter(name)
        try:
            return self.kind[key]
        except KeyError:
            msg = f"The parameter node has {key!r}, which is no name in {self.kind}"
            raise ValueError(msg) from None


class NodeSerializer(Serializer):
    """Keeps a node reference of the parameter's name, so that it follows when scenes are merged."""

    def _own_validators(self) -> list[Validator]:
        return [IsInstance(self.kind)]

    def default(self) -> None:
        """Return no node."""

    def write(self, node: Any, name: str, value: Any) -> None:
        """Refer to a node, or to none."""
        self.validate(value)
        node.SetParameter(name, "")  # Says that it was written, for None is a value too.
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        """Return the node referred to."""
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        """Refer to nothing any more."""
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class ListSerializer(Serializer):
    """Writes NAME.len and NAME.0, NAME.1 ..."""

    def __init__(self, kind: Any, validators: list[Validator]) -> None:
        super().__init__(kind, validators)
        self.element = create(*split(typing.get_args(kind)[0]))
        self.length = Serializer(int, [])

    def _own_validators(self) -> list[Validator]:
        return []

    def default(self) -> list[Any]:
        """Return an empty list."""
        return []

    def is_in(self, node: Any, name: str) -> bool:
        """Return whether the node has a list of that name."""
        return self.length.is_in(node, f"{name}.len")

    def write(self, node: Any, name: str, values: Any) -> None:
        """Write every element; if one is not allowed, the list stays as it was."""
        self.validate(values)
        for value in values:
            self.element.validate(value)
        with slicer.util.NodeModify(node):
            before = self._length(node, name)
            for index, value in enumerate(values):
                self.element.write(node, f"{name}.{index}", value)
            self.length.write(node, f"{name}.len", len(values))
            for index in range(len(values), before):
                self.element.remove(node, f"{name}.{index}")

    def read(self, node: Any, name: str) -> ObservedList:
        """Return the elements; what is changed in the list is written at once."""
        elements = [self.element.read(node, f"{name}.{index}") for index in range(self._length(node, name))]
        return ObservedList(node, self, name, elements)

    def remove(self, node: Any, name: str) -> None:
        """Remove every element."""
        with slicer.util.NodeModify(node):
            for index in range(self._length(node, name)):
                self.element.remove(node, f"{name}.{index}")
            self.length.remove(node, f"{name}.len")

    def _length(self, node: Any, name: str) -> int:
        return self.length.read(node, f"{name}.len") if self.is_in(node, name) else 0


class OptionalSerializer(Serializer):
    """Writes the value under NAME.0 or, for None, NAME.1."""

    def __init__(self, kind: Any, validators: list[Validator]) -> None:
        super().__init__(kind, validators)
        self.element = create(*split(next(arg for arg in typing.get_args(kind) if arg is not type(None))))
        self.none = BoolSerializer(bool, [])

    def _own_validators(self) -> list[Validator]:
        return []

    def default(self) -> None:
        """Return None."""

    def is_in(self, node: Any, name: str) -> bool:
        """Return whether the node has the value, or None, of that name."""
        return self.element.is_in(node, f"{name}.0") or self.none.is_in(node, f"{name}.1")

    def write(self, node: Any, name: str, value: Any) -> None:
        """Write a value or None."""
        if value is not None:
            self.validate(value)
            self.element.validate(value)
        with slicer.util.NodeModify(node):
            self.remove(node, name)
            if value is None:
                self.none.write(node, f"{name}.1", True)
            else:
                self.element.write(node, f"{name}.0", value)

    def read(self, node: Any, name: str) -> Any:
        """Read the value or None."""
        return self.element.read(node, f"{name}.0") if self.element.is_in(node, f"{name}.0") else None

    def remove(self, node: Any, name: str) -> None:
        """Remove the value, or None."""
        self.element.remove(node, f"{name}.0")
        self.none.remove(node, f"{name}.1")


class ObservedList(MutableSequence):
    """A list that writes itself into the parameter node at every change."""

    def __init__(self, node: Any, serializer: ListSerializer, name: str, elements: list[Any]) -> None:
        self._node = node
        self._serializer = serializer
        self._name = name
        self._elements = elements

    def __repr__(self) -> str:
        return f"ObservedList({self._elements})"

    def __eq__(self, other: object) -> bool:
        return self._elements == (other._elements if isinstance(other, ObservedList) else other)

    __hash__ = None  # type: ignore[assignment]  # As a list.

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, index: Any) -> Any:
        return self._elements[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._elements[index] = value
        self._save()

    def __delitem__(self, index: Any) -> None:
        del self._elements[index]
        self._save()

    def insert(self, index: int, value: Any) -> None:
        """Put a value before that index."""
        self._elements.insert(index, value)
        self._save()

    def _save(self) -> None:
        try:
            self._serializer.write(self._node, self._name, self._elements)
        finally:
            self._elements = self._serializer.read(self._node, self._name)._elements


def create(kind: Any, annotations: list[Any]) -> Serializer:
    """Return the serializer of a type.

    Raises:
        NotImplementedError: If Slicer may know the type, but this stand-in does not.
    """
    validators = [annotation for annotation in annotations if isinstance(annotation, Validator)]
    return _serializer_class(kind)(kind, validators)


def _serializer_class(kind: Any) -> type[Serializer]:
    if kind is bool:
        return BoolSerializer
    if kind in (int, float, str, *_PATHS):
        return Serializer
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return EnumSerializer
    if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
        return NodeSerializer
    if typing.get_origin(kind) is list:
        return ListSerializer
    # Slicer knows typing.Optional[X] but, up to 5.12, not X | None.
    if (
        typing.get_origin(kind) is typing.Union
        and len(typing.get_args(kind)) == 2
        and type(None) in typing.get_args(kind)
    ):
        return OptionalSerializer
    if isinstance(kind, types.UnionType):
        msg = f"Unable to create serializer for type: {kind}; write Optional[...]"
        raise TypeError(msg)
    msg = f"The test host's parameter nodes do not know the type {kind} yet"
    raise NotImplementedError(msg)
