"""The table of predictions, the source of every number: one row a clip, written and read back exactly."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossfade.clip import UserError
from crossfade.evaluation.writing import whole

COLUMNS = ["clip", "group", "domain", "split", "true", "predicted"]
SUM_TOLERANCE = 1e-3  # a softmax in float16 sums to 1 within this


@dataclass(frozen=True, eq=False)
class Predictions:
    """N clips and what a model said of each. UserError when a length, a label or a probability cannot be right."""

    clip: list[str]
    group: list[str]
    domain: list[str]
    split: list[str]
    true: np.ndarray  # int64 (N,), index into classes, -1 = unknown
    probability: np.ndarray  # float64 (N, C), rows sum to 1
    classes: list[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "true", np.asarray(self.true, dtype=np.int64).reshape(-1))
        table = np.asarray(self.probability, dtype=np.float64)
        object.__setattr__(self, "probability", table if len(table) else np.zeros((0, len(self.classes))))
        _check_shape(self)
        _check_values(self)

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of every clip, int64 (N,); the first of equals."""
        return self.probability.argmax(axis=1)

    def select(self, mask: np.ndarray) -> Predictions:
        """The clips under a bool (N,), or at an integer (M,), in that order."""
        rows = np.arange(len(self))[mask]
        clip, group, domain, split = ([column[i] for i in rows] for column in (self.clip, self.group, self.domain, self.split))
        return Predictions(clip, group, domain, split, self.true[rows], self.probability[rows], self.classes)

    def where(self, *, split: str) -> Predictions:
        """The clips of one split: "val" or "test"."""
        return self.select(np.array([s == split for s in self.split], dtype=bool))

    def known(self) -> Predictions:
        """The clips whose true class is known: the only ones that can be judged."""
        return self.select(self.true >= 0)

    def write(self, path: Path | str) -> None:
        """Write the CSV in one step (UTF-8): names for classes, floats with every digit, so that reading gives equal numbers."""
        with whole(path) as file:
            # names are quoted always: the csv module leaves a bare carriage return in a file name unquoted otherwise
            csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(_rows(self))

    @staticmethod
    def read(path: Path | str) -> Predictions:
        """Read what `write` wrote. UserError names the file, the line and the column of what does not fit."""
        try:
            with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                reader = csv.reader(file)
                header = next(reader, [])
                lines = [(reader.line_num, row) for row in reader if row]
        except (OSError, csv.Error) as error:
            raise UserError(f"{path}: cannot be read as a table of predictions: {error}") from error
        return _parse(path, _classes(path, header), lines)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Pool the folds of a cross-validation into one table. UserError when classes differ or a clip was predicted twice."""
    if not parts:
        raise UserError("there are no predictions to pool: give at least one table")
    for part in parts:
        if part.classes != parts[0].classes:
            raise UserError(f"tables with different classes cannot be pooled: {parts[0].classes} and {part.classes}")
    names = ("clip", "group", "domain", "split")
    clip, group, domain, split = ([value for part in parts for value in getattr(part, name)] for name in names)
    true, probability = (np.concatenate([getattr(part, name) for part in parts]) for name in ("true", "probability"))
    return once(Predictions(clip, group, domain, split, true, probability, parts[0].classes))


def once(table: Predictions, name: str = "predictions") -> Predictions:
    """The table itself; UserError when it holds a clip more than once."""
    clip, times = Counter(table.clip).most_common(1)[0] if len(table) else ("", 0)
    if times > 1:
        raise UserError(f"{name}: clip {clip!r} was predicted {times} times; every clip may count once (select one split first)")
    return table


def _check_shape(table: Predictions) -> None:
    count, classes = len(table.clip), len(table.classes)
    lengths = {name: len(getattr(table, name)) for name in ("group", "domain", "split", "true", "probability")}
    for name, length in lengths.items():
        if length != count:
            raise UserError(f"predictions: {count} clips but {length} entries in {name}")
    if table.probability.shape != (count, classes):
        raise UserError(f"predictions: probability has shape {table.probability.shape}, expected {(count, classes)} for {classes} classes")
    if not classes or len(set(table.classes)) != classes:
        raise UserError(f"predictions: class names must be given and differ, found {table.classes}")


def _check_values(table: Predictions) -> None:
    if not len(table):
        return
    rows = table.probability
    bad = ~np.isfinite(rows).all(1) | (rows < 0).any(1) | (np.abs(rows.sum(1) - 1) > SUM_TOLERANCE)
    if bad.any():
        first = int(bad.argmax())
        raise UserError(f"predictions: clip {table.clip[first]!r} has {rows[first].tolist()}, expected probabilities that sum to 1")
    if table.true.min() < -1 or table.true.max() >= len(table.classes):
        raise UserError(f"predictions: true labels must lie in -1..{len(table.classes) - 1}")


def _rows(table: Predictions) -> Iterator[list[str | float]]:
    yield [*COLUMNS, *(f"p_{name}" for name in table.classes)]
    true, predicted = (np.array([*table.classes, ""], dtype=object)[codes] for codes in (table.true, table.predicted))
    yield from (
        [*names, *row]
        for *names, row in zip(table.clip, table.group, table.domain, table.split, true, predicted, table.probability.tolist(), strict=True)
    )


def _classes(path: Path | str, header: list[str]) -> list[str]:
    for name, found in zip(COLUMNS, header + [""] * len(COLUMNS), strict=False):
        if name != found:
            raise UserError(f"{path}: expected the column {name!r}, found {found!r}; the columns are {', '.join(COLUMNS)}, p_<class> …")
    for found in header[len(COLUMNS) :]:
        if not found.startswith("p_"):
            raise UserError(f"{path}: column {found!r} should be p_<class>, the probability of a class")
    return [name.removeprefix("p_") for name in header[len(COLUMNS) :]]


def _parse(path: Path | str, classes: list[str], lines: list[tuple[int, list[str]]]) -> Predictions:
    codes = {name: index for index, name in enumerate(classes)} | {"": -1}
    for line, row in lines:
        if len(row) != len(COLUMNS) + len(classes):
            raise UserError(f"{path} line {line}: {len(row)} fields, the header has {len(COLUMNS) + len(classes)}")
        if row[4] not in codes:
            raise UserError(f"{path} line {line}, column true: {row[4]!r} is none of the classes {', '.join(classes)}")
    probability = np.array([_numbers(path, line, classes, row[len(COLUMNS) :]) for line, row in lines], dtype=np.float64)
    clip, group, domain, split = ([row[i] for _, row in lines] for i in range(4))
    try:
        table = Predictions(clip, group, domain, split, np.array([codes[row[4]] for _, row in lines]), probability, classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    _check_predicted(path, table, lines)
    return table


def _numbers(path: Path | str, line: int, classes: list[str], fields: list[str]) -> list[float]:
    numbers = []
    for name, text in zip(classes, fields, strict=True):
        try:
            numbers.append(float(text))
        except ValueError as error:
            raise UserError(f"{path} line {line}, column p_{name}: {text!r} is not a number") from error
    return numbers


def _check_predicted(path: Path | str, table: Predictions, lines: list[tuple[int, list[str]]]) -> None:
    for (line, row), code in zip(lines, table.predicted, strict=True):
        if row[5] != table.classes[code]:
            raise UserError(f"{path} line {line}, column predicted: {row[5]!r}, but the most probable class is {table.classes[code]!r}")
