"""A template and a view to one HTML text that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, view: Mapping[str, Any]) -> str:
    """The page that `templates/<template>.html.jinja` makes of a view."""
    return _environment().get_template(f"{template}.html.jinja").render(view)


def _percent(share: float, digits: int = 0) -> str:
    return f"{share:.{digits}%}"


@cache
def _environment() -> Environment:
    """Everything is escaped, whatever a template's name; an unknown name is an error."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": _percent, "thousands": "{:,}".format}
    return made
