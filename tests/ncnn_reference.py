"""ncnn itself, in plain float32, as what our import has to equal; and networks of one layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import ncnn
import numpy as np
import pytest
import torch

from crossfade.ncnn.graph import Graph, Layer, Value
from crossfade.ncnn.weights import owned
from crossfade.ncnn.write import layer, write_param, write_weights

EXACT = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed", "packing_layout", "winograd_convolution")


def answers(param: Path, weights: Path, named: Mapping[str, torch.Tensor], outputs: Iterable[str]) -> dict[str, np.ndarray]:
    """What ncnn makes of one example without a batch."""
    net = ncnn.Net()  # pyright: ignore[reportAttributeAccessIssue]
    for name in EXACT:
        setattr(net.opt, f"use_{name}", False)
    net.opt.num_threads, net.opt.lightmode = 1, False
    load = net.load_param_bin if param.name.endswith(".bin") else net.load_param
    assert load(str(param)) == 0 and net.load_model(str(weights)) == 0
    extractor, held = net.create_extractor(), []
    for name, tensor in named.items():
        array = np.array(tensor.numpy(), np.float32, order="C")
        held += [array, ncnn.Mat(array).clone()]  # pyright: ignore[reportAttributeAccessIssue]
        assert extractor.input(name, held[-1]) == 0
    found = {}
    for name in outputs:
        code, mat = extractor.extract(name)
        assert code == 0, f"ncnn answers {code} for {name}"
        found[name] = np.array(mat).copy()
    return found


def one_layer(kind: str, inputs: int, outputs: int = 1, **named: Value) -> Graph:
    """Inputs a, b, …, one layer, outputs y0, y1, …"""
    letters = [chr(ord("a") + number) for number in range(inputs)]
    layers: list[Layer] = [layer("Input", f"input_{letter}", (), (letter,)) for letter in letters]
    made = layer(kind, "layer", tuple(letters), tuple(f"y{number}" for number in range(outputs)), **named)
    return Graph("one layer", (*layers, made))


def same_numbers(one: Graph, other: Graph) -> None:
    """The same kinds with the same parameters, floats to what text keeps of them."""
    assert [made.kind for made in one.layers] == [made.kind for made in other.layers]
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        assert mine.numbers.keys() == theirs.numbers.keys()
        for number, value in mine.numbers.items():
            assert value == theirs.numbers[number] or value == pytest.approx(theirs.numbers[number])


def random_weights(graph: Graph, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Uniform in -1 to 1; variances and scales in 0.5 to 1.5."""
    generator = np.random.default_rng(seed)
    weights: dict[str, dict[str, np.ndarray]] = {}
    for made in graph.layers:
        for weight in owned(graph, made):
            low = 0.5 if "var" in weight.name or "scale" in weight.name else -1
            array = generator.uniform(low, 1.5 if low > 0 else 1, weight.shape).astype(np.float32)
            weights.setdefault(made.name, {})[weight.name] = array
    return weights


def written(folder: Path, graph: Graph, weights: dict[str, dict[str, np.ndarray]], storage: str = "float32") -> tuple[Path, Path]:
    param, binary = folder / "net.param", folder / "net.bin"
    write_param(graph, param)
    write_weights(graph, weights, binary, storage=storage)
    return param, binary
