"""Both kinds of tables by the same calls: answers that are one class of many, and answers of several classes at once."""

from __future__ import annotations

from pathlib import Path

from crossfade.evaluation.metrics import scores, summary
from crossfade.evaluation.predictions import Predictions, concatenate, read_rows
from crossfade.evaluation.tags import Tags

__all__ = ["KINDS", "Answers", "concatenate", "read", "scores", "summary"]

Answers = Predictions | Tags
KINDS: dict[bool, type[Predictions] | type[Tags]] = {False: Predictions, True: Tags}  # may a clip have several classes?


def read(path: Path | str, several: bool | None = None) -> Answers:
    """The CSV of one kind of table; None: of the kind that its cells show. UserError names the file, the line and the column of what does
    not fit.
    """
    return KINDS[_shows_several(path) if several is None else several].read(path)


def _shows_several(path: Path | str) -> bool:
    """Whether what is true or said of any clip is something else than one class."""
    classes, lines = read_rows(path)
    return not {cell for _, row in lines for cell in row[4:6] if cell} <= set(classes)
