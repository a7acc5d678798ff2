"""Generalists by name: those that come with the program, and a user's own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, SemiSAMPlusError
from .catalog import CatalogEntry, catalog

if TYPE_CHECKING:
    import torch

    from .generalist import Generalist

#: The entry points where a package offers its own generalists: a name, and a callable that takes ``device``.
ENTRY_POINTS = "semisamplus.generalists"


def generalist_names() -> tuple[str, ...]:
    """Return the names that :func:`create_generalist` knows, the program's own first."""
    own = tuple(sorted(name for name in _entry_points() if name not in catalog()))
    return (*catalog(), *own)


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
    found = _entry_points().get(name)
    if found is None:
        msg = f"There is no generalist named '{name}'; known are {', '.join(generalist_names())}."
        raise ConfigError(msg, "Choose one of them.")
    if separator:
        msg = f"The generalist '{name}' takes no file, found '{file}'."
        raise ConfigError(msg, f"Give it as {name}.")
    try:
        make: Callable[..., Generalist] = found.load()
        return make(device=device)
    except SemiSAMPlusError:
        raise
    except Exception as error:  # Whatever a stranger's package raises.
        msg = f"The generalist '{name}' of {found.value} cannot be made ({type(error).__name__}: {error})."
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


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
