"""The JSON beside an exported file: what a runner and `crossfade predict` need to know of it, and how well it was found to agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossfade.clip import UserError
from crossfade.deploy.bundle import read_json, write_json
from crossfade.deploy.operation import Operation
from crossfade.deploy.parity import Parity
from crossfade.deploy.runner import Shape
from crossfade.use import explain


@dataclass(frozen=True)
class Sidecar:
    """`streams`: what makes each input from a clip, as in the recipe. `front_end`: whether the file itself begins with the waveform and
    with uint8 pictures. `names`: input or output -> what the file calls it, where that is another name. `without_masks`: streams that
    are taken to be real throughout. `precision`: "float32", "float16" or "int8"; `left_float`: what of an int8 file is not int8.
    `classes`: target -> class names in the order of the outputs. `fixed`: whether it takes one clip of fixed sizes at a time.

    `parity` was found on real clips; `tolerance` (of max_rel) and `agreement` are what it was held to, None where to nothing.
    `scores`: target -> "run" and "file" -> metric -> value on the labelled ones; `loss`: of an int8 file, target -> what it loses.
    `costs`: parameters and multiply-adds. `notes`: what a person should know. `digests`: suffix -> SHA-256 of the file.
    `operation`: what `predict --window` needs; None in an older file. `recipe`: the run's recipe.yaml, whole.
    """

    format: str
    inputs: dict[str, Shape]
    outputs: list[str]
    streams: dict[str, Any]
    made_from: str
    front_end: bool = False
    precision: str = "float32"
    fixed: bool = False
    tolerance: float | None = 1e-4
    agreement: float | None = 1.0
    parity: list[Parity] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    without_masks: list[str] = field(default_factory=list)
    left_float: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    loss: dict[str, dict[str, Any]] = field(default_factory=dict)
    costs: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    operation: Operation | None = None
    recipe: str = ""


def beside(path: Path) -> Path:
    """model.onnx -> model.onnx.json"""
    return path.with_name(f"{path.name}.json")


def write(sidecar: Sidecar, path: Path) -> Path:
    """Beside the exported file at `path`."""
    write_json(beside(path), asdict(sidecar))
    return beside(path)


def read(path: Path) -> Sidecar:
    """Of the exported file at `path`. UserError."""
    from pydantic import TypeAdapter, ValidationError

    found = beside(path)
    if not found.is_file():
        raise UserError(f"{found}: no such file; `crossfade export` writes it beside {path.name}")
    try:
        return TypeAdapter(Sidecar).validate_python(read_json(found))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{found}: {where or 'the whole'}: {explain(error)}") from None
