"""What the benchmarks share: children whose memory is their own, and tables for docs/performance.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Real volumes beside the repository; the benchmarks make phantoms where they are missing.
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def peak_memory() -> int:
    """Return the greatest memory in bytes that this process has had so far."""
    if os.name == "nt":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_child(script: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run ``script child TASK`` and return the JSON object of the last line that it prints.

    Args:
        script: A benchmark's file.
        task: What the child is to do, as JSON-ready data.
        environment: Variables for the child beside those of this process.
    """
    command = [sys.executable, script, "child", json.dumps(dict(task))]
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about() -> str:
    """Return what a reader must know of the computer."""
    import platform

    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {torch.get_num_threads()} threads{gpu}; PyTorch {torch.__version__}."
