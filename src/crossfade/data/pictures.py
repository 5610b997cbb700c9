"""Pictures spread uniformly over a clip: timestamps are read off the packets first, then only what is needed is decoded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from torch.nn.functional import interpolate

from crossfade.clip import Unreadable
from crossfade.data.container import check_file, check_span, check_track, declared_seconds, opened, packets, picture_track, seek, zero

LOST = 0.1  # seconds: a picture further than this from the one wanted stands in for one that did not decode
KEPT = 1 << 25  # bytes: packets up to this are kept from the reading of their timestamps, so that most files are walked only once
SKIPS = ("h264", "mpeg1video", "mpeg2video")  # codecs whose pictures say for certain that no other refers to them
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
    near = 0
    with _walked(path, start, end) as (stream, timeline, packets):
        shown, picture, matrix, to_rgb = None, None, None, VideoReformatter()
        for stamp, frame, goal in _on_screen(stream, timeline, packets, uniform(timeline.stamps, count)):
            if picture is None:
                matrix = frame.side_data.get("DISPLAYMATRIX")  # the track's, and slow to ask for
            if picture is None or frame is not shown:
                shown, picture = frame, upright(frame, matrix, to_rgb)
            near += abs(stamp - goal) * timeline.tick <= LOST
            yield picture
    if near < count / 2:
        raise Unreadable(path, f"truncated or damaged: only {near} of {count} pictures decode")


def resize(picture: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """uint8 (H, W, C) -> uint8 (C, height, width), a square by default: bilinear with antialias; as it is where its size is right."""
    size = height, width or height
    if picture.shape[:2] == size:
        return np.ascontiguousarray(picture.transpose(2, 0, 1))
    picture = picture if picture.flags.writeable else picture.copy()  # PyTorch warns of what is mapped
    return interpolate(torch.from_numpy(picture).permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)[0].numpy()


def cut(picture: np.ndarray, box: Box | None) -> np.ndarray:
    """The part of (H, W, 3) inside `box` = (left, top, right, bottom) as fractions of the picture; at least one pixel."""
    if box is None:
        return picture
    height, width = picture.shape[:2]
    left, top = min(max(int(box[0] * width), 0), width - 1), min(max(int(box[1] * height), 0), height - 1)
    return picture[top : max(round(box[3] * height), top + 1), left : max(round(box[2] * width), left + 1)]


def upright(frame: av.VideoFrame, matrix: Any, to_rgb: VideoReformatter) -> np.ndarray:
    """RGB uint8 (H, W, 3), turned and mirrored as the display matrix (phones; EXIF) asks: x' = a·x + c·y, y' = b·x + d·y.

    `to_rgb` is shared by the frames of a file: setting up a conversion costs more than one picture.
    """
    picture = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
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


@contextmanager
def _walked(path: Path, start: float, end: float | None) -> Iterator[tuple[av.VideoStream, Timeline, Iterable[av.Packet]]]:
    """The open track, the times of the span's pictures, and its packets: kept ones, or, where they are too large, read once more."""
    for sought in dict.fromkeys((start, 0.0)):
        with opened(path, track="pictures", start=sought) as container:
            stream = picture_track(path, container)
            timeline, packets = _read_timeline(container, stream, sought, end)
            if sought > 0 and (not timeline.timed or not timeline.stamps or timeline.stamps[0] * timeline.tick > start):
                continue
            timeline = _within(path, timeline, start, end)
            if packets is not None:
                yield stream, timeline, packets
                return
        break
    with opened(path, track="pictures", start=sought) as container:
        stream = picture_track(path, container)
        yield stream, timeline, _packets(container, stream, sought, None)


def _within(path: Path, timeline: Timeline, start: float, end: float | None) -> Timeline:
    """Only the stamps on screen in the span. Raises Unreadable: none, or less of the track than it declares."""
    if not timeline.stamps:
        raise Unreadable(path, "holds no pictures (nothing can be read)")
    check_track(path, start, end, float(timeline.reached * timeline.tick), timeline.declared, own=timeline.own)
    first = max(bisect_right(timeline.stamps, start / timeline.tick) - 1, 0)
    stop = len(timeline.stamps) if end is None else bisect_left(timeline.stamps, end / timeline.tick)
    return timeline._replace(stamps=timeline.stamps[first : max(stop, first + 1)])


def _read_timeline(
    container: InputContainer, stream: av.VideoStream, start: float, end: float | None
) -> tuple[Timeline, list[av.Packet] | None]:
    packets, kept = _times(_packets(container, stream, start, end))
    timed = stream.time_base is not None and all(packet.pts is not None for packet in packets)
    tick = stream.time_base if timed and stream.time_base else 1 / (stream.average_rate or Fraction(25))
    origin = round(zero(container) / tick) if timed else 0
    shown = [((packet.pts or 0) - origin if timed else index, packet) for index, packet in enumerate(packets)]
    stamps = sorted(stamp for stamp, packet in shown if not packet.hidden)
    keys = sorted(stamp for stamp, packet in shown if packet.key)
    reached = max((stamp + (max(packet.duration, 1) if timed else 1) for stamp, packet in shown), default=0)
    return Timeline(stamps, keys, reached, tick, origin, timed, *declared_seconds(container, stream)), kept


def _times(packets: Iterable[av.Packet]) -> tuple[list[PacketTime], list[av.Packet] | None]:
    """The times of all packets, and the packets themselves where they fit into `KEPT`."""
    times, kept, held = [], [], 0
    for packet in packets:
        times.append(PacketTime(packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard))
        held += packet.size
        if held <= KEPT:
            kept.append(packet)
        else:
            kept.clear()
    return times, kept if held <= KEPT else None


def _packets(container: InputContainer, stream: av.VideoStream, start: float, end: float | None) -> Iterator[av.Packet]:
    """The coded pictures from the last keyframe before `start` to `end`, as far as the file can be read."""
    if start > 0:
        seek(container, stream, start)
    stop = None if end is None or not stream.time_base else (Fraction(end) + zero(container)) / stream.time_base
    for packet in packets(container, stream):
        if stop is not None and packet.dts is not None and packet.dts >= stop:
            return
        if packet.size:
            yield packet


def _on_screen(
    stream: av.VideoStream, timeline: Timeline, packets: Iterable[av.Packet], wanted: list[int]
) -> Iterator[tuple[int, av.VideoFrame, int]]:
    """(its stamp, the frame on screen, the stamp wanted) for every wanted stamp, in order, as far as anything decodes."""
    pending, last = deque(wanted), None
    for stamp, frame in _stamped(stream, timeline, packets, pending):
        while pending and stamp >= pending[0]:
            now = last if last is not None and stamp > pending[0] else (stamp, frame)
            yield *now, pending.popleft()
        last = stamp, frame
        if not pending:
            return
    while pending and last is not None:
        yield *last, pending.popleft()


def _stamped(
    stream: av.VideoStream, timeline: Timeline, packets: Iterable[av.Packet], pending: deque[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their stamps: of the pictures that nothing refers to, only those pending."""
    counted = 0
    for packet in chain(_needed(stream, timeline, packets, pending), [None]):
        with suppress(FFmpegError):
            for frame in stream.decode(packet):
                yield (frame.pts - timeline.zero if timeline.timed and frame.pts is not None else counted), frame
                counted += 1


def _needed(stream: av.VideoStream, timeline: Timeline, packets: Iterable[av.Packet], pending: deque[int]) -> Iterator[av.Packet]:
    """Leaps over packets when the first pending stamp lies behind a keyframe further on; tells the decoder which to skip.

    The packet after a wanted one may hold its second field, so it is not skipped either.
    """
    decoder, wanted, before = stream.codec_context, set(pending), None
    skips = timeline.timed and decoder.name in SKIPS
    fed, leap = -1, None
    for packet in packets:
        stamp = (packet.pts or 0) - timeline.zero
        if leap is not None and not (packet.is_keyframe and stamp == leap):
            continue
        fed = stamp if packet.is_keyframe else fed
        decoder.skip_frame = "NONREF" if skips and wanted.isdisjoint((stamp, before)) else "DEFAULT"
        yield packet
        before = stamp
        leap = _leap(timeline, fed, pending)
        if leap is not None:
            decoder.flush_buffers()


def _leap(timeline: Timeline, fed: int, pending: deque[int]) -> int | None:
    """The last keyframe at or before the first pending stamp, where that lies beyond the keyframe fed last."""
    before = bisect_right(timeline.keys, pending[0]) - 1 if timeline.timed and pending else -1
    return timeline.keys[before] if before >= 0 and timeline.keys[before] > fed else None
