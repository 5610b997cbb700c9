"""VGGish equals the cough original's network and the PyTorch port's; what is taken of their files, and what is refused."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crossfade.clip import Spec, UserError
from crossfade.models.encoder import Encoder
from crossfade.models.vggish import SPARE, TRAINED, vggish
from crossfade.training.rates import resolve

WIDTH = 24  # of the hidden linear layers in these tests, 4,096 in truth
MELS, FRAMES = 32, 48  # a grid of 2 × 3 after the poolings


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch):
    """Files of kilobytes where they would be of 288 MB."""
    monkeypatch.setattr(importlib.import_module("crossfade.models.vggish"), "WIDTH", WIDTH)


def published(grid: int = 6, seed: int = 1) -> nn.ModuleDict:
    """The network as §2.2 of the reference writes it down, under the names of the port."""
    torch.manual_seed(seed)
    convolutions = [[(1, 64)], [(64, 128)], [(128, 256), (256, 256)], [(256, 512), (512, 512)]]
    features: list[nn.Module] = []
    for block in convolutions:
        features += [layer for before, after in block for layer in (nn.Conv2d(before, after, 3, padding=1), nn.ReLU())]
        features.append(nn.MaxPool2d(2, 2))
    widths = [(512 * grid, WIDTH), (WIDTH, WIDTH), (WIDTH, 128)]
    embeddings = [layer for before, after in widths for layer in (nn.Linear(before, after), nn.ReLU())]
    return nn.ModuleDict({"features": nn.Sequential(*features), "embeddings": nn.Sequential(*embeddings)})


def saved(state: dict, folder: Path) -> str:
    torch.save(state, folder / "vggish.pth")
    return str(folder / "vggish.pth")


def mel(frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(2, 1, MELS, frames, generator=torch.Generator().manual_seed(0)) * 3 - 8


def reported(encoder: Encoder):
    assert encoder.report is not None
    return encoder.report


@torch.no_grad()
def test_bands_down_is_the_cough_originals_network(tmp_path: Path):
    net = published()
    encoder = vggish(mels=MELS, frames=FRAMES, weights=saved(net.state_dict(), tmp_path)).eval()
    assert len(reported(encoder).loaded) == reported(encoder).renamed == 18 and not reported(encoder).missing
    expected = net["embeddings"](net["features"](mel()).flatten(1))
    torch.testing.assert_close(encoder(mel()).x[:, 0], expected)
    assert expected.std() > 0


@torch.no_grad()
def test_time_down_is_the_ports_network(tmp_path: Path):
    net = published()
    encoder = vggish(mels=MELS, frames=FRAMES, rows="time", weights=saved(net.state_dict(), tmp_path)).eval()
    maps = net["features"](mel().transpose(2, 3))  # (B, C, time, bands)
    expected = net["embeddings"](maps.transpose(1, 3).transpose(1, 2).flatten(1))  # (B, time, bands, C), as TensorFlow has it
    torch.testing.assert_close(encoder(mel()).x[:, 0], expected)


def test_what_follows_the_embeddings_is_left_out_and_said(tmp_path: Path):
    state = published().state_dict() | {"classifier.weight": torch.zeros(2, 128), "head.bias": torch.zeros(2)}
    encoder = vggish(mels=MELS, frames=FRAMES, weights=saved(state, tmp_path))
    assert reported(encoder).unexpected == ("classifier.weight", "head.bias") and all(name.endswith(".") for name in SPARE)


@pytest.mark.parametrize("prefix", ["backbone.", "module.", "model.", "module.model.backbone."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_the_originals_prefixes_and_wrappers_are_undone(tmp_path: Path, prefix: str, wrapper: str | None):
    state = {prefix + name: tensor for name, tensor in published().state_dict().items()}
    encoder = vggish(mels=MELS, frames=FRAMES, weights=saved({wrapper: state, "epoch": 3} if wrapper else state, tmp_path))
    assert len(reported(encoder).loaded) == 18


def test_what_the_ports_weights_were_made_for_is_said_where_it_differs(tmp_path: Path):
    weights = saved(published(grid=4 * 6).state_dict(), tmp_path)
    assert TRAINED in vggish(weights=weights).note and "rows: bands, mels: 96, frames: 64" in vggish(weights=weights).note
    assert TRAINED in vggish(rows="time", weights=weights).note, "of the same size, but other bands and frames"
    assert vggish(rows="time", mels=64, frames=96, weights=weights).note == vggish().note == ""


def test_our_own_names_load_again_and_need_no_note(tmp_path: Path):
    trained = vggish(mels=MELS, frames=FRAMES)
    weights = saved({f"encoders.audio.{name}": tensor for name, tensor in trained.state_dict().items()}, tmp_path)
    encoder = vggish(mels=MELS, frames=FRAMES, weights=weights)
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), trained.state_dict().values(), strict=True))
    assert (reported(encoder).renamed, encoder.note) == (0, "")


def test_a_file_for_another_size_says_both_sizes(tmp_path: Path):
    weights = saved(published(grid=6).state_dict(), tmp_path)
    with pytest.raises(UserError, match=rf"1 of another shape \(stages\.4\.body\.0\.weight {WIDTH}×3072 for {WIDTH}×12288\)") as error:
        vggish(weights=weights)
    assert "fits `use" not in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_the_convolutions_alone_wants_a_word(tmp_path: Path):
    weights = saved({f"features.{name}": tensor for name, tensor in published()["features"].state_dict().items()}, tmp_path)
    with pytest.raises(UserError, match=r"6 of 18 weights are missing \(stages\.4.*`allow_missing`"):
        vggish(weights=weights)
    linear = tuple(f"stages.{stage}.*" for stage in (4, 5, 6))
    assert len(reported(vggish(weights=weights, allow_missing=linear)).loaded) == 12


def test_a_deeper_vgg_is_refused_though_its_first_convolutions_fit(tmp_path: Path):
    state = published().state_dict() | {"features.16.weight": torch.zeros(512, 512, 3, 3)}
    with pytest.raises(UserError, match=r"1 of its entries \(features\.16\.weight\) have no place"):
        vggish(mels=MELS, frames=FRAMES, weights=saved(state, tmp_path))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weights": "imagenet"}, "weights: imagenet: there are none for vggish; give a file of its PyTorch port, or set `weights: null`"),
        ({"weights": "vggish"}, "no such file"),
        ({"mels": 12}, "vggish: mels 12; at least 16 are needed"),
        ({"frames": 15}, "vggish: frames 15; at least 16"),
    ],
)
def test_what_is_refused_says_so_in_one_line(given: dict, says: str):
    with pytest.raises(UserError, match=says) as error:
        vggish(**given)
    assert "\n" not in str(error.value)


def test_features_frozen_and_embeddings_learning_is_one_slice():
    encoder = nn.ModuleDict({"encoders": nn.ModuleDict({"audio": vggish(mels=16, frames=16)})})
    rates = resolve(encoder, {"encoders.audio[:-3]": None, "*": 1e-3})
    frozen = {name for name, rate in rates.items() if rate is None}
    assert frozen == {name for name in rates if name.split(".stages.")[1][0] in "0123"} and len(frozen) == 12


@torch.no_grad()
def test_it_takes_one_size_and_keeps_the_sound_through_all_layers():
    torch.manual_seed(0)
    encoder = vggish().eval()
    assert encoder.spec == Spec((1, 96, 64))
    clips = torch.randn(4, 1, 96, 64) * 3 - 10
    assert encoder(clips).x.std(0).mean() > 0.02 * encoder(clips).x.mean(), "clips are told apart before training"


@torch.no_grad()
def test_a_new_network_does_not_mind_how_loud_a_recording_is():
    torch.manual_seed(0)
    encoder: Any = vggish()
    first = encoder.stages[0].body[0]
    quiet, loud = first(mel() - 4.0), first(mel() + 4.0)
    torch.testing.assert_close(quiet[..., 1:-1, 1:-1], loud[..., 1:-1, 1:-1], atol=1e-4, rtol=1e-3)
