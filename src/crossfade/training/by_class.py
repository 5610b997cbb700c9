"""What a recipe says of a term by the names of classes, in the order of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossfade.clip import UserError
from crossfade.settings import nearest
from crossfade.training.course import KEYS

EACH = ("threshold", "alpha", "balance")  # options that may hold one value a class: {cough: 0.3, non-cough: 0.85}
ONE = ("only",)  # options that may name one class


def in_class_order(spec: Mapping[str, Any], classes: Sequence[str], where: str) -> dict[str, Any]:
    """A term's spec with lists in place of mappings by class, and an index in place of a class's name."""
    each = {key: _listed(spec[key], classes, f"{where}.{key}") for key in EACH if _by_name(spec.get(key))}
    one = {key: _index(spec[key], classes, f"{where}.{key}") for key in ONE if isinstance(spec.get(key), str)}
    return {**spec, **each, **one}


def _by_name(value: Any) -> bool:
    return isinstance(value, Mapping) and not set(value) <= set(KEYS)


def _listed(value: Mapping[str, Any], classes: Sequence[str], where: str) -> list[Any]:
    for name in value:
        _index(name, classes, where)
    missing = [name for name in classes if name not in value]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} has no value; give one for each of {', '.join(classes)}")
    return [value[name] for name in classes]


def _index(name: str, classes: Sequence[str], where: str) -> int:
    if name not in classes:
        raise UserError(f"{where}: found {name!r}, {nearest(name, classes)}")
    return list(classes).index(name)
