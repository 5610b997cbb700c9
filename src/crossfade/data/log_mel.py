"""The stream `log_mel`: what a spectrogram with mel filters hears of the sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from crossfade.clip import Clip, Spec, UserError
from crossfade.data.augment import Augmentation, apply
from crossfade.data.mel import FLOORS, LOGARITHMS, SHARED, Band, Levelled, mel_bank, mel_centres, within
from crossfade.data.streams import Waveform, waveform


@dataclass(frozen=True)
class LogMel:
    """`log_mel` with its options checked; `bank` (bins, mels) and `taper` (n_fft,) are made once."""

    sound: Waveform
    hop: int
    n_fft: int
    power: float
    floor: float
    log: str
    bank: Tensor = field(repr=False, compare=False)
    taper: Tensor = field(repr=False, compare=False)
    after: Levelled = field(default_factory=Levelled)
    centres: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)  # (mels,) in hertz
    band: Band = None
    domains: tuple[str, ...] = ("waveform", "spectrogram")

    @property
    def reads(self) -> tuple[str, ...]:
        return self.sound.reads

    @property
    def spec(self) -> Spec:
        return Spec((1, self.bank.shape[1], self.after.columns or 1 + self.sound.samples // self.hop), rate=self.sound.rate)

    @property
    def key(self) -> dict[str, object]:
        return self.sound.key

    @cached_property
    def audible(self) -> slice:
        """The filters within the band."""
        inside = np.flatnonzero(within(self.centres, self.band))
        return slice(int(inside[0]), int(inside[-1]) + 1)

    def decode(self, clip: Clip) -> np.ndarray:
        """The same array as `waveform` at this rate and length, so both share what is stored. Raises Unreadable."""
        return self.sound.decode(clip)

    def chosen(self, sound: np.ndarray) -> np.ndarray:
        """Of sound at this rate, float32 (N,), what `decode` would keep."""
        return self.sound.chosen(sound)

    def finish(
        self, decoded: np.ndarray, augmentations: Sequence[Augmentation] = (), generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """float32 (N,) -> (1, mels, T), mask (T,): True for columns centred on the sound. Masks fall on those columns and on audible
        filters alone."""
        sound, real = self.sound.finish(decoded, augmentations, generator)
        whole = self.spectrogram(sound)
        mel = self.after(whole)
        columns = self.after.real(min(int(real.sum()) // self.hop + 1, whole.shape[-1]), whole.shape[-1])
        mask = torch.arange(mel.shape[-1]) < columns
        if augmentations:
            mel = mel.clone()
            mel[:, self.audible, :columns] = apply(augmentations, "spectrogram", mel[:, self.audible, :columns], generator)
        return mel, mask

    def spectrogram(self, sound: Tensor) -> Tensor:
        """(samples,) -> (1, mels, 1 + samples // hop), the logarithm taken."""
        half = self.n_fft // 2
        mirrored = torch.cat([sound[1 : half + 1].flip(0), sound, sound[-half - 1 : -1].flip(0)])  # four times as fast as stft's own
        spectrum = torch.stft(mirrored, self.n_fft, hop_length=self.hop, window=self.taper, center=False, return_complex=True)
        squares = torch.view_as_real(spectrum).square_()
        energy = squares[..., 0] + squares[..., 1]
        return LOGARITHMS[self.log](self.bank.T @ (energy if self.power == 2 else energy.pow(self.power / 2)), self.floor)[None]


def log_mel(
    *,
    rate: int = 16000,
    seconds: float = 3.0,
    mels: int = 64,
    n_fft: int = 400,
    window: int = 400,
    hop: int = 160,
    scale: Literal["htk", "slaney"] = "htk",
    log: Literal["db", "natural"] = "db",
    low: float = 0.0,
    high: float | None = None,
    power: float = 2.0,
    floor: float | None = None,
    take: Literal["first", "loudest", "middle"] = "first",
    top_db: float | None = None,
    unit: bool = False,
    columns: int | None = None,
    band: Band = None,
) -> LogMel:
    """Log-mel spectrogram (1, mels, 1 + samples // hop), (1, 64, 301) by default; zeros are appended before the logarithm.

    Periodic Hann window of `window` samples, centred with reflection at the ends; `power` 2 is energy, 1 magnitude.
    `scale` htk: triangles of height 1, torchaudio's default; slaney: triangles of equal area, librosa's default. `low`, `high` in
    hertz (None = rate / 2). `log` db: 10·log10(max(x, floor)), floor 1e-10; natural: ln(x + floor), floor 1e-9. `take`: as in `waveform`.
    `top_db` lifts what is that far below the clip's greatest value; `unit` moves the clip's values to [0, 1] (0 where all are equal);
    `columns` of them are read off by linear interpolation from first to last: (1, mels, columns). The wildlife reference's arrays are
    seconds 10, mels 128, n_fft and window 2048, hop 512, scale slaney, take middle, top_db 80, unit, columns 128.

    `band`: (low, high) in hertz outside of which filters hear silence while the shape stays; shared: what all domains carry, which a
    run finds (until then all is heard).
    """
    sound, top = waveform(rate=rate, seconds=seconds, take=take), rate / 2 if high is None else high
    if not 0 < window <= n_fft or hop < 1 or mels < 1 or power <= 0:
        raise UserError(
            f"log_mel: window {window}, n_fft {n_fft}, hop {hop}, mels {mels}; 0 < window ≤ n_fft, hop ≥ 1 and mels ≥ 1 are needed"
        )
    if sound.samples <= n_fft // 2:
        raise UserError(f"log_mel.seconds: {seconds:g} s are {sound.samples} samples; more than n_fft / 2 = {n_fft // 2} are needed")
    if not 0 <= low < top <= rate / 2:
        raise UserError(f"log_mel: low {low:g}, high {top:g} Hz; 0 ≤ low < high ≤ rate / 2 = {rate / 2:g} is needed")
    if not (band is None or band == SHARED) and band[1] > rate / 2:
        raise UserError(f"log_mel.band: found {band}; at {rate} samples a second there is nothing above rate / 2 = {rate / 2:g} Hz")
    if floor is not None and floor <= 0:
        raise UserError(f"log_mel.floor: {floor:g}; it must be above 0, the logarithm of silence is not finite")
    if top_db is not None and (top_db <= 0 or log != "db"):
        raise UserError(f"log_mel.top_db: {top_db:g} with log {log}; it must be above 0, and needs log: db")
    if columns is not None and columns < 1:
        raise UserError(f"log_mel.columns: {columns}; at least 1 is needed, or null for one every hop")
    centres = mel_centres(mels=mels, low=low, high=top, scale=scale)
    heard = within(centres, band)
    if not heard.any():
        near = ", ".join(f"{centre:.0f}" for centre in np.sort(centres[np.argsort(np.abs(centres - np.mean(band)))[:2]]))  # type: ignore[arg-type]
        raise UserError(f"log_mel.band: found {band}; no filter is centred there, the nearest at {near} Hz")
    bank = mel_bank(rate=rate, n_fft=n_fft, mels=mels, low=low, high=top, scale=scale) * torch.from_numpy(heard)
    left = (n_fft - window) // 2
    taper = pad(torch.hann_window(window, periodic=True), (left, n_fft - window - left))
    after = Levelled(top_db, unit, columns)
    return LogMel(sound, hop, n_fft, power, FLOORS[log] if floor is None else floor, log, bank, taper, after, centres, band)
