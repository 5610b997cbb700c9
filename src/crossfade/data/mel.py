"""Mel scales, the filters on them, and what is made of their energies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from torch import Tensor
from torch.nn.functional import interpolate

SHARED: Literal["shared"] = "shared"  # a band that is yet to be found in the clips of the domains; see crossfade.data.band


def _is_band(given: Any) -> Any:
    if given is None or given == SHARED:
        return given
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(isinstance(each, int | float) for each in given):
        raise PydanticCustomError("band", "it is [low, high] in hertz, shared (what all domains carry), or null for everything")
    if not 0 <= given[0] < given[1] < math.inf:
        raise PydanticCustomError("band", "0 ≤ low < high is needed, in hertz")
    return given


Band = Annotated[tuple[float, float] | Literal["shared"] | None, BeforeValidator(_is_band)]


@dataclass(frozen=True)
class Levelled:
    """What comes after the logarithm: cut `top_db` below the greatest value, moved to [0, 1], read at `columns` places; each None or
    False where it is not wanted.
    """

    top_db: float | None = None
    unit: bool = False
    columns: int | None = None

    def __call__(self, mel: Tensor) -> Tensor:
        """(1, mels, T) -> (1, mels, columns)"""
        if self.top_db is not None:
            mel = mel.clamp(min=float(mel.max()) - self.top_db)
        if self.unit:
            mel = (mel - mel.min()) / (mel.max() - mel.min()).clamp(min=torch.finfo(mel.dtype).tiny)
        return mel if self.columns is None else interpolate(mel, self.columns, mode="linear", align_corners=True)

    def real(self, heard: int, length: int) -> int:
        """Of the columns read off `length`, how many lie within the first `heard`."""
        return heard if self.columns is None else (heard - 1) * (self.columns - 1) // max(length - 1, 1) + 1


def mel_bank(*, rate: int, n_fft: int, mels: int, low: float, high: float, scale: str) -> Tensor:
    """Triangular filters (n_fft // 2 + 1, mels) on the HTK or Slaney mel scale (Slaney 1998, Auditory Toolbox); computed in float64."""
    edges, area = _edges(mels, low, high, scale), SCALES[scale][2]
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    return torch.from_numpy(triangles * (2 / (right - left) if area else 1.0)).float()


def within(centres: np.ndarray, band: Band) -> np.ndarray:
    """(mels,) bool: which filters, by their centres in hertz, a band leaves their hearing."""
    if band is None or band == SHARED:
        return np.ones(len(centres), dtype=bool)
    return (centres >= band[0]) & (centres <= band[1])


def mel_centres(*, mels: int, low: float, high: float, scale: str) -> np.ndarray:
    """(mels,) in hertz, where the filters are greatest."""
    return _edges(mels, low, high, scale)[1:-1]


def _edges(mels: int, low: float, high: float, scale: str) -> np.ndarray:
    to_mel, to_hertz, _ = SCALES[scale]
    return to_hertz(np.linspace(to_mel(np.array(low)), to_mel(np.array(high)), mels + 2))


def _htk_mel(hertz: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + hertz / 700)


def _htk_hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _slaney_mel(hertz: np.ndarray) -> np.ndarray:
    """Linear below 1 kHz (15 mel), then 27 mel for a factor of 6.4."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / math.log(6.4))


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.maximum(mel - 15, 0) / 27 * math.log(6.4)))


def _decibel(x: Tensor, floor: float) -> Tensor:
    return 10 * x.clamp(min=floor).log10()


def _natural(x: Tensor, floor: float) -> Tensor:
    return (x + floor).log()


SCALES: dict[str, tuple[Callable, Callable, bool]] = {
    "htk": (_htk_mel, _htk_hertz, False),
    "slaney": (_slaney_mel, _slaney_hertz, True),
}
LOGARITHMS: dict[str, Callable[[Tensor, float], Tensor]] = {"db": _decibel, "natural": _natural}
FLOORS = {"db": 1e-10, "natural": 1e-9}
