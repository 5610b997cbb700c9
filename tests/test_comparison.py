"""Several runs: what each scores and costs, charts in which no name covers another, and times that are measured in turn."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_report import Page, table
from tiny import crossfade

from crossfade.clip import UserError
from crossfade.comparison import ROUNDS, WARM_UP, compare, measure
from crossfade.evaluation import intervals
from crossfade.evaluation.comparison_page import write_comparison
from crossfade.evaluation.costs import KINDS, Cost, known, short, written
from crossfade.evaluation.figures import Axes
from crossfade.evaluation.tradeoff import INSIDE, Box, Point, Scale, front, labels, log_ticks, shown, tradeoff


def test_a_comparison_names_runs_weights_and_verdicts(tmp_path):
    runs = {"gated <g>": table(strength=3.0), "audio": table(strength=1.0, seed=1), "再 audio": table(strength=1.0, seed=1)}
    found = replace(intervals.compare(runs, "accuracy"), costs={"audio": Cost(parameters=155_752)})
    path = write_comparison(tmp_path / "c.html", found, warnings=["mind"], command="go")
    text = Page(path.read_text("utf-8")).text
    assert text.index("mind") < text.index("Crossfade comparison")
    for said in ("gated <g> is better", "no difference the data can show", "156 k", "再 audio", "120 clips of 6 groups", "go"):
        assert said in text, said
    assert "What it costs" not in text  # one run's cost is no choice


def test_a_comparison_without_intervals_or_pairs(tmp_path):
    one_group = intervals.compare({"a": table(groups=1), "b": table(groups=1, seed=1)}, "nll")
    text = Page(write_comparison(tmp_path / "c.html", one_group).read_text("utf-8")).text
    assert "no difference the data can show" in text and "Lower is better" in text and "120 clips of 1 group that" in text
    alone = Page(write_comparison(tmp_path / "d.html", intervals.compare({"a": table()})).read_text("utf-8")).text
    assert "Differences" not in alone


def test_every_pair_is_as_if_it_were_compared_alone():
    runs = {name: table(strength=strength, seed=seed) for seed, (name, strength) in enumerate([("a", 3.0), ("b", 2.0), ("c", 1.0)])}
    found = intervals.compare(runs, "accuracy", seed=7, resamples=100)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in found.pairs:
        assert pair == intervals.paired(runs[pair.a], runs[pair.b], "accuracy", names=(pair.a, pair.b), seed=7, resamples=100)
    for score in found.scores:
        ends = intervals.intervals(intervals.group_tally(runs[score.name]), seed=7, resamples=100)["accuracy"]
        assert (score.low, score.high) == ends


def charts(folder: Path, **costs: Cost) -> list[str]:
    """The axes of the charts of cost on the page of these runs."""
    found = intervals.compare({name: table(strength=number + 1) for number, name in enumerate(costs)}, "accuracy", resamples=20)
    html = write_comparison(folder / "c.html", replace(found, costs=costs)).read_text("utf-8")
    Page(html)
    return re.findall(r'aria-label="Accuracy with its 95 % interval against ([^"]*)"', html)


def test_there_is_a_chart_for_every_cost_that_differs(tmp_path):
    axes = {name: kind.axis for name, kind in KINDS.items()}
    assert charts(tmp_path, a=Cost(10, 100), b=Cost(20, 300), c=Cost(30)) == [axes["multiply_adds"]]
    assert charts(tmp_path, a=Cost(10), b=Cost(20)) == [axes["parameters"]]
    assert charts(tmp_path, a=Cost(10, 100, seconds=0.1), b=Cost(10, 100, seconds=0.2)) == [axes["seconds"]]
    assert charts(tmp_path, a=Cost(10, sparsity=0.0), b=Cost(10, sparsity=0.9)) == [axes["sparsity"]]
    assert charts(tmp_path, a=Cost(), b=Cost()) == []


@pytest.mark.parametrize("less", [True, False])
@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_no_other_beats_on_both_counts(less: bool, higher: bool):
    costs, values = (1, 1, 2, 3, 3, 4, 5, 6), (0.5, 0.6, 0.55, 0.7, 0.65, 0.7, 0.9, 0.1)
    points = [Point(str(i), cost, value, None, None) for i, (cost, value) in enumerate(zip(costs, values, strict=True))]

    def beats(a: Point, b: Point) -> bool:
        cheaper, better = (a.cost - b.cost) * (-1 if less else 1), (a.value - b.value) * (1 if higher else -1)
        return cheaper >= 0 and better >= 0 and (cheaper > 0 or better > 0)

    plain = {point.label for point in points if not any(beats(other, point) for other in points)}
    assert {point.label for point in front(points, less=less, higher=higher)} == plain


def test_no_name_covers_another_or_a_point_and_all_are_inside():
    names = [
        "mobilenet_v2",
        "mobilenet_v4",
        "resnet18",
        "efficientnet_b0",
        "一个很长的名字的运行",
        "a name that is far too long to be shown whole",
    ]
    points = [Point(name, 8 + 0.15 * i, 0.985 + 0.0004 * (i % 3), 0.98, 0.99) for i, name in enumerate(names)]
    axes = Axes((5, 12), (0.975, 0.995), 310)
    at = [axes.at(point.cost, point.value) for point in points]
    boxes = labels(axes, points, at)
    for i, box in enumerate(boxes):
        assert box.shared(INSIDE) == pytest.approx(box.area)
        assert not any(box.shared(other) for other in boxes[:i])
        assert not any(box.shared(Box(x - 5, y - 5, x + 5, y + 5)) for x, y in at)
    assert len(shown(names[-1])) == 26 and shown(names[0]) == names[0]


def test_a_chart_has_a_point_a_name_and_an_interval_a_run():
    points = [Point("<a>", 1e6, 0.9, 0.85, 0.95), Point("b", 3e8, 0.95, 0.9, 0.99), Point("c", 2e9, 0.92, None, None)]
    chart = tradeoff(points, Scale("multiply-adds", short), score="Accuracy", form="{:.0%}".format)
    assert chart.count('class="dot"') == 3 and chart.count('class="reach"') == 2 and chart.count('class="front"') == 1
    assert "&lt;a&gt;: 90% at 1 M" in chart and "<a>" not in chart
    first, second, third = (float(x) for x in re.findall(r'class="dot" cx="([\d.]+)"', chart))
    assert (second - first) / (third - first) == pytest.approx(2.4771 / 3.3010, abs=1e-3)  # logarithms of 300 and 2000


@pytest.mark.parametrize(("low", "high"), [(1, 10), (2.2e6, 2.5e6), (1e5, 1e10), (3e-4, 0.2), (4e6, 9e7), (1, 1.5)])
def test_logarithmic_ticks_are_round_inside_and_few(low: float, high: float):
    found = log_ticks(low, high)
    assert 2 <= len(found) <= 6 and all(low * 0.999 <= tick <= high * 1.001 for tick in found)
    assert all(float(f"{tick:.2g}") == pytest.approx(tick) for tick in found)


def test_costs_are_written_as_a_person_says_them():
    assert [short(value) for value in (7, 999, 999_999, 2_236_682, 1.234e9, 5e14)] == ["7", "999", "1 M", "2.24 M", "1.23 G", "500 T"]
    cost = Cost(parameters=2_236_682, multiply_adds=6_300_000, bytes=9_061_234, sparsity=0.5, seconds=0.004215)
    assert [written(cost, kind) for kind in KINDS] == ["2.24 M", "6.3 M", "9.06 MB", "50%", "4.21 ms"]
    assert written(None, "parameters") == written(Cost(), "seconds") == ""
    assert known({"a": Cost(sparsity=0.0), "b": Cost(parameters=3)}) == ["parameters"]


def test_times_are_taken_in_turn_and_the_middle_one_counts():
    order: list[str] = []
    found, rounds = measure({name: lambda name=name: order.append(name) for name in "ab"})
    assert rounds == ROUNDS and order == ["a"] * WARM_UP + ["b"] * WARM_UP + ["a", "b"] * ROUNDS
    assert all(0 <= value < 1e-3 for value in found.values())


def test_a_slow_model_is_timed_a_few_times_only(monkeypatch):
    monkeypatch.setattr("crossfade.comparison.ENOUGH", 0.0)
    assert measure({"a": lambda: None})[1] == WARM_UP


@pytest.fixture(scope="module")
def pair(bundle: Path) -> tuple[Path, Path]:
    """A run and its copy, of which it is said that half its weights are zero."""
    other = shutil.copytree(bundle, bundle.parent / "second")
    for folder, notes in ((bundle, {"multiply_adds": 1000}), (other, {"multiply_adds": 500, "sparsity": 0.5})):
        before = json.loads((folder / "notes.json").read_text())
        (folder / "notes.json").write_text(json.dumps({**before, **notes}))
    return bundle, other


def test_runs_bring_their_costs_and_are_timed_when_asked(pair, tmp_path):
    total = dict(json.loads((pair[0] / "notes.json").read_text())["parameters"])["total"]
    plain = compare(pair, metric="accuracy")
    size = (pair[0] / "model.safetensors").stat().st_size
    assert plain.costs == {"first": Cost(total, 1000, size), "second": Cost(total, 500, size, 0.5)}
    timed = compare(pair, metric="accuracy", time=True, report=tmp_path / "c.html")
    assert all(0 < cost.seconds < 5 for cost in timed.costs.values() if cost.seconds) and all(cost.seconds for cost in timed.costs.values())
    assert "one clip at a time" in timed.notes[-1] and "thread" in timed.notes[-1]
    assert asdict(replace(timed, costs={}, notes=[])) == asdict(replace(plain, costs={}, notes=[]))
    assert (tmp_path / "c.html").read_text().count("against") >= 2
    said = json.loads(crossfade("compare", *pair, "--json").out)
    assert said["costs"]["second"] == {"parameters": total, "multiply_adds": 500, "bytes": size, "sparsity": 0.5, "seconds": None}


def test_a_table_alone_has_no_model_to_time(pair):
    with pytest.raises(UserError, match="no such run"):
        compare([pair[0], pair[1] / "predictions.csv"], time=True)
    assert compare([pair[0], pair[1] / "predictions.csv"]).costs["predictions.csv"] == Cost()
