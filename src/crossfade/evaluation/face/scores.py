"""The table that every number of a talking face comes from: one row a frame, judged over whole groups of clips."""

from __future__ import annotations

import csv
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from crossfade.clip import UserError
from crossfade.evaluation.face import MEASURES, pictures
from crossfade.evaluation.intervals import NO_DIFFERENCE, Comparison, bounds, note
from crossfade.evaluation.writing import whole

Name = TypeVar("Name", bound=Hashable)
COLUMNS = ["clip", "group", "split", "frame"]
RESAMPLES = 2000


def score(output: np.ndarray, target: np.ndarray, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures (T, 3, S, S) of one clip, −1 … 1, and the frames' numbers (T,) -> by name (T,), as evaluation.face.MEASURES names them."""
    mouth = pictures.mouth(output.shape[-1])
    face, lips = pictures.similarities(output, target, (None, mouth))
    return {
        "psnr": pictures.psnr(output, target),
        "ssim": face,
        "mae": pictures.mae(output, target),
        "mouth_psnr": pictures.psnr(output, target, mouth),
        "mouth_ssim": lips,
        "mouth_mae": pictures.mae(output, target, mouth),
        "temporal": pictures.temporal(output, target, frames),
        "mouth_temporal": pictures.temporal(output, target, frames, mouth),
    }


def sensitivity(right: np.ndarray, shifted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How much the mouth's mean error grows when the sound is shifted: (T, 3, S, S) thrice -> (T,); above 0 where the sound is used."""
    mouth = pictures.mouth(target.shape[-1])
    return pictures.mae(shifted, target, mouth) - pictures.mae(right, target, mouth)


@dataclass(frozen=True)
class ShiftCurve:
    """The mouth's mean error by how many frames the sound came late; `best` is where it is least, 0 = in step."""

    shifts: list[int]
    errors: list[float]
    best: int


def by_shift(errors: Mapping[int, np.ndarray]) -> ShiftCurve:
    """Shift in frames -> mouth_mae (T,), of the same frames each."""
    means = {shift: float(np.nanmean(errors[shift])) for shift in sorted(errors)}
    if not means:
        return ShiftCurve([], [], 0)
    return ShiftCurve(list(means), list(means.values()), min(means, key=lambda shift: (means[shift], abs(shift))))


@dataclass(frozen=True, eq=False)
class FrameScores:
    """N judged frames. UserError when columns differ in length, or a frame of a clip comes twice."""

    clip: list[str]
    group: list[str]
    split: list[str]
    frame: np.ndarray  # int64 (N,)
    values: dict[str, np.ndarray]  # float64 (N,) each; NaN where not defined, as movement is in a first frame

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", np.asarray(self.frame, dtype=np.int64).reshape(-1))
        object.__setattr__(self, "values", {name: np.asarray(column, dtype=np.float64) for name, column in self.values.items()})
        lengths = {"group": len(self.group), "split": len(self.split), "frame": len(self.frame)}
        for name, length in (lengths | {name: len(column) for name, column in self.values.items()}).items():
            if length != len(self):
                raise UserError(f"scores of frames: {len(self)} clips but {length} entries in {name}")
        if len(set(self._keys())) < len(self):
            raise UserError("scores of frames: a frame of a clip is there twice; every frame may count once")

    def __len__(self) -> int:
        return len(self.clip)

    def _keys(self) -> list[tuple[str, int]]:
        return list(zip(self.clip, self.frame.tolist(), strict=True))

    def select(self, rows: np.ndarray) -> FrameScores:
        """The frames under a bool (N,), or at an integer (M,), in that order."""
        kept = np.arange(len(self))[rows]
        clip, group, split = ([column[i] for i in kept] for column in (self.clip, self.group, self.split))
        return FrameScores(clip, group, split, self.frame[kept], {name: column[kept] for name, column in self.values.items()})

    def where(self, split: str) -> FrameScores:
        """The frames of one split."""
        return self.select(np.array([name == split for name in self.split], dtype=bool))

    def write(self, path: Path | str) -> None:
        """predictions.csv in one step: names, the frame's number, then the numbers with every digit; empty where not defined."""
        with whole(path) as file:
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow([*COLUMNS, *self.values])
            numbers = zip(*([_cell(value) for value in column.tolist()] for column in self.values.values()), strict=True)
            names = zip(self.clip, self.group, self.split, self.frame.tolist(), strict=True)
            writer.writerows([*row, *cells] for row, cells in zip(names, numbers, strict=True))

    @staticmethod
    def read(path: Path | str) -> FrameScores:
        """What `write` wrote. UserError names the file and the line of what does not fit."""
        return _parse(Path(path))


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value


def _parse(path: Path) -> FrameScores:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, csv.Error, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table of frames: {error}") from error
    if header[: len(COLUMNS)] != COLUMNS:
        raise UserError(f"{path}: the first columns are {', '.join(header[:4])}; expected {', '.join(COLUMNS)}")
    cells = [_numbers(path, line, header, row) for line, row in enumerate(rows, 2)]
    clip, group, split = ([row[i] for row in rows] for i in range(3))
    table = np.array(cells, dtype=np.float64).reshape(len(rows), len(header) - 3)
    columns = {name: table[:, i] for i, name in enumerate(header[len(COLUMNS) :], 1)}
    return FrameScores(clip, group, split, table[:, 0].astype(np.int64), columns)


def _numbers(path: Path, line: int, header: list[str], row: list[str]) -> list[float]:
    """The frame's number and all that follow it."""
    try:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} fields, the header has {len(header)}")
        return [int(row[3]), *(float(cell or "nan") for cell in row[len(COLUMNS) :])]
    except ValueError as error:
        raise UserError(f"{path} line {line}: {error}") from error


def concatenate(parts: Sequence[FrameScores]) -> FrameScores:
    """All frames of several tables, with the columns that all of them have."""
    if not parts:
        raise UserError("there are no scores of frames to put together: give at least one table")
    names = [name for name in parts[0].values if all(name in part.values for part in parts)]
    clip, group, split = ([entry for part in parts for entry in getattr(part, column)] for column in COLUMNS[:3])
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in names}
    return FrameScores(clip, group, split, np.concatenate([part.frame for part in parts]), values)


def by_clip(table: FrameScores, name: str) -> dict[str, float]:
    """Clip -> the mean of its frames, in the order of the table; NaN where it is defined in none."""
    return dict(zip(*_means(table.clip, table.values[name]), strict=True))


def by_group(table: FrameScores, name: str) -> dict[str, float]:
    """Group -> the mean of its clips, each the mean of its frames; a clip may have frames of several groups."""
    both, means = _means(list(zip(table.group, table.clip, strict=True)), table.values[name])
    return dict(zip(*_means([group for group, _ in both], np.array(means)), strict=True))


def _means(names: list[Name], values: np.ndarray) -> tuple[list[Name], list[float]]:
    """What each name's values are on average, NaN left out; names in the order in which they come."""
    order = {name: code for code, name in enumerate(dict.fromkeys(names))}
    codes, defined = np.array([order[name] for name in names], dtype=np.int64), ~np.isnan(values)
    sums = np.bincount(codes, weights=np.where(defined, values, 0.0), minlength=len(order))
    counts = np.bincount(codes[defined], minlength=len(order))
    return list(order), np.divide(sums, counts, out=np.full(len(order), np.nan), where=counts > 0).tolist()


def summary(table: FrameScores, *, seed: int = 0, resamples: int = RESAMPLES) -> dict:
    """What metrics.json says of a split, in the shape that other runs have: a plain number by name, and its interval under "intervals".

    A number is the mean over groups of the mean over clips of the mean over frames. UserError when there is no frame.
    """
    if not len(table):
        raise UserError("there is nothing to judge: no frame was scored")
    groups = list(dict.fromkeys(table.group))
    means = {name: np.array([found[group] for group in groups]) for name in table.values for found in [by_group(table, name)]}
    return {
        **{name: _mean(values) for name, values in means.items()},
        "intervals": {name: _interval(values, seed, resamples) for name, values in means.items()},
        "n_frames": len(table),
        "n_clips": len(set(table.clip)),
        "n_groups": len(groups),
        "notes": [text for text in (note(len(groups)),) if text],
    }


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _interval(values: np.ndarray, seed: int, resamples: int) -> list[float] | None:
    """The 95 % interval of the mean over groups (G,), NaN left out; None of fewer than two."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    counts = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    return list(bounds(counts @ values / len(values), len(values)))


def compare(
    a: FrameScores, b: FrameScores, metric: str, *, names: tuple[str, str] = ("A", "B"), seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """a − b on the frames that both have, with an interval over the groups, each drawn for both at once."""
    left, right = _shared(a, b, metric, names)
    first, second = (np.array(list(by_group(table, metric).values())) for table in (left, right))
    difference, ends = first - second, _interval(first - second, seed, resamples)
    low, high = ends or (None, None)
    verdict, clips, groups = _verdict(metric, ends, names), len(set(left.clip)), len(difference)
    means = float(first.mean()), float(second.mean()), float(difference.mean())
    return Comparison(metric, *names, *means, low, high, clips, groups, verdict, note(groups))


def _shared(a: FrameScores, b: FrameScores, metric: str, names: tuple[str, str]) -> tuple[FrameScores, FrameScores]:
    """Both cut to the frames for which both have this number, in one order."""
    rows = [_defined(table, metric, name) for table, name in zip((a, b), names, strict=True)]
    common = sorted(rows[0].keys() & rows[1].keys())
    if not common:
        raise UserError(f"{names[0]} and {names[1]}: no frame was judged by {metric} in both; compare what was judged on the same clips")
    left, right = (table.select(np.array([row[key] for key in common])) for table, row in zip((a, b), rows, strict=True))
    for clip, group, other in zip(left.clip, left.group, right.group, strict=True):
        if group != other:
            raise UserError(f"clip {clip!r} is of group {group!r} in {names[0]} and {other!r} in {names[1]}: the groups must agree")
    return left, right


def _defined(table: FrameScores, metric: str, name: str) -> dict[tuple[str, int], int]:
    if metric not in table.values:
        raise UserError(f"{name}: there is no number {metric!r}; there are {', '.join(table.values)}")
    keys = zip(table.clip, table.frame.tolist(), strict=True)
    return {key: row for row, key in enumerate(keys) if not np.isnan(table.values[metric][row])}


def _verdict(metric: str, ends: list[float] | None, names: tuple[str, str]) -> str:
    if ends is None or ends[0] <= 0 <= ends[1]:
        return NO_DIFFERENCE
    above = ends[0] > 0
    return f"{names[0] if above is MEASURES[metric].higher_is_better else names[1]} is better"
