"""Table 6: what the original's habits cost in accuracy, one undone after the other: two-phase transfer learning of MobileNetV2 on MNIST."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models import mobilenet_v2

from benchmarks.measure import DATA, heading, machine, markdown, progress, versions
from benchmarks.workloads import MOBILENET
from crossfade.data.packed import packed_labels, packed_pictures

SEED, BATCH, CLASSES = 0, 32, 10
HEAD_RATE, TOP_RATE = 1e-3, 1e-4
EPOCHS = (10, 5)
MNIST, IMAGENET = ((0.1307,) * 3, (0.3081,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
COLUMNS = ("what", "frozen trunk bit-equal", "training, phase 1", "test, phase 1", "training, phase 2", "test, phase 2", "time (s)")
NOTES = """\
A plain PyTorch loop as the original has it: {train:,} of MNIST's training pictures, {test:,} of its test pictures, ImageNet weights,
dropout 0.2, batches of 32, Adam; phase 1 ({first} epochs) the new classifier at 1e-3, phase 2 ({second} epochs) the last four of 19 modules
at 1e-4 beside it. Training accuracy is the running one of the last epoch, as the original prints it. No augmentation anywhere. Each row
keeps what the row before it changed."""


@dataclass(frozen=True)
class Habit:
    """One way to train."""

    what: str
    side: int = 32
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = MNIST
    drifts: bool = True  # whether the frozen part is left in train mode


HABITS = (
    Habit("the original: 32 pixels, MNIST's mean and deviation, the frozen trunk in train mode"),
    Habit("frozen means eval mode", drifts=False),
    Habit("ImageNet's mean and deviation", drifts=False, statistics=IMAGENET),
    Habit("64 pixels", drifts=False, statistics=IMAGENET, side=64),
)


def run(quick: bool = False) -> dict[str, Any]:
    train, test, epochs = (256, 256, (1, 1)) if quick else (5_000, 5_000, EPOCHS)
    rows = [_trained(habit, train, test, epochs) for habit in HABITS]
    notes = NOTES.format(train=train, test=test, first=epochs[0], second=epochs[1])
    about, found = machine(), versions("torch", "torchvision")
    print(heading("What the original's habits cost", about, found))
    print(markdown(COLUMNS, [tuple(row.values()) for row in rows]), notes, sep="\n\n")
    return {"rows": rows, "machine": about, "versions": found, "quick": quick}


def _trained(habit: Habit, train: int, test: int, epochs: tuple[int, int]) -> dict[str, Any]:
    started = time.perf_counter()
    torch.manual_seed(SEED)
    net = _network()
    frozen = {name: tensor.clone() for name, tensor in net.features.state_dict().items()}
    seen, known = _pictures("train", train), _pictures("t10k", test)
    net.features.requires_grad_(False)
    row: dict[str, Any] = {"what": habit.what}
    learnt = _phase(net, habit, seen, epochs[0], [{"params": net.classifier.parameters(), "lr": HEAD_RATE}])
    still = all(torch.equal(tensor, frozen[name]) for name, tensor in net.features.state_dict().items())
    row |= {"still": "yes" if still else "no", "train_1": _percent(learnt), "test_1": _percent(_accuracy(net, habit, known))}
    top = net.features[-4:].requires_grad_(True)
    groups = [{"params": net.classifier.parameters(), "lr": HEAD_RATE}, {"params": top.parameters(), "lr": TOP_RATE}]
    learnt = _phase(net, habit, seen, epochs[1], groups)
    row |= {"train_2": _percent(learnt), "test_2": _percent(_accuracy(net, habit, known))}
    progress(f"{habit.what}: {row['test_1']} and {row['test_2']}")
    return row | {"seconds": f"{time.perf_counter() - started:.0f}"}


def _network() -> Any:
    net = mobilenet_v2()
    net.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASSES))
    net.load_state_dict(load_file(MOBILENET), strict=False)
    return net


def _pictures(split: str, count: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, 28, 28) and int64 (N,)"""
    folder = DATA / "mnist"
    found = packed_pictures(folder / f"{split}-images-idx3-ubyte.gz")[:count]
    return torch.from_numpy(np.array(found)), torch.from_numpy(packed_labels(folder / f"{split}-labels-idx1-ubyte.gz")[:count])


def _phase(net: Any, habit: Habit, seen: tuple[Tensor, Tensor], epochs: int, groups: list[dict[str, Any]]) -> float:
    """Train; the running accuracy of the last epoch."""
    optimizer, (pictures, labels), right = torch.optim.Adam(groups), seen, 0.0
    for _ in range(epochs):
        _modes(net, habit)
        right = 0.0
        for rows in torch.randperm(len(labels)).split(BATCH):
            scores = net(_input(pictures[rows], habit))
            optimizer.zero_grad()
            cross_entropy(scores, labels[rows]).backward()
            optimizer.step()
            right += float((scores.argmax(1) == labels[rows]).sum())
    return right / len(labels)


def _modes(net: Any, habit: Habit) -> None:
    net.train()
    for module in net.features if not habit.drifts else ():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()


@torch.no_grad()
def _accuracy(net: Any, habit: Habit, known: tuple[Tensor, Tensor]) -> float:
    net.eval()
    pictures, labels = known
    right: Callable[[Tensor], Tensor] = lambda rows: (net(_input(pictures[rows], habit)).argmax(1) == labels[rows]).sum()  # noqa: E731
    return sum(float(right(rows)) for rows in torch.arange(len(labels)).split(250)) / len(labels)


def _input(pictures: Tensor, habit: Habit) -> Tensor:
    """uint8 (B, 28, 28) -> float32 (B, 3, side, side), normalised"""
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in habit.statistics)
    grown = interpolate(pictures[:, None].float() / 255, (habit.side,) * 2, mode="bilinear", antialias=True)
    return (grown.expand(-1, 3, -1, -1) - mean) / deviation


def _percent(share: float) -> str:
    return f"{share:.2%}"
