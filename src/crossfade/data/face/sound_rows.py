"""Rows of sound features, one a block of 40 ms, piece by piece; picture k of a talking face sees 20 of them, blocks k − 11 … k + 8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from crossfade.data.mel import mel_bank

RATE, BLOCK = 16_000, 640  # samples a second, samples a block
SEEN, BEFORE = 20, 11  # blocks that a picture sees, and how many of them lie before it
MORE = SEEN - 1  # rows that a sound has more than pictures
PIECE, CONTEXT = 500, 50  # blocks made at a time, and how many on either side are heard with them: 20 s and 2 s
SPAN, FFT, MELS = 800, 2048, 256  # of logmel256: samples a window, points of its transform, mels up to 8 kHz
FLOOR, MIDDLE, SPREAD = 1e-5, -8.3, 3.8  # added to the energies; what the logarithms of speech are about

Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SoundRows:
    """Sound to rows (T, dim) float32. `key` names all that shapes their numbers.

    `encode` makes n rows of n + 2 blocks of samples, one before the first row's and one behind the last's. What it may hear at a time is
    a piece of 20 s and 2 s on either side, in memory and in attention; a sound of less than that is heard whole.
    """

    encode: Encode
    dim: int
    key: str

    def __call__(self, sound: np.ndarray, frames: int) -> np.ndarray:
        """float32 (N,) at 16 kHz -> (frames + 19, dim): row j is block j − 11. Before the sound and after it there is silence."""
        return np.concatenate(list(self.pieces([sound], frames)))

    def pieces(self, blocks: Iterable[np.ndarray], frames: int) -> Iterator[np.ndarray]:
        """The same rows of a sound that comes in blocks of any length, in pieces (T, dim), and never more than 24 s of it in memory."""
        line, rows = Line(blocks), frames + MORE
        for start in range(0, rows, PIECE):
            stop = min(start + PIECE, rows)
            first, last = max(start - CONTEXT, 0), min(stop + CONTEXT, rows)
            heard = line.samples((first - BEFORE - 1) * BLOCK, (last - BEFORE + 1) * BLOCK)
            yield np.ascontiguousarray(self.encode(heard)[start - first : stop - first], np.float32)


class Line:
    """A sound that arrives in blocks as one line, silent before its first sample and after its last. It is read forwards only."""

    def __init__(self, blocks: Iterable[np.ndarray]):
        self._blocks, self._held, self._begin = iter(blocks), np.empty(0, np.float32), 0

    def samples(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` to `stop`, counted from the first, which may be below 0; nothing before `start` is asked for again."""
        arrived, held = [self._held], len(self._held)
        while self._begin + held < stop and (block := next(self._blocks, None)) is not None:
            arrived.append(np.asarray(block, np.float32))
            held += len(block)
        self._held = np.concatenate(arrived)
        heard = np.zeros(stop - start, np.float32)
        forget = max(start - self._begin, 0)
        self._held, self._begin = self._held[forget:], self._begin + min(forget, len(self._held))
        place = max(self._begin - start, 0)
        part = self._held[: max(stop - start - place, 0)]
        heard[place : place + len(part)] = part
        return heard


def window(rows: np.ndarray, k: int) -> np.ndarray:
    """What picture k sees: (20, dim), blocks k − 11 … k + 8."""
    return rows[k : k + SEEN]


def windows(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pieces of rows to the window of each picture in order."""
    held = None
    for piece in pieces:
        held = piece if held is None else np.concatenate([held[-MORE:], piece])
        for k in range(len(held) - MORE):
            yield window(held, k)


def logmel256() -> SoundRows:
    """ln of 256 Slaney mels from 0 to 8 kHz of a Hann window of 50 ms around the middle of each block, brought to about −1 … 1."""
    bank = mel_bank(rate=RATE, n_fft=FFT, mels=MELS, low=0.0, high=8000.0, scale="slaney")
    hann = torch.hann_window(SPAN)

    def encode(heard: np.ndarray) -> np.ndarray:
        spans = torch.from_numpy(heard[BLOCK - (SPAN - BLOCK) // 2 :]).unfold(0, SPAN, BLOCK)[: len(heard) // BLOCK - 2]
        power = torch.fft.rfft(spans * hann, FFT).abs().square()  # where in the transform the span lies moves phases only
        return (((power @ bank + FLOOR).log() - MIDDLE) / SPREAD).numpy()

    return SoundRows(encode, MELS, f"logmel256 {RATE} {BLOCK} {SPAN} {FFT} {FLOOR} {MIDDLE} {SPREAD}")
