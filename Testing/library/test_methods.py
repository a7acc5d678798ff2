"""Every method: finite losses whose gradient reaches the student and never the teacher, which follows as an average."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from math import exp, log

import pytest
import torch
from tiny import Pointwise
from torch import nn

from SemiSAMPlusLib.specialist.losses import dice_and_cross_entropy, entropy_of
from SemiSAMPlusLib.specialist.methods import METHODS, find_method
from SemiSAMPlusLib.specialist.methods.base import Batch, Method, MethodSettings
from SemiSAMPlusLib.specialist.networks import build_specialist
from SemiSAMPlusLib.training.checkpoint import load_checkpoint, save_checkpoint

SHAPE = (16, 16, 16)
ITERATIONS = 100
UNLABELED = [name for name in METHODS if name != "supervised"]


def _method(name: str, *, classes: int = 2, make: Callable[[], nn.Module] | None = None, **settings) -> Method:
    torch.manual_seed(0)
    kind = find_method(name)

    def network() -> nn.Module:
        return build_specialist(
            "unet3d", in_channels=1, out_channels=classes, patch=SHAPE, size="small", dropout=kind.dropout
        )

    given = {"iterations": ITERATIONS, "classes": classes, "one_piece": (True,) * (classes - 1), **settings}
    method = kind(make or network, MethodSettings(**given))
    method.train()
    method.teacher.eval()
    return method


def _batch(*, labeled: int = 2, unlabeled: int = 2, classes: int = 2, iteration: int = 60, channels: int = 1) -> Batch:
    random = torch.Generator().manual_seed(3)
    return Batch(
        torch.randn(labeled, channels, *SHAPE, generator=random),
        torch.randint(classes, (labeled, 1, *SHAPE), generator=random),
        torch.randn(unlabeled, channels, *SHAPE, generator=random),
        iteration,
        torch.Generator().manual_seed(iteration),
        torch.randn(unlabeled, classes, *SHAPE, generator=random).softmax(dim=1),
    )


def _values(module: nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in module.parameters()]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_losses_are_finite_and_teach_the_student_alone(name: str, classes: int) -> None:
    method = _method(name, classes=classes)
    before = _values(method.teacher)
    losses = method.step_losses(_batch(classes=classes)).losses
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    assert len(losses) == {"supervised": 1, "copy-paste": 3}.get(name, 2)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.student.parameters())
    assert sum(float(p.grad.abs().sum()) for p in method.student.parameters()) > 0
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert _same(before, _values(method.teacher))
    assert not method.teacher.training


@pytest.mark.parametrize("name", UNLABELED)
def test_the_unlabelled_loss_alone_reaches_the_student(name: str) -> None:
    method = _method(name)
    losses = method.step_losses(_batch(iteration=90)).losses
    (own,) = [loss for key, loss in losses.items() if key not in ("supervised", "mixed")]
    assert own.item() > 0
    own.backward()
    assert sum(float(p.grad.abs().sum()) for p in method.student.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_step_without_unlabelled_patches_is_supervised(name: str) -> None:
    method = _method(name)
    losses = method.step_losses(_batch(unlabeled=0)).losses
    assert list(losses) == ["supervised"]
    losses["supervised"].backward()


@pytest.mark.parametrize(("labeled", "unlabeled"), [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("name", METHODS)
def test_batches_need_not_be_of_equal_size(name: str, labeled: int, unlabeled: int) -> None:
    losses = _method(name).step_losses(_batch(labeled=labeled, unlabeled=unlabeled)).losses
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("name", METHODS)
def test_the_logits_that_are_given_away_are_those_of_the_unlabelled_patches(name: str) -> None:
    """The collaboration term puts its gradient through them."""
    method = _method(name, make=Pointwise)
    batch = _batch()
    logits = method.step_losses(batch).unlabeled_logits
    if logits is None:
        assert name in ("supervised", "copy-paste")
        return
    torch.testing.assert_close(logits, method.student(batch.unlabeled))
    assert logits.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_the_same_batch_gives_the_same_losses(name: str) -> None:
    first, second = (_method(name, make=Pointwise).step_losses(_batch()).losses for _ in range(2))
    assert {k: float(v.detach()) for k, v in first.items()} == {k: float(v.detach()) for k, v in second.items()}


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_is_the_moving_average_of_the_student(name: str) -> None:
    method = _method(name, ema=0.9)
    with torch.no_grad():
        for value in method.student.parameters():
            value.add_(1)
    before, student = _values(method.teacher), _values(method.student)
    method.after_step(50)
    for now, old, one in zip(_values(method.teacher), before, student, strict=True):
        torch.testing.assert_close(now, 0.9 * old + 0.1 * one)
    method.after_step(0)  # At the start the average is short: min(1 - 1/(t+1), ema).
    assert _same(_values(method.teacher), student)


def test_the_teacher_takes_over_what_norms_have_counted() -> None:
    method = _method("mean-teacher", make=lambda: nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2)))
    method.step_losses(_batch())
    assert not torch.equal(method.teacher[1].running_mean, method.student[1].running_mean)
    method.after_step(0)
    assert torch.equal(method.teacher[1].running_mean, method.student[1].running_mean)
    assert torch.equal(method.teacher[1].running_var, method.student[1].running_var)


@pytest.mark.parametrize("name", METHODS)
def test_ten_steps_lower_the_supervised_loss(name: str) -> None:
    method = _method(name)
    batch = replace(_batch(), labels=(_batch().labeled > 0).long())
    optimizer = torch.optim.AdamW(method.trained_parameters(), lr=3e-3)
    first = None
    for _ in range(10):
        optimizer.zero_grad()
        losses = method.step_losses(batch).losses
        first = first or float(losses["supervised"].detach())
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        method.after_step(60)
    assert float(losses["supervised"].detach()) < 0.95 * first


def test_the_ramp_and_a_weight_of_ones_own() -> None:
    method = _method("mean-teacher")
    assert method.ramp(0) == pytest.approx(exp(-5))
    assert method.ramp(ITERATIONS) == method.ramp(2 * ITERATIONS) == 1
    assert method.consistency_weight(ITERATIONS, 0.1) == pytest.approx(0.1)
    assert _method("mean-teacher", consistency=3.0).consistency_weight(ITERATIONS, 0.1) == pytest.approx(3)
    for name in UNLABELED:
        losses = _method(name, consistency=0.0).step_losses(_batch()).losses
        (own,) = [loss for key, loss in losses.items() if key not in ("supervised", "mixed")]
        assert own.item() == 0


# -- mean teacher and UA-MT


def test_mean_teacher_is_the_squared_difference_of_probabilities() -> None:
    method = _method("mean-teacher", make=Pointwise)
    batch = _batch(iteration=ITERATIONS)
    squared = (method.student(batch.unlabeled).softmax(dim=1) - batch.beliefs).square()
    torch.testing.assert_close(method.step_losses(batch).losses["consistency"], squared.mean() * 0.1)
    batch.beliefs[..., 8:] = 0  # type: ignore[index]  # Where the teacher did not look, nothing is learned.
    torch.testing.assert_close(method.step_losses(batch).losses["consistency"], squared[..., :8].mean() / 2 * 0.1)


def test_ua_mt_makes_its_own_targets() -> None:
    method = _method("ua-mt", make=Pointwise)
    batch = _batch()
    with_beliefs = method.step_losses(batch).losses
    without = method.step_losses(replace(_batch(), beliefs=None)).losses
    assert float(with_beliefs["consistency"].detach()) == float(without["consistency"].detach())


def test_ua_mt_learns_only_where_the_teacher_is_certain() -> None:
    """A teacher that is certain where the grey value is large, and gives no opinion where it is 0."""
    method = _method("ua-mt", make=lambda: Pointwise(scale=0.5))
    with torch.no_grad():
        method.teacher.layer.weight.copy_(torch.tensor([-30.0, 30.0]).view(2, 1, 1, 1, 1))  # type: ignore[union-attr]
        method.teacher.layer.bias.zero_()  # type: ignore[union-attr]
    image = torch.zeros(1, 1, *SHAPE)
    image[..., 8:] = 3.0
    batch = replace(_batch(unlabeled=1, iteration=0), unlabeled=image)
    taught, certain = method.teach(batch), method.certain(batch)  # type: ignore[attr-defined,operator]
    assert certain.shape == (1, 1, *SHAPE)
    assert certain[..., 8:].all()
    assert certain[..., :8].mean() < 0.9
    assert not method.teacher.training
    image.requires_grad_(True)
    batch = replace(_batch(unlabeled=1, iteration=0), unlabeled=image)  # With the same chance anew.
    method.step_losses(batch).losses["consistency"].backward()
    moved = image.grad.abs() > 0
    assert not (moved & (certain == 0)).any()
    assert moved[..., 8:].any()
    assert not taught.requires_grad


def test_ua_mt_certainty_is_the_entropy_of_a_mean_over_dropped_out_passes() -> None:
    class Flip(nn.Module):
        """Answers at random in training mode, and for certain otherwise."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sign = torch.where(torch.rand(len(x), 1, 1, 1, 1) < 0.5, -1.0, 1.0) if self.training else 1.0
            return torch.cat([-x, x], dim=1) * self.scale * sign

    method = _method("ua-mt", make=Flip)
    image = torch.full((1, 1, *SHAPE), 50.0)
    batch = Batch(image, torch.ones(1, 1, *SHAPE, dtype=torch.long), image, 0, torch.Generator().manual_seed(0))
    seen = [float(method.certain(batch).mean()) for _ in range(20)]  # type: ignore[attr-defined]
    assert min(seen) == 0  # Passes that contradict each other are no certainty, though each is sure of itself.


def test_the_greatest_entropy_is_that_of_no_opinion() -> None:
    for classes in (2, 4):
        even = torch.full((1, classes, 2, 2, 2), 1 / classes)
        torch.testing.assert_close(entropy_of(even), torch.full((1, 1, 2, 2, 2), log(classes)))
    sure = torch.zeros(1, 3, 1, 1, 1)
    sure[:, 1] = 1
    assert float(entropy_of(sure)) == pytest.approx(0, abs=1e-5)


# -- DAN


def test_the_discriminator_learns_and_gets_nothing_from_the_students_optimiser() -> None:
    method = _method("dan")
    before = _values(method.discriminator)  # type: ignore[arg-type]
    losses = method.step_losses(_batch()).losses
    learned = _values(method.discriminator)  # type: ignore[arg-type]
    assert not _same(before, learned)
    grads = [None if p.grad is None else p.grad.clone() for p in method.discriminator.parameters()]  # type: ignore[union-attr]
    torch.stack(list(losses.values())).sum().backward()
    after = [p.grad for p in method.discriminator.parameters()]  # type: ignore[union-attr]
    assert all(torch.equal(one, other) for one, other in zip(grads, after, strict=True) if one is not None)
    assert all(p.requires_grad for p in method.discriminator.parameters())  # type: ignore[union-attr]
    trained = {id(p) for p in method.trained_parameters()}
    assert trained == {id(p) for p in method.student.parameters()}


def test_the_discriminator_comes_to_tell_labelled_from_unlabelled() -> None:
    method = _method("dan", make=Pointwise)
    batch = replace(_batch(), unlabeled=_batch().unlabeled * 0.1 + 2)
    images = torch.cat([batch.labeled, batch.unlabeled])
    for _ in range(40):
        method.step_losses(batch)
    with torch.no_grad():
        judged = torch.cat([images, method.student(images).softmax(dim=1)], dim=1)
        verdict = method._judge(judged)  # type: ignore[operator]
    assert verdict[:2].min() > verdict[2:].max()


def test_the_discriminators_optimiser_goes_into_a_checkpoint_and_back(tmp_path) -> None:
    first = _method("dan")
    for _ in range(3):
        first.step_losses(_batch())
    save_checkpoint(tmp_path / "last.pt", {"method": first.state_dict()})
    second = _method("dan")
    second.load_state_dict(load_checkpoint(tmp_path / "last.pt")["method"])
    assert second.optimizer.state_dict()["state"][0]["step"] == 3  # type: ignore[attr-defined]
    for method in (first, second):
        torch.manual_seed(5)
        method.step_losses(_batch())
    assert _same(_values(first.discriminator), _values(second.discriminator))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_holds_all_that_a_method_trains(name: str, tmp_path) -> None:
    first = _method(name)
    with torch.no_grad():
        for value in first.parameters():
            value.add_(torch.randn_like(value))
    save_checkpoint(tmp_path / "last.pt", {"method": first.state_dict()})
    second = _method(name)
    second.load_state_dict(load_checkpoint(tmp_path / "last.pt")["method"])
    assert _same(_values(first), _values(second))


# -- CPS


def test_both_networks_of_cps_start_apart_and_learn() -> None:
    method = _method("cps")
    partner = method.partner
    assert not _same(_values(method.student), _values(partner))  # type: ignore[arg-type]
    losses = method.step_losses(_batch()).losses
    torch.stack(list(losses.values())).sum().backward()
    for network in (method.student, partner):
        assert sum(float(p.grad.abs().sum()) for p in network.parameters()) > 0  # type: ignore[union-attr]
    trained = {id(p) for p in method.trained_parameters()}
    assert trained == {id(p) for p in [*method.student.parameters(), *partner.parameters()]}  # type: ignore[union-attr]


def test_cps_teaches_each_the_other_ones_opinion() -> None:
    """The student says background everywhere, its partner the structure everywhere."""
    method = _method("cps", make=Pointwise)
    with torch.no_grad():
        method.student.layer.bias.copy_(torch.tensor([2.0, 0.0]))  # type: ignore[union-attr]
        method.partner.layer.bias.copy_(torch.tensor([0.0, 2.0]))  # type: ignore[union-attr]
        for network in (method.student, method.partner):
            network.layer.weight.zero_()  # type: ignore[union-attr]
    method.step_losses(_batch(iteration=ITERATIONS)).losses["cross"].backward()
    student, partner = (network.layer.bias.grad for network in (method.student, method.partner))  # type: ignore[union-attr]
    assert student[1] < 0 < student[0]  # Down the gradient, towards the structure,
    assert partner[0] < 0 < partner[1]  # and towards background.


# -- copy-paste


class Recorder(Pointwise):
    """Keeps what it was asked last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x.detach().clone()
        return super().forward(x)


def _copy_paste(classes: int = 2, **settings) -> Method:
    return _method("copy-paste", classes=classes, make=lambda: Recorder(1, classes), **settings)


def test_copy_paste_is_supervised_at_first() -> None:
    method = _copy_paste()
    starts = [method.learns_from_unlabeled(t) for t in range(ITERATIONS)]
    assert not starts[0]
    assert starts[-1]
    assert starts == sorted(starts)
    losses = method.step_losses(_batch(iteration=0)).losses
    assert list(losses) == ["supervised"]


def test_copy_paste_learns_whole_labelled_patches_too() -> None:
    """With nothing believed of the unlabelled patches, what is left is the labels, once whole and once in the mixtures."""
    method, batch = _copy_paste(), _batch()
    nothing = replace(batch, beliefs=torch.zeros(2, 2, *SHAPE))
    losses = method.step_losses(nothing).losses
    assert list(losses) == ["supervised", "mixed", "pseudo"]
    torch.testing.assert_close(
        losses["supervised"], dice_and_cross_entropy(method.student(batch.labeled), batch.labels)
    )
    assert losses["mixed"] > 0
    assert losses["pseudo"] == 0


def test_copy_paste_mixes_targets_as_it_mixes_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelled patches hold 10s whose labels are 0; unlabelled ones 1s, believed to be class 1 where anything is."""
    method = _copy_paste()
    believed = torch.zeros(2, 2, *SHAPE)
    believed[:, 1, :, :, 4:] = 1.0  # Beyond, nothing was looked up.
    batch = _batch()
    batch = replace(
        batch,
        labeled=torch.full_like(batch.labeled, 10.0),
        labels=torch.zeros_like(batch.labels),
        unlabeled=torch.ones_like(batch.unlabeled),
        beliefs=believed,
    )
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        calls.append((target, weight))
        return dice_and_cross_entropy(logits, target, weight)

    monkeypatch.setattr("SemiSAMPlusLib.specialist.methods.copy_paste.dice_and_cross_entropy", record)
    method.step_losses(batch)
    whole, mixed = method.student.seen.split(2)
    assert torch.equal(whole, batch.labeled)
    labeled, known = mixed == 10, torch.zeros(2, 1, *SHAPE, dtype=torch.bool)
    known[..., 4:] = True
    assert ((mixed == 10) | (mixed == 1)).all()
    (target, real), (again, made) = calls
    assert torch.equal(target, again)
    assert not target[labeled].any()  # The label's 0 where it is labelled,
    assert target[~labeled & known].all()  # else what is believed.
    assert torch.equal(real.bool(), labeled)
    assert torch.equal(made.bool(), ~labeled & known)
    shares = sorted(float(one.float().mean()) for one in labeled)
    box = (int(16 * 2 / 3) / 16) ** 3
    assert shares == pytest.approx([box, 1 - box])  # One each way: bidirectional.


def test_with_one_patch_the_box_changes_sides_from_step_to_step() -> None:
    method, shares = _copy_paste(), []
    for iteration in (60, 61):
        batch = _batch(labeled=1, unlabeled=1, iteration=iteration)
        batch = replace(batch, labeled=torch.full_like(batch.labeled, 10.0), unlabeled=torch.ones_like(batch.unlabeled))
        method.step_losses(batch)
        _, mixed = method.student.seen
        shares.append(float((mixed == 10).float().mean()))
    box = (int(16 * 2 / 3) / 16) ** 3
    assert sorted(shares) == pytest.approx([box, 1 - box])


def test_the_box_lies_anywhere_and_wholly_inside() -> None:
    from SemiSAMPlusLib.specialist.methods.copy_paste import _random_box

    random = torch.Generator().manual_seed(0)
    boxes = [_random_box((9, 12, 15), random) for _ in range(400)]
    assert {int(box.sum()) for box in boxes} == {6 * 8 * 10}
    assert torch.stack(boxes).any(dim=0).all()
    corners = {tuple(torch.nonzero(box)[0].tolist()) for box in boxes}
    assert len(corners) > 20


@pytest.mark.parametrize(("one_piece", "left"), [((True, False), (1, 2)), ((False, False), (2, 2))])
def test_copy_paste_keeps_the_largest_piece_of_what_is_one(one_piece: tuple[bool, ...], left: tuple[int, int]) -> None:
    """Two islands of each class, the second smaller; only class 1 is known to be one piece."""
    method = _copy_paste(classes=3, one_piece=one_piece)
    believed = torch.zeros(2, 3, *SHAPE)
    believed[:, 0] = 0.5
    for value, row in ((1, 1), (2, 9)):
        believed[:, value, row : row + 5, 1:6, 1:6] = 1.0
        believed[:, value, row : row + 2, 11:13, 11:13] = 1.0
    pseudo = method._pseudo_labels(believed)  # type: ignore[attr-defined]
    assert pseudo.shape == (2, 1, *SHAPE)
    assert type(pseudo) is torch.Tensor
    assert not pseudo.requires_grad
    for one in pseudo:
        for value, islands in zip((1, 2), left, strict=True):
            assert int((one == value).sum()) == 5 * 5 * 5 + (islands - 1) * 2 * 2 * 2


# -- the loss


def test_a_perfect_answer_has_no_loss_and_a_wrong_one_has() -> None:
    target = torch.randint(3, (2, 1, *SHAPE), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float() * 100
    assert float(dice_and_cross_entropy(right, target)) == pytest.approx(0, abs=1e-3)
    assert float(dice_and_cross_entropy(right.roll(1, 1), target)) > 1


def test_voxels_without_weight_do_not_count() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, *SHAPE, generator=random)
    target = torch.randint(2, (1, 1, *SHAPE), generator=random)
    weight = torch.zeros(1, 1, *SHAPE)
    weight[..., :8] = 1
    expected = dice_and_cross_entropy(logits[..., :8], target[..., :8])
    torch.testing.assert_close(dice_and_cross_entropy(logits, target, weight), expected)
    logits.requires_grad_(True)
    dice_and_cross_entropy(logits, target, weight).backward()
    assert float(logits.grad[..., 8:].abs().max()) == 0
    assert float(dice_and_cross_entropy(logits, target, weight * 0).detach()) == pytest.approx(0)


def test_equal_weights_are_no_weights() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *SHAPE, generator=random)
    target = torch.randint(3, (2, 1, *SHAPE), generator=random)
    ones = torch.ones(2, 1, *SHAPE)
    torch.testing.assert_close(dice_and_cross_entropy(logits, target, ones), dice_and_cross_entropy(logits, target))


def test_a_method_is_copied_whole() -> None:
    """The trainer asks the teacher for prompts; it must be no second name of the student."""
    method = _method("mean-teacher")
    assert not {id(p) for p in method.teacher.parameters()} & {id(p) for p in method.student.parameters()}
    assert _same(_values(method.teacher), _values(deepcopy(method.student)))
