"""A network as ncnn's files name it: layers in order, joined by blobs, and what may not be so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from crossfade.clip import UserError

Value = int | float | str | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class Layer:
    """One layer. `numbers`: parameter number -> value, as the file says it; `place` is its line, or its number in a binary file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[int, Value] = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True)
class Graph:
    """The layers of one .param file in its order, in which ncnn demands that a blob is made before it is used."""

    source: str
    layers: tuple[Layer, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The blobs that a caller gives: what the Input layers name."""
        return tuple(blob for layer in self.layers if layer.kind == "Input" for blob in layer.outputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The blobs that no layer takes, in the order of the file."""
        taken = {blob for layer in self.layers for blob in layer.inputs}
        return tuple(blob for layer in self.layers for blob in layer.outputs if blob not in taken)

    @property
    def blobs(self) -> tuple[str, ...]:
        return tuple(blob for layer in self.layers for blob in layer.outputs)

    def where(self, layer: Layer) -> str:
        """ "net.param line 5: Convolution conv1", the beginning of every complaint about a layer."""
        return f"{self.source} {layer.place}: {layer.kind} {layer.name}"


def checked(graph: Graph) -> Graph:
    """The graph itself; UserError where a name stands twice or a blob is used that nobody has made yet."""
    _no_name_twice(graph)
    made: set[str] = set()
    for layer in graph.layers:
        _all_made(graph, layer, made)
        made.update(layer.outputs)
    if not graph.inputs:
        raise UserError(f"{graph.source}: has no Input layer, so nothing can be given to it")
    return graph


def _no_name_twice(graph: Graph) -> None:
    for what, named in (("layer", lambda layer: (layer.name,)), ("blob", lambda layer: layer.outputs)):
        seen: set[str] = set()
        for layer in graph.layers:
            for name in named(layer):
                if name in seen:
                    raise UserError(f"{graph.where(layer)}: is the second {what} called {name}; the name of a {what} is its own")
                seen.add(name)


def _all_made(graph: Graph, layer: Layer, made: Iterable[str]) -> None:
    for blob in layer.inputs:
        if blob not in made:
            later = next((other for other in graph.layers if blob in other.outputs), None)
            found = f"{later.name} makes only later or from this very layer" if later else "no layer makes"
            raise UserError(f"{graph.where(layer)}: takes the blob {blob}, which {found}; a layer takes blobs made above it")
