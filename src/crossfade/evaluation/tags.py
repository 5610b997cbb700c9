"""The table of predictions where a clip may have several classes at once, or none: one row a clip, written and read back exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from crossfade.clip import SEVERAL, UserError, classes_in
from crossfade.evaluation import TAG_METRICS
from crossfade.evaluation.predictions import assembled, check_shape, read_rows, selected, write_rows
from crossfade.evaluation.scores import Grouped, Metric
from crossfade.evaluation.tag_scores import HALF, evidence

ALLOWED = ({0}, {1}, {0, 1}, {-1})  # what a clip's row of labels may hold


@dataclass(frozen=True, eq=False)
class Tags:
    """N clips and what a model said of each. UserError when a length, a label or a probability cannot be right."""

    clip: list[str]
    group: list[str]
    domain: list[str]
    split: list[str]
    true: np.ndarray  # int8 (N, C), 1 = has the class, 0 = has it not; a row of -1 = unknown
    probability: np.ndarray  # float64 (N, C), each in [0, 1]
    classes: list[str]
    metrics: ClassVar[dict[str, Metric]] = TAG_METRICS

    def __post_init__(self) -> None:
        empty = np.zeros((0, len(self.classes)))
        object.__setattr__(self, "true", np.asarray(self.true if len(self.true) else empty, dtype=np.int8))
        object.__setattr__(self, "probability", np.asarray(self.probability if len(self.probability) else empty, dtype=np.float64))
        check_shape(self)
        _check_values(self)

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def predicted(self) -> np.ndarray:
        """Which classes every clip is said to have, bool (N, C): those more probable than not."""
        return self.probability > HALF

    def select(self, mask: np.ndarray) -> Tags:
        """The clips under a bool (N,), or at an integer (M,), in that order."""
        return selected(self, mask)

    def where(self, *, split: str) -> Tags:
        """The clips of one split: "val" or "test"."""
        return self.select(np.array([s == split for s in self.split], dtype=bool))

    def known(self) -> Tags:
        """The clips whose true classes are known: the only ones that can be judged."""
        return self.select(self.true[:, 0] >= 0)

    @property
    def said(self) -> list[str]:
        """What every clip is said to have: "grazing|walking", or "|"."""
        return [said_of(row, self.classes) for row in self.predicted]

    @property
    def truth(self) -> list[str]:
        """What every clip truly has: "grazing|walking"; "|" = none of the classes, "" = unknown."""
        return [said_of(row, self.classes) if row[0] >= 0 else "" for row in self.true]

    def evidence(self, group: np.ndarray | None = None) -> Grouped:
        """What its metrics are made of; group index (N,) or None for one group. UserError when no class is known."""
        return evidence(self.true, self.probability, group)

    def reordered(self, classes: list[str]) -> Tags:
        """The same answers with the same classes in another order."""
        order = [self.classes.index(name) for name in classes]
        return replace(self, true=self.true[:, order], probability=self.probability[:, order], classes=classes)

    def write(self, path: Path | str) -> None:
        """Write the CSV in one step (UTF-8): names for classes, floats with every digit, so that reading gives equal numbers."""
        write_rows(path, self, self.truth, self.said)

    @staticmethod
    def read(path: Path | str) -> Tags:
        """Read what `write` wrote. UserError names the file, the line and the column of what does not fit."""
        classes, lines = read_rows(path)
        true = np.array([_codes(f"{path} line {line}, column true", row[4], classes) for line, row in lines], dtype=np.int8)
        table = assembled(Tags, path, classes, lines, true)
        for (line, row), said in zip(lines, table.predicted, strict=True):
            if row[5] != said_of(said, classes):
                expected = f"the classes above {HALF:g} are {said_of(said, classes)!r}"
                raise UserError(f"{path} line {line}, column predicted: {row[5]!r}, but {expected}")
        return table


def said_of(row: np.ndarray, classes: list[str]) -> str:
    """0 and 1, or bool, (C,) -> "grazing|walking"; "|" = none."""
    return SEVERAL.join(name for name, has in zip(classes, row, strict=True) if has) or SEVERAL


def _codes(where: str, text: str, classes: list[str]) -> list[int]:
    if not text:
        return [-1] * len(classes)
    names = classes_in(text)
    strange = [name for name in names if name not in classes]
    if strange:
        raise UserError(f"{where}: {strange[0]!r} is none of the classes {', '.join(classes)}")
    return [int(name in names) for name in classes]


def _check_values(table: Tags) -> None:
    odd = next((name for name in table.classes if classes_in(name) != [name]), None)
    if odd is not None:
        raise UserError(f"predictions: class {odd!r} cannot stand in a list; a name has no {SEVERAL!r} and no space around it")
    if table.true.shape != table.probability.shape:
        raise UserError(f"predictions: true has shape {table.true.shape}, expected {table.probability.shape}, a column a class")
    shares = np.array([((row >= 0) & (row <= 1)).all() for row in table.probability], dtype=bool)
    labels = np.array([set(row) in ALLOWED for row in table.true.tolist()], dtype=bool)
    _refuse(table, "has", table.probability, shares, "numbers from 0 to 1")
    _refuse(table, "is labelled", table.true, labels, "0 and 1, or all -1")


def _refuse(table: Tags, verb: str, values: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        first = int(good.argmin())
        raise UserError(f"predictions: clip {table.clip[first]!r} {verb} {values[first].tolist()}, expected {expected}")
