"""Every setting of a training, once: command-line flags, run.json and the panel's fields are made from this class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import ConfigError

Size = Literal["auto", "small", "medium", "large"]
Intensity = Literal["auto", "ct", "mr", "pet"]
InitialWeights = Literal["pretrained", "random"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

#: The seed of a step is a multiple of this one, and seeds of torch have 64 bits.
_GREATEST_SEED = 10**12


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults suit most cohorts; what is None is planned from the cohort and the device.

    Attributes:
        specialist: The network that learns: unet3d, vnet, segresnet, dynunet, swinunetr, or one of your own.
        size: How large the network is; auto fits the device.
        initial_weights: What the network starts from: weights that were pretrained on made-up volumes, if there are any for it (unet3d,
            small), or random ones.
        method: How it learns from unlabelled cases: supervised, mean-teacher, ua-mt, dan, cps, copy-paste, or your own.
        generalists: The frozen models that teach it: random-walker, sam-med3d=WEIGHTS, ...; left empty for none.
        iterations: How many steps to train; if not given, 2400 for a pretrained network, 5000 for others.
        minutes: Train for about this many minutes instead; converted to a number of iterations at the start.
        device: auto, cpu, cuda, cuda:1, mps, ...
        precision: Floating-point precision of the network; auto takes bfloat16 if the device computes it in hardware.
        threads: CPU threads to compute with; all cores if not given.
        seed: Random seed, 0 to 10¹²; on CPU it fixes the result.
        spacing: Isotropic voxel spacing in mm, to which volumes are resampled.
        patch: Size of the patches along z y x, in voxels of that spacing.
        batch: Number of labelled patches in a step; there are as many unlabelled ones.
        intensity: How grey values are normalised.
        flips: Axes along which anatomy may be mirrored: any of z, y, x.
        augmentation: How strongly patches are deformed and perturbed; 0 is not at all.
        learning_rate: Initial learning rate; it falls to 0 as (1 - t/T)^0.9. If not given, 0.001 for a pretrained network, else 0.003.
        weight_decay: Weight decay of AdamW.
        ema: Decay of the exponential moving average of the weights, which teaches, makes the prompts and is the result.
        consistency: Greatest weight of the method's loss on unlabelled cases; the method's own if not given.
        prompt_sets: Number of prompt sets (K) with which each generalist is asked about a patch.
        positive_points: Points inside the structure in each prompt set.
        negative_points: Points around the structure in each prompt set.
        temperature: τ of the voxel confidence exp(-variance / τ); with the paper's τ = 1 it hardly varies.
        collaboration: Greatest weight of the generalists' loss term, for methods that have one. In methods that learn from
            pseudo-labels, generalists correct these instead, weighted by trust.
        collaboration_start: Fraction of the training after which generalists teach, 0 to 1. If not given, the method's own: a half, or
            for copy-paste a quarter, when it begins to learn from unlabelled cases.
        collaboration_decay: How fast that weight decays, as exp(-decay (t/T)²); with 0 not at all.
        collaboration_loss: The generalists' loss term: Dice and cross entropy against the corrected pseudo-label, or the paper's squared
            error, which weighs little beside the loss on labels.
        collaboration_sizes: How large structures are in answers: as large as the specialist sees them, in the median of a few
            unlabelled cases, or their own size, which is also used if trust is given.
        collaboration_every: How often generalists are asked: 1 is in every iteration, 2 in every second one.
        trust: Trust in every generalist, 0 to 1; measured on the labelled cases if not given.
        validate_every: Iterations between validations. Layers are refreshed and trust is measured at the same time; in short
            trainings trust is measured more often.
        checkpoint_every: Iterations between checkpoints.
        layers: Cases whose layers are refreshed during training, by name; a few unlabelled ones if not given.
        patience: Stop after this many validations without a better Dice; never if not given.
        cache_gb: Memory for cached volumes, in GB.
    """

    specialist: str = "unet3d"
    size: Size = "auto"
    initial_weights: InitialWeights = "pretrained"
    method: str = "mean-teacher"
    generalists: tuple[str, ...] = ("random-walker",)
    iterations: int | None = None
    minutes: float | None = None
    device: str = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    seed: int = 0
    spacing: float | None = None
    patch: tuple[int, int, int] | None = None
    batch: int = 1
    intensity: Intensity = "auto"
    flips: tuple[Literal["z", "y", "x"], ...] = ()
    augmentation: float = 1.0
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    ema: float = 0.99
    consistency: float | None = None
    prompt_sets: int = 2
    positive_points: int = 10
    negative_points: int = 30
    temperature: float = 0.05
    collaboration: float = 1.0
    collaboration_start: float | None = None
    collaboration_decay: float = 0.0
    collaboration_loss: Literal["squared-error", "pseudo-label"] = "pseudo-label"
    collaboration_sizes: Literal["own", "specialist"] = "specialist"
    collaboration_every: int = 1
    trust: float | None = None
    validate_every: int = 200
    checkpoint_every: int = 100
    layers: tuple[str, ...] | None = None
    patience: int | None = None
    cache_gb: float = 1.0

    def __post_init__(self) -> None:
        """Check each setting by itself; lists become tuples, which compare as those of other runs do.

        Raises:
            ConfigError: If a value cannot work; names the setting and what is allowed.
        """
        for name, kind in _kinds().items():
            value = getattr(self, name)
            if not _is_of(value, kind):
                _refuse(name, repr(value), _words(kind))
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))  # The class is frozen.
        at_least = {
            "batch": 1,
            "seed": 0,
            "prompt_sets": 1,
            "positive_points": 1,
            "negative_points": 0,
            "collaboration_every": 1,
            "validate_every": 1,
            "checkpoint_every": 1,
            "augmentation": 0,
            "weight_decay": 0,
            "collaboration": 0,
            "collaboration_decay": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                _refuse(name, getattr(self, name), f"{least} or more")
        if self.seed > _GREATEST_SEED:
            _refuse("seed", self.seed, f"{_GREATEST_SEED} or less")
        if self.iterations is not None and self.iterations < 1:
            _refuse("iterations", self.iterations, "1 or more")
        for name in ("temperature", "cache_gb"):
            if not getattr(self, name) > 0:
                _refuse(name, getattr(self, name), "more than 0")
        for name in ("learning_rate", "minutes", "spacing", "threads", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                _refuse(name, value, "more than 0")
        if not 0 <= self.ema < 1:
            _refuse("ema", self.ema, "0 or more and less than 1")
        for name in ("trust", "collaboration_start"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                _refuse(name, value, "0 to 1")
        if self.patch is not None and (len(self.patch) != 3 or min(self.patch) < 8):
            _refuse("patch", self.patch, "three sizes of 8 voxels or more")
        if len(set(self.generalists)) != len(self.generalists):
            _refuse("generalists", self.generalists, "each named once")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready data."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingConfig:
        """Return the settings that :meth:`to_dict` described.

        Raises:
            ConfigError: If a setting is unknown or has an impossible value.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            msg = f"There is no setting '{unknown[0]}'."
            raise ConfigError(msg, f"The settings are {', '.join(sorted(known))}.")
        return cls(**data)


def _refuse(name: str, found: object, allowed: str) -> None:
    msg = f"The setting '{name}' is {found}, expected {allowed}."
    raise ConfigError(msg, f"Give --{name.replace('_', '-')} such a value.")


@cache
def _kinds() -> dict[str, Any]:
    """Return the type of each setting; files and programs may bring any."""
    return get_type_hints(TrainingConfig)


def _is_of(value: object, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is_of(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:  # How many there must be is looked at with their values.
        return isinstance(value, tuple | list) and all(_is_of(one, parts[0]) for one in value)
    if isinstance(value, bool):  # Python takes it for a number.
        return False
    if kind is float:
        return isinstance(value, int | float) and isfinite(value)
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return " or ".join(_words(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        return f"a list, in it {_words(parts[0])} each"
    return {str: "text", int: "a whole number", float: "a number", NoneType: "nothing (null)"}[kind]
