"""A folder that this user may not look into, also where the tests run as root or on a system without modes."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: What asks for a file, or lists a folder.
_FUNCTIONS = (
    *((os, name) for name in ("stat", "lstat", "open", "mkdir", "utime", "scandir", "listdir")),
    (io, "open"),
    (builtins, "open"),
)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Deny all that lies in a folder, as one of mode 700 of a colleague does, or a share that is lost."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in _FUNCTIONS:
            patch.setattr(module, name, _denying(folder, getattr(module, name), also_itself="dir" in name))
        yield


def _denying(folder: Path, really: Callable[..., Any], *, also_itself: bool) -> Callable[..., Any]:
    def ask(path: Any = ".", *more: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            one = Path(os.fspath(path))
            if folder in one.parents or (also_itself and one == folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(one))
        return really(path, *more, **options)

    return ask
