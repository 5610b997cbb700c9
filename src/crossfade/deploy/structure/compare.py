"""What two aligned networks differ in: fields, layers, order and wiring, each with a grade."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from crossfade.deploy.structure import grade
from crossfade.deploy.structure.align import Alignment, Pair, align, differing, is_nothing
from crossfade.deploy.structure.layer import COMMUTATIVE, CONVOLUTIONS, Layer, Structure, Value

MISSING, EXTRA = "missing", "extra"


@dataclass(frozen=True)
class Difference:
    """One difference. `a` and `b`: the layers' names, "" where there is none; `follows`: it comes of a difference at an earlier layer."""

    grade: str
    field: str
    kind: str
    a: str
    b: str
    value_a: Value = None
    value_b: Value = None
    follows: bool = False


@dataclass(frozen=True)
class Comparison:
    alignment: Alignment
    differences: tuple[Difference, ...]

    @property
    def own(self) -> list[Difference]:
        """Differences that matter and follow from no other."""
        return [one for one in self.differences if one.grade != grade.COSMETIC and not one.follows]

    @property
    def worst(self) -> str | None:
        return min((one.grade for one in self.own), default=None)

    @cached_property
    def folded(self) -> int:
        return sum(one.field == "folded" for one in self.differences)

    @property
    def verdict(self) -> str:
        """ "identical", "same structure, 52 BatchNorm folded in …", "3 differences, worst P0"."""
        if self.worst:
            following = sum(one.follows for one in self.differences)
            more = f", and {following} that follow" if following else ""
            return f"{len(self.own)} difference{'s' * (len(self.own) != 1)}, worst {self.worst} ({grade.GRADES[self.worst]}){more}"
        if not self.differences:
            return "identical"
        return f"same structure, {', '.join(self._cosmetics())}"

    def _cosmetics(self) -> list[str]:
        counts = Counter(one.field for one in self.differences)
        return [f"{count} {COSMETICS[field]}" if field == "folded" else COSMETICS.get(field, field) for field, count in counts.items()]


COSMETICS = {
    "folded": "BatchNorm folded",
    "names": "other names",
    "branches": "branches in another order",
    "zero bias": "zero biases left out",
    MISSING: "reshapes apart",
    EXTRA: "reshapes apart",
}


def compare(a: Structure, b: Structure) -> Comparison:
    """Every difference of `b` from `a`, in the order of the layers of `a`."""
    return compared(align(a, b))


def compared(alignment: Alignment) -> Comparison:
    order = Wiring(alignment)
    found: list[tuple[float, Difference]] = []
    for pair in alignment.pairs:
        found += [(pair.a, one) for one in (*_fields(alignment, pair), *order.of(pair))]
    found += [(number, _absent(alignment.a, number, MISSING)) for number in alignment.missing]
    found += [(_place(alignment, number), _absent(alignment.b, number, EXTRA)) for number in alignment.extra]
    found += [(number, _fold(alignment.a, number, alignment)) for number in alignment.folded_a]
    found += [(_place(alignment, number), _fold(alignment.b, number, alignment)) for number in alignment.folded_b]
    found += [(len(alignment.a.layers), one) for one in (*order.outputs(), *_names(alignment))]
    return Comparison(alignment, tuple(one for _, one in sorted(found, key=lambda entry: entry[0])))


def _place(alignment: Alignment, number: int) -> float:
    """Where a layer of `b` alone stands among those of `a`: behind the last before it that has a partner."""
    before = [alignment.of_b[one].a for one in range(number) if one in alignment.of_b and not alignment.of_b[one].moved]
    return max(before, default=-1) + 0.5


def _absent(structure: Structure, number: int, field: str) -> Difference:
    layer = structure.layers[number]
    names = (layer.name, "") if field == MISSING else ("", layer.name)
    return Difference(grade.of_absence(layer), field, layer.kind, *names)


def _fold(structure: Structure, number: int, alignment: Alignment) -> Difference:
    layer, here = structure.layers[number], structure is alignment.a
    into = (alignment.folded_a if here else alignment.folded_b)[number]
    partner = (alignment.b.layers[alignment.of_a[into].b] if here else alignment.a.layers[alignment.of_b[into].a]).name
    names = (layer.name, partner) if here else (partner, layer.name)
    return Difference(grade.COSMETIC, "folded", layer.kind, *names)


def _fields(alignment: Alignment, pair: Pair) -> Iterator[Difference]:
    a, b = alignment.a.layers[pair.a], alignment.b.layers[pair.b]
    narrower = _widths(alignment, a, b)
    for field in _compared_fields(a, b):
        values = (a.kind, b.kind) if field == "kind" else (a.fields.get(field), b.fields.get(field))
        if field == "bias" and _bias_is_told(alignment, pair):
            continue
        told = "zero bias" if field == "bias" and _zero_bias(alignment, a, b) else field
        follows = field in WIDTHS and narrower is not None and tuple(values) == narrower
        yield Difference(grade.of_field(a, told), told, a.kind, a.name, b.name, *values, follows=follows)


WIDTHS = frozenset({"inputs", "outputs", "groups", "channels", "slopes", "constant"})


def _compared_fields(a: Layer, b: Layer) -> list[str]:
    changed = differing(a.fields, b.fields)
    if a.kind == b.kind or (
        {a.kind, b.kind} <= CONVOLUTIONS and "groups" in changed and ("transposed" in a.kind) == ("transposed" in b.kind)
    ):
        return changed
    shared = [field for field in changed if field in a.fields and field in b.fields]
    return ["kind", *shared]


def _widths(alignment: Alignment, a: Layer, b: Layer) -> tuple[int, int] | None:
    """How many channels come in on both sides, where that differs."""
    found = _width_in(alignment.a, a), _width_in(alignment.b, b)
    return found if None not in found and found[0] != found[1] else None  # pyright: ignore[reportReturnType]


def _width_in(structure: Structure, layer: Layer) -> int | None:
    makers = structure.producers(layer)
    return None if not makers or makers[0] is None else _width(structure, structure.layers[makers[0]])


def _width(structure: Structure, layer: Layer) -> int | None:
    """The channels that leave a layer; None where that cannot be told without shapes."""
    for _ in range(len(structure.layers)):
        told = layer.fields.get("outputs", layer.fields.get("channels"))
        if isinstance(told, int):
            return told
        if layer.kind == "concat":
            makers = structure.producers(layer)
            widths = [None if maker is None else _width(structure, structure.layers[maker]) for maker in makers]
            return None if None in widths or layer.fields.get("axis") != 0 else sum(filter(None, widths))
        makers = structure.producers(layer)
        if layer.family not in KEEPING or not makers or makers[0] is None:
            return None
        layer = structure.layers[makers[0]]
    return None


KEEPING = frozenset({"activation", "pooling", "arithmetic", "resize", "padding", "normalisation"})


def _bias_is_told(alignment: Alignment, pair: Pair) -> bool:
    """A bias that is there because a BatchNorm was folded is no difference of its own."""
    return pair.a in alignment.folded_a.values() or pair.b in alignment.folded_b.values()


def _zero_bias(alignment: Alignment, a: Layer, b: Layer) -> bool:
    return is_nothing(alignment.a, a, "bias") or is_nothing(alignment.b, b, "bias")


def _names(alignment: Alignment) -> list[Difference]:
    """Names can be the same only where both sides are of one format; all that differ are one difference."""
    if alignment.a.format != alignment.b.format:
        return []
    pairs = [(alignment.a.layers[pair.a], alignment.b.layers[pair.b]) for pair in alignment.pairs]
    other = [(a.name, b.name) for a, b in pairs if a.name != b.name]
    return [Difference(grade.COSMETIC, "names", f"{len(other)} layers", *other[0])] if other else []


Origin = tuple[str, object]


class Wiring:
    """Whether aligned layers take the values of aligned layers, seen through those that are missing, extra or moved."""

    def __init__(self, alignment: Alignment):
        self.alignment = alignment
        self.moved = {pair.a: self._order(pair) for pair in alignment.pairs if pair.moved}
        self.inputs = self._inputs()
        self.known: dict[tuple[bool, str], tuple[frozenset[Origin], bool]] = {}

    def of(self, pair: Pair) -> list[Difference]:
        a, b = self.alignment.a.layers[pair.a], self.alignment.b.layers[pair.b]
        if pair.moved:
            field = self.moved[pair.a]
            return [Difference(grade.FIELDS[field], field, a.kind, a.name, b.name)]
        if self._same([self._origins(True, name) for name in a.inputs], [self._origins(False, name) for name in b.inputs], a):
            return []
        return [Difference(grade.FIELDS["wiring"], "wiring", a.kind, a.name, b.name, *self._takes(a, b))]

    def outputs(self) -> list[Difference]:
        a, b = self.alignment.a, self.alignment.b
        order = sorted if set(a.outputs) == set(b.outputs) else list
        left, right = ([self._origins(side, name) for name in order(names)] for side, names in ((True, a.outputs), (False, b.outputs)))
        counted = Counter(origins for origins, _ in left) == Counter(origins for origins, _ in right)
        if counted or (len(left) == len(right) and all(map(_agree, left, right))):
            return []
        return [Difference(grade.FIELDS["wiring"], "wiring", "output", ", ".join(a.outputs), ", ".join(b.outputs), len(left), len(right))]

    def _same(self, left: list[tuple[frozenset[Origin], bool]], right: list[tuple[frozenset[Origin], bool]], layer: Layer) -> bool:
        if len(left) != len(right):
            return False
        if layer.kind in COMMUTATIVE:
            left, right = (sorted(side, key=lambda origins: sorted(map(repr, origins[0]))) for side in (left, right))
        return all(map(_agree, left, right))

    def _takes(self, a: Layer, b: Layer) -> tuple[str, str]:
        sides = ((self.alignment.a, a), (self.alignment.b, b))
        made = [[structure.producers(layer), structure, layer] for structure, layer in sides]
        texts = [
            ", ".join(name if maker is None else structure.layers[maker].name for maker, name in zip(makers, layer.inputs, strict=True))
            for makers, structure, layer in made
        ]
        return texts[0], texts[1]

    def _origins(self, of_a: bool, name: str) -> tuple[frozenset[Origin], bool]:
        """Where a value comes from, in layers of `a`; and whether that was seen through a layer that joins."""
        key = (of_a, name)
        if key not in self.known:
            self.known[key] = self._traced(of_a, name)
        return self.known[key]

    def _traced(self, of_a: bool, name: str) -> tuple[frozenset[Origin], bool]:
        structure = self.alignment.a if of_a else self.alignment.b
        found: set[Origin] = set()
        waiting, joined, seen = [name], False, set()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            if value not in structure.makers:
                found.add(("input", value if of_a else self.inputs.get(value, value)))
                continue
            maker, place = structure.makers[value]
            pair = (self.alignment.of_a if of_a else self.alignment.of_b).get(maker)
            if pair is not None and not pair.moved:
                found.add(("layer", (pair.a, place)))
            else:
                joined = joined or len(structure.layers[maker].inputs) > 1
                waiting += structure.layers[maker].inputs
        return frozenset(found), joined

    def _inputs(self) -> dict[str, str]:
        """Inputs of `b` -> of `a`: by name where the names are the same, else in order."""
        a, b = self.alignment.a.inputs, self.alignment.b.inputs
        return {} if set(a) & set(b) else dict(zip(b, a, strict=False))

    def _order(self, pair: Pair) -> str:
        """Of a layer in another place: "branches" where it still stands between the same layers, else "order"."""
        a, b = self.alignment.a, self.alignment.b
        before = [self._partner(number) for number in a.producers(a.layers[pair.a])] == b.producers(b.layers[pair.b])
        after = {self._partner(number) for number in a.consumers(a.layers[pair.a])} == set(b.consumers(b.layers[pair.b]))
        return "branches" if before and after else "order"

    def _partner(self, number: int | None) -> int | None:
        pair = self.alignment.of_a.get(number) if number is not None else None
        return None if pair is None else pair.b


def _agree(left: tuple[frozenset[Origin], bool], right: tuple[frozenset[Origin], bool]) -> bool:
    """The same layers; through a join that one side lacks, what one side takes may be part of what the other does."""
    (a, joined), (b, joined_other) = left, right
    return a == b or (joined and b <= a) or (joined_other and a <= b)
