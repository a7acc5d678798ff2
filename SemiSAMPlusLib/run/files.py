"""Files that a reader never sees half written."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

Result = TypeVar("Result")

#: How often, and how long in all (seconds), a rename is tried while a reader on Windows holds the old file.
_RENAME_TRIES, _RENAME_PATIENCE = 40, 10.0
#: How often a file is read while it is being replaced, which lasts no longer than an instant.
_READ_TRIES = 4
#: How much of a file's name its temporary name keeps, in characters, which may be four bytes of at most 255 each.
_KEPT = 48
#: How temporary files are named: as nobody else names files.
_TEMPORARY = re.compile(r"\.semisamplus-[0-9a-f]{8}\..+")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on leaving without error it takes the place of ``path``.

    The temporary name keeps the suffixes of ``path``, because writers choose their format by it, but not all of a name
    that is as long as the system allows. The file is
    flushed to the disk before it is renamed, so after a crash there is either the old file or the new one, whole. It may be
    read by whom the user's other new files may be read by.

    Raises:
        PermissionError: If a reader on Windows holds the old file for longer than ten seconds.
    """
    path = Path(path).absolute()  # '.' has no name.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".semisamplus-{uuid4().hex[:8]}.{path.name[-_KEPT:]}")
    try:
        temporary.touch()
        # Some writers make a file that only its owner may read; others share runs and caches on a server.
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _retry(lambda: os.replace(temporary, path))
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporaries(folder: Path, *, below: bool, older_than: float) -> None:
    """Delete what killed processes left of :func:`replacing` in ``folder``.

    Args:
        folder: It need not exist.
        below: Whether to look into its folders too.
        older_than: Leave what was written to in the last so many seconds, for somebody may be at it.
    """
    for path in Path(folder).glob("**/.*" if below else ".*"):
        if _TEMPORARY.fullmatch(path.name) is None:
            continue
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > older_than:
                path.unlink()
        except OSError:  # Somebody else swept it, or holds it; the next job will see.
            continue


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_text_patiently(path: Path) -> str:
    """Read a text that may be replaced at this moment, when Windows denies it; elsewhere a denial is not waited for."""

    def read() -> str:
        return Path(path).read_text(encoding="utf-8")

    return _retry(read, _READ_TRIES) if os.name == "nt" else read()


def _retry(action: Callable[[], Result], tries: int = _RENAME_TRIES) -> Result:
    for attempt in range(tries):
        try:
            return action()
        except PermissionError:
            if attempt == tries - 1:
                raise
            time.sleep(_RENAME_PATIENCE / _RENAME_TRIES)
    raise AssertionError  # The last try returns or raises.
