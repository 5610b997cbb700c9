"""A graph and its weights as ncnn's files: .param as text or binary, .bin in float32, float16 or int8."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossfade.clip import UserError
from crossfade.ncnn.binary_param import END, TEXT
from crossfade.ncnn.graph import Graph, Layer, Value
from crossfade.ncnn.kinds import NUMBERED, complete, parameters
from crossfade.ncnn.text_param import ARRAY, MAGIC
from crossfade.ncnn.weights import FLOAT16, INT8, PLAIN, Arrays, Weight, owned


def write_param(graph: Graph, path: Path) -> None:
    """The text form."""
    lines = [str(MAGIC), f"{len(graph.layers)} {len(graph.blobs)}", *map(_line, graph.layers)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(layer: Layer) -> str:
    head = f"{layer.kind:<24} {layer.name:<24} {len(layer.inputs)} {len(layer.outputs)}"
    return " ".join([head, *layer.inputs, *layer.outputs, *(_pair(number, value) for number, value in layer.numbers.items())])


def _pair(number: int, value: Value) -> str:
    if isinstance(value, tuple):
        return f"{ARRAY - number}={','.join([str(len(value)), *map(_scalar, value)])}"
    return f'{number}="{value}"' if isinstance(value, str) else f"{number}={_scalar(value)}"


def _scalar(value: int | float) -> str:
    """A float has a point or an exponent, by which ncnn tells it from an integer, and at most 15 letters."""
    return str(value) if isinstance(value, int) else f"{value:.8e}"


def write_binary_param(graph: Graph, path: Path) -> None:
    """The binary form; blobs are numbered as they are made."""
    blobs = {name: number for number, name in enumerate(graph.blobs)}
    content = struct.pack("<3i", MAGIC, len(graph.layers), len(blobs))
    path.write_bytes(content + b"".join(_binary(graph, layer, blobs) for layer in graph.layers))


def _binary(graph: Graph, layer: Layer, blobs: dict[str, int]) -> bytes:
    if layer.kind not in NUMBERED:
        raise UserError(f"{graph.where(layer)}: has no number in ncnn, so it cannot be written in binary")
    ends = [blobs[name] for name in (*layer.inputs, *layer.outputs)]
    head = struct.pack(f"<{3 + len(ends)}i", NUMBERED.index(layer.kind), len(layer.inputs), len(layer.outputs), *ends)
    return head + b"".join(_binary_pair(layer.kind, number, value) for number, value in layer.numbers.items()) + struct.pack("<i", END)


def _binary_pair(kind: str, number: int, value: Value) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return struct.pack("<2i", TEXT - number, len(text)) + text + bytes(-len(text) % 4)
    parameter = parameters(kind).get(number)
    wanted = (parameter.of or parameter.type) if parameter else type(value)
    if isinstance(value, tuple):
        return struct.pack("<2i", ARRAY - number, len(value)) + struct.pack(f"<{len(value)}{'f' if wanted is float else 'i'}", *value)
    return struct.pack("<i", number) + struct.pack("<f" if wanted is float else "<i", value)


def write_weights(graph: Graph, weights: dict[str, Arrays], path: Path, *, storage: str = "float32") -> None:
    """Every array of every layer in order, in the shapes of `owned`. `storage`: float32, float16 or int8, where ncnn knows all three."""
    content = (_stored(weight, weights[layer.name], storage) for layer in graph.layers for weight in owned(graph, layer))
    path.write_bytes(b"".join(content))


def _stored(weight: Weight, arrays: Arrays, storage: str) -> bytes:
    array = np.asarray(arrays[weight.name], np.float32)
    if array.shape != weight.shape:
        raise UserError(f"the array {weight.name} has the shape {array.shape}, but its layer says {weight.shape}")
    if not weight.flagged:
        return array.astype("<f4").tobytes()
    flag, content = STORED[storage](array, arrays)
    return struct.pack("<I", flag) + content + bytes(-len(content) % 4)


def _int8(array: np.ndarray, arrays: Arrays) -> tuple[int, bytes]:
    scale = np.asarray(arrays["weight_scale"], np.float32)
    each = np.repeat(scale, len(array) // len(scale)).reshape(-1, *[1] * (array.ndim - 1))
    return INT8, np.clip(np.rint(array * each), -127, 127).astype(np.int8).tobytes()


STORED: dict[str, Callable[[np.ndarray, Arrays], tuple[int, bytes]]] = {
    "float32": lambda array, _: (PLAIN, array.astype("<f4").tobytes()),
    "float16": lambda array, _: (FLOAT16, array.astype("<f2").tobytes()),
    "int8": _int8,
}


def layer(kind: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], **named: Value) -> Layer:
    """A layer with its parameters by name, checked as one that is read."""
    numbers = {parameter.name: number for number, parameter in parameters(kind).items()}
    if strange := sorted(set(named) - set(numbers)):
        raise UserError(f"{kind} {name}: has no parameter {strange[0]}; there are {', '.join(numbers)}")
    made = Layer(kind, name, inputs, outputs, {numbers[key]: value for key, value in named.items()})
    complete(Graph("a layer", (made,)), made)
    return made
