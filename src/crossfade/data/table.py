"""A table as spreadsheets write it: UTF-8, cells parted by `,` `;` or tabs, a header; its rows and the lines they end on."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from crossfade.clip import UserError

DELIMITERS = (",", ";", "\t")


class Row(NamedTuple):
    """One row of a table: the line of the file it ends on (1 = the header) and its cells by column."""

    line: int
    cells: dict[str, str]


def read_table(path: Path, reserved: Collection[str]) -> tuple[list[str], list[Row]]:
    """Column names, the `reserved` ones in lower case, and the rows that are not blank. Raises UserError."""
    text = _text(path)
    reader = csv.reader([])
    try:
        delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), [])))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f"{path}: row {reader.line_num}: {error}") from None
    if len(lines) < 2:
        raise UserError(f"{path}: no row below the header; expected one clip a row" if lines else f"{path}: the table is empty")
    columns = _columns(path, lines[0][1], reserved)
    return columns, [Row(line, _cells(path, line, columns, cells)) for line, cells in lines[1:]]


def chosen_columns(path: Path, option: str, asked: list[str] | None, there: list[str]) -> list[str]:
    """The columns asked for, all by default; UserError with the nearest one where a name is not there."""
    unknown = [name for name in asked or [] if name not in there]
    if unknown:
        near = get_close_matches(unknown[0], there, 1, 0.5)
        right = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(there) or 'none'}"
        raise UserError(f"{path}: {option}: no column {unknown[0]!r}; {right}")
    return list(there if asked is None else asked)


def span_of(path: Path, row: Row, start: str = "start", end: str = "end") -> tuple[float, float | None]:
    """What two columns say of a row's span in seconds; empty or absent: from the beginning, to the end."""
    first, last = _seconds(path, row, start), _seconds(path, row, end)
    if last is not None and last <= (first or 0.0):
        raise UserError(f"{path}: row {row.line}: {end} {last:g} is not after {start} {first or 0:g}")
    return first or 0.0, last


def _seconds(path: Path, row: Row, column: str) -> float | None:
    cell = row.cells.get(column, "")
    try:
        value = float(cell) if cell else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value < math.inf:
        raise UserError(f"{path}: row {row.line}: {column} {cell!r} is not a time in seconds, 0 or more, as in 1.5")
    return value


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a CSV file") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: row {row} is not UTF-8 (byte 0x{raw[error.start]:02x}); save the table as UTF-8") from None


def _columns(path: Path, header: list[str], reserved: Collection[str]) -> list[str]:
    """Header cells; the reserved names in lower case, trailing empty cells dropped."""
    columns = [name.lower() if name.lower() in reserved else name for name in header]
    while columns and not columns[-1]:
        columns.pop()
    twice = [name for name, n in Counter(columns).items() if n > 1 or not name]
    if twice:
        raise UserError(f"{path}: row 1: column {twice[0]!r} is {'there twice' if twice[0] else 'without a name'}")
    return columns


def _cells(path: Path, line: int, columns: list[str], cells: list[str]) -> dict[str, str]:
    if any(cells[len(columns) :]):
        raise UserError(f"{path}: row {line} has {len(cells)} cells for {len(columns)} columns; quote a cell that holds the delimiter")
    return dict(zip(columns, cells + [""] * len(columns), strict=False))
