"""An ONNX file with its convolutions and matrix products in 8 bits, by ONNX Runtime's static quantisation."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade.clip import UserError
from crossfade.deploy.first_difference import layer_of
from crossfade.deploy.onnx_export import quiet
from crossfade.deploy.onnx_runner import OnnxRunner
from crossfade.deploy.runner import completed

if TYPE_CHECKING:
    import numpy as np

KINDS = ("Conv", "Gemm", "MatMul")  # nearly all weights and work; normalisation, softmax and the like lose by 8 bits and gain nothing
MARKS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Quantised:
    """The file, bytes before and after, how many nodes are int8, and what was left in float32: "2 MatMul", "12 LayerNormalization"."""

    path: Path
    before: int
    after: int
    nodes: int
    left_float: list[str]


class _Reader:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]]):
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantise(
    path: Path | str, to: Path | str, batches: Iterable[Mapping[str, np.ndarray]], *, leave: Sequence[str] = (), seven_bits: bool = True
) -> Quantised:
    """Write the exported file at `path` with int8 weights, one scale a channel, and 8-bit activations, whose ranges `batches` show.

    `leave`: layers of the model, by the beginning of their names, that stay as they are, such as a front end. `seven_bits` leaves a bit of
    the weights unused: without it sums overflow on processors that lack VNNI. UserError where the file or a batch does not fit.
    """
    path, to = Path(path), Path(to)
    runner = OnnxRunner(path, threads=1)
    ready = (completed(batch, runner.inputs, path) for batch in batches)
    first = next(ready, None)
    if first is None:
        raise UserError(f"{path}: int8 needs at least one batch to see the ranges of")
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            _quantised(_prepared(path, Path(folder, path.name)), to, _Reader(chain([first], ready)), _named(path, leave), seven_bits)
    except UserError:
        raise
    except Exception as error:  # whatever its steps raise
        raise UserError(f"{path}: cannot be made int8: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    nodes, left = _counted(to)
    return Quantised(to, path.stat().st_size, to.stat().st_size, nodes, left)


def _prepared(path: Path, to: Path) -> Path:
    """With the shapes of all values written out; the exporter has folded what can be."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(path), str(to), skip_optimization=True, skip_symbolic_shape=True)
    return to


def _quantised(path: Path, to: Path, reader: Any, leave: list[str], seven_bits: bool) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(path),
        str(to),
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(KINDS),
        nodes_to_exclude=leave,
        per_channel=True,
        reduce_range=seven_bits,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


def _named(path: Path, leave: Sequence[str]) -> list[str]:
    """The nodes that lie in these layers."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return [node.name for node in nodes if any(f"{layer_of(node)}.".startswith(f"{each}.") for each in leave)]


def _counted(path: Path) -> tuple[int, list[str]]:
    """How many nodes compute on quantised weights, and what the others are."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    made = {value for node in nodes if node.op_type == MARKS[1] for value in node.output}
    within = [node for node in nodes if node.op_type in KINDS and len(node.input) > 1 and {node.input[0], node.input[1]} <= made]
    names = {node.name for node in within}
    rest = Counter(node.op_type for node in nodes if node.op_type not in MARKS and node.name not in names)
    return len(within), [f"{count} {kind}" for kind, count in rest.most_common()]
