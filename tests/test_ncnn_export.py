"""Models in ncnn: every encoder, mixer, merger and packaged recipe leaves, agrees, and comes back trainable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

from test_contracts import OPTIONS, TINY_VIDEOMAE, TINY_WAVLM
from test_contracts import inputs as masked

from crossfade import build, recipe
from crossfade.clip import UserError
from crossfade.deploy.ncnn_export import export
from crossfade.deploy.ncnn_runner import NcnnRunner
from crossfade.models import ENCODERS, HEADS, MERGERS, MIXERS
from crossfade.models.encoder import Encoder
from crossfade.models.model import Fused
from crossfade.ncnn.convert import to_torch
from crossfade.ncnn.model import read, weights_beside

SIZES = {1: (4800,), 3: (1, 16, 60), 4: (2, 3, 32, 32)}  # an input a number of axes
FAR = 5e-3  # of the largest value: how far half precision may be off
# what does not leave, and what is said of it; everything else does
REASONS: dict[str, str] = {}
SMALL = {"wavlm": {"config": TINY_WAVLM}, "videomae": TINY_VIDEOMAE, "frame_cnn": {"width": 8}, "video_cnn3d": {"width": 8}}
STREAMS = {"frames": {"count": 4, "size": 32}, "stored_frames": {"count": 4, "size": 32}, "stored_mel": {"mels": 16, "columns": 40}}
STREAMS |= {"image": {"size": 32}, "log_mel": {"mels": 16}, "waveform": {"seconds": 0.3}}
MIX = {"cross_attention": {"dim": 8, "heads": 2}, "bottleneck": {"dim": 8, "heads": 2, "layers": 3, "bottlenecks": 2}}
MERGE = {"each": {}, "mean": {"dim": 8}, "concat": {"dim": 8}, "gated": {"dim": 8}, "token_transformer": {"dim": 8, "heads": 2, "mlp": 12}}


def size_of(shape: tuple[int | None, ...]) -> list[int]:
    return [want or have for want, have in zip(shape, SIZES[len(shape)], strict=True)]


def lively(model: nn.Module) -> nn.Module:
    """With statistics and norms as if it had learnt, so that folding them is put to the test."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.1, 0.1, generator=generator)
    return model.eval()


def alone(encoder: Encoder, dim: int) -> Fused:
    """A model of one stream, "it", with a joint embedding and two heads."""
    heads = {"label": {"joint": HEADS["linear"](8, 3), "it": HEADS["mlp"](dim, 4)}}
    return Fused({"it": encoder}, merge=MERGERS["mean"]({"it": dim}, dim=8), heads=heads)


def answers(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {name: value.numpy() for name, value in model(inputs).items()}


def arrays(inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in inputs.items()}


def furthest(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """The largest difference, as a part of the largest value, over outputs that are the same in name and shape."""
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in expected.items()}
    assert all(value.dtype == np.float32 for value in found.values())
    return max(float(np.abs(found[name] - value).max() / np.abs(value).max()) for name, value in expected.items())


def agrees(model: nn.Module, inputs: dict[str, torch.Tensor], folder: Path, target: str, *, fp16: bool = False) -> None:
    """In ncnn it gives the same numbers and decisions; in half precision nearly."""
    expected = answers(model, inputs)
    param = export(model, inputs, folder / "net", fp16=fp16)
    assert sorted(path.name for path in folder.iterdir()) == ["net.bin", "net.param"]
    found = NcnnRunner(param, param.with_suffix(".bin"), threads=1, fp16=fp16)(arrays(inputs))
    assert furthest(expected, found) <= (FAR if fp16 else 1e-4)
    assert (found[target].argmax(1) == expected[target].argmax(1)).all() or fp16


def proves(name: str, model: nn.Module, inputs: dict[str, torch.Tensor], folder: Path, target: str, *, fp16: bool = False) -> None:
    if name not in REASONS:
        agrees(model, inputs, folder, target, fp16=fp16)
        return
    with pytest.raises(UserError, match=REASONS[name]):
        export(model, inputs, folder / "net")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in ENCODERS if name in OPTIONS])  # but for those that need a file
def test_an_encoder_in_ncnn(name: str, tmp_path: Path):
    torch.manual_seed(0)
    encoder = ENCODERS[name](**OPTIONS[name][0])
    inputs = {"it": torch.randn(3, *size_of(encoder.spec.shape))}
    proves(name, lively(alone(encoder, encoder.dim)), inputs, tmp_path, "label")


OTHERS = [("light_cnn", 1), ("wavlm", 1), ("videomae", 1), ("resnet18", 4), ("timm", 1), ("timm", 2), ("timm", 3)]


@pytest.mark.parametrize(("name", "number"), OTHERS)
def test_an_encoder_with_other_options_in_ncnn(name: str, number: int, tmp_path: Path):
    torch.manual_seed(0)
    encoder = ENCODERS[name](**OPTIONS[name][number])
    inputs = {"it": torch.randn(2, *size_of(encoder.spec.shape))}
    proves(name, lively(alone(encoder, encoder.dim)), inputs, tmp_path, "label")


MASKED = [("light_cnn", 1), ("wavlm", 1), ("video_cnn3d", 0), ("videomae", 1), ("resnet18", 3)]


@pytest.mark.parametrize(("name", "number"), MASKED)
def test_a_shorter_clip_in_ncnn(name: str, number: int, tmp_path: Path):
    """Masks are inputs of the file where the example has them."""
    torch.manual_seed(0)
    encoder = ENCODERS[name](**OPTIONS[name][number])
    x, mask = masked(encoder.spec)
    model = lively(alone(encoder, encoder.dim))
    agrees(model, {"it": x, "it.mask": mask}, tmp_path, "label")
    runner = NcnnRunner(tmp_path / "net.param", tmp_path / "net.bin")
    assert runner.inputs["it.mask"].sizes == (None, mask.shape[1]) and runner.inputs["it.mask"].dtype == "bool"
    assert furthest(answers(model, {"it": x}), runner({"it": x.numpy()})) <= 1e-4


def test_a_file_without_masks_refuses_padding(tmp_path: Path):
    encoder = ENCODERS["light_cnn"]()
    param = export(alone(encoder, encoder.dim).eval(), {"it": torch.randn(1, 1, 16, 40)}, tmp_path / "net")
    with pytest.raises(UserError, match="takes no mask of it, but the batch has padding"):
        NcnnRunner(param, param.with_suffix(".bin"))({"it": np.zeros((1, 1, 16, 40), np.float32), "it.mask": np.zeros((1, 40), bool)})


@pytest.mark.parametrize("name", ["light_cnn", "mobilenet_v2", "mobilenet_v4", "wavlm", "videomae"])
def test_an_encoder_in_half_precision(name: str, tmp_path: Path):
    torch.manual_seed(0)
    encoder = ENCODERS[name](**OPTIONS[name][0])
    inputs = {"it": torch.randn(2, *size_of(encoder.spec.shape))}
    agrees(lively(alone(encoder, encoder.dim)), inputs, tmp_path, "label", fp16=True)


def two_streams(mixer: str | None, merger: str) -> Fused:
    torch.manual_seed(0)
    encoders = {"audio": ENCODERS["light_cnn"](tokens=3, width=6), "video": ENCODERS["frame_cnn"](width=4)}
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    mix = [MIXERS[mixer](dims, **MIX[mixer])] if mixer else []
    merge = MERGERS[merger](mix[0].dims if mix else dims, **MERGE[merger])
    heads = {name: HEADS["linear"](width, 3) for name, width in merge.dims.items()}
    return Fused(encoders, mix=mix, merge=merge, heads={"emotion": heads})


def shorter(steps: int, real: list[int]) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(real)[:, None]


FUSIONS = [*[(None, merger) for merger in MERGERS], *[(mixer, merger) for mixer in MIXERS for merger in ("gated", "each")]]


@pytest.mark.parametrize(("mixer", "merger"), FUSIONS)
def test_a_fusion_in_ncnn(mixer: str | None, merger: str, tmp_path: Path):
    """Whole clips, shorter ones, and clips without one of the streams."""
    inputs = {"audio": torch.randn(4, 1, 16, 40), "audio.mask": shorter(40, [40, 25, 0, 13])}
    inputs |= {"video": torch.randn(4, 4, 3, 32, 32), "video.mask": shorter(4, [4, 3, 2, 0])}
    proves(f"{mixer}+{merger}", lively(two_streams(mixer, merger)), inputs, tmp_path, "emotion")


def test_every_mixer_and_merger_is_tried():
    assert {mixer for mixer, _ in FUSIONS} == {None, *MIXERS} and {merger for _, merger in FUSIONS} == set(MERGERS)


def different() -> list[str]:
    """One packaged recipe of each model, but for widths and weights."""
    models = {name: recipe.find(name)[1]["model"] for name in recipe.names()}
    parts = {name: [[spec["use"], "tokens" in spec] for spec in model["encoders"].values()] for name, model in models.items()}
    rest = {name: [model.get("mix"), model.get("merge"), list(model["heads"].values())] for name, model in models.items()}
    return sorted({str((parts[name], rest[name])): name for name in models}.values())


@pytest.mark.parametrize("name", different())
def test_a_packaged_recipe_in_ncnn(name: str, tmp_path: Path):
    found = recipe.load(name)
    for stream, spec in found.data.streams.items():
        spec.update(STREAMS.get(spec["use"], {}))
        found.model.encoders[stream].update(SMALL.get(found.model.encoders[stream]["use"], {}))
    torch.manual_seed(0)
    model = lively(build.model(found, {target: ["a", "b", "c"] for target in found.targets}, pretrained=False))
    shapes = {stream: made.spec.shape for stream, made in build.streams(found).items()}
    inputs = {stream: torch.randn(2, *size_of(shape)) for stream, shape in shapes.items()}
    proves(name, model, inputs, tmp_path, found.targets[0])


def test_pictures_of_a_clip_go_one_by_one(tmp_path: Path):
    """Their encoder is there once, on one picture; an image of one is a plain input."""
    inputs = {"audio": torch.randn(1, 1, 16, 40), "video": torch.randn(1, 4, 3, 32, 32)}
    param = export(lively(two_streams(None, "gated")), inputs, tmp_path / "net")
    graph = read(param).graph
    assert {layer.outputs[0]: layer.name for layer in graph.layers if layer.kind == "Input"} == {
        "video": "video:4x3x32x32",
        "audio": "audio:1x16x40",
        "video.all": "video.all:4x16",
    }
    assert sum(layer.kind == "Convolution" for layer in graph.layers) == 3 + 4
    runner = NcnnRunner(param, param.with_suffix(".bin"))
    assert {name: shape.sizes for name, shape in runner.inputs.items()} == {"video": (None, 4, 3, 32, 32), "audio": (None, 1, 16, 40)}
    assert set(runner.outputs) == {"embed.joint", "gate", "emotion"}


def test_outputs_may_be_chosen_and_a_stage_of_training_stays(tmp_path: Path):
    model, inputs = two_streams(None, "gated").train(), {"audio": torch.randn(2, 1, 16, 40), "video": torch.randn(2, 4, 3, 32, 32)}
    param = export(model, inputs, tmp_path / "net.param", outputs=["emotion"])
    assert all(module.training for module in model.modules())
    found = NcnnRunner(param, param.with_suffix(".bin"))(arrays(inputs))
    assert furthest({"emotion": answers(model.eval(), inputs)["emotion"]}, found) <= 1e-4
    with pytest.raises(UserError, match="there is no output 'mood'"):
        export(model, inputs, tmp_path / "other", outputs=["mood"])


class Strange(nn.Module):
    """With an operation that ncnn has no layer for."""

    def __init__(self, operation: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.operation = operation

    def forward(self, named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y": self.operation(functional.relu(named["x"]))}


LACKING = {"sort": lambda x: x.sort(1).values, "lgamma": torch.lgamma}


@pytest.mark.parametrize("name", LACKING)
def test_a_layer_that_ncnn_lacks_is_named_and_nothing_is_left(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=rf"ncnn, which has no layer for .*{name}"):
        export(Strange(LACKING[name]), {"x": torch.randn(1, 8)}, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_what_is_the_same_for_every_clip_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="one of its outputs is the same for every clip"):
        export(Strange(torch.zeros_like), {"x": torch.randn(1, 8)}, tmp_path / "net")


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    param = export(
        lively(two_streams(None, "mean")), {"audio": torch.randn(1, 1, 16, 40), "video": torch.randn(1, 4, 3, 32, 32)}, tmp_path / "net"
    )
    (tmp_path / "cut.bin").write_bytes(param.with_suffix(".bin").read_bytes()[:1000])
    with pytest.raises(UserError, match="ncnn cannot load it with"):
        NcnnRunner(param, tmp_path / "cut.bin")
    runner = NcnnRunner(param, param.with_suffix(".bin"))
    with pytest.raises(UserError, match="found 1 × 16 × 41 a clip; it takes 1 × 16 × 40"):
        runner({"audio": np.zeros((1, 1, 16, 41), np.float32), "video": np.zeros((1, 4, 3, 32, 32), np.float32)})


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v4"])
def test_there_and_back_and_there_again(name: str, tmp_path: Path):
    """Exported, imported, equal; fine-tuned a few steps, exported again, still equal to ncnn."""
    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    model = lively(
        Fused(
            {"image": encoder}, merge=MERGERS["each"]({"image": encoder.dim}), heads={"label": {"image": HEADS["linear"](encoder.dim, 3)}}
        )
    )
    inputs = {"image": torch.randn(4, 1, 3, 64, 64)}
    param = export(model, inputs, tmp_path / "net")
    network = to_torch(read(param, weights_beside(param))).eval()
    assert network.inputs == ("image",) and set(network.outputs) == {"label", "label.image"}
    pictures = {"image": inputs["image"][:, 0]}
    assert furthest(answers(model, inputs), answers(network, pictures)) <= 1e-4
    optimizer, wanted = torch.optim.Adam(network.parameters(), 1e-4), torch.tensor([0, 1, 2, 0])
    before = answers(network, pictures)
    for _ in range(3):
        loss = functional.cross_entropy(network.train()(pictures)["label"], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = answers(network.eval(), pictures)
    assert furthest(before, expected) > 1e-2
    again = export(network, pictures, tmp_path / "again")
    assert furthest(expected, NcnnRunner(again, again.with_suffix(".bin"), threads=1)(arrays(pictures))) <= 1e-4
