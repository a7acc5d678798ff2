"""What the Hub's client raises, told as a user needs it: what is wrong, and what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Literal

from ..errors import WeightsError
from . import weights
from .catalog import CatalogEntry

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def endpoint() -> str | None:
    """Return the address of the mirror that is to be asked in place of the Hub, or None."""
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def origin(entry: CatalogEntry) -> str:
    """Return the address that an entry's weights come from: the server, which may be a mirror, and the repository."""
    return f"{endpoint() or 'https://huggingface.co'}/{entry.repository}"


def token() -> Literal[False] | None:
    """Return False where the client must send no token, because everybody on the way could read it; else None, its own way."""
    return False if (endpoint() or "").lower().startswith("http:") else None


class UnreachableError(WeightsError):
    """The Hub was not asked or gave no answer, so that what its cache holds may do."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, or None where no server answered."""
    for one in _causes(error):
        if (status := getattr(getattr(one, "response", None), "status_code", None)) is not None:
            return int(status)
    return None


def asked_to_wait(error: BaseException) -> float | None:
    """Return how many seconds the server asked to be left alone, or None where it did not say."""
    for one in _causes(error):
        response = getattr(one, "response", None)
        if response is not None and re.fullmatch(r"\d+", value := response.headers.get("Retry-After", "")):
            return float(value)
    return None


def _is_a(error: BaseException, *names: str) -> bool:
    """Tell errors by the names of their classes: the client changed what it stands on, and the names stayed."""
    return any(kind.__name__ in names for one in _causes(error) for kind in type(one).__mro__)


def other_ways(entry: CatalogEntry, *, lower: bool = False) -> str:
    """Return how to get weights without the Hub, as a sentence or, with ``lower``, as its continuation."""
    text = f"Get the file another way and give it by `semisamplus weights import {entry.name} FILE`."
    return text[0].lower() + text[1:] if lower else text


def explained(error: Exception, entry: CatalogEntry, file: str) -> WeightsError:
    """Return what a user needs to know of an error of the Hub's client."""
    status, title, where = status_of(error), entry.title, origin(entry)
    full = next((one for one in _causes(error) if isinstance(one, OSError) and one.errno in _FULL), None)
    if full is not None:
        msg = f"{title}: there is no room for '{file}' in {weights.hub_folder()} ({full.strerror}); nothing of it was kept."
        return WeightsError(msg, "Make room, or put the cache on another disk with HF_HOME.")
    unsent = " No token is sent to an http address: set HF_ENDPOINT to an https one." if token() is False else ""
    if _is_a(error, "GatedRepoError"):
        msg = f"{title}: its authors give access to {where} only on request."
        return WeightsError(
            msg,
            f"Ask on that page; then set HF_TOKEN to a token of your account (or log in by `hf auth login`).{unsent}",
        )
    if _is_a(error, "EntryNotFoundError", "RevisionNotFoundError") and status == 404:
        msg = f"{title}: {where} has no '{file}' at {weights.commit_of(entry) or entry.revision} (HTTP 404)."
        remedy = f"It was moved or removed there; {other_ways(entry, lower=True)}"
        if entry.pinned_commit is None and weights.read_pin(entry) is not None:
            remedy += f" Or forget the pinned commit by `semisamplus weights remove {entry.name} --forget`."
        return WeightsError(msg, remedy)
    if _is_a(error, "RepositoryNotFoundError") or status in (401, 403, 404):
        msg = f"{title}: {where} is not accessible to you (HTTP {status}): moved, private, or HF_TOKEN is wrong."
        return WeightsError(
            msg, f"Set HF_TOKEN to a valid token, or unset a wrong one; or: {other_ways(entry, lower=True)}{unsent}"
        )
    if status == 429:
        pause = asked_to_wait(error)
        msg = f"{title}: {where} received too many requests (HTTP 429)."
        when = f"in {pause:.0f} s" if pause else "in some minutes"
        return WeightsError(msg, f"Download again {when}; with HF_TOKEN set, more is allowed.")
    if status is not None and status >= 500:
        return UnreachableError(f"{title}: {where} is out of order (HTTP {status}).", "Download again later.")
    if status is not None:
        return WeightsError(f"{title}: {where} refuses '{file}' (HTTP {status}).", other_ways(entry))
    if _is_a(error, "ProxyError"):
        msg = f"{title}: the proxy does not allow access to {where} ({_short(error)})."
        return UnreachableError(msg, "Correct HTTPS_PROXY and HTTP_PROXY, or name the host in NO_PROXY.")
    if "CERTIFICATE" in str(error).upper():
        msg = f"{title}: the certificate of {where} is not trusted here ({_short(error)})."
        return UnreachableError(msg, "Set SSL_CERT_FILE to the certificates of your institution's proxy.")
    if "Consistency check failed" in str(error) or _is_a(error, "RemoteProtocolError", "ReadError"):
        msg = f"{title}: the connection to {where} was lost while '{file}' was being downloaded ({_short(error)}); nothing of it was kept."
        return UnreachableError(msg, "Download again.")
    if _is_a(error, "TimeoutException", "TimeoutError"):
        msg = f"{title}: {where} does not answer in time."
        return UnreachableError(msg, "Download again later; HF_HUB_DOWNLOAD_TIMEOUT=60 waits longer.")
    if _is_a(
        error, "ConnectError", "NetworkError", "OfflineModeIsEnabled", "ConnectionError", "LocalEntryNotFoundError"
    ):
        msg = f"{title}: {where} cannot be reached ({_short(error)})."
        remedy = f"Connect to the network, set HTTPS_PROXY or HF_ENDPOINT; or: {other_ways(entry, lower=True)}"
        return UnreachableError(msg, remedy)
    if isinstance(error, OSError) and error.errno is not None:
        msg = f"{title}: '{file}' cannot be written to {weights.hub_folder()} ({error.strerror})."
        return WeightsError(msg, "Make the folder writable, or put the cache elsewhere with HF_HOME.")
    return WeightsError(
        f"{title}: '{file}' could not be downloaded ({type(error).__name__}: {_short(error)}).", "Try again."
    )


def _short(error: BaseException) -> str:
    """Return the first line of the innermost reason."""
    last = list(_causes(error))[-1]
    lines = str(last).strip().splitlines()
    return lines[0].strip().rstrip(".")[:200] if lines else type(last).__name__
