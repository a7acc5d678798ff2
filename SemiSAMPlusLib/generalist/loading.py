"""Opening weights without running anything that they hold, and checking them against the model."""

from __future__ import annotations

import re
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from ..run.files import replacing, write_text_atomically
from .weights import cache_folder, known_sha256, sha256_of

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Where a checkpoint keeps the model's tensors, and what training wrappers put before their names.
_WRAPPERS = ("model_state_dict", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
#: The first PyTorch whose restricted reader is known to run nothing.
_SAFE_TORCH = (2, 6)
_NAMED = 4


def load_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights by their names in the model; nothing that the file holds is run.

    A safetensors file is mapped into memory as it is. A PyTorch checkpoint is opened by PyTorch's restricted reader, which
    knows tensors and a few inert values besides, and is written once as safetensors into the cache, from where it is
    mapped from then on. What wrappers of a training put around the names is taken off.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU in the file's own precision. They may be mapped from a file: do not write to them.

    Raises:
        WeightsError: If the file is missing, damaged, no file of weights, or would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: the file of weights does not exist."
        raise WeightsError(msg, "Correct the path.")
    _refuse_what_is_no_checkpoint(path)
    if _is_safetensors(path):
        return _unwrapped(_read_safetensors(path), path)
    converted = converted_file(known_sha256(path))
    if converted.is_file():
        try:
            return _read_safetensors(converted)
        except WeightsError:
            forget_conversion(converted)
    state = _unwrapped(_read_checkpoint(path), path)
    return state if not _convert(state, converted) else _read_safetensors(converted)


def converted_file(sha256: str) -> Path:
    """Return where the conversion of the checkpoint with this SHA256 is kept."""
    return cache_folder() / "converted" / f"{sha256}.safetensors"


def check_conversion(sha256: str) -> bool:
    """Return whether the conversion of the checkpoint with this SHA256 is as it was written; another one is removed.

    What is removed is made again from the checkpoint when it is next opened.
    """
    converted = converted_file(sha256)
    if not converted.is_file():
        return True
    try:
        whole = _own_sha256(converted).read_text(encoding="ascii").strip() == sha256_of(converted)
    except (OSError, ValueError):
        whole = False
    if not whole:
        forget_conversion(converted)
    return whole


def forget_conversion(converted: Path) -> None:
    """Remove a conversion."""
    for path in (converted, _own_sha256(converted)):
        path.unlink(missing_ok=True)


def _own_sha256(converted: Path) -> Path:
    return converted.with_suffix(".sha256")


def _convert(state: Mapping[str, Tensor], converted: Path) -> bool:
    """Write a checkpoint's tensors as safetensors; return whether that went well.

    Without room for it the checkpoint is converted again next time, and nothing else is lost.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with replacing(converted) as temporary:
            save_file(dict(state), temporary)
        write_text_atomically(_own_sha256(converted), sha256_of(converted) + "\n")
    except (OSError, SafetensorError):
        return False
    return True


def check_state(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Compare keys, shapes and dtypes of ``state`` with those of ``model``; any floating precision is accepted.

    Raises:
        WeightsError: If they differ; the first differences are named.
    """
    expected = model.state_dict()
    faults = [f"'{key}' is missing" for key in expected if key not in state]
    faults += [f"'{key}' is not in the model" for key in state if key not in expected]
    for key, value in expected.items():
        if key not in state:
            continue
        found = state[key]
        if tuple(found.shape) != tuple(value.shape):
            faults.append(f"'{key}' has shape {tuple(found.shape)}, expected {tuple(value.shape)}")
        elif found.is_floating_point() != value.is_floating_point():
            faults.append(f"'{key}' has dtype {found.dtype}, expected {value.dtype}")
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        msg = f"The weights do not fit {type(model).__name__}: {'; '.join(faults[:_NAMED])}{more}."
        raise WeightsError(msg, "Give the weights that were trained for this model.")


def _refuse_what_is_no_checkpoint(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(b"<"):
        msg = f"{path}: is a web page, expected a file of weights."
        raise WeightsError(msg, "Download the file itself, not the page that shows it.")
    if head.startswith(b"version https://git-lfs"):
        msg = f"{path}: is a pointer of Git LFS, expected the file of weights itself."
        raise WeightsError(msg, "Fetch it with `git lfs pull`, or download it from the Hub.")
    if not head:
        msg = f"{path}: is empty, expected a file of weights."
        raise WeightsError(msg, "Get the file anew.")


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path}: cannot be read as safetensors ({error})."
        raise WeightsError(msg, "The file is damaged; get it anew.") from error


def _read_checkpoint(path: Path) -> Any:
    """Open a PyTorch checkpoint with the restricted reader.

    Training scripts save their arguments and running means beside the model, which SAM-Med3D's base checkpoint is reported to
    fail on (issue 92 of its repository); these few kinds are inert, and everything else is refused.
    """
    import torch

    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < _SAFE_TORCH:
        msg = f"{path}: PyTorch {torch.__version__} can be made to run code by a checkpoint (CVE-2025-32434)."
        raise WeightsError(
            msg, f"Install PyTorch {'.'.join(map(str, _SAFE_TORCH))} or later, or give a safetensors file."
        )
    try:
        with torch.serialization.safe_globals(_inert_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except Exception as error:  # A damaged or hostile file can fail in any way; each means the same.
        unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unknown:
            msg = f"{path}: asks for '{unknown[1]}', which is no tensor and could run code, so the file was not opened."
            remedy = "Ask its authors for a file of tensors alone (safetensors, or the state_dict)."
        else:
            msg = f"{path}: cannot be read as weights ({type(error).__name__}: {_reason(error)})."
            remedy = "The file is damaged or of another kind; get it anew."
        raise WeightsError(msg, remedy) from error


def _reason(error: Exception) -> str:
    """Return the one line that says what is wrong, without PyTorch's advice to open the file unrestrained."""
    inner = re.search(r"WeightsUnpickler error: *(.+)", str(error))
    lines = str(error).strip().splitlines()
    return inner[1].strip() if inner else (lines[0] if lines else "no reason given")


def _inert_globals() -> list[Any]:
    """Return what a checkpoint may hold beside tensors: arguments of a script, and numpy's numbers."""
    import numpy as np

    make_scalar = np.float64(0).__reduce__()[0]
    numbers: Iterable[str] = ("bool", "int32", "int64", "float32", "float64")
    return [
        Namespace,
        np.dtype,
        *(type(np.dtype(name)) for name in numbers),
        (make_scalar, "numpy.core.multiarray.scalar"),  # The name before numpy 2, and since.
        (make_scalar, "numpy._core.multiarray.scalar"),
    ]


def _unwrapped(data: Any, path: Path) -> dict[str, Tensor]:
    """Return the model's tensors out of whatever a checkpoint wraps them in, each with memory of its own."""
    import torch

    while isinstance(data, Mapping) and (key := next((k for k in _WRAPPERS if isinstance(data.get(k), Mapping)), None)):
        data = data[key]
    if not isinstance(data, Mapping) or not data or not all(isinstance(value, torch.Tensor) for value in data.values()):
        found = (
            "no tensors" if not isinstance(data, Mapping) else f"the keys {', '.join(map(str, list(data)[:_NAMED]))}"
        )
        msg = f"{path}: holds {found or 'nothing'}, expected the tensors of a model, maybe under 'model_state_dict'."
        raise WeightsError(msg, "Give a checkpoint of the model.")
    state: dict[str, Tensor] = {}
    memory: set[int] = set()
    for key, tensor in data.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            msg = f"{path}: '{key}' is a tensor of kind {tensor.layout} ({tensor.dtype}), expected a plain one."
            raise WeightsError(msg, "Save the model's weights as plain tensors.")
        own = tensor.detach().contiguous()
        if own.untyped_storage().data_ptr() in memory:
            own = own.clone()
        memory.add(own.untyped_storage().data_ptr())
        state[_plain_name(str(key))] = own
    return state


def _plain_name(key: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key
