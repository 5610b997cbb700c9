"""A runner in the place of a run's model: named tensors in, named tensors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.deploy.runner import Runner


class FileModel(nn.Module):
    """Nothing of its inside can be seen or trained."""

    def __init__(self, runner: Runner):
        super().__init__()
        self.runner = runner

    def forward(self, batch: Named) -> Named:
        """{"audio": (B, …), "audio.mask": (B, T)} -> {"emotion": (B, C), …}"""
        found = self.runner({name: tensor.cpu().numpy() for name, tensor in batch.items()})
        return {name: torch.from_numpy(array) for name, array in found.items()}
