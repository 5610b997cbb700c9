"""What a finished run of a talking face says: of held-out pictures as numbers, of prepared clips as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfade import settings
from crossfade.clip import UserError
from crossfade.data.face import prepared as prepares
from crossfade.data.face.batches import MANY, Part
from crossfade.data.face.crop import as_picture
from crossfade.face import build
from crossfade.face.judge import PIECE, curve, judge, scored, show
from crossfade.face.opened import OpenedFace, open_face
from crossfade.face.published import extras
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
    ways, ask = build.ways(opened.recipe, opened.crop), opened.ask()
    with (screen or Terminal()).counting(f"judging {split}", len(parts)) as step:
        found = judge(ask, ways, parts, split, step, extras(opened.recipe))
    metrics = {"task": opened.recipe.task, split: found.metrics(opened.recipe.seed)}
    return metrics | {"by_shift": asdict(curve(ask, ways.faces, parts))}, found.table


def side(opened: OpenedFace, split: str, corpus: Path | None) -> list[Part]:
    """A split of a run's own clips, or all of another prepared folder; the folder that it learnt from is its own, however it is named."""
    prepared = opened.prepared()
    own = settings.read(opened.bundle.recipe, str(opened.path))["data"]["corpus"]
    if corpus and corpus.resolve() != Path(own or "").resolve():
        return _whole(prepared)
    return getattr(build.sides_of_run(opened.bundle.folder, opened.recipe, prepared), split)


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
    names = Counter(part.talk.clip for part in parts)
    if twice := [name for name, number in names.items() if number > 1]:
        raise UserError(
            f"predict: {names[twice[0]]} clips are called {twice[0]}, whose pictures would replace one another; give one folder at a time"
        )
    ask, faces = opened.ask(), build.ways(opened.recipe, opened.crop).faces
    place = beside or opened.bundle.folder / FOLDER
    with (screen or Terminal()).counting("drawing", sum(len(part.frames) for part in parts)) as step:
        for part in (piece for whole in parts for piece in whole.pieces_of(PIECE)):
            shown = show(ask, faces, part)
            values = scored(shown, "").values
            for row, (frame, picture) in enumerate(zip(part.frames, as_picture(shown.output), strict=True)):
                path = _drawn(picture, place / part.talk.clip / f"{frame:05d}.png")
                numbers = {name: round(float(column[row]), 6) for name, column in values.items() if not np.isnan(column[row])}
                yield {"clip": part.talk.clip, "frame": int(frame), "picture": str(path), **numbers}
            step(len(part.frames))


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
