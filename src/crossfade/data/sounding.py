"""Augmentations of sound: louder or softer, higher or lower, earlier or later, faster or slower, noisier; the length stays.

The contract is that of `augment`; all act on `waveform` (N,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr
import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from crossfade.clip import UserError
from crossfade.data.augment import between, check_probability, happens, integer

OVERLAP = 4  # windows of a spectrogram over any sample
COARSE = 44_100  # hertz that stand for 1 when resampling by a ratio, so that both rates are far above any limit


@dataclass(frozen=True)
class Gain:
    """`gain` with its options checked."""

    decibels: float
    probability: float
    domain: str = "waveform"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(N,) -> (N,)"""
        if not happens(self.probability, generator):
            return x.clone()
        return x * 10 ** (between(-self.decibels, self.decibels, generator) / 20)


@dataclass(frozen=True)
class PitchShift:
    """`pitch_shift` with its options checked."""

    semitones: float
    probability: float
    n_fft: int
    domain: str = "waveform"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(N,) -> (N,)"""
        if not happens(self.probability, generator):
            return x.clone()
        return pitched(x, 2 ** (between(-self.semitones, self.semitones, generator) / 12), self.n_fft)


@dataclass(frozen=True)
class Shift:
    """`shift` with its options checked."""

    samples: int
    probability: float
    domain: str = "waveform"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(N,) -> (N,)"""
        if not happens(self.probability, generator):
            return x.clone()
        return x.roll(integer(-self.samples, self.samples, generator))


@dataclass(frozen=True)
class TimeStretch:
    """`time_stretch` with its options checked."""

    speed: tuple[float, float]
    probability: float
    n_fft: int
    domain: str = "waveform"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(N,) -> (N,)"""
        if not happens(self.probability, generator):
            return x.clone()
        return paced(x, between(*self.speed, generator), self.n_fft)


@dataclass(frozen=True)
class WhiteNoise:
    """`white_noise` with its options checked."""

    std: float
    probability: float
    domain: str = "waveform"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(N,) -> (N,)"""
        if not happens(self.probability, generator):
            return x.clone()
        return x + self.std * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def gain(*, decibels: float = 12.0, probability: float = 0.5) -> Gain:
    """Make louder or softer by up to ±`decibels`, uniform in decibels; nothing is clipped. The default is the cough reference's."""
    check_probability("gain", probability)
    if decibels < 0:
        raise UserError(f"gain.decibels: {decibels:g}; it may not be negative, a clip is made as often softer as louder")
    return Gain(decibels, probability)


def pitch_shift(*, semitones: float = 4.0, probability: float = 0.5, n_fft: int = 512) -> PitchShift:
    """Make higher or lower by up to ±`semitones`, uniform; the length stays. The default is the cough reference's.

    A phase vocoder in windows of `n_fft` samples (512 are 32 ms at 16 kHz): short enough for a cough's onset, too short for deep hums.
    """
    check_probability("pitch_shift", probability)
    if not 0 <= semitones <= 24:
        raise UserError(f"pitch_shift.semitones: {semitones:g}; 0 to 24 are possible, two octaves")
    _check_windows("pitch_shift", n_fft)
    return PitchShift(semitones, probability, n_fft)


def shift(*, seconds: float = 0.1, probability: float = 0.5, rate: int = 16000) -> Shift:
    """Move by up to ±`seconds`; what leaves at one end comes in at the other, so that the background stays and no silence is made up.

    `rate` in hertz, that of the stream it is used with.
    """
    check_probability("shift", probability)
    if seconds < 0 or rate < 1:
        raise UserError(f"shift: seconds {seconds:g}, rate {rate}; seconds ≥ 0 and rate ≥ 1 are needed")
    return Shift(round(seconds * rate), probability)


def time_stretch(*, speed: tuple[float, float] = (0.8, 1.2), probability: float = 0.5, n_fft: int = 512) -> TimeStretch:
    """Play at a `speed` uniform in this range, at the same pitch: what becomes longer loses its end, what becomes shorter ends in zeros.

    A phase vocoder in windows of `n_fft` samples, as `pitch_shift`. The default is the wildlife reference's range.
    """
    check_probability("time_stretch", probability)
    if not 0.25 <= speed[0] <= speed[1] <= 4:
        raise UserError(f"time_stretch.speed: {list(speed)}; 0.25 ≤ low ≤ high ≤ 4 is needed, 2 is twice as fast")
    _check_windows("time_stretch", n_fft)
    return TimeStretch((speed[0], speed[1]), probability, n_fft)


def white_noise(*, std: float = 0.005, probability: float = 0.5) -> WhiteNoise:
    """Add Gaussian noise of `std` (of full scale 1), however loud the sound is; by its loudness: `noise_at_snr`. Nothing is clipped."""
    check_probability("white_noise", probability)
    if std < 0:
        raise UserError(f"white_noise.std: {std:g}; it may not be negative")
    return WhiteNoise(std, probability)


def _check_windows(name: str, n_fft: int) -> None:
    if n_fft < 16 or n_fft % OVERLAP:
        raise UserError(f"{name}.n_fft: {n_fft}; a multiple of {OVERLAP} from 16 on is needed")


def paced(x: Tensor, speed: float, n_fft: int) -> Tensor:
    """(N,) -> (N,): `speed` times as fast at the same pitch, cut or filled up with zeros at the end."""
    found = _stretched(x.float(), 1 / speed, n_fft).to(x.dtype)[: len(x)]
    return pad(found, (0, len(x) - len(found)))


def pitched(x: Tensor, ratio: float, n_fft: int) -> Tensor:
    """(N,) -> (N,): every frequency times `ratio`, by stretching to `ratio` times the length and playing that faster."""
    stretched = _stretched(x.float(), ratio, n_fft)
    squeezed = soxr.resample(stretched.numpy(), COARSE * ratio, COARSE, "HQ")  # only the ratio of the two rates counts
    found = torch.from_numpy(np.ascontiguousarray(squeezed)).to(x.dtype)[: len(x)]
    return pad(found, (0, len(x) - len(found)))


def _stretched(x: Tensor, ratio: float, n_fft: int) -> Tensor:
    """(N,) -> (N · ratio,) at the same pitch (Flanagan & Golden 1966): columns of a spectrogram read at another pace."""
    hop, window = n_fft // OVERLAP, _window(n_fft)
    spectrum = torch.stft(x, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    at = torch.arange(0, spectrum.shape[1], 1 / ratio, dtype=torch.float64)
    before, share = at.long(), at.frac()
    magnitude, angle = pad(spectrum.abs(), (0, 1)), pad(spectrum.angle().double(), (0, 1))  # small errors of a phase add up
    loud = torch.lerp(magnitude[:, before], magnitude[:, before + 1], share.to(x.dtype))
    due = 2 * math.pi * hop / n_fft * torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None]  # what each bin turns in a hop by itself
    turned = angle[:, before + 1] - angle[:, before] - due
    turned = turned - 2 * math.pi * (turned / (2 * math.pi)).round() + due
    phase = angle[:, :1] + torch.cumsum(turned, dim=1) - turned  # the first column keeps its own
    return torch.istft(torch.polar(loud, phase.remainder(2 * math.pi).to(x.dtype)), n_fft, hop, window=window, length=round(len(x) * ratio))


@lru_cache(maxsize=8)
def _window(n_fft: int) -> Tensor:
    return torch.hann_window(n_fft)
