"""SyncNet (Chung & Zisserman 2016): how well a mouth and a sound go together, and how far they are out of step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfade.clip import UserError
from crossfade.evaluation.face import published
from crossfade.evaluation.face.mfcc import mfcc

SIDE, PICTURES = 224, 5  # pixels, and frames of a window
STEPS, HEARD = 4, 20  # columns of MFCC to a frame of 40 ms, and columns of a window
SAMPLES = 640  # of a frame
REACH = 15  # frames to both sides
BATCH = 8
WIDTH = 1024

# (channels, kernel, stride, padding of a convolution), then (kernel, stride, padding) of a pooling where there is one
SOUND = (
    ((64, (3, 3), (1, 1), (1, 1)), ((1, 1), (1, 1), (0, 0))),
    ((192, (3, 3), (1, 1), (1, 1)), ((3, 3), (1, 2), (0, 0))),
    ((384, (3, 3), (1, 1), (1, 1)), None),
    ((256, (3, 3), (1, 1), (1, 1)), None),
    ((256, (3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (0, 0))),
    ((512, (5, 4), (1, 1), (0, 0)), None),
)
MOUTH = (
    ((96, (5, 7, 7), (1, 2, 2), (0, 0, 0)), ((1, 3, 3), (1, 2, 2), (0, 0, 0))),
    ((256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), ((1, 3, 3), (1, 2, 2), (0, 1, 1))),
    ((256, (1, 3, 3), (1, 1, 1), (0, 1, 1)), None),
    ((256, (1, 3, 3), (1, 1, 1), (0, 1, 1)), None),
    ((256, (1, 3, 3), (1, 1, 1), (0, 1, 1)), ((1, 3, 3), (1, 2, 2), (0, 0, 0))),
    ((512, (1, 6, 6), (1, 1, 1), (0, 0, 0)), None),
)


@dataclass(frozen=True)
class Sync:
    """Of one clip. `late`: by how many frames the sound that fits best comes after the picture (published offsets have the other sign)."""

    late: int
    distance: float  # at the best shift
    confidence: float  # the median over all shifts, less that


class SyncNet:
    """`weights`: the published syncnet_v2.model."""

    def __init__(self, weights: Path):
        self.network = network()
        published.fill(self.network, published.read(weights), weights, "SyncNet")

    def __call__(self, pictures: np.ndarray, sound: np.ndarray) -> Sync:
        """Frames of a face (T, 3, S, S), −1 … 1, at 25 a second, and their sound (N,) at 16 kHz -> how well they go together."""
        windows = min(len(pictures), len(sound) // SAMPLES) - PICTURES
        if windows < 1:
            raise UserError(f"SyncNet needs more than {PICTURES} frames with their sound; found {windows + PICTURES}")
        return judge(self.seen(pictures, windows), self.heard(sound, windows))

    def seen(self, pictures: np.ndarray, windows: int) -> Tensor:
        """(T, 3, S, S) -> (K, 1024), a row for the five frames that begin at each."""
        large = functional.interpolate(torch.from_numpy(pictures).float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        values = ((large + 1) * 127.5).flip(1).transpose(0, 1)  # 0 … 255, blue first, as it was trained
        return self._rows("lip", [values[:, start : start + PICTURES] for start in range(windows)])

    def heard(self, sound: np.ndarray, windows: int) -> Tensor:
        """(N,) -> (K, 1024), a row for the 200 ms that begin with each frame."""
        values = torch.from_numpy(mfcc(sound))[None]
        return self._rows("aud", [values[:, :, STEPS * start : STEPS * start + HEARD] for start in range(windows)])

    @torch.no_grad()
    def _rows(self, part: str, windows: list[Tensor]) -> Tensor:
        convolutions, layers = self.network[f"netcnn{part}"], self.network[f"netfc{part}"]
        batches = [torch.stack(windows[at : at + BATCH]) for at in range(0, len(windows), BATCH)]
        return torch.cat([layers(convolutions(batch).flatten(1)) for batch in batches])


def judge(seen: Tensor, heard: Tensor, reach: int = REACH) -> Sync:
    """(K, D) twice -> the shift at which rows are nearest on average, and by how much it stands out."""
    found = distances(seen, heard, reach)
    best = int(found.argmin())
    return Sync(best - reach, float(found[best]), float(found.median() - found[best]))


def distances(seen: Tensor, heard: Tensor, reach: int = REACH) -> Tensor:
    """(K, D) twice -> (2 · reach + 1,) the mean distance where the sound is taken so many frames earlier … later; zeros beyond its ends."""
    padded = functional.pad(heard, (0, 0, reach, reach))
    shifted = [padded[start : start + len(seen)] for start in range(2 * reach + 1)]
    return torch.stack([functional.pairwise_distance(seen, rows).mean() for rows in shifted])


def network() -> nn.ModuleDict:
    """Both halves, under the names of the published file."""
    return nn.ModuleDict(
        {
            "netcnnaud": _convolutions(1, SOUND, nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
            "netfcaud": _layers(),
            "netcnnlip": _convolutions(3, MOUTH, nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
            "netfclip": _layers(),
        }
    )


def _convolutions(channels: int, table, convolution, normalisation, pooling) -> nn.Sequential:
    """(B, channels, …) -> (B, 512, 1, …)"""
    layers: list[nn.Module] = []
    for (width, kernel, stride, padding), pool in table:
        layers += [convolution(channels, width, kernel, stride, padding), normalisation(width), nn.ReLU()]
        layers += [pooling(*pool)] if pool else []
        channels = width
    return nn.Sequential(*layers)


def _layers() -> nn.Sequential:
    """(B, 512) -> (B, 1024)"""
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, WIDTH))
