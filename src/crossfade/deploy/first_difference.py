"""Where an exported file first leaves its model: the outputs of the layers of both, in the order in which the file computes them."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfade.deploy.onnx_runner import OnnxRunner
from crossfade.deploy.parity import difference, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

SCOPES = "pkg.torch.onnx.name_scopes"  # in a node's metadata: "['', 'module', 'module.encoders.audio', …, 'conv2d']"
WRAPPER = "module."  # under which the exporter sees the model
SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """A layer whose outputs differ: its name in the model, its kind, the node of the file, and max |a − b| / max |a|."""

    layer: str
    kind: str
    node: str
    rel: float

    def __str__(self) -> str:
        return f"{self.layer} ({self.kind}, {self.node} in the file): {self.rel:.2g} of its range apart"


def first_differences(
    module: nn.Module, path: Path | str, batch: Mapping[str, np.ndarray], *, tolerance: float, shown: int = SHOWN
) -> list[Difference]:
    """The first layers, at most `shown`, whose relative difference on this batch leaves the tolerance; none where all of them agree.

    A layer is a module without parts; what the exporter folded into another (a convolution into the normalisation after it) is seen there.
    """
    import torch

    nodes = _nodes(Path(path))
    found = _from_file(Path(path), [value for _, value in nodes.values()], batch)
    with torch.inference_mode(), _watched(module, nodes) as expected:
        module.eval()({name: torch.from_numpy(np.array(array)) for name, array in batch.items()})
    kinds = {name: type(part).__name__ for name, part in module.named_modules()}
    pairs = [(layer, node, expected[layer], found[value]) for layer, (node, value) in nodes.items() if layer in expected]
    apart = [Difference(layer, kinds[layer], node, _relative(a, b)) for layer, node, a, b in pairs if a.size == b.size]
    return [each for each in apart if not each.rel <= tolerance][:shown]


def _nodes(path: Path) -> dict[str, tuple[str, str]]:
    """layer -> (node, the value that it gives last), as the exporter wrote them into the file."""
    import onnx

    found: dict[str, tuple[str, str]] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        layer = layer_of(node)
        if layer:
            found.pop(layer, None)  # the last of a layer's nodes decides its place
            found[layer] = (f"{node.op_type} {node.name}", node.output[0])
    return found


def layer_of(node: Any) -> str:
    """The module in whose forward this node of an ONNX graph was called, "" where that is not known."""
    noted = next((each.value for each in node.metadata_props if each.key == SCOPES), "[]")
    try:
        scopes = ast.literal_eval(noted)
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]).removeprefix(WRAPPER) if len(scopes) > 2 else ""


def _from_file(path: Path, values: list[str], batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the file makes of these values on its way."""
    import onnx

    model = onnx.load(path)
    given = {each.name for each in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in values if value not in given)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder, path.name))
        return OnnxRunner(Path(folder, path.name), threads=1)(batch)


@contextmanager
def _watched(module: nn.Module, layers: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """While it lasts, the last output of each layer is put into the dict."""
    import torch

    seen: dict[str, np.ndarray] = {}

    def note(name: str) -> Any:
        def keep(_: Any, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen[name] = output.float().cpu().numpy()

        return keep

    leaves = [(name, part) for name, part in module.named_modules() if name in layers and not list(part.children())]
    hooks = [part.register_forward_hook(note(name)) for name, part in leaves]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    apart = difference(a.ravel(), b.ravel()).max(initial=0.0)
    return ratio(float(apart), float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
