"""A .param as the common record of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from crossfade.deploy.structure.layer import (
    Fields,
    Layer,
    Stored,
    Structure,
    activation,
    clip,
    convolution,
    global_pooling,
    pooling,
    relu,
    resolved_padding,
)
from crossfade.deploy.structure.simplify import simplified
from crossfade.ncnn import graph as ncnn_graph
from crossfade.ncnn.activations import FUSED_PARAMETERS
from crossfade.ncnn.kinds import by_name, complete, known
from crossfade.ncnn.model import Model, weights_beside
from crossfade.ncnn.model import read as read_model
from crossfade.ncnn.resampling import MODES
from crossfade.ncnn.shapes import AXES, ORDERS, REST
from crossfade.ncnn.weights import owned

if TYPE_CHECKING:
    import numpy as np

Made = tuple[str, Fields]
SAME = {-233: "same upper", -234: "same lower"}


def read(param: Path, *, weights: bool = False) -> Structure:
    """The structure of a .param or .param.bin; with `weights` those of the .bin beside it too."""
    return of(read_model(param, weights_beside(param) if weights else None))


def of(model: Model) -> Structure:
    layers = [one for layer in model.graph.layers if layer.kind != "Input" for one in _layers(model.graph, layer)]
    structure = Structure(
        model.graph.source, "ncnn", tuple(layers), model.graph.inputs, model.graph.outputs, len(model.graph.layers), tensors(model)
    )
    return simplified(_with_memory_inside(structure))


def _with_memory_inside(structure: Structure) -> Structure:
    """A MemoryData is a constant of the layer that takes it."""
    memory = {layer.outputs[0]: layer for layer in structure.layers if layer.kind == "constant"}
    layers = [_with_constant(layer, memory) for layer in structure.layers if layer.kind != "constant"]
    return replace(structure, layers=tuple(layers))


def _with_constant(layer: Layer, memory: dict[str, Layer]) -> Layer:
    held = [memory[name] for name in layer.inputs if name in memory]
    rest = tuple(name for name in layer.inputs if name not in memory)
    if not held or not rest:
        return layer
    fields: Fields = {**layer.fields, "constant": held[0].fields["shape"]}
    weights = {**layer.weights, **held[0].weights}
    return replace(layer, inputs=rest, fields=fields, weights=weights, parameters=layer.parameters + held[0].parameters)


def tensors(model: Model) -> dict[str, np.ndarray] | None:
    """ "layer.array" -> array"""
    if model.weights is None:
        return None
    return {f"{layer}.{name}": array for layer, arrays in model.weights.items() for name, array in arrays.items()}


def _layers(graph: ncnn_graph.Graph, layer: ncnn_graph.Layer) -> list[Layer]:
    """A layer, and the activation that it carries as one of its own. An unknown kind is a record too."""
    if not known(layer.kind):
        return [Layer(layer.kind, layer.name, layer.inputs, layer.outputs, {**by_name(layer)})]
    p = complete(graph, layer)
    kind, fields = KINDS.get(layer.kind, lambda p: (layer.kind, {**by_name(layer)}))(p)
    learned = [weight for weight in owned(graph, layer) if not weight.name.endswith(("scale", "running_mean", "running_var"))]
    weights = {weight.name: Stored(f"{layer.name}.{weight.name}", _arrangement(kind, weight.name)) for weight in owned(graph, layer)}
    if kind in ("add", "multiply", "constant"):
        weights = dict[str, Stored](zip(("constant", "bias"), weights.values(), strict=False))
    made = Layer(kind, layer.name, layer.inputs, layer.outputs, fields, weights, sum(prod(weight.shape) for weight in learned))
    if not getattr(p, "activation_type", 0):
        return [made]
    between = f"{layer.outputs[0]} before its activation"
    kind, fields = FUSED[p.activation_type](*p.activation_params[: FUSED_PARAMETERS.get(p.activation_type, 0)])
    applied = Layer(kind, f"{layer.name} (activation)", (between,), layer.outputs, fields)
    return [Layer(made.kind, made.name, made.inputs, (between,), made.fields, made.weights, made.parameters), applied]


def _arrangement(kind: str, weight: str) -> str:
    return "outputs first" if "transposed" in kind and weight == "weight" else "as in PyTorch"


def hard_swish(alpha: float, beta: float) -> Made:
    usual = abs(alpha - 1 / 6) < 1e-4 and beta == 0.5
    return activation("hard swish") if usual else activation("hard swish", alpha=alpha, beta=beta)


def hard_sigmoid(alpha: float, beta: float) -> Made:
    usual = abs(alpha - 1 / 6) < 1e-4 and beta == 0.5
    return activation("hard sigmoid") if usual else activation("hard sigmoid", alpha=alpha, beta=beta)


FUSED: dict[int, Callable[..., Made]] = {
    1: lambda: activation("relu"),
    2: relu,
    3: clip,
    4: lambda: activation("sigmoid"),
    5: lambda: activation("mish"),
    6: hard_swish,
}


def _convolution(p: SimpleNamespace) -> Made:
    plane, groups = hasattr(p, "kernel_h"), getattr(p, "group", 1)
    kernel, stride, dilation = (
        (getattr(p, f"{name}_h"), getattr(p, f"{name}_w")) if plane else (getattr(p, f"{name}_w"),) for name in SIZES
    )
    pads = (p.pad_top, p.pad_left, p.pad_bottom, p.pad_right) if plane else (p.pad_left, p.pad_right)
    padding = resolved_padding(SAME[p.pad_left], kernel, dilation, stride) if p.pad_left in SAME else pads
    transposed = {"output_padding": (p.output_pad_bottom, p.output_pad_right)} if hasattr(p, "output_pad_right") else {}
    inputs = p.weight_data_size // max(p.num_output * prod(kernel), 1) * groups
    kind, fields = convolution(
        inputs=inputs,
        outputs=p.num_output,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bool(p.bias_term),
        **transposed,
    )
    return kind, fields | ({"padding mode": f"constant {p.pad_value:g}"} if getattr(p, "pad_value", 0) else {})


SIZES = ("kernel", "stride", "dilation")


def _linear(p: SimpleNamespace) -> Made:
    return "linear", {"inputs": p.weight_data_size // max(p.num_output, 1), "outputs": p.num_output, "bias": bool(p.bias_term)}


def _pooling(p: SimpleNamespace) -> Made:
    function, plane = ("average" if p.pooling_type else "maximum"), hasattr(p, "kernel_h")
    sizes = (p.out_h, p.out_w) if plane else (p.out_w,)
    if p.global_pooling or (p.adaptive_pooling and all(size == 1 for size in sizes)):
        return global_pooling(function)
    if p.adaptive_pooling:
        return "pooling", {"function": function, "global": False, "adaptive": sizes}
    kernel, stride = ((getattr(p, f"{name}_h"), getattr(p, f"{name}_w")) if plane else (getattr(p, f"{name}_w"),) for name in SIZES[:2])
    pads = (p.pad_top, p.pad_left, p.pad_bottom, p.pad_right) if plane else (p.pad_left, p.pad_right)
    return pooling(function, kernel, stride, pads, counts=bool(p.avgpool_count_include_pad), ceil=p.pad_mode == 0)


def _padding(p: SimpleNamespace) -> Made:
    mode = MODES.get(p.type, str(p.type))
    pads = (p.top, p.left, p.bottom, p.right)
    zeros = mode == "constant" and not p.value and not p.per_channel_pad_data_size
    return "padding", {"padding": pads, "padding mode": "zeros" if zeros else f"constant {p.value:g}" if mode == "constant" else mode}


def _reshape(p: SimpleNamespace) -> Made:
    sizes = tuple(size for size in (p.c, p.d, p.h, p.w) if size != REST)
    return "reshape", {"axes": len(sizes)}


def _permute(p: SimpleNamespace) -> Made:
    """The order as PyTorch says it, without the batch, of a blob of three axes."""
    orders = ORDERS[3]
    known_order = 0 <= p.order_type < len(orders)
    order = tuple(AXES[3].index(name) for name in reversed(orders[p.order_type])) if known_order else (p.order_type,)
    return "permute", {"order": order}


def _arithmetic(kind: str, p: SimpleNamespace) -> Made:
    return kind, {"constant": float(p.b)} if p.with_scalar else {}


def _binary(p: SimpleNamespace) -> Made:
    reverse = {7: "subtract", 8: "divide", 9: "power"}
    kind, fields = _arithmetic(BINARY.get(p.op_type) or reverse.get(p.op_type) or f"BinaryOp {p.op_type}", p)
    return kind, fields | ({"reversed": True} if p.op_type in reverse else {})


BINARY = dict(enumerate(("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")))
SINGLE = "abs negate floor ceil square sqrt rsqrt exp log sin cos tan asin acos atan reciprocal tanh log10 round truncate"
UNARY = dict(enumerate(SINGLE.split()))
REDUCTIONS = dict(enumerate(("sum", "asum", "sumsq", "mean", "max", "min", "prod", "l1", "l2", "logsum", "logsumexp")))


def _reduction(p: SimpleNamespace) -> Made:
    function, axes = REDUCTIONS.get(p.operation, str(p.operation)), tuple(sorted(p.axes))
    plane = not p.reduce_all and axes in ((1, 2), (-2, -1)) and p.coeff == 1
    return global_pooling("average") if plane and function == "mean" else ("reduce", {"function": function})


def _interp(p: SimpleNamespace) -> Made:
    mode = {1: "nearest", 2: "bilinear", 3: "bicubic"}.get(p.resize_type, str(p.resize_type))
    by_scale = not (p.output_height and p.output_width)
    size: Fields = {"scale": (p.height_scale, p.width_scale)} if by_scale else {"size": (p.output_height, p.output_width)}
    return "resize", {"mode": mode, "align corners": bool(p.align_corner), **size}


def _norm(kind: str, size: str) -> Callable[[SimpleNamespace], Made]:
    return lambda p: (kind, {"channels": getattr(p, size), "eps": p.eps, "affine": bool(getattr(p, "affine", 1))})


def _plain(made: Made) -> Callable[[SimpleNamespace], Made]:
    return lambda p: made


def _function(name: str) -> Callable[[SimpleNamespace], Made]:
    return _plain(activation(name))


KINDS: dict[str, Callable[[SimpleNamespace], Made]] = {
    **dict.fromkeys(("Convolution", "Convolution1D", "ConvolutionDepthWise", "ConvolutionDepthWise1D"), _convolution),
    **dict.fromkeys(("Deconvolution", "DeconvolutionDepthWise"), _convolution),
    **dict.fromkeys(("Split", "Noop", "Cast", "DeepCopy"), _plain(("identity", {}))),
    **dict.fromkeys(("Pooling", "Pooling1D"), _pooling),
    "AbsVal": _function("abs"),
    "BatchNorm": _norm("batch norm", "channels"),
    "Bias": lambda p: ("add", {"constant": (p.bias_data_size,)}),
    "BinaryOp": _binary,
    "Clip": lambda p: clip(p.min, p.max),
    "Concat": lambda p: ("concat", {"axis": p.axis}),
    "Dropout": lambda p: ("identity", {}) if p.scale == 1 else ("multiply", {"constant": float(p.scale)}),
    "Eltwise": lambda p: (
        {0: "multiply", 1: "add", 2: "maximum"}.get(p.op_type, "Eltwise"),
        {"coefficients": p.coeffs} if p.coeffs else {},
    ),
    "ELU": lambda p: activation("elu", alpha=p.alpha),
    "Erf": _function("erf"),
    "ExpandDims": lambda p: ("reshape", {}),
    "Flatten": lambda p: ("reshape", {"axes": 1}),
    "GELU": lambda p: activation("gelu", approximation="tanh" if p.fast_gelu else "none"),
    "GroupNorm": lambda p: ("group norm", {"channels": p.channels, "groups": p.group, "eps": p.eps, "affine": bool(p.affine)}),
    "HardSigmoid": lambda p: hard_sigmoid(p.alpha, p.beta),
    "HardSwish": lambda p: hard_swish(p.alpha, p.beta),
    "InnerProduct": _linear,
    "InstanceNorm": _norm("instance norm", "channels"),
    "Interp": _interp,
    "LayerNorm": _norm("layer norm", "affine_size"),
    "MatMul": lambda p: ("matrix product", {}),
    "MemoryData": lambda p: ("constant", {"shape": tuple(size for size in (p.c, p.d, p.h, p.w) if size > 1)}),
    "Mish": _function("mish"),
    "Padding": _padding,
    "Permute": _permute,
    "PixelShuffle": lambda p: ("pixel shuffle", {"factor": p.upscale_factor}),
    "PReLU": lambda p: activation("prelu", slopes=p.num_slope),
    "Reduction": _reduction,
    "ReLU": lambda p: relu(p.slope),
    "Reshape": _reshape,
    "RMSNorm": _norm("rms norm", "affine_size"),
    "Scale": lambda p: ("multiply", {"constant": (p.scale_data_size,)} if p.scale_data_size != REST else {}),
    "Sigmoid": _function("sigmoid"),
    "Slice": lambda p: ("slice", {"axis": p.axis}),
    "Softmax": lambda p: ("softmax", {"axis": p.axis}),
    "Softplus": _function("softplus"),
    "Squeeze": lambda p: ("reshape", {}),
    "Swish": _function("swish"),
    "TanH": _function("tanh"),
    "UnaryOp": lambda p: activation(UNARY.get(p.op_type, str(p.op_type))),
}
