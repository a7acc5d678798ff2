"""A trained specialist as a folder: weights and everything needed to predict elsewhere without the run it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..cohort.cohort import Case, Class
from ..cohort.patches import PreparedCase, prepare
from ..cohort.plan import Plan
from ..cohort.volume import Grid, read_grid
from ..errors import VolumeError, WeightsError
from ..run.files import replacing, write_text_atomically
from ..run.folder import RunFolder, specialist_in
from .device import usable_precision
from .inference import predict_probabilities
from .native import native_classes, native_entropy
from .networks import build_specialist
from .scales import FURTHER_SCALES, average_over_scales

FORMAT = "semisamplus-specialist-2"
_DESCRIBED = ("format", "specialist", "plan", "classes", "channels", "precision")


@dataclass(frozen=True)
class Prediction:
    """What a specialist says of a case, on the grid of the case's first image.

    Attributes:
        labels: (z, y, x) uint8 class indices.
        grid: Where the voxels lie.
        probabilities: (classes with background, z', y', x') in the training grid.
        training_grid: Where those lie.
        refined: Whether they are no longer the specialist's own: somebody corrected them.
    """

    labels: np.ndarray
    grid: Grid
    probabilities: np.ndarray
    training_grid: Grid
    refined: bool = False

    @cached_property
    def entropy(self) -> np.ndarray:
        """(z, y, x) float32, predictive entropy as a share of the greatest possible; made when it is first asked for."""
        return native_entropy(self.probabilities, self.training_grid, self.grid)


@dataclass(frozen=True)
class Specialist:
    """A network with what it takes and gives.

    Attributes:
        network: Maps normalised patches to logits.
        name: Which network it is, as :func:`~SemiSAMPlusLib.specialist.networks.build_specialist` knows it.
        plan: How cases are prepared for it.
        classes: The structures it segments.
        channels: The images that it takes of each case.
        precision: Arithmetic that it was trained in, used where the device has it.
        about: What else a user should know of it; goes into model.json.
        further_scales: The sizes, beside its own, in which it is shown an image; what it says is the mean.
    """

    network: nn.Module
    name: str
    plan: Plan
    classes: tuple[Class, ...]
    channels: tuple[str, ...]
    precision: str
    about: dict[str, Any]
    further_scales: tuple[float, ...] = FURTHER_SCALES

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """Return class probabilities (classes with background, z, y, x) of a prepared image (channels, z, y, x)."""
        look = partial(predict_probabilities, self.network, patch=self.plan.patch, precision=self.precision)
        return average_over_scales(look, image, scales=self.further_scales, patch=self.plan.patch)

    def predict(
        self,
        images: Sequence[Path],
        *,
        name: str = "case",
        refine: Callable[[PreparedCase, torch.Tensor], torch.Tensor] | None = None,
    ) -> Prediction:
        """Segment one case.

        Args:
            images: One file (or DICOM folder) per channel.
            name: For error messages.
            refine: Given the case in the training grid and its probabilities (classes with background, z, y, x), returns
                better ones, or those themselves where there are none.

        Raises:
            VolumeError: If an image cannot be read, or there are too few or too many channels.
        """
        if len(images) != len(self.channels):
            msg = f"{name}: has {len(images)} image(s), expected {len(self.channels)} ({', '.join(self.channels)})."
            raise VolumeError(msg, "Give one image for each channel that the specialist was trained on.")
        prepared = prepare(Case(name, tuple(images)), self.plan, None, self.device)
        native = read_grid(images[0])
        said = self.probabilities(prepared.image)
        better = said if refine is None else refine(prepared, said)
        probabilities = better.cpu().numpy()
        labels = native_classes(probabilities, prepared.grid, native, self.plan.centroids)
        return Prediction(labels, native, probabilities, prepared.grid, refined=better is not said)

    def save(self, folder: Path) -> None:
        """Write weights.safetensors and model.json, the weights first."""
        state = {key: value.detach().cpu().contiguous() for key, value in self.network.state_dict().items()}
        with replacing(Path(folder) / "weights.safetensors") as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
        described = {
            "format": FORMAT,
            "specialist": self.name,
            "plan": self.plan.to_dict(),
            "classes": [asdict(structure) for structure in self.classes],
            "channels": list(self.channels),
            "precision": self.precision,
            **self.about,
        }
        write_text_atomically(Path(folder) / "model.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Specialist:
        """Read what :meth:`save` wrote; ``folder`` may also be a run folder.

        Raises:
            WeightsError: If it is neither, or the weights do not fit.
        """
        folder = specialist_in(Path(folder)) or Path(folder)
        try:
            described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            if described.get("format") != FORMAT:
                raise ValueError(f"format {described.get('format')!r}, expected {FORMAT!r}")
            state = load_file(folder / "weights.safetensors", device="cpu")
        except (OSError, ValueError, AttributeError, SafetensorError) as error:
            msg = f"{folder}: holds no trained specialist that can be read ({error})."
            remedy = "Give the folder of a run that this version finished, or its folder `specialist`."
            if RunFolder(folder).checkpoints.is_dir():
                remedy = f"Its training has not finished: `semisamplus resume {folder}` continues it."
            raise WeightsError(msg, remedy) from error
        plan = Plan.from_dict(described["plan"])
        classes = tuple(Class(c["name"], tuple(c["values"]), tuple(c["color"])) for c in described["classes"])
        network = build_specialist(
            described["specialist"],
            in_channels=len(described["channels"]),
            out_channels=len(classes) + 1,
            patch=plan.patch,
            size=plan.size,
        )
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            msg = f"{folder / 'weights.safetensors'}: does not fit the network of model.json ({str(error).splitlines()[1].strip()})."
            raise WeightsError(msg, "Copy both files from the same run.") from error
        about = {k: v for k, v in described.items() if k not in _DESCRIBED}
        return cls(
            network.to(device).eval(),
            described["specialist"],
            plan,
            classes,
            tuple(described["channels"]),
            usable_precision(torch.device(device), described["precision"]),
            about,
        )
