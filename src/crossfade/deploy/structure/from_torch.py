"""A module, traced with example inputs, as the common record of layers."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from crossfade.clip import UserError
from crossfade.deploy.structure.layer import Layer, Shape, Stored, Structure
from crossfade.deploy.structure.simplify import simplified
from crossfade.deploy.structure.torch_kinds import KINDS, Node, given

if TYPE_CHECKING:
    import torch
    from torch import nn


def of(module: nn.Module, inputs: tuple[Any, ...] | Mapping[str, torch.Tensor], source: str = "module") -> Structure:
    """The structure of a module. `inputs`: what one call is given, a tuple of arguments or the one mapping of a model of named tensors."""
    program = _traced(module, inputs if isinstance(inputs, tuple) else (dict(inputs),), source)
    stored = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    trace = Trace(stored, {name: tuple(tensor.shape) for name, tensor in program.state_dict.items()})
    for node in program.graph.nodes:
        trace.take(node)
    names = tuple(program.graph_signature.user_inputs)
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in program.state_dict.items() if not tensor.is_meta}
    used = tuple(name for name in names if isinstance(name, str) and name in trace.taken())
    outputs = tuple(trace.aliases.get(name, name) for name in program.graph_signature.user_outputs if isinstance(name, str))
    return simplified(Structure(source, "torch", tuple(trace.layers), used, outputs, len(trace.layers), state))


def _traced(module: nn.Module, inputs: tuple[Any, ...], source: str) -> Any:
    import torch

    training = [part for part in module.modules() if part.training]
    try:
        with torch.no_grad():
            return torch.export.export(module.eval(), inputs, strict=False)
    except UserError:
        raise
    except Exception as error:  # tracing raises what any line of the module raises
        raise UserError(f"{source}: cannot be traced: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    finally:
        for part in training:
            part.training = True


class Trace:
    """The layers met so far. `constants`: nodes that no input reaches, with the name of the weight that they are, where they are one."""

    def __init__(self, stored: dict[str, str], shapes: dict[str, tuple[int, ...]]):
        self.stored, self.shapes = stored, shapes
        self.layers: list[Layer] = []
        self.constants: dict[str, Stored | None] = {}
        self.aliases: dict[str, str] = {}
        self.named: dict[str, int] = {}

    def take(self, node: Any) -> None:
        steps = {"placeholder": self._placeholder, "get_attr": self._attribute, "call_function": self._call}
        if node.op in steps:
            steps[node.op](node)

    def _placeholder(self, node: Any) -> None:
        if node.name in self.stored:
            self.constants[node.name] = Stored(self.stored[node.name])

    def _attribute(self, node: Any) -> None:
        self.constants[node.name] = None

    def _call(self, node: Any) -> None:
        sources = [source for source in node.all_input_nodes if source.name not in self.constants]
        if node.target is operator.getitem:
            self._part(node)
        elif not sources or "sym_size" in str(node.target) or not _is_tensor(node):
            self.constants[node.name] = self._same_weight(node)
        else:
            self.layers.append(self._layer(node, [source.name for source in sources]))

    def _part(self, node: Any) -> None:
        """One of several outputs."""
        of, place = node.args[0].name, node.args[1]
        if of in self.constants:
            self.constants[node.name] = None
        else:
            self.aliases[node.name] = f"{of}:{place}"

    def _same_weight(self, node: Any) -> Stored | None:
        """What only moves a weight is the weight; t() is it in the other arrangement."""
        found = [self.constants[source.name] for source in node.all_input_nodes if source.name in self.constants]
        if len(found) != 1 or found[0] is None:
            return None
        name = str(node.target)
        turned = any(f"aten.{called}." in name for called in ("t", "numpy_T", "transpose"))
        return found[0]._replace(arrangement="transposed") if turned else found[0] if _keeps(name) else None

    def _layer(self, node: Any, sources: list[str]) -> Layer:
        called = Node(node, self.constants, str(node.target))
        kind, fields = KINDS.get(called.name, given)(called)
        weights = called.weights
        learned = {role: stored for role, stored in weights.items() if not role.startswith("running")}
        inputs = tuple(self.aliases.get(name, name) for name in sources)
        value = node.meta.get("val")
        many = isinstance(value, list | tuple)
        outputs = tuple(f"{node.name}:{place}" for place in range(len(value))) if many else (node.name,)
        numbers = sum(prod(self.shapes.get(stored.name, ())) for stored in learned.values())
        return Layer(kind, self._name(node, weights), inputs, outputs, fields, weights, numbers, None if many else _shape(value))

    def _name(self, node: Any, weights: dict[str, Stored]) -> str:
        """The path of the module, with the operation where its module does more than this."""
        path = (weights["weight"].name.rpartition(".")[0] or node.name) if "weight" in weights else _path(node)
        self.named[path] = self.named.get(path, 0) + 1
        return path if self.named[path] == 1 else f"{path} ({self.named[path]})"

    def taken(self) -> set[str]:
        return {name for layer in self.layers for name in layer.inputs}


def _path(node: Any) -> str:
    scopes = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = (str(scopes[-1][0]), str(scopes[-1][1])) if scopes else ("", "")
    if path and "torch.nn.modules" in kind and "container" not in kind:
        return path
    return ".".join(filter(None, (path, node.name.rstrip("_0123456789"))))


def _keeps(name: str) -> bool:
    return any(
        f"aten.{called}." in name for called in ("clone", "detach", "contiguous", "to", "_to_copy", "alias", "view", "reshape", "unsqueeze")
    )


def _is_tensor(node: Any) -> bool:
    import torch

    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) or (isinstance(value, list | tuple) and any(isinstance(one, torch.Tensor) for one in value))


def _shape(value: Any) -> Shape | None:
    return tuple(size if isinstance(size, int) else None for size in value.shape[1:]) if value is not None else None
