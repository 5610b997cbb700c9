"""A training run end to end on tiny corpora: what its bundle holds, that its numbers are its predictions' and that they repeat."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, recall_score
from tiny import QUIET, SOUND_ONLY, crossfade, metrics_of, same_bytes, tiny

from crossfade import recipe as recipes
from crossfade import run as verbs
from crossfade import stock, work
from crossfade.clip import UserError
from crossfade.evaluation.predictions import Predictions

PROMISED = {
    *("recipe.yaml", "model.safetensors", "labels.json", "metrics.jsonl", "metrics.json", "predictions.csv", "report.html"),
    *("environment.json", "notes.json", "train.log", "contributions.csv", "README.md"),
    *("predictions-audio.csv", "predictions-video.csv", "predictions-audio+video.csv"),
}
WAVLM = "{num_hidden_layers: 2, hidden_size: 16, intermediate_size: 32, num_attention_heads: 2, conv_dim: [8, 8], conv_kernel: [10, 8], "
WAVLM += "conv_stride: [5, 16], num_feat_extract_layers: 2, num_conv_pos_embeddings: 8, num_conv_pos_embedding_groups: 2}"


# ---- the bundle


def test_a_bundle_holds_what_was_promised_and_nothing_else(bundle: Path):
    assert {path.name for path in bundle.iterdir()} == PROMISED
    assert recipes.resolve(recipes.settings.read_file(bundle / "recipe.yaml")).yaml() == (bundle / "recipe.yaml").read_text()
    assert json.loads((bundle / "labels.json").read_text())["emotion"][:2] == ["neutral", "calm"]
    assert [json.loads(line)["epoch"] for line in (bundle / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert json.loads((bundle / "environment.json").read_text())["torch"] in torch.__version__
    assert "crossfade train" in json.loads((bundle / "notes.json").read_text())["command"]


def test_every_number_is_that_of_the_predictions(bundle: Path):
    with (bundle / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"val", "test"}
    assert Counter(row["clip"] for row in rows).most_common(1)[0][1] == 1
    metrics = metrics_of(bundle)
    for split in ("val", "test"):
        true, predicted = zip(*((row["true"], row["predicted"]) for row in rows if row["split"] == split), strict=True)
        assert metrics[split]["accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
        assert metrics[split]["balanced_accuracy"] == pytest.approx(recall_score(true, predicted, average="macro", zero_division=0))
        assert metrics[split]["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0), abs=1e-12)
        assert metrics[split]["n_clips"] == len(true)
    assert set(metrics["streams"]) == {"audio", "video", "audio+video"}
    for row in rows:
        shares = {name[2:]: float(share) for name, share in row.items() if name.startswith("p_")}
        assert max(shares, key=shares.__getitem__) == row["predicted"]


def test_the_best_state_is_judged_and_kept(bundle: Path):
    history = [json.loads(line) for line in (bundle / "metrics.jsonl").read_text().splitlines()]
    assert metrics_of(bundle)["val"]["macro_f1"] == pytest.approx(max(row["val"]["macro_f1"] for row in history), abs=1e-12)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(place: Path, demo_clips: Path, bundle: Path):
    verbs.train(tiny(place, demo_clips), place / "again", screen=QUIET)
    assert same_bytes(bundle, place / "again", "model.safetensors", "predictions.csv", "metrics.json", "labels.json", "recipe.yaml")
    verbs.train(tiny(place, demo_clips, "seed=1", "data.split.seed=0"), place / "other", screen=QUIET)
    assert not same_bytes(bundle, place / "other", "model.safetensors")
    split = {name: {row.clip[i] for i in range(len(row))} for name, row in tables(bundle, place / "other").items()}
    assert split["first"] == split["other"]  # the same clips in val and test, for the split has a seed of its own


def tables(*runs: Path) -> dict[str, Predictions]:
    return {run.name: Predictions.read(run / "predictions.csv") for run in runs}


def test_without_a_test_split_the_report_is_on_val(place: Path, demo_clips: Path):
    metrics = verbs.train(tiny(place, demo_clips, "data.split.ratios=[0.75,0.25,0]", "phases.all.epochs=0"), place / "val", screen=QUIET)
    assert "test" not in metrics and metrics["val"]["n_clips"] == 8
    assert "there is no test split" in (place / "val" / "report.html").read_text()
    with pytest.raises(UserError, match="no clip to test"):
        verbs.evaluate(place / "val", screen=QUIET)


def test_runs_of_other_precision_follow_each_other_in_one_process(place: Path, demo_clips: Path):
    half = tiny(place, demo_clips, *SOUND_ONLY, "phases.all.steps=1", "precision=bf16")
    verbs.train(half, place / "half", screen=QUIET)
    verbs.train(tiny(place, demo_clips, *SOUND_ONLY, "phases.all.steps=1"), place / "full", screen=QUIET)
    assert not same_bytes(place / "half", place / "full", "predictions.csv")


# ---- corpora that cannot teach


def refused(place: Path, table: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        verbs.train(tiny(place, table, *overrides), place / "refused", screen=QUIET)
    assert not (place / "refused").exists()
    return str(error.value)


def test_corpora_from_which_nothing_can_be_learnt_are_refused(place: Path, demo_clips: Path, tmp_path: Path):
    sounds = sorted(demo_clips.rglob("03-*.wav"))
    rows = [f"{sound},{sound.stem[6:8]},{sound.stem[-2:]}" for sound in sounds]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["audio,emotion,group", *rows]))
    assert "data.streams.video: no clip of train has it" in refused(place, table)
    table.write_text("\n".join(["audio,emotion,group", *(f"{sound},calm,{sound.stem[-2:]}" for sound in sounds)]))
    assert "one class only, 'calm'" in refused(place, table, *SOUND_ONLY)
    train = [sound.stem[-2:] in ("01", "02") for sound in sounds]
    labelled = [f"{sound},{sound.stem[6:8]},train" if learnt else f"{sound},,val" for sound, learnt in zip(sounds, train, strict=True)]
    table.write_text("\n".join(["audio,emotion,split", *labelled]))
    assert "no clip of val is labelled" in refused(place, table, *SOUND_ONLY, "data.split.by=column", "data.split.ratios=[0.5,0.5,0]")


# ---- folds


class Killed(BaseException):
    pass


def test_folds_predict_each_clip_once_and_go_on_after_a_kill(place: Path, demo_clips: Path, monkeypatch):
    recipe = tiny(place, demo_clips, "data.split.folds=3", "phases.all.epochs=1", "phases.all.steps=2", *SOUND_ONLY)
    metrics = verbs.train(recipe, place / "folds", screen=QUIET)
    pooled = Predictions.read(place / "folds" / "predictions.csv")
    assert sorted(pooled.clip) == sorted(clip.stem[3:] for clip in demo_clips.rglob("03-*.wav"))
    assert set(pooled.split) == {"test"} and metrics["test"]["n_clips"] == 32 and metrics["folds"] == 3
    assert metrics["test"]["accuracy"] == pytest.approx((pooled.predicted == pooled.true).mean())

    whole, rounds = work.Work.train_one, []

    def killed(self, split):
        rounds.append(self.folder.name)
        if len(rounds) == 2:
            raise Killed
        return whole(self, split)

    monkeypatch.setattr(work.Work, "train_one", killed)
    with pytest.raises(Killed):
        verbs.train(recipe, place / "killed", screen=QUIET)
    (place / "killed" / "fold-1" / "checkpoint").mkdir()  # had it been killed just after writing the fold's numbers
    verbs.resume(place / "killed", screen=QUIET)
    assert not (place / "killed" / "fold-1" / "checkpoint").exists()
    assert rounds == ["fold-1", "fold-2", "fold-2", "fold-3"]
    assert same_bytes(place / "folds", place / "killed", "predictions.csv", "metrics.json")
    assert same_bytes(place / "folds" / "fold-2", place / "killed" / "fold-2", "model.safetensors", "metrics.json")
    assert "fold" in (place / "killed" / "report.html").read_text()


def test_a_fold_is_a_bundle_and_the_folder_above_says_so(place: Path, demo_clips: Path):
    sound = next(demo_clips.rglob("03-*.wav"))
    assert [row["streams"] for row in verbs.predict(place / "folds" / "fold-1", [sound], screen=QUIET)] == ["audio"]
    with pytest.raises(UserError, match="fold-1"):
        list(verbs.predict(place / "folds", [sound], screen=QUIET))


# ---- the store


def test_a_bundle_trained_on_stored_views_predicts_and_is_judged_again(place: Path, demo_clips: Path):
    views = ("phases.all.views=2", "phases.all.rates={encoders: null, '*': 1e-2}", "phases.all.epochs=1")
    metrics = verbs.train(tiny(place, demo_clips, *views), place / "views", screen=QUIET)
    judged, table = verbs.evaluate(place / "views", screen=QUIET)
    assert judged["test"]["nll"] == pytest.approx(metrics["test"]["nll"], abs=1e-6)
    rows = list(verbs.predict(place / "views", sorted(demo_clips.rglob("03-*.wav"))[:2], screen=QUIET))
    assert [row["streams"] for row in rows] == ["audio", "audio"] and len(table) == 8


def test_the_recipe_names_what_it_keeps_in_the_store(place: Path, demo_clips: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path))
    frozen = ("phases.all.rates={encoders: null, '*': 1e-2}", "phases.all.sees=null", "phases.all.steps=1", "phases.all.epochs=1")
    verbs.train(tiny(place, demo_clips, *frozen), place / "listed", screen=QUIET)
    found = {entry.what: (entry.recipes, entry.entries) for entry in stock.listing(tmp_path)}
    assert all(recipes == ["tiny"] for recipes, _ in found.values())
    assert {what.partition(",")[0]: entries for what, (_, entries) in found.items()} == {
        "decoded sound": 32,
        "decoded frames": 32,
        "activations: audio encoder": 32,
        "activations: video encoder": 32,
    }


def test_with_the_store_off_nothing_is_kept(place: Path, demo_clips: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    verbs.train(tiny(place, demo_clips, "store=off", "phases.all.steps=1", *SOUND_ONLY), place / "off", screen=QUIET)
    assert not (tmp_path / "store").exists()


# ---- warm starts and freezing


def test_frozen_encoders_from_two_runs_stay_bit_equal_buffers_too(place: Path, demo_clips: Path, bundle: Path):
    again = place / "again"
    warm = [f"model.init.'encoders.audio'={bundle}", f"model.init.'encoders.video'={again}"]
    frozen = "phases.all.rates={encoders: null, '*': 1e-2}"
    verbs.train(tiny(place, demo_clips, *warm, frozen, "seed=3"), place / "warm", screen=QUIET)
    weights, before = load_file(place / "warm" / "model.safetensors"), load_file(bundle / "model.safetensors")
    encoders = [name for name in weights if name.startswith("encoders.")]
    assert any("running_mean" in name for name in encoders)
    assert all(torch.equal(weights[name], before[name]) for name in encoders)
    assert not torch.equal(weights["heads.emotion.joint.1.weight"], before["heads.emotion.joint.1.weight"])
    loads = json.loads((place / "warm" / "notes.json").read_text())["loads"]
    assert [load.split(":")[0] for load in loads] == ["encoders.audio", "encoders.video"]
    assert "0 missing" in (place / "warm" / "report.html").read_text()


def test_a_random_encoder_that_never_learns_is_said(place: Path, demo_clips: Path):
    frozen = "phases.all.rates={encoders: null, '*': 1e-2}"
    verbs.train(tiny(place, demo_clips, frozen, "phases.all.steps=1", *SOUND_ONLY), place / "random", screen=QUIET)
    (warning,) = json.loads((place / "random" / "notes.json").read_text())["warnings"]
    assert "encoders.audio has random weights and never learns" in warning


# ---- warnings


def test_a_split_by_clip_says_so_on_the_first_line(place: Path, demo_clips: Path):
    verbs.train(tiny(place, demo_clips, "data.split.by=clip", "phases.all.steps=1", *SOUND_ONLY), place / "mixed", screen=QUIET)
    heard = "speakers in test were heard in training"
    notes = json.loads((place / "mixed" / "notes.json").read_text())
    assert notes["warnings"][0] == heard and notes["unseen"] is False
    body = (place / "mixed" / "report.html").read_text().split("<body>")[1]
    assert body.index(heard) < body.index("<h1>")


# ---- WavLM


def test_a_tiny_wavlm_trains_and_its_bundle_predicts(place: Path, demo_clips: Path):
    sound = ["data.streams.audio={use: waveform, seconds: 0.5}", "data.views.augmented.audio=[]", "phases.all.steps=2"]
    model = f"model.encoders.audio={{use: wavlm, config: {WAVLM}}}"
    verbs.train(tiny(place, demo_clips, *SOUND_ONLY, *sound, model), place / "wavlm", screen=QUIET)
    (row,) = verbs.predict(place / "wavlm", [next(demo_clips.rglob("03-*.wav"))], screen=QUIET)
    assert row["streams"] == "audio"


def test_a_bundle_outlives_the_hugging_face_folder_it_came_from(place: Path, demo_clips: Path, tmp_path: Path):
    from transformers import WavLMConfig, WavLMModel

    config = recipes.settings.read(WAVLM, "here")
    WavLMModel(WavLMConfig(**config)).save_pretrained(tmp_path / "hub")
    sound = ["data.streams.audio={use: waveform, seconds: 0.5}", "data.views.augmented.audio=[]", "phases.all.steps=2"]
    model = f"model.encoders.audio={{use: wavlm, weights: {tmp_path / 'hub'}}}"
    verbs.train(tiny(place, demo_clips, *SOUND_ONLY, *sound, model), tmp_path / "run", screen=QUIET)
    clip = next(demo_clips.rglob("03-*.wav"))
    before = list(verbs.predict(tmp_path / "run", [clip], screen=QUIET))
    shutil.rmtree(tmp_path / "hub")
    assert list(verbs.predict(tmp_path / "run", [clip], screen=QUIET)) == before
    assert "0 missing" in json.loads((tmp_path / "run" / "notes.json").read_text())["loads"][0]


# ---- trackers


def test_tensorboard_writes_into_the_run_folder(place: Path, demo_clips: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tiny(place, demo_clips, "track=[tensorboard]", "phases.all.steps=1", *SOUND_ONLY)
    verbs.train(recipe, place / "tracked", screen=QUIET)
    events = [path for path in (place / "tracked").rglob("events.out.tfevents*") if "hparams" not in str(path)]
    tags = {}
    for path in events:
        found = EventAccumulator(str(path.parent)).Reload()
        tags |= {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}
    assert [event.step for event in tags["val/macro_f1"]] == [1, 2] and "train/loss" in tags


def test_a_tracker_that_is_not_installed_is_one_line(place: Path, demo_clips: Path, monkeypatch):
    find = work.importlib.util.find_spec
    monkeypatch.setattr(work.importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    said = crossfade("train", place / "tiny.yaml", "--data", demo_clips, "--out", place / "untracked", "track=[mlflow]")
    assert said.code == 2 and said.err.count("\n") == 1 and "pip install" in said.err and "crossfade[mlflow]" in said.err
    assert not (place / "untracked").exists()


def test_half_precision_on_a_processor_is_refused_not_ignored(place: Path, demo_clips: Path):
    with pytest.raises(UserError, match="precision: found 'fp16'"):
        verbs.train(tiny(place, demo_clips, "precision=fp16", "device=cpu"), place / "fp16", screen=QUIET)
    assert not (place / "fp16").exists()


def test_the_readme_example_takes_strings(place: Path, demo_clips: Path):
    import crossfade

    overrides = ["data.corpus.use=ravdess", "data.corpus.media=[audio]", "phases.train.epochs=1", "phases.train.steps=1", "data.workers=0"]
    recipe = crossfade.load("audio", overrides, corpus=str(demo_clips), target="emotion")
    assert 0 <= crossfade.train(recipe, str(place / "strings"), screen=QUIET)["test"]["macro_f1"] <= 1
