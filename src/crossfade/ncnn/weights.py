"""A .bin file of weights: which arrays each kind of layer owns, and the four ways in which ncnn stores one."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from crossfade.clip import UserError
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.kinds import complete, known

FLOAT16, INT8, BFLOAT16, PLAIN, SCALED = 0x01306B47, 0x000D4B38, 0x01348B83, 0, 0x0002C056  # the word before an array
TABLE = 256  # floats that the bytes of a quantised array point into


class Weight(NamedTuple):
    """One array of a layer: its name, its shape (outputs first), and whether the word that says how it is stored goes before it."""

    name: str
    shape: tuple[int, ...]
    flagged: bool = False


def _convolution(p: SimpleNamespace) -> list[Weight]:
    height = getattr(p, "kernel_h", 1)
    group = getattr(p, "group", 1)
    inputs = _whole(p.weight_data_size, p.num_output * p.kernel_w * height, "weight_data_size")
    kernel = (height, p.kernel_w) if hasattr(p, "kernel_h") else (p.kernel_w,)
    if group < 1 or p.num_output % group:
        raise ValueError(f"num_output {p.num_output} is no multiple of the {group} groups")
    return [Weight("weight", (p.num_output, inputs, *kernel), True), *_bias(p), *_scales(p, group)]


def _inner_product(p: SimpleNamespace) -> list[Weight]:
    inputs = _whole(p.weight_data_size, p.num_output, "weight_data_size")
    return [Weight("weight", (p.num_output, inputs), True), *_bias(p), *_scales(p, 1)]


def _bias(p: SimpleNamespace) -> list[Weight]:
    return [Weight("bias", (p.num_output,))] if p.bias_term else []


def _scales(p: SimpleNamespace, group: int) -> list[Weight]:
    """Of int8: a scale for each output, or group, or (2, 102) for all; of the input; and (above 100) of the output."""
    term = getattr(p, "int8_scale_term", 0)
    if not term:
        return []
    each = 1 if term % 100 == 2 else group if hasattr(p, "group") else p.num_output
    return [Weight("weight_scale", (each,)), Weight("input_scale", (1,)), *([Weight("output_scale", (1,))] if term > 100 else [])]


def _pair(size: str, switch: str, first: str = "weight", second: str = "bias") -> Callable[[SimpleNamespace], list[Weight]]:
    def owns(p: SimpleNamespace) -> list[Weight]:
        return [Weight(name, (getattr(p, size),)) for name in filter(None, (first, second))] if getattr(p, switch) else []

    return owns


def _scale(p: SimpleNamespace) -> list[Weight]:
    if p.scale_data_size == -233:
        return []
    return [Weight("weight", (p.scale_data_size,)), *([Weight("bias", (p.scale_data_size,))] if p.bias_term else [])]


def _memory(p: SimpleNamespace) -> list[Weight]:
    extents = [extent for extent in (p.c, p.d, p.h, p.w) if extent]
    return [Weight("data", tuple(extents), not p.load_type)]


def _gemm(p: SimpleNamespace) -> list[Weight]:
    _no_blocks(p)
    if p.quantize_term and p.constantA and p.transA:
        raise ValueError("a transposed A of int8 is not supported")
    sides = {"A": (p.constantM, p.constantK), "B": (p.constantK, p.constantN)}
    owned = [
        Weight(name, shape[::-1] if getattr(p, f"trans{name}") else shape, True)
        for name, shape in sides.items()
        if getattr(p, f"constant{name}")
    ]
    if p.constantC and p.constant_broadcast_type_C != -1:
        owned.append(Weight("C", _broadcast(p), True))
    if p.quantize_term:
        owned += [Weight("A_scale", (p.constantM,))] * bool(p.constantA) + [Weight("B_scale", (1,))] * bool(p.constantB)
    return owned


def _broadcast(p: SimpleNamespace) -> tuple[int, ...]:
    shapes = {0: (1,), 1: (p.constantM, 1), 2: (p.constantM, 1), 3: (p.constantM, p.constantN), 4: (1, p.constantN)}
    if p.constant_broadcast_type_C not in shapes:
        raise ValueError(f"constant_broadcast_type_C is {p.constant_broadcast_type_C}, but has to be -1 to 4")
    return shapes[p.constant_broadcast_type_C]


def _attention(p: SimpleNamespace) -> list[Weight]:
    _no_blocks(p)
    queries = _whole(p.weight_data_size, p.embed_dim, "weight_data_size")
    sides = {"q": (p.embed_dim, queries), "k": (p.embed_dim, p.kdim), "v": (p.embed_dim, p.vdim), "out": (queries, p.embed_dim)}
    owned = [
        weight for name, shape in sides.items() for weight in (Weight(f"{name}.weight", shape, True), Weight(f"{name}.bias", shape[:1]))
    ]
    if p.quantize_term:
        owned += [Weight(f"{name}.scale", (1 if name == "out" else p.embed_dim,)) for name in sides]
    return owned


def _no_blocks(p: SimpleNamespace) -> None:
    if p.quantize_term >= 4:
        raise ValueError(f"quantize_term {p.quantize_term} stores weights in blocks of few bits, which are not read here")


def _whole(size: int, by: int, name: str) -> int:
    if size < 1 or by < 1 or size % by:
        raise ValueError(f"{name} {size} is no multiple of {by}, what its other parameters say")
    return size // by


OWNED: dict[str, Callable[[SimpleNamespace], list[Weight]]] = {
    "BatchNorm": lambda p: [Weight(name, (p.channels,)) for name in ("weight", "running_mean", "running_var", "bias")],
    "Bias": lambda p: [Weight("bias", (p.bias_data_size,))],
    "Convolution": _convolution,
    "Convolution1D": _convolution,
    "ConvolutionDepthWise": _convolution,
    "ConvolutionDepthWise1D": _convolution,
    "Deconvolution": _convolution,
    "DeconvolutionDepthWise": _convolution,
    "Gemm": _gemm,
    "GroupNorm": _pair("channels", "affine"),
    "InnerProduct": _inner_product,
    "InstanceNorm": _pair("channels", "affine"),
    "LayerNorm": _pair("affine_size", "affine"),
    "MemoryData": _memory,
    "MultiHeadAttention": _attention,
    "Padding": _pair("per_channel_pad_data_size", "per_channel_pad_data_size", "value", ""),
    "PReLU": _pair("num_slope", "num_slope", "weight", ""),
    "RMSNorm": _pair("affine_size", "affine", "weight", ""),
    "Scale": _scale,
}


def owned(graph: Graph, layer: Layer) -> list[Weight]:
    """The arrays of a layer in the order of the file; UserError where its parameters contradict each other."""
    if layer.kind not in OWNED:
        return []
    parameters = complete(graph, layer)
    if getattr(parameters, "dynamic_weight", 0):
        return []
    try:
        weights = OWNED[layer.kind](parameters)
    except ValueError as error:
        raise UserError(f"{graph.where(layer)}: {error}") from None
    if wrong := next((weight for weight in weights if not weight.shape or min(weight.shape) < 1), None):
        raise UserError(f"{graph.where(layer)}: {wrong.name} would have the shape {wrong.shape}; every extent has to be at least 1")
    return weights


Arrays = dict[str, np.ndarray]


def read(path: Path, graph: Graph) -> dict[str, Arrays]:
    """Layer name -> array name -> float32, outputs first. int8 is multiplied out. UserError where the file is too short or too long."""
    stream = Stream(path)
    weights: dict[str, Arrays] = {}
    for layer in graph.layers:
        if not known(layer.kind):
            raise UserError(f"{graph.where(layer)}: is an unknown kind of layer, so it is not known which weights of {path} are its")
        if arrays := {weight.name: stream.array(graph, layer, weight) for weight in owned(graph, layer)}:
            weights[layer.name] = multiplied_out(graph, layer, arrays)
    if stream.left and not (stream.left == 4 and not weights):
        raise UserError(f"{path}: {stream.left} bytes follow the last weight that {graph.source} names; it belongs to another network")
    return weights


class Stream:
    """The bytes of a .bin file, taken one array after another; nothing is allocated before the file is known to hold it."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        try:
            self.content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None

    @property
    def left(self) -> int:
        return len(self.content) - self.position

    def take(self, where: str, name: str, size: int) -> np.ndarray:
        """`size` bytes, and the padding to a multiple of four."""
        padded = -(-size // 4) * 4
        if padded > self.left:
            raise UserError(f"{where}: {name} needs {padded} bytes, but {self.path} has {self.left} left; it is cut or of another network")
        self.position += padded
        return self.content[self.position - padded : self.position - padded + size]

    def array(self, graph: Graph, layer: Layer, weight: Weight) -> np.ndarray:
        where, count = graph.where(layer), prod(weight.shape)
        flag = int(self.take(where, weight.name, 4).view("<u4")[0]) if weight.flagged else PLAIN
        values = STORAGE.get(flag, _plain)(self, where, weight.name, count) if flag in STORAGE else _table(self, where, weight.name, count)
        if values.dtype != np.int8 and not np.isfinite(values).all():
            raise UserError(f"{where}: {weight.name} holds a number that is not finite")
        return values.reshape(weight.shape)


def _plain(stream: Stream, where: str, name: str, count: int) -> np.ndarray:
    return stream.take(where, name, 4 * count).view("<f4").astype(np.float32)


def _float16(stream: Stream, where: str, name: str, count: int) -> np.ndarray:
    return stream.take(where, name, 2 * count).view("<f2").astype(np.float32)


def _bfloat16(stream: Stream, where: str, name: str, count: int) -> np.ndarray:
    return (stream.take(where, name, 2 * count).view("<u2").astype(np.uint32) << 16).view(np.float32)


def _int8(stream: Stream, where: str, name: str, count: int) -> np.ndarray:
    return stream.take(where, name, count).view(np.int8).copy()


def _table(stream: Stream, where: str, name: str, count: int) -> np.ndarray:
    """A table of 256 floats and one byte a weight that points into it; any other flag says so, as in ncnn."""
    table = stream.take(where, name, 4 * TABLE).view("<f4").astype(np.float32)
    return table[stream.take(where, name, count)]


STORAGE = {PLAIN: _plain, SCALED: _plain, FLOAT16: _float16, BFLOAT16: _bfloat16, INT8: _int8}


def multiplied_out(graph: Graph, layer: Layer, arrays: Arrays) -> Arrays:
    """int8 weights as the floats they stand for: divided by their scale. The scales themselves go: they are of no use in training."""
    scales = {name: array for name, array in arrays.items() if name.endswith("scale")}
    return {name: _divided(graph, layer, name, array, scales) for name, array in arrays.items() if name not in scales}


def _divided(graph: Graph, layer: Layer, name: str, array: np.ndarray, scales: Arrays) -> np.ndarray:
    if array.dtype != np.int8:
        return array
    called = {"weight": "weight_scale"}.get(name, f"{name.removesuffix('.weight')}.scale" if "." in name else f"{name}_scale")
    if called not in scales:
        raise UserError(f"{graph.where(layer)}: {name} is stored as int8, but the layer has no scale for it (int8_scale_term is 0)")
    scale = np.where(scales[called] == 0, np.inf, scales[called])  # ncnn gives the scale 0 to channels of zeros
    if len(array) % len(scale):
        raise UserError(f"{graph.where(layer)}: {name} has {len(array)} outputs, but {len(scale)} scales")
    each = np.repeat(scale, len(array) // len(scale)).reshape(-1, *[1] * (array.ndim - 1))
    return (array.astype(np.float32) / each).astype(np.float32)
