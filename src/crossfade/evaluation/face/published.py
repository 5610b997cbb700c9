"""Weights of published networks from files that a person owns: read without running anything in them, and filled in strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from crossfade.clip import UserError

COUNTERS = "num_batches_tracked"  # of BatchNorm; files older than PyTorch 0.4.1 lack them, and they steer nothing


def read(path: Path) -> dict[str, Tensor]:
    """A PyTorch file that holds a state dict. UserError otherwise."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read as PyTorch weights: {error.strerror or error}") from error
    except Exception as error:  # what is no pickle can fail in any way while it is read as one
        raise UserError(f"{path}: cannot be read as PyTorch weights; expected a state dict") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path}: holds no weights by name; expected a state dict")
    return dict(found)


def fill(module: nn.Module, entries: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Load every weight of a module and freeze it in eval mode. UserError where one is missing or has another shape."""
    for name, own in module.state_dict().items():
        if name.endswith(COUNTERS):
            continue
        if name not in entries:
            raise UserError(f"{path}: there is no {name!r}; expected the published weights of {network}")
        if entries[name].shape != own.shape:
            raise UserError(f"{path}: {name!r} has shape {tuple(entries[name].shape)}; {network} has {tuple(own.shape)}")
    own = module.state_dict()
    module.load_state_dict({name: entries.get(name, own[name]) for name in own})
    module.eval().requires_grad_(False)
