"""What the hardware computes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: What torch calls the two instruction sets by which a CPU multiplies in bfloat16; not every version knows both.
_AMX, _AVX512 = "_is_amx_tile_supported", "_is_avx512_bf16_supported"


def fast_precision(device: torch.device, *, thin: bool = False) -> str:
    """Return the arithmetic that the device is fast in: bfloat16 where it is not emulated and right, float16 on other GPUs, else float32.

    A CPU does by AMX (Intel), which ran the networks here four to five times faster than float32, or by AVX-512 BF16 (Intel and AMD),
    1.6 times faster in training and 1.8 in prediction. Emulated, it was fifteen times slower.

    Args:
        device: Where to compute.
        thin: Whether it is to compute gradients of layers that convolve fewer slices than their kernels are deep. By AVX-512 the
            gradients of such weights hold whatever lay in memory before, not a number now and then (torch 2.13).
    """
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):  # torch answers for the current GPU, and a computer may have several kinds.
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    names = (_AMX,) if thin else (_AMX, _AVX512)
    has_bfloat16 = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
    return "bfloat16" if has_bfloat16 else "float32"
