"""Train a segmentation specialist from a few labelled and many unlabelled volumes, helped by promptable generalists.

The public names below are imported when they are first used, so that importing the package stays cheap and loads
no torch::

    from pathlib import Path

    from SemiSAMPlusLib import Cohort, TrainingConfig, predict, train

    cohort = Cohort.from_folder(Path("volumes"), labeled=1)
    train(cohort, TrainingConfig(), Path("runs/first"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cohort.cohort import Case, Class, Cohort, Role
    from .errors import SemiSAMPlusError
    from .evaluation.prediction import predict
    from .run.config import TrainingConfig
    from .training.run import resume, train

__version__ = "0.1.0"

#: Public name → the module that has it.
_EXPORTS = {
    "Case": ".cohort.cohort",
    "Class": ".cohort.cohort",
    "Cohort": ".cohort.cohort",
    "Role": ".cohort.cohort",
    "SemiSAMPlusError": ".errors",
    "TrainingConfig": ".run.config",
    "predict": ".evaluation.prediction",
    "resume": ".training.run",
    "train": ".training.run",
}

__all__ = [
    "Case",
    "Class",
    "Cohort",
    "Role",
    "SemiSAMPlusError",
    "TrainingConfig",
    "__version__",
    "predict",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name not in _EXPORTS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_EXPORTS[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
