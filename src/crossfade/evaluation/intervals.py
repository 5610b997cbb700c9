"""How sure a number is: bootstrap over whole groups, because clips of one speaker are not independent of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from crossfade.clip import UserError
from crossfade.evaluation import METRICS
from crossfade.evaluation.costs import Cost
from crossfade.evaluation.predictions import once
from crossfade.evaluation.scores import Evidence, Grouped, Metric

if TYPE_CHECKING:
    from crossfade.evaluation.predictions import Answers

LEVEL = 0.95
ROUGH_GROUPS = 10  # below this an interval carries a note
CHUNK = 4_000_000  # resampled group counts held at a time: 32 MB
NO_DIFFERENCE = "no difference the data can show"


@dataclass(frozen=True)
class Comparison:
    """Two runs on the clips both saw. `difference` is value_a - value_b; low and high are None when there is one group only."""

    metric: str
    a: str
    b: str
    value_a: float
    value_b: float
    difference: float
    low: float | None
    high: float | None
    n_clips: int
    n_groups: int
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Score:
    """One run's metric on the clips that all runs saw."""

    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Table:
    """Several runs on the clips all of them saw: a score each, a comparison a pair, and by name what each costs, where that is known."""

    metric: str
    scores: list[Score]
    pairs: list[Comparison]
    n_clips: int
    n_groups: int
    notes: list[str] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)


def group_tally(predictions: Answers) -> Grouped:
    """One tally a group, leading axis (G,), over clips of known class; groups in sorted order."""
    known = predictions.known()
    codes = np.unique(np.array(known.group, dtype=object), return_inverse=True)[1]
    return known.evidence(codes)


def resample(grouped: tuple[Grouped, ...], *, seed: int, resamples: int = 2000) -> list[Evidence]:
    """Draw G groups of G with replacement, the same draw for all that are given -> each the evidence of `resamples` rows."""
    groups = len(grouped[0])
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // groups)
    drawn = [_draw(generator, min(step, resamples - start), groups) for start in range(0, resamples, step)]
    counts = np.concatenate(drawn)
    return [Evidence(type(one.tally)(*(_sums(drawn, part) for part in one.tally)), one.ranking, counts) for one in grouped]


def _sums(drawn: list[np.ndarray], part: np.ndarray) -> np.ndarray:
    return np.concatenate([np.tensordot(counts, part, 1) for counts in drawn])


def _draw(generator: np.random.Generator, count: int, groups: int) -> np.ndarray:
    """How often each group was drawn: float64 (count, G), rows sum to G."""
    picks = generator.integers(groups, size=(count, groups)) + np.arange(count)[:, None] * groups
    return np.bincount(picks.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)


def bounds(values: np.ndarray, groups: int) -> tuple[float, float]:
    """The 95 % interval of resampled values (R,): percentiles, widened for few groups; resamples in which it is not defined left out.

    A plain percentile interval is too narrow by sqrt((G-1)/G) and by the normal quantile in place of Student's, which matters at
    the 3 to 6 speakers of a usual test split. Source: Hesterberg 2014, arXiv 1411.5279, the expanded percentile interval.
    """
    from scipy.special import ndtr, stdtrit  # here, as a tenth of a second; scipy.stats would take one and a half

    reach = np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 - LEVEL) / 2)
    tail = float(ndtr(reach))  # 0.0171 for 24 groups, 0.0024 for 6, against 0.025 plain
    low, high = np.quantile(values[~np.isnan(values)], [tail, 1 - tail])
    return float(low), float(high)


def intervals(
    groups: Grouped, *, seed: int, resamples: int = 2000, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, tuple[float, float] | None]:
    """The 95 % interval of every metric; None each when there are fewer than 2 groups, or the metric is defined in no resample."""
    if len(groups) < 2:
        return dict.fromkeys(metrics)
    (drawn,) = resample((groups,), seed=seed, resamples=resamples)
    return {name: _pair_or_none(metric.rows(drawn), len(groups)) for name, metric in metrics.items()}


def _pair_or_none(values: np.ndarray, groups: int) -> tuple[float, float] | None:
    return None if np.isnan(values).all() else bounds(values, groups)


def note(groups: int) -> str:
    """What a reader must know about an interval over this many groups; empty when nothing."""
    if groups < 2:
        return "All clips belong to one group, so no interval can be given."
    if groups < ROUGH_GROUPS:
        return f"The intervals rest on {groups} groups only and are rough."
    return ""


def paired(
    a: Answers, b: Answers, metric: str = "macro_f1", *, names: tuple[str, str] = ("A", "B"), seed: int = 0, resamples: int = 2000
) -> Comparison:
    """Compare two runs on the clips both saw, drawing each group for both at once. UserError when they judge different truths."""
    return _pair(metric, *_judge({names[0]: a, names[1]: b}, metric, seed=seed, resamples=resamples))


def compare(runs: Mapping[str, Answers], metric: str = "macro_f1", *, seed: int = 0, resamples: int = 2000) -> Table:
    """Judge several runs on the clips all of them saw, best first, and every pair of them. UserError as `paired`."""
    judged = _judge(runs, metric, seed=seed, resamples=resamples)
    judged.sort(key=lambda one: one.value, reverse=judged[0].metric.higher_is_better)
    scores = [Score(one.name, one.value, *_ends(one.drawn, one.groups)) for one in judged]
    pairs = [_pair(metric, a, b) for a, b in combinations(judged, 2)]
    clips, groups = judged[0].clips, judged[0].groups
    return Table(metric, scores, pairs, clips, groups, [text for text in (note(groups), _many(len(pairs))) if text])


@dataclass(frozen=True)
class _Judged:
    """One run's metric on the shared clips, and on every draw of their groups (R,), which is the same draw for every run."""

    name: str
    metric: Metric
    value: float
    drawn: np.ndarray | None  # None where there is one group only
    clips: int
    groups: int


def _judge(runs: Mapping[str, Answers], metric: str, *, seed: int, resamples: int) -> list[_Judged]:
    tables = shared(runs)
    chosen = _metric(metric, tables[0].metrics)
    tallies = tuple(group_tally(table) for table in tables)
    groups = len(tallies[0])
    drawn = [chosen.rows(drawn) for drawn in resample(tallies, seed=seed, resamples=resamples)] if groups > 1 else [None] * len(tallies)
    values = [chosen.value(t.once()) for t in tallies]
    return [_Judged(name, chosen, value, draws, len(tables[0]), groups) for name, value, draws in zip(runs, values, drawn, strict=True)]


def _pair(metric: str, a: _Judged, b: _Judged) -> Comparison:
    low, high = _ends(None if a.drawn is None or b.drawn is None else a.drawn - b.drawn, a.groups)
    above, below = (a.name, b.name) if a.metric.higher_is_better else (b.name, a.name)
    verdict = _verdict(low, high, above, below)
    return Comparison(metric, a.name, b.name, a.value, b.value, a.value - b.value, low, high, a.clips, a.groups, verdict, note(a.groups))


def _ends(values: np.ndarray | None, groups: int) -> tuple[float | None, float | None]:
    return (None, None) if values is None or np.isnan(values).all() else bounds(values, groups)


def shared(runs: Mapping[str, Answers]) -> list[Answers]:
    """Every run cut to the clips of known class that all of them saw, in one order of clips and classes."""
    names, tables = list(runs), [once(table.known(), name) for name, table in runs.items()]
    common = set.intersection(*(set(table.clip) for table in tables)) if tables else set()
    if not common:
        raise UserError(f"{' and '.join(names) or 'no runs'}: no labelled clip was seen by all; compare runs judged on the same clips")
    aligned = [_align(table, common, tables[0], name, names[0]) for name, table in zip(names, tables, strict=True)]
    for name, table in zip(names, aligned, strict=True):
        _same_truth(aligned[0], table, names[0], name)
    return aligned


def _align(table: Answers, common: set[str], first: Answers, name: str, first_name: str) -> Answers:
    if set(table.classes) != set(first.classes):
        found = f"{name} tells apart {', '.join(table.classes)}; {first_name} tells apart {', '.join(first.classes)}"
        raise UserError(f"{found}: only runs with the same classes can be compared")
    if type(table) is not type(first):
        raise UserError(f"{name} and {first_name}: answers of one class cannot be compared with answers of several classes at once")
    rows = sorted((clip, row) for row, clip in enumerate(table.clip) if clip in common)
    t = table.select(np.array([row for _, row in rows]))
    return t.reordered(first.classes)


def _same_truth(a: Answers, b: Answers, name_a: str, name_b: str) -> None:
    for clip, true_a, true_b, group_a, group_b in zip(a.clip, a.truth, b.truth, a.group, b.group, strict=True):
        if true_a != true_b:
            found = f"{true_a!r} in {name_a} and {true_b!r} in {name_b}"
            raise UserError(f"clip {clip!r} is {found}: both runs must be judged against the same labels")
        if group_a != group_b:
            raise UserError(f"clip {clip!r} is of group {group_a!r} in {name_a} and {group_b!r} in {name_b}: the groups must agree")


def _verdict(low: float | None, high: float | None, above: str, below: str) -> str:
    """`above` and `below`: who is better when the interval of the difference lies above or below 0."""
    if low is None or high is None or low <= 0 <= high:
        return NO_DIFFERENCE
    return f"{above if low > 0 else below} is better"


def _many(pairs: int) -> str:
    return (
        f"{pairs} pairs are compared at 95 % each: of pairs that do not differ, one in twenty will look as if it did." if pairs > 1 else ""
    )


def _metric(name: str, metrics: Mapping[str, Metric]) -> Metric:
    if name not in metrics:
        raise UserError(f"metric {name!r} is unknown; there are {', '.join(metrics)}")
    return metrics[name]
