"""What padding means: it is taken out of inputs, averages and attention, so that it can never reach an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crossfade.clip import Tokens

if TYPE_CHECKING:
    from crossfade.clip import Named


def begin_silent(x: Tensor, mask: Tensor | None) -> Named:
    """(B, 1, M, T) log-mel -> the same with padding at the clip's own minimum over its real frames, which is its silence."""
    if mask is None:
        return {"x": x}
    real = _along(mask, x, 3)
    floor = x.masked_fill(~real, torch.inf).amin((1, 2, 3), keepdim=True)
    return {"x": torch.where(real, x, torch.where(floor.isfinite(), floor, 0.0)), "mask": mask}


def begin_zero(x: Tensor, mask: Tensor | None) -> Named:
    """(B, T, …) -> the same with zeros where the mask is False: a still microphone, a frame of the mean colour."""
    if mask is None:
        return {"x": x}
    return {"x": x.masked_fill(~_along(mask, x, 1), 0.0), "mask": mask}


def begin_pictures(x: Tensor, mask: Tensor | None) -> Named:
    """(B, T, C, H, W) as `begin_zero`; a spectrogram (B, 1, M, T) as `begin_silent`, and then as one frame (B, 1, 1, M, T).

    That frame is real where any of its columns is.
    """
    if x.ndim == 5:
        return begin_zero(x, mask)
    begun = {"x": begin_silent(x, mask)["x"][:, None]}
    return begun if mask is None else {**begun, "mask": mask.any(1, keepdim=True)}


def bin_mask(mask: Tensor, bins: int) -> Tensor:
    """(B, T) -> (B, bins): a bin is real where any of its steps is. Bins are those of adaptive pooling."""
    return (mask[:, None] & bins_of(mask.shape[1], bins, mask.device)).any(2)


def bins_of(steps: int, bins: int, device: torch.device) -> Tensor:
    """-> (bins, steps) bool: which steps are in which bin of adaptive pooling; bins may share a step."""
    step, number = torch.arange(steps, device=device), torch.arange(bins, device=device)[:, None]
    return (step >= number * steps // bins) & (step < -((number + 1) * steps // -bins))


def masked_mean(tokens: Tokens) -> Tensor:
    """(B, T, D) -> (B, D) over the real tokens; zero where none is."""
    x, mask = tokens
    if mask is None:
        return x.squeeze(1) if x.shape[1] == 1 else x.mean(1)
    if x.shape[1] == 1:
        return x[:, 0].masked_fill(~mask, 0.0)
    return x.masked_fill(~mask[:, :, None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def presence(tokens: Mapping[str, Tokens], streams: Iterable[str]) -> Tensor:
    """{stream: (B, T, D)} -> (B, n) bool: which of `streams` has at least one real token in which clip."""
    like = next(iter(tokens.values())).x
    absent = torch.zeros(like.shape[0], dtype=torch.bool, device=like.device)
    return torch.stack([full_mask(tokens[name]).any(1) if name in tokens else absent for name in streams], 1)


def full_mask(tokens: Tokens) -> Tensor:
    """The mask (B, T), written out where it is None."""
    x, mask = tokens
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask


def attendable(mask: Tensor) -> Tensor:
    """(B, N) with rows that are all False turned all True, so that a softmax over them is finite."""
    return mask | ~mask.any(1, keepdim=True)


def _along(mask: Tensor, x: Tensor, axis: int) -> Tensor:
    shape = [mask.shape[0]] + [1] * (x.ndim - 1)
    shape[axis] = -1
    return mask.view(shape)
