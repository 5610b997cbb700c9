"""Every clip is decoded once, before training: what cannot be read is found now and listed, not in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Generator, Tensor

from crossfade.clip import Clip, Spec, Unreadable
from crossfade.data.packed import lacking, packed_pictures
from crossfade.data.visit import visiting
from crossfade.store import Shelf, Store, fingerprint, key

Tried = tuple[tuple[str, ...], list[tuple[str, str]]]  # a clip's usable streams; (file, reason) of what is amiss
THREADS = 4  # decoders release the interpreter lock; two a core hide the disk


class Stream(Protocol):
    """Turns a clip's file into a tensor in two steps, of which the store keeps the first."""

    @property
    def spec(self) -> Spec: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def domains(self) -> tuple[str, ...]: ...
    @property
    def key(self) -> dict[str, object]: ...
    def decode(self, clip: Clip) -> np.ndarray: ...
    def finish(self, decoded: np.ndarray, augmentations=(), generator: Generator | None = None) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Reader:
    """Decoded clips from the store, by stream. `recipe` is the name under which the store's shelves are listed."""

    streams: Mapping[str, Stream]
    store: Store
    recipe: str = ""
    _shelves: dict[str, Shelf] = field(init=False, default_factory=dict, compare=False, repr=False)  # stream -> its decoded clips

    def source(self, clip: Clip, stream: str) -> Path | None:
        """The file this stream of the clip comes from, or None where the clip has no such medium."""
        return next((clip.media[kind] for kind in self.streams[stream].reads if kind in clip.media), None)

    def read(self, clip: Clip, stream: str) -> np.ndarray:
        """The decoded array; raises Unreadable. What a file holds ready is copied from there: one picture of many, a stored tensor."""
        if clip.item is not None or getattr(self.streams[stream], "direct", False):
            return self.streams[stream].decode(clip)
        return self._kept(clip, stream, {}, self.streams[stream].decode)

    def remember(self, clip: Clip, stream: str, question: str, ask: Callable[[Clip], bool]) -> bool:
        """The answer to a question about this stream's file that is slow to find, asked once; raises Unreadable."""
        return bool(self._kept(clip, stream, {"question": question}, lambda clip: np.array([ask(clip)]))[0])

    def remark(self, clip: Clip, stream: str) -> str:
        """What a stream that remarks on its files has to say of this one, "" for nothing; raises Unreadable."""
        ask = getattr(self.streams[stream], "remark", None)
        return ask(clip) if ask else ""

    def _kept(self, clip: Clip, stream: str, what: dict[str, object], compute: Callable[[Clip], np.ndarray]) -> np.ndarray:
        path = self.source(clip, stream)
        if path is None:
            raise Unreadable(clip.id, f"has no {' or '.join(self.streams[stream].reads)} file")
        try:
            name = fingerprint(path)
        except OSError as error:
            raise Unreadable(path, error.strerror or "cannot be opened") from None
        item = {} if clip.item is None else {"item": clip.item}
        return self._shelf(stream).get(key(name, {"span": clip.span, **item, **what}), lambda: compute(clip))

    def _shelf(self, stream: str) -> Shelf:
        if stream not in self._shelves:
            made_by = self.streams[stream].key
            self._shelves[stream] = self.store.shelf({"stream": made_by}, what=_described(made_by), recipe=self.recipe)
        return self._shelves[stream]


def _described(made_by: Mapping[str, Any]) -> str:
    """For a person: `decoded sound, rate 16000, samples 48000`."""
    options = [f"{name} {value}" for name, value in made_by.items() if type(value) is int]
    return ", ".join([f"decoded {made_by.get('decode', 'clips')}", *options])


@dataclass(frozen=True)
class Intake:
    """What can be used: the clips with at least one readable stream, which streams each has, and what was left out and why."""

    clips: list[Clip]
    streams: dict[str, tuple[str, ...]]  # clip id -> its streams
    failed: list[tuple[str, str]] = field(default_factory=list)  # (file, reason); what is used none the less, in part, is here too

    @property
    def failed_files(self) -> int:
        return len({path for path, _ in self.failed})


def take_in(clips: list[Clip], reader: Reader, *, advance: Callable[[], None] = lambda: None) -> Intake:
    """Decode every stream of every clip into the store; of files that hold many pictures, each file once. `advance` is called once a
    clip.
    """
    usable: list[Clip] = []
    streams: dict[str, tuple[str, ...]] = {}
    failed: list[tuple[str, str]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for clip, (names, failures) in zip(clips, _each(clips, reader, pool), strict=True):
            failed += failures
            if names:
                usable.append(clip)
                streams[clip.id] = names
            advance()
    return Intake(usable, streams, failed)


def _each(clips: list[Clip], reader: Reader, pool: ThreadPoolExecutor) -> Iterator[Tried]:
    decoded, packed = pool.map(lambda clip: _try(clip, reader), [clip for clip in clips if clip.item is None]), _Packed(reader)
    for clip in clips:
        yield next(decoded) if clip.item is None else packed.has(clip, clip.item)


@dataclass(frozen=True)
class _Packed:
    """Files that hold many pictures, each looked into once: how many, or why none."""

    reader: Reader
    _held: dict[Path, int | str] = field(init=False, default_factory=dict)

    def has(self, clip: Clip, item: int) -> Tried:
        """The streams for which the clip's file has its picture."""
        sources = [(name, path) for name in self.reader.streams if (path := self.reader.source(clip, name)) is not None]
        reasons = [(name, path, self._reason(path, item)) for name, path in sources]
        return tuple(name for name, _, why in reasons if not why), [(str(path), why) for _, path, why in reasons if why]

    def _reason(self, path: Path, item: int) -> str:
        """Why a picture cannot be had, or ""."""
        if path not in self._held:
            self._held[path] = _held(path)
        held = self._held[path]
        if isinstance(held, str):
            return held
        return "" if 0 <= item < held else lacking(path, item, held).reason


def _held(path: Path) -> int | str:
    try:
        return len(packed_pictures(path))
    except Unreadable as error:
        return error.reason


def _try(clip: Clip, reader: Reader) -> Tried:
    names, failures = [], []
    with visiting():  # the sound and the pictures of one file cost one opening
        for name in reader.streams:
            if reader.source(clip, name) is None:
                continue
            try:
                reader.read(clip, name)
                names.append(name)
                if said := reader.remark(clip, name):
                    failures.append((str(reader.source(clip, name)), said))
            except Unreadable as error:
                failures.append((error.path, error.reason))
            except UnicodeError:  # a decoder that takes only names that are text
                failures.append((str(reader.source(clip, name)), "its name is not valid Unicode; rename it"))
    return tuple(names), failures


def count_by_streams(streams: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many clips have which set of streams: {"audio+video": 1400, "audio": 40}."""
    counts: dict[str, int] = {}
    for names in streams.values():
        joined = "+".join(names)
        counts[joined] = counts.get(joined, 0) + 1
    return counts
