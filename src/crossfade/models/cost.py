"""What one clip costs: the multiply-adds of convolutions, linear layers and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.backends import mha

if TYPE_CHECKING:
    from crossfade.clip import Named


def multiply_adds(model: nn.Module, batch: Named) -> int:
    """The multiply-adds of a model (Named -> Named) for the first clip of a batch, run once in eval mode, whose modes then are as before.

    Additions of biases, norms and activations do not count, as in the published numbers.
    """
    from torch.utils.flop_counter import FlopCounterMode

    modes = [(module, module.training) for module in model.modules()]
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)  # the fused attention of nn.MultiheadAttention is one operation that the counter does not know
    try:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model({name: tensor[:1] for name, tensor in batch.items()})
        return counter.get_total_flops() // 2
    finally:
        mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training
