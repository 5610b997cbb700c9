"""The report's sections on several answers about a clip: a row for each head, and what became of the rare classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crossfade.evaluation import views
from crossfade.evaluation.views import Headline, metrics_of

SHOWN = ("macro_f1", "balanced_accuracy", "average_precision")
FEW = 20  # training clips below which a class is rare (arXiv 1904.05160 calls it few-shot)
SMALL_SHARE = 0.05  # of the training clips, below which a class is rare too, unless an even share is smaller
ROWS = 40


@dataclass(frozen=True)
class TrainingClips:
    """What training had of one head: its labelled clips, and of them those of every class."""

    total: int
    by_class: dict[str, int]


@dataclass(frozen=True)
class HeadRow:
    """One head: its metrics and the clips that they rest on."""

    name: str
    values: list[Headline]
    clips: int


@dataclass(frozen=True)
class RareRow:
    """One rare class: how many clips training had, how many were judged, and what was found of them (shares 0..1; None = no clip)."""

    head: str
    name: str
    trained: int
    judged: int
    recall: float | None
    f1: float | None
    average_precision: float | None


def summaries(metrics: Mapping, split: str) -> dict[str, dict]:
    """metrics.json -> head -> its summary of a split; heads without a labelled clip in it are left out."""
    found = {metrics.get("target", ""): metrics.get(split), **{name: head.get(split) for name, head in metrics.get("heads", {}).items()}}
    return {name: summary for name, summary in found.items() if summary}


def rows(found: Mapping[str, dict]) -> list[HeadRow]:
    """One row a head; empty where there is but one."""
    if len(found) < 2:
        return []
    return [HeadRow(name, [views.headline(one, key) for key in SHOWN], one["n_clips"]) for name, one in found.items()]


def labels(found: Mapping[str, dict]) -> list[str]:
    """What the columns are called: as the first head calls them, without what is true of one kind of head only."""
    metrics = metrics_of(next(iter(found.values()), {}))
    return [metrics[key].label.split(" (")[0] for key in SHOWN]


def rare(found: Mapping[str, dict], training: Mapping[str, TrainingClips]) -> list[RareRow]:
    """The rare classes of every head of which the training clips are known, rarest in training first."""
    return [row for head, summary in found.items() if head in training for row in _rare(head, summary, training[head])]


def _rare(head: str, summary: dict, training: TrainingClips) -> list[RareRow]:
    made = [_row(head, name, training.by_class.get(name, 0), row) for name, row in summary["per_class"].items()]
    limit = min(SMALL_SHARE * training.total, sum(training.by_class.values()) / max(len(made), 1))
    return sorted((row for row in made if row.trained < FEW or row.trained < limit), key=lambda row: row.trained)


def _row(head: str, name: str, trained: int, row: dict) -> RareRow:
    seen = row["support"] > 0
    shares = (row["recall"], row["f1"], row["average_precision"]) if seen else (None, None, None)
    return RareRow(head, name, trained, row["support"], *shares)


def section(metrics: Mapping, split: str, training: Mapping[str, TrainingClips], shown: dict | None = None) -> dict:
    """All that the template shows of heads. `shown`: the first head's summary, where metrics.json does not hold it."""
    found = summaries({split: shown, **metrics}, split)
    uncommon = rare(found, training)
    return {"rows": rows(found), "labels": labels(found), "rare": uncommon[:ROWS], "more": len(uncommon[ROWS:]), "several": len(found) > 1}
