"""Every metric equals scikit-learn's, or the paper's definition written out."""

import json
import warnings
from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics as sk

from crossfade.clip import UserError
from crossfade.evaluation import METRICS
from crossfade.evaluation.metrics import confusion, per_class, scores, summary
from crossfade.evaluation.predictions import Predictions

SKLEARN = {
    "accuracy": lambda true, p: sk.accuracy_score(true, p.argmax(1)),
    "balanced_accuracy": lambda true, p: sk.balanced_accuracy_score(true, p.argmax(1)),
    "macro_f1": lambda true, p: sk.f1_score(true, p.argmax(1), average="macro"),
    "nll": lambda true, p: sk.log_loss(true, p, labels=range(p.shape[1])),
    "auroc": lambda true, p: _auroc(true, p),
    "average_precision": lambda true, p: np.mean([sk.average_precision_score(true == c, p[:, c]) for c in np.unique(true)]),
}


def _auroc(true, p):
    """One against the rest, the mean over the classes; of a single class nothing can be told apart."""
    present = np.unique(true)
    return np.mean([sk.roc_auc_score(true == c, p[:, c]) for c in present]) if len(present) > 1 else 0.5


def made(count=200, classes=6, seed=0, sharpness=0.5, only=None):
    generator = np.random.default_rng(seed)
    true = generator.integers(0, only or classes, count)
    probability = generator.dirichlet(np.full(classes, sharpness), count)
    return true, probability


def predictions(true, probability, groups=12):
    count, classes = probability.shape
    names = [f"c{i}" for i in range(count)]
    return Predictions(
        names,
        [f"g{i % groups}" for i in range(count)],
        [""] * count,
        ["test"] * count,
        true,
        probability,
        [f"k{i}" for i in range(classes)],
    )


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("case", [{}, {"classes": 2}, {"classes": 30, "count": 40}, {"only": 2}, {"count": 1}, {"sharpness": 0.01}])
def test_equal_to_scikit_learn(name, case):
    true, probability = made(**case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SKLEARN[name](true, probability)
    assert METRICS[name](true, probability) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_by_its_definition():
    true, probability = made(500)
    confidence, right = probability.max(1), probability.argmax(1) == true
    edges, expected = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert METRICS["ece"](true, probability) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_of_a_calibrated_and_of_an_overconfident_model():
    generator = np.random.default_rng(0)
    p = generator.uniform(0.5, 1, 200_000)
    true = (generator.uniform(size=len(p)) > p).astype(int)
    assert METRICS["ece"](true, np.stack([p, 1 - p], 1)) < 0.005
    always = np.tile([1.0, 0.0], (len(p), 1))
    assert METRICS["ece"](true, always) == pytest.approx((true == 1).mean())


def test_certain_and_wrong_costs_much_but_is_finite():
    assert METRICS["nll"](np.array([1]), np.array([[1.0, 0.0]])) == pytest.approx(36.04, abs=0.01)


def test_unknown_labels_are_left_out_and_none_known_is_an_error():
    true, probability = made()
    mixed = np.concatenate([true, np.full(7, -1)])
    for metric in METRICS.values():
        assert metric(mixed, np.concatenate([probability, probability[:7]])) == metric(true, probability)
    with pytest.raises(UserError, match="no clip has a known label"):
        METRICS["accuracy"](np.array([-1]), np.array([[0.5, 0.5]]))
    with pytest.raises(UserError, match="no clip has a known label"):
        summary(predictions(np.array([-1]), np.array([[0.5, 0.5]])))


def test_per_class_and_confusion_equal_scikit_learn():
    true, probability = made(300, only=4)
    table = predictions(true, probability)
    p, r, f, n = sk.precision_recall_fscore_support(true, probability.argmax(1), labels=range(6), zero_division=0)
    for i, (name, row) in enumerate(per_class(table).items()):
        assert name == f"k{i}"
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == pytest.approx((p[i], r[i], f[i], n[i]))
    np.testing.assert_array_equal(confusion(table), sk.confusion_matrix(true, probability.argmax(1), labels=range(6)))


def test_summary_is_plain_json_and_agrees_with_its_parts():
    true, probability = made()
    true[:3] = -1
    found = summary(predictions(true, probability), seed=1, resamples=300)
    assert json.loads(json.dumps(found)) == found
    assert list(scores(predictions(true, probability))) == list(METRICS)
    for name, metric in METRICS.items():
        assert found[name] == metric(true, probability) == scores(predictions(true, probability))[name]
        low, high = found["intervals"][name]
        assert low < high
    assert found["intervals"]["accuracy"][0] < found["accuracy"] < found["intervals"]["accuracy"][1]
    assert (found["n_clips"], found["n_unknown"], found["n_groups"], found["notes"]) == (197, 3, 12, [])
    assert np.sum(found["confusion"]) == 197
    assert found["classes"] == list(found["per_class"])


def test_clips_of_one_class_have_no_area_but_a_number_to_select_by():
    true, probability = made(classes=2, only=1)
    found = summary(predictions(true, probability), resamples=50)
    assert found["auroc"] is None and found["intervals"]["auroc"] is None
    assert [text for text in found["notes"] if "AUROC is not defined" in text]
    assert scores(predictions(true, probability))["auroc"] == 0.5
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_summary_repeats_with_its_seed_and_only_then():
    table = predictions(*made())
    assert summary(table, seed=1, resamples=200) == summary(table, seed=1, resamples=200)
    assert summary(table, seed=1, resamples=200)["intervals"] != summary(table, seed=2, resamples=200)["intervals"]


def test_accuracy_by_shots_is_the_mean_recall_of_the_classes_with_so_many_training_clips():
    true, probability = made(400)
    table = predictions(true, probability)
    recalls = np.array([(probability.argmax(1) == true)[true == code].mean() for code in range(6)])
    counts = {"k0": 500, "k1": 101, "k2": 100, "k3": 20, "k4": 19}  # none of k5
    found = summary(table, train_counts=counts, resamples=10)["shots"]
    assert list(found) == ["many", "medium", "few"]
    for kind, members in {"many": [0, 1], "medium": [2, 3], "few": [4, 5]}.items():
        assert found[kind]["accuracy"] == pytest.approx(recalls[members].mean())
        assert (found[kind]["classes"], found[kind]["clips"]) == (2, np.isin(true, members).sum())


@pytest.mark.parametrize("counts", [None, {}, dict.fromkeys([f"k{i}" for i in range(6)], 50)])
def test_no_accuracy_by_shots_where_all_classes_are_alike(counts):
    assert "shots" not in summary(predictions(*made()), train_counts=counts, resamples=10)


def test_two_classes_have_no_shots():
    assert "shots" not in summary(predictions(*made(classes=2)), train_counts={"k0": 5, "k1": 500}, resamples=10)


def test_what_a_reader_sees():
    assert METRICS["accuracy"].show(0.8133) == "81.3%"
    assert METRICS["nll"].show(0.5421) == "0.542"
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["nll", "ece"]
