"""Table 5: what starting costs: `crossfade --help`, `show recipes`, `predict` of one clip; beside bare Python and `import torch`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Failed, command, digits, heading, machine, markdown, progress, times, versions

RECIPE = """
data:
  corpus: {use: ravdess, root: clips}
  split: {by: group, ratios: [0.5, 0.25, 0.25]}
  streams: {audio: {use: log_mel, seconds: 0.5, mels: 16}, video: {use: frames, count: 2, size: 32}}
  batch: 8
  workers: 0
model:
  encoders: {audio: {use: light_cnn, width: 32}, video: {use: frame_cnn, width: 4}}
  merge: {use: gated, dim: 16}
  heads: {emotion: {use: linear}}
phases:
  - {name: all, epochs: 1, rates: {"*": 1e-3}, terms: {label: {use: cross_entropy, target: emotion}}}
"""
PYTHON, TORCH = "python -c pass", "python -c 'import torch'"
BARS = {"crossfade --help": 0.5, "crossfade show recipes": None, "crossfade predict": 3.0}  # seconds, as the issue asks
NOTES = """\
Seconds of wall time of a whole process, from its start to its end: median (and fastest) of the rounds; a round runs each once, after one
that warms the disk cache. `predict` classifies one clip of sound and picture with a small bundle trained before, on the CPU."""


def run(quick: bool) -> dict[str, Any]:
    about, used = machine(), versions("torch", "numpy", "av", "typer")
    print(heading("Start-up", about, used))
    with tempfile.TemporaryDirectory() as folder:
        words = _commands(Path(folder))
        rounds = [_round(words, Path(folder)) for _ in range(3 if quick else 10)][1:]
    rows = [{"what": what, "seconds": [found[what] for found in rounds]} for what in words]
    medians = {row["what"]: statistics.median(row["seconds"]) for row in rows}
    lines = [_headline(what, medians[what], bar) for what, bar in BARS.items() if bar]
    print("\n".join(f"- {line}" for line in lines) + "\n\n" + _table(rows, medians) + "\n\n" + NOTES, flush=True)
    return {"command": command(), "machine": about, "versions": used, "headlines": lines, "rows": rows}


def _commands(folder: Path) -> dict[str, Sequence[str]]:
    """What to run, by its name in the table. Makes clips and a bundle in the folder."""
    from crossfade.data.demo import write_demo

    program = str(Path(sys.executable).with_name("crossfade"))
    clips = write_demo(folder / "clips", actors=4, repetitions=1, seconds=0.6, size=32)
    (folder / "tiny.yaml").write_text(RECIPE)
    progress("start-up: training the bundle")
    _seconds([program, "train", "tiny.yaml", "--out", "bundle", "device=cpu"], folder)
    one = next(path for path in sorted(clips.rglob("*.mp4")))
    return {
        PYTHON: [sys.executable, "-c", "pass"],
        TORCH: [sys.executable, "-c", "import torch"],
        "crossfade --help": [program, "--help"],
        "crossfade show recipes": [program, "show", "recipes"],
        "crossfade predict": [program, "predict", "bundle", str(one)],
    }


def _round(words: Mapping[str, Sequence[str]], folder: Path) -> dict[str, float]:
    found = {what: _seconds(line, folder) for what, line in words.items()}
    progress("start-up: " + ", ".join(f"{what} {digits(seconds)} s" for what, seconds in found.items()))
    return found


def _seconds(words: Sequence[str], folder: Path) -> float:
    """Of wall time. Raises Failed."""
    environment = os.environ | {"CROSSFADE_STORE": str(folder / "store"), "PYTHONWARNINGS": "ignore"}
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise Failed(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['ended without a word'])[-1]}")
    return seconds


def _headline(what: str, seconds: float, bar: float) -> str:
    return f"`{what}`: **{digits(seconds)} s** ({'under' if seconds < bar else 'NOT under'} {bar:g} s)"


def _table(rows: Sequence[Mapping[str, Any]], medians: Mapping[str, float]) -> str:
    columns = ["", "÷ `import torch`", "median (s)", "fastest (s)"]
    lines = [
        [f"`{row['what']}`", times(medians[row["what"]] / medians[TORCH]), digits(medians[row["what"]]), digits(min(row["seconds"]))]
        for row in rows
    ]
    return markdown(columns, lines)
