"""A model of named tensors to an ONNX file of named inputs and outputs, by PyTorch's dynamo exporter."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.deploy.onnx_runner import USUAL
from crossfade.deploy.runner import MASK, TIME

if TYPE_CHECKING:
    from crossfade.clip import Named

OPSET = 18


class Positional(nn.Module):
    """A model of named tensors that takes these inputs in order and gives these outputs in order."""

    def __init__(self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.module, self.inputs, self.outputs = module, tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Inputs as named at the beginning -> outputs likewise"""
        found = self.module(dict(zip(self.inputs, tensors, strict=True)))
        return tuple(found[name] for name in self.outputs)


def export(
    module: nn.Module,
    example: Named,
    path: Path | str,
    *,
    outputs: Sequence[str] | None = None,
    dynamic: bool = True,
    fixed: Collection[str] = (),
) -> Path:
    """Write `module`, a map from named tensors to named tensors, as ONNX; `example` names its inputs, `outputs` (None: all) what it gives.

    With `dynamic` the batch is free, and time is too, in every stream that is not in `fixed` and that the model lets be of any length; else
    all is as in the example's first clip. A mask that the example lacks is not in the file: then every clip is real throughout. UserError
    where it cannot be exported.
    """
    import_exporter()
    example = {name: _clips(tensor, dynamic) for name, tensor in example.items()}
    training = [part for part in module.modules() if part.training]
    try:
        wrapped = Positional(module.eval(), tuple(example), _outputs(module, example, outputs))
        with quiet(), torch.no_grad():
            free = {"tensors": tuple(_free(name, tensor, fixed) for name, tensor in example.items())} if dynamic else None
            program = _program(wrapped, tuple(example.values()), free)
            program.model.metadata_props[USUAL] = json.dumps({name: list(tensor.shape) for name, tensor in example.items()})
            program.save(str(path))
    finally:
        for part in training:
            part.training = True
    return Path(path)


def import_exporter() -> None:
    """UserError where it is not installed."""
    if any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxscript")):
        raise UserError("exporting needs onnx and onnxscript, which are not installed: pip install crossfade[onnx]")


def _program(wrapped: Positional, example: tuple[Tensor, ...], free: Any) -> Any:
    """Traced first and then translated: in one go the exporter takes a length that must be one number for a free one."""
    names: Any = {"input_names": list(wrapped.inputs), "output_names": list(wrapped.outputs), "opset_version": OPSET}
    try:
        traced = torch.export.export(wrapped, example, dynamic_shapes=free, strict=False)
        return torch.onnx.export(traced, dynamo=True, verbose=False, **names)
    except UserError:
        raise
    except Exception as error:  # whatever any step of it raises
        raise UserError(f"this model cannot be exported to ONNX: {_reason(error)}") from error


def _clips(tensor: Tensor, dynamic: bool) -> Tensor:
    """At least two clips, for of one the exporter takes the number to be fixed; one where it is."""
    if not dynamic:
        return tensor[:1]
    return tensor if len(tensor) > 1 else torch.cat([tensor, tensor])


def _free(name: str, tensor: Tensor, fixed: Collection[str]) -> dict[int, Any]:
    """The batch must be free; time is free where the model lets it be."""
    free: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    time = 1 if name.endswith(MASK) else TIME.get(tensor.ndim)
    return free if time is None or name.removesuffix(MASK) in fixed else {**free, time: torch.export.Dim.AUTO}


def _outputs(module: nn.Module, example: Named, wanted: Sequence[str] | None) -> list[str]:
    with torch.no_grad():
        found = list(module(example))
    unknown = [name for name in wanted or () if name not in found]
    if unknown:
        raise UserError(f"export: there is no output {unknown[0]!r}; the model gives {', '.join(found)}")
    chosen = found if wanted is None else list(wanted)
    both = [name for name in chosen if name in example]
    if both:
        raise UserError(f"export: {both[0]!r} is an input and an output; ONNX needs two names")
    return chosen


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter talks through warnings, loggers and prints; what goes wrong is raised besides."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
