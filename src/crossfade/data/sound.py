"""Sound from any file as one mono line: libsndfile for the formats it is sure of, FFmpeg (PyAV) for the rest and for videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr
from av.container import InputContainer
from av.error import FFmpegError

from crossfade.clip import Unreadable
from crossfade.data.container import (
    beyond,
    check_file,
    check_reached,
    check_span,
    check_track,
    declared_seconds,
    opened,
    packets,
    seek,
    sound_track,
    zero,
)

# libsndfile also guesses by file name, and its MP3 decoder talks on stderr: it gets only what announces itself as one of these.
LIBSNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"riff")
UNKNOWN_LENGTH = 1 << 40  # samples; a streamed FLAC declares 2^63 - 1
STREAMED_BYTES = 0x7FFFFF00  # a WAV header written to a pipe declares this much or more
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # hertz; beyond them a header is damaged, and resampling would fill the memory
BLOCK = 1 << 12  # samples: what a break in a file costs at most; a FLAC frame
TOGETHER = 64  # decoded frames turned into samples at a time: one by one costs as much as decoding them
SAMPLES = {  # FFmpeg's sample formats: how they are stored, what silence and full scale are
    "u8": (np.uint8, 2.0**7, 2.0**7),
    "s16": (np.int16, 0.0, 2.0**15),
    "s32": (np.int32, 0.0, 2.0**31),
    "s64": (np.int64, 0.0, 2.0**63),
    "flt": (np.float32, 0.0, 1.0),
    "dbl": (np.float64, 0.0, 1.0),
}


class TrackSound(NamedTuple):
    """Mono samples (N,) from second `begin` on at `native` hertz (0 = nothing decoded), and what the file declares."""

    sound: np.ndarray
    begin: float
    native: int
    declared: float
    own: bool


def read_audio(path: Path | str, *, rate: int, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Sound from `start` to `end` seconds as float32 (N,), the mean of the channels, resampled to `rate` hertz by soxr HQ.

    Reads any sound file or the sound track of a video, and only the span asked for. An `end` past the end of the file is the end.
    Raises Unreadable: no such file, not media, truncated, no sound, a span that holds nothing, NaN or infinity.
    """
    path = Path(path)
    check_file(path)
    check_span(path, start, end)
    sound, native = _sndfile_sound(path, start, end) or _ffmpeg_sound(path, start, end)
    if not LOWEST_RATE <= native <= HIGHEST_RATE:
        raise Unreadable(path, f"declares {native} samples a second; {LOWEST_RATE} to {HIGHEST_RATE} are possible")
    if not np.isfinite(sound).all():
        raise Unreadable(path, "the sound contains NaN or infinity")
    resampled = soxr.resample(sound, native, rate, "HQ")
    if not len(resampled):
        raise Unreadable(path, f"holds no sound ({len(sound)} samples at {native} Hz)")
    return np.ascontiguousarray(resampled, dtype=np.float32)


def sndfile(path: Path) -> soundfile.SoundFile | None:
    """The file opened by libsndfile, or None where FFmpeg should read it."""
    with path.open("rb") as head:
        if not head.read(4).startswith(LIBSNDFILE_MAGIC):
            return None
    try:
        file = soundfile.SoundFile(str(path))
    except (soundfile.LibsndfileError, TypeError):
        return None
    if file.format != "RAW" and file.frames < UNKNOWN_LENGTH:
        return file
    file.close()
    return None


def _sndfile_sound(path: Path, start: float, end: float | None) -> tuple[np.ndarray, int] | None:
    file = sndfile(path)
    if file is None:
        return None
    with file:
        native, declared = file.samplerate, declared_samples(path, file)
        first = round(start * native)
        if not declared:
            raise Unreadable(path, "holds no sound (0 samples)")
        if first >= declared:
            raise beyond(path, start, declared / native)
        stop = declared if end is None else min(declared, max(round(end * native), first + 1))
        sound = _blocks(file, first, stop)
    check_reached(path, first / native, (first + len(sound)) / native, stop / native)
    return sound, native


def _blocks(file: soundfile.SoundFile, first: int, stop: int) -> np.ndarray:
    """The mean of the channels of samples `first` to `stop`, as far as they decode."""
    blocks, left = [np.empty(0, np.float32)], stop - first
    with suppress(soundfile.LibsndfileError):
        file.seek(min(first, file.frames))
        while left > 0:
            block = file.read(min(left, BLOCK), dtype="float32", always_2d=True)
            blocks.append(block.mean(axis=1))
            left -= len(block) or left
    return np.concatenate(blocks)


def declared_samples(path: Path, file: soundfile.SoundFile) -> int:
    """How many samples the header declares. libsndfile alone shortens a truncated WAV to what is there."""
    declared, held = _wav_bytes(path) if file.format in ("WAV", "WAVEX") else 0, path.stat().st_size
    return round(file.frames * declared / held) if declared > held else file.frames


def _wav_bytes(path: Path) -> int:
    """Size of the data chunk as its header declares it; 0 where it does not say."""
    with path.open("rb") as file:
        order = "big" if file.read(12)[:4] == b"RIFX" else "little"
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], order)
            if head[:4] == b"data":
                return size if size < STREAMED_BYTES else 0
            file.seek(size + size % 2, 1)
    return 0


def _ffmpeg_sound(path: Path, start: float, end: float | None) -> tuple[np.ndarray, int]:
    track = _decoded_track(path, start, end, from_start=start == 0)
    if start > 0 and (not track.native or track.begin > start):
        track = _decoded_track(path, start, end, from_start=True)
    sound, begin, native, declared, own = track
    if not native and not 0 < declared <= start:
        raise Unreadable(path, "holds no sound (nothing decodes)")
    check_track(path, start, end, begin + len(sound) / native if native else declared, declared, own=own)
    if begin - start > len(sound) / native:
        raise Unreadable(path, f"its sound begins only at {begin:.2f} s, its timestamps may be damaged")
    offset = round((begin - start) * native)
    placed = np.pad(sound, (offset, 0)) if offset > 0 else sound[-offset:]
    return (placed if end is None else placed[: max(round((end - start) * native), 1)]), native


def _decoded_track(path: Path, start: float, end: float | None, *, from_start: bool) -> TrackSound:
    with opened(path, track="sound", start=0.0 if from_start else start) as container:
        stream = sound_track(path, container)
        if not from_start:
            seek(container, stream, start)
        frames, length = decoded(container, stream), declared_seconds(container, stream)
        first = next(frames, None)
        if first is None:
            return TrackSound(np.empty(0, np.float32), 0.0, 0, *length)
        native, begin = first.sample_rate, _second(first, zero(container))
        needed = None if end is None else (end - begin) * native
        pieces = _mono_pieces(_first_samples(path, chain([first], frames), native, needed))
        return TrackSound(np.concatenate([np.empty(0, np.float32), *pieces]), begin, native, *length)


def _first_samples(path: Path, frames: Iterable[av.AudioFrame], native: int, needed: float | None) -> Iterator[av.AudioFrame]:
    """The frames that hold the first `needed` samples, None = all."""
    samples = 0
    for frame in frames:
        if frame.sample_rate != native:
            raise Unreadable(path, f"its sample rate changes from {native} to {frame.sample_rate} Hz on the way")
        if needed is not None and samples >= needed:
            return
        yield frame
        samples += frame.samples


def _mono_pieces(frames: Iterable[av.AudioFrame]) -> Iterator[np.ndarray]:
    """Mono samples of frames in order; their format and channels may change on the way."""
    for _, alike in groupby(frames, key=lambda frame: (frame.format.name, frame.layout.nb_channels)):
        while batch := list(islice(alike, TOGETHER)):
            yield mono(batch)


def decoded(container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Every frame of sound that decodes: a broken packet is stepped over, and where the container breaks off the walk ends."""
    for packet in packets(container, stream):
        with suppress(FFmpegError):
            yield from packet.decode()


def _second(frame: av.AudioFrame, origin: Fraction) -> float:
    return 0.0 if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base - origin)


def mono(frames: list[av.AudioFrame]) -> np.ndarray:
    """The mean of the channels of frames of one format, float32 (N,), full scale = 1."""
    (form, channels), planes = (frames[0].format, frames[0].layout.nb_channels), len(frames[0].planes)
    kind, zero, full = SAMPLES[form.name.removesuffix("p")]
    lines = [np.concatenate([_plane(frame, index, kind, channels // planes) for frame in frames]) for index in range(planes)]
    first, *others = lines[0].reshape(-1, channels).T if planes == 1 else lines
    mean = first.astype(np.float32)
    for other in others:
        mean += other
    mean /= channels
    mean -= zero
    mean /= full
    return mean


def _plane(frame: av.AudioFrame, index: int, kind: type, channels: int) -> np.ndarray:
    """One plane as it lies in memory: PyAV's own conversion is made for few large frames, and these are many and small."""
    return np.frombuffer(frame.planes[index], kind, frame.samples * channels)  # type: ignore[arg-type]
