"""A text file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

MODE = 0o644  # mkstemp makes files only their owner can read; a report is there to be passed on


@contextmanager
def whole(path: Path | str) -> Iterator[TextIO]:
    """Open a UTF-8 file beside `path` that takes its place once the block ends well; otherwise `path` stays as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        Path(temporary).chmod(MODE)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
