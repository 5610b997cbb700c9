"""ResNet18 and MobileNetV2 per frame equal torchvision's; weights by name; a fast small one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from crossfade.clip import Tokens, UserError
from crossfade.models.masks import masked_mean
from crossfade.models.video import IMAGENET_MEAN, frame_cnn, mobilenet_v2, resnet18

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
TRUNK = DATA / "weights" / "mobilenet_v2_features_imagenet.safetensors"


def theirs() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


def frames(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, 3, channels, 40, 40, generator=torch.Generator().manual_seed(1))


def reference(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    net.fc = nn.Identity()
    return torch.stack([net(clip) for clip in x])


def test_equals_torchvision_frame_by_frame(tmp_path: Path):
    net = theirs()
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    encoder = resnet18(weights=str(tmp_path / "resnet18.pth")).eval()
    assert torch.allclose(encoder(frames()).x, reference(net, frames()), atol=1e-5)
    assert encoder.report is not None and encoder.report.unexpected == ("fc.weight", "fc.bias")
    assert len(encoder.stages) == 5 and encoder.spec.mean == IMAGENET_MEAN


def test_mobilenet_equals_torchvision_frame_by_frame(tmp_path: Path):
    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v2().eval()
    torch.save(net.state_dict(), tmp_path / "mobilenet.pth")
    encoder = mobilenet_v2(weights=str(tmp_path / "mobilenet.pth")).eval()
    net.classifier = nn.Identity()
    expected = torch.stack([net(clip) for clip in frames()])
    assert torch.allclose(encoder(frames()).x, expected, atol=1e-6) and encoder(frames()).x.shape == (2, 3, 1280)
    assert encoder.report is not None and encoder.report.unexpected == ("classifier.1.weight", "classifier.1.bias")
    assert len(encoder.stages) == 19 and encoder.spec.mean == IMAGENET_MEAN


@pytest.mark.skipif(not TRUNK.is_file(), reason=f"no ImageNet weights at {TRUNK}")
def test_mobilenet_takes_the_imagenet_trunk_whole():
    from safetensors.torch import load_file

    encoder = mobilenet_v2(weights=str(TRUNK)).eval()
    assert encoder.report is not None and len(encoder.report.loaded) == 312
    assert not encoder.report.missing and not encoder.report.unexpected and not encoder.report.mismatched
    net = torchvision.models.mobilenet_v2().eval()
    net.load_state_dict(load_file(TRUNK), strict=False)
    net.classifier = nn.Identity()
    found = encoder(frames()).x
    assert torch.allclose(found, torch.stack([net(clip) for clip in frames()]), atol=1e-5)
    assert found.std() > 0.1, "a trained trunk's features, no random ones'"


@pytest.mark.parametrize(("how", "scale"), [("sum", 1.0), ("mean", 1 / 3)])
def test_grey_frames_adapt_the_first_convolution(tmp_path: Path, how, scale: float):
    net = theirs()
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    encoder = resnet18(weights=str(tmp_path / "resnet18.pth"), channels=1, adapt=how).eval()
    assert encoder.report is not None and encoder.report.adapted == (f"stages.0.body.conv1.weight 3 to 1 channels by {how}",)
    grey = frames(1)
    assert torch.allclose(encoder(grey).x, reference(net, grey.expand(-1, -1, 3, -1, -1) * scale), atol=1e-4)
    assert encoder.spec.shape == (None, 1, None, None) and encoder.spec.mean is None


def test_imagenet_out_of_reach_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.__class__, "get_state_dict", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"weights: imagenet.*no network.*checkpoints/resnet18-\w+\.pth.*`weights: null`") as error:
        resnet18(weights="imagenet")
    assert "\n" not in str(error.value)


def test_imagenet_takes_torchvisions_state(monkeypatch: pytest.MonkeyPatch):
    net = theirs()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: net.state_dict())
    encoder = resnet18(weights="imagenet").eval()
    assert encoder.report is not None and encoder.report.source == "imagenet"
    assert torch.allclose(encoder(frames()).x, reference(net, frames()), atol=1e-5)


def test_a_mistyped_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"imagenett: no such file.*or one of: imagenet"):
        resnet18(weights="imagenett")


def test_masked_frames_do_not_count_in_the_mean():
    encoder, x = frame_cnn(width=8).eval(), frames()
    mask = torch.tensor([[True, True, False]]).expand(2, -1)
    short = encoder(x[:, :2])
    assert torch.allclose(masked_mean(encoder(x, mask)), masked_mean(short), atol=1e-6)
    assert torch.equal(masked_mean(Tokens(short.x)), short.x.mean(1))


def test_widths():
    assert frame_cnn(width=32).dim == 128 and frame_cnn(width=8)(frames()).x.shape == (2, 3, 32)
