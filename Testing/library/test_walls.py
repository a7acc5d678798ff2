"""The walls and the arrows of the house, read from the syntax tree of every file, and from fresh interpreters."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "SemiSAMPlusLib"

#: What stands below every room, and Room → the rooms below it that it may import. All else stands above.
_FOUNDATION = {"errors", "plugins", "__version__"}
_ROOMS: dict[str, set[str]] = {"run": set()}
_ROOMS["cohort"] = {"run"}
_ROOMS["synthesis"] = {"run"}
_ROOMS["specialist"] = _ROOMS["generalist"] = {"synthesis", "cohort", "run"}
_ROOMS["collaboration"] = {"specialist", "generalist", "cohort", "run"}
_ROOMS["evaluation"] = {"collaboration", "specialist", "generalist", "cohort", "run"}
_ROOMS["training"] = {"evaluation", *_ROOMS["evaluation"]}  # A run is not finished without its report.

#: A string that names a module of the library, or ``module:attribute``.
_NAMED = re.compile(rf"{LIBRARY}(\.\w+)+(:\w+)?")

_LIBRARY_FILES = sorted((ROOT / LIBRARY).rglob("*.py"))
_PANEL_FILES = sorted((ROOT / "SemiSAMPlus").rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _walk(node: ast.AST, *, types_too: bool) -> Iterator[ast.AST]:
    """Walk the tree, functions included, passing over ``if TYPE_CHECKING:`` unless ``types_too``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child) and not types_too:
            for other in child.orelse:
                yield from _walk(other, types_too=types_too)
        else:
            yield from _walk(child, types_too=types_too)


def _imports(source: str, package: str, *, types_too: bool = False) -> set[str]:
    """Return the full names that ``source``, a file of ``package``, imports anywhere, in functions too."""
    found = set()
    for node in _walk(ast.parse(source), types_too=types_too):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.add(_absolute(first.value, package))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAMED.fullmatch(node.value):
            found.add(node.value.replace(":", "."))  # A table that names a module to import later.
    return found


def _absolute(module: str, package: str) -> str:
    name = module.lstrip(".")
    level = len(module) - len(name)
    if level == 0:
        return name
    base = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*base, name] if name else base)


def _imports_of(path: Path, *, types_too: bool = False) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return _imports(path.read_text(encoding="utf-8"), package, types_too=types_too)


def _roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _upward(path: Path) -> set[str]:
    """Return what a file imports from the library that its room may not."""
    room = path.relative_to(ROOT / LIBRARY).parts[0]
    allowed = _FOUNDATION | {room, *_ROOMS.get(room, set())}
    inside = {name for name in _imports_of(path) if name.split(".")[0] == LIBRARY}
    return {name for name in inside if len(name.split(".")) < 2 or name.split(".")[1] not in allowed}


def test_imports_are_found_wherever_they_hide() -> None:
    source = """
from typing import TYPE_CHECKING
import torch.nn as nn
from ..run import files
from . import cohort
if TYPE_CHECKING:
    import monai
else:
    import numpy
def f():
    from ..training.trainer import train
    importlib.import_module("..commands", __package__)
TABLE = {"x": "SemiSAMPlusLib.evaluation.report:write_report"}
"""
    found = _imports(source, "SemiSAMPlusLib.cohort")
    assert found == {
        "typing.TYPE_CHECKING",
        "torch.nn",
        "SemiSAMPlusLib.run.files",
        "SemiSAMPlusLib.cohort.cohort",
        "numpy",
        "SemiSAMPlusLib.training.trainer.train",
        "SemiSAMPlusLib.commands",
        "SemiSAMPlusLib.evaluation.report.write_report",
    }
    assert "monai" in _imports(source, "SemiSAMPlusLib.cohort", types_too=True)


@pytest.mark.parametrize("path", _LIBRARY_FILES, ids=_name)
def test_the_library_knows_nothing_of_slicer(path: Path) -> None:
    assert not _roots(_imports_of(path, types_too=True)) & {"slicer", "qt", "ctk", "vtk", "mrml", "SemiSAMPlus"}


def test_the_panel_loads_no_torch() -> None:
    heavy = {_name(path): _roots(_imports_of(path)) & {"torch", "monai"} for path in _PANEL_FILES}
    assert not {name: roots for name, roots in heavy.items() if roots}


@pytest.mark.parametrize(
    "path", [p for p in _LIBRARY_FILES if p.parent != ROOT / LIBRARY or p.stem in _FOUNDATION], ids=_name
)
def test_arrows_run_one_way(path: Path) -> None:
    upward = _upward(path)
    assert not upward, f"{_name(path)} may not import {sorted(upward)}"


def test_every_room_is_on_the_plan() -> None:
    rooms = {path.relative_to(ROOT / LIBRARY).parts[0] for path in _LIBRARY_FILES if path.parent != ROOT / LIBRARY}
    assert rooms == set(_ROOMS)


def _light_modules() -> list[str]:
    """The modules that Slicer's own process imports."""
    paths = [
        *(ROOT / LIBRARY / "run").glob("*.py"),
        ROOT / LIBRARY / "cohort" / "cohort.py",
        *(ROOT / LIBRARY / "generalist" / f"{name}.py" for name in ("catalog", "weights", "inventory", "download")),
    ]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.is_file()]
    return [LIBRARY, f"{LIBRARY}.errors", *sorted(module.removesuffix(".__init__") for module in modules)]


def test_what_slicer_imports_costs_no_torch() -> None:
    heavy = ["torch", "monai", "SimpleITK", "scipy", "skimage", "matplotlib", "huggingface_hub"]
    program = f"""
import importlib, sys
for module in {_light_modules()!r}:
    importlib.import_module(module)
    loaded = [name for name in {heavy!r} if name in sys.modules]
    if loaded:
        sys.exit(f"{{module}} loads {{loaded}}")
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


_RUNS_CODE = {"joblib", "dill", "cloudpickle", "shelve", "jsonpickle"}
_UNSAFE_CALLS = {
    f"{module}.{name}"
    for module, names in {
        "pickle": ("load", "loads", "Unpickler"),
        "marshal": ("load", "loads"),
        "yaml": ("load", "load_all", "unsafe_load", "full_load"),
        "pandas": ("read_pickle",),
        "torch.jit": ("load",),
        "torch.hub": ("load",),
    }.items()
    for name in names
}


def _is_unsafe_attribute(node: ast.Call, aliases: dict[str, str]) -> bool:
    """Tell ``getattr(torch, "load")``, which would hide a call."""
    if len(node.args) < 2:
        return False
    first, *rest = ast.unparse(node.args[0]).split(".")
    name = getattr(node.args[1], "value", None)
    return ".".join([aliases.get(first, first), *rest, str(name)]) in {*_UNSAFE_CALLS, "torch.load", "numpy.load"}


def _unsafe_loads(source: str) -> list[str]:
    """Return the calls in ``source`` that can run code that a file brings along."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = [f"import {name}" for name in _imports(source, LIBRARY) if name.split(".")[0] in _RUNS_CODE]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        called = ".".join([aliases.get(first, first), *rest])
        said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if (
            called in _UNSAFE_CALLS
            or called in {"eval", "exec"}
            or (called == "torch.load" and said.get("weights_only") is not True)
            or (called == "torch.load" and "pickle_module" in said)
            or (called == "getattr" and rest == [] and _is_unsafe_attribute(node, aliases))
            or (called == "numpy.load" and said.get("allow_pickle", False) is not False)
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load('a.pt')",
        "import torch; torch.load('a.pt', weights_only=False)",
        "from torch import load; load('a.pt')",
        "import pickle as p; p.loads(b'')",
        "from pickle import Unpickler as U; U(file)",
        "import numpy as np; np.load('a.npy', allow_pickle=True)",
        "import joblib",
        "eval(text)",
        "exec(text)",
        "import yaml; yaml.load(file, Loader=yaml.Loader)",
        "import torch; torch.load('a.pt', weights_only=True, pickle_module=mine)",
        "import torch; getattr(torch, 'load')('a.pt')",
        "import pickle; pickle.Unpickler(file).load()",
        "import pandas as pd; pd.read_pickle('a.pkl')",
    ],
)
def test_unsafe_loads_are_seen(line: str) -> None:
    assert _unsafe_loads(line)


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load('a.pt', map_location='cpu', weights_only=True)",
        "import numpy as np; np.load('a.npy')",
        "import json; json.load(file)",
        "model.eval()",
        "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    pass",
    ],
)
def test_safe_loads_pass(line: str) -> None:
    assert not _unsafe_loads(line)


#: A test whose very point is what an unsafe load would do, and one that runs the examples of the documentation.
_ON_PURPOSE = {"Testing/library/test_weights.py", "Testing/library/test_cohort.py"}
_ALL_FILES = [
    *_LIBRARY_FILES,
    *_PANEL_FILES,
    *(path for folder in ("Testing", "docs") for path in (ROOT / folder).rglob("*.py")),
]


def _unnamed_encodings(source: str) -> list[int]:
    """Return the lines where a text is read or written in whatever encoding the system has."""
    given = {"read_text": 0, "write_text": 1}
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in given
        and len(node.args) <= given[node.func.attr]
        and all(keyword.arg != "encoding" for keyword in node.keywords)
    ]


@pytest.mark.parametrize("path", sorted(_ALL_FILES), ids=_name)
def test_every_text_is_read_and_written_in_a_named_encoding(path: Path) -> None:
    assert not _unnamed_encodings(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in sorted(_ALL_FILES) if _name(path) not in _ON_PURPOSE], ids=_name)
def test_no_file_can_bring_code_along(path: Path) -> None:
    assert not _unsafe_loads(path.read_text(encoding="utf-8"))


def test_what_a_checkpoint_may_hold_is_said_in_one_place() -> None:
    naming = {_name(path) for path in _LIBRARY_FILES if "safe_globals" in path.read_text(encoding="utf-8")}
    assert naming == {f"{LIBRARY}/generalist/loading.py"}


def test_no_path_of_a_developers_machine() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout, so what belongs to the repository is not known")
    absolute = re.compile(r"(?<![\w.])/(?:roo[t]|wor[k]|opt/pyp[i])/\w")
    told = []
    for name in filter(None, names):
        path = ROOT / name
        if not path.is_file() or b"\0" in (data := path.read_bytes()):
            continue
        for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
            if absolute.search(line):
                told.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not told, "\n".join(told)
