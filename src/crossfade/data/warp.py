"""Augmentations of pictures: moved, mirrored, bent, cut out, covered or in another light; all frames of a clip alike.

The contract is that of `augment`; all act on `frames` (T, C, H, W) in [0, 1], any number of channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate

from crossfade.clip import UserError
from crossfade.data.augment import check_probability, happens

OUTSIDE = {"edge": "border", "zero": "zeros"}  # what lies beyond the picture -> grid_sample's name for it
GREY = (0.299, 0.587, 0.114)  # red, green, blue


@dataclass(frozen=True)
class Affine:
    """`affine` with its options checked."""

    degrees: float
    shift: float
    scale: tuple[float, float]
    shear: float
    probability: float
    fill: str
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        chance, turn, right, down, size, lean = _draws(6, generator)
        if chance >= self.probability:
            return x.clone()
        shift = (_both(right) * self.shift, _both(down) * self.shift)
        size = self.scale[0] + (self.scale[1] - self.scale[0]) * size
        return moved(x, _both(turn) * self.degrees, shift, size, _both(lean) * self.shear, self.fill)


@dataclass(frozen=True)
class Flip:
    """`flip` with its options checked."""

    horizontal: float
    vertical: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        across, over = _draws(2, generator)
        sides = [side for side, turned in ((-1, across < self.horizontal), (-2, over < self.vertical)) if turned]
        return x.flip(sides) if sides else x.clone()


@dataclass(frozen=True)
class Elastic:
    """`elastic` with its options checked."""

    alpha: float
    sigma: float
    probability: float
    fill: str
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        if not happens(self.probability, generator):
            return x.clone()
        noise = torch.rand(2, 1, *x.shape[-2:], generator=generator).mul_(2).sub_(1)
        return bent(x, self.alpha * _smooth(noise, self.sigma)[:, 0], self.fill)


@dataclass(frozen=True)
class Erase:
    """`erase` with its options checked."""

    size: tuple[float, float]
    probability: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        erased = x.clone()
        chance, high, wide, down, right = _draws(5, generator)
        if chance < self.probability:
            rows, columns = self._stretch(x.shape[-2], high, down), self._stretch(x.shape[-1], wide, right)
            erased[..., rows, columns] = x.mean()
        return erased

    def _stretch(self, side: int, share: float, place: float) -> slice:
        length = max(round(side * (self.size[0] + (self.size[1] - self.size[0]) * share)), 1)
        return _stretch(side, length, place)


@dataclass(frozen=True)
class Crop:
    """`crop` with its options checked."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    probability: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        chance, share, shape, down, right = _draws(5, generator)
        if chance >= self.probability:
            return x.clone()
        height, width = x.shape[-2:]
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
        ratio = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** shape
        high, wide = min(max(round(math.sqrt(area / ratio)), 1), height), min(max(round(math.sqrt(area * ratio)), 1), width)
        part = x[..., _stretch(height, high, down), _stretch(width, wide, right)]
        return interpolate(part, (height, width), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class CentreCrop:
    """`centre_crop` with its options checked."""

    share: float
    probability: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        if not happens(self.probability, generator):
            return x.clone()
        rows, columns = (self._middle(side) for side in x.shape[-2:])
        return interpolate(x[..., rows, columns], x.shape[-2:], mode="bilinear", antialias=True)

    def _middle(self, side: int) -> slice:
        length = max(round(side * self.share), 1)
        start = (side - length) // 2
        return slice(start, start + length)


@dataclass(frozen=True)
class Jitter:
    """`jitter` with its options checked."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    probability: float
    domain: str = "frames"

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """(T, C, H, W) -> (T, C, H, W)"""
        chance, *drawn = _draws(4, generator)
        turn = self.hue * _both(*_draws(1, generator)) if self.hue else 0.0  # who does not ask for it draws as many as ever
        if chance >= self.probability:
            return x.clone()
        bright, contrast, colour = (
            1 + _both(u) * most for u, most in zip(drawn, (self.brightness, self.contrast, self.saturation), strict=True)
        )
        lit = (x * bright).clamp_(0.0, 1.0)
        lit = _blend(_blend(lit, _grey(lit).mean(), contrast), _grey(lit), colour if x.shape[1] == 3 else 1.0)
        return turned(lit, turn) if turn and x.shape[1] == 3 else lit


def affine(
    *,
    degrees: float = 10.0,
    shift: float = 0.1,
    scale: tuple[float, float] = (0.9, 1.1),
    shear: float = 0.0,
    probability: float = 1.0,
    fill: Literal["edge", "zero"] = "edge",
) -> Affine:
    """Turn by up to ±`degrees`, move by up to ±`shift` of the sides, enlarge by a factor in `scale`, lean by up to ±`shear` degrees.

    One bilinear warp about the middle; `fill` is what comes in from outside: the edge's own colour, or zero (black).
    """
    check_probability("affine", probability)
    if degrees < 0 or not 0 <= shift <= 1 or not 0 <= shear < 90:
        raise UserError(
            f"affine: degrees {degrees:g}, shift {shift:g}, shear {shear:g}; degrees ≥ 0, 0 ≤ shift ≤ 1, 0 ≤ shear < 90 are needed"
        )
    _check_range("affine.scale", scale)
    return Affine(degrees, shift, scale, shear, probability, fill)


def flip(*, horizontal: float = 0.5, vertical: float = 0.0) -> Flip:
    """Mirror left and right, or top and bottom, each with its probability; not for digits, letters or whatever has a right way round."""
    if not (0 <= horizontal <= 1 and 0 <= vertical <= 1):
        raise UserError(f"flip: horizontal {horizontal:g}, vertical {vertical:g}; both are probabilities, between 0 and 1")
    return Flip(horizontal, vertical)


def elastic(*, alpha: float = 34.0, sigma: float = 4.0, probability: float = 0.5, fill: Literal["edge", "zero"] = "edge") -> Elastic:
    """Bend: every pixel moves by noise in [−1, 1] that a Gaussian of `sigma` pixels has smoothed, times `alpha` pixels.

    Defaults of Simard, Steinkraus & Platt 2003 for 29 × 29 digits: about 1.4 pixels; both grow with the picture.
    """
    check_probability("elastic", probability)
    if alpha < 0 or sigma <= 0:
        raise UserError(f"elastic: alpha {alpha:g}, sigma {sigma:g}; alpha ≥ 0 and sigma > 0 are needed")
    return Elastic(alpha, sigma, probability, fill)


def erase(*, size: tuple[float, float] = (0.1, 0.4), probability: float = 0.5) -> Erase:
    """Cover a rectangle with the clip's mean, each side a share in `size` of the picture's (arXiv 1708.04896)."""
    check_probability("erase", probability)
    _check_range("erase.size", size, most=1.0)
    return Erase(size, probability)


def crop(*, scale: tuple[float, float] = (0.6, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3), probability: float = 1.0) -> Crop:
    """Enlarge a random part: a share in `scale` of the area, width over height in `ratio` (arXiv 1409.4842), anywhere inside."""
    check_probability("crop", probability)
    _check_range("crop.scale", scale, most=1.0)
    _check_range("crop.ratio", ratio)
    return Crop(scale, ratio, probability)


def centre_crop(*, share: float = 0.875, probability: float = 1.0) -> CentreCrop:
    """Enlarge the middle: this share of each side, 0.875 being 224 of 256 pixels; the same for every clip unless `probability` is less."""
    check_probability("centre_crop", probability)
    if not 0 < share <= 1:
        raise UserError(f"centre_crop.share: {share:g}; it lies above 0, and at most at 1, the whole picture")
    return CentreCrop(share, probability)


def jitter(
    *, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2, hue: float = 0.0, probability: float = 1.0
) -> Jitter:
    """Another light: brightness, then contrast about the mean, then saturation, each times a factor in 1 ± its option; then every hue
    turned by up to ±`hue` of the circle of colours.

    Grey pictures have no saturation and no hue to change.
    """
    check_probability("jitter", probability)
    if not all(0 <= value <= 1 for value in (brightness, contrast, saturation)):
        raise UserError(f"jitter: brightness {brightness:g}, contrast {contrast:g}, saturation {saturation:g}; each lies between 0 and 1")
    if not 0 <= hue <= 0.5:
        raise UserError(f"jitter.hue: {hue:g}; it lies between 0 and 0.5, half the circle of colours")
    return Jitter(brightness, contrast, saturation, hue, probability)


def moved(x: Tensor, degrees: float, shift: tuple[float, float], scale: float, shear: float, fill: str) -> Tensor:
    """One affine warp about the middle, clockwise, `shift` (right, down) as shares of the sides; torchvision's `affine` otherwise."""
    (height, width), turn, lean = x.shape[-2:], math.radians(degrees), math.tan(math.radians(shear))
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    # Back from where a pixel goes to where it comes from, in pixels about the middle, then in the grid's units.
    (xx, xy), (yx, yy) = (cos - sin * lean, sin + cos * lean), (-sin, cos)
    xy, yx, right, down = xy * height / width, yx * width / height, 2 * shift[0], 2 * shift[1]
    rows = [[xx, xy, -(xx * right + xy * down)], [yx, yy, -(yx * right + yy * down)]]
    return _sampled(x, affine_grid(torch.tensor([rows]), [1, 1, height, width], align_corners=False), fill)


def bent(x: Tensor, displacement: Tensor, fill: str) -> Tensor:
    """Every pixel taken from `displacement` (2, H, W) pixels (right, down) beside its place."""
    height, width = x.shape[-2:]
    straight = affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False)
    return _sampled(x, straight + displacement.permute(1, 2, 0) * torch.tensor([2 / width, 2 / height]), fill)


def turned(x: Tensor, share: float) -> Tensor:
    """(T, 3, H, W) with every hue turned by this share of the circle from red by green to blue; value and saturation stay (HSV)."""
    red, green, blue = x.unbind(1)
    most, least = x.amax(1), x.amin(1)
    span = torch.where(most == least, torch.ones_like(most), most - least)
    sixth = torch.where(most == red, (green - blue) / span, torch.where(most == green, 2 + (blue - red) / span, 4 + (red - green) / span))
    place = (sixth / 6 + share) * 6
    channels = [(place + start).remainder(6) for start in (5, 3, 1)]  # each falls from `most` to `least` and rises again along the circle
    return torch.stack([most - (most - least) * torch.minimum(at, 4 - at).clamp(0, 1) for at in channels], dim=1)


def _sampled(x: Tensor, grid: Tensor, fill: str) -> Tensor:
    """All frames and channels by one grid (1, H, W, 2)."""
    flat = x.reshape(1, -1, *x.shape[-2:])
    return grid_sample(flat, grid.to(x.dtype), mode="bilinear", padding_mode=OUTSIDE[fill], align_corners=False).view(x.shape)


def _smooth(noise: Tensor, sigma: float) -> Tensor:
    """(N, 1, H, W) by a Gaussian; beyond the edges is nothing, so that they move less."""
    kernel = _gaussian(sigma)
    half = len(kernel) // 2
    rows = conv2d(noise, kernel.view(1, 1, 1, -1), padding=(0, half))
    return conv2d(rows, kernel.view(1, 1, -1, 1), padding=(half, 0))


@lru_cache(maxsize=16)
def _gaussian(sigma: float) -> Tensor:
    half = math.ceil(3 * sigma)
    weights = torch.exp(-torch.arange(-half, half + 1).square() / (2 * sigma * sigma))
    return weights / weights.sum()


def _grey(x: Tensor) -> Tensor:
    """(T, C, H, W) -> (T, 1, H, W); of other than three channels the mean."""
    return conv2d(x, torch.tensor(GREY, dtype=x.dtype).view(1, 3, 1, 1)) if x.shape[1] == 3 else x.mean(1, keepdim=True)


def _blend(x: Tensor, other: Tensor, share: float) -> Tensor:
    return (share * x + (1 - share) * other).clamp_(0.0, 1.0)


def _draws(count: int, generator: Generator) -> list[float]:
    """Uniform in [0, 1); as many for every clip, whatever happens to it."""
    return torch.rand(count, generator=generator).tolist()


def _both(drawn: float) -> float:
    """[0, 1) -> [−1, 1)"""
    return 2 * drawn - 1


def _stretch(side: int, length: int, place: float) -> slice:
    start = int((side - length + 1) * place)
    return slice(start, start + length)


def _check_range(where: str, found: tuple[float, float], most: float = math.inf) -> None:
    if not 0 < found[0] <= found[1] <= most:
        limit = f" ≤ {most:g}" if most < math.inf else ""
        raise UserError(f"{where}: {list(found)}; 0 < low ≤ high{limit} is needed")
