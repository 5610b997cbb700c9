"""Decode by what a file holds, never by its name: all that opens media here is `read_audio`, `read_frames`, `read_image` and `probe`.

Every failure is an `Unreadable` with a reason. A truncated recording is used when at least half of what it declares (within the span
asked for) can be decoded, and is `Unreadable` otherwise; a truncated image always is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from crossfade.clip import Unreadable
from crossfade.data.container import check_file, last_packet, opened, packets, picture_track, picture_tracks, sound_track
from crossfade.data.pictures import pictures, read_frames
from crossfade.data.sound import read_audio, sndfile
from crossfade.data.stills import read_image

__all__ = ["Probe", "pictures", "probe", "read_audio", "read_frames", "read_image"]


@dataclass(frozen=True)
class Probe:
    """What a file says it holds. `seconds` of the file; `rate` in hertz; `width` and `height` as coded (before rotation).

    None where the file has no such stream.
    """

    seconds: float
    rate: int | None = None
    channels: int | None = None
    frames: int | None = None
    width: int | None = None
    height: int | None = None


def probe(path: Path | str) -> Probe:
    """What the file declares; nothing is decoded, and packets are counted only where the file declares no number of frames.

    Raises Unreadable: no such file, not media, neither sound nor pictures.
    """
    path = Path(path)
    check_file(path)
    file = sndfile(path)
    if file is not None:
        with file:
            return Probe(file.frames / file.samplerate, file.samplerate, file.channels)
    with opened(path) as container:
        return _probe_tracks(path, container)


def _probe_tracks(path: Path, container: InputContainer) -> Probe:
    sounds, shown = container.streams.audio, picture_tracks(container)
    if not sounds and not shown:
        raise Unreadable(path, "holds neither sound nor pictures")
    sound, stream = sound_track(path, container) if sounds else None, picture_track(path, container) if shown else None
    seconds = (container.duration or 0) / 1e6
    rate, channels = (sound.rate, sound.channels) if sound else (None, None)
    if stream is None:
        return Probe(seconds or last_packet(path), rate, channels)
    if not stream.frames:  # an MPEG stream declares nothing, and FFmpeg's guess may be short
        seconds = max(seconds, last_packet(path))
    return Probe(seconds, rate, channels, stream.frames or _count(container, stream), stream.width, stream.height)


def _count(container: InputContainer, stream: av.VideoStream) -> int:
    return sum(packet.size > 0 for packet in packets(container, stream))
