"""A small convolutional network for small pictures, trained from scratch: pairs of 3×3 convolutions, halved after each pair."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from crossfade.clip import Spec
from crossfade.models.encoder import Encoder
from crossfade.models.masks import begin_pictures
from crossfade.models.surgery import start_from
from crossfade.models.video import PerFrame


def picture_cnn(
    *, width: int = 32, depth: int = 3, channels: int = 1, weights: str | None = None, allow_missing: tuple[str, ...] = ()
) -> Encoder:
    """`depth` pairs of 3×3 convolutions with batch normalisation, each of twice the channels and half the side of the one before.

    (B, T, channels, H, W), or with one channel a spectrogram (B, 1, M, T) as one frame -> Tokens (B, T, width · 2^(depth − 1)); 286,880
    parameters as it is. As in VGG (arXiv 1409.1556), with strides in place of pooling. `weights` is a file or bundle to start from.
    """
    widths = [channels, *(width * 2**level for level in range(depth))]
    stages = [PerFrame(pair=_pair(before, after, stride=1 if level == 0 else 2)) for level, (before, after) in enumerate(pairwise(widths))]
    stages[-1].body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    encoder = Encoder(stages, dim=widths[-1], spec=Spec((None, channels, None, None)), begin=begin_pictures)
    return start_from(encoder, weights, allow=allow_missing)


def _pair(before: int, after: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(*_conv(before, after, stride), *_conv(after, after, 1))


def _conv(before: int, after: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
