"""The texts that a user sees, in the user's language where Slicer has it."""

from __future__ import annotations

try:
    # Taken as it is, not wrapped: Slicer finds the translations by the file that calls it.
    from slicer.i18n import tr as _
except ImportError:  # Outside the Slicer application, where nothing is translated.

    def _(text: str) -> str:
        """Return the text itself."""
        return text


__all__ = ["_"]
