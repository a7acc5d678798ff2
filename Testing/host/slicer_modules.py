"""The Python modules of the package ``slicer`` that slicer-core lacks."""

from __future__ import annotations

import sys
import types
from typing import Any

import slicer

from . import i18n, packaging, scripted_module, standins
from .parameter_node import public as parameter_node


def install() -> None:
    """Make ``slicer.i18n``, ``slicer.ScriptedLoadableModule``, ``slicer.parameterNodeWrapper`` and ``slicer.packaging``
    importable, and Slicer's Qt classes (``slicer.qMRMLNodeComboBox``) attributes of ``slicer``.
    """
    import slicer.util

    _add("i18n", i18n, i18n.__all__)
    _add("packaging", packaging, packaging.__all__)
    _add("ScriptedLoadableModule", scripted_module, scripted_module.__all__)
    _add("parameterNodeWrapper", parameter_node, parameter_node.__all__)
    # Classes are made when they are asked for: the real package has some hundreds.
    slicer.__getattr__ = lambda name: standins.attribute("slicer", name)  # type: ignore[method-assign]


def _add(name: str, source: types.ModuleType, names: list[str]) -> None:
    module: Any = types.ModuleType(f"slicer.{name}", source.__doc__)
    for public in names:
        setattr(module, public, getattr(source, public))
    module.__all__ = list(names)
    sys.modules[f"slicer.{name}"] = module
    setattr(slicer, name, module)
