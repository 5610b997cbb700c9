"""The work that everybody is given: which clips, which encoder with which weights, and the recipe that says the same to Crossfade."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from benchmarks.measure import DATA, THREADS
from crossfade.clip import Clip
from crossfade.data import STREAMS
from crossfade.data.files import manifest
from crossfade.data.ravdess import ravdess
from crossfade.models import ENCODERS, HEADS

SEED = 0
HEAD_RATE, ENCODER_RATE = 1e-3, 1e-4
GARMENTS = ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
FASHION, RAVDESS = DATA / "images" / "fashion_mnist_small", DATA / "ravdess"
MOBILENET = DATA / "weights" / "mobilenet_v2_features_imagenet.safetensors"
Row = dict[str, str]  # of clips.csv: the medium's file, label, group, split


@dataclass(frozen=True)
class Workload:
    """`unfrozen` stages at the top of the encoder learn with the head, none for a head alone."""

    name: str
    encoder: str
    medium: str
    stream: dict[str, Any]
    clips: Callable[[Path, int, int], list[Row]]
    train: int
    val: int
    batch: int
    epochs: int = 10
    timed: int = 10  # of those epochs that a peer runs; the others cost the same
    repeats: int = 3  # at most; peers, whose every epoch costs the same, run once
    unfrozen: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None  # None: random, the same for everybody
    imports: tuple[str, ...] = ()
    threads: int = THREADS

    @property
    def size(self) -> int:
        """Pixels a side, or samples."""
        return self.stream.get("size") or round(self.stream["rate"] * self.stream["seconds"])


@dataclass(frozen=True)
class Prepared:
    """A workload on disk: what each process is told lies in `memory.json` and `files.json` (the peers), `floor.json` and `ours.json`."""

    workload: Workload
    folder: Path

    def spec(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def garments(folder: Path, train: int, val: int) -> list[Row]:
    """Fashion-MNIST's pictures (28 × 28) as JPEG files in class folders; the CIFAR part that lies there has 600 only."""
    with gzip.open(FASHION / "train-images-idx3-ubyte.gz") as images, gzip.open(FASHION / "train-labels-idx1-ubyte.gz") as labels:
        pixels = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        names = [GARMENTS[label] for label in np.frombuffer(labels.read(), np.uint8, offset=8)]
    return [_jpeg(folder / "images" / names[row] / f"{row:04}.jpg", pixels[row], row < train) for row in range(train + val)]


def _jpeg(path: Path, pixels: np.ndarray, train: bool) -> Row:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("RGB").save(path, quality=95)
    return {"image": str(path), "label": path.parent.name, "group": path.stem, "split": "train" if train else "val"}


def voices(folder: Path, train: int, val: int) -> list[Row]:
    """RAVDESS: emotions of actors 1 to 6 to learn from, of 7 and 8 to choose by."""
    clips = sorted(ravdess(root=RAVDESS, media=["audio"]).clips, key=lambda clip: clip.id)
    sides = {"train": [clip for clip in clips if clip.group < "07"], "val": [clip for clip in clips if clip.group >= "07"]}
    luck = np.random.default_rng(SEED)
    chosen = [(clip, side) for side, count in (("train", train), ("val", val)) for clip in _some(sides[side], count, luck)]
    facts = [(str(clip.media["audio"]), clip.labels["emotion"], clip.group, side) for clip, side in chosen]
    return [dict(zip(("audio", "label", "group", "split"), row, strict=True)) for row in facts]


def _some(clips: list[Clip], count: int, luck: np.random.Generator) -> list[Clip]:
    return [clips[place] for place in luck.permutation(len(clips))[:count]]


RESNET = Workload(
    "ResNet18, 112 px",
    "resnet18",
    "image",
    {"use": "image", "size": 112},
    garments,
    train=1600,
    val=400,
    batch=32,
    timed=5,
    imports=("torchvision.models",),
)
MOBILE = replace(RESNET, name="MobileNetV2, 112 px", encoder="mobilenet_v2", weights=MOBILENET)
WAVLM = Workload(
    "WavLM-base, 3 s",
    "wavlm",
    "audio",
    {"use": "waveform", "rate": 16000, "seconds": 3.0},
    voices,
    train=160,
    val=40,
    batch=16,
    timed=2,
    repeats=1,
    imports=("transformers.models.wavlm.modeling_wavlm",),
)
TINY_WAVLM = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}


def quick(workload: Workload) -> Workload:
    """The same in small: it shows that everything runs."""
    audio = {"stream": workload.stream | {"seconds": 0.5}, "options": {"config": TINY_WAVLM}, "train": 12, "val": 8, "batch": 4}
    image = {"stream": workload.stream | {"size": 32}, "train": 64, "val": 32}
    return replace(workload, epochs=3, timed=2, threads=1, **{"audio": audio, "image": image}[workload.medium])


def prepare(workload: Workload, folder: Path) -> Prepared:
    """Write clips, decoded arrays, weights, the recipe and what each process is told."""
    folder.mkdir(parents=True)
    rows = workload.clips(folder, workload.train, workload.val)
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    classes = sorted({row["label"] for row in rows})
    encoder, head = _weights(workload, folder, len(classes))
    _decode(workload, folder, len(rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(workload, folder, encoder, head), sort_keys=False))
    peer = {
        **{name: getattr(workload, name) for name in ("encoder", "medium", "size", "batch", "unfrozen", "imports")},
        "options": {**workload.options, "weights": str(encoder)},
        "head": str(head),
        "classes": classes,
        "clips": str(folder / "clips.csv"),
        "epochs": workload.timed,
        "rates": {"head": HEAD_RATE, "encoder": ENCODER_RATE},
        "seed": SEED,
        "threads": workload.threads,
    }
    for name, content in {
        "memory": peer | {"decoded": str(folder)},
        "files": peer | {"decoded": None},
        "floor": peer | {"decoded": str(folder), "epochs": workload.epochs},
        "ours": {"recipe": str(recipe), "imports": workload.imports},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    return Prepared(workload, folder)


def _weights(workload: Workload, folder: Path, classes: int) -> tuple[Path, Path]:
    """The encoder's, drawn once where there are none, and the head's."""
    torch.manual_seed(SEED)
    encoder = ENCODERS[workload.encoder](**workload.options)
    drawn, head = folder / "encoder.safetensors", folder / "head.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, drawn)
    save_file(HEADS["linear"](encoder.dim, classes).state_dict(), head)
    return workload.weights or drawn, head


def _decode(workload: Workload, folder: Path, count: int) -> None:
    """What the encoder is given, of all clips in the order of the table: `x.npy` and `mask.npy`."""
    given = {key: value for key, value in workload.stream.items() if key != "use"}
    stream = STREAMS[workload.stream["use"]](**given)
    corpus = manifest(path=folder / "clips.csv", targets=["label"])
    if len(corpus.clips) != count:
        raise RuntimeError(f"{folder / 'clips.csv'}: {len(corpus.clips)} of {count} clips are there")
    finished = [stream.finish(stream.decode(clip)) for clip in corpus.clips]
    for name, tensors in zip(("x", "mask"), zip(*finished, strict=True), strict=True):
        np.save(folder / f"{name}.npy", torch.stack(tensors).numpy())


def _recipe(workload: Workload, folder: Path, encoder: Path, head: Path) -> dict[str, Any]:
    stream = workload.medium
    top = {f"encoders.{stream}[-{workload.unfrozen}:]": ENCODER_RATE} if workload.unfrozen else {}
    return {
        "data": {
            "corpus": {"use": "manifest", "path": str(folder / "clips.csv"), "targets": ["label"]},
            "split": {"by": "column", "ratios": [0.8, 0.2, 0.0]},
            "streams": {stream: workload.stream},
            "batch": workload.batch,
        },
        "model": {
            "encoders": {stream: {"use": workload.encoder, "weights": str(encoder), **workload.options}},
            "init": {f"heads.label.{stream}": str(head)},
            "heads": {"label": "linear"},
        },
        "phases": [
            {
                "name": "head",
                "epochs": workload.epochs,
                "rates": {**top, "encoders": None, "*": HEAD_RATE},
                "terms": {"label": {"use": "cross_entropy", "target": "label"}},
            }
        ],
        "select": "accuracy",
        "seed": SEED,
        "device": "cpu",
    }
