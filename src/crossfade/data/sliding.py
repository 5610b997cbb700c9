"""Windows that slide over a sound of any length while it goes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

TOGETHER = 1 << 16  # samples joined at a time, at least


def slide(pieces: Iterable[np.ndarray], length: int, hop: float) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, samples (length,)) of windows that begin at 0, `hop`, 2 · `hop` …, to the nearest sample; `hop` ≤ `length`.

    The last window ends where the sound ends; of a sound shorter than a window all is one. Takes the sound piece by piece, float32 (N,),
    and holds little more than a window of it.
    """
    held, begin, number, reached = np.empty(0, np.float32), 0, 0, 0
    for joined in _joined(pieces, max(length, TOGETHER)):
        held = np.concatenate([held, joined])
        while (first := round(number * hop)) + length <= begin + len(held):
            yield first, held[first - begin : first - begin + length]
            number, reached = number + 1, first + length
        spent = min(first - begin, max(len(held) - length, 0))
        held, begin = held[spent:], begin + spent
    if begin + len(held) > reached:
        last = max(len(held) - length, 0)
        yield begin + last, held[last:]


def _joined(pieces: Iterable[np.ndarray], least: int) -> Iterator[np.ndarray]:
    """The same samples in pieces of at least so many, but for the last."""
    waiting, size = [], 0
    for piece in chain(pieces, [None]):
        if piece is not None:
            waiting.append(piece)
            size += len(piece)
        if waiting and (piece is None or size >= least):
            yield np.concatenate(waiting)
            waiting, size = [], 0
