"""A comparison as aligned columns and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from crossfade.deploy.structure.align import Alignment
from crossfade.deploy.structure.compare import Comparison, Difference
from crossfade.deploy.structure.grade import GRADES
from crossfade.deploy.structure.layer import Layer, Structure, Value

HEADINGS = ("grade", "layer of A", "layer of B", "what", "A", "B")


def said(value: Value) -> str:
    """(1, 1) is 1; (1, 2) is 1×2; what is not there is –."""
    if isinstance(value, tuple):
        return str(value[0]) if value and len(set(value)) == 1 else "×".join(map(str, value))
    plain = {None: "–", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return plain[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def cells(one: Difference) -> tuple[str, ...]:
    """One difference in the columns of HEADINGS."""
    what = f"{one.kind}: {one.field}" if one.field != "names" else "names"
    return (one.grade, one.a or "–", one.b or "–", f"{what} (follows)" if one.follows else what, said(one.value_a), said(one.value_b))


def text(comparison: Comparison, *, folded: bool = False) -> str:
    """Counts, the table of differences and the verdict. `folded`: each folded BatchNorm as a line too, not only their number."""
    shown = [cells(one) for one in comparison.differences if folded or one.field != "folded"]
    lines = [*columns([tuple(map(str, row)) for row in counts(comparison)]), ""]
    lines += [*columns([HEADINGS, *shown]), ""] if shown else []
    return "\n".join([*lines, comparison.verdict]) + "\n"


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def counts(comparison: Comparison) -> list[tuple[str | int, ...]]:
    """What is counted on both sides, the first row its headings."""
    a, b = comparison.alignment.a, comparison.alignment.b
    rows: list[tuple[str | int, ...]] = [("", "A", "B"), ("from", a.source, b.source)]
    rows += [("layers", len(a.layers), len(b.layers)), ("layers as ncnn counts", a.as_ncnn_counts, b.as_ncnn_counts)]
    rows += [("parameters", a.parameters, b.parameters), ("aligned", *(len(comparison.alignment.pairs),) * 2)]
    kinds = dict.fromkeys((*a.kinds, *b.kinds))
    return [*rows, *((kind, a.kinds.get(kind, 0), b.kinds.get(kind, 0)) for kind in kinds)]


def data(comparison: Comparison) -> dict[str, Any]:
    """The whole comparison for JSON."""
    alignment = comparison.alignment
    return {
        "verdict": comparison.verdict,
        "worst": comparison.worst,
        "grades": GRADES,
        "a": side(alignment.a),
        "b": side(alignment.b),
        "differences": [asdict(one) for one in comparison.differences],
        "alignment": [dict(zip(("a", "b", "moved"), row, strict=True)) for row in matches(alignment)],
    }


def side(structure: Structure) -> dict[str, Any]:
    own = {"source": structure.source, "format": structure.format, "layers": len(structure.layers), "kinds": structure.kinds}
    return own | {"layers as ncnn counts": structure.as_ncnn_counts, "parameters": structure.parameters}


def matches(alignment: Alignment) -> list[tuple[str, str, bool]]:
    a, b = alignment.a.layers, alignment.b.layers
    return [(a[pair.a].name, b[pair.b].name, pair.moved) for pair in alignment.pairs]


def described(layer: Layer) -> str:
    """A layer in one line: its kind, and its fields where they say more than that."""
    told = [f"{name} {said(value)}" for name, value in layer.fields.items() if value not in (None, False) and (name, value) not in USUAL]
    return ", ".join([layer.kind, *told])


USUAL = {("padding mode", "zeros"), ("groups", 1), ("dilation", (1, 1)), ("dilation", (1,)), ("affine", True)}
