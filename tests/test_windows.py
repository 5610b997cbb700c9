"""Long recordings end to end: beeps hidden in a minute of noise are found where they are; what is silent, unreadable or empty is said."""

import csv
import io
import json
import shutil
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import crossfade

from crossfade import exporting
from crossfade.clip import Clip, UserError
from crossfade.deploy import sidecar
from crossfade.deploy.operation import of_run
from crossfade.evaluation.events import Event, by_overlap
from crossfade.screen import Terminal
from crossfade.windows import Album, Ear, Heard, Passing, Window, _threshold, averaged, events, table

RATE = 16_000
BEEPS = (3.0, 11.2, 12.9, 31.5, 44.04, 58.9)  # seconds where they begin
LONG = 0.5  # of a beep
RECIPE = """
data:
  corpus: {use: tree, root: clips, target: sound}
  split: {by: clip, ratios: [0.6, 0.2, 0.2]}
  streams: {audio: {use: log_mel, seconds: 0.64, mels: 32}}
  batch: 16
  workers: 0
model:
  encoders: {audio: {use: light_cnn, width: 32}}
  heads: {sound: {use: linear}}
phases:
  - {name: all, epochs: 8, rates: {"*": 3e-3}, terms: {label: {use: cross_entropy, target: sound}}}
"""


class Listening(Terminal):
    """A quiet screen that remembers what it was told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)

    def warn(self, text: str) -> None:
        self.told.append(f"warning: {text}")


def hiss(seconds: float, random: np.random.Generator, level: float = 0.03) -> np.ndarray:
    return random.normal(0, level, round(seconds * RATE)).astype(np.float32)


def add_beep(sound: np.ndarray, second: float, seconds: float = LONG) -> None:
    first, count = round(second * RATE), round(seconds * RATE)
    place = sound[first : first + count]
    place += 0.2 * np.sin(2 * np.pi * 1500 / RATE * np.arange(count)).astype(np.float32)[: len(place)]


@pytest.fixture(scope="module")
def minute(tmp_path_factory) -> Path:
    """A minute of hiss with beeps; from 20 to 30 s next to nothing."""
    sound = hiss(60, np.random.default_rng(7))
    sound[20 * RATE : 30 * RATE] *= 1e-4
    for second in BEEPS:
        add_beep(sound, second)
    path = tmp_path_factory.mktemp("long") / "minute.wav"
    soundfile.write(path, sound, RATE)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A model of beeps that lie anywhere in 0.64 s of hiss, at least half of the window long; fewer of them than of hiss."""
    folder, random = tmp_path_factory.mktemp("beeps"), np.random.default_rng(0)
    for kind, count in {"beep": 50, "hiss": 80}.items():
        (folder / "clips" / kind).mkdir(parents=True)
        for number in range(count):
            sound = hiss(0.64, random)
            if kind == "beep":
                add_beep(sound, random.uniform(0, 0.3))
            soundfile.write(folder / "clips" / kind / f"{number}.wav", sound, RATE)
    (folder / "beeps.yaml").write_text(RECIPE)
    said = crossfade("train", folder / "beeps.yaml", "--data", folder / "clips", "--out", folder / "run")
    assert said.code == 0, said.err
    assert json.loads((folder / "run" / "metrics.json").read_text())["test"]["accuracy"] > 0.9
    return folder / "run"


def heard(run: Path, path: Path, **options: Any) -> list[Event]:
    rows = events(run, [path], window=0.64, hop=0.16, screen=Terminal(quiet=True), **options)
    return [Event(row["start"], row["end"], row["class"], row["probability"]) for row in rows]


def test_beeps_are_found_where_they_are(run, minute):
    found = heard(run, minute)
    true = [Event(second, second + LONG, "beep") for second in BEEPS]
    score = by_overlap(found, true, overlap=0.4)  # a window with half a beep in it counts, so an event is somewhat longer
    assert score.recall == 1 and score.precision == 1, found
    assert all(0.5 <= event.probability <= 1 for event in found)
    assert all(found.start - 0.02 <= beep.start and beep.end <= found.end + 0.17 for found, beep in zip(found, true, strict=True))


def test_what_is_said_and_drawn(run, minute, tmp_path):
    screen = Listening()
    rows = list(events(run, [minute], window=0.64, picture=tmp_path / "pictures", screen=screen))
    assert [set(row) for row in rows] == [{"clip", "start", "end", "class", "probability"}] * len(rows)
    assert screen.told[0].startswith("listening for beep from 0.") and screen.told[0].endswith("; background: hiss")
    assert screen.told[1:] == [f"{len(rows)} events in 1 recording"]
    drawn = (tmp_path / "pictures" / "minute.wav.svg").read_text()
    assert drawn.startswith("<svg") and drawn.count('class="event"') >= len(rows) and 'opacity="0.6"' in drawn


def test_what_is_silent_is_not_judged(run, minute, tmp_path, monkeypatch):
    from crossfade import judge

    counts: list[int] = []
    plain = judge.answers

    def counting(model, batches, device):
        rows, outputs = plain(model, batches, device)
        counts.append(len(rows))
        return rows, outputs

    monkeypatch.setattr(judge, "answers", counting)
    heard(run, minute)
    heard(run, minute, silence=None)
    assert counts[1] == 372 and 372 - counts[0] == pytest.approx((10 - 0.64) / 0.16, abs=2)  # 1 + (60 − 0.64) / 0.16 windows
    soundfile.write(tmp_path / "zeros.wav", np.zeros(RATE * 3), RATE)
    assert heard(run, tmp_path / "zeros.wav") == [] and len(counts) == 2
    faint = hiss(10, np.random.default_rng(1), 1e-4)
    add_beep(faint, 1.0)
    soundfile.write(tmp_path / "faint.wav", faint, RATE, subtype="FLOAT")
    (event,) = heard(run, tmp_path / "faint.wav", silence=20.0)
    assert 6 < counts[2] < 16 and abs(event.start - 1) < 0.4 and abs(event.end - 1.5) < 0.4  # of 60


def test_bad_files_are_named_and_the_rest_done(run, minute, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    screen = Listening()
    rows = list(events(run, [tmp_path / "bad.wav", minute], window=0.64, screen=screen))
    assert "is not a sound or video file" in rows[0]["error"] and rows[0]["clip"].endswith("bad.wav") and len(rows) > len(BEEPS) / 2
    assert any("left out" in text and "bad.wav" in text for text in screen.told)
    with pytest.raises(UserError, match="none of these clips can be read"):
        list(events(run, [tmp_path / "bad.wav"], window=0.64, screen=screen))


def test_nothing_found_is_a_header(run, tmp_path):
    soundfile.write(tmp_path / "calm.wav", hiss(5, np.random.default_rng(5)), RATE)
    screen = Listening()
    text = table(events(run, [tmp_path / "calm.wav"], window=0.64, screen=screen))
    assert text == "clip,start,end,class,probability,error\n" and screen.told[-1] == "no events in 1 recording"
    assert list(csv.DictReader(io.StringIO(table([{"clip": "a", "start": 1.5, "end": 2, "class": "beep", "probability": 0.75}])))) == [
        {"clip": "a", "start": "1.5", "end": "2", "class": "beep", "probability": "0.75", "error": ""}
    ]


def test_a_clip_with_a_span_is_heard_there_alone(run, minute, tmp_path):
    (tmp_path / "spans.csv").write_text(f"id,audio,start,end\none,{minute},10,15\n")
    found = heard(run, tmp_path / "spans.csv", picture=tmp_path)
    assert by_overlap(found, [Event(11.2, 11.7, "beep"), Event(12.9, 13.4, "beep")]).f1 == 1 and (tmp_path / "one.svg").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0.5, "hop": 0.6}, "0 < hop ≤ window"),
        ({"window": 0.5, "threshold": 1.0}, "--threshold: found 1; it lies between 0 and 1"),
        ({"window": 0.5, "silence": 0.0}, "--silence: found 0"),
        ({"window": 0.5, "background": "his"}, "--background: found 'his'; nearest is 'hiss'"),
    ],
)
def test_options_that_cannot_be(run, minute, options, words):
    with pytest.raises(UserError) as refused:
        list(events(run, [minute], screen=Terminal(quiet=True), **options))
    assert words in str(refused.value)


def test_thresholds_and_background_come_from_the_run(run, minute, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["operating"] = {"class": "beep", "other": "hiss", "threshold": {"macro_f1": {"value": 0.3}, "half": {"value": 0.5}}}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    screen = Listening()
    list(events(copy, [minute], window=0.64, screen=screen))
    list(events(copy, [minute], window=0.64, background="beep", screen=screen))
    list(events(copy, [minute], window=0.64, threshold=0.9, screen=screen))
    (copy / "metrics.json").write_text(json.dumps({**metrics, "operating": {}}))
    list(events(copy, [minute], window=0.64, screen=screen))
    assert [text for text in screen.told if "listening" in text] == [
        "listening for beep from 0.3 (chosen on validation clips); background: hiss",
        "listening for hiss from 0.7 (chosen on validation clips); background: beep",
        "listening for beep from 0.9 (as asked); background: hiss",
        "listening for beep from 0.5 (a half, none was chosen on validation clips); background: hiss",
    ]
    notes = json.loads((copy / "notes.json").read_text())
    notes["counts"]["train"] = {"beep": 9, "hiss": 9}
    (copy / "notes.json").write_text(json.dumps(notes))
    with pytest.raises(UserError, match="beep and hiss have as many training clips; say which class is no event: --background CLASS"):
        list(events(copy, [minute], window=0.64, screen=screen))


def test_overlapping_windows_are_averaged():
    spans = [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (2.5, 4.5)]
    edges, means = averaged(spans, np.array([[0.0], [0.6], [0.9], [0.3]]))
    assert edges.tolist() == [0, 1, 2, 2.5, 3, 4, 4.5]
    assert means[:, 0].tolist() == pytest.approx([0, 0.3, 0.75, 0.6, 0.6, 0.3])


def test_events_are_stretches_above_the_threshold():
    probability = np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2], [0.1, 0.9], [0.7, 0.3]])
    found = Heard(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 4.5]), probability, np.ones(5, dtype=bool), np.zeros((2, 0)))
    bare: Any = SimpleNamespace()
    ear = Ear(bare, {}, ["cough", "other"], "other", {"cough": 0.5}, 1.0, 1.0, 30.0)
    assert ear.events(found) == [Event(1.0, 3.0, "cough", 0.8), Event(4.0, 4.5, "cough", 0.7)]


def test_loud_enough_is_known_at_the_end():
    passing = Passing(20.0)
    levels = [0.0, 0.01, 0.2, 0.019, 1.0, 0.099, 0.101]
    asked = [passing.loud(Window(at, at + 1.0, {RATE: np.full(4, level, np.float32)})) for at, level in enumerate(levels)]
    assert asked == [False, True, True, False, True, False, True] and passing.judged == [1, 2, 4, 6]
    assert passing.silent().tolist() == [True, True, False, True, False, True, False]


def test_pictures_of_files_called_alike(tmp_path):
    album = Album(tmp_path)
    names = [album._name(Clip(f"{place}/a.wav", {}, {}, "")) for place in "xyz"]
    assert names == ["a.wav.svg", "a.wav-2.svg", "a.wav-3.svg"]


def test_ten_minutes_take_seconds_and_no_more_memory_than_two(run, tmp_path):
    sound = hiss(60, np.random.default_rng(3))
    add_beep(sound, 30.0)

    def listen(minutes: int) -> tuple[int, int]:
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(sound, minutes), RATE)
        tracemalloc.start()
        found = len(list(events(run, [path], window=0.64, hop=0.32, screen=Terminal(quiet=True))))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, most

    listen(1)
    begun = time.process_time()
    (few, small), (many, large) = listen(2), listen(8)
    assert time.process_time() - begun < 45
    assert (few, many) == (2, 8) and large - small < 4e6


def test_validation_clips_of_another_domain_choose_no_threshold(tmp_path: Path):
    (tmp_path / "metrics.json").write_text(
        json.dumps({"operating": {"class": "cough", "other": "rest", "threshold": {"macro_f1": {"value": 0.92}}}})
    )
    one, two = (of_run(tmp_path, domains=domains) for domains in (False, True))
    assert _threshold("cough", None, one, domains=False) == (0.92, "chosen on validation clips")
    assert _threshold("rest", None, one, domains=False)[0] == pytest.approx(0.08)
    assert _threshold("cough", None, two, domains=True) == (0.5, "a half; the validation clips with labels are of another domain")
    assert _threshold("cough", 0.7, two, domains=True) == (0.7, "as asked")


def test_an_exported_file_listens_as_its_run_without_the_runs_folder(run, minute, tmp_path):
    """What --window needs lies in the sidecar; of an older one it says what to give."""
    operating = json.loads((run / "metrics.json").read_text())["operating"]
    copied = shutil.copytree(run, tmp_path / "run")
    exporting.export(copied, "onnx", screen=Terminal(quiet=True))
    alone = (copied / "export").rename(tmp_path / "alone") / "model.onnx"
    shutil.rmtree(copied)
    known = sidecar.read(alone).operation
    assert known and known.clips == json.loads((run / "notes.json").read_text())["counts"]["train"]
    assert known.threshold[operating["class"]] == operating["threshold"]["macro_f1"]["value"]
    own, other = heard(run, minute), heard(alone, minute)
    assert [(event.start, event.end, event.label) for event in own] == [(event.start, event.end, event.label) for event in other]

    about = json.loads(sidecar.beside(alone).read_text())
    about.pop("operation")
    sidecar.beside(alone).write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"model.onnx: model.onnx.json does not say how many clips each class had; .*--background CLASS"):
        heard(alone, minute)
    assert heard(alone, minute, background="hiss")
