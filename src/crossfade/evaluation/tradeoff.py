"""A score against a cost, a point a run: intervals as whiskers, names that do not overlap, and a line through what nothing else beats."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from crossfade.evaluation.figures import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axes, frame, svg, tag, ticks

TALL = HEIGHT + 60
LETTER, LINE = 6.0, 14.0  # the width of an ordinary letter and the height of a line at 12 px, in SVG units
LONGEST = 26  # letters of a name; the whole of it is in the tooltip
NEAR = 9.0  # from a point to its name
DECADE_TICKS = 5.0  # ends further apart than this factor get logarithmic ticks
WIDE = 1.5  # a logarithmic axis spans at least this factor


@dataclass(frozen=True)
class Point:
    """One run."""

    label: str
    cost: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scale:
    """The axis of a cost: its name, how a cost is written, whether it is logarithmic, and whether less is better."""

    name: str
    form: Callable[[float], str]
    log: bool = True
    less: bool = True


@dataclass(frozen=True)
class Box:
    """A rectangle in SVG units."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """The area that two rectangles have in common."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


INSIDE = Box(LEFT + 2, TOP, WIDTH - 2, TALL - BOTTOM - 2)


def front(points: Sequence[Point], *, less: bool = True, higher: bool = True) -> list[Point]:
    """The points that no other beats on both counts, in order of cost from the better end (Pareto's front)."""
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (p.cost if less else -p.cost, -p.value if higher else p.value)):
        score = point.value if higher else -point.value
        if score > best:
            best = score
            kept.append(point)
    return kept


def tradeoff(points: Sequence[Point], scale: Scale, *, score: str, form: Callable[[float], str], higher: bool = True) -> Markup:
    """Points with a positive cost where the scale is logarithmic -> the chart; `score` names what goes up, `form` writes it."""
    place = math.log10 if scale.log else float
    axes = Axes(_across([point.cost for point in points], scale.log), _up(points), TALL)
    at = [axes.at(place(point.cost), point.value) for point in points]
    best = front(points, less=scale.less, higher=higher)
    line = " L".join("{:.1f} {:.1f}".format(*axes.at(place(p.cost), p.value)) for p in sorted(best, key=lambda p: p.cost))
    joined = [tag("path", class_="front", d=f"M{line}")] if len(best) > 1 else []
    drawn = [_drawn(axes, point, spot, point in best, scale, form) for point, spot in zip(points, at, strict=True)]
    crossed = _along([axes.at(place(p.cost), p.value) for p in sorted(best, key=lambda p: p.cost)])
    names = [_named(point, spot, box) for point, spot, box in zip(points, at, labels(axes, points, at, crossed), strict=True)]
    low, high = axes.x
    marks = [(x, scale.form(x)) for x in (log_ticks(10**low, 10**high) if scale.log else ticks(low, high))]
    written = {place(x): text for x, text in marks}
    grid = frame(axes, list(written), scale.name + (" (logarithmic)" if scale.log else ""), form, lambda x: written[x])
    hint = tag("text", score, x=LEFT, y=15)
    return svg(TALL, grid, hint, *joined, *drawn, *names, label=f"{score} against {scale.name}")


def _across(costs: Sequence[float], log: bool) -> tuple[float, float]:
    """The ends of the axis with room at both, for the names."""
    if log:
        low, high = math.log10(min(costs)), math.log10(max(costs))
        room = max((high - low) * 0.12, (math.log10(WIDE) - (high - low)) / 2, 0.02)
        return low - room, high + room
    room = max(max(costs) - min(costs), 0.02) * 0.12
    return max(min(costs) - room, -0.02), max(costs) + room


def _up(points: Sequence[Point]) -> tuple[float, float]:
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    room = max((max(ends) - min(ends)) * 0.08, 0.001)
    return min(ends) - room, max(ends) + room


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most about `count` round numbers within [low, high] for a logarithmic axis."""
    if high / low < DECADE_TICKS:
        return [tick for tick in ticks(low, high, count - 1) if tick > 0]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= count:
            return found
    return found[:: math.ceil(len(found) / count)]


def _along(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes that follow a line, for names to keep away from."""
    found = []
    for (x1, y1), (x2, y2) in pairwise(corners):
        steps = max(int(math.hypot(x2 - x1, y2 - y1) / 4), 1)
        spots = [(x1 + (x2 - x1) * i / steps, y1 + (y2 - y1) * i / steps) for i in range(steps + 1)]
        found += [Box(x - 1.5, y - 1.5, x + 1.5, y + 1.5) for x, y in spots]
    return found


def labels(axes: Axes, points: Sequence[Point], at: Sequence[tuple[float, float]], crossed: Sequence[Box] = ()) -> list[Box]:
    """Where every name goes: the nearest place to its point that covers no point, whisker, line or other name."""
    taken = [*crossed, *(Box(x - 6, y - 6, x + 6, y + 6) for x, y in at)] + [
        Box(x - 3, axes.up(point.high), x + 3, axes.up(point.low))
        for point, (x, _) in zip(points, at, strict=True)
        if point.low is not None and point.high is not None
    ]
    placed: list[Box] = []
    for point, (x, y) in zip(points, at, strict=True):
        around = _places(x, y, width(shown(point.label)))
        placed.append(min(around, key=lambda box: (round(_covered(box, [*taken, *placed]), 1), around.index(box))))
    return placed


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """How much of a place is taken already, or outside the chart."""
    return sum(box.shared(other) for other in taken) + 2 * (box.area - box.shared(INSIDE))


def _places(x: float, y: float, wide: float) -> list[Box]:
    return list(_ring(x, y, wide))


def _ring(x: float, y: float, wide: float) -> Iterator[Box]:
    """Places around a point, the nearest first: beside it, above and below, then at the corners, then further out."""
    for far in (NEAR, 2.2 * NEAR, 3.6 * NEAR, 5.2 * NEAR, 7 * NEAR):
        right, left, middle = x + far, x - far - wide, x - wide / 2
        above, below, level = y - far - LINE, y + far, y - LINE / 2
        near = far / 2
        corners = [(x + near, y - near - LINE), (x + near, y + near), (x - near - wide, y - near - LINE), (x - near - wide, y + near)]
        for start, top in ((right, level), (left, level), *corners, (middle, above), (middle, below)):
            yield Box(start, top, start + wide, top + LINE)


def shown(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}"


def width(text: str) -> float:
    """About how wide a text is at 12 px, in SVG units; a Chinese letter is as wide as two."""
    return LETTER * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _drawn(axes: Axes, point: Point, at: tuple[float, float], best: bool, scale: Scale, form: Callable[[float], str]) -> Markup:
    x, y = at
    said = tag("title", f"{point.label}: {form(point.value)} at {scale.form(point.cost)}")
    reach = []
    if point.low is not None and point.high is not None:
        reach = [tag("line", class_="reach", x1=x, x2=x, y1=axes.up(point.low), y2=axes.up(point.high))]
    return tag("g", *reach, tag("circle", said, class_="dot", cx=x, cy=y, r=5), class_="ear" if best else "thin")


def _named(point: Point, at: tuple[float, float], box: Box) -> Markup:
    """The name, and a thin line to its point where it had to move away."""
    x, y = at
    reach_x, reach_y = min(max(x, box.left), box.right), min(max(y, box.top + 2), box.bottom - 2)
    away = math.hypot(reach_x - x, reach_y - y) > 2 * NEAR
    leader = [tag("line", class_="leader", x1=x, y1=y, x2=reach_x, y2=reach_y)] if away else []
    whole, before = tag("title", point.label), box.right <= x
    place = {"x": box.right, "text_anchor": "end"} if before else {"x": box.left}
    return tag("g", *leader, tag("text", whole, shown(point.label), class_="name-of", y=box.bottom - 3, **place))
