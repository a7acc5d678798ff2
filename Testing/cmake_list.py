"""Write the CMakeLists.txt of library and module: Slicer packages only the files that are listed there.

Run it after adding or removing a file: ``make cmake-list``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY, MODULE = "SemiSAMPlusLib", "SemiSAMPlus"

_TEMPLATE = """\
# Written by `make cmake-list`; Slicer packages only what is listed here.

set(MODULE_PYTHON_SCRIPTS
{scripts}
  )

set(MODULE_PYTHON_RESOURCES
{resources}
  )

slicerMacroBuildScriptedModule(
  NAME {name}
  SCRIPTS ${{MODULE_PYTHON_SCRIPTS}}
  RESOURCES ${{MODULE_PYTHON_RESOURCES}}
  {option}
  )
"""
#: The module's own tests: that Slicer can load it at all, and the round of SemiSAMPlusTest.
_TESTS = """
if(BUILD_TESTING)
  slicer_add_python_unittest(SCRIPT {name}.py)
endif()
"""


def packaged_files(root: Path = ROOT, folder: str = LIBRARY) -> list[str]:
    """Return the files of ``folder`` that git tracks or would track, relative to it, sorted."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", folder]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [root / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # A source archive has no git: then everything in it counts.
        paths = [path for path in (root / folder).rglob("*") if "__pycache__" not in path.parts]
    names = {path.relative_to(root / folder).as_posix() for path in paths if path.is_file()}
    return sorted(name for name in names if Path(name).name != "CMakeLists.txt")


def cmake_list(files: list[str], name: str = LIBRARY) -> str:
    """Return the text of CMakeLists.txt for the ``files`` of the library or of the module."""

    def lines(names: list[str]) -> str:
        return "\n".join(f"  {one}" for one in names)

    scripts = [one for one in files if one.endswith(".py")]
    resources = [one for one in files if not one.endswith(".py")]
    # The library is a folder beside the module's; the module's files lie where Slicer looks for modules.
    option = "WITH_SUBDIR" if name == LIBRARY else "WITH_GENERIC_TESTS"
    text = _TEMPLATE.format(name=name, scripts=lines(scripts), resources=lines(resources), option=option)
    return text if name == LIBRARY else text + _TESTS.format(name=name)


if __name__ == "__main__":
    for folder in (LIBRARY, MODULE):
        target = ROOT / folder / "CMakeLists.txt"
        files = packaged_files(folder=folder)
        target.write_text(cmake_list(files, folder), encoding="utf-8", newline="\n")
        print(f"{target.relative_to(ROOT)}: {len(files)} files")
