"""Global magnitude pruning: the smallest weights of all that learn become 0, at once or little by little, and stay 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from crossfade.clip import UserError

if TYPE_CHECKING:
    from crossfade.clip import Named

Held = Sequence[tuple[nn.Parameter, Tensor]]  # weights that learn, and where (bool) they stay 0


@dataclass(frozen=True)
class Prune:
    """Which share of the weights is to be 0, and over how many epochs it grows there; 0 = at once, as the phase begins."""

    to: float
    over: int = 0

    def share(self, epoch: int) -> float:
        """What is 0 in epoch 0, 1 …: s of arXiv 1710.01878 eq. 1 from s_i = 0, one step an epoch, whole from epoch `over` - 1 on."""
        left = 1 - min((epoch + 1) / self.over, 1.0) if self.over else 0.0
        return self.to * (1 - left**3)

    def grows(self, epoch: int) -> bool:
        """Whether more is pruned as this epoch begins."""
        return epoch < self.over


def weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Matrices and kernels; biases and the scales of normalisation are few, and each stands for a whole channel."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.ndim >= 2)


def sparsity(model: nn.Module) -> float:
    """Which share of the entries of all weight matrices and kernels is 0."""
    counts = [(int((parameter == 0).sum()), parameter.numel()) for _, parameter in weights(model)]
    return sum(zeros for zeros, _ in counts) / max(sum(total for _, total in counts), 1)


@torch.no_grad()
def prune(model: nn.Module, share: float, pruned: Named, *, where: str = "prune") -> None:
    """Set the smallest |w|, so many of all that learn taken together, to 0 and note their places in `pruned` (name -> bool, on the CPU).

    What was pruned before counts, and stays. Raises UserError where no weight learns.
    """
    learning = {name: parameter for name, parameter in weights(model) if parameter.requires_grad}
    if not learning:
        raise UserError(f"{where}: no weight matrix or kernel learns in this phase, so there is nothing to prune")
    sizes = [_sizes(parameter, pruned.get(name)) for name, parameter in learning.items()]
    count = round(share * sum(len(each) for each in sizes))
    chosen = torch.zeros(sum(len(each) for each in sizes), dtype=torch.bool)
    chosen[torch.topk(torch.cat(sizes), count, largest=False).indices] = True
    for (name, parameter), places in zip(learning.items(), chosen.split([len(each) for each in sizes]), strict=True):
        before = pruned.get(name)
        pruned[name] = places.view(parameter.shape) if before is None else places.view(parameter.shape) | before
    hold(held(model, pruned))


def _sizes(parameter: nn.Parameter, before: Tensor | None) -> Tensor:
    """|w|, flat, on the CPU; -1 where it is pruned already, so that this comes first."""
    found = parameter.detach().abs().float().cpu()
    return (found if before is None else found.masked_fill(before, -1.0)).flatten()


def held(model: nn.Module, pruned: Named) -> Held:
    """What must be kept at 0 while this model learns, on its device."""
    return [
        (parameter, pruned[name].to(parameter.device)) for name, parameter in weights(model) if name in pruned and parameter.requires_grad
    ]


@torch.no_grad()
def hold(weights: Held) -> None:
    """Put them back to 0, after a step."""
    for parameter, places in weights:
        parameter.masked_fill_(places, 0.0)


@torch.no_grad()
def still(weights: Held) -> None:
    """Take their gradients away, before those are clipped: a weight that stays 0 has no say in how far the others go."""
    for parameter, places in weights:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(places, 0.0)
