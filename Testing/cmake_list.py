"""Write SemiSAMPlusLib/CMakeLists.txt: Slicer packages only the files that are listed there.

Run it after adding or removing a file: ``make cmake-list``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "SemiSAMPlusLib"

_TEMPLATE = """\
# Written by `make cmake-list`; Slicer packages only what is listed here.

set(MODULE_PYTHON_SCRIPTS
{scripts}
  )

set(MODULE_PYTHON_RESOURCES
{resources}
  )

slicerMacroBuildScriptedModule(
  NAME {library}
  SCRIPTS ${{MODULE_PYTHON_SCRIPTS}}
  RESOURCES ${{MODULE_PYTHON_RESOURCES}}
  WITH_SUBDIR
  )
"""


def packaged_files(root: Path = ROOT) -> list[str]:
    """Return the library's files that git tracks or would track, relative to the library's folder, sorted."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", LIBRARY]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [root / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):  # A source archive has no git: then everything in it counts.
        paths = [path for path in (root / LIBRARY).rglob("*") if "__pycache__" not in path.parts]
    names = {path.relative_to(root / LIBRARY).as_posix() for path in paths if path.is_file()}
    return sorted(name for name in names if Path(name).name != "CMakeLists.txt")


def cmake_list(files: list[str]) -> str:
    """Return the text of the library's CMakeLists.txt for ``files``."""

    def lines(names: list[str]) -> str:
        return "\n".join(f"  {name}" for name in names)

    scripts = [name for name in files if name.endswith(".py")]
    resources = [name for name in files if not name.endswith(".py")]
    return _TEMPLATE.format(library=LIBRARY, scripts=lines(scripts), resources=lines(resources))


if __name__ == "__main__":
    target = ROOT / LIBRARY / "CMakeLists.txt"
    target.write_text(cmake_list(packaged_files()), encoding="utf-8", newline="\n")
    print(f"{target.relative_to(ROOT)}: {len(packaged_files())} files")
