"""Strips of frames to look at: the true face, what the network saw, what it made, and where they differ."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crossfade.evaluation.face import MEASURES
from crossfade.evaluation.face.scores import FrameScores

if TYPE_CHECKING:
    from PIL.Image import Image

LOUDER = 4  # how many times a difference is shown larger than it is
ROWS = ("target", "seen", "made", f"{LOUDER} x difference")
GAP, LETTERS = 3, 12  # pixels between pictures, and the height of letters
PAPER, INK = (251, 250, 247), (100, 108, 116)  # the page's colours in the light
QUALITY = 88

Column = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # caption; target, covered input and output, (3, S, S) of −1 … 1 each


@dataclass(frozen=True)
class Chosen:
    """A frame that was chosen to be shown, and its number."""

    clip: str
    frame: int
    value: float


def strip(columns: Sequence[Column]) -> Image:
    """A column a frame under its caption, in rows the target, the covered input, the output, and their difference enlarged."""
    pictures = [[target, seen, made, _difference(target, made)] for _, target, seen, made in columns]
    return _sheet([list(row) for row in zip(*pictures, strict=True)], list(ROWS), [caption for caption, *_ in columns])


def film_strip(target: np.ndarray, output: np.ndarray, frames: Sequence[int]) -> Image:
    """Frames of one clip one after another, (T, 3, S, S) twice: the target above, below what was made. `frames`: which of the T."""
    rows = [[pictures[frame] for frame in frames] for pictures in (target, output)]
    return _sheet(rows, [ROWS[0], ROWS[2]], [str(frame) for frame in frames])


def encoded(image: Image, kind: str = "JPEG") -> bytes:
    """The bytes of a JPEG or PNG file."""
    file = io.BytesIO()
    image.save(file, kind, **({"quality": QUALITY} if kind == "JPEG" else {}))
    return file.getvalue()


def worst_and_best(table: FrameScores, count: int = 3, name: str = "mouth_mae") -> tuple[list[Chosen], list[Chosen]]:
    """The worst frame of each of the worst clips, worst first, and the best frame of each of the best, best first; no clip in both."""
    sign = -1 if MEASURES[name].higher_is_better else 1
    bad = sign * table.values[name]
    defined = np.flatnonzero(~np.isnan(bad))
    falling = _one_a_clip(table, name, defined[np.argsort(-bad[defined], kind="stable")])
    rising = _one_a_clip(table, name, defined[np.argsort(bad[defined], kind="stable")])
    worst = falling[: min(count, len(falling) - len(falling) // 2)]
    shown = {one.clip for one in worst}
    return worst, [one for one in rising if one.clip not in shown][:count]


def _one_a_clip(table: FrameScores, name: str, rows: np.ndarray) -> list[Chosen]:
    firsts = {table.clip[row]: row for row in rows[::-1].tolist()}  # the first of each clip stays, in whichever order
    kept = [row for row in rows.tolist() if firsts[table.clip[row]] == row]
    return [Chosen(table.clip[row], int(table.frame[row]), float(table.values[name][row])) for row in kept]


def _difference(target: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Black where equal: (3, S, S) of −1 … 1."""
    return np.minimum(np.abs(made - target) * LOUDER, 2.0) - 1.0


def _sheet(rows: list[list[np.ndarray]], names: list[str], captions: list[str]) -> Image:
    """Pictures in rows and columns, names of rows at the left, captions above."""
    from PIL import Image, ImageDraw, ImageFont

    size, font = rows[0][0].shape[-1], ImageFont.load_default(LETTERS)
    left, top, step = _margin(names, font), LETTERS + 8, size + GAP
    sheet = Image.new("RGB", (left + step * len(captions) - GAP, top + step * len(rows) - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        draw.text((left + step * column, 2), _fitting(caption, size, font), fill=INK, font=font)
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        draw.text((0, top + step * number + (size - LETTERS) // 2), name, fill=INK, font=font)
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(_bytes(picture)), (left + step * column, top + step * number))
    return sheet


def _margin(names: list[str], font) -> int:
    return max(int(font.getlength(name)) for name in names) + 8


def _fitting(text: str, width: int, font) -> str:
    """The end of a text, as long as there is room: captions differ at their ends."""
    if font.getlength(text) <= width:
        return text
    return next(f"…{text[cut:]}" for cut in range(1, len(text) + 1) if font.getlength(f"…{text[cut:]}") <= width or cut == len(text))


def _bytes(picture: np.ndarray) -> np.ndarray:
    """(3, S, S) of −1 … 1 -> uint8 (S, S, 3)."""
    return np.clip(np.rint((picture.transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8)
