"""Runs a file of ncnn: named arrays in, named arrays out, one clip after another."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crossfade.clip import UserError
from crossfade.deploy.runner import MASK, Shape, completed
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.kinds import complete
from crossfade.ncnn.text_param import read

EACH, ALL = ".each", ".all"  # "video" is one picture, "video.each" its tokens; those of all pictures go in again as "video.all"
HALF = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage")  # ncnn's options that compute in 16 bits
PHONE = ("fp16_packed", "fp16_storage", "fp16_arithmetic")
LOADING = threading.Lock()


class NcnnRunner:
    """A Runner of a .param and its .bin. Computes in float32; with `fp16` in float16 wherever ncnn can here, as on a phone.

    A stream that the file looks at picture by picture ("video" -> "video.each") is run once a picture, and goes on as "video.all".
    """

    def __init__(self, param: Path | str, weights: Path | str, *, threads: int | None = None, fp16: bool = False):
        self.where, graph = str(param), read(Path(param))
        self.held = {each.outputs[0]: _held(graph, each) for each in graph.layers if each.kind == "Input"}
        self.single = [name for name in self.held if name + ALL in self.held and name + EACH in graph.blobs]
        inner = {name + ALL for name in self.single}
        self.inputs = {
            each.outputs[0]: _shape(graph, each) for each in graph.layers if each.kind == "Input" and each.outputs[0] not in inner
        }
        self.outputs = [name for name in graph.outputs if name.removesuffix(EACH) not in self.single]
        with LOADING:
            self.net = _net(Path(param), Path(weights), threads, fp16)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"audio": (B, …)} -> {"emotion": (B, C)}"""
        given = completed(arrays, self.inputs, self.where)
        clips = [self._clip({name: array[number] for name, array in given.items()}) for number in range(len(next(iter(given.values()))))]
        return {name: np.stack([clip[name] for clip in clips]) for name in self.outputs}

    def _clip(self, clip: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens = {name + ALL: self._pictures(name, clip[name]) for name in self.single}
        whole = {name: array for name, array in clip.items() if name not in self.single}
        return self._answers(whole | tokens, self.outputs)

    def _pictures(self, name: str, clip: np.ndarray) -> np.ndarray:
        """(T, C, H, W) -> the tokens of all pictures, (N, D)"""
        return np.concatenate(
            [self._answers({name: picture}, [name + EACH])[name + EACH].reshape(-1, self.held[name + ALL][-1]) for picture in clip]
        )

    def _answers(self, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        extractor = self.net.create_extractor()
        mats = {name: _mat(np.asarray(array, np.float32).reshape(self.held[name])) for name, array in inputs.items()}
        for name, mat in mats.items():
            self._done(extractor.input(name, mat), name)
        return {name: self._found(extractor, name) for name in outputs}

    def _found(self, extractor: Any, name: str) -> np.ndarray:
        code, mat = extractor.extract(name)
        self._done(code, name)
        return np.array(mat, np.float32)

    def _done(self, code: int, name: str) -> None:
        if code:
            raise UserError(f"{self.where}: ncnn fails at {name} (code {code})")


def _net(param: Path, weights: Path, threads: int | None, fp16: bool) -> Any:
    import_ncnn()
    import ncnn

    net: Any = ncnn.Net()  # pyright: ignore[reportAttributeAccessIssue]
    for name in HALF:
        setattr(net.opt, f"use_{name}", fp16 and name in PHONE)
    if threads is not None:
        net.opt.num_threads = threads
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise UserError(f"{param}: ncnn cannot load it with {weights}; they are damaged or do not belong together")
    return net


def import_ncnn() -> None:
    """UserError where it is not installed."""
    try:
        import ncnn  # noqa: F401
    except ImportError as error:
        raise UserError("running a .param needs ncnn, which is not installed: pip install crossfade[ncnn]") from error


def _mat(array: np.ndarray) -> Any:
    """With its own memory: ncnn's would only borrow the array's."""
    import ncnn

    return ncnn.Mat(np.ascontiguousarray(array)).clone()  # pyright: ignore[reportAttributeAccessIssue]


def _held(graph: Graph, each: Layer) -> tuple[int, ...]:
    """The blob's shape; -1 where the file does not say."""
    p = complete(graph, each)
    return tuple(size for size in (p.c, p.d, p.h, p.w) if size) or (-1,)


def _shape(graph: Graph, each: Layer) -> Shape:
    """Of a batch: by the name that `ncnn_export` gives, "video:8x3x96x96", else as the blob's."""
    found = re.fullmatch(r".+:(\d+(?:x\d+)*)", each.name)
    held = _held(graph, each)
    sizes = tuple(map(int, found[1].split("x"))) if found else tuple(None if size < 0 else size for size in held)
    return Shape((None, *sizes), "bool" if each.outputs[0].endswith(MASK) else "float32")
