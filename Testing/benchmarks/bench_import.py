"""How long a fresh interpreter takes to import the library; the goal is below half a second."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_REPEATS = 5
_STATEMENTS = ("pass", "import SemiSAMPlusLib", "from SemiSAMPlusLib import Cohort, TrainingConfig")


def _seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    for statement in _STATEMENTS:
        _seconds(statement)  # Compiles what is not compiled yet.
        print(f"{statement:60s} {statistics.median(_seconds(statement) for _ in range(_REPEATS)):.3f} s")


if __name__ == "__main__":
    main()
