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
PIECE = 250  # pictures of a clip held at a time
LATE = 5  # pictures by which the sound comes late for the audio sensitivity
SHIFTS = (
    -8,
    -6,
    -4,
    -3,
    -2,
    -1,
    0,
    1,
    2,
    3,
    4,
    6,
    8,
)  # pictures that the sound comes late: of the curve that shows where lips and sound fit
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
    kept, talk = part.talk.kept, part.talk
    sources = [frame - 1 if frame and kept[frame - 1] else identity_of(talk, frame) for frame in map(int, part.frames)]
    return _copied(faces, part, sources)


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


@dataclass(frozen=True)
class Ways:
    """How pictures are given: as the network learnt, and in silence, where it learnt with sound."""

    faces: Faces
    mute: Callable[[], Faces] | None  # made when it is asked for: it may take the encoder that made the features


def judge(
    ask: Ask, ways: Ways, parts: Sequence[Part], split: str, step: Callable[..., None] = lambda: None, extras: Sequence[Extra] = ()
) -> Judged:
    """Every picture of these clips: as it is, with its sound late, in silence, and the baselines that copy. `extras`: more numbers."""
    faces, mute = ways.faces, ways.mute() if ways.mute else None
    tables: dict[str, list[FrameScores]] = {"": [], NEIGHBOUR: [], STILL: []} | ({MUTE: []} if mute else {})
    for part in parts:
        for piece in part.pieces_of(PIECE):
            right = show(ask, faces, piece)
            more = {name: values for extra in extras for name, values in extra(right).items()}
            tables[""].append(scored(right, split, sensitivity=_sensitivity(ask, faces, right), **more))
            tables[NEIGHBOUR].append(scored(neighbour(faces, piece), split))
            tables[STILL].append(scored(still(faces, piece), split))
            if mute:
                tables[MUTE].append(scored(show(ask, mute, piece), split))
        step()
    table, *_ = whole = [concatenate(found) for found in tables.values()]
    return Judged(table, dict(zip(list(tables)[1:], whole[1:], strict=True)))


def _sensitivity(ask: Ask, faces: Faces, right: Shown) -> np.ndarray:
    """By how much the mouth is worse where the sound comes late; NaN of the first pictures, before which there is none."""
    late = show(ask, faces, right.part, shift=LATE)
    return np.where(right.frames < LATE, np.nan, sensitivity(right.output, late.output, right.true))


def validate(ask: Ask, faces: Faces, parts: Sequence[Part], seed: int) -> dict[str, float]:
    """The numbers of val that an epoch is scored by."""
    pieces = (piece for part in parts for piece in part.pieces_of(PIECE))
    found = summary(concatenate([scored(show(ask, faces, piece), "val") for piece in pieces]), seed=seed, resamples=2)
    return {name: float(found[name]) for name in found if isinstance(found[name], float)}


def curve(ask: Ask, faces: Faces, parts: Sequence[Part]) -> ShiftCurve:
    """The mouth's error against how late the sound is, over a few clips, of pictures that have all these sounds."""
    reach, found = max(SHIFTS), {shift: [] for shift in SHIFTS}
    for part in spread(parts, CURVE_CLIPS):
        inside = part.frames[(part.frames >= reach) & (part.frames < len(part.talk) - reach)][::EVERY]
        for piece in replace(part, frames=inside).pieces_of(PIECE):
            for shift in SHIFTS:
                found[shift].append(_mouth_error(show(ask, faces, piece, shift=shift)))
    return by_shift({shift: np.concatenate(errors) for shift, errors in found.items() if errors})


def _mouth_error(shown: Shown) -> np.ndarray:
    return mae(shown.output, shown.true, mouth(shown.true.shape[-1]))


def spread(parts: Sequence[Part], most: int) -> list[Part]:
    """At most so many of them, evenly."""
    return [parts[row] for row in np.linspace(0, len(parts) - 1, min(most, len(parts))).round().astype(int)]
