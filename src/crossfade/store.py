"""Arrays on disk, named by what made them: the same key always holds the same numbers, so what was computed once is read from then on.

A store is a folder of shelves; a shelf holds what one computation made, and its about.json says which one. Neither knows clips or models.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

FREE_FRACTION = 0.05  # of the disk, or
FREE_BYTES = 4e9  # where that is less; below this nothing more is written
HEADERS = threading.Lock()  # of .npy files: NumPy reads them with `ast`, which Python 3.11.7 breaks in two threads at once
HEADER = 10  # bytes before it: magic, version and length
EDGE_BYTES = 65_536  # of a file's head and tail that go into its fingerprint
COUNT_AGAIN_BYTES = 16e6  # written by this process before it looks again at what the others have written
ATTEMPTS = 50  # at writing to a shelf that another process clears meanwhile
ABOUT = "about.json"
MARK = b"CRC1"  # before the checksum that ends an array's file
OURS = Path(__file__).parent


def default_root() -> Path:
    """Where arrays are kept: $CROSSFADE_STORE, else the user's cache folder."""
    chosen = os.environ.get("CROSSFADE_STORE")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(cache) / "crossfade" / "store"


def fingerprint(path: Path) -> str:
    """Name a file's content by size, time of last change (ns) and a hash of its first and last 64 KiB.

    Reading whole videos to name them would cost as much as decoding them. Any edit moves size, time or both; a file that was
    copied with its time kept and altered only in its middle, at equal size, is the one case this does not see.
    """
    stat = path.stat()
    return _fingerprint(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1_000_000)
def _fingerprint(path: str, size: int, time_ns: int) -> str:
    digest = hashlib.blake2b(f"{size} {time_ns} ".encode(), digest_size=16)
    with Path(path).open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        if size > 2 * EDGE_BYTES:
            file.seek(-EDGE_BYTES, os.SEEK_END)
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def key(fingerprint: str, made_by: Mapping[str, object]) -> str:
    """Hash a file's fingerprint with the JSON-able description of the computation."""
    return _hash([fingerprint, made_by])


def _hash(description: object) -> str:
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def versions(*names: str) -> dict[str, str]:
    """The version of code by name: of ours, file or folder, a hash of the source; of a distribution the one installed, "" for none."""
    return {name: _version(name) for name in names}


@lru_cache(maxsize=256)
def _version(name: str) -> str:
    package, *parts = name.split(".")
    if package == OURS.name:
        return _source_hash(OURS.joinpath(*parts))
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _source_hash(module: Path) -> str:
    files = sorted(module.rglob("*.py")) if module.is_dir() else [module.with_suffix(".py")]
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(OURS).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()


class Store:
    """A folder of shelves, bounded, safe for several processes at once: whatever appears in it appears whole.

    `limit` up to 1 is a fraction of the disk space that is free when this process begins to write; above 1 it is bytes that the whole
    store may hold, to within what other processes write at the same moment. Without `keep` nothing is read or written.
    """

    def __init__(self, root: Path | None = None, *, limit: float = 0.5, keep: bool = True):
        self.root = Path(root) if root else default_root()
        self.limit, self.keep = limit, keep
        self.trouble = ""  # why nothing more is kept, once that is so; the run goes on and says it
        self._free_at_first: float | None = None
        self._held, self._since = 0.0, math.inf  # bytes in the store when last counted, bytes written since

    @property
    def full(self) -> bool:
        """Whether arrays are no longer kept, so that they are computed anew each time."""
        return bool(self.trouble)

    def shelf(self, made_by: Mapping[str, object], *, what: str, recipe: str = "") -> Shelf:
        """Where the arrays of one computation stand. `made_by` is all that shapes them; `what` and `recipe` are for a person."""
        shelf = Shelf(self, made_by, what=what, recipe=recipe)
        if self.keep:
            with contextlib.suppress(OSError):  # a store that may only be read
                shelf.use()
        return shelf

    def room(self) -> float:
        """Bytes that may still be written."""
        return min(self._rooms())[0]

    def has_room(self, size: float) -> bool:
        """Whether so many bytes may be written now; where not, and ever after, `trouble` says why."""
        if self.keep and not self.trouble:
            with self.refusals():
                room, why = min(self._rooms())
                if room < size:
                    self.trouble = f"{self.root}: {why}, and {size_text(size)} more are needed"
        return self.keep and not self.trouble

    def wrote(self, size: float) -> None:
        """Tell the store of bytes written, so that it keeps to its limit."""
        self._since += size

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """What the disk refuses is `trouble`, not the end of the run."""
        try:
            yield
        except OSError as error:
            self.trouble = f"{self.root}: {error.strerror or error}"

    def _rooms(self) -> list[tuple[float, str]]:
        """Bytes that each bound still allows, and what to say where it is reached."""
        disk = shutil.disk_usage(next(path for path in (self.root, *self.root.absolute().parents) if path.exists()))
        floor = min(FREE_FRACTION * disk.total, FREE_BYTES)
        limit = self._within_limit(disk.free)
        return [
            (disk.free - floor, f"only {size_text(disk.free)} free on this disk"),
            (limit, f"{size_text(max(limit, 0))} left of the store's limit, {limit_text(self.limit)}"),
        ]

    def _within_limit(self, free: float) -> float:
        if self.limit <= 1:
            self._free_at_first = free if self._free_at_first is None else self._free_at_first
            return free - (1 - self.limit) * self._free_at_first
        if self._since > max((self.limit - self._held) / 8, COUNT_AGAIN_BYTES):
            self._held, self._since = sum(folder_size(folder) for folder, _ in shelves(self.root)), 0.0
        return self.limit - self._held - self._since


class Shelf:
    """What one computation made: an array a key, or whatever else is put into its `folder` through `temporary`."""

    def __init__(self, store: Store, made_by: Mapping[str, object], *, what: str, recipe: str = ""):
        self.store, self.recipes = store, [recipe] if recipe else []
        plain = json.loads(json.dumps(made_by, default=str))  # as it is read back, so that it has the same hash
        self.about = {"what": what, "made_by": plain, "recipes": [], "created": time.time()}
        self.folder = store.root / _hash(plain)

    def get(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array under this key, checked and not to be written to; computed and kept where absent or damaged."""
        path = self.folder / key[:2] / f"{key}.npy"
        found = _read(path) if self.store.keep else None
        if found is None:
            found = np.asarray(compute())
            self._put(path, found)
        return found

    def use(self) -> None:
        """Note on the shelf, where there is one, that it is used, and by which recipe."""
        if self.folder.is_dir():
            about = about_of(self.folder)
            if about and set(self.recipes) <= set(about["recipes"]):
                os.utime(self.folder / ABOUT)
            else:
                self._describe(about or self.about)

    def temporary(self) -> Path:
        """A name of its own on this shelf, to write to and to rename from. The shelf is made where it is not there yet."""
        if not (self.folder / ABOUT).is_file():
            self.store.root.mkdir(parents=True, exist_ok=True)
            _make(self.folder)
            self._describe(self.about)
        return self.folder / f"{uuid4().hex}.tmp"

    def _describe(self, about: Mapping[str, Any]) -> None:
        recipes = list(dict.fromkeys([*about["recipes"], *self.recipes]))
        text = json.dumps({**about, "recipes": recipes}, indent=1)
        _write_whole(self.folder / ABOUT, self.folder / f"{uuid4().hex}.tmp", text.encode())

    def _put(self, path: Path, array: np.ndarray) -> None:
        content = _packed(array)
        if self.store.has_room(len(content)):
            with self.store.refusals():
                for left in reversed(range(ATTEMPTS)):
                    try:
                        self._write(path, content)
                        return
                    except FileNotFoundError:  # another process has just cleared this shelf
                        if not left:
                            raise

    def _write(self, path: Path, content: bytes) -> None:
        temporary = self.temporary()
        _make(path.parent)
        _write_whole(path, temporary, content)
        self.store.wrote(len(content))


def _make(folder: Path) -> None:
    """Make a folder, or find it there. `exist_ok` would look again and fail where another process has cleared the folder in between;
    here the next write to it finds that out.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir()


def _packed(array: np.ndarray) -> bytes:
    """A `.npy` file's content, then 8 bytes that check all of it."""
    file = io.BytesIO()
    np.save(file, np.asarray(array, order="C"), allow_pickle=False)
    file.write(_trailer(file.getbuffer()))
    return file.getvalue()


def _trailer(content: bytes | memoryview) -> bytes:
    return MARK + zlib.crc32(content).to_bytes(4, "little")


def _read(path: Path) -> np.ndarray | None:
    """What `_packed` made, or None where that is absent or damaged. All of it is read for its checksum, so nothing is left to map."""
    try:
        content = path.read_bytes()
        if _trailer(memoryview(content)[:-8]) != content[-8:]:
            return None
        start = HEADER + int.from_bytes(content[HEADER - 2 : HEADER], "little")
        shape, kind = _described(content[:start])
        return np.frombuffer(content, kind, math.prod(shape), start).reshape(shape)
    except (OSError, ValueError):  # not there, or empty
        return None


@lru_cache(maxsize=1024)
def _described(head: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and kind from the beginning of a `.npy` file, the same in nearly all files of a shelf."""
    file = io.BytesIO(head)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("of another version than what is written here")
    with HEADERS:
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
    if by_columns:
        raise ValueError("in another order than what is written here")
    return shape, kind


def mapped(path: Path) -> np.memmap:
    """A `.npy` file, memory-mapped."""
    with HEADERS:
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _write_whole(path: Path, temporary: Path, content: bytes) -> None:
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def shelves(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of every shelf below a root, and what its about.json says; whatever else lies there is not ours."""
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        about = about_of(folder)
        if about:
            yield folder, about


def about_of(folder: Path) -> dict[str, Any] | None:
    """What a folder's about.json says, None where it is no shelf: a shelf is named by the hash of what made it."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        ours = folder.name.partition(".")[0] == _hash(about["made_by"]) and not folder.is_symlink()
        return {**about, "what": str(about["what"]), "recipes": [str(name) for name in about["recipes"]]} if ours else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; those that go meanwhile count nothing."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += Path(path, name).stat().st_size
    return size


def size_text(size: float) -> str:
    """4400000 -> "4.4 MB"."""
    if round(size) < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def limit_text(limit: float) -> str:
    """A limit as a person would say it."""
    return f"{100 * limit:g} % of the free disk" if limit <= 1 else size_text(limit)
