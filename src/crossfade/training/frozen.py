"""What stands still in a phase and so can be computed once: the leading stages of each encoder, or everything up to the heads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Fused(Protocol):
    """What a model must show to be cut: encoders with stages, then mixers and a merger."""

    encoders: Any
    mix: Any
    merge: Any
    drop_stream: float


@dataclass(frozen=True)
class Frozen:
    """`stages`: stream -> how many leading stages of its encoder stand still. `fusion`: whether all that comes before the heads does."""

    stages: dict[str, int]
    fusion: bool


def _learns_now(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


def frozen(model: Fused, learns: Callable[[nn.Parameter], bool] = _learns_now) -> Frozen:
    """Read off a model whose phase is set (`rates.freeze`), or for any other phase by what `learns` in it; an encoder without a frozen
    parameter at its beginning is left out.

    Where streams are dropped at random no output of the fusion is a function of the clip alone, so there it never counts as frozen.
    """
    stages = {name: leading(encoder.stages, learns) for name, encoder in model.encoders.items()}
    whole = all(count == len(model.encoders[name].stages) for name, count in stages.items())
    fusion = [learns(parameter) for part in (model.mix, model.merge) for parameter in part.parameters()]
    return Frozen(
        {name: count for name, count in stages.items() if _has_parameters(model.encoders[name].stages[:count])},
        whole and bool(fusion) and not any(fusion) and not model.drop_stream,
    )


def leading(stages: Iterable[nn.Module], learns: Callable[[nn.Parameter], bool] = _learns_now) -> int:
    """How many stages come before the first in which something learns; all of them where nothing does."""
    count = 0
    for stage in stages:
        if any(learns(parameter) for parameter in stage.parameters()):
            return count
        count += 1
    return count


def digest(parts: Mapping[str, nn.Module]) -> str:
    """Name weights by a hash of every entry of these modules: parameters and buffers, their names, types and bits."""
    found = hashlib.blake2b(digest_size=16)
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            found.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _has_parameters(stages: nn.Module) -> bool:
    return next(stages.parameters(), None) is not None
