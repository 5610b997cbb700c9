"""Pictures spread uniformly over a clip: timestamps are read off the packets first, then only what is needed is decoded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from torch.nn.functional import interpolate

from crossfade.clip import Unreadable
from crossfade.data.container import check_file, check_span, check_track, declared_seconds, opened, picture_track, seek, zero

LOST = 0.1  # seconds: a picture further than this from the one wanted stands in for one that did not decode
Box = tuple[float, float, float, float]


class PacketTime(NamedTuple):
    """One coded picture, unread. `hidden`: needed to decode others, never shown."""

    pts: int | None
    duration: int
    key: bool
    hidden: bool


class Timeline(NamedTuple):
    """When pictures are shown, in ticks from second 0, sorted. Not `timed`: the file has no timestamps, so pictures are counted."""

    stamps: list[int]
    keys: list[int]
    reached: int  # the tick at which the last picture ends
    tick: Fraction  # seconds
    zero: int  # the timestamp at second 0
    timed: bool
    sought: float  # seconds; what the walk through the file started from
    declared: float  # seconds
    own: bool  # whether the track itself declares them, or the whole file


def read_frames(
    path: Path | str, *, count: int, size: int, start: float = 0.0, end: float | None = None, box: Box | None = None
) -> np.ndarray:
    """`count` upright RGB pictures spread uniformly over the span, as uint8 (count, 3, size, size).

    The whole picture, or `box` of it, is resized to a square as uint8: bilinear with antialias, as torchvision and Pillow do.
    Raises Unreadable as `pictures` does.
    """
    frames = np.empty((count, 3, size, size), dtype=np.uint8)
    previous = None
    for index, picture in enumerate(pictures(path, count=count, start=start, end=end)):
        frames[index] = frames[index - 1] if picture is previous else resize(cut(picture, box), size)
        previous = picture
    return frames


def pictures(path: Path | str, *, count: int, start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
    """Yield `count` upright RGB pictures uint8 (H, W, 3): what is on screen at `count` equally spaced times, first to last frame.

    At a constant frame rate these are frames floor(linspace(0, n - 1, count)); a clip of fewer frames repeats them (the same array
    is yielded again). One picture at a time is in memory; stretches between keyframes that hold no wanted picture are not decoded.
    Raises Unreadable: no such file, not media, truncated, no pictures, a span that holds nothing.
    """
    path = Path(path)
    check_file(path)
    check_span(path, start, end)
    timeline, near = _timeline(path, start, end), 0
    with opened(path) as container:
        shown, picture, to_rgb = None, None, VideoReformatter()
        for stamp, frame, goal in _on_screen(container, picture_track(path, container), timeline, uniform(timeline.stamps, count)):
            if picture is None or frame is not shown:
                shown, picture = frame, upright(frame, to_rgb)
            near += abs(stamp - goal) * timeline.tick <= LOST
            yield picture
    if near < count / 2:
        raise Unreadable(path, f"truncated or damaged: only {near} of {count} pictures decode")


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (3, size, size), bilinear with antialias."""
    channels_last = torch.from_numpy(picture).permute(2, 0, 1)[None]
    return interpolate(channels_last, (size, size), mode="bilinear", antialias=True)[0].numpy()


def cut(picture: np.ndarray, box: Box | None) -> np.ndarray:
    """The part of (H, W, 3) inside `box` = (left, top, right, bottom) as fractions of the picture; at least one pixel."""
    if box is None:
        return picture
    height, width = picture.shape[:2]
    left, top = min(max(int(box[0] * width), 0), width - 1), min(max(int(box[1] * height), 0), height - 1)
    return picture[top : max(round(box[3] * height), top + 1), left : max(round(box[2] * width), left + 1)]


def upright(frame: av.VideoFrame, to_rgb: VideoReformatter) -> np.ndarray:
    """RGB uint8 (H, W, 3), turned and mirrored as the display matrix (phones; EXIF) asks: x' = a·x + c·y, y' = b·x + d·y.

    `to_rgb` is shared by the frames of a file: setting up a conversion costs more than one picture.
    """
    picture, matrix = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray(), frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    across, down = (a, d) if abs(a) >= abs(c) else (c, b)
    picture = picture if abs(a) >= abs(c) else picture.transpose(1, 0, 2)
    return np.ascontiguousarray(picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def uniform(stamps: list[int], count: int) -> list[int]:
    """The stamps on screen at `count` equally spaced times from the first to the last."""
    span = stamps[-1] - stamps[0]
    times = [stamps[0] + span * index // max(count - 1, 1) for index in range(count)]
    return [stamps[bisect_right(stamps, time) - 1] for time in times]


def _timeline(path: Path, start: float, end: float | None) -> Timeline:
    timeline = _read_timeline(path, start, end)
    if start > 0 and (not timeline.timed or not timeline.stamps or timeline.stamps[0] * timeline.tick > start):
        timeline = _read_timeline(path, 0.0, end)
    if not timeline.stamps:
        raise Unreadable(path, "holds no pictures (nothing can be read)")
    check_track(path, start, end, float(timeline.reached * timeline.tick), timeline.declared, own=timeline.own)
    first = max(bisect_right(timeline.stamps, start / timeline.tick) - 1, 0)
    stop = len(timeline.stamps) if end is None else bisect_left(timeline.stamps, end / timeline.tick)
    return timeline._replace(stamps=timeline.stamps[first : max(stop, first + 1)])


def _read_timeline(path: Path, start: float, end: float | None) -> Timeline:
    with opened(path) as container:
        stream = picture_track(path, container)
        if start > 0:
            seek(container, stream, start)
        packets = list(_packet_times(container, stream, end))
        timed = stream.time_base is not None and all(packet.pts is not None for packet in packets)
        tick = stream.time_base if timed and stream.time_base else 1 / (stream.average_rate or Fraction(25))
        origin = round(zero(container) / tick) if timed else 0
        shown = [((packet.pts or 0) - origin if timed else index, packet) for index, packet in enumerate(packets)]
        stamps = sorted(stamp for stamp, packet in shown if not packet.hidden)
        keys = sorted(stamp for stamp, packet in shown if packet.key)
        reached = max((stamp + (max(packet.duration, 1) if timed else 1) for stamp, packet in shown), default=0)
        return Timeline(stamps, keys, reached, tick, origin, timed, start, *declared_seconds(container, stream))


def _packet_times(container: InputContainer, stream: av.VideoStream, end: float | None) -> Iterator[PacketTime]:
    stop = None if end is None or not stream.time_base else (Fraction(end) + zero(container)) / stream.time_base
    with suppress(FFmpegError):
        for packet in container.demux(stream):
            if stop is not None and packet.dts is not None and packet.dts >= stop:
                return
            if packet.size:
                yield PacketTime(packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard)


def _on_screen(
    container: InputContainer, stream: av.VideoStream, timeline: Timeline, wanted: list[int]
) -> Iterator[tuple[int, av.VideoFrame, int]]:
    """(its stamp, the frame on screen, the stamp wanted) for every wanted stamp, in order, as far as anything decodes."""
    pending, last = deque(wanted), None
    for stamp, frame in _stamped(container, stream, timeline, pending):
        while pending and stamp >= pending[0]:
            now = last if last is not None and stamp > pending[0] else (stamp, frame)
            yield *now, pending.popleft()
        last = stamp, frame
        if not pending:
            return
    while pending and last is not None:
        yield *last, pending.popleft()


def _stamped(
    container: InputContainer, stream: av.VideoStream, timeline: Timeline, pending: deque[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their stamps. Leaps over packets when the first pending stamp lies behind a keyframe further on."""
    if timeline.sought > 0:
        seek(container, stream, timeline.sought)
    counted, fed, leap = 0, -1, None
    with suppress(FFmpegError):
        for packet in container.demux(stream):
            stamp = (packet.pts or 0) - timeline.zero
            if leap is not None and packet.size and not (packet.is_keyframe and stamp == leap):
                continue
            fed, leap = stamp if packet.is_keyframe else fed, None
            frames = []
            with suppress(FFmpegError):
                frames = packet.decode()
            for frame in frames:
                yield (frame.pts - timeline.zero if timeline.timed and frame.pts is not None else counted), frame
                counted += 1
            leap = _leap(timeline, fed, pending)
            if leap is not None:
                stream.codec_context.flush_buffers()


def _leap(timeline: Timeline, fed: int, pending: deque[int]) -> int | None:
    """The last keyframe at or before the first pending stamp, where that lies beyond the keyframe fed last."""
    before = bisect_right(timeline.keys, pending[0]) - 1 if timeline.timed and pending else -1
    return timeline.keys[before] if before >= 0 and timeline.keys[before] > fed else None
