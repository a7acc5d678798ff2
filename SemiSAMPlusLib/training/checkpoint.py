"""Checkpoints: tensors and plain values only, there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import RunFolderError
from ..run.files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, flush it, and rename it."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling code.

    Raises:
        RunFolderError: If there is none, or it is damaged.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        msg = f"{path}: there is no checkpoint."
        raise RunFolderError(
            msg, "The run ended before its first checkpoint; start it again with `semisamplus train`."
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file.
        msg = f"{path}: the checkpoint cannot be read ({type(error).__name__})."
        raise RunFolderError(msg, "Remove the file: `semisamplus resume` then begins the run anew.") from error
