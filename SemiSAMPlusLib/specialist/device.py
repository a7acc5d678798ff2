"""The device to compute on, and the arithmetic that its hardware is fast in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

from ..errors import DeviceError
from ..run.hardware import fast_precision

#: What torch says where memory ran out, in errors that are no more than a RuntimeError: on a CPU under Linux and macOS, and
#: under Windows; on Apple's GPU; and in the libraries that it computes with on NVIDIA's.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class DeviceFacts:
    """What a user should know of a device before choosing it.

    Attributes:
        name: As the setting ``device`` takes it.
        title: What it is.
        free: Free memory in bytes.
        total: Memory in bytes.
    """

    name: str
    title: str
    free: int
    total: int


def describe_devices() -> list[DeviceFacts]:
    """Return every device that can be chosen here, the GPU with most free memory first, the CPU last."""
    import psutil

    memory = psutil.virtual_memory()
    found = []
    for name in device_names():
        if name.startswith("cuda"):
            free, total = torch.cuda.mem_get_info(name)
            found.append(DeviceFacts(name, torch.cuda.get_device_name(name), free, total))
        else:
            # Apple's GPU shares the computer's memory.
            title = f"CPU ({_cpu_text()})" if name == "cpu" else "Apple GPU"
            found.append(DeviceFacts(name, title, memory.available, memory.total))
    return sorted(found, key=lambda one: (one.name == "cpu", -one.free))


def memory_in_use(device: torch.device) -> dict[str, float]:
    """Return the memory that this process uses, in GB, without making the device wait.

    Returns:
        ``process_gb``: in the computer's memory; on a GPU also ``gpu_gb``: what torch holds of the GPU's, and
        ``gpu_total_gb``: what the GPU has.
    """
    import psutil

    used = {"process_gb": psutil.Process().memory_info().rss / 1e9}
    if device.type == "cuda":
        # What torch keeps for itself, also where no tensor lies in it at the moment: nobody else can have it.
        used["gpu_gb"] = torch.cuda.memory_reserved(device) / 1e9
        used["gpu_total_gb"] = torch.cuda.get_device_properties(device).total_memory / 1e9
    elif device.type == "mps":
        used["gpu_gb"] = torch.mps.driver_allocated_memory() / 1e9
    return {name: round(value, 2) for name, value in used.items()}


def choose_device(wanted: str, *, doing: str = "Training") -> tuple[torch.device, str]:
    """Return the device and a sentence that says which it is.

    Args:
        wanted: ``auto`` takes the GPU with most free memory, else the CPU, also where torch lacks operations on Apple's GPU; or any
            name torch knows.
        doing: What it is chosen for, as the sentence begins.

    Raises:
        DeviceError: If a device was named that is not there; nothing falls back to the CPU in silence.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
            wanted = f"cuda:{free.index(max(free))}"
        elif _apple_gpu_is_able():
            wanted = "mps"
        else:
            apple = torch.backends.mps.is_available()
            why = f"torch {torch.__version__} lacks operations on Apple's GPU" if apple else "no GPU was found"
            return torch.device("cpu"), f"{doing} on the CPU ({_cpu_text()}): {why}."
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device).item()  # Of `meta` nothing comes back.
        if device.type == "mps":
            _try_operations(device)
    except (RuntimeError, AssertionError, ImportError) as error:
        msg = f"The device '{wanted}' cannot be used ({str(error).splitlines()[0]})."
        raise DeviceError(msg, f"Choose one of: {', '.join(device_names())}.") from error
    if device.type == "cuda":
        return device, f"{doing} on the GPU {torch.cuda.get_device_name(device)} ({device})."
    return device, f"{doing} on {device}" + (f" ({_cpu_text()})." if device.type == "cpu" else ".")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out, the computer's or a GPU's; torch has not one class for all of them."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def device_names() -> list[str]:
    """Return the devices that can be chosen here."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*names, *(["mps"] if _apple_gpu_is_able() else []), "cpu"]


@cache
def _apple_gpu_is_able() -> bool:
    """Return whether there is an Apple GPU on which this torch has the operations in three dimensions, as older ones have not."""
    if not torch.backends.mps.is_available():
        return False
    try:
        _try_operations(torch.device("mps"))
    except RuntimeError:
        return False
    return True


def _try_operations(device: torch.device) -> None:
    """Do once what networks and patches are made of.

    Raises:
        RuntimeError: If torch cannot do it on the device.
    """
    image = torch.zeros((1, 1, 4, 4, 4), device=device)
    kernel = torch.zeros((1, 1, 2, 2, 2), device=device, requires_grad=True)
    halved = functional.conv3d(functional.pad(image, (1, 1) * 3, mode="replicate"), kernel, stride=2)
    restored = functional.conv_transpose3d(functional.avg_pool3d(halved, 1), kernel, stride=2)
    enlarged = functional.interpolate(restored, (8, 8, 8), mode="trilinear")
    enlarged.sum().backward()
    places = torch.zeros((1, 2, 2, 2, 3), device=device)
    for mode in ("bilinear", "nearest"):
        functional.grid_sample(image, places, mode, "zeros", align_corners=True)


def _cpu_text() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count != 1 else ''}"


def usable_precision(device: torch.device, wanted: str, *, thin: bool = False) -> str:
    """Return the arithmetic to compute in: ``auto`` takes bfloat16 where hardware has it; no arithmetic is emulated.

    Args:
        device: Where networks run.
        wanted: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        thin: See :func:`~SemiSAMPlusLib.run.hardware.fast_precision`.
    """
    fast = fast_precision(device, thin=thin)
    emulated = (wanted == "bfloat16" and fast != "bfloat16") or (wanted == "float16" and device.type == "cpu")
    return fast if wanted == "auto" or emulated else wanted
