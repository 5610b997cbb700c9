"""The demo: a generated corpus, sound, picture and their gated fusion warm-started from the two, compared on unseen actors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from crossfade import recipe as recipes
from crossfade import run
from crossfade.clip import UserError
from crossfade.comparison import compare
from crossfade.data.demo import write_demo

if TYPE_CHECKING:
    from crossfade.evaluation.intervals import Table
    from crossfade.screen import Terminal

MARK = ".complete"  # written last, so that a half-written corpus is not taken for a whole one
RUNS = {"audio": "demo-audio", "video": "demo-video", "gated": "demo-gated"}


def demo(folder: Path, *, screen: Terminal) -> tuple[Table, Path]:
    """Make or reuse `folder`/clips, train what is not trained yet, and write `folder`/report.html. Returns the comparison and its page."""
    clips, runs = folder / "clips", {name: folder / "runs" / name for name in RUNS}
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists() and not clips.exists():
        raise UserError(f"{folder}: holds other things; choose an empty --out")
    if not (folder / MARK).exists():
        screen.say(f"writing clips to {clips}")
        write_demo(clips)
        (folder / MARK).touch()
    for name, recipe in RUNS.items():
        if (runs[name] / "recipe.yaml").exists():
            run.resume(runs[name], screen=screen)
            continue
        screen.say(f"training {name}")
        warm = [f"model.init.'encoders.{each}'={json.dumps(str(runs[each]))}" for each in ("audio", "video")] if name == "gated" else []
        run.train(recipes.load(recipe, warm, corpus=clips), runs[name], screen=screen, command=f"crossfade demo --out {folder}")
    report = folder / "report.html"
    return compare(list(runs.values()), report=report), runs["gated"] / "report.html"
