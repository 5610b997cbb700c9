"""What a person sees while it works: one bar an epoch with loss and running accuracy; quiet where nobody is looking."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from torch import nn

    from crossfade.evaluation.intervals import Score
    from crossfade.evaluation.intervals import Table as Comparisons
    from crossfade.training.loop import Phase

TITLE_WIDTH, BAR_WIDTH = 14, 20  # columns; the widest line is 80
HEADLINES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "balanced_accuracy": "UAR"}
WIDE = 240  # columns, where output goes to a file
ROOMY = 100  # columns from which every number has its interval beside it
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # names of files and classes may hold [ ] and :
MANY_PAIRS = 6  # of runs compared; of more only those with the best run are printed
NAMED = 5  # files that are named one by one before the rest is counted


class Terminal:
    """Messages and bars on standard error, so that standard output holds results only.

    Of several processes (Accelerate, torchrun) the `first` talks, and writes.
    """

    def __init__(self, *, quiet: bool = False):
        self.console = Console(stderr=True, soft_wrap=True, **PLAIN)
        self.first = os.environ.get("RANK", "0") == "0"
        self.quiet = quiet or not self.first
        self.bars = self.console.is_terminal and not self.quiet
        self._log: Path | None = None
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._title = ""
        self._metric = ("macro_f1", HEADLINES["macro_f1"])

    def log_to(self, path: Path | None) -> None:
        """Write every line to this file too, with the time before it, and those of the epochs; a resumed run goes on in it. None: stop."""
        self._log = path if self.first else None

    def say(self, text: str) -> None:
        """One line, unless quiet; warnings come through `warn`."""
        self._write(text)
        if not self.quiet:
            self.console.print(text)

    def warn(self, text: str) -> None:
        self._write(f"warning: {text}")
        if self.first:
            self.console.print(f"warning: {text}", style="yellow")

    def _write(self, text: str) -> None:
        if self._log:
            with self._log.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def left_out(self, files: Sequence[tuple[str, str]]) -> None:
        """Warn of files and why they are not used; of many only the first."""
        for path, reason in files[:NAMED]:
            self.warn(f"left out {path}: {reason}")
        if len(files) > NAMED:
            self.warn(f"left out {len(files) - NAMED} more files")

    @contextlib.contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar over `total` things; yields a function to call once a thing, or with how many at once."""
        self._open(title, total, 0)
        try:
            yield self._advance
        finally:
            self.close()

    def judged_by(self, metric: str, label: str) -> None:
        """Which number of val decides, and what it is called."""
        self._metric = (metric, HEADLINES.get(metric, label))

    def phase(self, phase: Phase, model: nn.Module) -> None:
        if not phase.epochs:
            return
        learn = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in model.parameters())
        self.say(f"phase {phase.name}: {learn:,} of {total:,} parameters learn, up to {phase.epochs} epochs")

    def epoch(self, phase: Phase, epoch: int, steps: int, done: int) -> None:
        self._title = f"{phase.name} {epoch + 1}/{phase.epochs}".ljust(TITLE_WIDTH)
        self._open(self._title, steps, done)

    def step(self, loss: float, accuracy: float | None, steps: int = 1) -> None:
        if self._progress:
            self._progress.update(self._task, advance=steps, notes=f"loss {loss:.4f}{_right(accuracy)}")

    def scored(self, row: dict[str, Any]) -> None:
        """The epoch's bar gives way to a line that stays."""
        self.close()
        metric, label = self._metric
        train, val, star = row["train"], row["val"], " *" if row["best"] else ""
        learnt = f"{clock(row['seconds']):>5}  loss {train['loss']:.4f}{_right(train.get('accuracy'))}"
        lost = f"  val loss {val['nll']:.4f}" if "nll" in val else ""
        line = f"{self._title} {learnt}{lost}  {label} {val[metric]:.3f}{star}"
        self._write(line)
        if self.bars:
            self.console.print(line)

    def kept(self, phase: Phase, best: dict[str, Any]) -> None:
        from crossfade.training.loop import LAST

        if not phase.epochs:
            return
        which = f"epoch {best['epoch']}" if best["epoch"] else "its start, which no epoch bettered"
        own = getattr(phase.select, "name", None)
        by = f"{HEADLINES.get(own, own)} {best['score']:.3f}" if own else f"{self._metric[1]} on val {abs(best['score']):.3f}"
        by = by if own != LAST else "its last, as asked"
        self.say(f"phase {phase.name}: kept {which} ({by})")

    def close(self) -> None:
        """Take the bar away, if there is one, and give the cursor back."""
        if self._progress:
            self._progress.stop()
        self._progress = None

    def _open(self, title: str, total: int, done: int) -> None:
        if not self.bars:
            return
        notes = TextColumn("{task.fields[notes]}", markup=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            notes,
        )
        self._progress = Progress(*columns, console=self.console, transient=True)
        self._progress.start()
        self._task = self._progress.add_task(title, total=total, completed=done, notes="")

    def _advance(self, count: int = 1) -> None:
        if self._progress:
            self._progress.advance(self._task, count)


def _right(accuracy: float | None) -> str:
    return "" if accuracy is None else f"  acc {accuracy:.3f}"


def clock(seconds: float) -> str:
    """3.2s, 41.0s, 12:05 (minutes:seconds)."""
    return f"{seconds:.1f}s" if seconds < 59.95 else f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _width() -> int:
    """Columns of standard output; where it is no terminal, nothing is wrapped or cut."""
    console = Console(**PLAIN)
    return console.width if console.is_terminal else WIDE


def _show(table: Table, width: int) -> None:
    console = Console(width=width, **PLAIN)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """The headline numbers of metrics.json, with their intervals as far as there is room, on standard output."""
    width = _width()
    table = Table(box=None, pad_edge=False)
    for column in (metrics["target"], *HEADLINES.values(), "clips", "groups"):
        table.add_column(column, no_wrap=True)
    shown = list(HEADLINES) if width >= ROOMY else list(HEADLINES)[:1]
    for name, found in _parts(metrics):
        values = [_with_interval(found, metric) if metric in shown else f"{found[metric]:.3f}" for metric in HEADLINES]
        table.add_row(name, *values, str(found["n_clips"]), str(found["n_groups"]))
    _show(table, width)


def _parts(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    named = {"train": "train", "val": "val", "test": "test", "before": "test, before adaptation", "source": "test of the source"}
    splits = [(shown, metrics[name]) for name, shown in named.items() if name in metrics]
    alone = [(f"test, {name}" if "+" in name else f"test, {name} only", found) for name, found in metrics.get("streams", {}).items()]
    heads = [(f"{split}, {head}", found) for head, parts in metrics.get("heads", {}).items() for split, found in parts.items()]
    return [*splits, *alone, *heads]


def _with_interval(found: Mapping[str, Any], metric: str) -> str:
    interval = (found.get("intervals") or {}).get(metric)
    return f"{found[metric]:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def print_comparison(compared: Comparisons) -> None:
    """Scores, then paired differences with their verdicts, on standard output."""
    from crossfade.evaluation.scores import MANY_CLIPS  # which imports numpy

    digits = 4 if compared.n_clips >= MANY_CLIPS else 3
    print(f"{compared.n_clips} clips of {compared.n_groups} {'group' if compared.n_groups == 1 else 'groups'}")
    for table in _score_tables(compared, digits, roomy=_width() >= ROOMY):
        _show(table, _width())
    shown = [pair for pair in compared.pairs if len(compared.pairs) <= MANY_PAIRS or pair.a == compared.scores[0].name]
    for pair in shown:
        interval = f" [{pair.low:+.{digits}f}, {pair.high:+.{digits}f}]" if pair.low is not None else ""
        print(f"{pair.a} - {pair.b}: {pair.difference:+.{digits}f}{interval}: {pair.verdict}")
    if len(shown) < len(compared.pairs):
        print(f"{len(compared.pairs) - len(shown)} pairs without {compared.scores[0].name}: --json and --report have them")
    for note in compared.notes:
        print(note)


def _score_tables(compared: Comparisons, digits: int, *, roomy: bool) -> list[Table]:
    """Scores and costs side by side where there is room, else one under the other."""
    from crossfade.evaluation.costs import KINDS, known, written

    kinds = known(compared.costs)
    measured = ("run", HEADLINES.get(compared.metric, compared.metric), "95 % interval")
    costs = [KINDS[kind].label for kind in kinds]
    found = {score.name: (f"{score.value:.{digits}f}", _ends(score, digits)) for score in compared.scores}
    priced = {name: tuple(written(compared.costs.get(name), kind) for kind in kinds) for name in found}
    if roomy or not kinds:
        return [_columns((*measured, *costs), [(name, *found[name], *priced[name]) for name in found])]
    return [
        _columns(measured, [(name, *found[name]) for name in found]),
        _columns(("run", *costs), [(name, *priced[name]) for name in found]),
    ]


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The first column folds where it must; all the others are numbers."""
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, no_wrap=number > 0, overflow="fold", justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _ends(score: Score, digits: int) -> str:
    return "none" if score.low is None or score.high is None else f"[{score.low:.{digits}f}, {score.high:.{digits}f}]"


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of one shape as columns on standard output."""
    table = Table(box=None, pad_edge=False)
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else _plain(value) for value in row.values()))
    _show(table, _width())


def _plain(value: Any) -> str:
    """A value as a recipe would say it: nothing for None, options as key=value."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={each if isinstance(each, str) else json.dumps(each)}" for key, each in value.items())
    return "" if value is None else str(value)
