"""A network of ncnn as a trainable module: one module a layer, joined as the graph says."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.ncnn import activations, arithmetic, attention, convolutions, normalisations, pooling, resampling, shapes
from crossfade.ncnn.activations import Operation
from crossfade.ncnn.convolutions import Arrays
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.kinds import complete
from crossfade.ncnn.model import Model
from crossfade.ncnn.weights import owned

Maker = Callable[[SimpleNamespace, Arrays, Layer], nn.Module]


def _with_weights(make: Callable[[SimpleNamespace, Arrays], nn.Module]) -> Maker:
    return lambda p, arrays, layer: make(p, arrays)


def _without(make: Callable[[SimpleNamespace], nn.Module]) -> Maker:
    return lambda p, arrays, layer: make(p)


def _plain(make: Callable[[], nn.Module]) -> Maker:
    return lambda p, arrays, layer: make()


MAKERS: dict[str, Maker] = {
    "AbsVal": _plain(lambda: Operation(torch.abs)),
    "BatchNorm": _with_weights(normalisations.BatchNorm),
    "Bias": _with_weights(normalisations.Bias),
    "BinaryOp": _without(arithmetic.binary),
    "BNLL": _plain(nn.Softplus),
    "CELU": _without(lambda p: nn.CELU(p.alpha)),
    "Clip": _without(lambda p: activations.clip(p.min, p.max)),
    "Concat": _without(shapes.concat),
    "Convolution": _with_weights(convolutions.Convolution),
    "Convolution1D": _with_weights(convolutions.Convolution1D),
    "ConvolutionDepthWise": _with_weights(convolutions.Convolution),
    "ConvolutionDepthWise1D": _with_weights(convolutions.Convolution1D),
    "Crop": _without(shapes.crop),
    "Deconvolution": _with_weights(convolutions.Deconvolution),
    "DeconvolutionDepthWise": _with_weights(convolutions.Deconvolution),
    "Dropout": _without(lambda p: nn.Identity() if p.scale == 1 else Operation(lambda x: x * p.scale)),
    "Eltwise": _without(arithmetic.eltwise),
    "ELU": _without(lambda p: nn.ELU(p.alpha)),
    "Erf": _plain(lambda: Operation(torch.erf)),
    "ExpandDims": _without(shapes.expand_dims),
    "Flatten": _plain(nn.Flatten),
    "GELU": _without(lambda p: nn.GELU("tanh" if p.fast_gelu else "none")),
    "GLU": _without(lambda p: activations.glu(p.axis)),
    "Gemm": _with_weights(arithmetic.Gemm),
    "GroupNorm": _with_weights(normalisations.group_norm),
    "HardSigmoid": _without(lambda p: activations.hard_sigmoid(p.alpha, p.beta)),
    "HardSwish": _without(lambda p: activations.hard_swish(p.alpha, p.beta)),
    "InnerProduct": _with_weights(convolutions.InnerProduct),
    "InstanceNorm": _with_weights(normalisations.instance_norm),
    "Interp": _without(resampling.interp),
    "LayerNorm": _with_weights(normalisations.layer_norm),
    "LRN": _with_weights(normalisations.LocalResponseNorm),
    "MatMul": _without(arithmetic.matmul),
    "MemoryData": _with_weights(shapes.Memory),
    "Mish": _plain(nn.Mish),
    "MultiHeadAttention": _with_weights(attention.MultiHeadAttention),
    "Noop": lambda p, arrays, layer: shapes.passed_on(len(layer.outputs)),
    "Padding": _with_weights(resampling.Padding),
    "Permute": _without(shapes.permute),
    "PixelShuffle": _without(shapes.pixel_shuffle),
    "Pooling": _with_weights(pooling.Pooling),
    "Pooling1D": _with_weights(pooling.Pooling1D),
    "Power": _without(activations.power),
    "PReLU": _with_weights(normalisations.prelu),
    "Reduction": _without(arithmetic.reduction),
    "ReLU": _without(lambda p: activations.relu(p.slope)),
    "Reshape": _without(shapes.reshape),
    "RMSNorm": _with_weights(normalisations.rms_norm),
    "Scale": _with_weights(normalisations.Scale),
    "SDPA": _with_weights(attention.ScaledDotProduct),
    "SELU": _without(activations.selu),
    "ShuffleChannel": _without(shapes.shuffle_channel),
    "Sigmoid": _plain(nn.Sigmoid),
    "Slice": lambda p, arrays, layer: shapes.slices(p, len(layer.outputs)),
    "Softmax": _without(arithmetic.softmax),
    "Softplus": _plain(nn.Softplus),
    "Split": lambda p, arrays, layer: shapes.split(len(layer.outputs)),
    "Squeeze": _without(shapes.squeeze),
    "Swish": _plain(nn.SiLU),
    "TanH": _plain(nn.Tanh),
    "UnaryOp": _without(activations.unary),
}


class Network(nn.Module):
    """The whole network. {input blob: (B, …)} -> {output blob: (B, …)}; axes after the batch as ncnn has them, (C, H, W) for an image.

    The modules stand under `layers` by the layers' names, letters other than those of Python names replaced by _.
    """

    def __init__(self, graph: Graph, modules: dict[str, nn.Module]):
        super().__init__()
        self.graph = graph
        self.keys = module_keys(modules)
        self.layers = nn.ModuleDict({self.keys[name]: module for name, module in modules.items()})

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.graph.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.graph.outputs

    def forward(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        blobs = self.given(named)
        batch = next(iter(blobs.values())).shape[0]
        for layer in self.graph.layers:
            if layer.kind != "Input":
                module = self.layers[self.keys[layer.name]]
                made = apply(self.graph, layer, module, [blobs[name] for name in layer.inputs], batch)
                blobs.update(zip(layer.outputs, made, strict=True))
        return {name: blobs[name] for name in self.graph.outputs}

    def given(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        if set(named) != set(self.graph.inputs):
            raise UserError(
                f"{self.graph.source}: takes the inputs {', '.join(self.graph.inputs)}, but was given {', '.join(named) or 'none'}"
            )
        return {name: named[name] for name in self.graph.inputs}


def apply(graph: Graph, layer: Layer, module: nn.Module, inputs: list[Tensor], batch: int) -> list[Tensor]:
    """What a layer makes of its inputs; UserError names the layer where they do not fit."""
    try:
        made = module(*inputs)
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
        found = ", ".join(f"{name} {tuple(x.shape[1:])}" for name, x in zip(layer.inputs, inputs, strict=True))
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{graph.where(layer)}: does not fit its inputs {found or '(none)'}: {reason}") from error
    outputs = [made] if isinstance(made, Tensor) else list(made)
    if len(outputs) != len(layer.outputs):
        raise UserError(f"{graph.where(layer)}: makes {len(outputs)} blobs, but names {len(layer.outputs)}")
    return outputs if layer.inputs else [x.expand(batch, *x.shape[1:]) for x in outputs]


def module_keys(modules: dict[str, nn.Module]) -> dict[str, str]:
    """Layer name -> a name that a module may have, each its own."""
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in modules:
        key = re.sub(r"\W", "_", name)
        key = f"{key}_" if hasattr(nn.ModuleDict, key) else key
        while key in taken:
            key += "_"
        taken.add(key)
        keys[name] = key
    return keys


def to_torch(model: Model) -> Network:
    """The trainable module. Without weights it is on the meta device: shapes alone. UserError names a layer that is not known."""
    layers = [layer for layer in model.graph.layers if layer.kind != "Input"]
    return Network(model.graph, {layer.name: module_of(model, layer) for layer in layers})


def module_of(model: Model, layer: Layer) -> nn.Module:
    where = model.graph.where(layer)
    if layer.kind not in MAKERS:
        raise UserError(f"{where}: is an unknown kind of layer; known are {', '.join(MAKERS)}")
    parameters, arrays = complete(model.graph, layer), arrays_of(model, layer)
    try:
        module = MAKERS[layer.kind](parameters, arrays, layer)
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())[:300]}") from None
    return module


def arrays_of(model: Model, layer: Layer) -> Arrays:
    if model.weights is not None:
        return {name: torch.from_numpy(array).clone() for name, array in model.weights.get(layer.name, {}).items()}
    return {
        weight.name: _empty(model.graph, layer, weight.shape) for weight in owned(model.graph, layer) if not weight.name.endswith("scale")
    }


def _empty(graph: Graph, layer: Layer, shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.empty(shape, device="meta")
    except RuntimeError:
        raise UserError(f"{graph.where(layer)}: a weight of the shape {shape} is larger than any") from None
