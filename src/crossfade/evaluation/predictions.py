"""The table of predictions, the source of every number: one row a clip, written and read back exactly."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

import numpy as np

from crossfade.clip import UserError
from crossfade.evaluation import METRICS
from crossfade.evaluation.scores import Grouped, Metric, evidence
from crossfade.evaluation.writing import whole

if TYPE_CHECKING:
    from crossfade.evaluation.tags import Tags

Answers: TypeAlias = "Predictions | Tags"  # what a model said of clips: one of the classes, or several at once
AnyTable = TypeVar("AnyTable", bound="Predictions | Tags")
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
    metrics: ClassVar[dict[str, Metric]] = METRICS

    def __post_init__(self) -> None:
        object.__setattr__(self, "true", np.asarray(self.true, dtype=np.int64).reshape(-1))
        table = np.asarray(self.probability, dtype=np.float64)
        object.__setattr__(self, "probability", table if len(table) else np.zeros((0, len(self.classes))))
        check_shape(self)
        _check_values(self)

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of every clip, int64 (N,); the first of equals."""
        return self.probability.argmax(axis=1)

    def select(self, mask: np.ndarray) -> Predictions:
        """The clips under a bool (N,), or at an integer (M,), in that order."""
        return selected(self, mask)

    def where(self, *, split: str) -> Predictions:
        """The clips of one split: "val" or "test"."""
        return self.select(np.array([s == split for s in self.split], dtype=bool))

    def known(self) -> Predictions:
        """The clips whose true class is known: the only ones that can be judged."""
        return self.select(self.true >= 0)

    @property
    def said(self) -> list[str]:
        """The name of the most probable class of every clip."""
        return [self.classes[code] for code in self.predicted]

    @property
    def truth(self) -> list[str]:
        """The name of every clip's true class; "" = unknown."""
        return np.array([*self.classes, ""], dtype=object)[self.true].tolist()

    def evidence(self, group: np.ndarray | None = None) -> Grouped:
        """What its metrics are made of; group index (N,) or None for one group. UserError when no class is known."""
        return evidence(self.true, self.probability, group)

    def reordered(self, classes: list[str]) -> Predictions:
        """The same answers with the same classes in another order."""
        order = [self.classes.index(name) for name in classes]
        return replace(self, true=np.append(np.argsort(order), -1)[self.true], probability=self.probability[:, order], classes=classes)

    def write(self, path: Path | str) -> None:
        """Write the CSV in one step (UTF-8): names for classes, floats with every digit, so that reading gives equal numbers."""
        write_rows(path, self, self.truth, self.said)

    @staticmethod
    def read(path: Path | str) -> Predictions:
        """Read what `write` wrote. UserError names the file, the line and the column of what does not fit."""
        return _parse(path, *read_rows(path))


def selected(table: AnyTable, mask: np.ndarray) -> AnyTable:
    """The clips of any table under a bool (N,), or at an integer (M,), in that order."""
    rows = np.arange(len(table))[mask]
    clip, group, domain, split = ([column[i] for i in rows] for column in (table.clip, table.group, table.domain, table.split))
    true, probability = table.true[rows], table.probability[rows]
    return replace(table, clip=clip, group=group, domain=domain, split=split, true=true, probability=probability)


def concatenate(parts: Sequence[AnyTable]) -> AnyTable:
    """Pool the folds of a cross-validation into one table. UserError when classes differ or a clip was predicted twice."""
    if not parts:
        raise UserError("there are no predictions to pool: give at least one table")
    for part in parts:
        if part.classes != parts[0].classes:
            raise UserError(f"tables with different classes cannot be pooled: {parts[0].classes} and {part.classes}")
    names = ("clip", "group", "domain", "split")
    clip, group, domain, split = ([value for part in parts for value in getattr(part, name)] for name in names)
    true, probability = (np.concatenate([getattr(part, name) for part in parts]) for name in ("true", "probability"))
    return once(replace(parts[0], clip=clip, group=group, domain=domain, split=split, true=true, probability=probability))


def once(table: AnyTable, name: str = "predictions") -> AnyTable:
    """The table itself; UserError when it holds a clip more than once."""
    clip, times = Counter(table.clip).most_common(1)[0] if len(table) else ("", 0)
    if times > 1:
        raise UserError(f"{name}: clip {clip!r} was predicted {times} times; every clip may count once (select one split first)")
    return table


def check_shape(table: Answers) -> None:
    """UserError when columns differ in length, or class names are not given once each."""
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


def write_rows(path: Path | str, table: Answers, true: list[str], said: list[str]) -> None:
    """The CSV of any table, with what is true and what was said in words."""
    with whole(path) as file:
        # names are quoted always: the csv module leaves a bare carriage return in a file name unquoted otherwise
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(_rows(table, true, said))


def _rows(table: Answers, true: list[str], said: list[str]) -> Iterator[list[str | float]]:
    yield [*COLUMNS, *(f"p_{name}" for name in table.classes)]
    columns = (table.clip, table.group, table.domain, table.split, true, said, table.probability.tolist())
    yield from ([*names, *shares] for *names, shares in zip(*columns, strict=True))


def read_rows(path: Path | str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The classes of a CSV, and its rows of as many fields as the header, each with its line. UserError says what does not fit."""
    try:
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table of predictions: {error}") from error
    classes = _classes(path, header)
    for line, row in lines:
        if len(row) != len(header):
            raise UserError(f"{path} line {line}: {len(row)} fields, the header has {len(header)}")
    return classes, lines


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
        if row[4] not in codes:
            raise UserError(f"{path} line {line}, column true: {row[4]!r} is none of the classes {', '.join(classes)}")
    table = assembled(Predictions, path, classes, lines, np.array([codes[row[4]] for _, row in lines]))
    for (line, row), code in zip(lines, table.predicted, strict=True):
        if row[5] != classes[code]:
            raise UserError(f"{path} line {line}, column predicted: {row[5]!r}, but the most probable class is {classes[code]!r}")
    return table


def assembled(kind: type[AnyTable], path: Path | str, classes: list[str], lines: list[tuple[int, list[str]]], true: np.ndarray) -> AnyTable:
    """The rows of a CSV as a table of one kind, once it is known what is true."""
    probability = np.array([_numbers(path, line, classes, row[len(COLUMNS) :]) for line, row in lines], dtype=np.float64)
    clip, group, domain, split = ([row[i] for _, row in lines] for i in range(4))
    try:
        return kind(clip=clip, group=group, domain=domain, split=split, true=true, probability=probability, classes=classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _numbers(path: Path | str, line: int, classes: list[str], fields: list[str]) -> list[float]:
    numbers = []
    for name, text in zip(classes, fields, strict=True):
        try:
            numbers.append(float(text))
        except ValueError as error:
            raise UserError(f"{path} line {line}, column p_{name}: {text!r} is not a number") from error
    return numbers
