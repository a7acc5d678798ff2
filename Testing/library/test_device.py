"""What is told of devices, and of the memory in use, with a GPU that is made up where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from SemiSAMPlusLib.errors import DeviceError
from SemiSAMPlusLib.specialist import device as device_module
from SemiSAMPlusLib.specialist.device import (
    choose_device,
    describe_devices,
    device_names,
    is_out_of_memory,
    memory_in_use,
    usable_precision,
)
from SemiSAMPlusLib.specialist.inference import arithmetic
from SemiSAMPlusLib.specialist.networks import build_specialist
from SemiSAMPlusLib.training.device import convolves_thinly


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


@pytest.fixture
def apple_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.device]]:
    """A GPU of Apple's of which torch says that it is there; the devices on which operations were tried."""
    tried: list[torch.device] = []
    real_device, real_zeros = torch.device, torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **more: real_zeros(*size, **more))
    monkeypatch.setattr(device_module, "_try_operations", lambda device: tried.append(real_device(device)))
    device_module._apple_gpu_is_able.cache_clear()
    yield tried
    device_module._apple_gpu_is_able.cache_clear()


def test_an_apple_gpu_is_taken_where_torch_has_the_operations(apple_gpu: list[torch.device]) -> None:
    device, sentence = choose_device("auto")
    assert (device.type, sentence) == ("mps", "Training on mps.")
    assert {one.type for one in apple_gpu} == {"mps"}
    assert device_names() == ["mps", "cpu"]


def test_an_apple_gpu_on_which_torch_lacks_operations_is_passed_over_aloud(
    apple_gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(device: torch.device) -> None:
        raise NotImplementedError(
            "The operator 'aten::grid_sampler_3d' is not currently implemented for the MPS device."
        )

    monkeypatch.setattr(device_module, "_try_operations", lack)
    device, sentence = choose_device("auto")
    assert device.type == "cpu"
    assert f"torch {torch.__version__} lacks operations on Apple's GPU" in sentence
    assert [one.name for one in describe_devices()] == ["cpu"]
    with pytest.raises(DeviceError, match=r"'mps' cannot be used .*grid_sampler_3d"):
        choose_device("mps")


def test_what_is_tried_of_a_device_works_on_one_that_is_able() -> None:
    device_module._try_operations(torch.device("cpu"))


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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 7.64 GiB, max allowed: 9.07 GiB)."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_ran_out_is_known_on_every_system(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_no_want_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(("amx", "avx512"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_cpu_computes_in_bfloat16_by_either_instruction_set_and_never_emulates_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    fast = "bfloat16" if amx or avx512 else "float32"
    cpu = torch.device("cpu")
    wanted = ("auto", "bfloat16", "float16", "float32")  # What a specialist was trained in on a GPU, too.
    assert [usable_precision(cpu, one) for one in wanted] == [fast, fast, fast, "float32"]
    assert usable_precision(cpu, "auto", thin=True) == ("bfloat16" if amx else "float32")


def test_a_torch_that_knows_neither_instruction_set_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert usable_precision(torch.device("cpu"), "auto") == "float32"


@pytest.mark.parametrize("name", ["meta", "hpu", "privateuseone", "gpu", ""])
def test_a_device_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(DeviceError, match=f"The device '{name}' cannot be used") as caught:
        choose_device(name)
    assert "cpu" in caught.value.remedy


@pytest.mark.parametrize("new", ["cuda:0", "cuda:1"])
def test_each_gpu_computes_in_what_its_own_hardware_is_fast_in(monkeypatch: pytest.MonkeyPatch, new: str) -> None:
    current = ["cuda:0"]

    @contextmanager
    def made_current(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], str(device)
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", made_current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: current[0] == new)
    for name in ("cuda:0", "cuda:1"):
        assert usable_precision(torch.device(name), "auto") == ("bfloat16" if name == new else "float16")
        assert usable_precision(torch.device(name), "float16") == "float16"


@pytest.mark.parametrize(
    ("name", "size", "slices", "thin"),
    [
        ("unet3d", "small", 24, False),
        ("unet3d", "small", 16, True),
        ("unet3d", "large", 32, True),
        ("dynunet", "small", 32, True),
    ],
)
def test_layers_that_convolve_fewer_slices_than_their_kernels_are_deep_are_found(
    name: str, size: str, slices: int, thin: bool
) -> None:
    patch = (slices, 64, 64)

    def make_network() -> torch.nn.Module:
        return build_specialist(name, in_channels=1, out_channels=2, patch=patch, size=size)

    assert convolves_thinly(make_network, (2, 1, *patch)) is thin


def test_a_network_that_looks_at_numbers_counts_as_thin() -> None:
    class Looking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    assert convolves_thinly(Looking, (1, 1, 8, 8, 8))


@pytest.mark.parametrize("slices", [16, 24, 40])
def test_gradients_in_the_arithmetic_chosen_do_not_depend_on_what_lay_in_memory(slices: int) -> None:
    patch = (slices, 24, 32)

    def make_network() -> torch.nn.Module:
        torch.manual_seed(0)
        return build_specialist("unet3d", in_channels=1, out_channels=2, patch=patch, size="small")

    device, network = torch.device("cpu"), make_network()
    image = torch.rand((2, 1, *patch), generator=torch.Generator().manual_seed(0))
    precision = usable_precision(device, "auto", thin=convolves_thinly(make_network, (2, 1, *patch)))
    found = []
    for _ in range(3):
        left = [torch.full((count,), float("nan")) for count in (1000, 10_000, 100_000, 1_000_000)]
        del left
        network.zero_grad()
        with arithmetic(device, precision):
            output = network(image)
        output.float().square().mean().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(torch.equal(first, again) for other in found[1:] for first, again in zip(found[0], other, strict=True))
