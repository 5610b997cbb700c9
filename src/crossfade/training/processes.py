"""What several processes must hold in common, or they part ways and wait for one another: when to stop, how good it was, buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator

Value = TypeVar("Value")


def any_signal(accelerator: Accelerator, signal: int | None) -> int | None:
    """The signal that any process got. Every process must call this at the same step."""
    if accelerator.num_processes == 1:
        return signal
    return int(accelerator.gather(torch.tensor([signal or 0], device=accelerator.device)).max()) or None  # type: ignore[union-attr]


def of_first(accelerator: Accelerator, value: Value) -> Value:
    """The first process's value, so that rounding on another device cannot end a phase in one process only."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give every process the first one's buffers: each step moves BatchNorm statistics by that process's own batch."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def share_parameters(accelerator: Accelerator, model: nn.Module) -> None:
    """Give every process the first one's weights, as it will be when they train."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            torch.distributed.broadcast(parameter.data, 0)
