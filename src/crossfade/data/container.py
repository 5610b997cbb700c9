"""Open a media file: what is wrong with it in a few words, its tracks, its clock, and how much of what it declares is there.

Seconds count from the first timestamp of the whole file, so that the sound and the pictures of one video stay together.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition

from crossfade.clip import Unreadable
from crossfade.data.visit import KEPT, visit

Track = TypeVar("Track", av.AudioStream, av.VideoStream)
# FFmpeg demuxers that read text, or that open other files than the one named.
NOT_MEDIA = {"tty", "hls", "dash", "concat", "ffmetadata"}
MICROSECOND = Fraction(1, 1_000_000)
BUFFER = 1 << 16  # bytes
WARM_UP = Fraction(1, 5)  # seconds: the first packets of sound after a seek only warm the decoder up


def check_file(path: Path) -> None:
    """Raises Unreadable where there is nothing to decode: missing, a directory, empty, forbidden."""
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise Unreadable(path, "is a directory, not a file")
        if not stat.S_ISREG(info.st_mode):
            raise Unreadable(path, "is not a regular file")
        if info.st_size == 0:
            raise Unreadable(path, "is empty (0 bytes)")
        path.open("rb").close()
    except FileNotFoundError:
        raise Unreadable(path, "no such file") from None
    except PermissionError:
        raise Unreadable(path, "permission denied") from None
    except (OSError, ValueError) as error:
        raise Unreadable(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None


def check_span(path: Path, start: float, end: float | None) -> None:
    """Raises Unreadable where the span can hold nothing."""
    if start < 0 or (end is not None and end <= start):
        raise Unreadable(path, f"the span from {start:g} s to {'the end' if end is None else f'{end:g} s'} holds nothing")


def beyond(path: Path, start: float, seconds: float) -> Unreadable:
    """The error for a span that starts where the file has ended."""
    return Unreadable(path, f"the span starts at {start:g} s but the file ends at {seconds:.2f} s")


def check_reached(path: Path, start: float, reached: float, stop: float) -> None:
    """Raises Unreadable where less than half of what is declared from `start` to `stop` seconds is there."""
    if reached - start < (stop - start) / 2:
        got = max(reached - start, 0.0)
        raise Unreadable(path, f"truncated or damaged: {got:.2f} s of the {stop - start:.2f} s it declares can be decoded")


@contextmanager
def opened(path: Path, *, track: str = "", start: float = 0.0) -> Iterator[InputContainer]:
    """The file opened by FFmpeg, or as the visit still holds it, where one `track` ("sound", "pictures") is read from its beginning.

    No exception of FFmpeg leaves the block.
    """
    here = visit()
    alone = here is None or here.busy or not track or start > 0 or path.stat().st_size > KEPT
    shared = None if here is None or alone else here.at(path, _opened, track)
    try:
        with shared or _opened(path) as container:
            yield container
    except FFmpegError:
        raise Unreadable(path, "is not a sound or video file, or is damaged beyond reading") from None


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """FFmpeg is not told the file's name: by name it would take any .jpg or .gsm for what it is called. Nothing but this file is opened."""
    with path.open("rb", buffering=0) as file:
        nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
        options = {"protocol_whitelist": "file"}
        with av.open(nameless, mode="r", options=options, metadata_errors="replace", buffer_size=BUFFER) as container:
            if container.format.name in NOT_MEDIA or not len(container.streams):
                raise Unreadable(path, "is not a sound or video file, or is damaged beyond reading")
            yield container


def packets(container: InputContainer, stream: av.AudioStream | av.VideoStream | None = None) -> Iterator[av.Packet]:
    """Of one track or all, from where the container stands to where it ends or cannot be read any further."""
    here = visit()
    if here is not None and here.holds(container):
        yield from here.packets(stream)
        return
    with suppress(FFmpegError):
        yield from container.demux() if stream is None else container.demux(stream)


def sound_track(path: Path, container: InputContainer) -> av.AudioStream:
    """The first track of sound."""
    if not container.streams.audio:
        raise Unreadable(path, "no sound in this file")
    return _with_decoder(path, container.streams.audio[0])


def picture_tracks(container: InputContainer) -> list[av.VideoStream]:
    """The tracks of moving pictures: the cover of an album is none."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def picture_track(path: Path, container: InputContainer) -> av.VideoStream:
    """The first track of pictures, decoded by one thread: a loader's workers decode several clips at once already."""
    tracks = picture_tracks(container)
    if not tracks:
        raise Unreadable(path, "no pictures in this file")
    _with_decoder(path, tracks[0]).codec_context.thread_count = 1
    return tracks[0]


def _with_decoder(path: Path, stream: Track) -> Track:
    if stream.codec_context is None:
        raise Unreadable(path, f"no decoder for its {stream.type} track")
    return stream


def zero(container: InputContainer) -> Fraction:
    """The timestamp in seconds that counts as second 0."""
    return (container.start_time or 0) * MICROSECOND


def seek(container: InputContainer, stream: av.AudioStream | av.VideoStream, start: float) -> None:
    """Go to the last keyframe before `start`. A container that cannot seek is read from its beginning: slower, the same result.

    So is an MPEG stream, whose first timestamps after a seek are guesses, wrong by a frame.
    """
    if container.format.flags & Flags.ts_discont.value:
        return
    at = max(Fraction(start) - WARM_UP, Fraction(0)) + zero(container)
    with suppress(FFmpegError):
        container.seek(int(at / (stream.time_base or MICROSECOND)), stream=stream)


def declared_seconds(container: InputContainer, stream: av.AudioStream | av.VideoStream) -> tuple[float, bool]:
    """The second at which the track ends as the file declares it (0 = it does not); whether it says so of the track itself."""
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - zero(container)), True
    return (container.duration or 0) / 1e6, False


def last_packet(path: Path) -> float:
    """The second at which the last packet of any track ends. Reads the file once without decoding."""
    last = Fraction(0)
    with opened(path) as container:
        for packet in packets(container):
            if packet.pts is not None and packet.time_base:
                last = max(last, (packet.pts + (packet.duration or 0)) * packet.time_base - zero(container))
    return float(last)


def check_track(path: Path, start: float, end: float | None, reached: float, declared: float, *, own: bool) -> None:
    """Raises Unreadable for a span beyond the end, or a track that breaks off before half of it.

    A track that declares no length of its `own` may rightly be shorter than the file, unless the whole file breaks off.
    """
    stop = declared if end is None else min(end, declared)
    if stop > start:
        check_reached(path, start, reached if own or reached >= stop else max(reached, last_packet(path)), stop)
    if reached <= start:
        raise beyond(path, start, reached)
