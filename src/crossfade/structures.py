"""Two networks layer by layer, whatever they come from; and weights moved from an ncnn model into a run, with proof."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.deploy import bundle as bundles
from crossfade.deploy import card
from crossfade.deploy.runner import MASK
from crossfade.deploy.structure import from_ncnn, from_onnx, from_torch
from crossfade.deploy.structure.align import Alignment, align
from crossfade.deploy.structure.compare import Comparison
from crossfade.deploy.structure.compare import compare as compared
from crossfade.deploy.structure.layer import Structure
from crossfade.deploy.structure.weights import Transfer, transfer
from crossfade.ncnn import convert
from crossfade.ncnn import model as ncnn_models
from crossfade.run import open_run
from crossfade.training.checkpoint import save_weights

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.run import Opened

READERS: dict[str, Callable[[Path], Structure]] = {
    ".onnx": lambda path: from_onnx.read(path, weights=True),
    ".param": lambda path: from_ncnn.read(path, weights=_has_weights(path)),
    ".bin": lambda path: from_ncnn.read(path),
}
TOLERANCE = 1e-4  # of the largest value of a layer's answer


def compare(a: Path, b: Path, of_run: Callable[..., Structure] | None = None) -> Comparison:
    """Two of a run, a .param and an .onnx: layers aligned along the graph, and what they differ in. UserError where one cannot be read.

    `of_run` is how runs are read; by default as classifiers.
    """
    files = {path: READERS[path.suffix](path) for path in (a, b) if path.suffix in READERS}
    masks = any(name.endswith(MASK) for found in files.values() for name in found.inputs)
    first, second = (files[path] if path in files else (of_run or structure)(path, masks=masks) for path in (a, b))
    return compared(first, second)


def structure(folder: Path, *, masks: bool = False) -> Structure:
    """A run's network, as one clip with all its streams goes through it; with what masks do, where the other side has them."""
    opened = open_run(folder, alone=True)
    return from_torch.of(Answering(opened.model, opened.recipe.targets), _clip(opened, masks=masks), str(folder))


class Answering(nn.Module):
    """A model that gives only what its heads say."""

    def __init__(self, model: nn.Module, outputs: list[str]):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, batch: Named) -> tuple[Tensor, ...]:
        """A batch -> (B, C) a head"""
        found = self.model(batch)
        return tuple(found[name] for name in self.outputs)


def _clip(opened: Opened, *, masks: bool) -> Named:
    clip = {name: tensor.to(opened.desk.device) for name, tensor in opened.desk.one_clip().items()}
    steps = {name: x.shape[1] if x.ndim in (2, 5) else x.shape[-1] for name, x in clip.items()}
    real = {f"{name}{MASK}": torch.ones(1, count, dtype=torch.bool, device=opened.desk.device) for name, count in steps.items()}
    return clip | real if masks else clip


def _has_weights(param: Path) -> bool:
    return ncnn_models.weights_beside(param).is_file()


@dataclass(frozen=True)
class LayerParity:
    """One layer of both sides on the same input: the largest difference, as a share of the largest value."""

    source: str
    target: str
    difference: float


@dataclass(frozen=True)
class Loaded:
    """What was moved into a run, and how the two networks then differ, layer by layer in order."""

    run: Path
    transfer: Transfer
    layers: list[LayerParity]

    @property
    def equal(self) -> bool:
        return bool(self.layers) and all(layer.difference <= TOLERANCE for layer in self.layers)

    def lines(self) -> list[str]:
        """For a person: how much was moved, what was not and why, and where the networks part, if they do."""
        left = [f"left: {one.name} ({one.side}): {one.reason}" for one in self.transfer.left]
        apart = [layer for layer in self.layers if layer.difference > TOLERANCE]
        worst = max((layer.difference for layer in self.layers), default=0.0)
        verdict = f"{len(self.layers)} layers compared, largest relative difference {worst:.2g}"
        first = [f"differs first at {layer.source} → {layer.target}: {layer.difference:.2g}" for layer in apart[:3]]
        return [f"moved {len(self.transfer.moved)} tensors", *left, verdict, *first]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "moved": len(self.transfer.moved),
            "left": [vars(one) for one in self.transfer.left],
            "layers": [vars(layer) for layer in self.layers],
            "equal": self.equal,
        }


def load(param: Path, run: Path, out: Path) -> Loaded:
    """Copy a run to `out` with the weights of an ncnn model of the same structure, and compare the two layer by layer on noise.

    BatchNorm that the model has folded becomes one that only adds the bias. UserError where layers that hold weights do not align.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")
    opened = open_run(run, alone=True)
    if len(opened.recipe.data.streams) != 1 or len(opened.recipe.targets) != 1:
        raise UserError(f"{run}: has several streams or heads; weights are loaded into runs of one stream and one head")
    source = from_ncnn.read(param, weights=True)
    if len(source.inputs) != 1 or len(source.outputs) != 1:
        found = f"takes {', '.join(source.inputs)} and gives {', '.join(source.outputs)}"
        raise UserError(f"{param}: {found}; weights are loaded from networks with one input and one output")
    clip = _clip(opened, masks=False)
    target = from_torch.of(Answering(opened.model, opened.recipe.targets), clip, str(run))
    alignment = align(source, target)
    moved = transfer(alignment, source.tensors or {}, Answering(opened.model, opened.recipe.targets))
    _refuse_other(moved, param, run)
    layers = parity(alignment, param, opened, clip)
    _write(run, out, param, opened)
    return Loaded(out, moved, layers)


def _write(run: Path, out: Path, param: Path, opened: Opened) -> None:
    """A run with these weights, which nothing that was measured of the old ones is true of."""
    out.mkdir(parents=True)
    for name in (bundles.RECIPE, bundles.LABELS, bundles.ENVIRONMENT):
        if (run / name).is_file():
            shutil.copy(run / name, out / name)
    notes = bundles.read_json(run / bundles.NOTES) if (run / bundles.NOTES).is_file() else {}
    kept = {name: notes[name] for name in ("parameters", "multiply_adds") if name in notes}
    warning = f"the weights are those of {param}, put into the structure of {run}; they were not judged on any clip here"
    save_weights(out / bundles.WEIGHTS, opened.model.state_dict())
    bundles.write_json(
        out / bundles.NOTES, {"warnings": [warning], "skipped": [], "partly": [], "loads": [], "unseen": False, "counts": {}, **kept}
    )
    card.write(out, {"target": opened.recipe.targets[0]})
    bundles.write_json(out / bundles.METRICS, {"target": opened.recipe.targets[0]})


def _refuse_other(moved: Transfer, param: Path, run: Path) -> None:
    """Weights that the run would keep of its own are no copy of the model."""
    for one in moved.left:
        if one.side == "target":
            raise UserError(f"{param}: does not fit {run}: {one.name} {one.reason}; `crossfade compare --structure` lists what differs")


def parity(alignment: Alignment, param: Path, opened: Opened, clip: Mapping[str, Tensor]) -> list[LayerParity]:
    """What enters every aligned layer with weights, of the ncnn model as its torch twin runs it and of the run's, and what leaves the last.

    On the same noise. What enters a layer is the same on both sides also where one has activation and BatchNorm inside the layer before.
    """
    network = convert.to_torch(ncnn_models.read(param, ncnn_models.weights_beside(param))).eval()
    model, ((name, x),) = opened.model.cpu(), clip.items()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    theirs, ours = dict(network.named_modules()), dict(opened.model.named_modules())
    layers = [(alignment.a.layers[pair.a], alignment.b.layers[pair.b]) for pair in alignment.pairs]
    named = [(f"layers.{network.keys[a.name]}", b.name.removeprefix("model.")) for a, b in layers if a.weights and a.name in network.keys]
    pairs = [(a, b) for a, b in named if a in theirs and b in ours]
    with torch.no_grad(), _entering(theirs, {a for a, _ in pairs}) as before, _entering(ours, {b for _, b in pairs}) as after:
        answer = model({name: noise})[opened.recipe.targets[0]]
        said = next(iter(network({network.inputs[0]: _first(alignment, pairs, after, noise)}).values()))
    found = [(a, b, before[a], after[b]) for a, b in pairs if a in before and b in after]
    last = [("the answer", "the answer", said, answer if _apart(said, answer) <= _apart(said, answer.softmax(-1)) else answer.softmax(-1))]
    return [LayerParity(a, b, _apart(x, y)) for a, b, x, y in [*found, *last] if x.numel() == y.numel()]


def _first(alignment: Alignment, pairs: list[tuple[str, str]], after: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    """What the ncnn model is given: what our first layer got, which may have turned its input's colours round, or the noise itself."""
    direct = {layer.name for layer in alignment.a.layers if set(layer.inputs) & set(alignment.a.inputs)}
    entered = next((after[b] for a, b in pairs if a.removeprefix("layers.") in direct and b in after), None)
    return entered if entered is not None else noise[:, 0] if noise.ndim == 5 else noise


@contextmanager
def _entering(modules: Mapping[str, nn.Module], paths: set[str]) -> Iterator[dict[str, Tensor]]:
    """While a model runs: what enters these modules."""
    found: dict[str, Tensor] = {}

    def keeper(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: found.update([(path, inputs[0])])

    hooks = [modules[path].register_forward_pre_hook(keeper(path)) for path in paths]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference as a share of the largest value."""
    return float((a.flatten() - b.flatten()).abs().max() / a.abs().max().clamp_min(1e-12))
