"""Labels: a clip's classes as its cells say them, and the classes of each target in order; of some targets a clip has several at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from crossfade.clip import SEVERAL, Clip, classes_in
from crossfade.data.table import Row, chosen_columns


def several_of(path: Path, asked: list[str] | None, targets: list[str], rows: Iterable[Row]) -> tuple[str, ...]:
    """The targets of which a clip may have several classes: those `asked` for, by default those with a `|` in any cell."""
    if asked is not None:
        return tuple(chosen_columns(path, "several", asked, targets))
    marked = {name for row in rows for name in targets if SEVERAL in row.cells.get(name, "")}
    return tuple(name for name in targets if name in marked)


def several_notes(path: Path, asked: list[str] | None, several: Iterable[str]) -> list[tuple[str, str]]:
    """What was found without being asked for must be said."""
    why = "note: {0} holds {1!r}, so a clip may have several of its classes, or none; say several: [] where {1!r} belongs to a name"
    return [(str(path), why.format(name, SEVERAL)) for name in several] if asked is None else []


def labels_of(cells: Mapping[str, str], targets: Iterable[str], several: Collection[str]) -> dict[str, str]:
    """Target -> what its cell says; an empty cell is an unknown label."""
    said = {name: cells.get(name, "") for name in targets}
    return {name: joined(classes_in(cell)) if name in several else cell for name, cell in said.items() if cell}


def joined(names: Iterable[str]) -> str:
    """One text for one set of classes: sorted, each once; "|" for none."""
    return SEVERAL.join(sorted(set(names))) or SEVERAL


def names_in(label: str, several: bool) -> list[str]:
    return classes_in(label) if several else [label]


def classes_of(clips: Iterable[Clip], targets: Iterable[str], several: Collection[str] = ()) -> dict[str, list[str]]:
    """The classes that occur, sorted; by value where all are whole numbers."""
    labels = [clip.labels for clip in clips]
    return {
        target: _sorted({name for said in labels if target in said for name in names_in(said[target], target in several)})
        for target in targets
    }


def _sorted(names: set[str]) -> list[str]:
    numeric = all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numeric else None)
