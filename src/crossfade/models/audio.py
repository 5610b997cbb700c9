"""Audio encoders on log-mel spectrograms, both small enough to train from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfade.clip import Spec
from crossfade.models.encoder import Encoder, Stage
from crossfade.models.masks import begin_silent, bin_mask, bins_of
from crossfade.models.surgery import start_from

if TYPE_CHECKING:
    from crossfade.clip import Named

LOG_MEL = Spec((1, None, None))  # any number of mel bands and frames


def light_cnn(*, tokens: int = 1, width: int = 128, weights: str | None = None, allow_missing: tuple[str, ...] = ()) -> Encoder:
    """Three small convolutions; 154,720 parameters with one token, 31,840 with several (the reference's AudioCNN and its sequence form).

    (B, 1, M, T) -> Tokens (B, tokens, width). One token is a 4 × 4 picture of the whole clip, several are averages over time bins.
    `weights` is a file or bundle to start from (UserError where it does not fit, unless `allow_missing` names the rest).
    """
    side = 4 if tokens == 1 else 1
    stages = [
        Stage(nn.Sequential(*_conv(1, 16), nn.MaxPool2d(2))),
        Stage(nn.Sequential(*_conv(16, 32), nn.MaxPool2d(2))),
        Stage(nn.Sequential(*_conv(32, 64))),
        TimeBins(nn.Sequential(nn.Linear(64 * side * side, width), nn.ReLU()), tokens=tokens, side=side),
    ]
    encoder = Encoder(stages, dim=width, spec=LOG_MEL, begin=begin_silent)
    return start_from(encoder, weights, allow=allow_missing)


def audio_resnet18(*, tokens: int = 1, width: int = 128, weights: str | None = None, allow_missing: tuple[str, ...] = ()) -> Encoder:
    """The reference's ResNet18-style net with the residual sums it forgot; 12,784,192 parameters.

    (B, 1, M, T) -> Tokens (B, tokens, width), each the average over a time bin. `weights` as in `light_cnn`.
    """
    stages = [
        Stage(nn.Sequential(nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))),
        Stage(nn.Sequential(Block(64), Block(64))),
        *[Stage(nn.Sequential(*_halve(c, 2 * c), Block(2 * c), Block(2 * c))) for c in (64, 128, 256)],
        TimeBins(nn.Linear(512, width), tokens=tokens),
    ]
    encoder = Encoder(stages, dim=width, spec=LOG_MEL, begin=begin_silent)
    return start_from(encoder, weights, allow=allow_missing)


class Block(nn.Module):
    """The basic residual block (arXiv 1512.03385, figure 2) at constant width."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W)"""
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class TimeBins(nn.Module):
    """The top stage: average into `side` rows and `side` columns a token, then a module on each token; the mask follows the bins."""

    def __init__(self, body: nn.Module, *, tokens: int, side: int = 1):
        super().__init__()
        self.body, self.tokens, self.side = body, tokens, side

    def forward(self, state: Named) -> Named:
        """{"x": (B, C, H, W), "mask": (B, T)} -> {"x": (B, tokens, D), "mask": (B, tokens)}"""
        x = averaged(state["x"], self.side, self.side * self.tokens)
        x = x.unflatten(3, (self.tokens, self.side)).movedim(3, 1).flatten(2)
        state = {**state, "x": self.body(x)}
        return {**state, "mask": bin_mask(state["mask"], self.tokens)} if "mask" in state else state


def averaged(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) -> (B, C, rows, columns), adaptive pooling; exported as two products, which hold for any H and W."""
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, (rows, columns))
    down, across = (bins_of(x.shape[axis], bins, x.device).to(x.dtype) for axis, bins in ((2, rows), (3, columns)))
    return (down / down.sum(1, keepdim=True)) @ x @ (across / across.sum(1, keepdim=True)).T


def _conv(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]


def _halve(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after)]
