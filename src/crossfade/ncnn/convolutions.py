"""Convolutions, their transposes, and inner products, as PyTorch's own modules between ncnn's padding and activation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfade.ncnn.activations import fused

SAME_UPPER, SAME_LOWER = -233, -234  # in place of a pad: as much as keeps ceil(size / stride), the odd one after or before
Arrays = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


class Convolution(nn.Module):
    """Pad, convolve, activate. (B, C, H, W) -> (B, num_output, H', W'); a (B, C) is one pixel and stays (B, num_output)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        _no_dynamic_weight(p)
        group, weight = getattr(p, "group", 1), arrays["weight"]
        self.pads, self.value = (p.pad_left, p.pad_right, p.pad_top, p.pad_bottom), p.pad_value
        self.stride, self.extent = (p.stride_h, p.stride_w), extents(p)
        own = self.pads[::2] == self.pads[1::2] and min(self.pads) >= 0 and not self.value
        self.padding: tuple[int, ...] = () if own else self.pads
        options = {"stride": self.stride, "dilation": (p.dilation_h, p.dilation_w), "padding": (p.pad_top, p.pad_left) if own else 0}
        shape = (weight.shape[1] * group, p.num_output, tuple(weight.shape[2:]))
        self.convolution = holding(nn.Conv2d(*shape, groups=group, bias="bias" in arrays, device="meta", **options), arrays)  # pyright: ignore[reportArgumentType]
        self.activation = fused(p)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return self.forward(x[..., None, None]).flatten(1)
        return self.activation(self.convolution(self.padded(x)))

    def padded(self, x: Tensor) -> Tensor:
        if not self.padding:
            return x
        pads = same(x, self.padding[0], self.extent, self.stride) if self.padding[0] in (SAME_UPPER, SAME_LOWER) else self.padding
        return functional.pad(x, pads, value=self.value)


def same(x: Tensor, kind: int, extent: tuple[int, int], stride: tuple[int, int]) -> list[int]:
    """Left, right, top and bottom pads that keep ceil(size / stride)."""
    pads: list[int] = []
    for size, kernel, step in zip(x.shape[:-3:-1], extent[::-1], stride[::-1], strict=True):
        total = max(kernel + (size - 1) // step * step - size, 0)
        before = total // 2 if kind == SAME_UPPER else total - total // 2
        pads += [before, total - before]
    return pads


def extents(p: SimpleNamespace) -> tuple[int, int]:
    """How far a kernel reaches, dilated: rows, columns."""
    return p.dilation_h * (p.kernel_h - 1) + 1, p.dilation_w * (p.kernel_w - 1) + 1


class Convolution1D(nn.Module):
    """Pad, convolve, activate along a line. (B, C, W) -> (B, num_output, W')."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        _no_dynamic_weight(p)
        group, weight = getattr(p, "group", 1), arrays["weight"]
        self.pads, self.value = (p.pad_left, p.pad_right), p.pad_value
        self.stride, self.extent = (1, p.stride_w), (1, p.dilation_w * (p.kernel_w - 1) + 1)
        own = p.pad_left == p.pad_right >= 0 and not self.value
        self.padding: tuple[int, ...] = () if own else self.pads
        options = {"stride": p.stride_w, "dilation": p.dilation_w, "padding": p.pad_left if own else 0, "bias": "bias" in arrays}
        shape = (weight.shape[1] * group, p.num_output, p.kernel_w)
        self.convolution = holding(nn.Conv1d(*shape, groups=group, device="meta", **options), arrays)
        self.activation = fused(p)

    def forward(self, x: Tensor) -> Tensor:
        if not self.padding:
            return self.activation(self.convolution(x))
        named = self.padding[0] in (SAME_UPPER, SAME_LOWER)
        pads = same(x, self.padding[0], self.extent, self.stride)[:2] if named else self.padding
        return self.activation(self.convolution(functional.pad(x, pads, value=self.value)))


class Deconvolution(nn.Module):
    """The transpose of a convolution, then the pads cut off, then the activation. (B, C, H, W) -> (B, num_output, H', W')."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        _no_dynamic_weight(p)
        group = getattr(p, "group", 1)
        self.pads, self.size = (p.pad_left, p.pad_right, p.pad_top, p.pad_bottom), (p.output_h, p.output_w)
        own = self.pads[::2] == self.pads[1::2] and min(self.pads) >= 0
        self.cuts = not own or self.pads == (0, 0, 0, 0)
        weight = transposed(arrays["weight"], group)
        options = {
            "stride": (p.stride_h, p.stride_w),
            "dilation": (p.dilation_h, p.dilation_w),
            "padding": (p.pad_top, p.pad_left) if own else 0,
        }
        more = {"output_padding": (p.output_pad_bottom, p.output_pad_right), "groups": group, "bias": "bias" in arrays, "device": "meta"}
        module = nn.ConvTranspose2d(weight.shape[0], p.num_output, tuple(weight.shape[2:]), **options, **more)  # pyright: ignore[reportArgumentType]
        self.convolution = holding(module, arrays | {"weight": weight})
        self.activation = fused(p)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.convolution(x))
        return self.cut(y) if self.cuts else y

    def cut(self, y: Tensor) -> Tensor:
        """ncnn cuts the pads where there are any, and else down to output_w x output_h."""
        left, right, top, bottom = self.pads
        if max(self.pads) <= 0:
            if min(self.size) <= 0:
                return y
            (top, bottom), (left, right) = (_halves(have - want, left) for have, want in zip(y.shape[-2:], self.size, strict=True))
        return functional.pad(y, [-max(left, 0), -max(right, 0), -max(top, 0), -max(bottom, 0)])


def _halves(cut: int, kind: int) -> tuple[int, int]:
    """Before and after: the odd one after for SAME_UPPER, before for SAME_LOWER; without either, all after."""
    before = {SAME_UPPER: cut // 2, SAME_LOWER: cut - cut // 2}.get(kind, 0)
    return before, cut - before


def transposed(weight: Tensor, group: int) -> Tensor:
    """(outputs, inputs / group, …), as ncnn has it, -> (inputs, outputs / group, …), as PyTorch does."""
    outputs, inputs, *kernel = weight.shape
    return weight.reshape(group, outputs // group, inputs, *kernel).transpose(1, 2).reshape(group * inputs, outputs // group, *kernel)


class InnerProduct(nn.Module):
    """A linear layer on all values, or on each row as long as its inputs. (B, …) -> (B, num_output) or (B, H, num_output)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        outputs, inputs = arrays["weight"].shape
        self.linear = holding(nn.Linear(inputs, outputs, "bias" in arrays, device="meta"), arrays)
        self.activation = fused(p)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.dim() == 3 and x.shape[-1] == self.linear.in_features
        return self.activation(self.linear(x if rows else x.flatten(1)))


def holding(module: Module, arrays: Arrays) -> Module:
    """The module with these arrays as its parameters and buffers, of which none may be missing."""
    own = {name: tensor for name, tensor in arrays.items() if name in dict(module.named_parameters()) | dict(module.named_buffers())}
    extra = {"num_batches_tracked": torch.zeros((), dtype=torch.long)} if "num_batches_tracked" in module.state_dict() else {}
    module.load_state_dict(own | extra, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module


def _no_dynamic_weight(p: SimpleNamespace) -> None:
    if getattr(p, "dynamic_weight", 0):
        raise ValueError("takes its weights from another layer (dynamic_weight), which is not supported")
