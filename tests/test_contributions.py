"""Shapley values equal the mean over all orders in which streams can arrive; contributions say which stream carries a class."""

import csv
from itertools import permutations

import numpy as np
import pytest

from crossfade.clip import UserError
from crossfade.evaluation import contributions, shapley
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.tags import Tags


@pytest.mark.parametrize("streams", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]])
@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_equal_to_every_order_of_arrival(streams, shape):
    generator = np.random.default_rng(0)
    outcomes = {subset: generator.normal(size=shape) for subset in shapley.subsets(streams)}
    found = shapley.values(outcomes)
    orders = list(permutations(streams))
    for stream in streams:
        before = [frozenset(order[: order.index(stream)]) for order in orders]
        expected = np.mean([outcomes[b | {stream}] - outcomes[b] for b in before], axis=0)
        np.testing.assert_allclose(found[stream], expected, atol=1e-12)
    np.testing.assert_allclose(sum(found.values()), outcomes[frozenset(streams)] - outcomes[frozenset()], atol=1e-12)


def test_tuples_do_as_well_and_a_missing_subset_is_named():
    outcomes = {(): np.zeros(2), ("a",): np.ones(2), ("b",): np.ones(2), ("b", "a"): 3 * np.ones(2)}
    assert shapley.values(outcomes)["a"].tolist() == [1.5, 1.5]
    del outcomes[("b",)]
    with pytest.raises(ValueError, match=r"\['b'\]"):
        shapley.values(outcomes)


AUDIO, VIDEO, BOTH = frozenset({"audio"}), frozenset({"video"}), frozenset({"audio", "video"})


def judged(rows, true, classes=("fox", "wolf"), kind=Predictions):
    names = list(rows)
    return kind(
        names,
        names,
        [""] * len(names),
        ["test"] * len(names),
        np.array([true[n] for n in names]),
        np.array(list(rows.values())),
        list(classes),
    )


def test_one_class_of_many_with_a_clip_that_has_no_sound():
    true = {"x": 0, "y": 1, "mute": 0, "unlabelled": -1}
    outcomes = {
        AUDIO: judged({"x": [0.9, 0.1], "y": [0.2, 0.8], "unlabelled": [0.5, 0.5]}, true),
        VIDEO: judged({"x": [0.6, 0.4], "y": [0.6, 0.4], "mute": [0.7, 0.3], "unlabelled": [0.5, 0.5]}, true),
        BOTH: judged({"x": [1.0, 0.0], "y": [0.1, 0.9], "unlabelled": [0.5, 0.5]}, true),
    }
    found = contributions.table("species", outcomes, np.array([0.6, 0.4]))
    assert (found.clip, found.name, found.streams) == (["x", "y", "mute"], ["fox", "wolf", "fox"], ["audio", "video"])
    audio = [((0.9 - 0.6) + (1.0 - 0.6)) / 2, ((0.8 - 0.4) + (0.9 - 0.4)) / 2, 0.0]
    video = [((0.6 - 0.6) + (1.0 - 0.9)) / 2, ((0.4 - 0.4) + (0.9 - 0.8)) / 2, 0.7 - 0.6]
    np.testing.assert_allclose(found.values, np.stack([audio, video], 1), atol=1e-12)
    np.testing.assert_allclose(found.answer, [1.0, 0.9, 0.7])
    np.testing.assert_allclose(found.by_class["fox"], [(audio[0] + 0) / 2, (video[0] + 0.1) / 2])
    assert contributions.sentence(found).startswith(
        "To the probability of the true species, on the mean of the classes, audio +31.2 points"
    )


def test_several_classes_give_a_row_each_and_the_csv_holds_them(tmp_path):
    true = {"x": [1, 1], "y": [0, 1], "z": [0, 0]}
    alone = judged({"x": [0.9, 0.4], "y": [0.1, 0.8], "z": [0.1, 0.1]}, true, kind=Tags)
    outcomes = {VIDEO: alone, AUDIO: judged({n: [0.5, 0.5] for n in true}, true, kind=Tags), BOTH: alone}
    found = contributions.table("actions", outcomes, np.array([0.5, 0.5]))
    assert list(zip(found.clip, found.name, strict=True)) == [("x", "fox"), ("x", "wolf"), ("y", "wolf")]
    np.testing.assert_allclose(found.values, [[0, 0.4], [0, -0.1], [0, 0.3]], atol=1e-12)
    contributions.write(tmp_path / "contributions.csv", [found])
    rows = list(csv.reader((tmp_path / "contributions.csv").open()))
    assert rows[0] == ["clip", "target", "class", "audio", "video", "base"]
    assert rows[2][:3] == ["x", "actions", "wolf"] and [float(v) for v in rows[2][3:]] == pytest.approx([0.0, -0.1, 0.5])
    (shown,) = contributions.section([found])
    assert shown["chart"].count("<rect") == 4 and "video +25.0 points and audio +0.0" in shown["sentence"]


def test_streams_that_were_not_asked_alone_are_named():
    one = judged({"x": [0.9, 0.1]}, {"x": 0})
    with pytest.raises(UserError, match="by video alone"):
        contributions.table("species", {AUDIO: one, BOTH: one}, np.array([0.5, 0.5]))
