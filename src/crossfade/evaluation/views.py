"""From predictions to what a report shows: plain rows and sentences, no HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crossfade.clip import seed_of
from crossfade.evaluation import METRICS, TAG_METRICS
from crossfade.evaluation.figures import percent
from crossfade.evaluation.predictions import Answers, Predictions
from crossfade.evaluation.scores import MANY_CLIPS, Metric

MISTAKES = 8  # the most confident wrong clips a report shows
OFF = 0.05  # calibration error above which it is off at some levels, whatever its average
DRAWN = 40  # clips at random: five rows of eight


@dataclass(frozen=True)
class Headline:
    """One metric as a reader wants it: written out, with the interval's ends as 0..1 for the little scale."""

    label: str
    value: str
    low: str
    high: str
    at: float
    reach: tuple[float, float] | None


@dataclass(frozen=True)
class ClassRow:
    """One class: shares 0..1, clips, and the class it is most often taken for."""

    name: str
    f1: float
    precision: float
    recall: float
    support: int
    taken_for: str


@dataclass(frozen=True)
class GroupRow:
    """One group or domain: clips, how many were right, and its most common mistake."""

    name: str
    clips: int
    right: int
    mistake: str

    @property
    def accuracy(self) -> float:
        return self.right / self.clips


@dataclass(frozen=True)
class Answer:
    """What was said of a clip, with the probabilities of that and of what is true."""

    clip: str
    group: str
    true: str
    said: str
    sure: float
    true_share: float

    @property
    def right(self) -> bool:
        return self.said == self.true


def metrics_of(summary: dict) -> dict[str, Metric]:
    """What its numbers are called and how they are written: one class a clip, or several at once."""
    return TAG_METRICS if summary.get("several") else METRICS


def headline(summary: dict, name: str) -> Headline:
    """A metric of a summary, ready to show."""
    metric, pair, clips = metrics_of(summary)[name], summary["intervals"].get(name), summary["n_clips"]
    low, high = (metric.show(end, clips) for end in pair) if pair else ("", "")
    return Headline(metric.label, metric.show(summary[name], clips), low, high, float(summary[name]), tuple(pair) if pair else None)


def class_rows(summary: dict) -> list[ClassRow]:
    """The classes in their own order; those that occur nowhere are left out."""
    counts, names = np.array(summary["confusion"]), summary["classes"]
    present = (counts.sum(0) + counts.sum(1)) > 0
    return [
        ClassRow(name, row["f1"], row["precision"], row["recall"], row["support"], _taken_for(counts[i], i, names))
        for i, (name, row) in enumerate(summary["per_class"].items())
        if present[i]
    ]


def _taken_for(counts: np.ndarray, own: int, names: list[str]) -> str:
    others = np.where(np.arange(len(counts)) == own, 0, counts)
    return f"{names[int(others.argmax())]} ({int(others.max())})" if others.max() else ""


def group_rows(table: Predictions, column: list[str]) -> list[GroupRow]:
    """One row a group, worst first; empty when there is but one, or when every clip is a group of its own."""
    return worst_first(_group_row(table, name, rows) for name, rows in groups_of(column).items())


def groups_of(column: list[str]) -> dict[str, list[int]]:
    """The rows of every group; empty when there is but one, or when every clip is a group of its own."""
    members: dict[str, list[int]] = {}
    for i, name in enumerate(column):
        members.setdefault(name, []).append(i)
    return members if 1 < len(members) < len(column) else {}


def worst_first(rows: Iterable[GroupRow]) -> list[GroupRow]:
    return sorted(rows, key=lambda row: (row.accuracy, -row.clips, row.name))


def _group_row(table: Predictions, name: str, rows: list[int]) -> GroupRow:
    true, said = table.true[rows], table.predicted[rows]
    wrong = Counter(zip(true[true != said].tolist(), said[true != said].tolist(), strict=True)).most_common(1)
    mistake = f"{table.classes[wrong[0][0][0]]} → {table.classes[wrong[0][0][1]]} ({wrong[0][1]})" if wrong else ""
    return GroupRow(name, len(rows), int((true == said).sum()), mistake)


def mistakes(table: Predictions, count: int = MISTAKES) -> list[Answer]:
    """The wrong clips the model was surest of, surest first."""
    wrong = np.flatnonzero(table.predicted != table.true)
    sure = table.probability.max(1)
    return _answers(table, wrong[np.argsort(-sure[wrong], kind="stable")][:count])


def drawn(table: Predictions, seed: int, count: int = DRAWN) -> list[Answer]:
    """Clips at random, right or wrong; the same for the same seed and clips."""
    generator = np.random.default_rng(seed_of(seed, "drawn for the report"))
    return _answers(table, generator.permutation(len(table))[:count])


def _answers(table: Predictions, rows: np.ndarray) -> list[Answer]:
    chosen = table.select(rows)
    names = ([chosen.classes[code] for code in codes] for codes in (chosen.true, chosen.predicted))
    shares = chosen.probability.max(1).tolist(), chosen.probability[np.arange(len(chosen)), chosen.true].tolist()
    return [Answer(*row) for row in zip(chosen.clip, chosen.group, *names, *shares, strict=True)]


def bins(table: Answers) -> np.ndarray:
    """The confidence bins of a reliability diagram: clips, sum of confidence, clips correct, (3, 15)."""
    return table.evidence().tally.bins[0]


def reading(summary: dict, groups: str) -> list[str]:
    """What the numbers mean, in sentences a person can repeat. `groups`: the plural word for whose clips these are."""
    counts, names = np.array(summary["confusion"]), summary["classes"]
    often, digits = int(counts.sum(1).argmax()), int(summary["n_clips"] >= MANY_CLIPS)
    said = [
        f"Of 100 such clips the model names about {100 * summary['accuracy']:.{digits}f} correctly; "
        f"answering “{names[often]}” every time would get {100 * counts[often].sum() / counts.sum():.0f}."
    ]
    pair = summary["intervals"]["accuracy"]
    if pair:
        said.append(
            f"With other {groups} of the same kind, expect between {100 * pair[0]:.{digits}f} and {100 * pair[1]:.{digits}f} of 100."
        )
    return said + _hardest(class_rows(summary), digits)


def _hardest(rows: Iterable[ClassRow], digits: int) -> list[str]:
    judged = [row for row in rows if row.support]
    worst = min(judged, key=lambda row: row.f1)
    if not worst.taken_for:
        return []
    taken = worst.taken_for.rsplit(" (", 1)[0]
    return [f"The hardest class is “{worst.name}” (F1 {worst.f1:.{digits}%}), most often taken for “{taken}”."]


def calibration(table: Predictions, error: float) -> str:
    """Whether the model is as right as it says, in one sentence."""
    gap = float(table.probability.max(1).mean() - (table.predicted == table.true).mean())
    even = "about as sure as it should be" if error <= OFF else "as sure as it should be on average only, not at each level (the bars)"
    kind = "surer than it should be" if gap > 0.02 else "less sure than it could be" if gap < -0.02 else even
    sure = percent(round(float(table.probability.max(1).mean()), 3))
    return f"On average the model is {sure} sure; it is {kind}. Expected calibration error {error:.1%} (15 bins, arXiv 1706.04599)."
