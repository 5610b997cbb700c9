"""YAML as people mean it, and dotted overrides: `on` is a word, `1e-3` a number, `phases.fusion.epochs=10` finds the phase by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from crossfade.clip import UserError

PART = re.compile(r"""'([^']*)'|"([^"]*)"|([^.'"]+)""")
MERGE = "tag:yaml.org,2002:merge"  # `<<: *anchor`, which may stand several times
WORDS = (":bool", ":float", ":int", ":timestamp", ":value")  # what YAML 1.1 sees in too many words
FIRST_MATCH_WINS = ("rates",)  # mappings in which a key that is added goes before the others, or it would decide nothing


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's idea of booleans and numbers, refusing keys written twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if key.tag != MERGE]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(WORDS)]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))  # 007 stays a word
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Writes lists of plain values on one line and never aliases."""

    def ignore_aliases(self, data):
        return True

    def represent_sequence(self, tag, sequence, flow_style=None):
        plain = all(not isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)

    def represent_str(self, data):
        # PyYAML's single quotes fold these three line ends of Unicode into spaces.
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if set(data) & set("\x85\u2028\u2029") else None)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def read(text: str, where: str) -> Any:
    """Parse YAML; errors name the file and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: {getattr(error, 'problem', None) or 'this is not YAML'}") from None


def read_file(path: Path) -> Any:
    """Parse a YAML file in UTF-8, with or without BOM."""
    try:
        return read(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text, so not a recipe") from None


def write(data: Any) -> str:
    """Plain data as YAML that `read` gives back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=140)


def override(tree: dict[str, Any], settings: Iterable[str]) -> None:
    """Apply `dotted.path=value` to the tree in place. `….use=name` starts anew from that entry's own defaults."""
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r}: an override is written key=value, such as data.batch=32")
        parts = [next(filter(None, found), "") for found in PART.findall(path.strip())]
        if not parts:
            raise UserError(f"{setting!r}: names no key; an override is written key=value, such as data.batch=32")
        put(tree, parts, read(value, setting))


def put(tree: dict[str, Any], parts: list[str], value: Any) -> None:
    """Set one value in place; mappings on the way are made where they are absent."""
    node, path, ordered = tree, ".".join(parts), False
    while True:
        key, parts = _step(node, [".".join(parts)] if ordered else parts, path)
        if not parts:
            break
        node, ordered = _below(node, key), key in FIRST_MATCH_WINS
    if isinstance(node, dict):
        others = {} if key == "use" else dict(node)
        node.clear()
        node.update({key: value, **others} if ordered and key not in others else {**others, key: value})
    else:
        node[key] = value


def _below(node: Any, key: Any) -> Any:
    if isinstance(node, dict) and node.get(key) is None:
        node[key] = {}
    if isinstance(node[key], str):  # the short form `merge: gated`
        node[key] = {"use": node[key]}
    return node[key]


def _step(node: Any, parts: list[str], path: str) -> tuple[Any, list[str]]:
    """The next key, and what is left of the path: the longest existing key that the path begins with, for keys hold dots too."""
    if isinstance(node, list):
        return _place(node, parts[0], path), parts[1:]
    if not isinstance(node, dict):
        raise UserError(f"{path}: {parts[0]!r} cannot be set, for {node!r} has no keys")
    for count in range(len(parts), 1, -1):
        if ".".join(parts[:count]) in node:
            return ".".join(parts[:count]), parts[count:]
    return parts[0], parts[1:]


def _place(items: list[Any], part: str, path: str) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    names = [str(item.get("name", item.get("use"))) if isinstance(item, dict) else str(item) for item in items]
    if part in names:
        return names.index(part)
    raise UserError(f"{path}: found {part!r}, {nearest(part, names)}")


def nearest(found: object, known: Iterable[object]) -> str:
    """The end of an error line: `nearest is 'gated' (one of each, mean, concat, gated)`."""
    names = [str(name) for name in known]
    if not names:
        return "and there is nothing to choose from"
    close = difflib.get_close_matches(str(found), names, n=1, cutoff=0.0)
    return f"nearest is {close[0]!r} (one of {', '.join(names)})"
