"""A clip cut into equal stretches of time, each a clip of its own: a test of several views of each recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossfade.clip import Clip, UserError
from crossfade.data.media import probe

MARK = "#"  # between a clip's id and the number of its segment


def segments(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Each clip as `count` clips, `ID#0`, `ID#1` …, one after another in time. Raises UserError, for a clip that is no recording."""
    return [piece for clip in clips for piece in _cut(clip, count)]


def sample_of(segment: str) -> str:
    """The id of the clip that a segment is of."""
    return segment.rpartition(MARK)[0]


def _cut(clip: Clip, count: int) -> list[Clip]:
    start, end = clip.span
    end = _seconds(clip) if end is None else end
    step = (end - start) / count
    spans = [(start + step * number, start + step * (number + 1)) for number in range(count)]
    return [replace(clip, id=f"{clip.id}{MARK}{number}", span=span) for number, span in enumerate(spans)]


def _seconds(clip: Clip) -> float:
    """How long its recordings are: the shortest of them."""
    files = [clip.media[kind] for kind in ("video", "audio") if kind in clip.media]
    if not files:
        raise UserError(f"{clip.id}: has no recording that could be cut into segments, only {', '.join(clip.media)}")
    return min(probe(file).seconds for file in files)
