"""A model of named tensors to ncnn's .param and .bin, by pnnx: one clip, fixed shapes, and pictures of a clip one after another."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.deploy.ncnn_rewrites import lowered
from crossfade.deploy.ncnn_runner import ALL, EACH
from crossfade.deploy.runner import MASK
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.kinds import NUMBERED
from crossfade.ncnn.text_param import read
from crossfade.ncnn.write import layer, write_param

if TYPE_CHECKING:
    from crossfade.clip import Named

LIMIT = 600  # seconds that pnnx may take
AXES = {1: ("w",), 2: ("h", "w"), 3: ("c", "h", "w"), 4: ("c", "d", "h", "w")}  # of a blob, the outermost first
POOLINGS = ("Pooling1D", "Pooling", "Pooling3D")
SIDES, WHOLE = (1, 2, 11, 12, 21, 22), (4, 7)  # numbers of kernels and strides in them; of what says that they are over all
SAME = 1e-4  # of the largest value: tokens of a picture alone and among others


@dataclass(frozen=True)
class Part:
    """A piece of the file: a map from `example`, in the model's shapes, to `outputs`, whose weights are in `module`."""

    run: Callable[[Named], Named]
    module: nn.Module
    example: Named
    outputs: tuple[str, ...]


class Piece(nn.Module):
    """A part on tensors in order, each with axes of 1 for the picture taken out."""

    def __init__(self, part: Part):
        super().__init__()
        self.module, self.part = part.module, part
        self.shapes = {name: tuple(tensor.shape) for name, tensor in part.example.items()}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of the example -> outputs in theirs"""
        found = self.part.run({name: x.reshape(shape) for (name, shape), x in zip(self.shapes.items(), tensors, strict=True)})
        return tuple(found[name] for name in self.part.outputs)


def export(module: nn.Module, example: Named, out: Path, *, outputs: Sequence[str] | None = None, fp16: bool = False) -> Path:
    """Write `module`, a map from named tensors to named tensors, as <out>.param and <out>.bin; returns the .param.

    Shapes are fixed: those of the example's first clip. A mask that the example lacks is not in the file: then every clip is real
    throughout. An encoder that looks at each picture by itself is in the file for one picture, as "video" -> "video.each"; the rest
    begins from "video.all", the tokens of all (`NcnnRunner` does so). `fp16` stores weights in half the room. UserError where ncnn lacks
    a layer; then nothing is written.
    """
    param = out if out.suffix == ".param" else out.with_name(f"{out.name}.param")
    training = [part for part in module.modules() if part.training]
    try:
        with torch.no_grad():
            parts = _parts(module.eval(), {name: x[:1] for name, x in example.items()}, outputs)
            graphs, weights = zip(*(_translated(part, example, fp16) for part in parts), strict=True)
    finally:
        for part in training:
            part.training = True
    _written(Graph(str(param), tuple(each for graph in graphs for each in graph.layers)), b"".join(weights), param)
    return param


def _parts(module: Any, example: Named, outputs: Sequence[str] | None) -> list[Part]:
    """One part for each stream whose pictures are looked at one by one, and then the rest."""
    found = module(example)
    if unknown := [name for name in outputs or () if name not in found]:
        raise UserError(f"export: there is no output {unknown[0]!r}; the model gives {', '.join(found)}")
    single = [name for name, x in example.items() if x.ndim == 5 and x.shape[1] > 1 and _one_by_one(module, name, x)]
    pictures = [_of_pictures(module.encoders[name], name, example[name]) for name in single]
    return [*pictures, _rest(module, example, single, tuple(found if outputs is None else outputs))]


def _one_by_one(module: Any, stream: str, x: Tensor) -> bool:
    """Whether the encoder's tokens of a clip (1, T, C, H, W) are those of its pictures: tried with noise."""
    if stream not in getattr(module, "encoders", ()):
        return False
    encoder = module.encoders[stream]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    try:
        alone, among = torch.cat([encoder(picture).x for picture in noise.split(1, 1)], 1), encoder(noise).x
    except UserError:  # it takes so many pictures, and no other number
        return False
    return alone.shape == among.shape and bool((alone - among).abs().max() <= SAME * among.abs().max())


def _of_pictures(encoder: nn.Module, stream: str, x: Tensor) -> Part:
    return Part(lambda named: {stream + EACH: encoder(named[stream]).x}, encoder, {stream: x[:, :1]}, (stream + EACH,))


def _rest(module: Any, example: Named, single: Sequence[str], outputs: tuple[str, ...]) -> Part:
    """The model from tokens on, where there are some; masks of pictures become masks of tokens."""
    states = {name: f"{name}[{len(module.encoders[name].stages)}:]" for name in single}
    tokens = {name: module.encoders[name](example[name]).x for name in single}
    begun = {name: x for name, x in example.items() if name not in single} | {name + ALL: x for name, x in tokens.items()}

    def run(named: Named) -> Named:
        given = dict(named)
        for name, state in states.items():
            given[f"{state}.x"] = given.pop(name + ALL)
            if name + MASK in given:
                mask = given.pop(name + MASK)
                given[f"{state}.mask"] = mask.repeat_interleave(tokens[name].shape[1] // mask.shape[1], 1)
        return module(given)

    return Part(run, module, begun, outputs)


def _translated(part: Part, clip: Named, fp16: bool) -> tuple[Graph, bytes]:
    held = [x.flatten(0, 1) if x.ndim == 5 and x.shape[1] == 1 else x for x in part.example.values()]
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        _traced(Piece(part).eval(), held, Path(folder) / "net.pt")
        _pnnx(Path(folder), [tuple(x.shape) for x in held], fp16)
        graph, weights = _read(Path(folder) / "net.ncnn.param"), (Path(folder) / "net.ncnn.bin").read_bytes()
    _all_known(graph)
    return _named(without_anchors(graph), part, held, clip), weights


def _traced(piece: Piece, held: Sequence[Tensor], path: Path) -> None:
    try:
        program = torch.export.export(piece, tuple(held), strict=False)
        flat = lowered(program.module(check_guards=False), held)
        torch.jit.save(torch.jit.trace(flat, tuple(x.float() for x in held), check_trace=False), path)
    except UserError:
        raise
    except Exception as error:  # whatever any step of it raises
        raise UserError(f"this model cannot be exported to ncnn: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _pnnx(folder: Path, shapes: Sequence[tuple[int, ...]], fp16: bool) -> None:
    sizes = ",".join(f"[{','.join(map(str, shape))}]" for shape in shapes)
    command = [_program(), "net.pt", f"inputshape={sizes}", f"fp16={int(fp16)}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"this model cannot be exported to ncnn: pnnx did not end within {LIMIT} s") from None
    if done.returncode or not (folder / "net.ncnn.param").is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"this model cannot be exported to ncnn: pnnx ended with {done.returncode}: {last[:200]}")


def _program() -> str:
    try:
        import pnnx
    except ImportError as error:
        raise UserError("exporting to ncnn needs pnnx, which is not installed: pip install crossfade[ncnn]") from error
    return pnnx.EXEC_PATH


def _read(param: Path) -> Graph:
    """pnnx calls several layers alike; the names of layers are made different first."""
    lines, seen = param.read_text(encoding="utf-8").splitlines(), set()
    for number, line in enumerate(lines[2:], 2):
        kind, name, *rest = line.split()
        lines[number] = " ".join((kind, f"{name}_{number}" if name in seen else name, *rest))
        seen.add(name)
    param.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read(param)


def _all_known(graph: Graph) -> None:
    if strange := sorted({each.kind for each in graph.layers if each.kind not in NUMBERED}):
        raise UserError(f"this model cannot be exported to ncnn, which has no layer for {', '.join(strange)}")


def without_anchors(graph: Graph) -> Graph:
    """Averages of one value, right behind an input, are taken out."""
    anchors = {each.outputs[0]: each.inputs[0] for each in graph.layers if each.kind in POOLINGS and _is_anchor(graph, each)}
    kept = [each for each in graph.layers if each.outputs[0] not in anchors]
    return Graph(graph.source, tuple(replace(each, inputs=tuple(anchors.get(blob, blob) for blob in each.inputs)) for each in kept))


def _is_anchor(graph: Graph, each: Layer) -> bool:
    alone = all(each.numbers.get(number, 1) == 1 for number in SIDES) and not any(each.numbers.get(number, 0) for number in WHOLE)
    return alone and each.inputs[0] in graph.inputs


def _named(graph: Graph, part: Part, held: Sequence[Tensor], clip: Named) -> Graph:
    """Blobs by our names where they are inputs and outputs; all else by names that no other part has."""
    ours = {f"in{number}": name for number, name in enumerate(part.example)}
    ours |= {f"out{number}": name for number, name in enumerate(part.outputs)}
    if absent := [name for blob, name in ours.items() if blob not in graph.blobs]:
        raise UserError(f"this model cannot be exported to ncnn: {absent[0]} has no part in it, or is the same for every clip")
    own = part.outputs[0] + ":"
    renamed = {blob: ours.get(blob, own + blob) for blob in graph.blobs}
    inputs = {
        name: input_layer(name, x.shape[1:], clip[name].shape[1:] if name in clip else x.shape[1:])
        for name, x in zip(part.example, held, strict=True)
    }
    return Graph(graph.source, tuple(inputs.get(renamed[each.outputs[0]]) or _renamed(each, own, renamed) for each in graph.layers))


def _renamed(each: Layer, own: str, blobs: Mapping[str, str]) -> Layer:
    inputs, outputs = (tuple(blobs[blob] for blob in names) for names in (each.inputs, each.outputs))
    return replace(each, name=own + each.name, inputs=inputs, outputs=outputs)


def input_layer(blob: str, held: Sequence[int], clip: Sequence[int]) -> Layer:
    """An Input that holds so much, called after what a batch has of it: of a video all pictures, not one."""
    extents = dict(zip(AXES[len(held)], held, strict=True))
    return layer("Input", f"{blob}:{'x'.join(map(str, clip))}", (), (blob,), **extents)


def _written(graph: Graph, weights: bytes, param: Path) -> None:
    """Both files or none."""
    binary = param.with_suffix(".bin")
    try:
        binary.write_bytes(weights)
        write_param(graph, param)
    except OSError as error:
        for path in (param, binary):
            path.unlink(missing_ok=True)
        raise UserError(f"{param}: cannot be written ({error.strerror})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch warns that jit is deprecated, which is what pnnx reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
