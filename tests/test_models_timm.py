"""timm's networks as encoders: names, options, weights in timm's own format, what is expected of pictures, and what is refused."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import timm as library
import torch
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config

from crossfade.clip import UserError
from crossfade.models.encoder import Encoder
from crossfade.models.timm_image import efficientnet_lite0, mobilenet_v4, timm
from crossfade.training.rates import resolve

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
LITE0 = DATA / "weights" / "tf_efficientnet_lite0_imagenet.safetensors"
SMALL_VIT: Any = {"img_size": 32, "depth": 2}


def frames(channels: int = 3, side: int = 32) -> torch.Tensor:
    return torch.randn(2, 2, channels, side, side, generator=torch.Generator().manual_seed(1))


def theirs(name: str, **options) -> Any:
    """timm's network with its 1,000 classes, and running statistics that are not those of a new one."""
    torch.manual_seed(0)
    net = library.create_model(name, num_classes=1000, **options).train()
    with torch.no_grad():
        net(torch.randn(4, 3, *[options.get("img_size", 64)] * 2))
    return net.eval()


def pooled(net: Any, x: torch.Tensor) -> torch.Tensor:
    frames = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # as PerFrame lays them out
    found = net.forward_head(net.forward_features(frames), pre_logits=True)
    return found.unflatten(0, x.shape[:2])


def reported(encoder: Encoder):
    assert encoder.report is not None
    return encoder.report


@torch.no_grad()
def test_mobilenet_v4_takes_276_of_the_278_entries_of_a_checkpoint(tmp_path: Path):
    net = theirs("mobilenetv4_conv_small")
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    encoder = mobilenet_v4(weights=str(tmp_path / "model.safetensors")).eval()
    assert (len(net.state_dict()), len(reported(encoder).loaded)) == (278, 276)
    assert sorted(reported(encoder).unexpected) == ["classifier.bias", "classifier.weight"] and not reported(encoder).missing
    assert torch.equal(encoder(frames()).x, pooled(net, frames()))
    assert (encoder.dim, encoder.spec.size, encoder.note) == (1280, 224, "")


@pytest.mark.parametrize("how", ["sum", "mean"])
@torch.no_grad()
def test_its_first_convolution_from_three_channels_to_one(tmp_path: Path, how):
    net = theirs("mobilenetv4_conv_small")
    torch.save(net.state_dict(), tmp_path / "model.pth")
    encoder = mobilenet_v4(weights=str(tmp_path / "model.pth"), channels=1, adapt=how)
    (first,) = (tensor for entry, tensor in encoder.state_dict().items() if entry.endswith("conv_stem.weight"))
    before = net.state_dict()["conv_stem.weight"]
    assert (tuple(before.shape), tuple(first.shape)) == ((32, 3, 3, 3), (32, 1, 3, 3))
    torch.testing.assert_close(first, getattr(before, how)(1, keepdim=True))
    assert len(reported(encoder).loaded) == 276 and len(reported(encoder).adapted) == 1


@pytest.mark.skipif(not LITE0.is_file(), reason=f"no ImageNet weights at {LITE0}")
@torch.no_grad()
def test_efficientnet_lite0_takes_the_published_weights_but_for_the_classifier():
    encoder = efficientnet_lite0(weights=str(LITE0)).eval()
    assert reported(encoder).unexpected == ("classifier.bias", "classifier.weight") and not reported(encoder).mismatched
    assert len(reported(encoder).loaded) == len(load_file(LITE0)) - 2
    assert all(name.endswith("num_batches_tracked") for name in reported(encoder).missing), "timm does not publish these counters"
    assert "2 unexpected (classifier.bias, classifier.weight)" in reported(encoder).line()
    net = library.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(load_file(LITE0), strict=False)
    assert torch.equal(encoder(frames()).x, pooled(net, frames()))
    assert encoder.spec.mean == encoder.spec.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "options", "left_out"),
    [
        ("vit_tiny_patch16_224", SMALL_VIT, 2),
        ("deit_tiny_distilled_patch16_224", SMALL_VIT, 4),
        ("convnext_atto", {}, 2),
        ("repvgg_a0", {}, 2),
        ("test_byobnet", {}, 2),
    ],
)
@torch.no_grad()
def test_a_file_with_timms_names_fills_an_encoder(tmp_path: Path, name: str, options: dict, left_out: int):
    net = theirs(name, **options)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    encoder = timm(name=name, options=options, weights=str(tmp_path / "w.safetensors")).eval()
    assert len(reported(encoder).unexpected) == left_out and not reported(encoder).missing
    side = options.get("img_size", 64)
    assert torch.equal(encoder(frames(side=side)).x, pooled(net, frames(side=side)))


@pytest.mark.parametrize(("name", "adapted"), [("vit_tiny_patch16_224", 1), ("repvgg_a0", 2)])
@torch.no_grad()
def test_grey_pictures_adapt_all_that_look_at_the_picture(tmp_path: Path, name: str, adapted: int):
    options = SMALL_VIT if name.startswith("vit") else {}
    net = theirs(name, **options)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    encoder = timm(name=name, options=options, channels=1, weights=str(tmp_path / "w.safetensors")).eval()
    assert len(reported(encoder).adapted) == adapted
    grey = frames(1)
    torch.testing.assert_close(encoder(grey).x, pooled(net, grey.expand(-1, -1, 3, -1, -1)), atol=1e-4, rtol=1e-3)


def test_our_own_names_load_again(tmp_path: Path):
    options = {**SMALL_VIT}
    torch.manual_seed(1)
    trained = timm(name="vit_tiny_patch16_224", options=options)
    save_file({f"encoders.image.{entry}": tensor for entry, tensor in trained.state_dict().items()}, tmp_path / "model.safetensors")
    encoder = timm(name="vit_tiny_patch16_224", options=options, weights=str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), trained.state_dict().values(), strict=True))
    assert not reported(encoder).unexpected and not reported(encoder).missing


def test_a_deeper_transformers_file_is_refused(tmp_path: Path):
    deep = theirs("vit_tiny_patch16_224", **{**SMALL_VIT, "depth": 3})
    save_file(deep.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"12 of its entries \(blocks\.2\..*have no place in this encoder"):
        timm(name="vit_tiny_patch16_224", options=SMALL_VIT, weights=str(tmp_path / "w.safetensors"))


def test_published_weights_come_by_name(monkeypatch: pytest.MonkeyPatch):
    net, create = theirs("mobilenetv4_conv_small"), library.create_model
    monkeypatch.setattr(library, "create_model", lambda name, pretrained=False, **given: net if pretrained else create(name, **given))
    encoder = mobilenet_v4(weights="imagenet").eval()
    assert reported(encoder).source == "imagenet" and len(reported(encoder).loaded) == 276
    assert torch.equal(encoder(frames()).x, pooled(net, frames()))


def test_published_weights_that_cannot_be_had_are_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch):
    create = library.create_model

    def offline(name, pretrained=False, **given):
        if pretrained:
            raise OSError("no network,\nnone at all")
        return create(name, **given)

    monkeypatch.setattr(library, "create_model", offline)
    with pytest.raises(
        UserError, match=r"weights: imagenet: timm/mobilenetv4\S+ cannot be had \(no network, none at all\).*`weights: null`"
    ):
        mobilenet_v4(weights="imagenet")
    with pytest.raises(UserError, match="timm publishes none for vit_small_patch16_36x1_224"):
        timm(name="vit_small_patch16_36x1_224", weights="imagenet", options=SMALL_VIT)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "vit_tiny_patch16_22"}, r"name: timm has no 'vit_tiny_patch16_22'; nearest are vit_tiny_patch16_224, "),
        ({"name": "hf-hub:someone/something"}, "timm has no 'hf-hub:someone/something'"),
        ({"name": "resnet18.nonsense"}, "resnet18.nonsense .*tag"),
        ({"name": "resnet18", "options": {"no_such": 1}}, "resnet18 with options .*'no_such'"),
        ({"name": "resnet18", "options": {"in_chans": 1}}, r"options\.in_chans: not to be given here: `channels` says that"),
        ({"name": "resnet18", "options": {"num_classes": 10}}, r"options\.num_classes"),
        (
            {"name": "vit_tiny_patch16_224", "stem_stride": 1},
            r"stem_stride: vit_tiny_patch16_224 has no first .*found 16 × 16 of stride 16",
        ),
        ({"name": "convnext_atto", "stem_stride": 1}, r"found 4 × 4 of stride 4"),
        ({"name": "levit_128s", "stem_stride": 1, "options": {"img_size": 64}}, "levit_128s does not run on a picture of 64 pixels"),
        ({"name": "vgg11", "stem_stride": 2}, "found 3 × 3 of stride 1"),
    ],
)
def test_what_is_refused_says_so_in_one_line(given: dict, says: str):
    with torch.device("meta"), pytest.raises(UserError, match=says) as error:
        timm(**given)
    assert "\n" not in str(error.value)


def test_a_stem_of_stride_one_where_several_convolutions_see_the_picture():
    usual, finer = (timm(name="repvgg_a0", stem_stride=stride).eval() for stride in (None, 1))
    sides = [encoder.run({"x": frames()}, 0, 1)["x"].shape[-1] for encoder in (usual, finer)]
    assert sides == [16, 32]


def test_a_network_that_counts_positions_says_which_side_it_takes():
    with torch.device("meta"):
        rigid = timm(name="vit_tiny_patch16_224", options={"img_size": 48, "depth": 1}).spec
        either = timm(name="vit_tiny_patch16_224", options={"img_size": 48, "depth": 1, "dynamic_img_size": True}).spec
        free = timm(name="convnext_atto").spec
    assert (rigid.shape, rigid.size) == ((None, 3, 48, 48), 48)
    assert (either.shape, either.size) == ((None, 3, None, None), 48)
    assert (free.shape, free.size) == (
        (None, 3, None, None),
        resolve_model_data_config(library.create_model("convnext_atto"))["input_size"][1],
    )


def test_the_tag_of_a_name_says_what_its_weights_saw():
    with torch.device("meta"):
        specs = [timm(name=name).spec for name in ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "mobilenetv4_conv_small.e2400_r224_in1k")]
    assert specs[0].mean == (0.5, 0.5, 0.5) and specs[1].mean == (0.485, 0.456, 0.406)


@torch.no_grad()
def test_a_network_that_cannot_be_cut_is_one_stage_and_says_so():
    options: Any = {**SMALL_VIT, "dynamic_img_size": True}
    encoder = timm(name="vit_tiny_patch16_224", options=options).eval()
    assert len(encoder.stages) == 1 and "vit_tiny_patch16_224 is one stage" in encoder.note and "\n" not in encoder.note
    net = theirs("vit_tiny_patch16_224", **options)
    encoder.load_state_dict({f"stages.0.body.net.{k}": v for k, v in net.state_dict().items() if not k.startswith("head.")})
    assert torch.equal(encoder(frames()).x, pooled(net, frames()))
    assert resolve(encoder, {"stages": None})


@torch.no_grad()
def test_the_same_seed_gives_timms_own_random_start():
    torch.manual_seed(4)
    net = library.create_model("convnext_atto", num_classes=0).eval()
    torch.manual_seed(4)
    encoder = timm(name="convnext_atto").eval()
    assert torch.equal(encoder(frames()).x, pooled(net, frames()))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": [1, 1], "embed_dim": 24}),
        ("ghostnet_050", {}),
        ("mixer_s32_224", {"img_size": 64}),
    ],
)
@torch.no_grad()
def test_nothing_is_dropped_at_random_unless_asked(name: str, options: Any):
    def twice(encoder: Encoder) -> list[torch.Tensor]:
        return [torch.manual_seed(seed) and encoder.train()(frames(side=64)).x for seed in (1, 2)]

    first, second = twice(timm(name=name, options=options))
    assert torch.equal(first, second)
    if name == "ghostnet_050":
        assert not torch.equal(*twice(timm(name=name, options={"drop_rate": 0.4})))


@torch.no_grad()
def test_an_encoder_can_be_copied_and_leaves_no_trace_in_what_it_was_copied_from():
    encoder = mobilenet_v4().eval()
    twin = copy.deepcopy(encoder)
    twin.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in encoder.state_dict().items()})
    assert encoder(frames()).x.std() > 0 and torch.equal(twin(frames()).x, torch.zeros(2, 2, 1280))
