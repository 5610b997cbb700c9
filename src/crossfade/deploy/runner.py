"""What runs a model, wherever it lives: named arrays in, named arrays out, float32 and batch first."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from crossfade.clip import UserError
from crossfade.settings import nearest

if TYPE_CHECKING:
    from torch import nn

MASK = ".mask"
TIME = {2: 1, 4: 3, 5: 1}  # axes of an input -> its axis of time: (B, N), (B, 1, M, T), (B, T, C, H, W)
RUNNERS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # suffix -> module, class, suffixes of the files that belong to it
    ".onnx": ("crossfade.deploy.onnx_runner", "OnnxRunner", ()),
    ".param": ("crossfade.deploy.ncnn_runner", "NcnnRunner", (".bin",)),
}


@dataclass(frozen=True)
class Shape:
    """Of an input: its sizes, batch first (None = any), what NumPy calls its numbers, and the sizes it was exported with, if known."""

    sizes: tuple[int | None, ...]
    dtype: str = "float32"
    usual: tuple[int, ...] = ()


class Runner(Protocol):
    """Named arrays to named arrays. `inputs` says what it takes: "<stream>" and "<stream>.mask"."""

    inputs: dict[str, Shape]
    outputs: list[str]

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


class TorchRunner:
    """A module of named tensors, in eval mode on a device. `outputs` are those it is asked for; empty: all."""

    def __init__(self, module: nn.Module, device: str = "cpu", *, inputs: Mapping[str, Shape] | None = None, outputs: Sequence[str] = ()):
        self.module, self.device = module.eval().to(device), device
        self.inputs, self.outputs = dict(inputs or {}), list(outputs)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"audio": (B, …), "audio.mask": (B, T)} -> {"emotion": (B, C)}"""
        import torch

        with torch.inference_mode():
            found = self.module({name: torch.from_numpy(np.array(array)).to(self.device) for name, array in arrays.items()})
        return {name: found[name].float().cpu().numpy() for name in self.outputs or found if name in found}


def open_runner(path: Path | str, **options: Any) -> Runner:
    """The runner of an exported file, by its suffix. UserError."""
    path = Path(path)
    if path.suffix not in RUNNERS:
        raise UserError(f"{path}: no runner reads {path.suffix or 'a file without a suffix'!r}; {nearest(path.suffix, RUNNERS)}")
    module, name, others = RUNNERS[path.suffix]
    files = [path, *(path.with_suffix(suffix) for suffix in others)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file")
    return getattr(importlib.import_module(module), name)(*files, **options)


def completed(arrays: Mapping[str, np.ndarray], inputs: Mapping[str, Shape], where: object) -> dict[str, np.ndarray]:
    """All inputs, in order: a stream that the batch lacks is zeros under a mask all False, a mask that it lacks is all True. UserError.

    What a batch holds besides (labels, numbers) is left aside.
    """
    given = [name for name in inputs if name in arrays and not name.endswith(MASK)]
    if not given:
        raise UserError(f"{where}: the batch holds {', '.join(arrays) or 'nothing'}; it needs at least one of {', '.join(inputs)}")
    for name in given:
        if f"{name}{MASK}" not in inputs and not np.all(arrays.get(f"{name}{MASK}", True)):
            raise UserError(f"{where}: it takes no mask of {name}, but the batch has padding there; export it with masks")
    count = len(arrays[given[0]])
    return {name: _input(name, inputs, arrays, count, where) for name in inputs}


def _input(name: str, inputs: Mapping[str, Shape], arrays: Mapping[str, np.ndarray], count: int, where: object) -> np.ndarray:
    stream, shape = name.removesuffix(MASK), inputs[name]
    if stream in arrays:
        return _fitted(name, shape, arrays[name] if name in arrays else _all_real(arrays[stream]), where)
    usual = shape.usual or shape.sizes
    sizes = [want or have for want, have in zip(shape.sizes[1:], usual[1:], strict=True)]
    if f"{stream}{MASK}" not in inputs or None in sizes:
        raise UserError(f"{where}: the batch lacks {stream}, and the file has no mask, or no usual size, to say so with")
    return np.zeros((count, *sizes), shape.dtype)  # type: ignore[arg-type]


def _all_real(x: np.ndarray) -> np.ndarray:
    return np.ones((len(x), x.shape[TIME[x.ndim]]), bool)


def _fitted(name: str, shape: Shape, array: np.ndarray, where: object) -> np.ndarray:
    """The array where it is what the file takes; the batch may be any. UserError."""
    wanted = shape.sizes[1:]
    fits = array.ndim == len(shape.sizes) and all(want in (None, have) for want, have in zip(wanted, array.shape[1:], strict=True))
    if not fits:
        sizes = " × ".join("any" if size is None else str(size) for size in wanted)
        raise UserError(f"{where}: {name}: found {' × '.join(map(str, array.shape[1:]))} a clip; it takes {sizes}")
    if array.dtype.kind != np.dtype(shape.dtype).kind:
        raise UserError(f"{where}: {name}: found {array.dtype}; it takes {shape.dtype}")
    return np.ascontiguousarray(array, shape.dtype)
