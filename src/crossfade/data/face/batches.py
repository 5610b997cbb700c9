"""Prepared faces as batches: pictures in twos that follow each other, another picture of the same clip to know the face by, the sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from crossfade.clip import UserError, seed_of
from crossfade.data.face.crop import Crop, as_values, covered, inner
from crossfade.data.face.sound_rows import window

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.data.face.prepared import Prepared, Talk

MANY = 10  # groups from which on whole ones are held out; of fewer, the ends of each clip
GAP = 20  # pictures between a stretch and the next: what the sound of one picture spans
PIECE = 75  # pictures: within one clip, intervals are over pieces of 3 s
APART = 5  # pictures, at least, between a picture and the one that shows the face, where a clip has so many


@dataclass(frozen=True)
class Part:
    """Pictures of one clip that belong to one side of the split; ascending."""

    talk: Talk
    frames: np.ndarray
    pieces: bool = False  # whether its groups are pieces of the clip, because clips are not held out whole

    def group(self, frame: int) -> str:
        return f"{self.talk.clip} {frame // PIECE * PIECE}" if self.pieces else self.talk.group

    def pieces_of(self, most: int) -> Iterator[Part]:
        """The same pictures, at most so many at a time, so that a long clip fits into memory."""
        for start in range(0, len(self.frames), most):
            yield replace(self, frames=self.frames[start : start + most])


@dataclass(frozen=True)
class Sides:
    """What is learnt from, chosen by and judged on. `whole`: whether no group is on two sides."""

    train: list[Part]
    val: list[Part]
    test: list[Part]
    whole: bool

    def counts(self) -> dict[str, dict[str, int]]:
        sides = {"train": self.train, "val": self.val, "test": self.test}
        return {name: {"clips": len(parts), "frames": sum(len(part.frames) for part in parts)} for name, parts in sides.items()}


def divide(prepared: Prepared, *, val: float, test: float, seed: int) -> Sides:
    """Whole groups are held out where there are many; else each clip's last stretches, with a gap that no window of sound reaches over.

    UserError where a side would be empty.
    """
    groups = sorted({talk.group for talk in prepared.talks})
    whole = len(groups) >= MANY
    sides = _by_group(prepared.talks, groups, val, test, seed) if whole else _by_stretch(prepared.talks, val, test)
    for name, parts in (("train", sides.train), ("val", sides.val), ("test", sides.test)):
        if not any(len(_twos(part.frames, 0)) for part in parts):
            share = {"val": val, "test": test}.get(name)
            what = f"data.split.{name}: {share:g}" if share else f"data.split: val {val:g} and test {test:g}"
            way = "give it a larger share" if share else "give them smaller shares"
            raise UserError(f"{what} leaves no two pictures that follow each other to {name}; {way}, or prepare more video")
    return sides


def _by_group(talks: Sequence[Talk], groups: Sequence[str], val: float, test: float, seed: int) -> Sides:
    order = np.random.default_rng(seed_of(seed, "face split")).permutation(len(groups))
    counts = [max(round(share * len(groups)), 1) for share in (test, val)]
    names = [groups[place] for place in order]
    held = dict.fromkeys(names[: counts[0]], "test") | dict.fromkeys(names[counts[0] : sum(counts)], "val")
    sides: dict[str, list[Part]] = {"train": [], "val": [], "test": []}
    for talk in talks:
        sides[held.get(talk.group, "train")].append(Part(talk, np.flatnonzero(talk.kept)))
    return Sides(**sides, whole=True)


def _by_stretch(talks: Sequence[Talk], val: float, test: float) -> Sides:
    sides: dict[str, list[Part]] = {"train": [], "val": [], "test": []}
    for talk in talks:
        first, second = round(len(talk) * (1 - val - test)), round(len(talk) * (1 - test))
        spans = {"train": (0, first - GAP // 2), "val": (first + GAP // 2, second - GAP // 2), "test": (second + GAP // 2, len(talk))}
        for name, (start, stop) in spans.items():
            frames = np.flatnonzero(talk.kept[: max(stop, 0)])
            if len(found := frames[frames >= start]) > 1:
                sides[name].append(Part(talk, found, pieces=True))
    return Sides(**sides, whole=False)


@dataclass(frozen=True)
class Faces:
    """Pictures of clips to batches. `silence` (20, dim): given in place of every window, to say what the picture alone gives."""

    crop: Crop
    silence: np.ndarray | None = None

    def batch(self, talk: Sequence[Talk], frames: Sequence[int], identity: Sequence[int], shift: int = 0) -> Named:
        """{"audio" (B, 1, 20, dim), "face" (B, 6, S, S), "true" (B, 3, S, S)}; the sound comes `shift` pictures late, and ends
        where the clip's does."""
        true = as_values(self._pictures(talk, frames))
        hidden = as_values(covered(self._pictures(talk, frames), self.crop))
        shown = as_values(self._pictures(talk, identity))
        windows = [self._window(each, frame - shift) for each, frame in zip(talk, frames, strict=True)]
        face = torch.from_numpy(np.concatenate([shown, hidden], 1))
        return {
            "audio": torch.from_numpy(np.stack(windows))[:, None],
            "face": face.contiguous(memory_format=torch.channels_last),  # in which a CPU is twice as quick
            "true": torch.from_numpy(true),
        }

    def _pictures(self, talk: Sequence[Talk], frames: Sequence[int]) -> np.ndarray:
        """-> (B, S, S, 3) uint8"""
        return np.stack([inner(each.faces[frame], self.crop) for each, frame in zip(talk, frames, strict=True)])

    def _window(self, talk: Talk, frame: int) -> np.ndarray:
        """-> (20, dim)"""
        if self.silence is not None:
            return self.silence
        return np.asarray(window(talk.rows, min(max(frame, 0), len(talk.rows) - 20)), np.float32)


def identity_of(talk: Talk, frame: int) -> int:
    """The picture that shows the face in judging: the first that is kept, of those near it the last."""
    kept = np.flatnonzero(talk.kept)
    return int(kept[-1] if frame - kept[0] < APART else kept[0])


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch: every picture once or nearly so, in twos that follow each other, drawn from a seed of its own."""

    faces: Faces
    parts: Sequence[Part]
    size: int
    seed: int
    start: int = 0
    limit: int | None = None
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        whole = sum(len(_twos(part.frames, 0)) for part in self.parts) // self._pairs // self.world
        return max(min(max(whole, 1), self.limit or whole or 1) - self.start, 0)

    @property
    def _pairs(self) -> int:
        return max(self.size // 2, 1)

    def __iter__(self) -> Iterator[Named]:
        generator = np.random.default_rng(self.seed)
        pairs = [(number, int(frame)) for number, part in enumerate(self.parts) for frame in _twos(part.frames, int(generator.integers(2)))]
        order = generator.permutation(len(pairs))
        shown = generator.random(len(pairs))
        for step in range(self.start, self.start + len(self)):
            place = (step * self.world + self.rank) * self._pairs
            rows = [order[row % len(order)] for row in range(place, place + self._pairs)]
            yield self._batch([(*pairs[row], float(shown[row])) for row in rows])

    def _batch(self, pairs: Sequence[tuple[int, int, float]]) -> Named:
        both = [(self.parts[number], frame + later, drawn) for number, frame, drawn in pairs for later in (0, 1)]
        frames = [frame for _, frame, _ in both]
        identity = [_another(part.frames, frame - row % 2, drawn) for row, (part, frame, drawn) in enumerate(both)]
        made = self.faces.batch([part.talk for part, _, _ in both], frames, identity)
        return made | {"pair": torch.arange(len(both)) // 2, "index": torch.arange(len(both))}


def _twos(frames: np.ndarray, offset: int) -> np.ndarray:
    """The first of each two pictures that follow each other, no picture twice, beginning with the first or second of each run."""
    runs = np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1)
    return np.concatenate([run[offset if len(run) > 2 else 0 : -1 : 2] for run in runs if len(run) > 1] or [frames[:0]])


def _another(frames: np.ndarray, frame: int, drawn: float) -> int:
    """One of the other pictures, by a number in [0, 1): never this two, and far from it where there are such."""
    far = frames[np.abs(frames - frame) >= APART]
    others = far if len(far) else frames[(frames != frame) & (frames != frame + 1)]
    return int(others[int(drawn * len(others))]) if len(others) else int(frame)
