"""Which clips a finished run learnt from with their labels, and whether those that something is judged on are among them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from crossfade import build, settings
from crossfade import recipe as recipes
from crossfade.clip import Clip, UserError
from crossfade.data.split import Splits
from crossfade.deploy import bundle as bundles
from crossfade.evaluation.tables import read as read_table
from crossfade.recipe import Recipe

WHOLE = "heads"  # the part of `model.init` that only a run begun with all of another's weights names, as --from does

Heard = set[Any]  # recordings


def heard_by(folder: Path, text: str, recipe: Recipe, corpus: Sequence[Clip]) -> Heard | None:
    """What a run learnt from with its labels; None where that cannot be known. `text`: the run's recipe.

    `corpus`: the clips that `recipe` reads, which the run may have read too; they stand for the run's own where those are gone, if
    they fall to the sides on which predictions.csv has them.
    """
    try:
        theirs = _resolved(text, folder)
        own, gone = list(corpus), False
        if theirs.data.corpus != recipe.data.corpus:
            try:
                own = build.corpus(theirs).clips
            except (UserError, OSError):
                gone = True
        splits = build.splits(theirs, own)[0]
        if not _as_judged(splits, folder / bundles.PREDICTIONS, needed=gone):
            return None
    except (UserError, OSError):
        return None
    heard = {_what(clip) for clip in splits.train if any(target in clip.labels for target in theirs.targets)}
    for run in _begun_with(theirs):  # and what those before it had learnt from, as far as they are there
        heard |= heard_by(run, bundles.read_text(run / bundles.RECIPE), recipe, corpus) or set()
    return heard


def _resolved(text: str, folder: Path) -> Recipe:
    return recipes.resolve(recipes.without_training(settings.read(text, str(folder))), str(folder))


def _as_judged(splits: Splits, path: Path, *, needed: bool) -> bool:
    """Whether every clip that the run was judged on is on the side where it was; a corpus that changed since is split otherwise."""
    if not path.is_file():
        return not needed
    there = {name: {clip.id for clip in clips} for name, clips in splits.sides.items()}
    table = read_table(path)
    return all(clip in there.get(split, ()) for clip, split in zip(table.clip, table.split, strict=True))


def _what(clip: Clip) -> Any:
    """The same for the same recording, whatever a corpus calls it."""
    return frozenset(_real(str(path)) for path in clip.media.values()), clip.span, clip.item


def _among(clips: Sequence[Clip], heard: Heard) -> int:
    return sum(_what(clip) in heard for clip in clips) if heard else 0


@cache
def _real(path: str) -> str:
    return str(Path(path).resolve())


def _begun_with(recipe: Recipe, *, whole: bool | None = None) -> list[Path]:
    """The runs whose weights it begins with: all their weights, where `whole`, or some parts, or either."""
    wholly = recipe.model.init.get(WHOLE)
    sources = [Path(path) for path in recipe.model.init.values() if whole is None or (path == wholly) is whole]
    folders = dict.fromkeys(source if source.is_dir() else source.parent for source in sources)
    return [folder for folder in folders if (folder / bundles.RECIPE).is_file()]


def kept_apart(recipe: Recipe, corpus: Sequence[Clip], splits: Sequence[Splits]) -> list[Splits]:
    """The same splits, with a warning each for a warm start that heard what they judge, or of which that cannot be known.

    UserError where the run that it goes on from (`--from`) learnt from clips of val or test: its numbers would be of what it knows.
    """
    found = [list(split.warnings) for split in splits]
    for run in _begun_with(recipe):
        wholly, text = run in _begun_with(recipe, whole=True), bundles.read_text(run / bundles.RECIPE)
        heard = heard_by(run, text, recipe, corpus)
        for split, warnings in zip(splits, found, strict=True):
            judged = {name: clips for name, clips in split.sides.items() if name != "train" and clips}
            counts = {name: _among(clips, heard or set()) for name, clips in judged.items()}
            shared = [f"{count} of {len(judged[name])} {name} clips" for name, count in counts.items() if count]
            if shared and wholly:
                raise UserError(f"--from {run}: it learnt from {' and '.join(shared)} of this split; {_remedy(recipe, text, run)}")
            if shared:
                warnings.append(f"model.init: {run} learnt from {' and '.join(shared)}, so their numbers flatter")
            elif wholly and heard is None:
                warnings.append(
                    f"--from {run}: its own clips cannot be told any more, so it may have learnt from clips that are judged here"
                )
    return [replace(split, warnings=warnings) for split, warnings in zip(splits, found, strict=True)]


def _remedy(recipe: Recipe, text: str, run: Path) -> str:
    """What to type for the run's own split, where the two are told to split differently."""
    ours, theirs = recipe.data, _resolved(text, run).data
    keys = [f"data.split.{key}={json.dumps(value)}" for key, value in theirs.split.items() if ours.split.get(key) != value]
    for side in ("source", "target") if theirs.domains else ():
        names = getattr(theirs.domains, side)
        if ours.domains is None or sorted(getattr(ours.domains, side)) != sorted(names):
            keys.append(f"data.domains.{side}=[{', '.join(names)}]")
    keep = f"give its own: {' '.join(map(shlex.quote, keys))}, or " if keys else ""
    return f"{keep}train all phases here, without --from"


def warning(clips: Sequence[Clip], text: str, folder: Path, recipe: Recipe, corpus: Sequence[Clip]) -> str | None:
    """What to know of numbers about these clips, where the run learnt from some of them."""
    count = _among(clips, heard_by(folder, text, recipe, corpus) or set())
    return f"{count} of {len(clips)} clips were learnt from by this run, labels and all: the numbers flatter it" if count else None
