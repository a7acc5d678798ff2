"""How a job's process gets memory from Linux: what was freed is kept, because asking the system for it anew costs time."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

#: glibc's options of ``mallopt``, by the variable of the environment that a user may have set instead.
_OPTIONS = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1)}


def keep_freed_memory() -> bool:
    """Let this process keep large pieces of memory that were freed, for the next ones of their kind.

    glibc gives every piece of more than 32 MB back to the system at once, and the system fills the next one with zeros page
    by page; a network's activations come and go in such pieces at each step. It is meant for a process that only trains or
    predicts: its memory stays at what it needed most. Elsewhere than under glibc it does nothing, and what a user has set
    by glibc's own variables (``MALLOC_...`` and ``GLIBC_TUNABLES``) or by another allocator (``LD_PRELOAD``) stays.

    Returns:
        Whether anything was changed.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    if any(name in os.environ for name in ("GLIBC_TUNABLES", "LD_PRELOAD")):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return any([bool(mallopt(*option)) for name, option in _OPTIONS.items() if name not in os.environ])
