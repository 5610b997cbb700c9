"""A run leaves the workshop: written as ONNX or ncnn, compared with the bundle on real clips, and kept only where both answer alike."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from crossfade.clip import UserError
from crossfade.data.front_end import FrontEnds, front_end
from crossfade.deploy import bundle as bundles
from crossfade.deploy import card, exported, int8, ncnn_export, onnx_export, sidecar
from crossfade.deploy.bar import EXACT, HALF, WITH_FRONT_END, Bar
from crossfade.deploy.exported import ExportedFile
from crossfade.deploy.first_difference import first_differences
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
from crossfade.settings import nearest
from crossfade.trial import Judged, Replay, Trial

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.run import Opened

FOLDER = "export"  # of a run: where its files go
CLIPS, CALIBRATION = 256, 128  # at most: those compared on, and those that show the ranges for int8
METRICS = ("accuracy", "macro_f1")
ROUNDING = 1e-9  # 0.16 − 0.14 is a little more than 0.02
ENTRY = ("format", "precision", "front_end", "fixed", "tolerance", "agreement", "parity", "scores", "loss", "notes", "left_float")


@dataclass(frozen=True)
class Asked:
    """What is to be made of a run."""

    to: str
    int8: bool = False
    fp16: bool = False
    front_end: bool = False
    fixed: bool = False

    @property
    def file(self) -> str:
        """model.front-end.fixed.onnx"""
        marks = {"front-end": self.front_end, "fixed": self.fixed and "fixed" in FORMATS[self.to].options, "fp16": self.fp16}
        return ".".join(["model", *(mark for mark, wanted in marks.items() if wanted)]) + FORMATS[self.to].suffix


@dataclass(frozen=True)
class Format:
    """How a file is written, from a model, an example of its inputs, a path, what is asked, the streams of any length, and the heads."""

    suffix: str
    options: tuple[str, ...]
    masks: bool  # whether masks stay where no clip has padding
    write: Callable[[nn.Module, Named, Path, Asked, set[str], list[str]], Path]


def _onnx(module: nn.Module, example: Named, path: Path, asked: Asked, free: set[str], targets: list[str]) -> Path:
    fixed = {name.removesuffix(MASK) for name in example} - free
    return onnx_export.export(module, example, path, outputs=distinct(module, example), dynamic=not asked.fixed, fixed=fixed)


def _ncnn(module: nn.Module, example: Named, path: Path, asked: Asked, free: set[str], targets: list[str]) -> Path:
    return ncnn_export.export(module, example, path, outputs=targets, fp16=asked.fp16)


def distinct(module: nn.Module, example: Named) -> list[str]:
    """A model's outputs, each once: with one stream `label` and `label.image` are one and the same."""
    module.eval()
    with torch.no_grad():
        found = module(example)
    return [name for number, name in enumerate(found) if all(found[name] is not other for other in list(found.values())[:number])]


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", ("int8", "front_end", "fixed"), True, _onnx),
    "ncnn": Format(".param", ("fp16",), False, _ncnn),
}


@dataclass(frozen=True)
class Exported:
    """The files that were made and kept, by their paths."""

    run: Path
    files: list[ExportedFile]

    def rows(self) -> list[dict[str, Any]]:
        """A row an output of each file: what a terminal shows."""
        return [{"file": file.path.name, **_row(each)} for file in self.files for each in file.about.parity]

    def sentences(self) -> list[str]:
        """What each scores beside the bundle, what int8 loses, and where the files are."""
        return [line for file in self.files for line in _sentences(file)]

    def to_json(self) -> dict[str, Any]:
        return {"run": str(self.run), "files": {str(file.path): entry(file) for file in self.files}}


def _row(each: Parity) -> dict[str, Any]:
    numbers = {"max abs": each.max_abs, "mean abs": each.mean_abs, "max rel": each.max_rel, "mean rel": each.mean_rel}
    shown = {name: f"{value:.2g}" for name, value in numbers.items()}
    return {"output": each.output, "clips": each.clips, **shown, "agreement": "" if each.agree is None else f"{each.agree:.2%}"}


def _sentences(file: ExportedFile) -> Iterator[str]:
    for target, found in file.about.scores.items():
        values = ", ".join(f"{metric} {found['run'][metric]:.3f} → {found['file'][metric]:.3f}" for metric in METRICS)
        yield f"{file.path.name}: {target}: {values} (run → file)"
    for target, loss in file.about.loss.items():
        sizes = f"{loss['before'] / 1e6:.2f} MB → {file.bytes / 1e6:.2f} MB"
        yield f"{file.path.name}: {target}: loses {loss['difference']:.3f} of accuracy{_ends(loss)}; {sizes}"
    yield from (f"{file.path.name}: {note}" for note in file.about.notes)
    yield f"{file.path}: {file.bytes / 1e6:.2f} MB"


def _ends(loss: Mapping[str, Any]) -> str:
    return "" if loss["low"] is None else f" [{loss['low']:.3f}, {loss['high']:.3f}]"


def entry(file: ExportedFile) -> dict[str, Any]:
    """What exports.json says of a file."""
    known = asdict(file.about)
    return {name: known[name] for name in ENTRY} | {"bytes": file.bytes}


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
    _refuse(folder, asked)
    opened = open_run(folder, corpus=corpus, alone=front_end)
    opened.model.cpu()
    trial = _trial(opened, "val", CLIPS, screen, whole=corpus is not None)
    place = out or folder / FOLDER
    with _left_as_found(place):
        work = _Work(folder, place, opened, asked, trial, trial.judged(TorchRunner(opened.model)))
        files = [work.exact()]
        _record(folder, files[0].path, entry(files[0]))
        if int8:
            training = _trial(open_run(folder, alone=front_end) if corpus else opened, "train", CALIBRATION, screen)
            files.append(work.eight_bits(files[0], training, max_loss))
            _record(folder, files[1].path, entry(files[1]))
    return Exported(folder, files)


def _refuse(folder: Path, asked: Asked) -> None:
    if asked.to not in FORMATS:
        raise UserError(f"--to: found {asked.to!r}; {nearest(asked.to, FORMATS)}")
    for option in ("int8", "fp16", "front_end"):
        if getattr(asked, option) and option not in FORMATS[asked.to].options:
            able = [name for name, format in FORMATS.items() if option in format.options]
            raise UserError(f"--{option.replace('_', '-')}: is not there with --to {asked.to}; it needs --to {' or '.join(able)}")
    if exported.is_exported(folder):
        raise UserError(f"{folder}: is an exported file; give the folder of the run that it was made from")


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


@contextlib.contextmanager
def _left_as_found(place: Path) -> Iterator[None]:
    """A folder that was not there before goes again where nothing came into it."""
    existed = place.exists()
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not existed:
                place.rmdir()


@dataclass(frozen=True)
class _Work:
    """One export. `reference`: what the run says of the clips of `trial`."""

    folder: Path
    place: Path
    opened: Opened
    asked: Asked
    trial: Trial
    reference: Judged

    @property
    def format(self) -> Format:
        return FORMATS[self.asked.to]

    @property
    def bar(self) -> Bar:
        spectrograms = any(len(stream.spec.shape) == 3 for stream in self.opened.desk.reader.streams.values())
        return HALF if self.asked.fp16 else WITH_FRONT_END if self.asked.front_end and spectrograms else EXACT

    def exact(self) -> ExportedFile:
        """Written, compared and kept. NotEqual, UserError."""
        path = self.place / self.asked.file
        with self._removed_unless_right(path):
            module, example = self._module(), self._example()
            self.format.write(module, example, path, self.asked, self._free(example), self.opened.recipe.targets)
            runner = open_runner(path, **({"fp16": True} if self.asked.fp16 else {}))
            parities, scored, notes = self._compared(self.trial.judged(runner, decoded=self.asked.front_end), runner)
            if complaints := self.bar.complaints(parities):
                raise NotEqual(f"{self._otherwise(path)}: {'; '.join(complaints)}{self._first(module, example, path)}")
            return self._kept(path, self._sidecar(runner, parities, scored, notes))

    def eight_bits(self, exact: ExportedFile, training: Trial, max_loss: float) -> ExportedFile:
        """Beside the exact file one with weights of 8 bits, its ranges from training clips. NotEqual where it loses too much."""
        path = exact.path.with_name(exact.path.name.replace(".onnx", ".int8.onnx"))
        with self._removed_unless_right(path):
            batches = training.batches(decoded=self.asked.front_end)
            made = int8.quantise(exact.path, path, batches, leave=["0"] if self.asked.front_end else [])
            runner = open_runner(path)
            found = self.trial.judged(runner, decoded=self.asked.front_end)
            parities, scored, notes = self._compared(found, runner)
            loss = {target: self._loss(target, found.tables[target]) for target in found.tables}
            for target, each in loss.items():
                if each["difference"] > max_loss + ROUNDING:
                    found_loss = f"loses {each['difference']:.3f} of the accuracy of {target}{_ends(each)}"
                    raise NotEqual(f"{path}: {found_loss}, more than --max-loss {max_loss:g}, and was removed")
            seen = f"ranges from {len(training.intake.clips)} training clips"
            held = {"precision": "int8", "tolerance": None, "agreement": None, "parity": parities, "scores": scored}
            loss = {target: each | {"before": made.before, "max_loss": max_loss} for target, each in loss.items()}
            about = replace(exact.about, **held, loss=loss, notes=[*notes, seen], left_float=made.left_float)
            return self._kept(path, about)

    def _module(self) -> nn.Module:
        if not self.asked.front_end:
            return self.opened.model
        ends = {name: end for name, stream in self.opened.desk.reader.streams.items() if (end := front_end(stream)) is not None}
        if not ends:
            raise UserError(f"{self.folder}: --front-end: its streams are stored as the model takes them, so there is none")
        return nn.Sequential(FrontEnds(ends), self.opened.model)

    def _example(self) -> Named:
        found = self.trial.example(decoded=self.asked.front_end)
        needed = self.format.masks or len(self.opened.desk.reader.streams) > 1  # a mask also says that a stream is absent
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
            raise UserError(f"{self.folder}: none of these clips is labelled with {target}, so nobody knows what int8 loses")
        found = paired(before, table, "accuracy", names=("run", "int8"), seed=self.opened.recipe.seed)
        return {name: getattr(found, name) for name in ("difference", "low", "high", "n_clips", "n_groups", "note")}

    def _sidecar(self, runner: Runner, parities: list[Parity], scored: dict[str, Any], notes: list[str]) -> Sidecar:
        opened, asked = self.opened, self.asked
        streams = opened.desk.reader.streams
        without = [name for name in streams if name + MASK not in runner.inputs]
        if without:
            notes = [*notes, f"{' and '.join(without)}: taken to be real throughout; a clip with padding is refused"]
        return Sidecar(
            format=asked.to,
            inputs=runner.inputs,
            outputs=list(runner.outputs),
            streams={name: opened.recipe.data.streams[name] for name in streams},
            made_from=self.folder.resolve().name,
            front_end=asked.front_end,
            precision="float16" if asked.fp16 else "float32",
            fixed=asked.fixed or "fixed" not in self.format.options,
            tolerance=self.bar.tolerance,
            agreement=self.bar.agreement,
            parity=parities,
            scores=scored,
            without_masks=without,
            classes={target: list(opened.desk.classes[target]) for target in opened.recipe.targets},
            costs={"parameters": count(opened.model), "multiply_adds": multiply_adds(opened.model, opened.desk.one_clip())},
            notes=[*notes, *([self.bar.note] if self.bar.note else [])],
            recipe=opened.bundle.recipe,
        )

    def _kept(self, path: Path, about: Sidecar) -> ExportedFile:
        whole = replace(about, digests=exported.digests(path))
        sidecar.write(whole, path)
        return ExportedFile(path, whole)

    def _otherwise(self, path: Path) -> str:
        return f"{path}: answers otherwise than {self.folder} and was removed"

    def _first(self, module: nn.Module, example: Named, path: Path) -> str:
        """The layers that differ first, of an ONNX file, whose nodes say where they come from."""
        if path.suffix != FORMATS["onnx"].suffix:
            return ""
        batch = {name: x[:1].numpy() for name, x in example.items()}
        layers = first_differences(module, path, batch, tolerance=self.bar.tolerance)
        return f"; the first layers that differ: {'; '.join(map(str, layers))}" if layers else ""

    @contextlib.contextmanager
    def _removed_unless_right(self, path: Path) -> Iterator[None]:
        if path.exists() and not sidecar.beside(path).is_file():
            raise UserError(f"{path}: exists already and has no {sidecar.beside(path).name}, so it is none of ours; choose another --out")
        exported.remove(path)  # an earlier one
        try:
            yield
        except BaseException:
            exported.remove(path)
            _record(self.folder, path, None)
            raise


def _scores(table: Answers) -> dict[str, float]:
    found = scores(table.known())
    return {metric: found[metric] for metric in METRICS}


def _record(folder: Path, path: Path, known: dict[str, Any] | None) -> None:
    """What exports.json, and with it the card, says of this file from now on; None: nothing."""
    listing = folder / card.EXPORTS
    before = bundles.read_json(listing) if listing.is_file() else {}
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path.absolute())
    entries = {key: value for key, value in before.items() if key != name} | ({name: known} if known else {})
    if entries or listing.is_file():
        bundles.write_json(listing, entries)
        card.write(folder)
