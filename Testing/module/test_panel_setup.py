"""The section that installs packages, by its widgets; nothing is installed."""

from __future__ import annotations

from typing import Any

import pytest

from SemiSAMPlusLib.errors import SemiSAMPlusError


@pytest.fixture
def lacking(stage: Any) -> Any:
    """A stage that lacks packages."""
    stage.logic.installer.missing_now = ["torch>=2.6", "monai>=1.4"]
    stage.panel.setup.check()
    return stage


def test_nothing_is_shown_where_nothing_is_missing(stage: Any) -> None:
    assert not stage.find("setupFrame").isVisible()


def test_what_is_missing_is_named_with_its_size(lacking: Any) -> None:
    assert "torch" in lacking.find("setupLabel").text
    assert "900 MB" in lacking.find("setupLabel").text
    assert lacking.find("installButton").isVisible()


def test_nothing_is_installed_without_consent(lacking: Any) -> None:
    from host import conversation

    lacking.click("installButton")
    assert "900 MB" in conversation.texts("question")[-1]
    assert lacking.logic.installer.installed == 0


def test_consent_installs_says_each_step_and_goes_away(lacking: Any) -> None:
    from host import conversation

    said = []
    installer = lacking.logic.installer
    original = installer.install

    def install(progress: Any) -> bool:
        def tell(text: str) -> None:
            progress(text)
            said.append((lacking.find("setupProgressLabel").text, lacking.find("setupProgress").isVisible()))

        return original(tell)

    installer.install = install
    conversation.answers.append(True)
    lacking.click("installButton")
    assert said == [("Downloading torch …", True)]
    assert not lacking.find("setupFrame").isVisible()


def test_a_failure_is_told_and_can_be_tried_again(lacking: Any) -> None:
    from host import conversation

    lacking.logic.installer.error = SemiSAMPlusError("The network is away.", "Try again later.")
    conversation.answers.append(True)
    lacking.click("installButton")
    assert lacking.find("setupLabel").text == "The network is away. Try again later."
    assert lacking.find("installButton").enabled
    lacking.logic.installer.error = None
    conversation.answers.append(True)
    lacking.click("installButton")
    assert not lacking.find("setupFrame").isVisible()


def test_a_restart_is_offered_where_it_is_needed(lacking: Any, monkeypatch: Any) -> None:
    import slicer
    from host import conversation

    restarted = []
    monkeypatch.setattr(slicer.util, "restart", lambda: restarted.append(True))
    lacking.logic.installer.restart = True
    conversation.answers.append(True)
    lacking.click("installButton")
    assert "Restart" in lacking.find("setupLabel").text
    lacking.click("restartButton")
    assert not restarted
    conversation.answers.append(True)
    lacking.click("restartButton")
    assert restarted == [True]


def test_packages_installed_elsewhere_are_seen_by_looking_again(lacking: Any) -> None:
    lacking.logic.installer.missing_now = []
    lacking.click("checkAgainButton")
    assert not lacking.find("setupFrame").isVisible()
