"""Refined predictions: what a training's trusted generalists still know better than the specialist that it made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..generalist.registry import create_generalist
from ..run.folder import COLLABORATION, trusted_in
from ..specialist.specialist import Specialist
from .collaboration import Collaboration, CollaborationSettings
from .prompts import PromptSettings

if TYPE_CHECKING:
    import torch

    from ..cohort.patches import PreparedCase


def describe_collaboration(collaboration: Collaboration) -> dict[str, Any]:
    """Return what :func:`trusted_collaboration` needs to ask the same generalists in the same way, ready for JSON."""
    settings = collaboration.settings
    return {
        **collaboration.state(),
        "trust": {name: round(value, 4) for name, value in collaboration.trust.items()},
        "prompts": asdict(settings.prompts),
        "temperature": settings.temperature,
        "seed": settings.seed,
    }


def trusted_collaboration(specialist: Specialist) -> Collaboration | None:
    """Return the trusted generalists of the training that a specialist came from, ready to be asked.

    Args:
        specialist: As it was loaded; generalists compute on its device.

    Returns:
        None where it learned without generalists, or none was trusted in the end.

    Raises:
        ConfigError: If a generalist is not known here.
        WeightsError: If its weights are missing or do not fit.
    """
    trust = trusted_in(specialist.about)
    if not trust:
        return None
    described = specialist.about[COLLABORATION]
    settings = CollaborationSettings(
        iterations=1,
        prompts=PromptSettings(**described["prompts"]),
        temperature=described["temperature"],
        seed=described["seed"],
    )
    generalists = {name: create_generalist(name, specialist.device) for name in trust}
    collaboration = Collaboration(generalists, settings)
    collaboration.load_state(described)
    return collaboration


def refiner(
    collaboration: Collaboration, specialist: Specialist
) -> Callable[[PreparedCase, torch.Tensor], torch.Tensor]:
    """Return what :meth:`~SemiSAMPlusLib.specialist.specialist.Specialist.predict` takes to have its probabilities refined."""
    return lambda case, probabilities: collaboration.refined(
        probabilities, collaboration.ask_about(case, probabilities, specialist)
    )
