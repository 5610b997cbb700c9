"""A run exported, compared, and used in its own place; what answers otherwise, or is damaged or hostile, is refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from tiny import QUIET, SOUND_ONLY, crossfade, tiny

from crossfade import exporting
from crossfade import run as verbs
from crossfade.clip import UserError
from crossfade.comparison import compare
from crossfade.deploy import exported, ncnn_export, onnx_export, sidecar
from crossfade.deploy.bar import EXACT, HALF
from crossfade.deploy.parity import Parity
from crossfade.deploy.refusal import NotEqual
from crossfade.evaluation.predictions import Predictions


@pytest.fixture(scope="module")
def run(bundle: Path, tmp_path_factory) -> Path:
    """The bundle with ONNX, int8 and a front end."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(bundle, folder)
    exporting.export(folder, "onnx", int8=True, max_loss=1.0, screen=QUIET)
    said = crossfade("export", folder, "--to", "onnx", "--front-end", "--json")
    assert said.code == 0, said.err
    return folder


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "run")
    return tmp_path / "run"


def test_every_output_was_compared_on_all_clips_of_val_and_all_is_written_down(run: Path):
    assert sorted(path.name for path in (run / "export").glob("*.onnx")) == ["model.front-end.onnx", "model.int8.onnx", "model.onnx"]
    entries = json.loads((run / "exports.json").read_text())
    about = sidecar.read(run / "export" / "model.onnx")
    assert {each.output for each in about.parity} == {"emotion", "embed.joint", "gate"} == set(about.outputs)
    assert all(each.clips == 8 and each.max_rel < 1e-4 for each in about.parity)
    assert about.recipe == (run / "recipe.yaml").read_text() and about.classes == json.loads((run / "labels.json").read_text())
    assert (about.made_from, about.tolerance, about.costs["parameters"]) == ("run", 1e-4, 59_427)
    stored = Predictions.read(run / "predictions.csv").where(split="val")
    assert not any("shows little" in note for note in about.notes), "its answers differ from clip to clip"
    accuracy = float((stored.predicted == stored.true).mean())
    assert about.scores["emotion"]["run"]["accuracy"] == about.scores["emotion"]["file"]["accuracy"] == accuracy
    assert entries["export/model.onnx"]["parity"][0]["clips"] == 8
    assert entries["export/model.onnx"]["bytes"] == (run / "export" / "model.onnx").stat().st_size
    assert entries["export/model.front-end.onnx"]["tolerance"] == 1e-2 and entries["export/model.front-end.onnx"]["notes"]


def test_int8_says_what_it_loses_and_from_how_many_clips_it_learnt_ranges(run: Path):
    about = sidecar.read(run / "export" / "model.int8.onnx")
    before, after = (about.scores["emotion"][which]["accuracy"] for which in ("run", "file"))
    assert about.loss["emotion"]["difference"] == pytest.approx(before - after)
    assert about.loss["emotion"]["before"] == (run / "export" / "model.onnx").stat().st_size
    assert about.precision == "int8" and "ranges from 16 training clips" in about.notes


def test_int8_that_loses_too_much_is_removed_and_the_exact_file_stays(copy: Path, monkeypatch: pytest.MonkeyPatch):
    lost = {"difference": 0.25, "low": 0.1, "high": 0.4, "n_clips": 8, "n_groups": 2, "note": ""}
    monkeypatch.setattr(exporting._Work, "_loss", lambda *_: lost)
    said = crossfade("export", copy, "--to", "onnx", "--int8", "--max-loss", "0.2")
    assert said.code == 1 and said.err.count("\n") == 1
    assert "loses 0.250 of the accuracy of emotion [0.100, 0.400], more than --max-loss 0.2, and was removed" in said.err
    assert sorted(path.name for path in (copy / "export").iterdir()) == ["model.onnx", "model.onnx.json"]
    assert list(json.loads((copy / "exports.json").read_text())) == ["export/model.onnx"]


def test_a_file_evaluates_predicts_and_compares_as_its_run(run: Path, demo_clips: Path):
    file = run / "export" / "model.onnx"
    metrics, table = verbs.evaluate(file, screen=QUIET)
    stored = Predictions.read(run / "predictions.csv").where(split="test")
    assert table.clip == stored.clip and table.probability == pytest.approx(stored.probability, abs=1e-5)
    assert set(metrics["streams"]) == {"audio", "video", "audio+video"}
    folder = next(path for path in sorted(demo_clips.iterdir()) if path.is_dir())
    inputs = [folder, next(folder.glob("*.wav"))]
    for here, there in zip(verbs.predict(run, inputs, screen=QUIET), verbs.predict(file, inputs, screen=QUIET), strict=True):
        assert here["predicted"] == there["predicted"] and here["p_calm"] == pytest.approx(there["p_calm"], abs=1e-5)
    found = compare([file, run])
    assert [score.name for score in found.scores] == ["model.onnx", "run"] and found.pairs[0].difference == 0
    assert found.costs["model.onnx"].parameters == found.costs["run"].parameters == 59_427


def test_a_file_is_explained_by_its_streams_and_heard_in_noise(run: Path, demo_clips: Path, tmp_path: Path):
    clip = Predictions.read(run / "predictions.csv").clip[0]
    (found,) = verbs.explain(run / "export" / "model.onnx", [clip], out=tmp_path, screen=QUIET)
    (same,) = verbs.explain(run, [clip], out=tmp_path, screen=QUIET)
    assert found["heads"]["emotion"]["said"] == same["heads"]["emotion"]["said"]
    assert crossfade("robustness", run / "export" / "model.onnx", run, "--levels", "0").code == 0


def test_a_front_end_is_for_apps(run: Path):
    said = crossfade("evaluate", run / "export" / "model.front-end.onnx")
    assert said.code == 2 and said.err.count("\n") == 1 and "without --front-end" in said.err


def test_ncnn_answers_for_a_run_and_its_cut_file_is_refused(copy: Path, demo_clips: Path):
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    made = exporting.export(copy, "ncnn", fp16=True, screen=QUIET)
    (file,) = made.files
    assert file.path == copy / "export" / "model.fp16.param" and file.about.precision == "float16"
    assert "audio.mask" in file.about.inputs, "a mask says that a stream is absent"
    table = verbs.assess(file.path, screen=QUIET).tables["emotion"]
    assert table.probability == pytest.approx(Predictions.read(copy / "predictions.csv").where(split="test").probability, abs=5e-3)
    (row,) = verbs.predict(file.path, [next(demo_clips.rglob("*.wav"))], screen=QUIET)
    assert row["streams"] == "audio"
    weights = file.path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-100])
    said = crossfade("evaluate", file.path)
    assert said.code == 2 and said.err.count("\n") == 1 and "model.fp16" in said.err


def sabotaged(*given, **options) -> Path:
    """The exporter, but for one weight."""
    path = TRUE_EXPORT(*given, **options)
    model = onnx.load(path)
    weight = next(each for each in model.graph.initializer if each.name.endswith("encoders.audio.stages.0.0.weight") or "conv" in each.name)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 5.0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    return path


TRUE_EXPORT = onnx_export.export


def test_a_file_that_answers_otherwise_is_removed_and_its_layer_named(copy: Path, monkeypatch: pytest.MonkeyPatch):
    exporting.export(copy, "onnx", screen=QUIET)
    monkeypatch.setattr(onnx_export, "export", sabotaged)
    said = crossfade("export", copy, "--to", "onnx")
    assert said.code == 1 and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert "was removed: " in said.err and "the first layers that differ: encoders." in said.err
    assert list((copy / "export").iterdir()) == [] and json.loads((copy / "exports.json").read_text()) == {}
    assert "No other format was made" in (copy / "README.md").read_text()


def test_what_cannot_be_made_leaves_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch):
    def lacking(*_, **__):
        raise UserError("this model cannot be exported to ncnn, which has no layer for Thing")

    monkeypatch.setattr(ncnn_export, "export", lacking)
    said = crossfade("export", copy, "--to", "ncnn")
    assert (said.code, said.err) == (2, "crossfade: this model cannot be exported to ncnn, which has no layer for Thing\n")
    assert not (copy / "export").exists() and not (copy / "exports.json").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--to", "ncnn", "--int8"], "--int8: is not there with --to ncnn; it needs --to onnx"),
        (["--to", "onnx", "--fp16"], "--fp16: is not there with --to onnx; it needs --to ncnn"),
        (["--to", "ncnn", "--front-end"], "--front-end: is not there"),
    ],
)
def test_options_that_a_format_lacks_are_refused(bundle: Path, words: list[str], complaint: str):
    said = crossfade("export", bundle, *words)
    assert said.code == 2 and complaint in said.err


def test_without_its_corpus_a_run_is_compared_on_given_clips(place: Path, demo_clips: Path, tmp_path: Path):
    shutil.copytree(demo_clips, tmp_path / "clips")
    verbs.train(tiny(place, tmp_path / "clips", "phases.all.epochs=0", *SOUND_ONLY), tmp_path / "run", screen=QUIET)
    shutil.rmtree(tmp_path / "clips")
    with pytest.raises(UserError, match="an export is compared on real clips: give some with --data"):
        exporting.export(tmp_path / "run", "onnx", screen=QUIET)
    for number in range(3):  # shorter than the stream, so with padding; without labels
        soundfile.write(tmp_path / f"{number}.wav", np.random.default_rng(number).normal(0, 0.1, 3000 + 900 * number), 16_000)
    (tmp_path / "own.csv").write_text("audio,emotion\n0.wav,\n1.wav,\n2.wav,\n")
    made = exporting.export(tmp_path / "run", "onnx", fixed=True, corpus=tmp_path / "own.csv", screen=QUIET)
    (file,) = made.files
    assert file.path.name == "model.fixed.onnx" and file.about.scores == {} and file.about.parity[0].clips == 3
    assert file.about.inputs["audio"].sizes[0] == 1
    with pytest.raises(UserError, match="--int8 looks at training clips"):
        exporting.export(tmp_path / "run", "onnx", int8=True, corpus=tmp_path / "own.csv", screen=QUIET)


def test_clips_that_lack_a_stream_are_compared_too(copy: Path, demo_clips: Path, tmp_path: Path):
    names = sorted(demo_clips.rglob("03-*.wav"))[:4]
    lines = [
        f"{name},{'' if number % 2 else name.with_name(f'02{name.name[2:]}').with_suffix('.mp4')}," for number, name in enumerate(names)
    ]
    (tmp_path / "own.csv").write_text("\n".join(["audio,video,emotion", *lines]))
    (file,) = exporting.export(copy, "onnx", corpus=tmp_path / "own.csv", out=tmp_path / "made", screen=QUIET).files
    assert {each.output: each.clips for each in file.about.parity}["emotion"] == 4
    assert str(tmp_path / "made" / "model.onnx") in json.loads((copy / "exports.json").read_text())


def test_of_few_clips_one_may_differ_in_half_precision_alone():
    def parity(clips: int, agree: float) -> Parity:
        return Parity("y", clips, 0.0, 0.0, 1e-5, 0.0, 0.0, agree)

    assert HALF.complaints([parity(50, 49 / 50)]) == [] and len(HALF.complaints([parity(50, 48 / 50)])) == 1
    assert HALF.complaints([parity(1000, 0.995)]) == [] and len(HALF.complaints([parity(1000, 0.994)])) == 1
    assert len(EXACT.complaints([parity(50, 49 / 50)])) == 1


# ---- safety


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_in_the_place_of_weights_is_refused_and_never_run(copy: Path, tmp_path: Path, demo_clips: Path, how: str):
    bomb, weights = Bomb(tmp_path / "ran"), copy / "model.safetensors"
    weights.write_bytes(pickle.dumps(bomb)) if how == "pickle" else torch.save({"weight": bomb}, weights)
    for words in (["predict", copy, next(demo_clips.rglob("*.wav"))], ["export", copy, "--to", "onnx"], ["bench", copy]):
        said = crossfade(*words)
        assert said.code == 2 and said.err.count("\n") == 1 and "model.safetensors" in said.err
    weights.rename(copy / "model.pt")
    assert "has no model.safetensors" in crossfade("evaluate", copy).err
    assert not (tmp_path / "ran").exists()


def test_a_recipe_with_tags_of_python_is_refused_and_never_run(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    evil = f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{tmp_path / 'ran'}']]\n"
    (tmp_path / "run" / "recipe.yaml").write_text(evil)
    beside = tmp_path / "run" / "export" / "model.onnx.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"recipe": evil}))
    for path in (tmp_path / "run", tmp_path / "run" / "export" / "model.onnx"):
        said = crossfade("evaluate", path)
        assert said.code == 2 and said.err.count("\n") == 1 and str(path) in said.err
    assert not (tmp_path / "ran").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "cut": (cut, "model.onnx"),
    "no sidecar": (lambda path: sidecar.beside(path).unlink(), "`crossfade export` writes it beside"),
    "not JSON": (lambda path: sidecar.beside(path).write_text("hello"), "model.onnx.json line 1: not JSON"),
    "no object": (lambda path: sidecar.beside(path).write_text("[1]"), "model.onnx.json: the whole"),
    "a wrong kind": (lambda path: sidecar.beside(path).write_text('{"format": 3}'), "model.onnx.json: format"),
    "no file": (lambda path: path.unlink(), "no such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_exports_are_one_line(run: Path, tmp_path: Path, damage: str):
    shutil.copytree(run / "export", tmp_path / "export")
    spoil, complaint = DAMAGES[damage]
    spoil(tmp_path / "export" / "model.onnx")
    said = crossfade("evaluate", tmp_path / "export" / "model.onnx")
    assert said.code == 2 and said.err.count("\n") == 1 and complaint in said.err, said.err


def test_a_file_that_is_not_the_one_compared_is_refused(run: Path, tmp_path: Path):
    shutil.copytree(run / "export", tmp_path / "export")
    shutil.copy(tmp_path / "export" / "model.int8.onnx", tmp_path / "export" / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx: is not the file that model\.onnx\.json is about"):
        verbs.open_run(tmp_path / "export" / "model.onnx")


def test_an_export_of_an_export_is_none(run: Path):
    with pytest.raises(UserError, match="give the folder of the run"):
        exporting.export(run / "export" / "model.onnx", "onnx", screen=QUIET)
    assert not issubclass(NotEqual, UserError) and exported.is_exported(run / "export" / "model.onnx")
