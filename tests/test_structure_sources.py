"""The same network from PyTorch, ONNX and ncnn is the same structure; weights move across it; large ones take seconds."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, mobilenet_v2

from crossfade.clip import UserError
from crossfade.deploy.structure import from_ncnn, from_onnx, from_torch
from crossfade.deploy.structure.align import align
from crossfade.deploy.structure.compare import compare
from crossfade.deploy.structure.layer import Layer, Structure
from crossfade.deploy.structure.page import page
from crossfade.deploy.structure.text import data, text
from crossfade.deploy.structure.weights import transfer

SHARED = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
PICTURE = (torch.rand(1, 3, 64, 64),)


def trained(seed: int) -> MobileNetV2:
    """A MobileNetV2 whose BatchNorms are not as they were made."""
    torch.manual_seed(seed)
    model = mobilenet_v2(weights=None)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            part.running_mean, part.running_var = torch.randn(part.num_features) * 0.1, torch.rand(part.num_features) + 0.5
    nn.init.normal_(model.get_parameter("classifier.1.bias"))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> MobileNetV2:
    return trained(0)


@pytest.fixture(scope="module")
def structure(model: nn.Module) -> Structure:
    return from_torch.of(model, PICTURE, "mobilenet_v2")


@pytest.fixture(scope="module")
def param(model: MobileNetV2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ncnn")
    folder = tmp_path_factory.mktemp("pnnx")
    tool = Path(sys.executable).with_name("pnnx")
    if not tool.exists():
        pytest.skip("pnnx is not installed")
    torch.jit.save(torch.jit.trace(model, PICTURE), str(folder / "net.pt"))
    subprocess.run([tool, "net.pt", "inputshape=[1,3,64,64]", "fp16=0"], cwd=folder, check=True, capture_output=True)
    return folder / "net.ncnn.param"


@pytest.fixture(scope="module")
def onnx_file(model: MobileNetV2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    program = torch.onnx.export(model, PICTURE, dynamo=True, verbose=False)
    assert program is not None
    program.save(str(path))
    return path


def test_the_own_ncnn_export_differs_by_folded_batch_norms_alone(structure: Structure, param: Path):
    found = compare(structure, from_ncnn.read(param))
    assert found.verdict == "same structure, 52 BatchNorm folded" and not found.own
    assert {one.field for one in found.differences} == {"folded"}
    first = found.differences[0]
    assert (first.a, first.b) == ("features.0.1", "convclip_0")
    assert found.alignment.b.as_ncnn_counts == len(param.read_text().splitlines()) - 2
    assert compare(found.alignment.b, structure).verdict == found.verdict


def test_the_own_onnx_export_differs_by_folded_batch_norms_alone(structure: Structure, onnx_file: Path, param: Path):
    found = compare(structure, from_onnx.read(onnx_file))
    assert found.verdict == "same structure, 52 BatchNorm folded"
    assert not compare(from_onnx.read(onnx_file), from_ncnn.read(param)).differences


@pytest.mark.skipif(not (SHARED / "ncnn").is_dir(), reason="no public ncnn models here")
def test_the_public_pair_aligns():
    a = from_onnx.read(SHARED / "weights" / "ultraface" / "slim-320.onnx", weights=True)
    b = from_ncnn.read(SHARED / "ncnn" / "slim-320.param", weights=True)
    found = compare(a, b)
    assert found.verdict == "same structure, 25 BatchNorm folded"
    assert b.as_ncnn_counts == 100 and b.parameters == 257_916


def test_weights_fold_on_their_way_into_an_export(model: MobileNetV2, structure: Structure, param: Path):
    from crossfade.ncnn.convert import to_torch
    from crossfade.ncnn.model import read, weights_beside

    network = to_torch(read(param, weights_beside(param))).eval()
    picture = torch.rand(2, 3, 64, 64)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    target = from_torch.of(network, {"in0": PICTURE[0]})
    report = transfer(align(structure, target), model.state_dict(), network)
    assert report.complete and len(report.moved) == 2 * 53
    with torch.no_grad():
        torch.testing.assert_close(network({"in0": picture})["out0"], model(picture), rtol=1e-4, atol=1e-4)


def test_weights_of_an_export_move_into_a_network_with_batch_norms(model: MobileNetV2, param: Path):
    other = trained(1)
    source = from_ncnn.read(param, weights=True)
    assert source.tensors is not None
    report = transfer(align(source, from_torch.of(other, PICTURE)), source.tensors, other)
    picture = torch.rand(2, 3, 64, 64)
    assert report.complete
    with torch.no_grad():
        torch.testing.assert_close(other(picture), model(picture), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_stays_and_is_told(model: MobileNetV2, structure: Structure):
    other = trained(2)
    other.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 10))
    before = other.get_parameter("classifier.1.weight").clone()
    report = transfer(align(structure, from_torch.of(other, PICTURE)), model.state_dict(), other)
    left = {(one.name, one.side): one.reason for one in report.left}
    assert left["classifier.1.weight", "target"] == "is (10, 1280), but classifier.1.weight is (1000, 1280)"
    assert set(left) == {(f"classifier.1.{name}", side) for name in ("weight", "bias") for side in ("target", "source")}
    assert torch.equal(other.get_parameter("classifier.1.weight"), before)
    assert torch.equal(other.state_dict()["features.3.conv.1.0.weight"], model.state_dict()["features.3.conv.1.0.weight"])


class Mixed(nn.Module):
    """What exporters write in many ways."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1)
        self.lone = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 5)
        self.scale = nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.norm(self.wide(x)))
        y = nn.functional.silu(self.lone(self.up(y)))
        return torch.softmax(nn.functional.gelu(self.scale(self.linear(y.mean((2, 3))))), -1)


def test_other_layers_are_the_same_from_onnx(tmp_path: Path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module, picture = Mixed().eval(), (torch.rand(1, 3, 8, 8),)
    for part in (module.lone, module.norm, module.scale):
        nn.init.normal_(part.bias)
    program = torch.onnx.export(module, picture, dynamo=True, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "net.onnx"))
    found = compare(from_torch.of(module, picture), from_onnx.read(tmp_path / "net.onnx"))
    assert not found.own and {one.field for one in found.differences} <= {"folded"}


def chain(count: int, changed: dict[int, int]) -> Structure:
    """Convolutions one after another; the channels of some are others."""
    fields = [{"outputs": changed.get(number, 16 + number % 7), "kernel": (3, 3)} for number in range(count)]
    layers = [Layer("convolution", f"layer{n}", (f"v{n}",), (f"v{n + 1}",), dict(own), parameters=1) for n, own in enumerate(fields)]
    return Structure("chain", "torch", tuple(layers), ("v0",), (f"v{count}",))


def test_a_thousand_layers_take_seconds():
    a, b = chain(1000, {}), chain(1000, dict.fromkeys(range(0, 1000, 97), 99))
    began = time.process_time()
    found = compare(a, b)
    assert time.process_time() - began < 5
    assert [one.a for one in found.own] == [f"layer{number}" for number in range(0, 1000, 97)]


def test_independent_branches_may_change_places():
    def branches(order: str) -> Structure:
        names = {"p": ("relu", "x"), "q": ("tanh", "x")}
        made = [Layer("activation", name, (names[name][1],), (name,), {"function": names[name][0]}) for name in order]
        joined = Layer("concat", "joined", ("p", "q"), ("y",), {"axis": 0})
        return Structure(order, "torch", (*made, joined), ("x",), ("y",))

    assert compare(branches("pq"), branches("qp")).verdict == "same structure, branches in another order"
    twisted = branches("pq")
    layers = (*twisted.layers[:2], Layer("concat", "joined", ("q", "p"), ("y",), {"axis": 0}))
    other = compare(twisted, Structure("twisted", "torch", layers, ("x",), ("y",)))
    assert [(one.a, one.field, one.grade) for one in other.own] == [("joined", "wiring", "P0")]


def test_the_answer_as_text_data_and_page(model: MobileNetV2, structure: Structure):
    other = copy.deepcopy(model)
    other.get_submodule("features.4.conv.1")[0].stride = (1, 1)  # pyright: ignore
    found = compare(structure, from_torch.of(other, PICTURE, "<other>"))
    lines = text(found).splitlines()
    assert lines[-1] == "1 difference, worst P0 (breaks results)"
    assert any(line.split() == ["P0", *["features.4.conv.1.0"] * 2, "depthwise", "convolution:", "stride", "2", "1"] for line in lines)
    plain = json.loads(json.dumps(data(found)))
    assert plain["worst"] == "P0" and plain["a"]["parameters"] == 3_504_872 and len(plain["alignment"]) == 151
    html = page(found)
    HTMLParser().feed(html)
    assert "&lt;other&gt;" in html and "<other>" not in html and "http" not in html


def test_a_file_that_is_no_onnx_is_told_in_one_line(tmp_path: Path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x08\xff" * 40)
    with pytest.raises(UserError, match=r"net\.onnx: is not an ONNX model"):
        from_onnx.read(path)
    with pytest.raises(UserError, match="cannot be read"):
        from_onnx.read(tmp_path / "absent.onnx")
