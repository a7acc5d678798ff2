"""What a user asks of weights: are they here, are they whole, take this file, remove them; loads no torch until asked to."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Literal
from uuid import uuid4

from ..errors import WeightsError
from . import weights
from .catalog import CatalogEntry, catalog
from .weights import Pin, entry_of

#: What a disk must have beside the file itself, in bytes, so that nothing else on it runs out of room.
SPARE_DISK = 100_000_000


@dataclass(frozen=True)
class WeightsState:
    """What is known of a generalist's weights without reading them.

    Attributes:
        name: The generalist, as users choose it.
        title: As it is shown.
        state: ``ready``, also where none are needed; ``missing``; or ``damaged``: here, but not what they should be.
        size: Bytes on this disk, else the catalog's; None where unknown, 0 where none are needed.
        license: The licences, as they are shown.
        needs_acknowledgement: Whether a licence is still to be acknowledged before a download or an import.
        can_download: Whether they are on the Hub.
        unverified: What is not known for certain, see :class:`~SemiSAMPlusLib.generalist.catalog.CatalogEntry`; empty once
            the first download has pinned it.
        contamination: Which public test data the model was trained on, or None.
        files: Where the files are, the model itself first; none where they are missing.
        remedy: How to get weights that are missing or damaged, in one sentence; empty where none are.
        missing_package: The Python package that must be installed first, as pip is asked for it; None where none is missing.
    """

    name: str
    title: str
    state: Literal["ready", "missing", "damaged"]
    size: int | None
    license: str
    needs_acknowledgement: bool
    can_download: bool
    unverified: tuple[str, ...]
    contamination: str | None
    files: tuple[Path, ...]
    remedy: str
    missing_package: str | None


@dataclass(frozen=True)
class Verified:
    """What :func:`verify_weights` found of one file.

    Attributes:
        path: The file, where it is, or was before it went into quarantine.
        sha256: Its SHA256.
        fault: What is wrong, in a sentence; None where nothing is.
        known: Whether there was a SHA256 to compare with.
    """

    path: Path
    sha256: str
    fault: str | None
    known: bool


def weights_state(name: str) -> WeightsState:
    """Return what is known of a generalist's weights; fast, for lists.

    A file whose content was read before and has changed since is taken as it is until it is next used or verified.

    Raises:
        WeightsError: If the catalog has no such generalist.
    """
    entry = catalog().get(name)
    if entry is None:
        msg = f"The catalog has no generalist '{name}'."
        raise WeightsError(msg, f"Choose one of {', '.join(catalog())}.")
    place = weights.locate(entry) if entry.needs_weights else {}
    state: Literal["ready", "missing", "damaged"] = "ready"
    if place is None:
        state, place = "missing", {}
    known = weights.known_hashes(entry)
    for path, file in place.items():
        noted = weights.noted_sha256(file)
        if noted is not None and known[path] is not None and noted != known[path]:
            state = "damaged"
    pinned = weights.read_pin(entry) is not None
    return WeightsState(
        name=entry.name,
        title=entry.title,
        state=state,
        size=sum(file.stat().st_size for file in place.values()) if place else entry.size,
        license=entry.license,
        needs_acknowledgement=not weights.is_acknowledged(entry),
        can_download=entry.repository is not None,
        unverified=() if pinned else entry.unverified,
        contamination=entry.contamination,
        files=tuple(place.values()),
        remedy="" if state == "ready" else weights.how_to_get(entry),
        missing_package=entry.package if entry.package and not _is_installed(entry.package) else None,
    )


def weights_states() -> tuple[WeightsState, ...]:
    """Return :func:`weights_state` of every generalist of the catalog."""
    return tuple(weights_state(name) for name in catalog())


def _is_installed(package: str) -> bool:
    """Return whether a package is there, whatever its release: that its adapter checks."""
    try:
        version(re.split("[<>=!~]", package)[0])
    except PackageNotFoundError:
        return False
    return True


def require_acknowledgement(entry: CatalogEntry) -> None:
    """Check that the licences of an entry's weights were acknowledged where they must be.

    Raises:
        WeightsError: If they were not.
    """
    if weights.is_acknowledged(entry):
        return
    stated = [text for text in (entry.weights_license, entry.code_license) if text is not None]
    if not stated:
        what = f"{entry.title}: its authors state no licence, so the law alone says what you may do with it."
    else:
        what = f"{entry.title}: its licence ({entry.license}) asks for more than attribution."
    remedy = (
        f"Read it{f' at huggingface.co/{entry.repository}' if entry.repository else ''}, and give --accept-license."
    )
    raise WeightsError(what, remedy)


def require_disk(folder: Path, size: int) -> None:
    """Check that a folder's disk has room for ``size`` bytes.

    Raises:
        WeightsError: If it has not.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size + SPARE_DISK:
        msg = f"{folder}: {_megabytes(free)} are free on its disk, expected {_megabytes(size + SPARE_DISK)} or more."
        raise WeightsError(msg, "Make room, or put the cache on another disk (HF_HOME, SEMISAMPLUS_CACHE).")


def import_weights(name: str, source: Path, *, accept_license: bool = False) -> Path:
    """Take a file of weights that a user has: check it, and put it where it is found from then on.

    The file is linked where the disk allows it, else copied; the user's own stays as it is.

    Args:
        name: The generalist.
        source: The file; of weights of several files the folder that holds them as the repository does.
        accept_license: The user has seen the licences and accepts them; remembered.

    Returns:
        Where the file of the model itself now is.

    Raises:
        WeightsError: If it is missing, unsafe, does not fit, or is another one than the known.
    """
    from .registry import check_weights

    entry = entry_of(name)
    if accept_license and not weights.is_acknowledged(entry):
        weights.acknowledge(name)
    require_acknowledgement(entry)
    sources = _sources(entry, Path(source).expanduser())
    hashes = {file.path: weights.check_given(sources[file.path], entry, file, anew=True) for file in entry.files}
    check_weights(entry, sources[entry.files[0].path])
    place = weights.place_of_import(entry)
    require_disk(weights.imported_folder(), sum(file.stat().st_size for file in sources.values()))
    for path, file in sources.items():
        try:
            _put(file, place[path])
        except OSError as error:
            msg = f"{file}: cannot be put into {place[path].parent} ({error.strerror or error})."
            raise WeightsError(msg, "Make room or the folder writable, or set SEMISAMPLUS_CACHE to another.") from error
        if weights.known_sha256(place[path], anew=True) != hashes[path]:
            place[path].unlink()
            msg = f"{file}: changed while it was copied."
            raise WeightsError(msg, "Import it again.")
    pin = weights.read_pin(entry)
    if pin is None or pin.source == "file":
        weights.write_pin(entry, Pin("file", entry.repository, None, hashes))
    return place[entry.files[0].path]


def verify_weights(name: str) -> tuple[Verified, ...]:
    """Read every file of a generalist's weights anew and compare it with what it must be.

    What is not goes into quarantine, unless it lies in the user's own folder; its conversion too is looked at.

    Raises:
        WeightsError: If they are not here.
    """
    entry = entry_of(name)
    place = weights.locate(entry)
    if place is None:
        weights.find_weights(name)  # Says what is missing, and how to get it.
        return ()
    known, found = weights.known_hashes(entry), []
    for path, file in place.items():
        digest = weights.known_sha256(file, anew=True)
        try:
            weights.check_sha256(file, entry)
        except WeightsError as error:
            found.append(Verified(file, digest, f"{error.what} {error.remedy}", known=True))
            continue
        from .loading import check_conversion

        check_conversion(digest)
        found.append(Verified(file, digest, None, known=known[path] is not None))
    return tuple(found)


def remove_weights(name: str, *, forget: bool = False) -> tuple[Path, ...]:
    """Remove a generalist's weights from the caches: imported, downloaded, converted, in quarantine.

    Files in the user's own folder stay. What other files of the Hub's cache share is kept for them.

    Args:
        name: The generalist.
        forget: Also forget which commit and SHA256 the first download saw, and that the licence was acknowledged.

    Returns:
        The files that were removed.
    """
    from .loading import converted_file, forget_conversion

    entry = entry_of(name)
    removed = []
    hashes = {digest for digest in weights.known_hashes(entry).values() if digest is not None}
    for file in weights.place_of_import(entry).values():
        if file.is_file():
            hashes.add(weights.known_sha256(file))
            file.unlink()
            removed.append(file)
    for file in weights.place_in_hub(entry).values():
        if os.path.lexists(file):
            _remove_from_hub(file, weights.hub_repository(entry))
            removed.append(file)
    for digest in hashes:
        if (converted := converted_file(digest)).is_file():
            forget_conversion(converted)
            removed.append(converted)
    jail = weights.quarantine_folder() / entry.name
    removed += [file for file in jail.glob("*") if file.is_file()]
    shutil.rmtree(jail, ignore_errors=True)
    if forget:
        weights.forget(entry)
    return tuple(removed)


def _sources(entry: CatalogEntry, source: Path) -> dict[str, Path]:
    """Return the user's files by the paths that they have in the repository."""
    if len(entry.files) == 1:
        if not source.is_file():
            msg = f"{source}: is no file, expected the weights of {entry.title}."
            raise WeightsError(msg, "Correct the path.")
        return {entry.files[0].path: source}
    # The folder may be that of the repository, or the one that holds all the files in it.
    common = PurePosixPath(os.path.commonpath([str(PurePosixPath(file.path).parent) for file in entry.files]))
    for shorten in (PurePosixPath("."), common):
        found = {file.path: source / PurePosixPath(file.path).relative_to(shorten) for file in entry.files}
        if all(file.is_file() for file in found.values()):
            return found
    names = ", ".join(PurePosixPath(file.path).relative_to(common).as_posix() for file in entry.files)
    msg = f"{source}: does not hold {names}, expected the folder of the weights of {entry.title}."
    raise WeightsError(msg, "Give the folder that holds all of them.")


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid4().hex[:8]}.{target.name}")
    try:
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # Another disk, or one that knows no links.
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # Also where both were the same file already, which a rename then leaves.


def _remove_from_hub(pointer: Path, repository: Path) -> None:
    """Remove a file of the Hub's cache, with its content where no other revision points at it."""
    blob = (
        repository / "blobs" / os.readlink(pointer).replace("\\", "/").rpartition("/")[2]
        if pointer.is_symlink()
        else None
    )
    pointer.unlink()
    if blob is None:
        return
    others = (path for path in (repository / "snapshots").rglob("*") if path.is_symlink())
    if not any(os.readlink(path).replace("\\", "/").endswith(f"/blobs/{blob.name}") for path in others):
        blob.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
