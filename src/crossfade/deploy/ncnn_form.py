"""A model of one clip as a flat graph in forms that ncnn has: shapes fixed, the clip's axis first, what is constant worked out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from crossfade.clip import UserError

aten = torch.ops.aten
ANCHORS = {3: aten.avg_pool1d.default, 4: aten.avg_pool2d.default, 5: aten.avg_pool3d.default}


@dataclass(frozen=True)
class Made:
    """A tensor of the new graph: its node, and what the model has there for the example. The shape of the node is `placed` of that."""

    node: fx.Node
    value: Tensor


def placed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape of the model -> its shape in the graph, where the first axis is always the clip's."""
    return tuple(shape) if shape and shape[0] == 1 else (1, *shape)


def thin(shape: Sequence[int]) -> list[int]:
    """The axes that are longer than 1: the others hold nothing apart."""
    return [axis for axis, size in enumerate(shape) if size != 1]


class Form:
    """Builds the new graph. Its methods take and give `Made` where an input decides, and plain tensors where none does."""

    def __init__(self):
        self.graph, self.root, self.held = fx.Graph(), nn.Module(), 0

    def input(self, name: str, value: Tensor) -> Made:
        """An average of one value each tells pnnx that the first axis is the clip's; `ncnn_export` takes it out again."""
        made = self._made(self.graph.placeholder(name), value)
        anchor = ANCHORS.get(len(placed(value.shape)))
        return made if anchor is None else self.call(anchor, made, 1, shape=value.shape)

    def call(self, function: Callable[..., Any], *arguments: Any, shape: Sequence[int]) -> Any:
        """One operation on what the graph has, whose result the model has in `shape`."""
        if not depends(arguments):
            return function(*arguments).reshape(tuple(shape))
        found = function(*map(_in_graph, arguments))
        raw = self._made(self.graph.call_function(function, tuple(map(self._node, arguments))), found)
        return self.view(raw, shape)

    def view(self, x: Any, shape: Sequence[int]) -> Any:
        """Views one after another become one, or none where they lead back."""
        shape = tuple(shape)
        if isinstance(x, Tensor):
            return x.reshape(shape)
        node, value = x.node, x.value.reshape(shape)
        wanted = placed(value.shape)
        if node.target is aten.reshape.default and node.meta["shape"] != wanted:
            node = node.args[0]
        if node.meta["shape"] == wanted:
            return Made(node, value)
        return self._made(self.graph.call_function(aten.reshape.default, (node, wanted)), value)

    def permute(self, x: Any, order: Sequence[int]) -> Any:
        """Axes of 1 stay out of it, so that ncnn's four are enough."""
        if isinstance(x, Tensor):
            return x.permute(tuple(order))
        value, shape, long = x.value.permute(tuple(order)), x.value.shape, thin(x.value.shape)
        moved = [axis for axis in order if shape[axis] != 1]
        if moved == long:
            return self.view(x, value.shape)
        narrow = self.view(x, (1, *(shape[axis] for axis in long)))
        turned = self.call(
            aten.permute.default, narrow, [0, *(1 + long.index(axis) for axis in moved)], shape=(1, *map(shape.__getitem__, moved))
        )
        return self.view(turned, value.shape)

    def part(self, x: Any, axis: int, start: int, stop: int) -> Any:
        """x[start:stop] along an axis."""
        if isinstance(x, Tensor):
            return x.narrow(axis, start, stop - start)
        shape, long = list(x.value.shape), thin(x.value.shape)
        if (start, stop) == (0, shape[axis]):
            return x
        narrow, place = self.view(x, (1, *(shape[each] for each in long))), 1 + long.index(axis)
        kept = [*narrow.value.shape[:place], stop - start, *narrow.value.shape[place + 1 :]]
        cut = self.call(aten.slice.Tensor, narrow, place, start, stop, 1, shape=kept)
        return self.view(cut, [*shape[:axis], stop - start, *shape[axis + 1 :]])

    def joined(self, parts: Sequence[Any], axis: int) -> Any:
        """Side by side along an axis; where that is the first, one for the clip is put before it."""
        sizes = [size_of(part) for part in parts]
        shape = [*sizes[0][:axis], sum(size[axis] for size in sizes), *sizes[0][axis + 1 :]]
        if len(parts) == 1 or not depends(parts):
            return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)
        if shape[0] == 1:
            return self.call(aten.cat.default, list(parts), axis, shape=shape)
        lifted = [self.view(part, (1, *size)) for part, size in zip(parts, sizes, strict=True)]
        return self.view(self.call(aten.cat.default, lifted, axis + 1, shape=(1, *shape)), shape)

    def reduced(self, function: Callable[..., Any], x: Any, axes: Iterable[int], keep: bool) -> Any:
        """Over axes, those of 1 left out."""
        dims = x.value.ndim
        axes = {axis % dims for axis in axes}
        shape = list(x.value.shape)
        left = [1 if axis in axes else size for axis, size in enumerate(shape)]
        over = [place for place, axis in enumerate(thin(shape), 1) if axis in axes]
        if over:
            narrow = self.view(x, (1, *(shape[axis] for axis in thin(shape))))
            x = self.call(
                function, narrow, over, True, shape=[1 if place in over else size for place, size in enumerate(narrow.value.shape)]
            )
        return self.view(x, left if keep else [size for axis, size in enumerate(left) if axis not in axes])

    def module(self, outputs: Sequence[Made]) -> fx.GraphModule:
        if not all(isinstance(made, Made) for made in outputs):
            raise UserError("this model cannot be exported to ncnn: one of its outputs is the same for every clip")
        self.graph.output(tuple(made.node for made in outputs))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph).eval()

    def _made(self, node: fx.Node, value: Tensor) -> Made:
        node.meta["shape"] = placed(value.shape)
        return Made(node, value)

    def _node(self, item: Any) -> Any:
        if isinstance(item, list | tuple):
            return [self._node(each) for each in item]
        return item.node if isinstance(item, Made) else self._constant(item) if isinstance(item, Tensor) else item

    def _constant(self, value: Tensor) -> fx.Node:
        """Of numbers as ncnn has them, which knows no integers."""
        name, self.held = f"constant{self.held}", self.held + 1
        self.root.register_buffer(name, value.detach().float())
        return self.graph.get_attr(name)


def depends(items: Any) -> bool:
    """Whether an input decides any of them."""
    return any(map(depends, items)) if isinstance(items, list | tuple) else isinstance(items, Made)


def size_of(item: Any) -> list[int]:
    return list(in_model(item).shape)


def in_model(item: Any) -> Any:
    """As the model has it."""
    if isinstance(item, list | tuple):
        return [in_model(each) for each in item]
    if isinstance(item, dict):
        return {name: in_model(each) for name, each in item.items()}
    return item.value if isinstance(item, Made) else item


def _in_graph(item: Any) -> Any:
    if isinstance(item, list | tuple):
        return [_in_graph(each) for each in item]
    return item.value.float().reshape(placed(item.value.shape)) if isinstance(item, Made) else item
