"""A small network that convolves over time as over space: clips are seen whole, early layers halve the pictures, later ones time too."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from crossfade.clip import Spec
from crossfade.models.cells import strided_mask
from crossfade.models.encoder import Encoder
from crossfade.models.masks import begin_zero
from crossfade.models.surgery import start_from
from crossfade.models.video import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from crossfade.clip import Named

STRIDES = (1, 1, 2, 2)  # of the four convolutions in time; in space all have 2
NOTE = "video_cnn3d: a small 3-D network {start}, not VideoMAE"


def video_cnn3d(*, width: int = 32, weights: str | None = None, allow_missing: tuple[str, ...] = ()) -> Encoder:
    """Four 3×3×3 convolutions with batch normalisation, trained from scratch; 292,080 parameters. VideoMAE's stand-in, asked for by name.

    (B, T, 3, H, W) -> Tokens (B, ⌈T / 4⌉, 4 · width), one a step of time that is left, each the average over the picture. Padding is kept
    at zero after each layer, so that frames before it answer as if it were not there. `weights` is a file or bundle to start from.
    """
    widths = [3, width // 2, width, 2 * width, 4 * width]
    blocks = [Block(before, after, stride) for (before, after), stride in zip(pairwise(widths), STRIDES, strict=True)]
    spec = Spec((None, 3, None, None), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    note = NOTE.format(start="from scratch" if weights is None else f"started from {weights}")
    encoder = Encoder([*blocks, Steps()], dim=widths[-1], spec=spec, begin=_begin, note=note, grid=_grid)
    return start_from(encoder, weights, allow=allow_missing)


class Block(nn.Module):
    """A stage: one convolution over time and space; a step is real where any of those it strides over is."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.stride = stride
        self.body = nn.Sequential(nn.Conv3d(before, after, 3, (stride, 2, 2), 1, bias=False), nn.BatchNorm3d(after), nn.ReLU())

    def forward(self, state: Named) -> Named:
        """{"x": (B, C, T, H, W), "mask": (B, T)} -> {"x": (B, C', T', H', W'), "mask": (B, T')}, T' = ⌈T / stride⌉"""
        x = self.body(state["x"])
        if "mask" not in state:
            return {**state, "x": x}
        mask = strided_mask(state["mask"], x.shape[2], self.stride)
        return {**state, "x": x.masked_fill(~mask[:, None, :, None, None], 0.0), "mask": mask}


class Steps(nn.Module):
    """The top stage: one token a step."""

    def forward(self, state: Named) -> Named:
        """{"x": (B, C, T, H, W)} -> {"x": (B, T, C)}"""
        return {**state, "x": state["x"].mean((3, 4)).transpose(1, 2)}


def _begin(x: Tensor, mask: Tensor | None) -> Named:
    """(B, T, 3, H, W) -> {"x": (B, 3, T, H, W), "mask": (B, T)}"""
    state = begin_zero(x, mask)
    return {**state, "x": state["x"].transpose(1, 2)}


def _grid(x: Tensor) -> tuple[int, int, int]:
    """(B, T, 3, H, W) -> (steps, 1, 1)"""
    return -(-x.shape[1] // 4), 1, 1
