"""Files that hold many pictures or their labels, told by content: IDX (plain or .gz), CIFAR's python batches, scikit-learn's digits."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from crossfade.clip import Unreadable
from crossfade.data.container import check_file

GZIP, IDX, PICKLE = b"\x1f\x8b", b"\x00\x00", b"\x80"
UINT8 = 0x08  # IDX's number for the type; the only one that holds pictures and labels in practice
BEGINNINGS = (b"\0\0\x08\x03", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # of uint8 pictures; of a pickle, by its protocol
DEFLATE = 1032  # to one: the most that zipping can make of anything
CIFAR_SIDE = 32
DIGITS_SIDE, DIGITS_WHITE = 8, 16
KNOWN = "an IDX file (plain or .gz), a CIFAR python batch or scikit-learn's digits.csv.gz"


class Packed(NamedTuple):
    """What one file holds: pictures uint8 (N, H, W) or (N, H, W, 3), labels int64 (N,) by name, or both."""

    pictures: np.ndarray | None
    labels: dict[str, np.ndarray]


def is_packed(path: Path | str) -> bool:
    """Whether the file begins as one that holds many pictures."""
    with suppress(OSError, EOFError, zlib.error), _opened(Path(path)) as content:
        return content.read(4).startswith(BEGINNINGS)
    return False


def packed_pictures(path: Path | str) -> np.ndarray:
    """uint8 (N, H, W) grey or (N, H, W, 3) RGB; a plain IDX file is mapped, not read. Raises Unreadable."""
    pictures = _packed(Path(path)).pictures
    if pictures is None:
        raise Unreadable(path, "holds labels, not pictures")
    return pictures


def packed_picture(path: Path | str, item: int) -> np.ndarray:
    """One of them, counted from 0: (H, W) or (H, W, 3). Raises Unreadable."""
    many = packed_pictures(path)
    if not 0 <= item < len(many):
        raise lacking(path, item, len(many))
    return many[item]


def lacking(path: Path | str, item: int, count: int) -> Unreadable:
    return Unreadable(path, f"holds {count:,} pictures, so none of number {item:,} (counted from 0)")


def packed_labels(path: Path | str, name: str = "fine") -> np.ndarray:
    """int64 (N,): class numbers; "coarse" are CIFAR-100's 20 superclasses. Raises Unreadable."""
    labels = _packed(Path(path)).labels
    if name not in labels:
        raise Unreadable(path, f"holds no {name} labels; it holds {', '.join([*labels]) or 'pictures alone'}")
    return labels[name]


def packed_names(path: Path | str, name: str = "fine") -> list[str]:
    """Class names in order, from CIFAR's `batches.meta` or `meta`. Raises Unreadable."""
    found = _unpickled(Path(path), Path(path).read_bytes())
    names = next((found[key] for key in NAMES[name] if key in found), None)
    if not isinstance(names, list) or not names or not all(isinstance(each, (bytes, str)) for each in names):
        raise Unreadable(path, f"holds no {name} class names; batches.meta and meta of CIFAR do")
    return [each.decode(errors="replace") if isinstance(each, bytes) else each for each in names]


def _packed(path: Path) -> Packed:
    try:
        stat = path.stat()
        return _read(str(path), stat.st_size, stat.st_mtime_ns)
    except OSError:
        check_file(path)
        raise Unreadable(path, "cannot be read") from None


@lru_cache(maxsize=16)
def _read(path: str, size: int, time_ns: int) -> Packed:
    file = Path(path)
    check_file(file)
    try:
        with _opened(file) as content:
            head = content.read(2)
            content.seek(0)
            reader = next((reader for marks, reader in FORMATS if head.startswith(marks)), None)
            if reader is None:
                raise Unreadable(path, f"is not {KNOWN}")
            return reader(file, content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(path, f"truncated or damaged ({error})") from None


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    return cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb")


# ---- IDX: two zero bytes, the type, the number of dimensions, each of them in four bytes, the values


def _idx(path: Path, content: IO[bytes]) -> Packed:
    _, _, kind, count = content.read(4).ljust(4, b"\xff")
    if kind != UINT8 or count not in (1, 3):
        raise Unreadable(path, f"an IDX file of type 0x{kind:02x} with {count} dimensions; pictures are 0x08 with 3, labels 0x08 with 1")
    raw = content.read(4 * count)
    if len(raw) < 4 * count:
        raise Unreadable(path, "truncated: its header is not whole")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4"))
    values = _values(path, content, shape)
    return Packed(values, {}) if count == 3 else Packed(None, {"fine": values.astype(np.int64)})


def _values(path: Path, content: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """The array, mapped where the file is not zipped; Unreadable where the file is shorter or longer than it declares."""
    if not all(shape):
        raise Unreadable(path, f"declares {' × '.join(map(str, shape))} values: it holds nothing")
    start, wanted = content.tell(), math.prod(shape)
    if not isinstance(content, gzip.GzipFile):
        _whole(path, shape, path.stat().st_size - start)
        return np.asarray(np.memmap(path, np.uint8, "r", start, shape))
    if wanted > DEFLATE * path.stat().st_size:
        _whole(path, shape, 0)
    raw = content.read(wanted + 1)
    _whole(path, shape, len(raw))
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _whole(path: Path, shape: tuple[int, ...], found: int) -> None:
    wanted, declared = math.prod(shape), " × ".join(map(str, shape))
    if found != wanted:
        much = "there are more" if found > wanted else f"only {found:,} of them are there" if found else "so small a file cannot hold them"
        raise Unreadable(path, f"truncated or damaged: declares {declared} = {wanted:,} values, {much}")


# ---- CIFAR: a pickled dict, read without running anything that it says


def _cifar(path: Path, content: IO[bytes]) -> Packed:
    found = _unpickled(path, content.read())
    data = found.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * CIFAR_SIDE**2 or not len(data):
        raise Unreadable(path, f"a pickle without CIFAR's pictures (data, uint8 N × {3 * CIFAR_SIDE**2})")
    pictures = data.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    return Packed(np.ascontiguousarray(pictures), _cifar_labels(path, found, len(data)))


def _cifar_labels(path: Path, found: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    lists = {name: found[key] for name, keys in LABELS.items() for key in keys if key in found}
    for name, numbers in lists.items():
        if not isinstance(numbers, list) or not all(type(number) is int and 0 <= number < 1000 for number in numbers):
            raise Unreadable(path, f"its {name} labels are not a list of class numbers")
        if len(numbers) != count:
            raise Unreadable(path, f"holds {count:,} pictures but {len(numbers):,} {name} labels")
    return {name: np.array(numbers, np.int64) for name, numbers in lists.items()}


def _unpickled(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        found = _Plain(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise Unreadable(path, f"not a plain pickle as CIFAR's are ({' '.join(str(error).split()) or type(error).__name__})") from None
    if not isinstance(found, dict):
        raise Unreadable(path, f"a pickle of a {type(found).__name__}, not of a dict as CIFAR's are")
    return {key.decode(errors="replace") if isinstance(key, bytes) else str(key): value for key, value in found.items()}


class _Plain(pickle.Unpickler):
    """Makes plain containers, bytes, text, numbers and uint8 arrays; whatever else a pickle asks for is refused, so no code runs."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        asked = f"{module_name}.{global_name}"
        if asked not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {asked}, which no picture file needs")
        return _Maker(ALLOWED[asked])


class _Maker:
    """Stands for one of NumPy's functions; new at each use and closed, for a pickle may also try to change what it was given."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        object.__setattr__(self, "_make", make)

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it tries to change a function")


class _Uint8:
    """NumPy's dtype of bytes, the only one there is here."""

    def __init__(self, name: Any = "", *rest: Any):
        if name not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, not of uint8")

    def __setstate__(self, state: Any) -> None: ...


class _Shell(np.ndarray):
    """An empty uint8 array until its state comes; the state is checked before a byte of it is used."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        super().__setstate__((1, *_like(shape, kind, raw, by_columns)))


def _like(shape: Any, kind: Any, raw: Any, by_columns: Any) -> tuple[Any, ...]:
    if not isinstance(kind, _Uint8) or not isinstance(raw, bytes) or math.prod(shape) != len(raw) or min(shape, default=0) < 0:
        raise pickle.UnpicklingError("it holds an array whose size is not that of its bytes")
    return tuple(shape), np.dtype(np.uint8), bool(by_columns), raw


def _shell(*_: Any) -> np.ndarray:
    return _Shell((0,), np.uint8)


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    shape, dtype, by_columns, raw = _like(shape, kind, bytes(raw), order == "F")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C")


def _encoded(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes into an old protocol."""
    return text.encode("latin1")


NUMPY = ("numpy.core", "numpy._core")
ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Uint8,
    "numpy.ndarray": _shell,
    **{f"{core}.multiarray._reconstruct": _shell for core in NUMPY},
    **{f"{core}.numeric._frombuffer": _from_buffer for core in NUMPY},
    "_codecs.encode": _encoded,
}
LABELS = {"fine": ("labels", "fine_labels"), "coarse": ("coarse_labels",)}
NAMES = {"fine": ("label_names", "fine_label_names"), "coarse": ("coarse_label_names",)}


# ---- scikit-learn's digits: a line a picture, 64 grey values of 0 to 16 and the digit


def _digits(path: Path, content: IO[bytes]) -> Packed:
    try:
        table = np.loadtxt(content, delimiter=",", dtype=np.int64, ndmin=2)
    except ValueError as error:
        raise Unreadable(path, f"is not {KNOWN} ({' '.join(str(error).split())})") from None
    grey, digit = table[:, :-1], table[:, -1]
    if grey.shape[1] != DIGITS_SIDE**2 or grey.min() < 0 or grey.max() > DIGITS_WHITE:
        raise Unreadable(path, f"is not {KNOWN} (a table of {table.shape[1]} columns)")
    pictures = (grey * 255 + DIGITS_WHITE // 2) // DIGITS_WHITE
    return Packed(pictures.astype(np.uint8).reshape(-1, DIGITS_SIDE, DIGITS_SIDE), {"fine": digit})


FORMATS: tuple[tuple[tuple[bytes, ...], Callable[[Path, IO[bytes]], Packed]], ...] = (
    ((IDX,), _idx),
    ((PICKLE,), _cifar),
    (tuple(b"%d" % digit for digit in range(10)), _digits),
)
