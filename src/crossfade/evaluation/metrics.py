"""What metrics.json says of a split: every metric with its interval, every class, the confusion matrix, from predictions only."""

from __future__ import annotations

import numpy as np

from crossfade.evaluation import METRICS
from crossfade.evaluation.intervals import group_tally, intervals, note
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.scores import f1, precision, recall, tally


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


def summary(predictions: Predictions, *, seed: int = 0, resamples: int = 2000) -> dict:
    """Every metric as a plain float, its 95 % interval [low, high] or None, and what they were computed from.

    Macro averages go over the classes that occur (UAR: among the true labels; F1: among true or predicted ones), as in
    scikit-learn. UserError when no clip has a known label.
    """
    total, groups = tally(predictions.true, predictions.probability), group_tally(predictions)
    found = intervals(groups, seed=seed, resamples=resamples)
    return {
        **{name: float(metric.from_tally(total)[0]) for name, metric in METRICS.items()},
        "intervals": {name: list(pair) if pair else None for name, pair in found.items()},
        "n_clips": int(total.support.sum()),
        "n_groups": len(groups.loss),
        "n_unknown": int((predictions.true < 0).sum()),
        "notes": [text for text in (note(len(groups.loss)),) if text],
        "per_class": per_class(predictions),
        "classes": list(predictions.classes),
        "confusion": confusion(predictions).tolist(),
    }
