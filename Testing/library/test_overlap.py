"""Dice of classes, against MONAI's."""

from __future__ import annotations

import pytest
import torch
from monai.metrics import compute_dice
from torch.nn.functional import one_hot

from SemiSAMPlusLib.specialist.overlap import dice_by_class


def test_it_is_monais_where_either_shows_a_class() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randint(4, (6, 7, 8), generator=random) for _ in range(2))
    first[first == 3] = 0  # Only the second shows the last class.
    found = dice_by_class(first, second, classes=4)
    masks = [one_hot(one, 5).movedim(-1, 0)[None, 1:] for one in (first, second)]
    expected = compute_dice(*masks, ignore_empty=False)[0].tolist()
    assert found[:3] == pytest.approx(expected[:3])
    assert found[2] == 0
    assert found[3] is None
