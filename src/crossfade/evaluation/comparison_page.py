"""One self-contained HTML file that compares several runs: what they score, what they cost, and which of them differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from crossfade.evaluation import METRICS, costs, figures
from crossfade.evaluation.figures import Whisker
from crossfade.evaluation.intervals import Table
from crossfade.evaluation.page import render
from crossfade.evaluation.scores import Metric
from crossfade.evaluation.tradeoff import Point, Scale, tradeoff
from crossfade.evaluation.writing import whole

SCALES: dict[str, Scale] = {
    "parameters": Scale(costs.KINDS["parameters"].axis, costs.short),
    "multiply_adds": Scale(costs.KINDS["multiply_adds"].axis, costs.short),
    "seconds": Scale(costs.KINDS["seconds"].axis, costs.KINDS["seconds"].form),
    "sparsity": Scale(costs.KINDS["sparsity"].axis, figures.percent, log=False, less=False),
}


def write_comparison(path: Path | str, table: Table, *, title: str = "Comparison", warnings: Sequence[str] = (), command: str = "") -> Path:
    """Write a table from `intervals.compare` as one HTML file."""
    metric = METRICS[table.metric]
    kinds = costs.known(table.costs)
    view = {
        "title": title,
        "warnings": list(warnings),
        "table": table,
        "metric": metric,
        "show": lambda value: metric.show(value, table.n_clips),
        "costs": {kind: costs.KINDS[kind].label for kind in kinds},
        "written": costs.written,
        "scores": figures.whiskers([Whisker(s.name, s.value, s.low, s.high) for s in table.scores], _axis(metric), unit=metric.label),
        "tradeoffs": [chart for kind in _charted(kinds) if (chart := _chart(table, metric, kind))],
        "differences": _differences(table),
        "points": _points(metric, table.n_clips),
        "command": command,
    }
    with whole(path) as file:
        file.write(render("compare", view))
    return Path(path)


def _charted(kinds: Sequence[str]) -> list[str]:
    """The costs that get a chart: multiply-adds, or else parameters; and time and sparsity where there are any."""
    size = "multiply_adds" if "multiply_adds" in kinds else "parameters"
    return [kind for kind in (size, "seconds", "sparsity") if kind in kinds]


def _chart(table: Table, metric: Metric, kind: str) -> Markup | None:
    """Nothing where fewer than two runs have this cost, or all have the same."""
    scale, found = SCALES[kind], {name: getattr(cost, kind) for name, cost in table.costs.items()}
    points = [Point(s.name, found[s.name], s.value, s.low, s.high) for s in table.scores if found.get(s.name) is not None]
    points = [point for point in points if point.cost > 0 or not scale.log]
    if len({point.cost for point in points}) < 2:
        return None
    return tradeoff(points, scale, score=f"{metric.label} with its 95 % interval", form=_axis(metric), higher=metric.higher_is_better)


def _differences(table: Table) -> Markup:
    rows = [Whisker(f"{pair.a} − {pair.b}", pair.difference, pair.low, pair.high) for pair in table.pairs]
    return figures.whiskers(rows, _points_axis(METRICS[table.metric]), zero=True, unit="difference") if rows else Markup("")


def _axis(metric: Metric) -> Callable[[float], str]:
    return figures.percent if metric.share else figures.plain


def _points(metric: Metric, clips: int) -> Callable[[float], str]:
    """How a difference is written: +2.5 (percentage points) for a share, +0.031 otherwise; a digit more of many clips."""
    return lambda value: metric.show(value, clips).rstrip("%") if value < 0 else f"+{metric.show(value, clips).rstrip('%')}"


def _points_axis(metric: Metric) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:+.4g}") if metric.share else (lambda value: f"{value:+.4g}")
