"""Augmentations: each acts in one domain on one clip, draws everything from the generator handed in and returns a new tensor.

Each factory checks its options and returns a small callable with a `domain`, the name of the place in a stream where it may act:
`waveform` (N,), `spectrogram` (1, mels, T) after the logarithm, `frames` (T, C, H, W) in [0, 1] before normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad

from crossfade.clip import Unreadable, UserError
from crossfade.data.media import read_audio


class Augmentation(Protocol):
    """What a view is made of: same shape out as in, never in place."""

    @property
    def domain(self) -> str: ...

    def __call__(self, x: Tensor, generator: Generator) -> Tensor: ...


@dataclass(frozen=True)
class NoiseAtSnr:
    """`noise_at_snr` with its noise read."""

    snr: tuple[float, ...]
    weights: Tensor
    probability: float
    noise: Tensor | None = field(default=None, repr=False)
    domain: str = "waveform"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(N,) -> (N,)"""
        if not happens(self.probability, generator):
            return x.clone()
        snr = self.snr[int(torch.multinomial(self.weights, 1, generator=generator))]
        noise = self._noise(x, generator)
        noise_power = noise.square().mean()
        if noise_power == 0:
            return x.clone()
        scale = (x.square().mean() / noise_power * 10 ** (-snr / 10)).sqrt()
        return (x + scale * noise).clamp(-1.0, 1.0)

    def _noise(self, x: Tensor, generator: Generator) -> Tensor:
        if self.noise is None:
            return torch.randn(x.shape, generator=generator, dtype=x.dtype)
        start = integer(0, len(self.noise) - 1, generator)
        return self.noise[(start + torch.arange(x.shape[-1])) % len(self.noise)]


@dataclass(frozen=True)
class SpectrogramMasks:
    """`spectrogram_masks` with its options checked."""

    frequency: int
    time: int
    count: int
    probability: float
    domain: str = "spectrogram"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(1, mels, T) -> (1, mels, T)"""
        masked, mean = x.clone(), x.mean()
        if happens(self.probability, generator):
            for _ in range(self.count):
                masked[..., _stretch(x.shape[-2], self.frequency, generator), :] = mean
                masked[..., _stretch(x.shape[-1], self.time, generator)] = mean
        return masked


@dataclass(frozen=True)
class Blur:
    """`blur` with its options checked."""

    kernels: tuple[int, ...]
    probability: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        if not happens(self.probability, generator):
            return x.clone()
        kernel = _gaussian(self.kernels[integer(0, len(self.kernels) - 1, generator)]).to(x.dtype)
        half, channels = len(kernel) // 2, x.shape[1]
        padded = pad(x, (half, half, half, half), mode="reflect")
        rows = conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
        return conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)


@dataclass(frozen=True)
class Darken:
    """`darken` with its options checked."""

    low: float
    high: float
    probability: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        if not happens(self.probability, generator):
            return x.clone()
        return (x * between(self.low, self.high, generator)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class SensorNoise:
    """`sensor_noise` with its options checked."""

    std: float
    probability: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        if not happens(self.probability, generator):
            return x.clone()
        std = between(0.0, self.std, generator)
        return (x + std * torch.randn(x.shape, generator=generator, dtype=x.dtype)).clamp(0.0, 1.0)


def noise_at_snr(
    *,
    snr: tuple[float, ...] = (20.0, 15.0, 10.0, 5.0),
    weights: tuple[float, ...] | None = (4.0, 4.0, 4.0, 3.0),
    probability: float = 0.5,
    file: Path | None = None,
    rate: int = 16000,
) -> NoiseAtSnr:
    """Add noise at a signal-to-noise ratio drawn from `snr` (dB, powers over the clip) by `weights` (None = equal); clamp to ±1.

    The noise is white and Gaussian, or a random stretch of `file` (looped), read once at `rate` hertz, the rate of the stream it is
    used with. A silent clip stays silent. Defaults are the reference's: 50 % of clips clean, 40 % shared by 20, 15 and 10 dB, 10 %
    at 5 dB (0.5 · 4/15 = 0.4 / 3 and 0.5 · 3/15 = 0.1). Raises UserError for a noise file that cannot be used.
    """
    check_probability("noise_at_snr", probability)
    weights = (1.0,) * len(snr) if weights is None else weights
    if not snr or len(weights) != len(snr) or min(weights) < 0 or sum(weights) <= 0:
        raise UserError(f"noise_at_snr.weights: {list(weights)} for snr {list(snr)}; give one weight a ratio, none negative, not all 0")
    return NoiseAtSnr(tuple(snr), torch.tensor(weights, dtype=torch.float32), probability, _read_noise(file, rate) if file else None)


def spectrogram_masks(*, frequency: int = 20, time: int = 40, count: int = 2, probability: float = 0.5) -> SpectrogramMasks:
    """Set `count` bands of up to `frequency` mels and `count` stretches of up to `time` columns to the sample's mean.

    SpecAugment (arXiv 1904.08779 §2) without time warping; sizes are the reference's.
    """
    check_probability("spectrogram_masks", probability)
    if min(frequency, time, count) < 0:
        raise UserError(f"spectrogram_masks: frequency {frequency}, time {time}, count {count}; none may be negative")
    return SpectrogramMasks(frequency, time, count, probability)


def blur(*, kernels: tuple[int, ...] = (3, 5, 7), probability: float = 0.5) -> Blur:
    """Gaussian blur by a kernel drawn from `kernels` (pixels, odd); σ = 0.3·((k - 1)/2 - 1) + 0.8, OpenCV's and torchvision's rule.

    The reference blurred and darkened every training clip and no validation clip, so that the model never saw in training what it
    is judged on; here half of the clips stay as they are.
    """
    check_probability("blur", probability)
    if not kernels or any(size < 1 or size % 2 == 0 for size in kernels):
        raise UserError(f"blur.kernels: {list(kernels)}; kernel sizes are odd and positive, such as [3, 5, 7]")
    return Blur(tuple(kernels), probability)


def darken(*, low: float = 0.2, high: float = 0.6, probability: float = 0.5) -> Darken:
    """Multiply brightness by one factor a clip, uniform in [`low`, `high`]; range of the reference, probability as in `blur`."""
    check_probability("darken", probability)
    if not 0 <= low <= high:
        raise UserError(f"darken: low {low:g}, high {high:g}; 0 ≤ low ≤ high is needed")
    return Darken(low, high, probability)


def sensor_noise(*, std: float = 0.0005, probability: float = 0.5) -> SensorNoise:
    """Add Gaussian noise to every pixel, its σ drawn once a clip, uniform in [0, `std`] (of full scale 1); the reference's maximum."""
    check_probability("sensor_noise", probability)
    if std < 0:
        raise UserError(f"sensor_noise.std: {std:g}; it may not be negative")
    return SensorNoise(std, probability)


def _read_noise(file: Path, rate: int) -> Tensor:
    try:
        noise = torch.from_numpy(read_audio(file, rate=rate))
    except Unreadable as error:
        raise UserError(f"noise_at_snr.file: {error}; give a sound file, or null for Gaussian noise") from None
    if not noise.any():
        raise UserError(f"noise_at_snr.file: {file} is silent; give a sound file with noise in it, or null for Gaussian noise")
    return noise


def check_probability(name: str, probability: float) -> None:
    if not 0 <= probability <= 1:
        raise UserError(f"{name}.probability: {probability:g}; it lies between 0 and 1")


def happens(probability: float, generator: Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def integer(low: int, high: int, generator: Generator) -> int:
    """Uniform in [low, high], both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def between(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _stretch(size: int, longest: int, generator: Generator) -> slice:
    """A random stretch of up to `longest` of `size` places, always inside."""
    length = integer(0, min(longest, size), generator)
    start = integer(0, size - length, generator)
    return slice(start, start + length)


def _gaussian(size: int) -> Tensor:
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    weights = torch.exp(-(torch.arange(size) - size // 2).square() / (2 * sigma * sigma))
    return weights / math.fsum(weights.tolist())


def apply(augmentations: Sequence[Augmentation], domain: str, x: Tensor, generator: Generator | None) -> Tensor:
    """Every augmentation of this `domain`, in order."""
    for augmentation in augmentations:
        if augmentation.domain == domain:
            if generator is None:
                raise ValueError(f"{type(augmentation).__name__} draws random numbers: hand a generator in")
            x = augmentation(x, generator)
    return x
