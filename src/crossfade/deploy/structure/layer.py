"""One record for a layer, whatever it comes from, and the network that such layers make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isinf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

Value = int | float | bool | str | tuple[int, ...] | tuple[float, ...] | None
Fields = dict[str, Value]
Shape = tuple[int | None, ...]

CONVOLUTIONS = frozenset({"convolution", "depthwise convolution", "transposed convolution", "depthwise transposed convolution"})
NORMALISATIONS = frozenset({"batch norm", "group norm", "layer norm", "instance norm", "rms norm", "local response norm"})
ARITHMETIC = frozenset({"add", "subtract", "multiply", "divide", "maximum", "minimum", "power"})
COMMUTATIVE = frozenset({"add", "multiply", "maximum", "minimum"})
SHAPES = frozenset({"reshape"})  # they keep the values and their order


class Stored(NamedTuple):
    """A weight's name in its source, and how it lies there: `weights.ARRANGEMENTS` says how that becomes PyTorch's."""

    name: str
    arrangement: str = "as in PyTorch"


@dataclass(frozen=True)
class Layer:
    """`inputs` and `outputs` name values; `fields` say what it computes, `weights` where each is stored; `shape` is without the batch."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fields: Fields = field(default_factory=dict)
    weights: dict[str, Stored] = field(default_factory=dict)
    parameters: int = 0
    shape: Shape | None = None

    @property
    def family(self) -> str:
        """Kinds of which one can stand for another, as a changed layer."""
        return FAMILIES.get(self.kind, self.kind)


FAMILIES = {
    **dict.fromkeys(CONVOLUTIONS | {"linear"}, "weighted sum"),
    **dict.fromkeys(NORMALISATIONS, "normalisation"),
    **dict.fromkeys(ARITHMETIC, "arithmetic"),
}


@dataclass(frozen=True)
class Structure:
    """The layers of one network in an order in which each value is made before it is used.

    `format` is torch, onnx or ncnn; `counted` how many layers the source itself counts; `tensors` its weights where they were read.
    """

    source: str
    format: str
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    counted: int = 0
    tensors: Mapping[str, np.ndarray] | None = None

    @cached_property
    def makers(self) -> dict[str, tuple[int, int]]:
        """value -> number of the layer that makes it, and which of its outputs it is"""
        return {name: (number, place) for number, layer in enumerate(self.layers) for place, name in enumerate(layer.outputs)}

    @cached_property
    def users(self) -> dict[str, list[int]]:
        """value -> numbers of the layers that take it"""
        found: dict[str, list[int]] = {}
        for number, layer in enumerate(self.layers):
            for name in layer.inputs:
                found.setdefault(name, []).append(number)
        return found

    @cached_property
    def parameters(self) -> int:
        """Learned numbers; one that two layers share counts once, statistics of a BatchNorm do not count."""
        shared = {
            (frozenset(stored.name for stored in layer.weights.values()) or number): layer for number, layer in enumerate(self.layers)
        }
        return sum(layer.parameters for layer in shared.values())

    @property
    def as_ncnn_counts(self) -> int:
        """With a layer for each input and a Split for each value that is used more than once; a .param's own count is its own."""
        if self.format == "ncnn":
            return self.counted
        return len(self.layers) + len(self.inputs) + sum(len(users) > 1 for users in self.users.values())

    @property
    def kinds(self) -> dict[str, int]:
        return dict(Counter(layer.kind for layer in self.layers))

    def producers(self, layer: Layer) -> list[int | None]:
        """The layer behind each input, None for an input of the network."""
        return [self.makers[name][0] if name in self.makers else None for name in layer.inputs]

    def consumers(self, layer: Layer) -> list[int]:
        return [number for name in layer.outputs for number in self.users.get(name, ())]


def convolution(
    *,
    inputs: int,
    outputs: int,
    kernel: Iterable[int],
    stride: Iterable[int],
    padding: Value,
    dilation: Iterable[int],
    groups: int,
    bias: bool,
    output_padding: Iterable[int] | None = None,
) -> tuple[str, Fields]:
    """`padding`: starts, then ends, (top, left, bottom, right), or its name; `output_padding` makes it a transposed one."""
    sizes: Fields = {"inputs": inputs, "outputs": outputs, "kernel": tuple(kernel), "stride": tuple(stride), "dilation": tuple(dilation)}
    fields: Fields = {**sizes, "padding": padding, "padding mode": "zeros", "groups": groups, "bias": bias}
    transposed = "" if output_padding is None else "transposed "
    depthwise = "depthwise " if 1 < groups == inputs and outputs % groups == 0 else ""
    return f"{depthwise}{transposed}convolution", fields | ({} if output_padding is None else {"output padding": tuple(output_padding)})


def resolved_padding(padding: str, kernel: tuple[int, ...], dilation: tuple[int, ...], stride: tuple[int, ...]) -> Value:
    """ "same" paddings as numbers where they do not depend on the size of the input, which is where every step is 1."""
    if any(step != 1 for step in stride):
        return padding
    totals = [reach * (size - 1) for reach, size in zip(dilation, kernel, strict=True)]
    before = [total // 2 if padding == "same upper" else total - total // 2 for total in totals]
    return (*before, *(total - start for total, start in zip(totals, before, strict=True)))


def activation(function: str, **parameters: Value) -> tuple[str, Fields]:
    return "activation", {"function": function, **parameters}


def clip(low: float, high: float) -> tuple[str, Fields]:
    """The names that people use for some clips."""
    if low == 0 and (isinf(high) or high > 1e38):
        return activation("relu")
    return activation("relu6") if (low, high) == (0, 6) else activation("clip", minimum=low, maximum=high)


def relu(slope: float) -> tuple[str, Fields]:
    return activation("leaky relu", slope=slope) if slope else activation("relu")


def global_pooling(function: str) -> tuple[str, Fields]:
    return "pooling", {"function": function, "global": True}


def pooling(
    function: str, kernel: Iterable[int], stride: Iterable[int], padding: Iterable[int], *, counts: bool, ceil: bool
) -> tuple[str, Fields]:
    """`counts`: zeros of the padding count in an average; `ceil`: a last window may reach beyond the end."""
    starts = tuple(padding)
    more: Fields = {"padding counts": counts} if function == "average" and any(starts) else {}
    return "pooling", {
        "function": function,
        "global": False,
        "kernel": tuple(kernel),
        "stride": tuple(stride),
        "padding": starts,
        "ceil": ceil,
        **more,
    }
