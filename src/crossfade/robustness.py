"""How well runs hold as the sound gets noisier: each is judged on its test clips at one level of noise after another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossfade import run as verbs
from crossfade.clip import UserError
from crossfade.comparison import names_of
from crossfade.evaluation import METRICS
from crossfade.evaluation.intervals import Table
from crossfade.evaluation.intervals import compare as compared
from crossfade.evaluation.robustness import write_page
from crossfade.evaluation.tables import Answers
from crossfade.recipe import Recipe, one_of
from crossfade.screen import Terminal

AXIS = "signal-to-noise ratio in dB"


@dataclass(frozen=True)
class Level:
    """All runs on the same clips at one level (dB; infinity: nothing was added)."""

    decibels: float
    table: Table


@dataclass(frozen=True)
class Robustness:
    """One target's metric of several runs, level by level, the cleanest first."""

    target: str
    metric: str
    levels: list[Level]

    @property
    def curves(self) -> dict[str, list[tuple[float, float, float | None, float | None]]]:
        """Run -> (level, value, low, high)."""
        found: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
        for level in self.levels:
            for score in level.table.scores:
                found.setdefault(score.name, []).append((level.decibels, score.value, score.low, score.high))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A row a run, a column a level: what a terminal shows."""
        return [
            {"run": name} | {_word(level): f"{value:.3f}{_ends(low, high, '')}" for level, value, low, high in curve}
            for name, curve in self.curves.items()
        ]

    def sentences(self) -> list[str]:
        """Every pair of runs at every level."""
        return [
            f"{_word(level.decibels)}: {pair.a} − {pair.b}: {pair.difference:+.3f}{_ends(pair.low, pair.high)}: {pair.verdict}"
            for level in self.levels
            for pair in level.table.pairs
        ]

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"run": name, "level": None if math.isinf(level) else level, "value": value, "low": low, "high": high}
            for name, curve in self.curves.items()
            for level, value, low, high in curve
        ]
        return {"target": self.target, "metric": self.metric, "scores": rows, "pairs": self.sentences()}

    def write(self, path: Path) -> None:
        """The curves as a page."""
        first = self.levels[0].table
        basis = f"{first.n_clips} clips of {first.n_groups} groups, the same noise on each in every run"
        label = METRICS[self.metric].label if self.metric in METRICS else self.metric
        write_page(path, f"{self.target} as the sound gets noisier", self.curves, label, AXIS, said=self.sentences(), basis=basis)


def robustness(
    folders: Sequence[Path],
    levels: Sequence[float],
    *,
    stream: str = "audio",
    metric: str = "macro_f1",
    target: str | None = None,
    screen: Terminal | None = None,
) -> Robustness:
    """Judge runs at these signal-to-noise ratios (dB) of white noise added to a stream; a run without the stream hears none of it.

    Each clip has the same noise in every run. Raises UserError where runs do not share test clips.
    """
    screen, names = screen or Terminal(), names_of(folders)
    recipes = [verbs.open_run(folder).recipe for folder in folders]
    one_of(stream, {name: None for recipe in recipes for name in recipe.data.streams}, "--stream")
    runs = zip(names, folders, recipes, strict=True)
    tables = {name: _tables(folder, recipe, stream, levels, target, screen) for name, folder, recipe in runs}
    first = next(iter(tables.values()))
    found = [Level(level, _at({name: table[level] for name, table in tables.items()}, metric)) for level in first]
    return Robustness(target or recipes[0].targets[0], metric, found)


def _tables(
    folder: Path, recipe: Recipe, stream: str, levels: Sequence[float], target: str | None, screen: Terminal
) -> dict[float, Answers]:
    """Level -> the run's answers, clean ones first."""
    if target:
        one_of(target, recipe.targets, f"{folder}: --target")
    hears = stream in recipe.data.streams
    clean = [f"data.degrade.{stream}=[]"] if hears else []
    found = {math.inf: verbs.assess(folder, overrides=clean, screen=screen).tables}
    for level in sorted(levels, reverse=True):
        noise = f"data.degrade.{stream}=[{{use: noise_at_snr, snr: [{level:g}], weights: [1], probability: 1}}]"
        found[level] = verbs.assess(folder, overrides=[noise], screen=screen).tables if hears else found[math.inf]
    return {level: tables[target or recipe.targets[0]] for level, tables in found.items()}


def _at(tables: Mapping[str, Answers], metric: str) -> Table:
    known = {name: table.known() for name, table in tables.items()}
    return compared(known, metric)


def _word(level: float) -> str:
    return "clean" if math.isinf(level) else f"{level:g} dB"


def _ends(low: float | None, high: float | None, sign: str = "+") -> str:
    return "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"


def levels_in(text: str) -> list[float]:
    """ "20,10,0,-10" -> [20.0, 10.0, 0.0, -10.0]. UserError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(level) for level in found):
        raise UserError(f"--levels: found {text!r}; it needs decibels such as 20,10,0,-10")
    return found
