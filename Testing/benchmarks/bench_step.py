"""What a training step costs, by recipe and by stage, beside a step in the scheme of the released SemiSAM+ code.

Whole steps of all recipes are taken in turn in one child, so that their ratios do not drift with the machine; then each
recipe runs in a child of its own for its stages and its memory. SAM-Med3D has random weights here (its cost does not
depend on them), and embeddings are made before the clock starts. The released scheme is rebuilt from our own modules as
docs tell of it: the checkpoint read at each step, the padded encoder, ten clicks one after another, and a 3D U-Net of 19
million parameters with its teacher on 128³, batch 2, float32. About eight minutes on two cores, of which one step of that
scheme takes one and a half; it needs about 12 GB for it::

    python Testing/benchmarks/bench_step.py --steps 15 --rounds 1
    python Testing/benchmarks/bench_step.py --device cuda --steps 50 --released-steps 5 --peak-tflops 989
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import DATA, about, in_child, peak_memory, table

#: Row of the table: method and generalist.
ROWS = {
    "supervised": ("supervised", ""),
    "mean-teacher": ("mean-teacher", ""),
    "mean-teacher + random-walker": ("mean-teacher", "random-walker"),
    "mean-teacher + SAM-Med3D": ("mean-teacher", "sam-med3d"),
    "copy-paste": ("copy-paste", ""),
    "copy-paste + random-walker": ("copy-paste", "random-walker"),
}
RELEASED = "SAM-Med3D in the released scheme"
#: Supervised steps before anything is measured, so that there is something to ask about.
_LEARN = 60
#: Length of the trainings of which steps are measured: the default's.
_ITERATIONS = 2400
_STAGES = ("draw", "ask", "batch", "forward", "backward", "update")


class Stages:
    """Seconds and greatest memory of the stages of a step, measured as they pass.

    Args:
        device: Its queue is waited for at each stage's end, and its memory is what is watched, where it is a GPU.
    """

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.memory: dict[str, int] = defaultdict(int)
        self._on_gpu, self._now, self._ends = device.startswith("cuda"), "", threading.Event()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        import torch

        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        outer, self._now, begun = self._now, name, time.perf_counter()
        try:
            yield
        finally:
            if self._on_gpu:
                torch.cuda.synchronize()
                self.memory[name] = max(self.memory[name], torch.cuda.max_memory_allocated())
            self.seconds[name].append(time.perf_counter() - begun)
            self._now = outer

    def around(self, owner: Any, attribute: str, name: str) -> None:
        """Measure every call of a method as a stage."""
        function = getattr(owner, attribute)

        def measured(*arguments: Any, **keywords: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **keywords)

        object.__setattr__(owner, attribute, measured)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the process's memory every few milliseconds, on a CPU."""
        import psutil

        process = psutil.Process()

        def look() -> None:
            while not self._ends.wait(0.005):
                name = self._now
                self.memory[name] = max(self.memory[name], process.memory_info().rss)

        watcher = threading.Thread(target=look, daemon=True)
        if not self._on_gpu:
            watcher.start()
        try:
            yield
        finally:
            self._ends.set()

    def mean(self, name: str, count: int) -> float:
        """Return the seconds of a stage in a step, which may have passed several times in it."""
        return sum(self.seconds[name]) / count


def child(task: dict[str, Any]) -> dict[str, Any]:
    """Do one part of the measurement in this process."""
    import torch

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    do = {"learn": _learn, "turn": _measure_in_turn, "row": _measure_row, "released": _measure_released}[task["do"]]
    return do(task)


# Our own steps


def _trainer(task: dict[str, Any], method: str, generalist: str) -> Any:
    """Return a trainer that has learned something where there is a file of it, on left atrium or on phantoms."""
    import torch

    from SemiSAMPlusLib.cohort.cohort import Cohort
    from SemiSAMPlusLib.cohort.plan import plan_training
    from SemiSAMPlusLib.generalist.random_walker import RandomWalker
    from SemiSAMPlusLib.generalist.sam_med3d.generalist import SamMed3D
    from SemiSAMPlusLib.run.config import TrainingConfig
    from SemiSAMPlusLib.run.events import EventWriter
    from SemiSAMPlusLib.run.folder import RunFolder
    from SemiSAMPlusLib.specialist.device import usable_precision
    from SemiSAMPlusLib.training.run import _trainer as make_trainer
    from SemiSAMPlusLib.training.trainer import Settled

    folder, device = Path(task["folder"]), torch.device(task["device"])
    cohort = Cohort.load(folder / "cohort.json")
    generalists: dict[str, Any] = {}
    if generalist == "random-walker":
        generalists[generalist] = RandomWalker(device=device)
    elif generalist:
        generalists[generalist] = SamMed3D(folder / "sam.safetensors", device=device)
    config = TrainingConfig(
        method=method,
        generalists=tuple(generalists),
        iterations=_ITERATIONS,
        trust=0.5,
        threads=task["threads"] or None,
    )
    plan = plan_training(cohort, config, on_gpu=device.type != "cpu")
    settled = Settled(cohort, config, plan, device, usable_precision(device, "auto"), _ITERATIONS)
    run = RunFolder(folder / "run" / f"{method}-{generalist}")
    run.path.mkdir(parents=True, exist_ok=True)
    trainer = make_trainer(settled, run, EventWriter(run.events_file), generalists)
    if (folder / "learned.pt").exists():
        state = torch.load(folder / "learned.pt", map_location=device, weights_only=True)
        trainer.method.student.load_state_dict(state)
        trainer.method.teacher.load_state_dict(state)
    return trainer


def _learn(task: dict[str, Any]) -> dict[str, Any]:
    """Write a specialist that sees the structure, and SAM-Med3D's file."""
    import torch
    from safetensors.torch import save_file

    from SemiSAMPlusLib.generalist.sam_med3d.model import SamMed3DModel

    folder = Path(task["folder"])
    model = SamMed3DModel()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "sam.safetensors")
    torch.save({"model_state_dict": model.state_dict()}, folder / "sam.pth")
    trainer = _trainer(task, "supervised", "")
    for _ in range(_LEARN):
        trainer.step()
    torch.save(trainer.method.student.state_dict(), folder / "learned.pt")
    settled = trainer.settled
    return {
        "about": about(),
        "patch": settled.plan.patch,
        "batch": settled.config.batch,
        "size": settled.plan.size,
        "precision": settled.precision,
    }


def _warm_up(trainer: Any) -> None:
    """Go to where every method asks and learns from all; draw and embed every case before a clock starts."""
    trainer.iteration = trainer.settled.iterations * 6 // 10
    for _ in range(-(-len(trainer.settled.cohort.unlabeled) // trainer.settled.config.batch) + 1):
        trainer.step()


def _measure_in_turn(task: dict[str, Any]) -> dict[str, Any]:
    """Measure whole steps of all recipes in turn: seconds by recipe."""
    import torch

    trainers = {name: _trainer(task, *recipe) for name, recipe in ROWS.items()}
    for trainer in trainers.values():
        _warm_up(trainer)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(task["steps"]):
        for name, trainer in trainers.items():
            begun = time.perf_counter()
            trainer.step()
            if trainer.settled.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def _measure_row(task: dict[str, Any]) -> dict[str, Any]:
    """Measure the stages of steps."""
    import torch

    trainer = _trainer(task, *ROWS[task["name"]])
    asked: list[bool] = []
    if trainer.collaboration is not None:
        ask = trainer.collaboration.ask

        def asking(*arguments: Any) -> Any:
            lesson = ask(*arguments)
            asked.append(lesson is not None)
            return lesson

        trainer.collaboration.ask = asking
    _warm_up(trainer)
    stages = Stages(task["device"])
    for owner, attribute, name in (
        (trainer, "_draw", "draw"),
        (trainer, "_ask", "ask"),
        (trainer, "_batch", "batch"),
        (trainer.method, "step_losses", "forward"),
        (trainer, "_collaboration_loss", "forward"),
        (trainer.optimizer, "step", "update"),
        (trainer.method, "after_step", "update"),
    ):
        stages.around(owner, attribute, name)
    backward = torch.Tensor.backward
    torch.Tensor.backward = _measured(stages, "backward", backward)  # type: ignore[method-assign]
    with stages.watching():
        for _ in range(task["steps"]):
            trainer.step()
    torch.Tensor.backward = backward  # type: ignore[method-assign]
    on_gpu = trainer.settled.device.type == "cuda"
    return {
        "stages": {name: stages.mean(name, task["steps"]) for name in _STAGES},
        "stage_memory": {name: stages.memory[name] for name in _STAGES},
        "peak": max(stages.memory.values()) if on_gpu else peak_memory(),
        "answered": sum(asked) / len(asked) if asked else None,
        "flops": _flops(trainer),
    }


def _measured(stages: Stages, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def measured(*arguments: Any, **keywords: Any) -> Any:
        with stages.stage(name):
            return function(*arguments, **keywords)

    return measured


def _flops(trainer: Any) -> int:
    """Return the arithmetic of a step's networks, forward and backward, without what generalists do beside it."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        trainer.step()
    return counter.get_total_flops()


# The released scheme


def _measure_released(task: dict[str, Any]) -> dict[str, Any]:
    """Measure steps as the released code takes them, rebuilt from our own modules."""
    import torch
    from monai.networks.nets import BasicUNet
    from torch.nn.functional import interpolate, mse_loss

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from padded_attention import padded_attention

    from SemiSAMPlusLib.generalist.sam_med3d.image_encoder import WindowAttention
    from SemiSAMPlusLib.generalist.sam_med3d.model import SamMed3DModel
    from SemiSAMPlusLib.specialist.losses import dice_and_cross_entropy
    from SemiSAMPlusLib.specialist.methods.base import update_average

    WindowAttention.forward = padded_attention  # type: ignore[method-assign]
    device = torch.device(task["device"])
    random = torch.Generator().manual_seed(0)

    def network() -> torch.nn.Module:
        return BasicUNet(3, 1, 2, features=(32, 64, 128, 232, 464, 32)).to(device)

    student, teacher = network(), network().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    stages = Stages(task["device"])

    def ask(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        with stages.stage("read"):
            model = SamMed3DModel()
            model.load_state_dict(torch.load(Path(task["folder"]) / "sam.pth", weights_only=True)["model_state_dict"])
            model = model.to(device).eval()
        with stages.stage("encoder"):
            embedding = model.embed(images)
        with stages.stage("clicks"):
            low = torch.zeros(len(images), 1, 32, 32, 32, device=device)
            answers = []
            for _ in range(10):
                wrong = (masks > 0.5) ^ (low_to_full(low) > 0)
                points, labels = [], []
                for one, mask in zip(wrong, masks, strict=True):
                    places = torch.argwhere(one[0]).cpu()
                    if not len(places):
                        places = torch.zeros(1, 3, dtype=torch.long)
                    place = places[int(torch.randint(len(places), (), generator=random))]
                    points.append(place.float())
                    labels.append(mask[0][tuple(place)] > 0.5)
                place, kind = torch.stack(points)[:, None].to(device), torch.stack(labels)[:, None].long().to(device)
                low = model.answer(embedding, place, kind, low)[0]
                answers.append(low_to_full(low).sigmoid())
            return torch.stack(answers).mean(dim=0)

    def low_to_full(low: torch.Tensor) -> torch.Tensor:
        return interpolate(low, scale_factor=4, mode="trilinear", align_corners=False)

    seconds = []
    with stages.watching():
        for step in range(task["steps"]):
            images = torch.randn(2, 1, 128, 128, 128, generator=random).to(device)
            target = (torch.rand(1, 1, 128, 128, 128, generator=random) > 0.5).long().to(device)
            begun = time.perf_counter()
            with stages.stage("network"):
                logits = student(images)
                with torch.no_grad():
                    belief = teacher(images[1:] + 0.1 * torch.randn_like(images[1:])).softmax(dim=1)
            with torch.inference_mode():
                answer = ask(images, logits.detach().softmax(dim=1)[:, 1:])
            with stages.stage("network"):
                probability = logits.softmax(dim=1)
                loss = dice_and_cross_entropy(logits[:1], target) + mse_loss(probability[1:], belief)
                loss = loss + mse_loss(probability[:, 1:], answer.clone())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                update_average(teacher, student, min(1 - 1 / (step + 1), 0.99))
            seconds.append(time.perf_counter() - begun)
    names = ("read", "encoder", "clicks", "network")
    return {
        "seconds": seconds,
        "stages": {name: stages.mean(name, task["steps"]) for name in names},
        "stage_memory": {name: stages.memory[name] for name in names},
        "peak": max(stages.memory.values()) if device.type == "cuda" else peak_memory(),
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
    }


# The whole


def _write_cohort(folder: Path, unlabeled: int) -> str:
    """Write a cohort of one labelled and a few unlabelled cases; returns what it is of."""
    from SemiSAMPlusLib.cohort.cohort import Role
    from SemiSAMPlusLib.cohort.discovery import find_cohort
    from SemiSAMPlusLib.cohort.phantom import make_phantom_cohort

    real = DATA / "left_atrium"
    if real.is_dir():
        cohort, what = find_cohort(real, labeled=1), "left atrium"
    else:
        cohort, what = (
            make_phantom_cohort(folder / "phantoms", cases=1 + unlabeled, test=0, size=(72, 96, 84)),
            "phantoms",
        )
    kept = {Role.LABELED: 1, Role.UNLABELED: unlabeled}
    cases = [case for role, count in kept.items() for case in [c for c in cohort.cases if c.role is role][:count]]
    replace(cohort, cases=tuple(cases)).save(folder / "cohort.json")
    return what


def main(
    steps: int = 12,
    rounds: int = 1,
    released_steps: int = 1,
    device: str = "cpu",
    threads: int | None = None,
    unlabeled: int = 6,
    peak_tflops: float | None = None,
    output: Path | None = None,
) -> None:
    """Measure and print tables.

    Args:
        steps: Steps that are timed, and as many again for their stages.
        rounds: So many times as many steps, and so many children for the stages of each row.
        released_steps: Steps of the released scheme; 0 leaves it out.
        device: Where to train.
        threads: CPU threads; all cores where not given.
        unlabeled: Unlabelled cases.
        peak_tflops: What the device can do in the arithmetic that is trained in, to tell what share of it is used.
        output: A JSON file for every figure.
    """
    with tempfile.TemporaryDirectory() as folder:
        what = _write_cohort(Path(folder), unlabeled)
        common = {"folder": folder, "device": device, "threads": threads}
        learned = in_child(__file__, {"do": "learn", **common})
        turns = in_child(__file__, {"do": "turn", "steps": steps * rounds, **common})
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for _ in range(rounds):
            for name in ROWS:
                found[name].append(in_child(__file__, {"do": "row", "name": name, "steps": steps, **common}))
        if released_steps:
            found[RELEASED].append(in_child(__file__, {"do": "released", "steps": released_steps, **common}))
    patch = " × ".join(map(str, learned["patch"]))
    print(
        f"{learned['about']} {what}, patches of {patch}, batch {learned['batch']} + {learned['batch']}, "
        f"size {learned['size']}, {learned['precision']}.\n"
    )
    whole = {name: statistics.median(seconds) for name, seconds in turns.items()}
    if released_steps:
        whole[RELEASED] = statistics.median(found[RELEASED][0]["seconds"])
    stages = {name: _stages(ones) for name, ones in found.items()}
    rows = []
    for name, ones in found.items():
        if name != RELEASED:
            cells = [f"{stages[name][stage]:.3f}" for stage in _STAGES]
            rows.append([name, f"{whole[name]:.3f} s", *cells, f"{max(one['peak'] for one in ones) / 1e9:.2f} GB"])
    print(table(["step", "median", *(f"{stage} s" for stage in _STAGES), "peak memory"], rows), "\n")
    memory = [
        [name, *(f"{max(one['stage_memory'][stage] for one in found[name]) / 1e9:.2f}" for stage in _STAGES)]
        for name in ROWS
    ]
    print(table(["peak memory in GB", *_STAGES], memory), "\n")
    base = whole["mean-teacher"]
    ratios = {
        name: (whole[row] - base) / base
        for name, row in (("random-walker", "mean-teacher + random-walker"), ("SAM-Med3D", "mean-teacher + SAM-Med3D"))
    }
    for name, ratio in ratios.items():
        print(f"- {name} adds {ratio:.2f} of a mean-teacher step (target 0.3 or less).")
    ratio = whole["copy-paste + random-walker"] / whole["copy-paste"] - 1
    print(f"- random-walker adds {ratio:.2f} of a copy-paste step.")
    for row in ROWS:
        answered = found[row][0]["answered"]
        if answered is not None:
            print(f"- {row}: {100 * answered:.0f} % of the questions were answered.")
    if peak_tflops is not None:
        for row in ROWS:
            rate = found[row][0]["flops"] / whole[row] / 1e12
            print(f"- {row}: {rate:.2f} TFLOP/s, {100 * rate / peak_tflops:.1f} % of the peak.")
    if released_steps:
        one, parts = found[RELEASED][0], stages[RELEASED]
        branch = parts["read"] + parts["encoder"] + parts["clicks"]
        added = max(whole["mean-teacher + SAM-Med3D"] - base, 1e-4)
        print(
            f"- {RELEASED}: {whole[RELEASED]:.1f} s (checkpoint {parts['read']:.1f}, padded encoder {parts['encoder']:.1f}, "
            f"clicks {parts['clicks']:.1f}, U-Net of {one['parameters'] / 1e6:.1f} M parameters {parts['network']:.1f}), "
            f"peak {one['peak'] / 1e9:.1f} GB."
        )
        print(f"- Its SAM branch costs {branch / added:.0f} × what ours adds (target 100 or more).")
        ours = whole["mean-teacher + random-walker"]
        print(f"- Its whole step takes {whole[RELEASED] / ours:.0f} × ours at the defaults (target 20 or more).")
    if output is not None:
        output.write_text(
            json.dumps({"about": learned, "in_turn": turns, "rows": found}, indent=1) + "\n", encoding="utf-8"
        )


def _stages(ones: list[dict[str, Any]]) -> dict[str, float]:
    return {stage: statistics.median(one["stages"][stage] for one in ones) for stage in ones[0]["stages"]}


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        import tyro

        tyro.cli(main)
