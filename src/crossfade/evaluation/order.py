"""How well probabilities order the clips: area under the ROC curve and average precision of every class, exact with ties and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ROOM = 150_000_000  # clips x classes x resamples that are ordered, a second or so; of more clips fewer resamples
FEWEST = 200  # resamples are ordered, however many clips there are
BLOCK = 64  # resamples at a time: their weights of a thousand clips stay in a processor's cache


class Order(NamedTuple):
    """Per resample and class; NaN where the class, or every other, does not occur in the resample."""

    auroc: np.ndarray  # (R, C) the chance that a clip of the class gets a higher probability of it than another clip; ties count half
    average_precision: np.ndarray  # (R, C) mean precision at the clips of the class, as scikit-learn


@dataclass(frozen=True, eq=False)
class Ranking:
    """N clips of known class in G groups."""

    true: np.ndarray  # (N,) the class of each, or (N, C) 1 = has it, 0 = has it not
    probability: np.ndarray  # (N, C)
    group: np.ndarray  # (N,) index of a group

    def weighted(self, counts: np.ndarray) -> Order:
        """How often each group counts (R, G) -> the order of every class; of very many clips only the first of the resamples."""
        classes = self.probability.shape[1]
        rows = counts[: max(FEWEST, ROOM // (len(self.true) * classes))]
        made = [self._of_class(code, rows) for code in range(classes)]
        return Order(*(np.stack(parts, axis=1) for parts in zip(*made, strict=True)))

    def having(self, code: int) -> np.ndarray:
        """(N,) which clips are of a class."""
        return self.true[:, code] > 0 if self.true.ndim == 2 else self.true == code

    def _of_class(self, code: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        falling = np.argsort(-self.probability[:, code], kind="stable")
        places = _places(self.probability[falling, code], self.having(code)[falling])
        weights = counts.T
        blocks = [weights[:, start : start + BLOCK] for start in range(0, len(counts), BLOCK)]
        found = [_areas(block[self.group[falling]], places) for block in blocks]
        auroc, precision = zip(*found, strict=True)
        return np.concatenate(auroc), np.concatenate(precision)


class Places(NamedTuple):
    """Of P positive clips in falling order of probability: where they lie, and how far those tied with them reach."""

    own: np.ndarray  # (P,) among all clips
    first: np.ndarray  # (P,) clips strictly above
    last: np.ndarray  # (P,) clips above or tied
    first_positive: np.ndarray  # (P,) positive clips strictly above
    last_positive: np.ndarray  # (P,) positive clips above or tied


def _places(falling: np.ndarray, positive: np.ndarray) -> Places:
    own, all_, chosen = np.flatnonzero(positive), -falling, -falling[positive]
    sides = ("left", "right")
    first, last = (np.searchsorted(all_, chosen, side) for side in sides)
    first_positive, last_positive = (np.searchsorted(chosen, chosen, side) for side in sides)
    return Places(own, first, last, first_positive, last_positive)


def _areas(weights: np.ndarray, places: Places) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the clips in falling order (N, R) -> AUROC (R,) and average precision (R,)."""
    own = weights[places.own]
    above, above_positive = _summed(weights), _summed(own)
    reached, found = above[places.last], above_positive[places.last_positive]
    positives, negatives = above_positive[-1], above[-1] - above_positive[-1]
    passed = 0.5 * (reached - found + above[places.first] - above_positive[places.first_positive])  # of the others, not below
    precision = np.divide(found, reached, out=np.zeros_like(reached), where=reached > 0)
    return _mean(own * (negatives - passed), positives * negatives), _mean(own * precision, positives)


def _summed(weights: np.ndarray) -> np.ndarray:
    """(N, R) -> (N + 1, R), what lies above each place."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def _mean(parts: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(parts.sum(0), total, out=np.full(len(total), np.nan), where=total > 0)
