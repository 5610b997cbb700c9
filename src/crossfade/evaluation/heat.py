"""What is taken for what: the confusion matrix as a table of counts, or, of many classes, as a map with the pairs that matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from crossfade.evaluation.figures import tag

DENSE = 12  # classes above which the cells are small and show counts only
CROWDED = 30  # classes above which nobody could read a table: a map and a list instead
PAIRS = 25  # of the list, most frequent first
SHADES = 8


@dataclass(frozen=True)
class Cell:
    """Clips of one class named as one: how many, what share of the row, and whether the cell is dark."""

    count: int
    share: float
    kind: str
    strong: bool


@dataclass(frozen=True)
class Row:
    """One true class."""

    name: str
    total: int
    cells: list[Cell]


@dataclass(frozen=True)
class Pair:
    """One true class, what it was taken for, how often, and of how many."""

    true: str
    said: str
    count: int
    total: int


def rows(summary: dict) -> list[Row]:
    """Every class that occurs, with a cell for every one."""
    counts, names = _present(summary)
    shares = _shares(counts)
    return [
        Row(names[i], int(counts[i].sum()), [_cell(counts[i, j], shares[i, j], i == j) for j in range(len(names))])
        for i in range(len(names))
    ]


def pairs(summary: dict) -> list[Pair]:
    """The most frequent confusions."""
    counts, names = _present(summary)
    wrong = counts * (1 - np.eye(len(names), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    found = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    return [Pair(names[i], names[j], int(counts[i, j]), int(counts[i].sum())) for i, j in found]


def area(summary: dict) -> Markup:
    """One square a cell, darker for a greater share of its row; a path for each shade, so that 1000 classes still fit."""
    counts, names = _present(summary)
    shade = np.ceil(_shares(counts) * SHADES).astype(int)
    own = np.eye(len(names), dtype=bool)
    drawn = [
        tag("path", class_=kind, d=_squares(here & (shade == level)), fill_opacity=level / SHADES)
        for kind, here in (("right", own), ("wrong", ~own))
        for level in range(1, SHADES + 1)
        if (here & (shade == level)).any()
    ]
    side = len(names)
    field = tag("rect", class_="field", width=side, height=side)
    return tag("svg", field, *drawn, viewBox=f"0 0 {side} {side}", role="img", aria_label="confusion matrix", class_="area")


def _squares(where: np.ndarray) -> str:
    return "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(where))


def _present(summary: dict) -> tuple[np.ndarray, list[str]]:
    """The counts (K, K) and names of the classes that occur, as true or as said."""
    counts = np.array(summary["confusion"])
    kept = np.flatnonzero(counts.sum(0) + counts.sum(1))
    return counts[np.ix_(kept, kept)], [summary["classes"][i] for i in kept]


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def _cell(count: int, share: float, right: bool) -> Cell:
    return Cell(int(count), float(share), "right" if right else "wrong", share > 0.55)
