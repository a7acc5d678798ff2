"""What is told of devices, and of the memory in use, with a GPU that is made up where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from SemiSAMPlusLib.specialist.device import describe_devices, memory_in_use, usable_precision


def test_the_cpu_is_always_there_and_comes_last() -> None:
    last = describe_devices()[-1]
    assert last.name == "cpu"
    assert "thread" in last.title
    assert 0 < last.free <= last.total


def test_gpus_come_first_the_freest_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda:0": (2 << 30, 8 << 30), "cuda:1": (7 << 30, 8 << 30)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: free[name])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"GPU {name[-1]}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    found = describe_devices()
    assert [one.name for one in found] == ["cuda:1", "cuda:0", "cpu"]
    assert (found[0].title, found[0].free, found[0].total) == ("GPU 1", 7 << 30, 8 << 30)


def test_memory_in_use_on_a_cpu_is_that_of_the_process() -> None:
    before = memory_in_use(torch.device("cpu"))
    kept = torch.ones(50_000_000)
    after = memory_in_use(torch.device("cpu"))
    assert set(after) == {"process_gb"}
    assert after["process_gb"] - before["process_gb"] == pytest.approx(kept.nbytes / 1e9, abs=0.05)


def test_memory_in_use_on_a_gpu_is_asked_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000_000_000)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80_000_000_000)
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("it waits for the device"))
    used = memory_in_use(torch.device("cuda:0"))
    assert (used["gpu_gb"], used["gpu_total_gb"]) == (3.0, 80.0)


@pytest.mark.parametrize(("amx", "avx512"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_cpu_computes_in_bfloat16_by_either_instruction_set_and_never_emulates_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    fast = "bfloat16" if amx or avx512 else "float32"
    cpu = torch.device("cpu")
    assert [usable_precision(cpu, wanted) for wanted in ("auto", "bfloat16", "float32")] == [fast, fast, "float32"]


def test_a_torch_that_knows_neither_instruction_set_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert usable_precision(torch.device("cpu"), "auto") == "float32"


@pytest.mark.parametrize(("hardware", "fast"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_without_bfloat16_computes_in_float16(monkeypatch: pytest.MonkeyPatch, hardware: bool, fast: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: hardware)
    assert usable_precision(torch.device("cuda"), "auto") == fast
