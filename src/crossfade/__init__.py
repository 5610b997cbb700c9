"""Crossfade: fine-tune pretrained audio, image and video models on the clips you have, alone or fused; judge them honestly; ship them."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> module that has it; nothing heavy is imported before it is used
PUBLIC = {
    "Clip": "crossfade.clip",
    "Corpus": "crossfade.clip",
    "Spec": "crossfade.clip",
    "Tokens": "crossfade.clip",
    "UserError": "crossfade.clip",
    "Recipe": "crossfade.recipe",
    "load": "crossfade.tasks",
    "train": "crossfade.tasks",
    "resume": "crossfade.tasks",
    "evaluate": "crossfade.tasks",
    "predict": "crossfade.tasks",
    "explain": "crossfade.tasks",
    "compare": "crossfade.comparison",
    "check": "crossfade.run",
    "find_rate": "crossfade.tuning",
    "Fused": "crossfade.models.model",
    "Predictions": "crossfade.evaluation.predictions",
}
__all__ = [*PUBLIC, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'crossfade' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)
