"""nnInteractive: refused unless its files are the known ones, prompts and answers placed by geometry, its package as it is."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
import shutil
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ball
from torch import nn

from SemiSAMPlusLib.cohort.volume import Grid, Volume
from SemiSAMPlusLib.errors import ConfigError, WeightsError
from SemiSAMPlusLib.generalist import catalog as catalog_module
from SemiSAMPlusLib.generalist import nninteractive
from SemiSAMPlusLib.generalist.catalog import catalog
from SemiSAMPlusLib.generalist.generalist import Generalist, PromptSet
from SemiSAMPlusLib.generalist.nninteractive import REQUIREMENT, NNInteractive, _mask_on, _middle_slice, _order
from SemiSAMPlusLib.generalist.registry import create_generalist

ROOT = Path(__file__).resolve().parents[2]
NAME = "nninteractive"
MODEL, PLANS = "fold_0/checkpoint_final.pth", "plans.json"
#: Voxels that the small model sees along each axis; a multiple of what its package's own pooling needs.
PATCH = 16

GRID = Grid((20, 26, 32), (1.0, 1.0, 1.0), (-31.0, 12.5, 77.0))
CENTRE, RADIUS = (9.0, 12.0, 17.0), 5.0
TRUTH = ball(GRID.shape, RADIUS, CENTRE)
NO_POINTS = (np.zeros((0, 3)), np.zeros(0, dtype=int))

try:
    RELEASE: str | None = version("nnInteractive")
except PackageNotFoundError:
    RELEASE = None
with_package = pytest.mark.skipif(RELEASE is None, reason=f'its package is not installed: pip install "{REQUIREMENT}"')


class Session:
    """Stands for the package's session: sees ``PATCH`` voxels around the last prompt, finds there what is bright."""

    supports_initial_label = True

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def set_image(self, image, image_properties=None):
        self.calls.append(("image", image.shape))
        self.image = image

    def set_target_buffer(self, target_buffer):
        self.buffer = target_buffer

    def reset_interactions(self, _preserve_undo=False):
        self.calls.append(("reset",))
        self.buffer.fill(0)

    def add_point_interaction(
        self, coordinates, include_interaction, run_prediction=True, override_capability_checks=False
    ):
        self.calls.append(("point", coordinates, include_interaction, run_prediction))
        return self._predict(coordinates) if run_prediction else None

    def add_bbox_interaction(
        self, bbox_coords, include_interaction, run_prediction=True, override_capability_checks=False
    ):
        self.calls.append(("box", bbox_coords, include_interaction, run_prediction))
        return self._predict([sum(ends) // 2 for ends in bbox_coords]) if run_prediction else None

    def add_initial_seg_interaction(self, initial_seg, run_prediction=False, override_capability_checks=False):
        self.calls.append(("mask", int(initial_seg.sum()), run_prediction))
        self.buffer[:] = initial_seg
        return self._predict(np.argwhere(initial_seg).mean(axis=0).round()) if run_prediction else None

    def _predict(self, centre):
        ends = [
            [max(0, int(c) - PATCH // 2), min(n, int(c) + PATCH // 2)]
            for c, n in zip(centre, self.buffer.shape, strict=True)
        ]
        seen = tuple(slice(*pair) for pair in ends)
        self.buffer[seen] = self.image[0][seen] > 0.5
        return ends


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session()
    monkeypatch.setattr(nninteractive, "_check_package", lambda: "2.6.0")
    monkeypatch.setattr(nninteractive, "_start_session", lambda *_: made)
    return made


@pytest.fixture
def fake(tmp_path: Path, session: Session) -> NNInteractive:
    path = tmp_path / MODEL
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return NNInteractive(path, sha256={MODEL: _sha256(path)})


def _volume(grid: Grid = GRID, truth: np.ndarray = TRUTH) -> Volume:
    return Volume(truth[None].astype(np.float32), grid)


def _prompts(*inside: tuple[float, ...], outside: tuple[tuple[float, ...], ...] = (), **more: Any) -> PromptSet:
    points = np.array([*inside, *outside], dtype=float).reshape(-1, 3)
    return PromptSet(GRID.to_physical(points), np.repeat([1, 0], [len(inside), len(outside)]), **more)


def _logits(truth: np.ndarray = TRUTH) -> np.ndarray:
    return np.where(truth, 3.0, -3.0).astype(np.float32)


# Which files


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _folder_of_payload(tmp_path: Path) -> tuple[Path, Path]:
    path, written = tmp_path / "model" / MODEL, tmp_path / "written"
    path.parent.mkdir(parents=True)
    torch.save({"network_weights": Payload(written)}, path)
    (path.parents[1] / PLANS).write_text("{}", encoding="utf-8")
    return path, written


@pytest.mark.parametrize("expected", ["0" * 64, None])
def test_a_file_of_another_or_of_no_known_hash_is_refused_before_its_package_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str | None
) -> None:
    monkeypatch.setattr(nninteractive, "_check_package", lambda: "2.6.0")
    path, written = _folder_of_payload(tmp_path)
    with pytest.raises(WeightsError) as error:
        NNInteractive(path, sha256={MODEL: expected, PLANS: _sha256(path.parents[1] / PLANS)})
    assert str(path) in error.value.what
    assert "was not opened" in error.value.what
    assert "runs whatever a model file holds" in error.value.what
    assert ("known SHA256" if expected else "catalog of your own") in str(error.value)
    assert not written.exists()


def test_every_file_counts_not_only_the_weights(tmp_path: Path, session: Session) -> None:
    path, _ = _folder_of_payload(tmp_path)
    known = {MODEL: _sha256(path), PLANS: "0" * 64}
    with pytest.raises(WeightsError, match=r"plans\.json: has SHA256"):
        NNInteractive(path, sha256=known)
    (path.parents[1] / PLANS).unlink()
    with pytest.raises(WeightsError, match=r"plans\.json: this file of nninteractive's model does not exist"):
        NNInteractive(path, sha256=known)


def test_the_catalog_knows_each_file_and_says_what_a_user_must_know() -> None:
    entry = catalog()["nninteractive"]
    assert re.fullmatch("[0-9a-f]{40}", entry.revision)
    assert not entry.unverified
    assert entry.weights_license == "CC-BY-NC-SA-4.0"
    assert entry.needs_acknowledgement
    assert entry.contamination
    known = nninteractive._known_files("nninteractive")
    assert next(iter(known)) == MODEL
    assert {PLANS, "dataset.json", "inference_session_class.json"} < set(known)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in known.values())


def test_the_registry_refuses_what_the_catalog_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nninteractive, "_check_package", lambda: "2.6.0")
    path, written = _folder_of_payload(tmp_path)
    with pytest.raises(WeightsError, match="has SHA256"):
        create_generalist(f"nninteractive={path}")
    assert not written.exists()


@pytest.mark.parametrize("release", ["2.5.9", "3.0.0", "1.1.4"])
def test_another_release_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(nninteractive, "version", lambda _: release)
    with pytest.raises(ConfigError) as error:
        NNInteractive(Path("model") / MODEL)
    assert release in error.value.what
    assert f'pip install "{REQUIREMENT}"' in error.value.remedy


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(nninteractive, "version", missing)
    with pytest.raises(ConfigError) as error:
        NNInteractive(Path("model") / MODEL)
    assert "not installed" in error.value.what
    assert f'pip install "{REQUIREMENT}"' in error.value.remedy


def test_the_extra_asks_for_the_same_releases() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["nninteractive"] == [REQUIREMENT]
    assert catalog()["nninteractive"].package == REQUIREMENT


# How it is asked


def test_it_is_a_generalist_that_says_which_weights(fake: NNInteractive) -> None:
    assert isinstance(fake, Generalist)
    assert fake.weights_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert fake.spacing == 1.0


def test_points_take_turns_and_end_with_the_positive_one_in_the_middle() -> None:
    points = np.array([(0, 0, 0), (0, 0, 9), (0, 0, 4), (0, 0, 30), (0, 0, 12)])
    positive = np.array([True, True, True, False, False])
    assert _order(points, positive) == [1, 3, 0, 4, 2]  # 4 is the middle of 0, 9 and 4, about.
    assert _order(points[3:], positive[3:]) in ([0, 1], [1, 0])
    assert _order(points[:0], positive[:0]) == []


def test_points_are_given_as_array_indices_and_predicted_once(fake: NNInteractive, session: Session) -> None:
    prompts = _prompts((9, 12, 17), (9, 12, 19), (9, 12, 14), outside=((1, 2, 3), (-4, 0, 0)))
    fake.answer(fake.embed(_volume()), [prompts], GRID)
    assert session.calls == [
        ("image", (1, *GRID.shape)),
        ("point", (9, 12, 14), True, False),
        ("point", (9, 12, 19), True, False),
        ("point", (1, 2, 3), False, False),
        ("point", (9, 12, 17), True, True),
    ]


def test_a_mask_comes_first_and_alone_is_predicted_at_once(fake: NNInteractive, session: Session) -> None:
    mask = {"mask": _logits(), "mask_grid": GRID}
    asked = [_prompts((9, 12, 17), **mask), PromptSet(*NO_POINTS, **mask)]
    fake.answer(fake.embed(_volume()), asked, GRID)
    voxels = int(TRUTH.sum())
    assert session.calls[1:] == [
        ("mask", voxels, False),
        ("point", (9, 12, 17), True, True),
        ("reset",),
        ("mask", voxels, True),
    ]


def test_a_box_stands_for_positive_points_that_are_missing(fake: NNInteractive, session: Session) -> None:
    box = GRID.to_physical(np.array([(5.0, 8, 13), (13.0, 16, 21)]))
    asked = [PromptSet(*NO_POINTS, box=box), _prompts(outside=((1, 2, 3),), box=box), _prompts((9, 12, 17), box=box)]
    fake.answer(fake.embed(_volume()), asked, GRID)
    rectangle = [[9, 10], [8, 17], [13, 22]]
    assert session.calls[1:] == [
        ("box", rectangle, True, True),
        ("reset",),
        ("point", (1, 2, 3), False, False),
        ("box", rectangle, True, True),
        ("reset",),
        ("point", (9, 12, 17), True, True),
    ]


def test_beside_negative_points_alone_the_masks_own_box_is_asked(fake: NNInteractive, session: Session) -> None:
    fake.answer(fake.embed(_volume()), [_prompts(outside=((1, 2, 3),), mask=_logits(), mask_grid=GRID)], GRID)
    assert [call[0] for call in session.calls] == ["image", "mask", "point", "box"]
    assert session.calls[-1][1] == [[9, 10], [7, 18], [12, 23]]


def test_a_box_that_reaches_beyond_is_cut_and_one_elsewhere_is_none() -> None:
    def box(low: tuple[float, ...], high: tuple[float, ...]) -> list[list[int]] | None:
        prompts = PromptSet(*NO_POINTS, box=GRID.to_physical(np.array([low, high], dtype=float)))
        return _middle_slice(prompts, None, GRID, among_points=False)

    assert box((-9, -5, 30), (3, 4, 90)) == [[1, 2], [0, 5], [30, 32]]
    assert box((40, 0, 0), (50, 5, 5)) is None


@pytest.mark.parametrize(
    "prompts",
    [
        PromptSet(*NO_POINTS),
        _prompts(outside=((1, 2, 3),)),
        _prompts((-9, 0, 0)),
        PromptSet(*NO_POINTS, mask=np.full(GRID.shape, -3.0, np.float32), mask_grid=GRID),
    ],
    ids=["nothing", "only outside", "beyond the volume", "an empty mask"],
)
def test_where_nothing_is_asked_for_nothing_is_said(fake: NNInteractive, session: Session, prompts: PromptSet) -> None:
    answer = fake.answer(fake.embed(_volume()), [prompts], GRID)
    assert answer.isnan().all()
    assert not [call for call in session.calls if call[0] != "image"]


def test_an_image_that_shows_nothing_is_not_given(fake: NNInteractive, session: Session) -> None:
    volume = Volume(np.full((1, *GRID.shape), 7.0, np.float32), GRID)
    answer = fake.answer(fake.embed(volume), [_prompts((9, 12, 17))] * 2, GRID)
    assert answer.shape == (2, *GRID.shape)
    assert answer.isnan().all()
    assert session.calls == []


def test_the_answer_lies_where_it_was_predicted(fake: NNInteractive) -> None:
    answer = fake.answer(fake.embed(_volume()), [_prompts((9, 12, 17))], GRID)[0]
    assert answer.dtype == torch.float32
    seen = torch.zeros(GRID.shape, dtype=torch.bool)
    seen[1:17, 4:20, 9:25] = True
    assert torch.equal(~answer.isnan(), seen)
    assert np.array_equal(answer[seen].numpy(), TRUTH[seen.numpy()].astype(np.float32))


def test_the_answer_comes_on_the_asked_grid(fake: NNInteractive) -> None:
    scene = fake.embed(_volume())
    whole = fake.answer(scene, [_prompts((9, 12, 17))], GRID)[0].numpy()
    part = GRID.cropped((4, 6, 10), (9, 11, 13))
    on_part = fake.answer(scene, [_prompts((9, 12, 17))], part)[0].numpy()
    np.testing.assert_array_equal(on_part, whole[4:13, 6:17, 10:23])
    fine = Grid((18, 22, 26), (0.5, 0.5, 0.5), tuple(GRID.to_physical(np.array([[4.0, 6, 10]]))[0]))
    on_fine = fake.answer(scene, [_prompts((9, 12, 17))], fine)[0].numpy()
    np.testing.assert_allclose(on_fine[::2, ::2, ::2], on_part, atol=1e-6)
    elsewhere = Grid((5, 5, 5), (1.0, 1.0, 1.0), (900.0, 0.0, 0.0))
    assert fake.answer(scene, [_prompts((9, 12, 17))], elsewhere).isnan().all()


def test_a_mask_on_another_grid_comes_to_the_cases(fake: NNInteractive) -> None:
    part = GRID.cropped((3, 5, 10), (14, 15, 16))
    prompts = PromptSet(*NO_POINTS, mask=_logits(TRUTH[3:17, 5:20, 10:26]), mask_grid=part)
    np.testing.assert_array_equal(_mask_on(GRID, prompts), TRUTH)
    unknown = prompts.mask.copy()
    unknown[0] = np.nan
    assert _mask_on(GRID, PromptSet(*NO_POINTS, mask=unknown, mask_grid=part)).sum() == TRUTH.sum()


def test_it_changes_cases_and_keeps_the_one_it_has(fake: NNInteractive, session: Session) -> None:
    first, second = fake.embed(_volume()), fake.embed(_volume(truth=~TRUTH))
    answers = [fake.answer(scene, [_prompts((9, 12, 17))], GRID) for scene in (first, first, second, first)]
    assert [call[0] for call in session.calls if call[0] != "point"] == ["image", "reset", "image", "image"]
    assert torch.equal(answers[0].nan_to_num(2), answers[1].nan_to_num(2))
    assert torch.equal(answers[0].nan_to_num(2), answers[3].nan_to_num(2))
    assert not torch.equal(answers[0].nan_to_num(2), answers[2].nan_to_num(2))


def test_what_its_package_draws_by_chance_is_fixed_and_nobody_elses(
    fake: NNInteractive, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(session, "set_target_buffer", lambda _: drawn.append(np.random.random()))
    monkeypatch.setattr(session, "add_point_interaction", lambda *_, **__: drawn.append(np.random.random()))
    np.random.seed(3)
    fake.answer(fake.embed(_volume()), [_prompts((9, 12, 17))], GRID)
    after = np.random.random()
    np.random.seed(4)
    fake.answer(fake.embed(_volume()), [_prompts((9, 12, 17))], GRID)
    assert len(drawn) == 4
    assert drawn[:2] == drawn[2:]
    np.random.seed(3)
    assert np.random.random() == after


def test_only_its_channel_is_looked_at(fake: NNInteractive) -> None:
    volume = Volume(np.stack([TRUTH, ~TRUTH]).astype(np.float32), GRID)
    assert fake.embed(volume).image.shape == (1, *GRID.shape)
    fake.channel = 1
    answer = fake.answer(fake.embed(volume), [_prompts((9, 12, 17))], GRID)[0]
    assert answer[9, 12, 17] == 0


# The package itself


@with_package
@pytest.mark.parametrize(
    "name",
    [
        "set_image",
        "set_target_buffer",
        "reset_interactions",
        "add_point_interaction",
        "add_bbox_interaction",
        "add_initial_seg_interaction",
    ],
)
def test_the_packages_session_is_as_the_stand_in(name: str) -> None:
    from nnInteractive.inference.inference_session import nnInteractiveInferenceSession

    def shape(function: Callable[..., Any]) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    assert shape(getattr(nnInteractiveInferenceSession, name)) == shape(getattr(Session, name))


def _plans() -> dict[str, Any]:
    """Return the plans of a two-stage residual U-Net, as nnU-Net writes them."""
    network = {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_blocks_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": network,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [PATCH] * 3,
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture,
    }
    return {
        "dataset_name": "Dataset001_Tiny",
        "plans_name": "tiny",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
    }


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, laid out and pickled as nnU-Net does."""
    if RELEASE is None:
        pytest.skip(f'its package is not installed: pip install "{REQUIREMENT}"')
    from nnInteractive.trainer.nnInteractiveTrainer import nnInteractiveTrainer_stub
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = tmp_path_factory.mktemp("Modell ä")
    plans = _plans()
    dataset = {
        "channel_names": {"0": "image"},
        "labels": {"background": 0, "object": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    about = {"inference_class": "nnInteractiveInferenceSession", "point_radius": 4, "interaction_decay": 0.9}
    for name, content in ((PLANS, plans), ("dataset.json", dataset), ("inference_session_class.json", about)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    manager = PlansManager(plans)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = nnInteractiveTrainer_stub.build_network_architecture(
            manager, manager.get_configuration("3d_fullres"), 1 + 7, 2, False
        )
    path = folder / MODEL
    path.parent.mkdir()
    content = {
        "network_weights": network.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnInteractiveTrainer_stub",
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(content, path)
    return path


@pytest.fixture
def real(model_file: Path) -> NNInteractive:
    folder = model_file.parents[1]
    names = (MODEL, PLANS, "dataset.json", "inference_session_class.json")
    return NNInteractive(model_file, sha256={name: _sha256(folder / name) for name in names})


@with_package
def test_the_whole_path_with_random_weights(real: NNInteractive, model_file: Path) -> None:
    assert real.weights_sha256 == _sha256(model_file)
    assert not real.session.use_torch_compile
    assert not real.session.do_autozoom
    random = np.random.default_rng(1)
    volume = Volume(random.normal(100, 20, (1, *GRID.shape)).astype(np.float32), GRID)
    box = GRID.to_physical(np.array([(5.0, 8, 13), (13.0, 16, 21)]))
    asked = [
        _prompts((9, 12, 17), outside=((3, 4, 5), (16, 20, 28))),
        _prompts((9, 12, 17), mask=_logits(), mask_grid=GRID),
        PromptSet(*NO_POINTS, box=box),
        PromptSet(*NO_POINTS, mask=_logits(), mask_grid=GRID, box=None),
    ]
    answers = real.answer(real.embed(volume), asked, GRID)
    assert answers.shape == (4, *GRID.shape)
    for answer in answers:
        said = answer[~answer.isnan()]
        assert set(said.unique().tolist()) == {0.0, 1.0}
    seen = torch.zeros(GRID.shape, dtype=torch.bool)
    seen[1:17, 4:20, 9:25] = True
    assert torch.equal(~answers[0].isnan(), seen)
    assert not torch.equal(answers[0].nan_to_num(2), answers[1].nan_to_num(2))


@with_package
def test_answers_repeat_whatever_was_asked_before(real: NNInteractive) -> None:
    volume = Volume(np.random.default_rng(2).normal(0, 1, (1, *GRID.shape)).astype(np.float32), GRID)
    asked = [PromptSet(*NO_POINTS, mask=_logits(), mask_grid=GRID), _prompts((9, 12, 17), outside=((1, 1, 1),))]
    first = real.answer(real.embed(volume), asked, GRID)
    again = real.answer(real.embed(volume), asked[::-1], GRID).flip(0)
    assert torch.equal(first.nan_to_num(2), again.nan_to_num(2))


@with_package
def test_it_leaves_the_process_as_it_was(
    model_file: Path, real: NNInteractive, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    with caplog.at_level(logging.DEBUG, logger=nninteractive.__name__):
        again = NNInteractive(model_file, sha256={MODEL: real.weights_sha256})
        again.answer(again.embed(_volume()), [_prompts((9, 12, 17))], GRID)
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.benchmark == benchmark
    assert capfd.readouterr().out == ""
    assert "session initialized" in caplog.text


class FromPrompts(nn.Module):
    """A network whose answer is one of the channels that it is given, so that their places can be seen.

    Channels are the image, the mask, boxes (+, -), points (+, -), scribbles (+, -).
    """

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x):
        assert x.shape == (1, 8, PATCH, PATCH, PATCH)
        chosen = x[:, self.channel]
        return torch.stack([0.4 - chosen, chosen], dim=1)


@with_package
@pytest.mark.parametrize(
    ("channel", "place"),
    [(4, (9, 12, 17)), (5, (6, 9, 20))],
    ids=["positive", "negative"],
)
def test_points_arrive_where_they_were_given(real: NNInteractive, channel: int, place: tuple[int, ...]) -> None:
    real.session.network = FromPrompts(channel)
    answer = real.answer(real.embed(_volume()), [_prompts((9, 12, 17), outside=((6, 9, 20),))], GRID)[0]
    found = np.argwhere(answer.numpy() == 1)
    np.testing.assert_allclose(found.mean(axis=0), place, atol=0.01)


@with_package
def test_the_mask_arrives_where_it_was_given(real: NNInteractive) -> None:
    real.session.network = FromPrompts(1)
    prompts = _prompts((9, 12, 17), mask=_logits(), mask_grid=GRID)
    answer = real.answer(real.embed(_volume()), [prompts], GRID)[0].numpy()
    said = ~np.isnan(answer)
    np.testing.assert_array_equal(answer[said], TRUTH[said])


@with_package
def test_the_box_arrives_as_the_middle_slice(real: NNInteractive) -> None:
    real.session.network = FromPrompts(2)
    box = GRID.to_physical(np.array([(7.0, 10, 15), (11.0, 13, 18)]))
    answer = real.answer(real.embed(_volume()), [PromptSet(*NO_POINTS, box=box)], GRID)[0].numpy()
    found = np.argwhere(answer == 1)
    assert found.min(axis=0).tolist() == [9, 10, 15]
    assert found.max(axis=0).tolist() == [9, 13, 18]


@with_package
def test_a_model_that_its_package_cannot_load_is_named(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / MODEL
    path.parent.mkdir()
    path.write_bytes(model_file.read_bytes())
    with pytest.raises(WeightsError, match=r"cannot load nninteractive \(FileNotFoundError"):
        NNInteractive(path, sha256={MODEL: _sha256(path)})


@with_package
def test_it_is_made_by_name_from_a_catalog_and_a_folder_of_ones_own(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(catalog_module.__file__).with_name("catalog.json")
    (entry,) = [one for one in json.loads(source.read_text(encoding="utf-8"))["generalists"] if one["name"] == NAME]
    names = (MODEL, PLANS, "dataset.json", "inference_session_class.json")
    folder = model_file.parents[1]
    files = [{"path": f"tiny/{name}", "size": 1, "sha256": _sha256(folder / name)} for name in names]
    own = tmp_path / "catalog.json"
    own.write_text(
        json.dumps({"format": catalog_module.FORMAT, "generalists": [{**entry, "files": files}]}), encoding="utf-8"
    )
    shutil.copytree(folder, tmp_path / "weights" / NAME / "tiny")
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEMISAMPLUS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("SEMISAMPLUS_CATALOG", str(own))
    catalog.cache_clear()
    try:
        made = create_generalist(NAME)
        with (tmp_path / "weights" / NAME / "tiny" / PLANS).open("a") as file:
            file.write(" ")
        with pytest.raises(WeightsError, match=r"plans\.json: has SHA256"):
            create_generalist(NAME)
    finally:
        catalog.cache_clear()
    answer = made.answer(made.embed(_volume()), [_prompts((9, 12, 17))], GRID)
    assert not answer.isnan().all()
