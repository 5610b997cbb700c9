"""AUROC and average precision: scikit-learn's with ties and weights, and cheap enough to be resampled."""

import time

import numpy as np
import pytest
from sklearn import metrics as sk

from crossfade.evaluation import METRICS, order
from crossfade.evaluation.intervals import intervals, resample
from crossfade.evaluation.order import Ranking
from crossfade.evaluation.scores import evidence


def made(count=120, classes=3, seed=0, levels=None):
    """Clips with better than random probabilities; `levels`: only so many values, so that many are tied."""
    generator = np.random.default_rng(seed)
    true = generator.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    raised = np.exp(generator.normal(size=(count, classes)) + 0.8 * np.eye(classes)[true])
    probability = raised / raised.sum(1, keepdims=True)
    return true, np.round(probability * levels) / levels if levels else probability


@pytest.mark.parametrize("levels", [None, 4, 1])
def test_weighted_and_tied_as_scikit_learn(levels):
    true, probability = made(levels=levels)
    counts = np.random.default_rng(1).integers(0, 4, size=(5, len(true))).astype(float)
    found = Ranking(true, probability, np.arange(len(true))).weighted(counts)
    for row, weight in enumerate(counts):
        for code in range(3):
            area = sk.roc_auc_score(true == code, probability[:, code], sample_weight=weight)
            precision = sk.average_precision_score(true == code, probability[:, code], sample_weight=weight)
            assert found.auroc[row, code] == pytest.approx(area, abs=1e-12)
            assert found.average_precision[row, code] == pytest.approx(precision, abs=1e-12)


def test_by_hand():
    """Of 2 x 3 pairs the order 1 0 1 0 0 has 5 right; precision 1 and 2/3 at the two."""
    true, own = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    found = Ranking(true, np.stack([1 - own, own], 1), np.zeros(5, int)).weighted(np.ones((1, 1)))
    assert found.auroc[0] == pytest.approx([5 / 6, 5 / 6])
    assert found.average_precision[0, 1] == pytest.approx((1 + 2 / 3) / 2)


def test_of_two_classes_the_rarer_is_ranked():
    true = np.array([0, 0, 0, 1, 1])
    probability = np.array([[1.0, 0.0], [1.0, 1e-9], [0.4, 0.6], [1.0, 1e-6], [0.1, 0.9]])  # class 0 is tied where class 1 is not
    assert METRICS["auroc"](true, probability) == pytest.approx(sk.roc_auc_score(true, probability[:, 1]))
    assert METRICS["auroc"](true, probability) != pytest.approx(sk.roc_auc_score(true == 0, probability[:, 0]))


def test_a_resample_without_the_class_is_left_out_and_one_class_alone_cannot_be_ranked():
    true, probability = np.array([1] + [0] * 5), np.full((6, 2), 0.5)
    (drawn,) = resample((evidence(true, probability, np.arange(6)),), seed=0, resamples=200)
    values = METRICS["auroc"].rows(drawn)
    without = drawn.counts[:, 0] == 0
    assert without.any()
    np.testing.assert_array_equal(np.isnan(values), without | (drawn.counts[:, 0] == 6))
    assert intervals(evidence(true, probability, np.arange(6)), seed=0)["auroc"] == (0.5, 0.5)
    alone = evidence(np.zeros(4, int), np.tile([0.6, 0.4], (4, 1)), np.arange(4))
    assert METRICS["auroc"].value(alone.once()) == 0.5
    assert intervals(alone, seed=0, resamples=50)["auroc"] is None


def test_of_very_many_clips_fewer_resamples_are_ordered(monkeypatch):
    true, probability = made(50)
    ranking, counts = Ranking(true, probability, np.arange(50)), np.random.default_rng(0).integers(0, 3, (500, 50)).astype(float)
    whole = ranking.weighted(counts)
    monkeypatch.setattr(order, "ROOM", 50 * 3 * 300)
    assert np.array_equal(ranking.weighted(counts).auroc, whole.auroc[:300], equal_nan=True)
    monkeypatch.setattr(order, "ROOM", 1)
    assert ranking.weighted(counts).average_precision.shape == (order.FEWEST, 3)


def test_2000_resamples_of_500_clips_take_less_than_a_second():
    true, probability = made(500, classes=2)
    start = time.process_time()
    intervals(evidence(true, probability, np.arange(500)), seed=0)
    assert time.process_time() - start < 1
