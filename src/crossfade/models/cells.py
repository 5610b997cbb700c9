"""The cells of a picture network's last map as tokens, row by row; those of a spectrogram are real where their columns are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from crossfade.models.masks import begin_silent, begin_zero

if TYPE_CHECKING:
    from crossfade.clip import Named


class Cells(nn.Module):
    """The top stage: a token a cell, frame after frame, each row by row. `side` is how many pixels a cell stands for in width."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, state: Named) -> Named:
        """{"x": (B, T, C, H, W), "mask": (B, T) or "columns": (B, pixels)} -> {"x": (B, T · H · W, C), "mask": (B, T · H · W)}"""
        x = state["x"]
        tokens = {"x": x.flatten(3).transpose(2, 3).flatten(1, 2)}
        if "mask" in state:
            return {**tokens, "mask": state["mask"].repeat_interleave(x.shape[3] * x.shape[4], 1)}
        if "columns" not in state:
            return tokens
        row = strided_mask(state["columns"], x.shape[4], self.side)[:, None]
        return {**tokens, "mask": row.expand(-1, x.shape[3], -1).flatten(1)}


def strided_mask(mask: Tensor, bins: int, stride: int) -> Tensor:
    """(B, T) -> (B, bins), bins = ⌈T / stride⌉: a bin is real where any of the steps that its stride goes over is."""
    bin_of = torch.arange(mask.shape[1], device=mask.device) // stride
    return (mask[:, None] & (bin_of == torch.arange(bins, device=mask.device)[:, None])).any(2)


def begin_columns(x: Tensor, mask: Tensor | None) -> Named:
    """(B, T, C, H, W) as `begin_zero`; a spectrogram (B, 1, M, T) as `begin_silent`, then one frame, whose mask (B, T) is of "columns"."""
    if x.ndim == 5:
        return begin_zero(x, mask)
    begun = {"x": begin_silent(x, mask)["x"][:, None]}
    return begun if mask is None else {**begun, "columns": mask}
