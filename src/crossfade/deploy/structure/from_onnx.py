"""An .onnx file as the common record of layers."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade.clip import UserError
from crossfade.deploy.structure.layer import Layer, Shape, Stored, Structure
from crossfade.deploy.structure.onnx_kinds import KINDS, PASSING, Node, given
from crossfade.deploy.structure.simplify import simplified

if TYPE_CHECKING:
    import numpy as np

ANSWERS_OF_SHAPE = frozenset({"Shape", "Size"})


def read(path: Path, *, weights: bool = False) -> Structure:
    """The structure of an ONNX file; with `weights` its tensors too. UserError in one line where it is none."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        return of(model, path, weights=weights)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UserError:
        raise
    except Exception as error:  # protobuf, onnx and numpy each have their own ways to say that a file is malformed
        raise UserError(f"{path}: is not an ONNX model that can be read: {' '.join(str(error).split())[:200]}") from None


def of(model: Any, path: Path, *, weights: bool = False) -> Structure:
    graph = Reading(model, path)
    layers = [layer for node in model.graph.node for layer in graph.take(node)]
    taken = {name for layer in layers for name in layer.inputs}
    inputs = tuple(value.name for value in model.graph.input if value.name in taken)
    outputs = tuple(value.name for value in model.graph.output)
    tensors = {name: array for name in graph.held if (array := graph.array(name)) is not None} if weights else None
    return simplified(Structure(str(path), "onnx", tuple(layers), inputs, outputs, len(model.graph.node), tensors))


class Reading:
    """The weights and constants of a graph, and what is computed from them or from shapes alone."""

    def __init__(self, model: Any, path: Path):
        self.folder = path.parent
        self.held: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.constants: dict[str, Stored | None] = {name: Stored(name) for name in self.held}
        self.shapes = {
            value.name: shape for value in (*model.graph.value_info, *model.graph.input, *model.graph.output) if (shape := _shape(value))
        }
        self.names: dict[str, int] = {}

    def take(self, node: Any) -> list[Layer]:
        import onnx

        sources = [name for name in node.input if name and name not in self.constants]
        if node.op_type == "Constant":
            self._constant(node)
        elif not sources or node.op_type in ANSWERS_OF_SHAPE:
            self._computed(node)
        else:
            attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            return [self._layer(Node(node, attributes, self), sources)]
        return []

    def _constant(self, node: Any) -> None:
        import onnx

        found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        (kind, value), *_ = found.items()
        name = node.output[0]
        self.held[name] = value if kind == "value" else onnx.numpy_helper.from_array(_array(value), name)
        self.constants[name] = Stored(name)

    def _computed(self, node: Any) -> None:
        """What passes a weight on is that weight; what else is made of constants has no name."""
        same = self.constants.get(node.input[0]) if node.op_type in (*PASSING, "Transpose") and node.input else None
        for name in node.output:
            self.constants[name] = same and (same._replace(arrangement="transposed") if node.op_type == "Transpose" else same)

    def _layer(self, node: Node, sources: list[str]) -> Layer:
        kind, fields = KINDS.get(node.name, given)(node)
        weights = {role: stored for role, name in node.roles.items() if (stored := self.constants.get(name)) is not None}
        weights = {role: replace_arrangement(stored, node.arrangements.get(role)) for role, stored in weights.items()}
        learned = sum(prod(self.size(stored.name) or ()) for role, stored in weights.items() if not role.startswith("running"))
        outputs = tuple(name for name in node.outputs if name)
        shape = self.shapes.get(outputs[0], (None,))[1:] if outputs and outputs[0] in self.shapes else None
        made = Layer(
            kind, self._name(node), tuple(sources), outputs, fields, weights, 0 if kind in ("reshape", "resize") else learned, shape
        )
        return replace(made, inputs=made.inputs[:1]) if kind == "identity" else made

    def _name(self, node: Node) -> str:
        name = node.called or (node.outputs[0] if node.outputs else node.name)
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name} ({self.names[name]})"

    def size(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant, as its own header says it; of a weight that was passed on, cast or turned, too."""
        if name in self.held:
            return tuple(self.held[name].dims)
        stored = self.constants.get(name)
        dims = tuple(self.held[stored.name].dims) if stored is not None and stored.name in self.held else None
        return dims[::-1] if dims and stored and stored.arrangement == "transposed" and len(dims) == 2 else dims

    def axes(self, name: str) -> int | None:
        """How many axes a value has, the batch included, where the file says so."""
        found = self.shapes.get(name) if name not in self.held else self.size(name)
        return None if found is None else len(found)

    def array(self, name: str) -> np.ndarray | None:
        """The numbers of a constant; None of one that is computed."""
        import onnx
        from onnx import external_data_helper

        stored = self.constants.get(name)
        if name not in self.held and (stored is None or stored.name not in self.held or stored.arrangement != "as in PyTorch"):
            return None
        tensor = self.held[name if name in self.held else stored.name]  # pyright: ignore[reportOptionalMemberAccess]
        if external_data_helper.uses_external_data(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, str(self.folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
        return onnx.numpy_helper.to_array(tensor)


def replace_arrangement(stored: Stored, wanted: str | None) -> Stored:
    """A weight that lies transposed in the layer and was transposed on its way there lies as PyTorch has it."""
    if wanted == "transposed" and stored.arrangement == "transposed":
        return stored._replace(arrangement="as in PyTorch")
    return stored._replace(arrangement=wanted) if wanted else stored


def _array(value: Any) -> Any:
    import numpy as np

    return np.asarray(value)


def _shape(value: Any) -> Shape | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim)
