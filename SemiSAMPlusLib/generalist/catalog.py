"""The catalog of generalists as plain data: what there is, where it comes from, under which licence."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from ..errors import ConfigError

FORMAT = "semisamplus-catalog-1"
#: A catalog of a user's or an institute's own: its entries are added, and take the place of those of the same name.
CATALOG_VARIABLE = "SEMISAMPLUS_CATALOG"

#: Licences that allow every use with no more than a mention; all others are shown and acknowledged before a download.
PERMISSIVE = frozenset({"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC0-1.0", "CC-BY-4.0"})

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights.

    Attributes:
        path: Its path in the repository, with forward slashes.
        size: Its size in bytes, about; None where unknown.
        sha256: Its SHA256 in hexadecimal, or None where unknown.
    """

    path: str
    size: int | None
    sha256: str | None

    @property
    def name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class CatalogEntry:
    """One generalist; ``catalog.schema.json`` says the same for those who write a catalog.

    Attributes:
        name: As users choose it.
        title: As it is shown.
        purpose: What it is for, in a sentence.
        modalities: The kinds of image that it was trained on: CT, MR, PET, US, or any.
        anatomy: What it was trained to segment.
        adapter: The program's own class that wraps the model, see :mod:`.registry`.
        package: The Python package that must be installed to use it, as pip is asked for it, or None.
        repository: Its repository on the Hugging Face Hub, or None where its weights are not there.
        revision: The full commit hash of ``repository``; a branch where that is not known.
        last_change: The commit that last changed the weights, maybe shortened; for readers only.
        files: The files of weights, the model itself first; none where it needs none.
        unverified: What is not known for certain (``revision``, ``sha256``): the first download decides it from then on.
        code_license: SPDX name of the licence of the authors' code, or None where they state none.
        weights_license: The same of the weights.
        citation: What to cite.
        memory: Memory in bytes that it takes while it embeds a volume, about.
        contamination: Which public test data it was trained on, or None where there is nothing to say.
    """

    name: str
    title: str
    purpose: str
    modalities: tuple[str, ...]
    anatomy: str
    adapter: str
    package: str | None
    repository: str | None
    revision: str | None
    last_change: str | None
    files: tuple[WeightsFile, ...]
    unverified: tuple[str, ...]
    code_license: str | None
    weights_license: str | None
    citation: str
    memory: int
    contamination: str | None

    @property
    def needs_weights(self) -> bool:
        """Whether files of weights are needed."""
        return bool(self.files)

    @property
    def file(self) -> str | None:
        """The name of the file of the model itself, or None where it needs none."""
        return self.files[0].name if self.files else None

    @property
    def sha256(self) -> str | None:
        """The SHA256 of the file of the model itself, or None where unknown."""
        return self.files[0].sha256 if self.files else None

    @property
    def size(self) -> int | None:
        """The size of all files in bytes, about; None where that of one is unknown, 0 where it needs none."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def pinned_commit(self) -> str | None:
        """``revision`` where it is a full commit hash."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None

    @property
    def license(self) -> str:
        """The licences as they are shown."""
        if not self.needs_weights:
            return self.code_license or "none stated"
        weights, code = self.weights_license or "none stated", self.code_license or "none stated"
        return weights if weights == code else f"weights: {weights}; code: {code}"

    @property
    def needs_acknowledgement(self) -> bool:
        """Whether a licence is unstated or asks for more than a mention, so that a user must have seen it."""
        return self.needs_weights and not {self.code_license, self.weights_license} <= PERMISSIVE


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Return the catalog's entries by name, in the order in which they are shown.

    Those of the file that ``SEMISAMPLUS_CATALOG`` names, where it is set, come last or in the place of their namesakes.

    Raises:
        ConfigError: If that file cannot be used.
    """
    entries = _read(Path(__file__).with_name("catalog.json"))
    if own := os.environ.get(CATALOG_VARIABLE):
        entries |= _read(Path(own).expanduser().absolute())
    return MappingProxyType(entries)


def _read(path: Path) -> dict[str, CatalogEntry]:
    remedy = f"Correct the file as docs/weights.md says, or unset {CATALOG_VARIABLE}."
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read as a catalog ({error})."
        raise ConfigError(msg, remedy) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        msg = f"{path}: has format {found!r}, expected {FORMAT!r}."
        raise ConfigError(msg, remedy)
    entries: dict[str, CatalogEntry] = {}
    for number, entry in enumerate(data.get("generalists") or (), start=1):
        try:
            made = _entry(entry)
        except (TypeError, ValueError, AttributeError) as error:
            msg = f"{path}: entry {number} is not whole ({error})."
            raise ConfigError(msg, remedy) from error
        entries[made.name] = made
    return entries


def _entry(data: dict[str, Any]) -> CatalogEntry:
    """Return an entry, refusing what would lead files astray; what else is wrong, the schema's test finds."""
    known = {field.name for field in fields(CatalogEntry)}
    if odd := sorted({*data} ^ known):
        msg = f"'{odd[0]}' is {'unknown' if odd[0] in data else 'missing'}"
        raise ValueError(msg)
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", data["name"]):
        msg = f"'{data['name']}' is no name"
        raise ValueError(msg)
    files = tuple(WeightsFile(**file) for file in data["files"])
    for file in files:
        parts = PurePosixPath(file.path).parts
        if not parts or any(part in ("/", "..") or not re.fullmatch(r"[\w.-]+", part) for part in parts):
            msg = f"'{file.path}' is no path of a file in a repository"
            raise ValueError(msg)
        if file.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", file.sha256):
            msg = f"'{file.sha256}' is no SHA256"
            raise ValueError(msg)
    lists = {name: tuple(data[name]) for name in ("modalities", "unverified")}
    return CatalogEntry(**{**data, **lists, "files": files})
