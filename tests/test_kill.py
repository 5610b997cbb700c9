"""A run killed at any moment, resumed, ends bit for bit as the run that was not: by the real command, SIGKILL and SIGTERM.

Two kills by default; CROSSFADE_KILLS=30 makes it the acceptance test.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossfade.data.demo import write_demo

KILLS = int(os.environ.get("CROSSFADE_KILLS", "2"))
RECIPE = """
data:
  corpus: {use: ravdess, root: clips}
  split: {by: group, ratios: [0.5, 0.25, 0.25]}
  streams: {audio: {use: log_mel, seconds: 0.5}, video: {use: frames, count: 2, size: 32}}
  views: {augmented: {audio: [{use: noise_at_snr}, {use: spectrogram_masks, time: 5}], video: [{use: darken}]}}
  batch: 4
  workers: 0
model:
  encoders: {audio: {use: light_cnn}, video: {use: frame_cnn, width: 8}}
  merge: {use: gated, dim: 16, dropout: 0.3}
  drop_stream: 0.2
  heads: {emotion: {use: mlp, dropout: 0.2}}
phases:
  - {name: all, epochs: 3, sees: augmented, rates: {"*": 1e-3}, terms: {label: {use: cross_entropy, target: emotion}}, schedule: cosine}
  - name: top
    epochs: 3
    accumulate: 2
    rates: {"encoders.audio[-1:]": 1e-4, encoders: null, "*": 1e-3}
    terms: {label: {use: cross_entropy, target: emotion}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with clips, a recipe and a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("kill")
    write_demo(folder / "clips", actors=4, repetitions=1, seconds=0.5, size=32)
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> tuple[Path, float]:
    started = time.monotonic()
    assert command(place, "train", "tiny.yaml", "--out", "whole").wait() == 0
    return place / "whole", time.monotonic() - started


def command(place: Path, *words: str) -> subprocess.Popen:
    words = (sys.executable, "-m", "crossfade", *words)
    return subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def go_on(place: Path, run: str) -> subprocess.Popen:
    begun = (place / run / "recipe.yaml").exists()
    return command(place, "train", *(["--resume", run] if begun else ["tiny.yaml", "--out", run]))


def history(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_equal(run: Path, whole: Path) -> None:
    assert history(run) == history(whole)
    for name in ("model.safetensors", "predictions.csv", "metrics.json", "labels.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (run / "checkpoint").exists()


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_ends_as_the_undisturbed_one(place: Path, undisturbed: tuple[Path, float], number: int):
    whole, seconds = undisturbed
    chance = random.Random(number)
    run = f"killed-{number}"
    process = command(place, "train", "tiny.yaml", "--out", run)
    for _ in range(chance.randint(1, 3)):
        # most of a tiny run is importing: two kills in three are aimed at the part after it
        time.sleep(seconds * chance.choice([chance.random(), 0.5 + chance.random() / 2, 0.5 + chance.random() / 2]))
        process.kill()
        process.communicate()
        process = go_on(place, run)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_equal(place / run, whole)


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(place: Path, undisturbed: tuple[Path, float], asked: int, code: int):
    """To the whole group, as a terminal and a batch system send it: the loader's worker gets it too."""
    whole, _ = undisturbed
    for attempt in range(5):  # a stall of this machine may let a run of a second end before the signal is sent
        run = f"signal-{asked}-{attempt}"
        process = command(place, "train", "tiny.yaml", "data.workers=1", "--out", run)
        while not (place / run / "checkpoint" / "state.pt").exists() and process.poll() is None:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, asked)
        _, errors = process.communicate()
        if not (place / run / "metrics.json").exists():
            break
    assert process.returncode == code, errors
    assert f"crossfade train --resume {run}" in errors
    assert "Traceback" not in errors
    assert go_on(place, run).wait() == 0
    assert_equal(place / run, whole)
