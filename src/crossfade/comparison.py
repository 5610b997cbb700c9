"""Several finished runs against each other, on the clips that all of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossfade.clip import UserError
from crossfade.deploy import bundle as bundles
from crossfade.evaluation.intervals import Table
from crossfade.evaluation.intervals import compare as compare_tables
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.report import write_comparison


def compare(folders: Sequence[Path], *, metric: str = "macro_f1", split: str = "test", report: Path | None = None) -> Table:
    """Several runs on the clips that all of them saw: each one's metric, and every pair's difference with its interval."""
    if len({folder.resolve() for folder in folders}) < max(len(folders), 2):
        raise UserError("compare: give two different runs or more")
    names = _names(folders)
    tables = {name: _predictions(folder).where(split=split).known() for name, folder in zip(names, folders, strict=True)}
    for name, table in tables.items():
        if not len(table):
            raise UserError(f"{name}: has no labelled prediction in split {split!r}")
    table = compare_tables(tables, metric)
    if report:
        write_comparison(report, table, parameters=_sizes(names, folders), warnings=_warnings(folders))
    return table


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their whole paths where two are called the same."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _predictions(folder: Path) -> Predictions:
    path = folder if folder.is_file() else folder / bundles.PREDICTIONS
    if not path.is_file():
        raise UserError(f"{folder}: has no {bundles.PREDICTIONS}; give finished runs, or such tables")
    return Predictions.read(path)


def _notes(folder: Path) -> dict[str, Any]:
    path = folder / bundles.NOTES
    return bundles.read_json(path) if path.is_file() else {}


def _sizes(names: Sequence[str], folders: Sequence[Path]) -> dict[str, int]:
    found = {name: dict(_notes(folder).get("parameters", [])).get("total") for name, folder in zip(names, folders, strict=True)}
    return {name: size for name, size in found.items() if size}


def _warnings(folders: Sequence[Path]) -> list[str]:
    return list(dict.fromkeys(warning for folder in folders for warning in _notes(folder).get("warnings", [])))
