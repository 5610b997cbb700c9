"""An ONNX file run by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crossfade.clip import UserError
from crossfade.deploy.runner import Shape, completed

USUAL = "crossfade.usual"  # in the file's metadata: the sizes it was exported with, by input
DTYPES = {  # ONNX Runtime's names -> NumPy's
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


class OnnxRunner:
    """An ONNX file; `threads` None: as many as there are cores. UserError where the file is none or is damaged.

    A file of a fixed batch of one runs clip after clip. The outputs of a single stream are there whether the clip has it or not.
    """

    def __init__(self, path: Path | str, threads: int | None = None):
        self.path, self._session = Path(path), _session(Path(path), threads)
        usual = _usual(self._session)
        self.inputs = {each.name: _shape(self.path, each, usual.get(each.name, ())) for each in self._session.get_inputs()}
        self.outputs = [each.name for each in self._session.get_outputs()]

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"audio": (B, …), "audio.mask": (B, T)} -> {"emotion": (B, C)}"""
        given = completed(arrays, self.inputs, self.path)
        if any(shape.sizes[0] == 1 for shape in self.inputs.values()):
            found = [self._run({name: array[row : row + 1] for name, array in given.items()}) for row in range(len(_first(given)))]
            return {name: np.concatenate([each[name] for each in found]) for name in self.outputs}
        return self._run(given)

    def _run(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            found: Any = self._session.run(None, given)
        except Exception as error:  # ONNX Runtime has exceptions of its own for each kind of failure
            raise UserError(f"{self.path}: cannot be run on this batch: {_line(error)}") from None
        return {name: np.asarray(array, np.float32) for name, array in zip(self.outputs, found, strict=True)}


def _session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("running ONNX needs onnxruntime, which is not installed: pip install crossfade[onnx]") from error
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is fatal is raised besides
    options.intra_op_num_threads, options.inter_op_num_threads = threads or 0, 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # damaged files make ONNX Runtime raise nearly anything
        raise UserError(f"{path}: is not an ONNX model that ONNX Runtime can run: {_line(error)}") from None


def _usual(session: Any) -> dict[str, tuple[int, ...]]:
    """What the export noted; nothing where the file is from elsewhere."""
    try:
        noted = json.loads(session.get_modelmeta().custom_metadata_map.get(USUAL, "{}"))
        return {name: tuple(int(size) for size in sizes) for name, sizes in noted.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def _shape(path: Path, found: Any, usual: tuple[int, ...]) -> Shape:
    if found.type not in DTYPES:
        raise UserError(f"{path}: input {found.name} is a {found.type}; one of {', '.join(DTYPES)} is right")
    sizes = tuple(size if isinstance(size, int) and size > 0 else None for size in found.shape)
    return Shape(sizes, DTYPES[found.type], usual if len(usual) == len(sizes) else ())


def _first(given: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(given.values()))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
