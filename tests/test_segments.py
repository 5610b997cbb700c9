"""Segments into samples, and MammAlps' evaluation: equal to pandas and scikit-learn doing what the official script does."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from crossfade.clip import UserError
from crossfade.evaluation.class_report import class_report
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.segments import aggregate, benchmark, read_results, write_results
from crossfade.evaluation.tags import Tags

SPECIES, ACTIONS = ["fox", "hare", "red_deer", "wolf"], ["grazing", "running", "walking"]


def sample_of(clip):
    return clip.rsplit("_", 1)[0]


def tables(samples=40, segments=3, seed=0):
    generator = np.random.default_rng(seed)
    names = [f"s{i}_{j}" for i in range(samples) for j in range(segments)]
    count, groups = len(names), [f"g{i % 5}" for i in range(samples) for _ in range(segments)]
    species = np.repeat(np.arange(samples) % len(SPECIES), segments)
    actions = np.repeat((generator.random((samples, len(ACTIONS))) < 0.4).astype(int), segments, axis=0)
    z = generator.normal(size=(count, len(SPECIES))) + 1.5 * np.eye(len(SPECIES))[species]
    a = generator.normal(size=(count, len(ACTIONS))) + 2 * actions - 1
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    rest = (names, groups, [""] * count, ["test"] * count)
    return Predictions(*rest, species, softmax, SPECIES), Tags(*rest, actions, 1 / (1 + np.exp(-a)), ACTIONS), z, a


@pytest.mark.parametrize(("how", "reduce"), [("mean", np.mean), ("max", np.max)])
def test_a_sample_is_the_mean_or_maximum_of_its_segments_logits(how, reduce):
    one, several, _, a = tables()
    found = aggregate(several, sample_of, how)
    logits = reduce(a.reshape(40, 3, -1), axis=1)
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-logits)), rtol=1e-9)
    assert found.clip[:2] == ["s0", "s1"] and found.group == several.group[::3] and (found.true == several.true[::3]).all()
    shares = np.exp(reduce(np.log(one.probability).reshape(40, 3, -1), axis=1))
    np.testing.assert_allclose(aggregate(one, sample_of, how).probability, shares / shares.sum(1, keepdims=True), rtol=1e-9)


def test_certain_answers_stay_finite_and_segments_that_disagree_are_refused():
    sure = Tags(["s_0", "s_1"], ["g"] * 2, [""] * 2, ["test"] * 2, np.array([[1], [1]]), np.array([[1.0], [0.0]]), ["x"])
    assert aggregate(sure, sample_of, "mean").probability.item() == pytest.approx(0.5)
    other = Tags(sure.clip, ["g", "h"], [""] * 2, ["test"] * 2, sure.true, sure.probability, ["x"])
    with pytest.raises(UserError, match="sample 's': its segments differ in group: 'g', 'h'"):
        aggregate(other, sample_of)
    with pytest.raises(UserError, match="mean or max, not by 'median'"):
        aggregate(sure, sample_of, "median")


@pytest.mark.parametrize("how", ["mean", "max"])
def test_the_result_file_is_read_back_and_judged_as_the_official_script_does(tmp_path, how):
    one, several, *_ = tables()
    path = tmp_path / "results.txt"
    assert write_results(path, {"ActN": several, "Spe": one}, sample_of)[:2] == ["s0", "s1"]
    first = path.read_text().splitlines()[4].split("\t")
    assert first[:3] == ["4", "1", "1"] and len(first) == 7 and first[5] == str(several.true[4].tolist())
    results = read_results(path, ("ActN", "Spe"))
    np.testing.assert_array_equal(results.answers["Spe"], np.log(one.probability))
    found = benchmark(results, how)
    pandas_like = {task: getattr(np, how)(values.reshape(40, 3, -1), axis=1) for task, values in results.answers.items()}
    true = {task: values[::3] for task, values in results.labels.items()}
    for task in ("ActN", "Spe"):
        expected = sk.average_precision_score(true[task], pandas_like[task], average=None)
        np.testing.assert_allclose(found["tasks"][task]["average_precision"], expected, rtol=1e-12)
        assert found["tasks"][task]["map"] == pytest.approx(expected.mean())
    everything = [np.concatenate([part[task] for task in ("ActN", "Spe")], axis=1) for part in (true, pandas_like)]
    assert found["map"] == pytest.approx(sk.average_precision_score(*everything, average="macro")) and found["samples"] == 40
    assert (found["tasks"]["ActN"]["said"] == (pandas_like["ActN"] > 0)).all()


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("digits", [2, 3])
def test_the_class_report_is_scikit_learns_to_the_letter(several, digits):
    generator = np.random.default_rng(1)
    names = ["fox", "hare", "scratching_antlers", "wolf"]
    true, said = generator.random((60, 4)) < 0.3, generator.random((60, 4)) < 0.3
    if not several:
        true, said = (np.eye(4, dtype=bool)[generator.integers(0, top, 60)] for top in (3, 4))
    given = (true, said) if several else (true.argmax(1), said.argmax(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sk.classification_report(*given, labels=range(4), target_names=names, digits=digits, zero_division=0)
    assert class_report(true, said, names, several=several, digits=digits) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\t2\t3\t[1.0]\n", "line 1: 4 fields, expected"),
        ("x\t2\t3\t[1.0]\t[1]\n", "line 1: invalid literal"),
        ("1\t2\t3\t[1.0]\t[1]\n1\t2\t3\t[1.0, 2]\t[1]\n", "differ in length"),
        ("", "empty result file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, said):
    path = tmp_path / "results.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_results(path, ("Spe",))
