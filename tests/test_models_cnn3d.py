"""The small 3-D network: what it says it is, its steps of time, and padding that is as if it were not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from crossfade.clip import UserError
from crossfade.models.encoder import Encoder
from crossfade.models.model import count
from crossfade.models.video_cnn3d import video_cnn3d


def moved(**options) -> Encoder:
    """With running statistics by which zeros do not stay zero, nor all else becomes zero."""
    torch.manual_seed(0)
    encoder = video_cnn3d(width=8, **options).eval()
    for name, buffer in encoder.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.1, 0.3)
    return encoder


def video(frames: int) -> torch.Tensor:
    return torch.randn(2, frames, 3, 24, 32, generator=torch.Generator().manual_seed(frames))


def test_it_is_small_and_says_that_it_is_not_videomae():
    encoder = video_cnn3d()
    assert encoder.note == "video_cnn3d: a small 3-D network from scratch, not VideoMAE"
    convolutions = 27 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128)
    assert count(encoder) == convolutions + 2 * (16 + 32 + 64 + 128) == 292_080 and encoder.dim == 128


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (4, 1), (5, 2), (16, 4)])
@torch.no_grad()
def test_a_token_is_a_step_of_four_frames_as_its_grid_says(frames: int, steps: int):
    encoder, x = moved(), video(frames)
    assert encoder(x).x.shape == (2, steps, 32)
    assert encoder.grid is not None and encoder.grid(x) == (steps, 1, 1)


@torch.no_grad()
def test_it_is_the_four_convolutions_that_it_names():
    encoder, x = moved(), video(8)
    weights = iter(encoder.state_dict().values())
    found = x.transpose(1, 2)
    for stride in (1, 1, 2, 2):
        kernel, scale, shift, mean, variance, _ = (next(weights) for _ in range(6))
        found = F.conv3d(found, kernel, stride=(stride, 2, 2), padding=1)
        found = F.batch_norm(found, mean, variance, scale, shift).relu()
    torch.testing.assert_close(encoder(x).x, found.mean((3, 4)).transpose(1, 2))
    assert next(weights, None) is None


@pytest.mark.parametrize("real", [1, 2, 5, 7, 8, 12])
@torch.no_grad()
def test_a_padded_clip_answers_as_the_short_one(real: int):
    encoder, x = moved(), video(12)
    mask = (torch.arange(12) < real).expand(2, -1)
    padded, short = encoder(torch.where(mask[:, :, None, None, None], x, float("nan")), mask), encoder(x[:, :real])
    steps = short.x.shape[1]
    assert padded.mask is not None and padded.mask.tolist() == [[True] * steps + [False] * (3 - steps)] * 2
    torch.testing.assert_close(padded.x[:, :steps], short.x)
    assert short.x.std(0).mean() > 1e-3, "and says something of the clip"


@torch.no_grad()
def test_it_sees_the_order_of_frames():
    """A mean over frames would not."""
    encoder, x = moved(), video(8) * torch.linspace(0, 4, 8)[:, None, None, None]
    forth, back = encoder(x).x.mean(1), encoder(x.flip(1)).x.mean(1)
    assert (forth - back).abs().mean() > 0.02 * forth.abs().mean()


def test_it_starts_from_a_file_and_says_which(tmp_path: Path):
    first, file = moved(), tmp_path / "weights.safetensors"
    save_file(first.state_dict(), file)
    second = video_cnn3d(width=8, weights=str(file)).eval()
    assert torch.equal(first(video(4)).x, second(video(4)).x)
    assert second.note == f"video_cnn3d: a small 3-D network started from {file}, not VideoMAE"
    with pytest.raises(UserError, match="of another shape"):
        video_cnn3d(width=16, weights=str(file))
