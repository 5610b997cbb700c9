"""Which videos a person means by a file, a folder or a CSV, each with a name that can be a folder's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from crossfade.clip import UserError
from crossfade.data.files import MEDIUM_OF
from crossfade.data.table import read_table

TABLES = {".csv", ".tsv"}
COLUMNS = ("video", "group", "start", "end")
LONGEST = 150  # bytes of a name in UTF-8; a file system takes 255, of which others are for what stands around it


class Video(NamedTuple):
    """One file. `clip` names it, `group` is what a split never cuts: the clip itself unless a CSV says otherwise."""

    clip: str
    group: str
    path: Path


def videos(path: Path) -> list[Video]:
    """A video itself; a folder's videos, recursively; a CSV's column `video`, relative to the CSV, with its `group` where it has one.

    What is given twice is one. UserError: nothing there, no video in it, a CSV without that column or with stretches of videos.
    """
    if path.is_dir():
        return _named(_in_folder(path), path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a video, a folder of videos or a CSV with a column video")
    if path.suffix.lower() in TABLES:
        return _named(_in_table(path), path.parent)
    return _named({path: ""}, path.parent)


def _in_folder(folder: Path) -> dict[Path, str]:
    found = [path for path in sorted(folder.rglob("*")) if MEDIUM_OF.get(path.suffix.lower()) == "video" and path.is_file()]
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not shown:
        raise UserError(f"{folder}: no video in this folder")
    return dict.fromkeys(shown, "")


def _in_table(path: Path) -> dict[Path, str]:
    """File -> group."""
    columns, rows = read_table(path, COLUMNS)
    if "video" not in columns:
        raise UserError(f"{path}: no column video among {', '.join(columns)}")
    groups: dict[Path, str] = {}
    for row in rows:
        if not row.cells["video"]:
            raise UserError(f"{path}: row {row.line}: names no video")
        if row.cells.get("start") or row.cells.get("end"):
            raise UserError(
                f"{path}: row {row.line}: has a start or end, but whole videos are prepared; cut the video, or empty both columns"
            )
        groups.setdefault(path.parent / row.cells["video"], row.cells.get("group", ""))
    return groups


def _named(groups: dict[Path, str], root: Path) -> list[Video]:
    """By the path below `root`, or below what all have in common, without its ending; with it where two would be called alike; then by
    number.
    """
    if not all(path.is_relative_to(root) for path in groups):
        root = Path(os.path.commonpath([path.parent.absolute() for path in groups]))
    taken: set[str] = set()
    found = []
    for path, group in groups.items():
        below = path.relative_to(root) if path.is_relative_to(root) else path.absolute().relative_to(root)
        names = [_safe(below.with_suffix("").as_posix()), _safe(below.as_posix())]
        name = next(
            name for name in [*names, *(f"{names[0]}~{number}" for number in range(2, len(groups) + 2))] if name.lower() not in taken
        )
        taken.add(name.lower())
        found.append(Video(name, group or name, path))
    return found


def _safe(name: str) -> str:
    """Of letters, digits and ` . _ - ~ ` only, and no hidden file."""
    plain = "".join(letter if letter.isalnum() or letter in " ._-~" else "-" for letter in name)
    return plain.encode()[-LONGEST:].decode(errors="ignore").strip(" .-") or "clip"
