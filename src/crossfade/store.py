"""Arrays on disk, named by what made them: the same key always holds the same numbers, so a decoded clip is decoded once.

A key is the hash of a file's fingerprint and of everything that shaped the array. The store knows neither clips nor models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

FREE_FRACTION = 0.05  # of the disk, or
FREE_BYTES = 4e9  # where that is less; below this nothing more is written
EDGE_BYTES = 65_536  # of a file's head and tail that go into its fingerprint


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
    text = json.dumps([fingerprint, made_by], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class Store:
    """A folder of `.npy` files, one an array, spread over 256 subfolders. Safe for several processes: every write is atomic."""

    def __init__(self, root: Path | None = None):
        self.root = Path(root) if root else default_root()
        self.trouble = ""  # why nothing more is kept, once that is so; the run goes on and says it

    def path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.npy"

    @property
    def full(self) -> bool:
        """Whether arrays are no longer kept, so that they are computed anew each time."""
        return bool(self.trouble)

    def has(self, key: str) -> bool:
        return self.path(key).exists()

    def get(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array under this key, memory-mapped; computed and kept where absent or damaged."""
        path = self.path(key)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, BadZipFile):  # absent, truncated or not an array: make it again
            array = compute()
            self._put(path, array)
            return array

    def _put(self, path: Path, array: np.ndarray) -> None:
        if self.trouble:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            disk = shutil.disk_usage(path.parent)
            if disk.free - array.nbytes < min(FREE_FRACTION * disk.total, FREE_BYTES):
                self.trouble = f"{self.root}: only {disk.free / 1e9:.1f} GB free on this disk"
            else:
                _write_atomically(path, array)
        except OSError as error:
            self.trouble = f"{self.root}: {error.strerror or error}"


def _write_atomically(path: Path, array: np.ndarray) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
