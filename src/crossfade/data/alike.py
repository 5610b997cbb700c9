"""Which recordings are the same once decoded: a short fingerprint of each, and a fast search for pairs that are alike.

A fingerprint is a vector of length 1. It is blind to gain and stands a change of sampling rate or codec; it does not stand a cut.
"""

from __future__ import annotations

import numpy as np

SAME_LENGTH = 0.02  # copies differ by less in length, as a share of the longer
BLOCK = 256  # rows compared at a time


def hear(sound: np.ndarray, bands: int = 24, steps: int = 12) -> np.ndarray:
    """Fingerprint of a sound at 8 kHz, (N,) -> (steps * bands,) of length 1: a coarse spectrogram in decibels, its mean removed.

    Blind to gain; levels below −60 dB of the loudest cell count as that.
    """
    padded = np.pad(sound, (0, max(0, 512 - len(sound))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 512)[::256] * np.hanning(512).astype(np.float32)
    edges = np.unique(np.geomspace(2, 256, bands + 1).astype(int))
    power = np.add.reduceat(np.abs(np.fft.rfft(windows)) ** 2, edges[:-1], axis=1)
    cells = np.stack(
        [power[i * len(power) // steps : max((i + 1) * len(power) // steps, i * len(power) // steps + 1)].mean(0) for i in range(steps)]
    )
    return _unit(10 * np.log10(np.maximum(cells, cells.max() * 1e-6 + 1e-20)))


def see(frames: np.ndarray) -> np.ndarray | None:
    """Fingerprint of pictures, (T, 3, H, W) of length 1, or None for plain ones: what stands still, then (T > 1) what moves.

    Both count the same, so that two takes before one camera differ.
    """
    grey = frames.mean(1, dtype=np.float32)
    still, moving = grey.mean(0), grey - grey.mean(0)
    joined = np.concatenate([_unit(still), _unit(moving)][: len(frames)])
    return joined / np.linalg.norm(joined) if joined.any() else None


def _unit(values: np.ndarray) -> np.ndarray:
    """Centred and of length 1, float32; zeros where nothing varies."""
    centred = (values - values.mean()).ravel().astype(np.float32)
    length = np.linalg.norm(centred)
    return centred / length if length > 1 else 0 * centred


def near_pairs(vectors: np.ndarray, kin: np.ndarray, seconds: np.ndarray, *, alike: float) -> list[tuple[int, int, float]]:
    """Sorted (i, j, cosine), i < j: for each fingerprint the one most like it, where the cosine is at least `alike`.

    `vectors` (n, D) of length 1; `kin` (k, n): rows that share a number in any of the k rows are not compared; `seconds` (n,).
    Exact, yet far below n² work: along any direction two such vectors are at most sqrt(2 − 2 · alike) apart, so after sorting
    along the direction of most spread, only what lies in a window is compared.
    """
    place = vectors @ _spread(vectors)
    order = np.argsort(place, kind="stable")
    place, reach = place[order], float(np.sqrt(2 - 2 * alike)) + 1e-5
    pairs = []
    for first in range(0, len(order), BLOCK):
        last = min(first + BLOCK, len(order))
        rows, columns = order[first:last], order[first : np.searchsorted(place, place[last - 1] + reach, side="right")]
        pairs += _best(vectors, rows, columns, kin, seconds, alike)
    return sorted(pairs)


def _best(
    vectors: np.ndarray, rows: np.ndarray, columns: np.ndarray, kin: np.ndarray, seconds: np.ndarray, alike: float
) -> list[tuple[int, int, float]]:
    """For each row the comparable column most like it; `columns` begins with `rows`, so that each pair is looked at once."""
    cosine = vectors[rows] @ vectors[columns].T
    i, j = np.nonzero(cosine >= alike)
    kept = (j > i) & _comparable(kin, seconds, rows[i], columns[j])
    i, j = i[kept], j[kept]
    value = cosine[i, j]
    order = np.lexsort((j, -value, i))
    first = order[np.unique(i[order], return_index=True)[1]]
    one, other = rows[i[first]], columns[j[first]]
    ends = np.minimum(one, other).tolist(), np.maximum(one, other).tolist()
    return list(zip(*ends, value[first].tolist(), strict=True))


def _comparable(kin: np.ndarray, seconds: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(pairs,) bool: strangers of the same length."""
    strangers = (kin[:, one] != kin[:, other]).all(0)
    shorter, longer = np.minimum(seconds[one], seconds[other]), np.maximum(seconds[one], seconds[other])
    return strangers & (shorter >= (1 - SAME_LENGTH) * longer)


def _spread(vectors: np.ndarray) -> np.ndarray:
    """The direction (D,) along which a sample of the vectors varies most."""
    sample = vectors[:: max(1, len(vectors) // 1000)]
    return np.linalg.svd(sample - sample.mean(0), full_matrices=False)[2][0]
