"""Crossfade, as `crossfade train` runs it: a recipe in, a bundle with its report out. Runs in our own environment."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.peers.task import Clock
from crossfade.recipe import load
from crossfade.run import train
from crossfade.screen import Terminal
from crossfade.training.loop import HISTORY


def heard(said: Callable[..., Any], note: Callable[[], None]) -> Callable[..., Any]:
    """What the screen is told, and a note of when."""

    def both(*words: Any, **more: Any) -> Any:
        note()
        return said(*words, **more)

    return both


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    for module in spec["imports"]:
        import_module(module)
    folder = Path(sys.argv[2])
    clock, screen = Clock(), Terminal(quiet=True)
    screen.phase = heard(screen.phase, clock.ready)
    screen.scored = heard(screen.scored, clock.trained)
    train(load(spec["recipe"]), folder, screen=screen)
    rows = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    whole, steps = clock.epochs, [row["seconds"] for row in rows]
    clock.epochs, clock.validation = steps, [lap - step for lap, step in zip(whole, steps, strict=True)]
    clock.quality = [row["val"]["accuracy"] for row in rows]
    clock.report()


if __name__ == "__main__":
    main()
