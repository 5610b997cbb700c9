"""What is on the shelf: the recipes, and every table's entries with their options and parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from crossfade import recipe as recipes
from crossfade.clip import UserError

CLASSES = 8  # for counting heads, as the emotion recipes have
WIDTHS = {"audio": 768, "video": 512}  # of the streams that mixers, mergers and heads are counted for


def counted_for() -> str:
    """What the counts of `model_rows` rest on, for whoever reads them."""
    streams = " and ".join(f"{name} {width}" for name, width in WIDTHS.items())
    return f"mix and merge are counted for streams of widths {streams}, heads for {WIDTHS['audio']} and {CLASSES} classes"


def recipe_rows() -> list[dict[str, Any]]:
    """One row a packaged recipe: name and what it is."""
    return [{"recipe": name, "about": recipes.find(name)[1].get("about", "")} for name in recipes.every()]


def model_rows() -> list[dict[str, Any]]:
    """One row a table entry: table, name, parameters with its defaults, and its options. Nothing is given memory for counting."""
    import torch

    from crossfade import models

    given: dict[str, tuple[Any, ...]] = {"encoders": (), "mix": (WIDTHS,), "merge": (WIDTHS,), "heads": (WIDTHS["audio"], CLASSES)}
    tables = {"encoders": models.ENCODERS, "mix": models.MIXERS, "merge": models.MERGERS, "heads": models.HEADS}
    rows = []
    for table, entries in tables.items():
        for name, function in entries.items():
            with torch.device("meta"):
                rows.append(
                    {"table": table, "use": name, "parameters": _count(function, given[table]), "options": _written(_options(function))}
                )
    return rows


def _count(function: Any, given: tuple[Any, ...]) -> int | None:
    if any(default is inspect.Parameter.empty for default in _options(function).values()):
        return None  # it is many, by an option that has no default
    try:
        return sum(parameter.numel() for parameter in function(*given).parameters())
    except UserError:  # a package that this entry needs is not installed
        return None


def _options(function: Any) -> dict[str, Any]:
    """Option -> default."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def _written(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "…" if default is inspect.Parameter.empty else default for name, default in options.items()}
