"""What a report shows where a clip may have several classes at once: the rows and sentences of `views` that differ."""

from __future__ import annotations

from collections import Counter

import numpy as np

from crossfade.clip import SEVERAL, seed_of
from crossfade.evaluation.figures import percent
from crossfade.evaluation.scores import MANY_CLIPS
from crossfade.evaluation.tags import Tags, said_of
from crossfade.evaluation.views import DRAWN, MISTAKES, Answer, ClassRow, GroupRow, groups_of, worst_first

NONE = "none of them"


def class_rows(summary: dict) -> list[ClassRow]:
    """The classes in their own order; nothing is taken for anything, as each is a question of its own."""
    rows = summary["per_class"].items()
    return [ClassRow(name, row["f1"], row["precision"], row["recall"], row["support"], "") for name, row in rows]


def group_rows(table: Tags, column: list[str]) -> list[GroupRow]:
    """One row a group, worst first; right is a clip of which every class is right."""
    return worst_first(_group_row(table, name, rows) for name, rows in groups_of(column).items())


def _group_row(table: Tags, name: str, rows: list[int]) -> GroupRow:
    true, said = table.true[rows] > 0, table.predicted[rows]
    wrong = Counter({("missed", code): count for code, count in enumerate((true & ~said).sum(0))})
    wrong += Counter({("said wrongly", code): count for code, count in enumerate((said & ~true).sum(0))})
    mistake = "".join(f"{table.classes[code]} {kind} ({count})" for (kind, code), count in wrong.most_common(1))
    return GroupRow(name, len(rows), int((true == said).all(1).sum()), mistake)


def mistakes(table: Tags, count: int = MISTAKES) -> list[Answer]:
    """The clips with the surest wrong answer to one class, surest first."""
    sure = np.where(_wrong(table), _sureness(table), 0.0).max(1)
    wrong = np.flatnonzero(sure > 0)
    return _answers(table, wrong[np.argsort(-sure[wrong], kind="stable")][:count])


def drawn(table: Tags, seed: int, count: int = DRAWN) -> list[Answer]:
    """Clips at random, right or wrong; the same for the same seed and clips."""
    generator = np.random.default_rng(seed_of(seed, "drawn for the report"))
    return _answers(table, generator.permutation(len(table))[:count])


def _wrong(table: Tags) -> np.ndarray:
    return table.predicted != (table.true > 0)


def _sureness(table: Tags) -> np.ndarray:
    """(N, C) how sure it was of what it said, yes or no."""
    return np.maximum(table.probability, 1 - table.probability)


def _answers(table: Tags, rows: np.ndarray) -> list[Answer]:
    """Each with how sure the model was of the class that it got most wrong, or of its least sure one where all are right."""
    chosen = table.select(rows)
    sure, wrong = _sureness(chosen), _wrong(chosen)
    told = np.where(wrong.any(1), np.where(wrong, sure, 0.0).max(1), sure.min(1))
    true_share = np.where(wrong.any(1), 1 - told, told)
    names = ([_named(said_of(row, chosen.classes)) for row in codes] for codes in (chosen.true, chosen.predicted))
    return [Answer(*row) for row in zip(chosen.clip, chosen.group, *names, told.tolist(), true_share.tolist(), strict=True)]


def _named(label: str) -> str:
    return NONE if label == SEVERAL else label.replace(SEVERAL, ", ")


def reading(summary: dict, groups: str) -> list[str]:
    """What the numbers mean, in sentences a person can repeat. `groups`: the plural word for whose clips these are."""
    digits, pair = int(summary["n_clips"] >= MANY_CLIPS), summary["intervals"]["accuracy"]
    said = [f"Of 100 such clips the model gets every class right in about {100 * summary['accuracy']:.{digits}f}."]
    if pair:
        ends = f"between {100 * pair[0]:.{digits}f} and {100 * pair[1]:.{digits}f} of 100"
        said.append(f"With other {groups} of the same kind, expect {ends}.")
    return said + _hardest(class_rows(summary), digits)


def _hardest(rows: list[ClassRow], digits: int) -> list[str]:
    worst = min((row for row in rows if row.support), key=lambda row: row.f1, default=None)
    if worst is None:
        return []
    found = f"finds {worst.recall:.{digits}%} of it, and is right in {worst.precision:.{digits}%} of what it calls so"
    return [f"The hardest class is “{worst.name}” (F1 {worst.f1:.{digits}%}): the model {found}."]


def calibration(table: Tags, error: float) -> str:
    """Whether the classes are there as often as the model says, in one sentence."""
    gap = float(table.probability.mean() - (table.true > 0).mean())
    kind = "more than there are" if gap > 0.02 else "fewer than there are" if gap < -0.02 else "about as many as there are"
    expected = percent(round(float(table.probability.mean()), 3))
    text = f"The model expects a class in {expected} of all questions, a question being one class of one clip; that is {kind}."
    return f"{text} Calibration error {error:.1%} (15 bins)."
