"""A visit: while it lasts, a thread keeps the file it opened last and the packets found in it, for whoever asks for that file again.

So the sound and the pictures of one video cost one opening and one walk through the file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError

KEPT = 1 << 25  # bytes: larger files are not kept
_MINE = threading.local()


class Visit:
    """One open file at a time. `busy` while somebody reads it: who wants to read beside them opens the file for themselves."""

    def __init__(self):
        self.busy = False
        self._path: Path | None = None
        self._container: InputContainer | None = None
        self._decoded: set[str] = set()
        self._open, self._found, self._source = ExitStack(), list[av.Packet](), iter(())

    @contextmanager
    def at(self, path: Path, open_file: Callable[[Path], AbstractContextManager[InputContainer]], track: str) -> Iterator[InputContainer]:
        """The file, open already or opened now. A decoder used once is not as new even when flushed: each track is for one reader."""
        if self._container is None or path != self._path or track in self._decoded:
            self.leave()
            container = self._open.enter_context(open_file(path))
            self._path, self._container, self._found, self._source = path, container, [], container.demux()
        self._decoded.add(track)
        self.busy = True
        try:
            yield self._container  # type: ignore[misc]
        finally:
            self.busy = False

    def holds(self, container: InputContainer) -> bool:
        return self._container is container

    def packets(self, stream: av.AudioStream | av.VideoStream | None) -> Iterator[av.Packet]:
        """Of the open file from its beginning, those of one track or all. Ends where the file cannot be read any further."""
        place = 0
        while place < len(self._found) or self._find():
            packet = self._found[place]
            place += 1
            if stream is None or packet.stream_index == stream.index:
                yield packet

    def leave(self) -> None:
        self._path = self._container = None
        self._decoded.clear()
        self._open.close()

    def _find(self) -> bool:
        try:
            self._found.append(next(self._source))
        except (StopIteration, FFmpegError):
            return False
        return True


@contextmanager
def visiting() -> Iterator[None]:
    """While this lasts, this thread opens a file once for the sound and the pictures that it reads in a row, from the beginning."""
    _MINE.visit = visit = Visit()
    try:
        yield
    finally:
        _MINE.visit = None
        visit.leave()


def visit() -> Visit | None:
    """This thread's, while one lasts."""
    return getattr(_MINE, "visit", None)
