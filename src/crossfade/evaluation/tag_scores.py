"""Metrics where a clip may have several classes at once: each class is a question of its own, answered yes above one half."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossfade.clip import UserError
from crossfade.evaluation.order import Ranking
from crossfade.evaluation.scores import BINS, FLOOR, Evidence, Grouped, mean_of_defined, ratio

HALF = 0.5  # a class more probable than this is said to be there: a logit above 0


class TagTally(NamedTuple):
    """Sums over clips, of which each asks C questions. Any leading axes `...` are groups or resamples."""

    hits: np.ndarray  # (..., C) clips that have class c and are said to
    support: np.ndarray  # (..., C) clips that have class c
    predicted: np.ndarray  # (..., C) clips said to have class c
    clips: np.ndarray  # (...)
    exact: np.ndarray  # (...) clips of which every class is right
    loss: np.ndarray  # (...) sum over clips and classes of the binary cross-entropy
    bins: np.ndarray  # (..., 3, 15) per bin of the probability: questions, sum of probability, of them true


def evidence(true: np.ndarray, probability: np.ndarray, group: np.ndarray | None = None) -> Grouped:
    """(N, C) 0, 1 or rows of -1 = unknown, (N, C), group index (N,) or None for one group. UserError when no clip is known."""
    known = np.asarray(true)[:, 0] >= 0
    if not known.any():
        raise UserError("there is nothing to judge: no clip has a known label")
    codes = np.zeros(len(known), dtype=np.int64) if group is None else np.asarray(group)
    true, probability, codes = np.asarray(true)[known] > 0, np.asarray(probability, dtype=np.float64)[known], codes[known]
    return Grouped(_tally(true, probability, codes), Ranking(true, probability, codes))


def _tally(true: np.ndarray, probability: np.ndarray, codes: np.ndarray) -> TagTally:
    said = probability > HALF
    loss = -np.log(np.clip(np.where(true, probability, 1 - probability), FLOOR, 1.0))
    parts = (said & true, true, said, np.ones(len(codes)), (said == true).all(1), loss.sum(1), _bins(true, probability))
    return TagTally(*(_by_group(np.asarray(part, dtype=np.float64), codes) for part in parts))


def _by_group(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N, ...) -> (G, ...)."""
    sums = np.zeros((int(codes.max()) + 1, *values.shape[1:]))
    np.add.at(sums, codes, values)
    return sums


def _bins(true: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(N, C), (N, C) -> (N, 3, 15); (lower, upper] as for one class of many."""
    place = np.clip(np.ceil(probability * BINS).astype(np.int64) - 1, 0, BINS - 1)
    made = np.zeros((len(true), 3, BINS))
    rows = np.arange(len(true))[:, None]
    for part, weights in enumerate((1.0, probability, true)):
        np.add.at(made[:, part], (rows, place), weights)
    return made


def accuracy(t: TagTally) -> np.ndarray:
    """Share of clips of which every class is right, as scikit-learn. TagTally (...) -> (...)."""
    return t.exact / t.clips


def balanced_accuracy(t: TagTally) -> np.ndarray:
    """Mean of (sensitivity + specificity) / 2 over the classes that some clips have and others have not; NaN if none. (...) -> (...)."""
    negatives = t.clips[..., None] - t.support
    rejected = negatives - (t.predicted - t.hits)
    asked = (t.support > 0) & (negatives > 0)
    return _mean((ratio(t.hits, t.support) + ratio(rejected, negatives)) / 2, asked)


def macro_f1(t: TagTally) -> np.ndarray:
    """Mean F1 over the classes that some clip has, or is said to have; NaN if none. TagTally (...) -> (...)."""
    total = t.support + t.predicted
    return _mean(ratio(2 * t.hits, total), total > 0)


def micro_f1(t: TagTally) -> np.ndarray:
    """F1 of all questions together; NaN where nothing is there and nothing is said. TagTally (...) -> (...)."""
    total = (t.support + t.predicted).sum(-1)
    return np.where(total > 0, ratio(2 * t.hits.sum(-1), total), np.nan)


def cross_entropy(t: TagTally) -> np.ndarray:
    """Mean binary cross-entropy over clips and classes in nats. TagTally (...) -> (...)."""
    return t.loss / t.bins[..., 0, :].sum(-1)


def calibration_error(t: TagTally) -> np.ndarray:
    """Mean |share true - probability| over the bins, weighted by questions. TagTally (...) -> (...)."""
    questions, probability, true = np.moveaxis(t.bins, -2, 0)
    return np.abs(true - probability).sum(-1) / questions.sum(-1)


def auroc(found: Evidence) -> np.ndarray:
    """Mean area under the ROC curve over the classes that some clips have and others have not. Evidence (R, ...) -> (R,)."""
    return mean_of_defined(found.order.auroc)


def _mean(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(..., C), bool (..., C) -> (...); NaN where none is counted."""
    number = counted.sum(-1)
    return np.where(number > 0, ratio(np.where(counted, values, 0.0).sum(-1), number), np.nan)
