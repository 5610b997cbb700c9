"""Figures as inline SVG: text stays text in any script, and the page's own colours serve light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 440, 250  # of a chart in SVG units: narrow, so that its letters stay readable when a phone scales it down
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 34


@dataclass(frozen=True)
class Series:
    """One line: its label, the CSS class that colours it, and a value an epoch (None where there was none)."""

    label: str
    style: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Whisker:
    """One row of an interval chart."""

    label: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Axes:
    """Data coordinates to SVG units, inside the frame of a chart."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = HEIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.across(x), self.up(y)

    def across(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        return self.height - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - TOP - BOTTOM)


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element; children and attributes are escaped unless they are Markup, and `stroke_width` becomes `stroke-width`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value)) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, Markup("").join(escape(child) for child in children))


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """At most about `count` round numbers within [low, high]: steps of 1, 2 or 5 times a power of ten."""
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def percent(value: float) -> str:
    """0.8 -> 80%; digits only where the value needs them."""
    return f"{100 * value:.4g}%"


def plain(value: float) -> str:
    """0.50 -> 0.5."""
    return f"{value:g}"


def learning_curves(history: Sequence[dict]) -> list[tuple[str, Markup]]:
    """Rows of metrics.jsonl -> (title, chart) of the loss and of the scores on val; a chart without any number is left out."""
    loss = [Series("train", "thin", _values(history, "train", "loss")), Series("val", "ear", _values(history, "val", "nll"))]
    scores = [
        Series("train accuracy", "thin", _values(history, "train", "accuracy")),
        Series("val accuracy", "ear", _values(history, "val", "accuracy")),
        Series("val macro-F1", "eye", _values(history, "val", "macro_f1")),
    ]
    drawn = [
        ("Loss", _curves(history, loss, plain)),
        ("Scores", _curves(history, scores, percent)),
    ]
    return [(title, chart) for title, chart in drawn if chart]


def _values(history: Sequence[dict], split: str, key: str) -> list[float | None]:
    found = [(row.get(split) or {}).get(key) for row in history]
    return [float(value) if value is not None and math.isfinite(value) else None for value in found]


def _curves(history: Sequence[dict], series: list[Series], form: Callable[[float], str]) -> Markup:
    series = [line for line in series if any(value is not None for value in line.values)]
    numbers = [value for line in series for value in line.values if value is not None]
    if not numbers:
        return Markup("")
    room = max(max(numbers) - min(numbers), 0.02) * 0.08
    axes = Axes((0.5, len(history) + 0.5), (max(0.0, min(numbers) - room), max(numbers) + room))
    lines = [_line(axes, line) for line in series]
    grid, rings = frame(axes, _epochs(len(history)), "epoch", form), _best(axes, history, series)
    parts = [grid, *_phases(axes, history), *lines, *rings, _legend(series, kept=bool(rings))]
    return svg(HEIGHT, *parts, label=", ".join(line.label for line in series) + " by epoch")


def _epochs(count: int) -> list[float]:
    return [tick for tick in ticks(1, max(count, 2), 8) if tick == int(tick) and tick <= count] or [1]


def frame(axes: Axes, across: Sequence[float], name: str, form: Callable[[float], str], form_x: Callable[[float], str] = plain) -> Markup:
    """Horizontal grid lines with their numbers, and the numbers along the bottom with the axis' name."""
    floor = axes.height - BOTTOM
    grid = [tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=axes.up(y), y2=axes.up(y)) for y in ticks(*axes.y)]
    left = [tag("text", form(y), x=LEFT - 7, y=axes.up(y) + 4, text_anchor="end") for y in ticks(*axes.y)]
    under = [tag("text", form_x(x), x=axes.across(x), y=floor + 16, text_anchor="middle") for x in across]
    axis = tag("text", name, class_="name", x=(LEFT + WIDTH - RIGHT) / 2, y=floor + 30, text_anchor="middle")
    return tag("g", *grid, *left, *under, axis)


def _line(axes: Axes, series: Series) -> Markup:
    """A path that breaks where a value is missing, and a dot where a value has no neighbour."""
    runs: list[list[tuple[float, float]]] = [[]]
    for epoch, value in enumerate(series.values, 1):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(axes.at(epoch, value))
    path = " ".join("M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in runs if len(run) > 1)
    dots = [tag("circle", class_="dot", cx=run[0][0], cy=run[0][1], r=3) for run in runs if len(run) == 1]
    return tag("g", tag("path", class_="curve", d=path), *dots, class_=series.style)


def _phases(axes: Axes, history: Sequence[dict]) -> list[Markup]:
    """A dashed border wherever the phase changes, and every phase's name at its start."""
    names = [str(row.get("phase", "")) for row in history]
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    floor = axes.height - BOTTOM
    borders = [tag("line", class_="border", x1=axes.across(i + 0.5), x2=axes.across(i + 0.5), y1=TOP, y2=floor) for i in starts[1:]]
    named = [tag("text", names[i], class_="phase", x=axes.across(i + 0.5) + 5, y=floor - 6) for i in starts if len(starts) > 1]
    return borders + named


def _best(axes: Axes, history: Sequence[dict], series: list[Series]) -> list[Markup]:
    """A ring on the thick line at each phase's kept epoch, its best or as asked its last: the last one marked best."""
    kept = {row.get("phase"): epoch for epoch, row in enumerate(history, 1) if row.get("best")}
    line = next((line for line in series if line.style != "thin"), series[0])
    marks = [(epoch, line.values[epoch - 1]) for epoch in kept.values()]
    return [
        tag("circle", tag("title", f"kept epoch of its phase: {epoch}"), class_="ring", cx=axes.across(epoch), cy=axes.up(value), r=5.5)
        for epoch, value in marks
        if value is not None
    ]


def _legend(series: list[Series], *, kept: bool) -> Markup:
    parts, x = [], float(LEFT)
    for line in series:
        parts.append(tag("path", class_=f"curve {line.style}", d=f"M{x:.0f} 11 h16"))
        parts.append(tag("text", line.label, x=x + 21, y=15))
        x += 34 + 6.4 * len(line.label)
    ring = [tag("circle", class_="ring", cx=x + 6, cy=11, r=4.5), tag("text", "kept", x=x + 16, y=15)]
    return tag("g", *parts, *(ring if kept else []))


def reliability(bins: np.ndarray) -> Markup:
    """Clips, sum of confidence and clips correct per confidence bin, (3, K) -> a reliability diagram (arXiv 1706.04599, figure 1).

    A bar's height is the share correct; how dark it is, the share of all clips; the tick on it, the mean confidence.
    """
    count, confidence, right = bins
    axes = Axes((0.0, 1.0), (0.0, 1.0), HEIGHT + 50)
    width, most = 1 / len(count), max(count.max(), 1)
    full = [i for i in range(len(count)) if count[i] > 0]
    bars = [_bar(axes, i * width, width, right[i] / count[i], count[i] / most, int(count[i])) for i in full]
    marks = [_mark(axes, confidence[i] / count[i], width) for i in full]
    (x1, y1), (x2, y2) = axes.at(0, 0), axes.at(1, 1)
    ideal = tag("line", class_="border", x1=x1, y1=y1, x2=x2, y2=y2)
    hint = tag("text", "share of clips that were right", x=LEFT, y=15)
    grid = frame(axes, [0, 0.2, 0.4, 0.6, 0.8, 1], "how sure the model said it was", percent, percent)
    return svg(axes.height, grid, *bars, ideal, *marks, hint, label="reliability diagram")


def _bar(axes: Axes, left: float, width: float, height: float, weight: float, clips: int) -> Markup:
    x, y = axes.at(left, height)
    wide = axes.across(left + width) - x - 2
    text = tag("title", f"{clips} clips, {percent(height)} right")
    return tag(
        "rect", text, class_="bar", x=x + 1, y=y, width=wide, height=max(axes.up(0) - y, 1), fill_opacity=0.18 + 0.82 * float(weight)
    )


def _mark(axes: Axes, confidence: float, width: float) -> Markup:
    """Where the bar should end were the model's confidence deserved."""
    low = math.floor(confidence / width - 1e-9) * width
    y = axes.up(confidence)
    return tag("line", class_="target", x1=axes.across(max(low, 0)) + 1, x2=axes.across(max(low, 0) + width) - 1, y1=y, y2=y)


def whiskers(rows: Sequence[Whisker], form: Callable[[float], str] = percent, *, zero: bool = False, unit: str = "") -> Markup:
    """Dots with their intervals, one row each under its name; `zero` draws the line of no difference."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None] + [0.0] * zero
    room = max(max(ends) - min(ends), 0.02) * 0.06
    tall = 42 * len(rows) + TOP + BOTTOM - 18
    axes = Axes((min(ends) - room, max(ends) + room), (float(len(rows)), 0.0), tall)
    across = ticks(*axes.x)
    grid = [tag("line", class_="grid", x1=axes.across(x), x2=axes.across(x), y1=8, y2=tall - BOTTOM) for x in across]
    under = [tag("text", form(x), x=axes.across(x), y=tall - BOTTOM + 16, text_anchor="middle") for x in across]
    name = tag("text", unit, class_="name", x=(LEFT + WIDTH - RIGHT) / 2, y=tall - 4, text_anchor="middle")
    middle = [tag("line", class_="border", x1=axes.across(0), x2=axes.across(0), y1=8, y2=tall - BOTTOM)] if zero else []
    return svg(tall, *grid, *middle, *under, name, *(_whisker(axes, row, 24 + 42 * i) for i, row in enumerate(rows)), label=unit)


def _whisker(axes: Axes, row: Whisker, y: float) -> Markup:
    dot = tag("circle", class_="dot", cx=axes.across(row.value), cy=y + 12, r=5)
    reach = []
    if row.low is not None and row.high is not None:
        reach = [tag("line", class_="reach", x1=axes.across(row.low), x2=axes.across(row.high), y1=y + 12, y2=y + 12)]
    return tag("g", tag("text", row.label, class_="label", x=LEFT - 40, y=y), *reach, dot, class_="ear")


def svg(height: float, *parts: Markup, label: str) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=label, class_="figure")
