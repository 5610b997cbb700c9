"""torchvision's networks frame by frame equal torchvision's own; weights by name or file, of the wrong network, for other channels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from crossfade.clip import Spec, UserError
from crossfade.models import ENCODERS
from crossfade.models.encoder import Encoder
from crossfade.models.image import mobilenet_v2, resnet18, resnet34, spec_of

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
TRUNK = DATA / "weights" / "mobilenet_v2_features_imagenet.safetensors"
CASES = {  # width, stages, what torchvision calls its classifier
    "resnet18": (512, 5, "fc"),
    "resnet34": (512, 5, "fc"),
    "resnet50": (2048, 5, "fc"),
    "mobilenet_v2": (1280, 19, "classifier"),
    "efficientnet_b0": (1280, 9, "classifier"),
}


def theirs(name: str, **options) -> Any:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, **options).eval()


def without(net: Any, classifier: str) -> nn.Module:
    setattr(net, classifier, nn.Identity())
    return net


def frames(channels: int = 3, side: int = 40) -> torch.Tensor:
    return torch.randn(2, 3, channels, side, side, generator=torch.Generator().manual_seed(1))


def frame_by_frame(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([net(clip) for clip in x])


def saved(net: nn.Module, folder: Path, name: str = "net.pth") -> str:
    torch.save(net.state_dict(), folder / name)
    return str(folder / name)


def reported(encoder: Encoder):
    assert encoder.report is not None
    return encoder.report


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_equals_torchvision_frame_by_frame(tmp_path: Path, name: str):
    width, stages, classifier = CASES[name]
    net = theirs(name)
    encoder = ENCODERS[name](weights=saved(net, tmp_path)).eval()
    left_out = tuple(entry for entry in net.state_dict() if entry.startswith(classifier))
    assert reported(encoder).unexpected == left_out and not reported(encoder).missing
    found = encoder(frames()).x
    torch.testing.assert_close(found, frame_by_frame(without(net, classifier), frames()), atol=1e-5, rtol=1e-4)
    assert (found.shape, encoder.dim, len(encoder.stages)) == ((2, 3, width), width, stages)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_nothing_random_happens_inside_while_training(name: str):
    encoder = ENCODERS[name]().train()
    torch.manual_seed(1)
    first = encoder(frames()).x
    torch.manual_seed(2)
    assert torch.equal(encoder(frames()).x, first)


@pytest.mark.skipif(not TRUNK.is_file(), reason=f"no ImageNet weights at {TRUNK}")
@torch.no_grad()
def test_mobilenet_takes_the_imagenet_trunk_whole():
    from safetensors.torch import load_file

    encoder = mobilenet_v2(weights=str(TRUNK)).eval()
    assert len(reported(encoder).loaded) == 312
    assert not reported(encoder).missing and not reported(encoder).unexpected and not reported(encoder).mismatched
    net = theirs("mobilenet_v2")
    net.load_state_dict(load_file(TRUNK), strict=False)
    found = encoder(frames()).x
    torch.testing.assert_close(found, frame_by_frame(without(net, "classifier"), frames()), atol=1e-5, rtol=1e-4)
    assert found.std() > 0.1, "a trained trunk's features, no random ones'"


@pytest.mark.skipif(not TRUNK.is_file(), reason=f"no ImageNet weights at {TRUNK}")
def test_the_trunk_in_another_network_says_which_it_fits():
    with pytest.raises(UserError, match=r"this file fits `use: mobilenet_v2`$") as error:
        ENCODERS["mobilenet_v4"](weights=str(TRUNK))
    assert "\n" not in str(error.value)


def test_a_deeper_networks_file_is_refused_though_it_fills_every_weight(tmp_path: Path):
    weights = saved(theirs("resnet34"), tmp_path)
    with pytest.raises(UserError, match=r"96 of its entries \(.*layer1\.2.*no place in this encoder; this file fits `use: resnet34`"):
        resnet18(weights=weights)
    assert reported(resnet34(weights=weights)).unexpected == ("fc.weight", "fc.bias")


def test_a_file_that_fits_nothing_gets_no_hint(tmp_path: Path):
    with pytest.raises(UserError, match="none of its 2 entries") as error:
        resnet18(weights=saved(nn.Linear(2, 2), tmp_path))
    assert "fits `use" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
@pytest.mark.parametrize(("how", "scale"), [("sum", 1.0), ("mean", 1 / 3)])
@torch.no_grad()
def test_grey_frames_adapt_the_first_convolution(tmp_path: Path, name: str, how, scale: float):
    net = theirs(name)
    encoder = ENCODERS[name](weights=saved(net, tmp_path), channels=1, adapt=how).eval()
    (adapted,) = reported(encoder).adapted
    assert adapted.startswith("stages.0.body.") and adapted.endswith(f".weight 3 to 1 channels by {how}")
    grey = frames(1)
    expected = frame_by_frame(without(net, CASES[name][2]), grey.expand(-1, -1, 3, -1, -1) * scale)
    torch.testing.assert_close(encoder(grey).x, expected, atol=1e-4, rtol=1e-3)


def test_our_own_names_load_whatever_the_channels(tmp_path: Path):
    for channels in (1, 3):
        encoder = mobilenet_v2(weights=saved(mobilenet_v2(channels=3), tmp_path), channels=channels)
        assert len(reported(encoder).loaded) == 312 and not reported(encoder).unexpected


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
@torch.no_grad()
def test_a_stem_of_stride_one_keeps_maps_twice_as_large(name: str):
    usual, finer = (ENCODERS[name](stem_stride=stride).eval() for stride in (None, 1))
    x = frames()
    after = [encoder.run(encoder.begin(x, None), 0, 1)["x"].shape[-1] for encoder in (usual, finer)]
    assert after[1] == 2 * after[0]
    finer.load_state_dict(usual.state_dict())
    same = ENCODERS[name](stem_stride=2).eval()
    same.load_state_dict(usual.state_dict())
    assert torch.equal(same(x).x, usual(x).x) and not torch.equal(finer(x).x, usual(x).x)


def test_what_the_weights_expect_travels_with_them():
    transforms = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    colour = Spec((None, 3, None, None), mean=tuple(transforms.mean), std=tuple(transforms.std), size=224)
    assert mobilenet_v2().spec == colour
    grey, many = mobilenet_v2(channels=1).spec, mobilenet_v2(channels=4).spec
    assert grey.shape == (None, 1, None, None) and grey.mean == (pytest.approx(0.449),) and grey.std == (pytest.approx(0.226),)
    assert (many.mean, many.std, many.size) == (None, None, 224)


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("resnet50", {"channels": 1, "weights": "imagenet"}),
        ("mobilenet_v4", {"channels": 3}),
        ("efficientnet_lite0", {"weights": "nowhere.pth"}),
        ("timm", {"name": "vit_tiny_patch16_224", "options": {"img_size": 32}}),
        ("light_cnn", {}),
    ],
)
def test_spec_of_says_what_the_encoder_will_and_reads_no_weights(use: str, options: dict):
    assert spec_of(use, options) == ENCODERS[use](**{**options, "weights": None}).spec
    assert torch.get_default_device() == torch.device("cpu")


def test_spec_of_costs_no_luck():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    spec_of("timm", {"name": "vit_tiny_patch16_224"})
    spec_of("resnet18", {})
    assert torch.equal(before, torch.get_rng_state())


def test_imagenet_out_of_reach_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.__class__, "get_state_dict", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"weights: imagenet.*no network.*checkpoints/resnet18-\w+\.pth.*`weights: null`") as error:
        resnet18(weights="imagenet")
    assert "\n" not in str(error.value)


def test_imagenet_takes_torchvisions_state(monkeypatch: pytest.MonkeyPatch):
    net = theirs("resnet18")
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: net.state_dict())
    encoder = resnet18(weights="imagenet").eval()
    assert reported(encoder).source == "imagenet"
    assert torch.allclose(encoder(frames()).x, frame_by_frame(without(net, "fc"), frames()), atol=1e-5)


def test_a_mistyped_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"imagenett: no such file.*or one of: imagenet"):
        resnet18(weights="imagenett")
