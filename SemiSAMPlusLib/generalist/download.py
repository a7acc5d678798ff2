"""Downloading weights from the Hugging Face Hub: an offer first, then the transfer, then the check; loads no torch.

The Hub's own client does the transfer, into the cache that all users of the Hub share, and honours its variables (HF_HOME,
HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies). It reads most of them once, when it is first imported.
"""

from __future__ import annotations

import glob
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import WeightsError
from ..run import events as kinds
from . import weights
from .catalog import CatalogEntry
from .hub_errors import UnreachableError, asked_to_wait, endpoint, explained, origin, other_ways, status_of, token
from .inventory import require_acknowledgement, require_disk
from .weights import Pin, entry_of

Result = TypeVar("Result")
#: Takes events as :meth:`SemiSAMPlusLib.run.events.EventWriter.write` does.
Say = Callable[..., None]

#: Bytes that are read at once: little enough that a slow line can be cancelled and shows its progress.
_CHUNK = 1 << 18
#: Seconds between two events of progress, and over which the speed is averaged.
_TELL_SECONDS, _SPEED_SECONDS = 0.5, 5.0
#: Seconds to wait before the second and the third try after an answer that may be better later.
_WAITS = (1.0, 3.0)
#: A server that asks to be left alone for longer than this is told to the user instead.
_LONGEST_WAIT = 60.0
#: How long a transfer may take to notice that it was cancelled; one that hangs on a dead line is left behind.
_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Offer:
    """What a download would bring.

    Attributes:
        entry: The generalist.
        commit: The full commit hash that it comes from.
        sizes: Bytes of each file by path; None where the server does not say.
        etags: What the server calls each file's content, by path: its SHA256 on the Hub itself.
        origin: The server and the repository.
    """

    entry: CatalogEntry
    commit: str
    sizes: dict[str, int | None]
    etags: dict[str, str]
    origin: str

    @property
    def size(self) -> int | None:
        """Bytes in all, or None where the server does not say."""
        return None if None in self.sizes.values() else sum(size or 0 for size in self.sizes.values())

    @property
    def text(self) -> str:
        """The offer in a sentence."""
        size = "of unknown size" if self.size is None else f"{self.size / 1e6:.0f} MB"
        if self.size is not None and self.size < 1_000_000:
            size = f"{self.size} bytes"
        return f"{self.entry.title}: {size} from {self.origin} at {self.commit}; licence: {self.entry.license}."


class _CancelledError(Exception):
    """Someone asked for the transfer to end."""


def offer_weights(name: str) -> Offer:
    """Ask the Hub what a download of a generalist's weights would bring; nothing is downloaded.

    Raises:
        WeightsError: If they are not on the Hub, cannot be had, or are not the ones that are known.
    """
    entry = _entry_on_hub(name)
    with _client():
        return _ask(entry, _silent, threading.Event())


def download_weights(
    name: str,
    *,
    accept_license: bool = False,
    confirm: Callable[[Offer], bool] | None = None,
    say: Say | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Path | None:
    """Download a generalist's weights and check them; what is already here and whole is not transferred again.

    Of several processes that ask at once one transfers, and the others wait for it. A download that is cancelled, fails or is
    killed leaves nothing that is ever used.

    Args:
        name: The generalist.
        accept_license: The user has seen the licences and accepts them; remembered.
        confirm: Asked where a licence must be acknowledged and is not: shows the offer, returns whether the user accepts.
        say: Takes the events; called from this thread and from one more.
        is_cancelled: Asked a few times a second whether to end.

    Returns:
        The file of the model itself, or None where the download was cancelled.

    Raises:
        WeightsError: If the weights cannot be had, are not the ones that are known, or a licence was not acknowledged.
    """
    entry = _entry_on_hub(name)
    cancelled = is_cancelled or (lambda: False)
    tell = say or _silent
    if accept_license:
        weights.acknowledge(name)
    if (here := _already_here(entry, tell)) is not None:
        return here
    ending = threading.Event()
    try:
        with _client():
            try:
                offer = _watched(lambda: _ask(entry, tell, ending), ending, cancelled)
            except UnreachableError as error:
                if (adopted := _adopt(entry, tell)) is None:
                    raise WeightsError(error.what, error.remedy) from error
                return adopted
            tell(kinds.MESSAGE, text=offer.text)
            _say_what_to_know(entry, tell)
            if not weights.is_acknowledged(entry) and confirm is not None and confirm(offer):
                weights.acknowledge(name)
            require_acknowledgement(entry)
            transfer = _Transfer(offer, tell, ending)
            return _watched(transfer.run, ending, cancelled, transfer)
    except _CancelledError:
        return None


# Before


def _silent(kind: str, /, **values: Any) -> None:
    """Take an event that nobody wants."""


def _entry_on_hub(name: str) -> CatalogEntry:
    entry = entry_of(name)
    if entry.repository is None:
        msg = f"{entry.title}: its weights are not on the Hub."
        raise WeightsError(msg, weights.how_to_get(entry))
    return entry


def _already_here(entry: CatalogEntry, say: Say) -> Path | None:
    """Return the file of the model where all files are here and whole; a damaged one goes into quarantine."""
    place = weights.locate(entry)
    if place is None:
        return None
    for path in place.values():
        try:
            weights.check_sha256(path, entry)
        except WeightsError as error:
            if path.exists():  # The user's own file, which would be found before the downloaded one.
                raise
            say(kinds.WARNING, text=error.what)
            return None
    require_acknowledgement(entry)
    say(kinds.MESSAGE, text=f"{entry.title}: already here, nothing was downloaded.")
    return place[entry.files[0].path]


def _adopt(entry: CatalogEntry, say: Say) -> Path | None:
    """Return the file of the model where another user of the Hub's cache has brought it, and pin what is there."""
    place = weights.place_in_hub(entry)
    if not place or not all(path.is_file() for path in place.values()):
        return None
    require_acknowledgement(entry)
    first = place[entry.files[0].path]
    commit = str(first)[len(str(weights.hub_repository(entry) / "snapshots")) + 1 :][:40]
    _pin(entry, commit, place)
    say(
        kinds.MESSAGE,
        text=f"{entry.title}: the Hub cannot be reached, so the files in its cache are used, at {commit}.",
    )
    return first


def _ask(entry: CatalogEntry, say: Say, ending: threading.Event) -> Offer:
    """Ask for commit, sizes and names of content, and check them against what is known."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if _is_offline():
        msg = f"{entry.title}: HF_HUB_OFFLINE is set, so the Hub is not asked."
        raise UnreachableError(msg, f"Unset it to download, or: {weights.how_to_get(entry)}")
    known = weights.known_hashes(entry)
    wanted = weights.commit_of(entry)
    commit, sizes, etags = wanted, {}, {}
    server = endpoint()
    for file in entry.files:
        url = hf_hub_url(str(entry.repository), file.path, revision=commit or entry.revision, endpoint=server)
        ask = partial(get_hf_file_metadata, url, endpoint=server, token=token())
        metadata = _patiently(ask, entry, file.path, say, ending)
        found = metadata.commit_hash
        if not found or not re.fullmatch("[0-9a-f]{40}", found) or not metadata.etag:
            msg = f"{url}: the answer names no commit and content, so this is no server of the Hub."
            raise WeightsError(msg, "Correct HF_ENDPOINT, or see whether a proxy or a firewall answers in its place.")
        if commit is not None and found != commit:
            msg = f"{url}: the server answers with commit {found}, expected {commit}."
            raise WeightsError(msg, "Correct HF_ENDPOINT: a mirror must keep the Hub's commits.")
        commit, expected = found, known[file.path]
        etags[file.path], sizes[file.path] = metadata.etag, metadata.size
        if expected is not None and re.fullmatch("[0-9a-f]{64}", metadata.etag) and metadata.etag != expected:
            msg = f"{entry.title}: the Hub's '{file.path}' at {found} has SHA256 {metadata.etag}, expected {expected}."
            raise WeightsError(msg, f"It was replaced there; nothing was downloaded. {other_ways(entry)}")
    return Offer(entry, str(commit), sizes, etags, origin(entry))


def _say_what_to_know(entry: CatalogEntry, say: Say) -> None:
    if entry.contamination:
        say(kinds.MESSAGE, text=entry.contamination)
    if entry.unverified and weights.read_pin(entry) is None:
        lacking = " and ".join({"revision": "the commit", "sha256": "the SHA256"}[one] for one in entry.unverified)
        text = (
            f"Unverified: the catalog does not know {lacking} of these weights; what comes now is pinned from then on."
        )
        say(kinds.WARNING, text=text)


# The transfer


class _Transfer:
    """Brings the files of an offer; runs in a thread of its own while another tells how far it is."""

    def __init__(self, offer: Offer, say: Say, ending: threading.Event) -> None:
        self.offer, self.say, self.ending = offer, say, ending
        self.bytes = 0
        self.file = ""
        self._told = 0.0
        self._seen: deque[tuple[float, int]] = deque()

    def run(self) -> Path:
        entry = self.offer.entry
        with self._alone():
            if (here := _already_here(entry, self.say)) is not None:  # It arrived while this process waited.
                return here
            size = self.offer.size or entry.size or 0
            require_disk(weights.hub_folder(), size)
            place = {file.path: self._bring(file.path) for file in entry.files}
            _pin(entry, self.offer.commit, place, self.offer.etags)
        self.say(kinds.MESSAGE, text=f"{entry.title}: downloaded and checked.")
        return place[entry.files[0].path]

    def _bring(self, path: str) -> Path:
        from huggingface_hub import hf_hub_download

        entry, before = self.offer.entry, self.bytes
        self.file = path
        self.sweep(path)

        def bring() -> str:
            self.bytes = before
            return hf_hub_download(
                str(entry.repository),
                path,
                revision=self.offer.commit,
                cache_dir=weights.hub_folder(),
                endpoint=endpoint(),
                token=token(),
                tqdm_class=self._bar(),
            )

        arrived = Path(_patiently(bring, entry, path, self.say, self.ending))
        self.bytes = before + arrived.stat().st_size
        return arrived

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process transfers the same weights."""
        from filelock import FileLock, Timeout

        folder = weights.cache_folder() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{self.offer.entry.name}.lock")
        waiting = False
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except Timeout:
                if self.ending.is_set():
                    raise _CancelledError from None
                if not waiting:
                    self.say(kinds.MESSAGE, text="Another process is downloading these weights; waiting for it.")
                    waiting = True
        try:
            yield
        finally:
            lock.release()

    def _bar(self) -> type:
        """Return a class that is to the client what tqdm's bar is."""
        transfer = self

        class Bar:
            def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any) -> None:
                self.total, self.n = total, initial

            def update(self, n: float | None = 1) -> None:
                if transfer.ending.is_set():
                    raise _CancelledError
                self.n += n or 0
                transfer.bytes += int(n or 0)

            def nothing(self, *_: Any, **__: Any) -> None:
                """Do nothing: all that a bar would show is told by events."""

            close = refresh = reset = clear = update_transfer = nothing
            set_description = set_description_str = set_postfix = nothing
            set_postfix_str = set_transfer_postfix_str = nothing

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                return

        return Bar

    def tell(self) -> None:
        """Say how far it is, now and then."""
        now = time.monotonic()
        if not self.file or now - self._told < _TELL_SECONDS:
            return
        self._told = now
        self._seen.append((now, self.bytes))
        while now - self._seen[0][0] > _SPEED_SECONDS:
            self._seen.popleft()
        (since, fewer), total = self._seen[0], self.offer.size
        speed = max(0.0, (self.bytes - fewer) / (now - since)) if now > since else None
        left = (total - self.bytes) / speed if speed and total else None
        self.say(kinds.PROGRESS, file=self.file, bytes=self.bytes, bytes_total=total, speed=speed, seconds_left=left)

    def sweep(self, path: str, *, own: bool = False) -> None:
        """Remove what a transfer left that was killed; not that of another program at work, which holds the client's lock."""
        from filelock import FileLock, Timeout

        repository = weights.hub_repository(self.offer.entry)
        etag = self.offer.etags[path]
        leftovers = list((repository / "blobs").glob(f"{glob.escape(etag)}*.incomplete"))
        lock = FileLock(weights.hub_folder() / ".locks" / repository.name / f"{etag}.lock")
        if not leftovers:
            return
        with suppress(OSError, Timeout):
            if not own:
                Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
            for leftover in leftovers:
                leftover.unlink(missing_ok=True)
        lock.release()


def _watched(
    work: Callable[[], Result],
    ending: threading.Event,
    is_cancelled: Callable[[], bool],
    transfer: _Transfer | None = None,
) -> Result:
    """Do ``work`` in another thread, telling how far it is, until it is done or cancelled."""
    outcome: list[Any] = []
    done = threading.Event()  # To be waited for in place of the thread, whose join forgets it at a Ctrl-C.

    def do() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # Handed over to who waits.
            outcome.append((None, error))
        finally:
            done.set()

    threading.Thread(target=do, name="download", daemon=True).start()
    try:
        while not done.wait(0.05):
            if is_cancelled():
                break
            if transfer is not None:
                transfer.tell()
    finally:
        if not done.is_set():
            ending.set()
            done.wait(_GRACE_SECONDS)
        if not done.is_set() and transfer is not None and transfer.file:
            transfer.sweep(transfer.file, own=True)  # The thread holds the lock, and hangs on a dead line.
    if not outcome:
        raise _CancelledError
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def _pin(entry: CatalogEntry, commit: str, place: dict[str, Path], etags: dict[str, str] | None = None) -> None:
    """Read what arrived, refuse what is not the known, and pin the rest."""
    known, hashes = weights.known_hashes(entry), {}
    for path, file in place.items():
        found = weights.known_sha256(file, anew=True)
        named = (etags or {}).get(path, "")
        expected = known[path] or (named if re.fullmatch("[0-9a-f]{64}", named) else None)
        if expected is not None and found != expected:
            where = weights.quarantine(file, entry)
            msg = f"{entry.title}: what arrived as '{path}' has SHA256 {found}, expected {expected}. {where}"
            raise WeightsError(msg, f"Download it again; if the same happens again, {other_ways(entry, lower=True)}")
        hashes[path] = found
    weights.write_pin(entry, Pin("hub", entry.repository, commit, hashes))


# The client


def _is_offline() -> bool:
    from huggingface_hub import constants

    now = (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper()
    return constants.HF_HUB_OFFLINE or now in {"1", "ON", "YES", "TRUE"}


@contextmanager
def _client() -> Iterator[None]:
    """Have the Hub's client speak plain HTTP in small pieces, and keep its remarks to itself.

    Its other protocol cannot be cancelled from here, nor pass every proxy and mirror; ``HF_HUB_DISABLE_XET=0`` chooses it
    all the same.
    """
    try:
        from huggingface_hub import constants
        from huggingface_hub.utils import logging
    except ImportError as error:
        msg = f"The package huggingface_hub cannot be imported ({error})."
        raise WeightsError(msg, "Install it: pip install 'huggingface-hub>=1.2'.") from error
    settings: dict[str, Any] = {"DOWNLOAD_CHUNK_SIZE": _CHUNK}
    if "HF_HUB_DISABLE_XET" not in os.environ:
        settings["HF_HUB_DISABLE_XET"] = True
    before = {name: getattr(constants, name) for name in settings if hasattr(constants, name)}
    verbosity = logging.get_verbosity()
    try:
        for name in before:
            setattr(constants, name, settings[name])
        if not {"HF_HUB_VERBOSITY", "HF_DEBUG"} & os.environ.keys():
            logging.set_verbosity_error()
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)
        logging.set_verbosity(verbosity)


def _patiently(
    action: Callable[[], Result], entry: CatalogEntry, file: str, say: Say, ending: threading.Event
) -> Result:
    """Do what asks a server, again after a while where its answer may be better then; what fails is told as a user needs it."""
    for wait in (*_WAITS, None):
        if ending.is_set():
            raise _CancelledError
        try:
            return action()
        except (_CancelledError, WeightsError):
            raise
        except Exception as error:  # Whatever the client and what it stands on raise.
            status = status_of(error)
            if wait is None or not (status == 429 or (status is not None and status >= 500)):
                raise explained(error, entry, file) from error
            pause = asked_to_wait(error) or wait
            if pause > _LONGEST_WAIT:
                raise explained(error, entry, file) from error
            say(kinds.WARNING, text=f"The Hub answers with HTTP {status}; trying again in {pause:.0f} s.")
            if ending.wait(pause):
                raise _CancelledError from None
    raise AssertionError  # The last try returns or raises.
