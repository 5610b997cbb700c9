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


class Track(NamedTuple):
    """Frames from second `begin` on at `native` hertz (0 = nothing decodes), and what the file declares of its end."""

    frames: Iterator[av.AudioFrame]
    begin: float
    native: int
    declared: float
    own: bool


Piece = tuple[int, np.ndarray]  # samples a second, and mono samples (N,) of them
END: Piece = (0, np.empty(0, np.float32))


def read_audio(path: Path | str, *, rate: int, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Sound from `start` to `end` seconds as float32 (N,), the mean of the channels, resampled to `rate` hertz by soxr HQ.

    Reads any sound file or the sound track of a video, and only the span asked for. An `end` past the end of the file is the end.
    Raises Unreadable: no such file, not media, truncated, no sound, a span that holds nothing, NaN or infinity.
    """
    path = Path(path)
    pieces = list(_finite(path, _native(path, start, end)))
    native, sound = pieces[0][0], np.concatenate([piece for _, piece in pieces])
    resampled = soxr.resample(sound, native, rate, "HQ")
    if not len(resampled):
        raise Unreadable(path, f"holds no sound ({len(sound)} samples at {native} Hz)")
    return np.ascontiguousarray(resampled, dtype=np.float32)


def sound_blocks(path: Path | str, *, rate: int, start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
    """What `read_audio` reads, sample for sample, in blocks float32 (N,) of any length, so that hours take no more memory than seconds.

    Raises what `read_audio` raises, some of it only after the last block: that much of a file is missing shows at its end.
    """
    path, stream, heard = Path(path), None, 0
    for native, piece in chain(_finite(path, _native(path, start, end)), [END]):
        stream = stream or soxr.ResampleStream(native, rate, 1, dtype="float32", quality="HQ")
        block = stream.resample_chunk(piece, last=native == 0)
        heard += len(block)
        yield block
    if not heard:
        raise Unreadable(path, "holds no sound")


def _finite(path: Path, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same; raises Unreadable for what cannot be resampled."""
    for native, piece in pieces:
        if not LOWEST_RATE <= native <= HIGHEST_RATE:
            raise Unreadable(path, f"declares {native} samples a second; {LOWEST_RATE} to {HIGHEST_RATE} are possible")
        if not np.isfinite(piece).all():
            raise Unreadable(path, "the sound contains NaN or infinity")
        yield native, piece


def _native(path: Path, start: float, end: float | None) -> Iterator[Piece]:
    """The span piece by piece as the file holds it."""
    check_file(path)
    check_span(path, start, end)
    file = sndfile(path)
    yield from _ffmpeg_pieces(path, start, end) if file is None else _sndfile_pieces(path, file, start, end)


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


def _sndfile_pieces(path: Path, file: soundfile.SoundFile, start: float, end: float | None) -> Iterator[Piece]:
    with file:
        native, declared = file.samplerate, declared_samples(path, file)
        first, reached = round(start * native), round(start * native)
        if not declared:
            raise Unreadable(path, "holds no sound (0 samples)")
        if first >= declared:
            raise beyond(path, start, declared / native)
        stop = declared if end is None else min(declared, max(round(end * native), first + 1))
        for block in _blocks(file, first, stop):
            reached += len(block)
            yield native, block
    check_reached(path, first / native, reached / native, stop / native)


def _blocks(file: soundfile.SoundFile, first: int, stop: int) -> Iterator[np.ndarray]:
    """The mean of the channels of samples `first` to `stop`, as far as they decode."""
    left = stop - first
    try:
        file.seek(min(first, file.frames))
    except soundfile.LibsndfileError:
        return
    while left > 0:
        try:
            block = file.read(min(left, BLOCK), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            return
        yield block.mean(axis=1)
        left -= len(block) or left


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


def _ffmpeg_pieces(path: Path, start: float, end: float | None) -> Iterator[Piece]:
    """From a seek, or where that led past `start`, from the beginning of the file."""
    for from_start in [True] if start == 0 else [False, True]:
        with opened(path, track="sound", start=0.0 if from_start else start) as container:
            stream = sound_track(path, container)
            if not from_start:
                seek(container, stream, start)
            frames, length = decoded(container, stream), declared_seconds(container, stream)
            first = next(frames, None)
            begin = 0.0 if first is None else _second(first, zero(container))
            if from_start or (first is not None and begin <= start):
                frames = frames if first is None else chain([first], frames)
                yield from _track_pieces(path, Track(frames, begin, 0 if first is None else first.sample_rate, *length), start, end)
                return


def _track_pieces(path: Path, track: Track, start: float, end: float | None) -> Iterator[Piece]:
    native, declared, own = track.native, track.declared, track.own
    if not native and not 0 < declared <= start:
        raise Unreadable(path, "holds no sound (nothing decodes)")
    needed = None if end is None else (end - track.begin) * native
    last = None if end is None else max(round((end - start) * native), 1)
    offset = round((track.begin - start) * native)
    place = min(offset, 0)  # in the span, of the next piece
    for piece in _after_silence(path, _mono_pieces(_first_samples(path, track.frames, native, needed)), offset, track.begin):
        kept = piece[max(-place, 0) : None if last is None else max(last - place, 0)]
        place += len(piece)
        if len(kept):
            yield native, kept
    reached = track.begin + (place - offset) / native if native else declared
    check_track(path, start, end, reached, declared, own=own)


def _after_silence(path: Path, pieces: Iterator[np.ndarray], gap: int, begin: float) -> Iterator[np.ndarray]:
    """The pieces after `gap` samples of silence, if there is any: believed once as much sound has been heard."""
    held, heard = [], 0
    while heard < gap:
        piece = next(pieces, None)
        if piece is None:
            raise Unreadable(path, f"its sound begins only at {begin:.2f} s, its timestamps may be damaged")
        held, heard = [*held, piece], heard + len(piece)
    yield from ([np.zeros(gap, np.float32), *held] if held else [])
    yield from pieces


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
