"""The 13 cepstral coefficients that SyncNet hears: 100 a second, from sound as 16-bit numbers."""

from __future__ import annotations

from functools import cache

import numpy as np

RATE = 16_000  # hertz
WINDOW, HOP, POINTS = 400, 160, 512  # samples
BANDS, KEPT, LIFTER = 26, 13, 22
EMPHASIS = 0.97
FULL = 32_768  # of a 16-bit number


def mfcc(sound: np.ndarray) -> np.ndarray:
    """float (N,) of −1 … 1 at 16 kHz -> (13, F): the logarithm of the energy, then coefficients 1 … 12, of F = 1 + ⌈(N − 400) / 160⌉."""
    from scipy.fft import dct

    power = np.abs(np.fft.rfft(_frames(sound * FULL), POINTS)) ** 2 / POINTS
    energy, bands = power.sum(1), power @ _bands().T
    coefficients = np.asarray(dct(np.log(_positive(bands)), type=2, axis=1, norm="ortho"))[:, :KEPT]
    coefficients *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(KEPT) / LIFTER)
    coefficients[:, 0] = np.log(_positive(energy))
    return coefficients.T.astype(np.float32)


def _frames(sound: np.ndarray) -> np.ndarray:
    """Windows without taper over the emphasised sound, zeros behind its end: (F, 400)."""
    sound = np.append(sound[:1], sound[1:] - EMPHASIS * sound[:-1])
    count = 1 + max(0, -(-(len(sound) - WINDOW) // HOP))
    padded = np.pad(sound, (0, max(0, (count - 1) * HOP + WINDOW - len(sound))))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.finfo(float).eps, values)


@cache
def _bands() -> np.ndarray:
    """Triangles whose corners are whole bins of the spectrum, evenly apart in mels: (26, 257)."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    corners = np.floor((POINTS + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE)
    bins = np.arange(POINTS // 2 + 1)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return np.where(bins < middle, np.where(bins >= left, rising, 0.0), np.where(bins < right, falling, 0.0))
