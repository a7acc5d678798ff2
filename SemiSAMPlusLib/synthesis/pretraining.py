"""The job of learning from made-up volumes: begun in a folder of its own, stopped, gone on with, and its weights written out."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import nn

from ..errors import ConfigError
from ..run import events
from ..run.files import replacing, write_text_atomically
from ..run.folder import JobFolder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Recipe = TypeVar("_Recipe", bound="DataclassInstance")
#: Steps between two lines of progress.
_TOLD_EVERY = 30


class Settings(Protocol):
    """What the job reads of a recipe's settings, which are a dataclass."""

    @property
    def iterations(self) -> int:
        """Steps of the optimizer."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def validate_every(self) -> int:
        """Steps between measurements on the hold-out."""


class Learner(ABC):
    """Who learns: a network, the running mean of its weights, and the optimizer.

    Args:
        network: Where it is to compute.
        optimizer: Of all weights that are trained, those of the network and maybe others.

    Attributes:
        iteration: Steps taken.
        average: The running mean of the network's weights, which is what is written out.
    """

    config: Settings

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.optimizer = network, optimizer
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.iteration = 0

    @property
    def may_save(self) -> bool:
        """Whether a checkpoint made now holds all that the next step needs."""
        return True

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Take one step, and return its losses."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Return what is measured on volumes that no training uses."""

    def state(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        self.network.load_state_dict(state["network"])
        self.average = {name: value.to(self.average[name].device) for name, value in state["average"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]

    def _learn(self, loss: torch.Tensor, learning_rate: float, *, clip: float, decay: float) -> None:
        """Step down the gradient, whose norm is at most ``clip``, and let the running mean follow."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(trained, clip)
        self.optimizer.step()
        self.iteration += 1
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)


def begin(folder: Path, config: DataclassInstance) -> None:
    """Write down in an empty folder how a training is set up.

    Raises:
        ConfigError: If one has begun in it.
    """
    if (folder / "pretrain.json").exists():
        msg = f"{folder}: a training has begun in it."
        raise ConfigError(msg, "Go on with `resume`, or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder, config)


def _write_config(folder: Path, config: DataclassInstance) -> None:
    write_text_atomically(folder / "pretrain.json", json.dumps(asdict(config), indent=1) + "\n")


def read_config(folder: Path, kind: type[_Recipe], *, iterations: int | None = None) -> _Recipe:
    """Return how the training in a folder was set up.

    Args:
        folder: Where it was begun.
        kind: What its settings are.
        iterations: Let it end at another iteration from now on.

    Raises:
        ConfigError: If there is none of that kind.
    """
    try:
        config = kind(**json.loads((folder / "pretrain.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder}: holds no such training ({error})."
        raise ConfigError(msg, "Begin one with `train`.") from error
    if iterations is not None:
        config = replace(config, iterations=iterations)
        _write_config(folder, config)
    return config


def go_on(folder: Path, learner: Learner) -> None:
    """Take the learner's state from the folder's checkpoint, where there is one."""
    checkpoint = _checkpoint(folder)
    if checkpoint.exists():
        learner.load_state(load_checkpoint(folder))


def work(folder: Path, learner: Learner, device: str) -> None:
    """Let the learner take its steps until they are done, or the file `stop` is there; prints what it writes to events.jsonl."""
    job = JobFolder(folder)
    writer = job.acquire("pretrain")
    writer.listeners.append(lambda event: print(_line(event), flush=True))
    try:
        writer.write(events.STARTED, device=device, iteration=learner.iteration)
        reason = _run(learner, job, writer, _checkpoint(folder))
        writer.write(events.FINISHED, reason=reason, iteration=learner.iteration)
    finally:
        writer.close()
        job.release()


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the last checkpoint of the training in a folder."""
    return dict(torch.load(_checkpoint(folder), map_location="cpu", weights_only=True))


def export(folder: Path, target: Path, kind: type[DataclassInstance]) -> None:
    """Write the mean weights in half precision, with the recipe, settings of that kind, in the file's own description."""
    from safetensors.torch import save_file

    config = read_config(folder, kind)
    state = load_checkpoint(folder)
    weights = {name: value.half().contiguous() for name, value in state["average"].items()}
    described = {"recipe": json.dumps(asdict(config)), "iteration": str(state["iteration"]), "license": "Apache-2.0"}
    with replacing(target) as temporary:
        save_file(weights, temporary, described)


def _run(learner: Learner, job: JobFolder, writer: events.EventWriter, checkpoint: Path) -> str:
    config = learner.config
    sums: dict[str, float] = {}
    count, begun, saved, validated = 0, time.monotonic(), learner.iteration, learner.iteration
    while learner.iteration < config.iterations:
        for name, value in learner.step().items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
        last = learner.iteration >= config.iterations
        if not learner.may_save and not last:
            continue
        stopping = job.is_asked_to_stop()
        if count >= _TOLD_EVERY or last or stopping:
            seconds = (time.monotonic() - begun) / count
            writer.write(
                events.PROGRESS,
                iteration=learner.iteration,
                iterations=config.iterations,
                seconds_left=round(seconds * (config.iterations - learner.iteration)),
                losses={name: round(value / count, 4) for name, value in sums.items()},
            )
            sums, count, begun = {}, 0, time.monotonic()
        if _passed(saved, learner.iteration, config.save_every) or last or stopping:
            with replacing(checkpoint) as temporary:
                torch.save(learner.state(), temporary)
            saved = learner.iteration
        if _passed(validated, learner.iteration, config.validate_every) or last:
            writer.write(events.METRICS, iteration=learner.iteration, measured=learner.validate(), on="validation")
            validated = learner.iteration
        if stopping:
            return "stopped"
    return "done"


def _passed(before: int, now: int, every: int) -> bool:
    """Return whether a multiple of ``every`` lies after ``before`` and not after ``now``."""
    return now // every != before // every


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.pt"


def _line(event: dict[str, Any]) -> str:
    return time.strftime("%H:%M:%S ") + json.dumps({k: v for k, v in event.items() if k != "time"})
