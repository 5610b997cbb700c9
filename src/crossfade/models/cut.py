"""Any picture network cut into stages: its forward is traced, and cut after each block where nothing but one tensor goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

BLOCK = 2  # weight layers that make a block; a network of single layers is cut between these
PROBE = 2  # pictures that show what goes from stage to stage


class Uncuttable(Exception):
    """Why a network stays in one piece."""


def cut(net: nn.Module, shape: Sequence[int], *, whole: tuple[Any, ...] = ()) -> list[fx.GraphModule]:
    """A network (B, C, H, W) -> (B, D) as modules that give, one after the other, what it gives; under its own names.

    `shape` (C, H, W) is that of a picture to try it with; `whole` are functions that cannot be traced into. The first module is the
    stem, each of the others ends in a block. Uncuttable where the forward cannot be followed, or nowhere is down to one tensor.
    """
    probe = _probe(net, shape)
    least = BLOCK if any(_is_chain(module, BLOCK) for module in net.modules()) else 1
    graph = _traced(net, least, whole)
    trace = _Trace(graph, net)
    bounds = _bounds(trace, _passes(graph, net, probe), least)
    if not bounds:
        raise Uncuttable("more than one tensor goes from each block to the next")
    stages = [trace.segment(before, last) for before, last in pairwise([-1, *bounds, len(trace.nodes) - 1])]
    _keep_names(stages, net)
    _agree(net, stages, probe)
    return stages


def answer(net: nn.Module, shape: Sequence[int]) -> Tensor:
    """What a network makes of pictures (C, H, W) that are always the same, in eval mode; its modes, its weights and the luck stay."""
    return _evaluated(net, _probe(net, shape))


class _Tracer(fx.Tracer):
    """Goes into the modules in `opened`; all others stay calls, so that each keeps its own train and eval mode."""

    proxy_buffer_attributes = True

    def __init__(self, opened: set[nn.Module], whole: tuple[Any, ...]):
        super().__init__(autowrap_functions=whole, param_shapes_constant=True)
        self.opened, self.failed = opened, None

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        self.param_shapes_constant = isinstance(attr_val, nn.Parameter)  # fx knows no constant shapes of buffers
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self.opened

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or m
            raise


def _traced(net: nn.Module, least: int, whole: tuple[Any, ...]) -> fx.Graph:
    """The graph of the forward, the same in train and in eval mode."""
    opened = _opened(net, least)
    graphs = {}
    for training in (False, True):
        with _mode(net, training):
            graphs[training] = _followed(net, opened, whole)
    for graph in graphs.values():
        _dropouts_as_modules(graph, net)
    if str(graphs[False]) != str(graphs[True]):
        raise Uncuttable("its forward does something else while training")
    return graphs[False]


def _followed(net: nn.Module, opened: set[nn.Module], whole: tuple[Any, ...]) -> fx.Graph:
    """The graph with all in `opened` followed, but for what cannot be, which is taken out of it."""
    while True:
        tracer = _Tracer(opened, whole)
        try:
            return tracer.trace(net)
        except Exception as error:  # whatever a forward does with what is no tensor
            if tracer.failed is None or tracer.failed not in opened:
                raise Uncuttable(f"its forward cannot be followed ({type(error).__name__}: {error})") from error
            opened.discard(tracer.failed)


def _opened(net: nn.Module, least: int) -> set[nn.Module]:
    """The modules that hold a chain of blocks, and all that such modules are in."""
    opened = {module for module in net.modules() if _is_chain(module, least)}
    return {module for module in net.modules() if opened & set(module.modules())}


def _is_chain(module: nn.Module, least: int) -> bool:
    """Whether two or more blocks of one kind are in it: in a list, or by themselves with nothing else, unlike the two parts of a block."""
    own = [child for child in module.children() if any(True for _ in child.parameters())]
    alike = own if len({type(child) for child in own}) == 1 else []
    kinds = Counter(type(child) for child in [*_listed(module), *alike] if _weight_layers(child) >= least)
    return bool(kinds) and max(kinds.values()) > 1


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    """The members of a plain list, or of those that are a module's children; of lists in lists too."""
    for child in module.children():
        if _is_list(child):
            yield from _listed(child)
        elif _is_list(module):
            yield child


def _is_list(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.ModuleList)


def _weight_layers(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _dropouts_as_modules(graph: fx.Graph, net: nn.Module) -> None:
    """A dropout that the forward calls as a function has the mode it was traced in; as a module it has the mode of the network."""
    for number, node in enumerate(node for node in graph.nodes if node.target is F.dropout):
        chance = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
        setattr(net, f"dropout_{number}", nn.Dropout(chance).train(net.training))
        node.op, node.target, node.args, node.kwargs = "call_module", f"dropout_{number}", node.args[:1], {}


class _Trace:
    """A traced forward, with what can be asked about its nodes by their number."""

    def __init__(self, graph: fx.Graph, net: nn.Module):
        self.graph, self.net = graph, net
        self.nodes = list(graph.nodes)
        self.given: set[fx.Node] = set()  # nothing of the input is in them: weights, and what is made of these alone; no values that go on
        for node in self.nodes:
            made = node.op in ("get_attr", "call_function", "call_method")
            self.given.update([node] if made and self.given.issuperset(node.all_input_nodes) else [])
        self.weights = [self._held(node) for node in self.nodes]
        self.layers = [sum(isinstance(each, nn.Parameter) and each.ndim > 1 for each in held) for held in self.weights]

    def lone(self, number: int) -> fx.Node | None:
        """The one value that is made up to this node and used after it; None where there are others."""
        later = set(self.nodes[number + 1 :])
        alive = [node for node in self.nodes[: number + 1] if node not in self.given and later & set(node.users)]
        return alive[0] if len(alive) == 1 else None

    def shared(self, number: int) -> bool:
        """Whether a weight is used up to this node and after it too, and so would have two names."""
        before, after = ({id(each) for held in side for each in held} for side in (self.weights[: number + 1], self.weights[number + 1 :]))
        return bool(before & after)

    def segment(self, before: int, last: int) -> fx.GraphModule:
        """The nodes after `before` up to `last` as a module of one tensor."""
        own = fx.Graph()
        entry = self.lone(before) if before >= 0 else self.nodes[0]
        copies: dict[Any, fx.Node] = {entry: own.placeholder("x")}

        def copied(source: fx.Node) -> fx.Node:
            if source not in copies:
                copies[source] = own.node_copy(source, copied)  # what is given, each segment makes for itself
            return copies[source]

        for node in self.nodes[before + 1 : last + 1]:
            if node not in self.given and node.op not in ("placeholder", "output"):
                copied(node)
        own.output(copies[self.lone(last) if last < len(self.nodes) - 1 else self.nodes[-1].args[0]])
        targets = {str(node.target) for node in own.nodes if node.op in ("call_module", "get_attr")}
        return fx.GraphModule({target: _get(self.net, target) for target in targets}, own)  # type: ignore[arg-type]

    def _held(self, node: fx.Node) -> list[Tensor]:
        """The weights that a node uses; what it is given counts here, not where it is fetched."""
        if node in self.given:
            return []
        own = _get(self.net, node.target).state_dict(keep_vars=True).values() if node.op == "call_module" else []
        return [*own, *(each for source in node.all_input_nodes for each in self._fetched(source))]

    def _fetched(self, node: fx.Node) -> list[Tensor]:
        if node not in self.given:
            return []
        own = [_get(self.net, node.target)] if node.op == "get_attr" and node.target in self.net.state_dict() else []
        return [*own, *(each for source in node.all_input_nodes for each in self._fetched(source))]


def _get(net: nn.Module, target: Any) -> Any:
    """What has this dotted name."""
    return reduce(getattr, target.split("."), net)


def _bounds(trace: _Trace, passes: set[fx.Node], least: int) -> list[int]:
    """The numbers of the nodes after which to cut: once before the first block, then after each; both sides have weight layers."""
    free = [number for number in range(len(trace.nodes) - 1) if trace.lone(number) in passes and not trace.shared(number)]
    blocks = [number for number, node in enumerate(trace.nodes) if node.op == "call_module" and trace.layers[number] >= least]
    stem = [number for number in free if number < min(blocks, default=0)][-1:]
    ends = [next((number for number in free if number >= block), None) for block in blocks]
    bounds: list[int] = []
    for bound in sorted({*stem, *(end for end in ends if end is not None)}):
        new = trace.layers[bounds[-1] + 1 if bounds else 0 : bound + 1]
        bounds += [bound] if any(new) and any(trace.layers[bound + 1 :]) else []
    return bounds


def _passes(graph: fx.Graph, net: nn.Module, probe: Tensor) -> set[fx.Node]:
    """The nodes whose value is a tensor with the batch first."""
    found: set[fx.Node] = set()

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            found.update([n] if isinstance(value, Tensor) and value.ndim > 1 and len(value) == len(probe) else [])
            return value

    with _mode(net, False), torch.no_grad():
        Watch(net, graph=graph).run(probe)
    return found


def _keep_names(stages: Iterable[nn.Module], net: nn.Module) -> None:
    """Constants and buffers that the network does not save are not saved by its stages either."""
    saved = net.state_dict().keys()
    for stage in stages:
        for name in stage.state_dict().keys() - saved:
            owner, _, buffer = name.rpartition(".")
            stage.get_submodule(owner)._non_persistent_buffers_set.add(buffer)


def _agree(net: nn.Module, stages: Sequence[nn.Module], probe: Tensor) -> None:
    """The stages must give, bit for bit, what the network gives."""
    expected, found = _evaluated(net, probe), _evaluated(nn.Sequential(*stages), probe)
    if expected.shape != found.shape or (not found.is_meta and not torch.equal(expected, found)):
        raise Uncuttable("its stages do not give what the whole gives")


def _evaluated(net: nn.Module, probe: Tensor) -> Tensor:
    with _mode(net, False), torch.no_grad():
        return net(probe)


def _probe(net: nn.Module, shape: Sequence[int]) -> Tensor:
    """Pictures (PROBE, C, H, W) that cost no luck, where the network is."""
    device = next(net.parameters()).device
    numbers = torch.arange(PROBE * shape[0] * shape[1] * shape[2], device=device, dtype=torch.float32)
    return (numbers * 12.9898).sin().view(PROBE, *shape)


class _mode:
    """Every module in train or in eval mode for a while, then each as it was."""

    def __init__(self, net: nn.Module, training: bool):
        self.net, self.training = net, training

    def __enter__(self) -> None:
        self.before = [(module, module.training) for module in self.net.modules()]
        self.net.train(self.training)

    def __exit__(self, *_: object) -> None:
        for module, training in self.before:
            module.training = training
