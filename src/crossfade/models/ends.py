"""What goes into a network of ncnn, and how it ends: the picture that it takes, and the classifier that it is, if it is one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from crossfade.clip import UserError
from crossfade.ncnn.convert import MAKERS, apply, module_of
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.kinds import complete
from crossfade.ncnn.model import Model
from crossfade.ncnn.show import Shape, input_shapes

USUAL = 224  # pixels a side where neither the file nor the options say any
OTHER = 32  # pixels more, to see whether another size fits too
CHANNELS = (3, 1)  # tried in this order where the file does not say how many
SQUASHES = {"Softmax", "Sigmoid"}  # what makes probabilities of scores
PASSED = {"Softmax", "Sigmoid", "Flatten", "Reshape", "Squeeze", "ExpandDims", "Noop", "Split"}  # keep the values of a vector in order
FUSED_SIGMOID = 4  # activation_type


@dataclass(frozen=True)
class Picture:
    """What a network takes: its channels, the side in pixels it was made for (None: not known), and the only side (None: any will do).

    `shapes`: blob -> shape, as it is for pictures of `side`; blobs that come after a layer of an unknown kind are not there.
    """

    channels: int
    side: int
    made_for: int | None
    only: int | None
    shapes: dict[str, Shape]


def picture_of(graph: Graph, size: int | None) -> Picture:
    """As the Input layer or `size` says, or as is found by trying. UserError for what is not one picture."""
    if len(graph.inputs) != 1:
        raise UserError(f"{graph.source}: takes {len(graph.inputs)} inputs ({', '.join(graph.inputs)}); an encoder takes one picture")
    said = input_shapes(Model(graph), {}).get(graph.inputs[0])
    if said is not None and len(said) != 3:
        raise UserError(f"{graph.source}: takes a blob of the shape {said}; an encoder takes a picture (channels, height, width)")
    if said and said[1] != said[2] and size is None:
        raise UserError(f"{graph.source}: is made for pictures of {said[2]} × {said[1]} pixels, but ours are square; give a size")
    made_for = size or (said[1] if said else None)
    side = made_for or USUAL
    tried = [(channels, side, side) for channels in ([said[0]] if said else CHANNELS)]
    channels, shapes = _first_that_fits(graph, tried, hint="" if made_for else "; give the size it is made for")
    rigid = not _fits_alike(graph, shapes, (channels, side + OTHER, side + OTHER))
    return Picture(channels, side, side if rigid else made_for, side if rigid else None, shapes)


def shapes_of(graph: Graph, picture: Shape) -> dict[str, Shape]:
    """Blob -> its shape for one picture, as far as the kinds of layers are known."""
    blobs = {graph.inputs[0]: torch.empty(1, *picture, device="meta")}
    with torch.no_grad():
        for layer in graph.layers:
            if layer.kind in MAKERS and blobs.keys() >= set(layer.inputs):
                module = module_of(Model(graph), layer).eval()
                made = apply(graph, layer, module, [blobs[name] for name in layer.inputs], 1)
                blobs.update(zip(layer.outputs, made, strict=True))
    return {blob: tuple(x.shape[1:]) for blob, x in blobs.items()}


def _first_that_fits(graph: Graph, tried: Sequence[Shape], hint: str) -> tuple[int, dict[str, Shape]]:
    """The channels of the first shape that the network runs on, and the shapes of its blobs."""
    *others, last = tried
    for shape in others:
        with contextlib.suppress(UserError):
            return shape[0], shapes_of(graph, shape)
    try:
        return last[0], shapes_of(graph, last)
    except UserError as error:
        raise UserError(f"{error}{hint}") from None


def _fits_alike(graph: Graph, usual: dict[str, Shape], picture: Shape) -> bool:
    """Whether pictures of another size give outputs of the same shapes."""
    try:
        other = shapes_of(graph, picture)
    except UserError:
        return False
    return all(usual.get(blob) == other.get(blob) for blob in graph.outputs)


@dataclass(frozen=True)
class Ending:
    """How a classifier ends: `blob` is its embedding, of which `linear` makes `classes` scores (None: these are the embedding).

    `squash` is what makes probabilities of the scores: "Softmax", "Sigmoid" or "".
    """

    blob: str
    linear: Layer | None
    classes: int
    squash: str


def ending(graph: Graph, shapes: dict[str, Shape]) -> Ending:
    """UserError where the network is no classifier."""
    if len(graph.outputs) != 1:
        raise UserError(f"{graph.source}: gives {len(graph.outputs)} blobs ({', '.join(graph.outputs)}), not the scores of classes")
    (blob,), squash = graph.outputs, ""
    _refuse_unknown(graph, shapes)
    shape = shapes[blob]
    if sum(extent > 1 for extent in shape) > 1:
        raise UserError(f"{graph.source}: gives a blob of the shape {shape}, not the scores of classes")
    makers = {made: layer for layer in graph.layers for made in layer.outputs}
    while makers[blob].kind in PASSED and not (squash and makers[blob].kind in SQUASHES):
        squash = makers[blob].kind if makers[blob].kind in SQUASHES else squash
        blob = makers[blob].inputs[0]
    last = makers[blob]
    if not _is_linear(graph, last, shapes):
        return Ending(blob, None, max(shape), squash)
    fused = complete(graph, last).activation_type == FUSED_SIGMOID
    return Ending(last.inputs[0], last, max(shape), "Sigmoid" if fused else squash)


def _refuse_unknown(graph: Graph, shapes: dict[str, Shape]) -> None:
    """`module_of` says what is wrong with a layer whose blobs have no shape."""
    for layer in graph.layers:
        if not shapes.keys() >= set(layer.outputs):
            module_of(Model(graph), layer)


def _is_linear(graph: Graph, layer: Layer, shapes: dict[str, Shape]) -> bool:
    """An InnerProduct of all there is, or a 1 × 1 convolution of a single pixel; with nothing after it, or a sigmoid."""
    if layer.kind not in ("InnerProduct", "Convolution"):
        return False
    p, shape = complete(graph, layer), shapes[layer.inputs[0]]
    pixel = layer.kind == "InnerProduct" or shape[1:] in ((), (1, 1))
    return pixel and p.weight_data_size == p.num_output * prod(shape) and p.activation_type in (0, FUSED_SIGMOID)
