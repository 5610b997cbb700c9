"""A plain stack of depthwise-separable convolutions, for machines without timm and for comparison: no residual sums, ReLU6."""

from __future__ import annotations

from torch import nn

from crossfade.clip import Spec
from crossfade.models.encoder import Encoder
from crossfade.models.masks import begin_pictures
from crossfade.models.surgery import Adapt, start_from
from crossfade.models.video import PerFrame

STEM = 32  # channels after the first convolution
BLOCKS = [  # channels, stride (those of arXiv 1704.04861 but for the last)
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1280, 1),
]


def depthwise_stack(*, channels: int = 1, adapt: Adapt = "sum", weights: str | None = None, allow_missing: tuple[str, ...] = ()) -> Encoder:
    """A convolution and 13 separable ones, the cough original's stand-in; 3,469,056 parameters with one channel, in 14 stages.

    (B, T, channels, H, W), or with one channel a spectrogram (B, 1, M, T) -> Tokens (B, T, 1280), of a spectrogram one. `weights` is a
    file or bundle to start from, whose first convolution is adapted to other channels as `adapt` says.
    """
    stages, before = [PerFrame(stem=_conv(channels, STEM, 3, stride=2))], STEM
    for width, stride in BLOCKS:
        stages.append(PerFrame(depthwise=_conv(before, before, 3, stride=stride, groups=before), pointwise=_conv(before, width, 1)))
        before = width
    stages[-1].body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    encoder = Encoder(stages, dim=before, spec=Spec((None, channels, None, None)), begin=begin_pictures)
    return start_from(encoder, weights, allow=allow_missing, adapt=adapt, spare=())


def _conv(before: int, after: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU6())
