"""The catalog of generalists as plain data: what there is, where it comes from, under which licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

FORMAT = "semisamplus-catalog-1"


@dataclass(frozen=True)
class CatalogEntry:
    """One generalist.

    Attributes:
        name: As users choose it.
        title: As it is shown.
        purpose: For which modality and anatomy, in a sentence.
        repository: Its repository on the Hugging Face Hub, or None where its weights are not there.
        file: The weights' file name, or None where it needs none.
        revision: The commit of ``repository``, maybe shortened, or a branch.
        revision_verified: Whether ``revision`` is a full commit hash that was seen to hold the file.
        size: The file's size in bytes, about; None where unknown, 0 where it needs no weights.
        sha256: The file's SHA256 in hexadecimal, or None where unknown.
        code_license: SPDX name of the licence of the authors' code, or None where they state none.
        weights_license: The same of the weights.
        citation: What to cite.
        memory: Memory in bytes that it takes while it embeds a volume, about.
        contamination: Which public test data it was trained on, or None where there is nothing to say.
    """

    name: str
    title: str
    purpose: str
    repository: str | None
    file: str | None
    revision: str | None
    revision_verified: bool
    size: int | None
    sha256: str | None
    code_license: str | None
    weights_license: str | None
    citation: str
    memory: int
    contamination: str | None

    @property
    def needs_weights(self) -> bool:
        """Whether a file of weights is needed."""
        return self.file is not None


@cache
def catalog() -> MappingProxyType[str, CatalogEntry]:
    """Return the catalog's entries by name, in the order in which they are shown."""
    data = json.loads(Path(__file__).with_name("catalog.json").read_text(encoding="utf-8"))
    if data["format"] != FORMAT:
        msg = f"catalog.json: format {data['format']!r}, expected {FORMAT!r}"
        raise ValueError(msg)
    entries = [CatalogEntry(**entry) for entry in data["generalists"]]
    return MappingProxyType({entry.name: entry for entry in entries})
