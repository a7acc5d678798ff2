"""Dependencies are installed by Slicer's own functions, when asked, and nothing of Slicer's is replaced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from SemiSAMPlusLib.errors import SemiSAMPlusError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(scene: Any) -> Any:
    from SemiSAMPlusPanel import dependencies

    return dependencies


@pytest.fixture
def requirements(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str) -> Path:
        path = tmp_path / "requirements.txt"
        path.write_text("# What is needed\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


class FakePackaging(ModuleType):
    """``slicer.packaging`` as Slicer 5.12 has it, which writes down what it is asked."""

    def __init__(self, code: int = 0, polls: int = 3) -> None:
        super().__init__("slicer.packaging")
        self.calls: list[tuple[list[str], dict[str, Any]]] = []
        self.constraints = ""
        self.code, self.polls = code, polls
        self._complete: Callable[[int], None] | None = None

    def pip_install(self, requirements: list[str], **options: Any) -> None:
        self.calls.append((requirements, options))
        self.constraints = Path(options["constraints"]).read_text(encoding="utf-8")
        options["logCallback"]("Collecting …")
        self._complete = options["completedCallback"]

    def isPipInstallInProgress(self) -> bool:
        self.polls -= 1
        if self.polls == 0:
            self._complete(self.code)
        return self.polls > 0


@pytest.fixture
def packaging(monkeypatch: pytest.MonkeyPatch, module: Any) -> Callable[..., FakePackaging]:
    import slicer

    def put(**options: Any) -> FakePackaging:
        fake = FakePackaging(**options)
        monkeypatch.setitem(sys.modules, "slicer.packaging", fake)
        monkeypatch.setattr(slicer, "packaging", fake, raising=False)
        monkeypatch.setattr(module.SlicerInstaller, "_check_imports", lambda self: None)
        return fake

    return put


def test_what_is_missing_is_told_by_version(module: Any, requirements: Any) -> None:
    path = requirements("numpy>=1.0", "psutil>=999", "a-package-that-is-not-there>=1")
    assert module.SlicerInstaller(path).missing() == ["psutil>=999", "a-package-that-is-not-there>=1"]


def test_the_modules_own_list_is_what_is_asked_for(module: Any) -> None:
    assert module.SlicerInstaller()._file == ROOT / "SemiSAMPlus" / "Resources" / "requirements.txt"
    assert module.SlicerInstaller().missing() == [], "the tests' environment has everything"


def test_the_summary_says_what_and_how_much(module: Any, requirements: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_met", lambda line: line.startswith("psutil"))
    monkeypatch.setattr(module.sys, "platform", "linux")
    text = module.SlicerInstaller(requirements("torch>=2.6", "psutil>=5", "monai>=1.4")).summary()
    assert "torch, monai" in text
    assert "psutil" not in text
    assert "2.5 GB" in text
    assert "numpy" in text
    assert "Everything" in module.SlicerInstaller(requirements("psutil>=5")).summary()


def test_packages_come_as_wheels_and_slicers_own_are_pinned(module: Any, requirements: Any, packaging: Any) -> None:
    fake = packaging()
    said: list[str] = []
    restart = module.SlicerInstaller(requirements("numpy>=1.0", "a-package-that-is-not-there>=1")).install(said.append)
    ((asked, options),) = fake.calls
    assert asked == ["a-package-that-is-not-there>=1", "--only-binary", ":all:"]
    assert options["blocking"] is False
    assert {line.split("==")[0] for line in fake.constraints.split()} >= {"numpy", "SimpleITK", "torch"}
    assert any("a-package-that-is-not-there" in line for line in said)
    assert "Collecting …" in said
    assert restart is False


def test_pip_that_fails_is_told(module: Any, requirements: Any, packaging: Any) -> None:
    packaging(code=1)
    with pytest.raises(SemiSAMPlusError, match="could not be installed") as error:
        module.SlicerInstaller(requirements("a-package-that-is-not-there>=1")).install(lambda _: None)
    assert "network" in error.value.remedy


def test_slicer_before_5_12_is_asked_by_its_own_function(
    module: Any, requirements: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import slicer

    asked: list[list[str]] = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.delattr(slicer, "packaging", raising=False)
    monkeypatch.setattr(slicer.util, "pip_install", asked.append)
    monkeypatch.setattr(module.SlicerInstaller, "_check_imports", lambda self: None)
    module.SlicerInstaller(requirements("a-package-that-is-not-there>=1")).install(lambda _: None)
    assert asked[0][:4] == ["a-package-that-is-not-there>=1", "--only-binary", ":all:", "--constraint"]


def test_nothing_is_installed_where_nothing_is_missing(module: Any, requirements: Any, packaging: Any) -> None:
    fake = packaging()
    assert module.SlicerInstaller(requirements("numpy>=1.0")).install(lambda _: None) is False
    assert fake.calls == []


def test_torch_comes_from_the_pytorch_extension_first(
    module: Any, requirements: Any, packaging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, order = packaging(), []

    class PyTorchUtilsLogic:
        def installTorch(self, **options: Any) -> Any:
            order.append(options)
            assert not fake.calls, "torch comes first, so that nothing else brings another"
            return object()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    monkeypatch.setattr(module, "_is_met", lambda line: False)
    module.SlicerInstaller(requirements("monai>=1.4", "torch>=2.6")).install(lambda _: None)
    assert order == [{"askConfirmation": False, "torchVersionRequirement": ">=2.6"}]
    assert fake.calls[0][0][0] == "monai>=1.4"
    assert all("torch" not in text for text in fake.calls[0][0])


def test_without_the_pytorch_extension_it_says_where_to_get_it(
    module: Any, requirements: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    monkeypatch.setattr(module, "_is_met", lambda line: False)
    with pytest.raises(SemiSAMPlusError, match="'PyTorch', which installs torch, is not installed") as error:
        module.SlicerInstaller(requirements("torch>=2.6")).install(lambda _: None)
    assert "Extensions Manager" in error.value.remedy


@pytest.mark.parametrize("outcome", ["refused", "broken"])
def test_torch_that_was_not_installed_is_told(
    module: Any, requirements: Any, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    class PyTorchUtilsLogic:
        def installTorch(self, **options: Any) -> None:
            if outcome == "broken":
                raise subprocess.CalledProcessError(1, "ltt")

    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    monkeypatch.setattr(module, "_is_met", lambda line: False)
    with pytest.raises(SemiSAMPlusError, match="torch") as error:
        module.SlicerInstaller(requirements("torch>=2.6")).install(lambda _: None)
    assert "PyTorch Utils" in error.value.remedy


def test_a_replaced_numpy_is_told_with_the_way_back(
    module: Any, requirements: Any, packaging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaging()
    installer = module.SlicerInstaller(requirements("a-package-that-is-not-there>=1"))
    real = module._version
    calls = {"numpy": 0}

    def version(name: str) -> str | None:
        if name == "numpy":
            calls["numpy"] += 1
            return real(name) if calls["numpy"] == 1 else "0.0.1"
        return real(name)

    monkeypatch.setattr(module, "_version", version)
    with pytest.raises(SemiSAMPlusError, match=r"replaced Slicer's numpy .* by 0\.0\.1") as error:
        installer.install(lambda _: None)
    assert f"numpy=={real('numpy')}" in error.value.remedy


def test_a_restart_is_asked_for_where_something_in_use_was_replaced(
    module: Any, requirements: Any, packaging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaging()
    before, after = {"pytest": "1"}, {"pytest": "2", "new": "1"}
    versions = iter([before, after])
    monkeypatch.setattr(module, "_versions", lambda _: next(versions))
    monkeypatch.setattr(module, "_SLICERS_OWN", ())
    assert module.SlicerInstaller(requirements("a-package-that-is-not-there>=1")).install(lambda _: None) is True


def test_imports_are_checked_in_a_child_process(module: Any, requirements: Any) -> None:
    module.SlicerInstaller(requirements("psutil>=5", "einops>=0.1"))._check_imports()
    with pytest.raises(SemiSAMPlusError, match="a-package-that-is-not-there"):
        module.SlicerInstaller(requirements("psutil>=5", "a-package-that-is-not-there>=1"))._check_imports()


def test_nothing_is_installed_or_loaded_by_importing(scene: Any) -> None:
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from SemiSAMPlusPanel import seams, signals, text, job, runs\n"
        "heavy = {'torch', 'monai', 'psutil', 'SimpleITK', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'loads {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(ROOT / "SemiSAMPlus")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
