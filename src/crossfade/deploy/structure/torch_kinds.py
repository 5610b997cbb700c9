"""PyTorch's operations as kinds of layers with their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isinf
from typing import Any

from crossfade.deploy.structure.layer import (
    Fields,
    Stored,
    Value,
    activation,
    clip,
    convolution,
    global_pooling,
    pooling,
    relu,
    resolved_padding,
)

Made = tuple[str, Fields]


class Node:
    """One call of an operation: its arguments by name, defaults included, and those of them that are weights."""

    def __init__(self, node: Any, constants: Mapping[str, Stored | None], name: str):
        self.name = name.split(".")[1].rstrip("_") if name.startswith("aten.") else name
        schema = getattr(node.target, "_schema", None)
        self.arguments = _arguments(node, schema)
        self.constants, self.value = constants, node.meta.get("val")
        self.roles: dict[str, str] = {}
        for role in ("weight", "bias", "running_mean", "running_var"):
            if self.stored(role) is not None:
                self.roles[role] = role

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def get(self, name: str, default: Any) -> Any:
        found = self.arguments.get(name)
        return default if found is None else found

    def is_constant(self, name: str) -> bool:
        return getattr(self[name], "name", None) in self.constants

    def stored(self, name: str) -> Stored | None:
        return self.constants[self[name].name] if self.is_constant(name) else None

    def filled(self, name: str) -> float | None:
        """The one number of a tensor that was made of it."""
        source = self[name]
        made_of_one = self.is_constant(name) and str(source.target).startswith("aten.full.") and not any(source.args[0])
        return float(source.args[1]) if made_of_one else None

    @property
    def weights(self) -> dict[str, Stored]:
        found = {role: self.stored(name) for role, name in self.roles.items()}
        return {role: stored for role, stored in found.items() if stored is not None}

    def size(self, name: str) -> tuple[int, ...]:
        """The shape of an argument, batch included."""
        value = self[name].meta["val"]
        return tuple(size if isinstance(size, int) else -1 for size in value.shape)

    def axis(self, name: str, of: str = "self") -> int:
        """Without the batch, from the front."""
        dims = len(self.size(of))
        return int(self[name]) % dims - 1


def _arguments(node: Any, schema: Any) -> dict[str, Any]:
    if schema is None:
        return {str(place): value for place, value in enumerate(node.args)} | dict(node.kwargs)
    found = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    found |= {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)}
    return found | dict(node.kwargs)


def given(node: Node) -> Made:
    """An operation without an entry keeps its own name and its plain arguments."""
    plain = {name: _plain(value) for name, value in node.arguments.items() if isinstance(value, int | float | str | tuple | list)}
    return node.name, {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any) -> Value:
    if isinstance(value, tuple | list):
        return tuple(value) if all(isinstance(one, int | float) for one in value) else None
    return value


def _convolution(node: Node) -> Made:
    outputs, inner, *kernel = node.size("weight")
    dims, groups = len(kernel), int(node.get("groups", 1))
    stride, dilation = (_spread(node.get(name, [1]), dims) for name in ("stride", "dilation"))
    padding = _padding(node["padding"], tuple(kernel), stride, dilation)
    sizes = {
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": node["bias"] is not None,
    }
    return convolution(inputs=inner * groups, outputs=outputs, **sizes)  # pyright: ignore[reportArgumentType]


def _padding(said: Any, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Value:
    """Of "same" PyTorch puts the odd one after."""
    if isinstance(said, str):
        return resolved_padding("same upper", kernel, dilation, stride) if said == "same" else (0,) * 2 * len(kernel)
    return _spread(said or [0], len(kernel)) * 2


def _transposed(node: Node) -> Made:
    inputs, inner, *kernel = node.size("weight")
    dims, groups = len(kernel), int(node.get("groups", 1))
    stride, dilation, padding, more = (
        _spread(node.get(name, [value]), dims) for name, value in (("stride", 1), ("dilation", 1), ("padding", 0), ("output_padding", 0))
    )
    sizes = {"kernel": kernel, "stride": stride, "padding": padding * 2, "dilation": dilation, "output_padding": more}
    return convolution(inputs=inputs, outputs=inner * groups, groups=groups, bias=node["bias"] is not None, **sizes)  # pyright: ignore[reportArgumentType]


def _general(node: Node) -> Made:
    return (_transposed if node["transposed"] else _convolution)(node)


def _spread(values: Any, dims: int) -> tuple[int, ...]:
    sizes = (values,) if isinstance(values, int) else tuple(values)
    return sizes * dims if len(sizes) == 1 else sizes


def _linear(node: Node) -> Made:
    outputs, inputs = node.size("weight")
    return "linear", {"inputs": inputs, "outputs": outputs, "bias": node["bias"] is not None}


def _addmm(node: Node) -> Made:
    if not node.is_constant("mat2"):
        return "matrix product", {}
    node.roles = {"weight": "mat2", "bias": "self"}
    _turn(node, "mat2")
    inputs, outputs = node.size("mat2")
    return "linear", {"inputs": inputs, "outputs": outputs, "bias": True}


def _matmul(node: Node) -> Made:
    second = "other" if node["other"] is not None else "mat2"
    if not node.is_constant(second) or len(node.size(second)) != 2:
        return "matrix product", {}
    node.roles = {"weight": second}
    _turn(node, second)
    inputs, outputs = node.size(second)
    return "linear", {"inputs": inputs, "outputs": outputs, "bias": False}


def _turn(node: Node, name: str) -> None:
    """(inputs, outputs): a weight as it is has to be transposed, one that was transposed on its way has not."""
    stored, turned = node.stored(name), {"transposed": "as in PyTorch", "as in PyTorch": "transposed"}
    if stored is not None:
        node.constants = {**node.constants, node[name].name: stored._replace(arrangement=turned[stored.arrangement])}


def _batch_norm(node: Node) -> Made:
    eps = node.get("eps", 1e-5)
    return "batch norm", {"channels": node.size("input")[1], "eps": eps, "affine": node["weight"] is not None}


def _instance_norm(node: Node) -> Made:
    return "instance norm", {"channels": node.size("input")[1], "eps": node["eps"], "affine": node["weight"] is not None}


def _group_norm(node: Node) -> Made:
    more: Fields = {"groups": node["num_groups"], "eps": node["eps"], "affine": node["weight"] is not None}
    return "group norm", {"channels": node.size("input")[1], **more}


def _layer_norm(node: Node) -> Made:
    size = 1
    for extent in node["normalized_shape"]:
        size *= extent
    return "layer norm", {"channels": size, "eps": node["eps"], "affine": node["weight"] is not None}


def _rms_norm(node: Node) -> Made:
    size = 1
    for extent in node["normalized_shape"]:
        size *= extent
    return "rms norm", {"channels": size, "eps": node.get("eps", 1.1920929e-07), "affine": node["weight"] is not None}


def _pool(function: str, dims: int) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        kernel = _spread(node["kernel_size"], dims)
        stride, padding = _spread(node["stride"], dims) if node["stride"] else kernel, _spread(node.get("padding", 0), dims)
        counts = bool(node.get("count_include_pad", True))
        kind, fields = pooling(function, kernel, stride, padding * 2, counts=counts, ceil=bool(node["ceil_mode"]))
        sizes = node.size("self" if "self" in node.arguments else "input")[-dims:]
        over = any((size + 2 * pad - reach) % step for size, pad, reach, step in zip(sizes, padding, kernel, stride, strict=True))
        return kind, fields if over else {name: value for name, value in fields.items() if name != "ceil"}

    return made


def _adaptive(function: str) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        sizes = tuple(node["output_size"])
        return global_pooling(function) if set(sizes) == {1} else ("pooling", {"function": function, "global": False, "adaptive": sizes})

    return made


def _mean(function: str) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        dims, axes = len(node.size("self")), node["dim"]
        axes = [axes] if isinstance(axes, int) else axes
        plane = dims == 4 and bool(axes) and {axis % dims for axis in axes} == {2, 3}
        line = dims == 3 and bool(axes) and {axis % dims for axis in axes} == {2}
        return global_pooling("average") if function == "mean" and (plane or line) else ("reduce", {"function": function})

    return made


def _arithmetic(kind: str) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        for name in ("other", "self", "exponent"):
            reverse: Fields = {"reversed": True} if name == "self" and kind in ("subtract", "divide", "power") else {}
            if isinstance(node[name], int | float):
                return kind, {"constant": float(node[name]), **reverse}
            if (value := node.filled(name)) is not None:
                return kind, {"constant": value, **reverse}
            if node.is_constant(name):
                node.roles = {"constant": name}
                return kind, {"constant": tuple(size for size in node.size(name) if size != 1), **reverse}
        return kind, {}

    return made


def _clamp(node: Node) -> Made:
    low, high = (node["min_val"], node["max_val"]) if "min_val" in node.arguments else (node["min"], node["max"])
    return clip(float("-inf") if low is None else float(low), float("inf") if high is None else float(high))


def _function(name: str, **parameters: str) -> Callable[[Node], Made]:
    return lambda node: activation(name, **{ours: node[theirs] for ours, theirs in parameters.items()})


def _prelu(node: Node) -> Made:
    return activation("prelu", slopes=node.size("weight")[0])


def _reshape(node: Node) -> Made:
    return "reshape", {"axes": node.value.dim() - 1}


def _identity(node: Node) -> Made:
    return "identity", {}


def _permute(node: Node) -> Made:
    dims = len(node["dims"])
    return _ordered([axis % dims for axis in node["dims"]])


def _transpose(node: Node) -> Made:
    dims = len(node.size("self"))
    order = list(range(dims))
    one, other = (node["dim0"] % dims, node["dim1"] % dims) if "dim0" in node.arguments else (0, 1)
    order[one], order[other] = order[other], order[one]
    return _ordered(order)


def _ordered(order: list[int]) -> Made:
    return "permute", {"order": tuple(axis - 1 for axis in order[1:]) if order[0] == 0 else tuple(order)}


def _concat(node: Node) -> Made:
    first = node["tensors"][0]
    return "concat", {"axis": int(node["dim"]) % len(first.meta["val"].shape) - 1}


def _softmax(node: Node) -> Made:
    return "softmax", {"axis": node.axis("dim")}


def _slice(node: Node) -> Made:
    start, end, whole = node.get("start", 0), node["end"], node.size("self")[int(node["dim"]) % len(node.size("self"))]
    everything = start == 0 and (end is None or (isinstance(end, int) and end >= whole >= 0)) and node.get("step", 1) == 1
    return ("identity", {}) if everything else ("slice", {"axis": node.axis("dim")})


def _parts(node: Node) -> Made:
    return "slice", {"axis": node.axis("dim")}


def _pad(node: Node) -> Made:
    pads, mode, value = list(node["pad"]), node.get("mode", "constant"), node.get("value", 0)
    pairs = [pads[place : place + 2] for place in range(0, len(pads), 2)][::-1]
    said = "zeros" if mode == "constant" and not value else f"constant {value:g}" if mode == "constant" else mode
    return "padding", {"padding": tuple(pair[0] for pair in pairs) + tuple(pair[1] for pair in pairs), "padding mode": said}


def _resize(mode: str) -> Callable[[Node], Made]:
    def made(node: Node) -> Made:
        (*_, height, width), scales = node.size("input" if "input" in node.arguments else "self"), node["scale_factors"]
        wanted = tuple(node.value.shape[-2:])
        scale = tuple(float(one) for one in scales) if scales else (wanted[0] / height, wanted[1] / width)
        return "resize", {"mode": mode, "align corners": bool(node["align_corners"]), "scale": scale}

    return made


def _gelu(node: Node) -> Made:
    return activation("gelu", approximation=node.get("approximate", "none"))


def _threshold(node: Node) -> Made:
    return relu(float(node.get("negative_slope", 0.01)))


def _embedding(node: Node) -> Made:
    rows, width = node.size("weight")
    return "embedding", {"rows": rows, "outputs": width}


def _attention(node: Node) -> Made:
    scale = node["scale"]
    return "attention", {"causal": bool(node["is_causal"]), **({"scale": scale} if scale is not None and not isinf(scale) else {})}


RESHAPING = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "_unsafe_view", "view_as", "reshape_as")
PASSING = ("dropout", "contiguous", "clone", "detach", "to", "_to_copy", "alias", "type_as", "lift_fresh_copy", "feature_dropout")
ADDING = {"add": "add", "sub": "subtract", "rsub": "subtract", "mul": "multiply", "div": "divide", "pow": "power"}
ADDING |= {"maximum": "maximum", "minimum": "minimum"}
SIMPLE = {
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "silu": "swish",
    "hardswish": "hard swish",
    "mish": "mish",
}
SIMPLE |= {"hardsigmoid": "hard sigmoid", "softplus": "softplus", "erf": "erf", "abs": "abs", "exp": "exp", "log": "log", "sqrt": "sqrt"}
SIMPLE |= {"rsqrt": "rsqrt", "neg": "negate", "square": "square", "sin": "sin", "cos": "cos", "reciprocal": "reciprocal"}

KINDS: dict[str, Callable[[Node], Made]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(RESHAPING, _reshape),
    **dict.fromkeys(PASSING, _identity),
    **dict.fromkeys(("bmm", "matmul", "mm"), _matmul),
    **dict.fromkeys(("transpose", "t", "swapaxes"), _transpose),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concat),
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unbind"), _parts),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("clamp", "hardtanh", "clamp_min", "clamp_max"), _clamp),
    **{name: _arithmetic(kind) for name, kind in ADDING.items()},
    **{name: _function(function) for name, function in SIMPLE.items()},
    **{f"avg_pool{dims}d": _pool("average", dims) for dims in (1, 2, 3)},
    **{f"max_pool{dims}d": _pool("maximum", dims) for dims in (1, 2, 3)},
    **{f"adaptive_avg_pool{dims}d": _adaptive("average") for dims in (1, 2, 3)},
    **{f"adaptive_max_pool{dims}d": _adaptive("maximum") for dims in (1, 2, 3)},
    **{name: _mean(name) for name in ("mean", "sum", "amax", "amin")},
    **{
        f"upsample_{mode}": _resize(name) for mode, name in (("nearest2d", "nearest"), ("bilinear2d", "bilinear"), ("bicubic2d", "bicubic"))
    },
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "convolution": _general,
    "elu": _function("elu", alpha="alpha"),
    "embedding": _embedding,
    "gelu": _gelu,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "leaky_relu": _threshold,
    "linear": _linear,
    "permute": _permute,
    "pixel_shuffle": lambda node: ("pixel shuffle", {"factor": node["upscale_factor"]}),
    "prelu": _prelu,
    "rms_norm": _rms_norm,
    "scaled_dot_product_attention": _attention,
    "slice": _slice,
}
