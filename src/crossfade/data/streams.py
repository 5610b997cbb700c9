"""Streams: from a clip to the tensor an encoder takes. `decode` is slow and worth storing, `finish` pads, augments and normalises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from crossfade.clip import Clip, Spec, UserError
from crossfade.data.augment import Augmentation, apply
from crossfade.data.faces import face_box
from crossfade.data.media import read_frames, read_image
from crossfade.data.mel import FLOORS, LOGARITHMS, Levelled, mel_bank
from crossfade.data.packed import packed_picture
from crossfade.data.pictures import Box
from crossfade.data.stills import fitted, remark
from crossfade.data.stretch import CHOOSING, READING
from crossfade.store import versions

CODE = tuple(
    f"crossfade.data.{name}" for name in ("streams", "media", "container", "visit")
)  # and what is installed: who made what is stored
SOUND = (*CODE, "crossfade.data.sound", "crossfade.data.stretch", "av", "soundfile", "soxr", "numpy")
PICTURES = (*CODE, "crossfade.data.pictures", "av", "numpy", "torch")
STILLS = (*PICTURES, "crossfade.data.stills", "crossfade.data.packed", "pillow")
FACES = ("crossfade.data.faces", "opencv-python-headless", "opencv-python")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Waveform:
    """`waveform` with its options checked."""

    rate: int
    samples: int
    take: str = "first"
    reads: tuple[str, ...] = ("audio", "video")
    domains: tuple[str, ...] = ("waveform",)

    @property
    def spec(self) -> Spec:
        return Spec((self.samples,), rate=self.rate)

    @property
    def key(self) -> dict[str, object]:
        return {"decode": "sound", "rate": self.rate, "samples": self.samples, "take": self.take, "made": versions(*SOUND)}

    def decode(self, clip: Clip) -> np.ndarray:
        """The first, the loudest or the middle `samples` of the clip's span, float32 (N,), N ≤ samples. Raises Unreadable."""
        return READING[self.take](_path(clip, self.reads), self.rate, self.samples, *clip.span)

    def chosen(self, sound: np.ndarray) -> np.ndarray:
        """Of sound at this rate, float32 (N,), what `decode` would keep."""
        return CHOOSING[self.take](sound, self.rate, self.samples)

    def finish(
        self, decoded: np.ndarray, augmentations: Sequence[Augmentation] = (), generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """float32 (N,) -> (samples,), mask (samples,). Noise goes on the sound alone, so padding stays exactly zero."""
        sound = apply(augmentations, "waveform", torch.from_numpy(np.array(decoded, dtype=np.float32)), generator)
        mask = torch.zeros(self.samples, dtype=torch.bool)
        mask[: len(sound)] = True
        return pad(sound, (0, self.samples - len(sound))), mask


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

    def decode(self, clip: Clip) -> np.ndarray:
        """The same array as `waveform` at this rate and length, so both share what is stored. Raises Unreadable."""
        return self.sound.decode(clip)

    def chosen(self, sound: np.ndarray) -> np.ndarray:
        """Of sound at this rate, float32 (N,), what `decode` would keep."""
        return self.sound.chosen(sound)

    def finish(
        self, decoded: np.ndarray, augmentations: Sequence[Augmentation] = (), generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """float32 (N,) -> (1, mels, T), mask (T,): True for columns centred on the sound. Masks fall on those columns alone."""
        sound, real = self.sound.finish(decoded, augmentations, generator)
        whole = self.spectrogram(sound)
        mel = self.after(whole)
        columns = self.after.real(min(int(real.sum()) // self.hop + 1, whole.shape[-1]), whole.shape[-1])
        mask = torch.arange(mel.shape[-1]) < columns
        heard = apply(augmentations, "spectrogram", mel[..., :columns], generator)
        return (heard if mask.all() else torch.cat([heard, mel[..., columns:]], dim=-1)), mask

    def spectrogram(self, sound: Tensor) -> Tensor:
        """(samples,) -> (1, mels, 1 + samples // hop), the logarithm taken."""
        half = self.n_fft // 2
        mirrored = torch.cat([sound[1 : half + 1].flip(0), sound, sound[-half - 1 : -1].flip(0)])  # four times as fast as stft's own
        spectrum = torch.stft(mirrored, self.n_fft, hop_length=self.hop, window=self.taper, center=False, return_complex=True)
        squares = torch.view_as_real(spectrum).square_()
        energy = squares[..., 0] + squares[..., 1]
        return LOGARITHMS[self.log](self.bank.T @ (energy if self.power == 2 else energy.pow(self.power / 2)), self.floor)[None]


@dataclass(frozen=True)
class Frames:
    """`frames` with its options checked."""

    count: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    face: Path | None
    region: Box | None = None
    background: Literal["keep", "remove"] = "keep"
    reads: tuple[str, ...] = ("video",)
    domains: tuple[str, ...] = ("frames",)

    @property
    def spec(self) -> Spec:
        return Spec((self.count, 3, self.size, self.size), mean=self.mean, std=self.std)

    @property
    def key(self) -> dict[str, object]:
        made = versions(*PICTURES, *(() if self.face is None else FACES))
        detector = None if self.face is None else _digest(self.face)
        part = {} if self.region is None else {"region": self.region}
        return {"decode": "frames", "count": self.count, "size": self.size, "face": detector, **part, "made": made}

    def decode(self, clip: Clip) -> np.ndarray:
        """uint8 (count, 3, size, size): all cropped to one box, or, without a face, all of them whole. Raises Unreadable."""
        start, end = clip.span
        return read_frames(_path(clip, self.reads), count=self.count, size=self.size, start=start, end=end, box=self._box(clip))

    def face_found(self, clip: Clip) -> bool:
        """Whether `decode` crops this clip to a face. Looks again, so it also answers for arrays that come from the store."""
        return self._box(clip) is not None

    def finish(
        self, decoded: np.ndarray, augmentations: Sequence[Augmentation] = (), generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """uint8 (count, 3, size, size) -> float32 of the same shape, normalised; mask (count,), all True."""
        pictures, mask = _normalised(decoded, self.mean, self.std, augmentations, generator)
        return BACKGROUNDS[self.background](pictures), mask

    def _box(self, clip: Clip) -> Box | None:
        if self.face is None:
            return self.region
        start, end = clip.span
        return face_box(_path(clip, self.reads), self.face, count=self.count, start=start, end=end)


@dataclass(frozen=True)
class Still:
    """`image` with its options checked."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    fit: str = "stretch"
    reads: tuple[str, ...] = ("image",)
    domains: tuple[str, ...] = ("frames",)

    @property
    def spec(self) -> Spec:
        return Spec((1, self.channels, self.size, self.size), mean=self.mean, std=self.std)

    @property
    def key(self) -> dict[str, object]:
        return {"decode": "image", "size": self.size, "channels": self.channels, "fit": self.fit, "made": versions(*STILLS)}

    def decode(self, clip: Clip) -> np.ndarray:
        """uint8 (1, channels, size, size). Raises Unreadable."""
        path = _path(clip, self.reads)
        if clip.item is None:
            return read_image(path, size=self.size, channels=self.channels, fit=self.fit)
        return fitted(packed_picture(path, clip.item), size=self.size, channels=self.channels, fit=self.fit)

    def remark(self, clip: Clip) -> str:
        """What is peculiar about the clip's picture though it is used, or "". Raises Unreadable."""
        return remark(_path(clip, self.reads)) if clip.item is None else ""

    def finish(
        self, decoded: np.ndarray, augmentations: Sequence[Augmentation] = (), generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """uint8 (1, channels, size, size) -> float32 of the same shape, normalised; mask (1,), True."""
        return _normalised(decoded, self.mean, self.std, augmentations, generator)


def waveform(*, rate: int = 16000, seconds: float = 3.0, take: Literal["first", "loudest", "middle"] = "first") -> Waveform:
    """Mono sound at `rate` hertz, (48000,) by default: the first `seconds` of a clip, its loudest (RMS) or its middle; zeros after."""
    samples = round(rate * seconds)
    if rate < 1 or samples < 1:
        raise UserError(f"waveform: rate {rate}, seconds {seconds:g}; both must be positive")
    return Waveform(rate, samples, take)


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
) -> LogMel:
    """Log-mel spectrogram (1, mels, 1 + samples // hop), (1, 64, 301) by default; zeros are appended before the logarithm.

    Periodic Hann window of `window` samples, centred with reflection at the ends; `power` 2 is energy, 1 magnitude.
    `scale` htk: triangles of height 1, torchaudio's default; slaney: triangles of equal area, librosa's default. `low`, `high` in
    hertz (None = rate / 2). `log` db: 10·log10(max(x, floor)), floor 1e-10; natural: ln(x + floor), floor 1e-9. `take`: as in `waveform`.
    `top_db` lifts what is that far below the clip's greatest value; `unit` moves the clip's values to [0, 1] (0 where all are equal);
    `columns` of them are read off by linear interpolation from first to last: (1, mels, columns). The wildlife reference's arrays are
    seconds 10, mels 128, n_fft and window 2048, hop 512, scale slaney, take middle, top_db 80, unit, columns 128.
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
    if floor is not None and floor <= 0:
        raise UserError(f"log_mel.floor: {floor:g}; it must be above 0, the logarithm of silence is not finite")
    if top_db is not None and (top_db <= 0 or log != "db"):
        raise UserError(f"log_mel.top_db: {top_db:g} with log {log}; it must be above 0, and needs log: db")
    if columns is not None and columns < 1:
        raise UserError(f"log_mel.columns: {columns}; at least 1 is needed, or null for one every hop")
    bank = mel_bank(rate=rate, n_fft=n_fft, mels=mels, low=low, high=top, scale=scale)
    left = (n_fft - window) // 2
    taper = pad(torch.hann_window(window, periodic=True), (left, n_fft - window - left))
    after = Levelled(top_db, unit, columns)
    return LogMel(sound, hop, n_fft, power, FLOORS[log] if floor is None else floor, log, bank, taper, after)


def frames(
    *,
    count: int = 8,
    size: int = 112,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    face: Path | None = None,
    region: tuple[float, float, float, float] | None = None,
    background: Literal["keep", "remove"] = "keep",
) -> Frames:
    """`count` pictures of `size` × `size` spread uniformly over a clip, (8, 3, 112, 112) by default, ImageNet statistics.

    `face`: a YuNet detector (.onnx). The box of the first confident face, padded by 30 %, crops every picture of the clip; a clip
    without a face keeps the whole picture in all of them and is counted. `region`: for a camera that stands still, the part of its picture
    to keep, [left, top, right, bottom] in shares of it: [0, 0, 1, 0.93] cuts off a line with time and temperature. `background: remove`
    takes the mean picture of each clip out of its pictures, so that what moves is left, with deviation 1: for a camera that stands still.
    """
    _check_pictures("frames", mean, std, count=count, size=size)
    _check_region(region, face)
    if face is not None and not Path(face).is_file():
        raise UserError(f"frames.face: {face}: no such file; give a YuNet detector (.onnx), or null for the whole picture")
    return Frames(count, size, tuple(mean), tuple(std), None if face is None else Path(face), region, background)


def kept(pictures: Tensor) -> Tensor:
    """(T, C, H, W) as they are."""
    return pictures


def moving(pictures: Tensor) -> Tensor:
    """(T, C, H, W) less their mean picture, with deviation 1; all zero where nothing moves."""
    left = pictures.sub_(pictures.mean(0, keepdim=True))
    spread = left.std()
    return left.div_(spread) if spread > STILL else left.zero_()


STILL = 1e-4  # deviation, in units of the normalised pictures, below which nothing moves
BACKGROUNDS: dict[str, Callable[[Tensor], Tensor]] = {"keep": kept, "remove": moving}


def _check_region(region: Box | None, face: Path | None) -> None:
    if region is None:
        return
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(
            f"frames.region: found {list(region)}; it is [left, top, right, bottom] in shares of the picture, as in [0, 0, 1, 0.9]"
        )
    if face is not None:
        raise UserError("frames.region: the face decides what is kept; give one of region and face")


def image(
    *,
    size: int | None = None,
    channels: Literal[1, 3] = 3,
    fit: Literal["stretch", "crop", "pad"] = "stretch",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Still:
    """A picture is a clip of one frame, (1, 3, 224, 224) by default; `channels` 1 is grey, and a grey picture in 3 is repeated.

    `fit` stretch resizes it straight to a square whatever its shape, crop takes its middle square, pad puts all of it on black.
    What is null is what the encoder's weights were trained with, or, where they say nothing: 224 pixels, ImageNet's statistics
    (for one channel their average).
    """
    size = 224 if size is None else size
    mean, std = _imagenet(mean, IMAGENET_MEAN, channels), _imagenet(std, IMAGENET_STD, channels)
    _check_pictures("image", mean, std, channels, size=size)
    return Still(size, mean, std, channels, fit)


def _imagenet(given: Sequence[float] | None, colours: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if given is not None:
        return tuple(given)
    return colours if channels == 3 else (sum(colours) / 3,)


def _check_pictures(stream: str, mean: Sequence[float], std: Sequence[float], channels: int = 3, **sizes: int) -> None:
    if min(sizes.values()) < 1:
        found = ", ".join(f"{name} {value}" for name, value in sizes.items())
        raise UserError(f"{stream}: {found}; at least 1 is needed")
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        wanted = "three numbers each (red, green, blue)" if channels == 3 else "one number each (grey)"
        raise UserError(f"{stream}: mean {list(mean)}, std {list(std)}; {wanted}, std above 0")


def _normalised(
    decoded: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augmentations: Sequence[Augmentation],
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """uint8 (T, C, H, W) -> float32 of the same shape, mask (T,), all True. What is stored is copied once and then changed in place."""
    pictures = apply(augmentations, "frames", torch.from_numpy(np.array(decoded)).float().div_(255), generator)
    return pictures.sub_(_by_channel(mean)).div_(_by_channel(std)), torch.ones(len(pictures), dtype=torch.bool)


@lru_cache(maxsize=64)
def _by_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def _path(clip: Clip, reads: tuple[str, ...]) -> Path:
    """The file of the first kind that the clip has."""
    for kind in reads:
        if kind in clip.media:
            return clip.media[kind]
    raise UserError(f"clip {clip.id}: has {', '.join(clip.media) or 'no media'}; this stream reads {' or '.join(reads)}")


@lru_cache(maxsize=8)
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
