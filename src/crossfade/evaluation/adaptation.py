"""What adapting a model to another domain changed: the same test clips before and after, and the domain it came from."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from crossfade.evaluation import METRICS, figures
from crossfade.evaluation.figures import Whisker
from crossfade.evaluation.intervals import NO_DIFFERENCE, Comparison, paired
from crossfade.evaluation.predictions import Answers

JUDGED_BY = "macro_f1"
COMPARED = ("macro_f1", "accuracy", "auroc", "average_precision", "ece")
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Change:
    """One metric before and after, and the difference with its interval, as a reader wants them."""

    label: str
    before: str
    after: str
    difference: str
    ends: str


def section(before: Answers, after: Answers, *, seed: int = 0) -> dict:
    """Both models on the clips both judged: rows, a chart of the differences and a verdict. UserError where they cannot be compared."""
    once = after.evidence().once()
    defined = [name for name in COMPARED if METRICS[name].defined(once)]  # AUROC of one class is not
    found = [paired(after, before, name, names=(AFTER, BEFORE), seed=seed) for name in defined]
    return {
        "verdict": verdict(found[defined.index(JUDGED_BY)]),
        "rows": [_change(one) for one in found],
        "chart": _chart(found),
        "clips": found[0].n_clips,
    }


def verdict(found: Comparison) -> str:
    """Whether adaptation helped, in one plain sentence."""
    metric = METRICS[found.metric]
    values = f"{metric.label} {metric.show(found.value_b)} before, {metric.show(found.value_a)} after"
    if found.low is None or found.high is None:
        return f"{values}; all clips belong to one group, so nothing can be said of how sure that is."
    reach = f"95 % interval of the difference {_signed(found.low)} to {_signed(found.high)} points"
    return f"{SAID[_direction(found)]}: {values}; {reach}."


SAID = {
    "after": "Adaptation helped",
    "before": "Adaptation harmed",
    "neither": "Adaptation made no difference that these clips can show",
}


def _direction(found: Comparison) -> str:
    return "neither" if found.verdict == NO_DIFFERENCE else found.verdict.split()[0]


def _change(found: Comparison) -> Change:
    metric = METRICS[found.metric]
    ends = "no interval" if found.low is None or found.high is None else f"{_signed(found.low)} – {_signed(found.high)}"
    return Change(metric.label, metric.show(found.value_b), metric.show(found.value_a), _signed(found.difference), ends)


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _chart(found: list[Comparison]) -> Markup:
    rows = [Whisker(METRICS[one.metric].label, one.difference, one.low, one.high) for one in found]
    return figures.whiskers(rows, lambda share: f"{100 * share:+.4g}", zero=True, unit="after − before, points")
