"""Which encoder a file fits is read off its tensors: every encoder's own names, the originals', prefixes, and what fits none."""

from __future__ import annotations

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import timm as library
import torch
import torchvision
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.models import ENCODERS
from crossfade.models.depthwise_stack import depthwise_stack
from crossfade.models.recognise import SIGNATURES, fitting, hint
from crossfade.models.timm_image import mobilenet_v4
from crossfade.models.vggish import vggish

NAMED = [name for name in ENCODERS if name not in ("timm", "ncnn")]  # these are many
TORCHVISION = ("resnet18", "resnet34", "resnet50", "mobilenet_v2", "efficientnet_b0")
TIMM = {"mobilenet_v4": "mobilenetv4_conv_small", "efficientnet_lite0": "tf_efficientnet_lite0"}


@cache
def ours(name: str, **options) -> dict[str, Tensor]:
    with torch.device("meta"):
        return ENCODERS[name](**options).state_dict()


@cache
def theirs(name: str) -> dict[str, Tensor]:
    """With its 1,000 classes."""
    with torch.device("meta"):
        net: Any = torchvision.models.get_model(name) if name in TORCHVISION else library.create_model(TIMM.get(name, name))
        return net.state_dict()


def under(prefix: str, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in entries.items()}


def test_every_encoder_but_the_nameless_ones_has_a_signature():
    assert set(SIGNATURES) == set(NAMED)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("prefix", ["", "encoders.audio.", "module."])
def test_every_encoder_knows_its_own_weights_and_no_others(name: str, prefix: str):
    assert fitting(under(prefix, ours(name))) == [name]


@pytest.mark.parametrize("name", [*TORCHVISION, *TIMM])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "model.", "module.model.backbone."])
def test_the_originals_names_under_the_originals_prefixes(name: str, prefix: str):
    assert fitting(under(prefix, theirs(name))) == [name]


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v4", "resnet18", "depthwise_stack"])
def test_the_number_of_channels_does_not_matter(name: str):
    assert fitting(ours(name, channels=1)) == fitting(ours(name, channels=3)) == [name]


def test_the_ports_names_with_and_without_its_embeddings():
    features = {f"features.{at}.weight": torch.empty(size, device="meta") for at, size in PORT.items()}
    assert fitting(features) == fitting(features | {"embeddings.0.weight": torch.empty(4096, 12288, device="meta")}) == ["vggish"]
    assert fitting(under("backbone.", features) | {"head.weight": torch.empty(2, 128)}) == ["vggish"]


PORT = {
    0: (64, 1, 3, 3),
    3: (128, 64, 3, 3),
    6: (256, 128, 3, 3),
    8: (256, 256, 3, 3),
    11: (512, 256, 3, 3),
    13: (512, 512, 3, 3),
}


@pytest.mark.parametrize("name", ["vgg11", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "efficientnet_b1", "mobilenetv4_conv_medium"])
def test_relatives_that_no_encoder_is_are_not_taken_for_one(name: str):
    assert fitting(theirs(name)) == []


def test_a_bundle_of_several_names_all():
    bundle = under("encoders.audio.", ours("light_cnn")) | under("encoders.video.", ours("resnet18"))
    assert fitting(bundle | {"heads.emotion.joint.1.weight": torch.empty(8, 128)}) == ["light_cnn", "resnet18"]
    assert hint(bundle, ours("vggish", mels=16, frames=16)) == "; this file fits `use: light_cnn` or `use: resnet18`"
    assert hint(bundle, ours("resnet18")) == "; this file fits `use: light_cnn`"


def test_what_fits_nothing_gets_no_hint():
    assert hint(nn.Linear(2, 2).state_dict(), ours("resnet18")) == "" and fitting({}) == []


def test_a_mismatch_says_what_would_fit_whatever_the_path_says(tmp_path: Path):
    weights = str(tmp_path / "vggish-10086976.pth")
    torch.save(depthwise_stack().state_dict(), weights)
    for make in (partial(vggish, mels=16, frames=16), partial(mobilenet_v4, channels=1)):
        with pytest.raises(UserError, match=r"this file fits `use: depthwise_stack`$") as error:
            make(weights=weights)
        assert "\n" not in str(error.value)


def test_it_takes_a_moment():
    entries, wanted = theirs("resnet50"), ours("mobilenet_v4")
    began = time.process_time()
    assert hint(entries, wanted) == "; this file fits `use: resnet50`"
    assert time.process_time() - began < 0.5


def test_small_encoders_say_it_too(tmp_path: Path):
    torch.save(ENCODERS["resnet18"]().state_dict(), tmp_path / "w.pth")
    for name in ("light_cnn", "picture_cnn", "frame_cnn", "audio_resnet18"):
        with pytest.raises(UserError, match=r"this file fits `use: resnet18`$"):
            ENCODERS[name](weights=str(tmp_path / "w.pth"))
