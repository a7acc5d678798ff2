"""The catalog of generalists, and making them by name."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch

from SemiSAMPlusLib import plugins
from SemiSAMPlusLib.errors import ConfigError, WeightsError
from SemiSAMPlusLib.generalist.catalog import catalog
from SemiSAMPlusLib.generalist.registry import create_generalist, generalist_names


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISAMPLUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEMISAMPLUS_WEIGHTS", raising=False)


def test_the_catalog_has_the_generalists_that_are_promised() -> None:
    assert list(catalog()) == ["random-walker", "sam-med3d", "sam-med3d-turbo", "sam-med3d-turbo-cvpr", "seganypet"]


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_an_entry_is_whole(entry) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.name)
    assert entry.title
    assert entry.purpose.endswith(".")
    assert entry.citation
    assert entry.memory > 0
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.repository is None or re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repository)
    assert (entry.repository is None) == (entry.revision is None)
    assert entry.needs_weights == (entry.file is not None) == (entry.size != 0)
    assert entry.file is None or Path(entry.file).name == entry.file
    if entry.repository and entry.revision_verified:
        assert re.fullmatch(r"[0-9a-f]{40}", entry.revision)


def test_files_have_names_of_their_own() -> None:
    files = [entry.file for entry in catalog().values() if entry.file]
    assert len(files) == len(set(files))


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
