"""Generalists that know nothing: what a training is to be as good with as without.

Installed, they are chosen as any other generalist, beside those that come with the program::

    .venv/bin/pip install Testing/benchmarks/harmful
    .venv/bin/python Testing/benchmarks/compare.py FOLDER ... --rows mean-teacher mean-teacher+noise mean-teacher+everything

It is also what a package of one's own generalists looks like: classes, and the entry points in pyproject.toml.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from zlib import crc32

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_dilation, shift

from SemiSAMPlusLib.cohort.volume import Grid, Volume, resample
from SemiSAMPlusLib.generalist.generalist import PromptSet


class _Harmful(ABC):
    """Answers from the prompts alone, never from the image."""

    name: str
    spacing = None  # Volumes as the specialist is given them.
    concurrent = True

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def embed(self, volume: Volume) -> Grid:
        """Return where the volume lies; its grey values are not looked at."""
        return volume.grid

    def answer(self, embedding: Grid, prompt_sets: Sequence[PromptSet], region: Grid) -> torch.Tensor:
        """Return (K, z, y, x) probabilities."""
        answers = [self._answer(prompt_set, region) for prompt_set in prompt_sets]
        return torch.from_numpy(np.stack(answers).astype(np.float32)).to(self.device)

    @abstractmethod
    def _answer(self, prompts: PromptSet, region: Grid) -> np.ndarray:
        """Return (z, y, x) probabilities."""


class Noise(_Harmful):
    """Answers each prompt set with noise of its own."""

    name = "noise"

    def _answer(self, prompts: PromptSet, region: Grid) -> np.ndarray:
        return np.random.default_rng(_seed(prompts)).random(region.shape)


class StubbornNoise(_Harmful):
    """Answers all prompt sets with the same noise, so that nothing shows its doubts."""

    name = "stubborn-noise"

    def _answer(self, prompts: PromptSet, region: Grid) -> np.ndarray:
        return np.random.default_rng(0).random(region.shape).round()


class Everything(_Harmful):
    """Takes the whole region for the structure."""

    name = "everything"

    def _answer(self, prompts: PromptSet, region: Grid) -> np.ndarray:
        return np.ones(region.shape)


class Nothing(_Harmful):
    """Sees the structure nowhere."""

    name = "nothing"

    def _answer(self, prompts: PromptSet, region: Grid) -> np.ndarray:
        return np.zeros(region.shape)


class Grown(_Harmful):
    """Answers with the mask that it is shown, three voxels larger on all sides."""

    name = "grown"

    def _answer(self, prompts: PromptSet, region: Grid) -> np.ndarray:
        return binary_dilation(_mask(prompts, region), iterations=3)


class Aside(_Harmful):
    """Answers with the mask that it is shown, four voxels aside."""

    name = "aside"

    def _answer(self, prompts: PromptSet, region: Grid) -> np.ndarray:
        return shift(_mask(prompts, region).astype(np.float32), (0, 0, 4), order=0)


def _seed(prompts: PromptSet) -> int:
    """Return a number that differs from prompt set to prompt set, and is the same for the same."""
    told = prompts.points if prompts.mask is None else prompts.mask
    return crc32(np.ascontiguousarray(told).tobytes())


def _mask(prompts: PromptSet, region: Grid) -> np.ndarray:
    """Return the mask that is shown, (z, y, x) boolean on the region; nothing where none is."""
    if prompts.mask is None or prompts.mask_grid is None:
        return np.zeros(region.shape, dtype=bool)
    moved = resample(prompts.mask_grid.image(prompts.mask), region, outside=-1.0)
    return sitk.GetArrayFromImage(moved) > 0
