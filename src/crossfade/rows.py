"""Rows of arrays, one row a key, packed into segments on a shelf: thousands of clips lie in a few files and are gathered without a loop.

A segment is a folder that appears whole and never changes: a plain `.npy` a field, mapped into memory, the keys, and a checksum a row.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np

from crossfade.store import ABOUT, Shelf, mapped

SEGMENT_BYTES = 32e6  # after which a segment is closed,
SEGMENT_PART = 8  # or this part of all that is there, so that a hundred gigabytes are some sixty segments, not thousands of open files
RESIDENT_BYTES = 256e6  # of mapped files in memory at most; beyond it they are let go, and come back from the system's cache
AROUND_BYTES = 65_536  # that the system maps around each place it reads
KEY = "S40"
PREFIX = "seg-"


class Rows:
    """The rows of one shelf. What is added counts once it is flushed; several processes may add at once."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf
        self._segments: dict[str, Segment] = {}
        self._index = Index([])
        self._draft: Draft | None = None
        self._row_bytes = 0

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions of the keys that have no row, or only a damaged one, with a look at what other processes have written by now."""
        self._look()
        return np.flatnonzero(self._index.find(_keys(keys))[0] < 0).tolist()

    def add(self, keys: Sequence[str], arrays: Mapping[str, np.ndarray]) -> None:
        """Rows of named arrays (n, …), of one fixed shape and type each. Where there is no room for them the store says so."""
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        size = sum(array.nbytes for array in arrays.values())
        self._row_bytes = size // max(len(keys), 1) or self._row_bytes
        if self.shelf.store.has_room(size):
            self._write(_keys(keys), arrays, size)
        else:
            self._abandon()

    def _write(self, keys: np.ndarray, arrays: dict[str, np.ndarray], size: int) -> None:
        with self._writing():
            self._draft = self._draft or Draft(self.shelf.temporary(), arrays)
            self._draft.add(keys, arrays)
            self.shelf.store.wrote(size)
        if self._draft and self._draft.size >= max(SEGMENT_BYTES, sum(map(len, self._segments.values())) * self._row_bytes / SEGMENT_PART):
            self.flush()

    def flush(self) -> None:
        """Make a segment of what was added since the last."""
        if self._draft:
            with self._writing():
                self._draft.settle(self.shelf.folder / f"{PREFIX}{time.time_ns():020d}-{uuid4().hex[:8]}")
                self._draft = None
            self._look()

    def fits(self, rows: int) -> bool:
        """Whether so many more rows have room, once one is known; where not, the store's trouble says why."""
        return self.shelf.store.has_room(rows * self._row_bytes)

    def table(self, keys: Sequence[str | None]) -> Table:
        """The rows of these keys in this order; None is a clip without one. Raises KeyError for one that is missing."""
        self._look()
        wanted = _keys([name or "" for name in keys])
        segment, row = self._index.find(wanted)
        lost = np.flatnonzero((segment < 0) & (wanted != b""))
        if len(lost):
            raise KeyError(keys[lost[0]])
        return Table(self._index.segments, segment, row)

    def nbytes(self, keys: Sequence[str | None]) -> int:
        """Bytes of these rows."""
        return self._row_bytes * sum(name is not None for name in keys)

    def _look(self) -> None:
        """Open the segments that are new here. Those that were opened stay, also where their folder has been cleared since."""
        if not self.shelf.store.keep:
            return
        found = {name: self._open(name) for name in self._names() if name not in self._segments}
        new = {name: segment for name, segment in found.items() if segment}
        if new:
            self._segments |= new
            self._index = Index(list(self._segments.values()))
            self._row_bytes = self._index.segments[0].row_bytes

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.shelf.folder.iterdir() if path.name.startswith(PREFIX))
        except OSError:  # no shelf yet, or another process has just cleared it; a write to one that may not be read says why
            return []

    def _open(self, name: str) -> Segment | None:
        folder = self.shelf.folder / name
        try:
            segment = Segment.open(folder)
            if segment.good.any():
                return segment
        except FileNotFoundError:  # another process has just cleared it
            return None
        except OSError as error:
            self.shelf.store.trouble = f"{folder}: {error.strerror or error}"
            return None
        except Exception:  # whatever NumPy makes of a damaged file
            pass
        shutil.rmtree(folder, ignore_errors=True)
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever ends a write early leaves nothing behind; what the disk refuses is the store's trouble."""
        with self.shelf.store.refusals():
            try:
                yield
            except FileNotFoundError:  # another process has just cleared the shelf: these rows are missing once more
                self._abandon()
            except BaseException:
                self._abandon()
                raise

    def _abandon(self) -> None:
        if self._draft:
            shutil.rmtree(self._draft.folder, ignore_errors=True)
            self._draft = None


class Draft:
    """A segment on its way: rows go to its files as they come, so none of them stay in memory; it counts once it is renamed."""

    def __init__(self, folder: Path, arrays: Mapping[str, np.ndarray]):
        self.folder, self.size = folder, 0
        self._layout = _layout(arrays)
        self._keys: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []

    def add(self, keys: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        if _layout(arrays) != self._layout or any(len(array) != len(keys) for array in arrays.values()):
            raise ValueError(f"{len(keys)} rows of {_layout(arrays)} cannot follow rows of {self._layout}")
        if not self._keys:
            self._begin()
        for path, name in self._files():
            with path.open("ab") as file:
                file.write(arrays[name].data)
        self._keys.append(keys)
        self._sums.append(np.stack([_checksums(keys, name, arrays[name]) for name in self._layout], axis=1))
        self.size += sum(array.nbytes for array in arrays.values())

    def settle(self, place: Path) -> None:
        """Write what belongs to all rows together, and take the segment's own name."""
        keys = np.concatenate(self._keys)
        for path, name in self._files():
            with path.open("r+b") as file:
                file.write(_header(len(keys), *self._layout[name]))
        np.save(self.folder / "keys.npy", keys)
        np.save(self.folder / "crc.npy", np.concatenate(self._sums))
        (self.folder / ABOUT).write_text(json.dumps({"fields": list(self._layout), "count": len(keys)}))
        self.folder.rename(place)

    def _begin(self) -> None:
        self.folder.mkdir()
        for path, name in self._files():
            path.write_bytes(_header(0, *self._layout[name]))

    def _files(self) -> list[tuple[Path, str]]:
        return [(self.folder / f"{number}.npy", name) for number, name in enumerate(self._layout)]


@dataclass(frozen=True)
class Segment:
    """Rows that are mapped into memory. `good` (n,) bool: those whose bytes are the ones that were written."""

    folder: Path
    keys: np.ndarray
    maps: dict[str, np.memmap]
    good: np.ndarray

    @classmethod
    def open(cls, folder: Path, good: np.ndarray | None = None) -> Segment:
        """Map a segment and check every row, unless it is known which are good. Raises OSError, or anything where it is damaged."""
        names = json.loads((folder / ABOUT).read_bytes())["fields"]
        keys, sums = np.array(mapped(folder / "keys.npy")), np.array(mapped(folder / "crc.npy"))
        maps = {name: mapped(folder / f"{number}.npy") for number, name in enumerate(names)}
        whole = all(len(each) == len(keys) and each.flags.c_contiguous for each in maps.values())
        if keys.dtype != KEY or sums.shape != (len(keys), len(maps)) or not whole:
            raise ValueError(f"{folder}: its files do not belong together")
        segment = cls(folder, keys, maps, np.ones(len(keys), bool) if good is None else good)
        if good is None:
            segment.check(sums)
        return segment

    def check(self, sums: np.ndarray) -> None:
        """Mark the rows whose checksums (n, fields) are not these; reads a part at a time."""
        step = max(int(SEGMENT_BYTES) // max(self.row_bytes, 1), 1)
        for part in (slice(start, start + step) for start in range(0, len(self), step)):
            for column, (name, rows) in enumerate(self.maps.items()):
                self.good[part] &= _checksums(self.keys[part], name, rows[part]) == sums[part, column]
            self.release()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def row_bytes(self) -> int:
        return sum(each.nbytes for each in self.maps.values()) // max(len(self), 1)

    def __reduce__(self):
        """To another process goes the name, not the rows."""
        return Segment.open, (self.folder, self.good)

    def release(self) -> None:
        """Let go of the memory that reading has mapped; whatever is read again comes from the system's cache."""
        for each in self.maps.values():
            if hasattr(mmap, "MADV_DONTNEED") and isinstance(each.base, mmap.mmap):
                each.base.madvise(mmap.MADV_DONTNEED)


class Index:
    """Which segment and row a key lies in; of two rows of one key the first counts."""

    def __init__(self, segments: Sequence[Segment]):
        self.segments = list(segments)
        rows = [np.flatnonzero(segment.good) for segment in segments]
        keys = np.concatenate([np.empty(0, KEY), *(segment.keys[good] for segment, good in zip(segments, rows, strict=True))])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._segment = np.repeat(np.arange(len(rows)), [len(good) for good in rows])[order]
        self._row = np.concatenate([np.empty(0, np.int64), *rows])[order]

    def find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """S40 (N,) -> segment (N,), -1 where there is none, and row (N,)"""
        if not len(self._keys):
            return np.full(len(wanted), -1), np.zeros(len(wanted), np.int64)
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, self._segment[place], -1), self._row[place]


class Table:
    """Some rows in an order of their own. `segment` (N,), -1 for a clip without a row, and `row` (N,) say where each lies."""

    def __init__(self, segments: Sequence[Segment], segment: np.ndarray, row: np.ndarray):
        self._segments, self._segment, self._row = segments, segment, row
        self._fields = [{name: np.asarray(each) for name, each in one.maps.items()} for one in segments]
        self._touched = max((one.row_bytes for one in segments), default=0) + AROUND_BYTES * len(self._fields[0] if segments else ())
        self._bounded = sum(len(one) * one.row_bytes for one in segments) > RESIDENT_BYTES
        self._resident = 0

    def __reduce__(self):
        return Table, (self._segments, self._segment, self._row)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """(B,) places in the keys -> {name: (B, …)}, fresh arrays."""
        segment, row = self._segment[indices], self._row[indices]
        if self._bounded:
            self._keep_small(len(row))
        if (segment == segment[0]).all():
            return {name: field.take(row, axis=0) for name, field in self._field(segment[0]).items()}
        return self._from_several(segment, row)

    def _from_several(self, segment: np.ndarray, row: np.ndarray) -> dict[str, np.ndarray]:
        numbers = np.unique(segment)
        out = {name: np.empty((len(row), *field.shape[1:]), field.dtype) for name, field in self._field(numbers[0]).items()}
        for number in numbers:
            places = np.flatnonzero(segment == number)
            for name, field in self._field(number).items():
                out[name][places] = field[row[places]]
        return out

    def _field(self, segment: int) -> dict[str, np.ndarray]:
        if segment < 0:
            raise KeyError("a clip without a row")
        return self._fields[segment]

    def _keep_small(self, rows: int) -> None:
        self._resident += rows * self._touched
        if self._resident > RESIDENT_BYTES:
            self._resident = 0
            for segment in self._segments:
                segment.release()


def _keys(names: Sequence[str]) -> np.ndarray:
    longest = max(map(len, names), default=0)
    if longest > np.dtype(KEY).itemsize:
        raise ValueError(f"a key of {longest} letters; {np.dtype(KEY).itemsize} is the most")
    return np.array(names, KEY)


def _layout(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    return {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}


def _header(count: int, dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """How a `.npy` file of so many rows begins; NumPy leaves room in it, so it is as long for any count."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (count, *shape)})
    return file.getvalue()


def _checksums(keys: np.ndarray, name: str, rows: np.ndarray) -> np.ndarray:
    """One CRC-32 a row (n,), of its bytes and of what they are: a damaged name, type, shape or key is found too."""
    kind = zlib.crc32(f"{name} {rows.dtype.str} {rows.shape[1:]}".encode())
    content = np.asarray(rows).reshape(-1).view(np.uint8).data
    size = content.nbytes // max(len(rows), 1)
    sums = [zlib.crc32(content[row * size : (row + 1) * size], zlib.crc32(key, kind)) for row, key in enumerate(keys.tolist())]
    return np.array(sums, np.uint32)
