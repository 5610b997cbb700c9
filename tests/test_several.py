"""Several answers about a clip, some of several classes at once, end to end: train, resume, evaluate, predict, compare, explain."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import crossfade

from crossfade import settings
from crossfade.data.demo import _write_video
from crossfade.evaluation.tags import Tags

RATE, CLIPS = 8000, 48
SPECIES, ACTIVITY = ("fox", "hare"), ("resting", "running")

RECIPE = """
data:
  corpus: {use: manifest, path: clips.csv}
  split: {by: group, ratios: [0.5, 0.25, 0.25]}
  streams: {audio: {use: log_mel, rate: 8000, seconds: 0.4, mels: 16}, video: {use: frames, count: 4, size: 32}}
  views:
    varied:
      audio: [{use: gain, decibels: 3, only: [hare]}]
      video: [{use: flip, only: {action: [moving]}}]
  batch: 8
  workers: 0
model:
  encoders: {audio: {use: light_cnn, width: 32, tokens: 4}, video: {use: video_cnn3d, width: 8}}
  mix: [{use: bottleneck, dim: 32, layers: 2, heads: 2, fuse_from: 0, dropout: 0.0}]
  merge: {use: mean, project: false}
  drop_stream: 0.3
  heads:
    species: {use: linear}
    activity: {use: linear}
    action: {use: linear}
phases:
  - name: all
    epochs: 20
    sees: varied
    rates: {"*": 3e-3}
    optimizer: adamw
    terms:
      species: {use: cross_entropy, target: species, balance: root}
      activity: {use: cross_entropy, target: activity}
      action: {use: binary_cross_entropy, target: action, balance: inverse}
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Only the sound tells the species, only the picture the activity; each of three actions follows from one of the two or none.

    One clip has no sound, one no activity, one no action, one none of the actions.
    """
    folder = tmp_path_factory.mktemp("wild")
    generator = np.random.default_rng(0)
    rows = [_clip(folder, number, generator) for number in range(CLIPS)]
    rows[0]["audio"] = ""
    rows[1]["activity"] = ""
    rows[2]["action"] = ""
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "clips.csv"


def _clip(folder: Path, number: int, generator: np.random.Generator) -> dict[str, str]:
    species, activity, dark = number % 2, number // 2 % 2, number // 4 % 2
    time = np.arange(int(0.4 * RATE)) / RATE
    tone = np.sin(2 * np.pi * (500, 1800)[species] * time) + 0.1 * generator.standard_normal(len(time))
    soundfile.write(folder / f"{number}.wav", 0.3 * tone, RATE)
    frames = np.full((6, 32, 32, 3), (200, 60)[dark], np.uint8) + generator.integers(0, 20, (6, 32, 32, 3), dtype=np.uint8)
    for step in range(6):
        place = 4 * step * activity + 2
        frames[step, 10:22, place : place + 8] = (220, 40, 40)
    _write_video(folder / f"{number}.mp4", list(frames))
    action = [name for name, has in (("calling", species), ("moving", activity), ("hidden", dark)) if has]
    return {
        "audio": f"{number}.wav",
        "video": f"{number}.mp4",
        "species": SPECIES[species],
        "activity": ACTIVITY[activity],
        "action": "|".join(action) or "|",
        "group": f"event{number // 2}",
    }


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "wild.yaml").write_text(RECIPE)
    said = crossfade("train", folder / "wild.yaml", "--data", table, "--out", folder / "first")
    assert said.code == 0, said.err
    return folder / "first"


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_each_head_has_its_tables_and_numbers(run: Path):
    metrics = metrics_of(run)
    assert metrics["target"] == "species" and set(metrics["heads"]) == {"activity", "action"}
    assert metrics["test"]["macro_f1"] > 0.9
    assert metrics["heads"]["activity"]["test"]["macro_f1"] > 0.9
    action = metrics["heads"]["action"]["test"]
    assert action["macro_f1"] > 0.7 and {"accuracy", "micro_f1", "average_precision", "intervals", "per_class"} <= action.keys()
    table = Tags.read(run / "predictions-action.csv")
    assert table.classes == ["calling", "hidden", "moving"]
    assert "|" in table.truth
    assert settings.read_file(run / "recipe.yaml")["data"]["several"] == ["action"]
    assert json.loads((run / "labels.json").read_text()) == {
        "species": list(SPECIES),
        "activity": list(ACTIVITY),
        "action": ["calling", "hidden", "moving"],
    }


def test_val_is_judged_by_the_mean_of_the_heads(run: Path):
    metrics = metrics_of(run)
    best = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in best if row["best"]][-1]["val"]
    heads = [metrics["val"], *(head["val"] for head in metrics["heads"].values())]
    for name in ("macro_f1", "average_precision", "accuracy"):
        assert kept[name] == pytest.approx(np.mean([head[name] for head in heads]), abs=1e-6)


def test_the_streams_are_credited_with_what_they_carry(run: Path):
    with (run / "contributions.csv").open() as file:
        rows = [
            {**row, "audio": float(row["audio"]), "video": float(row["video"]), "base": float(row["base"])} for row in csv.DictReader(file)
        ]
    tables = {"species": "predictions.csv", "activity": "predictions-activity.csv", "action": "predictions-action.csv"}
    for target, name in tables.items():
        with (run / name).open() as file:
            said = {row["clip"]: row for row in csv.DictReader(file) if row["split"] == "test"}
        mine = [row for row in rows if row["target"] == target]
        for row in mine:
            assert row["base"] + row["audio"] + row["video"] == pytest.approx(float(said[row["clip"]][f"p_{row['class']}"]), abs=1e-6)
    mean = {
        target: {stream: np.mean([row[stream] for row in rows if row["target"] == target]) for stream in ("audio", "video")}
        for target in ("species", "activity")
    }
    assert mean["species"]["audio"] > 0.2 > 0.1 > abs(mean["species"]["video"])
    assert mean["activity"]["video"] > 0.2 > 0.1 > abs(mean["activity"]["audio"])


def test_resumes_evaluates_and_predicts(run: Path, table: Path, tmp_path: Path):
    said = crossfade("evaluate", run, "--json", "--out", tmp_path / "again.csv")
    assert said.code == 0, said.err
    again = json.loads(said.out)
    assert again["heads"]["action"]["test"]["macro_f1"] == pytest.approx(metrics_of(run)["heads"]["action"]["test"]["macro_f1"])
    said = crossfade("predict", run, table.parent / "5.mp4", "--json")
    row = json.loads(said.out)
    assert row["streams"] == "audio+video" or row["streams"] == "video"
    assert set(row["action.predicted"].split("|")) <= {"calling", "hidden", "moving", ""}
    assert 0 <= row["action.p_hidden"] <= 1
    assert {"species.predicted", "activity.p_running"} <= row.keys()


def test_a_label_that_the_model_does_not_know_is_named(run: Path, table: Path, tmp_path: Path):
    rows = table.read_text().replace("hidden", "hiding")
    (table.parent / "other.csv").write_text(rows)
    said = crossfade("evaluate", run, "--data", table.parent / "other.csv")
    assert said.code == 2 and "its action 'hiding' is not a class of this model; nearest is 'hidden'" in said.err


def test_the_term_must_be_made_for_the_labels(run: Path, table: Path, tmp_path: Path):
    given = ["train", run.parent / "wild.yaml", "--data", table, "--out", tmp_path / "bad"]
    said = crossfade(*given, "phases.all.terms.action={use: cross_entropy, target: action}")
    assert said.code == 2 and "phases.all.terms.action.use: found 'cross_entropy', but action may have several classes" in said.err
    said = crossfade(*given, "phases.all.terms.species={use: binary_cross_entropy, target: species}")
    assert said.code == 2 and "species has one class a clip" in said.err
    said = crossfade(*given, "data.views.varied.audio=[{use: gain, only: [hair]}]")
    assert said.code == 2 and "data.views.varied.audio.0.only.species: found 'hair', nearest is 'hare'" in said.err
    assert not (tmp_path / "bad").exists()


def test_explains_a_clip(run: Path, table: Path, tmp_path: Path):
    said = crossfade("explain", run, "6.wav", "--out", tmp_path, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    species = found["heads"]["species"]
    (name,) = species["adds"]
    assert species["base"][name] + sum(species["adds"][name].values()) == pytest.approx(species["probability"][name], abs=1e-6)
    assert Path(found["page"]).read_text().count("<html") == 1
    lost = [one for one in found["hidden"] if one["stream"] == "video"]
    assert lost == [] or all(0 <= each <= 1 for one in lost for each in one["random"])
    said = crossfade("explain", run, "no-such-clip", "--out", tmp_path)
    assert said.code == 2 and "no such file, and no such clip" in said.err


def test_the_report_tells_of_every_head(run: Path):
    report = (run / "report.html").read_text()
    for words in ("activity", "action", "points of probability", "To the probability of the true species", "Where it looked, in 3 clips"):
        assert words in report


def test_a_first_head_of_several_classes(run: Path, table: Path, tmp_path: Path):
    """Everything works where the head that comes first is the one with several classes a clip."""
    keep = ["model.heads={action: {use: linear}}", "phases.all.terms={action: {use: binary_cross_entropy, target: action}}"]
    keep += ["data.views.varied.audio=[]", "phases.all.epochs=2"]
    said = crossfade("train", run.parent / "wild.yaml", "--data", table, "--out", tmp_path / "tags", *keep)
    assert said.code == 0, said.err
    said = crossfade("train", run.parent / "wild.yaml", "--data", table, "--out", tmp_path / "more", *keep, "seed=1")
    assert said.code == 0, said.err
    said = crossfade("compare", tmp_path / "tags", tmp_path / "more", "--json")
    assert said.code == 0, said.err
    assert len(json.loads(said.out)["scores"]) == 2
    said = crossfade("train", run.parent / "wild.yaml", "--data", table, "--out", tmp_path / "bad", *keep, "phases.all.balance=class")
    assert said.code == 2 and "phases.all.balance: clips are drawn by a target with one class a clip" in said.err


def test_judges_clips_in_segments(run: Path, tmp_path: Path):
    said = crossfade("evaluate", run, "--segments", "2", "--results", tmp_path / "b1.tsv", "--out", tmp_path / "whole.csv", "--json")
    assert said.code == 0, said.err
    clips, official = json.loads(said.out)["test"]["n_clips"], json.loads(said.out)["segments"]
    assert set(official) == {"mean", "max"} and official["mean"]["samples"] == clips
    assert set(official["max"]["tasks"]["action"]["average_precision"]) == {"calling", "hidden", "moving"}
    assert "action, mean of the segments" in (tmp_path / "b1.txt").read_text()
    lines = (tmp_path / "b1.tsv").read_text().splitlines()
    assert len(lines) == 2 * clips and all(len(line.split("\t")) == 3 + 2 * 3 for line in lines)
    with (tmp_path / "whole.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == clips and not any("#" in row["clip"] for row in rows)
    said = crossfade("evaluate", run, "--results", tmp_path / "b1.tsv")
    assert said.code == 2 and "--segments" in said.err


def test_noise_costs_what_is_heard_and_nothing_else(run: Path, table: Path, tmp_path: Path):
    seen = ["data.streams.audio=null", "model.encoders.audio=null", "data.views.varied.audio=null", "phases.all.epochs=2"]
    said = crossfade("train", run.parent / "wild.yaml", "--data", table, "--out", tmp_path / "seen", *seen)
    assert said.code == 0, said.err
    given = ["robustness", run, tmp_path / "seen", "--levels", "0,-30", "--target", "species"]
    said = crossfade(*given, "--report", tmp_path / "noise.html", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    scores = {(row["run"], row["level"]): row["value"] for row in found["scores"]}
    assert {level for _, level in scores} == {None, 0.0, -30.0}
    assert scores["first", -30.0] < scores["first", None] - 0.2
    assert len({scores["seen", level] for level in (None, 0.0, -30.0)}) == 1
    assert "-30 dB" in (tmp_path / "noise.html").read_text()
    said = crossfade(*given)
    assert said.code == 0 and "-30 dB" in said.out and "first" in said.out
    said = crossfade("robustness", run, "--levels", "loud")
    assert said.code == 2 and "--levels: found 'loud'" in said.err


def test_folds_pool_every_head(run: Path, table: Path, tmp_path: Path):
    """It failed after all the training: only the first head's table was pooled."""
    short = ["phases.all.epochs=1", "data.split={by: group, folds: 3}"]
    said = crossfade("train", run.parent / "wild.yaml", "--data", table, "--out", tmp_path / "folds", *short)
    assert said.code == 0, said.err
    metrics = metrics_of(tmp_path / "folds")
    assert metrics["folds"] == 3 and set(metrics["heads"]) == {"activity", "action"}
    assert metrics["heads"]["action"]["test"]["n_clips"] == CLIPS - 1
    assert len(Tags.read(tmp_path / "folds" / "predictions-action.csv")) == CLIPS


def test_a_stream_that_no_run_has_is_refused(run: Path):
    said = crossfade("robustness", run, "--stream", "sound")
    assert said.code == 2 and "--stream: found 'sound', nearest is 'audio'" in said.err


def test_clean_is_clean_whatever_the_recipe_adds(run: Path, table: Path, tmp_path: Path):
    noisy = "data.degrade={audio: [{use: noise_at_snr, snr: [-30], weights: [1], probability: 1}]}"
    said = crossfade("train", run.parent / "wild.yaml", "--data", table, "--out", tmp_path / "noisy", "phases.all.epochs=4", noisy)
    assert said.code == 0, said.err
    found = json.loads(crossfade("robustness", tmp_path / "noisy", "--levels", "-30", "--metric", "nll", "--json").out)
    values = {row["level"]: row["value"] for row in found["scores"]}
    clean = json.loads(crossfade("evaluate", tmp_path / "noisy", "data.degrade={}", "--json").out)["test"]["nll"]
    assert values[None] == pytest.approx(clean) and values[-30.0] != pytest.approx(clean)


def test_none_of_the_classes_is_an_answer_too(run: Path, table: Path, tmp_path: Path):
    """Clip 0 truly has none of the actions."""
    found = json.loads(crossfade("explain", run, "0.mp4", "--out", tmp_path, "--data", table, "--json").out)
    assert found["heads"]["action"]["true"] == "none"


def test_the_card_counts_clips_not_labels(run: Path):
    card, metrics = (run / "README.md").read_text(), metrics_of(run)
    train = json.loads((run / "notes.json").read_text())["heads"]["species"]["total"]
    assert f"| train | {train} |" in card and f"| test | {metrics['test']['n_clips']} |" in card


def test_a_target_without_any_class_is_one_line(run: Path, table: Path, tmp_path: Path):
    with table.open() as file:
        rows = [row | {"action": "|"} for row in csv.DictReader(file)]
    with (table.parent / "empty.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    said = crossfade(
        "train",
        run.parent / "wild.yaml",
        "--data",
        table.parent / "empty.csv",
        "--out",
        tmp_path / "bad",
        "data.views={}",
        "phases.all.sees=null",
    )
    assert said.code == 2 and "model.heads.action: no clip of the corpus has any class of it" in said.err
