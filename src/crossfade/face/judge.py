"""A network and clips in, pictures and numbers out: what training, `evaluate`, `export` and the report share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from crossfade.data.face.batches import Faces, Part, identity_of
from crossfade.data.face.crop import as_values, inner
from crossfade.evaluation.face.pictures import mae, mouth
from crossfade.evaluation.face.scores import FrameScores, ShiftCurve, by_shift, compare, concatenate, score, sensitivity, summary

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.data.face.prepared import Talk
    from crossfade.face.published import Extra

BATCH = 16
LATE = 5  # pictures by which the sound is shifted for the audio sensitivity
SHIFTS = (-8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8)  # pictures: of the curve that shows whether lips and sound are in step
CURVE_CLIPS, EVERY = 8, 3  # that the curve is of: clips, and one picture of so many
COMPARED = ("mouth_psnr", "mouth_ssim", "mouth_mae", "mouth_temporal", "psnr", "ssim")

Ask = Callable[["Named"], np.ndarray]  # a batch -> (B, 3, S, S)


def asked(model: nn.Module, device: torch.device, precision: Callable[[], Any] | None = None) -> Ask:
    """What a network says of batches, in float32 on the processor."""

    def ask(batch: Named) -> np.ndarray:
        given = {name: batch[name].to(device) for name in ("audio", "face")}
        with torch.inference_mode(), precision() if precision else nullcontext():
            return model(given)["output"].float().cpu().numpy()

    model.eval()
    return ask


@dataclass(frozen=True)
class Shown:
    """Pictures of one clip, (T, 3, S, S) in -1 … 1: what was made, what is true, and what the network saw of it."""

    part: Part
    output: np.ndarray
    true: np.ndarray
    covered: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        return self.part.frames


def show(ask: Ask, faces: Faces, part: Part, *, shift: int = 0, rows: Sequence[int] | None = None) -> Shown:
    """What a network makes of a clip, or of these `rows` of its pictures."""
    chosen = part if rows is None else replace(part, frames=part.frames[list(rows)])
    made: list[np.ndarray] = []
    true: list[np.ndarray] = []
    covered: list[np.ndarray] = []
    for batch in batches(faces, chosen, shift):
        made.append(ask(batch))
        true.append(batch["true"].numpy())
        covered.append(batch["face"][:, 3:].numpy())
    return Shown(chosen, *map(np.concatenate, (made, true, covered)))


def batches(faces: Faces, part: Part, shift: int = 0) -> Iterator[Named]:
    """A clip's pictures in their order."""
    for start in range(0, len(part.frames), BATCH):
        frames = [int(frame) for frame in part.frames[start : start + BATCH]]
        yield faces.batch([part.talk] * len(frames), frames, [identity_of(part.talk, frame) for frame in frames], shift)


def neighbour(faces: Faces, part: Part) -> Shown:
    """The baseline that copies: each mouth is that of the picture before, of which the network never sees the mouth."""
    return _copied(faces, part, [max(int(frame) - 1, 0) if frame else 1 for frame in part.frames])


def still(faces: Faces, part: Part) -> Shown:
    """The baseline that never speaks: every mouth is that of the picture which shows the face."""
    return _copied(faces, part, [identity_of(part.talk, int(frame)) for frame in part.frames])


def _copied(faces: Faces, part: Part, sources: Sequence[int]) -> Shown:
    true, hidden, source = (_values(part.talk, frames, faces) for frames in (part.frames, part.frames, sources))
    x, y, width, height = faces.crop.mask
    place = (..., slice(y, y + height), slice(x, x + width))
    output = true.copy()
    output[place] = source[place]
    hidden[place] = -1
    return Shown(part, output, true, hidden)


def _values(talk: Talk, frames: Sequence[int] | np.ndarray, faces: Faces) -> np.ndarray:
    return np.stack([as_values(inner(talk.faces[min(int(frame), len(talk) - 1)], faces.crop)) for frame in frames])


def scored(shown: Shown, split: str, **more: np.ndarray) -> FrameScores:
    """One clip's numbers, picture by picture."""
    part, values = shown.part, score(shown.output, shown.true, shown.frames)
    names = [part.talk.clip] * len(shown.frames)
    return FrameScores(names, [part.group(int(frame)) for frame in shown.frames], [split] * len(names), shown.frames, values | more)


@dataclass(frozen=True)
class Judged:
    """A table of the network, and of each baseline on the same pictures."""

    table: FrameScores
    baselines: Mapping[str, FrameScores]

    def metrics(self, seed: int) -> dict[str, Any]:
        """What metrics.json says: the network's numbers, the baselines' under "baselines", and the differences under "against"."""
        found = summary(self.table, seed=seed)
        others = {name: summary(table, seed=seed) for name, table in self.baselines.items()}
        against = {
            name: {metric: asdict(compare(self.table, table, metric, names=("this", name), seed=seed)) for metric in COMPARED}
            for name, table in self.baselines.items()
        }
        return found | {"baselines": others, "against": against}


NEIGHBOUR, STILL, MUTE = "the picture before", "a still mouth", "the same network, given silence"


def judge(
    ask: Ask, faces: Faces, parts: Sequence[Part], split: str, step: Callable[..., None] = lambda: None, extras: Sequence[Extra] = ()
) -> Judged:
    """Every picture of these clips: as it is, with its sound shifted, in silence, and the baselines that copy. `extras`: more numbers."""
    mute = replace(faces, sound=False)
    tables: dict[str, list[FrameScores]] = {"": [], NEIGHBOUR: [], STILL: []} | ({MUTE: []} if faces.sound else {})
    for part in parts:
        right, late = show(ask, faces, part), show(ask, faces, part, shift=LATE)
        more = {name: values for extra in extras for name, values in extra(right).items()}
        tables[""].append(scored(right, split, sensitivity=sensitivity(right.output, late.output, right.true), **more))
        tables[NEIGHBOUR].append(scored(neighbour(faces, part), split))
        tables[STILL].append(scored(still(faces, part), split))
        if faces.sound:
            tables[MUTE].append(scored(show(ask, mute, part), split))
        step()
    table, *_ = whole = [concatenate(found) for found in tables.values()]
    return Judged(table, dict(zip(list(tables)[1:], whole[1:], strict=True)))


def validate(ask: Ask, faces: Faces, parts: Sequence[Part], seed: int) -> dict[str, float]:
    """The numbers of val that an epoch is scored by."""
    found = summary(concatenate([scored(show(ask, faces, part), "val") for part in parts]), seed=seed, resamples=2)
    return {name: float(found[name]) for name in found if isinstance(found[name], float)}


def curve(ask: Ask, faces: Faces, parts: Sequence[Part]) -> ShiftCurve:
    """The mouth's error against how late the sound is, over a few clips: lowest at 0 where lips and sound are in step."""
    few, region = spread(parts, CURVE_CLIPS), mouth(faces.crop.size)
    found = {shift: [show(ask, faces, part, shift=shift, rows=range(0, len(part.frames), EVERY)) for part in few] for shift in SHIFTS}
    return by_shift({shift: np.concatenate([mae(each.output, each.true, region) for each in shown]) for shift, shown in found.items()})


def spread(parts: Sequence[Part], most: int) -> list[Part]:
    """At most so many of them, evenly."""
    return [parts[row] for row in np.linspace(0, len(parts) - 1, min(most, len(parts))).round().astype(int)]
