"""What a run costs to hold and to run, beside what it scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PREFIXES = ("", " k", " M", " G", " T")


@dataclass(frozen=True)
class Cost:
    """One run's costs; None where it is not known."""

    parameters: int | None = None
    multiply_adds: int | None = None  # of one clip
    bytes: int | None = None  # of the file of weights
    sparsity: float | None = None  # share of the weights that are zero
    seconds: float | None = None  # one clip, on the machine that compares


@dataclass(frozen=True)
class Kind:
    """How one cost is called in a table and along an axis, and how it is written."""

    label: str
    axis: str
    form: Callable[[float], str]


def significant(value: float) -> str:
    """Three digits that count: 2236682 -> 2240000, 0.02345 -> 0.0234."""
    return f"{float(f'{value:.3g}'):.12g}"


def short(value: float) -> str:
    """2,236,682 -> 2.24 M."""
    rounded = float(f"{value:.3g}")
    power = min(int(math.log10(rounded)) // 3, len(PREFIXES) - 1) if rounded >= 1 else 0
    return f"{significant(rounded / 1000**power)}{PREFIXES[power]}"


def _megabytes(value: float) -> str:
    return f"{significant(value / 1e6)} MB"


def _milliseconds(value: float) -> str:
    return f"{significant(1000 * value)} ms"


def _percent(value: float) -> str:
    return f"{significant(100 * value)}%"


KINDS: dict[str, Kind] = {
    "parameters": Kind("parameters", "parameters", short),
    "multiply_adds": Kind("multiply-adds", "multiply-adds a clip", short),
    "bytes": Kind("on disk", "size on disk", _megabytes),
    "sparsity": Kind("sparsity", "sparsity: share of the weights that are zero", _percent),
    "seconds": Kind("time a clip", "time a clip on this machine", _milliseconds),
}


def known(costs: Mapping[str, Cost]) -> list[str]:
    """The kinds of cost that are there for some run, in the table's order; a sparsity of 0 is none."""
    return [kind for kind in KINDS if any(getattr(cost, kind) for cost in costs.values())]


def written(cost: Cost | None, kind: str) -> str:
    """One cost for a reader; empty where it is not known."""
    value = getattr(cost, kind, None)
    return "" if value is None else KINDS[kind].form(value)
