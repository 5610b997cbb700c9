"""What listening to long recordings needs of a run besides its model: how common each class was, and where to say yes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossfade.deploy import bundle as bundles


@dataclass(frozen=True)
class Operation:
    """Of the first target. `clips`: class -> those of training. `threshold`: class -> as validation clips chose it.

    Either is empty where it is not known. Labelled validation clips of a run over two domains are of the other domain than what it is
    for: they choose nothing here.
    """

    clips: dict[str, int] = field(default_factory=dict)
    threshold: dict[str, float] = field(default_factory=dict)


def of_run(folder: Path, *, domains: bool) -> Operation:
    """From the files of a run's folder, as far as they are there. `domains`: whether it is a run over two domains."""
    clips = _read(folder / bundles.NOTES).get("counts", {}).get("train", {})
    return Operation(clips, {} if domains else _threshold(_read(folder / bundles.METRICS).get("operating") or {}))


def _threshold(choice: Mapping[str, Any]) -> dict[str, float]:
    """Of both classes."""
    value = choice.get("threshold", {}).get("macro_f1", {}).get("value")
    return {} if value is None else {choice["class"]: value, choice["other"]: 1 - value}


def _read(path: Path) -> dict[str, Any]:
    return bundles.read_json(path) if path.is_file() else {}
