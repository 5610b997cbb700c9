"""What a stream does to a decoded clip, without augmentation, as a module that can be exported together with a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfade.data.log_mel import LogMel
from crossfade.data.mel import LOGARITHMS
from crossfade.data.streams import STILL, Frames, Still, Waveform

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.data.intake import Stream

MASK = ".mask"


class WaveformEnd(nn.Module):
    """Sound of any length to the stream's length: its first samples, or zeros after it."""

    def __init__(self, stream: Waveform):
        super().__init__()
        self.samples = stream.samples

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N), mask (B, N) -> (B, samples), mask (B, samples)"""
        x = x.masked_fill(~mask, 0.0)
        return torch.cat([x, x.new_zeros(x.shape[0], self.samples)], 1)[:, : self.samples], self._filled(mask)

    def _filled(self, mask: Tensor) -> Tensor:
        return torch.cat([mask, mask.new_zeros(mask.shape[0], self.samples)], 1)[:, : self.samples]


def _natural(x: Tensor, floor: float) -> Tensor:
    """ln(x + floor), written so that the floor survives: the exporter's optimiser takes an addition of 1e-9 for one of nought."""
    return (x / floor + 1).log() + math.log(floor)


EXPORTED: dict[str, Callable[[Tensor, float], Tensor]] = {**LOGARITHMS, "natural": _natural}


class LogMelEnd(nn.Module):
    """Sound of any length to the stream's spectrogram, in operations that every runtime has."""

    bank: Tensor
    taper: Tensor
    places: Tensor

    def __init__(self, stream: LogMel):
        super().__init__()
        self.stream, self.sound = stream, WaveformEnd(stream.sound)
        self.energy = Energy(stream.n_fft)
        starts = torch.arange(0, stream.sound.samples + 2 * (stream.n_fft // 2) - stream.n_fft + 1, stream.hop)
        self.register_buffer("places", starts[:, None] + torch.arange(stream.n_fft), persistent=False)  # (T, n_fft)
        self.register_buffer("taper", stream.taper.clone(), persistent=False)
        self.register_buffer("bank", stream.bank.clone(), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N), mask (B, N) -> (B, 1, mels, T), mask (B, T)"""
        sound, real = self.sound(x, mask)
        whole = self._spectrogram(sound)
        mel = self._levelled(whole)
        after, length = self.stream.after, whole.shape[3]
        columns = after.real((real.sum(1, keepdim=True) // self.stream.hop + 1).clamp(max=length), length)
        return mel, (torch.arange(mel.shape[3], device=x.device) < columns) & real.any(1, keepdim=True)

    def _spectrogram(self, sound: Tensor) -> Tensor:
        """(B, samples) -> (B, 1, mels, 1 + samples // hop), the logarithm taken"""
        half = self.stream.n_fft // 2
        mirrored = F.pad(sound[:, None], (half, half), mode="reflect")[:, 0]
        energy = self.energy(mirrored[:, self.places] * self.taper)
        energy = energy if self.stream.power == 2 else energy.pow(self.stream.power / 2)
        return EXPORTED[self.stream.log]((energy @ self.bank).transpose(1, 2), self.stream.floor)[:, None]

    def _levelled(self, mel: Tensor) -> Tensor:
        """(B, 1, mels, T) -> (B, 1, mels, columns), as `Levelled` does with each clip"""
        after = self.stream.after
        if after.top_db is not None:
            mel = torch.maximum(mel, mel.amax((1, 2, 3), keepdim=True) - after.top_db)
        if after.unit:
            least, most = mel.amin((1, 2, 3), keepdim=True), mel.amax((1, 2, 3), keepdim=True)
            mel = (mel - least) / (most - least).clamp(min=torch.finfo(mel.dtype).tiny)
        return mel if after.columns is None else F.interpolate(mel[:, 0], after.columns, mode="linear", align_corners=True)[:, None]


class Energy(nn.Module):
    """The squared discrete Fourier transform of real numbers, in two steps (Cooley and Tukey 1965): n = rows · columns.

    In one step, as a single product with n × n cosines and sines, rounding would drown what is 90 dB below the rest.
    """

    across: Tensor
    turn: Tensor
    down: Tensor

    def __init__(self, n: int):
        super().__init__()
        rows = max(divisor for divisor in range(1, math.isqrt(n) + 1) if n % divisor == 0)
        columns, self.bins = n // rows, n // 2 + 1
        kept = -(-self.bins // rows)
        self.rows, self.columns = rows, columns
        self.register_buffer("across", _rotations(rows, rows, rows), persistent=False)
        self.register_buffer("turn", _rotations(columns, rows, n), persistent=False)
        self.register_buffer("down", _rotations(columns, kept, columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, n) -> (B, T, n // 2 + 1)"""
        picture = x.unflatten(2, (self.rows, self.columns)).transpose(2, 3)
        real, imaginary = picture @ self.across[0], picture @ self.across[1]
        real, imaginary = (part.transpose(2, 3) for part in _turned(real, imaginary, self.turn))
        (down_real, down_imaginary) = self.down
        real, imaginary = real @ down_real - imaginary @ down_imaginary, real @ down_imaginary + imaginary @ down_real
        return (real.square() + imaginary.square()).transpose(2, 3).flatten(2)[:, :, : self.bins]


def moving(x: Tensor) -> Tensor:
    """(B, T, C, H, W) less each clip's mean picture, with deviation 1 and zero where nothing moves: `background: remove` of `frames`."""
    left = x - x.mean(1, keepdim=True)
    spread = left.flatten(1).std(1).view(-1, 1, 1, 1, 1)
    return torch.where(spread > STILL, left / spread.clamp_min(STILL), torch.zeros_like(left))


BACKGROUNDS: dict[str, Callable[[Tensor], Tensor]] = {"keep": lambda x: x, "remove": moving}


class PicturesEnd(nn.Module):
    """Pictures of bytes to the normalised ones of the stream."""

    mean: Tensor
    std: Tensor

    def __init__(self, stream: Frames | Still):
        super().__init__()
        self.register_buffer("mean", torch.tensor(stream.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(stream.std).view(-1, 1, 1), persistent=False)
        self.background = BACKGROUNDS[getattr(stream, "background", "keep")]

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, T, C, H, W), mask (B, T) -> float32 of the same shape, the mask"""
        return self.background((x.float() / 255 - self.mean) / self.std), mask


class FrontEnds(nn.Module):
    """Before a model: each stream of a batch that has a front end goes through it. `nn.Sequential(FrontEnds(…), model)` is one model."""

    def __init__(self, ends: Mapping[str, nn.Module]):
        super().__init__()
        self.ends = nn.ModuleDict(ends)

    def forward(self, batch: Named) -> Named:
        """{"audio": (B, N) or (B, N) and "audio.mask", "video": uint8 (B, T, C, H, W)} -> {"audio": (B, 1, M, T), "audio.mask": (B, T), …}

        A stream that comes without its mask is real throughout.
        """
        ready = dict(batch)
        for name, end in self.ends.items():
            if name in batch:
                ready[name], ready[name + MASK] = end(batch[name], _mask(batch, name))
        return ready


ENDS: dict[type, type[nn.Module]] = {Waveform: WaveformEnd, LogMel: LogMelEnd, Frames: PicturesEnd, Still: PicturesEnd}


def front_end(stream: Stream) -> nn.Module | None:
    """What `stream.finish` does, for a batch: (B, N) float32 sound at the stream's rate, or uint8 pictures (B, T, C, H, W), and a mask.

    None for a stream whose clips are stored as the model takes them. What `decode` does is not in it: finding the loudest stretch, faces.
    """
    return ENDS[type(stream)](stream) if type(stream) in ENDS else None


def _rotations(rows: int, columns: int, period: int) -> Tensor:
    """(2, rows, columns): real and imaginary parts of exp(−2πi · row · column / period), computed in float64."""
    steps = torch.arange(rows)[:, None] * torch.arange(columns) % period
    angles = steps.double() * (2 * math.pi / period)
    return torch.stack([angles.cos(), -angles.sin()]).float()


def _turned(real: Tensor, imaginary: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """The product of complex numbers (B, T, columns, rows) and (columns, rows)."""
    return real * by[0] - imaginary * by[1], real * by[1] + imaginary * by[0]


def _mask(batch: Named, name: str) -> Tensor:
    x = batch[name]
    return batch[name + MASK] if name + MASK in batch else torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
