"""Numbers and decisions of two runners side by side; a sabotaged file is caught and its layer named; int8; sidecars; bad files."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from crossfade.clip import UserError
from crossfade.deploy import sidecar
from crossfade.deploy.first_difference import first_differences
from crossfade.deploy.int8 import quantise
from crossfade.deploy.onnx_export import export
from crossfade.deploy.onnx_runner import OnnxRunner
from crossfade.deploy.parity import Parity, acceptable, compare
from crossfade.deploy.runner import Shape, TorchRunner, open_runner


class Small(nn.Module):
    """Pictures (B, 1, 1, 8, 8) to three classes."""

    def __init__(self, width: int = 8, hidden: int = 16):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.third = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.Conv2d(2 * width, hidden, 3, 2, 1)
        self.head = nn.Linear(4 * hidden, 3)

    def forward(self, batch):
        x = self.norm(self.first(batch["image"].flatten(0, 1))).relu()
        return {"label": self.head(self.third(self.second(x).relu()).relu().flatten(1)), "embed": x.mean((2, 3))}


class Fixed:
    """A runner with one answer."""

    inputs: dict = {}  # noqa: RUF012

    def __init__(self, **outputs):
        self.answer = {name: np.array(value, np.float32) for name, value in outputs.items()}
        self.outputs = list(outputs)

    def __call__(self, arrays):
        return self.answer


def small(**options) -> Small:
    torch.manual_seed(0)
    made = Small(**options)
    made.norm.running_mean.normal_()
    return made.eval()


def pictures(count: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).normal(size=(count, 1, 1, 8, 8)).astype(np.float32)}


def exported(module: nn.Module, path) -> OnnxRunner:
    return OnnxRunner(export(module, {"image": torch.from_numpy(pictures()["image"])}, path), threads=1)


def test_the_numbers_are_those_worked_out_by_hand():
    a, b = Fixed(y=[[1.0, -4.0], [0.0, 2.0]], tags=[[1.0, -1.0], [2.0, 3.0]]), Fixed(y=[[1.0, -3.0], [0.5, 2.0]], tags=[[1, -1], [2, -0.1]])
    y, tags = compare(a, b, [{}, {}], {"y": "class", "tags": "several"})
    assert (y.output, y.clips, y.max_abs, y.mean_abs) == ("y", 4, 1.0, 0.375)
    assert (y.max_rel, y.mean_rel, y.max_own, y.agree) == (0.25, 0.375 / 4, 0.25, 1.0)
    assert tags.agree == 0.5 and tags.max_abs == pytest.approx(3.1) and tags.max_own == pytest.approx(3.1 / 3)


def test_what_is_finite_on_one_side_alone_is_infinitely_far():
    (same,) = compare(Fixed(y=[[-np.inf, np.nan, 1]]), Fixed(y=[[-np.inf, np.nan, 1]]), [{}], {})
    (apart,) = compare(Fixed(y=[[0.0, 1.0]]), Fixed(y=[[0.0, np.nan]]), [{}], {})
    assert same.max_abs == 0 and same.agree is None and np.isinf(apart.max_rel)
    assert acceptable([same], 1e-4, 1.0) == [] and len(acceptable([apart], 1e-4, 1.0)) == 1


def test_complaints_name_the_output_and_both_numbers():
    far = Parity("emotion", 200, 0.1, 0.01, 3e-3, 1e-3, 0.5, 0.99)
    assert acceptable([far], 1e-4, 1.0) == [
        "emotion: 0.003 of its range apart at most, above 0.0001",
        "emotion: the same decision for 99.00% of 200 clips, below 100.00%",
    ]
    assert acceptable([far], 1e-2, 0.98) == []


def test_outputs_must_meet():
    with pytest.raises(UserError, match="other: no clip has it"):
        compare(Fixed(y=[[1.0]]), Fixed(y=[[1.0]], other=[[1.0]]), [{}], {})
    with pytest.raises(UserError, match="at least one batch"):
        compare(Fixed(y=[[1.0]]), Fixed(y=[[1.0]]), [], {})
    with pytest.raises(UserError, match=r"y: one gives \(1, 1\), the other \(1, 2\)"):
        compare(Fixed(y=[[1.0]]), Fixed(y=[[1.0, 2.0]]), [{}], {})


def test_a_sabotaged_file_is_caught_and_the_layer_named(tmp_path):
    module, path = small(), tmp_path / "small.onnx"
    faithful = compare(TorchRunner(module), exported(module, path), [pictures(), pictures(3, 1)], {"label": "class"})
    assert acceptable(faithful, 1e-5, 1.0) == [] and first_differences(module, path, pictures(), tolerance=1e-5) == []
    model = onnx.load(path)
    weight = next(each for each in model.graph.initializer if each.name.endswith("second.weight"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[3, 2, 1, 1] += 1.0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    parities = compare(TorchRunner(module), OnnxRunner(path), [pictures()], {"label": "class"})
    (complaint, *_) = acceptable(parities, 1e-4, 0.0)
    assert complaint.startswith("label: ") and next(each for each in parities if each.output == "embed").max_rel < 1e-5
    found = first_differences(module, path, pictures(), tolerance=1e-4)
    assert [each.layer for each in found] == ["second", "third", "head"] and str(found[0]).startswith("second (Conv2d, Conv node_")


def test_a_sabotaged_convolution_with_its_norm_folded_in_is_named_by_the_norm(tmp_path):
    module, path = small(), tmp_path / "small.onnx"
    exported(module, path)
    with torch.no_grad():
        module.first.weight[0] += 0.5
    assert [each.layer for each in first_differences(module, path, pictures(), tolerance=1e-4, shown=1)] == ["norm"]


def test_int8_keeps_decisions_and_is_a_quarter_of_the_size(tmp_path):
    module = small(width=32, hidden=256)
    batches = [pictures(32, seed) for seed in range(4)]
    targets = [torch.from_numpy(batch["image"]).flatten(1)[:, :30].unflatten(1, (3, 10)).sum(2).argmax(1) for batch in batches]
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(12):
        for batch, target in zip(batches, targets, strict=True):
            loss = nn.functional.cross_entropy(module({"image": torch.from_numpy(batch["image"])})["label"], target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    runner = exported(module, tmp_path / "a.onnx")
    made = quantise(tmp_path / "a.onnx", tmp_path / "b.onnx", batches)
    (label, _) = compare(runner, OnnxRunner(tmp_path / "b.onnx"), [pictures(200, 9)], {"label": "class"})
    assert made.after < 0.45 * made.before and made.nodes == 4 and not any("Conv" in each or "Gemm" in each for each in made.left_float)
    assert label.agree is not None and label.agree >= 0.95 and label.max_abs > 0
    kept = quantise(tmp_path / "a.onnx", tmp_path / "c.onnx", batches, leave=["second", "head"])
    assert kept.nodes == 2 and {"1 Conv", "1 Gemm"} <= set(kept.left_float)


def test_int8_without_batches_is_refused(tmp_path):
    exported(small(), tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"a\.onnx: int8 needs at least one batch"):
        quantise(tmp_path / "a.onnx", tmp_path / "b.onnx", [])


def test_a_sidecar_comes_back_as_it_was_written(tmp_path):
    parity = Parity("label", 5, 1e-6, 1e-7, 1e-6, 1e-7, 1e-3, 1.0)
    shape = Shape((None, 1, 64, None), "float32", (2, 1, 64, 301))
    wrote = sidecar.Sidecar("onnx", {"audio": shape}, ["label"], {"audio": {"use": "log_mel"}}, "runs/one", parity=[parity])
    path = sidecar.write(wrote, tmp_path / "model.onnx")
    assert path.name == "model.onnx.json" and sidecar.read(tmp_path / "model.onnx") == wrote
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs": 3}))
    with pytest.raises(UserError, match=r"model.onnx.json: outputs: input should be a valid list"):
        sidecar.read(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"not an onnx file", b"\x08\x07" * 40, bytes(range(256)) * 8])
def test_a_file_that_is_no_onnx_is_one_line(content, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.onnx: is not an ONNX model") as caught:
        open_runner(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line(tmp_path):
    exported(small(), tmp_path / "a.onnx")
    whole = (tmp_path / "a.onnx").read_bytes()
    for length in range(0, len(whole), len(whole) // 7):
        (tmp_path / "a.onnx").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.onnx"):
            OnnxRunner(tmp_path / "a.onnx")


def test_the_runner_is_picked_by_suffix_and_what_does_not_fit_is_said(tmp_path):
    runner = exported(small(), tmp_path / "a.onnx")
    assert open_runner(tmp_path / "a.onnx", threads=1).outputs == runner.outputs == ["label", "embed"]
    assert runner.inputs == {"image": Shape((None, 1, 1, 8, 8), "float32", (5, 1, 1, 8, 8))}
    with pytest.raises(UserError, match=r"no runner reads '.tflite'"):
        open_runner(tmp_path / "a.tflite")
    with pytest.raises(UserError, match="no such file"):
        open_runner(tmp_path / "b.onnx")
    with pytest.raises(UserError, match="image: found 1 × 1 × 9 × 8 a clip; it takes 1 × 1 × 8 × 8"):
        runner({"image": np.zeros((2, 1, 1, 9, 8), np.float32)})
    with pytest.raises(UserError, match="image: found uint8; it takes float32"):
        runner({"image": np.zeros((2, 1, 1, 8, 8), np.uint8)})
    with pytest.raises(UserError, match="holds sound; it needs at least one of image"):
        runner({"sound": np.zeros(2)})
    with pytest.raises(UserError, match="takes no mask of image"):
        runner({"image": np.zeros((2, 1, 1, 8, 8), np.float32), "image.mask": np.zeros((2, 1), bool)})
