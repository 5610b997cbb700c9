"""The cells of a ResNet's last map as tokens, of spectrograms, stills and videos; and the original's head on such an embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from crossfade.models import ENCODERS
from crossfade.models.encoder import Encoder
from crossfade.models.heads import mlp
from crossfade.models.image import resnet18
from crossfade.models.model import count


def mapped(**options: Any) -> Encoder:
    torch.manual_seed(0)
    return resnet18(tokens="map", **options).eval()


def mel(mels: int = 128, frames: int = 128) -> torch.Tensor:
    return torch.randn(2, 1, mels, frames, generator=torch.Generator().manual_seed(1))


def map_of(encoder: Encoder, pictures: torch.Tensor) -> torch.Tensor:
    """torchvision's last map (N, C, H, W) with the encoder's weights."""
    net = torchvision.models.resnet18().eval()
    net.conv1 = torch.nn.Conv2d(pictures.shape[1], 64, 7, 2, 3, bias=False)
    names = {name.split(".", 3)[3]: tensor for name, tensor in encoder.state_dict().items()}
    net.load_state_dict({name.removeprefix("body."): tensor for name, tensor in names.items()}, strict=False)
    body = torch.nn.Sequential(*list(net.children())[:-2])
    return body(pictures)


@torch.no_grad()
def test_a_spectrogram_of_the_original_is_16_tokens():
    encoder, x = mapped(channels=1), mel()
    tokens, pooled = encoder(x), resnet18(channels=1).eval()
    assert tokens.x.shape == (2, 16, 512) and tokens.mask is None and encoder.grid is not None and encoder.grid(x) == (1, 4, 4)
    pooled.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(tokens.x.mean(1, keepdim=True), pooled(x).x, msg="the average of the cells is the pooled token")
    assert count(encoder) == count(pooled) == 11_170_240


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_all_three_have_maps(name: str):
    encoder = ENCODERS[name](tokens="map", channels=1).eval()
    assert encoder(mel(64, 96)).x.shape == (2, 6, encoder.dim)


@pytest.mark.parametrize(("mels", "frames", "stem_stride"), [(128, 128, None), (80, 101, None), (33, 64, 1), (64, 31, 1)])
@torch.no_grad()
def test_cells_are_torchvisions_map_row_by_row_on_the_grid(mels: int, frames: int, stem_stride: Any):
    encoder, x = mapped(channels=1, stem_stride=stem_stride), mel(mels, frames)
    assert encoder.grid is not None
    steps, rows, columns = encoder.grid(x)
    tokens = encoder(x)
    assert steps == 1 and tokens.x.shape == (2, rows * columns, 512)
    if stem_stride is None:
        expected = map_of(encoder, x)
        assert expected.shape[2:] == (rows, columns)
        torch.testing.assert_close(tokens.x, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("real", "columns"), [(0, 0), (1, 1), (32, 1), (33, 2), (96, 3), (97, 4), (101, 4)])
@torch.no_grad()
def test_the_mask_follows_the_columns(real: int, columns: int):
    encoder, x = mapped(channels=1), mel(64, 101)
    mask = torch.stack([torch.ones(101, dtype=torch.bool), torch.arange(101) < real])
    clean, dirty = encoder(x, mask), encoder(torch.where(mask[:, None, None], x, float("nan")), mask)
    assert clean.mask is not None and torch.equal(clean.x, dirty.x) and clean.x.isfinite().all()
    assert clean.mask.view(2, 2, 4).tolist() == [[[True] * 4] * 2, [[True] * columns + [False] * (4 - columns)] * 2]


@torch.no_grad()
def test_a_video_is_the_map_of_each_frame_in_turn():
    encoder = mapped()
    x = torch.randn(2, 3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    tokens = encoder(x, mask)
    assert encoder.grid is not None and encoder.grid(x) == (3, 2, 3)
    frames = torch.cat([encoder(x[:, at : at + 1]).x for at in range(3)], 1)
    torch.testing.assert_close(tokens.x[0], frames[0])
    torch.testing.assert_close(tokens.x[1, :6], frames[1, :6])
    assert tokens.mask is not None and tokens.mask.tolist() == [[True] * 18, [True] * 6 + [False] * 12]


def test_colour_weights_hear_through_their_mean(tmp_path: Path):
    torch.manual_seed(1)
    file = tmp_path / "resnet18.safetensors"
    save_file(torchvision.models.resnet18().state_dict(), file)
    encoder = mapped(channels=1, adapt="mean", weights=str(file))
    assert encoder.report is not None and encoder.report.adapted == ("stages.0.body.conv1.weight 3 to 1 channels by mean",)
    expected = load_file(file)["conv1.weight"].mean(1, keepdim=True)
    assert torch.equal(encoder.state_dict()["stages.0.body.conv1.weight"], expected)


def test_the_originals_head_has_its_parameters_and_drops_its_input():
    heads = {classes: mlp(512, classes, hidden=256, dropout=0.5, input_dropout=0.5) for classes in (5, 11, 20)}
    assert {classes: count(head) for classes, head in heads.items()} == {5: 132_613, 11: 134_155, 20: 136_468}
    kinds = [type(layer).__name__ for layer in heads[5]]
    assert kinds == ["Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    seen: list[torch.Tensor] = []
    next(layer for layer in heads[5] if isinstance(layer, torch.nn.Linear)).register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    heads[5].train()(torch.ones(1000, 512))
    assert set(seen[0].unique().tolist()) == {0.0, 2.0} and abs(seen[0].mean().item() - 1) < 0.01


def test_a_head_without_it_is_as_before_and_bundles_still_fit():
    torch.manual_seed(0)
    head, layers = mlp(6, 4, dropout=0.3), torch.nn
    before = layers.Sequential(layers.Linear(6, 6), layers.ReLU(), layers.Dropout(0.3), layers.Linear(6, 4))
    before.load_state_dict(head.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(seeded(head, x), seeded(before, x)), "and draws what it drew"
    mlp(6, 4, input_dropout=0.5).load_state_dict(before.state_dict())


def seeded(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    return net.train()(x)
