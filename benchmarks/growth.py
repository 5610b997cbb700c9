"""Table 4: time an epoch, memory and store against the number of clips, which should be a line, flat and a line."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.measure import command, heading, machine, markdown, progress, versions

CLIPS = 400  # of the smallest corpus
FACTORS = (1, 4, 16)
RATE = 16_000  # hertz
RECIPE = {
    "data": {
        "corpus": {"use": "manifest"},
        "split": {"by": "column"},
        "streams": {"audio": {"use": "log_mel", "seconds": 1.0}},
        "batch": 32,
        "workers": 0,
    },
    "model": {"encoders": {"audio": {"use": "light_cnn", "tokens": 8}}, "merge": {"use": "mean"}, "heads": {"label": {"use": "linear"}}},
    "phases": [
        {
            "name": "head",
            "epochs": 6,
            "rates": {"encoders.audio[-1:]": 1e-3, "encoders": None, "*": 1e-3},
            "terms": {"label": {"use": "cross_entropy", "target": "label"}},
        }
    ],
}
COLUMNS = ("clips", "an epoch (s)", "a clip (ms)", "own memory (MB)", "with mapped files (MB)", "store (MB)", "whole run (s)")
NOTES = """\
Light CNN on one-second clips, its last stage and the head learning, the three stages before served from the store. An epoch is the
median of those after the first. Own memory is the process's largest anonymous memory during the run, above what it was when the recipe
was loaded; with mapped files adds the pages of the store that the system keeps mapped, which it takes back when it needs them."""
MEASURED = """
import json, sys, threading, time
from pathlib import Path
import crossfade

def memory():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS")]

peak, done = [0.0, 0.0], threading.Event()
def watch():
    while not done.wait(0.05):
        peak[:] = map(max, peak, memory())
threading.Thread(target=watch, daemon=True).start()
recipe = crossfade.load(sys.argv[1], corpus=sys.argv[2])
before = memory()
crossfade.train(recipe, sys.argv[3])
done.set()
print(json.dumps({"before": before, "peak": peak}))
"""


def corpus(folder: Path, clips: int) -> Path:
    """Tones of two classes in noise, one second each; 10 % are for validation."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    times = np.arange(RATE) / RATE
    rows = []
    for number in range(clips):
        low = number % 2 == 0
        tone = 0.3 * np.sin(2 * math.pi * (300 if low else 600) * times) + 0.1 * generator.standard_normal(RATE)
        soundfile.write(folder / f"{number}.wav", tone.astype(np.float32), RATE)
        rows.append((f"{number}.wav", "low" if low else "high", number, "val" if number % 10 == 0 else "train"))
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("audio", "label", "group", "split"), *rows])
    return folder / "clips.csv"


def measured(folder: Path, clips: int) -> dict[str, float]:
    """One training in a process of its own: seconds an epoch after the first, memory in MB, bytes of the store."""
    recipe = folder / "growth.yaml"
    recipe.write_text(json.dumps(RECIPE))
    store, run = folder / f"store-{clips}", folder / f"run-{clips}"
    environment = {**os.environ, "CROSSFADE_STORE": str(store), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", MEASURED, str(recipe), str(corpus(folder / f"clips-{clips}", clips)), str(run)]
    started = time.perf_counter()
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - started
    memory = json.loads(said.stdout.strip().splitlines()[-1])
    epochs = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    own, all_of_it = (after - before for after, before in zip(memory["peak"], memory["before"], strict=True))
    return {"clips": clips, "epoch": float(np.median(epochs[1:])), "own": own, "resident": all_of_it, "store": size / 1e6, "wall": wall}


def run(quick: bool) -> dict:
    """Print the table and the line fitted through the epochs' times."""
    clips, about, used = 40 if quick else CLIPS, machine(), versions("crossfade", "torch", "numpy")
    print(heading("Growth", about, used))
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for factor in FACTORS:
            progress(f"growth: {clips * factor} clips")
            found.append(measured(Path(folder), clips * factor))
    counts, times = (np.array([each[name] for each in found]) for name in ("clips", "epoch"))
    slope, start = np.polyfit(counts, times, 1)
    worst = float(np.max(np.abs(times - (start + slope * counts)) / times))
    rows = [
        [f"{each['clips']:,}", f"{each['epoch']:.3f}", f"{each['epoch'] / each['clips'] * 1e3:.3f}"]
        + [f"{each[name]:.0f}" for name in ("own", "resident", "store", "wall")]
        for each in found
    ]
    print(markdown(COLUMNS, rows, texts=0))
    fit = f"An epoch takes {start * 1e3:.1f} ms + {slope * 1e3:.3f} ms a clip; no row is off that line by more than {worst:.0%}."
    print(f"\n{fit}\n{NOTES}\n", flush=True)
    line = {"start": float(start), "slope": float(slope), "worst": worst}
    return {"rows": found, "line": line, "machine": about, "versions": used, "command": command()}
