"""What to minimise where the answer is a picture: how far it is from the true one, in the mouth, in structure, in movement, in features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfade.clip import UserError
from crossfade.training.course import Amount
from crossfade.training.terms import Term, checked_weight

if TYPE_CHECKING:
    from crossfade.clip import Named

Trunk = Callable[[str, int, Path | str], nn.Module]  # a network's name, how many blocks, its weights -> pictures in -1 … 1 to features
OUTPUT, TRUE, PAIR = "output", "true", "pair"  # (B, 3, S, S) twice, in -1 … 1; (B,), equal for pictures that follow each other
MOUTH = (32, 44, 96, 72)  # x, y, width, height where the face is 160 a side: upper lip to chin, as `face prepare` crops
FACE = 160
WINDOW, SIGMA = 11, 1.5  # of SSIM


def of_mouth(picture: Tensor) -> Tensor:
    """(B, C, S, S) -> the part of it with the mouth."""
    x, y, width, height = MOUTH
    left, top, right, bottom = (round(edge * picture.shape[-1] / FACE) for edge in (x, y, x + width, y + height))
    return picture[..., top:bottom, left:right]


def l1(*, mouth: float = 0.0, epsilon: float = 0.0, weight: Amount = 1.0) -> Term:
    """Mean |output − true| over the picture, plus `mouth` times the mean over the mouth. With `epsilon` sqrt(d² + ε²), Charbonnier's."""
    if min(mouth, epsilon) < 0:
        raise UserError(f"l1: found mouth {mouth:g} and epsilon {epsilon:g}; neither may be negative")

    def distance(output: Tensor, true: Tensor) -> Tensor:
        apart = output - true
        far = (apart.square() + epsilon**2).sqrt() if epsilon else apart.abs()
        return _mean(far) + mouth * _mean(of_mouth(far)) if mouth else _mean(far)

    return _term(distance, weight, "l1")


def temporal(*, weight: Amount = 1.0) -> Term:
    """Mean |Δoutput − Δtrue| in the mouth, from one picture to the next: what flickers or stands still costs. Of the later of the two."""

    def loss(out: Named, batch: Named, teacher: Named | None, progress: float) -> tuple[Tensor, Tensor]:
        apart = of_mouth(out[OUTPUT].float() - batch[TRUE])
        follows = torch.cat([batch[PAIR].new_zeros(1, dtype=torch.bool), batch[PAIR][1:] == batch[PAIR][:-1]])
        return _mean((apart - apart.roll(1, 0)).abs()), follows

    return Term(TRUE, OUTPUT, checked_weight(weight, "temporal.weight"), "all", loss)


def dssim(*, mouth: float = 0.0, weight: Amount = 1.0) -> Term:
    """(1 − SSIM) / 2 (Wang et al. 2004, Gaussian window of 11, σ 1.5), plus `mouth` times that of the mouth: structure, without weights."""

    def distance(output: Tensor, true: Tensor) -> Tensor:
        whole = (1 - ssim(output, true)) / 2
        return whole + mouth * (1 - ssim(of_mouth(output), of_mouth(true))) / 2 if mouth else whole

    return _term(distance, weight, "dssim")


def ssim(output: Tensor, true: Tensor) -> Tensor:
    """(B, C, H, W) twice, in -1 … 1 -> (B,)"""
    span = torch.arange(WINDOW, device=output.device) - WINDOW // 2
    bell = torch.exp(-(span**2) / (2 * SIGMA**2))
    bell = (bell / bell.sum()).to(output.dtype)
    channels = output.shape[1]

    def smooth(x: Tensor) -> Tensor:
        rows = functional.conv2d(x, bell.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return functional.conv2d(rows, bell.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    x, y = (output + 1) / 2, (true + 1) / 2
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y, both = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2, smooth(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return _mean(alike)


def perceptual(
    trunk: Trunk | None = None,
    *,
    weights: Path | str,
    network: str = "mobilenet_v2",
    blocks: int = 4,
    mouth: float = 0.0,
    weight: Amount = 0.1,
) -> Term:
    """Mean squared difference of what a picture network makes of both (arXiv 1603.08155), after its first `blocks` blocks.

    `weights`: a file of it (.safetensors, .pth; torchvision's names), or `imagenet`, which torchvision fetches once. `mouth`: how much
    the same of the mouth alone counts besides. `trunk` makes the network, at the first use: a recipe is checked without its weights.
    """
    made: list[nn.Module] = []

    def features(x: Tensor) -> Tensor:
        if not made and trunk is None:
            raise UserError("perceptual: has no network")
        if not made and trunk is not None:
            made.append(trunk(network, blocks, weights).to(x.device))
        return made[0](x)

    def apart(output: Tensor, true: Tensor) -> Tensor:
        with torch.no_grad():
            aim = features(true)
        return _mean((features(output) - aim).square())

    def distance(output: Tensor, true: Tensor) -> Tensor:
        return apart(output, true) + mouth * apart(of_mouth(output), of_mouth(true)) if mouth else apart(output, true)

    return _term(distance, weight, "perceptual")


def _term(distance: Callable[[Tensor, Tensor], Tensor], weight: Amount, where: str) -> Term:
    def loss(out: Named, batch: Named, teacher: Named | None, progress: float) -> tuple[Tensor, Tensor]:
        values = distance(out[OUTPUT].float(), batch[TRUE])
        return values, torch.ones_like(values, dtype=torch.bool)

    return Term(TRUE, OUTPUT, checked_weight(weight, f"{where}.weight"), "all", loss)


def _mean(x: Tensor) -> Tensor:
    """(B, …) -> (B,)"""
    return x.flatten(1).mean(1)
