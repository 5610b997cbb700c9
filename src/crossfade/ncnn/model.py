"""A network of ncnn read from its two files: the graph, and the weights where they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossfade.ncnn import binary_param, text_param
from crossfade.ncnn.graph import Graph

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Model:
    """`weights`: layer name -> array name -> float32, outputs first (a Deconvolution's too); None where only the .param was read."""

    graph: Graph
    weights: dict[str, dict[str, np.ndarray]] | None = None


def read(param: Path, weights: Path | None = None) -> Model:
    """Read a .param (text) or .param.bin, and the .bin of its weights; UserError in one line where either is malformed."""
    graph = binary_param.read(param) if param.name.endswith(".bin") else text_param.read(param)
    if weights is None:
        return Model(graph)
    from crossfade.ncnn.weights import read as read_weights

    return Model(graph, read_weights(weights, graph))


def weights_beside(param: Path) -> Path:
    """Where the weights of a .param or .param.bin lie by custom: net.param -> net.bin, net.param.bin -> net.bin."""
    return param.with_name(param.name.removesuffix(".bin").removesuffix(".param") + ".bin")
