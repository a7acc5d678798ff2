"""Patches worked on side by side: in order, each with its share of the cores, and the same whichever thread is first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import tiny_cohort, tiny_config, weights_of

from SemiSAMPlusLib.run.threads import has_threads_of_its_own
from SemiSAMPlusLib.training.run import train
from SemiSAMPlusLib.training.threads import PatchThreads


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.skipif(not has_threads_of_its_own(), reason="torch has one number of threads for all here")
def test_patches_share_the_cores_and_come_back_in_order() -> None:
    threads = PatchThreads(2)
    meeting = threading.Barrier(2, timeout=20)  # Broken where they are not side by side.

    def work(number: int) -> tuple[int, int]:
        meeting.wait()
        return number, torch.get_num_threads()

    assert threads.map(work, range(4)) == [(0, 2), (1, 2), (2, 2), (3, 2)]
    assert torch.get_num_threads() == 4
    threads.close()


def test_with_one_thread_there_is_no_other() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert PatchThreads(2).map(lambda _: threading.get_ident(), range(2)) == [threading.get_ident()] * 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_what_fails_is_raised() -> None:
    threads = PatchThreads(2)
    with pytest.raises(ZeroDivisionError):
        threads.map(lambda number: 1 / number, range(2))
    threads.close()


def test_the_seed_fixes_a_run_on_several_threads(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "cohort")
    before = torch.get_num_threads()
    config = tiny_config(threads=2, method="copy-paste", generalists=("random-walker",), trust=0.5, iterations=10)
    try:
        for name in ("first", "second"):
            train(cohort, config, tmp_path / name)
    finally:
        torch.set_num_threads(before)
    assert weights_of(tmp_path / "first") == weights_of(tmp_path / "second")
