"""``slicer.i18n``: texts stay as they are, for the host speaks English alone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["getContext", "tr", "translate"]


def tr(text: str) -> str:
    """Return the text in the language of the application."""
    return text


def translate(context: str, text: str) -> str:
    """Return the text in the language of the application."""
    return text


def getContext(sourceFile: str) -> str:
    """Return under which name the texts of a file are translated: that of the file, after that of its package if it has one."""
    file = Path(sourceFile)
    return f"{file.parent.name}.{file.stem}" if (file.parent / "__init__.py").is_file() else file.stem
