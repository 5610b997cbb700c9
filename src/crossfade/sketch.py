"""One curve over a logarithmic axis with one place marked: as braille for a terminal, as SVG for a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crossfade.evaluation.figures import tag, ticks

if TYPE_CHECKING:
    from markupsafe import Markup

COLUMNS, ROWS, MARGIN = 70, 12, 8  # of the terminal's picture, and columns to the left of it
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bits of a braille cell, left and right column, top to bottom
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 60, 20, 40, 50  # of the SVG, in its units
INK, FAINT, LINE, MARK = "#1f2328", "#d0d7de", "#0969da", "#bc4c00"


@dataclass(frozen=True)
class Sketch:
    """y (smoothed) over x > 0, both rising in steps; `dots` are the values before smoothing, `mark` is a place on x."""

    x: Sequence[float]
    y: Sequence[float]
    dots: Sequence[float]
    mark: float
    title: str
    across: str  # what x is

    @property
    def low(self) -> float:
        return min(self.y)

    @property
    def high(self) -> float:
        """A little above where the curve begins: what shoots up at its end would flatten all the rest."""
        before = max(self.y[: int(np.argmin(self.y)) + 1])
        return before + max(0.3 * (before - self.low), 0.05 * abs(before), 1e-9)

    def share(self, x: float) -> float:
        """How far along the axis x lies, 0 to 1."""
        first, last = math.log(self.x[0]), math.log(self.x[-1])
        return (math.log(x) - first) / max(last - first, 1e-12)

    @property
    def decades(self) -> list[float]:
        """The powers of ten on the axis."""
        first, last = (math.log10(self.x[index]) for index in (0, -1))
        return [10.0**power for power in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)]


def braille(sketch: Sketch) -> list[str]:
    """Lines of at most 80 columns."""
    cells = np.zeros((ROWS, COLUMNS), dtype=int)
    for across, up in _dots(sketch):
        cells[ROWS - 1 - up // 4, across // 2] |= DOTS[across % 2][3 - up % 4]
    labels = {0: sketch.high, ROWS - 1: sketch.low}
    rows = [f"{_number(labels.get(row)):>{MARGIN - 1}} " + "".join(chr(0x2800 + cell) for cell in cells[row]) for row in range(ROWS)]
    return [sketch.title, *(row.replace("⠀", " ").rstrip() for row in rows), *_under(sketch), " " * MARGIN + sketch.across]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _dots(sketch: Sketch) -> list[tuple[int, int]]:
    """(across, up) of every dot that is set; between neighbouring columns the line is closed."""
    shares = np.array([sketch.share(x) for x in sketch.x])
    heights = np.interp(np.linspace(0, 1, 2 * COLUMNS), shares, (np.asarray(sketch.y) - sketch.low) / (sketch.high - sketch.low))
    ups = np.round(heights * (4 * ROWS - 1)).astype(int)
    found, before = [], int(ups[0])
    for across, up in enumerate(ups.tolist()):
        low, high = sorted((up, before + (1 if up > before else -1 if up < before else 0)))
        found += [(across, each) for each in range(low, min(high, 4 * ROWS - 1) + 1)]
        before = up
    return found


def _under(sketch: Sketch) -> list[str]:
    """The axis, with the mark and the decades below it."""
    column = min(round(sketch.share(sketch.mark) * (COLUMNS - 1)), COLUMNS - 1)
    axis = ["─"] * COLUMNS
    axis[column] = "▲"
    numbers = [" "] * (COLUMNS + 2)
    for decade in sketch.decades:
        place, text = round(sketch.share(decade) * (COLUMNS - 1)), f"{decade:.0e}".replace("e-0", "e-").replace("e+0", "e")
        begin = min(max(place - len(text) // 2, 0), len(numbers) - len(text))
        if all(each == " " for each in numbers[max(begin - 1, 0) : begin + len(text)]):
            numbers[begin : begin + len(text)] = text
    margin = " " * MARGIN
    return [margin + "".join(axis), (margin + "".join(numbers)).rstrip()]


def svg(sketch: Sketch) -> str:
    """A file of its own, in its own colours."""
    axes = _Axes(sketch)
    floor, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    grid = [_across(axes.up(y), f"{y:g}") for y in ticks(sketch.low, sketch.high)]
    under = [
        tag("text", f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e+"), x=axes.along(x), y=floor + 18, text_anchor="middle")
        for x in sketch.decades
    ]
    dots = [
        tag("circle", cx=axes.along(x), cy=axes.up(y), r=1.6, fill=LINE, fill_opacity=0.35)
        for x, y in zip(sketch.x, sketch.dots, strict=True)
        if sketch.low <= y <= sketch.high
    ]
    mark = tag(
        "line",
        x1=axes.along(sketch.mark),
        x2=axes.along(sketch.mark),
        y1=TOP,
        y2=floor,
        stroke=MARK,
        stroke_width=1.5,
        stroke_dasharray="4 4",
    )
    parts = [
        tag("rect", width=WIDTH, height=HEIGHT, fill="white"),
        tag("text", sketch.title, x=LEFT, y=24, font_weight="bold"),
        *grid,
        *under,
        tag("line", x1=LEFT, x2=end, y1=floor, y2=floor, stroke=INK),
        *dots,
        tag("path", d=axes.path(), fill="none", stroke=LINE, stroke_width=2, stroke_linejoin="round"),
        mark,
        tag("text", f"{sketch.mark:.2g}", x=axes.along(sketch.mark) + 6, y=TOP + 12, fill=MARK),
        tag("text", sketch.across, x=(LEFT + end) / 2, y=HEIGHT - 12, text_anchor="middle"),
    ]
    look = {"font_family": "system-ui, sans-serif", "font_size": 13, "fill": INK}
    return str(tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT, **look))


@dataclass(frozen=True)
class _Axes:
    sketch: Sketch

    def along(self, x: float) -> float:
        return LEFT + self.sketch.share(x) * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        share = (min(y, self.sketch.high) - self.sketch.low) / (self.sketch.high - self.sketch.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def path(self) -> str:
        """The curve up to where it leaves the picture."""
        y = self.sketch.y
        left = next((index + 1 for index in range(int(np.argmin(y)), len(y)) if y[index] > self.sketch.high), len(y))
        return "M" + " L".join(f"{self.along(x):.1f} {self.up(each):.1f}" for x, each in zip(self.sketch.x[:left], y[:left], strict=True))


def _across(y: float, text: str) -> Markup:
    line = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke=FAINT)
    return tag("g", line, tag("text", text, x=LEFT - 8, y=y + 4, text_anchor="end"))
