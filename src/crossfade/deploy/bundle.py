"""A bundle: a folder that rebuilds the model and can run no code: recipe.yaml, model.safetensors, labels.json and what was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade.clip import UserError

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, RECIPE, LABELS = "model.safetensors", "recipe.yaml", "labels.json"
METRICS, ENVIRONMENT, PREDICTIONS, REPORT = "metrics.json", "environment.json", "predictions.csv", "report.html"
LOG = "train.log"  # what was said while it trained, line by line with the time
NOTES = "notes.json"  # warnings, files left out, weights loaded: what a reader of the numbers must know


def predictions_name(target: str, first: str) -> str:
    """The file of a target's predictions: of the first target PREDICTIONS, of another one with its name."""
    return PREDICTIONS if target == first else f"predictions-{target}.csv"


@dataclass(frozen=True)
class Bundle:
    """The parts of a run folder that rebuild a model. `classes`: target -> class names in the order of the outputs."""

    folder: Path
    recipe: str
    classes: dict[str, list[str]]

    def load_into(self, model: nn.Module) -> None:
        """Put the stored weights into a freshly built model; any difference in names or shapes is an error."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{path}: does not fit the model that {RECIPE} describes: {reason}") from None


def read(folder: Path) -> Bundle:
    """Open a run folder; UserError says which part is missing."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; a run is the folder that `crossfade train` wrote")
    if (folder / "fold-1").is_dir():
        raise UserError(f"{folder}: is a run of several folds without a model of its own; give one of them, such as {folder / 'fold-1'}")
    for name in (RECIPE, LABELS, WEIGHTS):
        if not (folder / name).is_file():
            way = f"; `crossfade train --resume {folder}` finishes it" if (folder / RECIPE).is_file() else ""
            raise UserError(f"{folder}: has no {name}, so it is not a finished run{way}")
    classes = read_json(folder / LABELS)
    if not isinstance(classes, dict) or not all(isinstance(names, list) and names for names in classes.values()):
        raise UserError(f"{folder / LABELS}: is not a target with its list of classes")
    return Bundle(folder, read_text(folder / RECIPE), classes)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> Any:
    """Parse a JSON file; UserError names it and the line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not JSON ({error.msg})") from None


def write_text(path: Path, text: str) -> None:
    """Write in one step: a reader sees the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # a file name need not be UTF-8
    temporary.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def environment(device: str) -> dict[str, Any]:
    """What ran where: versions, processor, device, threads."""
    import platform
    from importlib import metadata

    import torch

    packages = ("crossfade", "torch", "torchvision", "transformers", "accelerate", "numpy", "soundfile", "soxr", "av")
    versions = {name: _version(metadata, name) for name in packages}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(metadata: Any, name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
