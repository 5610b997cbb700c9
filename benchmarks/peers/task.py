"""What every tool is given, the data and the network, and the clock that it is timed by. Runs in the peers' environment."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.measure import SPAWNED
from crossfade.models import ENCODERS, HEADS
from crossfade.models.masks import masked_mean
from crossfade.models.surgery import load_weights

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)  # ImageNet's
WORKERS = 2  # processes that decode files, as ours has by default on two cores


class Clock:
    """`ready` when data and model stand, then `trained` and `validated` once an epoch. What lies between counts for what follows."""

    def __init__(self):
        self.startup = time.time() - float(os.environ[SPAWNED])
        self.last = time.perf_counter()
        self.setup = 0.0
        self.epochs: list[float] = []
        self.validation: list[float] = []
        self.quality: list[float] = []

    def ready(self) -> None:
        self.setup = self._lap()

    def trained(self) -> None:
        self.epochs.append(self._lap())

    def validated(self, accuracy: float) -> None:
        self.validation.append(self._lap())
        self.quality.append(float(accuracy))

    def report(self, **more: Any) -> None:
        """The one line that the benchmark reads."""
        print(json.dumps({name: value for name, value in vars(self).items() if name != "last"} | {"after": self._lap(), **more}))

    def _lap(self) -> float:
        before, self.last = self.last, time.perf_counter()
        return self.last - before


class Files(Dataset):
    """The files themselves: decoded, resized and normalised anew each time, as a plain Dataset does."""

    def __init__(self, rows: list[dict[str, str]], labels: Tensor, medium: str, size: int):
        self.rows, self.labels, self.medium, self.size = rows, labels, medium, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        return *DECODE[self.medium](self.rows[row][self.medium], self.size), self.labels[row]


def picture(path: str, size: int) -> tuple[Tensor, Tensor]:
    """-> (1, 3, size, size), mask (1,): a clip of one frame."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return ((torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - MEAN) / STD)[None], torch.ones(1, dtype=torch.bool)


def sound(path: str, samples: int) -> tuple[Tensor, Tensor]:
    """16 kHz mono -> (samples,), mask (samples,)."""
    import soundfile

    heard = torch.from_numpy(soundfile.read(path, frames=samples, dtype="float32")[0])
    return pad(heard, (0, samples - len(heard))), torch.arange(samples) < len(heard)


DECODE: dict[str, Callable[[str, int], tuple[Tensor, Tensor]]] = {"image": picture, "audio": sound}


class Net(nn.Module):
    """The encoder, frozen up to `border`, the mean over its tokens, the head; the very modules that Crossfade trains."""

    def __init__(self, encoder: nn.Module, head: nn.Module, border: int):
        super().__init__()
        self.encoder: Any = encoder
        self.head, self.border = head, border
        self.encoder.stages[:border].requires_grad_(False)

    def train(self, mode: bool = True):
        """Frozen means eval mode, whatever the framework asks for: else BatchNorm drifts, and nobody's quality could be compared."""
        super().train(mode)
        self.encoder.stages[: self.border].eval()
        return self

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, …), mask -> (B, C)"""
        with torch.no_grad():
            state = self.encoder.run(self.encoder.begin(x, mask), stop=self.border)
        return self.head(masked_mean(self.encoder.finish(self.encoder.run(state, self.border))))


class Task:
    """One specification, read; data and network are made when asked for, so that the clock sees them."""

    def __init__(self, path: str):
        self.spec = json.loads(Path(path).read_text())
        self.epochs, self.batch, self.rates = self.spec["epochs"], self.spec["batch"], self.spec["rates"]
        for module in self.spec["imports"]:  # what the encoder needs, so that it counts as start-up
            import_module(module)
        torch.set_num_threads(self.spec["threads"])
        torch.manual_seed(self.spec["seed"])

    def net(self) -> Net:
        encoder = ENCODERS[self.spec["encoder"]](**self.spec["options"])
        head = HEADS["linear"](encoder.dim, len(self.spec["classes"]))
        load_weights(head, Path(self.spec["head"]))
        return Net(encoder, head, len(encoder.stages) - self.spec["unfrozen"])

    def data(self) -> tuple[Dataset, Dataset]:
        """Train and val of (input, mask, label): the files, or their decoded tensors in memory."""
        with Path(self.spec["clips"]).open(newline="") as file:
            rows = list(csv.DictReader(file))
        labels = torch.tensor([self.spec["classes"].index(row["label"]) for row in rows])
        sides = [[place for place, row in enumerate(rows) if row["split"] == side] for side in ("train", "val")]
        if self.spec["decoded"]:
            x, mask = (torch.from_numpy(np.load(Path(self.spec["decoded"]) / f"{name}.npy")) for name in ("x", "mask"))
            train, val = (TensorDataset(x[side], mask[side], labels[side]) for side in sides)
        else:
            train, val = (Files([rows[place] for place in side], labels[side], self.spec["medium"], self.spec["size"]) for side in sides)
        return train, val

    def loaders(self) -> tuple[DataLoader, DataLoader]:
        """Shuffled train, val in order."""
        train, val = self.data()
        given: dict[str, Any] = {"batch_size": self.batch, "num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(train, shuffle=True, **given), DataLoader(val, **given)

    @property
    def workers(self) -> int:
        return 0 if self.spec["decoded"] else WORKERS

    def optimizer(self, net: Net) -> torch.optim.Optimizer:
        """Adam; the head at its rate, what is unfrozen of the encoder at its own."""
        groups = [{"params": net.head.parameters(), "lr": self.rates["head"]}]
        if self.spec["unfrozen"]:
            groups.append({"params": net.encoder.stages[net.border :].parameters(), "lr": self.rates["encoder"]})
        return torch.optim.Adam(groups)


def begin() -> tuple[Task, Clock]:
    """At the end of a script's imports: everything before is start-up."""
    task = Task(sys.argv[1])
    return task, Clock()
