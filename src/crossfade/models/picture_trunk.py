"""The first blocks of a picture network, frozen: what a perceptual loss looks through."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.models.surgery import read_weights

NETWORKS = ("mobilenet_v2", "vgg16", "vgg19", "efficientnet_b0")  # torchvision's with a trunk called `features`
IMAGENET = "imagenet"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures


class PictureTrunk(nn.Module):
    """(B, 3, H, W) in -1 … 1 -> (B, C, H', W')"""

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: nn.Sequential):
        super().__init__()
        self.blocks = blocks
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(((x + 1) / 2 - self.mean) / self.std)


def picture_trunk(network: str, blocks: int, weights: Path | str) -> PictureTrunk:
    """`weights`: a file with torchvision's names, with or without `features.`, or `imagenet`. UserError where it is of another network."""
    from torchvision import models

    if network not in NETWORKS:
        raise UserError(f"perceptual.network: found {network!r}; one of {', '.join(NETWORKS)}")
    fetched = str(weights) == IMAGENET
    trunk = models.get_model(network, weights="DEFAULT" if fetched else None).features
    assert isinstance(trunk, nn.Sequential)
    if not 0 < blocks <= len(trunk):
        raise UserError(f"perceptual.blocks: found {blocks}, but {network} has {len(trunk)}")
    trunk = trunk[:blocks]
    if not fetched:
        _load(trunk, Path(weights), network)
    return PictureTrunk(trunk).eval().requires_grad_(False)


def _load(trunk: nn.Sequential, path: Path, network: str) -> None:
    found = read_weights(path, known=[IMAGENET])
    named = {name: found.get(f"features.{name}", found.get(name)) for name in trunk.state_dict()}
    for name, own in trunk.state_dict().items():
        other = named[name]
        if other is None or other.shape != own.shape:
            has = "has none" if other is None else f"is {tuple(other.shape)} there"
            raise UserError(f"perceptual.weights: {path}: not of {network}: its features.{name} is {tuple(own.shape)}, the file {has}")
    trunk.load_state_dict({name: tensor for name, tensor in named.items() if tensor is not None})
