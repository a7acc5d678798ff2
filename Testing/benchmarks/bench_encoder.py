"""SAM-Med3D's image encoder without its padding tokens beside the padded one: seconds, memory and difference.

Each runs in a child of its own, with glibc's allocator as it is, and told to keep what was freed. About two minutes on
two cores::

    python Testing/benchmarks/bench_encoder.py --repeats 2
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import about, in_child, peak_memory, table

_TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "500000000"}
_ALLOCATORS: dict[str, dict[str, str]] = {"default": {}, "tuned": _TUNED}


def child(task: dict[str, Any]) -> dict[str, Any]:
    """Embed a cube with one of both encoders; weights and cube are the same random ones each time."""
    import torch

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from padded_attention import padded_attention

    from SemiSAMPlusLib.generalist.sam_med3d.image_encoder import WindowAttention
    from SemiSAMPlusLib.generalist.sam_med3d.model import SamMed3DModel

    if task["encoder"] == "padded":
        WindowAttention.forward = padded_attention  # type: ignore[method-assign]
    torch.manual_seed(0)
    encoder = SamMed3DModel().image_encoder.eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():  # What is zero at first must not hide a difference.
            if parameter.ndim == 1 or "rel_pos" in name or "pos_embed" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    encoder = encoder.to(task["device"])
    x = torch.randn(1, 1, 128, 128, 128).to(task["device"])
    before = peak_memory()
    seconds = []
    for _ in range(1 + task["repeats"]):
        begun = time.perf_counter()
        with torch.inference_mode():
            embedding = encoder(x).cpu()
        seconds.append(time.perf_counter() - begun)
    torch.save(embedding, task["file"])
    found = {"seconds": statistics.median(seconds[1:]), "added": peak_memory() - before, "about": about()}
    if x.is_cuda:
        found["added"] = torch.cuda.max_memory_allocated()
    return found


def main(repeats: int = 1, device: str = "cpu", output: Path | None = None) -> None:
    """Measure and print a table.

    Args:
        repeats: Embeddings timed by each child, after a first one.
        device: Where to compute; allocators are compared on a CPU only.
        output: A JSON file for every figure.
    """
    import torch

    allocators = _ALLOCATORS if device == "cpu" else {"default": {}}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    os.environ.clear()
    os.environ.update(plain)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for allocator, environment in allocators.items():
            for encoder in ("ours", "padded"):
                file = str(Path(folder) / encoder)
                task = {"encoder": encoder, "repeats": repeats, "device": device, "file": file}
                found[f"{allocator} {encoder}"] = in_child(__file__, task, environment)
        ours, padded = (torch.load(Path(folder) / name, weights_only=True) for name in ("ours", "padded"))
    difference = float((ours - padded).abs().max())
    rows = []
    for allocator in allocators:
        one, other = found[f"{allocator} ours"], found[f"{allocator} padded"]
        rows.append(
            [
                allocator,
                f"{one['seconds']:.2f} s",
                f"{other['seconds']:.2f} s",
                f"{other['seconds'] / one['seconds']:.1f} ×",
                f"{one['added'] / 1e9:.2f} GB",
                f"{other['added'] / 1e9:.2f} GB",
            ]
        )
    print(found[f"{next(iter(allocators))} ours"]["about"], "One cube of 128³, float32.")
    print(table(["allocator", "ours", "padded", "faster", "memory added by ours", "by the padded one"], rows))
    print(
        f"Greatest difference of the embeddings: {difference:.1e}; their greatest value: {float(padded.abs().max()):.2f}."
    )
    if output is not None:
        output.write_text(json.dumps({"encoders": found, "difference": difference}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        import tyro

        tyro.cli(main)
