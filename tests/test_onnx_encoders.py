"""Every encoder of the table as ONNX: other batches and, where it takes any, other lengths than it was exported with; with padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_parity import check
from test_contracts import CASES, SIZES, TIME, built
from torch import nn

from crossfade.clip import UserError
from crossfade.deploy.onnx_export import export
from crossfade.deploy.onnx_runner import OnnxRunner
from crossfade.deploy.runner import TorchRunner
from crossfade.models.audio import light_cnn


class Alone(nn.Module):
    """An encoder as a model of one stream."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, batch):
        x, mask = self.encoder(batch["clip"], batch.get("clip.mask"))
        return {"x": x} if mask is None else {"x": x, "real": mask.float()}


def torch_of(module: nn.Module, x: np.ndarray) -> np.ndarray:
    return TorchRunner(module)({"clip": x})["x"]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_encoder_answers_as_onnx_as_it_does_here(name: str, options: dict, tmp_path):
    encoder = built(name, options)
    axis = TIME[len(encoder.spec.shape)]
    shape = tuple(want or have for want, have in zip(encoder.spec.shape, SIZES[len(encoder.spec.shape)], strict=True))
    free = encoder.spec.shape[axis] is None
    runner = check(Alone(encoder), {"clip": shape}, {"clip": free}, tmp_path)
    sizes = [size for number, size in enumerate(runner.inputs["clip"].sizes[1:]) if number != axis]
    assert runner.inputs["clip"].sizes[0] is None and (runner.inputs["clip"].sizes[1 + axis] is None) == free
    assert sizes == [size for number, size in enumerate(shape) if number != axis]


def test_a_fixed_export_runs_clip_after_clip_and_takes_no_mask_that_says_something(tmp_path):
    module = Alone(light_cnn(width=6, tokens=2)).eval()
    x = np.random.default_rng(0).normal(size=(3, 1, 16, 40)).astype(np.float32)
    runner = OnnxRunner(export(module, {"clip": torch.from_numpy(x)}, tmp_path / "model.onnx", dynamic=False), threads=1)
    assert runner.inputs["clip"].sizes == (1, 1, 16, 40) and runner.outputs == ["x"]
    np.testing.assert_allclose(runner({"clip": x})["x"], torch_of(module, x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(runner({"clip": x, "clip.mask": np.ones((3, 40), bool)})["x"], torch_of(module, x), rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="takes no mask of clip"):
        runner({"clip": x, "clip.mask": np.zeros((3, 40), bool)})


def test_exporting_says_nothing_leaves_the_mode_alone_and_refuses_names_that_are_not_there(tmp_path, capfd):
    module = Alone(light_cnn(width=6)).train()
    example = {"clip": torch.zeros(1, 1, 16, 40)}
    export(module, example, tmp_path / "model.onnx")
    assert module.training and module.encoder.stages[0].training and capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match="there is no output 'y'; the model gives x"):
        export(module, example, tmp_path / "other.onnx", outputs=["y"])


class Branching(Alone):
    """What it does depends on what it sees."""

    def forward(self, batch):
        return super().forward(batch) if batch["clip"].sum() > 0 else {"x": batch["clip"]}


def test_what_cannot_be_exported_is_one_line(tmp_path):
    with pytest.raises(UserError, match="this model cannot be exported to ONNX: ") as caught:
        export(Branching(light_cnn(width=6)), {"clip": torch.ones(2, 1, 16, 40)}, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value) and not (tmp_path / "model.onnx").exists()
