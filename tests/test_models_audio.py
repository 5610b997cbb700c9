"""The mel encoders: token grids, residual sums, silence as padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from crossfade.models.audio import Block, audio_resnet18, light_cnn
from crossfade.models.masks import bin_mask


def mel(frames: int = 301) -> torch.Tensor:
    return torch.randn(2, 1, 64, frames, generator=torch.Generator().manual_seed(0))


def test_a_block_is_torchvisions_basic_block():
    torch.manual_seed(0)
    ours, theirs = Block(8).eval(), BasicBlock(8, 8).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 9, 9)
    assert torch.equal(ours(x), theirs(x)) and (ours(x) >= 0).all()


def test_one_token_is_the_reference_layout():
    torch.manual_seed(0)
    encoder = light_cnn().eval()
    features = encoder.run({"x": mel()}, 0, 3)["x"]
    expected = torch.relu(encoder.stages[3].body[0](nn.AdaptiveAvgPool2d((4, 4))(features).flatten(1)))
    assert torch.equal(encoder(mel()).x[:, 0], expected)


@pytest.mark.parametrize("factory", [light_cnn, audio_resnet18])
def test_several_tokens_follow_time(factory):
    torch.manual_seed(0)
    encoder = factory(tokens=4).eval()
    before, x = mel(256), mel(256)
    x[:, :, :, 200:] += 5.0
    change = (encoder(x).x - encoder(before).x).abs().sum((0, 2))
    assert change[3] > 0 and change.argmax() == 3 and change[0] < 1e-4 * change[3]


def test_padding_equals_silence():
    torch.manual_seed(0)
    encoder, x = light_cnn().eval(), mel()
    mask = (torch.arange(301) < 200).expand(2, -1)
    silent = x.clone()
    for clip in silent:
        clip[..., 200:] = clip[..., :200].min()
    assert torch.equal(encoder(x, mask).x, encoder(silent).x)


def test_a_bin_is_real_where_any_of_its_frames_is():
    mask = torch.tensor([[True] * 5 + [False] * 7, [False] * 12])
    assert bin_mask(mask, 4).tolist() == [[True, True, False, False], [False] * 4]
    assert bin_mask(mask, 1).tolist() == [[True], [False]]


def test_any_number_of_mel_bands():
    assert light_cnn()(mel()[:, :, :40]).x.shape == (2, 1, 128)
    assert audio_resnet18(tokens=16)(mel()).x.shape == (2, 16, 128)
