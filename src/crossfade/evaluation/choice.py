"""The report's section on where to say yes: rows and sentences from `operating`, and two pictures from the judged clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from crossfade.evaluation import figures
from crossfade.evaluation.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, percent, plain, tag
from crossfade.evaluation.operating import recall_and_precision
from crossfade.evaluation.predictions import Predictions

AIMS = {"half": "as it stands", "macro_f1": "best macro-F1", "recall": "finds 85 %"}
KINDS = {"source": "as in the validation clips", "estimated": "estimated without labels", "assumed": "assumed"}
BARS = 20  # of a histogram: 5 % each
FIGURES = (0, 0.2, 0.4, 0.6, 0.8, 1)


@dataclass(frozen=True)
class Row:
    """One way of deciding: its name, its number as written, what it gives on validation (macro-F1) and on the judged clips."""

    name: str
    number: str
    val: float | None
    test: dict[str, float]


def section(found: dict, judged: Predictions) -> dict:
    """What the template shows of metrics.json's "operating". `judged`: the known test clips."""
    code = judged.classes.index(found["class"])
    both = len(set(judged.true.tolist())) == 2
    return {
        "class": found["class"],
        "basis": basis(found),
        "thresholds": [
            Row(AIMS[aim], f"{row['value']:.3g}", row["val"]["macro_f1"], row["test"]) for aim, row in found["threshold"].items()
        ],
        "temperature": temperature_said(found["temperature"]),
        "priors": [Row(KINDS[row["kind"]], f"{row['share']:.1%}", None, row["test"]) for row in found["prior"]["rows"]],
        "prior": prior_said(found),
        "histogram": histogram(judged, code, _marks(found)) if both else Markup(""),
        "curve": precision_recall(judged, code, found) if both else Markup(""),
    }


def basis(found: dict) -> str:
    """What decided and what did not."""
    val, rare = found["val"], found["class"]
    return (
        f"Chosen on the {val['clips']:,} labelled validation clips ({val['positives']:,} “{rare}”); the test clips only show what each "
        "choice gives, and decided none."
    )


def temperature_said(found: dict) -> str:
    """The temperature and what it does to the calibration error, in a sentence or two."""
    changes = [f"from {before:.1%} to {after:.1%} on {split}" for split, (before, after) in found["ece"].items()]
    said = f"A temperature of {found['value']:.2f}, fitted on validation, takes the calibration error {' and '.join(changes)}."
    edge = " It stands at the edge of what is allowed: validation alone does not settle it." if found["at_bound"] else ""
    return f"{said}{edge} It changes how sure the model says it is, not what it says."


def prior_said(found: dict) -> str:
    """What the rows of priors are."""
    prior, rare = found["prior"], found["class"]
    estimated = prior["estimated"]
    return (
        f"Were “{rare}” more or less common than the {prior['source']:.1%} of the validation clips, its logit would be moved by "
        "logit(share there) − logit(share here), after temperature and bias were fitted on validation (arXiv 1901.06852). The share of "
        f"{estimated['value']:.1%} is estimated from the model's probabilities of {estimated['clips']:,} {estimated['split']} clips, never "
        "from their labels (Saerens 2002); that supposes the classes themselves sound the same in both places."
    )


def _marks(found: dict) -> list[tuple[float, str]]:
    return [(found["threshold"][aim]["value"], style) for aim, style in (("half", "border"), ("macro_f1", "target"))]


def histogram(judged: Predictions, code: int, marks: Sequence[tuple[float, str]]) -> Markup:
    """How the clips of each class are spread over the probability of one: that class upwards, the other downwards, shares of each."""
    counts = [_shares(judged.probability[judged.true == side, code]) for side in (code, 1 - code)]
    most = max(float(part.max()) for part in counts)
    axes = Axes((0.0, 1.0), (-most * 1.05, most * 1.05), HEIGHT + 50)
    bars = [_bars(axes, part, sign, style) for part, sign, style in zip(counts, (1, -1), ("bar", "bar other"), strict=True)]
    lines = [_upright(axes, at, style) for at, style in marks]
    names = [judged.classes[code], judged.classes[1 - code]]
    floor = axes.height - BOTTOM
    words = [
        tag("text", f"{names[0]} ↑", class_="label", x=LEFT + 6, y=TOP),
        tag("text", f"{names[1]} ↓", class_="label", x=WIDTH - RIGHT - 4, y=floor - 6, text_anchor="end"),
    ]
    grid = figures.frame(axes, FIGURES, f"probability of “{names[0]}”", lambda share: percent(abs(share)), percent)
    return figures.svg(axes.height, grid, *bars, *lines, *words, label=f"probability of {names[0]} by true class")


def _shares(probability: np.ndarray) -> np.ndarray:
    return np.histogram(probability, bins=BARS, range=(0.0, 1.0))[0] / max(len(probability), 1)


def _bars(axes: Axes, shares: np.ndarray, sign: int, style: str) -> Markup:
    wide, zero = axes.across(1 / BARS) - axes.across(0) - 1.5, axes.up(0)
    parts = []
    for index in np.flatnonzero(shares):
        tall = zero - axes.up(float(shares[index]))
        title = tag("title", f"{percent(index / BARS)} – {percent((index + 1) / BARS)}: {shares[index]:.1%}")
        top = zero - tall if sign > 0 else zero
        parts.append(tag("rect", title, class_=style, x=axes.across(index / BARS) + 0.75, y=top, width=wide, height=tall))
    return tag("g", *parts)


def _upright(axes: Axes, at: float, style: str) -> Markup:
    return tag("line", class_=style, x1=axes.across(at), x2=axes.across(at), y1=TOP, y2=axes.height - BOTTOM)


def precision_recall(judged: Predictions, code: int, found: dict) -> Markup:
    """Precision over recall at every threshold, with the places of the half and of the chosen threshold."""
    axes = Axes((0.0, 1.0), (0.0, 1.0), HEIGHT + 50)
    steps = recall_and_precision(judged, code)
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in (axes.at(recall, precision) for recall, precision, _ in steps))
    share = float((judged.true == code).mean())
    chance = tag("line", class_="border", x1=axes.across(0), x2=axes.across(1), y1=axes.up(share), y2=axes.up(share))
    points = [_point(axes, found["threshold"][aim], style) for aim, style in (("half", "ring"), ("macro_f1", "spot"))]
    hint = tag("text", f"precision; average {found['average_precision']:.1%}", x=LEFT, y=15)
    grid = figures.frame(axes, FIGURES, "recall", percent, percent)
    curve = tag("path", class_="curve", d=path)
    return figures.svg(axes.height, grid, chance, curve, *points, hint, label=f"precision and recall of {judged.classes[code]}")


def _point(axes: Axes, row: dict, style: str) -> Markup:
    x, y = axes.at(row["test"]["recall"], row["test"]["precision"])
    return tag("circle", tag("title", f"threshold {plain(round(row['value'], 3))}"), class_=style, cx=x, cy=y, r=5.5)
