"""Which layer of one network is which of another: an alignment of two sequences whose costs know the graphs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import inf, isclose
from typing import TYPE_CHECKING

from crossfade.clip import UserError
from crossfade.deploy.structure.layer import NORMALISATIONS, SHAPES, Fields, Layer, Structure, Value

if TYPE_CHECKING:
    import numpy as np

MOST = 4000  # layers that may be left to align when what begins and ends alike is set aside
ABSENCE = {"weighted sum": 1.0, "normalisation": 0.5, "reshape": 0.15}  # what it costs that a layer has no partner
CHANGE = {"kernel": 0.35, "groups": 0.3, "outputs": 0.25, "stride": 0.25, "dilation": 0.25, "inputs": 0.15, "padding": 0.15, "bias": 0.02}
OTHER_ABSENCE, OTHER_CHANGE, OTHER_KIND, MOST_CHANGE = 0.6, 0.2, 0.5, 1.2
STRANGER = 0.05  # for each of three steps up and three down at which the neighbourhoods differ
NEARBY = 8  # matched layers between the old and the new place of one that has moved
SOMETIMES = frozenset({"shape", "axes", "axis", "size", "scale", "ceil"})  # fields that not every source can know
EXACT = 1e-3


@dataclass(frozen=True)
class Pair:
    """Numbers of two layers that are one another; `moved`: not in the order of the rest."""

    a: int
    b: int
    moved: bool = False


@dataclass(frozen=True)
class Alignment:
    """The pairs in the order of `a`. `folded_a`: BatchNorm of `a` that `b` has within a convolution -> that convolution in `a`."""

    a: Structure
    b: Structure
    pairs: tuple[Pair, ...]
    folded_a: dict[int, int]
    folded_b: dict[int, int]

    @cached_property
    def of_a(self) -> dict[int, Pair]:
        return {pair.a: pair for pair in self.pairs}

    @cached_property
    def of_b(self) -> dict[int, Pair]:
        return {pair.b: pair for pair in self.pairs}

    @property
    def missing(self) -> list[int]:
        """Layers of `a` that `b` lacks."""
        return [number for number in range(len(self.a.layers)) if number not in self.of_a and number not in self.folded_a]

    @property
    def extra(self) -> list[int]:
        return [number for number in range(len(self.b.layers)) if number not in self.of_b and number not in self.folded_b]


def align(a: Structure, b: Structure) -> Alignment:
    one, other = Sequence(a), Sequence(b)
    codes = Codes()
    one.code(codes)
    other.code(codes)
    pairs = _moved(one, other, _uncrossed(a, b, _in_order(one, other)))
    ordered = tuple(sorted(pairs, key=lambda pair: pair.a))
    matched_a, matched_b = {pair.a: pair.b for pair in ordered}, {pair.b: pair.a for pair in ordered}
    return Alignment(a, b, ordered, _folded(a, b, matched_a), _folded(b, a, matched_b))


class Codes:
    """A small number for each thing, the same for equal things."""

    def __init__(self) -> None:
        self.known: dict[object, int] = {}

    def of(self, thing: object) -> int:
        return self.known.setdefault(thing, len(self.known))


class Sequence:
    """A structure as rows of codes: what each layer is, and what is around it at one, two and three steps, BatchNorms and shapes apart."""

    def __init__(self, structure: Structure):
        self.structure, self.layers = structure, structure.layers
        self.up, self.down = _neighbours(structure)
        self.own: list[int] = []
        self.around: list[tuple[int, ...]] = []

    def code(self, codes: Codes) -> None:
        labels = [codes.of(("layer", _label(layer))) for layer in self.layers]
        self.own = [codes.of(("fields", layer.kind, tuple(sorted(layer.fields.items())))) for layer in self.layers]
        around = [_spread(labels, neighbours, codes) for neighbours in (self.up, self.down)]
        self.around = [(*above, *below) for above, below in zip(*around, strict=True)]

    def gap(self, number: int) -> float:
        layer = self.layers[number]
        return ABSENCE.get(layer.family, OTHER_ABSENCE + 0.2 * (len(layer.inputs) > 1))


def _label(layer: Layer) -> tuple[object, ...]:
    told = ("outputs", "kernel", "stride", "groups", "function")
    return (layer.family, *(layer.fields.get(name) for name in told))


def _spread(labels: list[int], neighbours: list[list[int]], codes: Codes) -> list[tuple[int, ...]]:
    """For each layer the codes of its surroundings at one, two and three steps in one direction."""
    steps, reached = [], [0] * len(labels)
    for _ in range(3):
        reached = [codes.of(("around", *sorted((labels[near], reached[near]) for near in nearest))) for nearest in neighbours]
        steps.append(reached)
    return list(zip(*steps, strict=True))


def _neighbours(structure: Structure) -> tuple[list[list[int]], list[list[int]]]:
    """The layers before and after each, seen through normalisations and reshapes."""
    up: list[list[int]] = []
    for layer in structure.layers:
        found: list[int] = []
        for maker in structure.producers(layer):
            if maker is not None:
                found += up[maker] if _seen_through(structure.layers[maker]) else [maker]
        up.append(found)
    down: list[list[int]] = [[] for _ in structure.layers]
    for number, above in enumerate(up):
        for maker in () if _seen_through(structure.layers[number]) else above:
            down[maker].append(number)
    return up, down


def _seen_through(layer: Layer) -> bool:
    return layer.kind in NORMALISATIONS | SHAPES


def differing(a: Fields, b: Fields) -> list[str]:
    """The fields that differ, as far as both sides can know them."""
    names = dict.fromkeys((*a, *b))
    return [name for name in names if not _same(a.get(name), b.get(name)) and not (name in SOMETIMES and (name not in a or name not in b))]


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(a, int | float) and isinstance(b, int | float) and (a == b or isclose(a, b, rel_tol=EXACT))
    return a == b


def cost(a: Layer, b: Layer) -> float:
    if a.family != b.family:
        return inf
    changed = differing(a.fields, b.fields)
    between = sum(CHANGE.get(name, OTHER_CHANGE) for name in changed)
    return min(between + OTHER_KIND * (a.kind != b.kind), MOST_CHANGE)


def _costs(one: Sequence, other: Sequence, rows: list[int], columns: list[int]) -> np.ndarray:
    """(rows, columns) what it costs that a layer of one is a layer of the other."""
    import numpy as np

    known: dict[tuple[int, int], float] = {}
    found = np.full((len(rows), len(columns)), inf)
    first = {one.own[row]: row for row in reversed(rows)}
    second = {other.own[column]: column for column in reversed(columns)}
    known = {(code, coded): cost(one.layers[row], other.layers[column]) for code, row in first.items() for coded, column in second.items()}
    places, spots = ({code: place for place, code in enumerate(group)} for group in (first, second))
    table = np.array([[known[code, coded] for coded in second] for code in first])
    found = table[np.ix_([places[one.own[row]] for row in rows], [spots[other.own[column]] for column in columns])]
    near, far = (np.array([side.around[number] for number in numbers]) for side, numbers in ((one, rows), (other, columns)))
    for step in range(near.shape[1]):
        found = found + STRANGER * (near[:, step, None] != far[None, :, step])
    return found


def _in_order(one: Sequence, other: Sequence) -> list[Pair]:
    """The cheapest alignment that keeps both orders; what begins and what ends alike is one another without asking."""
    rows, columns = list(range(len(one.layers))), list(range(len(other.layers)))
    same = [(one.own[row], one.around[row]) == (other.own[row], other.around[row]) for row in range(min(len(rows), len(columns)))]
    head = same.index(False) if False in same else len(same)
    tail = 0
    while tail < min(len(rows), len(columns)) - head and _alike(one, other, len(rows) - 1 - tail, len(columns) - 1 - tail):
        tail += 1
    pairs = [Pair(number, number) for number in range(head)]
    middle = _cheapest(one, other, rows[head : len(rows) - tail], columns[head : len(columns) - tail])
    pairs += [*middle, *(Pair(len(rows) - back, len(columns) - back) for back in range(tail, 0, -1))]
    ahead = _slid(one, {pair.a: pair.b for pair in pairs})
    back = _slid(other, {b: a for a, b in ahead.items()})
    return [Pair(a, b) for b, a in sorted(back.items())]


def _slid(side: Sequence, partners: dict[int, int]) -> dict[int, int]:
    """Where a run of layers without partner could as well stand later, it begins with its weighted sum, as blocks do."""
    found, number = dict(partners), 0
    while number < len(side.layers):
        end = number
        while end < len(side.layers) and end not in found:
            end += 1
        while number < end and end in found and side.layers[number].family != "weighted sum" and side.own[number] == side.own[end]:
            found[number] = found.pop(end)
            number, end = number + 1, end + 1
        number = max(end, number) + 1
    return found


def _alike(one: Sequence, other: Sequence, row: int, column: int) -> bool:
    return one.own[row] == other.own[column] and one.around[row] == other.around[column]


def _cheapest(one: Sequence, other: Sequence, rows: list[int], columns: list[int]) -> list[Pair]:
    if not rows or not columns:
        return []
    if max(len(rows), len(columns)) > MOST:
        raise UserError(
            f"{one.structure.source} and {other.structure.source}: more than {MOST:,} layers differ; that is more than can be aligned"
        )
    matched = _path(_costs(one, other, rows, columns), [one.gap(row) for row in rows], [other.gap(column) for column in columns])
    return [Pair(rows[row], columns[column]) for row, column in matched]


def _path(costs: np.ndarray, gaps: list[float], gaps_other: list[float]) -> list[tuple[int, int]]:
    """Which row goes with which column, both in order, at the least sum of costs and gaps."""
    import numpy as np

    across = np.concatenate([[0.0], np.cumsum(gaps_other)])
    best = np.empty((len(gaps) + 1, len(gaps_other) + 1))
    best[0] = across
    for row, gap in enumerate(gaps):
        here = best[row] + gap
        here[1:] = np.minimum(here[1:], best[row, :-1] + costs[row])
        best[row + 1] = np.minimum.accumulate(here - across) + across
    return _back(best, costs, gaps)


def _back(best: np.ndarray, costs: np.ndarray, gaps: list[float]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    row, column = costs.shape
    while row and column:
        if best[row, column] >= best[row - 1, column - 1] + costs[row - 1, column - 1] - 1e-9:
            row, column = row - 1, column - 1
            found.append((row, column))
        elif best[row, column] >= best[row - 1, column] + gaps[row - 1] - 1e-9:
            row -= 1
        else:
            column -= 1
    return found[::-1]


def _uncrossed(a: Structure, b: Structure, pairs: list[Pair]) -> list[Pair]:
    """Two changed pairs close to one another that are unchanged crosswise have changed places."""
    found = list(pairs)
    changed = [place for place, pair in enumerate(pairs) if not _equal(a.layers[pair.a], b.layers[pair.b])]
    for position, first in enumerate(changed):
        for second in changed[position + 1 :]:
            one, other = found[first], found[second]
            near = second - first <= NEARBY and not (one.moved or other.moved)
            if near and _equal(a.layers[one.a], b.layers[other.b]) and _equal(a.layers[other.a], b.layers[one.b]):
                found[first], found[second] = Pair(one.a, other.b), Pair(other.a, one.b, moved=True)
    return found


def _equal(a: Layer, b: Layer) -> bool:
    return a.kind == b.kind and not set(differing(a.fields, b.fields)) - {"bias"}


def _moved(one: Sequence, other: Sequence, pairs: list[Pair]) -> list[Pair]:
    """Layers left over on both sides that are equal, and near or in equal surroundings, are one another in another place."""
    found = list(pairs)
    while True:
        rows, columns = _left(len(one.layers), [pair.a for pair in found]), _left(len(other.layers), [pair.b for pair in found])
        if not rows or not columns:
            return found
        costs = _costs(one, other, rows, columns)
        places, spots = _places(rows, [pair.a for pair in found]), _places(columns, [pair.b for pair in found])
        for row, number in enumerate(rows):
            for column, partner in enumerate(columns):
                near = abs(places[row] - spots[column]) <= NEARBY
                if not _equal(one.layers[number], other.layers[partner]) or not (near or one.around[number] == other.around[partner]):
                    costs[row, column] = inf
        more = _path(costs, [one.gap(row) for row in rows], [other.gap(column) for column in columns])
        if not more:
            return found
        found += [Pair(rows[row], columns[column], moved=True) for row, column in more]


def _left(count: int, taken: Iterable[int]) -> list[int]:
    used = set(taken)
    return [number for number in range(count) if number not in used]


def _places(numbers: list[int], matched: list[int]) -> list[int]:
    """How many matched layers come before each."""
    from bisect import bisect

    ordered = sorted(matched)
    return [bisect(ordered, number) for number in numbers]


def _folded(a: Structure, b: Structure, partners: dict[int, int]) -> dict[int, int]:
    """BatchNorms of `a` without partner behind a weighted sum whose partner has a bias and no normalisation behind it."""
    found: dict[int, int] = {}
    for number, layer in enumerate(a.layers):
        maker = a.producers(layer)[0] if layer.kind == "batch norm" and number not in partners else None
        partner = partners.get(maker) if maker is not None else None
        if maker is None or partner is None or a.layers[maker].family != "weighted sum":
            continue
        other = b.layers[partner]
        free = not any(b.layers[user].kind in NORMALISATIONS for user in b.consumers(other))
        left_out = b.format != "torch" and shifts_nothing(a, layer, a.layers[maker])  # exporters drop a bias of zeros
        if free and (other.fields.get("bias") or left_out):
            found[number] = maker
    return found


def shifts_nothing(structure: Structure, norm: Layer, before: Layer) -> bool:
    """Whether, as far as the weights are there, a BatchNorm after this layer adds zero, so that a folded one needs no bias."""
    import numpy as np

    def held(layer: Layer, role: str) -> np.ndarray | float:
        stored = layer.weights.get(role)
        return structure.tensors[stored.name] if stored is not None and structure.tensors and stored.name in structure.tensors else 0.0

    known = structure.tensors is not None and {"running_mean", "running_var"} <= set(norm.weights)
    return known and not np.any(held(norm, "bias")) and not np.any(held(norm, "running_mean") - held(before, "bias"))


def is_nothing(structure: Structure, layer: Layer, role: str) -> bool:
    """Whether a weight is there and all zeros."""
    stored = layer.weights.get(role)
    return (
        stored is not None
        and structure.tensors is not None
        and stored.name in structure.tensors
        and not structure.tensors[stored.name].any()
    )
