"""The recipe of the weights that the specialist starts from; the same from the same seed, and after any interruption.

Two images are made of one label map, by two scanners, as it were, and one of them is mirrored. The network learns to tell from an
image which structure a voxel belongs to, whatever the scanner: each structure's mean feature in one image must be nearer to
its voxels' features in the other image than those of all other structures are. Learning features on made-up label maps by contrast between two
appearances is Dey et al.'s idea (ICLR 2025); mean features as classes are those of prototypical networks (Snell et al., NeurIPS 2017).

``python -m SemiSAMPlusLib.specialist.pretrained.pretrain train FOLDER`` begins, ``resume`` goes on, ``export`` writes the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize, one_hot
from tyro.conf import Positional

from ...errors import ConfigError
from ...synthesis import pretraining
from ...synthesis.appearance import draw_images
from ...synthesis.shapes import LABELS, draw_label_maps
from ..device import usable_precision
from ..inference import arithmetic
from ..networks import build_specialist

#: Volumes of this recipe come from seeds that `synthetic` does not use, and those of its hold-out from others again.
_FIRST_SEED, _HOLD_OUT_SEED = 7_000_000, 1 << 41
_HOLD_OUT_VOLUMES = 16
#: How often both images come from the same scanner and differ by noise alone, of this share of the image's spread.
_SAME_SCANNER, _SAME_NOISE = 0.3, 0.05
#: Voxels of an image that are compared, and how many of them a structure must have to count.
_VOXELS, _FEWEST = 4096, 8
#: Cosines are divided by this before the softmax.
_TEMPERATURE = 0.1
#: Weight of the loss within each image beside that across.
_WITHIN = 0.5
#: Channels of the features that are compared, and of the layer before; of the network's own, which enter it.
_FEATURES, _HIDDEN, _OWN = 32, 64, 32
_CLIP = 10.0


@dataclass(frozen=True)
class PretrainConfig:
    """How the weights are trained.

    Attributes:
        iterations: Steps of the optimizer.
        volumes: Volumes made for each step.
        size: Voxels along each side of a volume; a multiple of 8, 32 or more.
        learning_rate: Of AdamW; falls as (1 - t/T)^0.9 after a rise.
        warm_up: Steps of the rise.
        averaging: Decay of the running mean of the weights, which is what is shipped.
        save_every: Steps between checkpoints.
        validate_every: Steps between measurements on the hold-out.
        seed: Fixes everything.
    """

    iterations: int = 2400
    volumes: int = 4
    size: int = 48
    learning_rate: float = 2e-3
    warm_up: int = 100
    averaging: float = 0.997
    save_every: int = 100
    validate_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: If a volume cannot be halved as often as it must.
        """
        if self.size % 8 or self.size < 32:
            msg = f"size is {self.size}, expected a multiple of 8, 32 or more."
            raise ConfigError(msg, "Give --config.size 32 or 48.")


@dataclass(frozen=True)
class Pairs:
    """Pairs of images of the same structures.

    Attributes:
        images: (2, volume, z, y, x) float32 of zero mean and unit spread.
        labels: (2, volume, z/2, y/2, x/2) the structures at every second voxel, as the network's features lie.
    """

    images: torch.Tensor
    labels: torch.Tensor


def draw_pairs(volumes: int, size: int, random: torch.Generator) -> Pairs:
    """Make pairs.

    Args:
        volumes: How many.
        size: Voxels along each side; even.
        random: Where chance comes from.
    """
    labels = draw_label_maps(volumes, size, random).labels
    first = draw_images(labels, random)
    if torch.rand((), generator=random) < _SAME_SCANNER:
        second = first + _SAME_NOISE * first.std() * torch.randn(first.shape, generator=random)
    else:
        second = draw_images(labels, random)
    # Mirrored, a voxel's place does not tell its structure.
    mirrored = [axis for axis in (1, 2, 3) if torch.rand((), generator=random) < 0.5]
    images = torch.stack([first, second.flip(mirrored)])
    places = (2, 3, 4)
    mean, spread = images.mean(places, keepdim=True), images.std(places, keepdim=True)
    both = torch.stack([labels, labels.flip(mirrored)])
    return Pairs((images - mean) / spread.clamp(min=1e-6), both[:, :, ::2, ::2, ::2])


class Pretrainer(pretraining.Learner):
    """Trains the specialist's network, but for its last layers, which know the classes, on pairs of made-up images.

    Args:
        config: How.
        device: Where the network computes; volumes are made on the CPU.
    """

    config: PretrainConfig

    def __init__(self, config: PretrainConfig, device: str | torch.device = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.precision = usable_precision(self.device, "auto")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build_specialist("unet3d", in_channels=1, out_channels=2, patch=(config.size,) * 3, size="small")
            head = nn.Sequential(nn.Conv3d(_OWN, _HIDDEN, 1), nn.LeakyReLU(0.01), nn.Conv3d(_HIDDEN, _FEATURES, 1))
        # All but the last layers; the names of its weights are those that they have in the whole network.
        body = nn.ModuleDict({"model": network.model[:2]}).to(self.device)
        self.head = head.to(self.device)
        trained = [*body.parameters(), *self.head.parameters()]
        super().__init__(body, torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=1e-2))

    def step(self) -> dict[str, float]:
        """Take one step, and return its loss and the share of voxels whose structure was found."""
        config = self.config
        random = torch.Generator().manual_seed((config.seed << 24) + _FIRST_SEED + self.iteration)
        features, labels = self._features(draw_pairs(config.volumes, config.size, random), random)
        losses, shares = [], []
        for known, asked in ((0, 1), (1, 0)):
            across, share = contrast(features[known], labels[known], features[asked], labels[asked])
            within, _ = contrast(features[known], labels[known], features[known], labels[known])
            losses.append(across + _WITHIN * within)
            shares.append(share)
        loss = torch.stack(losses).mean()
        rise = min(1.0, (self.iteration + 1) / max(1, config.warm_up))
        self._learn(
            loss,
            config.learning_rate * rise * (1 - self.iteration / config.iterations) ** 0.9,
            clip=_CLIP,
            decay=min(config.averaging, (1 + self.iteration) / (10 + self.iteration)),
        )
        return {"contrast": float(loss.detach()), "found": float(torch.stack(shares).mean())}

    def _features(self, pairs: Pairs, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unit features (2, volume, _FEATURES, voxel) of voxels drawn by chance, and their labels (2, volume, voxel)."""
        images = pairs.images.flatten(0, 1)[:, None].to(self.device)
        with arithmetic(self.device, self.precision):
            features = self.head(self.network["model"](images))
        features = normalize(features.float(), dim=1).unflatten(0, pairs.images.shape[:2]).flatten(3)
        labels = pairs.labels.flatten(2)
        drawn = torch.stack([torch.randperm(labels.shape[-1], generator=random)[:_VOXELS] for _ in range(2)])
        taken = [features[image][..., drawn[image].to(self.device)] for image in range(2)]
        return torch.stack(taken), torch.stack([labels[image][:, drawn[image]] for image in range(2)]).to(self.device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the share of voxels whose structure is found by another image's means, on the hold-out, as weights are now."""
        random = torch.Generator().manual_seed(_HOLD_OUT_SEED)
        features, labels = self._features(draw_pairs(_HOLD_OUT_VOLUMES, self.config.size, random), random)
        return {"found": round(float(contrast(features[0], labels[0], features[1], labels[1])[1]), 4)}

    def state(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return {**super().state(), "head": self.head.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        super().load_state(state)
        self.head.load_state_dict(state["head"])


def contrast(
    known: torch.Tensor, known_labels: torch.Tensor, asked: torch.Tensor, asked_labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how badly, and how often, the structures of voxels are told by the mean features of structures elsewhere.

    Small structures count for more than their share of the voxels: each by the square root of its own.

    Args:
        known: (volume, feature, voxel) unit features whose means stand for the structures.
        known_labels: (volume, voxel).
        asked: (volume, feature, voxel') unit features to be told.
        asked_labels: (volume, voxel').

    Returns:
        The cross entropy, and the share of voxels told rightly.
    """
    members = one_hot(known_labels, LABELS).float()
    counts = members.sum(dim=1)
    means = normalize(torch.einsum("vcn,vnl->vcl", known, members), dim=1)
    logits = torch.einsum("vcl,vcn->vln", means, asked) / _TEMPERATURE
    logits = logits.masked_fill((counts < _FEWEST)[..., None], -1e4)
    own = counts.gather(1, asked_labels)
    weights = own.clamp(min=1).rsqrt() * (own >= _FEWEST)
    losses = cross_entropy(logits, asked_labels, reduction="none")
    right = (logits.argmax(dim=1) == asked_labels).float()
    return (losses * weights).sum() / weights.sum(), (right * weights).sum() / weights.sum()


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


def resume(folder: Positional[Path], device: str = "cpu", iterations: int | None = None) -> None:
    """Go on with a training.

    Args:
        folder: Where it was begun.
        device: Where the network computes.
        iterations: Let it end at another iteration.
    """
    folder = Path(folder)
    config = pretraining.read_config(folder, PretrainConfig, iterations=iterations)
    learner = Pretrainer(config, device)
    pretraining.go_on(folder, learner)
    pretraining.work(folder, learner, device)


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
