"""Embeddings, made once for each case: kept on disk by content and in a bounded part of memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..cohort.content import content_sha256
from ..cohort.volume import Volume
from ..run.files import replacing
from ..run.threads import compute_with
from .generalist import Generalist

#: Memory for embeddings, in bytes; the case at hand is kept in any case.
MEMORY_BYTES = 512 << 20


@runtime_checkable
class Keepable(Protocol):
    """What a generalist offers whose embeddings can be kept on disk."""

    def dump(self, embedding: Any) -> dict[str, Tensor]:
        """Return the embedding as tensors; floating ones but float64 are kept in half precision."""
        ...

    def load(self, tensors: Mapping[str, Tensor], read_volume: Callable[[], Volume]) -> Any:
        """Return the embedding of which :meth:`dump` made ``tensors``; the volume may be read if it is needed again."""
        ...


@dataclass
class _Held:
    """An embedding in memory, and how many of its tensors are on disk."""

    embedding: Any
    kept: int


class EmbeddingStore:
    """A generalist's embeddings of many cases.

    Of a generalist with ``dump`` and ``load`` they are kept on disk too, and what an embedding gained since (another window
    of a large case) is added when it is next asked for, leaves memory, or the store is closed.

    All are made on one thread of the store's own, so that an embedding is the same, bit for bit, whoever asked for it and
    with however many threads that one computes.

    Args:
        folder: The folder on disk; runs and generalists may share it. None keeps nothing on disk.
        generalist: Who embeds.
        weights_hash: SHA256 of its weights, empty where it has none.
        memory_bytes: Memory for embeddings; the least recently used leave first.
    """

    def __init__(
        self, folder: Path | None, generalist: Generalist, weights_hash: str = "", *, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self._folder = Path(folder) if folder is not None and isinstance(generalist, Keepable) else None
        self._generalist = generalist
        self._prepared = [generalist.name, weights_hash, str(getattr(generalist, "preparation", generalist.spacing))]
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.RLock()
        self._maker = ThreadPoolExecutor(1, "embedding", compute_with, (torch.get_num_threads(),))
        self._ahead: threading.Thread | None = None
        self._ends = threading.Event()

    def get(self, case_key: str, volume_reader: Callable[[], Volume]) -> Any:
        """Return the embedding of a case: from memory, from disk, or made now.

        Args:
            case_key: What names the case's content, as :func:`content_key` makes it; equal keys must mean equal volumes.
            volume_reader: Returns the case's volume as the generalist wants it; called only if it is needed.
        """
        with self._lock:
            if case_key in self._held:
                self._held.move_to_end(case_key)
                self._keep(case_key)
            else:
                self._held[case_key] = self._read(case_key, volume_reader) or _Held(
                    self._maker.submit(lambda: self._generalist.embed(volume_reader())).result(), kept=0
                )
                self._keep(case_key)
            embedding = self._held[case_key].embedding
            self._make_room()
            return embedding

    def path(self, case_key: str) -> Path | None:
        """Return the file of a case's embedding, or None where nothing is kept on disk."""
        if self._folder is None:
            return None
        key = hashlib.sha256(json.dumps([case_key, *self._prepared]).encode()).hexdigest()
        return self._folder / f"{key}.safetensors"

    def make_ahead(self, cases: Iterable[tuple[Callable[[], str], Callable[[], Volume]]]) -> None:
        """Begin to make embeddings, one after another, on a thread beside those that ask.

        Args:
            cases: What returns a case's key, and what returns its volume; see :meth:`get`.
        """
        if self._ahead is not None:
            return

        def make() -> None:
            for key, volume_reader in cases:
                # A moment in which whoever waits for the lock comes first.
                if self._ends.wait(0.01):
                    return
                with suppress(Exception):  # It fails again where it is asked for, and is told there.
                    self.get(key(), volume_reader)

        self._ahead = threading.Thread(target=make, name="embedding ahead", daemon=True)
        self._ahead.start()

    def close(self) -> None:
        """Stop making embeddings ahead, keep what is not on disk yet, and let go of all memory; it can be used again."""
        if self._ahead is not None:
            self._ends.set()
            self._ahead.join()
            self._ahead = None
            self._ends.clear()
        with self._lock:
            for case_key in self._held:
                self._keep(case_key)
            self._held.clear()

    def _read(self, case_key: str, volume_reader: Callable[[], Volume]) -> _Held | None:
        path = self.path(case_key)
        if path is None or not path.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            # Read, not mapped: a mapped file cannot be replaced on Windows when the embedding grows.
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return _Held(cast(Keepable, self._generalist).load(tensors, volume_reader), kept=len(tensors))
        except (SafetensorError, OSError, KeyError, ValueError, IndexError):
            return None  # A damaged file is made anew.

    def _keep(self, case_key: str) -> None:
        path, held = self.path(case_key), self._held[case_key]
        if path is None:
            return
        tensors = cast(Keepable, self._generalist).dump(held.embedding)
        if len(tensors) <= held.kept:
            return
        from safetensors.torch import save_file

        with replacing(path) as temporary:
            save_file({name: _halved(tensor) for name, tensor in tensors.items()}, temporary)
        held.kept = len(tensors)

    def _make_room(self) -> None:
        sizes = {case_key: _size(held.embedding) for case_key, held in self._held.items()}
        while len(self._held) > 1 and sum(sizes.values()) > self._memory_bytes:
            oldest = next(iter(self._held))
            self._keep(oldest)
            del self._held[oldest], sizes[oldest]


def content_key(paths: Sequence[Path]) -> str:
    """Return what names the content of a case's images, in order: the SHA256 of those of each.

    Raises:
        VolumeError: If a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(content_sha256(path)) + b"/")
    return digest.hexdigest()


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.half() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
    return half.detach().cpu().contiguous()


def _size(value: Any) -> int:
    """Return about how many bytes of arrays and tensors a value holds."""
    known = getattr(value, "nbytes", None)
    if isinstance(known, int):
        return known
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_size, value))
    if is_dataclass(value):
        return sum(_size(getattr(value, field.name)) for field in fields(value))
    return 0
