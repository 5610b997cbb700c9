"""Picture networks by name, from torchvision, each cut into stages, with what its weights expect of a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from crossfade import use as tables
from crossfade.clip import Spec, UserError
from crossfade.models.cells import Cells, begin_columns
from crossfade.models.encoder import Encoder
from crossfade.models.masks import begin_pictures
from crossfade.models.surgery import Adapt, Rename, start_from
from crossfade.models.video import PerFrame

if TYPE_CHECKING:
    from torchvision.models import ResNet, WeightsEnum

    from crossfade.clip import Named

StemStride = Literal[1, 2] | None
TokensOf = Literal["pooled", "map"]
RESNET_NAMES = {  # torchvision's -> ours
    "conv1.": "stages.0.body.conv1.",
    "bn1.": "stages.0.body.bn1.",
    "layer1.": "stages.1.body.layer1.",
    "layer2.": "stages.2.body.layer2.",
    "layer3.": "stages.3.body.layer3.",
    "layer4.": "stages.4.body.layer4.",
}
MOBILENET_NAMES = {f"features.{stage}.": f"stages.{stage}.body.block." for stage in range(19)}
EFFICIENTNET_NAMES = {f"features.{stage}.": f"stages.{stage}.body.block." for stage in range(9)}
CLASSIFIERS = ("fc.", "classifier.")  # torchvision's names of what we leave out


def resnet18(
    *,
    weights: str | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    tokens: TokensOf = "pooled",
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """torchvision's ResNet18 without its classifier, on each frame; 11,176,512 parameters with 3 channels, in 5 stages.

    (B, T, channels, H, W), or with one channel a spectrogram (B, 1, M, T) as one frame -> Tokens (B, T, 512). `weights`: "imagenet"
    (torchvision's first), a file with torchvision's or our names, a bundle, or null for a random start. Another number of channels adapts
    the first convolution as `adapt` says; `stem_stride: 1` keeps the maps of small pictures twice as large. UserError where weights cannot
    be had or do not fit, unless `allow_missing` names the rest.

    `tokens: map` gives the cells of the last map instead of their average, row by row: (B, T · rows · columns, 512), of a video the map of
    each frame in turn. A spectrogram of 128 × 128 has 4 × 4 of them, real where any of the time that their column stands for is.
    """
    from torchvision.models import ResNet18_Weights
    from torchvision.models import resnet18 as build

    encoder = _resnet(build(), ResNet18_Weights.IMAGENET1K_V1, channels, stem_stride, tokens)
    return _started(encoder, weights, ResNet18_Weights.IMAGENET1K_V1, RESNET_NAMES, adapt=adapt, allow=allow_missing)


def resnet34(
    *,
    weights: str | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    tokens: TokensOf = "pooled",
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """torchvision's ResNet34 without its classifier: 21,284,672 parameters, -> Tokens (B, T, 512); all else as `resnet18`."""
    from torchvision.models import ResNet34_Weights
    from torchvision.models import resnet34 as build

    encoder = _resnet(build(), ResNet34_Weights.IMAGENET1K_V1, channels, stem_stride, tokens)
    return _started(encoder, weights, ResNet34_Weights.IMAGENET1K_V1, RESNET_NAMES, adapt=adapt, allow=allow_missing)


def resnet50(
    *,
    weights: str | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    tokens: TokensOf = "pooled",
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """torchvision's ResNet50 without its classifier: 23,508,032 parameters, -> Tokens (B, T, 2048); all else as `resnet18`."""
    from torchvision.models import ResNet50_Weights
    from torchvision.models import resnet50 as build

    encoder = _resnet(build(), ResNet50_Weights.IMAGENET1K_V1, channels, stem_stride, tokens)
    return _started(encoder, weights, ResNet50_Weights.IMAGENET1K_V1, RESNET_NAMES, adapt=adapt, allow=allow_missing)


def mobilenet_v2(
    *,
    weights: str | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """torchvision's MobileNetV2 (arXiv 1801.04381) without its classifier, on each frame; 2,223,872 parameters in 19 stages.

    (B, T, channels, H, W) -> Tokens (B, T, 1280). Options as of `resnet18`.
    """
    from torchvision.models import MobileNet_V2_Weights
    from torchvision.models import mobilenet_v2 as build

    choice = MobileNet_V2_Weights.IMAGENET1K_V1
    encoder = _featured(build().features, 1280, choice, channels, stem_stride)
    return _started(encoder, weights, choice, MOBILENET_NAMES, adapt=adapt, allow=allow_missing)


def efficientnet_b0(
    *,
    weights: str | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """torchvision's EfficientNet-B0 (arXiv 1905.11946) without its classifier; 4,007,548 parameters in 9 stages, no stochastic depth.

    (B, T, channels, H, W) -> Tokens (B, T, 1280). Options as of `resnet18`.
    """
    from torchvision.models import EfficientNet_B0_Weights
    from torchvision.models import efficientnet_b0 as build

    choice = EfficientNet_B0_Weights.IMAGENET1K_V1
    encoder = _featured(build(stochastic_depth_prob=0.0).features, 1280, choice, channels, stem_stride)
    return _started(encoder, weights, choice, EFFICIENTNET_NAMES, adapt=adapt, allow=allow_missing)


def spec_of(use: str, options: Mapping[str, Any]) -> Spec:
    """What the encoder `{use: …, **options}` of a recipe expects, in a moment: it is built without memory, and no weights are read."""
    from crossfade.models import ENCODERS

    with torch.device("meta"):
        return tables.call(ENCODERS[use], {**options, "weights": None}).spec


def picture_spec(channels: int, mean: Sequence[float], std: Sequence[float], size: int | None, side: int | None = None) -> Spec:
    """What a network of colour pictures expects with other channels: for one, the colours' averages; for more, nothing is known.

    `size` is the side it was trained on, `side` the only one that it takes.
    """
    known = {3: (tuple(mean), tuple(std)), 1: ((sum(mean) / len(mean),), (sum(std) / len(std),))}
    centre, spread = known.get(channels, (None, None))
    return Spec((None, channels, side, side), mean=centre, std=spread, size=size)


def set_stem_stride(net: nn.Module, stride: StemStride, *, what: str) -> None:
    """Another stride for the first convolution, and for those beside it; UserError where it has none of 2, or cuts into patches."""
    if stride is None:
        return
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    stem = list(takewhile(lambda each: each.in_channels == convolutions[0].in_channels, convolutions))
    if not stem or stem[0].stride != (2, 2) or stem[0].kernel_size == (2, 2):
        found = f"{stem[0].kernel_size[0]} × {stem[0].kernel_size[1]} of stride {stem[0].stride[0]}" if stem else "none"
        raise UserError(f"stem_stride: {what} has no first convolution that halves the picture (found {found}); leave it out")
    for convolution in stem:
        convolution.stride = (stride, stride)


def started(
    encoder: Encoder,
    weights: str | None,
    named: Callable[[], Named],
    rename: Rename,
    *,
    adapt: Adapt,
    allow: Sequence[str],
    spare: Sequence[str],
) -> Encoder:
    """`start_from` for the picture networks, of which some have published weights by name."""
    return start_from(encoder, weights, named={"imagenet": named}, rename=rename, adapt=adapt, allow=allow, spare=spare)


def _started(encoder: Encoder, weights: str | None, choice: WeightsEnum, rename: Rename, *, adapt: Adapt, allow: Sequence[str]) -> Encoder:
    return started(encoder, weights, lambda: _published(choice), rename, adapt=adapt, allow=allow, spare=CLASSIFIERS)


def _resnet(net: ResNet, choice: WeightsEnum, channels: int, stem_stride: StemStride, tokens: TokensOf) -> Encoder:
    net.conv1 = _for_channels(net.conv1, channels)
    set_stem_stride(net, stem_stride, what="this ResNet")
    stages = [
        PerFrame(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool),
        PerFrame(layer1=net.layer1),
        PerFrame(layer2=net.layer2),
        PerFrame(layer3=net.layer3),
    ]
    return ENDINGS[tokens](stages, net, _spec(choice, channels))


def _pooled(stages: list[nn.Module], net: ResNet, spec: Spec) -> Encoder:
    last = PerFrame(layer4=net.layer4, avgpool=net.avgpool, flatten=nn.Flatten())
    return Encoder([*stages, last], dim=net.fc.in_features, spec=spec, begin=begin_pictures)


def _mapped(stages: list[nn.Module], net: ResNet, spec: Spec) -> Encoder:
    """Each of a ResNet's five halvings gives ⌈side / 2⌉, so a cell stands for 32 pixels, or 16 where the stem does not halve."""
    side = 16 * int(net.conv1.stride[0])
    stages = [*stages, PerFrame(layer4=net.layer4), Cells(side)]
    return Encoder(stages, dim=net.fc.in_features, spec=spec, begin=begin_columns, grid=partial(_grid, side=side))


ENDINGS: dict[str, Callable[..., Encoder]] = {"pooled": _pooled, "map": _mapped}


def _grid(x: Tensor, *, side: int) -> tuple[int, int, int]:
    """(B, T, C, H, W) -> (T, rows, columns); a spectrogram (B, 1, M, T) is one frame"""
    return 1 if x.ndim == 4 else x.shape[1], -(-x.shape[-2] // side), -(-x.shape[-1] // side)


def _featured(features: nn.Sequential, dim: int, choice: WeightsEnum, channels: int, stem_stride: StemStride) -> Encoder:
    """A network that is a row of feature modules, of which the first begins with a convolution."""
    features[0][0] = _for_channels(features[0][0], channels)  # type: ignore[index]
    set_stem_stride(features, stem_stride, what="this network")
    *blocks, top = features
    stages = [PerFrame(block=block) for block in blocks]
    stages.append(PerFrame(block=top, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    return Encoder(stages, dim=dim, spec=_spec(choice, channels), begin=begin_pictures)


def _for_channels(first: nn.Conv2d, channels: int) -> nn.Conv2d:
    if channels == first.in_channels:
        return first
    shape: Any = (first.kernel_size, first.stride, first.padding)
    return nn.Conv2d(channels, first.out_channels, *shape, bias=first.bias is not None)


def _spec(choice: WeightsEnum, channels: int) -> Spec:
    shown_as = choice.transforms()
    return picture_spec(channels, shown_as.mean, shown_as.std, shown_as.crop_size[0])


def _published(choice: WeightsEnum) -> Named:
    """torchvision's published state; UserError that says where to put the file when it cannot be downloaded."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / choice.url.rsplit("/", 1)[-1]
    try:
        return dict(choice.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        reason = f"{choice.url} cannot be had ({error})"
        raise UserError(f"weights: imagenet: {reason}; put that file at {place}, or set `weights: null` to train from scratch") from error
