"""A recording as a picture: the envelope of its sound, the events under it, and how probable they were along the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from crossfade.evaluation.events import Event
from crossfade.evaluation.figures import tag, ticks

WIDTH, LEFT, RIGHT = 1200.0, 64.0, 16.0  # SVG units
SOUND, STRIP, TRACK, GAP, HEAD = 64.0, 16.0, 44.0, 40.0, 40.0  # heights of a row's parts, between rows, and above them all
COLUMNS = 1000  # of an envelope in a row
ROW_SECONDS = (10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
MOST_ROWS = 12
SHORTEST = 1e-3  # seconds that a picture shows
PAPER, INK, SOFT, FAINT, LINE = "#ffffff", "#20252b", "#646c74", "#e5e1d8", "#1f6f8b"
COLOURS = ("#d46034", "#1f6f8b", "#5b8c2a", "#8a4fa3", "#b8860b", "#3d5a9e", "#b3261e", "#4a7c72")
LETTERS = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"


@dataclass(frozen=True)
class Track:
    """The probability of one class at these times (seconds), and the threshold it is held against."""

    times: Sequence[float]
    probability: Sequence[float]
    label: str = ""
    threshold: float | None = None


def envelope(samples: np.ndarray, columns: int) -> np.ndarray:
    """Samples (N,) -> the lowest and the highest of each of at most `columns` stretches, (2, K); those of parts can be joined."""
    if not len(samples):
        return np.zeros((2, 0))
    starts = np.unique(np.linspace(0, len(samples), min(columns, len(samples)), endpoint=False).astype(np.int64))
    return np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)])


def row_seconds(seconds: float) -> float:
    """How long a row is, so that there are at most twelve: a whole recording where it is short."""
    fitting = next((length for length in ROW_SECONDS if seconds <= length * MOST_ROWS), math.ceil(seconds / MOST_ROWS))
    return float(min(fitting, seconds))


def timeline(
    sound: np.ndarray,
    seconds: float,
    events: Sequence[Event],
    *,
    track: Track | None = None,
    skipped: Sequence[tuple[float, float]] = (),
    title: str = "",
) -> Markup:
    """One SVG that stands alone, white in every theme.

    `sound`: the envelope (2, K) of the whole recording, evenly spaced. `skipped`: (start, end) of what was not listened to, drawn grey.
    """
    seconds = max(seconds, SHORTEST)
    length = row_seconds(seconds)
    rows = max(1, math.ceil(seconds / length - 1e-9))
    tall = SOUND + STRIP + (TRACK if track else 0.0) + GAP
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(sorted({event.label for event in events}))}
    stage = Stage(sound, seconds, length, max(float(np.abs(sound).max(initial=0.0)), 1e-9), colours)
    drawn = [_row(stage, number, HEAD + number * tall, events, track, skipped) for number in range(rows)]
    height = HEAD + rows * tall
    back = tag("rect", x=0, y=0, width=WIDTH, height=height, fill=PAPER)
    return tag(
        "svg",
        back,
        _head(title, colours, track),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        width=WIDTH,
        height=height,
        role="img",
        aria_label=title or "timeline of events",
        font_family=LETTERS,
        font_size=13,
    )


@dataclass(frozen=True)
class Stage:
    """What all rows share."""

    sound: np.ndarray  # (2, K)
    seconds: float
    length: float  # of a row, seconds
    loudest: float
    colours: dict[str, str]

    def across(self, row: int, at: float) -> float:
        """Seconds of the recording to SVG units, kept within the row."""
        inside = min(max(at - row * self.length, 0.0), self.length)
        return LEFT + inside / self.length * (WIDTH - LEFT - RIGHT)

    def span(self, row: int, start: float, end: float) -> tuple[float, float] | None:
        """Left and width of a stretch in a row, at least 2 units wide; None where it does not lie there."""
        begin, stop = row * self.length, min((row + 1) * self.length, self.seconds)
        if end <= begin or start >= stop:
            return None
        left, right = self.across(row, start), self.across(row, min(end, stop))
        return left, max(right - left, 2.0)


def _head(title: str, colours: dict[str, str], track: Track | None) -> Markup:
    parts, x = [tag("text", title, x=8, y=24, fill=INK, font_size=16, font_weight=600)], 16.0 + 9.0 * len(title)
    for label, colour in colours.items():
        parts += [tag("rect", x=x, y=14, width=12, height=12, rx=2, fill=colour), tag("text", label, x=x + 17, y=24, fill=INK)]
        x += 40.0 + 8.0 * len(label)
    if track:
        parts += [tag("path", d=f"M{x:.0f} 20 h18", stroke=LINE, stroke_width=1.8, fill="none")]
        parts += [tag("text", f"probability of {track.label}" if track.label else "probability", x=x + 24, y=24, fill=SOFT)]
    return tag("g", *parts)


def _row(
    stage: Stage, row: int, top: float, events: Sequence[Event], track: Track | None, skipped: Sequence[tuple[float, float]]
) -> Markup:
    deep = SOUND + STRIP + (TRACK if track else 0.0)
    shades = [tag("rect", x=at[0], y=top, width=at[1], height=deep, fill=FAINT, opacity=0.6) for at in _spans(stage, row, skipped)]
    parts = [*shades, *_boxes(stage, row, top, deep, events), _wave(stage, row, top)]
    if track:
        parts.append(_probability(stage, row, top + SOUND + STRIP, track))
    return tag("g", *parts, _clock(stage, row, top + deep))


def _spans(stage: Stage, row: int, stretches: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [at for at in (stage.span(row, start, end) for start, end in stretches) if at]


def _wave(stage: Stage, row: int, top: float) -> Markup:
    """The envelope of this row's share of the recording, filled, thinned to the columns a row has."""
    count = stage.sound.shape[1]
    first, last = (round(min(at * stage.length / stage.seconds, 1.0) * count) for at in (row, row + 1))
    piece = stage.sound[:, first:last]
    if not piece.shape[1]:
        return Markup("")
    low, high = _thinned(piece)
    begin, stop = row * stage.length, min((row + 1) * stage.length, stage.seconds)
    x = [stage.across(row, at) for at in np.linspace(begin, stop, len(low))]
    middle, scale = top + SOUND / 2, SOUND / 2 / stage.loudest
    upper = [f"{a:.1f} {middle - scale * float(b):.1f}" for a, b in zip(x, high, strict=True)]
    lower = [f"{a:.1f} {middle - scale * float(b):.1f}" for a, b in zip(reversed(x), reversed(low), strict=True)]
    return tag("path", d="M" + " L".join([*upper, *lower]) + "Z", fill=SOFT, stroke=SOFT, stroke_width=0.6)


def _thinned(piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts = np.unique(np.linspace(0, piece.shape[1], min(COLUMNS, piece.shape[1]), endpoint=False).astype(np.int64))
    return np.minimum.reduceat(piece[0], starts), np.maximum.reduceat(piece[1], starts)


def _boxes(stage: Stage, row: int, top: float, deep: float, events: Sequence[Event]) -> list[Markup]:
    """Every event as a bar under the wave, and a faint shade over all of the row."""
    parts = []
    for event in events:
        at = stage.span(row, event.start, event.end)
        if at is None:
            continue
        title = tag("title", f"{event.label} {event.start:.2f} – {event.end:.2f} s, {event.probability:.0%}")
        colour = stage.colours[event.label]
        parts.append(tag("rect", x=at[0], y=top, width=at[1], height=deep, fill=colour, opacity=0.14))
        parts.append(tag("rect", title, x=at[0], y=top + SOUND + 2, width=at[1], height=STRIP - 4, rx=2, fill=colour, class_="event"))
    return parts


def _probability(stage: Stage, row: int, top: float, track: Track) -> Markup:
    """The track as a line that breaks where nothing was listened to, with its threshold dashed."""
    begin, stop = row * stage.length, (row + 1) * stage.length
    edge = stage.across(row, min(stop, stage.seconds))
    frame = [tag("line", x1=LEFT, x2=edge, y1=y, y2=y, stroke=FAINT) for y in (top + 4, top + TRACK)]
    words = [tag("text", word, x=LEFT - 8, y=y + 4, fill=SOFT, text_anchor="end") for word, y in (("1", top + 6), ("0", top + TRACK - 2))]
    inside = [(at, p) for at, p in zip(track.times, track.probability, strict=True) if begin <= at < stop]
    line = tag(
        "path", d=_path(stage, row, top, inside, 2.5 * _pace(track.times)), stroke=LINE, stroke_width=1.8, fill="none", class_="track"
    )
    if track.threshold is not None:
        y = _up(top, track.threshold)
        frame.append(tag("line", x1=LEFT, x2=edge, y1=y, y2=y, stroke=SOFT, stroke_dasharray="3 4"))
    return tag("g", *frame, *words, line)


def _path(stage: Stage, row: int, top: float, points: Sequence[tuple[float, float]], longest: float) -> str:
    found, before = [], -math.inf
    for at, probability in points:
        found.append(f"{'L' if at - before <= longest else 'M'}{stage.across(row, at):.1f} {_up(top, probability):.1f}")
        before = at
    return " ".join(found) or "M0 0"


def _up(top: float, probability: float) -> float:
    return top + 4 + (TRACK - 4) * (1 - probability)


def _pace(times: Sequence[float]) -> float:
    """The usual step between two times of a track."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0


def _clock(stage: Stage, row: int, y: float) -> Markup:
    begin, stop = row * stage.length, min((row + 1) * stage.length, stage.seconds)
    marks = ticks(begin, stop, 10)
    lines = [tag("line", x1=stage.across(row, at), x2=stage.across(row, at), y1=y, y2=y + 4, stroke=SOFT) for at in marks]
    words = [tag("text", _time(at), x=stage.across(row, at), y=y + 18, fill=SOFT, text_anchor="middle") for at in marks]
    return tag("g", *lines, *words)


def _time(seconds: float) -> str:
    """9.5 -> 0:09.5; 75 -> 1:15."""
    minutes, rest = divmod(round(seconds, 2), 60)
    whole = rest == int(rest)
    return f"{int(minutes)}:{int(rest):02d}" if whole else f"{int(minutes)}:{rest:04.1f}"
