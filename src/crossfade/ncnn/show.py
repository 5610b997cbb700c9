"""A network of ncnn as a table: what each layer takes, makes, holds and costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from crossfade.clip import UserError
from crossfade.ncnn.graph import Layer, Value
from crossfade.ncnn.kinds import by_name, complete, known
from crossfade.ncnn.model import Model
from crossfade.ncnn.weights import owned

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One layer. Shapes are without the batch, the outermost axis first, (C, H, W); None = not known, and then no cost either."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    parameters: dict[str, Value]
    weights: int | None
    multiply_adds: int | None


def show(model: Model, shapes: dict[str, Shape] | None = None) -> list[Row]:
    """A row a layer. `shapes`: input blob -> (C, H, W), for inputs of which the file itself says no shape or another one is wanted.

    Nothing is computed: the weights need not be there, and layers of unknown kind are rows too.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    blobs = input_shapes(model, shapes or {})
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        return [_row(model, layer, blobs, counter) for layer in model.graph.layers]


def input_shapes(model: Model, given: dict[str, Shape]) -> dict[str, Shape]:
    """Input blob -> shape, as given or as the Input layer says; an input of which neither is known is absent."""
    graph = model.graph
    if strange := sorted(set(given) - set(graph.inputs)):
        raise UserError(f"{graph.source}: has no input {strange[0]}; its inputs are {', '.join(graph.inputs)}")
    found: dict[str, Shape] = {}
    for layer in graph.layers:
        if layer.kind == "Input":
            p = complete(graph, layer)
            said = tuple(size for size in (p.c, p.d, p.h, p.w) if size > 0)
            found |= {blob: shape for blob in layer.outputs if (shape := given.get(blob, said))}
    return found


def _row(model: Model, layer: Layer, blobs: dict[str, Shape], counter: FlopCounterMode) -> Row:
    before = counter.get_total_flops()
    run = layer.kind != "Input" and _run(model, layer, blobs)
    multiply_adds = (counter.get_total_flops() - before) // 2 if run else None
    made = tuple(blobs.get(name) for name in layer.outputs)
    weights = sum(prod(weight.shape) for weight in owned(model.graph, layer)) if known(layer.kind) else None
    return Row(layer.name, layer.kind, layer.inputs, layer.outputs, made, by_name(layer), weights, multiply_adds)


def _run(model: Model, layer: Layer, blobs: dict[str, Shape]) -> bool:
    """Put the shapes that a layer makes into `blobs`; False where its kind or the shape of an input is not known."""
    from crossfade.ncnn.convert import MAKERS, apply, module_of

    if layer.kind not in MAKERS or not all(name in blobs for name in layer.inputs):
        return False
    module = module_of(Model(model.graph), layer).eval().requires_grad_(False)
    made = apply(model.graph, layer, module, [_meta(model, layer, blobs[name]) for name in layer.inputs], 1)
    blobs.update({name: tuple(x.shape[1:]) for name, x in zip(layer.outputs, made, strict=True)})
    return True


def _meta(model: Model, layer: Layer, shape: Shape) -> Tensor:
    import torch

    try:
        return torch.empty(1, *shape, device="meta")
    except RuntimeError:
        raise UserError(f"{model.graph.where(layer)}: an input of the shape {shape} is larger than any") from None
