"""Pictures of a face at 25 a second, from a video of any rate, a folder of pictures or one picture; forwards, backwards, from anywhere."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.video.reformatter import VideoReformatter

from crossfade.clip import Unreadable, UserError
from crossfade.data.container import check_file, check_track, declared_seconds, opened, packets, picture_track, zero
from crossfade.data.pictures import LOST, upright
from crossfade.data.sound import read_audio
from crossfade.data.stills import COLOURS
from crossfade.data.stills import upright as upright_still

FPS, RATE, BLOCK = 25, 16_000, 640  # pictures a second, samples a second, samples a picture
PIECE = 32  # pictures: what is decoded at a time on the way back, and so what is in memory
ROUNDING = Fraction(1, 1000)  # seconds: a file that counts milliseconds may say 41 where it means 40.6
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}  # what counts as a picture in a folder


class Source(Protocol):
    """Where pictures come from: how many there are, the second of the file at which they begin, and any stretch of them in order."""

    path: Path
    count: int
    begin: float

    def stretch(self, start: int, stop: int) -> Iterator[np.ndarray]: ...


class Footage:
    """A video, a folder of pictures (in the order of their numbers) or one picture, as RGB uint8 (H, W, 3) at 25 a second.

    Picture k of a video is what is on screen k / 25 s after its first picture. Raises Unreadable or UserError in one line.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._source = _source(self.path)
        self.count = self._source.count
        self._size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), upright."""
        if self._size is None:
            self._size = next(self._source.stretch(0, 1)).shape[:2]
        return self._size

    def frames(self, start: int = 0, stop: int | None = None, *, backwards: bool = False) -> Iterator[np.ndarray]:
        """Pictures `start` to `stop`, or the same the other way round. Never more than 32 are in memory."""
        start, stop = max(start, 0), self.count if stop is None else min(stop, self.count)
        pictures = self._back(start, stop) if backwards else self._source.stretch(start, stop)
        for picture in pictures:
            if picture.shape[:2] != self.size:
                (height, width), found = self.size, picture.shape
                raise Unreadable(self.path, f"its pictures change size from {width} × {height} to {found[1]} × {found[0]}")
            yield picture

    def sound(self) -> np.ndarray | None:
        """float32 (N,) at 16 kHz from the moment of picture 0 on, None where there is none; a stretch before sound begins is silence."""
        if not _has_sound(self._source):
            return None
        return read_audio(self.path, rate=RATE, start=self._source.begin)

    def _back(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for end in range(stop, start, -PIECE):
            yield from reversed(list(self._source.stretch(max(end - PIECE, start), end)))


def there_and_back(count: int) -> Iterator[int]:
    """0 … count − 1, count − 2 … 1, 0, 1 … without an end."""
    while True:
        yield from range(count)
        yield from range(count - 2, 0, -1)


def _source(path: Path) -> Source:
    if path.is_dir():
        return Stills(path, _pictures_in(path))
    check_file(path)
    return Stills(path, [path]) if _is_still(path) else Video(path)


def _pictures_in(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise UserError(f"{folder}: a folder without pictures; it needs files that end in {', '.join(sorted(SUFFIXES))}")
    return sorted(found, key=lambda path: natural(path.name))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name) if part]


def _is_still(path: Path) -> bool:
    """FFmpeg reads single pictures by demuxers called jpeg_pipe, png_pipe and so on. What it cannot read at all may be one too."""
    try:
        with opened(path) as container:
            return container.format.name.endswith("_pipe")
    except Unreadable:
        with suppress(Unreadable):
            return upright_still(path) is not None
        raise


def _has_sound(source: Source) -> bool:
    if not isinstance(source, Video):
        return False
    with opened(source.path) as container:
        return bool(container.streams.audio)


class Stills:
    """Pictures in files, each shown for 40 ms. One alone is decoded once."""

    begin = 0.0

    def __init__(self, path: Path, files: Sequence[Path]):
        self.path, self._files, self.count = path, files, len(files)
        self._only: np.ndarray | None = None

    def stretch(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for file in self._files[start:stop]:
            yield self._alone() if self.count == 1 else _still(file)

    def _alone(self) -> np.ndarray:
        self._only = _still(self._files[0]) if self._only is None else self._only
        return self._only.copy()


def _still(path: Path) -> np.ndarray:
    return np.ascontiguousarray(COLOURS[3](upright_still(path)))


class Clock(NamedTuple):
    """The pictures of a video in ticks from second 0: `shown` sorted, `keys` those that decode alone. Not `timed`: they are counted."""

    shown: list[int]
    keys: list[int]
    reached: int
    tick: Fraction  # seconds
    zero: int  # the timestamp at second 0
    timed: bool

    def on_screen(self, picture: int) -> int:
        """The stamp of what is on screen picture / 25 s after the first stamp."""
        slack = min(self.tick / 2, ROUNDING)
        return self.shown[bisect_right(self.shown, self.shown[0] + (Fraction(picture, FPS) + slack) / self.tick) - 1]


class Video:
    """The first track of pictures. Its packets are walked once for their times; then only what is asked for is decoded."""

    def __init__(self, path: Path):
        self.path = path
        with opened(path) as container:
            stream = picture_track(path, container)
            self._clock = _clock(path, container, stream)
            declared, own = declared_seconds(container, stream)
            self._seeks = self._clock.timed and not container.format.flags & Flags.ts_discont.value
        clock = self._clock
        check_track(path, 0.0, None, float(clock.reached * clock.tick), declared, own=own)
        self.begin = max(float(clock.shown[0] * clock.tick), 0.0)
        self.count = max(round((clock.reached - clock.shown[0]) * clock.tick * FPS), 1)

    def stretch(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Pictures in order. Raises Unreadable where fewer than half of them decode."""
        wanted = [self._clock.on_screen(picture) for picture in range(start, stop)]
        shown, picture, matrix, to_rgb, near = None, np.empty(0), None, VideoReformatter(), 0
        for stamp, frame, goal in self._decoded(wanted):
            if shown is None:
                matrix = frame.side_data.get("DISPLAYMATRIX")
            if frame is not shown:
                shown, picture = frame, upright(frame, matrix, to_rgb)
            near += abs(stamp - goal) * self._clock.tick <= LOST
            yield picture.copy()
        if near < len(wanted) / 2:
            raise Unreadable(self.path, f"truncated or damaged: only {near} of {len(wanted)} pictures decode")

    def _decoded(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame, int]]:
        """(its stamp, frame, stamp wanted) for each wanted stamp, as far as anything decodes: the last picture stays on screen."""
        if not wanted:
            return
        with opened(self.path) as container:
            frames = self._from_key(container, wanted[0])
            now = next(frames, None)
            following = next(frames, None)
            for goal in wanted:
                while following is not None and following[0] <= goal:
                    now, following = following, next(frames, None)
                if now is None:
                    return
                yield *now, goal

    def _from_key(self, container: InputContainer, wanted: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decoded frames from the last keyframe before `wanted` on; from the first one where the file cannot seek."""
        stream, clock = picture_track(self.path, container), self._clock
        found = packets(container, stream)
        before = bisect_right(clock.keys, wanted)
        if self._seeks and before > 1:
            found = _sought(container, stream, clock.keys[before - 1] + clock.zero)
        counted = 0
        for packet in chain(found, [None]):
            with suppress(FFmpegError):
                for frame in stream.decode(packet):
                    yield (frame.pts - clock.zero if clock.timed and frame.pts is not None else counted), frame
                    counted += 1


def _sought(container: InputContainer, stream: av.VideoStream, key: int) -> Iterator[av.Packet]:
    """Packets from the keyframe with timestamp `key`, or the one before; from the beginning where seeking leads behind it."""
    for place in (key, stream.start_time or 0):
        with suppress(FFmpegError):
            container.seek(place, stream=stream)
        found = packets(container, stream)
        first = next(found, None)
        if first is not None and first.pts is not None and first.pts <= key:
            return chain([first], found)
    container.seek(0)
    return packets(container, stream)


def _clock(path: Path, container: InputContainer, stream: av.VideoStream) -> Clock:
    found = [
        (packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard) for packet in packets(container, stream) if packet.size
    ]
    timed = stream.time_base is not None and all(pts is not None for pts, *_ in found)
    tick = stream.time_base if timed and stream.time_base else 1 / (stream.average_rate or Fraction(FPS))
    origin = round(zero(container) / tick) if timed else 0
    stamps = [(pts or 0) - origin if timed else place for place, (pts, *_) in enumerate(found)]
    shown = sorted(stamp for stamp, (*_, hidden) in zip(stamps, found, strict=True) if not hidden)
    if not shown:
        raise Unreadable(path, "holds no pictures (nothing can be read)")
    keys = sorted(stamp for stamp, (_, _, key, _) in zip(stamps, found, strict=True) if key)
    durations = dict(zip(stamps, (duration for _, duration, *_ in found), strict=True))
    return Clock(shown, keys, shown[-1] + _lasting(durations[shown[-1]] if timed else 1, shown), tick, origin, timed)


def _lasting(declared: int, shown: list[int]) -> int:
    """How long the last picture is on screen: as long as it says, else as the one before it."""
    return declared or next((later - earlier for earlier, later in pairwise(shown[-2:])), 1)
