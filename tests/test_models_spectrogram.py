"""Picture networks with one channel take a spectrogram as one frame, and any network trains on a single clip."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm as library
import torch
from torch import nn
from torch.nn import functional as F

from crossfade import use
from crossfade.models import ENCODERS, MERGERS
from crossfade.models.depthwise_stack import depthwise_stack
from crossfade.models.encoder import Encoder
from crossfade.models.masks import begin_pictures
from crossfade.models.model import Fused
from crossfade.models.timm_image import mobilenet_v4

PICTURES = [name for name, make in ENCODERS.items() if use.accepts(make, "channels") and not use.accepts(make, "name")]
TIMM = {"name": "convnext_atto", "channels": 1}


def grey(name: str) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[name](channels=1).eval()


def mel(batch: int = 2, mels: int = 96, frames: int = 64) -> torch.Tensor:
    return torch.randn(batch, 1, mels, frames, generator=torch.Generator().manual_seed(1)) * 3 - 8


def test_every_picture_network_is_here():
    assert set(PICTURES) >= {"mobilenet_v4", "mobilenet_v2", "resnet18", "picture_cnn", "depthwise_stack", "efficientnet_lite0"}


@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_a_spectrogram_is_one_frame(name: str):
    encoder, x = grey(name), mel()
    found = encoder(x)
    torch.testing.assert_close(found.x, encoder(x[:, None]).x)
    assert found.x.shape == (2, 1, encoder.dim) and found.mask is None and found.x.std() > 0


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("value", [1e3, float("nan")])
@torch.no_grad()
def test_what_lies_under_a_false_mask_cannot_reach_the_answer(name: str, value: float):
    encoder, x = grey(name), mel()
    mask = torch.arange(64) < torch.tensor([[64], [40]])
    dirty = torch.where(mask[:, None, None], x, value)
    clean, found = encoder(x, mask), encoder(dirty, mask)
    assert torch.equal(clean.x, found.x) and found.mask is not None and found.mask.tolist() == [[True], [True]]
    torch.testing.assert_close(clean.x[0], encoder(x).x[0])


def test_padding_is_the_clips_own_silence_and_a_clip_of_padding_is_no_frame():
    x, mask = mel(), torch.arange(64) < torch.tensor([[40], [0]])
    state = begin_pictures(x, mask)
    assert state["x"].shape == (2, 1, 1, 96, 64) and state["mask"].tolist() == [[True], [False]]
    assert torch.equal(state["x"][0, 0, :, :, :40], x[0, :, :, :40])
    assert (state["x"][0, 0, :, :, 40:] == x[0, :, :, :40].min()).all() and (state["x"][1] == 0).all()


def test_frames_are_begun_as_before():
    x, mask = torch.randn(2, 3, 1, 8, 8), torch.tensor([[True, True, False], [True, False, False]])
    state = begin_pictures(x, mask)
    assert torch.equal(state["x"], x * mask[:, :, None, None, None]) and torch.equal(state["mask"], mask)


@torch.no_grad()
def test_mobilenet_v4_is_timms_own_on_a_spectrogram():
    torch.manual_seed(0)
    net: Any = library.create_model("mobilenetv4_conv_small", num_classes=0, in_chans=1).eval()
    encoder = grey("mobilenet_v4")
    torch.testing.assert_close(encoder(mel()).x[:, 0], net(mel()), atol=1e-3, rtol=1e-4)
    assert encoder.dim == 1280


@torch.no_grad()
def test_the_stand_in_is_the_stack_that_the_reference_lists():
    """§2.2: conv-bn(1→32, s2), then depthwise-separable 64, 128 s2, 128, 256 s2, 256, 512 s2, 512×5, 1024 s2, 1280; ReLU6; mean."""
    encoder = grey("depthwise_stack")
    weights = iter(encoder.state_dict().values())

    def layer(x: torch.Tensor, stride: int, groups: int) -> torch.Tensor:
        kernel, scale, shift, mean, variance, _ = (next(weights) for _ in range(6))
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        return F.batch_norm(x, mean, variance, scale, shift).clamp(0, 6)

    x, before = layer(mel(), 2, 1), 32
    listed = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1280, 1)]
    for width, stride in listed:
        x = layer(layer(x, stride, before), 1, 1)
        assert x.shape[1] == width
        before = width
    assert next(weights, None) is None
    torch.testing.assert_close(encoder(mel()).x[:, 0], x.mean((2, 3)))


@pytest.mark.parametrize("name", PICTURES)
def test_a_single_clip_is_a_batch_to_train_on(name: str):
    """Of 32 pixels some networks are down to one before their last normalisation; timm's MobileNetV4 is, at any size."""
    encoder = grey(name).train()
    (encoder(mel(1, 32, 32)).x * torch.randn(encoder.dim, generator=torch.Generator().manual_seed(2))).sum().backward()
    without = [entry for entry, value in encoder.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert without == [] and all(module.training for module in encoder.modules())


def head_norm(encoder: Any) -> Any:
    return encoder.stages[-1].body.net.norm_head


def test_mobilenet_v4_alone_uses_the_running_statistics_where_there_is_one_value_a_channel():
    encoder: Any = mobilenet_v4(channels=1)
    norm = head_norm(encoder)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    before, below = copy.deepcopy(norm.state_dict()), encoder.stages[0].body.net.bn1.running_mean.clone()
    seen: list[torch.Tensor] = []
    norm.register_forward_hook(lambda _, given, answer: seen.extend([given[0].detach(), answer.detach()]))
    encoder.train()(mel(1)).x.square().sum().backward()
    channel = (1, -1, 1, 1)
    expected = (seen[0] - before["running_mean"].view(channel)) / (before["running_var"].view(channel) + norm.eps).sqrt()
    torch.testing.assert_close(seen[1], expected.relu())
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items()), "not even the count of batches"
    assert norm.weight.grad.abs().sum() > 0 and norm.training
    assert not torch.equal(encoder.stages[0].body.net.bn1.running_mean, below), "all others see many values and learn from them"


@torch.no_grad()
def test_two_clips_train_as_in_timm():
    torch.manual_seed(0)
    net: Any = library.create_model("mobilenetv4_conv_small", num_classes=0, in_chans=1).train()
    encoder = grey("mobilenet_v4").train()
    encoder(mel())
    net(mel())
    torch.testing.assert_close(head_norm(encoder).running_mean, net.norm_head.running_mean, atol=1e-3, rtol=1e-3)
    assert head_norm(encoder).num_batches_tracked == 1 and head_norm(encoder).running_mean.abs().sum() > 0


def test_timm_itself_refuses_a_single_clip():
    """The day it does not, `models/lone.py` can go."""
    net: Any = library.create_model("mobilenetv4_conv_small", num_classes=0, in_chans=1).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(mel(1))


def test_a_frozen_norm_stays_frozen_and_copies_behave_alike():
    encoder = mobilenet_v4(channels=1).train()
    head_norm(encoder).eval()
    twin = copy.deepcopy(encoder)
    assert torch.equal(encoder(mel(1)).x, twin(mel(1)).x)
    assert not head_norm(encoder).training and not head_norm(twin).training


def test_a_failing_pass_leaves_the_mode_as_it_was():
    encoder = mobilenet_v4(channels=1).train()
    norm = head_norm(encoder)
    with pytest.raises(RuntimeError):
        norm(torch.zeros(1, 7, 1, 1))
    assert norm.training


def test_a_picture_network_hears_in_a_whole_model():
    torch.manual_seed(0)
    encoders = {"audio": depthwise_stack(), "image": ENCODERS["picture_cnn"](width=4)}
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    model = Fused(encoders, merge=MERGERS["concat"](dims), heads={"label": {"joint": nn.Linear(256, 2), **own(dims)}}).eval()
    mask = torch.arange(64) < torch.tensor([[64], [0]])
    found = model({"audio": mel(), "audio.mask": mask, "image": torch.randn(2, 1, 1, 16, 16)})
    assert found["label"].shape == found["label.audio"].shape == (2, 2) and found["label"].isfinite().all()


def own(dims: dict[str, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(width, 2) for name, width in dims.items()}


def test_any_of_timms_networks_too():
    encoder = ENCODERS["timm"](**TIMM).eval()
    assert encoder(mel()).x.shape == (2, 1, encoder.dim)
