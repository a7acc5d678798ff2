"""Generalists by name: those that come with the program, and a user's own.

A user's own comes through the entry-point group ``semisamplus.generalists``: a callable that takes the keyword
``device`` and returns a :class:`~SemiSAMPlusLib.generalist.generalist.Generalist`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, SemiSAMPlusError
from ..plugins import find_plugin, plugin_names
from .catalog import CatalogEntry, catalog

if TYPE_CHECKING:
    import torch

    from .generalist import Generalist

#: The catalog's adapters: the class that wraps the model. It is called with the model's file, ``device`` and ``name``; the
#: other files of an entry lie beside that one as in the repository. One that needs no files is called with ``device`` alone.
_ADAPTERS = {
    "random-walker": "SemiSAMPlusLib.generalist.random_walker:RandomWalker",
    "synthetic": "SemiSAMPlusLib.generalist.synthetic.generalist:Synthetic",
    "sam-med3d": "SemiSAMPlusLib.generalist.sam_med3d.generalist:SamMed3D",
    "nninteractive": "SemiSAMPlusLib.generalist.nninteractive:NNInteractive",
}


def generalist_names() -> tuple[str, ...]:
    """Return the names that :func:`create_generalist` knows, the program's own first."""
    return tuple(plugin_names("generalists", catalog()))


def create_generalist(spec: str, device: str | torch.device = "cpu") -> Generalist:
    """Make a generalist.

    Args:
        spec: A name of :func:`generalist_names`; one that needs weights may name its file as ``NAME=PATH``.
        device: Where it computes.

    Raises:
        ConfigError: If the name is unknown, or takes no file.
        WeightsError: If its weights are missing, unsafe or do not fit.
    """
    name, separator, file = (part.strip() for part in spec.partition("="))
    if name in catalog():
        return _create_from_catalog(catalog()[name], file if separator else None, device)
    make: Callable[..., Generalist] = find_plugin("generalists", name, dict.fromkeys(catalog(), ""))
    if separator:
        msg = f"The generalist '{name}' takes no file, found '{file}'."
        raise ConfigError(msg, f"Give it as {name}.")
    try:
        return make(device=device)
    except SemiSAMPlusError:
        raise
    except Exception as error:  # Whatever a stranger's package raises.
        msg = f"The generalist '{name}' cannot be made ({type(error).__name__}: {error})."
        raise ConfigError(msg, f"Mend the package that offers it, or leave {name} out.") from error


def check_weights(entry: CatalogEntry, path: Path) -> None:
    """Check that a file of weights is safe and fits the entry's model, as far as its class can tell without making it.

    Raises:
        WeightsError: If it is unsafe or does not fit.
    """
    check = getattr(_adapter(entry), "check_weights", None)
    if check is not None:
        check(path)


def _create_from_catalog(entry: CatalogEntry, file: str | None, device: str | torch.device) -> Generalist:
    if not entry.needs_weights:
        if file is not None:
            msg = f"The generalist '{entry.name}' needs no weights, found '{file}'."
            raise ConfigError(msg, f"Give it as {entry.name}.")
        return _adapter(entry)(device=device)
    if file == "":
        msg = f"'{entry.name}=' names no file."
        raise ConfigError(
            msg, f"Give it as {entry.name}=PATH, or as {entry.name} where its weights are in their place."
        )
    path = weights_of(entry, file)
    return _adapter(entry)(path, device=device, name=entry.name)


def weights_of(entry: CatalogEntry, file: str | None = None) -> Path:
    """Return the file of the model itself, as a user named it or where it is found; its SHA256 is checked where known.

    Raises:
        WeightsError: If it is missing, or another one than the catalog's or the pinned one.
    """
    from .weights import check_given, find_weights

    if not file:
        return find_weights(entry.name)
    path = Path(file).expanduser()
    check_given(path, entry, entry.files[0])
    return path


def _adapter(entry: CatalogEntry) -> Any:
    if entry.adapter not in _ADAPTERS:
        msg = (
            f"The catalog's entry '{entry.name}' names the adapter '{entry.adapter}', which this version does not have."
        )
        raise ConfigError(msg, f"Name one of {', '.join(_ADAPTERS)}, or install a newer version.")
    module, name = _ADAPTERS[entry.adapter].split(":")
    return getattr(import_module(module), name)
