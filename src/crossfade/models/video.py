"""Encoders that look at one frame at a time: a picture network under `PerFrame` gives one token a frame; an image is one frame."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from crossfade.clip import Spec, UserError
from crossfade.models.encoder import Encoder
from crossfade.models.masks import begin_zero
from crossfade.models.surgery import start_from

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

    from crossfade.clip import Named

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, for pixels in 0 … 1
RESNET_NAMES = {  # torchvision's -> ours
    "conv1.": "stages.0.body.conv1.",
    "bn1.": "stages.0.body.bn1.",
    "layer1.": "stages.1.body.layer1.",
    "layer2.": "stages.2.body.layer2.",
    "layer3.": "stages.3.body.layer3.",
    "layer4.": "stages.4.body.layer4.",
}
MOBILENET_NAMES = {f"features.{stage}.": f"stages.{stage}.body.block." for stage in range(19)}


def resnet18(
    *, weights: str | None = None, channels: int = 3, adapt: Literal["sum", "mean"] = "sum", allow_missing: tuple[str, ...] = ()
) -> Encoder:
    """torchvision's ResNet18 without its classifier, on each frame; 11,176,512 parameters with 3 channels.

    (B, T, channels, H, W) -> Tokens (B, T, 512). `weights`: "imagenet", a file with torchvision's or our names, a bundle, or null for a
    random start. Another number of channels adapts the first convolution as `adapt` says. UserError where weights cannot be had or do
    not fit, unless `allow_missing` names the rest.
    """
    from torchvision.models import ResNet18_Weights
    from torchvision.models import resnet18 as torchvision_resnet18

    net = torchvision_resnet18()
    net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False) if channels != 3 else net.conv1
    stages = [
        PerFrame(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool),
        PerFrame(layer1=net.layer1),
        PerFrame(layer2=net.layer2),
        PerFrame(layer3=net.layer3),
        PerFrame(layer4=net.layer4, avgpool=net.avgpool, flatten=nn.Flatten()),
    ]
    encoder = Encoder(stages, dim=512, spec=_frames(channels), begin=begin_zero)
    named = {"imagenet": lambda: _published(ResNet18_Weights.IMAGENET1K_V1)}
    return start_from(encoder, weights, named=named, rename=RESNET_NAMES, allow=allow_missing, adapt=adapt)


def mobilenet_v2(*, weights: str | None = None, allow_missing: tuple[str, ...] = ()) -> Encoder:
    """torchvision's MobileNetV2 (arXiv 1801.04381) without its classifier, on each frame; 2,223,872 parameters in 19 stages.

    (B, T, 3, H, W) -> Tokens (B, T, 1280). `weights`: "imagenet" (the first of torchvision's two), a file with torchvision's or our
    names, a bundle, or null for a random start. UserError where weights cannot be had or do not fit, unless `allow_missing` names the rest.
    """
    from torchvision.models import MobileNet_V2_Weights
    from torchvision.models import mobilenet_v2 as torchvision_mobilenet_v2

    *blocks, top = torchvision_mobilenet_v2().features
    stages = [PerFrame(block=block) for block in blocks]
    stages.append(PerFrame(block=top, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    encoder = Encoder(stages, dim=1280, spec=_frames(3), begin=begin_zero)
    named = {"imagenet": lambda: _published(MobileNet_V2_Weights.IMAGENET1K_V1)}
    return start_from(encoder, weights, named=named, rename=MOBILENET_NAMES, allow=allow_missing)


def frame_cnn(*, width: int = 32, weights: str | None = None, allow_missing: tuple[str, ...] = ()) -> Encoder:
    """Four strided convolutions on each frame, quick on a CPU and trained from scratch; 97,680 parameters at width 32.

    (B, T, 3, H, W) -> Tokens (B, T, 4 · width). `weights` is a file or bundle to start from.
    """
    widths = [3, width // 2, width, 2 * width, 4 * width]
    blocks = [nn.Sequential(*_conv(before, after)) for before, after in pairwise(widths)]
    stages = [PerFrame(conv=block) for block in blocks[:-1]]
    stages.append(PerFrame(conv=blocks[-1], avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    encoder = Encoder(stages, dim=widths[-1], spec=_frames(3), begin=begin_zero)
    return start_from(encoder, weights, allow=allow_missing)


class PerFrame(nn.Module):
    """A stage that runs picture modules, in order, on every frame of every clip."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        self.body = nn.Sequential(OrderedDict(modules))

    def forward(self, state: Named) -> Named:
        """{"x": (B, T, C, H, W)} -> {"x": (B, T, …)}, where the body maps (B·T, C, H, W) -> (B·T, …)"""
        x = state["x"]
        return {**state, "x": self.body(x.flatten(0, 1)).unflatten(0, x.shape[:2])}


def _frames(channels: int) -> Spec:
    """What a frame encoder expects: ImageNet statistics for colour, none for other numbers of channels."""
    colour = channels == 3
    return Spec((None, channels, None, None), mean=IMAGENET_MEAN if colour else None, std=IMAGENET_STD if colour else None)


def _published(choice: WeightsEnum) -> Named:
    """torchvision's published state; UserError that says where to put the file when it cannot be downloaded."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / choice.url.rsplit("/", 1)[-1]
    try:
        return dict(choice.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        reason = f"{choice.url} cannot be had ({error})"
        raise UserError(f"weights: imagenet: {reason}; put that file at {place}, or set `weights: null` to train from scratch") from error


def _conv(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
