"""The catalog of generalists, and making them by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import jsonschema
import pytest
import torch

from SemiSAMPlusLib import plugins
from SemiSAMPlusLib.commands import main
from SemiSAMPlusLib.errors import ConfigError, WeightsError
from SemiSAMPlusLib.generalist import catalog as catalog_module
from SemiSAMPlusLib.generalist import registry
from SemiSAMPlusLib.generalist.catalog import CatalogEntry, catalog
from SemiSAMPlusLib.generalist.registry import create_generalist, generalist_names


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("SEMISAMPLUS_WEIGHTS", "SEMISAMPLUS_CATALOG", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield
    catalog.cache_clear()


SCHEMA = json.loads(Path(catalog_module.__file__).with_name("catalog.schema.json").read_text(encoding="utf-8"))
CATALOG = json.loads(Path(catalog_module.__file__).with_name("catalog.json").read_text(encoding="utf-8"))


def changed(name: str, /, **changes) -> dict:
    """The catalog of one entry, with changes."""
    (entry,) = [one for one in CATALOG["generalists"] if one["name"] == name]
    return {"format": CATALOG["format"], "generalists": [{**entry, **changes}]}


def test_the_catalog_has_the_generalists_that_are_promised() -> None:
    promised = ["random-walker", "sam-med3d", "sam-med3d-turbo", "sam-med3d-turbo-cvpr", "seganypet", "nninteractive"]
    assert [name for name in catalog() if name in promised] == promised


def test_the_catalog_is_as_its_schema_says() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(CATALOG, SCHEMA)
    assert set(SCHEMA["$defs"]["generalist"]["properties"]) == {field.name for field in fields(CatalogEntry)}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "SAM"},
        {"purpose": "No full stop"},
        {"modalities": []},
        {"modalities": ["X-ray"]},
        {"revision": "07f6f69"},  # Shortened, and so no pin.
        {"revision": None},
        {"unverified": []},
        {"unverified": ["revision", "sha256"]},
        {"revision": "0" * 40},  # Then nothing is unverified.
        {"repository": None},
        {"files": []},
        {"files": [{"path": "../x", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "x", "size": 0, "sha256": "0" * 64}]},
        {"files": [{"path": "x", "size": 1, "sha256": "0" * 63}]},
        {"files": [{"path": "x", "size": 1, "sha256": None}]},
        {"weights_license": "free for research"},
        {"memory": 0},
        {"color": "red"},
    ],
)
def test_the_schema_refuses_what_is_wrong(changes: dict) -> None:
    jsonschema.validate(changed("sam-med3d-turbo"), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed("sam-med3d-turbo", **changes), SCHEMA)


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_an_entry_is_whole(entry) -> None:
    assert entry.adapter in registry._ADAPTERS
    assert entry.needs_weights == bool(entry.files) == (entry.size != 0)
    assert ("sha256" in entry.unverified) == any(file.sha256 is None for file in entry.files)
    assert ("revision" in entry.unverified) == (entry.repository is not None and entry.pinned_commit is None)


def test_files_have_names_of_their_own() -> None:
    files = [entry.file for entry in catalog().values() if len(entry.files) == 1]
    assert len(files) == len(set(files))


@pytest.mark.parametrize(
    ("code", "weights", "needed"),
    [
        ("Apache-2.0", "Apache-2.0", False),
        ("MIT", "CC-BY-4.0", False),
        ("Apache-2.0", "CC-BY-NC-SA-4.0", True),
        ("GPL-3.0-only", "MIT", True),
        (None, "MIT", True),
        ("MIT", None, True),
    ],
)
def test_restrictive_and_missing_licences_need_to_be_acknowledged(code, weights, needed: bool) -> None:
    entry = replace(catalog()["sam-med3d"], code_license=code, weights_license=weights)
    assert entry.needs_acknowledgement == needed
    assert (code or "none stated") in entry.license
    assert (weights or "none stated") in entry.license


# A catalog of one's own


def own_catalog(path: Path, monkeypatch: pytest.MonkeyPatch, data: object) -> None:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    monkeypatch.setenv("SEMISAMPLUS_CATALOG", str(path))
    catalog.cache_clear()


def test_a_catalog_of_ones_own_adds_and_replaces(tmp_path: Path, monkeypatch, capsys) -> None:
    mirror = changed("sam-med3d-turbo", repository="institute/SAM-Med3D")
    mirror["generalists"] += changed("sam-med3d", name="ours", title="Ours")["generalists"]
    own_catalog(tmp_path / "eigener Katalog ü.json", monkeypatch, mirror)
    assert catalog()["sam-med3d-turbo"].repository == "institute/SAM-Med3D"
    assert list(catalog())[-1] == "ours"
    assert generalist_names()[: len(catalog())] == tuple(catalog())
    with pytest.raises(WeightsError, match="ours: the file of weights"):
        create_generalist("ours")
    assert main(["weights", "list"]) == 0
    assert "ours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ({"format": "another-1"}, "'another-1', expected 'semisamplus-catalog-1'"),
        ([], "has format None"),
        (changed("sam-med3d", color="red"), "entry 1 is not whole ('color' is unknown)"),
        (changed("sam-med3d", files=[{"path": "../../x", "size": 1, "sha256": None}]), "'../../x' is no path"),
        (changed("sam-med3d", files=[{"path": "x", "size": 1, "sha256": "0"}]), "'0' is no SHA256"),
        (changed("sam-med3d", files=["x"]), "entry 1 is not whole"),
        (changed("sam-med3d", name="../x"), "'../x' is no name"),
        ({"format": CATALOG["format"], "generalists": ["x"]}, "entry 1 is not whole"),
    ],
)
def test_a_catalog_of_ones_own_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch, capsys, data, reason) -> None:
    file = tmp_path / "own.json"
    if data is None:
        monkeypatch.setenv("SEMISAMPLUS_CATALOG", str(file))
        catalog.cache_clear()
    else:
        own_catalog(file, monkeypatch, data)
    with pytest.raises(ConfigError) as error:
        catalog()
    assert str(file) in error.value.what
    assert reason in error.value.what
    assert "SEMISAMPLUS_CATALOG" in error.value.remedy
    assert main(["weights", "list"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_an_adapter_that_this_version_lacks_is_named(tmp_path: Path, monkeypatch) -> None:
    own_catalog(tmp_path / "own.json", monkeypatch, changed("sam-med3d", adapter="sam-9"))
    with pytest.raises(ConfigError, match="adapter 'sam-9'"):
        create_generalist(f"sam-med3d={tmp_path / 'own.json'}")


# What is told, and what is made


def test_contamination_and_missing_licences_are_told() -> None:
    for name in ("sam-med3d", "sam-med3d-turbo", "sam-med3d-turbo-cvpr"):
        assert "left atrium" in catalog()[name].contamination
        assert "BraTS19" in catalog()[name].contamination
    assert catalog()["seganypet"].weights_license is None


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError) as error:
        create_generalist("sam-3d")
    assert "'sam-3d'" in error.value.what
    assert all(name in error.value.remedy for name in catalog())


@pytest.mark.parametrize("spec", ["random-walker=x.pth", "sam-med3d=", "sam-med3d= "])
def test_a_file_where_none_belongs_and_none_where_one_belongs(spec: str) -> None:
    with pytest.raises(ConfigError, match="Give it as"):
        create_generalist(spec)


def test_the_random_walker_needs_nothing() -> None:
    assert create_generalist("random-walker").name == "random-walker"


@pytest.mark.parametrize("name", [entry.name for entry in catalog().values() if entry.needs_weights])
def test_a_generalist_without_its_weights_says_so(name: str) -> None:
    with pytest.raises(WeightsError, match=catalog()[name].file):
        create_generalist(name)


def test_a_file_that_is_not_the_named_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine=v2.pth"
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="has SHA256"):
        create_generalist(f"sam-med3d-turbo={file}")
    with pytest.raises(WeightsError, match="do not fit"):
        create_generalist(f"sam-med3d={file}")


class Own:
    """A user's generalist."""

    name, spacing = "own", None

    def __init__(self, *, device) -> None:
        self.device = device

    def embed(self, volume):
        return volume

    def answer(self, embedding, prompt_sets, region):
        raise NotImplementedError


def offer(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = EntryPoints(EntryPoint(name, value, "semisamplus.generalists") for name, value in points.items())
    monkeypatch.setattr(plugins, "entry_points", lambda group: found.select(group=group))


def test_a_users_own_generalist_is_made_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("SemiSAMPlusLib.errors.Own", Own, raising=False)  # A module that every importer finds.
    offer(monkeypatch, own="SemiSAMPlusLib.errors:Own")
    assert generalist_names() == (*catalog(), "own")
    made = create_generalist("own", "cpu")
    assert isinstance(made, Own)
    assert made.device == "cpu"
    with pytest.raises(ConfigError, match="takes no file"):
        create_generalist("own=x")


@pytest.mark.parametrize(
    "value", ["no_such_module:x", "SemiSAMPlusLib.errors:nothing", "SemiSAMPlusLib.errors:summary"]
)
def test_a_users_generalist_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    offer(monkeypatch, broken=value)
    with pytest.raises(ConfigError, match=r"'broken' .*cannot be (made|imported)"):
        create_generalist("broken")


def test_a_users_generalist_does_not_take_the_place_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, **{"random-walker": "no_such_module:x"})
    assert create_generalist("random-walker").name == "random-walker"
    assert generalist_names() == tuple(catalog())
