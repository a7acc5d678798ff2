"""Cases and cohorts as plain data: which files there are and which part each plays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import CohortError, SemiSAMPlusError, VolumeError
from ..run.files import write_text_atomically

FORMAT = "semisamplus-cohort-1"

#: Cases by name, or by number and range counted from 1 ("41-50", "1,3,7-9").
Selection = str | Sequence[str]

#: Colours (sRGB, 0 to 1) given in turn to classes that bring none: the Okabe-Ito palette, which colour-blind readers can tell apart.
CLASS_COLORS: tuple[tuple[float, float, float], ...] = (
    (0.902, 0.624, 0.0),
    (0.337, 0.706, 0.914),
    (0.0, 0.620, 0.451),
    (0.800, 0.475, 0.655),
    (0.941, 0.894, 0.259),
    (0.0, 0.447, 0.698),
    (0.835, 0.369, 0.0),
)


class Role(StrEnum):
    """The part that a case plays in a training."""

    LABELED = "labeled"
    UNLABELED = "unlabeled"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Case:
    """One volume, maybe with a label.

    Attributes:
        name: What the user calls it; unique in its cohort.
        images: One file (or DICOM series folder) per channel, all on one grid.
        label: The label file, or None. Training opens those of labelled and validation cases only.
        role: The part that the case plays.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    role: Role = Role.UNLABELED


@dataclass(frozen=True)
class Class:
    """One structure to segment.

    Attributes:
        name: What the user calls it.
        values: The values that stand for it in the label files (BraTS's whole tumour has three).
        color: sRGB, 0 to 1.
    """

    name: str
    values: tuple[int, ...]
    color: tuple[float, float, float] = CLASS_COLORS[0]


@dataclass(frozen=True)
class Cohort:
    """Cases that are labelled, unlabelled, or held out for validation or test.

    Class ``i`` of ``classes`` has index ``i + 1`` in everything that a specialist predicts; 0 is background.

    Attributes:
        cases: The cases, names unique.
        classes: The structures to segment, at least one.
        channels: One name per image of a case.
        picked: Whether the user picked the classes out of more: then label values of no class are background, else
            they are a fault.
    """

    cases: tuple[Case, ...]
    classes: tuple[Class, ...]
    channels: tuple[str, ...] = field(default=("image",))
    picked: bool = False

    def with_role(self, *roles: Role) -> tuple[Case, ...]:
        """Return the cases that have one of ``roles``, in cohort order."""
        return tuple(case for case in self.cases if case.role in roles)

    @property
    def labeled(self) -> tuple[Case, ...]:
        """The cases whose labels teach the specialist."""
        return self.with_role(Role.LABELED)

    @property
    def unlabeled(self) -> tuple[Case, ...]:
        """The cases of which only the image is used."""
        return self.with_role(Role.UNLABELED)

    @property
    def validation(self) -> tuple[Case, ...]:
        """The labelled cases that are held out to choose the best checkpoint."""
        return self.with_role(Role.VALIDATION)

    @property
    def test(self) -> tuple[Case, ...]:
        """The cases that are listed for later, and that training never opens."""
        return self.with_role(Role.TEST)

    def case(self, name: str) -> Case:
        """Return the case called ``name``.

        Raises:
            VolumeError: If there is no such case.
        """
        for case in self.cases:
            if case.name == name:
                return case
        msg = f"The cohort has no case named '{name}'."
        raise VolumeError(msg, f"Its cases are {summary([case.name for case in self.cases])}.")

    def to_dict(self, relative_to: Path | None = None) -> dict[str, Any]:
        """Return the cohort as JSON-ready data; paths below ``relative_to`` are written relative to it."""

        def path(value: Path) -> str:
            if relative_to is None:
                return Path(value).absolute().as_posix()
            # What goes up with ".." and lies elsewhere is not below.
            absolute, folder = (Path(os.path.abspath(one)) for one in (value, relative_to))
            return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()

        return {
            "format": FORMAT,
            "channels": list(self.channels),
            "classes": [{"name": c.name, "values": list(c.values), "color": list(c.color)} for c in self.classes],
            **({"picked": True} if self.picked else {}),
            "cases": [
                {
                    "name": case.name,
                    "role": case.role.value,
                    "images": [path(image) for image in case.images],
                    **({"label": path(case.label)} if case.label is not None else {}),
                }
                for case in self.cases
            ],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], relative_to: Path = Path()) -> Cohort:
        """Return the cohort that :meth:`to_dict` described.

        Args:
            data: What :meth:`to_dict` returned.
            relative_to: The folder that relative paths start from.

        Raises:
            CohortError: If ``data`` is not such a description.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            fault = SemiSAMPlusError(
                f"The cohort's format is {found!r}, expected {FORMAT!r}.", "Make it anew with `semisamplus cohort`."
            )
            raise CohortError([fault])
        try:
            classes = tuple(
                Class(c["name"], tuple(int(v) for v in _list(c, "values")), tuple(_list(c, "color")))
                for c in _list(data, "classes")
            )
            cases = tuple(
                Case(
                    name=c["name"],
                    images=tuple(relative_to / image for image in _list(c, "images")),
                    label=relative_to / c["label"] if c.get("label") else None,
                    role=Role(c["role"]),
                )
                for c in _list(data, "cases")
            )
            channels = tuple(_list(data, "channels"))
        except (KeyError, TypeError, ValueError) as error:
            fault = SemiSAMPlusError(
                f"The cohort's description is broken: {type(error).__name__}: {error}.",
                "Make it anew with `semisamplus cohort`.",
            )
            raise CohortError([fault]) from error
        return cls(cases, classes, channels, picked=bool(data.get("picked", False)))

    def save(self, path: Path) -> None:
        """Write the cohort as JSON; paths below the file's folder are written relative to it."""
        text = json.dumps(self.to_dict(Path(path).parent), indent=1, ensure_ascii=False)
        write_text_atomically(Path(path), text + "\n")

    @classmethod
    def load(cls, path: Path) -> Cohort:
        """Read a cohort that :meth:`save` wrote.

        Raises:
            CohortError: If the file is missing or is not a cohort.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            fault = SemiSAMPlusError(
                f"{path}: cannot be read as a cohort ({error}).", "Make it with `semisamplus cohort FOLDER -o FILE`."
            )
            raise CohortError([fault]) from error
        return cls.from_dict(data, path.parent)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        labeled: int | Selection = 1,
        cases: Selection | None = None,
        validation: Selection = (),
        test: Selection = (),
        classes: Sequence[str] = (),
        channels: Sequence[str] = (),
    ) -> Cohort:
        """Find the cases of a folder; see :func:`SemiSAMPlusLib.cohort.discovery.find_cohort`."""
        from .discovery import find_cohort

        return find_cohort(
            Path(folder),
            labeled=labeled,
            cases=cases,
            validation=validation,
            test=test,
            classes=classes,
            channels=channels,
        )


def _list(data: Any, key: str) -> Sequence[Any]:
    """Return a list of a description; a text, taken for one, would fall into its letters."""
    value = data[key]
    if not isinstance(value, list | tuple):
        msg = f"'{key}' is {value!r}, expected a list"
        raise TypeError(msg)
    return value


def summary(names: Iterable[str], limit: int = 6) -> str:
    """Return names joined for a sentence, the middle left out where there are many."""
    listed = list(names)
    if len(listed) <= limit:
        return ", ".join(listed) if listed else "none"
    return ", ".join(listed[: limit - 1]) + f", … {listed[-1]} ({len(listed)} in all)"
