"""What the tests of exports share: an exported module answers as the module itself, at other sizes than it was exported with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from crossfade.deploy.onnx_export import export
from crossfade.deploy.onnx_runner import OnnxRunner
from crossfade.deploy.parity import acceptable, compare
from crossfade.deploy.runner import MASK, TIME, TorchRunner

TOLERANCE = 1e-4
Batch = dict[str, np.ndarray]


def batch_of(shapes: Mapping[str, tuple[int, ...]], clips: int, *, seed: int = 0, shorter: float = 1.0, free: Mapping[str, bool]) -> Batch:
    """Random streams and masks: clips of falling length; streams in `free` are `shorter`.

    The last clip is padding throughout in the last stream.
    """
    generator, batch = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        axis, sizes = TIME[len(shape) + 1], list(shape)
        steps = max(round(sizes[axis - 1] * (shorter if free[name] else 1.0)), 1)
        sizes[axis - 1] = steps
        batch[name] = generator.normal(size=(clips, *sizes)).astype(np.float32)
        lengths = np.ceil(steps * np.linspace(1, 0 if name == [*shapes][-1] else 0.3, clips)).astype(int)
        batch[name + MASK] = np.arange(steps) < lengths[:, None]
    return batch


def check(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], free: Mapping[str, bool], folder: Path) -> OnnxRunner:
    """Exported with two clips, it agrees on five, which in free streams are shorter, and on each with a stream missing."""
    fixed = [name for name, any_length in free.items() if not any_length]
    example = {name: torch.from_numpy(array) for name, array in batch_of(shapes, 2, free=free).items()}
    runner = OnnxRunner(export(module, example, folder / "model.onnx", fixed=fixed), threads=1)
    batches = [batch_of(shapes, 5, seed=1, shorter=0.7, free=free), batch_of(shapes, 1, seed=2, free=free)]
    both = compare(TorchRunner(module), runner, batches + lacking(batches[0], list(shapes)), {})
    assert acceptable(both, TOLERANCE, 1.0) == [] and {each.output for each in both} == set(runner.outputs)
    return runner


def lacking(batch: Batch, streams: list[str]) -> list[Batch]:
    """The batch without each stream in turn, where another is left; and without clips that then have nothing."""
    found = [{name: array for name, array in batch.items() if name.removesuffix(MASK) != each} for each in streams[1:] and streams]
    return [{name: array[_have_something(each)] for name, array in each.items()} for each in found]


def _have_something(batch: Batch) -> np.ndarray:
    return np.any([array.any(1) for name, array in batch.items() if name.endswith(MASK)], axis=0)
