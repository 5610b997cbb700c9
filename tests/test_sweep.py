"""`train --over`: which variants there are and what they are called, that none is trained twice, and that one that fails stops no other."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from tiny import SOUND_ONLY, crossfade, metrics_of, same_bytes, tiny

from crossfade import run, sweep
from crossfade.clip import UserError
from crossfade.sweep import plan, split, spreads
from crossfade.training.loop import Interrupted

SHORT = (*SOUND_ONLY, "phases.all.epochs=1", "phases.all.steps=1", "data.split.seed=0")
ENCODERS = "model.encoders.audio={use: light_cnn, width: 32},{use: light_cnn, width: 16}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("{use: a, b: [1, 2]},{use: c}", ["{use: a, b: [1, 2]}", "{use: c}"]),
        ("'a,b',\"c,]\"", ["'a,b'", '"c,]"']),
        ("one", ["one"]),
        ("", [""]),
    ],
)
def test_values_are_split_at_commas_outside_brackets_and_quotes(text, parts):
    assert split(text) == parts


@pytest.mark.parametrize(
    ("over", "names"),
    [
        (["model.encoders.image.use=mobilenet_v2,resnet18"], ["mobilenet_v2", "resnet18"]),
        (["seed=0,1"], ["seed-0", "seed-1"]),
        (["seed=7"], ["seed-7"]),
        (["model.merge.use=mean,gated", "seed=0,1"], ["mean_seed-0", "mean_seed-1", "gated_seed-0", "gated_seed-1"]),
        (["model.merge.use=mean,gated", "seed=3"], ["mean", "gated"]),
        (["data.split.ratios=[0.7,0.15,0.15],[0.8,0.1,0.1]"], ["ratios-0.7-0.15-0.15", "ratios-0.8-0.1-0.1"]),
        (["model.encoders.image={use: mobilenet_v2, weights: a.safetensors},{use: resnet18}"], ["mobilenet_v2", "resnet18"]),
        (["model.encoders.image={use: timm, name: a},{use: timm, name: b}"], ["timm-name-a", "timm-name-b"]),
        (
            ["model.encoders.image={use: a, weights: /x/y.pth},{use: a, weights: /x/y.pth, stem_stride: 1},{use: b, weights: /z.pth}"],
            ["a", "a-stem_stride-1", "b"],
        ),
        (["model.encoders.image.weights=/x/a.safetensors,/y/b.safetensors"], ["a", "b"]),
        (["model.encoders.image.weights=/x/a.safetensors,/y/a.safetensors"], ["a-1", "a-2"]),
        (["phases.a.epochs=1,2", "phases.b.epochs=3"], ["a.epochs-1", "a.epochs-2"]),
        (["phases.fine.prune=0.5,{to: 0.8, over: 3}"], ["prune-0.5", "prune-to-0.8-over-3"]),
        (["about=../../x,.."], ["x", "empty"]),
    ],
)
def test_folders_are_called_by_what_differs(over, names):
    assert [variant.name for variant in plan(over)] == names


def test_every_combination_with_its_overrides():
    variants = plan(["model.merge.use=mean,gated", "seed=0,1"])
    assert [variant.overrides for variant in variants][1:3] == [("model.merge.use=mean", "seed=1"), ("model.merge.use=gated", "seed=0")]
    assert [variant.but_for_seed for variant in variants] == [("mean",), ("mean",), ("gated",), ("gated",)]


@pytest.mark.parametrize(
    ("over", "says"),
    [
        (["seed"], "--over seed: is written key=value,value such as seed=0,1,2"),
        (["seed=0,,1"], "--over seed=0,,1: is written key=value,value such as seed=0,1,2"),
        (["seed=0,1,0"], "--over seed: 0 is given twice"),
        (["seed=0", "seed=1"], "--over seed: is given twice; put all its values into one"),
    ],
)
def test_a_mistake_is_one_line(over, says):
    with pytest.raises(UserError) as caught:
        plan(over)
    assert str(caught.value) == says


def test_the_spread_is_over_what_differs_in_the_seed_only():
    scores = {"mean_seed-0": 0.5, "mean_seed-1": 0.7, "gated_seed-0": 0.9}
    (found,) = spreads(plan(["model.merge.use=mean,gated", "seed=0,1"]), scores, "accuracy")
    assert (found.of, found.mean, found.deviation, found.runs) == ("mean", 0.6, pytest.approx(statistics.stdev([0.5, 0.7])), 2)
    assert found.line() == "mean: accuracy 0.6000 ± 0.1414 (mean and standard deviation of 2 seeds)"


# ---- training them


def words(place: Path, clips: Path, out: Path, *over: str, more: tuple[str, ...] = ()) -> list[object]:
    return [
        "train",
        place / "tiny.yaml",
        *SHORT,
        *more,
        "--data",
        clips,
        "--out",
        out,
        *(word for each in over for word in ("--over", each)),
    ]


@pytest.fixture(scope="module")
def swept(place: Path, demo_clips: Path) -> Path:
    said = crossfade(*words(place, demo_clips, place / "swept", ENCODERS, "seed=0,1"))
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == f"report: {place / 'swept' / 'comparison.html'}"
    assert "standard deviation of 2 seeds" in said.out and "8 clips of 1 group" in said.out
    return place / "swept"


def test_each_variant_is_the_run_that_train_alone_would_make(swept: Path, place: Path, demo_clips: Path):
    names = [f"light_cnn-width-{width}_seed-{seed}" for width in (32, 16) for seed in (0, 1)]
    assert {path.name for path in swept.iterdir()} == {*names, "sweep.json", "comparison.html"}
    alone = tiny(place, demo_clips, *SHORT, "model.encoders.audio={use: light_cnn, width: 16}", "seed=1")
    run.train(alone, place / "alone", screen=sweep.Terminal(quiet=True))
    assert same_bytes(swept / names[3], place / "alone", "model.safetensors", "predictions.csv", "recipe.yaml", "metrics.json")
    assert not same_bytes(swept / names[2], place / "alone", "model.safetensors")


def test_the_same_command_again_trains_nothing_and_says_the_same(swept: Path, place: Path, demo_clips: Path, monkeypatch):
    monkeypatch.setattr(run, "train", None)
    monkeypatch.setattr(run, "_go_on", None)
    said = crossfade(*words(place, demo_clips, swept, ENCODERS, "seed=0,1"), "--json")
    found = json.loads(said.out)
    assert said.code == 0 and found["failed"] == {} and found["report"] == str(swept / "comparison.html")
    assert found["scores"] == {name: metrics_of(Path(folder))["test"]["macro_f1"] for name, folder in found["runs"].items()}
    assert [spread["runs"] for spread in found["spreads"]] == [2, 2] and {score["name"] for score in found["comparison"]["scores"]} == set(
        found["runs"]
    )


def test_another_recipe_s_begun_runs_are_not_taken_for_this_one_s(swept: Path, place: Path, demo_clips: Path):
    said = crossfade(*words(place, demo_clips, swept, ENCODERS, "seed=0,1", more=("data.batch=4",)))
    assert said.code == 2 and "was begun with another recipe (batch: 8, now batch: 4); choose another --out" in said.err
    (swept / "sweep.json").rename(swept / "away")
    assert "it is not in sweep.json" in crossfade(*words(place, demo_clips, swept, ENCODERS, "seed=0,1")).err
    (swept / "away").rename(swept / "sweep.json")


def test_a_typo_in_the_last_value_costs_nothing(place: Path, demo_clips: Path, tmp_path: Path):
    said = crossfade(*words(place, demo_clips, tmp_path / "out", "model.encoders.audio.use=light_cnn,light_cnm"))
    assert said.code == 2 and "nearest is 'light_cnn'" in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_that_fails_on_the_way_is_reported_and_the_others_train(place: Path, demo_clips: Path, tmp_path: Path):
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    over = f"model.init={{encoders.audio: {tmp_path / 'broken.safetensors'}}},{{}}"
    said = crossfade(*words(place, demo_clips, tmp_path / "out", over), "--json")
    found = json.loads(said.out)
    assert said.code == 2 and len(found["failed"]) == 1 and len(found["scores"]) == 1 and found["comparison"] is None
    (failed,), (done,) = found["failed"], found["scores"]
    assert "broken.safetensors" in found["failed"][failed] and said.err.splitlines()[-1].startswith("crossfade: 1 of 2 failed: ")
    assert (tmp_path / "out" / done / "metrics.json").is_file() and not (tmp_path / "out" / failed).exists()


def test_stopped_it_says_how_to_go_on_and_does(place: Path, demo_clips: Path, tmp_path: Path, monkeypatch):
    real, rounds = run._go_on, []

    def stopping(*given):
        rounds.append(given)
        if len(rounds) == 2:
            raise Interrupted(15)
        return real(*given)

    given = words(place, demo_clips, tmp_path / "out", "seed=0,1")
    with monkeypatch.context() as patch:
        patch.setattr(run, "_go_on", stopping)
        said = crossfade(*given)
    assert said.code == 143 and "go on with: crossfade train" in said.err and "--over seed=0,1" in said.err
    again = crossfade(*given)
    assert again.code == 0 and "is finished already" in again.err and (tmp_path / "out" / "seed-1" / "metrics.json").is_file()


def test_seeds_that_split_anew_are_said_to(place: Path, demo_clips: Path, tmp_path: Path):
    given = words(place, demo_clips, tmp_path / "out", "seed=0,1", more=("phases.all.epochs=0",))
    given.remove("data.split.seed=0")
    said = crossfade(*given)
    assert said.code == 0 and "split the clips differently" in said.out and "data.split.seed=0 would hold the split" in said.out
    assert "standard deviation of 2 seeds" in said.out and ("not compared: " in said.out) != ("report: " in said.out)
    if "not compared: " in said.out:  # then each run's own number
        assert said.out.startswith("seed-0: macro_f1 0.")


def test_over_and_resume_do_not_go_together(tmp_path: Path):
    said = crossfade("train", "--resume", tmp_path, "--over", "seed=0,1")
    assert said.code == 2 and "takes nothing else" in said.err


def test_a_run_without_the_number_has_none():
    """The test of one class alone has no AUROC."""
    assert math.isnan(sweep._score({"test": {"auroc": None}}, "auroc"))
