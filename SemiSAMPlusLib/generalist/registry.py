"""Generalists by name: those that come with the program, and a user's own.

A user's own comes through the entry-point group ``semisamplus.generalists``: a callable that takes the keyword
``device`` and returns a :class:`~SemiSAMPlusLib.generalist.generalist.Generalist`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, SemiSAMPlusError
from ..plugins import find_plugin, plugin_names
from .catalog import CatalogEntry, catalog

if TYPE_CHECKING:
    import torch

    from .generalist import Generalist


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


def _create_from_catalog(entry: CatalogEntry, file: str | None, device: str | torch.device) -> Generalist:
    if not entry.needs_weights:
        if file is not None:
            msg = f"The generalist '{entry.name}' needs no weights, found '{file}'."
            raise ConfigError(msg, f"Give it as {entry.name}.")
        from .random_walker import RandomWalker

        return RandomWalker()
    if file == "":
        msg = f"'{entry.name}=' names no file."
        raise ConfigError(
            msg, f"Give it as {entry.name}=PATH, or as {entry.name} where its weights are in their place."
        )
    from .sam_med3d.generalist import SamMed3D
    from .weights import check_sha256, find_weights

    if file is None:
        path = find_weights(entry.name)
    else:
        path = Path(file).expanduser()
        check_sha256(path, entry)
    return SamMed3D(path, device=device, name=entry.name)
