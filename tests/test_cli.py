"""The command line: every verb and its --json, and for every error of a person one line, exit code 2 and no traceback."""

from __future__ import annotations

import csv
import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import SOUND_ONLY, bound_by_modes, crossfade, write_recipe

from crossfade import demo, run
from crossfade.data.demo import write_demo
from crossfade.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory, demo_clips: Path) -> Path:
    """A folder with a recipe and two finished runs on the same clips."""
    folder = tmp_path_factory.mktemp("cli")
    write_recipe(folder)
    for name in ("a", "b"):
        steps = ("phases.all.steps=1", f"seed={name == 'b':d}", "data.split.seed=0", *SOUND_ONLY)
        said = crossfade("train", folder / "tiny.yaml", "--data", demo_clips, "--out", folder / name, *steps)
        assert said.code == 0, said.err
    return folder


# ---- what it answers


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["show", "recipes"]], ids=" ".join)
def test_what_needs_nothing_heavy_imports_nothing_heavy(words: list[str]):
    code = "import atexit, sys; from crossfade.cli import main; sys.argv[0] = 'crossfade'\n"
    code += "heavy = ('torch', 'numpy', 'av', 'sklearn', 'matplotlib', 'transformers', 'soundfile')\n"
    code += "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\nmain()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_help_names_every_verb():
    said = crossfade("--help")
    assert said.code == 0
    for verb in ("train", "evaluate", "predict", "compare", "check", "show", "demo", "store", "find-rate"):
        assert verb in said.out


def test_train_prints_the_numbers_and_where_the_report_is(place: Path, demo_clips: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.yaml.7.tmp").touch()  # by a run that was killed as it began
    words = ["train", place / "tiny.yaml", "--data", demo_clips, "--out", tmp_path / "run", "phases.all.steps=1", *SOUND_ONLY]
    said = crossfade(*words)
    assert (
        said.code == 0
        and not list((tmp_path / "run").glob(".*"))
        and "macro-F1" in said.out
        and f"report: {tmp_path / 'run' / 'report.html'}" in said.out
    )
    assert "kept" in said.err and "\x1b" not in said.out + said.err and "\r" not in said.err
    (tmp_path / "run" / "checkpoint").mkdir()  # by one that was killed just after it had written its numbers
    again = crossfade("train", "--resume", tmp_path / "run")
    assert again.code == 0 and "finished already" in again.err and again.out == said.out
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_train_as_json_says_nothing_else(place: Path, demo_clips: Path, tmp_path: Path):
    words = ["train", place / "tiny.yaml", "--data", demo_clips, "--out", tmp_path / "run", "phases.all.epochs=0", *SOUND_ONLY]
    said = crossfade(*words, "--json")
    found = json.loads(said.out)
    assert found["run"] == str(tmp_path / "run") and {"val", "test"} <= set(found) and said.out.count("\n") == 1
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {name: value for name, value in found.items() if name != "run"} == stored


def test_a_run_without_out_goes_below_runs_and_never_over_another(place: Path, demo_clips: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", place / "tiny.yaml", "--data", demo_clips, "phases.all.epochs=0", *SOUND_ONLY]
    assert [crossfade(*words).code for _ in range(2)] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]


def test_evaluate(place: Path, tmp_path: Path):
    said = crossfade("evaluate", place / "a", "--out", tmp_path / "deep" / "table.csv")
    assert said.code == 0 and said.out.splitlines()[1].startswith("test")
    assert len(list(csv.DictReader((tmp_path / "deep" / "table.csv").open()))) == 8
    found = json.loads(crossfade("evaluate", place / "a", "--split", "val", "--json").out)
    assert found["val"] == json.loads((place / "a" / "metrics.json").read_text())["val"]


def test_predict_as_csv_json_and_file(place: Path, demo_clips: Path, tmp_path: Path):
    folder = sorted(path for path in demo_clips.iterdir() if path.is_dir())[0]
    table = list(csv.DictReader(crossfade("predict", place / "a", folder).out.splitlines()))
    lines = [json.loads(line) for line in crossfade("predict", place / "a", folder, "--json").out.splitlines()]
    assert [row["predicted"] for row in table] == [row["predicted"] for row in lines] and len(table) == 8
    assert list(table[0])[:3] == ["clip", "streams", "predicted"] and table[0]["error"] == ""
    said = crossfade("predict", place / "a", folder, "--out", tmp_path / "new" / "table.csv")
    assert said.out == "" and list(csv.DictReader((tmp_path / "new" / "table.csv").open())) == table


def test_compare(place: Path, tmp_path: Path):
    said = crossfade("compare", place / "a", place / "b", "--report", tmp_path / "new" / "page.html")
    assert said.code == 0 and "8 clips of 1 group\n" in said.out and "a - b" in said.out.replace("b - a", "a - b")
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    timed = json.loads(crossfade("compare", place / "a", place / "b", "--time", "--json").out)
    assert all(cost["seconds"] > 0 for cost in timed["costs"].values())
    found = json.loads(crossfade("compare", place / "a", place / "b", "--metric", "accuracy", "--json").out)
    assert {score["name"] for score in found["scores"]} == {"a", "b"} and found["metric"] == "accuracy"


def test_the_garbage_collector_works_while_a_verb_does(place: Path, demo_clips: Path, monkeypatch):
    during, real = [], run.predict
    monkeypatch.setattr(run, "predict", lambda *given, **more: [during.append(gc.isenabled()), *real(*given, **more)][1:])
    assert crossfade("predict", place / "a", next(demo_clips.rglob("*.wav"))).code == 0
    assert during == [True] and gc.isenabled() and gc.get_freeze_count() > 0


def test_check_says_0_for_a_clean_corpus_and_1_for_one_that_would_mislead(demo_clips: Path, tmp_path: Path):
    clean = crossfade("check", demo_clips)
    assert clean.code == 0 and "32 clips" in clean.out
    leaking = shutil.copytree(demo_clips, tmp_path / "leaking")
    sound = next(leaking.rglob("03-01-01-01-01-01-01.wav"))
    shutil.copy(sound, next(leaking.rglob("03-01-01-01-01-01-02.wav")))  # the same recording of two actors
    leaky = crossfade("check", leaking, "--json")
    assert leaky.code == 1
    problems = json.loads(leaky.out)["problems"]
    assert any("01-01-01-01-01-01" in str(problem) and "01-01-01-01-01-02" in str(problem) for problem in problems)


def test_check_reads_a_corpus_as_a_recipe_would(place: Path, demo_clips: Path):
    said = crossfade("check", demo_clips, "data.corpus.classes=4", "--recipe", place / "tiny.yaml")
    assert said.code == 0 and "neutral/calm" in said.out


def test_show(place: Path):
    assert {"emotion", "audio", "demo-gated"} <= {row["recipe"] for row in json.loads(crossfade("show", "recipes", "--json").out)}
    counts = {row["use"]: row["parameters"] for row in json.loads(crossfade("show", "models", "--json").out)}
    assert counts["light_cnn"] == 154_720 and counts["wavlm"] == 94_381_936
    models = crossfade("show", "models")
    assert "12,784,192" in models.out and all(line == line.rstrip() for line in models.out.splitlines())
    assert "smoothing: 0.05" in crossfade("show", "recipe", "audio").out
    assert crossfade("show", "run", place / "a").out == crossfade("train", "--resume", place / "a").out
    assert json.loads(crossfade("show", "run", place / "a", "--json").out)["target"] == "emotion"


def test_the_store_is_listed_and_cleared(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path))
    nothing = crossfade("store")
    assert nothing.code == 0 and nothing.out.startswith(f"0 B in {tmp_path}; limit: 50 % of the free disk")
    for rate, recipe in ((1, "one"), (2, "two")):
        Store().shelf({"rate": rate}, what=f"decoded sound, rate {rate}", recipe=recipe).get("abcd", lambda: np.zeros(500))
    said, found = crossfade("store"), json.loads(crossfade("store", "--json").out)
    assert said.code == 0 and "decoded sound, rate 2  two      4.3 kB        1" in said.out and f" in {tmp_path}; limit" in said.out
    assert found["root"] == str(tmp_path) and found["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    names = {shelf["recipes"][0]: shelf["name"] for shelf in found["shelves"]}
    assert set(names) == {"one", "two"} and all(shelf["entries"] == 1 for shelf in found["shelves"])

    assert "found 'three', nearest is 'two' (one of one, two)" in wrong("store", "clear", "--recipe", "three")
    assert crossfade("store", "clear", "--older-than", "-1").code == 2
    assert crossfade("store", "clear", "--older-than", "1").out == f"freed 0 B in {tmp_path}\n"
    assert crossfade("store", "clear", names["one"]).out == f"freed 4.3 kB in {tmp_path}\n"
    assert [shelf["name"] for shelf in json.loads(crossfade("store", "--json").out)["shelves"]] == [names["two"]]
    assert json.loads(crossfade("store", "clear", "--recipe", "two", "--json").out)["freed"] > 4000
    assert crossfade("store", "clear").out == f"freed 0 B in {tmp_path}\n" and list(tmp_path.iterdir()) == []


def test_the_demo_from_clips_to_a_comparison_and_on_where_it_was(tmp_path: Path, monkeypatch):
    load = demo.recipes.load

    def shortened(name: str, overrides: list[str], **more):
        phases = ["fusion", "unfreeze"] if "gated" in name else ["train"]
        return load(name, [*overrides, *(f"phases.{phase}.{what}=1" for phase in phases for what in ("epochs", "steps"))], **more)

    monkeypatch.setattr(demo, "write_demo", lambda root: write_demo(root, actors=4, repetitions=1, seconds=0.5, size=32))
    monkeypatch.setattr(demo.recipes, "load", shortened)
    said = crossfade("demo", "--out", tmp_path / "a demo: with a name", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert set(found["scores"]) == {"audio", "video", "gated"}
    assert "emotion" in Path(found["report"]).read_text() and (tmp_path / "a demo: with a name" / "report.html").exists()
    assert [load.split(":")[0] for load in json.loads((Path(found["report"]).parent / "notes.json").read_text())["loads"]] == [
        *("encoders.audio", "encoders.video")
    ]
    monkeypatch.setattr(run, "train", None)  # what is done is not done again
    assert json.loads(crossfade("demo", "--out", tmp_path / "a demo: with a name", "--json").out) == found


# ---- what it refuses


def wrong(*words: object) -> str:
    """The one line it says; everything else about a person's error is checked here."""
    said = crossfade(*words)
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("crossfade: ") and said.err.endswith("\n") and said.err.count("\n") == 1, said.err
    return said.err


MISTAKES = {
    "unknown recipe": (["train", "emotoin"], "nearest is 'emotion'"),
    "recipe file that is not there": (["train", "none.yaml"], "none.yaml: No such file"),
    "no recipe": (["train"], "--resume RUN"),
    "recipe and resume": (["train", "audio", "--resume", "x"], "takes nothing else"),
    "missing data": (["train", "{tiny}", "--data", "nowhere"], "nowhere: no such folder or CSV"),
    "override without a value": (["train", "{tiny}", "data.batch"], "key=value"),
    "override of a wrong type": (["train", "{tiny}", "data.batch=many"], "data.batch: found 'many'"),
    "key with a typo": (["train", "{tiny}", "data.bacth=3"], "nearest is 'batch'"),
    "key of a phase with a typo": (["train", "{tiny}", "phases.all.epocs=3"], "nearest is 'epochs'"),
    "unknown entry": (["train", "{tiny}", "model.merge.use=gatde"], "nearest is 'gated'"),
    "resume of nothing": (["train", "--resume", "nowhere"], "nothing to resume"),
    "resume of another folder": (["train", "--resume", "{clips}"], "nothing to resume"),
    "out that is not empty": (["train", "{tiny}", "--data", "{clips}", "--out", "{clips}"], "exists already"),
    "out that is a run": (["train", "{tiny}", "--data", "{clips}", "--out", "{a}"], "--resume"),
    "out that is a file": (["train", "{tiny}", "--data", "{clips}", "--out", "{tiny}"], "exists already"),
    "pattern for nothing": (["train", "{tiny}", "--data", "{clips}", "--out", "{new}", "phases.all.rates={heats: 1, '*': 1}"], "'heads'"),
    "over without a value": (["train", "{tiny}", "--over", "seed"], "--over seed: is written key=value,value"),
    "over with a typo": (["train", "{tiny}", "--data", "{clips}", "--out", "{new}", "--over", "data.bacth=2,3"], "nearest is 'batch'"),
    "over and resume": (["train", "--resume", "{a}", "--over", "seed=0,1"], "takes nothing else"),
    "find-rate of an unknown phase": (
        ["find-rate", "{tiny}", "--data", "{clips}", "--phase", "al"],
        "--phase: found 'al', nearest is 'all'",
    ),
    "evaluate no run": (["evaluate", "{clips}"], "has no recipe.yaml, so it is not a finished run"),
    "evaluate nothing": (["evaluate", "nowhere"], "no such run"),
    "evaluate an unknown split": (["evaluate", "{a}", "--split", "dev"], "one of train, val, test"),
    "evaluate by changing": (["evaluate", "{a}", "seed=3"], "train it anew"),
    "predict with no run": (["predict", "nowhere", "{clips}"], "no such run"),
    "predict nothing": (["predict", "{a}", "nowhere.wav"], "no such file or folder"),
    "predict an empty folder": (["predict", "{a}", "{empty}"], "no sound, picture or video file"),
    "compare one run": (["compare", "{a}"], "two different runs"),
    "compare a run with itself": (["compare", "{a}", "{a}"], "two different runs"),
    "compare with no run": (["compare", "{a}", "{clips}"], "has no predictions.csv"),
    "compare an unknown split": (["compare", "{a}", "{b}", "--split", "dev"], "dev"),
    "compare by an unknown metric": (["compare", "{a}", "{b}", "--metric", "f1"], "macro_f1"),
    "check nothing": (["check"], "give a folder or a CSV"),
    "check what is not there": (["check", "nowhere"], "nowhere: no such folder or CSV"),
    "clear an unknown shelf": (["store", "clear", "no-such-name"], "store clear NAME: found 'no-such-name', "),
    "show no run": (["show", "run", "{clips}"], "not a finished run"),
    "show an unknown recipe": (["show", "recipe", "audoi"], "nearest is 'audio'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(place: Path, demo_clips: Path, tmp_path: Path, mistake: str):
    (tmp_path / "empty").mkdir()
    places = {"tiny": place / "tiny.yaml", "a": place / "a", "b": place / "b", "clips": demo_clips}
    places |= {"empty": tmp_path / "empty", "new": tmp_path / "new"}
    words, expected = MISTAKES[mistake]
    assert expected in wrong(*(word if word.startswith("phases") else word.format(**places) for word in words))
    assert not (tmp_path / "new").exists()


def test_runs_without_a_clip_in_common_cannot_be_compared(place: Path, tmp_path: Path):
    text = (place / "a" / "predictions.csv").read_text()
    (tmp_path / "other.csv").write_text(text.replace('"01-', '"99-').replace("\n01-", "\n99-"))
    assert "compare runs judged on the same clips" in wrong("compare", place / "a", tmp_path / "other.csv")


def test_a_disk_that_refuses_is_one_line(place: Path, demo_clips: Path, tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with bound_by_modes():
        line = wrong("train", place / "tiny.yaml", "--data", demo_clips, "--out", tmp_path / "locked" / "run")
        assert "Permission denied" in line and str(tmp_path / "locked") in line
        line = wrong("predict", place / "a", next(demo_clips.rglob("*.wav")), "--out", tmp_path / "locked" / "table.csv")
        assert "Permission denied" in line


@pytest.mark.parametrize("words", [["trian"], ["train", "--nonsense"], ["predict"], ["evaluate"]], ids=" ".join)
def test_what_typer_refuses_is_2_too(words: list[str]):
    said = crossfade(*words)
    assert said.code == 2 and "Traceback" not in said.err and said.out == ""
