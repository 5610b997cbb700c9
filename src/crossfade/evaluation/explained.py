"""One page about one clip: what was said, what each stream added, where the model looked, and whether that means anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from crossfade.evaluation.contributions import key, signed_bars
from crossfade.evaluation.overlay import over_frames, over_spectrogram
from crossfade.evaluation.page import render
from crossfade.evaluation.writing import whole

TOP = 5  # classes of a head that are listed
CLEAR = 0.05  # points of probability (0..1) by which hiding what counts must cost more than hiding anything


@dataclass(frozen=True, eq=False)
class HeadAnswer:
    """What one head said, what is true ("" = unknown), the probability of every class, and what each stream added to what was said."""

    head: str
    said: str  # "red_deer"; of several classes "grazing, walking"
    true: str
    probability: dict[str, float]
    contributions: dict[str, dict[str, float]] = field(default_factory=dict)  # class -> stream -> Shapley value
    base: dict[str, float] = field(default_factory=dict)  # class -> its probability without any stream


@dataclass(frozen=True, eq=False)
class SeenFrames:
    """Pictures of one stream and how relevant each part was."""

    stream: str
    frames: np.ndarray  # uint8 (T, 3 or 1, H, W)
    relevance: np.ndarray  # (steps, rows, columns), 0 or more; step s covers an equal share of the frames
    note: str = ""


@dataclass(frozen=True, eq=False)
class HeardSound:
    """The spectrogram of one stream and how relevant each part was."""

    stream: str
    spectrogram: np.ndarray  # (bands, columns in time), low bands first, any scale
    relevance: np.ndarray  # (1, rows, columns) or (rows, columns), 0 or more, tiling the spectrogram
    seconds: float
    wav: bytes = b""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What hiding a fifth of one stream cost the class that was said: the most relevant fifth, and random ones."""

    stream: str
    head: str
    name: str  # of the class
    answer: float  # its probability with everything
    relevant: float  # with the most relevant share hidden
    random: np.ndarray  # (repeats,) with random shares hidden
    share: float = 0.2


@dataclass(frozen=True, eq=False)
class Explained:
    """All that the page shows. What is empty does not appear."""

    title: str
    clip: str
    heads: Sequence[HeadAnswer]
    frames: Sequence[SeenFrames] = ()
    sounds: Sequence[HeardSound] = ()
    occlusions: Sequence[Occlusion] = ()
    group: str = ""
    warnings: Sequence[str] = ()
    method: str = ""  # how relevance was found: "attention rollout (arXiv 2005.00928)"
    command: str = ""


def page(content: Explained) -> str:
    """The page's HTML."""
    view = {
        "title": content.title,
        "warnings": list(content.warnings),
        "content": content,
        "heads": [_head(head) for head in content.heads],
        "frames": [{"of": seen, "pictures": over_frames(seen.frames, seen.relevance)} for seen in content.frames],
        "sounds": [{"of": heard, **over_spectrogram(heard.spectrogram, heard.relevance, heard.wav)} for heard in content.sounds],
        "occlusions": [_occlusion(one) for one in content.occlusions],
    }
    return render("explained", view)


def section(contents: Sequence[Explained]) -> list[dict]:
    """What a report shows of a few clips: what was said, where it looked, and whether hiding that place cost more than hiding any."""
    return [
        {
            "of": content,
            "heads": [_head(head) for head in content.heads],
            "frames": [{"of": seen, "pictures": over_frames(seen.frames, seen.relevance)} for seen in content.frames],
            "sounds": [{"of": heard, **over_spectrogram(heard.spectrogram, heard.relevance)} for heard in content.sounds],
            "occlusions": [_occlusion(one) for one in content.occlusions],
        }
        for content in contents
    ]


def write_page(path: Path | str, content: Explained) -> Path:
    """`page` as one UTF-8 file, in one step; return its path."""
    with whole(path) as file:
        file.write(page(content))
    return Path(path)


def _head(head: HeadAnswer) -> dict:
    top = sorted(head.probability.items(), key=lambda pair: -pair[1])[:TOP]
    streams = sorted({stream for values in head.contributions.values() for stream in values})
    return {
        "of": head,
        "right": head.said == head.true,
        "top": top,
        "chart": _bars(head, streams),
        "streams": key(streams),
        "sums": [_sum(head, name, streams) for name in head.contributions],
    }


def _bars(head: HeadAnswer, streams: list[str]) -> Markup:
    rows = {name: np.array([values.get(stream, 0.0) for stream in streams]) for name, values in head.contributions.items()}
    return signed_bars(rows, streams) if rows else Markup("")


def _sum(head: HeadAnswer, name: str, streams: list[str]) -> str:
    """grazing: 30.0 without any stream, audio +1.2, video +58.8: 90.0."""
    values, base = head.contributions[name], head.base.get(name, 0.0)
    parts = ", ".join(f"{stream} {100 * values[stream]:+.1f}" for stream in streams if stream in values)
    return f"{name}: {100 * base:.1f} without any stream, {parts}: {100 * (base + sum(values.values())):.1f} of 100"


def _occlusion(one: Occlusion) -> dict:
    drops = {"relevant": one.answer - one.relevant, "random": one.answer - float(np.mean(one.random))}
    spread = one.answer - np.quantile(one.random, [0.95, 0.05])
    return {"of": one, **drops, "low": float(spread[0]), "high": float(spread[1]), "verdict": verdict(one)}


def verdict(one: Occlusion) -> str:
    """Whether the map means something, for this clip: more is lost than by nearly every random choice, and clearly so."""
    lost, by_chance = one.answer - one.relevant, one.answer - np.asarray(one.random)
    beats = float((lost > by_chance).mean())
    if beats >= 0.95 and lost - by_chance.mean() >= CLEAR:
        return "The map points at what the answer rests on."
    if beats <= 0.5:
        return "Hiding what the map points at costs no more than hiding anything: do not trust this map."
    return "The map is a little better than chance here; do not lean on it."
