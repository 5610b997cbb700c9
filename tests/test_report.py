"""The report is one file that needs nothing else, escapes everything, says warnings first and shows only what there is."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from crossfade.clip import Unreadable
from crossfade.evaluation import METRICS, figures, views
from crossfade.evaluation.figures import Whisker
from crossfade.evaluation.metrics import summary
from crossfade.evaluation.operating import operating
from crossfade.evaluation.predictions import Predictions, concatenate
from crossfade.evaluation.report import Example, ReportContent, render_report, write_report

CLASSES = ["平静", "快乐", "<script>alert(1)</script>", "sad"]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced and gathers what a test asks about."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.pieces = [], [], [], []
        self.feed(html)
        assert not self.open, self.open
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.pieces.append(data)


def table(count=120, strength=2.0, seed=0, groups=6, split="test", classes=CLASSES, unknown=0):
    generator = np.random.default_rng(seed)
    true = np.arange(count) % len(classes)
    logits = generator.normal(size=(count, len(classes))) + strength * np.eye(len(classes))[true]
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true[:unknown] = -1
    names = [f"{split}/片{i}" for i in range(count)]
    domains = ["studio" if i % 3 else "phone" for i in range(count)]
    return Predictions(names, [f"actor <{i % groups}>" for i in range(count)], domains, [split] * count, true, probability, list(classes))


HISTORY = [
    {
        "phase": phase,
        "epoch": e,
        "train": {"loss": 2 / e},
        "val": {"nll": 2.2 / e, "macro_f1": 0.1 * e, "accuracy": 0.1 * e},
        "best": e == 3,
    }
    for phase in ("fusion", "unfreeze")
    for e in range(1, 5)
]


def full(**changes):
    test = table()
    found = summary(test, resamples=200)
    values = {
        "title": "Emotion <b>融合</b>",
        "predictions": test,
        "warnings": ["speakers in test were heard in training", "a <i>second</i> one"],
        "metrics": {"test": found},
        "history": HISTORY,
        "by_streams": {"audio": summary(table(strength=1.0), resamples=200), "audio+video": found},
        "parameters": {"encoders.audio": 94_381_936},
        "recipe": "data: {corpus: <any>}",
        "environment": {"torch": "2.15 <cpu>"},
        "counts": {"train": dict.fromkeys(CLASSES, 1200), "test": {CLASSES[0]: 30}},
        "skipped": [("坏.wav", "empty file"), ("<b>.wav", "truncated")],
        "loads": ["encoders.audio: 211 of 211 <tensors>"],
        "examples": lambda clip: [Example("audio", b"RIFF" * 50), Example("frames", [b"\xff\xd8" * 20] * 3)],
        "command": "crossfade train emotion 'a=<b>'",
        "group_name": "actor",
        "groups_unseen": True,
    }
    return ReportContent(**(values | changes))


def test_one_file_that_needs_nothing_else_and_runs_nothing(tmp_path):
    path = write_report(tmp_path / "report.html", full())
    html = path.read_text("utf-8")
    page = Page(html)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("data:") for name, value in page.attributes if name in ("src", "href", "srcset"))
    assert "url(" not in html and "@import" not in html
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert ("name", "viewport") in page.attributes


def test_everything_a_person_named_is_escaped():
    html = render_report(full())
    for harmful in ("<script>", "<b>融合", "<i>second", "<any>", "<cpu>", "<b>.wav", "<tensors>", "actor <0>", "a=<b>"):
        assert harmful not in html, harmful
    text = Page(html).text
    for shown in (
        *CLASSES,
        "Emotion <b>融合</b>",
        "actor <0>",
        "坏.wav",
        "211 of 211 <tensors>",
        "crossfade train emotion 'a=<b>'",
        "94,381,936",
    ):
        assert shown in text, shown


def test_warnings_come_first():
    html = render_report(full())
    body = html[html.index("<body>") : html.index("</html>")]
    assert Page(body).text.startswith("⚠ speakers in test were heard in training ⚠ a <i>second</i> one")
    assert "warnings" not in re.sub(r"<style>.*</style>", "", render_report(full(warnings=[])), flags=re.S)


def test_the_headline_says_the_number_its_interval_and_whose_clips():
    content = full()
    found, text = content.metrics["test"], Page(render_report(content)).text
    low, high = found["intervals"]["macro_f1"]
    assert f"{found['macro_f1']:.1%} 95 % interval {low:.1%} – {high:.1%}" in text
    assert "Judged on 120 clips of 6 actors, none of them in training" in text
    assert f"Of 100 such clips the model names about {100 * found['accuracy']:.0f} correctly" in text
    assert "The intervals rest on 6 groups only" in text
    assert "none of them" not in render_report(full(groups_unseen=None))
    assert "6 actors, also in training" in render_report(full(groups_unseen=False))


def test_the_confusion_matrix_holds_every_count():
    content = full()
    html = render_report(content)
    cells = re.findall(r'<td class="(right|wrong)[^>]*title="(\d+)% of 30">(\d+)<', html)
    counts = np.array(content.metrics["test"]["confusion"])
    assert [int(count) for _, _, count in cells] == counts[counts > 0].tolist()
    assert sum(int(count) for kind, _, count in cells if kind == "right") == np.trace(counts)


def test_groups_are_sorted_worst_first():
    text = Page(render_report(full())).text
    section = text[text.index("By actor") : text.index("By domain")]
    shares = [int(share) for share in re.findall(r"actor <\d> (\d+)%", section)]
    assert len(shares) == 6
    assert shares == sorted(shares)


def test_sections_without_content_do_not_appear():
    title = "x"
    text = Page(render_report(ReportContent(title, table()))).text
    for absent in (
        "Learning",
        "Each stream",
        "Files left out",
        "Parameters",
        "Environment",
        "Recipe",
        "Weights loaded",
        "Again",
        "The clips",
    ):
        assert absent not in text, absent
    assert "What is taken for what" in text
    assert "By group" not in Page(render_report(ReportContent(title, table(groups=120)))).text


def test_validation_clips_are_judged_and_said_so_when_there_is_no_test():
    text = Page(render_report(ReportContent("x", table(split="val")))).text
    assert "(validation clips: there is no test split)" in text


def test_no_label_at_all_still_gives_a_report():
    text = Page(render_report(full(predictions=table(unknown=120), metrics={}))).text
    assert "What is taken for what" not in text
    assert "Recipe" in text


def test_one_group_one_class_and_no_mistake():
    perfect = table(strength=50, groups=1)
    text = Page(render_report(ReportContent("x", perfect))).text
    assert "no interval" in text and "All clips belong to one group" in text and "Worst mistakes" not in text
    assert "100.0%" in Page(render_report(ReportContent("x", table(classes=["only"])))).text


def test_the_worst_mistakes_are_the_surest_and_can_be_heard_and_seen():
    content = full()
    test, html = content.predictions, render_report(content)
    wrong = test.select(test.predicted != test.true)
    first = wrong.clip[int(wrong.probability.max(1).argmax())]
    assert html.count("<audio") == 8 and html.count("<img") == 24
    assert Page(html).text.split("Worst mistakes")[1].index(first) < 200
    assert "data:audio/wav;base64,UklGRlJJ" in html and "data:image/jpeg;base64,/9j/2P/Y" in html


def test_the_file_stays_small_and_says_what_it_left_out(tmp_path):
    path = write_report(tmp_path / "r.html", full(examples=lambda clip: [Example("audio", bytes(700_000))]))
    assert path.stat().st_size < 3_000_000
    html = path.read_text("utf-8")
    assert html.count("<audio") == 2
    assert html.count("left out to keep this file small") == 6


def test_a_clip_that_cannot_be_read_any_more_is_named():
    def examples(clip):
        raise Unreadable("gone.wav", "no such file")

    assert render_report(full(examples=examples)).count("gone.wav: no such file") == 8


def test_an_error_leaves_no_half_report(tmp_path):
    with pytest.raises(KeyError):
        write_report(tmp_path / "r.html", full(examples=lambda clip: [Example("smell", b"")]))
    assert not list(tmp_path.iterdir())


def test_what_is_not_defined_of_one_class_is_not_shown():
    one = table(count=40, classes=CLASSES[:2])
    html = Page(render_report(ReportContent("x", one.select(np.flatnonzero(one.true == 0)))))
    assert "Area under the ROC curve" not in html.text and "AUROC is not defined here" in html.text
    assert "Area under the ROC curve" in Page(render_report(ReportContent("x", one))).text


def test_confidence_that_is_right_on_average_alone_is_not_called_right():
    """Twenty clips at 0.9 of which 14 are right, twenty at 0.6 of which 16 are: 0.75 both, and 20 % off everywhere."""
    sure, right = np.repeat([0.9, 0.6], 20), np.concatenate([np.arange(20) < 14, np.arange(20) < 16])
    probability = np.column_stack([sure, 1 - sure])
    names = [f"c{i}" for i in range(40)]
    off = Predictions(names, names, [""] * 40, ["test"] * 40, np.where(right, 0, 1), probability, ["a", "b"])
    assert "on average only, not at each level" in views.calibration(off, METRICS["ece"](off.true, off.probability))
    assert "it is about as sure as it should be." in views.calibration(off, 0.03)


def test_curves_break_where_a_value_is_missing_and_ring_the_kept_epochs():
    history = [dict(row) for row in HISTORY]
    history[2] = {"phase": "fusion", "epoch": 3, "train": {"loss": float("nan")}, "val": {}, "best": False}
    (_, loss), (_, scores) = figures.learning_curves(history)
    assert loss.count('class="border"') == 1 and ">fusion<" in loss and ">unfreeze<" in loss
    assert loss.count("kept epoch of its phase: 7") == scores.count("kept epoch of its phase: 7") == 1
    assert re.search(r'd="(M[^M"]*) (M[^M"]*)"', loss)
    assert "nan" not in loss
    assert len(figures.learning_curves(history[:1])) == 2
    assert figures.learning_curves([]) == []
    assert [title for title, _ in figures.learning_curves([{"phase": "a", "epoch": 1, "train": {"loss": 1.0}, "val": {}}])] == ["Loss"]


def test_a_reliability_bar_is_as_high_as_the_share_that_was_right():
    bins = np.zeros((3, 15))
    bins[:, 14], bins[:, 7] = (10, 9.9, 10), (10, 5.0, 5)
    heights = [float(height) for height in re.findall(r'<rect[^>]* height="([\d.]+)"', figures.reliability(bins))]
    assert heights[0] == pytest.approx(heights[1] / 2, abs=0.1)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.61, 0.64), (-12.5, 40), (0, 0), (1, 8), (1e-4, 3e-4)])
def test_ticks_are_round_and_inside(low, high):
    found = figures.ticks(low, high)
    assert len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert low == high or len(found) >= 2


def test_an_interval_chart_draws_the_interval_where_there_is_one():
    chart = figures.whiskers([Whisker("<a>", 0.5, 0.4, 0.7), Whisker("b", 0.6, None, None)], zero=True)
    assert chart.count('class="reach"') == 1 and chart.count('class="dot"') == 2 and chart.count('class="border"') == 1
    assert "&lt;a&gt;" in chart


def png(side):
    """The beginning of a PNG file, which is what says its size."""
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + side.to_bytes(4, "big") * 2 + bytes(20)


def tiles(html):
    """(right, whether it is said so, what was said, what is true, clip) of every picture at random."""
    found = re.findall(r'<figure class="tile (good|bad)" title="([^"]*)">.*?<b>(.) (.*?)</b><br>true (.*?)</figcaption>', html)
    return [(kind, mark, said, true, clip) for kind, clip, mark, said, true in found]


def test_pictures_at_random_say_what_is_true_and_what_was_said():
    test = table(classes=["平静", "快乐", "sad"])
    html = render_report(ReportContent("x", test, examples=lambda clip: [Example("image", png(28))], seed=5))
    shown = tiles(html)
    assert len(shown) == len({clip for *_, clip in shown}) == 40
    rows = {clip: row for row, clip in enumerate(test.clip)}
    for kind, mark, said, true, clip in shown:
        row = rows[clip]
        assert (said, true) == (test.classes[test.predicted[row]], test.classes[test.true[row]])
        assert (kind, mark) == (("good", "✓") if said == true else ("bad", "✗"))
    assert {kind for kind, *_ in shown} == {"good", "bad"}
    assert html.count('class="still pixels"') == 48  # the worst mistakes too
    Page(html)


def test_the_run_s_seed_draws_the_pictures():
    def clips(seed):
        return [
            row[-1] for row in tiles(render_report(ReportContent("x", test, examples=lambda clip: [Example("image", png(28))], seed=seed)))
        ]

    test = table()
    assert clips(1) == clips(1) != clips(2)
    assert clips(1) != test.clip[:40] and clips(1) != sorted(clips(1))


@pytest.mark.parametrize(
    "examples",
    [
        None,
        lambda clip: [],
        lambda clip: [Example("audio", b"RIFF")],
        lambda clip: [Example("frames", [b"\xff\xd8"] * 2)],
        lambda clip: [Example("audio", b"RIFF"), Example("image", b"\xff\xd8")],
    ],
)
def test_only_clips_that_are_pictures_are_shown_at_random(examples):
    assert "Pictures at random" not in render_report(ReportContent("x", table(), examples=examples))


def test_a_still_is_enlarged_with_its_pixels_where_it_is_small():
    def still(example):
        return render_report(ReportContent("x", table(), examples=lambda clip: [example]))

    assert 'class="still pixels"><img alt="" src="data:image/png;' in still(Example("image", png(96)))
    assert 'class="still"><img alt="" src="data:image/png;' in still(Example("image", png(97)))
    assert 'class="still"><img alt="" src="data:image/jpeg;' in still(Example("image", b"\xff\xd8"))
    assert 'class="still"><img alt="" src="data:image/jpeg;' in still(Example("frames", [b"\xff\xd8"]))


def test_pictures_that_do_not_fit_or_cannot_be_read_are_said(tmp_path):
    path = write_report(tmp_path / "r.html", ReportContent("x", table(), examples=lambda clip: [Example("image", bytes(60_000))]))
    assert path.stat().st_size < 3_000_000
    assert 8 < len(re.findall('class="still"', path.read_text("utf-8"))) < 48
    assert "more would make this file too large" in path.read_text("utf-8")

    def half(clip):
        if int(clip.split("片")[1]) % 2:
            raise Unreadable("gone.png", "no such file")
        return [Example("image", png(8))]

    html = render_report(ReportContent("x", table(), examples=half))
    assert len(tiles(html)) == 40 and "gone.png: no such file" in html


def test_many_classes_are_a_map_and_a_list():
    test = table(count=2000, classes=[f"class {i}" for i in range(100)], groups=2000)
    found = summary(test, resamples=20)
    html = render_report(ReportContent("x", test, metrics={"test": found}))
    assert 'class="area"' in html and 'class="heat' not in html and len(html) < 150_000
    counts = np.array(found["confusion"])
    squares = sum(path.count("M") for path in re.findall(r'<path class="(?:right|wrong)" d="([^"]*)"', html))
    assert squares == (counts > 0).sum()
    wrong = np.where(np.eye(100, dtype=bool), 0, counts)
    true, said = np.unravel_index(wrong.argmax(), wrong.shape)
    assert f'<th scope="row">class {true}</th><td>class {said}</td><td class="n">{wrong.max()}</td>' in html
    assert html.count('class="tag"') == 100 and "60 more, all better than these" in html
    shares = [int(share) for share in re.findall(r'class="tag">.*?</span>(\d+)%', html)]
    assert shares == sorted(shares)
    few = render_report(ReportContent("x", table(count=300, classes=[f"class {i}" for i in range(10)])))
    assert 'class="area"' not in few and "<details>" not in few


def test_clips_that_are_their_own_groups_are_not_called_groups():
    text = Page(render_report(ReportContent("x", table(groups=120)))).text
    assert "Judged on 120 clips" in text and "120 groups" not in text and "With other clips" in text


def test_many_clips_carry_one_digit_more():
    test = table(count=5000, groups=5000, strength=6)
    found = summary(test, resamples=20)
    text = Page(render_report(ReportContent("x", test, metrics={"test": found}))).text
    assert f"Accuracy {found['accuracy']:.2%} 95 % interval" in text and f"about {100 * found['accuracy']:.1f} correctly" in text


def test_curves_of_both_phases_show_train_and_val():
    history = [{**row, "train": {"loss": 1.0, "accuracy": 0.2}} for row in HISTORY]
    (_, loss), (_, scores) = figures.learning_curves(history)
    assert loss.count('class="curve"') == 2 and scores.count('class="curve"') == 3
    assert all(name in scores for name in ("train accuracy", "val accuracy", "val macro-F1"))
    assert scores.count('class="border"') == 1


def test_the_parameters_say_what_a_clip_costs_and_how_many_are_zero():
    text = Page(render_report(full(sparsity=0.9, multiply_adds=6_123_456))).text
    assert "zero weights (sparsity) 90%" in text and "multiply-adds a clip 6.12 M" in text
    assert "sparsity" not in Page(render_report(full())).text


COUGH = ["<cough>", "non-cough"]


def coughs(**changes):
    val, test = table(count=200, split="val", classes=COUGH), table(count=150, classes=COUGH, seed=1, strength=1.0, groups=30)
    found = {"test": summary(test, resamples=100), "operating": operating(val, test)}
    return ReportContent(**({"title": "Cough", "predictions": concatenate([val, test]), "metrics": found} | changes))


def test_where_to_say_yes_is_chosen_on_validation_and_shown_on_test():
    content = coughs()
    html, found = render_report(content), content.metrics["operating"]
    text = Page(html).text
    assert "<cough>" not in html and "Say “<cough>”" in text
    assert f"Chosen on the 200 labelled validation clips ({found['val']['positives']} “<cough>”)" in text
    for aim, name in {"half": "as it stands", "macro_f1": "best macro-F1", "recall": "finds 85 %"}.items():
        row = found["threshold"][aim]
        assert (
            f"{name} {row['value']:.3g} {row['val']['macro_f1']:.1%} {row['test']['macro_f1']:.1%} {row['test']['precision']:.1%}" in text
        )
    assert f"estimated without labels {found['prior']['estimated']['value']:.1%}" in text
    assert f"A temperature of {found['temperature']['value']:.2f}" in text
    assert "never from their labels" in text


def test_the_section_is_left_out_where_it_does_not_belong():
    assert "Choosing where" not in render_report(full())
    only_val = table(count=60, split="val", classes=COUGH)
    assert "Choosing where" not in render_report(coughs(predictions=only_val, metrics={"operating": coughs().metrics["operating"]}))
    assert "Before and after" not in render_report(coughs()) and "Here and where" not in render_report(coughs())


def test_the_histogram_shows_the_shares_of_each_class_up_and_down():
    from crossfade.evaluation import choice

    own = np.array([0.02, 0.97, 0.97, 0.97, 0.01, 0.01])
    names = list("abcdef")
    made = Predictions(names, names, [""] * 6, ["test"] * 6, np.array([0, 0, 0, 0, 1, 1]), np.stack([own, 1 - own], 1), COUGH)
    bars = re.findall(
        r'<rect class="(bar(?: other)?)" x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', choice.histogram(made, 0, [])
    )
    assert [kind for kind, *_ in bars] == ["bar", "bar", "bar other"]
    low, high, other = (float(height) for *_, height in bars)
    assert (high / low, other / high) == pytest.approx((3, 4 / 3), rel=0.01)


def test_before_and_after_adaptation_say_whether_it_helped():
    test = coughs().predictions.where(split="test")
    worse = table(count=150, classes=COUGH, seed=1, strength=-0.5, groups=30)
    helped = Page(render_report(coughs(before=worse))).text
    assert "Adaptation helped: Macro-F1" in helped and "Before and after adaptation" in helped
    assert f"Macro-F1 {summary(worse, resamples=2)['macro_f1']:.1%} before" in helped
    assert "The same 150 test clips" in helped
    harmed = render_report(coughs(predictions=concatenate([coughs().predictions.where(split="val"), worse]), before=test, metrics={}))
    assert "Adaptation harmed" in harmed
    assert "Adaptation made no difference that these clips can show" in render_report(coughs(before=test))


def test_before_and_after_on_clips_of_one_class_leave_out_what_is_not_defined():
    test, worse = coughs().predictions.where(split="test"), table(count=150, classes=COUGH, seed=1, strength=-0.5, groups=30)
    both, alone = ([row["label"] for row in _rows(after, worse)] for after in (test, test.select(test.true == 1)))
    assert len(both) == len(alone) + 1 and set(both) - set(alone) == {"Area under the ROC curve (AUROC)"}


def _rows(after: Predictions, before: Predictions) -> list[dict]:
    from crossfade.evaluation import adaptation

    there = np.isin(before.clip, after.clip)
    return [vars(row) for row in adaptation.section(before.select(there), after)["rows"]]


def test_the_source_is_shown_under_its_own_name():
    found = summary(table(count=80, classes=COUGH, seed=4), resamples=50)
    text = Page(render_report(coughs(source=found, source_name="call <centre>", heard=["audio: hears 144 to 3837 Hz alone"]))).text
    assert "audio: hears 144 to 3837 Hz alone" in text
    assert f"call <centre> 80 {found['macro_f1']:.1%}" in text
    assert "the target domain 150" in text


def test_accuracy_by_shots_has_its_section():
    test = table()
    found = summary(test, train_counts=dict(zip(CLASSES, (500, 50, 5, 5), strict=True)), resamples=20)
    text = Page(render_report(full(metrics={"test": found}))).text
    assert f"few {found['shots']['few']['accuracy']:.1%} 2 60" in text
    assert "Many, medium and few" not in Page(render_report(full())).text
