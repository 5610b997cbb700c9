"""A metric against how hard the test is made, such as noise in the sound: curves with intervals, and a page with their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from crossfade.clip import UserError
from crossfade.evaluation.figures import HEIGHT, LEFT, Axes, frame, percent, plain, svg, tag
from crossfade.evaluation.page import render
from crossfade.evaluation.writing import whole

Curve = Sequence[tuple[float, float, float | None, float | None]]  # (level, value, low, high); level infinity: nothing was added
STYLES = ("ear", "eye", "thin", "ear dashed", "eye dashed", "thin dashed")
CLEAN = "clean"
TALL = HEIGHT + 50


def figure(curves: Mapping[str, Curve], unit: str, axis: str) -> Markup:
    """`unit` says what goes up (a share, 0..1), `axis` what goes to the right. An infinite level stands last, as "clean"."""
    places = _places(curves)
    ends = [end for curve in curves.values() for _, *values in curve for end in values if end is not None]
    room = max(max(ends) - min(ends), 0.02) * 0.06
    across, margin = list(places.values()), (max(places.values()) - min(places.values())) * 0.04 or 1.0
    axes = Axes((min(across) - margin, max(across) + margin), (max(min(ends) - room, min(0.0, *ends)), max(ends) + room), TALL)
    named = {place: _level(level) for level, place in places.items()}
    grid = frame(axes, across, axis, percent, lambda x: named[x])
    drawn = [_curve(axes, name, curve, places, style) for (name, curve), style in zip(curves.items(), _styles(curves), strict=True)]
    return svg(TALL, grid, tag("text", unit, x=LEFT, y=15), *drawn, label=f"{unit} against {axis}")


def _styles(curves: Mapping[str, Curve]) -> list[str]:
    return [STYLES[i % len(STYLES)] for i in range(len(curves))]


def _places(curves: Mapping[str, Curve]) -> dict[float, float]:
    """Every level, rising, and where it lies: an infinite one as far beyond the last as the levels are apart."""
    levels = sorted({row[0] for curve in curves.values() for row in curve})
    if not levels or math.isnan(sum(levels)) or -math.inf in levels:
        raise UserError(f"robustness: a curve needs levels that are numbers, or infinity for nothing added; found {levels}")
    finite = [level for level in levels if math.isfinite(level)]
    step = (finite[-1] - finite[0]) / (len(finite) - 1) if len(finite) > 1 else 1.0
    beyond = (finite[-1] if finite else 0.0) + step
    return {level: level if math.isfinite(level) else beyond for level in levels}


def _level(level: float) -> str:
    return plain(level) if math.isfinite(level) else CLEAN


def _curve(axes: Axes, name: str, curve: Curve, places: Mapping[float, float], style: str) -> Markup:
    rows = sorted(curve)
    points = [axes.at(places[level], value) for level, value, *_ in rows]
    said = [tag("title", f"{name}, {_level(level)}: {percent(round(value, 4))}") for level, value, *_ in rows]
    dots = [tag("circle", title, class_="dot", cx=x, cy=y, r=3.6) for (x, y), title in zip(points, said, strict=True)]
    return tag("g", *_band(axes, rows, places), tag("path", class_="curve", d=_path(points)), *dots, class_=style)


def _band(axes: Axes, rows: Curve, places: Mapping[float, float]) -> list[Markup]:
    known = [(places[level], low, high) for level, _, low, high in rows if low is not None and high is not None]
    there, back = [axes.at(x, high) for x, _, high in known], [axes.at(x, low) for x, low, _ in reversed(known)]
    return [tag("path", class_="reach-band", d=f"{_path(there + back)}Z")] if len(known) > 1 else []


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def page(title: str, curves: Mapping[str, Curve], unit: str, axis: str, *, said: Sequence[str] = (), basis: str = "") -> str:
    """A self-contained HTML page: the figure, a table of every value with its interval, and what is said of them."""
    levels = sorted(_places(curves), reverse=True)
    rows = [(name, [_cell(curve, level) for level in levels]) for name, curve in curves.items()]
    view = {"title": title, "warnings": [], "basis": basis, "said": said, "unit": unit, "axis": axis, "rows": rows}
    key = list(zip(curves, _styles(curves), strict=True))
    return render("robustness", view | {"figure": figure(curves, unit, axis), "levels": [_level(level) for level in levels], "key": key})


def write_page(path: Path | str, title: str, curves: Mapping[str, Curve], unit: str, axis: str, **words) -> Path:
    """`page` as one UTF-8 file, in one step; return its path."""
    with whole(path) as file:
        file.write(page(title, curves, unit, axis, **words))
    return Path(path)


def _cell(curve: Curve, level: float) -> tuple[str, str]:
    """The value at a level and its interval; empty where there is none."""
    found = next((row for row in curve if row[0] == level), None)
    if found is None:
        return "", ""
    _, value, low, high = found
    return f"{value:.1%}", "no interval" if low is None or high is None else f"{low:.1%} – {high:.1%}"
