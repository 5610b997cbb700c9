"""A film with sound that appears whole or not at all: H.264 and AAC in an mp4, both from second 0, with what it is written into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.codec import codecs_available
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from crossfade.clip import UserError
from crossfade.data.container import opened, sound_track, zero
from crossfade.data.face.footage import FPS
from crossfade.data.sound import decoded

ENCODERS: dict[str, dict[str, str]] = {  # the first that this FFmpeg has
    "libx264": {"crf": "18", "preset": "veryfast"},
    "mpeg4": {"flags": "+qscale", "global_quality": "354"},  # 3 · 118: the third best quality
}
KEPT_RATES = (44_100, 48_000)  # hertz; a sound of any other rate becomes the last
BITS = 96_000  # a second and channel
BT601, BT709 = 6, 2  # as H.264 counts matrices and primaries; 2: unspecified
MODE = 0o644  # mkstemp makes files that only their owner can read


def encoder() -> str:
    """What pictures are coded by: H.264, or MPEG-4 where PyAV was built without x264. UserError where it has neither."""
    found = next((name for name in ENCODERS if name in codecs_available), None)
    if found is None:
        raise UserError(f"this PyAV's FFmpeg has none of {', '.join(ENCODERS)}, so it cannot write films; pip install av")
    return found


def check_out(out: Path) -> None:
    """UserError where no film can be written to this path."""
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out}: a film is written as .mp4; found {out.suffix or 'no suffix'}")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a file in it")


class SoundTrack:
    """The sound of a file in one or two channels, from second 0 of the file on, cut or filled with silence to `seconds`."""

    def __init__(self, path: Path, seconds: Fraction):
        with opened(path) as container:
            stream = sound_track(path, container)
            self.layout = "mono" if stream.channels == 1 else "stereo"
            self.rate = stream.rate if stream.rate in KEPT_RATES else KEPT_RATES[-1]
        self.length = round(seconds * self.rate)
        self._blocks, self._left, self._done = self._cut(path), np.empty((len(self), 0), np.float32), 0

    def __len__(self) -> int:
        return ("mono", "stereo").index(self.layout) + 1

    def until(self, second: Fraction | None) -> Iterator[av.AudioFrame]:
        """What comes next, up to this second; None: all the rest."""
        stop = self.length if second is None else min(round(second * self.rate), self.length)
        while self._done < stop:
            block = self._left if self._left.shape[1] else next(self._blocks, None)
            block = np.zeros((len(self), stop - self._done), np.float32) if block is None else block
            piece, self._left = block[:, : stop - self._done], block[:, stop - self._done :]
            yield self._frame(piece)

    def _frame(self, piece: np.ndarray) -> av.AudioFrame:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self._done, Fraction(1, self.rate)
        self._done += piece.shape[1]
        return frame

    def _cut(self, path: Path) -> Iterator[np.ndarray]:
        """Blocks (channels, N) as they are decoded; first the silence before the track begins."""
        with opened(path) as container:
            stream, gap = sound_track(path, container), None
            for _, alike in groupby(
                decoded(container, stream), key=lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)
            ):
                resampler = AudioResampler("fltp", self.layout, self.rate)
                for frame in alike:
                    if gap is None and (gap := self._gap(frame, zero(container))):
                        yield np.zeros((len(self), gap), np.float32)
                    frame.pts = None
                    yield from (each.to_ndarray() for each in resampler.resample(frame))
                yield from (each.to_ndarray() for each in resampler.resample(None))

    def _gap(self, frame: av.AudioFrame, origin: Fraction) -> int:
        if frame.pts is None or frame.time_base is None:
            return 0
        return min(max(round((frame.pts * frame.time_base - origin) * self.rate), 0), self.length)


class Film:
    """Pictures uint8 (H, W, 3) in, one after the other; the sound goes along with them."""

    def __init__(self, container: Any, size: tuple[int, int], sound: SoundTrack):
        height, width = size
        self._container, self._sound, self._shown, self._to_yuv = container, sound, 0, VideoReformatter()
        self._even = (height % 2, width % 2)
        name = encoder()
        self._pictures = container.add_stream(name, rate=FPS, options=dict(ENCODERS[name]))
        self._pictures.height, self._pictures.width = height + self._even[0], width + self._even[1]
        self._pictures.pix_fmt, self._pictures.codec_context.time_base = "yuv420p", Fraction(1, FPS)
        self._pictures.codec_context.colorspace, self._pictures.codec_context.color_range = BT601, ColorRange.MPEG
        self._heard = container.add_stream("aac", rate=sound.rate, layout=sound.layout)
        self._heard.bit_rate = BITS * len(sound)

    def show(self, picture: np.ndarray) -> None:
        """The next picture; an odd side repeats its last row or column, for H.264 halves the colours."""
        if any(self._even):
            picture = np.pad(picture, ((0, self._even[0]), (0, self._even[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = self._to_yuv.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = self._shown, Fraction(1, FPS)
        self._container.mux(self._pictures.encode(frame))
        self._shown += 1
        self._say(Fraction(self._shown, FPS))

    def end(self) -> None:
        """All of the sound that is left, and what the encoders still hold."""
        self._say(None)
        self._container.mux(self._pictures.encode(None))
        self._container.mux(self._heard.encode(None))

    def _say(self, second: Fraction | None) -> None:
        for frame in self._sound.until(second):
            self._container.mux(self._heard.encode(frame))


@contextmanager
def filming(out: Path, *, size: tuple[int, int], sound: SoundTrack, about: Mapping[str, str]) -> Iterator[Film]:
    """A film of pictures (height, width) = `size` beside `out` that takes its place once the block ends well; otherwise nothing is left.

    `about`: title and comment, in the file's metadata.
    """
    check_out(out)
    with _beside(out) as temporary:
        container = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
        try:
            container.metadata.update({name: text.encode(errors="replace").decode() for name, text in about.items()})
            film = Film(container, size, sound)
            yield film
            film.end()
        except BaseException:
            with suppress(FFmpegError, OSError):
                container.close()
            raise
        container.close()


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A path for a file that is moved to `out` at the end. What FFmpeg and the disk say against it becomes one line."""
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(MODE)
        temporary.replace(out)
    except (FFmpegError, OSError) as error:
        raise UserError(f"{out}: the film cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
