"""Pictures frame by frame: a stage sees single frames, a masked frame never counts, and a fast small network."""

from __future__ import annotations

import torch
from torch import nn

from crossfade.clip import Tokens
from crossfade.models.masks import masked_mean
from crossfade.models.video import PerFrame, frame_cnn


def frames() -> torch.Tensor:
    return torch.randn(2, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def test_a_stage_sees_one_frame_at_a_time():
    conv, x = nn.Conv2d(3, 4, 3), frames()
    expected = torch.stack([conv(clip) for clip in x])
    torch.testing.assert_close(PerFrame(conv)({"x": x})["x"], expected)
    assert torch.equal(PerFrame(conv=conv)({"x": x})["x"], PerFrame(conv)({"x": x})["x"])
    assert list(PerFrame(conv=conv).state_dict()) == ["body.conv.weight", "body.conv.bias"]


def test_masked_frames_do_not_count_in_the_mean():
    encoder, x = frame_cnn(width=8).eval(), frames()
    mask = torch.tensor([[True, True, False]]).expand(2, -1)
    short = encoder(x[:, :2])
    assert torch.allclose(masked_mean(encoder(x, mask)), masked_mean(short), atol=1e-6)
    assert torch.equal(masked_mean(Tokens(short.x)), short.x.mean(1))


def test_widths():
    assert frame_cnn(width=32).dim == 128 and frame_cnn(width=8)(frames()).x.shape == (2, 3, 32)
