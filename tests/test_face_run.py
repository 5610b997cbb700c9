"""A talking face from prepared clips to files: trained, stopped and resumed, judged, drawn, exported, timed; a typo is one line."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import QUIET, crossfade

from crossfade import bench, comparison, tasks
from crossfade.clip import UserError
from crossfade.data.face import prepared as prepares
from crossfade.data.face.crop import CROPS, as_values, inner
from crossfade.data.face.prepared import Record
from crossfade.data.face.sound_rows import logmel256
from crossfade.deploy import bundle as bundles
from crossfade.deploy import onnx_export, sidecar
from crossfade.deploy.runner import open_runner
from crossfade.face import build, judge, verbs
from crossfade.face.opened import open_face
from crossfade.training.checkpoint import save_weights
from crossfade.training.loop import Interrupted

SIZE, FRAMES, CLIPS = 96, 75, 4
RECIPE = """
task: talking_face
data: {batch: 8, val_clips: 2, split: {val: 0.3, test: 0.25}}
phases:
  - {name: learn, epochs: 1, steps: 3, rates: {"*": 1e-3}, terms: {picture: {use: l1, mouth: 1.0}, movement: temporal}}
device: cpu
"""
BUNDLE = ("recipe.yaml", "model.safetensors", "labels.json", "notes.json", "environment.json")
MEASURED = ("metrics.json", "metrics.jsonl", "predictions.csv", "report.html")


def talking(folder: Path, dim: int = 256, frames: int = FRAMES, clips: int = CLIPS) -> Path:
    """Prepared clips of a disc whose mouth opens as the sound gets louder."""
    prepares.begin(folder, {"size": SIZE, "features": {"use": "logmel256"}, "dim": dim, "settings": {}})
    finished = []
    for number in range(clips):
        generator = np.random.default_rng(number)
        loud = generator.random(frames).round(2)
        faces = np.stack([disc(share) for share in loud])
        sound = (np.repeat(loud, 640) * generator.normal(0, 0.1, frames * 640)).astype(np.float32)
        rows = logmel256()(sound, frames)
        with prepares.writing(folder, f"clip{number}") as place:
            np.save(place / "faces.npy", faces)
            np.save(place / "rows.npy", np.resize(rows, (len(rows), dim)).astype(np.float32))
            np.save(place / "boxes.npy", np.tile(np.float32([10, 10, 90, 90]), (frames, 1)))
            np.save(place / "kept.npy", np.ones(frames, bool))
            record = Record(f"clip{number}", f"clip{number}", "nowhere.mp4", "generated", frames, frames)
            finished.append(prepares.note(place, record))
    prepares.finish(folder, finished)
    return folder


def disc(openness: float) -> np.ndarray:
    """uint8 (outer, outer, 3)"""
    side = CROPS[SIZE].outer
    down, across = np.meshgrid(np.arange(side) / side - 0.5, np.arange(side) / side - 0.5, indexing="ij")
    picture = np.full((side, side, 3), 40, np.uint8)
    picture[down**2 + across**2 < 0.2] = (220, 180, 150)
    picture[((down - 0.2) / (0.02 + 0.1 * openness)) ** 2 + (across / 0.15) ** 2 < 1] = (120, 20, 30)
    return picture


@pytest.fixture(scope="module", autouse=True)
def _short():
    """The curve against late sound is of one clip."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(judge, "CURVE_CLIPS", 1)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("face")
    talking(folder / "prepared")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    said = crossfade("train", place / "tiny.yaml", "--data", place / "prepared", "--out", place / "run")
    assert said.code == 0, said.err
    assert "PSNR, mouth" in said.out and f"report: {place / 'run' / 'report.html'}" in said.out
    return place / "run"


@pytest.fixture(scope="module")
def exported(run: Path) -> dict[str, dict]:
    """What `export --json` said of both formats, in this order: the second keeps what the first listed."""
    said = {to: crossfade("export", run, "--to", to, "--json") for to in ("onnx", "ncnn")}
    assert [each.code for each in said.values()] == [0, 0], [each.err for each in said.values()]
    return {to: json.loads(each.out)["files"] for to, each in said.items()}


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


# ---- trained


def test_the_bundle_is_whole_and_its_numbers_have_their_shape(run: Path):
    assert all((run / name).is_file() for name in (*BUNDLE, *MEASURED)) and not (run / "checkpoint").exists()
    assert json.loads((run / "labels.json").read_text()) == {}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["task"] == "talking_face" and metrics["frames_trained"] == CLIPS * 24
    test = metrics["test"]
    assert (test["n_clips"], test["n_frames"]) == (CLIPS, CLIPS * 9) and set(test["baselines"]) == set(test["against"])
    assert len(test["baselines"]) == 3 and 0 < test["mouth_psnr"] < 60 and test["intervals"]["mouth_psnr"][0] <= test["mouth_psnr"]
    assert len(metrics["by_shift"]["errors"]) == len(metrics["by_shift"]["shifts"]) == 13
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"val", "test"} and len(rows) == test["n_frames"] + metrics["val"]["n_frames"]


def test_a_finished_run_is_shown_and_not_done_again(run: Path):
    before = weights(run)
    again = crossfade("train", "--resume", run)
    assert again.code == 0 and "finished already" in again.err and weights(run) == before
    shown = crossfade("show", "run", run)
    assert shown.code == 0 and shown.out == again.out


@pytest.mark.parametrize("calls", [1, 3])
def test_a_stopped_run_ends_as_the_undisturbed_one(place: Path, run: Path, tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch):
    asked = []

    @contextmanager
    def stopping():
        yield lambda: signal.SIGTERM if len(asked) >= calls else asked.append(1)

    recipe = tasks.load(str(place / "tiny.yaml"), corpus=place / "prepared")
    with monkeypatch.context() as patched:
        patched.setattr(verbs, "stopping", stopping)
        with pytest.raises(Interrupted):
            tasks.train(recipe, tmp_path / "run", screen=QUIET)
    assert (tmp_path / "run" / "checkpoint" / "state.pt").is_file() and not (tmp_path / "run" / "metrics.json").exists()
    tasks.resume(tmp_path / "run", screen=QUIET)
    for name in ("model.safetensors", "metrics.json", "predictions.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name


def test_without_sound_something_else_is_learnt(place: Path, run: Path, tmp_path: Path):
    recipe = tasks.load(str(place / "tiny.yaml"), ["data.sound=false", "phases.learn.steps=1"], corpus=place / "prepared")
    metrics = tasks.train(recipe, tmp_path / "mute", screen=QUIET)
    assert weights(tmp_path / "mute") != weights(run)
    assert metrics["test"]["sensitivity"] == 0 and len(metrics["test"]["baselines"]) == 2, "silence that comes late is silence"


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("data.bach=4", "data.bach: there is no such key; nearest is 'batch'"),
        ("phases.learn.terms.picture=l2", "phases.learn.terms.picture.use: found 'l2'"),
        ("select=mouth_psn", "select: found 'mouth_psn'"),
        ("model.size=160", "model.size: found 160, but"),
        ("phases.learn.rates={nothing: 1e-3}", "phases.learn.rates: no pattern covers audio.0.0.weight"),
    ],
)
def test_what_is_mistyped_is_one_line(place: Path, tmp_path: Path, typed: str, complaint: str):
    said = crossfade("train", place / "tiny.yaml", "--data", place / "prepared", "--out", tmp_path / "run", typed)
    assert said.code == 2 and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert complaint in said.err and not (tmp_path / "run").exists()


def test_an_unknown_task_is_one_line(tmp_path: Path):
    (tmp_path / "odd.yaml").write_text(RECIPE.replace("talking_face", "talking_fase"))
    said = crossfade("train", tmp_path / "odd.yaml", "--out", tmp_path / "run")
    assert said.code == 2 and "task: found 'talking_fase', nearest is 'talking_face'" in said.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["train", "{place}/tiny.yaml", "--target", "emotion", "--out", "{place}/never"], "--target: is not for a talking face"),
        (["evaluate", "{run}", "--segments", "3"], "--segments: is not for a talking face"),
        (["predict", "{run}", "{place}/prepared", "--window", "1"], "--window: is not for a talking face"),
        (["explain", "{run}", "clip0"], "explain: is not for a talking face"),
        (["export", "{run}", "--to", "onnx", "--int8"], "--int8: is not for a talking face"),
        (["export", "{run}", "--to", "onnx", "--front-end"], "--front-end: is not for a talking face"),
        (["export", "{run}", "--to", "onnx", "--fp16"], "--fp16: is not there with --to onnx; it needs --to ncnn"),
        (["evaluate", "{run}", "phases.learn.epochs=3"], "a finished run can be fed differently (data.…) but not changed"),
        (["predict", "{run}", "{place}"], "holds no prepared.json"),
    ],
)
def test_what_only_classifiers_have_is_refused(place: Path, run: Path, words: list[str], complaint: str):
    said = crossfade(*(word.format(run=run, place=place) for word in words))
    assert said.code == 2 and said.err.count("\n") == 1 and complaint in said.err
    assert not (place / "never").exists()


# ---- asked


def test_evaluate_says_what_training_said(run: Path, tmp_path: Path):
    said = crossfade("evaluate", run, "--json", "--out", tmp_path / "frames.csv")
    assert said.code == 0, said.err
    found, before = json.loads(said.out), json.loads((run / "metrics.json").read_text())
    assert found["test"]["mouth_psnr"] == pytest.approx(before["test"]["mouth_psnr"], abs=1e-4)
    assert found["by_shift"]["errors"] == pytest.approx(before["by_shift"]["errors"], abs=1e-5)
    with (tmp_path / "frames.csv").open() as file:
        assert len(list(csv.DictReader(file))) == found["test"]["n_frames"]


def test_other_clips_are_judged_whole(run: Path, tmp_path: Path):
    talking(tmp_path / "other", frames=5, clips=2)
    metrics, table = tasks.evaluate(run, corpus=tmp_path / "other", screen=QUIET)
    assert metrics["test"]["n_frames"] == len(table) == 10
    talking(tmp_path / "wide", dim=64, frames=4, clips=1)
    with pytest.raises(UserError, match=r"model.features: found 256, but .* was prepared with 64"):
        tasks.evaluate(run, corpus=tmp_path / "wide", screen=QUIET)


def test_predict_draws_each_picture(place: Path, run: Path, tmp_path: Path):
    said = crossfade("predict", run, place / "prepared" / "clips" / "clip1", "--out", tmp_path / "drawn" / "table.csv")
    assert said.code == 0, said.err
    with (tmp_path / "drawn" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["clip"], row["frame"]) for row in rows] == [("clip1", str(frame)) for frame in range(FRAMES)]
    assert rows[5]["picture"] == str(tmp_path / "drawn" / "clip1" / "00005.png")
    drawn = np.asarray(Image.open(rows[5]["picture"]))
    true = inner(prepares.read(place / "prepared").talks[1].faces[5], CROPS[SIZE])
    error = np.mean((as_values(drawn) - as_values(true)) ** 2) / 4
    assert drawn.shape == (SIZE, SIZE, 3) and float(rows[5]["psnr"]) == pytest.approx(-10 * np.log10(error), abs=0.05)


# ---- exported


def test_files_draw_as_the_run_does(run: Path, exported: dict[str, dict]):
    assert set(json.loads((run / "exports.json").read_text())) == {"export/model.onnx", "export/model.param"}
    for files in exported.values():
        ((_, entry),) = files.items()
        (each,) = entry["parity"]
        assert each["output"] == "output" and each["max_rel"] <= entry["tolerance"] == 1e-4 and each["agree"] is None
        assert each["clips"] == CLIPS * 2, "every picture of val"
    about = sidecar.read(run / "export" / "model.param")
    assert about.classes == {} and about.streams["audio"] == {"use": "logmel256"} and about.streams["face"]["mask"] == [3, 3, 90, 87]
    assert "export/model.onnx" in (run / "README.md").read_text(encoding="utf-8")


def test_the_ncnn_file_is_the_phones(run: Path, exported: dict[str, dict]):
    from crossfade.ncnn.text_param import read

    graph = read(run / "export" / "model.param")
    assert len(graph.layers) == 165 and graph.inputs == ("audio", "face") and graph.outputs == ("output",)
    said = crossfade("compare", "--structure", run, run / "export" / "model.param", "--json")
    assert said.code == 0 and json.loads(said.out)["verdict"] == "identical", said.err


@pytest.mark.parametrize("name", ["model.onnx", "model.param"])
def test_a_file_stands_in_the_runs_place(place: Path, run: Path, exported: dict[str, dict], tmp_path: Path, name: str):
    talking(tmp_path / "other", frames=4, clips=1)
    file, whole = (list(tasks.predict(path, [tmp_path / "other"], beside=tmp_path, screen=QUIET)) for path in (run / "export" / name, run))
    assert [row["mouth_psnr"] for row in file] == pytest.approx([row["mouth_psnr"] for row in whole], abs=1e-2)
    speaker = open_face(run / "export" / name).speaker()
    assert speaker.crop == CROPS[SIZE] and speaker.features.dim == 256 and speaker.made_from == f"{name} of run"
    given = {"audio": np.zeros((2, 1, 20, 256), np.float32), "face": np.zeros((2, 6, SIZE, SIZE), np.float32)}
    both = [runner(given)["output"] for runner in (speaker.runner, open_face(run).speaker().runner)]
    assert both[0].shape == (2, 3, SIZE, SIZE)
    np.testing.assert_allclose(both[0], both[1], atol=1e-4)


def test_half_precision_is_kept_where_it_is_near(run: Path, tmp_path: Path):
    made = tasks.export(run, "ncnn", fp16=True, out=tmp_path, screen=QUIET)
    assert (tmp_path / "model.fp16.bin").stat().st_size == 15_078_184 and made.files[0].about.precision == "float16"
    assert made.files[0].about.parity[0].max_abs < 0.1


def test_a_fixed_file_takes_one_picture(run: Path, tmp_path: Path):
    tasks.export(run, "onnx", fixed=True, out=tmp_path, screen=QUIET)
    runner = open_runner(tmp_path / "model.fixed.onnx")
    assert {name: shape.sizes for name, shape in runner.inputs.items()} == {"audio": (1, 1, 20, 256), "face": (1, 6, SIZE, SIZE)}


def test_a_file_that_draws_otherwise_is_removed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = onnx_export.export

    def spoilt(module, *given, **options):
        weight = module.picture[1].weight.data
        weight *= 1.5
        try:
            return whole(module, *given, **options)
        finally:
            weight /= 1.5

    monkeypatch.setattr(onnx_export, "export", spoilt)
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    said = crossfade("export", tmp_path / "run", "--to", "onnx")
    assert said.code == 1 and "answers otherwise" in said.err and "the first layers that differ: picture" in said.err
    assert not list((tmp_path / "run").glob("export/*"))


def test_other_features_are_exported_too(place: Path, tmp_path: Path):
    talking(tmp_path / "wide", dim=64, clips=1)
    recipe = tasks.load(str(place / "tiny.yaml"), ["model.size=96", "model.features=64"], corpus=tmp_path / "wide")
    bundles.write_text(tmp_path / "recipe.yaml", recipe.yaml())
    bundles.write_json(tmp_path / "labels.json", {})
    save_weights(tmp_path / "model.safetensors", build.network(recipe).state_dict())
    for to in ("onnx", "ncnn"):
        (file,) = tasks.export(tmp_path, to, screen=QUIET).files
        assert file.about.parity[0].max_rel <= 1e-4 and file.about.costs["parameters"] == 7_506_139 + 64 * 256 + 256


def test_bench_times_the_run_and_its_files(run: Path, exported: dict[str, dict], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "ROUNDS", {1: 1, bench.MANY: 1})
    monkeypatch.setattr(bench, "THREADS", (1,))
    monkeypatch.setattr(comparison, "WARM_UP", 1)
    found = tasks.bench(run, screen=QUIET)
    assert {row.runs for row in found.rows} == {"torch", "model.onnx", "model.param"} and found.rows[0].rate
    assert {row.parameters for row in found.rows} == {7_506_139} and found.pace == 25
    row = found.table()[0]
    assert float(row["pictures/s"]) == pytest.approx(1 / found.rows[0].p50, abs=0.06) and "one picture" in found.sentence()


def test_a_run_keeps_its_sides_whatever_is_prepared_later(tmp_path: Path):
    few = talking(tmp_path / "few", clips=12, frames=30)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    recipe = tasks.load(str(tmp_path / "tiny.yaml"), ["phases.0.steps=1", "phases.0.epochs=0"], corpus=few)
    verbs.train(recipe, tmp_path / "run", screen=QUIET)
    before = prepares.read(few)
    sides = build.sides_of_run(tmp_path / "run", recipe, before)
    talking(tmp_path / "more", clips=15, frames=30)
    more = prepares.read(tmp_path / "more")
    named = [[part.talk.clip for part in getattr(sides, name)] for name in ("train", "val", "test")]
    anew = build.sides_of(recipe, more)
    assert [[part.talk.clip for part in getattr(anew, name)] for name in ("train", "val", "test")] != named
    kept = build.sides_of_run(tmp_path / "run", recipe, more)
    assert [[part.talk.clip for part in getattr(kept, name)] for name in ("train", "val", "test")] == named
    with pytest.raises(UserError, match="is not among the prepared clips any more"):
        build.sides_of_run(tmp_path / "run", recipe, prepares.read(talking(tmp_path / "other", clips=12, frames=31)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("phases.0.terms={picture: null, movement: null}", "phases.learn.terms: there is none"),
        ("data.batch=3", "data.batch: found 3"),
    ],
)
def test_what_would_fail_late_is_refused_early(override: str, said: str, tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        tasks.load(str(tmp_path / "tiny.yaml"), [override])
