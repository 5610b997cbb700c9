"""Layers that compute with several blobs, or over the axes of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfade.ncnn.activations import Operation
from crossfade.ncnn.convolutions import Arrays
from crossfade.ncnn.shapes import outer

# op_type of BinaryOp
BINARY: dict[int, Callable[..., Any]] = {
    0: torch.add,
    1: torch.sub,
    2: torch.mul,
    3: torch.div,
    4: torch.maximum,
    5: torch.minimum,
    6: torch.pow,
    7: lambda a, b: b - a,
    8: lambda a, b: b / a,
    9: lambda a, b: b**a,
    10: torch.atan2,
    11: lambda a, b: torch.atan2(b, a),
}


def binary(p: SimpleNamespace) -> nn.Module:
    if p.op_type not in BINARY:
        raise ValueError(f"op_type is {p.op_type}, but 0 to {len(BINARY) - 1} are known")
    operation = BINARY[p.op_type]
    if p.with_scalar:
        return Operation(lambda x: operation(x, torch.full((), p.b, dtype=x.dtype, device=x.device)))
    return Operation(lambda a, b: operation(*aligned(a, b)))


def aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """ncnn sets the blob of fewer axes over the outer ones of the other, the opposite of NumPy."""
    dims = max(a.dim(), b.dim())
    return _over(a, b, dims), _over(b, a, dims)


def _over(x: Tensor, other: Tensor, dims: int) -> Tensor:
    missing = dims - x.dim()
    if not missing:
        return x
    inner = x.dim() == 2 and x.shape[1] != other.shape[1]  # a line that does not fit the outermost axis lies along the innermost
    return x.reshape(x.shape[0], *([1] * missing), x.shape[1]) if inner else x.reshape(*x.shape, *[1] * missing)


def eltwise(p: SimpleNamespace) -> nn.Module:
    """Product, weighted sum or maximum of all inputs."""
    operations: dict[int, Callable[..., Tensor]] = {
        0: lambda *inputs: reduce(torch.mul, inputs),
        1: lambda *inputs: reduce(torch.add, _weighted(inputs, p.coeffs)),
        2: lambda *inputs: reduce(torch.maximum, inputs),
    }
    if p.op_type not in operations:
        raise ValueError(f"op_type is {p.op_type}, but has to be 0, 1 or 2")
    return Operation(operations[p.op_type])


def _weighted(inputs: tuple[Tensor, ...], coefficients: tuple[float, ...]) -> list[Tensor]:
    return [x * coefficient for x, coefficient in zip(inputs, coefficients, strict=True)] if coefficients else list(inputs)


# operation of Reduction: (values, axes) -> values with the axes of size 1
REDUCTIONS: dict[int, Callable[[Tensor, list[int]], Tensor]] = {
    0: lambda x, axes: x.sum(axes, keepdim=True),
    1: lambda x, axes: x.abs().sum(axes, keepdim=True),
    2: lambda x, axes: x.square().sum(axes, keepdim=True),
    3: lambda x, axes: x.mean(axes, keepdim=True),
    4: lambda x, axes: x.amax(axes, keepdim=True),
    5: lambda x, axes: x.amin(axes, keepdim=True),
    6: lambda x, axes: reduce(lambda y, axis: y.prod(axis, keepdim=True), axes, x),
    7: lambda x, axes: x.abs().sum(axes, keepdim=True),
    8: lambda x, axes: x.square().sum(axes, keepdim=True).sqrt(),
    9: lambda x, axes: x.sum(axes, keepdim=True).log(),
    10: lambda x, axes: x.logsumexp(axes, keepdim=True),
}


def reduction(p: SimpleNamespace) -> nn.Module:
    """Over all axes or some, then times coeff; what is left without any axis is a line of one value."""
    if p.operation not in REDUCTIONS:
        raise ValueError(f"operation is {p.operation}, but 0 to {len(REDUCTIONS) - 1} are known")

    def reduced(x: Tensor) -> Tensor:
        dims = x.dim() - 1
        axes = list(range(1, dims + 1)) if p.reduce_all or not p.axes else sorted({outer(axis, dims) for axis in p.axes})
        y = REDUCTIONS[p.operation](x, axes)
        y = y * p.coeff if p.coeff != 1 else y
        if p.keepdims:
            return y
        return y.squeeze(axes) if len(axes) < dims else y.flatten(1)

    return Operation(reduced)


def softmax(p: SimpleNamespace) -> nn.Module:
    return Operation(lambda x: x.softmax(outer(p.axis, x.dim() - 1)))


def matmul(p: SimpleNamespace) -> nn.Module:
    def product(a: Tensor, b: Tensor) -> Tensor:
        line_a, line_b = a.dim() == 2, b.dim() == 2
        a, b = a[:, None] if line_a else a, b[..., None] if line_b else b.transpose(-1, -2) if p.transB else b
        dims = max(a.dim(), b.dim())
        a, b = (x.reshape(x.shape[0], *[1] * (dims - x.dim()), *x.shape[1:]) for x in (a, b))
        y = a @ b
        y = y.squeeze(-1) if line_b else y
        return (y.squeeze(-1) if line_b else y.squeeze(-2)) if line_a and y.dim() > 2 else y

    return Operation(product)


class Gemm(nn.Module):
    """alpha · (A B + beta · C), each of the three a weight or an input, A and B transposed where said. -> (B, M, N)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        self.p = p
        self.A, self.B, self.C = (nn.Parameter(arrays[name]) if name in arrays else None for name in "ABC")
        self.no_c = bool(p.constantC) and self.C is None

    def forward(self, *inputs: Tensor) -> Tensor:
        given, p = list(inputs), self.p
        a, b = (weight[None] if weight is not None else _matrix(given.pop(0)) for weight in (self.A, self.B))
        c = self.C[None] if self.C is not None else given.pop(0) if given and not self.no_c else None
        a, b = a.transpose(1, 2) if p.transA else a, b.transpose(1, 2) if p.transB else b
        y = self.product(a, b)
        y = y if c is None else y + p.beta * _shared(c, y)
        y = y * p.alpha if p.alpha != 1 else y
        y = y.transpose(1, 2) if p.output_transpose else y
        return y[:, :, None] if p.output_N1M else y

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """A weight B without more is a linear layer, so that it leaves again as one."""
        return functional.linear(a, b[0].T) if self.B is not None else a @ b


def _matrix(x: Tensor) -> Tensor:
    """(B, M, 1, K) -> (B, M, K)."""
    return x.flatten(2) if x.dim() == 4 else x


def _shared(c: Tensor, y: Tensor) -> Tensor:
    """A line of C is a row where it is as long as one, else a column."""
    if c.dim() == 2:
        return c[:, None] if c.shape[1] in (1, y.shape[2]) else c[:, :, None]
    return c
