"""What a generalist is: a frozen promptable model that embeds a case once and answers prompts many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..cohort.volume import Grid, Volume

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PromptSet:
    """One way of asking for one structure. Everything is placed in the body, so that no two grids need be equal.

    Attributes:
        points: (N, 3) points (x, y, z) in mm, LPS; N may be 0.
        labels: (N,) 1 where the point lies in the structure, 0 where it lies outside.
        mask: (z, y, x) float32 logits of the structure on ``mask_grid``, or None.
        mask_grid: Where the mask's voxels lie; given with ``mask``.
        box: (2, 3) opposite corners in mm, LPS, of a box along the axes of ``mask_grid``, or None.
    """

    points: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None = None
    mask_grid: Grid | None = None
    box: np.ndarray | None = None


@runtime_checkable
class Generalist(Protocol):
    """A frozen promptable model. It never learns, and no gradient reaches it.

    One that sets ``concurrent = True`` says that several threads may ask it at the same time; others are asked by one at a
    time.

    Attributes:
        name: As users choose it.
        spacing: The isotropic voxel size in mm in which it wants volumes, grey values as in the file; or None to be given
            what the specialist is given: its spacing, its normalised grey values, all its channels.
    """

    name: str
    spacing: float | None

    def embed(self, volume: Volume) -> Any:
        """Return whatever makes answering fast, computed once per case over its whole field of view.

        Args:
            volume: On an isotropic grid of ``spacing`` in LPS orientation.
        """
        ...

    def answer(self, embedding: Any, prompt_sets: Sequence[PromptSet], region: Grid) -> torch.Tensor:
        """Answer K prompt sets of one case in one batched call.

        Args:
            embedding: What :meth:`embed` returned for the case.
            prompt_sets: K ways of asking, maybe for several structures.
            region: The grid of the answer; it lies in the case but need not be its grid.

        Returns:
            (K, z, y, x) float32 probabilities on ``region``, NaN where the generalist has no opinion.
        """
        ...


@runtime_checkable
class SelfJudging(Protocol):
    """What a generalist offers that says how good its answers are; they are trusted by that too."""

    def answer_with_quality(
        self, embedding: Any, prompt_sets: Sequence[PromptSet], region: Grid
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer as :meth:`Generalist.answer` does, and say what Dice is to be expected of each answer, (K,) in 0..1."""
        ...
