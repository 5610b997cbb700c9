"""Multiply-adds: by hand for small parts, and against the numbers that are published for whole networks."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from crossfade.clip import Spec
from crossfade.models import ENCODERS, HEADS, MERGERS, MIXERS
from crossfade.models.cost import multiply_adds
from crossfade.models.encoder import Encoder, Stage
from crossfade.models.masks import begin_zero
from crossfade.models.model import Fused
from crossfade.models.video import PerFrame


def one_stream(encoder: Encoder, classes: int = 1000) -> Fused:
    heads = {"label": {"image": HEADS["linear"](encoder.dim, classes)}}
    return Fused({"image": encoder}, merge=MERGERS["each"]({"image": encoder.dim}), heads=heads)


def small(width: int = 6) -> Encoder:
    stages = [PerFrame(conv=nn.Conv2d(3, 4, 3, 2, 1), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()), Stage(nn.Linear(4, width))]
    return Encoder(stages, dim=width, spec=Spec((None, 3, None, None)), begin=begin_zero)


BY_HAND = 8 * 8 * 4 * (3 * 3 * 3) + 4 * 6  # of a frame of 16 × 16: an 8 × 8 map of 4 filters; a linear layer


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("clips", [1, 5])
def test_a_small_network_by_hand_whatever_the_batch(frames: int, clips: int):
    assert multiply_adds(one_stream(small(), classes=10), {"image": torch.randn(clips, frames, 3, 16, 16)}) == frames * BY_HAND + 6 * 10


def test_a_mixer_by_hand_for_attention_is_counted():
    dims, width, tokens = {"a": 6, "b": 6}, 8, 4
    mixer = MIXERS["cross_attention"](dims, dim=width, heads=2)
    merge = MERGERS["mean"](mixer.dims, dim=None)
    model = Fused({"a": small(), "b": small()}, mix=[mixer], merge=merge, heads={"x": {"joint": HEADS["linear"](width, 3)}})
    found = multiply_adds(model, {name: torch.randn(2, tokens, 3, 16, 16) for name in dims})
    a_stream = tokens * BY_HAND + tokens * 6 * width  # the encoder, and the projection to the common width
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width  # queries, keys, values, output; scores and their sums
    assert found == 2 * (a_stream + attention) + width * 3


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("mobilenet_v2", torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1),
        ("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
        ("resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
        ("efficientnet_b0", torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1),
    ],
)
def test_torchvisions_published_numbers(name: str, choice):
    with torch.device("meta"):
        found = multiply_adds(one_stream(ENCODERS[name]()), {"image": torch.empty(1, 1, 3, 224, 224)})
    assert found / 1e9 == pytest.approx(choice.meta["_ops"], abs=0.001)


@pytest.mark.parametrize(("name", "published"), [("mobilenetv4_conv_small", 0.19), ("convnext_atto", 0.55)])
def test_the_numbers_that_timm_publishes(name: str, published: float):
    with torch.device("meta"):
        found = multiply_adds(one_stream(ENCODERS["timm"](name=name)), {"image": torch.empty(1, 1, 3, 224, 224)})
    assert found / 1e9 == pytest.approx(published, abs=0.006)


def test_a_transformer_by_hand():
    with torch.device("meta"):
        found = multiply_adds(one_stream(ENCODERS["timm"](name="vit_tiny_patch16_224")), {"image": torch.empty(1, 1, 3, 224, 224)})
    patches, width, blocks = 14 * 14, 192, 12
    tokens = patches + 1
    a_block = tokens * 12 * width**2 + 2 * tokens**2 * width  # 3 D² for queries, keys, values, D² out, 8 D² in the MLP; scores and sums
    assert found == patches * width * (3 * 16 * 16) + blocks * a_block + width * 1000  # 1.254 G


def test_real_weights_count_the_same_as_none_and_are_left_as_they_were():
    model = one_stream(ENCODERS["mobilenet_v2"]()).train()
    model.heads["label"].eval()
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    found = multiply_adds(model, {"image": torch.randn(2, 1, 3, 32, 32)})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and modes == [m.training for m in model.modules()]
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.device("meta"):
        assert multiply_adds(one_stream(ENCODERS["mobilenet_v2"]()), {"image": torch.empty(1, 1, 3, 32, 32)}) == found
