"""Every specialist in every size maps images to logits of the same shape; others come through entry points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import bring_entry_point, tiny_cohort, tiny_config

from SemiSAMPlusLib.cohort.cohort import Cohort
from SemiSAMPlusLib.errors import ConfigError
from SemiSAMPlusLib.generalist.registry import create_generalist, generalist_names
from SemiSAMPlusLib.plugins import find_plugin, plugin_names
from SemiSAMPlusLib.specialist.methods import METHODS, find_method
from SemiSAMPlusLib.specialist.networks import SPECIALISTS, build_specialist
from SemiSAMPlusLib.specialist.specialist import Specialist
from SemiSAMPlusLib.training.device import estimate_training_bytes
from SemiSAMPlusLib.training.run import train

#: The smallest patches, of unequal sides where they may be, that a specialist takes in a training batch of one.
PATCHES = {
    "unet3d": (16, 24, 16),
    "vnet": (16, 32, 16),
    "segresnet": (16, 24, 16),
    "dynunet": (16, 32, 16),
    "swinunetr": (32, 32, 64),
}


def _build(name: str, size: str, **settings) -> torch.nn.Module:
    given = {"in_channels": 1, "out_channels": 2, "patch": PATCHES[name], "size": size}
    return build_specialist(name, **{**given, **settings})


def _slow_where(condition: bool, *values):
    return pytest.param(*values, marks=pytest.mark.slow if condition else ())


SIZED = [
    _slow_where(name == "swinunetr" and size != "small", name, size)
    for name in SPECIALISTS
    for size in ("small", "medium", "large")
]
NAMED = [_slow_where(name == "swinunetr", name) for name in SPECIALISTS]


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_each_specialist_in_each_size_keeps_the_shape(name: str, size: str) -> None:
    network = _build(name, size, in_channels=2, out_channels=3).eval()
    with torch.no_grad():
        logits = network(torch.randn(1, 2, *PATCHES[name]))
    assert logits.shape == (1, 3, *PATCHES[name])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", SPECIALISTS)
def test_sizes_are_larger_one_after_the_other(name: str) -> None:
    counts = [sum(p.numel() for p in _build(name, size).parameters()) for size in ("small", "medium", "large")]
    assert counts == sorted(counts)
    assert name == "vnet" or len(set(counts)) == 3


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_each_specialist_learns_from_a_batch_of_one(name: str, dropout: float) -> None:
    """In training mode norms need more than one value, which the deepest features of a small patch may not have."""
    network = _build(name, "small", dropout=dropout).train()
    network(torch.randn(1, 1, *PATCHES[name])).square().mean().backward()
    grads = [p.grad for p in network.parameters() if p.requires_grad]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("name", NAMED)
def test_a_training_with_dropout_is_read_by_a_specialist_without(name: str) -> None:
    """Methods that need dropout train with it; what they result in is used without."""
    trained, used = _build(name, "small", dropout=0.2), _build(name, "small")
    used.load_state_dict(trained.state_dict())
    image = torch.randn(1, 1, *PATCHES[name])
    with torch.no_grad():
        torch.testing.assert_close(used.eval()(image), trained.eval()(image))


@pytest.mark.parametrize("name", NAMED)
def test_dropout_disturbs_in_training_only(name: str) -> None:
    network = _build(name, "small", dropout=0.2)
    image = torch.randn(2, 1, *PATCHES[name])
    with torch.no_grad():
        network.train()
        first, second = network(image), network(image)
        assert not torch.equal(first, second)
        network.eval()
        assert torch.equal(network(image), network(image))


@pytest.mark.parametrize("name", NAMED)
def test_the_memory_of_each_can_be_estimated_without_taking_it(name: str) -> None:
    small = estimate_training_bytes(lambda: _build(name, "small"), (1, 1, *PATCHES[name]))
    weights = 4 * sum(p.numel() for p in _build(name, "small").parameters())
    assert small > 5 * weights
    assert estimate_training_bytes(lambda: _build(name, "small"), (4, 1, *PATCHES[name])) > small


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("vnet", (24, 40, 32)),
        ("vnet", (8, 8, 8)),
        ("vnet", (16, 16, 16)),
        ("swinunetr", (40, 64, 16)),
        ("swinunetr", (32, 32, 32)),
    ],
)
def test_an_unsuitable_patch_is_refused_with_one_that_suits(name: str, patch: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError) as error:
        _build(name, "small", patch=patch)
    assert name in error.value.what
    assert str(patch) in error.value.what
    suited = [int(n) for n in error.value.remedy.removesuffix(".").split()[-3:]]
    network = _build(name, "small", patch=suited).train()
    assert network(torch.randn(1, 1, *suited)).shape == (1, 2, *suited)


def test_vnet_says_which_channels_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"vnet.*3"):
        _build("vnet", "small", in_channels=3)


@pytest.mark.parametrize("patch", [(16, 16, 16), (24, 40, 8), (8, 16, 16), (8, 8, 8)])
@pytest.mark.parametrize("name", ["unet3d", "segresnet", "dynunet"])
def test_any_patch_in_multiples_of_8_suits_the_others(name: str, patch: tuple[int, int, int]) -> None:
    network = _build(name, "small", patch=patch).train()
    assert network(torch.randn(1, 1, *patch)).shape == (1, 2, *patch)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        build_specialist("unet4d", in_channels=1, out_channels=2, patch=(16, 16, 16), size="small")
    assert "unet4d" in error.value.what
    assert all(name in error.value.remedy for name in SPECIALISTS)
    with pytest.raises(ConfigError) as error:
        find_method("mean-student")
    assert "mean-student" in error.value.what
    assert all(name in error.value.remedy for name in METHODS)


# -- a user's own

OWN_SPECIALIST = """
from torch import nn

class Scaled(nn.Conv3d):
    def forward(self, x):
        return super().forward(x / max(1.0, float(x.abs().max())))

def make(*, in_channels, out_channels, patch, size, dropout):
    assert size == "small" and len(patch) == 3
    return Scaled(in_channels, out_channels, 3, padding=1)
"""

OWN_METHOD = """
from SemiSAMPlusLib.specialist.methods.base import Method, StepLosses

class Halved(Method):
    def step_losses(self, batch):
        logits = self.student(batch.labeled)
        return StepLosses({"halved": 0.5 * self.supervised_loss(logits, batch.labels)})
"""

OWN_GENERALIST = """
import torch

class Shy:
    name, spacing = "shy", None

    def embed(self, volume):
        return volume.grid.shape

    def answer(self, embedding, prompt_sets, region):
        return torch.full((len(prompt_sets), *region.shape), 0.5)

def make(device):
    return Shy()
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return tiny_cohort(tmp_path_factory.mktemp("cohort"))


def test_a_run_with_ones_own_specialist_method_and_generalist(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_entry_point(tmp_path, monkeypatch, "semisamplus.specialists", "net-of-mine", OWN_SPECIALIST)
    bring_entry_point(tmp_path, monkeypatch, "semisamplus.methods", "halved", OWN_METHOD, "Halved")
    bring_entry_point(tmp_path, monkeypatch, "semisamplus.generalists", "shy", OWN_GENERALIST)
    assert plugin_names("specialists", SPECIALISTS) == [*SPECIALISTS, "net-of-mine"]
    assert plugin_names("methods", METHODS) == [*METHODS, "halved"]
    assert "shy" in generalist_names()
    assert create_generalist("shy").name == "shy"
    config = tiny_config(
        specialist="net-of-mine", method="halved", generalists=("shy",), iterations=2, trust=1.0, collaboration_every=1
    )
    run = train(cohort, config, tmp_path / "run")
    specialist = Specialist.load(run.path)
    assert isinstance(specialist.network, torch.nn.Conv3d)
    (*_, progress) = [event for event in run.events() if event["event"] == "progress"]
    assert "halved" in progress["losses"]
    prediction = specialist.predict(cohort.test[0].images)
    assert prediction.labels.shape == prediction.grid.shape


@pytest.mark.parametrize("kind", ["specialists", "methods"])
def test_a_plug_in_that_cannot_be_imported_is_said_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bring_entry_point(tmp_path, monkeypatch, f"semisamplus.{kind}", "broken", "raise RuntimeError('no such thing')")
    with pytest.raises(ConfigError, match=r"a_users_own_broken.*no such thing"):
        find_plugin(kind, "broken", {})


def test_a_generalist_that_cannot_be_imported_is_said_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_entry_point(tmp_path, monkeypatch, "semisamplus.generalists", "broken", "raise RuntimeError('no such thing')")
    with pytest.raises(ConfigError, match=r"a_users_own_broken.*no such thing"):
        create_generalist("broken")


def test_a_built_in_name_cannot_be_taken_by_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_entry_point(tmp_path, monkeypatch, "semisamplus.specialists", "unet3d", OWN_SPECIALIST)
    assert type(_build("unet3d", "small")).__name__ == "UNet"
    assert plugin_names("specialists", SPECIALISTS).count("unet3d") == 1
