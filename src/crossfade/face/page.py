"""The page of a run: what is shown of the network, while it trains and when it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfade.deploy import bundle as bundles
from crossfade.evaluation.face.report import Baseline, FaceReport, Strip, write_report
from crossfade.evaluation.face.scores import ShiftCurve
from crossfade.evaluation.face.strips import encoded, film_strip, strip
from crossfade.evaluation.intervals import Comparison
from crossfade.face.judge import MUTE, NEIGHBOUR, STILL, Shown, show, spread

if TYPE_CHECKING:
    from crossfade.data.face.batches import Faces, Part
    from crossfade.face.judge import Ask
    from crossfade.face.recipe import FaceRecipe

CLIPS, COLUMNS, FILM = 3, 8, 12  # clips shown, pictures of each, and pictures one after another
SAID = {
    NEIGHBOUR: "the true mouth of 40 ms before, which no network sees: how little a mouth moves from one picture to the next",
    STILL: "the mouth of the picture that shows the face, at rest: what a network that learnt nothing of the sound could do",
    MUTE: "the same weights, with silence in place of the sound",
}


def samples(ask: Ask, faces: Faces, parts: Sequence[Part]) -> list[Strip]:
    """Strips of a few clips."""
    found = []
    for part in spread(parts, CLIPS):
        rows = np.linspace(0, len(part.frames) - 1, min(COLUMNS, len(part.frames))).round().astype(int)
        found.append(_strip(show(ask, faces, part, rows=rows.tolist())))
    first = spread(parts, 1)[0]
    film = show(ask, faces, first, rows=range(min(FILM, len(first.frames))))
    pictures = film_strip(film.true, film.output, range(len(film.frames)))
    return [*found, Strip(f"{first.talk.clip}: one picture after another", encoded(pictures))]


def _strip(shown: Shown) -> Strip:
    columns = zip((f"{frame / 25:.2f} s" for frame in shown.frames), shown.true, shown.covered, shown.output, strict=True)
    return Strip(shown.part.talk.clip, encoded(strip(list(columns))))


def write(
    folder: Path,
    recipe: FaceRecipe,
    notes: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    shown: Sequence[Strip],
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """report.html; without `metrics` of a run that is not finished."""
    found = dict(metrics or {})
    environment = folder / bundles.ENVIRONMENT
    content = FaceReport(
        title=f"{recipe.name}: a talking face",
        warnings=list(notes["warnings"]),
        metrics={split: found[split] for split in ("val", "test") if split in found},
        history=list(rows),
        strips=list(shown),
        baselines=baselines(found.get("test", {})),
        curve=ShiftCurve(**found["by_shift"]) if "by_shift" in found else None,
        parameters=dict(notes["parameters"]),
        recipe=recipe.yaml(),
        environment=bundles.read_json(environment) if environment.is_file() else {},
        command=notes["command"],
        notes=_notes(notes),
        group_name="sentence" if notes["unseen"] else "stretch of 3 s",
    )
    write_report(folder / bundles.REPORT, content)


def _notes(notes: Mapping[str, Any]) -> list[str]:
    counts = (f"{name}: {found['clips']} clips, {found['frames']:,} pictures" for name, found in notes["counts"].items())
    return ["; ".join(counts), f"{notes['multiply_adds'] / 1e6:,.0f} million multiply-adds a picture", *notes["loads"]]


def baselines(found: Mapping[str, Any]) -> list[Baseline]:
    """What metrics.json says of the baselines of a split."""
    against = {name: [Comparison(**each) for each in by_metric.values()] for name, by_metric in found.get("against", {}).items()}
    return [Baseline(name, each, against[name], SAID.get(name, "")) for name, each in found.get("baselines", {}).items()]
