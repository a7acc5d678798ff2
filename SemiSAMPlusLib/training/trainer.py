"""The training loop: specialist and generalists teach each other, step by step, in a run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch

from ..cohort.augmentation import IntensityAugmentation, SpatialAugmentation, look_up
from ..cohort.cohort import Case, Cohort, Role
from ..cohort.patches import CaseCache, Patch, PatchStream
from ..cohort.plan import Plan
from ..collaboration.collaboration import Collaboration, plain_view
from ..collaboration.refinement import describe_collaboration
from ..collaboration.regularization import TaughtPatch
from ..errors import ConfigError, DivergenceError
from ..run import events as kinds
from ..run.config import TrainingConfig
from ..run.events import EventWriter
from ..run.folder import COLLABORATION, RunFolder
from ..specialist.device import memory_in_use
from ..specialist.inference import arithmetic
from ..specialist.methods import find_method
from ..specialist.methods.base import Batch, MethodSettings, StepLosses
from ..specialist.networks import build_specialist
from ..specialist.pretrained.weights import begin_pretrained
from ..specialist.specialist import Specialist
from .checkpoint import load_checkpoint, save_checkpoint
from .layers import write_layers
from .schedule import polynomial_decay
from .threads import PatchThreads
from .validation import mean_dice, validate

#: Seconds between progress events, so that a fast GPU does not flood the file.
_PROGRESS_SECONDS = 1.0
#: Greatest norm of the gradient of all weights together.
_GRADIENT_NORM = 10.0
#: Learning rates where none is set: a network that has learned before forgets it at the greater one.
_GENTLE_RATE, _RATE = 1e-3, 3e-3


@dataclass(frozen=True)
class Settled:
    """What is settled before the first step, and written to run.json.

    Attributes:
        cohort: A cohort without faults.
        config: What the user set.
        plan: What was planned from the cohort and the device.
        device: Where to train.
        precision: Arithmetic to train in.
        iterations: Length of the training.
        trains_on: Whether the network is a trained specialist's, which learns further.
    """

    cohort: Cohort
    config: TrainingConfig
    plan: Plan
    device: torch.device
    precision: str
    iterations: int
    trains_on: bool = False

    @property
    def layer_cases(self) -> list[Case]:
        """The cases whose layers are refreshed while training: those named, or a few of each kind."""
        cohort, names = self.cohort, self.config.layers
        if names is not None:
            return [cohort.case(name) for name in names]
        return [*cohort.validation[:1], *cohort.unlabeled[:2], *cohort.labeled[:1]]

    def require_layers(self) -> None:
        """Refuse layers of cases that there are not, or that training never opens.

        Raises:
            ConfigError: If a case in ``layers`` is held out for test.
            VolumeError: If there is no such case.
        """
        for case in self.layer_cases:
            if case.role is Role.TEST:
                msg = f"The setting 'layers' names the test case '{case.name}', which training never opens."
                raise ConfigError(msg, "Name labelled, unlabelled or validation cases with --layers.")


class Trainer:
    """Trains a specialist in a run folder that this process owns.

    Args:
        settled: What was settled before.
        folder: The run folder.
        events: Where to say what happens.
        collaboration: Where specialist and generalists meet, or None where there are no generalists.

    Attributes:
        pretrained: Whether the specialist begins with weights that learned from made-up volumes.
        has_learned: Whether it begins with what was learned before: that, or a trained specialist's weights.
        learning_rate: At the start.
    """

    def __init__(
        self, settled: Settled, folder: RunFolder, events: EventWriter, collaboration: Collaboration | None
    ) -> None:
        self.settled, self.folder, self.events, self.collaboration = settled, folder, events, collaboration
        config, plan, cohort, device = settled.config, settled.plan, settled.cohort, settled.device
        torch.manual_seed(config.seed)
        method = find_method(config.method)
        self.pretrained = False

        def make_network() -> torch.nn.Module:
            network = build_specialist(
                config.specialist,
                in_channels=len(cohort.channels),
                out_channels=len(cohort.classes) + 1,
                patch=plan.patch,
                size=plan.size,
                dropout=method.dropout,
            )
            if config.initial_weights == "pretrained" and method.begins_pretrained and not settled.trains_on:
                self.pretrained = begin_pretrained(network)
            return network

        self.method = method(
            make_network,
            MethodSettings(
                iterations=settled.iterations,
                classes=len(cohort.classes) + 1,
                ema=config.ema,
                consistency=config.consistency,
                one_piece=plan.one_piece,
                channels=len(cohort.channels),
            ),
        ).to(device)
        self.has_learned = self.pretrained or settled.trains_on
        planned = _GENTLE_RATE if self.has_learned else _RATE
        self.learning_rate = planned if config.learning_rate is None else config.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.method.trained_parameters(), lr=self.learning_rate, weight_decay=config.weight_decay
        )
        # float16 alone has too small a range for gradients; elsewhere the scaler does nothing.
        self.scaler = torch.amp.GradScaler(device.type, enabled=settled.precision == "float16")
        self.cache = CaseCache(plan, cohort.classes, int(config.cache_gb * 1e9), device)
        self.labeled = self._stream(cohort.labeled, config.seed * 2 + 1, with_label=True)
        self.unlabeled = self._stream(cohort.unlabeled, config.seed * 2 + 2, with_label=False)
        self.threads = PatchThreads(config.batch)
        self.iteration = 0
        self.best_dice = -1.0
        self.validations_since_best = 0

    def _stream(self, cases: Sequence[Case], seed: int, *, with_label: bool) -> PatchStream | None:
        config = self.settled.config
        if not cases:
            return None
        flips = tuple("zyx".index(axis) for axis in config.flips)
        spatial = SpatialAugmentation(self.settled.plan.patch, config.augmentation, flips)
        return PatchStream(
            cases, self.cache, spatial, IntensityAugmentation(config.augmentation), seed=seed, with_label=with_label
        )

    # -- the step ---------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, torch.Tensor]:
        """Take one step, and return its losses as scalars on the device."""
        config, iteration = self.settled.config, self.iteration
        torch.manual_seed(config.seed * 1_000_003 + iteration)  # Dropout; makes a step depend on nothing before it.
        labeled = self._draw(self.labeled)
        asks = self._asks(iteration)
        unlabeled = self._draw(self.unlabeled) if asks or self.method.learns_from_unlabeled(iteration) else []
        taught = self._ask(unlabeled) if asks else [None] * len(unlabeled)
        batch = self._batch(labeled, unlabeled, taught)
        self.method.train()
        self.method.teacher.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * polynomial_decay(iteration, self.settled.iterations)
        self.optimizer.zero_grad(set_to_none=True)
        with arithmetic(self.settled.device, self.settled.precision):
            outputs = self.method.step_losses(batch)
            losses = {**outputs.losses, **self._collaboration_loss(batch, taught, outputs)}
        self.scaler.scale(torch.stack([loss.float() for loss in losses.values()]).sum()).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.method.trained_parameters(), _GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step(iteration)
        self.iteration += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def _draw(self, stream: PatchStream | None) -> list[Patch]:
        return stream.draw(self.iteration, self.settled.config.batch, map=self.threads.map) if stream else []

    def _asks(self, iteration: int) -> bool:
        """Return whether generalists are asked, and have a way to teach: beliefs that they correct, or a loss of their own."""
        has_way = self.method.beliefs != "corrected" or self.method.learns_from_unlabeled(iteration)
        return has_way and self.collaboration is not None and self.collaboration.asks(iteration)

    def _ask(self, unlabeled: Sequence[Patch]) -> list[TaughtPatch | None]:
        """Ask the generalists about each unlabelled patch."""
        collaboration = self.collaboration
        assert collaboration is not None
        specialist = self._teacher()
        return self.threads.map(lambda patch: collaboration.ask(patch, specialist, self.iteration), unlabeled)

    def _batch(
        self, labeled: Sequence[Patch], unlabeled: Sequence[Patch], taught: Sequence[TaughtPatch | None]
    ) -> Batch:
        images = torch.stack([patch.image for patch in labeled])
        beliefs = None
        if unlabeled and self.method.beliefs != "none" and self.method.learns_from_unlabeled(self.iteration):
            pairs = zip(unlabeled, taught, strict=True)
            beliefs = torch.stack(self.threads.map(lambda pair: self._belief(*pair), pairs))
        return Batch(
            labeled=images,
            labels=torch.stack([patch.label for patch in labeled if patch.label is not None]),
            unlabeled=torch.stack([patch.image for patch in unlabeled]) if unlabeled else images[:0],
            iteration=self.iteration,
            random=torch.Generator().manual_seed(self.settled.config.seed * 7_368_787 + self.iteration),
            beliefs=beliefs,
        )

    def _belief(self, patch: Patch, taught: TaughtPatch | None) -> torch.Tensor:
        """Return what the teacher says of a patch, as the method wants it; see :attr:`Method.beliefs`."""
        if taught is None:
            belief = plain_view(patch, self._teacher())
        else:
            belief = taught.corrected() if self.method.beliefs == "corrected" else taught.belief
        return look_up(belief, patch.undeformed_coordinates(), outside=0.0)

    def _collaboration_loss(
        self, batch: Batch, taught: Sequence[TaughtPatch | None], outputs: StepLosses
    ) -> dict[str, torch.Tensor]:
        """Return L_sam on the unlabelled patches, for methods that generalists do not teach through corrected beliefs."""
        terms = []
        for number, lesson in enumerate(taught):
            if lesson is not None and self.method.beliefs != "corrected":
                place = slice(number, number + 1)
                logits = outputs.unlabeled_logits
                logits = self.method.student(batch.unlabeled[place]) if logits is None else logits[place]
                terms.append(lesson.loss(logits, self.settled.config.collaboration_loss))
        return {"collaboration": torch.stack(terms).mean()} if terms else {}

    # -- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train to the end or until asked to stop.

        Returns:
            ``done`` or ``stopped``.
        """
        # Only beside a GPU, or cores that the patches leave free; elsewhere it would take from the step what it saves later.
        has_room = self.settled.device.type != "cpu" or torch.get_num_threads() > self.settled.config.batch
        if self.collaboration is not None and self.unlabeled is not None and has_room:
            self.collaboration.embed_ahead(self.unlabeled.coming(self.iteration, self.settled.config.batch))
        try:
            return self._run()
        finally:
            self.threads.close()
            if self.collaboration is not None:
                self.collaboration.close()

    def _run(self) -> str:
        config, total = self.settled.config, self.settled.iterations
        started, first, told = time.monotonic(), self.iteration, 0.0
        losses: list[dict[str, torch.Tensor]] = []
        while self.iteration < total and not self._is_patience_over():
            if self.folder.is_asked_to_stop():
                self._require_finite(_means(losses))
                self.save_checkpoint("last")
                return "stopped"
            self._measure_trust()
            losses.append(self.step())
            now, last = time.monotonic(), self.iteration == total
            validates = last or self.iteration % config.validate_every == 0
            saves = last or self.iteration % config.checkpoint_every == 0
            if validates or saves or now - told >= _PROGRESS_SECONDS:
                means = _means(losses)
                self._require_finite(means)
                if last:  # Predictions are refined by what is trusted in the end.
                    self._measure_trust(force=True)
                per_iteration = (now - started) / (self.iteration - first)
                self.events.write(
                    kinds.PROGRESS,
                    iteration=self.iteration,
                    iterations=total,
                    seconds_left=round(per_iteration * (total - self.iteration), 1),
                    losses=means,
                    memory=memory_in_use(self.settled.device),
                )
                losses, told = [], now
            if validates:
                self._validate()
                self._write_layers()
            if saves:
                self.save_checkpoint("last")
        if self.iteration < total:
            self.events.write(kinds.MESSAGE, text="Stopped early: the validation Dice no longer rises.")
        self.save_checkpoint("last")
        return "done"

    def _require_finite(self, losses: dict[str, float]) -> None:
        """Refuse to go on, or to keep anything, with weights that are no longer finite.

        A loss that is not finite in a step that the scaler of float16 passed over does no harm.

        Raises:
            DivergenceError: If a loss is not finite, and neither are the weights.
        """
        wrong = [name for name, loss in losses.items() if not isfinite(loss)]
        if not wrong or all(bool(weight.isfinite().all()) for weight in self.method.trained_parameters()):
            return
        precision = self.settled.precision
        msg = f"The training diverged: by iteration {self.iteration} the loss '{wrong[0]}' was no finite number."
        exact = "" if precision == "float32" else f" or with --precision float32 (it was {precision})"
        raise DivergenceError(msg, f"Train anew with a smaller --learning-rate (it was {self.learning_rate:g}){exact}.")

    def seconds_per_iteration(self) -> float:
        """Measure how long a step late in the training takes, and leave everything as it was.

        Nobody is asked in it whom a specialist that has learned nothing cannot trust yet; asking comes on top.
        """
        state = self.state()
        state = {key: _copied(value) for key, value in state.items()}
        self.iteration = max(0, self.settled.iterations - 4)
        self._measure_trust(force=True, tell=False)
        times = []
        for _ in range(4):
            begun = time.monotonic()
            self.step()
            times.append(time.monotonic() - begun)
        self.load_state(state)
        return sum(times[1:]) / 3  # The first warms caches up.

    def specialist(self) -> Specialist:
        """Return the specialist as it is now: the averaged network."""
        settled = self.settled
        return Specialist(
            self.method.teacher,
            settled.config.specialist,
            settled.plan,
            settled.cohort.classes,
            settled.cohort.channels,
            settled.precision,
            {"iteration": self.iteration}
            | ({} if self.collaboration is None else {COLLABORATION: describe_collaboration(self.collaboration)}),
        )

    def _teacher(self) -> Specialist:
        """Return the specialist as it teaches: it looks at a patch once, for a step must be short."""
        return replace(self.specialist(), further_scales=())

    def start_from(self, specialist: Specialist) -> None:
        """Begin with the weights of a trained specialist."""
        state = specialist.network.state_dict()
        self.method.student.load_state_dict(state)
        self.method.teacher.load_state_dict(state)

    def export(self) -> Specialist:
        """Write specialist/: the best on held-out cases, or the last where none were held out or these show no structure.

        Trust in generalists is measured beside the one that is written, since predictions are refined by it.
        """
        best = self.folder.checkpoints / "best"
        if self.settled.cohort.validation and (best / "model.json").exists():
            specialist = Specialist.load(best, self.settled.device)
            # The last one was saved with what was measured beside it.
            if self.collaboration is not None and specialist.about["iteration"] != self.settled.iterations:
                self._measure_trust(specialist, force=True)
                self.collaboration.close()
                about = {COLLABORATION: describe_collaboration(self.collaboration)}
                specialist = replace(specialist, about=specialist.about | about)
        else:
            specialist = self.specialist()
        specialist.save(self.folder.specialist)
        return specialist

    def _measure_trust(self, specialist: Specialist | None = None, *, force: bool = False, tell: bool = True) -> None:
        """Measure trust beside a specialist; the one that is being trained, as it is used at this time, where none is given."""
        if self.collaboration is None:
            return
        if specialist is None:
            specialist = self.specialist() if self.iteration == self.settled.iterations else self._teacher()
        measured = self.collaboration.measure_trust(
            self.cache, self.settled.cohort, specialist, self.iteration, force=force
        )
        if measured is not None and tell:
            self.events.write(kinds.TRUST, iteration=self.iteration, **measured)

    def _validate(self) -> None:
        """Validate, and keep the best."""
        settled = self.settled
        held_out = settled.cohort.validation
        cases = (self.cache.get(case, with_label=True) for case in held_out or settled.cohort.labeled)
        dice = validate(self.specialist(), cases)
        mean = mean_dice(dice)
        better = False
        if held_out and mean is not None:  # Cases that show no structure choose nothing.
            better = mean > self.best_dice
            self.best_dice = max(mean, self.best_dice)
            self.validations_since_best = 0 if better else self.validations_since_best + 1
        if better:
            self.specialist().save(self.folder.checkpoints / "best")
        self.events.write(
            kinds.METRICS,
            iteration=self.iteration,
            dice=dice,
            on="validation" if held_out else "labeled",
            best=better,
        )

    def _is_patience_over(self) -> bool:
        """Return whether to stop early; asked before a step, so that a resumed run takes none that it would not have."""
        patience, held_out = self.settled.config.patience, self.settled.cohort.validation
        return bool(held_out) and patience is not None and self.validations_since_best >= patience

    def _write_layers(self) -> None:
        for case in self.settled.layer_cases:
            write_layers(
                self.folder.layers(case.name),
                self.cache.get(case, with_label=case.role in (Role.LABELED, Role.VALIDATION)),
                self.specialist(),
                self.collaboration,
                iteration=self.iteration,
            )
            self.events.write(
                kinds.LAYERS,
                iteration=self.iteration,
                case=case.name,
                folder=self.folder.layers(case.name).relative_to(self.folder.path).as_posix(),
            )

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs to go on as if it had not been interrupted."""
        return {
            "iteration": self.iteration,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "collaboration": self.collaboration.state() if self.collaboration is not None else {},
            "best_dice": self.best_dice,
            "validations_since_best": self.validations_since_best,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        self.iteration = state["iteration"]
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # None of a run that began in other arithmetic than float16.
            self.scaler.load_state_dict(state["scaler"])
        if self.collaboration is not None:
            self.collaboration.load_state(state["collaboration"])
        self.best_dice, self.validations_since_best = state["best_dice"], state["validations_since_best"]

    def save_checkpoint(self, name: str) -> None:
        """Write checkpoints/NAME.pt."""
        save_checkpoint(self.folder.checkpoints / f"{name}.pt", self.state())

    def load_checkpoint(self, name: str) -> None:
        """Go on from checkpoints/NAME.pt."""
        self.load_state(load_checkpoint(self.folder.checkpoints / f"{name}.pt"))


def _means(losses: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Return the mean of each loss over the steps that had it; the only place where the device is waited for."""
    names = dict.fromkeys(name for step in losses for name in step)
    return {
        name: round(float(torch.stack([step[name].float() for step in losses if name in step]).mean()), 5)
        for name in names
    }


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
