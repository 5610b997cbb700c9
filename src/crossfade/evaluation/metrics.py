"""What metrics.json says of a split: every metric with its interval, every class, the confusion matrix, from a table only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from crossfade.evaluation.intervals import group_tally, intervals, note
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.scores import Evidence, f1, precision, recall
from crossfade.evaluation.tags import Tags

if TYPE_CHECKING:
    from crossfade.evaluation.order import Order
    from crossfade.evaluation.predictions import Answers

AREA = "auroc"  # without clips that are of a class and clips that are not it is no number
ONE_CLASS = "AUROC is not defined here: no class has both clips that are of it and clips that are not."
SHOTS = {"many": lambda clips: clips > 100, "medium": lambda clips: 20 <= clips <= 100, "few": lambda clips: clips < 20}


def confusion(predictions: Predictions) -> np.ndarray:
    """Clips of true class (row) predicted as class (column): int64 (C, C), clips of unknown class left out."""
    known, classes = predictions.known(), len(predictions.classes)
    return np.bincount(known.true * classes + known.predicted, minlength=classes * classes).reshape(classes, classes)


def per_class(predictions: Answers) -> dict[str, dict]:
    """Class name -> precision, recall, f1 (each 0..1; 0 where undefined, as scikit-learn) and support (clips)."""
    total = predictions.evidence().once().tally
    columns = {"precision": precision(total)[0], "recall": recall(total)[0], "f1": f1(total)[0]}
    return {
        name: {key: float(values[i]) for key, values in columns.items()} | {"support": int(total.support[0, i])}
        for i, name in enumerate(predictions.classes)
    }


def _with_order(rows: dict[str, dict], order: Order) -> dict[str, dict]:
    """Every class with its average precision and AUROC; None where it, or every other, does not occur."""
    columns = {"average_precision": order.average_precision[0].tolist(), "auroc": order.auroc[0].tolist()}
    return {
        name: row | {key: None if math.isnan(values[i]) else values[i] for key, values in columns.items()}
        for i, (name, row) in enumerate(rows.items())
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


def scores(predictions: Answers) -> dict[str, float]:
    """Every metric by name, without intervals: the clips are put in order once for all. UserError when no clip has a known label."""
    return _values(predictions, predictions.evidence().once())


def _values(table: Answers, found: Evidence) -> dict[str, float]:
    return {name: metric.value(found) for name, metric in table.metrics.items()}


def summary(predictions: Answers, *, train_counts: Mapping[str, int] | None = None, seed: int = 0, resamples: int = 2000) -> dict:
    """Every metric as a plain float (AUROC None where it is not defined), its 95 % interval [low, high] or None, and what made them.

    Macro averages go over the classes that occur (UAR: among the true labels; F1: among true or predicted ones), as in
    scikit-learn. `train_counts`, training clips by class, add accuracy by shots. UserError when no clip has a known label.
    """
    groups = group_tally(predictions)
    pairs = intervals(groups, seed=seed, resamples=resamples, metrics=predictions.metrics)
    once, clips = predictions.evidence().once(), len(predictions.known())
    area = predictions.metrics[AREA].defined(once)
    return {
        **_values(predictions, once),
        **({} if area else {AREA: None}),
        "intervals": {name: list(pair) if pair else None for name, pair in pairs.items()},
        "n_clips": clips,
        "n_groups": len(groups),
        "n_unknown": len(predictions) - clips,
        "notes": [text for text in (note(len(groups)), "" if area else ONE_CLASS) if text],
        "per_class": _with_order(per_class(predictions), once.order),
        "classes": list(predictions.classes),
        **BESIDES[type(predictions)](predictions, train_counts or {}),
    }


def _one_class(predictions: Predictions, train_counts: Mapping[str, int]) -> dict:
    by_shots = shots(predictions, train_counts)
    return {"confusion": confusion(predictions).tolist(), **({"shots": by_shots} if by_shots else {})}


def _several_classes(table: Tags, train_counts: Mapping[str, int]) -> dict:
    return {"several": True}


BESIDES: dict[type, Callable[..., dict]] = {Predictions: _one_class, Tags: _several_classes}
