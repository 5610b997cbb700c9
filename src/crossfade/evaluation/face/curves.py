"""Lines over numbers as inline SVG: by epoch while a face is trained, and by how far the sound is shifted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from crossfade.evaluation.face.scores import ShiftCurve
from crossfade.evaluation.figures import BOTTOM, HEIGHT, LEFT, TOP, Axes, Series, frame, plain, svg, tag, ticks

LETTER = 6.4  # the width of an ordinary letter in SVG units
LEARNED: dict[str, tuple[tuple[str, str, str, str], ...]] = {  # title -> (label, style, split, number) of each line
    "Loss": (("train", "thin", "train", "loss"), ("val", "ear", "val", "loss")),
    "PSNR on val (dB)": (("mouth", "eye", "val", "mouth_psnr"), ("whole face", "ear", "val", "psnr")),
    "SSIM on val": (("mouth", "eye", "val", "mouth_ssim"), ("whole face", "ear", "val", "ssim")),
    "Errors of the mouth on val": (("picture", "eye", "val", "mouth_mae"), ("movement", "ear", "val", "mouth_temporal")),
}


def learning(history: Sequence[Mapping]) -> list[tuple[str, Markup]]:
    """Rows of metrics.jsonl -> (title, chart); a chart without any number is left out."""
    drawn = {
        title: [Series(label, style, _values(history, split, name)) for label, style, split, name in lines]
        for title, lines in LEARNED.items()
    }
    kept = [epoch for epoch, row in enumerate(history, 1) if row.get("best")][-1:]
    starts = [epoch for epoch, row in enumerate(history, 1) if epoch > 1 and row.get("phase") != history[epoch - 2].get("phase")]
    epochs = list(range(1, len(history) + 1))
    charts = [
        (title, chart(lines, epochs, "epoch", rings=kept, borders=[epoch - 0.5 for epoch in starts])) for title, lines in drawn.items()
    ]
    return [(title, figure) for title, figure in charts if figure]


def shifts(curve: ShiftCurve) -> Markup:
    """The mouth's mean error against frames of shift, with a ring where it is least."""
    line = Series("mean error of the mouth", "ear", curve.errors)
    return chart([line], curve.shifts, "frames by which the sound comes late", rings=[curve.best], borders=[0] if curve.best else [])


def chart(lines: Sequence[Series], places: Sequence[int], axis: str, *, rings: Sequence[int] = (), borders: Sequence[float] = ()) -> Markup:
    """Lines with a value a place, a ring on the first line at some places and dashed borders; empty where there is no number at all."""
    lines = [line for line in lines if any(value is not None for value in line.values)]
    numbers = [value for line in lines for value in line.values if value is not None]
    if not numbers:
        return Markup("")
    room = (max(numbers) - min(numbers)) * 0.08 or abs(numbers[0]) * 0.1 or 1.0
    axes = Axes((places[0] - 0.5, places[-1] + 0.5), (min(numbers) - room, max(numbers) + room))
    across = [place for place in ticks(places[0], max(places[-1], places[0] + 1), 8) if place == int(place) and place <= places[-1]]
    grid = frame(axes, across or [places[0]], axis, plain, _signed if places[0] < 0 else plain)
    dashed = [tag("line", class_="border", x1=axes.across(x), x2=axes.across(x), y1=TOP, y2=axes.height - BOTTOM) for x in borders]
    marks = [_ring(axes, place, lines[0].values[places.index(place)]) for place in rings]
    drawn = [_line(axes, line, places) for line in lines]
    return svg(HEIGHT, grid, *dashed, *drawn, *marks, _legend(lines), label=f"{', '.join(line.label for line in lines)} by {axis}")


def _values(history: Sequence[Mapping], split: str, name: str) -> list[float | None]:
    found = [(row.get(split) or {}).get(name) for row in history]
    return [float(value) if value is not None and math.isfinite(value) else None for value in found]


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def _line(axes: Axes, line: Series, places: Sequence[int]) -> Markup:
    """A path that breaks where a value is missing, and a dot at every value of a short line."""
    known = [axes.at(place, value) if value is not None else None for place, value in zip(places, line.values, strict=True)]
    joined = [before is not None for before in [None, *known[:-1]]]
    steps = [f"{'L' if follows else 'M'}{at[0]:.1f} {at[1]:.1f}" for at, follows in zip(known, joined, strict=True) if at]
    dots = [tag("circle", class_="dot", cx=at[0], cy=at[1], r=3.0) for at in known if at] if len(known) < 25 else []
    return tag("g", tag("path", class_="curve", d=" ".join(steps)), *dots, class_=line.style)


def _ring(axes: Axes, place: float, value: float | None) -> Markup:
    return Markup("") if value is None else tag("circle", class_="ring", cx=axes.across(place), cy=axes.up(value), r=5.5)


def _legend(lines: Sequence[Series]) -> Markup:
    parts, x = [], float(LEFT)
    for line in lines:
        parts += [tag("path", class_=f"curve {line.style}", d=f"M{x:.0f} 11 h16"), tag("text", line.label, x=x + 21, y=15)]
        x += 34 + LETTER * len(line.label)
    return tag("g", *parts)
