"""What the specialist begins with: learned from made-up pairs, the same from a seed, and put into the networks that it fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import tiny_cohort, tiny_config
from torch.nn.functional import normalize, one_hot

from SemiSAMPlusLib.cohort.cohort import Cohort
from SemiSAMPlusLib.errors import ConfigError
from SemiSAMPlusLib.run.folder import JobFolder
from SemiSAMPlusLib.specialist.networks import build_specialist
from SemiSAMPlusLib.specialist.pretrained import pretrain
from SemiSAMPlusLib.specialist.pretrained.pretrain import PretrainConfig, Pretrainer, contrast, draw_pairs
from SemiSAMPlusLib.specialist.pretrained.weights import WEIGHTS, begin_pretrained
from SemiSAMPlusLib.training.run import train

SMALL = PretrainConfig(iterations=4, volumes=1, size=32, warm_up=2, save_every=2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return tiny_cohort(tmp_path_factory.mktemp("cohort"))


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _network(channels: int = 1, *, name: str = "unet3d", size: str = "small", side: int = 32) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_specialist(name, in_channels=channels, out_channels=3, patch=(side,) * 3, size=size)


# -- pairs and their contrast -----------------------------------------------------------------------------------------


def test_pairs_are_the_same_from_a_seed_and_others_from_another() -> None:
    first, again, other = (draw_pairs(2, 32, _random(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_both_images_of_a_pair_show_the_structures_of_their_labels() -> None:
    pairs = draw_pairs(6, 32, _random(2))
    assert pairs.images.mean((2, 3, 4)).abs().max() < 1e-5
    assert pairs.labels.shape == (2, 6, 16, 16, 16)
    for image, labels in zip(pairs.images.flatten(0, 1)[:, ::2, ::2, ::2], pairs.labels.flatten(0, 1), strict=True):
        inside = sum(image[labels == label].var(correction=0) * (labels == label).sum() for label in labels.unique())
        assert inside / image.numel() < 0.8 * image.var()


def test_structures_are_told_by_means_of_features_and_small_ones_count_for_more() -> None:
    labels = torch.tensor([[0] * 60 + [1] * 30 + [2] * 10])
    features = normalize(one_hot(labels, 8).float().movedim(-1, 1), dim=1)
    loss, found = contrast(features, labels, features, labels)
    assert loss < 1e-3
    assert found == 1
    wrong = features.roll(1, dims=1)
    loss, found = contrast(features, labels, wrong, labels)
    assert loss > 5
    assert found == 0
    mixed = features.clone()
    mixed[..., 90:] = features[..., :1]  # The smallest structure looks like the largest.
    share = contrast(features, labels, mixed, labels)[1]
    expected = (60**0.5 + 30**0.5) / (60**0.5 + 30**0.5 + 10**0.5)
    assert float(share) == pytest.approx(expected, abs=1e-5)


def test_a_structure_of_a_few_voxels_does_not_count() -> None:
    labels = torch.tensor([[0] * 60 + [1] * 7])
    features = normalize(one_hot(labels, 8).float().movedim(-1, 1), dim=1)
    wrong = features.clone()
    wrong[..., 60:] = features[..., :1]
    assert contrast(features, labels, wrong, labels)[1] == 1


# -- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_is_the_same_from_a_seed_and_resumes_as_if_uninterrupted(tmp_path: Path) -> None:
    whole, first, second = Pretrainer(SMALL), Pretrainer(SMALL), Pretrainer(SMALL)
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    torch.save(first.state(), tmp_path / "state.pt")
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        second.step()
    for name, value in whole.average.items():
        assert torch.equal(value, second.average[name]), name


def test_it_learns_to_tell_structures_that_it_never_saw() -> None:
    learner = Pretrainer(PretrainConfig(iterations=40, volumes=2, size=32, warm_up=5))
    before = learner.validate()["found"]
    for _ in range(40):
        learner.step()
    assert learner.validate()["found"] > 1.2 * before


def test_the_job_stops_resumes_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run ü"
    monkeypatch.setattr(pretrain, "_HOLD_OUT_VOLUMES", 1)
    monkeypatch.setattr(JobFolder, "is_asked_to_stop", lambda _: True)
    pretrain.train(run, SMALL)
    monkeypatch.setattr(JobFolder, "is_asked_to_stop", lambda _: False)
    pretrain.resume(run)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(event["reason"], event["iteration"]) for event in events if event["event"] == "finished"] == [
        ("stopped", 1),
        ("done", 4),
    ]
    assert [event["measured"]["found"] for event in events if event["event"] == "metrics"]
    pretrain.export(run, tmp_path / "weights.safetensors")
    with safe_open(tmp_path / "weights.safetensors", "pt") as ours, safe_open(WEIGHTS, "pt") as shipped:
        assert sorted(ours.keys()) == sorted(shipped.keys())
        assert ours.metadata()["iteration"] == "4"


def test_a_folder_is_begun_once_and_must_hold_this_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no such training"):
        pretrain.resume(tmp_path)
    (tmp_path / "pretrain.json").write_text('{"structures": 2}', encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no such training"):
        pretrain.resume(tmp_path)
    with pytest.raises(ConfigError, match="has begun"):
        pretrain.train(tmp_path)


def test_a_volume_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        PretrainConfig(size=36)


# -- the weights ------------------------------------------------------------------------------------------------------


def test_the_shipped_weights_are_small_and_say_how_they_were_made() -> None:
    assert WEIGHTS.stat().st_size < 3_000_000
    with safe_open(WEIGHTS, "pt") as file:
        assert PretrainConfig(**json.loads(file.metadata()["recipe"])) == PretrainConfig()
        assert file.metadata()["iteration"] == str(PretrainConfig().iterations)


def test_its_features_tell_structures_from_another_scanner_where_an_untrained_network_cannot() -> None:
    pairs = draw_pairs(6, 48, _random(1 << 42))
    found = []
    for pretrained in (True, False):
        network = _network(side=48)
        assert not pretrained or begin_pretrained(network)
        with torch.no_grad():
            features = network.model[:2](pairs.images.flatten(0, 1)[:, None]).unflatten(0, (2, 6)).flatten(3)
        features = normalize(features - features.mean(-1, keepdim=True), dim=2)
        labels = pairs.labels.flatten(2)
        found.append(float(contrast(features[0], labels[0], features[1], labels[1])[1]))
    assert found[0] > 1.2 * found[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_of_their_kind_takes_them_and_sees_the_mean_of_its_channels(channels: int) -> None:
    network, one = _network(channels), _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert begin_pretrained(network)
    assert begin_pretrained(one)
    after = network.state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {name for name in before if name.startswith("model.2.")}
    image = torch.rand(1, channels, 32, 32, 32, generator=_random())
    torch.testing.assert_close(network.model[:2](image), one.model[:2](image.mean(1, keepdim=True)), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "size", "side"), [("unet3d", "medium", 32), ("segresnet", "small", 32), ("unet3d", "small", 4)]
)
def test_another_network_is_left_as_it_is(name: str, size: str, side: int) -> None:
    network = _network(name=name, size=size, side=side)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert not begin_pretrained(network)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


# -- in a training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "pretrained", "rate"),
    [
        ({}, True, 1e-3),
        ({"initial_weights": "random"}, False, 3e-3),
        ({"method": "cps"}, False, 3e-3),
        ({"size": "medium"}, False, 3e-3),
        ({"learning_rate": 2e-3}, True, 2e-3),
    ],
)
def test_a_training_says_what_it_begins_with_and_chooses_its_learning_rate_by_it(
    cohort: Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    pretrained: bool,
    rate: float,
) -> None:
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a, **k: (rates.append(self.param_groups[0]["lr"]), step(self, *a, **k))
    )
    run = train(cohort, tiny_config(iterations=1, **settings), tmp_path / "run")
    assert rates == [pytest.approx(rate)]
    assert bool(run.describe()["initial_weights_sha256"]) == pretrained
    told = [event["text"] for event in run.events() if event["event"] == "message"]
    assert any("made-up volumes" in text for text in told) == pretrained
