"""The square around a face: cut out of a picture, covered over the mouth, as a network's numbers, and pasted back.

A box is (x0, y0, x1, y1) in pixels of the picture, of any fraction: pixel i covers i to i + 1. What a network sees is the inner square of
a crop, `edge` pixels from the border of the outer one; the rectangle `mask` covers the mouth there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

import numpy as np

SOFT = 0.1  # of the inner side: over how much of it the network's picture fades in


@dataclass(frozen=True)
class Crop:
    """`size` of the inner square, `outer` of the whole one, `edge` between them; `mask` = (x, y, w, h) in the inner one."""

    size: int
    outer: int
    edge: int
    mask: tuple[int, int, int, int]


CROPS = {
    96: Crop(96, 100, 2, (3, 3, 90, 87)),
    128: Crop(128, 134, 3, (4, 4, 120, 120)),
    160: Crop(160, 168, 4, (5, 5, 150, 145)),
    192: Crop(192, 202, 5, (6, 6, 180, 174)),
}  # 128 and 160 as the phone apps have them, 96 and 192 in proportion to 160


def cut(picture: np.ndarray, box: Sequence[float], crop: Crop) -> np.ndarray:
    """The box of a picture uint8 (H, W, 3) as (outer, outer, 3); where it leaves the picture, the edges are repeated.

    Shrinks by areas, as OpenCV's INTER_AREA, and enlarges linearly; but boxes are not rounded to pixels, which would shake the face.
    """
    rows = _Line.over(box[1], box[3], crop.outer, picture.shape[0])
    columns = _Line.over(box[0], box[2], crop.outer, picture.shape[1])
    return _as_bytes(_resampled(picture, rows, columns))


def inner(outer: np.ndarray, crop: Crop) -> np.ndarray:
    """(…, outer, outer, C) -> (…, size, size, C), a view."""
    inside = slice(crop.edge, crop.edge + crop.size)
    return outer[..., inside, inside, :]


def covered(face: np.ndarray, crop: Crop) -> np.ndarray:
    """Inner squares (…, size, size, C) with a black mouth; a copy."""
    x, y, width, height = crop.mask
    black = face.copy()
    black[..., y : y + height, x : x + width, :] = 0
    return black


def as_values(face: np.ndarray) -> np.ndarray:
    """uint8 (…, S, S, 3) -> float32 (…, 3, S, S), -1 … 1."""
    return (np.moveaxis(face, -1, -3).astype(np.float32, order="C") - 127.5) / 127.5


def as_picture(values: np.ndarray) -> np.ndarray:
    """float (…, 3, S, S), -1 … 1 -> uint8 (…, S, S, 3)."""
    return _as_bytes(np.moveaxis((values + 1) * 127.5, -3, -1))


def face_input(reference: np.ndarray, target: np.ndarray, crop: Crop) -> np.ndarray:
    """Two inner squares -> float32 (6, S, S): whose face it is, then where the mouth is wanted, which is covered."""
    return np.concatenate([as_values(reference), as_values(covered(target, crop))])


def feather(crop: Crop) -> np.ndarray:
    """float32 (S, S): how much of the network's picture is shown. 0 outside the mask's rectangle and on its border, 1 well inside."""
    return np.outer(*_fade(crop))


def paste(picture: np.ndarray, box: Sequence[float], made: np.ndarray, crop: Crop) -> np.ndarray:
    """A copy of the picture in which the inner square `made` (S, S, 3) is blended in by `feather` where `cut` took it from.

    The face and its weights are resampled, the picture is not: a pixel of weight 0 stays exactly as it was.
    """
    whole = picture.copy()
    left, top, right, bottom = _mask_in(picture, box, crop)
    if left < right and top < bottom:
        spot = _seen_from(box, crop, (left, top, right, bottom))
        rows, columns = _Line.over(spot[1], spot[3], bottom - top, crop.size), _Line.over(spot[0], spot[2], right - left, crop.size)
        down, across = _fade(crop)
        weight = np.outer(rows.of(down), columns.of(across))[..., None]
        before = whole[top:bottom, left:right].astype(np.float32)
        whole[top:bottom, left:right] = _as_bytes(before + weight * (_resampled(made, rows, columns) - before))
    return whole


def _fade(crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """The feather down and across, whose product it is: float32 (S,) each."""
    x, y, width, height = crop.mask
    down, across = np.zeros((2, crop.size), np.float32)
    down[y : y + height] = _rise(height, SOFT * crop.size)
    across[x : x + width] = _rise(width, SOFT * crop.size)
    return down, across


def _rise(length: int, soft: float) -> np.ndarray:
    """0 at both ends of a line, 1 from `soft` pixels on, without a corner."""
    place = np.arange(length)
    share = (np.minimum(place, length - 1 - place) / soft).clip(0, 1)
    return share**2 * (3 - 2 * share)


def _mask_in(picture: np.ndarray, box: Sequence[float], crop: Crop) -> tuple[int, int, int, int]:
    """The pixels of the picture that the mask's rectangle touches: left, top, right, bottom."""
    x, y, width, height = crop.mask
    across, down = (box[2] - box[0]) / crop.outer, (box[3] - box[1]) / crop.outer
    left, top = box[0] + (crop.edge + x) * across, box[1] + (crop.edge + y) * down
    right, bottom = min(ceil(left + width * across), picture.shape[1]), min(ceil(top + height * down), picture.shape[0])
    return max(floor(left), 0), max(floor(top), 0), right, bottom


def _seen_from(box: Sequence[float], crop: Crop, spot: Sequence[float]) -> tuple[float, float, float, float]:
    """A part of the picture in the coordinates of the inner square."""
    across, down = crop.outer / (box[2] - box[0]), crop.outer / (box[3] - box[1])
    left, top, right, bottom = spot
    return (
        (left - box[0]) * across - crop.edge,
        (top - box[1]) * down - crop.edge,
        (right - box[0]) * across - crop.edge,
        (bottom - box[1]) * down - crop.edge,
    )


class _Line(NamedTuple):
    """What equal steps along a line take of its pixels `first` to `stop`: weights float32 (steps, pixels)."""

    weights: np.ndarray
    first: int
    stop: int

    @staticmethod
    def over(start: float, stop: float, count: int, length: int) -> _Line:
        """`count` steps from `start` to `stop` along `length` pixels, of which the first and the last go on for ever."""
        pixels = np.arange(min(floor(start) - 1, length - 1), max(ceil(stop) + 1, 1))
        step = (stop - start) / count
        begin = start + step * np.arange(count)[:, None]
        if step > 1:
            shares = (np.minimum(begin + step, pixels + 1) - np.maximum(begin, pixels)).clip(0) / step
        else:
            shares = (1 - np.abs(begin + step / 2 - 0.5 - pixels)).clip(0)
        first, last = max(pixels[0], 0), min(pixels[-1], length - 1)
        weights = shares[:, (pixels >= first) & (pixels <= last)].astype(np.float32)
        weights[:, 0] += shares[:, pixels < first].sum(axis=1)
        weights[:, -1] += shares[:, pixels > last].sum(axis=1)
        return _Line(weights, int(first), int(last) + 1)

    def of(self, values: np.ndarray) -> np.ndarray:
        """(pixels, …) -> (steps, …)."""
        return self.weights @ values[self.first : self.stop]


def _resampled(picture: np.ndarray, rows: _Line, columns: _Line) -> np.ndarray:
    """(H, W, C) -> float32 (steps down, steps across, C)."""
    part = picture[rows.first : rows.stop, columns.first : columns.stop].astype(np.float32)
    height, width, channels = part.shape
    half = (rows.weights @ part.reshape(height, -1)).reshape(-1, width, channels)
    whole = columns.weights @ half.transpose(1, 0, 2).reshape(width, -1)
    return whole.reshape(len(columns.weights), -1, channels).transpose(1, 0, 2)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
