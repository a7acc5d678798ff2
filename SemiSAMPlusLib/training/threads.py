"""The patches of a step, worked on side by side: what a network does not fill the cores with, several patches do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from ..run.threads import compute_with, has_threads_of_its_own

Item = TypeVar("Item")
Result = TypeVar("Result")


class PatchThreads:
    """Maps a function over patches, a thread for each as far as there are threads to compute with.

    The threads share the cores that torch was given, so that both do not ask for all of them. The same patch is always
    computed with the same number of torch's threads, so results do not depend on which thread is first.

    Args:
        patches: How many patches a step has of a kind.
    """

    def __init__(self, patches: int) -> None:
        cores = torch.get_num_threads()
        workers = min(patches, cores) if has_threads_of_its_own() else 1
        self._pool = ThreadPoolExecutor(workers, "patch", compute_with, (cores // workers,)) if workers > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return the results in the order of the items; raises what the first that failed raised."""
        return list(map(function, items) if self._pool is None else self._pool.map(function, items))

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()
