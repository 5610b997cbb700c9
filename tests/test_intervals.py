"""The interval holds the truth as often as it says, when clips of one group resemble each other; and a comparison is paired."""

import time

import numpy as np
import pytest

from crossfade.clip import UserError
from crossfade.evaluation import METRICS
from crossfade.evaluation.intervals import NO_DIFFERENCE, bounds, compare, group_tally, intervals, paired, resample
from crossfade.evaluation.predictions import Predictions

SKILL = 0.7  # mean over groups of a group's accuracy


def table(right, group, seed=0, classes=4):
    """Predictions that are right where `right` says, with made-up confidence."""
    generator, count = np.random.default_rng(seed), len(right)
    true = generator.integers(0, classes, count)
    named = np.where(right, true, (true + generator.integers(1, classes, count)) % classes)
    probability = np.full((count, classes), 0.1)
    probability[np.arange(count), named] += 1 - 0.1 * classes
    names = [f"c{i}" for i in range(count)]
    return Predictions(
        names, [f"g{g}" for g in group], [""] * count, ["test"] * count, true, probability, [f"k{i}" for i in range(classes)]
    )


def correlated(seed, groups=16, clips=20):
    """Every group has an accuracy of its own, Beta(3.5, 1.5) with mean 0.7; its clips are drawn with that."""
    generator = np.random.default_rng(seed)
    skill = generator.beta(5 * SKILL, 5 * (1 - SKILL), groups)
    group = np.repeat(np.arange(groups), clips)
    return generator.uniform(size=groups * clips) < skill[group], group


def coverage(groups, by_clip=False, trials=400):
    held = 0
    for seed in range(trials):
        right, group = correlated(seed, groups)
        unit = np.arange(len(group)) if by_clip else group
        grouped = group_tally(table(right, unit, seed))
        low, high = bounds(METRICS["accuracy"].rows(resample((grouped,), seed=seed, resamples=400)[0]), len(grouped))
        held += low <= SKILL <= high
    return held / trials


def test_the_interval_covers_the_truth_about_95_percent_of_the_time():
    assert 0.91 <= coverage(16) <= 0.98


def test_also_with_few_groups():
    assert coverage(6) >= 0.89


def test_a_bootstrap_over_clips_would_be_far_too_sure():
    assert coverage(16, by_clip=True, trials=150) < 0.75


def test_the_bootstrap_equals_a_plain_loop():
    right, group = correlated(0, groups=5, clips=8)
    made = table(right, group)
    (drawn,) = resample((group_tally(made),), seed=3, resamples=20)
    picks = np.random.default_rng(3).integers(5, size=(20, 5))
    rows = [np.flatnonzero(group == g) for g in range(5)]
    for i, chosen in enumerate(picks):
        again = made.select(np.concatenate([rows[g] for g in chosen]))
        for name, metric in METRICS.items():
            assert metric.rows(drawn)[i] == pytest.approx(metric(again.true, again.probability), abs=1e-12), name


def test_chunks_change_nothing(monkeypatch):
    groups = group_tally(table(*correlated(0)))
    whole = intervals(groups, seed=0, resamples=100)
    monkeypatch.setattr("crossfade.evaluation.intervals.CHUNK", 16 * 7)
    for name, pair in intervals(groups, seed=0, resamples=100).items():
        assert pair == pytest.approx(whole[name]), name


@pytest.mark.parametrize("groups", [24, 1440])
def test_2000_resamples_of_1440_clips_take_less_than_a_second(groups):
    tallies = group_tally(table(np.arange(1440) % 3 > 0, np.arange(1440) % groups, classes=8))
    taken = []
    for _ in range(4):
        start = time.process_time()
        intervals(tallies, seed=0)
        taken.append(time.process_time() - start)
    assert min(taken) < 1.0


def test_bounds_widen_as_groups_get_few():
    values = np.random.default_rng(0).normal(size=20_000)
    assert bounds(values, 10_000) == pytest.approx((-1.96, 1.96), abs=0.05)
    assert bounds(values, 6)[1] > 2.6  # sqrt(6/5) * t(0.975, 5) = 2.82
    assert np.isfinite(bounds(values, 2)).all()


def test_one_group_gives_no_interval():
    made = table(np.arange(9) > 2, np.zeros(9, int))
    assert set(intervals(group_tally(made), seed=0).values()) == {None}
    found = paired(made, table(np.arange(9) > 5, np.zeros(9, int)))
    assert (found.low, found.high, found.verdict) == (None, None, NO_DIFFERENCE)
    assert "one group" in found.note


def two_runs(gain, seed=0, groups=20, clips=20):
    right, group = correlated(seed, groups, clips)
    lost = np.random.default_rng(seed + 1).uniform(size=len(right)) < gain
    return table(right, group), table(right & ~lost, group)


def test_the_better_run_is_named_and_order_only_turns_the_sign():
    a, b = two_runs(0.2)
    found, turned = paired(a, b, "accuracy", names=("gated", "audio")), paired(b, a, "accuracy", names=("audio", "gated"))
    assert found.verdict == turned.verdict == "gated is better"
    assert found.difference == pytest.approx(-turned.difference)
    assert found.low is not None and 0 < found.low < found.difference < found.high
    assert (found.n_clips, found.n_groups, found.note) == (400, 20, "")
    assert paired(a, b, "nll").verdict == "A is better"


def test_pairing_sees_what_two_separate_intervals_cannot():
    a, b = two_runs(0.05)
    alone = [intervals(group_tally(run), seed=0)["accuracy"] for run in (a, b)]
    assert alone[0][0] < alone[1][1]
    assert paired(a, b, "accuracy").verdict == "A is better"


def test_equal_runs_are_rarely_told_apart():
    wrong = 0
    for seed in range(100):
        (right, group), (other, _) = correlated(seed), correlated(seed + 1000)
        found = paired(table(right, group, seed), table(other, group, seed), "accuracy", resamples=300, seed=seed)
        wrong += found.verdict != NO_DIFFERENCE
    assert wrong <= 11
    made = table(*correlated(0))
    assert paired(made, made).verdict == "no difference the data can show"


def test_only_shared_clips_count_in_whatever_order_of_clips_and_classes():
    a, b = two_runs(0.2)
    order = np.random.default_rng(0).permutation(len(b))[:300]
    c = b.select(order)
    turned = Predictions(c.clip, c.group, c.domain, c.split, 3 - c.true, c.probability[:, ::-1], c.classes[::-1])
    kept = np.sort(order)
    found, expected = paired(a, turned, "macro_f1"), paired(a.select(kept), b.select(kept), "macro_f1")
    assert found == expected
    assert found.n_clips == 300


def test_different_truths_are_refused():
    a, b = two_runs(0.1)
    relabelled = Predictions(b.clip, b.group, b.domain, b.split, (b.true + 1) % 4, b.probability, b.classes)
    with pytest.raises(UserError, match="judged against the same labels"):
        paired(a, relabelled)
    with pytest.raises(UserError, match="no labelled clip was seen by all"):
        paired(a.select(np.arange(5)), b.select(np.arange(5, 9)))
    with pytest.raises(UserError, match="same classes"):
        paired(a, table(*correlated(0, 20), classes=3))
    with pytest.raises(UserError, match="metric 'f1' is unknown"):
        paired(a, b, "f1")
    with pytest.raises(UserError, match="groups must agree"):
        paired(a, Predictions(b.clip, b.clip, b.domain, b.split, b.true, b.probability, b.classes))
    with pytest.raises(UserError, match="was predicted 2 times"):
        paired(a.select(np.array([0, 0, 1])), b)


def test_a_table_of_many_runs():
    a, b = two_runs(0.2)
    c = two_runs(0.5)[1]
    found = compare({"audio": b, "gated": a, "video": c}, "accuracy")
    assert [score.name for score in found.scores] == ["gated", "audio", "video"]
    assert [(pair.a, pair.b) for pair in found.pairs] == [("gated", "audio"), ("gated", "video"), ("audio", "video")]
    assert {pair.verdict for pair in found.pairs} == {"gated is better", "audio is better"}
    assert (found.n_clips, found.n_groups) == (400, 20)
    assert "3 pairs" in found.notes[0]
    assert found.scores[0].value == METRICS["accuracy"](a.true, a.probability)
