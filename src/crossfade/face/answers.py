"""What a finished run of a talking face says: of held-out pictures as numbers, of prepared clips as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfade.clip import UserError
from crossfade.data.face import prepared as prepares
from crossfade.data.face.batches import MANY, Faces, Part
from crossfade.data.face.crop import as_picture
from crossfade.face.judge import curve, judge, scored, show
from crossfade.face.opened import OpenedFace, open_face
from crossfade.face.recipe import fit_to
from crossfade.screen import Terminal

if TYPE_CHECKING:
    from crossfade.data.face.prepared import Prepared
    from crossfade.evaluation.face.scores import FrameScores

FOLDER = "predicted"  # of a run: where pictures go


def evaluate(
    folder: Path, *, split: str = "test", corpus: Path | None = None, overrides: Sequence[str] = (), screen: Terminal | None = None
) -> tuple[dict[str, Any], FrameScores]:
    """Judge a run, or a file made of it, on a split of its own clips, or on all of another prepared folder.

    Returns what metrics.json would hold, and the table of frames behind it.
    """
    opened = open_face(folder, corpus, overrides)
    parts = side(opened, split, corpus)
    faces, ask = Faces(opened.crop, opened.recipe.data.sound), opened.ask()
    with (screen or Terminal()).counting(f"judging {split}", len(parts)) as step:
        found = judge(ask, faces, parts, split, step)
    metrics = {"task": opened.recipe.task, split: found.metrics(opened.recipe.seed)}
    return metrics | {"by_shift": asdict(curve(ask, faces, parts))}, found.table


def side(opened: OpenedFace, split: str, corpus: Path | None) -> list[Part]:
    """A split of a run's own clips, or all of another prepared folder."""
    from crossfade.face.build import sides_of

    prepared = opened.prepared()
    return _whole(prepared) if corpus else getattr(sides_of(opened.recipe, prepared), split)


def _whole(prepared: Prepared) -> list[Part]:
    """All pictures that are kept; of few groups, intervals are over pieces of clips."""
    pieces = len({talk.group for talk in prepared.talks}) < MANY
    parts = [Part(talk, np.flatnonzero(talk.kept), pieces) for talk in prepared.talks if talk.kept.any()]
    if not parts:
        raise UserError(f"{prepared.folder}: holds no picture that was kept")
    return parts


def predict(
    folder: Path, inputs: Sequence[Path], *, beside: Path | None = None, screen: Terminal | None = None
) -> Iterator[dict[str, Any]]:
    """Draw the mouth of every kept picture of prepared folders, or of single clips in them: one row a picture, with the file drawn and
    how near it is to the true one. Pictures go below the folder `beside`, by default RUN/predicted, one folder a clip.
    """
    opened = open_face(folder)
    parts = [part for path in inputs for part in _asked(opened, Path(path))]
    ask, faces = opened.ask(), Faces(opened.crop, opened.recipe.data.sound)
    place = beside or opened.bundle.folder / FOLDER
    with (screen or Terminal()).counting("drawing", len(parts)) as step:
        for part in parts:
            shown = show(ask, faces, part)
            values = scored(shown, "").values
            for row, (frame, picture) in enumerate(zip(part.frames, as_picture(shown.output), strict=True)):
                path = _drawn(picture, place / part.talk.clip / f"{frame:05d}.png")
                numbers = {name: round(float(column[row]), 6) for name, column in values.items() if not np.isnan(column[row])}
                yield {"clip": part.talk.clip, "frame": int(frame), "picture": str(path), **numbers}
            step()


def _asked(opened: OpenedFace, path: Path) -> list[Part]:
    """The clips of a prepared folder, or the one that the path names. UserError where they do not fit the network."""
    one = path.parent.name == "clips" and (path.parent.parent / "prepared.json").is_file()
    prepared = prepares.read(path.parent.parent if one else path)
    fit_to(opened.recipe, prepared)
    return _whole(replace(prepared, talks=[talk for talk in prepared.talks if not one or talk.clip == path.name]))


def _drawn(picture: np.ndarray, path: Path) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
