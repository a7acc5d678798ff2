"""Which windows a network is shown of a whole case: some always, the others where the first ones see a structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

Start = tuple[int, int, int]

#: A case no longer than this many patches along any axis is looked at as a whole, squeezed into one window.
_SQUEEZED = 4 / 3


@dataclass(frozen=True)
class WindowPlan:
    """Windows of one size, in two parts.

    All lie on the lattice of windows that overlap by half or more. Where it extends along all three axes, every second
    window, as on a chessboard, says as much as all of them: each voxel well inside is seen by four instead of eight.

    Attributes:
        first: Where the windows begin (z, y, x) that are looked at always.
        second: Where those begin that are looked at only where a structure can be.
        squeezed: Whether the whole case is looked at too, squeezed into one window. Then the first windows leave
            corners out, and the squeezed look says whether a second one is needed there; otherwise the first windows
            cover every voxel.
    """

    first: tuple[Start, ...]
    second: tuple[Start, ...]
    squeezed: bool


def plan_windows(shape: Sequence[int], window: Sequence[int]) -> WindowPlan:
    """Choose windows for a case.

    Args:
        shape: Of the case (z, y, x), nowhere smaller than the window.
        window: Its size (z, y, x).
    """
    places = [_places(size, edge) for size, edge in zip(shape, window, strict=True)]
    counts = [len(axis) for axis in places]
    indices = list(product(*(range(count) for count in counts)))

    def starts(chosen: Sequence[tuple[int, ...]]) -> tuple[Start, ...]:
        return tuple((places[0][z], places[1][y], places[2][x]) for z, y, x in chosen)

    # Along one or two axes alone too little overlap would be left of it.
    chessboard = {index for index in indices if sum(index) % 2 == 0 or min(counts) == 1}
    # Two windows along each axis make eight corners, of which any window of that size covers but one.
    if counts == [2, 2, 2] and all(n <= _SQUEEZED * edge for n, edge in zip(shape, window, strict=True)):
        return WindowPlan(starts(sorted(chessboard)), starts(sorted(set(indices) - chessboard)), True)
    covering = {i for i in indices if all(n % 2 == 0 or count == 2 for n, count in zip(i, counts, strict=True))}
    return WindowPlan(starts(sorted(covering)), starts(sorted(chessboard - covering)), False)


def _places(size: int, edge: int) -> list[int]:
    """Return evenly spaced beginnings of windows that overlap by half or more: one, two, or an odd number.

    Of an odd number every second window is enough to cover the axis.
    """
    if size <= edge:
        return [0]
    count = ceil((size - edge) / (edge / 2)) + 1
    count += count > 2 and count % 2 == 0
    return [round(number * (size - edge) / (count - 1)) for number in range(count)]
