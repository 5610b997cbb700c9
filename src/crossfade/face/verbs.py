"""The verbs of a talking face that begin a run: load, train, resume; and what a terminal shows of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossfade import settings
from crossfade.clip import UserError
from crossfade.deploy import bundle as bundles
from crossfade.evaluation.face import MEASURES
from crossfade.face import recipe as recipes
from crossfade.face.recipe import FaceRecipe
from crossfade.run import claim, finished, give_back
from crossfade.screen import Terminal
from crossfade.signals import stopping

HEADLINES = ("mouth_psnr", "mouth_ssim", "mouth_temporal", "psnr", "ssim", "sensitivity")


def train(recipe: FaceRecipe, folder: Path | str, *, screen: Terminal | None = None, command: str = "") -> dict[str, Any]:
    """Train a resolved recipe into a new folder, which becomes the bundle; returns the content of metrics.json.

    Raises UserError for bad input, then the folder is left as it was found, and Interrupted, after a checkpoint, for SIGINT and SIGTERM.
    """
    folder = Path(folder)
    screen, existed = screen or Terminal(), folder.exists()
    if screen.first:
        claim(folder, recipe.yaml())
    try:
        return _go_on(recipe, folder, screen, command)
    except (UserError, OSError):
        if screen.first:
            give_back(folder, existed)
        raise


def resume(folder: Path, *, screen: Terminal | None = None) -> dict[str, Any]:
    """Go on with a run from its last checkpoint to the same end, bit for bit on a CPU, as if it had never stopped."""
    screen = screen or Terminal()
    done = finished(folder, screen)
    return done or _go_on(recipes.resolve(settings.read_file(folder / bundles.RECIPE)), folder, screen)


def _go_on(recipe: FaceRecipe, folder: Path, screen: Terminal, command: str = "") -> dict[str, Any]:
    from crossfade.face.work import FaceWork  # Accelerate, which only training needs, takes long to import

    screen.log_to(folder / bundles.LOG)
    with stopping() as stop:
        try:
            return FaceWork(recipe, folder, screen, stop, command).train()
        finally:
            screen.close()
            screen.log_to(None)


def numbers(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a terminal shows of metrics.json: a row a split, and one for each baseline on the same pictures."""
    found = [(split, metrics[split]) for split in ("train", "val", "test") if split in metrics]
    return [row for split, each in found for row in [_shown(split, each), *_beside(split, each)]]


def _beside(split: str, found: Mapping[str, Any]) -> list[dict[str, str]]:
    return [_shown(f"{split}, {name}", each) for name, each in found.get("baselines", {}).items()]


def _shown(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    values = {MEASURES[metric].label: _value(found, metric) for metric in HEADLINES}
    return {"": name, **values, "clips": str(found["n_clips"]), "pictures": str(found["n_frames"])}


def _value(found: Mapping[str, Any], metric: str) -> str:
    """Empty where it was not measured, as the audio sensitivity is not of baselines."""
    value, interval = found.get(metric), (found.get("intervals") or {}).get(metric)
    if value is None:
        return ""
    digits = MEASURES[metric].digits
    return f"{value:.{digits}f}" + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")
