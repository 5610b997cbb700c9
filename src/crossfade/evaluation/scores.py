"""Every metric is a function of sums over clips, or of their order: so one definition serves the number itself and its bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from crossfade.clip import UserError
from crossfade.evaluation.order import Order, Ranking

BINS = 15  # equal-width bins of the top class's probability: Guo et al. 2017, arXiv 1706.04599, section 2
MANY_CLIPS = 5000  # from which 0.1 % is many clips, and a number is shown with one digit more
FLOOR = np.finfo(np.float64).eps  # scikit-learn's log_loss floor: a probability of 0 costs 36.04 nats, not infinity


class Tally(NamedTuple):
    """Sums over clips. Any leading axes `...` are groups or resamples; integers where nothing was weighted."""

    hits: np.ndarray  # (..., C) clips of class c predicted as c
    support: np.ndarray  # (..., C) clips whose true class is c
    predicted: np.ndarray  # (..., C) clips predicted as c
    loss: np.ndarray  # (...) sum of -ln p(true class)
    bins: np.ndarray  # (..., 3, 15) per confidence bin: clips, sum of confidence, clips correct


@dataclass(frozen=True, eq=False)
class Evidence:
    """What metrics are made of: tallies, which add, and the clips' order, which does not; each row is the clips once or a resample."""

    tally: Any  # (R, ...) a Tally, or of clips with several classes at once a TagTally
    ranking: Ranking
    counts: np.ndarray  # (R, G) how often each group counts

    @cached_property
    def order(self) -> Order:
        return self.ranking.weighted(self.counts)


@dataclass(frozen=True)
class Metric:
    """One metric: `rows` gives an array over rows of evidence; called with true (N,), probability (N, C) of one class of many, a float."""

    rows: Callable[[Evidence], np.ndarray]  # NaN where it is not defined
    label: str
    higher_is_better: bool = True
    share: bool = True  # lies in 0..1 and is written as a percentage
    undefined: float = float("nan")  # what selection and comparison take for it where only one class occurs

    def __call__(self, true: np.ndarray, probability: np.ndarray) -> float:
        """(N,), (N, C) -> float. Clips of unknown class (-1) are left out; UserError when none remains."""
        return self.value(evidence(true, probability).once())

    def value(self, found: Evidence) -> float:
        """Its number from the first row."""
        value = float(self.rows(found)[0])
        return self.undefined if np.isnan(value) else value

    def defined(self, found: Evidence) -> bool:
        """Whether the first row has such a number."""
        return not np.isnan(self.rows(found)[0])

    def show(self, value: float, clips: int = 0) -> str:
        """The value as a reader wants it: 81.3% or 0.542, and a digit more where so many clips carry it."""
        more = clips >= MANY_CLIPS
        return f"{value:.{1 + more}%}" if self.share else f"{value:.{3 + more}f}"


def summed(measure: Callable[[Any], np.ndarray]) -> Callable[[Evidence], np.ndarray]:
    """A metric of sums."""
    return lambda found: measure(found.tally)


@dataclass(frozen=True, eq=False)
class Grouped:
    """Clips of known class in G groups: a tally each (G, ...), and all clips' order."""

    tally: Any
    ranking: Ranking

    def __len__(self) -> int:
        return len(self.tally.loss)

    def once(self) -> Evidence:
        """Every group counted once: evidence of one row."""
        return Evidence(type(self.tally)(*(part.sum(0, keepdims=True) for part in self.tally)), self.ranking, np.ones((1, len(self))))


def evidence(true: np.ndarray, probability: np.ndarray, group: np.ndarray | None = None) -> Grouped:
    """(N,) -1 = unknown, (N, C), group index (N,) or None for one group. UserError when no class is known."""
    true, probability = np.asarray(true), np.asarray(probability, dtype=np.float64)
    codes, known = np.zeros(len(true), dtype=np.int64) if group is None else np.asarray(group), true >= 0
    return Grouped(tally(true, probability, codes), Ranking(true[known], probability[known], codes[known]))


def tally(true: np.ndarray, probability: np.ndarray, group: np.ndarray | None = None) -> Tally:
    """(N,) -1 = unknown, (N, C), group index (N,) or None for one group -> Tally with one leading axis (G,)."""
    true, probability = np.asarray(true), np.asarray(probability, dtype=np.float64)
    known = true >= 0
    if not known.any():
        raise UserError("there is nothing to judge: no clip has a known label")
    codes = np.zeros(len(true), dtype=np.int64) if group is None else np.asarray(group)
    true, probability, codes = true[known], probability[known], codes[known]
    return _tally_known(true, probability, codes, groups=int(codes.max()) + 1)


def _tally_known(true: np.ndarray, probability: np.ndarray, codes: np.ndarray, *, groups: int) -> Tally:
    classes = probability.shape[1]
    predicted, confidence = probability.argmax(axis=1), probability.max(axis=1)
    right = predicted == true
    # (lower, upper] as in the paper: a confidence of exactly 0.2 belongs to the bin that ends at 0.2
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    loss = -np.log(np.clip(probability[np.arange(len(true)), true], FLOOR, 1.0))
    binned = [_sums(codes, bins, groups, BINS, weights) for weights in (None, confidence, right.astype(float))]
    return Tally(
        hits=_sums(codes[right], true[right], groups, classes),
        support=_sums(codes, true, groups, classes),
        predicted=_sums(codes, predicted, groups, classes),
        loss=np.bincount(codes, weights=loss, minlength=groups),
        bins=np.stack(binned, axis=1),
    )


def _sums(rows: np.ndarray, columns: np.ndarray, height: int, width: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Count, or sum the weights of, every (row, column) pair: -> (height, width)."""
    return np.bincount(rows * width + columns, weights=weights, minlength=height * width).reshape(height, width)


def accuracy(t: Tally) -> np.ndarray:
    """Share of clips named correctly. Tally (...) -> (...)."""
    return t.hits.sum(-1) / t.support.sum(-1)


def balanced_accuracy(t: Tally) -> np.ndarray:
    """Unweighted average recall (UAR) over the classes that occur among the true labels, as scikit-learn. Tally (...) -> (...)."""
    present = t.support > 0
    return ratio(t.hits, t.support).sum(-1) / present.sum(-1)


def macro_f1(t: Tally) -> np.ndarray:
    """Mean F1 over the classes that occur among the true or the predicted labels, as scikit-learn. Tally (...) -> (...)."""
    total = t.support + t.predicted
    return ratio(2 * t.hits, total).sum(-1) / (total > 0).sum(-1)


def negative_log_likelihood(t: Tally) -> np.ndarray:
    """Mean -ln p(true class) in nats. Tally (...) -> (...)."""
    return t.loss / t.support.sum(-1)


def expected_calibration_error(t: Tally) -> np.ndarray:
    """Mean |share correct - confidence| over the bins, weighted by clips (arXiv 1706.04599, equation 3). Tally (...) -> (...)."""
    _, confidence, right = np.moveaxis(t.bins, -2, 0)
    return np.abs(right - confidence).sum(-1) / t.support.sum(-1)


def auroc(found: Evidence) -> np.ndarray:
    """Area under the ROC curve: of two classes that of the rarer, of more the mean of each against the rest. Evidence (R, ...) -> (R,)."""
    areas = found.order.auroc
    return areas[:, rarest(found.ranking)] if areas.shape[1] == 2 else mean_of_defined(areas)


def rarest(ranking: Ranking) -> int:
    """The class with the fewest clips among those that occur; the first of equals."""
    support = np.bincount(ranking.true, minlength=ranking.probability.shape[1])
    return int(np.where(support > 0, support, support.sum() + 1).argmin())


def mean_average_precision(found: Evidence) -> np.ndarray:
    """Mean over the classes that occur of the average precision of each (mAP). Evidence (R, ...) -> (R,)."""
    return mean_of_defined(found.order.average_precision)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """(R, C) -> (R,) the mean of what is not NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    sums, counts = np.where(defined, values, 0.0).sum(1), defined.sum(1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def precision(t: Tally) -> np.ndarray:
    """Of the clips predicted as c, the share that is c; 0 where none was predicted. Tally (...) -> (..., C)."""
    return ratio(t.hits, t.predicted)


def recall(t: Tally) -> np.ndarray:
    """Of the clips that are c, the share found; 0 where there are none. Tally (...) -> (..., C)."""
    return ratio(t.hits, t.support)


def f1(t: Tally) -> np.ndarray:
    """Harmonic mean of precision and recall; 0 where the class occurs nowhere. Tally (...) -> (..., C)."""
    return ratio(2 * t.hits, t.support + t.predicted)


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom; 0 where the bottom is 0."""
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom > 0)
