"""Clips to batches: views, masks, workers; every batch has one set of streams, every clip its own random numbers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from crossfade.clip import UNKNOWN, Clip, seed_of
from crossfade.data.intake import Augmentation, Reader

if TYPE_CHECKING:
    from crossfade.clip import Named

View = Mapping[str, Sequence[Augmentation]]  # stream -> augmentations, in order


def auto_workers(asked: int, media: Path | None = None) -> int:
    """Loader processes: as asked, or for -1 by machine.

    None on Windows; under WSL none for data on /mnt and 2 otherwise; elsewhere min(8, max(2, cores // 2)).
    """
    if asked >= 0:
        return asked
    if sys.platform == "win32":
        return 0
    if "microsoft" in os.uname().release.lower():
        return 0 if media and str(media).startswith("/mnt/") else 2
    return min(8, max(2, (os.cpu_count() or 1) // 2))


class Draw(NamedTuple):
    """One clip's turn: its row, and the seed of everything random about it."""

    row: int
    seed: int


@dataclass(frozen=True)
class _Fixed:
    """An augmentation with random numbers of its own, so that it does the same to a clip each time."""

    inner: Augmentation
    generator: torch.Generator

    @property
    def domain(self) -> str:
        return self.inner.domain

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self.inner(x, self.generator)


@dataclass
class Samples(Dataset):
    """Draw -> (row, {stream: (tensor, mask)}). `view` augments anew at each draw; `degrade` is a test condition, fixed for a clip."""

    clips: list[Clip]
    streams: Mapping[str, tuple[str, ...]]  # clip id -> streams
    reader: Reader
    view: View = field(default_factory=dict)
    degrade: View = field(default_factory=dict)

    def __getitem__(self, draw: Draw):  # type: ignore[override]
        clip = self.clips[draw.row]
        return draw.row, {name: self._finished(clip, name, draw.seed) for name in self.streams[clip.id]}

    def __len__(self) -> int:
        return len(self.clips)

    def _finished(self, clip: Clip, name: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        fixed = torch.Generator().manual_seed(seed_of(clip.id, name))
        spoiled = [_Fixed(augmentation, fixed) for augmentation in self.degrade.get(name, ())]
        free = torch.Generator().manual_seed(seed_of(seed, name))
        return self.reader.streams[name].finish(self.reader.read(clip, name), [*spoiled, *self.view.get(name, ())], free)


@dataclass
class Loader:
    """Batches of one set of clips, in a seeded order that depends on nothing but `tag`, not on workers or on where one starts."""

    samples: Samples
    labels: Mapping[str, torch.Tensor]  # target -> (clips,) class indices
    batch: int
    workers: int = 0
    rank: int = 0
    world: int = 1
    _plan: list[list[Draw]] = field(default_factory=list, repr=False)
    _live: Any = field(default=None, repr=False)

    def shuffled(self, *tag: object, start: int = 0, limit: int | None = None) -> Collection[Named]:
        """The batches of one epoch from number `start` on, this process's share of them."""
        order = torch.Generator().manual_seed(seed_of(*tag))
        rows = torch.randperm(len(self.samples), generator=order).tolist()
        batches = self._batches(rows, tag)
        shuffled = [batches[index] for index in torch.randperm(len(batches), generator=order).tolist()]
        return self._serve(self._share(shuffled)[:limit][start:])

    def _share(self, batches: list[list[Draw]]) -> list[list[Draw]]:
        """This process's batches. All get as many, or they would wait for one another: a remainder sits this epoch out."""
        few = len(batches) < self.world
        return batches[self.rank % max(len(batches), 1) :][:1] if few else batches[self.rank :: self.world][: len(batches) // self.world]

    def in_order(self) -> Collection[Named]:
        """Every clip once, clean, for judging."""
        return self._serve(self._batches(list(range(len(self.samples))), ("clean",)))

    def _batches(self, rows: list[int], tag: tuple[object, ...]) -> list[list[Draw]]:
        by_streams: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            by_streams.setdefault(self.samples.streams[self.samples.clips[row].id], []).append(row)
        seeded = [[Draw(row, seed_of(*tag, row)) for row in same] for same in by_streams.values()]
        return [same[first : first + self.batch] for same in seeded for first in range(0, len(same), self.batch)]

    def _serve(self, plan: list[list[Draw]]) -> Collection[Named]:
        self._plan[:] = plan
        if self._live is None:
            more = {"persistent_workers": True, "prefetch_factor": 2, "worker_init_fn": _outlive_signals} if self.workers else {}
            collate = partial(_collate, self.labels)  # nothing here may hold the Loader: found by the sweep only, workers end 10 s late
            self._live = DataLoader(self.samples, batch_sampler=_Sampler(self._plan), collate_fn=collate, num_workers=self.workers, **more)
        return self._live


def _outlive_signals(worker: int) -> None:
    """A terminal or batch system signals the whole group; the run still needs its workers to reach the checkpoint, and ends them itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _collate(labels: Mapping[str, torch.Tensor], samples: list[tuple[int, dict[str, tuple[torch.Tensor, torch.Tensor]]]]) -> Named:
    """-> {"index" (B,), "<target>" (B,), "<stream>" (B, …), "<stream>.mask" (B, T)}"""
    rows = torch.tensor([row for row, _ in samples])
    batch = {"index": rows, **{target: known[rows] for target, known in labels.items()}}
    for name in samples[0][1]:
        batch[name] = torch.stack([streams[name][0] for _, streams in samples])
        batch[f"{name}.mask"] = torch.stack([streams[name][1] for _, streams in samples])
    return batch


@dataclass(frozen=True)
class _Sampler:
    plan: list[list[Draw]]

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(list(self.plan))

    def __len__(self) -> int:
        return len(self.plan)


def label_indices(clips: Sequence[Clip], target: str, classes: Sequence[str]) -> torch.Tensor:
    """(clips,) int64: each clip's class by its place in `classes`, UNKNOWN where it has no such label."""
    places = {name: place for place, name in enumerate(classes)}
    return torch.tensor([places.get(clip.labels.get(target, ""), UNKNOWN) for clip in clips], dtype=torch.int64)
