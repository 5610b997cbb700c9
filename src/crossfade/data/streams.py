"""Streams: from a clip to the tensor an encoder takes. `decode` is slow and worth storing, `finish` pads, augments and normalises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
