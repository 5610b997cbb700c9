"""A face speaks: windows over a sound, pictures there and back, and the mouths that a network makes, blended into a film."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from crossfade.clip import UserError
from crossfade.data.face.crop import Crop, as_picture, cut, face_input, inner, paste
from crossfade.data.face.footage import BLOCK, RATE, Footage
from crossfade.data.face.prepared import Talk, read
from crossfade.data.face.sound_rows import SoundRows, windows
from crossfade.data.face.track import Track, track
from crossfade.data.sound import sound_blocks
from crossfade.face.film import SoundTrack, check_out, encoder, filming
from crossfade.screen import clock
from crossfade.signals import stopping

if TYPE_CHECKING:
    from crossfade.deploy.runner import Runner
    from crossfade.screen import Terminal

T = TypeVar("T")
SILENT = 1e-3  # of full scale: what no sample of a silent file exceeds
MADE = "made by Crossfade"


@dataclass(frozen=True)
class Speaker:
    """A network that makes mouths: {"audio" (B, 1, 20, dim), "face" (B, 6, S, S)} -> {"output" (B, 3, S, S)}, the crop and the rows of
    sound it learnt with, and the name of the run or file it is from.
    """

    runner: Runner
    crop: Crop
    features: SoundRows
    made_from: str


@dataclass(frozen=True)
class Driven:
    """A film: its pictures, the seconds that rendering took, pictures a second, and seconds of work for a second of film."""

    frames: int
    seconds: float
    fps: float
    real_time_factor: float
    out: Path

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out)}


class Heard(NamedTuple):
    """How long a sound is, at 16 kHz, and how loud its loudest sample."""

    samples: int
    loudest: float

    @property
    def frames(self) -> int:
        """The pictures that cover it."""
        return -(-self.samples // BLOCK)


class Shot(NamedTuple):
    """A picture, the box of its face, and the inner square that shows whose face it is."""

    picture: np.ndarray
    box: Sequence[float]
    identity: np.ndarray


@dataclass(frozen=True)
class Target:
    """Whose mouth is to move: pictures, a box (x0, y0, x1, y1) each, and which of them may be used."""

    footage: Footage
    boxes: np.ndarray
    kept: np.ndarray

    @cached_property
    def usable(self) -> list[int]:
        return [int(k) for k in np.flatnonzero(self.kept)]

    def shots(self, crop: Crop) -> Iterator[Shot]:
        """The usable pictures there and back without an end. Each knows the face by the first of them, that one by the last."""
        first, last = (self._inner(k, crop) for k in (self.usable[0], self.usable[-1]))
        for k, picture in self._walk():
            yield Shot(picture, self.boxes[k].tolist(), last if k == self.usable[0] else first)

    def _inner(self, k: int, crop: Crop) -> np.ndarray:
        return inner(cut(next(self.footage.frames(k, k + 1)), self.boxes[k].tolist(), crop), crop)

    def _walk(self) -> Iterator[tuple[int, np.ndarray]]:
        """0 1 2 3 2 1 0 1 …, decoded in stretches."""
        first, last = self.usable[0], self.usable[-1]
        while True:
            yield from self._used(zip(range(first, last + 1), self.footage.frames(first, last + 1), strict=True))
            yield from self._used(zip(range(last - 1, first, -1), self.footage.frames(first + 1, last, backwards=True), strict=True))

    def _used(self, pictures: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        return ((k, picture) for k, picture in pictures if self.kept[k])


def drive(
    speaker: Speaker,
    audio: Path,
    face: Path,
    out: Path,
    *,
    detector: Path | None = None,
    label: str | None = "synthetic",
    batch: int = 8,
    screen: Terminal,
) -> Driven:
    """A film `out` (.mp4) in which `face` says `audio`, as long as the sound. Memory does not grow with its length.

    `face`: a video, a picture, a folder of pictures (these need `detector`), a folder that `face prepare` wrote (its first clip), or one
    of that folder's clips. `label` begins the comment in the file's metadata; None leaves it away, but not that Crossfade made it.
    Raises UserError, Unreadable, KeyboardInterrupt at SIGINT or SIGTERM; then nothing is written.
    """
    audio, face, out = Path(audio), Path(face), Path(out)
    about = _about(audio, out, speaker.made_from, label)
    check_out(out)
    for given in (audio, face):
        if out.exists() and given.exists() and out.samefile(given):
            raise UserError(f"{out}: is what was given, and would be replaced by the film; choose another --out")
    heard, target = listen(audio), open_target(face, detector, screen)
    _remark(audio, heard, target, screen)
    begin = time.perf_counter()
    sound = SoundTrack(audio, Fraction(heard.samples, RATE))
    with (
        stopping() as stop,
        screen.counting("drive", heard.frames) as step,
        filming(out, size=target.footage.size, sound=sound, about=about) as film,
        closing(rendered(speaker, audio, heard, target, batch)) as made,
    ):
        for pictures in made:
            for picture in pictures:
                film.show(picture)
            step(len(pictures))
            if stop():
                raise KeyboardInterrupt
    seconds = time.perf_counter() - begin
    done = Driven(heard.frames, seconds, heard.frames / seconds, seconds * RATE / heard.samples, out)
    screen.say(f"{out}: {done.frames} pictures in {clock(seconds)}, {done.fps:.1f} a second, real-time factor {done.real_time_factor:.2f}")
    return done


def rendered(speaker: Speaker, audio: Path, heard: Heard, target: Target, batch: int) -> Generator[list[np.ndarray], None, None]:
    """Whole pictures with the mouths that the network makes, up to `batch` at a time; reading, network and blending side by side."""
    rows = windows(speaker.features.pieces(sound_blocks(audio, rate=RATE), heard.frames))
    with ahead(_asked(target.shots(speaker.crop), rows, speaker.crop, batch)) as asked, ahead(_answered(speaker, asked)) as answered:
        for shots, mouths in answered:
            yield [paste(shot.picture, shot.box, mouth, speaker.crop) for shot, mouth in zip(shots, mouths, strict=True)]


def _asked(shots: Iterator[Shot], rows: Iterator[np.ndarray], crop: Crop, batch: int) -> Iterator[tuple[list[Shot], dict[str, np.ndarray]]]:
    """Shots, and what the network is to be given for them, until there is no more sound."""
    while heard := list(islice(rows, batch)):
        seen = list(islice(shots, len(heard)))
        faces = [face_input(shot.identity, inner(cut(shot.picture, shot.box, crop), crop), crop) for shot in seen]
        yield seen, {"audio": np.stack(heard)[:, None], "face": np.stack(faces)}


def _answered(speaker: Speaker, asked: Iterator[tuple[list[Shot], dict[str, np.ndarray]]]) -> Iterator[tuple[list[Shot], np.ndarray]]:
    """Shots with their inner squares uint8 (B, S, S, 3)."""
    for shots, arrays in asked:
        yield shots, as_picture(speaker.runner(arrays)["output"])


@contextmanager
def ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same items, the next one made by a thread while this one is used."""
    end: Any = object()
    with ThreadPoolExecutor(1) as thread:

        def taken() -> Iterator[T]:
            coming = thread.submit(next, items, end)
            while (item := coming.result()) is not end:
                coming = thread.submit(next, items, end)
                yield item

        yield taken()


def listen(audio: Path) -> Heard:
    """Read the sound once, so that what is wrong with it is said before anything is made. Raises Unreadable."""
    samples, loudest = 0, 0.0
    for block in sound_blocks(audio, rate=RATE):
        samples, loudest = samples + len(block), max(loudest, float(np.abs(block).max(initial=0.0)))
    return Heard(samples, loudest)


def open_target(face: Path, detector: Path | None, screen: Terminal) -> Target:
    """Pictures and boxes: prepared ones as they are, others found now. UserError where no picture can be used."""
    talk = _prepared(face, screen)
    return _talking(talk) if talk else _followed(face, detector, screen)


def _prepared(face: Path, screen: Terminal) -> Talk | None:
    """The first clip of a prepared folder, which is said where there are more, or the one that the path names."""
    if (face / "prepared.json").is_file():
        first, *more = read(face).talks
        if more:
            screen.say(f"the pictures of {first.clip}, the first of {len(more) + 1} clips; {face / 'clips'}/NAME takes another")
        return first
    if face.parent.name == "clips" and (face.parent.parent / "prepared.json").is_file():
        found = [talk for talk in read(face.parent.parent).talks if talk.clip == face.name]
        if not found:
            raise UserError(f"{face}: no clip of that name was kept in {face.parent.parent}; clips.csv lists those that were")
        return found[0]
    return None


def _talking(talk: Talk) -> Target:
    footage = Footage(talk.video)
    if footage.count != len(talk):
        raise UserError(f"{talk.video}: has {footage.count} pictures, had {len(talk)} when it was prepared; prepare it again")
    return Target(footage, np.asarray(talk.boxes), np.asarray(talk.kept))


def _followed(face: Path, detector: Path | None, screen: Terminal) -> Target:
    """Pictures in which the face is now looked for."""
    footage = Footage(face)
    if detector is None:
        raise UserError(f"{face}: finding the face in it needs --detector, a YuNet file (.onnx); or give a folder of `face prepare`")
    found = _track(footage, detector, screen)
    lost = Counter[str]()
    for stretch in found.dropped:
        lost[stretch.why] += stretch.last - stretch.first + 1
    reasons = ", ".join(f"{count} {why}" for why, count in lost.items())
    if not found.kept.any():
        raise UserError(f"{face}: none of its {footage.count} pictures can be used: {reasons}")
    for note in [*found.notes, *([f"left out {reasons}, of {footage.count} pictures"] if reasons else [])]:
        screen.say(f"{face}: {note}")
    return Target(footage, found.boxes, found.kept)


def _track(footage: Footage, detector: Path, screen: Terminal) -> Track:
    with screen.counting("follow", footage.count) as step:
        try:
            return track(footage.frames(), detector, advance=step)
        except UserError as error:
            raise error if not str(error).startswith("no face") else UserError(f"{footage.path}: {error}") from None


def _about(audio: Path, out: Path, made_from: str, label: str | None) -> dict[str, str]:
    """Title and comment of the film. UserError where the label says nothing."""
    if label is not None and not label.strip():
        raise UserError("--label: is empty; give a word that says what this film is, or --no-label")
    words = f"the mouth in this film was {MADE} from {audio.name} with {made_from}"
    return {"title": f"{out.stem} ({label})" if label else out.stem, "comment": f"{label}: {words}" if label else words}


def _remark(audio: Path, heard: Heard, target: Target, screen: Terminal) -> None:
    height, width = target.footage.size
    if heard.loudest < SILENT:
        screen.warn(f"{audio}: is silent; the mouth will hardly move")
    if height % 2 or width % 2:
        screen.say(f"the film is {width + width % 2} × {height + height % 2}: H.264 needs even sides, the last row or column is repeated")
    if encoder() != "libx264":
        screen.say(f"this PyAV has no x264: pictures are coded by {encoder()}")
