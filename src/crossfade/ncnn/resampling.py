"""Layers that change the size of a plane: padding and interpolation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from crossfade.ncnn.activations import Operation
from crossfade.ncnn.convolutions import Arrays

MODES = {0: "constant", 1: "replicate", 2: "reflect"}
NEAREST, BILINEAR, BICUBIC = 1, 2, 3
RESIZE = {NEAREST: "nearest", BILINEAR: "bilinear", BICUBIC: "bicubic"}


class Padding(nn.Module):
    """(B, …, H, W) or (B, W), padded at the inner axes by one value, a value a channel, the border, or its mirror."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        if p.type not in MODES:
            raise ValueError(f"type is {p.type}, but has to be 0 (constant), 1 (replicate) or 2 (reflect)")
        self.mode, self.value = MODES[p.type], p.value
        self.pads = (p.left, p.right, p.top, p.bottom)
        self.depth = (p.front, p.behind)
        self.each = nn.Parameter(arrays["value"]) if "value" in arrays else None

    def forward(self, x: Tensor) -> Tensor:
        if self.each is not None:
            each = self.each[None].reshape(1, -1, *[1] * (x.dim() - 2))
            return functional.pad(x - each, self.pads) + each
        if x.dim() == 4 and any(self.depth):
            return self.pad(x[:, None], (*self.pads, *self.depth))[:, 0]
        return self.pad(x, self.pads[: 2 * min(x.dim() - 1, 2)] + (self.depth if x.dim() == 5 else ()))

    def pad(self, x: Tensor, pads: tuple[int, ...]) -> Tensor:
        if self.mode == MODES[0]:
            return functional.pad(x, pads, value=self.value)
        missing = len(pads) // 2 + 2 - x.dim()  # PyTorch wants a batch and channels before the axes that it repeats
        return functional.pad(x[:, None] if missing else x, pads, self.mode).reshape(*_padded(x, pads))


def _padded(x: Tensor, pads: tuple[int, ...]) -> list[int]:
    sizes = list(x.shape)
    for number in range(len(pads) // 2):
        sizes[-1 - number] += pads[2 * number] + pads[2 * number + 1]
    return sizes


def interp(p: SimpleNamespace) -> nn.Module:
    """To a size, by a scale, or to the size of a second input. (B, C, H, W); (B, C, W) along W; (B, C) becomes constant planes."""
    if p.size_expr:
        raise ValueError("computes its size by an expression, which is not supported")
    if p.resize_type not in RESIZE:
        raise ValueError(f"resize_type is {p.resize_type}, but has to be 1 (nearest), 2 (bilinear) or 3 (bicubic)")

    def resized(x: Tensor, *like: Tensor) -> Tensor:
        if x.dim() == 2:
            height, width = _target(p, x[..., None, None], like)
            return x[..., None, None].expand(-1, -1, height, width)
        if x.dim() == 3:
            return _line(p, x, like)
        return _plane(p, x, _target(p, x, like), by_scale=not like and _by_scale(p))

    return Operation(resized)


def _by_scale(p: SimpleNamespace) -> bool:
    return p.output_height == 0 or p.output_width == 0


def _target(p: SimpleNamespace, x: Tensor, like: tuple[Tensor, ...]) -> tuple[int, int]:
    if like:
        return like[0].shape[-2], like[0].shape[-1]
    if _by_scale(p):
        return int(x.shape[-2] * p.height_scale), int(x.shape[-1] * p.width_scale)
    return p.output_height, p.output_width


def _plane(p: SimpleNamespace, x: Tensor, size: tuple[int, int], *, by_scale: bool) -> Tensor:
    if size == tuple(x.shape[-2:]):
        return x
    options: dict[str, Any] = {} if p.resize_type == NEAREST else {"align_corners": bool(p.align_corner)}
    scale = {"scale_factor": (p.height_scale, p.width_scale), "recompute_scale_factor": False} if by_scale else {"size": size}
    return functional.interpolate(x, mode=RESIZE[p.resize_type], **scale, **options)


def _line(p: SimpleNamespace, x: Tensor, like: tuple[Tensor, ...]) -> Tensor:
    """Along the rows only; each row is a channel."""
    width = like[0].shape[-1] if like else p.output_width or int(x.shape[-1] * p.width_scale)
    plane = SimpleNamespace(**{**vars(p), "height_scale": 1.0})
    return _plane(plane, x[:, :, None], (1, width), by_scale=not like and not p.output_width)[:, :, 0]
