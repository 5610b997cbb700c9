"""What each operation of PyTorch is in forms that ncnn has: a table, and the pass over a model that goes by it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils import _pytree

from crossfade.deploy.ncnn_form import Form, Made, aten, depends, in_model, size_of
from crossfade.deploy.ncnn_numbers import ADD, NUMBERS, Rewrite, hidden, plain


def lowered(module: fx.GraphModule, example: Sequence[Tensor]) -> fx.GraphModule:
    """A graph of PyTorch's operations with one clip as its example -> the same map, in ncnn's forms."""
    form, made = Form(), {}
    inputs = iter(example)
    for node in module.graph.nodes:
        made[node] = PLACES[node.op](form, module, node, made, inputs)
    return form.module(made[next(reversed(module.graph.nodes))])


def _operation(form: Form, module: fx.GraphModule, node: fx.Node, made: dict[fx.Node, Any], inputs: Any) -> Any:
    arguments, options = map_arg((node.args, node.kwargs), lambda each: made[each])
    if not depends([*arguments, *options.values()]):
        return node.target(*arguments, **options)  # type: ignore[operator]
    found = REWRITES.get(node.target, plain)(form, node.target, *arguments, **options)
    return _as_model(found, node.target(*_kept(node.target, in_model(arguments)), **in_model(options)))  # type: ignore[operator]


def _kept(operation: Any, arguments: Any) -> Any:
    """Copies where the operation would change them."""
    changes = getattr(getattr(operation, "_schema", None), "is_mutable", False)
    return _pytree.tree_map_only(Tensor, Tensor.clone, arguments) if changes else arguments


def _as_model(found: Any, value: Any) -> Any:
    """With the model's own value: a mask stays one, whatever the graph has for it."""
    if isinstance(found, list):
        return [_as_model(each, own) for each, own in zip(found, value, strict=True)]
    return Made(found.node, value) if isinstance(found, Made) and isinstance(value, Tensor) else found


def _constant(form: Form, module: fx.GraphModule, node: fx.Node, *_: Any) -> Tensor:
    return operator.attrgetter(str(node.target))(module).detach()


PLACES: dict[str, Callable[..., Any]] = {
    "placeholder": lambda form, module, node, made, inputs: form.input(node.name, next(inputs)),
    "get_attr": _constant,
    "call_function": _operation,
    "output": lambda form, module, node, made, inputs: [made[each] for each in _pytree.tree_leaves(node.args)],
}


def as_view(form: Form, operation: Any, x: Made, *arguments: Any, **options: Any) -> Any:
    return form.view(x, operation(x.value, *arguments, **options).shape)


def unchanged(form: Form, operation: Any, x: Any, *arguments: Any, **options: Any) -> Any:
    return x


def turned(form: Form, operation: Any, x: Made, *arguments: Any) -> Any:
    """The order of the axes is read off sizes that are all different."""
    sizes = torch.empty(tuple(range(2, 2 + x.value.ndim)), device="meta")
    return form.permute(x, [size - 2 for size in operation(sizes, *arguments).shape])


def as_another(other: Any) -> Rewrite:
    """Under the name of an operation that pnnx knows, or that makes a new tensor."""
    return lambda form, operation, *arguments, **options: REWRITES.get(other, plain)(form, other, *arguments, **options)


def selected(form: Form, operation: Any, x: Made, axis: int, index: int) -> Any:
    axis, size = axis % x.value.ndim, x.value.shape[axis]
    return form.view(form.part(x, axis, index % size, index % size + 1), x.value.select(axis, index).shape)


def sliced(form: Form, operation: Any, x: Made, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Any:
    if step != 1:
        return plain(form, operation, x, axis, start, stop, step)
    axis = axis % x.value.ndim
    start, stop, _ = slice(start, stop).indices(x.value.shape[axis])
    return form.part(x, axis, start, stop)


def pieces(form: Form, operation: Any, x: Made, *arguments: Any) -> list[Any]:
    """chunk, split: one after another along an axis."""
    axis, place, found = (arguments[1] if len(arguments) > 1 else 0) % x.value.ndim, 0, []
    for piece in operation(x.value, *arguments):
        found.append(form.part(x, axis, place, place + piece.shape[axis]))
        place += piece.shape[axis]
    return found


def unbound(form: Form, operation: Any, x: Made, axis: int = 0) -> list[Any]:
    return [selected(form, operation, x, axis, index) for index in range(x.value.shape[axis])]


def joined(form: Form, operation: Any, parts: Sequence[Any], axis: int = 0) -> Any:
    return form.joined(parts, axis % len(size_of(parts[0])))


def stacked(form: Form, operation: Any, parts: Sequence[Any], axis: int = 0) -> Any:
    size = size_of(parts[0])
    axis = axis % (len(size) + 1)
    return form.joined([form.view(part, [*size[:axis], 1, *size[axis:]]) for part in parts], axis)


def reduced(function: Any) -> Rewrite:
    """Sums and their kin over axes."""

    def over(form: Form, operation: Any, x: Made, axes: Any = None, keep: bool = False, **_: Any) -> Any:
        axes = range(x.value.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
        return form.reduced(function, x, axes, keep)

    return over


def pooled(form: Form, operation: Any, x: Made, size: Any, *_: Any) -> Any:
    """adaptive_avg_pool2d; ncnn's over the whole picture gives a line (1, C), which is flattened to say so."""
    found = plain(form, operation, x, size)
    if found.value.shape[2:].numel() != 1:
        return found
    return form.view(form.call(aten.flatten.using_ints, found, 1, shape=found.value.shape[:2]), found.value.shape)


def linear(form: Form, operation: Any, x: Made, *weights: Any) -> Any:
    """On rows (1, N, D), or (1, D)."""
    shape = x.value.shape
    rows = form.view(x, (1, shape[-1]) if x.value.numel() == shape[-1] else (1, -1, shape[-1]))
    out = size_of(weights[0])[0]
    return form.view(form.call(aten.linear.default, rows, *weights, shape=(*rows.value.shape[:-1], out)), (*shape[:-1], out))


def normed(form: Form, operation: Any, x: Made, over: Sequence[int], *weights: Any, **_: Any) -> Any:
    """layer_norm, on rows (1, N, D)"""
    rows = form.view(x, (1, -1, prod(over)))
    given = [weight if weight is None or not isinstance(weight, Tensor) else weight.flatten() for weight in weights[:3]]
    return form.view(form.call(aten.layer_norm.default, rows, [prod(over)], *given, shape=rows.value.shape), x.value.shape)


def softmax(form: Form, operation: Any, x: Made, axis: int, *_: Any, **__: Any) -> Any:
    return form.call(aten.softmax.int, x, axis if axis < 0 else axis - x.value.ndim, shape=x.value.shape)


def log_sum(form: Form, operation: Any, x: Made, axes: Any, keep: bool = False) -> Any:
    """logsumexp, less the largest first, which ncnn's own does not take away."""
    axes = [axes] if isinstance(axes, int) else list(axes)
    most = form.reduced(aten.amax.default, x, axes, True)
    summed = form.reduced(aten.sum.dim_IntList, plain(form, aten.exp.default, plain(form, aten.sub.Tensor, x, most)), axes, True)
    found = plain(form, aten.add.Tensor, plain(form, aten.log.default, summed), most)
    return form.view(found, operation(x.value, axes, keep).shape)


def log_softmax(form: Form, operation: Any, x: Made, axis: int, *_: Any, **__: Any) -> Any:
    return plain(form, aten.sub.Tensor, x, log_sum(form, aten.logsumexp.default, x, [axis], True))


def attention(
    form: Form,
    operation: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: Any = None,
    **_: Any,
) -> Any:
    """softmax(q kᵀ · scale + mask) v, all (1, heads, N, d)"""
    width = size_of(query)[-1]
    query = plain(form, aten.mul.Tensor, query, width**-0.5 if scale is None else scale)
    turned_key = form.permute(key, [*range(len(size_of(key)) - 2), -1 % len(size_of(key)), -2 % len(size_of(key))])
    scores = plain(form, aten.matmul.default, query, turned_key)
    if mask is not None:
        scores = hidden(form, scores, mask) if in_model(mask).dtype == torch.bool else ADD(form, aten.add.Tensor, scores, mask)
    return plain(form, aten.matmul.default, softmax(form, aten.softmax.int, scores, -1), value)


def added_product(form: Form, operation: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    product = plain(form, aten.matmul.default, a, b)
    product = product if alpha == 1 else plain(form, aten.mul.Tensor, product, alpha)
    return product if beta == 0 else plain(form, aten.add.Tensor, product, c if beta == 1 else plain(form, aten.mul.Tensor, c, beta))


def square(form: Form, operation: Any, x: Made) -> Any:
    return plain(form, aten.mul.Tensor, x, x)


VIEWS = ("flatten.using_ints", "unflatten.int", "view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default")
VIEWS += ("squeeze.default", "squeeze.dim", "squeeze.dims", "view_as.default", "reshape_as.default")
SAME = ("dropout.default", "dropout_.default", "contiguous.default", "clone.default", "alias.default", "detach.default", "type_as.default")
SAME += ("to.dtype", "to.device", "to.dtype_layout", "_assert_tensor_metadata.default", "feature_dropout.default", "detach_.default")
TURNS = ("permute.default", "transpose.int", "movedim.int", "movedim.intlist", "t.default", "numpy_T.default")
IN_PLACE = {"relu_.default": "relu.default", "hardtanh_.default": "hardtanh.default", "silu_.default": "silu.default"}
IN_PLACE |= {
    "hardswish_.default": "hardswish.default",
    "hardsigmoid_.default": "hardsigmoid.default",
    "sigmoid_.default": "sigmoid.default",
}
IN_PLACE |= {"add_.Tensor": "add.Tensor", "mul_.Tensor": "mul.Tensor", "sub_.Tensor": "sub.Tensor", "div_.Tensor": "div.Tensor"}
IN_PLACE |= {"bmm.default": "matmul.default", "masked_fill_.Scalar": "masked_fill.Scalar"}


def named(name: str) -> Any:
    operation, overload = name.split(".")
    return getattr(getattr(aten, operation), overload)


REWRITES: dict[Any, Rewrite] = {
    **NUMBERS,
    **{named(name): as_view for name in VIEWS},
    **{named(name): unchanged for name in SAME},
    **{named(name): turned for name in TURNS},
    **{named(old): as_another(named(new)) for old, new in IN_PLACE.items()},
    operator.getitem: lambda form, operation, parts, index: parts[index],
    aten.select.int: selected,
    aten.slice.Tensor: sliced,
    aten.chunk.default: pieces,
    aten.split.Tensor: pieces,
    aten.split_with_sizes.default: pieces,
    aten.unbind.int: unbound,
    aten.cat.default: joined,
    aten.stack.default: stacked,
    aten.mean.dim: reduced(aten.mean.dim),
    aten.sum.dim_IntList: reduced(aten.sum.dim_IntList),
    aten.amax.default: reduced(aten.amax.default),
    aten.amin.default: reduced(aten.amin.default),
    aten.adaptive_avg_pool2d.default: pooled,
    aten.linear.default: linear,
    aten.layer_norm.default: normed,
    aten.softmax.int: softmax,
    aten.log_softmax.int: log_softmax,
    aten.logsumexp.default: log_sum,
    aten.scaled_dot_product_attention.default: attention,
    aten.baddbmm.default: added_product,
    aten.square.default: square,
}
