"""The recipe: how `synthetic` learned, and learns again; the same from the same seed, and after any interruption.

``python -m SemiSAMPlusLib.generalist.synthetic.pretrain train FOLDER`` begins, ``resume`` goes on, ``export`` writes the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from tyro.conf import Positional

from ...errors import ConfigError
from ...synthesis import pretraining
from .encoding import encode
from .network import SyntheticNetwork, fast_dtype
from .simulation import first_prompts, next_prompts
from .synthesis import Samples, draw_samples

#: Samples on which progress is measured come from seeds that no training uses.
_HOLD_OUT_SEED = 1 << 40
_HOLD_OUT_VOLUMES = 24
#: Clicks, one after each answer, on the hold-out.
_HOLD_OUT_ROUNDS = 3
_CLIP = 1.0


@dataclass(frozen=True)
class PretrainConfig:
    """How `synthetic` is trained.

    Attributes:
        iterations: Steps of the optimizer.
        volumes: Volumes made at a time.
        structures: Structures that are asked for in each volume.
        rounds: Steps taken with each batch of volumes: one from the first prompts, the others after corrections.
        size: Voxels along each side of the region of interest; a multiple of 16, 32 or more.
        small_size: The same at first: a quarter of the time a step, and nearly as much learned.
        small_share: Share of the iterations that are taken at ``small_size``.
        learning_rate: Of AdamW; constant, but for a rise at the start and a fall to 0 at the end.
        warm_up: Steps of the rise.
        cool_down: Share of the iterations over which it falls.
        averaging: Decay of the running mean of the weights, which is what is shipped.
        save_every: Steps between checkpoints.
        validate_every: Steps between measurements on the hold-out.
        seed: Fixes everything.
    """

    iterations: int = 8000
    volumes: int = 4
    structures: int = 2
    rounds: int = 3
    size: int = 48
    small_size: int = 32
    small_share: float = 0.7
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    cool_down: float = 0.25
    averaging: float = 0.997
    save_every: int = 150
    validate_every: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: If a region cannot be halved as often as it must.
        """
        for name in ("size", "small_size"):
            if (value := getattr(self, name)) % 16 or value < 32:
                msg = f"{name} is {value}, expected a multiple of 16, 32 or more."
                raise ConfigError(msg, f"Give --config.{name.replace('_', '-')} 32 or 48.")


class Pretrainer(pretraining.Learner):
    """Trains a network on what :mod:`.synthesis` makes.

    Args:
        config: How.
        device: Where the network computes; samples are made on the CPU.
    """

    config: PretrainConfig

    def __init__(self, config: PretrainConfig, device: str | torch.device = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = SyntheticNetwork()
        network = network.to(self.device, memory_format=torch.channels_last_3d)
        super().__init__(network, torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-2))
        self.cool_from: int | None = None
        self.large_from: int | None = None
        self._batch: tuple[Samples, Any, torch.Tensor] | None = None

    def step(self) -> dict[str, float]:
        """Take one step, and return its losses and the mean Dice of its answers."""
        config = self.config
        position = self.iteration % config.rounds
        random = torch.Generator().manual_seed((config.seed << 24) + self.iteration)
        if (
            position == 0 or self._batch is None
        ):  # A training that ended amid a batch, and is lengthened, begins a shorter one.
            samples = draw_samples(config.volumes, config.structures, self.size, random)
            prompts = first_prompts(samples, random)
        else:
            samples, prompts, answers = self._batch
            prompts = next_prompts(samples, prompts, answers, random)
        x, dtype = encode(samples.images, samples.known, prompts).to(self.device), self.dtype
        targets, known = samples.targets.to(self.device).float(), samples.known.to(self.device).float()
        self.network.train()
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            logits, quality = self.network(x)
        losses = losses_of(logits.float(), quality.float(), targets, known)
        self._learn(
            losses["entropy"] + losses["overlap"] + losses["quality"],
            config.learning_rate * self._rate(),
            clip=_CLIP,
            decay=min(config.averaging, (2 + self.iteration) / (11 + self.iteration)),
        )
        answers = logits.detach().float().sigmoid().cpu()
        self._batch = (samples, prompts, answers) if position + 1 < config.rounds else None
        values = {name: float(value.detach()) for name, value in losses.items()}
        return {**values, "dice": float(dice_of(answers > 0.5, samples.targets).mean())}

    @property
    def dtype(self) -> torch.dtype:
        """The arithmetic of the network at this iteration."""
        return fast_dtype(self.device, trained_on=self.size)

    @property
    def size(self) -> int:
        """Voxels along each side of the region of interest at this iteration."""
        config = self.config
        start = round(config.iterations * config.small_share) if self.large_from is None else self.large_from
        return config.size if self.iteration >= start else config.small_size

    def _rate(self) -> float:
        """Return the share of the learning rate at this iteration."""
        config = self.config
        start = round(config.iterations * (1 - config.cool_down)) if self.cool_from is None else self.cool_from
        falling = (config.iterations - self.iteration) / max(1, config.iterations - start)
        return min(1.0, (self.iteration + 1) / max(1, config.warm_up), max(0.0, falling))

    def averaged(self) -> SyntheticNetwork:
        """Return a network with the mean weights, for evaluation."""
        network = SyntheticNetwork().to(self.device)
        network.load_state_dict(self.average)
        return network.eval()

    def validate(self) -> dict[str, float]:
        """Return the mean Dice on the hold-out, at the first prompts and after each correction."""
        network, dtype = self.averaged(), fast_dtype(self.device)
        random = torch.Generator().manual_seed(_HOLD_OUT_SEED)
        samples = draw_samples(_HOLD_OUT_VOLUMES, 1, self.config.size, random)
        prompts = first_prompts(samples, random)
        result = {"before": float(dice_of(prompts.mask > 0.5, samples.targets).mean())}
        for number in range(_HOLD_OUT_ROUNDS + 1):
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32),
            ):
                logits, quality = network(encode(samples.images, samples.known, prompts).to(self.device))
            answers = logits.float().sigmoid().cpu()
            dice = dice_of(answers > 0.5, samples.targets)
            result[f"corrections_{number}"] = float(dice.mean())
            result[f"quality_error_{number}"] = float((quality.float().sigmoid().cpu() - dice).abs().mean())
            prompts = next_prompts(samples, prompts, answers, random)
        return {name: round(value, 4) for name, value in result.items()}

    @property
    def may_save(self) -> bool:
        """Whether the step before ended a batch; within one there is more to keep than weights."""
        return self._batch is None

    def state(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return {**super().state(), "cool_from": self.cool_from, "large_from": self.large_from}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        super().load_state(state)
        self.cool_from, self.large_from = state["cool_from"], state["large_from"]
        self._batch = None


def losses_of(
    logits: torch.Tensor, quality: torch.Tensor, targets: torch.Tensor, known: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the losses of answers: cross entropy, soft Dice, and how wrong the expected Dice is.

    Args:
        logits: (sample, z, y, x).
        quality: (sample,) logits of the expected Dice.
        targets: (sample, z, y, x) 1 in the structure.
        known: (sample, z, y, x) 1 in the field of view; other voxels do not count.
    """
    entropy = binary_cross_entropy_with_logits(logits, targets, weight=known, reduction="sum") / known.sum()
    probability = logits.sigmoid() * known
    axes = (1, 2, 3)
    overlap = (2 * (probability * targets).sum(axes) + 1) / ((probability + targets).sum(axes) + 1)
    with torch.no_grad():
        reached = dice_of(probability > 0.5, targets > 0.5)
    return {
        "entropy": entropy,
        "overlap": (1 - overlap).mean(),
        "quality": binary_cross_entropy_with_logits(quality, reached),
    }


def dice_of(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the Dice (sample,) of boolean masks (sample, z, y, x); 1 where both are empty."""
    axes = (1, 2, 3)
    return (2 * (first & second).sum(axes) + 1e-6) / (first.sum(axes) + second.sum(axes) + 1e-6)


# -- the job ----------------------------------------------------------------------------------------------------------


def train(folder: Positional[Path], config: PretrainConfig = PretrainConfig(), device: str = "cpu") -> None:
    """Begin a training in an empty folder.

    Args:
        folder: Where everything is kept.
        config: How it is trained.
        device: Where the network computes.
    """
    pretraining.begin(Path(folder), config)
    resume(folder, device)


def resume(
    folder: Positional[Path],
    device: str = "cpu",
    iterations: int | None = None,
    large_now: bool = False,
    cool_down_now: bool = False,
) -> None:
    """Go on with a training.

    Args:
        folder: Where it was begun.
        device: Where the network computes.
        iterations: Let it end at another iteration.
        large_now: Let regions be of their final size from now on.
        cool_down_now: Let the learning rate begin to fall now, to reach 0 at the last iteration.
    """
    folder = Path(folder)
    config = pretraining.read_config(folder, PretrainConfig, iterations=iterations)
    trainer = Pretrainer(config, device)
    pretraining.go_on(folder, trainer)
    if large_now:
        trainer.large_from = trainer.iteration
    if cool_down_now:
        trainer.cool_from = trainer.iteration
    pretraining.work(folder, trainer, device)


def export(folder: Positional[Path], target: Positional[Path]) -> None:
    """Write the mean weights in half precision, with the recipe in the file's own description.

    Args:
        folder: A training.
        target: The file to write.
    """
    pretraining.export(Path(folder), Path(target), PretrainConfig)


if __name__ == "__main__":
    import tyro

    tyro.extras.subcommand_cli_from_dict({"train": train, "resume": resume, "export": export})
