"""Scores by published networks, where a recipe names files of their weights that the user owns: LPIPS and SyncNet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from crossfade.data.face.footage import BLOCK, Footage
from crossfade.evaluation.face.pictures import mouth

if TYPE_CHECKING:
    from crossfade.face.judge import Shown
    from crossfade.face.recipe import FaceRecipe

SHORTEST = 6  # pictures that SyncNet can judge
Extra = Callable[["Shown"], dict[str, np.ndarray]]  # what was made of a clip -> more numbers of each picture


def extras(recipe: FaceRecipe) -> list[Extra]:
    """One for each network that the recipe names. UserError where a file is not of it."""
    found: list[Extra] = []
    if recipe.scores.lpips:
        found.append(_lpips(recipe))
    if recipe.scores.syncnet:
        found.append(_syncnet(recipe))
    return found


def _lpips(recipe: FaceRecipe) -> Extra:
    from crossfade.evaluation.face.lpips import Lpips

    spec = recipe.scores.lpips
    assert spec is not None
    far = Lpips(spec.alexnet, spec.linear)

    def measure(shown: Shown) -> dict[str, np.ndarray]:
        rows, columns = mouth(shown.output.shape[-1])
        lips = (each[..., rows, columns] for each in (shown.output, shown.true))
        return {"lpips": far(shown.output, shown.true), "mouth_lpips": far(*lips)}

    return measure


def _syncnet(recipe: FaceRecipe) -> Extra:
    from crossfade.evaluation.face.syncnet import SyncNet

    assert recipe.scores.syncnet is not None
    network = SyncNet(recipe.scores.syncnet)

    def measure(shown: Shown) -> dict[str, np.ndarray]:
        """Of the longest stretch of pictures that follow each other, said of each picture."""
        frames = np.asarray(shown.frames)
        rows = max(np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) != 1) + 1), key=len)
        sound = Footage(shown.part.talk.video).sound()
        nothing = np.full(len(frames), np.nan)
        if sound is None:
            return {"sync_distance": nothing, "sync_confidence": nothing}
        if len(rows) < SHORTEST:
            return {"sync_distance": nothing, "sync_confidence": nothing}
        start, stop = int(frames[rows[0]]) * BLOCK, (int(frames[rows[-1]]) + 1) * BLOCK
        found = network(shown.output[rows], sound[start:stop])
        return {"sync_distance": np.full(len(frames), found.distance), "sync_confidence": np.full(len(frames), found.confidence)}

    return measure
