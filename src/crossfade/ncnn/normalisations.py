"""Layers that shift and scale: by statistics, by learned numbers, or both."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfade.ncnn.convolutions import Arrays, holding


class BatchNorm(nn.Module):
    """nn.BatchNorm1d over the outermost axis of whatever comes. (B, C, …) -> (B, C, …)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        self.norm = holding(nn.BatchNorm1d(p.channels, p.eps, device="meta"), arrays)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(2)).reshape(x.shape) if x.dim() > 3 else self.norm(x)


def group_norm(p: SimpleNamespace, arrays: Arrays) -> nn.Module:
    """(B, C, …) -> (B, C, …)."""
    if p.group < 1 or p.channels % p.group:
        raise ValueError(f"{p.channels} channels are no multiple of {p.group} groups")
    return holding(nn.GroupNorm(p.group, p.channels, p.eps, bool(p.affine), device="meta"), arrays)


def instance_norm(p: SimpleNamespace, arrays: Arrays) -> nn.Module:
    """(B, C, H, W) -> (B, C, H, W)."""
    return holding(nn.InstanceNorm2d(p.channels, p.eps, affine=bool(p.affine), device="meta"), arrays)


class LastAxesNorm(nn.Module):
    """nn.LayerNorm or nn.RMSNorm over the last axis where it is as long as the weights, else over the last two. (B, …) -> (B, …)."""

    def __init__(self, norm: nn.Module, size: int):
        super().__init__()
        self.norm, self.size = norm, size

    def forward(self, x: Tensor) -> Tensor:
        whole = x.shape[-1] == self.size or x.dim() < 4
        return self.norm(x) if whole else self.norm(x.flatten(-2)).reshape(x.shape)


def layer_norm(p: SimpleNamespace, arrays: Arrays) -> nn.Module:
    return LastAxesNorm(holding(nn.LayerNorm(p.affine_size, p.eps, bool(p.affine), device="meta"), arrays), p.affine_size)


def rms_norm(p: SimpleNamespace, arrays: Arrays) -> nn.Module:
    return LastAxesNorm(holding(nn.RMSNorm(p.affine_size, p.eps, bool(p.affine), device="meta"), arrays), p.affine_size)


class Scale(nn.Module):
    """x * weight + bias over the outermost axis; without weights of its own, x * the second input. (B, C, …) -> (B, C, …)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        self.weight = nn.Parameter(arrays["weight"]) if "weight" in arrays else None
        self.bias = nn.Parameter(arrays["bias"]) if "bias" in arrays else None

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        weight = given[0] if self.weight is None else self.weight[None]
        y = x * outermost(weight, x)
        return y if self.bias is None else y + outermost(self.bias[None], x)


def outermost(weight: Tensor, x: Tensor) -> Tensor:
    """(1, C) or (B, C) -> (…, C, 1, …), to stand over the outermost axis of x."""
    return weight.flatten(1).reshape(weight.shape[0], -1, *[1] * (x.dim() - 2))


class Bias(nn.Module):
    """x + bias over the outermost axis. (B, C, …) -> (B, C, …)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        self.bias = nn.Parameter(arrays["bias"])

    def forward(self, x: Tensor) -> Tensor:
        return x + outermost(self.bias[None], x)


def prelu(p: SimpleNamespace, arrays: Arrays) -> nn.Module:
    """(B, C, …) -> (B, C, …)."""
    return holding(nn.PReLU(p.num_slope, device="meta"), arrays)


ACROSS_CHANNELS = 0


class LocalResponseNorm(nn.Module):
    """x / (bias + alpha / n · sum of squares of n neighbours) ** beta, across channels or within one. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        self.across, self.size, self.alpha, self.beta, self.bias = p.region_type == ACROSS_CHANNELS, p.local_size, p.alpha, p.beta, p.bias

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.size // 2, self.size - self.size // 2 - 1
        squares = x.square()
        if self.across:
            mean = functional.avg_pool3d(functional.pad(squares[:, None], (0, 0, 0, 0, before, after)), (self.size, 1, 1), 1)[:, 0]
        else:
            mean = functional.avg_pool2d(functional.pad(squares, (before, after, before, after)), self.size, 1)
        return x * torch.pow(self.bias + self.alpha * mean, -self.beta)
