"""The functions of single values that ncnn's layers are, or carry along."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional


class Operation(nn.Module):
    """A function without weights as a module: tensors -> tensor or tensors."""

    def __init__(self, function: Callable[..., Tensor | list[Tensor]]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor | list[Tensor]:
        return self.function(*inputs)


def relu(slope: float) -> nn.Module:
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def clip(lowest: float, highest: float) -> nn.Module:
    return Operation(lambda x: x.clamp(lowest, highest))


def hard_sigmoid(alpha: float, beta: float) -> nn.Module:
    return Operation(lambda x: (x * alpha + beta).clamp(0, 1))


def hard_swish(alpha: float, beta: float) -> nn.Module:
    """PyTorch's own where the numbers are its own, so that it leaves again as one layer."""
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return nn.Hardswish()
    return Operation(lambda x: x * (x * alpha + beta).clamp(0, 1))


# activation_type of a layer that carries one -> its module, made from activation_params
FUSED: dict[int, Callable[..., nn.Module]] = {
    0: nn.Identity,
    1: nn.ReLU,
    2: relu,
    3: clip,
    4: nn.Sigmoid,
    5: nn.Mish,
    6: hard_swish,
}
FUSED_PARAMETERS = {2: 1, 3: 2, 6: 2}


def fused(p: SimpleNamespace) -> nn.Module:
    """(…) -> (…): what a layer applies to its own output. ValueError where it is unknown or its parameters are missing."""
    wanted = FUSED_PARAMETERS.get(p.activation_type, 0)
    if p.activation_type not in FUSED:
        raise ValueError(f"activation_type is {p.activation_type}, but has to be one of {', '.join(map(str, FUSED))}")
    if len(p.activation_params) < wanted:
        raise ValueError(f"activation_type {p.activation_type} takes {wanted} activation_params, but has {len(p.activation_params)}")
    return FUSED[p.activation_type](*p.activation_params[:wanted])


def glu(axis: int) -> nn.Module:
    return nn.GLU(axis + 1 if axis >= 0 else axis)


def power(p: SimpleNamespace) -> nn.Module:
    return Operation(lambda x: (x * p.scale + p.shift) ** p.power)


def selu(p: SimpleNamespace) -> nn.Module:
    return Operation(lambda x: functional.elu(x, p.alpha) * getattr(p, "lambda"))


# op_type of UnaryOp
UNARY: dict[int, Callable[[Tensor], Tensor]] = dict(
    enumerate(
        (
            *(torch.abs, torch.neg, torch.floor, torch.ceil, torch.square, torch.sqrt, torch.rsqrt, torch.exp, torch.log, torch.sin),
            *(
                torch.cos,
                torch.tan,
                torch.asin,
                torch.acos,
                torch.atan,
                torch.reciprocal,
                torch.tanh,
                torch.log10,
                torch.round,
                torch.trunc,
            ),
        )
    )
)


def unary(p: SimpleNamespace) -> nn.Module:
    if p.op_type not in UNARY:
        raise ValueError(f"op_type is {p.op_type}, but 0 to {len(UNARY) - 1} are known")
    return Operation(UNARY[p.op_type])
