"""What the pages name is there: files, headings, pictures, commands and flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from SemiSAMPlusLib.commands import _COMMANDS, main
from SemiSAMPlusLib.weights_commands import COMMANDS as WEIGHTS_COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "Testing" / "host" / "README.md"]
#: Where a page may start from when it names a file.
_PLACES = (
    "",
    "SemiSAMPlusLib",
    "SemiSAMPlusLib/generalist/synthetic",
    "SemiSAMPlusLib/specialist/pretrained",
    "SemiSAMPlusLib/synthesis",
    "Testing/benchmarks",
    "Testing/host",
)
#: Pages whose flags are those of ``semisamplus`` alone, and what they name of Slicer's own.
_COMMAND_PAGES = ("README.md", "method.md", "pretrained.md", "recipes.md", "slicer.md", "weights.md")
_SLICERS_OWN = {"--no-main-window", "--python-script"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@each_page
def test_every_source_file_that_is_named_is_there(page: Path) -> None:
    names = re.findall(r"`([\w./]+\.py)\b", page.read_text(encoding="utf-8"))
    lost = [name for name in names if not any((ROOT / place / name).is_file() for place in _PLACES)]
    assert not lost


def test_every_flag_that_is_named_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    for command in [*([name] for name in _COMMANDS), *(["weights", name] for name in WEIGHTS_COMMANDS)]:
        assert main([*command, "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) | {"--traceback"} | _SLICERS_OWN
    for page in PAGES:
        if page.name in _COMMAND_PAGES and page.parent.name != "host":
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text(encoding="utf-8")))
            assert named <= known, page.name


def test_every_command_stands_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lacking = [name for name in _COMMANDS if not re.search(rf"`?semisamplus {name}\b", text)]
    assert not lacking
