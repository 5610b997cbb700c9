"""A talking face leaves the workshop: as ONNX or ncnn, compared with the run on real pictures, and how quick each way is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crossfade import bench as benches
from crossfade.bench import Bench
from crossfade.clip import UserError
from crossfade.data.face.batches import Faces, Part, identity_of
from crossfade.data.face.prepared import FPS
from crossfade.deploy.bar import EXACT, HALF
from crossfade.deploy.parity import compare
from crossfade.deploy.runner import TorchRunner
from crossfade.deploy.sidecar import Sidecar
from crossfade.deploy.structure import from_torch
from crossfade.deploy.structure.layer import Structure
from crossfade.face import build
from crossfade.face.answers import side
from crossfade.face.opened import OpenedFace, open_face, quick
from crossfade.models.cost import multiply_adds
from crossfade.models.face_unet import FaceUnet
from crossfade.models.model import count
from crossfade.screen import Terminal
from crossfade.shipping import FOLDER, Asked, Exported, Shipment, left_as_found, refuse

if TYPE_CHECKING:
    from crossfade.clip import Named

PICTURES, BATCH = 64, 8  # that a file is compared on, spread over all of val, and how many at a time
LEVELS = 127.5  # of 8 bits, in one unit of what the network says
CPU = torch.device("cpu")


def export(
    folder: Path,
    to: str,
    *,
    fp16: bool = False,
    fixed: bool = False,
    out: Path | None = None,
    corpus: Path | None = None,
    screen: Terminal | None = None,
) -> Exported:
    """Write a finished run in another format, compare it with the run on pictures of its val (or of all of the prepared folder `corpus`),
    and keep it.

    Raises NotEqual where it draws otherwise than the run; then the file is removed. UserError where a clip or an option is not there.
    """
    asked, screen = Asked(to, fp16=fp16, fixed=fixed), screen or Terminal()
    refuse(folder, asked)
    opened = open_face(folder, corpus)
    model = network(opened)
    faces = build.ways(opened.recipe, opened.crop).faces
    place = out or folder / FOLDER
    shipment = Shipment(folder, place, asked, HALF if fp16 else EXACT)
    chosen = _chosen(side(opened, "val", corpus))
    with left_as_found(place), shipment.removed_unless_right(shipment.path):
        example = _two(next(_batches(faces, chosen)))
        runner = shipment.write(model, example, set(), ["output"])
        with screen.counting("comparing", len(chosen)) as step:
            given = ({name: x.numpy() for name, x in batch.items()} for batch in _batches(faces, chosen, step))
            parities = compare(TorchRunner(model), runner, given, {})
        shipment.hold(parities, model, example)
        about = Sidecar(
            **shipment.facts(runner),
            streams={"audio": opened.recipe.data.features, "face": {"use": "crop", **asdict(opened.crop)}},
            parity=parities,
            costs=costs(model),
            notes=[f"at most {LEVELS * each.max_abs:.2g} of 255 levels from the run's pictures" for each in parities],
            recipe=opened.bundle.recipe,
        )
        return Exported(folder, [shipment.keep(shipment.path, about)])


def network(opened: OpenedFace) -> FaceUnet:
    """In PyTorch, on the processor. UserError of a file."""
    if not isinstance(opened.model, FaceUnet):
        raise UserError(f"{opened.path}: is an exported file; give the folder of the run that it was made from")
    opened.model.to(CPU)
    return opened.model


def costs(model: FaceUnet) -> dict[str, int]:
    return {"parameters": count(model), "multiply_adds": multiply_adds(model, build.example(model))}


def _chosen(parts: Sequence[Part]) -> list[tuple[Part, int]]:
    """Pictures spread evenly over these clips."""
    every = [(part, int(frame)) for part in parts for frame in part.frames]
    return [every[row] for row in np.linspace(0, len(every) - 1, min(PICTURES, len(every))).round().astype(int)]


def _batches(faces: Faces, chosen: Sequence[tuple[Part, int]], step: Any = lambda count: None) -> Iterator[Named]:
    """{"audio": (B, 1, 20, dim), "face": (B, 6, S, S)}"""
    for start in range(0, len(chosen), BATCH):
        few = chosen[start : start + BATCH]
        identity = [identity_of(part.talk, frame) for part, frame in few]
        batch = faces.batch([part.talk for part, _ in few], [frame for _, frame in few], identity)
        yield {name: batch[name].contiguous() for name in ("audio", "face")}
        step(len(few))


def _two(batch: Named) -> Named:
    return {name: x[:2] for name, x in batch.items()}


def bench(folder: Path, *, screen: Terminal | None = None) -> Bench:
    """Time the run in PyTorch and every file that `export` made of it, at 1 and 2 threads, one picture and several at once."""
    benches.refuse_file(folder)
    model = network(open_face(folder))
    ways = [benches.in_torch(folder, quick(model, CPU), costs(model)), *benches.files(folder)]
    return benches.timed(ways, unit="picture", pace=FPS, screen=screen)


def structure(folder: Path, *, masks: bool = False) -> Structure:
    """The run's network, layer by layer, as `compare --structure` takes it; it has no masks."""
    model = network(open_face(folder))
    return from_torch.of(model, build.example(model), str(folder))
