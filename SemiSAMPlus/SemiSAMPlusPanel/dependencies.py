"""The Python packages that the child process needs: found missing, and installed when the user agrees.

torch comes from the PyTorch extension, everything else from PyPI as wheels, through Slicer's own functions. What is
Slicer's own (numpy, SimpleITK) is pinned to the version that is there, so pip refuses rather than replaces it.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import slicer

from SemiSAMPlusLib.errors import SemiSAMPlusError

from .job import child_environment, library_command, wait_a_little
from .text import _

Progress = Callable[[str], None]

#: What pip must leave as it is: Slicer was built with it, or the PyTorch extension chose it.
_KEPT = ("numpy", "SimpleITK", "torch", "torchvision")
#: What must not have changed after an installation.
_SLICERS_OWN = ("numpy", "SimpleITK")
#: About how much is downloaded for each package with what it brings along, in MB; 5 for those not named.
_MEGABYTES = {"torch": 2500, "scipy": 38, "matplotlib": 25, "scikit-image": 20, "huggingface-hub": 8, "monai": 3}
#: On macOS torch comes without CUDA.
_TORCH_MEGABYTES_MACOS = 100
#: Distribution → the module to import, where their names differ.
_MODULES = {"scikit-image": "skimage", "huggingface-hub": "huggingface_hub"}

_CHECK = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"


class SlicerInstaller:
    """Installs what is missing into Slicer's Python.

    Args:
        requirements: The list of requirements; the module's own by default.
    """

    def __init__(self, requirements: Path | None = None) -> None:
        own = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
        self._file = own if requirements is None else Path(requirements)

    def missing(self) -> list[str]:
        """Return the requirements that are not met, empty where all is there; takes a few milliseconds."""
        importlib.invalidate_caches()
        return [line for line in self._requirements() if not _is_met(line)]

    def summary(self) -> str:
        """Return what would be installed and about how large it is, to be agreed to."""
        missing = self.missing()
        if not missing:
            return _("Everything is installed.")
        size = sum(_megabytes(_name(line)) for line in missing)
        text = _("{packages} will be downloaded (about {size}) and installed into Slicer's own Python.").format(
            packages=", ".join(map(_name, missing)),
            size=f"{size / 1000:.1f} GB" if size >= 1000 else f"{size} MB",
        )
        return f"{text} {_('Slicer’s numpy and SimpleITK stay as they are.')}"

    def install(self, progress: Progress) -> bool:
        """Install what is missing, saying each step; Slicer stays alive where it can, and nothing is asked.

        Args:
            progress: Called with each line.

        Returns:
            Whether Slicer must be restarted, because something that was in use has been replaced.

        Raises:
            SemiSAMPlusError: If it does not succeed; nothing of Slicer's own was replaced.
        """
        missing = self.missing()
        before = _versions(metadata.distributions())
        for line in missing:
            if _name(line) == "torch":
                _install_torch(line, progress)
        others = [line for line in missing if _name(line) != "torch"]
        if others:
            self._install_from_pypi(others, progress)
        self._require_unharmed(before)
        progress(_("Checking that everything can be imported …"))
        self._check_imports()
        after = _versions(metadata.distributions())
        replaced = [name for name, version in before.items() if after.get(name, version) != version]
        progress(_("Done."))
        return any(module in sys.modules for name in replaced for module in _modules_of(name))

    def _requirements(self) -> list[str]:
        lines = (line.partition("#")[0].strip() for line in self._file.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line]

    def _install_from_pypi(self, requirements: list[str], progress: Progress) -> None:
        progress(_("Installing {packages} …").format(packages=", ".join(map(_name, requirements))))
        with tempfile.TemporaryDirectory(prefix="SemiSAMPlus-") as folder:
            constraints = Path(folder) / "constraints.txt"
            pins = [f"{name}=={version}" for name in _KEPT if (version := _version(name)) is not None]
            constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
            # Sources would be compiled on the user's computer, which has no compiler.
            arguments = [*requirements, "--only-binary", ":all:"]
            try:
                _pip_install(arguments, constraints, progress)
            except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
                what = _("The packages could not be installed ({reason}).").format(
                    reason=str(error) or type(error).__name__
                )
                remedy = _(
                    "Check the network and the free disk space, and try again; Slicer's Python console shows the output of pip."
                )
                raise SemiSAMPlusError(what, remedy) from error

    def _require_unharmed(self, before: dict[str, str]) -> None:
        importlib.invalidate_caches()
        for name in _SLICERS_OWN:
            was, now = before.get(_plain(name)), _version(name)
            if was is not None and now != was:
                what = _("The installation replaced Slicer's {package} {was} by {now}.").format(
                    package=name, was=was, now=now
                )
                remedy = _("Restore it with slicer.util.pip_install('{package}=={was}'), and restart Slicer.")
                raise SemiSAMPlusError(what, remedy.format(package=name, was=was))

    def _check_imports(self) -> None:
        """Import everything in a child process: Slicer's own stays light."""
        modules = [_MODULES.get(_name(line), _name(line)) for line in self._requirements()]
        command = [library_command()[0], "-c", _CHECK, *modules]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=child_environment()
            )
            while process.poll() is None:
                wait_a_little(0.05)
            output.seek(0)
            lines = output.read().decode("utf-8", errors="replace").strip().splitlines()
        if process.returncode != 0:
            what = _("Not everything that was installed can be imported ({reason}).").format(
                reason=lines[-1] if lines else process.returncode
            )
            raise SemiSAMPlusError(what, _("Restart Slicer and try again, or reinstall the package that is named."))


def _install_torch(requirement: str, progress: Progress) -> None:
    """Let the PyTorch extension choose and install torch; Slicer waits while it does."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        what = _("The extension 'PyTorch', which installs torch, is not installed.")
        remedy = _("Install 'PyTorch' in the Extensions Manager, restart Slicer, and try again.")
        raise SemiSAMPlusError(what, remedy) from None
    progress(_("Installing torch with the PyTorch extension; this takes minutes, and Slicer waits for it …"))
    wait_a_little(0.0)  # So that the line is seen.
    try:
        installed = PyTorchUtilsLogic().installTorch(
            askConfirmation=False, torchVersionRequirement=requirement.removeprefix("torch")
        )
    except Exception as error:  # What an extension raises is its own affair; the user wants to know of it in words.
        what = _("torch could not be installed ({reason}).").format(reason=error)
        raise SemiSAMPlusError(what, _("Install it in the module 'PyTorch Utils', and try again.")) from error
    if installed is None:
        raise SemiSAMPlusError(
            _("torch was not installed."), _("Install it in the module 'PyTorch Utils', and try again.")
        )


def _pip_install(arguments: list[str], constraints: Path, progress: Progress) -> None:
    """Run pip by Slicer's own function: from 5.12 on beside the user's work, before that while Slicer waits.

    Raises:
        subprocess.CalledProcessError: If pip fails.
    """
    try:
        from slicer import packaging
    except ImportError:
        slicer.util.pip_install([*arguments, "--constraint", str(constraints)])
        return
    ended: list[int] = []
    packaging.pip_install(
        arguments,
        constraints=constraints,
        blocking=False,
        show_progress=False,
        requester="SemiSAMPlus",
        logCallback=progress,
        completedCallback=ended.append,
    )
    # Where there is no application to wait in, or it is being tested, it has returned only now and calls nobody.
    while not ended and getattr(packaging, "isPipInstallInProgress", lambda: False)():
        wait_a_little(0.05)
    if ended and ended[0] != 0:
        raise subprocess.CalledProcessError(ended[0], "pip install")


def _is_met(requirement: str) -> bool:
    version = _version(_name(requirement))
    if version is None:
        return False
    with suppress(ImportError):
        from packaging.requirements import Requirement

        return Requirement(requirement).specifier.contains(version, prereleases=True)
    return True


def _name(requirement: str) -> str:
    """Return the package of a requirement such as ``monai>=1.4``."""
    for index, character in enumerate(requirement):
        if not (character.isalnum() or character in "-_."):
            return requirement[:index]
    return requirement


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions(distributions: Iterable[Any]) -> dict[str, str]:
    found = {}
    for one in distributions:
        with suppress(KeyError, TypeError, AttributeError):  # Leftovers of packages that were removed by hand.
            found[_plain(one.metadata["Name"])] = one.version
    return found


def _modules_of(name: str) -> list[str]:
    """Return the modules that a distribution brings."""
    with suppress(metadata.PackageNotFoundError):
        files = metadata.distribution(name).files or []
        return sorted({file.parts[0].removesuffix(".py") for file in files if file.parts and file.suffix == ".py"})
    return []


def _megabytes(name: str) -> int:
    if name == "torch" and sys.platform == "darwin":
        return _TORCH_MEGABYTES_MACOS
    return _MEGABYTES.get(name, 5)
