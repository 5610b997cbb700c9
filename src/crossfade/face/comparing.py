"""`crossfade compare` of talking faces: on the pictures that all the runs were judged on, with intervals over groups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from crossfade.clip import UserError
from crossfade.comparison import names_of
from crossfade.deploy import bundle as bundles
from crossfade.evaluation.costs import Cost
from crossfade.evaluation.face import MEASURES
from crossfade.evaluation.face.scores import FrameScores, summary
from crossfade.evaluation.face.scores import compare as compare_two
from crossfade.evaluation.intervals import Score, Table
from crossfade.recipe import one_of


def compare(folders: Sequence[Path], *, metric: str = "mouth_psnr", split: str = "test") -> Table:
    """Each run's number and cost, and every pair's difference with its interval. UserError where runs share no picture."""
    one_of(metric, MEASURES, "--metric")
    if len({folder.resolve() for folder in folders}) < max(len(folders), 2):
        raise UserError("compare: give two different runs or more")
    places = dict(zip(names_of(folders), folders, strict=True))
    tables = _shared({name: _table(folder, split) for name, folder in places.items()}, metric)
    judged = {name: summary(table) for name, table in tables.items()}
    best_first = sorted(judged, key=lambda name: judged[name][metric], reverse=MEASURES[metric].higher_is_better)
    scores = [Score(name, judged[name][metric], *(judged[name]["intervals"][metric] or (None, None))) for name in best_first]
    pairs = [compare_two(tables[a], tables[b], metric, names=(a, b)) for a, b in combinations(best_first, 2)]
    first = judged[best_first[0]]
    costs = {name: _cost(folder) for name, folder in places.items()}
    return Table(metric, scores, pairs, pairs[0].n_clips, first["n_groups"], list(first["notes"]), costs)


def _table(folder: Path, split: str) -> FrameScores:
    path = folder / bundles.PREDICTIONS
    if not path.is_file():
        raise UserError(f"{folder}: has no {bundles.PREDICTIONS}; give finished runs")
    found = FrameScores.read(path).where(split=split)
    if not len(found):
        raise UserError(f"{folder}: has no picture in split {split!r}; one of val, test")
    return found


def _shared(tables: dict[str, FrameScores], metric: str) -> dict[str, FrameScores]:
    """Each cut to the pictures that all have, in one order."""
    for name, table in tables.items():
        if metric not in table.values:
            raise UserError(f"{name}: was not judged by {metric}; there are {', '.join(table.values)}")
    places = {
        name: {key: row for row, key in enumerate(zip(table.clip, table.frame.tolist(), strict=True))} for name, table in tables.items()
    }
    common = sorted(set.intersection(*(set(found) for found in places.values())))
    if not common:
        raise UserError(f"{' and '.join(tables)}: were judged on different pictures; train them on the same prepared clips and seed")
    return {name: table.select(np.array([places[name][key] for key in common])) for name, table in tables.items()}


def _cost(folder: Path) -> Cost:
    notes: dict[str, Any] = bundles.read_json(folder / bundles.NOTES) if (folder / bundles.NOTES).is_file() else {}
    weights = folder / bundles.WEIGHTS
    return Cost(
        parameters=sum(number for _, number in notes.get("parameters", [])) or None,
        multiply_adds=notes.get("multiply_adds"),
        bytes=weights.stat().st_size if weights.is_file() else None,
    )
