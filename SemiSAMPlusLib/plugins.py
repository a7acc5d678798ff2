"""Names that a user chooses by, those built in and those that installed packages bring through entry points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import ConfigError


def find_plugin(kind: str, name: str, built_in: Mapping[str, str]) -> Any:
    """Return the object that ``name`` stands for.

    Args:
        kind: ``specialists``, ``methods`` or ``generalists``; entry points are looked for in ``semisamplus.KIND``.
        name: What the user chose.
        built_in: Name to ``module:attribute``.

    Raises:
        ConfigError: If nothing has that name, or an installed package's entry point cannot be imported.
    """
    if name in built_in:
        module, attribute = built_in[name].split(":")
        return getattr(import_module(module), attribute)
    found = {point.name: point for point in entry_points(group=f"semisamplus.{kind}")}
    if name not in found:
        msg = f"There is no {kind.removesuffix('s')} named '{name}'."
        raise ConfigError(msg, f"Choose one of: {', '.join(sorted({*built_in, *found}))}.")
    try:
        return found[name].load()
    except Exception as error:  # Whatever a stranger's package raises while it is imported.
        msg = f"The {kind.removesuffix('s')} '{name}' of the package {found[name].value} cannot be imported: {error}."
        raise ConfigError(msg, "Mend or reinstall that package, or choose another name.") from error


def plugin_names(kind: str, built_in: Iterable[str]) -> list[str]:
    """Return every name that can be chosen, the built-in ones first."""
    return [*built_in, *sorted({point.name for point in entry_points(group=f"semisamplus.{kind}")} - set(built_in))]
