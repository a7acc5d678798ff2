"""The allocator's setting: it holds in the process that asks for it, and leaves a user's own alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from SemiSAMPlusLib.run import allocator

#: A piece of 64 MB is touched and freed again and again; tells how often the system had to find pages for it.
_COUNT = """
import ctypes, resource
from SemiSAMPlusLib.run.allocator import keep_freed_memory
changed = keep_freed_memory() if {asks} else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = libc.malloc(64 << 20)
    ctypes.memset(piece, 1, 64 << 20)
    libc.free(piece)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(changed), max(faults[1:]), int("torch" in __import__("sys").modules))
"""
on_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="a thing of glibc"
)


def count(asks: bool, **variables: str) -> tuple[bool, int, bool]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC", "GLIBC", "LD_PRE"))}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT.format(asks=asks)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    changed, faults, torch = map(int, done.stdout.split())
    return bool(changed), faults, bool(torch)


@on_glibc
def test_freed_memory_is_kept_and_no_torch_is_loaded() -> None:
    changed, faults, torch = count(True)
    assert changed
    assert not torch
    assert faults < 10 <= count(False)[1]


@on_glibc
def test_what_the_user_set_stays() -> None:
    changed, faults, _ = count(True, MALLOC_MMAP_MAX_="65536", MALLOC_TRIM_THRESHOLD_="131072")
    assert not changed
    assert faults >= 10
    assert not count(True, GLIBC_TUNABLES="glibc.malloc.mmap_max=65536")[0]


@pytest.mark.parametrize(("system", "library"), [("win32", ""), ("darwin", ""), ("linux", "musl")])
def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch, system: str, library: str) -> None:
    monkeypatch.setattr(allocator.sys, "platform", system)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the C library was touched"))
    assert not allocator.keep_freed_memory()
