"""Several tools at one piece of work: repetitions interleaved, so that a busy minute strikes all of them, then medians and ratios."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.environment import NotInstallable, peers_python
from benchmarks.measure import Failed, digits, markdown, progress, timed, times, versions
from benchmarks.workloads import Prepared, Workload, prepare, quick

SHARED = ("accelerate", "safetensors", "pillow", "soundfile")  # which the scripts import beside torch, in our versions
REPEATS = 3  # of ours and of the floor, whose epochs are short
OURS, FLOOR, PLAIN = "Crossfade", "(e) the floor: bare head steps", "(a) plain PyTorch loop"
MEMORY, FILES, EMBEDDINGS = "decoded in memory", "files", "embeddings in memory"
DATA_OF = {"memory": MEMORY, "files": FILES, "floor": EMBEDDINGS, "ours": FILES}
TAKEN = {
    "startup": "start-up",
    "setup": "set-up",
    "first": "first epoch",
    "later": "later epoch",
    "steps": "its steps",
    "after": "after",
    "total": "end to end",
}


@dataclass(frozen=True)
class Entrant:
    """A script of benchmarks/peers, what of the workload it is told, and the packages it needs besides."""

    tool: str
    script: str
    spec: str
    packages: tuple[str, ...] = ()
    repeats: int = 1

    @property
    def name(self) -> str:
        return f"{self.tool}, {DATA_OF[self.spec]}"

    def on_files(self) -> Entrant:
        """The same tool on the files themselves: it decides no ratio."""
        return replace(self, spec="files")


Headlines = Callable[[dict[tuple[str, str], dict[str, Any]], int], list[str]]  # ({(tool, data): row}, epochs) -> lines


def bout(workload: Workload, entrants: Sequence[Entrant], headlines: Headlines, *, small: bool) -> list[dict[str, Any]]:
    """Let them run and print the section: ratios first, then the table. The first entrant is ours."""
    work = quick(workload) if small else workload
    with tempfile.TemporaryDirectory() as folder:
        rows = contest(
            prepare(work, Path(folder) / "work"),
            entrants,
            repeats=1 if small else work.repeats,
            at_once=(os.cpu_count() or 1) if small else 1,
        )
    by = {(row["tool"], row["data"]): row for row in rows if "failed" not in row}
    print(f"### {work.name}: {work.train} clips to train on, {work.val} to validate, batch {work.batch}\n")
    print("\n".join(f"- {line}" for line in headlines(by, work.epochs)) + "\n")
    print(table(rows, work.epochs) + "\n", flush=True)
    return rows


def faster(other: dict[str, Any], ours: dict[str, Any], what: str) -> str:
    """How many times longer the other takes."""
    return f"**{times(other[what] / ours[what])}** faster than {other['tool']}, {other['data']}"


def contest(prepared: Prepared, entrants: Sequence[Entrant], *, repeats: int, at_once: int = 1) -> list[dict[str, Any]]:
    """One row an entrant, in their order: its medians, or why there are none. Raises Failed where the first, ours, fails at once."""
    turns = [entrant for repeat in range(repeats) for entrant in entrants if repeat < entrant.repeats]
    runs = [_once(prepared, turns[0])]  # alone, so that a mistake of ours does not show after hours
    with ThreadPoolExecutor(at_once) as pool:
        runs += pool.map(lambda entrant: _attempt(prepared, entrant), turns[1:])
    by_name = {entrant.name: [run for turn, run in zip(turns, runs, strict=True) if turn is entrant] for entrant in entrants}
    return [_row(prepared.workload, entrant, by_name[entrant.name]) for entrant in entrants]


def _attempt(prepared: Prepared, entrant: Entrant) -> dict[str, Any]:
    try:
        return _once(prepared, entrant)
    except (Failed, NotInstallable) as error:
        progress(f"{prepared.workload.name}: {entrant.name}: failed: {error}")
        return {"failed": str(error)}


def _once(prepared: Prepared, entrant: Entrant) -> dict[str, Any]:
    """In a folder of its own, which holds our store and run: nothing is known from before."""
    threads = str(prepared.workload.threads)
    with tempfile.TemporaryDirectory() as folder:
        place = {"CROSSFADE_STORE": f"{folder}/store", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        python = sys.executable if entrant.spec == "ours" else python_of(entrant)
        words = (str(prepared.spec(entrant.spec)), f"{folder}/run")
        run = timed(python, f"benchmarks.peers.{entrant.script}", *words, environment=place)
    progress(f"{prepared.workload.name}: {entrant.name}: {digits(run['process'])} s")
    return run


def python_of(entrant: Entrant) -> Path:
    pins = [f"{name}=={number}" for name, number in versions("torch", "torchvision", "transformers", *SHARED).items()]
    return peers_python(*pins, *entrant.packages)


def _row(workload: Workload, entrant: Entrant, runs: list[dict[str, Any]]) -> dict[str, Any]:
    names = {"workload": workload.name, "tool": entrant.tool, "data": DATA_OF[entrant.spec]}
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {**names, "failed": failed[0]}
    summaries = [_summary(run, workload.epochs) for run in runs]
    medians = {name: statistics.median(summary[name] for summary in summaries) for name in summaries[0]}
    return {**names, **medians, "measured": len(runs[0]["epochs"]), "quality": runs[0]["quality"], "runs": runs}


def _summary(run: dict[str, Any], epochs: int) -> dict[str, float]:
    """Seconds. `later` and `steps` are the median of the epochs after the first, with and without what follows the training steps
    (validation, and in ours saving and scoring); `whole` is set-up and all epochs, those that were not run at the median of the later ones;
    `total` adds start-up and what comes after, `process` is what the whole process took.
    """
    laps = [train + rest for train, rest in zip(run["epochs"], run["validation"], strict=True)]
    later = statistics.median(laps[1:])
    whole = run["setup"] + sum(laps) + (epochs - len(laps)) * later
    steps = statistics.median(run["epochs"][1:])
    total = run["startup"] + whole + run["after"]
    plain = {name: run[name] for name in ("startup", "setup", "after", "process")}
    return {"whole": whole, "later": later, "steps": steps, "first": laps[0], "total": total, **plain}


def table(rows: Sequence[dict[str, Any]], epochs: int) -> str:
    """Ratios to ours first: above 1, the other takes longer."""
    shared = min(row["measured"] for row in rows if "failed" not in row)
    columns = [
        "",
        "data",
        f"{epochs} epochs ÷ ours",
        "later epoch ÷ ours",
        f"{epochs} epochs (s)",
        *(f"{name} (s)" for name in TAKEN.values()),
    ]
    columns += [f"accuracy, epoch {shared}", "at the end", "runs × epochs"]
    cells = [_failed(row, len(columns)) if "failed" in row else _cells(row, rows[0], shared, epochs) for row in rows]
    return markdown(columns, cells, texts=2)


def _cells(row: dict[str, Any], ours: dict[str, Any], shared: int, epochs: int) -> list[str]:
    ratios = [times(row[name] / ours[name]) for name in ("whole", "later")]
    taken = [digits(row[name]) for name in ("whole", *TAKEN)]
    end = f"{row['quality'][-1]:.3f}" if row["measured"] == epochs else "–"
    return [row["tool"], row["data"], *ratios, *taken, f"{row['quality'][shared - 1]:.3f}", end, f"{len(row['runs'])} × {row['measured']}"]


def _failed(row: dict[str, Any], columns: int) -> list[str]:
    return [row["tool"], row["data"], f"failed: {row['failed']}", *[""] * (columns - 3)]
