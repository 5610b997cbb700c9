"""`use: name` picks a function from a literal table; its keyword-only parameters are the schema, its positional ones are handed in."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from crossfade.clip import UserError
from crossfade.settings import nearest

Table = Mapping[str, Callable[..., Any]]


def check(table: Table, spec: Any, where: str) -> dict[str, Any]:
    """A spec, `{use: name, option: value}` or just the name, with every option checked and every default written out."""
    spec = {"use": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, dict) or "use" not in spec:
        raise UserError(f"{where}: found {spec!r}; it needs `use:` with one of {', '.join(table)}")
    name = spec["use"]
    if not isinstance(name, str) or name not in table:
        raise UserError(f"{where}.use: found {name!r}, {nearest(name, table)}")
    return {"use": name, **options(table[name], {key: value for key, value in spec.items() if key != "use"}, where, name)}


def options(function: Callable[..., Any], given: Any, where: str, owner: str = "") -> dict[str, Any]:
    """Options of a function, checked against its keyword-only parameters, as plain data with the defaults written out."""
    known = _schema(function)
    if not isinstance(given, dict):
        raise UserError(f"{where}: found {given!r}; it needs keys from {', '.join(known) or 'nothing'}")
    for key in given:
        if key not in known:
            raise UserError(f"{where}.{key}: {f'{owner} has' if owner else 'there is'} no such key; {nearest(key, known)}")
    return {key: _plain(adapter, given.get(key, default), f"{where}.{key}") for key, (adapter, default) in known.items()}


def make(table: Table, spec: Mapping[str, Any], *given: Any, **extra: Any) -> Any:
    """Call the table's function with a checked spec; `given` are its positional parameters."""
    return call(table[spec["use"]], {**{key: value for key, value in spec.items() if key != "use"}, **extra}, *given)


def call(function: Callable[..., Any], plain: Mapping[str, Any], *given: Any) -> Any:
    """Call a function with plain, checked options turned into the types that it declares."""
    known = _schema(function)
    return function(*given, **{key: known[key][0].validate_python(value) for key, value in plain.items()})


def accepts(function: Callable[..., Any], option: str) -> bool:
    """Whether the function has this keyword-only parameter."""
    return option in _schema(function)


@lru_cache(maxsize=256)
def _schema(function: Callable[..., Any]) -> dict[str, tuple[TypeAdapter, Any]]:
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return {each.name: (TypeAdapter(hints[each.name]), each.default) for each in parameters if each.kind is each.KEYWORD_ONLY}


def _plain(adapter: TypeAdapter, value: Any, where: str) -> Any:
    if value is inspect.Parameter.empty:
        raise UserError(f"{where}: missing; it has no default")
    try:
        checked = adapter.validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: found {value!r}; {explain(error)}") from None
    return adapter.dump_python(absolute(checked), mode="json")


def absolute(value: Any) -> Any:
    """Relative paths from a recipe or the command line are relative to where it was typed; a bundle must not depend on that."""
    return value.expanduser().absolute() if isinstance(value, Path) else value


def explain(error: ValidationError) -> str:
    """What would be right, from pydantic's first complaint: `input should be a valid integer`."""
    message = error.errors()[0]["msg"].split(" or instance of ")[0].split(" after validation")[0]
    return message[0].lower() + message[1:]
