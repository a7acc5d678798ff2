"""The layers of a case in the scene: prediction, prompts, generalists' answers and uncertainty."""

from __future__ import annotations

from .case_layers import CaseLayers

__all__ = ["CaseLayers"]
