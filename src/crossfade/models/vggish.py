"""VGGish: the VGG of AudioSet on log-mel spectrograms, of which it takes one size alone; its weights come as files of the PyTorch port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from crossfade.clip import Spec, UserError
from crossfade.models.encoder import Encoder, Stage
from crossfade.models.masks import begin_silent, bin_mask
from crossfade.models.surgery import start_from

if TYPE_CHECKING:
    from crossfade.clip import Named

WIDTH, DIM = 4096, 128  # of the hidden linear layers, of the answer
SPREAD = 3.0  # of a natural log-mel around its mean, about
HALVED = 16  # four poolings leave a sixteenth of each side
Rows = Literal["bands", "time"]
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # rows -> axes of the spectrogram (B, 1, M, T), axes that are flattened
    "bands": ((0, 1, 2, 3), (0, 1, 2, 3)),
    "time": ((0, 1, 3, 2), (0, 2, 3, 1)),
}
PORT_NAMES = {  # the PyTorch port's -> ours
    "features.0.": "stages.0.body.0.",
    "features.3.": "stages.1.body.0.",
    "features.6.": "stages.2.body.0.",
    "features.8.": "stages.2.body.2.",
    "features.11.": "stages.3.body.0.",
    "features.13.": "stages.3.body.2.",
    "embeddings.0.": "stages.4.body.0.",
    "embeddings.2.": "stages.5.body.0.",
    "embeddings.4.": "stages.6.body.0.",
}
SPARE = ("classifier.", "head.")  # what follows the embeddings in such files
TRAINED = "the port itself was trained with `rows: time, mels: 64, frames: 96`"


def vggish(
    *, frames: int = 64, mels: int = 96, rows: Rows = "bands", weights: str | None = None, allow_missing: tuple[str, ...] = ()
) -> Encoder:
    """VGGish (arXiv 1609.09430) up to its embedding, in 7 stages: 4 of convolutions, 4,499,712 parameters, and 3 linear ones, 67,641,472.

    (B, 1, mels, frames) -> Tokens (B, 1, 128); 72,141,184 parameters, and 863,895,552 multiply-adds a clip at 96 × 64, to which a linear
    head of 2 classes adds 258 and 256. `rows` says what runs down the picture: bands, as the cough original lays it, or time, as the port
    does, whose own weights were trained with mels 64, frames 96. `weights` is a file of the port (`features.*`, `embeddings.*`) or with
    our names, or a bundle; UserError where it does not fit, unless `allow_missing` names the rest.
    """
    blocks = [(1, 64), (64, 128), (128, 256, 256), (256, 512, 512)]
    entry = blocks[-1][-1] * _halved("mels", mels) * _halved("frames", frames)  # 12,288 at 96 × 64
    picture, flattened = LAYOUTS[rows]
    stages = [
        *[Stage(_block(*widths)) for widths in blocks],
        Flat(_linear(entry, WIDTH), axes=flattened),
        *[Stage(_linear(*widths)) for widths in ((WIDTH, WIDTH), (WIDTH, DIM))],
    ]
    _initialise(stages)
    encoder = Encoder(stages, dim=DIM, spec=Spec((1, mels, frames)), begin=Laid(picture))
    return _noted(_started(encoder, weights, allow_missing), rows, mels, frames)


class Laid:
    """The first state: padding is silence, and the axes are in the order of the layout."""

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def __call__(self, x: Tensor, mask: Tensor | None) -> Named:
        """(B, 1, M, T), mask (B, T) -> {"x": (B, 1, H, W), "mask": (B, T)}"""
        state = begin_silent(x, mask)
        return {**state, "x": state["x"].permute(self.axes)}


class Flat(nn.Module):
    """The stage that makes one vector of the whole picture; it is real where any column is."""

    def __init__(self, body: nn.Module, *, axes: tuple[int, ...]):
        super().__init__()
        self.body, self.axes = body, axes

    def forward(self, state: Named) -> Named:
        """{"x": (B, C, H, W), "mask": (B, T)} -> {"x": (B, 1, D), "mask": (B, 1)}"""
        state = {**state, "x": self.body(state["x"].permute(self.axes).flatten(1)[:, None])}
        return {**state, "mask": bin_mask(state["mask"], 1)} if "mask" in state else state


def _block(before: int, *after: int) -> nn.Sequential:
    """3×3 convolutions, then half of each side."""
    widths = (before, *after)
    layers = [[nn.Conv2d(widths[at], width, 3, padding=1), nn.ReLU()] for at, width in enumerate(after)]
    return nn.Sequential(*[layer for pair in layers for layer in pair], nn.MaxPool2d(2))


def _linear(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, after), nn.ReLU())


def _initialise(stages: list[nn.Module]) -> None:
    """He's (arXiv 1502.01852): with PyTorch's own, nine layers without normalisation leave next to nothing of the sound.

    The first filters sum to 0, so that they begin blind to how loud a recording is, which would drown all else, and bring it to spread 1.
    """
    layers = [layer for layer in nn.ModuleList(stages).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        layers[0].weight.sub_(layers[0].weight.mean((2, 3), keepdim=True)).div_(SPREAD)


def _halved(name: str, size: int) -> int:
    if size < HALVED:
        raise UserError(f"vggish: {name} {size}; at least {HALVED} are needed, for its four poolings halve them")
    return size // HALVED


def _started(encoder: Encoder, weights: str | None, allow: tuple[str, ...]) -> Encoder:
    if weights == "imagenet":
        raise UserError(
            "weights: imagenet: there are none for vggish; give a file of its PyTorch port, or set `weights: null` to train from scratch"
        )
    return start_from(encoder, weights, rename=PORT_NAMES, allow=allow, spare=SPARE)


def _noted(encoder: Encoder, rows: str, mels: int, frames: int) -> Encoder:
    """The port's weights fit any layout of the same size, but mean something else there."""
    if encoder.report is not None and encoder.report.renamed and (rows, mels, frames) != ("time", 64, 96):
        encoder.note = f"weights under the port's names, read for `rows: {rows}, mels: {mels}, frames: {frames}`; {TRAINED}"
    return encoder
