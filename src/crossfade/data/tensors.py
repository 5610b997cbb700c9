"""Streams of stored tensors: what somebody else's pre-processing made of a video, `.pt`, or of its sound, `.npy`, taken as it is."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from crossfade.clip import Clip, Spec, Unreadable, UserError
from crossfade.data.augment import Augmentation, apply
from crossfade.data.container import check_file
from crossfade.data.streams import IMAGENET_MEAN, IMAGENET_STD
from crossfade.store import HEADERS, versions

CODE = ("crossfade.data.tensors", "torch", "numpy")


@dataclass(frozen=True)
class StoredFrames:
    """`stored_frames` with its options checked."""

    count: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reads: tuple[str, ...] = ("frames",)
    domains: tuple[str, ...] = ("frames",)
    direct: bool = True  # read from its file each time; a copy in the store would be as large and no faster

    @property
    def spec(self) -> Spec:
        return Spec((self.count, 3, self.size, self.size), mean=self.mean, std=self.std)

    @property
    def key(self) -> dict[str, object]:
        return {"decode": "stored frames", "count": self.count, "size": self.size, "made": versions(*CODE)}

    def decode(self, clip: Clip) -> np.ndarray:
        """float32 (3, count, size, size) in the file -> (count, 3, size, size). Raises Unreadable."""
        path = _whole(clip, "frames")
        stored = _checked(path, read_pt(path), (3, self.count, self.size, self.size), "channels, frames, height, width")
        return np.ascontiguousarray(stored.transpose(1, 0, 2, 3))

    def finish(
        self, decoded: np.ndarray, augmentations: Sequence[Augmentation] = (), generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The tensor itself, mask (count,), all True. Augmentations see pictures in [0, 1]: normalisation is undone, then done again."""
        frames = torch.from_numpy(np.array(decoded))
        if any(augmentation.domain == "frames" for augmentation in augmentations):
            mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
            frames = (apply(augmentations, "frames", (frames * std + mean).clamp_(0.0, 1.0), generator) - mean) / std
        return frames, torch.ones(len(frames), dtype=torch.bool)

    def shown(self, decoded: np.ndarray) -> np.ndarray:
        """For a person: uint8 (count, 3, size, size)."""
        mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        return np.round((decoded * std + mean).clip(0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class StoredMel:
    """`stored_mel` with its options checked."""

    mels: int
    columns: int
    reads: tuple[str, ...] = ("mel",)
    domains: tuple[str, ...] = ("spectrogram",)
    direct: bool = True

    @property
    def spec(self) -> Spec:
        return Spec((1, self.mels, self.columns))

    @property
    def key(self) -> dict[str, object]:
        return {"decode": "stored mel", "mels": self.mels, "columns": self.columns, "made": versions(*CODE)}

    def decode(self, clip: Clip) -> np.ndarray:
        """float32 (mels, columns) in the file -> (1, mels, columns). Raises Unreadable."""
        path = _whole(clip, "mel")
        return _checked(path, read_npy(path), (self.mels, self.columns), "mels, columns")[None]

    def finish(
        self, decoded: np.ndarray, augmentations: Sequence[Augmentation] = (), generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The array itself, mask (columns,), all True: where its sound ended nobody wrote down."""
        mel = apply(augmentations, "spectrogram", torch.from_numpy(np.array(decoded)), generator)
        return mel, torch.ones(self.columns, dtype=torch.bool)

    def shown(self, decoded: np.ndarray) -> np.ndarray:
        """For a person: uint8 (1, 1, mels, columns), low tones at the bottom."""
        least, most = decoded.min(), decoded.max()
        return np.round((decoded[None, :, ::-1] - least) / max(most - least, 1e-9) * 255).astype(np.uint8)


def _whole(clip: Clip, medium: str) -> Path:
    """The clip's file. UserError where only a part of it is wanted: a tensor does not say when its pictures were."""
    if clip.span != (0.0, None):
        way = "no stretch of time can be taken of it; leave out start, end and --segments"
        raise UserError(f"{clip.id}: {clip.media[medium]} is a stored tensor: {way}")
    return clip.media[medium]


def stored_frames(
    *, count: int = 16, size: int = 224, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> StoredFrames:
    """Frames that are tensors already: a clip's `frames`, a `.pt` of float32 (3, 16, 224, 224), RGB, normalised by `mean` and `std`
    when it was written; the defaults are ImageNet's. Anything else in the file is an error that names it.
    """
    if min(count, size) < 1:
        raise UserError(f"stored_frames: count {count}, size {size}; at least 1 is needed")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"stored_frames: mean {list(mean)}, std {list(std)}; three numbers each (red, green, blue), std above 0")
    return StoredFrames(count, size, tuple(mean), tuple(std))


def stored_mel(*, mels: int = 128, columns: int = 128) -> StoredMel:
    """A spectrogram that is an array already: a clip's `mel`, a `.npy` of float32 (128, 128), low tones first, of whatever scale."""
    if min(mels, columns) < 1:
        raise UserError(f"stored_mel: mels {mels}, columns {columns}; at least 1 is needed")
    return StoredMel(mels, columns)


def _checked(path: Path, found: np.ndarray, shape: tuple[int, ...], axes: str) -> np.ndarray:
    if found.dtype != np.float32 or found.shape != shape:
        raise Unreadable(path, f"holds {found.dtype} {found.shape}; float32 {shape} is right: {axes}")
    return found


def _finite(path: Path, found: np.ndarray) -> np.ndarray:
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise Unreadable(path, "holds values that are not finite (NaN or infinite); make it anew")
    return found


def read_pt(path: Path) -> np.ndarray:
    """A tensor of float32 written by torch.save; nothing in the file is run. Raises Unreadable."""
    check_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # damaged files make the unpickler raise nearly anything
        raise Unreadable(path, "is not a tensor written by torch.save, or is damaged") from None
    if not isinstance(found, Tensor):
        raise Unreadable(path, f"holds a {type(found).__name__}; one tensor is right")
    if found.dtype != torch.float32 or found.layout != torch.strided:
        raise Unreadable(path, f"holds a tensor of {str(found.dtype).removeprefix('torch.')}; dense float32 is right")
    return _finite(path, found.detach().numpy())


def read_npy(path: Path) -> np.ndarray:
    """An array written by numpy.save; nothing in the file is run. Raises Unreadable."""
    check_file(path)
    try:
        with HEADERS, path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except Exception:  # damaged files make NumPy raise nearly anything
        raise Unreadable(path, "is not an array written by numpy.save, or is damaged") from None
    return _finite(path, found)
