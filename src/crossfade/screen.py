"""What a person sees while it works: one bar an epoch with loss and running accuracy; quiet where nobody is looking."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from torch import nn

    from crossfade.evaluation.intervals import Table as Comparisons
    from crossfade.training.loop import Phase

PHASE_WIDTH = 12
HEADLINES = ("macro_f1", "accuracy", "balanced_accuracy")
WIDE = 140  # columns, where output goes to a file


class Terminal:
    """Messages and bars on standard error, so that standard output holds results only."""

    def __init__(self, *, quiet: bool = False):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bars = self.console.is_terminal and not quiet
        self.quiet = quiet
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._title = ""
        self._epochs = 0

    def say(self, text: str, style: str = "") -> None:
        """One line, even when quiet bars are off; warnings come through `warn`."""
        if not self.quiet:
            self.console.print(text, style=style, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    @contextlib.contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar over `total` things; yields a function to call once a thing."""
        self._open(title, total, 0)
        try:
            yield self._advance
        finally:
            self._close()

    def phase(self, phase: Phase, model: nn.Module) -> None:
        learn = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in model.parameters())
        self._epochs = phase.epochs
        self.say(f"phase {phase.name}: {learn:,} of {total:,} parameters learn, up to {phase.epochs} epochs")

    def epoch(self, phase: Phase, epoch: int, steps: int, done: int) -> None:
        self._title = f"{phase.name} {epoch + 1}/{phase.epochs}"
        self._open(self._title, steps, done)

    def step(self, loss: float, accuracy: float) -> None:
        if self._progress:
            self._progress.update(self._task, advance=1, notes=f"loss {loss:.4f}  acc {accuracy:.3f}")

    def scored(self, row: dict[str, Any]) -> None:
        star = " *" if row["best"] else ""
        val = f"val loss {row['val']['nll']:.4f}  macro-F1 {row['val']['macro_f1']:.3f}{star}"
        if self._progress:
            self._progress.update(self._task, notes=f"loss {row['train']['loss']:.4f}  acc {row['train']['accuracy']:.3f}  {val}")
        self._close()

    def kept(self, phase: Phase, best: dict[str, Any]) -> None:
        which = f"epoch {best['epoch']}" if best["epoch"] else "its start: nothing this phase tried was better"
        self.say(f"phase {phase.name}: kept {which} (val score {best['score']:.4f})")

    def _open(self, title: str, total: int, done: int) -> None:
        if not self.bars:
            return
        notes = TextColumn("{task.fields[notes]}")
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(compact=True), notes)
        self._progress = Progress(*columns, console=self.console)
        self._progress.start()
        self._task = self._progress.add_task(title.ljust(PHASE_WIDTH), total=total, completed=done, notes="")

    def _advance(self) -> None:
        if self._progress:
            self._progress.advance(self._task)

    def _close(self) -> None:
        if self._progress:
            self._progress.stop()
        self._progress = None


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """The headline numbers of metrics.json with their intervals, on standard output."""
    table = Table(box=None, pad_edge=False)
    for column in (f"{metrics['target']}", "macro-F1", "accuracy", "balanced acc.", "clips", "groups"):
        table.add_column(column, no_wrap=True)
    for name, found in _parts(metrics):
        table.add_row(name, *(_with_interval(found, metric) for metric in HEADLINES), str(found["n_clips"]), str(found["n_groups"]))
    Console(highlight=False, width=None if Console().is_terminal else WIDE).print(table)


def _parts(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    splits = [(name, metrics[name]) for name in ("train", "val", "test") if name in metrics]
    alone = [(f"test, {name} only" if "+" not in name else f"test, {name}", found) for name, found in metrics.get("streams", {}).items()]
    heads = [(f"{split}, {head}", found) for head, parts in metrics.get("heads", {}).items() for split, found in parts.items()]
    return [*splits, *alone, *heads]


def _with_interval(found: Mapping[str, Any], metric: str) -> str:
    interval = (found.get("intervals") or {}).get(metric)
    return f"{found[metric]:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def print_comparison(compared: Comparisons) -> None:
    """Scores, then paired differences with their verdicts, on standard output."""
    console = Console(highlight=False, width=None if Console().is_terminal else WIDE)
    scores = Table("run", compared.metric, "95 % interval", box=None, pad_edge=False)
    for score in compared.scores:
        scores.add_row(score.name, f"{score.value:.3f}", f"[{score.low:.3f}, {score.high:.3f}]" if score.low is not None else "none")
    console.print(f"{compared.n_clips} clips of {compared.n_groups} groups", markup=False)
    console.print(scores)
    for pair in compared.pairs:
        interval = f" [{pair.low:+.3f}, {pair.high:+.3f}]" if pair.low is not None else ""
        console.print(f"{pair.a} - {pair.b}: {pair.difference:+.3f}{interval}: {pair.verdict}", markup=False)
    for note in compared.notes:
        console.print(note, markup=False)
