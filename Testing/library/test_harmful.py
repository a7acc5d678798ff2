"""The generalists that know nothing, which measurements of harm lean on, are generalists, and answer what they say."""

from __future__ import annotations

import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny import ball

from SemiSAMPlusLib.cohort.volume import Grid, Volume
from SemiSAMPlusLib.generalist.generalist import Generalist, PromptSet

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "harmful"
GRID = Grid((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def harmful() -> ModuleType:
    spec = spec_from_file_location("harmful", FOLDER / "harmful.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _offered() -> dict[str, str]:
    described = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    return described["project"]["entry-points"]["semisamplus.generalists"]


def _prompts(shift: float = 0.0) -> PromptSet:
    mask = 8.0 * ball(GRID.shape, 4).astype(np.float32) - 4 + shift
    return PromptSet(np.zeros((0, 3)), np.zeros(0, dtype=int), mask, GRID)


@pytest.mark.parametrize("name", _offered())
def test_each_is_a_generalist_that_answers_every_prompt_set(harmful: ModuleType, name: str) -> None:
    generalist = getattr(harmful, _offered()[name].partition(":")[2])(device="cpu")
    assert isinstance(generalist, Generalist)
    assert generalist.name == name
    embedding = generalist.embed(Volume(np.zeros((1, 20, 20, 20), dtype=np.float32), GRID))
    region = GRID.cropped((2, 4, 6), (12, 10, 8))
    answers = generalist.answer(embedding, [_prompts(), _prompts(1.0)], region)
    assert answers.shape == (2, 12, 10, 8)
    assert answers.dtype == torch.float32
    assert answers.min() >= 0
    assert answers.max() <= 1
    assert torch.equal(answers, generalist.answer(embedding, [_prompts(), _prompts(1.0)], region))


def test_they_are_wrong_as_they_say(harmful: ModuleType) -> None:
    def answers(name: str) -> np.ndarray:
        return getattr(harmful, name)().answer(GRID, [_prompts(), _prompts(1.0)], GRID).numpy()

    mask = ball(GRID.shape, 4) > 0
    assert not np.array_equal(*answers("Noise"))
    assert np.array_equal(*answers("StubbornNoise"))
    assert answers("Everything").all()
    assert not answers("Nothing").any()
    grown = answers("Grown")[0] > 0
    assert grown[mask].all()
    assert grown.sum() > 2 * mask.sum()
    assert np.array_equal(answers("Aside")[0][:, :, 4:], mask[:, :, :-4])
