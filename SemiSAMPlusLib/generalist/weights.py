"""Where weights of generalists lie, which they must be, and what is done with those that are not; loads no torch.

They are looked for in the user's own folder, in that of the files that were imported, and in the cache that all users of
the Hugging Face Hub share. What the catalog does not know of them, the first download decides: it is *pinned*.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from ..run.files import read_text_patiently, write_text_atomically
from .catalog import CatalogEntry, WeightsFile, catalog

#: The folder that holds everything that can be made or fetched again.
CACHE_VARIABLE = "SEMISAMPLUS_CACHE"
#: A folder where a user keeps files of weights.
WEIGHTS_VARIABLE = "SEMISAMPLUS_WEIGHTS"

_PINS_FORMAT = "semisamplus-pins-1"
_LOCK_PATIENCE = 60.0


# Folders


def cache_folder() -> Path:
    """Return the folder of what can be made or fetched again: ``SEMISAMPLUS_CACHE``, or the platform's own place."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "SemiSAMPlus" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "SemiSAMPlus"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "semisamplus"


def own_folder() -> Path | None:
    """Return the folder where a user keeps files of weights, ``SEMISAMPLUS_WEIGHTS``, or None where there is none."""
    chosen = os.environ.get(WEIGHTS_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else None


def imported_folder() -> Path:
    """Return the folder of the files that were imported, below the names of their entries."""
    return cache_folder() / "weights"


def hub_folder() -> Path:
    """Return the cache that all users of the Hugging Face Hub share, where its own client looks for it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(name):
            return Path(os.path.expandvars(chosen)).expanduser().absolute()
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser().absolute() / "hub"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "huggingface" / "hub"


def hub_repository(entry: CatalogEntry) -> Path:
    """Return the folder of an entry's repository in :func:`hub_folder`."""
    return hub_folder() / f"models--{str(entry.repository).replace('/', '--')}"


# Hashes


def sha256_of(path: Path) -> str:
    """Return the SHA256 of a file's content in hexadecimal.

    Raises:
        WeightsError: If the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error})."
        raise WeightsError(msg, "Correct the path, or give the file anew.") from error


def known_sha256(path: Path, *, anew: bool = False) -> str:
    """Return :func:`sha256_of`, from a note in the cache where the file has kept its size and time of change.

    Args:
        path: The file.
        anew: Read the file in any case.

    Raises:
        WeightsError: If the file cannot be read.
    """
    if not anew and (noted := noted_sha256(path)) is not None:
        return noted
    path = Path(path).absolute()
    seen = _seen(path)
    digest = sha256_of(path)
    if seen is not None:
        with suppress(OSError):  # Without a cache the file is read again next time, and nothing else is lost.
            write_text_atomically(_note(path), json.dumps({**seen, "sha256": digest}))
    return digest


def noted_sha256(path: Path) -> str | None:
    """Return the SHA256 that was noted when the file was last read, or None where there is no note or it has changed since."""
    path = Path(path).absolute()
    with suppress(OSError, ValueError, KeyError, TypeError):  # No note yet, or not a whole one.
        noted = json.loads(_note(path).read_text(encoding="utf-8"))
        seen = _seen(path)
        if seen is not None and {key: noted[key] for key in seen} == seen:
            return str(noted["sha256"]) if re.fullmatch("[0-9a-f]{64}", noted["sha256"]) else None
    return None


def _seen(path: Path) -> dict[str, Any] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return {"path": str(path), "size": status.st_size, "changed": status.st_mtime_ns}


def _note(path: Path) -> Path:
    return cache_folder() / "hashes" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


# Pins


@dataclass(frozen=True)
class Pin:
    """What a download or an import of a generalist's weights brought: they must stay so, and a later download must bring the same.

    What was downloaded also binds a file that the user gives; what was imported does not.

    Attributes:
        source: ``hub`` or ``file``.
        repository: The repository on the Hub that it came from, or None.
        commit: The full commit hash that it came from, or None.
        files: SHA256 by the files' paths.
        since: When, in seconds since 1970.
    """

    source: str
    repository: str | None
    commit: str | None
    files: dict[str, str]
    since: float = field(default_factory=lambda: round(time.time(), 3))


def read_pin(entry: CatalogEntry) -> Pin | None:
    """Return the pin of an entry, or None where it has none; one of another repository does not count."""
    data = _read_ledger().get("pins", {}).get(entry.name)
    try:
        pin = Pin(**data) if data else None
    except TypeError:
        return None
    return pin if pin is None or pin.source == "file" or pin.repository == entry.repository else None


def write_pin(entry: CatalogEntry, pin: Pin) -> None:
    """Pin an entry's weights."""
    with _changing_ledger() as ledger:
        ledger.setdefault("pins", {})[entry.name] = asdict(pin)


def commit_of(entry: CatalogEntry) -> str | None:
    """Return the full commit hash that an entry's weights must come from: the catalog's, else the pinned one, else None."""
    pin = read_pin(entry)
    return entry.pinned_commit or (pin.commit if pin else None)


def known_hashes(entry: CatalogEntry) -> dict[str, str | None]:
    """Return the SHA256 that each file of an entry must have, by path: the catalog's, else the pinned one, else None."""
    pin = read_pin(entry)
    pinned = pin.files if pin else {}
    return {file.path: file.sha256 or pinned.get(file.path) for file in entry.files}


def is_acknowledged(entry: CatalogEntry) -> bool:
    """Return whether nothing needs to be acknowledged of an entry's licences, or a user of this account did so."""
    return not entry.needs_acknowledgement or _read_ledger().get("acknowledged", {}).get(entry.name) == entry.license


def acknowledge(name: str) -> None:
    """Remember that the user has seen and accepts the licences of a generalist's weights.

    Raises:
        WeightsError: If the catalog has no such weights.
    """
    entry = entry_of(name)
    with _changing_ledger() as ledger:
        ledger.setdefault("acknowledged", {})[entry.name] = entry.license


def forget(entry: CatalogEntry) -> None:
    """Forget what was pinned of an entry's weights, and that its licences were acknowledged."""
    with _changing_ledger() as ledger:
        for part in ("pins", "acknowledged"):
            ledger.get(part, {}).pop(entry.name, None)


def _ledger_file() -> Path:
    return cache_folder() / "pins.json"


def _read_ledger() -> dict[str, Any]:
    try:
        data = json.loads(read_text_patiently(_ledger_file()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        data = error
    if isinstance(data, dict) and data.get("format") == _PINS_FORMAT:
        return data
    msg = f"{_ledger_file()}: cannot be read as the list of pinned weights, so it is not known which to trust."
    raise WeightsError(msg, "Repair it, or remove it; the next download then decides again.")


@contextmanager
def _changing_ledger() -> Iterator[dict[str, Any]]:
    from filelock import FileLock

    path = _ledger_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(".pins.lock"), timeout=_LOCK_PATIENCE):
            ledger = _read_ledger() or {"format": _PINS_FORMAT}
            yield ledger
            write_text_atomically(path, json.dumps(ledger, indent=1) + "\n")
    except (OSError, TimeoutError) as error:
        msg = f"{path}: cannot be written ({error})."
        raise WeightsError(msg, f"Make its folder writable, or set {CACHE_VARIABLE} to one that is.") from error


# Finding


def entry_of(name: str) -> CatalogEntry:
    """Return the catalog's entry of a generalist that needs weights.

    Raises:
        WeightsError: If there is none.
    """
    entry = catalog().get(name)
    if entry is None or not entry.needs_weights:
        with_weights = ", ".join(entry.name for entry in catalog().values() if entry.needs_weights)
        msg = f"'{name}' is no generalist of the catalog that needs weights; those are {with_weights}."
        raise WeightsError(msg, "Choose one of them.")
    return entry


def place_in_own(folder: Path, entry: CatalogEntry) -> dict[str, Path]:
    """Return where a user's folder has an entry's files, by path: a single one by its name, several below ``NAME/``."""
    if len(entry.files) == 1:
        return {entry.files[0].path: folder / entry.files[0].name}
    return {file.path: folder / entry.name / file.path for file in entry.files}


def place_of_import(entry: CatalogEntry) -> dict[str, Path]:
    """Return where an import puts an entry's files, by path: below its name, since files of two entries may be named alike."""
    return {file.path: imported_folder() / entry.name / file.path for file in entry.files}


def place_in_hub(entry: CatalogEntry) -> dict[str, Path]:
    """Return where the Hub's cache would have an entry's files, by path; empty where it cannot have them.

    Without a pinned commit that is the one which another user of the cache last found behind the entry's branch.
    """
    if entry.repository is None:
        return {}
    commit = commit_of(entry)
    if commit is None:
        try:
            commit = (hub_repository(entry) / "refs" / str(entry.revision)).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return {}
        if not re.fullmatch("[0-9a-f]{40}", commit):
            return {}
    return {file.path: hub_repository(entry) / "snapshots" / commit / file.path for file in entry.files}


def locate(entry: CatalogEntry) -> dict[str, Path] | None:
    """Return the files of an entry's weights by path, unchecked, or None where they are not here.

    The user's own folder comes first, then what was imported, then the Hub's cache.
    Files in the Hub's cache of which no SHA256 is known are passed over: a download, which asks and pins, must adopt them.
    """
    own = own_folder()
    for place in (*(() if own is None else (place_in_own(own, entry),)), place_of_import(entry)):
        if all(path.is_file() for path in place.values()):
            return place
    place = place_in_hub(entry)
    whole = bool(place) and all(path.is_file() for path in place.values())
    return place if whole and None not in known_hashes(entry).values() else None


def find_weights(name: str) -> Path:
    """Return the file of the model itself of the catalog's generalist ``name``; all its files are there and checked.

    Raises:
        WeightsError: If they are not here, or the SHA256 of one is not the known one; the file is then put into quarantine
            unless it lies in the user's own folder.
    """
    entry = entry_of(name)
    place = locate(entry)
    if place is not None:
        for path in place.values():
            check_sha256(path, entry)
        return place[entry.files[0].path]
    folders = " or ".join(map(str, filter(None, (own_folder(), imported_folder() / entry.name))))
    several = f"one of its files '{entry.file}', ..." if len(entry.files) > 1 else f"the file of weights '{entry.file}'"
    msg = f"{name}: {several} is not in {folders}" + (" or the Hub's cache." if entry.repository else ".")
    raise WeightsError(msg, how_to_get(entry))


def how_to_get(entry: CatalogEntry) -> str:
    """Return the commands that bring an entry's weights, in one sentence."""
    by_file = f"`semisamplus weights import {entry.name} FILE`"
    own = f"name your file as {entry.name}=PATH"
    if entry.repository is None:
        return f"They are not on the Hub: give a file that you have by {by_file}, or {own}."
    download = f"`semisamplus weights download {entry.name}` (from huggingface.co/{entry.repository})"
    return f"Get them with {download}, give a file that you have by {by_file}, or {own}."


def check_sha256(path: Path, entry: CatalogEntry, *, anew: bool = False) -> str:
    """Check that ``path`` is one of the files that ``entry`` means, where its SHA256 is known.

    Args:
        path: The file.
        entry: The entry.
        anew: Read the file even where its SHA256 was noted before.

    Returns:
        The file's SHA256.

    Raises:
        WeightsError: If it is another file, or cannot be read. A file in a cache is put into quarantine first.
    """
    found = known_sha256(path, anew=anew)
    expected = _expected(path, entry)
    if expected is None or found == expected:
        return found
    msg = _another(path, found, expected, entry)
    if not _is_ours(path, entry):
        raise WeightsError(msg, _instead(expected, entry))
    raise WeightsError(f"{msg} {quarantine(path, entry)}", f"The file was damaged or another one. {how_to_get(entry)}")


def check_given(path: Path, entry: CatalogEntry, file: WeightsFile, *, anew: bool = False) -> str:
    """Check a file that the user gives for one of an entry's, by name or to import it; it is never moved.

    An earlier import does not bind here: the user alone decides which file is the right one.

    Args:
        path: The file.
        entry: The entry.
        file: Which of its files it is to be.
        anew: Read the file even where its SHA256 was noted before.

    Returns:
        The file's SHA256.

    Raises:
        WeightsError: If the catalog knows or a download pinned another SHA256, or it cannot be read.
    """
    found = known_sha256(path, anew=anew)
    pin = read_pin(entry)
    expected = file.sha256 or (pin.files.get(file.path) if pin is not None and pin.source == "hub" else None)
    if expected is not None and found != expected:
        raise WeightsError(_another(path, found, expected, entry), _instead(expected, entry))
    return found


def _another(path: Path, found: str, expected: str, entry: CatalogEntry) -> str:
    return f"{path}: has SHA256 {found}, expected {expected} for {entry.name}."


def _instead(expected: str, entry: CatalogEntry) -> str:
    """Return what to do where a user's own file is not the one with the SHA256 ``expected``."""
    if expected not in {file.sha256 for file in entry.files}:
        return f"Get that one, or first forget it by `semisamplus weights remove {entry.name} --forget`."
    return (
        "The file is damaged or another one; get it anew, "
        "or for weights of your own write a catalog entry of your own (docs/weights.md)."
    )


def _expected(path: Path, entry: CatalogEntry) -> str | None:
    known = known_hashes(entry)
    names = Path(path).as_posix()
    for one, digest in known.items():
        if len(known) > 1 and names.endswith(f"/{one}"):
            return digest
    return known[entry.files[0].path]


def _is_ours(path: Path, entry: CatalogEntry) -> bool:
    """Tell what was downloaded or imported for an entry from all other files, which are never touched.

    The Hub's cache holds files of other projects too, and a user's own folder may lie in it.
    """
    places = (place_of_import(entry), place_in_hub(entry))
    return any(path.absolute() in place.values() for place in places)


# Quarantine


def quarantine_folder() -> Path:
    """Return the folder of files that were not what they should have been; nothing is ever loaded from it."""
    return cache_folder() / "quarantine"


def quarantine(path: Path, entry: CatalogEntry) -> str:
    """Move a file to where nothing is loaded from, so that a download or an import starts anew.

    Args:
        path: The file; of a link in the Hub's cache the file itself is moved too.
        entry: What it should have been.

    Returns:
        A sentence that says where it is.
    """
    content = path.resolve()
    target = quarantine_folder() / entry.name / f"{time.strftime('%Y%m%d-%H%M%S')}-{path.name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(content, target)
        if path.is_symlink():
            path.unlink()
    except OSError as error:
        return f"It could not be moved into quarantine ({error.strerror or error}), and is not used."
    return f"It was moved to {target}, and is not used."
