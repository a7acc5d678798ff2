"""How many threads a thread computes with, so that threads side by side do not each ask for every core."""

from __future__ import annotations


def has_threads_of_its_own() -> bool:
    """Return whether torch's number of threads is one for each thread that calls, as under OpenMP, or one for all."""
    import torch

    return "backend: OpenMP" in torch.__config__.parallel_info()


def compute_with(threads: int) -> None:
    """Let torch compute with so many threads in the thread that calls; does nothing where there is one number for all."""
    import torch

    if has_threads_of_its_own():
        torch.set_num_threads(threads)
