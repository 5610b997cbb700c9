"""Which stretch of a recording a stream takes: its beginning, its middle, or the loudest part, found while the sound goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from crossfade.data.sound import read_audio, sound_blocks

HOP = 0.01  # seconds between the stretches among which the loudest is sought
SAME = 1e-9  # of an energy: below this two are equal but for rounding, and the first counts
TOGETHER = 1 << 18  # samples looked at at a time, at least


def read_first(path: Path, rate: int, samples: int, start: float, end: float | None) -> np.ndarray:
    """The first `samples` of a span, float32 (N,), N ≤ samples; nothing after them is read. Raises Unreadable."""
    stop = start + samples / rate
    return read_audio(path, rate=rate, start=start, end=stop if end is None else min(end, stop))[:samples]


def read_loudest(path: Path, rate: int, samples: int, start: float, end: float | None) -> np.ndarray:
    """The loudest `samples` of a span, float32 (N,), N ≤ samples; all of it is read, little of it held. Raises Unreadable."""
    return loudest(sound_blocks(path, rate=rate, start=start, end=end), samples, _hop(rate))


def read_middle(path: Path, rate: int, samples: int, start: float, end: float | None) -> np.ndarray:
    """The middle `samples` of a span, float32 (N,), N ≤ samples; all of it is read. Raises Unreadable."""
    return middle(read_audio(path, rate=rate, start=start, end=end), samples)


def middle(sound: np.ndarray, length: int) -> np.ndarray:
    start = max(len(sound) - length, 0) // 2
    return sound[start : start + length]


def _hop(rate: int) -> int:
    return max(round(HOP * rate), 1)


READING: dict[str, Callable[[Path, int, int, float, float | None], np.ndarray]] = {
    "first": read_first,
    "loudest": read_loudest,
    "middle": read_middle,
}
CHOOSING: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {  # the same, (sound, rate, samples), of sound that is at hand
    "first": lambda sound, rate, samples: sound[:samples],
    "loudest": lambda sound, rate, samples: loudest([sound], samples, _hop(rate)),
    "middle": lambda sound, rate, samples: middle(sound, samples),
}


def loudest(pieces: Iterable[np.ndarray], length: int, hop: int) -> np.ndarray:
    """The `length` samples of highest RMS among those that begin at 0, `hop`, 2 · `hop` …; a sound no longer than that whole.

    Takes the sound piece by piece, float32 (N,), and keeps little more than `length` samples of it.
    """
    best, most = np.empty(0, np.float32), -1.0
    for stretch in _overlapping(pieces, length, hop):
        energies = _energies(stretch, length, hop)
        first = int((energies >= energies.max() * (1 - SAME)).argmax())
        if energies[first] > most * (1 + SAME):
            best, most = stretch[first * hop : first * hop + length].copy(), float(energies[first])
    return best


def _energies(sound: np.ndarray, length: int, hop: int) -> np.ndarray:
    """The sum of squares of every window, float64 (K,); of a sound that is shorter the one of all of it."""
    sums = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    starts = np.arange(0, max(len(sound) - length, 0) + 1, hop)
    return sums[np.minimum(starts + length, len(sound))] - sums[starts]


def _overlapping(pieces: Iterable[np.ndarray], length: int, hop: int) -> Iterator[np.ndarray]:
    """Long stretches that begin on the grid of `hop`, such that each window lies in one of them whole; the last may be shorter."""
    held, size, served = [], 0, False
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= length + TOGETHER:
            stretch = np.concatenate(held)
            yield stretch
            rest = stretch[((size - length) // hop + 1) * hop :]  # from the first window that did not fit in
            held, size, served = [rest], len(rest), True
    if size >= length or not served:
        yield np.concatenate([np.empty(0, np.float32), *held])
