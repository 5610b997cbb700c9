"""Operations number by number, and masks as numbers: 1 where the model has True, for ncnn has no other."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from crossfade.clip import UserError
from crossfade.deploy.ncnn_form import Form, Made, aten, in_model, size_of

Rewrite = Callable[..., Any]  # (form, operation, *arguments, **options) -> Made or a tensor, or a list of them
LOWEST = -6e4  # in place of minus infinity, which times 0 would be no number; float16 goes to 65,504
FINITE = 5e4  # what is below it was no such number


def plain(form: Form, operation: Any, *arguments: Any, **options: Any) -> Any:
    """As it is; a new axis for the clip before all others does not change operations that work from the last axis on."""
    found = operation(*map(in_model, arguments), **options)
    if not isinstance(found, Tensor):
        raise UserError(f"this model cannot be exported to ncnn, which has no layer for {operation}")
    function = (lambda *given: operation(*given, **options)) if options else operation
    return form.call(function if options else operation, *arguments, shape=found.shape)


def arithmetic(neutral: float, either: bool) -> Rewrite:
    """An operation on two, with one number in place of a tensor of equal ones, and left out where that is `neutral`."""

    def computed(form: Form, operation: Any, a: Any, b: Any, **options: Any) -> Any:
        shape = operation(in_model(a), in_model(b), **options).shape
        if options.get("alpha", 1) != 1:
            return plain(form, operation, a, plain(form, aten.mul.Tensor, b, options["alpha"]))
        a, b = (b, a) if either and not isinstance(a, Made) else (a, b)
        number = _number(b) if isinstance(a, Made) and a.value.shape == shape else None
        if number == neutral:
            return a
        return plain(form, operation, a, b if number is None else number)

    return computed


def _number(item: Any) -> float | None:
    """What a constant is, if all of it is the same."""
    if not isinstance(item, Tensor):
        return item if isinstance(item, int | float) else None
    values = item.float().unique()
    return float(values) if len(values) == 1 else None


def spread(form: Form, operation: Any, x: Made, *arguments: Any, **_: Any) -> Any:
    """expand: times ones, where it changes anything."""
    if isinstance(x, Tensor):
        return x.expand(*arguments)
    shape = operation(x.value, *arguments).shape
    return form.view(x, shape) if x.value.numel() == prod(shape) else plain(form, aten.mul.Tensor, x, torch.ones(tuple(shape)))


def filled(form: Form, operation: Any, x: Any, mask: Any, number: Any) -> Any:
    return chosen(form, aten.where.self, mask, float(number), x)


def hidden(form: Form, x: Any, mask: Any) -> Any:
    """As good as minus infinity where the mask is False."""
    return chosen(form, aten.where.self, mask, x, LOWEST)


def chosen(form: Form, operation: Any, condition: Any, a: Any, b: Any) -> Any:
    """where: a · condition + b · (1 − condition)"""
    a, b = (torch.tensor(float(item)) if isinstance(item, int | float) else item for item in (a, b))
    shape = torch.broadcast_shapes(*map(size_of, (condition, a, b)))
    if isinstance(condition, Tensor) and (condition.all() or not condition.any()):
        return spread(form, aten.expand.default, a if condition.all() else b, shape)
    kept = _times(form, condition, a), _times(form, opposite(form, aten.logical_not.default, condition), b)
    return spread(form, aten.expand.default, ADD(form, aten.add.Tensor, *kept), shape)


def _times(form: Form, mask: Any, x: Any) -> Any:
    x = x.float().clamp(LOWEST, -LOWEST) if isinstance(x, Tensor) else x
    return x if isinstance(x, Tensor) and not x.any() else MULTIPLY(form, aten.mul.Tensor, counted(mask), x)


def counted(item: Any) -> Any:
    """Numbers in place of True and False."""
    if isinstance(item, Made):
        return Made(item.node, item.value.float())
    return item.float() if isinstance(item, Tensor) else item


def logical(numbers: Callable[..., Any]) -> Rewrite:
    """An operation on masks and whole numbers, as one on numbers."""

    return lambda form, operation, *arguments, **options: numbers(form, *map(counted, arguments), **options)


def _step(form: Form, x: Any) -> Any:
    """1 above 0, for whole numbers."""
    return plain(form, aten.clamp.default, x, 0.0, 1.0)


def _floor_of_ratio(form: Form, a: Any, b: Any, **_: Any) -> Any:
    """Of whole numbers; half of one more, so that rounding cannot fall below."""
    return plain(form, aten.floor.default, DIVIDE(form, aten.div.Tensor, ADD(form, aten.add.Tensor, a, 0.5), b))


def _any(form: Form, x: Any, axes: Any, keep: bool = False) -> Any:
    return form.reduced(aten.amax.default, x, [axes] if isinstance(axes, int) else axes, keep)


def _less(form: Form, a: Any, b: Any) -> Any:
    return _step(form, SUBTRACT(form, aten.sub.Tensor, b if isinstance(b, Made | Tensor) else torch.tensor(float(b)), a))


def _differs(form: Form, a: Any, b: Any) -> Any:
    return _step(form, plain(form, aten.abs.default, SUBTRACT(form, aten.sub.Tensor, a, b)))


def _repeated(form: Form, x: Any, times: int, axis: int, **_: Any) -> Any:
    size = size_of(x)
    axis = axis % len(size)
    apart = form.view(x, [*size[: axis + 1], 1, *size[axis + 1 :]])
    wide = MULTIPLY(form, aten.mul.Tensor, apart, torch.ones(*[1] * (axis + 1), times, *[1] * (len(size) - axis - 1)))
    return form.view(wide, [*size[:axis], size[axis] * times, *size[axis + 1 :]])


def constant(form: Form, operation: Any, x: Any, *arguments: Any, **options: Any) -> Tensor:
    """What depends on the shape alone."""
    return operation(in_model(x), *arguments, **options)


ADD, SUBTRACT = arithmetic(0.0, True), arithmetic(0.0, False)
MULTIPLY, DIVIDE = arithmetic(1.0, True), arithmetic(1.0, False)
opposite = logical(lambda form, x: ADD(form, aten.add.Tensor, MULTIPLY(form, aten.mul.Tensor, x, -1.0), 1.0))
both = logical(lambda form, a, b: MULTIPLY(form, aten.mul.Tensor, a, b))
either = logical(lambda form, a, b: plain(form, aten.maximum.default, a, b))
NUMBERS: dict[Any, Rewrite] = {
    aten.add.Tensor: ADD,
    aten.sub.Tensor: SUBTRACT,
    aten.mul.Tensor: MULTIPLY,
    aten.div.Tensor: DIVIDE,
    aten.expand.default: spread,
    aten.broadcast_to.default: spread,
    aten.masked_fill.Scalar: filled,
    aten.masked_fill.Tensor: filled,
    aten.where.self: chosen,
    aten.where.ScalarOther: chosen,
    aten.bitwise_not.default: opposite,
    aten.logical_not.default: opposite,
    aten.__and__.Tensor: both,
    aten.bitwise_and.Tensor: both,
    aten.__or__.Tensor: either,
    aten.bitwise_or.Tensor: either,
    aten.maximum.default: either,
    aten.any.dim: logical(_any),
    aten.any.dims: logical(_any),
    aten.lt.Tensor: logical(_less),
    aten.gt.Tensor: logical(lambda form, a, b: _less(form, b, a)),
    aten.gt.Scalar: logical(lambda form, a, b: _step(form, SUBTRACT(form, aten.sub.Tensor, a, b))),
    aten.ne.Scalar: logical(_differs),
    aten.ne.Tensor: logical(_differs),
    aten.isfinite.default: logical(lambda form, x: _less(form, x, FINITE)),
    aten.div.Tensor_mode: logical(_floor_of_ratio),
    aten.floor_divide.default: logical(_floor_of_ratio),
    aten.repeat_interleave.self_int: logical(_repeated),
    aten.zeros_like.default: constant,
    aten.ones_like.default: constant,
    aten.full_like.default: constant,
    aten.new_zeros.default: constant,
    aten.new_ones.default: constant,
}
