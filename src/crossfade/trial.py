"""Real clips put to a runner, as a run's streams finish them or as they are decoded: its answers as tables and as they came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from crossfade import judge
from crossfade.clip import UserError
from crossfade.data.front_end import front_end
from crossfade.deploy.file_model import FileModel
from crossfade.deploy.runner import MASK, TIME, Runner, Shape

if TYPE_CHECKING:
    from crossfade.clip import Clip, Named
    from crossfade.data.intake import Intake
    from crossfade.data.loader import Loader
    from crossfade.evaluation.tables import Answers
    from crossfade.judge import Desk

Arrays = dict[str, np.ndarray]
BATCH = 16  # clips at most, whatever the recipe trains on


@dataclass(frozen=True)
class Judged:
    """A table a target, and of every batch in turn the raw outputs. `padded`: streams of which some clip has padding or nothing."""

    tables: dict[str, Answers]
    answers: list[Arrays]
    padded: set[str]

    @property
    def outputs(self) -> list[str]:
        return list(dict.fromkeys(name for answer in self.answers for name in answer))


class Replay:
    """A runner that gives again what another gave, batch by batch; of these outputs alone."""

    def __init__(self, answers: Sequence[Arrays], outputs: Sequence[str]):
        self.inputs: dict[str, Shape] = {}
        self.outputs, self._answers = list(outputs), iter(answers)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        return {name: array for name, array in next(self._answers).items() if name in self.outputs}


@dataclass(frozen=True)
class Trial:
    """Clips that `intake` took in. With `decoded`, streams that have a front end are given as they come from their files."""

    desk: Desk
    intake: Intake

    def judged(self, runner: Runner, *, decoded: bool = False) -> Judged:
        """What it says of all the clips."""
        noted = _Noted(runner, self, decoded)
        tables = judge.predictions(self.desk, FileModel(noted), self.intake.clips, self.intake, "val", serve=self._loader)
        return Judged(tables, noted.answers, noted.padded)

    def batches(self, *, decoded: bool = False) -> Iterator[Arrays]:
        """The streams and masks of all the clips."""
        for batch in self._loader(self.intake.clips).in_order():
            yield self.given({name: tensor.numpy() for name, tensor in batch.items()}, self.intake.clips, decoded)

    def example(self, *, decoded: bool = False) -> Named:
        """Two clips with every stream, and their masks; silent and black where no clip has all of them."""
        streams = self.desk.reader.streams
        whole = [clip for clip in self.intake.clips if set(self.intake.streams[clip.id]) == set(streams)][:2]
        if not whole and decoded:
            raise UserError(f"--front-end: none of these clips has all of {', '.join(streams)}; give some with --data")
        if not whole:
            return _masked({name: tensor.repeat_interleave(2, 0) for name, tensor in self.desk.one_clip().items()})
        batch = next(iter(self._loader(whole).in_order()))
        given = self.given({name: tensor.numpy() for name, tensor in batch.items()}, whole, decoded)
        return {name: torch.from_numpy(array) for name, array in given.items()}

    def given(self, batch: Mapping[str, np.ndarray], clips: Sequence[Clip], decoded: bool) -> Arrays:
        """Of a batch of a loader of these clips, the streams and their masks alone."""
        streams = {name: stream for name, stream in self.desk.reader.streams.items() if name in batch}
        found = {key: batch[key] for name in streams for key in (name, name + MASK)}
        for name in [name for name, stream in streams.items() if decoded and front_end(stream) is not None]:
            read = [self.desk.reader.read(clips[row], name) for row in batch["index"]]
            found |= _sounds(name, read) if read[0].ndim == 1 else {name: np.stack(read)}
        return found

    def _loader(self, clips: list[Clip]) -> Loader:
        return replace(self.desk.loader(clips, self.intake), batch=min(self.desk.recipe.data.batch, BATCH))


class _Noted:
    """A runner whose answers are kept as they come."""

    def __init__(self, runner: Runner, trial: Trial, decoded: bool):
        self.runner, self.trial, self.decoded = runner, trial, decoded
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self.answers: list[Arrays] = []
        self.padded: set[str] = set()

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        self.padded |= {name for name in self.trial.desk.reader.streams if name not in arrays or not arrays[name + MASK].all()}
        self.answers.append(self.runner(self.trial.given(arrays, self.trial.intake.clips, self.decoded)))
        return self.answers[-1]


def _sounds(name: str, read: Sequence[np.ndarray]) -> Arrays:
    """Sounds (N,) of any lengths side by side, and their mask."""
    longest = max(map(len, read))
    x = np.stack([np.pad(np.asarray(each, np.float32), (0, longest - len(each))) for each in read])
    return {name: x, name + MASK: np.arange(longest) < np.array([len(each) for each in read])[:, None]}


def _masked(streams: Named) -> Named:
    """With masks all True."""
    masks = {name + MASK: torch.ones(len(x), x.shape[TIME[x.ndim]], dtype=torch.bool) for name, x in streams.items()}
    return streams | masks
