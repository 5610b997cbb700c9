"""Answers of several classes at once: the table, its CSV, and every metric against scikit-learn's."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from crossfade.clip import UserError
from crossfade.evaluation import METRICS, TAG_METRICS
from crossfade.evaluation import tables as both
from crossfade.evaluation.intervals import bounds, compare, group_tally, paired, resample
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.tags import Tags

CLASSES = ["grazing", "立つ", 'a,"b"']


def made(count=120, classes=5, seed=0, groups=10, unknown=0, share=0.3, decimals=None):
    generator = np.random.default_rng(seed)
    true = (generator.random((count, classes)) < share).astype(np.int8)
    probability = 1 / (1 + np.exp(-generator.normal(2.0 * true - 1, 1.5)))
    probability = probability if decimals is None else probability.round(decimals)
    true[:unknown] = -1
    names = [f"c{i}" for i in range(count)]
    splits = ["val" if i % 4 == 0 else "test" for i in range(count)]
    return Tags(names, [f"g{i % groups}" for i in range(count)], [""] * count, splits, true, probability, [f"k{i}" for i in range(classes)])


def _mean(measure, t, y, p, need_negatives):
    return np.mean([measure(y[:, c], p[:, c]) for c in range(y.shape[1]) if y[:, c].any() and not (need_negatives and y[:, c].all())])


SKLEARN = {
    "accuracy": lambda t, y, p: sk.accuracy_score(y, p > 0.5),
    "balanced_accuracy": lambda t, y, p: _mean(sk.balanced_accuracy_score, t, y, p > 0.5, True),
    "macro_f1": lambda t, y, p: np.mean(sk.f1_score(y, p > 0.5, average=None, zero_division=0)[(y | (p > 0.5)).any(0)]),
    "micro_f1": lambda t, y, p: sk.f1_score(y, p > 0.5, average="micro"),
    "auroc": lambda t, y, p: _mean(sk.roc_auc_score, t, y, p, True),
    "average_precision": lambda t, y, p: _mean(sk.average_precision_score, t, y, p, False),
    "nll": lambda t, y, p: sk.log_loss(y.ravel(), p.ravel()),
}


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("case", [{}, {"classes": 2}, {"unknown": 7}, {"share": 0.01}, {"share": 0.97}, {"decimals": 1}])
def test_equal_to_scikit_learn(name, case):
    table = made(**case)
    known = table.known()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SKLEARN[name](known, known.true.astype(int), known.probability)
    assert both.scores(table)[name] == pytest.approx(expected, rel=1e-12)


def test_calibration_error_by_hand():
    table = Tags(
        ["a", "b"], ["g", "h"], ["", ""], ["test"] * 2, np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.32], [0.31, 0.0]]), ["x", "y"]
    )
    assert both.scores(table)["ece"] == pytest.approx((abs(1 - 0.9) + abs(0 - 0.63) + 0) / 4)


def test_every_metric_has_a_name_for_both_kinds():
    assert list(TAG_METRICS)[: len(METRICS)] == list(METRICS)
    assert list(both.scores(made())) == list(TAG_METRICS)


def test_where_nothing_is_true_and_nothing_said_numbers_are_numbers():
    table = made(count=6, share=0.0)
    table = Tags(table.clip, table.group, table.domain, table.split, table.true, np.full((6, 5), 0.1), table.classes)
    found = both.summary(table, resamples=50)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["accuracy"], found["macro_f1"], found["auroc"], found["balanced_accuracy"]) == (1.0, 0.0, None, 0.5)
    assert found["intervals"]["auroc"] is None and found["per_class"]["k0"]["average_precision"] is None


def test_summary_says_every_class_and_is_plain_json():
    table = made(unknown=5)
    found, known = both.summary(table, seed=1, resamples=200), table.known()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["several"] and "confusion" not in found and (found["n_clips"], found["n_groups"], found["n_unknown"]) == (115, 10, 5)
    precision, recall, f1, support = sk.precision_recall_fscore_support(known.true, known.predicted, zero_division=0)
    for c, row in enumerate(found["per_class"].values()):
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx([precision[c], recall[c], f1[c], support[c]])
        assert row["average_precision"] == pytest.approx(sk.average_precision_score(known.true[:, c], known.probability[:, c]))
        assert row["auroc"] == pytest.approx(sk.roc_auc_score(known.true[:, c], known.probability[:, c]))


def test_intervals_are_those_of_clips_drawn_by_group_one_by_one():
    """The quick resample equals taking the drawn groups' clips and judging them as a table of their own."""
    table = made(count=60, groups=6)
    (drawn,) = resample((group_tally(table),), seed=3, resamples=25)
    names = sorted(set(table.group))
    for row, counts in enumerate(drawn.counts):
        rows = [i for g, times in enumerate(counts) for _ in range(int(times)) for i, name in enumerate(table.group) if name == names[g]]
        alone = both.scores(table.select(np.array(rows)))
        for name, metric in TAG_METRICS.items():
            assert metric.rows(drawn)[row] == pytest.approx(alone[name], rel=1e-9)
    found = both.summary(table, seed=3, resamples=25)["intervals"]["macro_f1"]
    assert found == pytest.approx(list(bounds(TAG_METRICS["macro_f1"].rows(drawn), 6)))


def test_two_runs_are_compared_whatever_the_order_of_clips_and_classes():
    a, b = made(seed=0), made(seed=0)
    worse = Tags(b.clip, b.group, b.domain, b.split, b.true, 0.5 * b.probability, b.classes)
    turned = worse.select(np.arange(120)[::-1]).reordered(b.classes[::-1])
    found = paired(a, turned, "macro_f1", resamples=200)
    assert found.value_b == pytest.approx(both.scores(worse)["macro_f1"]) and found.verdict == "A is better"
    assert compare({"a": a, "b": turned}, "micro_f1", resamples=100).scores[0].name == "a"
    one = Predictions(a.clip, a.group, a.domain, a.split, np.zeros(120), np.tile([0.2] * 5, (120, 1)), a.classes)
    with pytest.raises(UserError, match="several classes at once"):
        paired(a, one)
    with pytest.raises(UserError, match="micro_f1"):
        paired(one, one, "micro_f1")


def small(**changes):
    columns = {
        "clip": ["片 1", "b\r,", "c", "d"],
        "group": ["g", "", "h", "h"],
        "domain": [""] * 4,
        "split": ["val", "test", "test", "test"],
        "true": np.array([[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, 1, 0]]),
        "probability": np.array([[0.1 + 0.2, 1.0, 1 / 3], [0.0, 0.5, 0.4], [0.9, 0.8, 0.7], [0.51, 5e-324, 0.2]]),
        "classes": CLASSES,
    }
    return Tags(**{**columns, **changes})


def test_the_csv_is_read_back_exactly_and_says_words(tmp_path):
    path, table = tmp_path / "p.csv", small()
    table.write(path)
    back = both.read(path, several=True)
    assert isinstance(back, Tags) and back.true.dtype == np.int8 and back.predicted.dtype == bool
    for name in ("clip", "group", "domain", "split", "classes", "truth"):
        assert getattr(back, name) == getattr(table, name)
    assert (back.true == table.true).all() and (back.probability == table.probability).all()
    assert table.truth == ['grazing|a,"b"', "|", "", "立つ"] and table.said == ["立つ", "|", 'grazing|立つ|a,"b"', "grazing"]
    assert both.concatenate([table.where(split="val"), table.where(split="test")]).truth == table.truth
    assert table.known().clip == ["片 1", "b\r,", "d"] and len(table.select(np.array([], dtype=int))) == 0
    table.select(np.array([], dtype=int)).write(path)
    assert len(both.read(path, several=True)) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"true": np.zeros((4, 2))}, "a column a class"),
        ({"true": np.full((4, 3), 2)}, "is labelled"),
        ({"true": np.array([[1, -1, 0]] * 4)}, "is labelled"),
        ({"probability": np.full((4, 3), 1.01)}, "from 0 to 1"),
        ({"probability": np.full((4, 3), np.nan)}, "from 0 to 1"),
        ({"classes": ["a|b", "c", "d"]}, "cannot stand in a list"),
        ({"clip": ["a"]}, "1 clips but 4 entries"),
    ],
)
def test_what_cannot_be_right_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        small(**changes)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [('立つ","grazing', 'fox","grazing', "line 6, column true: 'fox'"), ('"|","|"', '"|","立つ"', "column predicted")],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, old, new, said):
    path = tmp_path / "p.csv"
    small().write(path)
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(UserError, match=said):
        Tags.read(path)
