"""Clips to batches: views, masks, workers; every batch has one set of streams, every clip its own random numbers."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from crossfade.clip import TEACHER, UNKNOWN, Clip, classes_in, seed_of
from crossfade.data.augment import Augmentation
from crossfade.data.chosen import of_clip
from crossfade.data.intake import Reader
from crossfade.data.stored import Draws, Stored
from crossfade.signals import outlive, withheld

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
    """One clip's turn: its row, and the epoch's tag, which seeds everything random about it."""

    row: int
    tag: tuple[object, ...]


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
    """Draw -> (row, {stream: (tensor, mask)}). `view` augments anew at each draw; `degrade` is a test condition, fixed for a clip.

    `draws` names streams of which the view has a fixed number of draws, `without` those that come from elsewhere. Where there is a view
    for a `teacher`, each stream comes a second time, as the teacher sees it, under `<stream>@teacher`.
    """

    clips: list[Clip]
    streams: Mapping[str, tuple[str, ...]]  # clip id -> streams
    reader: Reader
    view: View = field(default_factory=dict)
    degrade: View = field(default_factory=dict)
    draws: Mapping[str, Draws] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    teacher: View | None = None

    def __getitem__(self, draw: Draw):  # type: ignore[override]
        clip, names = self.clips[draw.row], self.streams[self.clips[draw.row].id]
        made = {name: self._finished(clip, name, self.view, self._seed(clip, name, draw)) for name in names if name not in self.without}
        if self.teacher is not None:
            for name in (f"{stream}{TEACHER}" for stream in names):
                if name not in self.without:
                    made[name] = self._finished(clip, name.removesuffix(TEACHER), self.teacher, seed_of(*draw.tag, draw.row, name))
        return draw.row, made

    def __len__(self) -> int:
        return len(self.clips)

    @cached_property
    def fresh(self) -> bool:
        """Whether any clip has a stream that is made here."""
        sets = {self.streams[clip.id] for clip in self.clips}
        taught = {f"{name}{TEACHER}" for names in sets for name in names} if self.teacher is not None else set()
        return bool(taught - self.without) or any(set(names) - self.without for names in sets)

    def _finished(self, clip: Clip, name: str, view: View, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        fixed = torch.Generator().manual_seed(seed_of(clip.id, name))
        spoiled = [_Fixed(augmentation, fixed) for augmentation in self.degrade.get(name, ())]
        free = torch.Generator().manual_seed(seed)
        return self.reader.streams[name].finish(self.reader.read(clip, name), [*spoiled, *of_clip(view.get(name, ()), clip)], free)

    def _seed(self, clip: Clip, name: str, draw: Draw) -> int:
        draws = self.draws.get(name)
        if draws is None:
            return seed_of(*draw.tag, draw.row, name)
        return draws.seed_for(name, clip.id, draws.pick(name, draw.tag, draw.row))


@dataclass
class Loader:
    """Batches of one set of clips, in a seeded order that depends on nothing but `tag`, not on workers, on where one starts or on
    what is `stored`.
    """

    samples: Samples
    labels: Mapping[str, torch.Tensor]  # target -> (clips,) class indices, or (clips, C) which classes
    batch: int
    workers: int = 0
    rank: int = 0
    world: int = 1
    stored: Sequence[Stored] = ()
    order: Callable[[torch.Generator], list[torch.Tensor]] | None = None  # the rows of an epoch's batches; None = every clip once
    _turn: _Turn = field(default_factory=lambda: _Turn(), repr=False)
    _live: Any = field(default=None, repr=False)
    _sets: Any = field(default=None, repr=False)

    def shuffled(self, *tag: object, start: int = 0, limit: int | None = None) -> Served:
        """The batches of one epoch from number `start` on, this process's share of them."""
        order = torch.Generator().manual_seed(seed_of(*tag))
        if self.order is None:
            batches = self._batches(torch.randperm(len(self.samples), generator=order))
        else:
            batches = [part for rows in self.order(order) for part in self._batches(rows)]
        shuffled = [batches[index] for index in torch.randperm(len(batches), generator=order).tolist()]
        return self._serve(self._share(shuffled)[:limit][start:], tag)

    def in_order(self) -> Served:
        """Every clip once, clean, for judging."""
        return self._serve(self._batches(torch.arange(len(self.samples))), ("clean",))

    def _share(self, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        """This process's batches. All get as many, or they would wait for one another: a remainder sits this epoch out."""
        few = len(batches) < self.world
        return batches[self.rank % max(len(batches), 1) :][:1] if few else batches[self.rank :: self.world][: len(batches) // self.world]

    def _batches(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Rows of clips with the same streams, `batch` at a time."""
        if self._sets is None:
            names = [self.samples.streams[clip.id] for clip in self.samples.clips]
            numbers = {streams: number for number, streams in enumerate(dict.fromkeys(names))}
            self._sets = torch.tensor([numbers[streams] for streams in names], dtype=torch.int64)
        kinds = self._sets[rows]
        return [part for kind in kinds.unique().tolist() for part in rows[kinds == kind].split(self.batch)]

    def _serve(self, plan: list[torch.Tensor], tag: tuple[object, ...]) -> Served:
        self._turn.plan[:], self._turn.tag = plan, tag
        if self._live is None and self.samples.fresh:
            more = {"persistent_workers": True, "prefetch_factor": 2, "worker_init_fn": outlive} if self.workers else {}
            self._live = DataLoader(self.samples, batch_sampler=self._turn, collate_fn=_collate, num_workers=self.workers, **more)
        return Served(plan, tag, self.labels, self.stored, self._live)


@dataclass
class _Turn:
    """The sampler of an epoch: it may not hold the Loader, which only the sweep would then find, and end its workers 10 s late."""

    plan: list[torch.Tensor] = field(default_factory=list)
    tag: tuple[object, ...] = ()

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter([[Draw(row, self.tag) for row in rows.tolist()] for rows in self.plan])

    def __len__(self) -> int:
        return len(self.plan)


@dataclass(frozen=True)
class Served:
    """The batches of a plan: labels and stored states by row, and from the workers what must be made anew."""

    plan: list[torch.Tensor]
    tag: tuple[object, ...]
    labels: Mapping[str, torch.Tensor]
    stored: Sequence[Stored]
    made: Iterable[Named] | None

    def __iter__(self) -> Iterator[Named]:
        with withheld():
            fresh = iter(self.made or itertools.repeat({}))  # workers start here
        for rows, made in zip(self.plan, fresh, strict=False):
            batch = {"index": rows, **{target: known[rows] for target, known in self.labels.items()}, **made}
            for stored in self.stored:
                batch |= stored.states(rows, self.tag)
            yield batch

    def __len__(self) -> int:
        return len(self.plan)


def _collate(samples: list[tuple[int, dict[str, tuple[torch.Tensor, torch.Tensor]]]]) -> Named:
    """-> {"<stream>" (B, …), "<stream>.mask" (B, T)}"""
    batch = {}
    for name in samples[0][1]:
        batch[name] = torch.stack([streams[name][0] for _, streams in samples])
        batch[f"{name}.mask"] = torch.stack([streams[name][1] for _, streams in samples])
    return batch


def label_indices(clips: Sequence[Clip], target: str, classes: Sequence[str]) -> torch.Tensor:
    """(clips,) int64: each clip's class by its place in `classes`, UNKNOWN where it has no such label."""
    places = {name: place for place, name in enumerate(classes)}
    return torch.tensor([places.get(clip.labels.get(target, ""), UNKNOWN) for clip in clips], dtype=torch.int64)


def label_sets(clips: Sequence[Clip], target: str, classes: Sequence[str]) -> torch.Tensor:
    """(clips, C) float32: 1 for each class that a clip has, 0 for the others; a row of UNKNOWN where it has no such label."""
    places = {name: place for place, name in enumerate(classes)}
    found = torch.zeros(len(clips), len(classes))
    for row, clip in enumerate(clips):
        label = clip.labels.get(target)
        if label is None:
            found[row] = UNKNOWN
        else:
            found[row, [places[name] for name in classes_in(label) if name in places]] = 1.0
    return found


LABELS: dict[bool, Callable[[Sequence[Clip], str, Sequence[str]], torch.Tensor]] = {False: label_indices, True: label_sets}


def known_labels(labels: torch.Tensor) -> torch.Tensor:
    """(N,) class indices or (N, C) sets -> (N,) bool."""
    return labels.reshape(len(labels), -1)[:, 0] != UNKNOWN
