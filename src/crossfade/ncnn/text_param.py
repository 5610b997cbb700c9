"""A .param file of text: the magic number, two counts, and one line a layer."""

from __future__ import annotations

import math
import re
from pathlib import Path

from crossfade.clip import UserError
from crossfade.ncnn.graph import Graph, Layer, Value, checked

MAGIC = 7767517
HIGHEST = 2**31 - 1  # ncnn keeps counts and parameters in 32 bits
LIMIT, MOST = 8 * 2**20, 100_000  # bytes and layers; the .param of a network of 10,000 layers has one or two MiB
ARRAY = -23300  # minus this, an array's number in the older spelling
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


def read(path: Path) -> Graph:
    """The graph of a .param file; UserError names the line."""
    lines = _lines(path)
    if not lines or lines[0].strip() != str(MAGIC):
        found = lines[0].strip()[:20] if lines else "nothing"
        raise UserError(f"{path} line 1: is {found!r}, but a .param of ncnn begins with {MAGIC}")
    layers, blobs = _counts(path, lines[1] if len(lines) > 1 else "")
    if layers > MOST and len(lines) - 2 >= layers:
        raise UserError(f"{path} line 2: says {layers} layers; more than {MOST} are not read")
    written = [(place, line) for place, line in enumerate(lines[2:], 3) if line.strip()]
    if len(written) != layers:
        raise UserError(f"{path} line 2: says {layers} layers, but {len(written)} lines follow")
    graph = Graph(str(path), tuple(_layer(f"{path} line {place}", f"line {place}", line) for place, line in written))
    if len(graph.blobs) != blobs:
        raise UserError(f"{path} line 2: says {blobs} blobs, but the layers make {len(graph.blobs)}")
    return checked(graph)


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > LIMIT:
            raise UserError(f"{path}: is larger than {LIMIT >> 20} MiB, which no list of layers is")
        return path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text (byte {error.start} is not UTF-8); a .param.bin has to be called so") from None


def _counts(path: Path, line: str) -> tuple[int, int]:
    words = line.split()
    if len(words) != 2 or not all(_is_count(word) for word in words):
        raise UserError(f"{path} line 2: is {line.strip()[:40]!r}, but has to be the number of layers and the number of blobs")
    return int(words[0]), int(words[1])


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 10 and int(word) <= HIGHEST


def _layer(where: str, place: str, line: str) -> Layer:
    words = line.split()
    if len(words) < 4 or not all(_is_count(word) for word in words[2:4]):
        raise UserError(f"{where}: has to be a kind, a name, the number of inputs, the number of outputs, blobs and parameters")
    inputs, outputs = int(words[2]), int(words[3])
    blobs, rest = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
    if len(blobs) < inputs + outputs:
        raise UserError(f"{where}: says {inputs} inputs and {outputs} outputs, but {len(blobs)} words follow")
    return Layer(words[0], words[1], tuple(blobs[:inputs]), tuple(blobs[inputs:]), _numbers(where, rest), place)


def _numbers(where: str, words: list[str]) -> dict[int, Value]:
    numbers: dict[int, Value] = {}
    for word in words:
        number, value = _pair(where, word)
        if number in numbers:
            raise UserError(f"{where}: gives the parameter {number} twice")
        numbers[number] = value
    return numbers


def _pair(where: str, word: str) -> tuple[int, Value]:
    key, separator, value = word.partition("=")
    number = _integer(key)
    if not separator or number is None:
        raise UserError(f"{where}: {word[:40]!r} is not a parameter, such as 0=16")
    if number <= ARRAY:
        return _checked_number(where, ARRAY - number), _counted(where, value)
    return _checked_number(where, number), _value(where, value)


def _checked_number(where: str, number: int) -> int:
    if not 0 <= number < 100:
        raise UserError(f"{where}: there is no parameter {number}")
    return number


def _counted(where: str, text: str) -> Value:
    """The older spelling of an array: its length, then its elements."""
    length, *elements = text.split(",")
    if _integer(length) != len(elements):
        raise UserError(f"{where}: an array says {length[:20]} elements, but has {len(elements)}")
    return _array(where, elements)


def _value(where: str, text: str) -> Value:
    if text[:1] == '"' and text[-1:] == '"' and len(text) > 1:
        return text[1:-1]
    if text[:1].isalpha() or text[:1] == "_":
        return text
    return _array(where, text.split(",")) if "," in text else _scalar(where, text)


def _array(where: str, elements: list[str]) -> Value:
    values = [_scalar(where, element) for element in elements]
    if all(isinstance(value, int) for value in values):
        return tuple(values)  # pyright: ignore[reportReturnType]
    return tuple(float(value) for value in values)


def _scalar(where: str, text: str) -> int | float:
    """A number with a point or an exponent is a float, as for ncnn."""
    integer = _integer(text)
    if integer is not None:
        return integer
    if len(text) <= 64 and NUMBER.match(text) and math.isfinite(float(text)) and set(text) & set(".eE"):
        return float(text)
    raise UserError(f"{where}: {text[:40]!r} is not a number of 32 bits")


def _integer(text: str) -> int | None:
    digits = text[1:] if text[:1] in "+-" else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return None
    return value if -HIGHEST - 1 <= (value := int(text)) <= HIGHEST else None
