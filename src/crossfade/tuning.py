"""`find-rate`: how high the rates of a recipe's phase may be, found on its own clips; no run is left behind."""

from __future__ import annotations

import json
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossfade import build
from crossfade.clip import UserError
from crossfade.deploy import bundle as bundles
from crossfade.evaluation.writing import whole
from crossfade.recipe import one_of
from crossfade.screen import Terminal
from crossfade.signals import Stop
from crossfade.sketch import Sketch, braille, svg
from crossfade.spec import PhaseSpec, Recipe
from crossfade.training import finder
from crossfade.training.finder import Curve
from crossfade.work import Work

FLAT = 0.1  # a loss that fell by less says little
DIGITS = 2  # of a suggested rate that mean something


@dataclass(frozen=True)
class Found:
    """A range test of one phase: its curve, and its rates as the recipe has them and as they are suggested."""

    phase: str
    curve: Curve
    given: dict[str, float | None]
    rates: dict[str, float | None]

    @property
    def override(self) -> str:
        """What makes the recipe use them; one word for a shell once quoted."""
        pairs = ", ".join(f"{json.dumps(pattern)}: {_text(rate)}" for pattern, rate in self.rates.items())
        return f"phases.{self.phase}.rates={{{pairs}}}"

    def sketch(self) -> Sketch:
        """The curve over the highest of the rates; the others keep their proportion to it."""
        pattern, highest = max(((name, rate) for name, rate in self.given.items() if rate is not None), key=lambda pair: pair[1])
        more = ", the others in proportion" if len({rate for rate in self.given.values() if rate}) > 1 else ""
        return Sketch(
            x=[factor * highest for factor in self.curve.factors],
            y=self.curve.smooth,
            dots=self.curve.losses,
            mark=self.curve.suggestion * highest,
            title=f"loss of phase {self.phase}",
            across=f"rate of {pattern}{more}",
        )

    def lines(self) -> list[str]:
        """For a terminal of 80 columns."""
        each = [f"  {json.dumps(pattern)}: {_text(rate)}" for pattern, rate in self.rates.items()]
        return [*braille(self.sketch()), "", f"suggested rates of phase {self.phase}:", *each, "", shlex.quote(self.override)]

    def to_json(self) -> dict[str, Any]:
        curve = self.curve
        return {
            "phase": self.phase,
            "factor": curve.suggestion,
            "rates": self.rates,
            "override": self.override,
            "fell": curve.fell,
            "curve": {"factors": curve.factors, "losses": curve.losses, "smooth": curve.smooth},
        }

    def write(self, path: Path) -> None:
        """The curve as an SVG picture."""
        with whole(path) as file:
            file.write(svg(self.sketch()) + "\n")


def find_rate(
    recipe: Recipe, phase: str | None = None, steps: int = 100, *, start: Path | None = None, screen: Terminal | None = None
) -> Found:
    """Raise all rates of a phase together, from next to nothing until the loss diverges, and suggest those at which it fell fastest.

    `phase` is the first that trains unless named. The model is as the recipe builds it, or a finished run's with `start`. Raises UserError.
    """
    screen, spec = screen or Terminal(), _phase(recipe, phase)
    own = {"data": recipe.data.model_copy(), "model": recipe.model.model_copy(deep=True)}  # which learn from clips and from weights' files
    recipe = recipe.model_copy(update={"track": [], **own})
    corpus = build.corpus(recipe)
    with tempfile.TemporaryDirectory(prefix="crossfade-") as folder:
        work = Work(recipe, corpus, Path(folder), screen, Stop())
        try:
            feed, _ = work.prepare(build.splits(recipe, corpus.clips)[0])
            _say_where_from(recipe, spec, start, screen)
            if start:
                bundles.read(start).load_into(feed.model)
            curve = finder.find_rate(work.run(feed), next(each for each in feed.phases if each.name == spec.name), steps)
        finally:
            screen.close()
    if curve.fell < FLAT:
        screen.warn(f"the loss fell by {curve.fell:.0%} only, so the suggestion says little; try more --steps, or other data")
    return Found(spec.name, curve, dict(spec.rates), {name: _scaled(rate, curve.suggestion) for name, rate in spec.rates.items()})


def _phase(recipe: Recipe, name: str | None) -> PhaseSpec:
    named = {spec.name: spec for spec in recipe.phases}
    if name is not None:
        one_of(name, named, "--phase")
        return named[name]
    training = [spec for spec in recipe.phases if any(spec.rates.values())]
    if not training:
        raise UserError(f"find-rate: no phase of this recipe has a rate (phases: {', '.join(named)})")
    return training[0]


def _say_where_from(recipe: Recipe, spec: PhaseSpec, start: Path | None, screen: Terminal) -> None:
    before = [each.name for each in recipe.phases[: recipe.phases.index(spec)]]
    if start:
        screen.say(f"phase {spec.name} starts here from the weights of {start}")
    elif before:
        screen.say(
            f"phase {spec.name} starts here from the recipe's own weights, not from what phase {before[-1]} would leave; "
            "--from RUN starts from a finished run"
        )


def _scaled(rate: float | None, factor: float) -> float | None:
    return None if rate is None else float(f"{rate * factor:.{DIGITS - 1}e}")


def _text(rate: float | None) -> str:
    """As YAML reads it back: 0.003 -> 3e-3, None -> null."""
    return "null" if rate is None else f"{rate:.{DIGITS - 1}e}".replace("e-0", "e-").replace("e+0", "e+").replace(".0e", "e")
