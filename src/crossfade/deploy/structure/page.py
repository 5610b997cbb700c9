"""A comparison as one HTML page that needs no other file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from crossfade.deploy.structure.compare import Comparison, Difference
from crossfade.deploy.structure.grade import GRADES
from crossfade.deploy.structure.layer import Layer
from crossfade.deploy.structure.text import HEADINGS, cells, counts, described

if TYPE_CHECKING:
    from jinja2 import Template

FOLDED = "folded"


def page(comparison: Comparison) -> str:
    """Verdict, counts, differences, and every layer of both sides beside its partner."""
    shown = [one for one in comparison.differences if one.field != "folded"]
    view = {"verdict": comparison.verdict, "worst": comparison.worst, "grades": GRADES, "counts": counts(comparison), "headings": HEADINGS}
    return _template().render(view | {"differences": [cells(one) for one in shown], "rows": rows(comparison)})


def rows(comparison: Comparison) -> list[tuple[str, str, str, str, str]]:
    """Grade or "", and name and description on both sides, in the order of A with what B has more in its place."""
    alignment, worst = comparison.alignment, _worst(comparison.differences)
    a, b = alignment.a.layers, alignment.b.layers
    found = []
    taken = 0
    extra = [number for number in range(len(b)) if number not in alignment.of_b]
    for number, layer in enumerate(a):
        pair = alignment.of_a.get(number)
        if pair is not None and not pair.moved:
            found += [_row(worst, None, b[one]) for one in extra[taken:] if one < pair.b]
            taken += sum(one < pair.b for one in extra[taken:])
        found.append(_row(worst, layer, b[pair.b] if pair else None))
    return [*found, *(_row(worst, None, b[one]) for one in extra[taken:])]


def _row(worst: dict[tuple[str, str], str], a: Layer | None, b: Layer | None) -> tuple[str, str, str, str, str]:
    names = (a.name if a else "", b.name if b else "")
    alone = None if a and b else worst.get((names[0], FOLDED) if a else (FOLDED, names[1]))
    grade = worst.get(names) or alone or ""
    return (grade, names[0], described(a) if a else "", names[1], described(b) if b else "")


def _worst(differences: tuple[Difference, ...]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for one in differences:
        keys = [(one.a, FOLDED), (FOLDED, one.b)] if one.field == "folded" else [(one.a, one.b)]
        for key in () if one.field == "names" else keys:
            found[key] = min(found.get(key, one.grade), one.grade)
    return found


@cache
def _template() -> Template:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.jinja")
