"""Where specialist and generalists meet: prompts go one way, trusted answers come back as a target."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..cohort.augmentation import cut
from ..cohort.boxes import Box, box_of, extent
from ..cohort.cohort import Case, Cohort
from ..cohort.patches import CaseCache, Patch, PreparedCase
from ..cohort.volume import Grid, Volume, read_volume, resample, training_grid
from ..generalist.embeddings import EmbeddingStore, content_key
from ..generalist.generalist import Generalist, PromptSet, SelfJudging
from ..specialist.inference import where_structures_can_be
from ..specialist.pieces import keep_largest_pieces
from ..specialist.specialist import Specialist
from .answer import Answer, agreement, answer_together
from .prompts import PromptSettings, make_prompts
from .regularization import TaughtPatch, combine
from .sizes import further_shifted, shift_to_size, shifted
from .trust import SETS, EarnedTrust, View, choose_typical, earn_trust, make_views

#: Memory in bytes for the embeddings of the views on which trust is measured.
_VIEW_BYTES = 128 << 20
#: Generalists are asked about the box in which structures can be, with half its size, or so many voxels, around.
_MARGIN = 8
#: The largest piece is what is meant where it has this share of what the specialist takes for a structure that is one piece;
#: else nobody can say which is, and an answer about the wrong one would confirm it.
_CLEAR = 0.8


@dataclass(frozen=True)
class CollaborationSettings:
    """How specialist and generalists work together.

    Attributes:
        iterations: Length of the training.
        prompts: How prompts are made.
        temperature: τ of the voxel confidence.
        start: Share of the training before which λ_sam is 0.
        strength: λ_sam from there on.
        decay: How fast it falls.
        resizes: Whether answers are made as large as the specialist's predictions, in the median of a few unlabelled cases.
        every: Generalists are asked at each so-many-th iteration.
        trust: Trust in each generalist, or None to measure it.
        trust_every: Iterations between measurements of trust.
        seed: Fixes prompts and views.
    """

    iterations: int
    prompts: PromptSettings
    temperature: float = 0.05
    start: float = 0.0
    strength: float = 1.0
    decay: float = 0.0
    resizes: bool = True
    every: int = 1
    trust: float | None = None
    trust_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Opinions:
    """What generalists say of a case.

    Attributes:
        place: The box of the case's training grid that they were asked about.
        belief: (classes with background, z, y, x) float32, f in the box, the specialist's.
        prompts: Prompt sets by class, empty for classes that nobody was asked about.
        answers: By generalist's name, on the voxels of the box; without those who have no answer.
    """

    place: Box
    belief: torch.Tensor
    prompts: list[list[PromptSet]]
    answers: dict[str, Answer]


class Collaboration:
    """Asks generalists about the specialist's patches, and says what they teach.

    Args:
        generalists: Name to generalist.
        settings: How they work together.
        embeddings: The folder where embeddings of cases are kept, for generalists that can keep them; or None.
    """

    def __init__(
        self, generalists: Mapping[str, Generalist], settings: CollaborationSettings, embeddings: Path | None = None
    ) -> None:
        self.generalists, self.settings = dict(generalists), settings
        #: How far each generalist is trusted on average; who has 0 is not asked.
        self.trust = dict.fromkeys(self.generalists, settings.trust or 0.0)
        #: How that depends on the patch or scan; where nothing was measured, it does not.
        self.earned: EarnedTrust | None = None
        #: By how much each generalist's log-odds of each structure are shifted, so that its answers are of the size that is meant.
        self.shifts: dict[str, list[float]] = {}
        self._stores = {
            name: EmbeddingStore(embeddings, generalist, getattr(generalist, "weights_sha256", ""))
            for name, generalist in self.generalists.items()
        }
        self._view_stores = {
            name: EmbeddingStore(None, generalist, memory_bytes=_VIEW_BYTES)
            for name, generalist in self.generalists.items()
        }
        self._case_keys: dict[str, str] = {}
        # The patches of a step may ask at the same time; who has not said that this is well is asked by one at a time.
        self._turns: dict[str, AbstractContextManager[Any]] = {
            name: nullcontext() if getattr(generalist, "concurrent", False) else threading.RLock()
            for name, generalist in self.generalists.items()
        }

    # -- teaching ---------------------------------------------------------------------------------------------------

    def asks(self, iteration: int) -> bool:
        """Return whether any generalist is trusted, and it is time to ask."""
        settings = self.settings
        return iteration % settings.every == 0 and self.strength(iteration) > 0 and any(self.trust.values())

    def ask(self, patch: Patch, specialist: Specialist, iteration: int) -> TaughtPatch | None:
        """Ask the trusted generalists about a patch.

        Prompts come from the specialist's view of the patch undeformed, and answers are brought to the deformed patch
        by its coordinates, so a case is embedded once whatever is done to its patches.

        Args:
            patch: An unlabelled patch.
            specialist: Who makes the prompts: the averaged network.
            iteration: Which step.

        Returns:
            What they teach, or None where nobody is asked or nobody answers.
        """
        if not self.asks(iteration):
            return None
        belief = plain_view(patch, specialist)
        region = patch.source.grid.cropped(patch.start, belief.shape[1:])
        seed = (self.settings.seed, 11, iteration)
        _, answers = self._ask_each(self._trusted(), patch.source, belief, region, specialist, seed)
        heard = self._together(answers, belief)
        if heard is None:
            return None
        return TaughtPatch(*heard, belief, patch.undeformed_coordinates(), self.strength(iteration))

    def strength(self, iteration: int) -> float:
        """Return λ_sam: 0 before the start, then falling as exp(-decay (t/T)²)."""
        settings, done = self.settings, iteration / self.settings.iterations
        return settings.strength * exp(-settings.decay * done**2) if done >= settings.start else 0.0

    # -- trust ------------------------------------------------------------------------------------------------------

    def measure_trust(
        self, cache: CaseCache, cohort: Cohort, specialist: Specialist, iteration: int, *, force: bool = False
    ) -> dict[str, Any] | None:
        """Measure the trust in each generalist anew, where it is time.

        Returns:
            ``trust``: for each generalist how far it is trusted on average on a few unlabelled cases. None where it was not
            time.
        """
        settings = self.settings
        if settings.trust is not None or not cohort.unlabeled:
            return None
        if not force and (iteration == 0 or iteration % settings.trust_every):
            return None
        ask = {name: partial(self._answer_view, name, specialist) for name in self.generalists}
        number = -(-iteration // settings.trust_every) % SETS  # The last measurement may come before its time is up.
        before = [] if self.earned is None else [one for one in self.earned.lessons if one.number != number]
        agreements, needed = self._compare_on_typical(cache, cohort, specialist)
        if settings.resizes:
            none = [0.0] * len(specialist.classes)
            self.shifts = {name: further_shifted(self.shifts.get(name, none), each) for name, each in needed.items()}
        prepare = partial(cache.get, with_label=True)
        views = make_views(specialist, cohort.labeled, prepare, settings.seed, number)
        self.earned = earn_trust(views, ask, before)
        shares = [self._shares(one) for one in agreements]
        self.trust = {name: float(np.mean([one.get(name, 0.0) for one in shares])) for name in self.generalists}
        return {"trust": {name: round(value, 4) for name, value in self.trust.items()}}

    def _compare_on_typical(
        self, cache: CaseCache, cohort: Cohort, specialist: Specialist
    ) -> tuple[list[dict[str, float]], dict[str, list[list[float | None]]]]:
        """Compare answers with what the specialist says, on a few unlabelled cases, of which one is held at a time.

        Returns:
            For each case how far each generalist who answered agrees; and for each generalist, by case and structure, by how
            much to shift log-odds.
        """
        agreements: list[dict[str, float]] = []
        needed: dict[str, list[list[float | None]]] = {name: [] for name in self.generalists}
        by_name = {case.name: case for case in cohort.unlabeled}
        for typical in choose_typical(list(by_name), self.settings.seed):
            case = cache.get(by_name[typical], with_label=False)
            opinions = self.ask_about(case, specialist.probabilities(case.image), specialist)
            agreed = _agreements(opinions.answers, opinions.belief)
            agreements.append(agreed)
            for name, answer in opinions.answers.items():
                needed[name].append(shift_to_size(answer.mean, opinions.belief, agreed[name]))
        return agreements, needed

    def _shares(self, agreements: Mapping[str, float]) -> dict[str, float]:
        """Return how far to take each answer's corrections of what the specialist says of a patch or a scan."""
        if self.earned is None:
            return {name: self.trust[name] for name in agreements}
        return self.earned.shares(agreements)

    def _answer_view(self, name: str, specialist: Specialist, view: View) -> Answer | None:
        grid = view.case.grid
        prompts = self._prompts(specialist, view.probabilities, grid, (self.settings.seed, 12))
        # Least grey value 0, as generalists expect of files: what is normalised lies around 0.
        volume = Volume((view.image - view.image.amin()).cpu().numpy(), grid)
        spacing = self.generalists[name].spacing
        embedding = self._view_stores[name].get(view.key, lambda: _at_spacing(volume, spacing))
        return self._ask(name, embedding, prompts, grid, view.probabilities)

    # -- asking -----------------------------------------------------------------------------------------------------

    def ask_about(self, case: PreparedCase, probabilities: torch.Tensor, specialist: Specialist) -> Opinions:
        """Ask every generalist about a whole case, in the box where structures can be.

        Args:
            case: Which case.
            probabilities: (classes with background, z, y, x) f, the specialist's.
            specialist: Who made them.

        Returns:
            What they say.
        """
        place = _box_to_ask_about(probabilities)
        belief = probabilities[(slice(None), *place)].float()
        region = case.grid.cropped([part.start for part in place], belief.shape[1:])
        seed = (self.settings.seed, 14)
        prompts, answers = self._ask_each(self.generalists, case, belief, region, specialist, seed)
        return Opinions(place, belief, prompts, answers)

    def refined(self, probabilities: torch.Tensor, opinions: Opinions) -> torch.Tensor:
        """Correct what a specialist says of a whole case, as far as the generalists are trusted (ours).

        Where structures can be, f becomes f + w (F̄ - f), as pseudo-labels are corrected in training; elsewhere, and where
        nobody is trusted or has an opinion, it stays.

        Args:
            probabilities: (classes with background, z, y, x) f, the specialist's.
            opinions: What :meth:`ask_about` returned for them.

        Returns:
            Probabilities like those given, which are returned themselves where nobody is trusted or answered.
        """
        belief = opinions.belief
        heard = self._together(opinions.answers, belief)
        if heard is None:
            return probabilities
        answer, weight = heard
        refined = probabilities.clone()
        refined[(slice(None), *opinions.place)] = (belief + weight * (answer - belief)).to(refined.dtype)
        return refined

    def _trusted(self) -> list[str]:
        return [name for name, value in self.trust.items() if value > 0]

    def _ask_each(
        self,
        names: Iterable[str],
        case: PreparedCase,
        belief: torch.Tensor,
        region: Grid,
        specialist: Specialist,
        seed: tuple[int, ...],
    ) -> tuple[list[list[PromptSet]], dict[str, Answer]]:
        """Return the prompt sets by class, and the answers to them of those who have one."""
        prompts = self._prompts(specialist, belief, region, seed)
        if not any(prompts):
            return prompts, {}
        answers = {name: self._answer(name, case, prompts, region, belief) for name in names}
        return prompts, {name: answer for name, answer in answers.items() if answer is not None}

    def _together(
        self, answers: Mapping[str, Answer], belief: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the trusted generalists' answer together, and its weight; None where none of them answered."""
        heard = {name: answers[name] for name in self._trusted() if name in answers}
        if not heard:
            return None
        shares = self._shares(_agreements(heard, belief))
        return combine(
            [answer.mean for answer in heard.values()],
            [answer.confidence for answer in heard.values()],
            [shares[name] for name in heard],
        )

    def _prompts(
        self, specialist: Specialist, probabilities: torch.Tensor, grid: Grid, seed: tuple[int, ...]
    ) -> list[list[PromptSet]]:
        """Return K prompt sets for each class, none for classes that are not seen, or not clearly."""
        likeliest = probabilities.max(dim=0).indices.to(torch.uint8)
        classes = keep_largest_pieces(likeliest, specialist.plan.one_piece).cpu().numpy()
        likeliest = likeliest.cpu().numpy()
        prompts: list[list[PromptSet]] = []
        for index, whole in enumerate(specialist.plan.one_piece, start=1):
            probability = probabilities[index].cpu().numpy()
            if whole:  # What the specialist takes for an island is an error, and no place to prompt.
                if np.count_nonzero(classes == index) < _CLEAR * np.count_nonzero(likeliest == index):
                    prompts.append([])
                    continue
                probability = np.where((classes == index) | (probability < 0.5), probability, 0.0)
            prompts.append(
                make_prompts(probability, grid, self.settings.prompts, np.random.default_rng((*seed, index)))
            )
        return prompts

    def _answer(
        self, name: str, case: PreparedCase, prompts: Sequence[list[PromptSet]], region: Grid, belief: torch.Tensor
    ) -> Answer | None:
        spacing = self.generalists[name].spacing
        with self._turns[name]:
            embedding = self._stores[name].get(self._case_key(case.case), lambda: _case_volume(case, spacing))
            return self._ask(name, embedding, prompts, region, belief)

    def _case_key(self, case: Case) -> str:
        if case.name not in self._case_keys:
            self._case_keys[case.name] = content_key(case.images)
        return self._case_keys[case.name]

    def _ask(
        self, name: str, embedding: Any, prompts: Sequence[list[PromptSet]], region: Grid, belief: torch.Tensor
    ) -> Answer | None:
        """Ask for all classes in one batched call; None where there is none to ask about."""
        asked = [index for index, sets in enumerate(prompts, start=1) if sets]
        if not asked:
            return None
        flat = [prompt_set for sets in prompts for prompt_set in sets]
        generalist = self.generalists[name]
        with torch.no_grad():
            if isinstance(generalist, SelfJudging):
                answers, quality = generalist.answer_with_quality(embedding, flat, region)
            else:
                answers = generalist.answer(embedding, flat, region)
                quality = torch.ones(len(flat))
        device, shape = belief.device, (len(asked), self.settings.prompts.sets)
        answers, quality = answers.to(device, torch.float32).unflatten(0, shape), quality.to(device).unflatten(0, shape)
        answer = answer_together(asked, answers, quality, belief, self.settings.temperature)
        return replace(answer, mean=shifted(answer.mean, self.shifts.get(name, ())))

    # -- embedding ahead --------------------------------------------------------------------------------------------

    def embed_ahead(self, cases: Sequence[Case]) -> None:
        """Begin to embed cases beside the training, in their order, for generalists that read a case's file themselves.

        Who asks for a case meanwhile gets it as soon as it is ready, and the same as if nobody had gone ahead. A case
        that fails is left to whoever asks for it, and fails there.
        """
        for name, generalist in self.generalists.items():
            spacing = generalist.spacing
            if spacing is not None and getattr(generalist, "concurrent", False):
                keys = [(partial(self._case_key, case), partial(_read_volume, case, spacing)) for case in cases]
                self._stores[name].make_ahead(keys)

    def close(self) -> None:
        """Stop what embeds beside the training, and keep on disk what was embedded."""
        for store in (*self._stores.values(), *self._view_stores.values()):
            store.close()

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs: the trusts; prompts and embeddings are made again the same."""
        earned = None if self.earned is None else self.earned.to_dict()
        return {"trust": dict(self.trust), "earned": earned, "shifts": dict(self.shifts)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        self.trust = {name: float(state["trust"].get(name, 0.0)) for name in self.generalists}
        earned = state.get("earned")  # Neither has one whose trust is given, nor a run of before.
        self.earned = None if earned is None else EarnedTrust.from_dict(earned)
        self.shifts = {name: list(values) for name, values in state.get("shifts", {}).items()}


def plain_view(patch: Patch, specialist: Specialist) -> torch.Tensor:
    """Return the specialist's class probabilities (classes with background, z, y, x) of a patch undeformed."""
    return specialist.probabilities(cut(patch.source.image, patch.start, patch.image.shape[1:]))


def _agreements(answers: Mapping[str, Answer], belief: torch.Tensor) -> dict[str, float]:
    return {name: agreement(answer, belief) for name, answer in answers.items()}


def _box_to_ask_about(probabilities: torch.Tensor) -> Box:
    """Return the box of all voxels where structures can be, with a margin; all where there are none."""
    possible = where_structures_can_be(probabilities)
    ends = extent(possible)
    if ends is None:
        z, y, x = possible.shape
        return slice(0, z), slice(0, y), slice(0, x)
    return box_of(ends, np.maximum(_MARGIN, (ends[1] - ends[0]) // 2).tolist(), possible.shape)


def _case_volume(case: PreparedCase, spacing: float | None) -> Volume:
    """Return a case as a generalist wants it: prepared as for the specialist, or from its file at a spacing of its own."""
    if spacing is None:
        return Volume(case.image.cpu().numpy(), case.grid)
    return _read_volume(case.case, spacing)


def _read_volume(case: Case, spacing: float) -> Volume:
    return read_volume(Case(case.name, case.images[:1]), spacing)


def _at_spacing(volume: Volume, spacing: float | None) -> Volume:
    """Return a volume at another isotropic spacing, or as it is."""
    if spacing is None:
        return volume
    first = volume.grid.image(volume.array[0])
    grid = training_grid(first, spacing)
    return Volume(sitk.GetArrayFromImage(resample(first, grid))[None], grid)
