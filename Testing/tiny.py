"""Cohorts, specialists and generalists small enough for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from SemiSAMPlusLib.cohort.cohort import Case, Class, Cohort, Role
from SemiSAMPlusLib.cohort.intensity import Normalization
from SemiSAMPlusLib.cohort.patches import PreparedCase
from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort
from SemiSAMPlusLib.cohort.plan import Plan
from SemiSAMPlusLib.cohort.volume import Grid, Volume
from SemiSAMPlusLib.collaboration.trust import EarnedTrust, Lesson
from SemiSAMPlusLib.generalist.generalist import PromptSet
from SemiSAMPlusLib.run.config import TrainingConfig
from SemiSAMPlusLib.specialist.specialist import Specialist

#: Turned about all axes, and neither at the origin nor isotropic.
OBLIQUE = Grid(
    (10, 12, 14),
    (0.8, 1.1, 2.5),
    (-31.0, 12.5, 77.0),
    tuple(sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.3, -0.4, 1.1).GetMatrix()),
)


def tiny_cohort(folder: Path, *, validation: int = 0, **settings: Any) -> Cohort:
    """Write phantoms of 24 × 32 × 28 voxels: one labelled, three unlabelled, one for testing.

    Args:
        folder: Where to write.
        validation: How many of the unlabelled, from the first, are held out for validation instead.
        settings: What :func:`make_phantom_cohort` takes.
    """
    cohort = make_phantom_cohort(
        folder, **{"size": (24, 32, 28), "cases": 5 + validation, "labeled": 1, "test": 1, **settings}
    )
    for case in cohort.unlabeled[:validation]:
        cohort = with_case(cohort, replace(case, role=Role.VALIDATION))
    return cohort


def with_case(cohort: Cohort, case: Case) -> Cohort:
    """Return a cohort in which ``case`` takes the place of the case of the same name."""
    return replace(cohort, cases=tuple(case if old.name == case.name else old for old in cohort.cases))


def tiny_config(**settings: Any) -> TrainingConfig:
    """Return settings with which a training takes a second or two."""
    return TrainingConfig(
        **{
            "patch": (16, 16, 16),
            "size": "small",
            "iterations": 8,
            "threads": 1,
            "device": "cpu",
            "precision": "float32",
            "layers": (),
            "generalists": (),
            "validate_every": 1000,
            **settings,
        }
    )


def weights_of(run: Path) -> bytes:
    """Return the specialist of a run, byte for byte."""
    return (run / "specialist" / "weights.safetensors").read_bytes()


def write_volume(path: Path, array: np.ndarray, grid: Grid) -> Path:
    """Write an array on a grid, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(grid.image(array), str(path))
    return path


def ball(shape: tuple[int, int, int], radius: float, centre: Sequence[float] | None = None) -> np.ndarray:
    """Return True in a ball of a radius in voxels, in the middle where no centre is given."""
    middle = [(n - 1) / 2 for n in shape] if centre is None else centre
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((a - c) ** 2 for a, c in zip(axes, middle, strict=True)) <= radius**2


def plan(
    patch: tuple[int, int, int] = (16, 16, 16), *, spacing: float = 1.0, classes: int = 1, channels: int = 1
) -> Plan:
    """Return a plan whose normalisation is that of MR."""
    return Plan(spacing, patch, (Normalization("mr"),) * channels, "small", ((0.5, 0.5, 0.5),) * classes)


class Pointwise(nn.Module):
    """Logits are a linear function of the grey values at the same voxel."""

    def __init__(self, channels: int = 1, classes: int = 2, scale: float = 20.0) -> None:
        super().__init__()
        self.layer = nn.Conv3d(channels, classes, 1)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.bias.zero_()
            for index in range(1, classes):
                # Class i is where the first channel is i.
                self.layer.weight[index, 0] = scale * index
                self.layer.bias[index] = -scale * index**2 / 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def specialist_of(
    network: nn.Module, *, classes: Sequence[str] = ("structure",), plan: Plan, channels: Sequence[str] = ("image",)
) -> Specialist:
    """Return a specialist around a network, which looks once."""
    structures = tuple(Class(name, (index,)) for index, name in enumerate(classes, start=1))
    return Specialist(network.eval(), "stub", plan, structures, tuple(channels), "float32", {}, further_scales=())


def prepared(
    image: np.ndarray, label: np.ndarray | None, grid: Grid, *, name: str = "case", images: tuple[Path, ...] = ()
) -> PreparedCase:
    """Return a case as the cache would, of arrays (z, y, x)."""
    role = Role.UNLABELED if label is None else Role.LABELED
    return PreparedCase(
        Case(name, images, None, role),
        torch.from_numpy(np.asarray(image, dtype=np.float32)[None]),
        None if label is None else torch.from_numpy(np.asarray(label, dtype=np.uint8)[None]),
        grid,
    )


def bright_case(folder: Path, mask: np.ndarray, grid: Grid, *, name: str = "case") -> PreparedCase:
    """Return a case whose structure has grey value 1 and the rest 0; its file is on the disk, as content is hashed."""
    path = write_volume(folder / f"{name}.nrrd", mask.astype(np.float32), grid)
    return prepared(mask.astype(np.float32), mask.astype(np.uint8), grid, name=name, images=(path,))


class FakeGeneralist:
    """Answers with whatever a function says; counts how often it embeds and is asked.

    Args:
        say: Takes the embedded volume, a prompt set and the region, and returns (z, y, x) probabilities on the region.
        name: As users choose it.
    """

    spacing: float | None = None

    def __init__(self, say: Callable[[Volume, PromptSet, Grid], np.ndarray], name: str = "fake") -> None:
        self.say, self.name = say, name
        self.embedded = self.asked = 0

    def embed(self, volume: Volume) -> Volume:
        self.embedded += 1
        return volume

    def answer(self, embedding: Volume, prompt_sets: Sequence[PromptSet], region: Grid) -> torch.Tensor:
        self.asked += 1
        answers = [np.asarray(self.say(embedding, one, region), dtype=np.float32) for one in prompt_sets]
        return torch.from_numpy(np.stack(answers))


def noise(volume: Volume, prompts: PromptSet, region: Grid) -> np.ndarray:
    """Say something that has nothing to do with the question."""
    seed = int(np.abs(region.origin).sum() * 1000) % 2**31
    return np.random.default_rng(seed).random(region.shape)


def bring_entry_point(
    folder: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str, code: str, attribute: str = "make"
) -> None:
    """Install a package of one module into ``folder``, as pip would, with an entry point; only for this test."""
    module = f"a_users_own_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def earned_by(
    told: Sequence[tuple[dict[str, float], dict[str, float]]], gain: float = 0.1, views: int = 1000
) -> EarnedTrust:
    """Return trust after so many views of a kind, with these agreements, on which these shares of unlike corrections would have been right."""
    lessons = tuple(
        Lesson(0, list(agreements.values()), np.eye(len(best)).tolist(), list(best.values()), gain)
        for agreements, best in told
        for _ in range(views)
    )
    return EarnedTrust(tuple(told[0][0]), lessons)
