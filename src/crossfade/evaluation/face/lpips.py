"""LPIPS, how far apart two pictures look: distances of AlexNet's features, weighted as people judged (arXiv 1801.03924, version 0.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfade.evaluation.face import published

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation, for values of −1 … 1
TAPS = (1, 4, 7, 9, 11)  # the layers after whose ReLU the features are compared
WIDTHS = (64, 192, 384, 256, 256)
FLOOR = 1e-10  # under the length of a feature vector
BATCH = 32


class Lpips:
    """`alexnet`: torchvision's state dict of AlexNet; `linear`: that of the published alex.pth, whose linear layers are lin0 … lin4."""

    def __init__(self, alexnet: Path, linear: Path):
        weights = published.read(alexnet)
        self.layers = _layers()
        features = {name.removeprefix("features."): value for name, value in weights.items() if name.startswith("features.")}
        published.fill(self.layers, features, alexnet, "AlexNet")
        self.linear = _linear()
        published.fill(self.linear, published.read(linear), linear, "LPIPS with AlexNet")

    def __call__(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(T, 3, H, W) twice, −1 … 1 -> (T,); 0 = the same picture."""
        starts = range(0, len(output), BATCH)
        parts = [self._distances(*(torch.from_numpy(each[at : at + BATCH]).float() for each in (output, target))) for at in starts]
        return torch.cat(parts).double().numpy() if parts else np.zeros(0)

    @torch.no_grad()
    def _distances(self, output: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) twice -> (B,)"""
        both = zip(self._features(output), self._features(target), self.linear.values(), strict=True)
        return sum((weigh((a - b) ** 2).mean((1, 2, 3)) for a, b, weigh in both), torch.zeros(len(output)))

    def _features(self, x: Tensor) -> list[Tensor]:
        """Of each tap, vectors of length 1 over the channels."""
        shift, scale = (torch.tensor(numbers).view(3, 1, 1) for numbers in (SHIFT, SCALE))
        x, found = (x - shift) / scale, []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in TAPS:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + FLOOR))
        return found


def _layers() -> nn.Sequential:
    """AlexNet up to its last ReLU, numbered as torchvision numbers it."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


class _Weighted(nn.Module):
    """A weight a channel, under the name the published file has for it."""

    def __init__(self, width: int):
        super().__init__()
        self.model = nn.ModuleDict({"1": nn.Conv2d(width, 1, 1, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W)"""
        return functional.conv2d(x, self.model["1"].get_parameter("weight"))


def _linear() -> nn.ModuleDict:
    return nn.ModuleDict({f"lin{number}": _Weighted(width) for number, width in enumerate(WIDTHS)})
