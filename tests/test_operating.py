"""Thresholds, temperature and priors: chosen on validation, by their definitions, and never by a label of a test clip."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk

from crossfade.evaluation.calibration import shifted, slope_and_bias, straightened, temperature, with_temperature
from crossfade.evaluation.operating import (
    best_threshold,
    decided,
    ece,
    operating,
    point,
    rarer,
    recall_and_precision,
    recalling_threshold,
    versus_rest,
)
from crossfade.evaluation.predictions import Predictions, concatenate
from crossfade.evaluation.priors import estimated_prior, shift

CLASSES = ["cough", "non-cough"]


def table(count=400, share=0.2, split="val", seed=0, sharp=1.0, bias=0.0, known=True):
    """Two normal classes 2 apart: the true posterior for this share is known; `sharp` and `bias` spoil it."""
    generator = np.random.default_rng(seed)
    true = (generator.uniform(size=count) >= share).astype(int)
    heard = generator.normal(size=count) + np.where(true == 0, 1.0, -1.0)
    logit = sharp * (2 * heard + np.log(0.2 / 0.8)) + bias  # always as if a fifth were coughs
    own = 1 / (1 + np.exp(-logit))
    names = [f"{split}{seed}/{i}" for i in range(count)]
    label = true if known else np.full(count, -1)
    return Predictions(names, names, [""] * count, [split] * count, label, np.stack([own, 1 - own], 1), CLASSES)


def says(made, threshold):
    return np.where(made.probability[:, 0] >= threshold, 0, 1)


def test_the_best_threshold_beats_every_other():
    val = table(200)
    found = best_threshold(val, 0)
    score = sk.f1_score(val.true, says(val, found), average="macro")
    tried = [sk.f1_score(val.true, says(val, at), average="macro") for at in np.linspace(0.01, 0.99, 99)]
    assert score >= max(tried) - 1e-12
    assert sk.f1_score(val.true, says(val, 0.5), average="macro") < score


def test_of_equally_good_thresholds_the_one_nearest_a_half():
    own = np.array([0.05, 0.1, 0.7, 0.9])
    val = Predictions(list("abcd"), list("abcd"), [""] * 4, ["val"] * 4, np.array([1, 1, 0, 0]), np.stack([own, 1 - own], 1), CLASSES)
    assert best_threshold(val, 0) == pytest.approx(0.4)
    assert recalling_threshold(val, 0) == pytest.approx(0.4)


def test_enough_recall_at_the_highest_threshold():
    val = table(300)
    found = recalling_threshold(val, 0)
    assert sk.recall_score(val.true == 0, val.probability[:, 0] >= found) >= 0.85
    higher = np.sort(val.probability[val.probability[:, 0] > found, 0])[1]
    assert sk.recall_score(val.true == 0, val.probability[:, 0] >= higher) < 0.85


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("threshold", [0.03, 0.5, 0.9])
def test_a_threshold_is_a_shift_of_the_logit(code, threshold):
    made = table(150)
    expected = np.where(made.probability[:, code] >= threshold, code, 1 - code)
    np.testing.assert_array_equal(decided(made, code, threshold).predicted, expected)
    found = point(made, code, threshold)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(made.true, expected, average="macro"))
    assert found["precision"] == pytest.approx(sk.precision_score(made.true, expected, pos_label=code))
    assert found["recall"] == pytest.approx(sk.recall_score(made.true, expected, pos_label=code))
    assert found["said"] == pytest.approx((expected == code).mean())


def test_the_temperature_undoes_what_was_done_and_is_the_most_likely():
    val = table(4000, sharp=2.5)
    found = temperature(val)
    losses = {at: sk.log_loss(val.true, with_temperature(val, at).probability) for at in (found, found * 1.05, found / 1.05)}
    assert min(losses, key=lambda at: losses[at]) == found
    np.testing.assert_allclose(with_temperature(table(50, sharp=2.0), 2.0).probability, table(50).probability, atol=1e-12)
    assert ece(with_temperature(val, found)) < ece(val) / 2
    np.testing.assert_array_equal(with_temperature(val, found).predicted, val.predicted)


def test_where_all_are_right_the_temperature_stays_within_bounds_and_says_so():
    own = np.array([0.1, 0.2, 0.8, 0.9])
    val = Predictions(list("abcd"), list("abcd"), [""] * 4, ["val"] * 4, np.array([1, 1, 0, 0]), np.stack([own, 1 - own], 1), CLASSES)
    found = operating(val, table(50, split="test", seed=3))["temperature"]
    assert found["at_bound"] and found["value"] == pytest.approx(0.1, rel=0.01)


def test_slope_and_bias_make_the_mean_probability_the_share():
    val = table(3000, sharp=1.7, bias=1.2)
    slope, bias = slope_and_bias(val, 0)
    assert slope == pytest.approx(1 / 1.7, rel=0.08)
    assert straightened(val, 0, slope, bias).probability[:, 0].mean() == pytest.approx((val.true == 0).mean(), abs=1e-4)


def test_the_estimated_prior_is_the_most_likely_one():
    """Saerens' fixed point is the maximum of sum log sum_c prior_c / source_c p_c, found here by a search on the line."""
    p, source = table(700, share=0.45, seed=5).probability, np.array([0.2, 0.8])
    found = estimated_prior(p, source)

    def surprise(share):
        return -np.log(p @ (np.array([share, 1 - share]) / source)).sum()

    assert found[0] == pytest.approx(minimize_scalar(surprise, bounds=(1e-6, 1 - 1e-6), method="bounded").x, abs=1e-4)
    assert found.sum() == pytest.approx(1)


def test_the_estimated_prior_finds_the_truth_where_only_the_share_changed():
    source = np.array([0.2, 0.8])
    for share in (0.05, 0.2, 0.5, 0.8):
        assert estimated_prior(table(20_000, share=share, seed=9).probability, source)[0] == pytest.approx(share, abs=0.015)


def test_shift_by_the_original_s_numbers():
    assert shift(0.49, 0.07) == pytest.approx(2.5467, abs=1e-4)
    made = shifted(table(20), 0, 1.3)
    before, after = (np.log(t.probability[:, 0] / t.probability[:, 1]) for t in (table(20), made))
    np.testing.assert_allclose(after - before, 1.3)


def test_all_of_it():
    val, test = table(500, sharp=1.5), table(600, share=0.45, split="test", seed=2, sharp=1.5)
    unlabelled = table(2000, share=0.45, split="val", seed=3, sharp=1.5, known=False)
    both = concatenate([val, unlabelled])
    found = operating(both, test)
    assert json.loads(json.dumps(found)) == found
    assert (found["class"], found["other"]) == ("cough", "non-cough")
    assert found["val"] == {"clips": 500, "positives": int((val.true == 0).sum())}
    assert found["threshold"]["half"]["test"]["macro_f1"] == pytest.approx(sk.f1_score(test.true, test.predicted, average="macro"))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(test.true == 0, test.probability[:, 0]))
    before, after = found["temperature"]["ece"]["test"]
    assert before == pytest.approx(ece(test)) and after == pytest.approx(ece(with_temperature(test, found["temperature"]["value"])))
    prior = found["prior"]
    assert prior["source"] == pytest.approx((val.true == 0).mean())
    assert prior["estimated"] | {"value": 0} == {"value": 0, "clips": 2000, "split": "val"}
    assert prior["estimated"]["value"] == pytest.approx(0.45, abs=0.06)
    rows = {row["kind"]: row for row in prior["rows"]}
    assert rows["source"]["shift"] == 0 and rows["estimated"]["test"]["macro_f1"] > rows["source"]["test"]["macro_f1"]
    assert operating(val, test)["prior"]["estimated"]["split"] == "test"


def choices(found):
    """All that was chosen, without what it gives on test."""
    return {
        "class": found["class"],
        "threshold": {aim: {key: row[key] for key in ("value", "val")} for aim, row in found["threshold"].items()},
        "temperature": found["temperature"]["value"],
        "prior": {key: found["prior"][key] for key in ("source", "slope", "bias", "estimated")},
        "shifts": [row["shift"] for row in found["prior"]["rows"]],
    }


def test_no_label_of_a_test_clip_chooses_anything():
    val, test = table(300), table(300, share=0.5, split="test", seed=2)
    turned = replace(test, true=np.random.default_rng(0).permutation(test.true))
    unknown = replace(test, true=np.full(300, -1))
    first = operating(val, test)
    assert choices(operating(val, turned)) == choices(operating(val, unknown)) == choices(first)
    assert operating(val, turned)["threshold"]["half"]["test"] != first["threshold"]["half"]["test"]
    assert operating(val, unknown)["threshold"]["half"]["test"] == {}


def test_the_rarer_class_is_that_of_training():
    val = table(100, share=0.2)
    assert rarer(val) == 0
    assert rarer(val, {"cough": 60, "non-cough": 10}) == 1
    assert operating(val, table(50, split="test"), train_counts={"cough": 60, "non-cough": 10})["class"] == "non-cough"


def test_nothing_where_there_is_nothing_to_choose():
    test = table(50, split="test")
    assert operating(table(50, known=False), test) == {}
    assert operating(table(50, share=0.0), test) == {}
    assert operating(table(50), test.select(np.array([], dtype=int))) == {}
    three = Predictions(["a"], ["a"], [""], ["val"], np.array([0]), np.array([[0.5, 0.3, 0.2]]), ["a", "b", "c"])
    assert operating(three, three) == {}


def test_one_class_against_the_rest():
    p = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]])
    made = versus_rest(Predictions(list("xyz"), list("xyz"), [""] * 3, ["val"] * 3, np.array([1, 2, -1]), p, ["a", "b", "c"]), "b")
    assert made.classes == ["b", "not b"] and made.true.tolist() == [0, 1, -1]
    np.testing.assert_allclose(made.probability, [[0.5, 0.5], [0.1, 0.9], [0.4, 0.6]])


def test_precision_recall_as_scikit_learn():
    made = table(80)
    made = replace(made, probability=np.stack([np.round(made.probability[:, 0], 1), 1 - np.round(made.probability[:, 0], 1)], 1))
    precision, recall, levels = sk.precision_recall_curve(made.true == 0, made.probability[:, 0])
    expected = list(zip(recall[:-1][::-1], precision[:-1][::-1], levels[::-1], strict=True))
    np.testing.assert_allclose(recall_and_precision(made, 0), expected)
