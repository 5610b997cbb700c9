"""ONNX's operators as kinds of layers with their fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from crossfade.deploy.structure.layer import Fields, Value, activation, clip, convolution, global_pooling, pooling, relu, resolved_padding

if TYPE_CHECKING:
    import numpy as np

Made = tuple[str, Fields]
ROLES = ("weight", "bias", "running_mean", "running_var")
PADDINGS = {"SAME_UPPER": "same upper", "SAME_LOWER": "same lower"}


class Known(Protocol):
    """What a graph knows of its values."""

    def size(self, name: str) -> tuple[int, ...] | None: ...

    def axes(self, name: str) -> int | None: ...

    def array(self, name: str) -> np.ndarray | None: ...

    @property
    def constants(self) -> Any: ...


class Node:
    """One operator: its inputs by place, its attributes by name. `roles`: which weight of a layer each constant input is."""

    def __init__(self, node: Any, attributes: dict[str, Any], graph: Known):
        self.name, self.called, self.attributes, self.graph = node.op_type, node.name, attributes, graph
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.roles: dict[str, str] = {}
        self.arrangements: dict[str, str] = {}

    def given(self, place: int) -> str | None:
        return self.inputs[place] or None if place < len(self.inputs) else None

    def weights(self, *roles: str) -> None:
        """The inputs after the first are these weights."""
        self.roles = {role: name for place, role in enumerate(roles, 1) if (name := self.given(place)) and name in self.graph.constants}

    def text(self, name: str, default: str) -> str:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def numbers(self, place: int, attribute: str) -> tuple[int, ...] | None:
        """Numbers that newer versions take as an input and older ones as an attribute; None where they are not there or computed."""
        name = self.given(place)
        array = self.graph.array(name) if name else None
        found = array.reshape(-1).tolist() if array is not None else self.attributes.get(attribute)
        return (found,) if isinstance(found, int) else None if found is None else tuple(found)

    def number(self, place: int, attribute: str, default: float) -> float:
        found = self.attributes.get(attribute)
        name = self.given(place)
        array = self.graph.array(name) if name else None
        return float(array.reshape(-1)[0]) if array is not None and array.size else default if found is None else float(found)

    def axis(self, name: str, default: int) -> int:
        """Without the batch; from the front where the number of axes is known."""
        axis = int(self.attributes.get(name, default))
        axes = self.graph.axes(self.inputs[0]) or self.graph.axes(self.outputs[0])
        if axis >= 0:
            return axis - 1
        return axis % axes - 1 if axes else axis


def given(node: Node) -> Made:
    """An operator without an entry keeps its own name and its plain attributes."""
    return node.name, {name: value for name, value in node.attributes.items() if isinstance(value, int | float)}


def _convolution(node: Node) -> Made:
    node.weights("weight", "bias")
    size = node.graph.size(node.inputs[1]) or ()
    kernel = tuple(node.attributes.get("kernel_shape") or size[2:])
    dims, groups = len(kernel), int(node.attributes.get("group", 1))
    stride, dilation = (tuple(node.attributes.get(name) or (1,) * dims) for name in ("strides", "dilations"))
    automatic = PADDINGS.get(node.text("auto_pad", "NOTSET"))
    padding: Value = (
        resolved_padding(automatic, kernel, dilation, stride) if automatic else tuple(node.attributes.get("pads") or (0,) * 2 * dims)
    )
    inner, outer = (size[1], size[0]) if size else (0, 0)
    sizes = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bool(node.given(2))}
    if node.name == "Conv":
        return convolution(inputs=inner * groups, outputs=outer, **sizes)  # pyright: ignore[reportArgumentType]
    more = tuple(node.attributes.get("output_padding") or (0,) * dims)
    return convolution(inputs=outer, outputs=inner * groups, output_padding=more, **sizes)  # pyright: ignore[reportArgumentType]


def _gemm(node: Node) -> Made:
    size = node.graph.size(node.inputs[1])
    if size is None or len(size) != 2 or node.attributes.get("transA"):
        return "matrix product", {}
    node.weights("weight", "bias")
    turned = not node.attributes.get("transB")
    node.arrangements = {"weight": "transposed"} if turned else {}
    inputs, outputs = size if turned else size[::-1]
    return "linear", {"inputs": inputs, "outputs": outputs, "bias": node.given(2) is not None}


def _matmul(node: Node) -> Made:
    size = node.graph.size(node.inputs[1])
    if size is None or len(size) != 2:
        return "matrix product", {}
    node.weights("weight")
    node.arrangements = {"weight": "transposed"}
    inputs, outputs = size
    return "linear", {"inputs": inputs, "outputs": outputs, "bias": False}


def _batch_norm(node: Node) -> Made:
    node.weights(*ROLES)
    channels = (node.graph.size(node.inputs[1]) or (0,))[0]
    return "batch norm", {"channels": channels, "eps": node.attributes.get("epsilon", 1e-5), "affine": True}


def _instance_norm(node: Node) -> Made:
    node.weights("weight", "bias")
    channels = (node.graph.size(node.inputs[1]) or (0,))[0]
    return "instance norm", {"channels": channels, "eps": node.attributes.get("epsilon", 1e-5), "affine": True}


def _layer_norm(node: Node) -> Made:
    node.weights("weight", "bias")
    size = 1
    for extent in node.graph.size(node.inputs[1]) or (0,):
        size *= extent
    return "layer norm", {"channels": size, "eps": node.attributes.get("epsilon", 1e-5), "affine": True}


def _group_norm(node: Node) -> Made:
    node.weights("weight", "bias")
    channels = (node.graph.size(node.inputs[1]) or (0,))[0]
    groups = node.attributes.get("num_groups")
    return "group norm", {"channels": channels, "groups": groups, "eps": node.attributes.get("epsilon", 1e-5), "affine": True}


def _pool(function: str) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        kernel = tuple(node.attributes["kernel_shape"])
        ones, attributes = (1,) * len(kernel), node.attributes
        pads, counts = tuple(attributes.get("pads") or (0,) * 2 * len(kernel)), bool(attributes.get("count_include_pad", 0))
        return pooling(function, kernel, attributes.get("strides") or ones, pads, counts=counts, ceil=bool(attributes.get("ceil_mode", 0)))

    return made


def _mean(function: str) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        axes, dims = node.numbers(1, "axes"), node.graph.axes(node.inputs[0])
        spatial = dims or 4
        whole = bool(axes) and {axis % spatial for axis in axes or ()} == set(range(2, spatial)) and spatial in (3, 4)
        return global_pooling("average") if whole and function == "mean" else ("reduce", {"function": function})

    return made


def _arithmetic(kind: str) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        for place, name in enumerate(node.inputs):
            if name in node.graph.constants:
                reverse: Fields = {"reversed": True} if place == 0 and kind in ("subtract", "divide", "power") else {}
                array = node.graph.array(name)
                if array is not None and array.size == 1:
                    return kind, {"constant": float(array.reshape(-1)[0]), **reverse}
                node.roles = {"constant": name}
                size = node.graph.size(name)
                return kind, {"constant": None if size is None else tuple(extent for extent in size if extent != 1), **reverse}
        if kind == "multiply" and len(set(node.inputs)) == 1:
            return activation("square")
        return kind, {}

    return made


def _clip(node: Node) -> Made:
    return clip(node.number(1, "min", float("-inf")), node.number(2, "max", float("inf")))


def _function(name: str, **parameters: tuple[str, float]) -> Callable[[Node], Made]:
    return lambda node: activation(name, **{ours: node.attributes.get(theirs, default) for ours, (theirs, default) in parameters.items()})


def _hard_sigmoid(node: Node) -> Made:
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    usual = abs(alpha - 1 / 6) < 1e-4 and beta == 0.5
    return activation("hard sigmoid") if usual else activation("hard sigmoid", alpha=alpha, beta=beta)


def _prelu(node: Node) -> Made:
    node.weights("weight")
    slopes = 1
    for extent in node.graph.size(node.inputs[1]) or ():
        slopes *= extent
    return activation("prelu", slopes=slopes)


def _reshape(node: Node) -> Made:
    size = node.graph.size(node.inputs[1]) if node.given(1) and node.name == "Reshape" else None
    axes = size[0] if size else node.graph.axes(node.outputs[0])
    axes = 2 if node.name == "Flatten" else axes
    return "reshape", {} if axes is None else {"axes": axes - 1}


def _identity(node: Node) -> Made:
    return "identity", {}


def _permute(node: Node) -> Made:
    order = tuple(node.attributes.get("perm", ()))
    return "permute", {"order": tuple(axis - 1 for axis in order[1:]) if order and order[0] == 0 else order}


def _axis(kind: str, default: int) -> Callable[[Node], Made]:
    return lambda node: (kind, {"axis": node.axis("axis", default)})


def _slice(node: Node) -> Made:
    axes = node.numbers(3, "axes") if node.name == "Slice" else (int(node.attributes.get("axis", 0)),)
    return "slice", {"axis": axes[0] - 1} if axes and len(axes) == 1 and axes[0] > 0 else {}


def _pad(node: Node) -> Made:
    pads, mode = node.numbers(1, "pads"), node.text("mode", "constant")
    value = node.number(2, "value", 0)
    half = len(pads) // 2 if pads else 0
    spatial = None if not pads or any((*pads[:2], *pads[half : half + 2])) else (*pads[2:half], *pads[half + 2 :])
    said = {"edge": "replicate", "constant": f"constant {value:g}" if value else "zeros"}.get(mode, mode)
    return "padding", {"padding": spatial or pads, "padding mode": said}


def _resize(node: Node) -> Made:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.text("mode", "nearest"), node.text("mode", "nearest"))
    corners = node.text("coordinate_transformation_mode", "half_pixel") == "align_corners"
    place = 1 if node.name == "Upsample" else 2
    name = node.given(place)
    array = node.graph.array(name) if name else None
    scales = tuple(float(scale) for scale in array.reshape(-1)[2:]) if array is not None and array.size else None
    return "resize", {"mode": mode, "align corners": corners, **({"scale": scales} if scales else {})}


def _gather(node: Node) -> Made:
    size = node.graph.size(node.inputs[0])
    if size is None or len(size) != 2:
        return _slice(node)
    node.roles = {"weight": node.inputs[0]}
    return "embedding", {"rows": size[0], "outputs": size[1]}


def _gelu(node: Node) -> Made:
    return activation("gelu", approximation=node.text("approximate", "none"))


PASSING = ("Identity", "Cast", "Dropout", "CastLike", "QuantizeLinear", "DequantizeLinear")
SIMPLE = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "HardSwish": "hard swish",
    "Mish": "mish",
    "Softplus": "softplus",
    "Erf": "erf",
}
SIMPLE |= {
    "Abs": "abs",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Neg": "negate",
    "Sin": "sin",
    "Cos": "cos",
    "Reciprocal": "reciprocal",
}
ARITHMETIC = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Pow": "power", "Max": "maximum", "Min": "minimum"}
REDUCING = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin"}

KINDS: dict[str, Callable[[Node], Made]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(PASSING, _identity),
    **{name: _function(function) for name, function in SIMPLE.items()},
    **{name: _arithmetic(kind) for name, kind in ARITHMETIC.items()},
    **{name: _mean(function) for name, function in REDUCING.items()},
    "AveragePool": _pool("average"),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _axis("concat", 1),
    "DepthToSpace": lambda node: ("pixel shuffle", {"factor": node.attributes["blocksize"]}),
    "Elu": _function("elu", alpha=("alpha", 1.0)),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node: global_pooling("average"),
    "GlobalMaxPool": lambda node: global_pooling("maximum"),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node: relu(node.attributes.get("alpha", 0.01)),
    "MatMul": _matmul,
    "MaxPool": _pool("maximum"),
    "Pad": _pad,
    "PRelu": _prelu,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _axis("softmax", -1),
    "Split": _axis("slice", 0),
    "Transpose": _permute,
    "Upsample": _resize,
}
