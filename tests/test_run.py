"""Finished runs judged, moved, damaged and put to use on files of every kind."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save
from tiny import QUIET, SOUND_ONLY, crossfade, metrics_of, tiny, write_recipe

from crossfade import run as verbs
from crossfade.clip import UserError
from crossfade.data.demo import write_demo
from crossfade.evaluation.predictions import Predictions

# ---- evaluate


def test_evaluating_gives_the_test_numbers_again_exactly(bundle: Path):
    for split in ("val", "test"):
        metrics, table = verbs.evaluate(bundle, split=split, screen=QUIET)
        assert metrics[split] == metrics_of(bundle)[split]
        stored = Predictions.read(bundle / "predictions.csv").where(split=split)
        assert table.clip == stored.clip and np.array_equal(table.probability, stored.probability)
    assert metrics["streams"] == metrics_of(bundle)["streams"]


def test_another_corpus_is_judged_whole(bundle: Path, tmp_path: Path):
    write_demo(tmp_path / "others", seed=7, actors=2, repetitions=1, seconds=0.6, size=32)
    metrics, table = verbs.evaluate(bundle, corpus=tmp_path / "others", screen=QUIET)
    assert (metrics["test"]["n_clips"], metrics["test"]["n_groups"], len(table)) == (16, 2, 16)


def test_a_class_the_model_does_not_know_is_named_with_its_clip(bundle: Path, demo_clips: Path, tmp_path: Path):
    sound = next(demo_clips.rglob("03-*.wav"))
    (tmp_path / "clips.csv").write_text(f"audio,emotion,id\n{sound},bored,yawn\n")
    with pytest.raises(UserError, match=r"yawn: its emotion 'bored' is not a class"):
        verbs.evaluate(bundle, corpus=tmp_path / "clips.csv", screen=QUIET)


def test_a_corpus_without_labels_is_for_predict(bundle: Path, demo_clips: Path, tmp_path: Path):
    sound = next(demo_clips.rglob("03-*.wav"))
    (tmp_path / "clips.csv").write_text(f"audio,emotion\n{sound},\n")
    with pytest.raises(UserError, match="predict"):
        verbs.evaluate(bundle, corpus=tmp_path / "clips.csv", screen=QUIET)


def test_a_run_can_be_judged_in_noise_and_the_noise_is_the_same_each_time(bundle: Path):
    noisy = ["data.degrade.audio=[{use: noise_at_snr, snr: [0], weights: [1], probability: 1}]"]
    (_, first), (_, again) = (verbs.evaluate(bundle, overrides=noisy, screen=QUIET) for _ in range(2))
    clean = Predictions.read(bundle / "predictions.csv").where(split="test")
    assert np.array_equal(first.probability, again.probability)
    assert not np.allclose(first.probability, clean.probability)


def test_a_finished_run_can_be_fed_differently_but_not_changed(bundle: Path):
    with pytest.raises(UserError, match=r"model\.merge\.use=mean: a finished run"):
        verbs.evaluate(bundle, overrides=["model.merge.use=mean"], screen=QUIET)


def test_several_heads_are_judged_and_predicted_side_by_side(place: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    lines = ["audio,command,digit,group"]
    for number in range(24):
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(0, 0.1, 4000), 16_000)
        lines.append(f"{number}.wav,{'ab'[number % 2]},{number % 3},speaker {number // 4}")
    (tmp_path / "clips.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    terms = "{each: {use: cross_entropy, target: command}, other: {use: cross_entropy, target: digit}}"
    heads = ["model.heads={command: linear, digit: linear}", f"phases.all.terms={terms}", "phases.all.epochs=1"]
    metrics = verbs.train(tiny(place, tmp_path / "clips.csv", *SOUND_ONLY, *heads), tmp_path / "run", screen=QUIET)
    assert metrics["target"] == "command" and set(metrics["heads"]["digit"]) == {"val", "test"}
    assert Predictions.read(tmp_path / "run" / "predictions-digit.csv").classes == ["0", "1", "2"]
    assert verbs.evaluate(tmp_path / "run", screen=QUIET)[0]["heads"]["digit"]["test"] == metrics["heads"]["digit"]["test"]
    (row,) = verbs.predict(tmp_path / "run", [tmp_path / "3.wav"], screen=QUIET)
    assert row["command.predicted"] in "ab" and row["digit.predicted"] in "012" and "digit.p_2" in row


# ---- moving, damage


def test_a_moved_bundle_predicts_without_its_corpus_its_noises_or_its_warm_starts(place: Path, demo_clips: Path, tmp_path: Path):
    away = tmp_path / "away"
    shutil.copytree(demo_clips, away / "clips")
    soundfile.write(away / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 16_000)
    verbs.train(tiny(place, away / "clips", "phases.all.epochs=0", *SOUND_ONLY), away / "warm", screen=QUIET)
    noise = f"{{audio: [{{use: noise_at_snr, file: {away / 'noise.wav'}}}]}}"
    extra = [f"data.views.augmented={noise}", f"data.degrade={noise}", f"model.init.'encoders.audio'={away / 'warm'}"]
    verbs.train(tiny(place, away / "clips", *SOUND_ONLY, *extra), away / "run", screen=QUIET)
    sound = next(demo_clips.rglob("03-*.wav"))
    before = list(verbs.predict(away / "run", [sound], screen=QUIET))
    shutil.move(away / "run", tmp_path / "moved")
    shutil.rmtree(away)
    assert list(verbs.predict(tmp_path / "moved", [sound], screen=QUIET)) == before


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "foreign"])
def test_damaged_weights_are_one_line(bundle: Path, tmp_path: Path, demo_clips: Path, damage: str):
    run = tmp_path / "run"
    shutil.copytree(bundle, run)
    weights = run / "model.safetensors"
    whole = weights.read_bytes()
    foreign = save({"encoders.audio.stages.0.weight": torch.zeros(3)})
    weights.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello " * 99, "empty": b"", "foreign": foreign}[damage])
    said = crossfade("predict", run, next(demo_clips.rglob("*.wav")))
    assert said.code == 2 and said.err.count("\n") == 1 and "model.safetensors" in said.err and "Traceback" not in said.err


# ---- any script


def test_chinese_names_of_classes_files_and_folders_through_the_whole_chain(tmp_path: Path):
    rng = np.random.default_rng(0)
    root = tmp_path / "数据 集"
    for label in ("开心", "难过"):
        (root / label).mkdir(parents=True)
        for number in range(9):
            soundfile.write(root / label / f"张三-{number}号.wav", rng.normal(0, 0.1, 4000), 16_000)
    recipe = write_recipe(tmp_path)
    words = [f"data.corpus={{use: tree, root: '{root}', target: 情绪}}", "phases.all.epochs=1", *SOUND_ONLY]
    said = crossfade("train", recipe, "--target", "情绪", "--out", tmp_path / "跑", *words)
    assert said.code == 0, said.err
    assert "情绪" in said.out
    assert "难过" in (tmp_path / "跑" / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "跑" / "labels.json").read_text(encoding="utf-8")) == {"情绪": ["开心", "难过"]}
    assert "难过" in (tmp_path / "跑" / "labels.json").read_text(encoding="utf-8")
    predicted = crossfade("predict", tmp_path / "跑", root / "开心" / "张三-0号.wav", "--json")
    row = json.loads(predicted.out)
    assert row["predicted"] in ("开心", "难过") and row["clip"].endswith("张三-0号.wav") and "p_难过" in row
    assert crossfade("evaluate", tmp_path / "跑", "--json").code == 0


# ---- predict


def test_predict_takes_files_folders_and_tables(bundle: Path, demo_clips: Path, tmp_path: Path):
    folder = next(path for path in sorted(demo_clips.iterdir()) if path.is_dir())
    rows = list(verbs.predict(bundle, [folder], screen=QUIET))
    assert [row["streams"] for row in rows] == ["audio+video"] * 8
    sound, video = sorted(folder.glob("*.wav"))[0], sorted(folder.glob("*.mp4"))[0]
    (heard,) = verbs.predict(bundle, [sound], screen=QUIET)
    (seen,) = verbs.predict(bundle, [video], screen=QUIET)
    assert (heard["streams"], seen["streams"]) == ("audio", "video")
    assert sum(share for name, share in heard.items() if name.startswith("p_")) == pytest.approx(1, abs=1e-5)
    (tmp_path / "clips.csv").write_text(f"id,audio,video\nboth,{sound},{video}\nlost,gone.wav,\n")
    both, lost = verbs.predict(bundle, [tmp_path / "clips.csv"], screen=QUIET)
    assert both["clip"] == "both" and {name: both[name] for name in both if name != "clip"} == {
        name: rows[0][name] for name in rows[0] if name != "clip"
    }
    assert lost["clip"].endswith("gone.wav") and "no such file" in lost["error"]


def test_predict_agrees_with_the_stored_predictions(bundle: Path, demo_clips: Path):
    stored = Predictions.read(bundle / "predictions.csv")
    rows = {Path(row["clip"]).name: row for row in verbs.predict(bundle, [demo_clips], screen=QUIET)}
    for clip, shares in zip(stored.clip, stored.probability, strict=True):
        assert [rows[clip][f"p_{name}"] for name in stored.classes] == pytest.approx(list(shares), abs=2e-5)


def test_predict_reports_what_cannot_be_read_and_does_the_rest(bundle: Path, demo_clips: Path, tmp_path: Path):
    sound, video = next(demo_clips.rglob("03-*.wav")), next(demo_clips.rglob("02-*.mp4"))
    shutil.copy(sound, tmp_path / "a.wav")
    shutil.copy(video, tmp_path / "a.mp4")
    shutil.copy(sound, tmp_path / "twin.wav")
    shutil.copy(sound, tmp_path / "twin.flac")
    shutil.copy(video, tmp_path / "half.mp4")
    (tmp_path / "half.wav").write_text("not sound")
    (tmp_path / "broken.wav").write_bytes(b"")
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / "folder.wav").mkdir()
    rows = {Path(row["clip"]).name: row for row in verbs.predict(bundle, [tmp_path], screen=QUIET)}
    assert {name: row.get("streams") for name, row in rows.items()} == {
        "a": "audio+video",
        "twin.wav": "audio",
        "twin.flac": "audio",
        "half": "video",
        "broken.wav": None,
        "picture.png": None,
    }
    assert "half.wav" in rows["half"]["error"] and "empty" in rows["broken.wav"]["error"]
    assert rows["picture.png"]["error"] == "has none of audio, video"
    said = crossfade("predict", bundle, tmp_path / "broken.wav", tmp_path / "a.wav")
    assert said.code == 0 and len(list(csv.DictReader(said.out.splitlines()))) == 2
    only = crossfade("predict", bundle, tmp_path / "broken.wav")
    assert only.code == 2 and "none of these clips can be read" in only.err and "empty" in only.out


def test_clips_of_one_name_from_two_tables_stay_apart(bundle: Path, demo_clips: Path, tmp_path: Path):
    sounds = sorted(demo_clips.rglob("03-*.wav"))[:2]
    for name, sound in zip("ab", sounds, strict=True):
        (tmp_path / name).mkdir()
        shutil.copy(sound, tmp_path / name / "x.wav")
        (tmp_path / name / "t.csv").write_text("audio\nx.wav\n")
    rows = list(verbs.predict(bundle, [tmp_path / "a" / "t.csv", tmp_path / "b" / "t.csv"], screen=QUIET))
    assert len({row["clip"] for row in rows}) == 2
    for row, sound in zip(rows, sounds, strict=True):
        (alone,) = verbs.predict(bundle, [sound], screen=QUIET)
        assert row["p_calm"] == pytest.approx(alone["p_calm"], abs=2e-6)
