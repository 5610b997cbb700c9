"""Long recordings: a window slides over each, a model judges it, and what it hears becomes events with a beginning and an end."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from crossfade import judge, settings
from crossfade.clip import Clip, Unreadable, UserError
from crossfade.data.inputs import clips_of
from crossfade.data.sliding import slide
from crossfade.data.sound import sound_blocks
from crossfade.deploy import bundle as bundles
from crossfade.deploy import exported, operation, sidecar
from crossfade.evaluation.events import Event
from crossfade.evaluation.timeline import Track, envelope, timeline
from crossfade.evaluation.writing import whole
from crossfade.run import open_run
from crossfade.screen import Terminal

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.deploy.operation import Operation
    from crossfade.run import Opened

COLUMNS: tuple[str, ...] = ("clip", "start", "end", "class", "probability", "error")
HALF = 0.5  # the threshold where none was chosen on validation clips
BATCH = 64  # windows judged at a time
NEARLY = 0.95  # of a window, that a stream takes all the same
STROKES = 50  # columns a second of a picture's waveform
EXACT = 6  # decimals of a second: two edges that agree so far are one


def events(
    folder: Path,
    inputs: Sequence[Path],
    *,
    window: float,
    hop: float | None = None,
    threshold: float | None = None,
    background: str | None = None,
    silence: float | None = 30.0,
    picture: Path | None = None,
    screen: Terminal | None = None,
) -> Iterator[dict[str, Any]]:
    """One row an event heard in files, folders or CSVs: clip, start and end in seconds of the file, class and its highest probability.

    Windows of `window` seconds every `hop` (None = half a window) are judged for the first target; where they overlap, probabilities are
    averaged. What is `silence` decibels below the loudest window of its file is not judged and counts as `background` (None = the most
    frequent class of training). An event lasts as long as its class keeps above `threshold`: None = the one that validation clips chose,
    or a half. `picture`: a folder for one SVG a file. A file that cannot be read has a row with its error; raises UserError, after the
    last row, where none can be.
    """
    screen, hop = screen or Terminal(), window / 2 if hop is None else hop
    _check(window, hop, threshold, silence)
    opened = open_run(folder, alone=True)
    first = opened.recipe.targets[0]
    if opened.desk.several(first):
        raise UserError(f"{folder}: --window follows one class at a time, but a clip may have several of {first}; put another head first")
    ear = _ear(folder, opened, screen, window=window, hop=hop, threshold=threshold, background=background, silence=silence)
    corpus, failed, count = clips_of(inputs), list[tuple[str, str]](), 0
    album = Album(picture) if picture else None
    with screen.counting("listening", len(corpus.clips)) as step:
        for clip in corpus.clips:
            try:
                heard = ear.listen(clip, drawn=album is not None)
            except Unreadable as error:
                failed.append((error.path, error.reason))
                yield {"clip": clip.id, "error": str(error)}
            else:
                found = ear.events(heard)
                count += len(found)
                yield from (_row(clip, event) for event in found)
                if album:
                    album.keep(clip, ear, heard, found)
            step()
    missing = [(path, why) for path, why in corpus.skipped if not why.startswith(judge.NOTE)]
    yield from ({"clip": path, "error": why} for path, why in missing)
    screen.left_out([*failed, *missing])
    if len(failed) == len(corpus.clips):
        raise UserError("none of these clips can be read")
    read = len(corpus.clips) - len(failed)
    screen.say(f"{count or 'no'} {'event' if count == 1 else 'events'} in {read} {'recording' if read == 1 else 'recordings'}")


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV; without any the header alone."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(clip: Clip, event: Event) -> dict[str, Any]:
    times = {"start": round(event.start, 3), "end": round(event.end, 3)}
    return {"clip": clip.id, **times, "class": event.label, "probability": round(event.probability, 6)}


def _check(window: float, hop: float, threshold: float | None, silence: float | None) -> None:
    if not 0 < hop <= window:
        raise UserError(f"--window {window:g} --hop {hop:g}: 0 < hop ≤ window is needed, or some of a recording is never heard")
    if threshold is not None and not 0 < threshold < 1:
        raise UserError(f"--threshold: found {threshold:g}; it lies between 0 and 1")
    if silence is not None and silence <= 0:
        raise UserError(f"--silence: found {silence:g}; decibels below the loudest window, above 0")


class Window(NamedTuple):
    """`start` and `end` in seconds of the file; `sound` by its rate in hertz."""

    start: float
    end: float
    sound: dict[int, np.ndarray]


@dataclass
class Passing:
    """What is noted of the windows of a recording as they go by."""

    silence: float | None
    spans: list[tuple[float, float]] = field(default_factory=list)
    powers: list[float] = field(default_factory=list)
    judged: list[int] = field(default_factory=list)
    _loudest: float = 0.0

    def loud(self, window: Window) -> bool:
        """Whether it may be loud enough; a louder one may still come, after which it is not."""
        power = float(np.square(next(iter(window.sound.values())), dtype=np.float64).mean())
        self._loudest = max(self._loudest, power)
        self.spans.append((window.start, window.end))
        self.powers.append(power)
        if self._enough(power):
            self.judged.append(len(self.powers) - 1)
        return self._enough(power)

    def silent(self) -> np.ndarray:
        """(windows,) bool, known at the end."""
        return ~np.array([self._enough(power) for power in self.powers])

    def _enough(self, power: float) -> bool:
        return self.silence is None or (power > 0 and power >= self._loudest * 10 ** (-self.silence / 10))


@dataclass(frozen=True)
class Heard:
    """How probable each class was along a recording: between neighbouring `edges` (M + 1,) seconds the mean of all windows over it."""

    edges: np.ndarray
    probability: np.ndarray  # (M, C)
    listened: np.ndarray  # (M,) bool: whether any window over it was judged
    sound: np.ndarray  # (2, K), the envelope, empty where no picture is wanted

    def stretches(self, wanted: np.ndarray) -> list[tuple[int, int]]:
        """Where (M,) bool holds without a break: (first, behind the last)."""
        steps = np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]]))
        return list(zip((steps == 1).nonzero()[0].tolist(), (steps == -1).nonzero()[0].tolist(), strict=True))


@dataclass(frozen=True)
class Ear:
    """A model, and what it listens for: a `threshold` for each class but the background."""

    opened: Opened
    streams: Mapping[str, Any]  # those of sound
    classes: list[str]
    background: str
    threshold: dict[str, float]
    window: float
    hop: float
    silence: float | None

    def listen(self, clip: Clip, *, drawn: bool = False) -> Heard:
        """Judge a recording window by window, reading it once; memory does not grow with it. Raises Unreadable."""
        path = self.opened.desk.reader.source(clip, next(iter(self.streams)))
        if path is None:
            raise Unreadable(clip.id, "has no sound")
        passing, outline = Passing(self.silence), Outline()
        try:
            answers = self._answers(window for window in self._windows(path, clip.span, outline if drawn else None) if passing.loud(window))
        except UnicodeError:
            raise Unreadable(path, "its name is not valid Unicode; rename it") from None
        shares = np.zeros((len(passing.spans), len(self.classes)))
        shares[:, self.classes.index(self.background)] = 1.0
        silent = passing.silent()
        known = np.array(passing.judged, dtype=int)
        loud = ~silent[known]
        shares[known[loud]] = answers[loud]
        edges, means = averaged(passing.spans, np.column_stack([shares, ~silent]))
        return Heard(edges, means[:, :-1], means[:, -1] > 0, outline.whole())

    def events(self, heard: Heard) -> list[Event]:
        """By their beginning."""
        found = [event for label in self.threshold for event in self._of_class(heard, label)]
        return sorted(found, key=lambda event: (event.start, event.end))

    def _of_class(self, heard: Heard, label: str) -> Iterator[Event]:
        probability = heard.probability[:, self.classes.index(label)]
        for first, last in heard.stretches(probability >= self.threshold[label]):
            yield Event(float(heard.edges[first]), float(heard.edges[last]), label, float(probability[first:last].max()))

    def _windows(self, path: Path, span: tuple[float, float | None], outline: Outline | None) -> Iterator[Window]:
        """Read once for every rate that the streams want, which is nearly always one."""
        rates = list(dict.fromkeys(stream.spec.rate for stream in self.streams.values()))
        blocks = [sound_blocks(path, rate=rate, start=span[0], end=span[1]) for rate in rates]
        if outline:
            blocks[0] = outline.along(blocks[0], rates[0])
        slides = [slide(each, round(self.window * rate), self.hop * rate) for each, rate in zip(blocks, rates, strict=True)]
        for sliding in zip(*slides, strict=False):
            first, sound = sliding[0]
            begin = span[0] + first / rates[0]
            yield Window(begin, begin + len(sound) / rates[0], {rate: each for rate, (_, each) in zip(rates, sliding, strict=True)})

    def _answers(self, windows: Iterator[Window]) -> np.ndarray:
        """(windows, C) probabilities of the first target."""
        batches, target = self._batches(windows), self.opened.recipe.targets[0]
        first = next(batches, None)
        if first is None:
            return np.zeros((0, len(self.classes)))
        _, outputs = judge.answers(self.opened.model, chain([first], batches), self.opened.desk.device)
        return outputs[target].double().softmax(-1).numpy()

    def _batches(self, windows: Iterator[Window]) -> Iterator[Named]:
        while some := list(islice(windows, BATCH)):
            batch = {"index": torch.arange(len(some))}
            for name, stream in self.streams.items():
                finished = [stream.finish(stream.chosen(window.sound[stream.spec.rate])) for window in some]
                batch[name], batch[f"{name}.mask"] = (torch.stack(parts) for parts in zip(*finished, strict=True))
            yield batch


def averaged(spans: Sequence[tuple[float, float]], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (N, C) of windows that overlap -> edges (M + 1,) and, between them, the mean of the windows over each part, (M, C)."""
    starts, ends = np.round(np.array(spans).reshape(-1, 2), EXACT).T
    edges = np.unique(np.concatenate([starts, ends]))
    sums = np.zeros((len(edges), values.shape[1] + 1))
    counted = np.column_stack([values, np.ones(len(values))])
    np.add.at(sums, np.searchsorted(edges, starts), counted)
    np.subtract.at(sums, np.searchsorted(edges, ends), counted)
    running = np.cumsum(sums, axis=0)[:-1]
    return edges, np.round(running[:, :-1] / running[:, -1:].round(), 12)


@dataclass
class Outline:
    """The envelope of a sound, drawn as it goes by."""

    _parts: list[np.ndarray] = field(default_factory=lambda: [np.zeros((2, 0))])

    def along(self, blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        """The same blocks; a second at a time is drawn."""
        waiting = np.empty(0, np.float32)
        for block in blocks:
            yield block
            waiting = np.concatenate([waiting, block])
            while len(waiting) >= rate:
                self._parts.append(envelope(waiting[:rate], STROKES))
                waiting = waiting[rate:]
        self._parts.append(envelope(waiting, max(round(len(waiting) / rate * STROKES), 1)))

    def whole(self) -> np.ndarray:
        return np.concatenate(self._parts, axis=1)


@dataclass
class Album:
    """A folder of pictures, one a recording."""

    folder: Path
    _names: set[str] = field(default_factory=set)

    def keep(self, clip: Clip, ear: Ear, heard: Heard, found: Sequence[Event]) -> None:
        """Seconds count from where the clip begins in its file."""
        begin, edges = clip.span[0], heard.edges - clip.span[0]
        moved = [Event(event.start - begin, event.end - begin, event.label, event.probability) for event in found]
        skipped = [(float(edges[first]), float(edges[last])) for first, last in heard.stretches(~heard.listened)]
        with whole(self.folder / self._name(clip)) as file:
            seconds = float(edges[-1])
            file.write(timeline(heard.sound, seconds, moved, track=_track(ear, heard, edges), skipped=skipped, title=Path(clip.id).name))

    def _name(self, clip: Clip) -> str:
        """Of the file, numbered where two are called alike."""
        name = Path(clip.id).name
        count = next(count for count in range(1, len(self._names) + 2) if _numbered(name, count) not in self._names)
        self._names.add(_numbered(name, count))
        return _numbered(name, count)


def _numbered(name: str, count: int) -> str:
    return f"{name}.svg" if count == 1 else f"{name}-{count}.svg"


def _track(ear: Ear, heard: Heard, edges: np.ndarray) -> Track:
    """How probable anything but the background was, where it was listened for."""
    times, at = ((edges[1:] + edges[:-1]) / 2)[heard.listened], 1 - heard.probability[heard.listened, ear.classes.index(ear.background)]
    alone = len(ear.threshold) == 1
    label = next(iter(ear.threshold)) if alone else f"not {ear.background}"
    return Track(times.tolist(), at.tolist(), label, next(iter(ear.threshold.values())) if alone else None)


def _ear(
    folder: Path,
    opened: Opened,
    screen: Terminal,
    *,
    window: float,
    hop: float,
    threshold: float | None,
    background: str | None,
    silence: float | None,
) -> Ear:
    classes = list(opened.desk.classes[opened.recipe.targets[0]])
    streams = {name: stream for name, stream in opened.desk.reader.streams.items() if hasattr(stream, "chosen")}
    if not streams:
        raise UserError(f"{folder}: it sees {' and '.join(opened.desk.reader.streams)}; --window is for models that hear")
    if others := [name for name in opened.desk.reader.streams if name not in streams]:
        screen.warn(f"{folder} also sees {' and '.join(others)}; windows are judged by {' and '.join(streams)} alone")
    _warn_of_the_unheard(streams, window, hop, screen)
    known, domains = _operation(folder, opened), opened.recipe.data.domains is not None
    quiet = _background(folder, classes, background, known)
    found = {name: _threshold(name, threshold, known, domains=domains) for name in classes if name != quiet}
    shown = ", ".join(f"{name} from {at:.3g}" for name, (at, _) in found.items())
    screen.say(f"listening for {shown} ({next(iter(found.values()))[1]}); background: {quiet}")
    return Ear(opened, streams, classes, quiet, {name: at for name, (at, _) in found.items()}, window, hop, silence)


def _warn_of_the_unheard(streams: Mapping[str, Any], window: float, hop: float, screen: Terminal) -> None:
    for name, stream in streams.items():
        rate = stream.spec.rate
        seconds = len(stream.chosen(np.zeros(round(window * rate), np.float32))) / rate
        if seconds < window * NEARLY:
            screen.warn(f"--window {window:g}: stream {name} takes {seconds:g} s of each window; --window {seconds:g} would use all of it")


def _operation(folder: Path, opened: Opened) -> Operation | None:
    if exported.is_exported(folder):
        return exported.read(folder).about.operation
    return operation.of_run(folder, domains=opened.recipe.data.domains is not None)


def _background(folder: Path, classes: list[str], asked: str | None, known: Operation | None) -> str:
    """As asked, or the most frequent class of training."""
    if asked is not None:
        if asked not in classes:
            raise UserError(f"--background: found {asked!r}; {settings.nearest(asked, classes)}")
        return asked
    counts = known.clips if known else {}
    most = [name for name in classes if counts.get(name, 0) == max(counts.values(), default=-1)]
    if len(most) != 1:
        place = sidecar.beside(folder).name if exported.is_exported(folder) else bundles.NOTES
        why = f"{' and '.join(most)} have as many training clips" if most else f"{place} does not say how many clips each class had"
        raise UserError(f"{folder}: {why}; say which class is no event: --background CLASS, one of {', '.join(classes)}")
    return most[0]


def _threshold(name: str, asked: float | None, known: Operation | None, *, domains: bool) -> tuple[float, str]:
    """As asked, or as validation clips chose it for this class, or a half; and which of these it is."""
    if asked is not None:
        return asked, "as asked"
    if known and name in known.threshold:
        return known.threshold[name], "chosen on validation clips"
    return HALF, f"a half{'' if known is None else WHY_HALF[domains]}"


WHY_HALF = {True: "; the validation clips with labels are of another domain", False: ", none was chosen on validation clips"}
