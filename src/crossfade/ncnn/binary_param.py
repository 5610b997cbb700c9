"""A .param.bin file: the same as the text in 32-bit words; kinds are numbers and blobs have no names."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from crossfade.clip import UserError
from crossfade.ncnn.graph import Graph, Layer, Value, checked
from crossfade.ncnn.kinds import NUMBERED, parameters
from crossfade.ncnn.text_param import ARRAY, LIMIT, MAGIC, MOST

END = -233  # after the last parameter of a layer
TEXT = -23400  # minus this, a text's number
SMALLEST = 16  # bytes of a layer without blobs and parameters


class Words:
    """Little-endian 32-bit words taken from a file one after another; UserError where it ends too soon."""

    def __init__(self, source: str, content: bytes):
        self.source, self.content, self.position = source, content, 0

    def take(self, size: int) -> bytes:
        if size < 0 or size > self.left:
            raise UserError(
                f"{self.source} byte {self.position}: {size} bytes have to follow, but {self.left} do; the file is cut or no .param.bin"
            )
        self.position += size
        return self.content[self.position - size : self.position]

    def integer(self) -> int:
        return struct.unpack("<i", self.take(4))[0]

    def integers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self.take(4 * count))

    def floats(self, count: int) -> tuple[float, ...]:
        return struct.unpack(f"<{count}f", self.take(4 * count))

    @property
    def left(self) -> int:
        return len(self.content) - self.position


def read(path: Path) -> Graph:
    """The graph of a .param.bin file. Layers are called by kind and number, blobs by number, as ncnn's C++ names have it."""
    words = Words(str(path), _content(path))
    if words.left < 12 or words.integer() != MAGIC:
        raise UserError(f"{path}: does not begin with ncnn's {MAGIC}, so it is no .param.bin")
    layers, blobs = words.integers(2)
    if not (0 <= layers <= min(words.left // SMALLEST, MOST) and 0 <= blobs <= words.left // 4):
        raise UserError(f"{path}: says {layers} layers and {blobs} blobs, more than its {len(words.content)} bytes can hold or are read")
    graph = Graph(str(path), tuple(_layer(words, place, blobs) for place in range(layers)))
    if words.left:
        raise UserError(f"{path}: {words.left} bytes follow the last of {layers} layers")
    if len(graph.blobs) != blobs:
        raise UserError(f"{path}: says {blobs} blobs, but the layers make {len(graph.blobs)}")
    return checked(graph)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > LIMIT:
            raise UserError(f"{path}: is larger than {LIMIT >> 20} MiB, which no list of layers is")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _layer(words: Words, place: int, blobs: int) -> Layer:
    where = f"{words.source} layer {place}"
    number, inputs, outputs = words.integers(3)
    if inputs < 0 or outputs < 0 or 4 * (inputs + outputs) > words.left:
        raise UserError(f"{where}: says {inputs} inputs and {outputs} outputs, but {words.left} bytes follow")
    taken, made = words.integers(inputs), words.integers(outputs)
    if not all(0 <= blob < blobs for blob in taken + made):
        raise UserError(f"{where}: names a blob outside of 0 to {blobs - 1}")
    kind = NUMBERED[number] if 0 <= number < len(NUMBERED) else f"kind-{number}"
    return Layer(kind, f"{kind}_{place}", tuple(map(str, taken)), tuple(map(str, made)), _numbers(words, where, kind), f"layer {place}")


def _numbers(words: Words, where: str, kind: str) -> dict[int, Value]:
    numbers: dict[int, Value] = {}
    while (key := words.integer()) != END:
        number = TEXT - key if key <= TEXT else ARRAY - key if key <= ARRAY else key
        if not 0 <= number < 100 or number in numbers:
            raise UserError(f"{where}: the parameter {number} is unknown to ncnn or given twice")
        numbers[number] = _text(words) if key <= TEXT else _number(words, where, kind, number, array=key <= ARRAY)
    return numbers


def _text(words: Words) -> str:
    length = words.integer()
    return words.take((length + 3) // 4 * 4)[:length].decode("utf-8", errors="replace")


def _number(words: Words, where: str, kind: str, number: int, *, array: bool) -> Value:
    """The file does not say whether bits are an integer or a float: the kind of layer does."""
    parameter = parameters(kind).get(number)
    wanted = (parameter.of or parameter.type) if parameter else int
    count = words.integer() if array else 1
    if count < 0:
        raise UserError(f"{where}: an array says {count} elements")
    values = words.floats(count) if wanted is float else words.integers(count)
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: the parameter {number} is not a finite number")
    return values if array else values[0]
