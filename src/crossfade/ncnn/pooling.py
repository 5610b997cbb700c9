"""Pooling: windows with ncnn's four ways of padding, the whole plane, or as many windows as asked."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn
from torch.nn import functional

from crossfade.ncnn.convolutions import SAME_LOWER, SAME_UPPER, Arrays, same

MAXIMUM, AVERAGE = 0, 1
FULL, VALID = 0, 1
SAME = {2: SAME_UPPER, 3: SAME_LOWER}
KEEP = -233  # in out_w and out_h: as the input


class Pooling(nn.Module):
    """(B, C, H, W) -> (B, C, H', W'), or (B, C) of the whole plane."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        if p.pooling_type not in (MAXIMUM, AVERAGE):
            raise ValueError(f"pooling_type is {p.pooling_type}, but has to be 0 (maximum) or 1 (average)")
        if not (p.global_pooling or p.adaptive_pooling) and min(p.kernel_w, p.kernel_h, p.stride_w, p.stride_h) < 1:
            raise ValueError(
                f"has a kernel of {p.kernel_w} x {p.kernel_h} and a stride of {p.stride_w} x {p.stride_h}; each has to be at least 1"
            )
        self.p, self.average = p, p.pooling_type == AVERAGE
        self.kernel, self.stride = (p.kernel_h, p.kernel_w), (p.stride_h, p.stride_w)

    def forward(self, x: Tensor) -> Tensor:
        if self.p.global_pooling:
            return x.mean((2, 3)) if self.average else x.amax((2, 3))
        return self.adaptive(x) if self.p.adaptive_pooling else self.windows(x)

    def adaptive(self, x: Tensor) -> Tensor:
        height, width = (have if want == KEEP else want for have, want in zip(x.shape[-2:], (self.p.out_h, self.p.out_w), strict=True))
        return (functional.adaptive_avg_pool2d if self.average else functional.adaptive_max_pool2d)(x, (height, width))

    def windows(self, x: Tensor) -> Tensor:
        pads, tails = self.pads(x)
        both = [pad + tail for pad, tail in zip(pads, tails, strict=True)]
        if not self.average:
            return functional.max_pool2d(functional.pad(x, both, value=float("-inf")) if any(both) else x, self.kernel, self.stride)
        mean = functional.avg_pool2d(functional.pad(x, both) if any(both) else x, self.kernel, self.stride)
        if self.p.avgpool_count_include_pad or self.p.pad_mode in SAME or not any(both):
            return mean
        real = functional.pad(x.new_ones(1, 1, *x.shape[-2:]), both)
        return mean / functional.avg_pool2d(real, self.kernel, self.stride)

    def pads(self, x: Tensor) -> tuple[list[int], list[int]]:
        """Left, right, top and bottom; and what full padding adds at the ends so that no value is left over."""
        p = self.p
        if p.pad_mode in SAME:
            return same(x, SAME[p.pad_mode], self.kernel, self.stride), [0] * 4
        pads = [p.pad_left, p.pad_right, p.pad_top, p.pad_bottom]
        sizes = x.shape[-1] + pads[0] + pads[1], x.shape[-2] + pads[2] + pads[3]
        over = [(size - kernel) % step for size, kernel, step in zip(sizes, self.kernel[::-1], self.stride[::-1], strict=True)]
        right, bottom = ((step - rest) % step if p.pad_mode == FULL else 0 for step, rest in zip(self.stride[::-1], over, strict=True))
        return pads, [0, right, 0, bottom]


class Pooling1D(nn.Module):
    """(B, C, W) -> (B, C, W'), or (B, C) of the whole line."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        plane = {"kernel_h": 1, "stride_h": 1, "pad_top": 0, "pad_bottom": 0, "out_h": 1}
        self.plane = Pooling(SimpleNamespace(**vars(p), **plane), arrays)

    def forward(self, x: Tensor) -> Tensor:
        y = self.plane(x[:, :, None])
        return y if y.dim() == 2 else y[:, :, 0]
