"""What a run and the files made of it cost on this machine: size, work, time of one clip and clips a second, all measured in turn."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crossfade.clip import UserError
from crossfade.comparison import timings
from crossfade.deploy import bundle as bundles
from crossfade.deploy import exported, sidecar
from crossfade.deploy.exported import ExportedFile
from crossfade.deploy.ncnn_runner import NcnnRunner
from crossfade.deploy.runner import MASK, RUNNERS, TIME, Runner, Shape, TorchRunner
from crossfade.evaluation.costs import short
from crossfade.models.cost import multiply_adds
from crossfade.models.model import count
from crossfade.run import open_run
from crossfade.screen import Terminal
from crossfade.shipping import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = (1, 2)
BUSY = 0.5  # of a machine's load, from which times are too long
MANY = 8  # clips at once, for throughput
ROUNDS = {1: 100, MANY: 20}
ENOUGH = {1: 12.0, MANY: 8.0}  # seconds, of each number of threads


@dataclass(frozen=True)
class Row:
    """One way to run the model at so many threads. Seconds of one clip; `rate`: clips a second of several at once, None without batches."""

    runs: str
    threads: int
    bytes: int
    parameters: int | None
    multiply_adds: int | None
    p50: float
    p95: float
    rate: float | None


@dataclass(frozen=True)
class Bench:
    """All rows, and whose times these are. `unit`: what is run at a time; `pace`: how many of them a second have to be made, if so."""

    rows: list[Row]
    machine: str
    load: float  # processes that wanted a core as it began
    rounds: int
    unit: str = "clip"
    pace: float | None = None

    def table(self) -> list[dict[str, Any]]:
        """For a terminal."""
        return [_shown(row, self.unit, self.pace) for row in self.rows]

    def sentence(self) -> str:
        busy = f" It was busy with other work (load {self.load:.1f}), so they are too long." if self.load > BUSY else ""
        return f"Times are of this machine alone: {self.machine}; one {self.unit}, up to {self.rounds} rounds, all in turn.{busy}"

    def to_json(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("machine", "load", "rounds", "unit", "pace")}
        return named | {"rows": [asdict(row) for row in self.rows]}


def _shown(row: Row, unit: str = "clip", pace: float | None = None) -> dict[str, Any]:
    return {
        "runs": row.runs,
        "threads": row.threads,
        "size": f"{row.bytes / 1e6:.2f} MB",
        "parameters": "" if row.parameters is None else short(row.parameters),
        "multiply-adds": "" if row.multiply_adds is None else short(row.multiply_adds),
        "p50": f"{1000 * row.p50:.2f} ms",
        "p95": f"{1000 * row.p95:.2f} ms",
        **({f"{unit}s/s": f"{1 / row.p50:.1f}"} if pace else {}),
        f"{unit}s/s, {MANY} at once": "one at a time" if row.rate is None else f"{row.rate:.1f}",
    }


@dataclass(frozen=True)
class Way:
    """One way to run the model. `open`: threads -> a runner."""

    name: str
    bytes: int
    costs: dict[str, int]
    open: Callable[[int], Runner]


def bench(folder: Path, *, screen: Terminal | None = None) -> Bench:
    """Time the run in PyTorch and every file that `export` made of it, at 1 and 2 threads, one clip and several at once."""
    refuse_file(folder)
    return timed([_torch(folder), *files(folder)], screen=screen)


def refuse_file(folder: Path) -> None:
    if exported.is_exported(folder):
        raise UserError(f"{folder}: is an exported file; give the folder of its run, which is timed beside it")


def timed(ways: list[Way], *, unit: str = "clip", pace: float | None = None, screen: Terminal | None = None) -> Bench:
    """All of them in turn, at 1 and 2 threads."""
    rows, load = [], _load()
    with _own_threads(), (screen or Terminal()).counting("timing", len(THREADS)) as step:
        for threads in THREADS:
            rows += _at(ways, threads)
            step()
    order = {way.name: number for number, way in enumerate(ways)}
    return Bench(sorted(rows, key=lambda row: (order[row.runs], row.threads)), machine(), load, ROUNDS[1], unit, pace)


def _torch(folder: Path) -> Way:
    opened = open_run(folder, alone=True)
    opened.model.cpu()
    clip = {name: x.cpu() for name, x in opened.desk.one_clip().items()}
    inputs = {name: Shape((None, *x.shape[1:]), usual=tuple(x.shape)) for name, x in clip.items()}
    inputs |= {name + MASK: Shape((None, x.shape[TIME[x.ndim]]), "bool") for name, x in clip.items()}
    runner = TorchRunner(opened.model, inputs=inputs)
    costs = {"parameters": count(opened.model), "multiply_adds": multiply_adds(opened.model, clip)}
    return in_torch(folder, runner, costs)


def in_torch(folder: Path, runner: TorchRunner, costs: dict[str, int]) -> Way:
    """A run itself."""
    return Way("torch", (folder / bundles.WEIGHTS).stat().st_size, costs, lambda threads: _WithThreads(runner, threads))


def files(folder: Path) -> list[Way]:
    """What `export` made of a run."""
    paths = sorted(path for path in (folder / FOLDER).glob("*") if path.suffix in RUNNERS and sidecar.beside(path).is_file())
    return [_way(exported.read(path)) for path in paths]


def _way(file: ExportedFile) -> Way:
    return Way(file.path.name, file.bytes, file.about.costs, lambda threads: file.runner(threads))


class _WithThreads:
    """PyTorch's threads are of the whole process: they are set before each call."""

    def __init__(self, runner: TorchRunner, threads: int):
        self.runner, self.threads = runner, threads
        self.inputs, self.outputs = runner.inputs, runner.outputs

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        torch.set_num_threads(self.threads)
        return self.runner(arrays)


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _at(ways: list[Way], threads: int) -> list[Row]:
    runners = {way.name: way.open(threads) for way in ways}
    one = _timed(runners, 1)
    many = _timed({name: runner for name, runner in runners.items() if _batches(runner)}, MANY)
    return [_row(way, threads, one[way.name], many.get(way.name)) for way in ways]


def _timed(runners: Mapping[str, Runner], clips: int) -> dict[str, list[float]]:
    batches = {name: _noise(runner, clips) for name, runner in runners.items()}
    calls = {name: (lambda runner=runner, batch=batches[name]: runner(batch)) for name, runner in runners.items()}
    return timings(calls, ROUNDS[clips], ENOUGH[clips])


def _row(way: Way, threads: int, one: list[float], many: list[float] | None) -> Row:
    p50, p95 = np.quantile(one, [0.5, 0.95])
    rate = MANY / float(np.median(many)) if many else None
    return Row(way.name, threads, way.bytes, way.costs.get("parameters"), way.costs.get("multiply_adds"), float(p50), float(p95), rate)


def _batches(runner: Runner) -> bool:
    """Whether it takes several clips at once: files of one clip do not, nor does ncnn."""
    return not isinstance(runner, NcnnRunner) and all(shape.sizes[0] is None for shape in runner.inputs.values())


def _noise(runner: Runner, clips: int) -> dict[str, np.ndarray]:
    """A batch of the usual sizes, real throughout."""
    generator = np.random.default_rng(0)
    return {name: MADE[shape.dtype](generator, (clips, *_sizes(shape))) for name, shape in runner.inputs.items()}


def _sizes(shape: Shape) -> list[int]:
    usual = shape.usual or shape.sizes
    return [size or have or 1 for size, have in zip(shape.sizes[1:], usual[1:], strict=True)]


MADE: dict[str, Any] = {
    "float32": lambda generator, shape: generator.normal(0, 0.1, shape).astype(np.float32),
    "uint8": lambda generator, shape: generator.integers(0, 256, shape, dtype=np.uint8),
    "bool": lambda generator, shape: np.ones(shape, bool),
}


def _load() -> float:
    """0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def machine() -> str:
    """The processor as it calls itself, and how many of its cores there are to use."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"
