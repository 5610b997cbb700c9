"""What metrics.json says of a split: every metric with its interval, every class, the confusion matrix, from predictions only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crossfade.evaluation import METRICS
from crossfade.evaluation.intervals import group_tally, intervals, note
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.scores import evidence, f1, precision, recall, tally

SHOTS = {"many": lambda clips: clips > 100, "medium": lambda clips: 20 <= clips <= 100, "few": lambda clips: clips < 20}


def confusion(predictions: Predictions) -> np.ndarray:
    """Clips of true class (row) predicted as class (column): int64 (C, C), clips of unknown class left out."""
    known, classes = predictions.known(), len(predictions.classes)
    return np.bincount(known.true * classes + known.predicted, minlength=classes * classes).reshape(classes, classes)


def per_class(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Class name -> precision, recall, f1 (each 0..1; 0 where undefined, as scikit-learn) and support (clips)."""
    total = tally(predictions.true, predictions.probability)
    columns = {"precision": precision(total)[0], "recall": recall(total)[0], "f1": f1(total)[0]}
    return {
        name: {key: float(values[i]) for key, values in columns.items()} | {"support": int(total.support[0, i])}
        for i, name in enumerate(predictions.classes)
    }


def shots(predictions: Predictions, train_counts: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Mean recall of the classes with many, medium and few training clips (arXiv 1904.05160, section 5), each with its classes and clips.

    Classes that do not occur among the judged clips are left out. Empty where fewer than two of the three kinds occur, and for two
    classes, of which it would say no more than their recalls do.
    """
    rows = {name: row for name, row in per_class(predictions).items() if row["support"]}
    kinds = {kind: [row for name, row in rows.items() if holds(train_counts.get(name, 0))] for kind, holds in SHOTS.items()}
    found = {kind: _shot(members) for kind, members in kinds.items() if members}
    return found if len(found) > 1 and len(rows) > 2 else {}


def _shot(members: list[dict[str, float]]) -> dict[str, float]:
    recalls = [row["recall"] for row in members]
    return {"accuracy": float(np.mean(recalls)), "classes": len(members), "clips": int(sum(row["support"] for row in members))}


def scores(predictions: Predictions) -> dict[str, float]:
    """Every metric by name, without intervals: the clips are put in order once for all. UserError when no clip has a known label."""
    found = evidence(predictions.true, predictions.probability).once()
    return {name: metric.value(found) for name, metric in METRICS.items()}


def summary(predictions: Predictions, *, train_counts: Mapping[str, int] | None = None, seed: int = 0, resamples: int = 2000) -> dict:
    """Every metric as a plain float, its 95 % interval [low, high] or None, and what they were computed from.

    Macro averages go over the classes that occur (UAR: among the true labels; F1: among true or predicted ones), as in
    scikit-learn. `train_counts`, training clips by class, add accuracy by shots. UserError when no clip has a known label.
    """
    groups = group_tally(predictions)
    found = intervals(groups, seed=seed, resamples=resamples)
    by_shots = shots(predictions, train_counts or {})
    return {
        **scores(predictions),
        "intervals": {name: list(pair) if pair else None for name, pair in found.items()},
        "n_clips": int((predictions.true >= 0).sum()),
        "n_groups": len(groups),
        "n_unknown": int((predictions.true < 0).sum()),
        "notes": [text for text in (note(len(groups)),) if text],
        "per_class": per_class(predictions),
        "classes": list(predictions.classes),
        "confusion": confusion(predictions).tolist(),
        **({"shots": by_shots} if by_shots else {}),
    }
