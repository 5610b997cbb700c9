"""What a store holds, as a person sees it: list its shelves, and clear them."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from crossfade.store import ABOUT, folder_size, shelves, size_text

DAY = 86_400  # seconds; a temporary file that old belongs to a process that was killed


@dataclass(frozen=True)
class Entry:
    """One shelf. `last_used` in seconds since 1970."""

    name: str
    what: str
    recipes: list[str]
    bytes: int
    entries: int
    last_used: float
    folder: Path

    def row(self) -> dict[str, str | int]:
        """Its columns in a table."""
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.last_used))
        words: dict[str, str | int] = {"name": self.name, "what": self.what, "recipes": ", ".join(self.recipes)}
        return {**words, "size": size_text(self.bytes), "entries": self.entries, "last used": used}


def listing(root: Path) -> list[Entry]:
    """Every shelf of a store, the last used first."""
    found = [entry for folder, about in shelves(root) if (entry := _entry(folder, about))]
    return sorted(found, key=lambda entry: (-entry.last_used, entry.name))


def clear(root: Path, *, names: Sequence[str] = (), older_than_days: float | None = None, recipe: str | None = None) -> int:
    """Delete the shelves that fit all that is given, and what killed processes left on the others; returns the bytes freed.

    Nothing but shelves is touched, should the root hold a person's own files too.
    """
    latest = math.inf if older_than_days is None else time.time() - DAY * older_than_days
    freed = 0
    for entry in listing(root):
        fits = (not names or entry.name in names) and (recipe is None or recipe in entry.recipes)
        freed += _delete(entry) if fits and entry.last_used <= latest else _sweep(entry.folder)
    return freed


def _entry(folder: Path, about: Mapping[str, Any]) -> Entry | None:
    """None where another process clears the shelf while it is looked at."""
    try:
        entries = sum(_count(part) for part in folder.glob("*/"))
        return Entry(folder.name[:8], about["what"], about["recipes"], folder_size(folder), entries, _used(folder / ABOUT), folder)
    except FileNotFoundError:
        return None


def _count(part: Path) -> int:
    """Arrays in a folder of a shelf, or as many as its own about.json says."""
    try:
        return int(json.loads((part / ABOUT).read_bytes())["count"])
    except (OSError, ValueError, KeyError, TypeError):
        return len(list(part.glob("*.npy"))) if part.suffix != ".tmp" else 0


def _used(path: Path) -> float:
    """When a file was last changed; now, where it went a moment ago."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _delete(entry: Entry) -> int:
    """Take a shelf away at once, then its files: whoever writes to it begins a new one, whoever reads from it has the files open."""
    aside = entry.folder.with_name(f"{entry.folder.name.partition('.')[0]}.{uuid4().hex}.cleared")
    try:
        entry.folder.rename(aside)
    except FileNotFoundError:  # another process cleared it
        return 0
    while aside.is_dir():
        try:
            for path in aside.iterdir():
                if path.name != ABOUT:  # the last to go, so that what is left of this after a kill is still known as ours
                    _remove(path)
            shutil.rmtree(aside)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # another process deletes it too, or had begun to write to it
                raise
    return entry.bytes


def _sweep(folder: Path) -> int:
    size = 0
    with contextlib.suppress(FileNotFoundError):  # another process clears the shelf
        for path in [path for path in folder.glob("*.tmp") if _used(path) < time.time() - DAY]:
            size += folder_size(path) if path.is_dir() else path.stat().st_size
            _remove(path)
    return size


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
