"""The report of several heads: a row each, the rare classes, what streams contribute, and a first head of several classes at once."""

import numpy as np
import pytest

from crossfade.evaluation import contributions, heads, tag_views
from crossfade.evaluation.heads import TrainingClips
from crossfade.evaluation.report import Example, ReportContent, render_report
from crossfade.evaluation.tables import concatenate, summary
from crossfade.evaluation.tags import Tags
from tests.test_report import Page, table

ACTIONS = ["grazing", "<b>walking</b>", "resting"]


def tags(count=80, split="test", seed=0, unknown=0):
    generator = np.random.default_rng(seed)
    true = (generator.random((count, 3)) < [0.5, 0.3, 0.1]).astype(int)
    probability = 1 / (1 + np.exp(-(4 * true - 2 + generator.normal(0, 1.5, (count, 3)))))
    true[:unknown] = -1
    names, domains = [f"{split}/{i}" for i in range(count)], ["north" if i % 2 else "south" for i in range(count)]
    return Tags(names, [f"event {i % 8}" for i in range(count)], domains, [split] * count, true, probability, ACTIONS)


def content(first, other, **changes):
    metrics = {
        "target": "actions",
        "test": summary(first, resamples=100),
        "heads": {"species": {"test": summary(other, resamples=100)}, "activity": {}},
    }
    return ReportContent(**{"title": "Wildlife", "predictions": first, "metrics": metrics, "group_name": "event", **changes})


def test_a_first_head_of_several_classes_leaves_out_the_matrix_and_shows_the_rest():
    first = concatenate([tags(unknown=3), tags(20, "val")])
    shown = content(
        first.where(split="test"),
        table(),
        predictions=first,
        by_streams={"audio": summary(tags(), resamples=50)},
        before=tags(seed=0),
        examples=lambda clip: [Example("image", b"\x89PNG\r\n\x1a\n" + bytes(20))],
        history=[{"phase": "all", "epoch": 1, "train": {"loss": 1.0}, "val": {"nll": 1.0, "macro_f1": 0.5, "accuracy": 0.4}}],
    )
    page = Page(render_report(shown))
    assert "What is taken for what" not in page.text and "heat" not in dict(page.attributes).values()
    for said in ("Every class right", "Micro-F1", "Binary cross-entropy", "Class by class", "<b>walking</b>", "By event", "By domain"):
        assert said in page.text, said
    for said in (
        "Of 100 such clips the model gets every class right in about",
        "Worst mistakes",
        "Pictures at random",
        "Each stream alone",
    ):
        assert said in page.text, said
    assert "Judged on 77 clips of 8 events" in page.text and "Before and after adaptation" in page.text


def test_every_head_has_a_row_with_its_own_number_of_clips():
    page = Page(render_report(content(tags(unknown=5), table())))
    assert "Every question" in page.text and "actions" in page.text
    found = heads.section(content(tags(unknown=5), table()).metrics, "test", {})
    assert [(row.name, row.clips) for row in found["rows"]] == [("actions", 75), ("species", 120)]
    values = [h.value for h in found["rows"][1].values]
    one = summary(table(), resamples=10)
    assert values == [f"{one[key]:.1%}" for key in ("macro_f1", "balanced_accuracy", "average_precision")]
    assert "Every question" not in Page(render_report(ReportContent(title="t", predictions=table()))).text


def test_rare_classes_are_few_or_a_small_share_rarest_first():
    def row(support):
        return {"recall": 0.5, "f1": 0.4, "average_precision": None, "support": support}

    one = {"per_class": {"fox": row(9), "wolf": row(2), "hare": row(3), "lynx": row(0)}}
    found = heads.rare({"species": one}, {"species": TrainingClips(2000, {"fox": 1885, "wolf": 12, "hare": 99})})
    assert [(r.name, r.trained, r.judged, r.recall) for r in found] == [("lynx", 0, 0, None), ("wolf", 12, 2, 0.5), ("hare", 99, 3, 0.5)]
    even = {"per_class": {str(i): row(1) for i in range(40)}}
    assert heads.rare({"digit": even}, {"digit": TrainingClips(40 * 100, {str(i): 100 for i in range(40)})}) == []
    assert heads.rare({"species": one}, {}) == []


def test_rare_classes_appear_for_a_single_head_too_without_metrics_json():
    page = Page(
        render_report(ReportContent("t", tags(), training={"": TrainingClips(200, {"grazing": 150, "<b>walking</b>": 43, "resting": 7})}))
    )
    assert "Rare classes" in page.text and "Every question" not in page.text


def test_contributions_stand_in_the_report():
    one = contributions.Contributions("species", ["audio", "video"], ["fox"], ["c"], ["fox"], np.array([[0.1, 0.4]]), np.array([0.3]))
    page = Page(render_report(content(tags(), table(), contributions=[one])))
    assert "What each stream contributes" in page.text and "video +40.0 points and audio +10.0." in page.text
    empty = contributions.Contributions("species", ["audio"], ["fox"], [], [], np.zeros((0, 1)), np.zeros(0))
    assert "What each stream contributes" not in Page(render_report(content(tags(), table(), contributions=[empty]))).text


def test_mistakes_are_the_surest_wrong_answers_to_a_class():
    true = np.array([[1, 0], [1, 1], [0, 0]])
    probability = np.array([[0.9, 0.2], [0.45, 0.9], [0.01, 0.97]])
    made = Tags(["a", "b", "c"], ["g"] * 3, [""] * 3, ["test"] * 3, true, probability, ["x", "y"])
    worst = tag_views.mistakes(made)
    assert [(row.clip, row.true, row.said) for row in worst] == [("c", "none of them", "y"), ("b", "x, y", "y")]
    assert [row.sure for row in worst] == pytest.approx([0.97, 0.55])
    assert not worst[0].right and {row.clip for row in tag_views.drawn(made, 0) if row.right} == {"a"}
    rows = tag_views.group_rows(made, ["g", "h", "h"])
    assert [(row.name, row.right, row.clips) for row in rows] == [("h", 0, 2), ("g", 1, 1)] and rows[0].mistake in (
        "x missed (1)",
        "y said wrongly (1)",
    )
