"""A network from ncnn's files as an encoder: its graph up to the classifier, cut into stages where one blob alone goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from crossfade.clip import Spec, UserError
from crossfade.models.cut import BLOCK
from crossfade.models.encoder import Encoder
from crossfade.models.ends import Picture, ending, picture_of
from crossfade.models.masks import begin_pictures
from crossfade.models.surgery import start_from
from crossfade.models.video import PerFrame
from crossfade.ncnn import model as files
from crossfade.ncnn.convert import Network, module_keys, module_of
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.model import Model
from crossfade.ncnn.show import Shape
from crossfade.ncnn.write import write_param
from crossfade.settings import nearest

if TYPE_CHECKING:
    from crossfade.clip import Named

Colours = Literal["rgb", "bgr"]
NOTE = "ncnn's files do not say which pictures a network was trained on; mean and std are ImageNet's unless given"
STARTS = {"weight": nn.init.ones_, "bias": nn.init.zeros_, "each": nn.init.zeros_, "C": nn.init.zeros_}  # of Scale, Bias, Padding, Gemm


def ncnn(
    *,
    graph: str,
    weights: str | None = None,
    cut: str | None = None,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    colours: Colours = "rgb",
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """A picture network from ncnn's .param file, or the text of one, up to its classifier, on each frame.

    (B, T, channels, H, W), or with one channel a spectrogram (B, 1, M, T) as one frame -> Tokens (B, T, D). `weights`: ncnn's .bin, a file
    with our names, a bundle, or null for a random start. What enters the linear layer that the network ends in is the token; where it
    ends otherwise, its scores are. `cut` names another layer or blob to end at, whose maps are averaged. `size`, `mean` and `std` (red,
    green, blue, of pixels in 0 … 1) are those of the pictures that the network was trained on, which the files do not hold: null is the
    Input layer's size, and ImageNet's colours; `colours: bgr` is for networks that want blue first. A stage ends where one blob alone
    goes on: after what lies between a split and its join, and after every two layers with weights elsewhere.
    """
    parsed = read_graph(graph)
    picture = picture_of(parsed, size)
    build = partial(_staged, picture=picture, cut=cut, mean=mean, std=std, colours=colours)
    encoder = build(Model(parsed))
    _give_memory(encoder)
    encoder.rebuild = {"graph": text_of(parsed)}
    named = {weights: lambda: build(_with_weights(parsed, Path(weights))).state_dict()} if weights and weights.endswith(".bin") else {}
    return start_from(encoder, weights, named=named, rename=_names(encoder, parsed), allow=allow_missing)


def read_graph(graph: str) -> Graph:
    """From a path, or from the text of a .param."""
    if "\n" not in graph:
        return files.read(Path(graph)).graph
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.param"
        path.write_text(graph, encoding="utf-8")
        try:
            return replace(files.read(path).graph, source="graph")
        except UserError as error:
            raise UserError(str(error).replace(str(path), "graph")) from None


def text_of(graph: Graph) -> str:
    """What its .param file would hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.param"
        write_param(graph, path)
        return path.read_text(encoding="utf-8")


def _with_weights(graph: Graph, path: Path) -> Model:
    from crossfade.ncnn.weights import read

    return Model(graph, read(path, graph))


# ---- where it is cut


def _end(graph: Graph, shapes: dict[str, Shape], cut: str | None) -> tuple[str, bool]:
    """The blob to end at, and whether all of its values are wanted, not the average of its maps."""
    blob = None if cut is None else _blob(graph, cut)
    try:
        end = ending(graph, shapes)
    except UserError as error:
        if blob is None:
            raise UserError(f"{error}; say where to `cut` it") from None
        return blob, False
    return blob or end.blob, end.linear is not None and blob in (None, end.blob)


def _blob(graph: Graph, cut: str) -> str:
    """A blob by its own name, or the first of a layer by that layer's."""
    found = {layer.name: layer.outputs[0] for layer in graph.layers if layer.outputs} | {blob: blob for blob in graph.blobs}
    if cut not in found:
        raise UserError(f"cut: {graph.source} has no layer or blob {cut!r}; {nearest(cut, [layer.name for layer in graph.layers])}")
    return found[cut]


# ---- the pieces


class Piece(nn.Module):
    """Layers of a network from one blob to another, and what follows them. (B, …) -> (B, …)"""

    def __init__(self, network: Network, exit: str, after: nn.Module | None = None):
        super().__init__()
        self.network, self.exit = network, exit
        self.after = after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """What the first blob is -> what the last is"""
        return self.after(self.network({self.network.inputs[0]: x})[self.exit])


class Average(nn.Module):
    """(B, D) stays; (B, D, H, W) -> (B, D) over its places; (B, N, D), a row of vectors, -> (B, D) over these."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) -> (B, D)"""
        if x.ndim == 3:
            return x.mean(1)
        return x.flatten(2).mean(2) if x.ndim > 3 else x


def _staged(
    model: Model,
    *,
    picture: Picture,
    cut: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    colours: Colours,
) -> Encoder:
    """The encoder with the model's weights; without any, shapes alone."""
    graph = model.graph
    end, whole = _end(graph, picture.shapes, cut)
    layers = _needed(graph, end)
    modules = {layer.name: module_of(model, layer) for layer in layers}
    pieces = _pieces(graph, layers, modules, end)
    pieces[-1].after = nn.Flatten() if whole else Average()
    spec = Spec((None, picture.channels, picture.only, picture.only), mean=mean, std=std, size=picture.made_for)
    shape = picture.shapes[end]
    dim = prod(shape) if whole else shape[-1] if len(shape) == 2 else shape[0]
    note = "" if mean and std else NOTE
    return Encoder([PerFrame(piece) for piece in pieces], dim=dim, spec=spec, begin=BEGINNINGS[colours], note=note)


def _begin_blue(x: Tensor, mask: Tensor | None) -> Named:
    """As `begin_pictures`, (B, T, 3, H, W) with the colours turned round."""
    begun = begin_pictures(x, mask)
    return {**begun, "x": torch.cat(begun["x"].split(1, 2)[::-1], 2)}


BEGINNINGS = {"rgb": begin_pictures, "bgr": _begin_blue}


def _needed(graph: Graph, end: str) -> list[Layer]:
    """The layers that the blob is made by, in their order; a tensor of the network's own right before what takes it."""
    makers = {blob: layer for layer in graph.layers for blob in layer.outputs}
    if makers[end].kind == "Input":
        raise UserError(f"cut: {end} is what goes in, so no layer is left")
    own: set[str] = set()  # blobs in which nothing of the picture is
    for layer in graph.layers:
        own.update(layer.outputs if layer.kind != "Input" and own.issuperset(layer.inputs) else ())
    placed: dict[str, Layer] = {}

    def place(layer: Layer) -> None:
        for blob in layer.inputs:
            if own.issuperset(makers[blob].outputs) and makers[blob].name not in placed:
                place(makers[blob])
        placed[layer.name] = layer

    used = _used(makers, end)
    for layer in graph.layers:
        if layer.name in used and layer.kind != "Input" and not own.issuperset(layer.outputs):
            place(layer)
    return list(placed.values())


def _used(makers: dict[str, Layer], end: str) -> set[str]:
    """The names of the layers that have a part in the blob."""
    used: set[str] = set()
    waiting = [makers[end]]
    while waiting:
        layer = waiting.pop()
        if layer.name not in used:
            used.add(layer.name)
            waiting += [makers[blob] for blob in layer.inputs]
    return used


def _pieces(graph: Graph, layers: Sequence[Layer], modules: dict[str, nn.Module], end: str) -> list[Piece]:
    pieces, entry = [], graph.inputs[0]
    lone = _lone(layers, entry, end)
    for block in _blocks(_atoms(layers, lone), modules):
        exit = str(lone[block[-1].name])
        part = replace(graph, layers=(Layer("Input", f"into {entry}", (), (entry,)), *block))
        pieces.append(Piece(Network(part, {layer.name: modules[layer.name] for layer in block}), exit))
        entry = exit
    return pieces


def _lone(layers: Sequence[Layer], entry: str, end: str) -> dict[str, str | None]:
    """Layer -> the blob that alone goes on after it; None where there are several."""
    last = {blob: number for number, layer in enumerate(layers) for blob in layer.inputs} | {end: len(layers)}
    alive, found = {entry}, {}
    for number, layer in enumerate(layers):
        alive = {blob for blob in alive.union(layer.outputs) if last.get(blob, -1) > number}
        found[layer.name] = next(iter(alive)) if len(alive) == 1 else None
    return found


def _atoms(layers: Sequence[Layer], lone: dict[str, str | None]) -> list[list[Layer]]:
    """The smallest rows of layers between which one blob alone goes on."""
    atoms: list[list[Layer]] = [[]]
    for layer in layers:
        atoms[-1].append(layer)
        atoms += [[]] if lone[layer.name] and layer is not layers[-1] else []
    return atoms


def _blocks(atoms: Sequence[list[Layer]], modules: dict[str, nn.Module]) -> list[list[Layer]]:
    """What branches is a block; elsewhere two layers with weights are; those without stay with what is before them."""
    blocks: list[list[Layer]] = [[]]
    full = False
    for atom in atoms:
        new, branches = _weight_layers(atom, modules), len(atom) > 1
        if new and _weight_layers(blocks[-1], modules) and (full or branches):
            blocks.append([])
        blocks[-1] += atom
        full = (branches if new else full) or _weight_layers(blocks[-1], modules) >= BLOCK
    return blocks


def _weight_layers(layers: Iterable[Layer], modules: dict[str, nn.Module]) -> int:
    return sum(parameter.ndim > 1 for layer in layers for parameter in modules[layer.name].parameters())


def _names(encoder: Encoder, graph: Graph) -> dict[str, str]:
    """The names in a module made by `to_torch` -> ours."""
    whole = module_keys({layer.name: nn.Identity() for layer in graph.layers if layer.kind != "Input"})
    return {
        f"layers.{whole[name]}.": f"stages.{number}.body.network.layers.{key}."
        for number, stage in enumerate(encoder.stages)
        for name, key in stage.body.network.keys.items()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    }


def _give_memory(encoder: Encoder) -> None:
    """A random start, as PyTorch's own modules have one, for parameters that are shapes alone; none where only shapes are wanted."""
    device = torch.empty(0).device
    for module in encoder.modules() if device.type != "meta" else ():
        own = dict(module.named_parameters(recurse=False))
        if any(parameter.is_meta for parameter in own.values()):
            module.to_empty(device=device, recurse=False)
            own = dict(module.named_parameters(recurse=False))
            begin = getattr(module, "reset_parameters", None)
            begin() if begin else _begin_bare(own)


def _begin_bare(own: dict[str, nn.Parameter]) -> None:
    for name, parameter in own.items():
        STARTS.get(name, partial(nn.init.normal_, std=0.02))(parameter)
