"""Videos to prepared clips: follow the face, cut it out of every picture, make the rows of sound; each clip whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from crossfade.clip import Unreadable, UserError
from crossfade.data.face.crop import Crop, cut
from crossfade.data.face.footage import BLOCK, Footage
from crossfade.data.face.prepared import Record, done, note, writing
from crossfade.data.face.sound_rows import MORE, SEEN
from crossfade.data.face.track import Rules, Track, track
from crossfade.data.face.videos import Video
from crossfade.store import fingerprint

THREADS = 2  # clips at a time; decoding and the detector release the interpreter lock
SILENCE = 0.001  # root mean square of 40 ms
FEWEST = SEEN  # pictures of a clip: what one window of sound spans

Advance = Callable[[], object]


class Features(Protocol):
    """What makes rows of sound."""

    @property
    def dim(self) -> int: ...
    def __call__(self, sound: np.ndarray, frames: int) -> np.ndarray: ...


class Stopped(Exception):
    """Somebody interrupted: the clips under way are given up."""


@dataclass(frozen=True)
class Preparing:
    """What is done to every video. `on_picture` is called twice a picture, `on_clip` once a clip."""

    crop: Crop
    features: Features
    detector: Path
    rules: Rules = field(default_factory=Rules)
    on_picture: Advance = lambda: None
    on_clip: Advance = lambda: None


def prepare(videos: Sequence[Video], folder: Path, how: Preparing) -> list[Record]:
    """What came of each video, in order; those that `folder` holds already are not done again. An error of one does not stop the others."""
    stop = threading.Event()

    def one(video: Video) -> Record:
        record = _prepared(video, folder, replace(how, on_picture=lambda: _go_on(stop, how.on_picture)))
        how.on_clip()
        return record

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(one, videos))
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _go_on(stop: threading.Event, advance: Advance) -> None:
    if stop.is_set():
        raise Stopped
    advance()


def _prepared(video: Video, folder: Path, how: Preparing) -> Record:
    record = Record(video.clip, video.group, str(video.path.absolute()), "")
    try:
        record = replace(record, source=fingerprint(video.path))
    except OSError as error:
        return replace(record, refused=(error.strerror or "cannot be opened").lower())
    before = done(folder, video.clip, record.source)
    if before:
        return replace(before, group=video.group, video=record.video)
    with writing(folder, video.clip) as place:
        try:
            record = _taken(record, place, how)
        except UserError as error:
            record = replace(record, refused=error.reason if isinstance(error, Unreadable) else str(error))
        return note(place, record)


def _taken(record: Record, place: Path, how: Preparing) -> Record:
    """All files of a clip but clip.json. UserError: no sound, no face, too few pictures."""
    footage = Footage(record.video)
    sound = footage.sound()
    if sound is None:
        raise UserError("no sound in this file")
    _enough(footage.count, f"only {footage.count} pictures at 25 a second")
    found = track(footage.frames(), how.detector, rules=how.rules, advance=how.on_picture)
    frames = len(found.kept)
    record = replace(record, frames=frames, dropped=found.dropped, notes=found.notes, silent=silent(sound, frames))
    kept = int(found.kept.sum())
    if kept < FEWEST:
        return replace(record, refused=f"only {kept} of {frames} pictures can be used, {FEWEST} are needed")
    _write(place, footage, found, how)
    np.save(place / "rows.npy", _rows(how.features, sound, frames))
    return replace(record, kept=kept)


def _enough(frames: int, found: str) -> None:
    if frames < FEWEST:
        raise UserError(f"{found}, {FEWEST} are needed")


def _write(place: Path, footage: Footage, found: Track, how: Preparing) -> None:
    shape = (len(found.kept), how.crop.outer, how.crop.outer, 3)
    faces = np.lib.format.open_memmap(place / "faces.npy", mode="w+", dtype=np.uint8, shape=shape)
    for frame, picture in zip(range(len(faces)), footage.frames(), strict=True):
        faces[frame] = cut(picture, found.boxes[frame].tolist(), how.crop)
        how.on_picture()
    faces.flush()
    np.save(place / "boxes.npy", found.boxes)
    np.save(place / "kept.npy", found.kept)


def _rows(features: Features, sound: np.ndarray, frames: int) -> np.ndarray:
    rows = features(sound, frames)
    if rows.shape != (frames + MORE, features.dim):
        raise UserError(f"its sound makes rows {rows.shape}, not {(frames + MORE, features.dim)}")
    return rows.astype(np.float32, copy=False)


def silent(sound: np.ndarray, frames: int) -> float:
    """The share of the pictures' 40 ms of sound that hold none."""
    line = np.zeros(frames * BLOCK, np.float64)
    line[: len(sound)] = sound[: len(line)]
    return float((np.sqrt((line.reshape(frames, BLOCK) ** 2).mean(axis=1)) < SILENCE).mean())
