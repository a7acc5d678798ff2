"""Everything the library needs is packaged: by Slicer's CMake list, and by pip."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import cmake_list
import pytest

import SemiSAMPlusLib

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = (cmake_list.LIBRARY, cmake_list.MODULE)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _listed(folder: str) -> set[str]:
    text = (ROOT / folder / "CMakeLists.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"set\(MODULE_PYTHON_(?:SCRIPTS|RESOURCES)\n(.*?)\n\s*\)", text, re.DOTALL)
    assert len(blocks) == 2
    return {name for block in blocks for name in block.split()}


@pytest.mark.parametrize("folder", _FOLDERS)
def test_every_file_is_listed_for_slicer(folder: str) -> None:
    missing = set(cmake_list.packaged_files(folder=folder)) - _listed(folder)
    assert not missing, f"not in {folder}/CMakeLists.txt: {sorted(missing)}; run `make cmake-list`"


@pytest.mark.parametrize("folder", _FOLDERS)
def test_every_file_listed_for_slicer_exists(folder: str) -> None:
    gone = {name for name in _listed(folder) if not (ROOT / folder / name).is_file()}
    assert not gone, f"in {folder}/CMakeLists.txt but missing: {sorted(gone)}; run `make cmake-list`"


def test_the_module_brings_what_it_asks_for() -> None:
    listed = _listed(cmake_list.MODULE)
    assert {"SemiSAMPlus.py", "SemiSAMPlusPanel/__init__.py"} <= listed
    assert {"Resources/Icons/SemiSAMPlus.png", "Resources/requirements.txt", "Resources/UI/SemiSAMPlus.ui"} <= listed


def test_nothing_but_the_module_lies_where_slicer_looks_for_modules() -> None:
    # Slicer takes every .py file there for a module.
    assert [path.name for path in (ROOT / cmake_list.MODULE).glob("*.py")] == ["SemiSAMPlus.py"]


def test_the_modules_own_test_is_registered() -> None:
    text = (ROOT / cmake_list.MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "slicer_add_python_unittest(SCRIPT SemiSAMPlus.py)" in text
    assert "WITH_GENERIC_TESTS" in text
    assert "add_subdirectory(SemiSAMPlus)" in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def test_the_extensions_index_is_told_what_cmake_says() -> None:
    described = json.loads((ROOT / "SemiSAMPlus.json").read_text(encoding="utf-8"))
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    said = dict(re.findall(r'set\(EXTENSION_(\w+) "(.*)"\)', text))
    assert described["category"] == said["CATEGORY"]
    assert described["build_dependencies"] == said["DEPENDS"].split()
    assert described["scm_url"] == said["HOMEPAGE"] + ".git"
    assert set(described) == {
        "$schema",
        "category",
        "scm_url",
        "scm_revision",
        "scm_type",
        "build_dependencies",
        "build_subdirectory",
        "tier",
    }


def test_the_package_and_the_citation_name_the_extensions_repository(project: dict) -> None:
    repository = json.loads((ROOT / "SemiSAMPlus.json").read_text(encoding="utf-8"))["scm_url"].removesuffix(".git")
    assert project["project"]["urls"]["Repository"] == repository
    assert f"\nrepository-code: {repository}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_module_installs_what_the_library_needs(project: dict) -> None:
    lines = (ROOT / "SemiSAMPlus" / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = {line for line in lines if line and not line.startswith("#")}
    slicers_own = {"numpy", "SimpleITK"}
    needed = {line for line in project["project"]["dependencies"] if re.match(r"[\w.-]+", line)[0] not in slicers_own}
    assert asked == needed


def test_the_list_puts_scripts_and_resources_apart() -> None:
    text = cmake_list.cmake_list(["__init__.py", "py.typed", "run/config.py"])
    scripts, resources = text.split("set(MODULE_PYTHON_RESOURCES")
    assert "  run/config.py\n" in scripts
    assert "py.typed" not in scripts
    assert "  py.typed\n" in resources


def test_pip_packages_every_data_file(project: dict) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    data = [name for name in cmake_list.packaged_files() if not name.endswith(".py")]
    assert "py.typed" in data
    lost = [name for name in data if not any(fnmatch(Path(name).name, pattern) for pattern in patterns)]
    assert not lost, f"pyproject.toml's package-data leaves out {lost}"


def test_every_folder_with_python_files_is_a_package() -> None:
    folders = {Path(name).parent for name in cmake_list.packaged_files() if name.endswith(".py")}
    bare = [folder for folder in folders if not (ROOT / "SemiSAMPlusLib" / folder / "__init__.py").is_file()]
    assert not bare


def test_every_dependency_is_pinned(project: dict) -> None:
    def normalised(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in pins)
    pinned = {normalised(line) for line in pins}
    wanted = {normalised(r) for r in [*project["project"]["dependencies"], *_extras(project)]}
    assert wanted <= pinned, f"constraints.txt lacks {sorted(wanted - pinned)}"


def _extras(project: dict) -> list[str]:
    return [requirement for extra in project["project"]["optional-dependencies"].values() for requirement in extra]


def test_the_version_has_one_source(project: dict) -> None:
    assert "version" in project["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+([.-]?\w+)?", SemiSAMPlusLib.__version__)


@pytest.mark.parametrize("name", sorted(SemiSAMPlusLib.__all__))
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(SemiSAMPlusLib, name) is not None
    assert name in dir(SemiSAMPlusLib)


def test_the_icon_is_what_slicer_shows() -> None:
    header = (ROOT / "SemiSAMPlus.png").read_bytes()[:26]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (128, 128)
    assert header[25] == 6, "the icon needs an alpha channel: it stands on light and on dark"
