"""`find-rate` on a recipe: what it suggests, what it prints and draws, and that nothing is left behind."""

from __future__ import annotations

import json
import math
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import QUIET, SOUND_ONLY, crossfade, tiny

from crossfade import recipe as recipes
from crossfade import run, tuning
from crossfade.clip import UserError
from crossfade.sketch import COLUMNS, MARGIN, ROWS, Sketch, braille, svg

TWO = 'phases=[{name: all, epochs: 2, rates: {heads: 1e-2, "*": 1e-3}, terms: {label: {use: cross_entropy, target: emotion}}}, '
TWO += "{name: more, epochs: 1, rates: {encoders: null, heads: 1e-3}, terms: {label: {use: cross_entropy, target: emotion}}}]"


@pytest.fixture(scope="module")
def found(place: Path, demo_clips: Path) -> tuning.Found:
    return tuning.find_rate(tiny(place, demo_clips, *SOUND_ONLY, TWO), screen=QUIET)


def test_rates_keep_their_proportion_and_two_digits(found: tuning.Found):
    factor = found.curve.suggestion
    assert found.phase == "all" and list(found.rates) == ["heads", "*"]
    for name, given in (("heads", 1e-2), ("*", 1e-3)):
        assert found.rates[name] == pytest.approx(given * factor, rel=0.05) and found.rates[name] == float(f"{found.rates[name]:.1e}")


def test_the_override_sets_them(found: tuning.Found, place: Path, demo_clips: Path):
    (word,) = shlex.split(found.lines()[-1])
    changed = tiny(place, demo_clips, *SOUND_ONLY, TWO, word)
    assert changed.phases[0].rates == found.rates and word == found.override


def test_what_stays_frozen_stays_null(place: Path, demo_clips: Path):
    recipe = tiny(place, demo_clips, *SOUND_ONLY, TWO)
    found = tuning.find_rate(recipe, "more", 12, screen=QUIET)
    assert found.rates["encoders"] is None and found.rates["heads"] and '"encoders": null' in found.override
    assert tiny(place, demo_clips, *SOUND_ONLY, TWO, found.override).phases[1].rates == found.rates


def test_the_suggestion_trains_better_than_a_thousandth_of_it(found: tuning.Found, place: Path, demo_clips: Path):
    def loss(scale: float) -> float:
        rates = json.dumps({name: rate * scale for name, rate in found.rates.items() if rate})
        recipe = tiny(place, demo_clips, *SOUND_ONLY, f"phases.all.rates={rates}", "phases.all.sees=null", "phases.all.epochs=6")
        run.train(recipe, place / f"scaled-{scale}", screen=QUIET)
        rows = (place / f"scaled-{scale}" / "metrics.jsonl").read_text().splitlines()
        return json.loads(rows[-1])["train"]["loss"]

    good, timid = loss(1.0), loss(1e-3)
    assert math.isfinite(good) and good < 0.8 * timid


def test_the_same_again_is_the_same_and_nothing_is_left_behind(
    found: tuning.Found, place: Path, demo_clips: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning.tempfile, "tempdir", str(tmp_path))
    recipe = tiny(place, demo_clips, *SOUND_ONLY, TWO)
    before = recipe.yaml()
    torch.manual_seed(1)
    assert tuning.find_rate(recipe, screen=QUIET) == found
    assert list(tmp_path.iterdir()) == [] and recipe.yaml() == before


def test_from_a_finished_run_it_starts_where_that_ended(place: Path, demo_clips: Path):
    recipe = tiny(place, demo_clips, *SOUND_ONLY, "phases.all.sees=null", "phases.all.epochs=6")
    run.train(recipe, place / "finished", screen=QUIET)
    fresh, later = (tuning.find_rate(recipe, steps=12, start=start, screen=QUIET).curve.losses[0] for start in (None, place / "finished"))
    assert later < fresh


def test_mistakes_are_one_line(place: Path, demo_clips: Path):
    recipe = tiny(place, demo_clips, *SOUND_ONLY, TWO)
    with pytest.raises(UserError, match=r"--phase: found 'moer', nearest is 'more'"):
        tuning.find_rate(recipe, "moer", screen=QUIET)
    with pytest.raises(UserError, match="no phase of this recipe has a rate"):
        tuning.find_rate(recipes.load("audio", ["phases.train.epochs=0", "phases.train.rates={'*': null}"]), screen=QUIET)


# ---- the command


def test_the_command_prints_draws_and_speaks_json(place: Path, demo_clips: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["find-rate", place / "tiny.yaml", TWO, *SOUND_ONLY, "--data", demo_clips, "--steps", 30]
    said = crossfade(*words, "--out", tmp_path / "deep" / "rate.svg", "--phase", "more")
    assert said.code == 0 and max(map(len, said.out.splitlines()[:-1])) <= 80 and "from the recipe's own weights" in said.err
    assert ElementTree.parse(tmp_path / "deep" / "rate.svg").getroot().tag.endswith("svg")
    found = json.loads(crossfade(*words, "--json").out)
    assert found["phase"] == "all" and set(found["rates"]) == {"heads", "*"} and len(found["curve"]["losses"]) <= 30
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert crossfade(*words, "--phase", "none").err.startswith("crossfade: --phase: found 'none'")


# ---- the picture


def valley() -> Sketch:
    x = np.geomspace(1e-6, 1, 61)
    y = 1 + 1 / (1 + (x / 1e-3) ** 2) + np.maximum(x - 0.1, 0) * 50
    return Sketch(x.tolist(), y.tolist(), y.tolist(), 1e-3, "a title", "rate")


def test_braille_is_80_columns_of_the_curve():
    lines = braille(valley())
    assert len(lines) == ROWS + 4 and max(map(len, lines)) <= 80 and lines[0] == "a title" and lines[-1].strip() == "rate"
    body = [line[MARGIN:].ljust(COLUMNS) for line in lines[1 : ROWS + 1]]
    tops = [
        next((row for row in range(ROWS) if body[row][column] not in " ⠀"), 0)  # above the picture: nothing
        for column in range(COLUMNS)
    ]
    middle = round(0.5 * (COLUMNS - 1))  # 1e-3 of 1e-6 … 1
    assert tops[:10] == [tops[0]] * 10 and tops[0] < tops[middle] < max(tops) and tops[-1] == 0
    assert tops.index(max(tops)) > middle and lines[ROWS + 1].index("▲") == MARGIN + middle
    assert lines[ROWS + 2].split() == ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1e0"]


def test_a_flat_curve_can_be_drawn_too():
    flat = Sketch([1e-3, 1e-2], [0.0, 0.0], [0.0, 0.0], 1e-2, "t", "x")
    assert len(braille(flat)) == ROWS + 4 and "NaN" not in svg(flat) and "nan" not in svg(flat)


def test_the_svg_holds_the_curve_up_to_where_it_leaves_and_the_mark():
    root = ElementTree.fromstring(svg(valley()))
    space = {"s": "http://www.w3.org/2000/svg"}
    path = root.find("s:path", space)
    mark = root.find("s:line[@stroke-dasharray]", space)
    assert path is not None and mark is not None
    points = [tuple(map(float, point.split())) for point in path.attrib["d"][1:].split(" L")]
    heights = [y for _, y in points]
    assert 50 < len(points) < 61 and max(heights) == heights[int(np.argmin(valley().y))] and min(heights) >= 40
    assert float(mark.attrib["x1"]) == pytest.approx(60 + 0.5 * 560, abs=0.1)
    assert "a title" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
