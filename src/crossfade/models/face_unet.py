"""The talking-face U-Net: a face whose mouth is hidden, and the sound around one moment, to that face as it speaks."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfade.clip import UserError

if TYPE_CHECKING:
    from crossfade.clip import Named

ROWS, FEATURES = 20, 256  # of the sound: one row is 40 ms
# size of the face -> padding of the last two convolutions of the sound, so that its map is size / 32 on a side
PADDINGS = {96: (0, 0), 128: (1, 1), 160: (1, 2), 192: (2, 2)}
EXPANSION = 6
STEM, SOUND, BOTTLENECK, LAST = 16, 128, 320, 8  # channels: a level's first, the sound's, the deepest, those before the picture
DOWN = (  # a level at half the side of the one before, block by block: channels
    (24, 24),
    (32, 32, 32),
    (64, 64, 64, 64, 96, 96, 96),
    (160, 160, 160, 320),
)
UP = ((160, 128), (64, 48), (24, 24), (16, 16))  # a level at twice the side: channels that come up, and that leave


class Residual(nn.Module):
    """One convolution that is added to what it takes, and then the ReLU. (B, C, H, W) -> the same"""

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.convolution(x) + x)


class Block(nn.Module):
    """An inverted bottleneck whose end is normalised over the whole map; added to what it takes where the shape stays the same."""

    def __init__(self, before: int, after: int, *, stride: int = 1):
        super().__init__()
        wide = EXPANSION * before
        self.expand = nn.Conv2d(before, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
        self.project = nn.Conv2d(wide, after, 1, bias=False)
        self.norm = nn.GroupNorm(1, after)
        self.adds = before == after and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)"""
        wide = functional.relu(self.depthwise(functional.relu(self.expand(x))))
        y = functional.relu(self.norm(self.project(wide)))
        return x + y if self.adds else y


class Join(nn.Module):
    """A map brought to the size of another and laid behind it. (B, C, H, W), (B, D, H', W') -> (B, E, H', W')"""

    def __init__(self, up: nn.Module, block: Block):
        super().__init__()
        self.up, self.block = up, block

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.block(torch.cat([beside, self.up(x)], 1))


class FaceUnet(nn.Module):
    """{"audio": (B, 1, 20, features), "face": (B, 6, size, size)} -> {"output": (B, 3, size, size)}, pictures in -1 … 1.

    The face is two pictures in RGB, one as it is and then one whose mouth is covered. Features other than 256 are projected to 256 first.
    """

    def __init__(self, size: int, features: int = FEATURES):
        super().__init__()
        self.size, self.features = size, features
        self.project = nn.Identity() if features == FEATURES else nn.Linear(features, FEATURES)
        self.audio = _sound(*PADDINGS[size])
        self.stem = _stem()
        self.down = nn.ModuleList(_level(before, channels) for before, channels in zip(_ends(), DOWN, strict=False))
        self.bottleneck = _convolution(BOTTLENECK, BOTTLENECK, 1)
        widened = nn.Sequential(nn.ConvTranspose2d(SOUND, BOTTLENECK, 1), nn.ReLU())
        self.meet = Join(widened, Block(2 * BOTTLENECK, BOTTLENECK))
        leaving = [BOTTLENECK, *(after for _, after in UP)]
        levels = zip(leaving, UP, reversed(_ends()[:-1]), strict=False)
        self.up = nn.ModuleList(Join(_doubled(before, up), Block(beside + up, after)) for before, (up, after), beside in levels)
        self.last = _doubled(leaving[-1], LAST)
        self.picture = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(LAST, 3, 3), nn.Tanh())
        self.apply(_begin)

    def forward(self, named: Named) -> Named:
        audio, face = named["audio"], named["face"]
        self._expect(audio, face)
        sound, maps = self.audio(self.project(audio)), [self.stem(face)]
        for level in self.down:
            maps.append(level(maps[-1]))
        x = self.meet(sound, self.bottleneck(maps.pop()))
        for join in self.up:
            x = join(x, maps.pop())
        return {"output": self.picture(self.last(x))}

    def _expect(self, audio: Tensor, face: Tensor) -> None:
        wanted = {"audio": (audio, (1, ROWS, self.features)), "face": (face, (6, self.size, self.size))}
        for name, (tensor, shape) in wanted.items():
            if tuple(tensor.shape[1:]) != shape:
                raise UserError(f"face_unet: {name} is {tuple(tensor.shape)}, but has to be (B, {', '.join(map(str, shape))})")


def face_unet(*, size: int = 160, features: int = FEATURES) -> FaceUnet:
    """The network of the phone models, 7,506,139 parameters at every size; weights of one size fit all others.

    `features`: how wide a row of the sound is. With other than 256 a linear layer comes first, and it is no longer the phones' graph.
    """
    if size not in PADDINGS:
        raise UserError(f"face_unet: size is {size}, but has to be one of {', '.join(map(str, PADDINGS))}, for which the sound has a map")
    return FaceUnet(size, features)


def _begin(module: nn.Module) -> None:
    """He's initialisation (arXiv 1502.01852): most convolutions have a ReLU behind them and no norm that would mend another scale."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _ends() -> list[int]:
    """Channels of the map that each level leaves, from the stem on."""
    return [STEM, *(channels[-1] for channels in DOWN)]


def _sound(fifth: int, sixth: int) -> nn.Sequential:
    """(B, 1, 20, 256) -> (B, 128, size / 32, size / 32)"""
    return nn.Sequential(
        _convolution(1, 16, 3, stride=(1, 2)),
        _convolution(16, 32, 3, stride=(1, 2)),
        Residual(32),
        _convolution(32, 64, 3, stride=(1, 2), padding=1),
        _convolution(64, SOUND, 3, stride=(1, 2), padding=1),
        _convolution(SOUND, SOUND, 3, stride=2, padding=fifth),
        _convolution(SOUND, SOUND, 3, stride=2, padding=sixth),
        Residual(SOUND),
    )


def _stem() -> nn.Sequential:
    """(B, 6, size, size) -> (B, 16, size / 2, size / 2)"""
    return nn.Sequential(
        nn.ReflectionPad2d(1),
        _convolution(6, 16, 3),
        _convolution(16, 32, 3, stride=2, padding=1),
        _convolution(32, 32, 3, padding=1, groups=32),
        _convolution(32, STEM, 1),
    )


def _level(before: int, channels: tuple[int, ...]) -> nn.Sequential:
    widths = pairwise([before, *channels])
    return nn.Sequential(*(Block(one, other, stride=1 if number else 2) for number, (one, other) in enumerate(widths)))


def _convolution(
    before: int, after: int, kernel: int, *, stride: int | tuple[int, int] = 1, padding: int = 0, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, padding, groups=groups), nn.ReLU())


def _doubled(before: int, after: int) -> nn.Sequential:
    """(B, before, H, W) -> (B, after, 2 H, 2 W)"""
    return nn.Sequential(nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1), nn.ReLU())
