"""Several segments a sample: their answers made into one, and MammAlps' official evaluation of its Benchmark I (arXiv 2503.18223).

The official script (eceo-epfl/MammAlps, evaluation/eval_b1.py) takes the mean or the maximum, over the segments of a sample, of the numbers
in the result file, which are logits: above 0 an action is said to be there, and of species and activities the greatest is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crossfade.clip import UserError
from crossfade.evaluation.class_report import class_report
from crossfade.evaluation.order import Ranking
from crossfade.evaluation.predictions import AnyTable, Predictions, selected
from crossfade.evaluation.scores import FLOOR, mean_of_defined
from crossfade.evaluation.tags import Tags
from crossfade.evaluation.writing import whole

HOW: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mean": lambda rows: rows.mean(0), "max": lambda rows: rows.max(0)}
TASKS = ("ActY", "ActN", "Spe")  # the order of columns in an official result file: activities, actions, species
FIRST = 3  # columns before the predictions: id, sample_id, test_segment_id


def aggregate(table: AnyTable, sample_of: Callable[[str], str], how: str = "mean") -> AnyTable:
    """One row a sample of a table of segments: mean or max of their logits (of one class of many: log-probabilities).

    UserError where segments of one sample differ in what is true, in group, domain or split.
    """
    samples = _members([sample_of(clip) for clip in table.clip])
    firsts = selected(table, np.array([rows[0] for rows in samples.values()], dtype=np.int64))
    logits, reduce = _logits(table), _how(how)
    for name, rows in samples.items():
        _same(table, name, rows)
    made = np.array([reduce(logits[rows]) for rows in samples.values()]).reshape(len(samples), len(table.classes))
    return replace(firsts, clip=list(samples), probability=PROBABILITY[type(table)](made))


def _how(how: str) -> Callable[[np.ndarray], np.ndarray]:
    if how not in HOW:
        raise UserError(f"segments are aggregated by {' or '.join(HOW)}, not by {how!r}")
    return HOW[how]


def _members(names: Sequence) -> dict:
    found: dict = {}
    for row, name in enumerate(names):
        found.setdefault(name, []).append(row)
    return found


def _same(table: Predictions | Tags, name: str, rows: list[int]) -> None:
    truth = table.truth
    for column, values in {"true": truth, "group": table.group, "domain": table.domain, "split": table.split}.items():
        kinds = {values[row] for row in rows}
        if len(kinds) > 1:
            raise UserError(f"sample {name!r}: its segments differ in {column}: {', '.join(map(repr, sorted(kinds)))}")


def _logits(table: Predictions | Tags) -> np.ndarray:
    return LOGIT[type(table)](np.clip(table.probability, FLOOR, 1 - FLOOR))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    return shares / shares.sum(1, keepdims=True)


LOGIT: dict[type, Callable[[np.ndarray], np.ndarray]] = {Predictions: np.log, Tags: lambda p: np.log(p) - np.log1p(-p)}
PROBABILITY: dict[type, Callable[[np.ndarray], np.ndarray]] = {Predictions: _softmax, Tags: lambda z: 1 / (1 + np.exp(-z))}


@dataclass(frozen=True, eq=False)
class Results:
    """A result file: N segments, and of every task what was answered and what is true, each (N, C)."""

    sample: np.ndarray  # int64 (N,)
    segment: np.ndarray  # int64 (N,)
    answers: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]  # 0 and 1

    def aggregated(self, how: str = "mean") -> Results:
        """One row a sample, in rising order of sample."""
        reduce, groups = _how(how), [np.array(rows) for _, rows in sorted(_members(self.sample.tolist()).items())]
        first = np.array([rows[0] for rows in groups], dtype=np.int64)
        answers = {task: np.array([reduce(values[rows]) for rows in groups]) for task, values in self.answers.items()}
        return Results(self.sample[first], self.segment[first], answers, {task: rows[first] for task, rows in self.labels.items()})


def write_results(path: Path | str, tables: Mapping[str, Predictions | Tags], sample_of: Callable[[str], str]) -> list[str]:
    """Write tables of the same segments as a result file, a task each, and return the samples that its numbers stand for.

    The official script wants the tasks in the order of TASKS, and whole numbers for ids: 0, 1, … in the order of first appearance.
    """
    parts = list(tables.values())
    if any(part.clip != parts[0].clip or (np.array(part.truth) == "").any() for part in parts):
        raise UserError(f"{path}: all tasks must judge the same segments in the same order, and know what is true")
    samples = _members([sample_of(clip) for clip in parts[0].clip])
    place = {row: (number, segment) for number, rows in enumerate(samples.values()) for segment, row in enumerate(rows)}
    columns = [_logits(part).tolist() for part in parts] + [_marks(part).tolist() for part in parts]
    with whole(path) as file:
        for row in range(len(parts[0])):
            file.write("\t".join(map(str, (row, *place[row], *(column[row] for column in columns)))) + "\n")
    return list(samples)


def _marks(table: Predictions | Tags) -> np.ndarray:
    """(N, C) of 0 and 1."""
    return table.true if table.true.ndim == 2 else np.eye(len(table.classes), dtype=np.int8)[table.true]


def read_results(path: Path | str, tasks: Sequence[str] = TASKS) -> Results:
    """Read a result file: no header, fields separated by tabs, lists as [0.1, 2.0, …]. UserError names the line that does not fit."""
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a result file: {error}") from error
    rows = [_fields(f"{path} line {number}", line, 2 * len(tasks)) for number, line in enumerate(lines, 1)]
    if not rows:
        raise UserError(f"{path}: an empty result file; expected a line a segment")
    columns = [_stacked(path, [row[FIRST + i] for row in rows], task) for i, task in enumerate([*tasks, *tasks])]
    sample, segment = (np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2))
    answers, labels = (dict(zip(tasks, half, strict=True)) for half in (columns[: len(tasks)], columns[len(tasks) :]))
    return Results(sample, segment, answers, labels)


def _fields(where: str, line: str, lists: int) -> list:
    fields = line.split("\t")
    if len(fields) != FIRST + lists:
        raise UserError(f"{where}: {len(fields)} fields, expected id, sample_id, test_segment_id and {lists} lists")
    try:
        return [*map(int, fields[:FIRST]), *([float(number) for number in text.strip()[1:-1].split(",")] for text in fields[FIRST:])]
    except ValueError as error:
        raise UserError(f"{where}: {error}; expected three whole numbers and lists such as [0.1, 2.0]") from error


def _stacked(path: Path | str, rows: list[list[float]], task: str) -> np.ndarray:
    if len({len(row) for row in rows}) > 1:
        raise UserError(f"{path}: lists of {task} differ in length: {sorted({len(row) for row in rows})}")
    return np.array(rows)


def average_precision(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """0 and 1 (N, C), any numbers (N, C) -> (C,); NaN for a class that does not occur (the official script cannot say, or says 0)."""
    return Ranking(labels, answers, np.zeros(len(labels), dtype=np.int64)).weighted(np.ones((1, 1))).average_precision[0]


def benchmark(results: Results, how: str = "mean", *, several: Sequence[str] = ("ActN",)) -> dict:
    """MammAlps' numbers: "average_precision" (C,) and "map" of every task, what was "true" and "said" (N, C), and "map" of all classes.

    `several`: the tasks of which a sample may have several classes. Classes that do not occur are left out of the means.
    """
    once = results.aggregated(how)
    found = {task: _task(once.labels[task], once.answers[task], task in several) for task in once.answers}
    everything = np.concatenate([task["average_precision"] for task in found.values()])
    return {"tasks": found, "map": float(mean_of_defined(everything[None])[0]), "samples": len(once.sample)}


def _task(labels: np.ndarray, answers: np.ndarray, several: bool) -> dict:
    precision = average_precision(labels, answers)
    best = np.arange(labels.shape[1]) == answers.argmax(1)[:, None]
    said = answers > 0 if several else best
    return {"average_precision": precision, "map": float(mean_of_defined(precision[None])[0]), "true": labels > 0, "said": said}


def official(path: Path | str, tables: Mapping[str, Predictions | Tags]) -> tuple[dict, str]:
    """A result file as the benchmark's own script judges it, by MEAN and by MAX: numbers by task and class, and its reports as text."""
    several = [task for task, table in tables.items() if isinstance(table, Tags)]
    results, numbers, texts = read_results(path, tasks=list(tables)), {}, []
    for how in HOW:
        found = benchmark(results, how, several=several)
        numbers[how] = {"map": found["map"], "samples": found["samples"], "tasks": {}}
        for task, table in tables.items():
            one = found["tasks"][task]
            precision = {
                name: None if np.isnan(value) else float(value) for name, value in zip(table.classes, one["average_precision"], strict=True)
            }
            numbers[how]["tasks"][task] = {"map": one["map"], "average_precision": precision}
            report = class_report(one["true"], one["said"], table.classes, several=task in several)
            texts.append(f"{task}, {how} of the segments, mAP {one['map']:.3f}\n\n{report}")
    return numbers, "\n".join(texts)
