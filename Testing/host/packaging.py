"""``slicer.packaging`` with the signatures of Slicer 5.12: what was to be installed is written down, and nothing is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from .dialogs import conversation

__all__ = ["load_requirements", "pip_check", "pip_ensure", "pip_install", "pip_uninstall"]

Requirements = str | Requirement | Sequence[str | Requirement]


@dataclass
class Recorded:
    """One call that would have changed the environment.

    Attributes:
        function: "pip_install" or "pip_uninstall".
        requirements: What was asked for.
        options: The options that were given.
    """

    function: str
    requirements: list[str]
    options: dict[str, Any] = field(default_factory=dict)


class Environment:
    """What the tests see and say of the Python environment.

    Attributes:
        recorded: Every call, in order.
        installed: Names that count as installed; None asks the Python that runs the tests.
        failure: What the next installation raises.
    """

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.installed: set[str] | None = None
        self.failure: Exception | None = None

    def clear(self) -> None:
        """Forget the calls, and see the real environment again."""
        self.__init__()  # type: ignore[misc]


environment = Environment()


def load_requirements(path: str | Path) -> list[Requirement]:
    """Read a requirements file; comments and pip's options are passed over."""
    lines = (line.partition("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def pip_check(req: Requirements) -> bool:
    """Return whether every requirement is met; one whose marker does not fit counts as met."""
    return all(_is_met(Requirement(text)) for text in _texts(req))


def pip_ensure(
    requirements: Requirements,
    constraints: str | Path | None = None,
    skip_packages: list[str] | None = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> list[str] | None:
    """Install what is missing, after asking.

    Raises:
        RuntimeError: If the answer is no.
    """
    missing = [text for text in _texts(requirements) if not pip_check(text)]
    if not missing:
        return None
    if prompt_install and not conversation.tell(
        "question", f"Install {', '.join(missing)}?", False, requester=requester
    ):
        msg = "The user declined the installation"
        raise RuntimeError(msg)
    return pip_install(missing, constraints, None, skip_packages, True, show_progress, requester)


def pip_install(
    requirements: str | list[str],
    constraints: str | Path | None = None,
    no_deps_requirements: str | list[str] | None = None,
    skip_packages: list[str] | None = None,
    blocking: bool = True,
    show_progress: bool = True,
    requester: str | None = None,
    logCallback: Callable[[str], None] | None = None,
    completedCallback: Callable[[int], None] | None = None,
) -> list[str] | None:
    """Write down what was to be installed, and report success or the failure that the test prepared.

    Raises:
        ValueError: If options are combined that exclude each other.
    """
    if skip_packages is not None and (no_deps_requirements is not None or not blocking):
        msg = "skip_packages goes neither with no_deps_requirements nor with blocking=False"
        raise ValueError(msg)
    options = {"constraints": constraints, "no_deps_requirements": no_deps_requirements, "skip_packages": skip_packages}
    options |= {"blocking": blocking, "show_progress": show_progress, "requester": requester}
    texts = _texts(requirements)
    environment.recorded.append(Recorded("pip_install", texts, options))
    failure, environment.failure = environment.failure, None
    if logCallback is not None and not blocking:
        logCallback(f"Collecting {' '.join(texts)}")
    if failure is None and environment.installed is not None:
        environment.installed.update(Requirement(text).name for text in texts if not text.startswith("-"))
    if blocking and failure is not None:
        raise failure
    if completedCallback is not None and not blocking:
        completedCallback(0 if failure is None else 1)
    return None if skip_packages is None else []


def pip_uninstall(
    requirements: str | list[str],
    blocking: bool = True,
    logCallback: Callable[[str], None] | None = None,
    completedCallback: Callable[[int], None] | None = None,
) -> None:
    """Write down what was to be removed."""
    environment.recorded.append(Recorded("pip_uninstall", _texts(requirements), {"blocking": blocking}))
    if completedCallback is not None and not blocking:
        completedCallback(0)


def _texts(requirements: Requirements) -> list[str]:
    if isinstance(requirements, str):
        return requirements.split()
    return [str(requirements)] if isinstance(requirements, Requirement) else [str(one) for one in requirements]


def _is_met(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    if environment.installed is not None:
        return requirement.name in environment.installed
    try:
        return version(requirement.name) in requirement.specifier
    except PackageNotFoundError:
        return False
