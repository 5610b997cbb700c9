"""Batch normalisation of a single value a channel, as of one clip after pooling: it has no spread, so the running statistics serve."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def allow_lone_values(module: nn.Module) -> None:
    """Every batch normalisation in it takes one value a channel while training: as in eval mode, and its statistics stay as they are."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
            norm.register_forward_pre_hook(_rest)
            norm.register_forward_hook(_wake, always_call=True)


def _rest(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    """(B, C, …) with one value a channel: B · … = 1"""
    if norm.training and inputs[0].numel() == inputs[0].shape[1]:
        norm.training, norm.resting = False, True


def _wake(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if getattr(norm, "resting", False):
        norm.training, norm.resting = True, False
