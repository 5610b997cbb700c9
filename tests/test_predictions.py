"""The table of predictions: what is written is what is read, and what cannot be right is named."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfade.clip import UserError
from crossfade.evaluation.predictions import Predictions, concatenate

CLASSES = ["neutral", "快乐", 'a,"b"\n']
COLUMNS = ("clip", "group", "domain", "split", "classes")


def table(count=5, classes=CLASSES, seed=0, start=0):
    generator = np.random.default_rng(seed)
    return Predictions(
        [f"clip {i + start} 片" for i in range(count)],
        [f"actor{i % 2}" for i in range(count)],
        ["studio" if i % 2 else "" for i in range(count)],
        ["val" if i == 0 else "test" for i in range(count)],
        generator.integers(-1, len(classes), count),
        generator.dirichlet(np.ones(len(classes)), count),
        list(classes),
    )


def same(a, b):
    assert all(getattr(a, name) == getattr(b, name) for name in COLUMNS)
    np.testing.assert_array_equal(a.true, b.true)
    np.testing.assert_array_equal(a.probability, b.probability)


def test_written_and_read_back_bit_for_bit(tmp_path):
    table(50).write(tmp_path / "predictions.csv")
    same(table(50), Predictions.read(tmp_path / "predictions.csv"))
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]


# csv on Python 3.11 reads a NUL back, but no file or class name can hold one
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    clips=st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES), max_size=4),
    classes=st.lists(NAMES.filter(bool), min_size=1, max_size=4, unique=True),
)
def test_any_names_survive(tmp_path, clips, classes):
    columns = [list(column) for column in zip(*clips, strict=True)] or [[], [], [], []]
    probability = np.full((len(clips), len(classes)), 1 / len(classes))
    made = Predictions(*columns, np.zeros(len(clips)), probability, classes)
    made.write(tmp_path / "p.csv")
    same(made, Predictions.read(tmp_path / "p.csv"))


def test_a_file_name_that_is_not_utf8_survives(tmp_path):
    made = Predictions([os.fsdecode(b"caf\xe9.wav")], ["g"], [""], ["test"], np.array([0]), np.ones((1, 1)), ["x"])
    made.write(tmp_path / "p.csv")
    same(made, Predictions.read(tmp_path / "p.csv"))


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    made = table(4, classes=["a", "b"])
    made.write(tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text("utf-8")
    (tmp_path / "w.csv").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    same(made, Predictions.read(tmp_path / "w.csv"))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "predictions.csv"
    table().write(path)
    before = path.read_bytes()
    monkeypatch.setattr("crossfade.evaluation.predictions._rows", lambda *_: (1 / 0 for _ in range(1)))
    with pytest.raises(ZeroDivisionError):
        table(seed=1).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]


def test_selecting_and_pooling():
    whole = table(6)
    assert whole.where(split="val").clip == whole.clip[:1]
    assert len(whole.where(split="none")) == 0
    assert whole.select(np.array([2, 0])).clip == [whole.clip[2], whole.clip[0]]
    assert (whole.known().true >= 0).all()
    same(whole, concatenate([whole.select(np.arange(6) < 2), whole.select(np.arange(6) >= 2)]))
    assert whole.predicted.tolist() == whole.probability.argmax(1).tolist()


def test_pooling_refuses_a_clip_twice_and_other_classes():
    with pytest.raises(UserError, match="'clip 0 片' was predicted 2 times"):
        concatenate([table(), table(1)])
    with pytest.raises(UserError, match="different classes"):
        concatenate([table(), table(classes=["x", "y"], start=9)])
    with pytest.raises(UserError, match="at least one"):
        concatenate([])


def test_single_precision_is_kept_exactly(tmp_path):
    logits = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    made = Predictions(["c" + str(i) for i in range(9)], [""] * 9, [""] * 9, [""] * 9, np.zeros(9), probability, ["a", "b", "c"])
    made.write(tmp_path / "p.csv")
    np.testing.assert_array_equal(Predictions.read(tmp_path / "p.csv").probability.astype(np.float32), probability)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"group"', '"gruppe"', "expected the column 'group', found 'gruppe'"),
        ('"p_b"', '"b"', "column 'b' should be p_<class>"),
        ('"p_b"', '"p_a"', "class names must be given and differ"),
        (",0.75", ",high", r"p\.csv line 2, column p_a: 'high' is not a number"),
        (",0.75", ",0.5", "expected probabilities that sum to 1"),
        (",0.75", ",nan", "expected probabilities that sum to 1"),
        (",0.25", "", "line 2: 7 fields, the header has 8"),
        ('"test","a"', '"test","z"', "line 2, column true: 'z' is none of the classes a, b"),
        ('"a",0.75', '"b",0.75', "line 2, column predicted: 'b', but the most probable class is 'a'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, before, after, message):
    Predictions(["c"], ["g"], [""], ["test"], np.array([0]), np.array([[0.75, 0.25]]), ["a", "b"]).write(tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text()
    assert before in text
    (tmp_path / "p.csv").write_text(text.replace(before, after))
    with pytest.raises(UserError, match=message) as error:
        Predictions.read(tmp_path / "p.csv")
    assert "p.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_absent_and_empty_and_binary_files(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    for name in ("absent.csv", "empty.csv", "."):
        with pytest.raises(UserError):
            Predictions.read(tmp_path / name)


def test_wrong_shapes_are_refused():
    with pytest.raises(UserError, match="2 clips but 1 entries in group"):
        Predictions(["a", "b"], ["g"], ["", ""], ["", ""], np.zeros(2), np.ones((2, 1)), ["x"])
    with pytest.raises(UserError, match="shape"):
        Predictions(["a"], ["g"], [""], [""], np.zeros(1), np.ones((1, 2)) / 2, ["x"])
    with pytest.raises(UserError, match=r"-1\.\.0"):
        Predictions(["a"], ["g"], [""], [""], np.ones(1), np.ones((1, 1)), ["x"])
