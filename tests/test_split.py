from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from crossfade.clip import Clip, UserError
from crossfade.data.split import SPLITS, Splits, folds, split


def clip(number: int, group: str, label: str = "x", side: str = "") -> Clip:
    return Clip(f"c{number:04d}", {"audio": Path(f"{number}.wav")}, {"y": label}, group, split=side)


def actors(n: int = 24, labels: str = "abcdefgh", each: int = 2) -> list[Clip]:
    pairs = [(f"{actor:02d}", label) for actor in range(1, n + 1) for label in labels for _ in range(each)]
    return [clip(i, group, label) for i, (group, label) in enumerate(pairs)]


def groups(splits: Splits, side: str) -> set[str]:
    return {clip.group for clip in getattr(splits, side)}


def ids(splits: Splits) -> list[list[str]]:
    return [[clip.id for clip in getattr(splits, side)] for side in SPLITS]


corpora = st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), min_size=30, max_size=80).filter(
    lambda rows: len({group for group, _ in rows}) >= 5
)


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(0, 9), st.randoms(use_true_random=False))
def test_groups_stay_whole_and_every_clip_is_placed_once_in_any_order(rows, seed, random):
    clips = [clip(i, f"g{group}", label) for i, (group, label) in enumerate(rows)]
    made = split(clips, target="y", seed=seed)
    assert Counter(name for side in ids(made) for name in side) == Counter(clip.id for clip in clips)
    assert all(getattr(made, side) for side in SPLITS)
    assert not (
        groups(made, "train") & groups(made, "val")
        | groups(made, "train") & groups(made, "test")
        | groups(made, "val") & groups(made, "test")
    )
    shuffled = random.sample(clips, len(clips))
    assert ids(split(shuffled, target="y", seed=seed)) == ids(made) == ids(split(clips, target="y", seed=seed))


@settings(max_examples=30, deadline=None)
@given(corpora, st.integers(3, 5), st.integers(0, 9))
def test_folds_test_every_clip_once_and_train_on_no_group_they_test(rows, k, seed):
    clips = [clip(i, f"g{group}", label) for i, (group, label) in enumerate(rows)]
    rounds = folds(clips, k, target="y", seed=seed)
    assert len(rounds) == k
    assert Counter(clip.id for made in rounds for clip in made.test) == Counter(clip.id for clip in clips)
    for i, made in enumerate(rounds):
        assert not groups(made, "train") & (groups(made, "test") | groups(made, "val")) and not groups(made, "val") & groups(made, "test")
        assert groups(made, "val") == groups(rounds[(i + 1) % k], "test")
        assert ids(split(clips, folds=k, fold=i, target="y", seed=seed)) == ids(made)


def test_equal_actors_are_shared_by_the_ratios():
    made = split(actors(), target="y")
    assert [len(groups(made, side)) for side in SPLITS] == [17, 4, 3] or [len(groups(made, side)) for side in SPLITS] == [17, 3, 4]
    assert made.warnings == [] and made.counts("y")["test"] == dict.fromkeys("abcdefgh", 2 * len(groups(made, "test")))
    assert {tuple(sorted(groups(split(actors(), seed=seed), "test"))) for seed in range(5)} != {tuple(sorted(groups(made, "test")))}


def test_proportions_come_as_close_as_scikit_learns():
    rng = np.random.default_rng(0)
    taste = rng.dirichlet(np.ones(4), 60)
    clips = [clip(100 * g + i, f"g{g:02d}", "abcd"[rng.choice(4, p=taste[g])]) for g in range(60) for i in range(int(rng.integers(2, 30)))]
    y, group = np.array([clip.labels["y"] for clip in clips]), np.array([clip.group for clip in clips])
    whole = np.array([(y == label).mean() for label in "abcd"])

    def worst(tests) -> float:
        return max(np.abs(np.array([(part == label).mean() for label in "abcd"]) - whole).max() for part in tests)

    ours = worst([np.array([clip.labels["y"] for clip in made.test]) for made in folds(clips, 5, target="y")])
    theirs = worst([y[test] for _, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(y, y, group)])
    assert ours <= max(theirs, 0.03) + 0.01


def test_named_groups_match_as_text_or_whole_number():
    made = split(actors(), groups={"test": [1, "02", "3"], "val": [4]}, target="y")
    assert groups(made, "test") == {"01", "02", "03"} and groups(made, "val") == {"04"} and len(groups(made, "train")) == 20
    partly = split(actors(), groups={"train": [1], "val": [2], "test": [3]})
    assert "336 clips are not used" in partly.warnings[0]
    only_test = split(actors(), groups={"test": ["24"]})
    assert groups(only_test, "test") == {"24"} and len(groups(only_test, "val")) == 4 and len(groups(only_test, "train")) == 19


def test_by_clip_warns_only_where_groups_are_shared():
    made = split(actors(), by="clip", target="y")
    assert made.warnings == ["speakers in test were heard in training"]
    assert all(abs(n - 48 * 0.7) < 2 for n in made.counts("y")["train"].values())
    assert split([clip(i, f"g{i}") for i in range(40)], by="clip").warnings == []


def test_by_column():
    clips = [clip(i, f"g{i // 4}", "ab"[i % 2], ("train", "train", "val", "test", "")[i // 4 % 5]) for i in range(80)]
    made = split(clips, by="column", target="y")
    assert (len(made.train), len(made.val), len(made.test)) == (32, 16, 16) and made.warnings == [
        "16 clips are not used, their split is empty"
    ]
    without = split([clip for clip in clips if clip.split in ("train", "test")], by="column")
    assert without.test == made.test and groups(without, "val") < groups(made, "train") and "no clip says val" in without.warnings[0]
    with pytest.raises(UserError, match=r"group 'g0' is in train \(3 clips\) and test \(1 clips\)"):
        split([*clips[:3], clip(3, "g0", side="test"), *clips[4:]], by="column")
    with pytest.raises(UserError, match="no clip of the corpus says train"):
        split(actors(), by="column")


def test_auto_is_what_the_corpus_says_and_groups_where_it_says_nothing():
    said = [clip(i, f"g{i}", side=("train", "train", "val", "test")[i % 4]) for i in range(40)]
    assert split(said, by="auto") == split(said, by="column") and len(split(said, by="auto").test) == 10
    without = [each for each in said if each.split != "val"]
    assert split(without, by="auto").val == split(without, by="column").val != [] and split(without, by="auto").warnings == []
    assert split(actors(), by="auto", seed=3) == split(actors(), by="group", seed=3)


def test_published_folds_of_ravdess():
    rounds = [split(actors(), folds="ravdess", fold=i, target="y") for i in range(5)]
    assert [sorted(groups(made, "test"))[0] for made in rounds] == ["02", "03", "10", "08", "01"]
    assert groups(rounds[4], "test") == {"01", "04", "09", "22"} and groups(rounds[4], "val") == groups(rounds[0], "test")
    some = [clip for clip in actors() if clip.group not in ("05", "24")]
    assert split(some, folds="ravdess", fold=0).warnings == ["actors of the published folds that are not here: 05, 24"]
    with pytest.raises(UserError, match="published fold 2"):
        split(actors(8), folds="ravdess", fold=0)


def test_listed_folds_say_what_is_never_tested():
    rounds = folds(actors(5), [["1"], [2], ["03"]])
    assert [groups(made, "test") for made in rounds] == [{"01"}, {"02"}, {"03"}] and {"04", "05"} < groups(rounds[0], "train")
    assert rounds[0].warnings == ["groups in no fold, trained on and never tested: 04, 05"]


def test_absent_classes_are_warned_of():
    clips = [clip(i, f"g{i % 4}", "a" if i % 4 else "b") for i in range(40)]
    made = split(clips, groups={"train": ["g1", "g2"], "val": ["g3"], "test": ["g0"]}, target="y")
    assert made.warnings == ["y: no clip of class b is in train", "y: no clip of class a is in test"]
    assert made.counts("y") == {"train": {"a": 20, "b": 0}, "val": {"a": 10, "b": 0}, "test": {"a": 0, "b": 10}}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"groups": {"test": ["o1"]}}, "no group 'o1' among 4; the nearest is '01'"),
        ({"groups": {"test": [1], "val": ["01"]}}, r"group '01' \(16 clips\) is named twice, in test and val"),
        ({"groups": {"exam": [1]}}, "no split 'exam'"),
        ({"groups": {"test": [1]}, "by": "clip"}, "groups are named but by is 'clip'"),
        ({"ratios": (0.7, 0.2, 0.2)}, "do not add up to 1"),
        ({"groups": {"test": [1, 2, 3]}}, r"1 groups \(04\) cannot fill train and val"),
        ({"folds": 5, "fold": 0}, "4 groups cannot fill 5 folds; say folds: 4"),
        ({"folds": 2, "fold": 0}, "at least 3"),
        ({"folds": 4}, "fold is None; with 4 folds it is 0 to 3"),
        ({"folds": 4, "fold": 4}, "0 to 3"),
        ({"fold": 1}, "without folds"),
        ({"folds": 4, "fold": 1, "by": "clip"}, "folds go over groups"),
        ({"folds": [[1], [2], [2]], "fold": 0}, "named twice, in fold 1 and fold 2"),
        ({"folds": [[1], [2], []], "fold": 0}, "a list is empty"),
    ],
)
def test_errors_are_one_line(options, says):
    with pytest.raises(UserError, match=says) as error:
        split(actors(4), **options)
    assert "\n" not in str(error.value)


def test_too_few_groups():
    with pytest.raises(UserError, match=r"2 groups \(01, 02\) cannot fill train and val and test; add groups"):
        split(actors(2))
    assert split(actors(2), ratios=(0.5, 0.0, 0.5)).val == []
