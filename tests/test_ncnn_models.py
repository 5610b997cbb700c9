"""Whole networks of ncnn, public ones and what pnnx makes, as modules: equal to ncnn, trainable, and ready to leave again."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

pytest.importorskip("ncnn")

from ncnn_reference import answers, one_layer, random_weights, same_numbers, written

from crossfade.clip import UserError
from crossfade.ncnn.convert import Network, to_torch
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.model import Model, read, weights_beside
from crossfade.ncnn.show import show
from crossfade.ncnn.write import layer, write_binary_param

SHARED = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
PUBLIC = SHARED / "ncnn"
here = pytest.mark.skipif(not PUBLIC.is_dir(), reason="no public ncnn models here")


def imported(param: Path) -> Network:
    return to_torch(read(param, weights_beside(param))).eval()


def difference(param: Path, network: Network, x: torch.Tensor) -> float:
    """The largest over outputs of the largest difference, as a part of the largest value, of one example."""
    with torch.no_grad():
        ours = network({network.inputs[0]: x[None]})
    theirs = answers(param, weights_beside(param), {network.inputs[0]: x}, network.outputs)
    assert all(ours[name][0].shape == theirs[name].shape for name in network.outputs)
    return max(float(np.abs(ours[name][0].numpy() - theirs[name]).max() / np.abs(theirs[name]).max()) for name in network.outputs)


def picture(height: int, width: int) -> torch.Tensor:
    """A real picture, (3, H, W) in 0 to 1."""
    from PIL import Image

    path = sorted((SHARED / "images" / "cifar10_small").rglob("*.jp*g"))[0]
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB").resize((width, height)), np.float32) / 255).permute(2, 0, 1)


@here
@pytest.mark.parametrize(
    ("name", "size", "span"), [("squeezenet_v1.1", (227, 227), 255), ("slim-320", (240, 320), 2), ("spanx2_ch48", (48, 64), 1)]
)
def test_a_public_model_equals_ncnn(name: str, size: tuple[int, int], span: int):
    """SPAN turns noise of full range into chaos, in which ncnn is as far from float64 as we are; so noise here is faint."""
    network = imported(PUBLIC / f"{name}.param")
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    assert difference(PUBLIC / f"{name}.param", network, picture(*size) * span) < 1e-4
    assert difference(PUBLIC / f"{name}.param", network, noise * span) < 1e-4


@here
def test_the_table_of_a_public_model():
    model = read(PUBLIC / "slim-320.param")
    rows = {row.name: row for row in show(model, {"input": (3, 240, 320)})}
    first = rows["185"]
    assert first.kind == "Convolution" and first.inputs == ("input",) and first.shapes == ((16, 120, 160),)
    assert first.parameters["num_output"] == 16 and first.parameters["stride_h"] == 2 and first.parameters["pad_top"] == 1
    assert first.weights == 432 + 16 and first.multiply_adds == 432 * 120 * 160
    assert rows["boxes"].shapes == ((4420, 4),)
    assert sum(row.weights or 0 for row in rows.values()) == sum(array.size for arrays in weights_of("slim-320") for array in arrays)


def weights_of(name: str) -> list[list[np.ndarray]]:
    model = read(PUBLIC / f"{name}.param", PUBLIC / f"{name}.bin")
    return [list(arrays.values()) for arrays in (model.weights or {}).values()]


def test_a_table_without_an_input_shape_and_with_an_unknown_layer():
    graph = one_layer("ReLU", 1)
    assert show(Model(graph))[1].shapes == (None,)
    strange = Graph("strange", (*graph.layers, Layer("Teleport", "beam", ("y0",), ("z",), {3: 1.5})))
    row = show(Model(strange), {"a": (3, 4, 5)})[2]
    assert row.shapes == (None,) and row.parameters == {"3": 1.5} and row.weights is None and row.multiply_adds is None
    with pytest.raises(UserError, match="has no input b"):
        show(Model(graph), {"b": (3,)})


class Small(nn.Module):
    """A line through a convolution, norms and attention of both spellings, to two outputs."""

    def __init__(self):
        super().__init__()
        self.line, self.group, self.norm = nn.Conv1d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.position, self.head = nn.Parameter(torch.randn(1, 10, 16)), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.norm(self.group(self.line(x)).transpose(1, 2)) + self.position
        y = y + self.attention(y, y, y, need_weights=False)[0]
        q = functional.gelu(y).reshape(1, 10, 4, 4).transpose(1, 2)
        z = functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(1, 10, 16)
        return self.head(z.mean(1)), y.softmax(-1)


def by_pnnx(folder: Path, name: str, model: nn.Module, shape: tuple[int, ...]) -> Path:
    """name.ncnn.param, and its .bin in float32."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.jit.save(torch.jit.trace(model.eval(), torch.rand(1, *shape), check_trace=False), folder / f"{name}.pt")
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    tool = Path(sys.executable).with_name("pnnx")
    command = [tool, f"{name}.pt", f"inputshape=[{','.join(map(str, (1, *shape)))}]", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / f"{name}.ncnn.param"


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    model = mobilenet_v2(weights=None, width_mult=0.35, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return by_pnnx(tmp_path_factory.mktemp("mobilenet"), "net", model, (3, 64, 64)), model.eval()


def test_mobilenet_by_pnnx_equals_ncnn_and_its_origin(mobilenet: tuple[Path, nn.Module]):
    param, model = mobilenet
    network, x = imported(param), torch.rand(3, 64, 64)
    assert difference(param, network, x) < 1e-4
    with torch.no_grad():
        torch.testing.assert_close(network({"in0": x[None]})["out0"], model(x[None]), rtol=1e-3, atol=1e-5)


def test_attention_by_pnnx_equals_ncnn(tmp_path: Path):
    torch.manual_seed(1)
    param = by_pnnx(tmp_path, "small", Small(), (8, 10))
    network = imported(param)
    assert network.outputs == ("out0", "out1")
    assert difference(param, network, torch.rand(8, 10)) < 1e-4


def test_an_import_learns_and_is_exported_with_any_batch(mobilenet: tuple[Path, nn.Module]):
    network = to_torch(read(mobilenet[0], weights_beside(mobilenet[0]))).train()
    x, wanted = torch.rand(8, 3, 64, 64), torch.arange(8)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = functional.cross_entropy(network({"in0": x})["out0"], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, ({"in0": x[:2]},), dynamic_shapes=({"in0": {0: batch}},))
    with torch.no_grad():
        torch.testing.assert_close(program.module()({"in0": x[:5]})["out0"], network({"in0": x[:5]})["out0"], rtol=1e-4, atol=1e-5)
    assert copy.deepcopy(network).state_dict().keys() == network.state_dict().keys()


def test_a_binary_param_says_the_same(mobilenet: tuple[Path, nn.Module], tmp_path: Path):
    param = mobilenet[0]
    model = read(param, weights_beside(param))
    write_binary_param(model.graph, tmp_path / "net.param.bin")
    again = read(tmp_path / "net.param.bin", weights_beside(param))
    same_numbers(again.graph, model.graph)
    x = torch.rand(1, 3, 64, 64)
    network = to_torch(again).eval()
    with torch.no_grad():
        torch.testing.assert_close(network({network.inputs[0]: x})[network.outputs[0]], imported(param)({"in0": x})["out0"])


def test_a_tensor_of_the_networks_own_meets_every_example(tmp_path: Path):
    layers = [
        layer("Input", "in", (), ("x",)),
        layer("MemoryData", "token", (), ("t",), w=6, h=1),
        layer("Concat", "both", ("t", "x"), ("y",), axis=0),
    ]
    graph = Graph("token", tuple(layers))
    param, binary = written(tmp_path, graph, random_weights(graph))
    network, x = to_torch(read(param, binary)), torch.rand(3, 4, 6)
    y = network({"x": x})["y"]
    assert y.shape == (3, 5, 6) and dict(network.named_parameters()).keys() == {"layers.token.data"}
    np.testing.assert_array_equal(y[2].detach().numpy(), answers(param, binary, {"x": x[2]}, ["y"])["y"])


def test_a_wrong_input_is_named():
    network = to_torch(Model(one_layer("BinaryOp", 2)))
    with pytest.raises(UserError, match="takes the inputs a, b, but was given a"):
        network({"a": torch.rand(1, 3)})
    with pytest.raises(UserError, match=r"BinaryOp layer: does not fit its inputs a \(3,\), b \(4,\)"):
        network({"a": torch.rand(1, 3), "b": torch.rand(1, 4)})
