"""Weights: what is read, what is refused and why, and that nothing in a file is ever run."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from SemiSAMPlusLib.commands import main
from SemiSAMPlusLib.errors import WeightsError
from SemiSAMPlusLib.generalist import catalog as catalog_module
from SemiSAMPlusLib.generalist import inventory
from SemiSAMPlusLib.generalist import loading as loading_module
from SemiSAMPlusLib.generalist import weights as weights_module
from SemiSAMPlusLib.generalist.catalog import catalog
from SemiSAMPlusLib.generalist.inventory import import_weights, verify_weights, weights_state
from SemiSAMPlusLib.generalist.loading import check_conversion, check_state, load_state
from SemiSAMPlusLib.generalist.registry import create_generalist, weights_of
from SemiSAMPlusLib.generalist.sam_med3d.generalist import SamMed3D
from SemiSAMPlusLib.generalist.sam_med3d.model import SamMed3DModel
from SemiSAMPlusLib.generalist.weights import (
    Pin,
    cache_folder,
    find_weights,
    hub_folder,
    known_sha256,
    place_in_own,
    quarantine_folder,
    read_pin,
    sha256_of,
    write_pin,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "der Zwischenspeicher ü"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("SEMISAMPLUS_WEIGHTS", "SEMISAMPLUS_CATALOG", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield cache_folder()
    catalog.cache_clear()


def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5, -2.0])}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor)
        assert found[key].dtype == tensor.dtype


class Payload:
    """Unpickled without restraint, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"\"{sys.executable}\" -c \"open(r'{self.target}', 'w').close()\"",)


# Reading


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: collections.OrderedDict(state),
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"model_state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        lambda state: {"model": {"state_dict": state}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_layout_gives_the_models_own_names(tmp_path: Path, wrap, zipped: bool) -> None:
    file = tmp_path / "pesos é.pth"
    torch.save(wrap(tensors()), file, _use_new_zipfile_serialization=zipped)
    assert_same(load_state(file), tensors())
    assert_same(load_state(file), tensors())


def small_model() -> SamMed3DModel:
    """SAM-Med3D in small, with the names of the official one."""
    torch.manual_seed(1)
    return SamMed3DModel(
        size=32, patch=8, width=24, depth=2, heads=2, window=6, global_blocks=(1,), channels=48, decoder_hidden=64
    )


def trained(state: dict[str, torch.Tensor]) -> dict:
    """What the trainer of SAM-Med3D's authors saves beside the model."""
    parameters = [torch.nn.Parameter(value.clone()) for value in list(state.values())[:2]]
    optimizer = torch.optim.AdamW(parameters, lr=8e-4)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [120, 180], gamma=0.1)
    return {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
        "lr_scheduler_state_dict": scheduler.state_dict(),
        "losses": [np.float64(0.5), 0.25],
        "dices": [np.float32(0.5)],
        "best_loss": np.inf,
        "best_dice": np.float64(0.5),
        "args": argparse.Namespace(task_name="union_train", checkpoint="ckpt/sam_med3d.pth", lr=8e-4),
        "used_datas": ["data/medical_preprocessed/heart/heart_la"],
    }


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize(
    "wrap",
    [dict, collections.OrderedDict, trained, lambda state: {"state_dict": state}, lambda state: {"model": state}],
    ids=["bare", "ordered", "trained", "state_dict", "model"],
)
def test_sam_med3d_takes_its_weights_in_every_layout(tmp_path: Path, wrap, prefix: str, half: bool) -> None:
    model = small_model()
    saved = {f"{prefix}{key}": value.half() if half else value for key, value in model.state_dict().items()}
    torch.save(wrap(saved), tmp_path / "w.pth")
    state = load_state(tmp_path / "w.pth")
    check_state(state, model)
    assert_same(state, {key.removeprefix(prefix): value for key, value in saved.items()})


def test_safetensors_are_read_in_place(tmp_path: Path, own_cache: Path) -> None:
    save_file({f"module.{key}": value for key, value in tensors().items()}, tmp_path / "w.bin")
    assert_same(load_state(tmp_path / "w.bin"), tensors())
    assert not (own_cache / "converted").exists()


def test_half_precision_stays_until_it_is_loaded(tmp_path: Path) -> None:
    half = {key: value.half() for key, value in tensors().items()}
    torch.save(half, tmp_path / "w.pth")
    assert_same(load_state(tmp_path / "w.pth"), half)


def test_what_training_scripts_save_beside_the_model_is_accepted(tmp_path: Path) -> None:
    """SAM-Med3D's own trainer saves its arguments, scores and scheduler with the model."""
    torch.save(
        {
            "epoch": 7,
            "model_state_dict": tensors(),
            "optimizer_state_dict": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
            "lr_scheduler_state_dict": {"milestones": collections.Counter([120, 180]), "_last_lr": [1e-5]},
            "losses": [0.5, np.float64(0.25), np.float32(0.125)],
            "dices": [np.int64(1)],
            "best_loss": np.inf,
            "args": argparse.Namespace(task_name="union_train", lr=8e-4, gpu_ids=[0, 1]),
            "used_datas": ["data/train/brain"],
        },
        tmp_path / "sam_model_latest.pth",
    )
    assert_same(load_state(tmp_path / "sam_model_latest.pth"), tensors())


def test_numbers_of_an_older_numpy_are_accepted(tmp_path: Path) -> None:
    """Before version 2 numpy's numbers were pickled under another module's name."""
    with (tmp_path / "new.pth").open("wb") as file:
        torch.save({"state_dict": tensors(), "dice": np.float64(0.5)}, file, _use_new_zipfile_serialization=False)
    old = (tmp_path / "new.pth").read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"cnumpy.core.multiarray\n" in old
    (tmp_path / "old.pth").write_bytes(old)
    assert_same(load_state(tmp_path / "old.pth"), tensors())


def test_tensors_that_share_memory_are_parted(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    shared = {"whole": whole, "same": whole, "column": whole[:, 1], "turned": whole.T}
    torch.save(shared, tmp_path / "w.pth")
    assert_same(load_state(tmp_path / "w.pth"), shared)


def test_a_checkpoint_is_converted_once_and_then_mapped(tmp_path: Path, own_cache: Path, monkeypatch) -> None:
    torch.save(tensors(), tmp_path / "w.pth")
    load_state(tmp_path / "w.pth")
    converted = own_cache / "converted" / f"{sha256_of(tmp_path / 'w.pth')}.safetensors"
    assert converted.is_file()
    monkeypatch.setattr(loading_module, "_read_checkpoint", None)
    monkeypatch.setattr(loading_module, "sha256_of", None)
    monkeypatch.setattr(weights_module, "sha256_of", None)  # Not even the hash is computed again.
    assert_same(load_state(tmp_path / "w.pth"), tensors())


def test_a_damaged_conversion_is_made_anew(tmp_path: Path, own_cache: Path) -> None:
    torch.save(tensors(), tmp_path / "w.pth")
    load_state(tmp_path / "w.pth")
    converted = own_cache / "converted" / f"{sha256_of(tmp_path / 'w.pth')}.safetensors"
    converted.unlink()
    converted.write_bytes(b"half a file")
    assert_same(load_state(tmp_path / "w.pth"), tensors())


def test_without_a_writable_cache_weights_are_read_all_the_same(tmp_path: Path, monkeypatch) -> None:
    torch.save(tensors(), tmp_path / "w.pth")
    (tmp_path / "a file").touch()
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "a file" / "cache"))
    assert_same(load_state(tmp_path / "w.pth"), tensors())


# Refusing


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["top", "beside", "plain pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_payload_is_refused_and_never_run(tmp_path: Path, own_cache: Path, zipped: bool, place: str) -> None:
    target = tmp_path / "it ran"
    payload = Payload(target)
    file = tmp_path / "sam_med3d.pth"
    if place == "plain pickle":
        file.write_bytes(pickle.dumps(payload))
    else:
        data = payload if place == "top" else {"model_state_dict": tensors(), "args": payload}
        torch.save(data, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError) as error:
        load_state(file)
    assert not target.exists()
    assert str(file) in error.value.what
    if place != "plain pickle":
        assert ".system" in error.value.what
    assert not (own_cache / "converted").exists()
    # The payload is a real one: read without restraint, it does write the file.
    if place == "plain pickle":
        pickle.loads(file.read_bytes())
        assert target.exists()


def test_the_allow_list_ends_with_the_reading(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "w.pth")
    load_state(tmp_path / "w.pth")
    torch.save({"args": argparse.Namespace()}, tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "pointer of Git LFS"),
        (b"", "is empty"),
        (b"\x80\x02garbage", "cannot be read as weights"),
        (b"PK\x03\x04 cut short", "cannot be read as weights"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as error:
        load_state(tmp_path / "w.pth")
    assert "weights_only" not in error.value.what  # No advice to open it unrestrained.


def test_a_cut_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(1000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-700])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_state(tmp_path / "w.pth")


def test_cut_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.randn(1000)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-700])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_state(tmp_path / "w.safetensors")


@pytest.mark.parametrize("data", [[1, 2], {}, {"epoch": 3}, {"state_dict": {"a": 3}}])
def test_a_checkpoint_without_a_model_is_refused(tmp_path: Path, data) -> None:
    torch.save(data, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="expected the tensors of a model"):
        load_state(tmp_path / "w.pth")


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="'a' is a tensor of kind"):
        load_state(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        load_state(tmp_path / "nowhere.pth")


def test_a_pytorch_whose_reader_is_unsafe_is_refused(tmp_path: Path, monkeypatch) -> None:
    torch.save(tensors(), tmp_path / "w.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(WeightsError, match="CVE-2025-32434"):
        load_state(tmp_path / "w.pth")


# Checking


def test_the_first_mismatches_are_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    good = {key: value.clone() for key, value in model.state_dict().items()}
    check_state(good, model)
    check_state({key: value.half() if value.is_floating_point() else value for key, value in good.items()}, model)
    bad = {key: value for key, value in good.items() if key != "0.bias"}
    bad |= {"0.weight": torch.zeros(3, 5), "head": torch.zeros(1), "1.num_batches_tracked": torch.tensor(0.5)}
    with pytest.raises(WeightsError) as error:
        check_state(bad, model)
    for part in (
        "'0.bias' is missing",
        "'head' is not in the model",
        "'0.weight' has shape (3, 5), expected (3, 2)",
        "'1.num_batches_tracked' has dtype torch.float32, expected torch.int64",
    ):
        assert part in error.value.what
    with pytest.raises(WeightsError, match="and 3 more"):
        check_state({}, model)


def test_weights_of_another_model_are_refused_by_the_generalist(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"do not fit SamMed3DModel: 'image_encoder.pos_embed' is missing"):
        SamMed3D(tmp_path / "w.pth")


@pytest.mark.slow
def test_a_checkpoint_of_full_size_loads_strictly_through_the_whole_path(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {f"module.{key}": value.half() for key, value in SamMed3DModel().state_dict().items()}
    torch.save({"model_state_dict": state, "args": argparse.Namespace()}, tmp_path / "sam_med3d_turbo.pth")
    generalist = SamMed3D(tmp_path / "sam_med3d_turbo.pth")
    assert generalist.weights_sha256 == sha256_of(tmp_path / "sam_med3d_turbo.pth")
    found = generalist.model.state_dict()
    assert all(torch.equal(found[key.removeprefix("module.")], value.float()) for key, value in state.items())
    assert {value.dtype for value in found.values()} == {torch.float32}


# Finding


def test_the_hash_is_that_of_the_content_and_follows_its_changes(tmp_path: Path) -> None:
    file = tmp_path / "w"
    file.write_bytes(b"abc")
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert known_sha256(file) == known_sha256(file) == sha256_of(file)
    file.write_bytes(b"abcd")
    assert known_sha256(file) == sha256_of(file)
    with pytest.raises(WeightsError, match="cannot be read"):
        known_sha256(tmp_path / "nowhere")


def test_weights_are_found_in_the_users_folder_first(tmp_path: Path, own_cache: Path, monkeypatch) -> None:
    cached = own_cache / "weights" / "sam-med3d" / "sam_med3d.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_weights("sam-med3d") == cached
    mine = tmp_path / "meine Gewichte" / "sam_med3d.pth"
    mine.parent.mkdir()
    monkeypatch.setenv("SEMISAMPLUS_WEIGHTS", str(mine.parent))
    assert find_weights("sam-med3d") == cached
    mine.touch()
    assert find_weights("sam-med3d") == mine


def test_missing_weights_say_how_to_give_them(own_cache: Path) -> None:
    with pytest.raises(WeightsError) as error:
        find_weights("sam-med3d-turbo")
    assert "sam_med3d_turbo.pth" in error.value.what
    assert str(own_cache / "weights" / "sam-med3d-turbo") in error.value.what
    assert "huggingface.co/blueyo0/SAM-Med3D" in error.value.remedy
    assert "sam-med3d-turbo=PATH" in error.value.remedy
    assert "`semisamplus weights download sam-med3d-turbo`" in error.value.remedy
    with pytest.raises(WeightsError) as error:
        find_weights("sam-med3d")
    assert "`semisamplus weights import sam-med3d FILE`" in error.value.remedy
    assert "download" not in error.value.remedy


def test_a_file_with_another_hash_than_the_catalogs_is_refused(own_cache: Path) -> None:
    file = own_cache / "weights" / "sam-med3d-turbo" / "sam_med3d_turbo.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another")
    digest = sha256_of(file)
    with pytest.raises(WeightsError) as error:
        find_weights("sam-med3d-turbo")
    assert digest in error.value.what
    assert str(catalog()["sam-med3d-turbo"].sha256) in error.value.what
    assert not file.exists()
    assert [kept.read_bytes() for kept in (quarantine_folder() / "sam-med3d-turbo").iterdir()] == [b"another"]


def test_a_file_in_the_users_own_folder_is_refused_and_left_alone(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "sam_med3d_turbo.pth"
    file.write_bytes(b"another")
    monkeypatch.setenv("SEMISAMPLUS_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="get it anew"):
        find_weights("sam-med3d-turbo")
    assert file.read_bytes() == b"another"
    assert not quarantine_folder().exists()
    assert weights_state("sam-med3d-turbo").state == "damaged"


@pytest.mark.parametrize("named", [True, False], ids=["NAME=PATH", "SEMISAMPLUS_WEIGHTS"])
def test_a_file_of_another_project_in_the_hubs_cache_is_refused_and_left_alone(monkeypatch, named: bool) -> None:
    file = hub_folder() / "models--other--project" / "snapshots" / ("a" * 40) / "sam_med3d_turbo.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another")
    if not named:
        monkeypatch.setenv("SEMISAMPLUS_WEIGHTS", str(file.parent))
    with pytest.raises(WeightsError, match="has SHA256") as error:
        create_generalist(f"sam-med3d-turbo={file}" if named else "sam-med3d-turbo")
    assert "quarantine" not in str(error.value)
    assert file.read_bytes() == b"another"
    assert not quarantine_folder().exists()


@pytest.mark.parametrize("name", ["random-walker", "nobody"])
def test_what_needs_no_weights_has_none(name: str) -> None:
    with pytest.raises(WeightsError, match="sam-med3d-turbo"):
        find_weights(name)


@pytest.mark.parametrize(
    ("platform", "variables", "tail"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x/y"}, "y/semisamplus"),
        ("linux", {}, ".cache/semisamplus"),
        ("darwin", {}, "Library/Caches/SemiSAMPlus"),
        ("win32", {"LOCALAPPDATA": "/home/me/Local"}, "Local/SemiSAMPlus/Cache"),
    ],
)
def test_the_cache_lies_where_the_platform_wants_it(monkeypatch, platform: str, variables: dict, tail: str) -> None:
    for name in ("SEMISAMPLUS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder().as_posix().endswith(tail)


# Importing, verifying, removing


@pytest.fixture
def any_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file of tensors for weights of the model."""
    monkeypatch.setattr("SemiSAMPlusLib.generalist.registry.check_weights", lambda entry, path: load_state(path))


def test_a_file_is_imported_found_verified_and_removed(tmp_path: Path, own_cache: Path, any_fits, capsys) -> None:
    mine = tmp_path / "mine ü.pth"
    torch.save(tensors(), mine)
    assert main(["weights", "import", "sam-med3d", str(mine)]) == 0
    text = capsys.readouterr().out
    assert "left atrium" in text
    imported = own_cache / "weights" / "sam-med3d" / "sam_med3d.pth"
    assert str(imported) in text
    assert find_weights("sam-med3d") == imported
    assert imported.read_bytes() == mine.read_bytes()
    assert read_pin(catalog()["sam-med3d"]).files == {"sam_med3d.pth": sha256_of(mine)}
    assert weights_state("sam-med3d").state == "ready"
    assert weights_state("sam-med3d").size == mine.stat().st_size
    assert main(["weights", "where", "sam-med3d"]) == 0
    assert capsys.readouterr().out.strip() == str(imported)
    (verified,) = verify_weights("sam-med3d")
    assert (verified.fault, verified.known, verified.sha256) == (None, True, sha256_of(mine))
    assert main(["weights", "import", "sam-med3d", str(imported)]) == 0  # Onto itself.
    assert [path.name for path in imported.parent.iterdir()] == ["sam_med3d.pth"]
    assert main(["weights", "remove", "sam-med3d"]) == 0
    assert mine.is_file()
    assert [path for path in own_cache.rglob("*") if path.suffix in (".pth", ".safetensors", ".sha256")] == []
    assert main(["weights", "where", "sam-med3d"]) == 1
    assert "weights import sam-med3d FILE" in capsys.readouterr().err


def test_files_of_one_name_are_imported_for_each_entry_by_itself(tmp_path: Path, any_fits, monkeypatch) -> None:
    packaged = json.loads(Path(catalog_module.__file__).with_name("catalog.json").read_text(encoding="utf-8"))
    (base,) = [one for one in packaged["generalists"] if one["name"] == "sam-med3d"]
    files = [{"path": "model.safetensors", "size": None, "sha256": None}]
    names = ("our-heart", "our-liver")
    mine = {"format": packaged["format"], "generalists": [{**base, "name": name, "files": files} for name in names]}
    (tmp_path / "catalog.json").write_text(json.dumps(mine), encoding="utf-8")
    monkeypatch.setenv("SEMISAMPLUS_CATALOG", str(tmp_path / "catalog.json"))
    catalog.cache_clear()
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        save_file({"a": torch.full((2,), float(number))}, tmp_path / name / "model.safetensors")
    for name in names:
        assert weights_state(name).state == "missing"
        import_weights(name, tmp_path / name / "model.safetensors")
    for name in names:
        assert find_weights(name).read_bytes() == (tmp_path / name / "model.safetensors").read_bytes()
    assert not quarantine_folder().exists()


def test_an_import_without_links_copies(tmp_path: Path, own_cache: Path, any_fits, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(inventory.os, "link", refuse)
    torch.save(tensors(), tmp_path / "mine.pth")
    imported = import_weights("sam-med3d", tmp_path / "mine.pth")
    assert imported.stat().st_nlink == 1
    assert_same(load_state(imported), tensors())


def test_a_later_import_takes_the_place_of_the_earlier(tmp_path: Path, any_fits) -> None:
    for number in (1.0, 2.0):
        torch.save({"a": torch.tensor(number)}, tmp_path / "mine.pth")
        imported = import_weights("sam-med3d", tmp_path / "mine.pth")
        assert load_state(imported)["a"] == number
        assert find_weights("sam-med3d") == imported


def test_an_earlier_import_does_not_bind_a_file_that_is_named(tmp_path: Path, any_fits) -> None:
    entry = catalog()["sam-med3d"]
    for number in (1.0, 2.0):
        torch.save({"a": torch.tensor(number)}, tmp_path / f"{number}.pth")
    import_weights("sam-med3d", tmp_path / "1.0.pth")
    assert weights_of(entry, str(tmp_path / "2.0.pth")) == tmp_path / "2.0.pth"
    write_pin(entry, Pin("hub", entry.repository, "c" * 40, {"sam_med3d.pth": sha256_of(tmp_path / "1.0.pth")}))
    for give in (
        lambda: weights_of(entry, str(tmp_path / "2.0.pth")),
        lambda: import_weights("sam-med3d", tmp_path / "2.0.pth"),
    ):
        with pytest.raises(WeightsError, match=r"has SHA256.*`semisamplus weights remove sam-med3d --forget`"):
            give()


def test_an_imported_file_that_is_named_is_never_moved(tmp_path: Path, any_fits) -> None:
    torch.save(tensors(), tmp_path / "mine.pth")
    imported = import_weights("sam-med3d", tmp_path / "mine.pth")
    entry = catalog()["sam-med3d"]
    write_pin(entry, Pin("hub", entry.repository, "c" * 40, {"sam_med3d.pth": "0" * 64}))
    with pytest.raises(WeightsError, match="has SHA256"):
        weights_of(entry, str(imported))
    assert imported.is_file()


def test_where_the_catalog_knows_another_file_an_entry_of_ones_own_is_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"mine")
    with pytest.raises(WeightsError) as error:
        create_generalist(f"sam-med3d-turbo={tmp_path / 'mine.pth'}")
    assert "catalog entry of your own (docs/weights.md)" in error.value.remedy
    assert "sam-med3d-turbo=" not in error.value.remedy


@pytest.mark.parametrize("name", ["sam-med3d", "sam-med3d-turbo"])
def test_what_is_not_safe_or_not_the_known_file_is_not_imported(tmp_path: Path, own_cache: Path, name: str) -> None:
    target = tmp_path / "it ran"
    torch.save({"model_state_dict": tensors(), "args": Payload(target)}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="could run code" if name == "sam-med3d" else "has SHA256"):
        import_weights(name, tmp_path / "evil.pth")
    assert not target.exists()
    assert not (own_cache / "weights").exists()
    with pytest.raises(WeightsError, match="is no file"):
        import_weights(name, tmp_path)


def test_an_import_that_does_not_fit_is_refused(tmp_path: Path, own_cache: Path) -> None:
    torch.save(tensors(), tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match="do not fit SamMed3DModel"):
        import_weights("sam-med3d", tmp_path / "mine.pth")
    assert not (own_cache / "weights").exists()


def test_an_import_too_asks_for_the_licence(tmp_path: Path, any_fits) -> None:
    torch.save(tensors(), tmp_path / "pet.pth")
    with pytest.raises(WeightsError) as error:
        import_weights("seganypet", tmp_path / "pet.pth")
    assert "state no licence" in error.value.what
    assert import_weights("seganypet", tmp_path / "pet.pth", accept_license=True).is_file()
    assert not weights_state("seganypet").needs_acknowledgement


def test_a_file_of_ones_own_is_used_without_a_question_and_the_list_says_what_asks(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "seganypet_v1.pth").touch()
    monkeypatch.setenv("SEMISAMPLUS_WEIGHTS", str(tmp_path))
    assert find_weights("seganypet").is_file()
    assert main(["weights", "list"]) == 0
    asks = "seganypet: Its licence (none stated) must be acknowledged before a download or an import."
    assert asks in capsys.readouterr().out


@pytest.mark.parametrize("installed", [True, False])
def test_what_lacks_its_package_is_not_said_to_be_ready(tmp_path: Path, monkeypatch, capsys, installed: bool) -> None:
    def version(name: str) -> str:
        assert name == "nnInteractive"
        if not installed:
            raise PackageNotFoundError(name)
        return "2.6.0"

    monkeypatch.setattr(inventory, "version", version)
    monkeypatch.setenv("SEMISAMPLUS_WEIGHTS", str(tmp_path))
    for path in place_in_own(tmp_path, catalog()["nninteractive"]).values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert weights_state("nninteractive").state == "ready"
    assert main(["generalists"]) == 0
    text = capsys.readouterr().out
    (row,) = [line for line in text.splitlines() if line.strip().startswith("nninteractive ")]
    assert ("needs package" in row) is not installed
    command = 'nninteractive: Needs a package that is not installed: pip install "nnInteractive>=2.6,<3".'
    assert (command in text) is not installed


def test_an_imported_file_that_changes_is_put_aside(tmp_path: Path, any_fits, monkeypatch, capsys) -> None:
    torch.save(tensors(), tmp_path / "mine.pth")
    imported = import_weights("sam-med3d", tmp_path / "mine.pth")
    imported.write_bytes(imported.read_bytes()[:-1] + b"?")
    assert main(["weights", "verify"]) == 1
    assert "Warning" in capsys.readouterr().out
    assert weights_state("sam-med3d").state == "missing"
    assert len(list((quarantine_folder() / "sam-med3d").iterdir())) == 1


def test_a_conversion_that_rots_is_made_again(tmp_path: Path, own_cache: Path) -> None:
    torch.save(tensors(), tmp_path / "w.pth")
    load_state(tmp_path / "w.pth")
    digest = sha256_of(tmp_path / "w.pth")
    assert check_conversion(digest)
    converted = own_cache / "converted" / f"{digest}.safetensors"
    rotten = bytearray(converted.read_bytes())
    rotten[-1] ^= 1
    converted.unlink()
    converted.write_bytes(rotten)
    assert not check_conversion(digest)
    assert not converted.exists()
    assert_same(load_state(tmp_path / "w.pth"), tensors())
    assert check_conversion(digest)


def test_a_damaged_list_of_pins_trusts_nothing(tmp_path: Path, own_cache: Path) -> None:
    own_cache.mkdir()
    (own_cache / "pins.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"pins\.json"):
        find_weights("seganypet")


def test_finding_weights_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, json; from SemiSAMPlusLib.generalist import weights, catalog, registry;"
        "catalog.catalog(); registry.generalist_names(); weights.own_folder();"
        "print(json.dumps([m for m in ('torch', 'monai', 'skimage') if m in sys.modules]))"
    )
    root = Path(weights_module.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout) == []
