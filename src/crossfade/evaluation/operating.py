"""Where to say yes to the rarer of two classes: every choice is made on validation clips, and what it gives is seen on test clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from crossfade.evaluation.calibration import COLDEST, HOTTEST, shifted, slope_and_bias, straightened, temperature, with_temperature
from crossfade.evaluation.metrics import per_class
from crossfade.evaluation.order import Ranking
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.priors import estimated_prior, shift
from crossfade.evaluation.scores import evidence, expected_calibration_error, macro_f1

ENOUGH_RECALL = 0.85
ASSUMED = (0.02, 0.05, 0.1, 0.2, 0.5)  # shares of the rarer class that a place may have
LOWEST = 1e-12  # probability that a threshold is set below
RAREST = 1e-6  # share of a class, and of all others, so that its logit is finite


def operating(val: Predictions, test: Predictions, *, train_counts: Mapping[str, int] | None = None) -> dict:
    """What thresholds, a temperature and another prior would change, as metrics.json keeps it; empty where there is nothing to choose.

    `val`: all validation clips. Those with a label decide; those without one, if there are any, tell how common the class is where the
    test clips come from (else the test clips do, without their labels). No label of a test clip decides anything.
    Only for two classes; `versus_rest` makes two of more. The rarer is the one with fewer training clips, or validation clips.
    """
    known = val.known()
    if len(val.classes) != 2 or len(set(known.true.tolist())) < 2 or not len(test):
        return {}
    code = rarer(known, train_counts)
    return {
        "class": val.classes[code],
        "other": val.classes[1 - code],
        "val": _clips(known, code),
        "test": _clips(test.known(), code),
        "average_precision": _average_precision(test.known(), code),
        "threshold": thresholds(known, test.known(), code),
        "temperature": tempered(known, test.known()),
        "prior": priors(val, test, code),
    }


def versus_rest(table: Predictions, name: str) -> Predictions:
    """The same clips, asked only whether they are of one class: classes [name, "other"]."""
    code = table.classes.index(name)
    own = table.probability[:, code]
    true = np.where(table.true < 0, -1, (table.true != code).astype(np.int64))
    return replace(table, true=true, probability=np.stack([own, 1 - own], axis=1), classes=[name, f"not {name}"])


def rarer(known: Predictions, train_counts: Mapping[str, int] | None = None) -> int:
    """Of two classes the one with fewer training clips, or, where they are not given, fewer of these; the first of equals."""
    counts = [train_counts.get(name, 0) for name in known.classes] if train_counts else np.bincount(known.true, minlength=2).tolist()
    return int(counts[1] < counts[0])


def thresholds(val: Predictions, test: Predictions, code: int) -> dict[str, dict]:
    """By its aim the threshold and what it gives on both splits: saying yes at a half, at the best macro-F1, at enough recall."""
    chosen = {"half": 0.5, "macro_f1": best_threshold(val, code), "recall": recalling_threshold(val, code)}
    return {aim: {"value": at, "val": point(val, code, at), "test": point(test, code, at)} for aim, at in chosen.items()}


def candidates(probability: np.ndarray) -> np.ndarray:
    """One threshold below all probabilities and one between any two neighbours, rising."""
    levels = np.unique(probability)
    return np.concatenate([[levels[0] / 2], (levels[1:] + levels[:-1]) / 2])


def best_threshold(val: Predictions, code: int) -> float:
    """The threshold of highest macro-F1; of equals the one nearest to a half."""
    levels, yes, no = _scanned(val, code)
    positives, negatives = yes[0], no[0]
    f1_yes, f1_no = 2 * yes / (yes + no + positives), 2 * (negatives - no) / (negatives - no + positives - yes + negatives)
    scores = (f1_yes + f1_no) / 2
    best = levels[scores >= scores.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def recalling_threshold(val: Predictions, code: int) -> float:
    """The highest threshold that still finds 85 % of the class."""
    levels, yes, _ = _scanned(val, code)
    return float(levels[yes >= ENOUGH_RECALL * yes[0]].max())


def _scanned(val: Predictions, code: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, rising, and how many clips of the class and of the other lie above each."""
    own, known = np.maximum(val.probability[:, code], LOWEST), val.true == code
    levels = candidates(own)
    above = [np.sort(own[side]) for side in (known, ~known)]
    yes, no = (len(side) - np.searchsorted(side, levels) for side in above)
    return levels, yes, no


def decided(table: Predictions, code: int, threshold: float) -> Predictions:
    """Probabilities moved so that the class is said at this threshold where it was said at a half."""
    return shifted(table, code, -shift(threshold, 0.5))


def point(table: Predictions, code: int, threshold: float) -> dict[str, float]:
    """What a threshold gives: `outcome` of the moved table."""
    return outcome(decided(table, code, threshold), code)


def outcome(table: Predictions, code: int) -> dict[str, float]:
    """Macro-F1, the class's precision, recall and F1, and how often it is said; empty where no clip has a label."""
    if not len(table):
        return {}
    row = per_class(table)[table.classes[code]]
    macro = float(macro_f1(evidence(table.true, table.probability).once().tally)[0])
    kept = {name: row[name] for name in ("precision", "recall", "f1")}
    return {"macro_f1": macro, **kept, "said": float((table.predicted == code).mean())}


def tempered(val: Predictions, test: Predictions) -> dict:
    """The temperature of the validation clips, and the calibration error before and after."""
    found = temperature(val)
    errors = {split: [ece(table), ece(with_temperature(table, found))] for split, table in {"val": val, "test": test}.items() if len(table)}
    return {"value": found, "at_bound": not COLDEST * 1.01 < found < HOTTEST * 0.99, "ece": errors}


def ece(table: Predictions) -> float:
    """The expected calibration error of the known clips."""
    return float(expected_calibration_error(evidence(table.true, table.probability).once().tally)[0])


def priors(val: Predictions, test: Predictions, code: int) -> dict:
    """What other shares of the class would change: assumed ones, and the one estimated from unlabelled clips."""
    known, unknown = val.known(), val.select(val.true < 0)
    slope, bias = slope_and_bias(known, code)
    source = float((known.true == code).mean())
    asked = unknown if len(unknown) else test
    found = _estimate(straightened(asked, code, slope, bias), code, source)
    judged = straightened(test.known(), code, slope, bias)
    shares = [(source, "source"), (found, "estimated"), *((share, "assumed") for share in ASSUMED)]
    return {
        "source": source,
        "slope": slope,
        "bias": bias,
        "estimated": {"value": found, "clips": len(asked), "split": "val" if len(unknown) else "test"},
        "rows": [_prior_row(judged, code, share, source, kind) for share, kind in shares],
    }


def _estimate(table: Predictions, code: int, source: float) -> float:
    shares = np.array([1 - source, 1 - source])
    shares[code] = source
    return float(np.clip(estimated_prior(table.probability, shares)[code], RAREST, 1 - RAREST))


def _prior_row(table: Predictions, code: int, share: float, source: float, kind: str) -> dict:
    by = shift(share, source)
    return {"share": share, "kind": kind, "shift": by, "test": outcome(shifted(table, code, by), code)}


def _clips(known: Predictions, code: int) -> dict[str, int]:
    return {"clips": len(known), "positives": int((known.true == code).sum())}


def _average_precision(known: Predictions, code: int) -> float | None:
    if not (known.true == code).any():
        return None
    whole = Ranking(known.true, known.probability, np.zeros(len(known), dtype=np.int64))
    return float(whole.weighted(np.ones((1, 1))).average_precision[0, code])


def recall_and_precision(known: Predictions, code: int) -> list[tuple[float, float, float]]:
    """(recall, precision, threshold) at every probability that occurs, from the highest down: the steps of a precision-recall curve."""
    own, positive = known.probability[:, code], known.true == code
    levels = np.unique(own)[::-1]
    found = np.array([(own[positive] >= level).sum() for level in levels])
    said = np.array([(own >= level).sum() for level in levels])
    return list(zip((found / positive.sum()).tolist(), (found / said).tolist(), levels.tolist(), strict=True))
