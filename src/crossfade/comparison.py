"""Several finished runs against each other, on the clips that all of them saw: what they score and what they cost."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from crossfade.clip import UserError
from crossfade.deploy import bundle as bundles
from crossfade.deploy import exported
from crossfade.deploy.exported import is_exported
from crossfade.evaluation.comparison_page import write_comparison
from crossfade.evaluation.costs import Cost
from crossfade.evaluation.intervals import Table
from crossfade.evaluation.intervals import compare as compare_tables
from crossfade.evaluation.tables import Answers
from crossfade.evaluation.tables import read as read_table

if TYPE_CHECKING:
    from crossfade.run import Opened

WARM_UP, ROUNDS = 3, 30  # clips each; the median is of the rounds
ENOUGH = 20.0  # seconds after which no further round begins


def compare(
    folders: Sequence[Path], *, metric: str = "macro_f1", split: str = "test", report: Path | None = None, time: bool = False
) -> Table:
    """Several runs on the clips that all of them saw: each one's metric and costs, and every pair's difference with its interval.

    `time`: also measure how long each model takes over one clip on this machine.
    """
    if len({folder.resolve() for folder in folders}) < max(len(folders), 2):
        raise UserError("compare: give two different runs or more")
    names = names_of(folders)
    places = dict(zip(names, folders, strict=True))
    tables = {name: _predictions(folder, split).known() for name, folder in places.items()}
    for name, table in tables.items():
        if not len(table):
            raise UserError(f"{name}: has no labelled prediction in split {split!r}")
    table = compare_tables(tables, metric)
    table = replace(table, costs={name: _cost(folder) for name, folder in places.items()})
    table = _timed(table, places) if time else table
    if report:
        write_comparison(report, table, warnings=_warnings(folders))
    return table


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their whole paths where two are called the same."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _predictions(folder: Path, split: str) -> Answers:
    """As the run wrote them; an exported file is judged now."""
    if is_exported(folder):
        from crossfade.run import assess

        tables = assess(folder, split=split).tables
        return next(iter(tables.values()))
    path = folder if folder.is_file() else folder / bundles.PREDICTIONS
    if not path.is_file():
        raise UserError(f"{folder}: has no {bundles.PREDICTIONS}; give finished runs, or such tables")
    return read_table(path).where(split=split)


def _notes(folder: Path) -> dict[str, Any]:
    path = folder / bundles.NOTES
    return bundles.read_json(path) if path.is_file() else {}


def _cost(folder: Path) -> Cost:
    """What the run or the exported file noted of itself, and the size of its weights' file."""
    if is_exported(folder):
        made = exported.read(folder)
        return Cost(**made.about.costs, bytes=made.bytes)
    notes, weights = _notes(folder), folder / bundles.WEIGHTS
    return Cost(
        parameters=dict(notes.get("parameters", [])).get("total"),
        multiply_adds=notes.get("multiply_adds"),
        bytes=weights.stat().st_size if weights.is_file() else None,
        sparsity=notes.get("sparsity"),
    )


def _warnings(folders: Sequence[Path]) -> list[str]:
    return list(dict.fromkeys(warning for folder in folders for warning in _notes(folder).get("warnings", [])))


def _timed(table: Table, places: Mapping[str, Path]) -> Table:
    """The table with the seconds a clip of every run, and a note of how they were measured."""
    import torch

    from crossfade.run import open_run

    opened = {name: open_run(folder, alone=True) for name, folder in places.items()}
    with torch.inference_mode():
        seconds, rounds = measure({name: _one_clip(one) for name, one in opened.items()})
    device = next(iter(opened.values())).desk.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the processor with {_threads(torch.get_num_threads())}"
    note = f"Time: the model alone, one clip at a time, on {where}; median of {rounds} rounds in which the runs took turns."
    costs = {name: replace(cost, seconds=seconds[name]) for name, cost in table.costs.items()}
    return replace(table, costs=costs, notes=[*table.notes, note])


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def measure(calls: Mapping[str, Callable[[], object]]) -> tuple[dict[str, float], int]:
    """The median seconds of each call, taken in turn, and of how many rounds."""
    taken = timings(calls, ROUNDS, ENOUGH)
    return {name: median(values) for name, values in taken.items()}, len(next(iter(taken.values())))


def timings(calls: Mapping[str, Callable[[], object]], most: int, enough: float) -> dict[str, list[float]]:
    """The seconds of each call in at most so many rounds, taken in turn so that what slows the machine slows all alike.

    After `enough` seconds no further round begins.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    begun, rounds = clock.perf_counter(), 0
    while rounds < most and (rounds < WARM_UP or clock.perf_counter() - begun < enough):
        for name, call in calls.items():
            start = clock.perf_counter()
            call()
            taken[name].append(clock.perf_counter() - start)
        rounds += 1
    return taken


def _one_clip(opened: Opened) -> Callable[[], object]:
    """A call that runs the model over one clip with all its streams, and waits until it is done."""
    import torch

    device = opened.desk.device
    clip = {name: tensor.to(device) for name, tensor in opened.desk.one_clip().items()}

    def call() -> None:
        opened.model(clip)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call
