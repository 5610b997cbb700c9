"""A run leaves the workshop: written as ONNX or ncnn, compared with the bundle on real clips, and kept only where both answer alike."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from crossfade.clip import UserError
from crossfade.data.front_end import FrontEnds, front_end
from crossfade.deploy import int8, operation
from crossfade.deploy.bar import EXACT, HALF, WITH_FRONT_END, Bar
from crossfade.deploy.exported import ExportedFile
from crossfade.deploy.parity import Decision, Parity, compare
from crossfade.deploy.refusal import NotEqual
from crossfade.deploy.runner import MASK, TIME, Runner, TorchRunner, open_runner
from crossfade.deploy.sidecar import Sidecar
from crossfade.evaluation.intervals import paired
from crossfade.evaluation.tables import Answers, scores
from crossfade.models.cost import multiply_adds
from crossfade.models.model import count
from crossfade.run import open_run, own_clips, take_in
from crossfade.screen import Terminal
from crossfade.shipping import FOLDER, METRICS, Asked, Exported, Shipment, ends, left_as_found, refuse
from crossfade.trial import Judged, Replay, Trial

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.run import Opened

CLIPS, CALIBRATION = 256, 128  # at most: those compared on, and those that show the ranges for int8
ROUNDING = 1e-9  # 0.16 − 0.14 is a little more than 0.02


def export(
    folder: Path,
    to: str,
    *,
    int8: bool = False,
    fp16: bool = False,
    front_end: bool = False,
    fixed: bool = False,
    out: Path | None = None,
    corpus: Path | None = None,
    max_loss: float = 0.02,
    screen: Terminal | None = None,
) -> Exported:
    """Write a finished run in another format, compare it with the run on its validation clips (or on those of `corpus`), and keep it.

    Raises NotEqual where it answers otherwise than the run; then the file is removed. `int8` makes a second file besides the exact one,
    which may lose `max_loss` of the accuracy. UserError where a clip, a layer or an option is not there.
    """
    asked, screen = Asked(to, int8, fp16, front_end, fixed), screen or Terminal()
    refuse(folder, asked)
    opened = open_run(folder, corpus=corpus, alone=front_end)
    opened.model.cpu()
    trial = _trial(opened, "val", CLIPS, screen, whole=corpus is not None)
    place = out or folder / FOLDER
    with left_as_found(place):
        shipment = Shipment(folder, place, asked, _bar(opened, asked))
        work = _Work(shipment, opened, trial, trial.judged(TorchRunner(opened.model)))
        files = [work.exact()]
        if int8:
            training = _trial(open_run(folder, alone=front_end) if corpus else opened, "train", CALIBRATION, screen)
            files.append(work.eight_bits(files[0], training, max_loss))
    return Exported(folder, files)


def _trial(opened: Opened, split: str, most: int, screen: Terminal, *, whole: bool = False) -> Trial:
    """At most so many of the split's clips, spread evenly over it."""
    try:
        found, clips = own_clips(opened, split, whole=whole)
        few = [clips[row] for row in np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(int)]
        return Trial(opened.desk, take_in(opened.desk, found, few, screen))
    except UserError as error:
        way = "" if whole else CLIPS_NEEDED[split]
        raise UserError(f"{error}{way}") from None


CLIPS_NEEDED = {
    "val": "; an export is compared on real clips: give some with --data",
    "train": "; --int8 looks at training clips, which must be there",
}


def _bar(opened: Opened, asked: Asked) -> Bar:
    spectrograms = any(len(stream.spec.shape) == 3 for stream in opened.desk.reader.streams.values())
    return HALF if asked.fp16 else WITH_FRONT_END if asked.front_end and spectrograms else EXACT


@dataclass(frozen=True)
class _Work:
    """One export. `reference`: what the run says of the clips of `trial`."""

    shipment: Shipment
    opened: Opened
    trial: Trial
    reference: Judged

    @property
    def asked(self) -> Asked:
        return self.shipment.asked

    def exact(self) -> ExportedFile:
        """Written, compared and kept. NotEqual, UserError."""
        with self.shipment.removed_unless_right(self.shipment.path):
            module, example = self._module(), self._example()
            runner = self.shipment.write(module, example, self._free(example), self.opened.recipe.targets)
            parities, scored, notes = self._compared(self.trial.judged(runner, decoded=self.asked.front_end), runner)
            self.shipment.hold(parities, module, example)
            return self.shipment.keep(self.shipment.path, self._sidecar(runner, parities, scored, notes))

    def eight_bits(self, exact: ExportedFile, training: Trial, max_loss: float) -> ExportedFile:
        """Beside the exact file one with weights of 8 bits, its ranges from training clips. NotEqual where it loses too much."""
        path = exact.path.with_name(exact.path.name.replace(".onnx", ".int8.onnx"))
        with self.shipment.removed_unless_right(path):
            batches = training.batches(decoded=self.asked.front_end)
            made = int8.quantise(exact.path, path, batches, leave=["0"] if self.asked.front_end else [])
            runner = open_runner(path)
            found = self.trial.judged(runner, decoded=self.asked.front_end)
            parities, scored, notes = self._compared(found, runner)
            loss = {target: self._loss(target, found.tables[target]) for target in found.tables}
            for target, each in loss.items():
                if each["difference"] > max_loss + ROUNDING:
                    found_loss = f"loses {each['difference']:.3f} of the accuracy of {target}{ends(each)}"
                    raise NotEqual(f"{path}: {found_loss}, more than --max-loss {max_loss:g}, and was removed")
            seen = f"ranges from {len(training.intake.clips)} training clips"
            held = {"precision": "int8", "tolerance": None, "agreement": None, "parity": parities, "scores": scored}
            loss = {target: each | {"before": made.before, "max_loss": max_loss} for target, each in loss.items()}
            about = replace(exact.about, **held, loss=loss, notes=[*notes, seen], left_float=made.left_float)
            return self.shipment.keep(path, about)

    def _module(self) -> nn.Module:
        if not self.asked.front_end:
            return self.opened.model
        ends = {name: end for name, stream in self.opened.desk.reader.streams.items() if (end := front_end(stream)) is not None}
        if not ends:
            raise UserError(f"{self.shipment.folder}: --front-end: its streams are stored as the model takes them, so there is none")
        return nn.Sequential(FrontEnds(ends), self.opened.model)

    def _example(self) -> Named:
        found = self.trial.example(decoded=self.asked.front_end)
        needed = self.shipment.format.masks or len(self.opened.desk.reader.streams) > 1  # a mask also says that a stream is absent
        return {name: x for name, x in found.items() if needed or self.reference.padded or not name.endswith(MASK)}

    def _free(self, example: Named) -> set[str]:
        """Streams whose clips may be of any length: all sound as it is decoded, else as the encoder says."""
        shapes = {name: encoder.spec.shape for name, encoder in self.opened.model.encoders.items()}  # type: ignore[union-attr]
        steps = {name: example[name].shape[TIME[example[name].ndim]] for name in shapes}
        any_length = {name for name, shape in shapes.items() if shape[TIME[len(shape) + 1] - 1] is None and steps[name] > 1}
        decoded = {name for name in shapes if self.asked.front_end and example[name].ndim == 2}
        return any_length | decoded

    def _compared(self, found: Judged, runner: Runner) -> tuple[list[Parity], dict[str, Any], list[str]]:
        """Every output that the run gave of some clip; the scores of both; what could not be compared."""
        both = [name for name in runner.outputs if name in self.reference.outputs]
        desk = self.opened.desk
        kinds: dict[str, Decision] = {target: "several" if desk.several(target) else "class" for target in desk.recipe.targets}
        decisions: dict[str, Decision] = {
            name: kind for name in both for target, kind in kinds.items() if name == target or name.startswith(f"{target}.")
        }
        reference, candidate = (Replay(each.answers, both) for each in (self.reference, found))
        parities = compare(reference, candidate, itertools.repeat({}, len(found.answers)), decisions)
        notes = [f"{name}: not compared, for no clip has what it is of" for name in runner.outputs if name not in both]
        notes += [
            f"{target}: the run says the same of all these clips, so agreement shows little" for target in kinds if self._always(target)
        ]
        known = {target: table for target, table in found.tables.items() if len(table.known())}
        scored = {target: {"run": _scores(self.reference.tables[target]), "file": _scores(table)} for target, table in known.items()}
        return parities, scored, notes

    def _always(self, target: str) -> bool:
        """Whether the run's answers to several clips are alike as far as a file may differ from them."""
        said = np.concatenate([answer[target] for answer in self.reference.answers])
        return len(said) > 1 and float(np.ptp(said, axis=0).max()) <= EXACT.tolerance * float(np.abs(said).max())

    def _loss(self, target: str, table: Answers) -> dict[str, Any]:
        before = self.reference.tables[target]
        if not len(before.known()):
            raise UserError(f"{self.shipment.folder}: none of these clips is labelled with {target}, so nobody knows what int8 loses")
        found = paired(before, table, "accuracy", names=("run", "int8"), seed=self.opened.recipe.seed)
        return {name: getattr(found, name) for name in ("difference", "low", "high", "n_clips", "n_groups", "note")}

    def _sidecar(self, runner: Runner, parities: list[Parity], scored: dict[str, Any], notes: list[str]) -> Sidecar:
        opened = self.opened
        streams = opened.desk.reader.streams
        without = [name for name in streams if name + MASK not in runner.inputs]
        if without:
            notes = [*notes, f"{' and '.join(without)}: taken to be real throughout; a clip with padding is refused"]
        bar = self.shipment.bar
        return Sidecar(
            **self.shipment.facts(runner),
            streams={name: opened.recipe.data.streams[name] for name in streams},
            parity=parities,
            scores=scored,
            without_masks=without,
            classes={target: list(opened.desk.classes[target]) for target in opened.recipe.targets},
            costs={"parameters": count(opened.model), "multiply_adds": multiply_adds(opened.model, opened.desk.one_clip())},
            notes=[*notes, *([bar.note] if bar.note else [])],
            operation=operation.of_run(self.shipment.folder, domains=opened.recipe.data.domains is not None),
            recipe=opened.bundle.recipe,
        )


def _scores(table: Answers) -> dict[str, float]:
    found = scores(table.known())
    return {metric: found[metric] for metric in METRICS}
