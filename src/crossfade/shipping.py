"""A model on its way out, whatever its task: what is asked, how each format is written, and that only what answers alike is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crossfade.clip import UserError
from crossfade.deploy import bundle as bundles
from crossfade.deploy import card, exported, ncnn_export, onnx_export, sidecar
from crossfade.deploy.bar import Bar
from crossfade.deploy.exported import ExportedFile
from crossfade.deploy.first_difference import first_differences
from crossfade.deploy.parity import Parity
from crossfade.deploy.refusal import NotEqual
from crossfade.deploy.runner import MASK, Runner, open_runner
from crossfade.deploy.sidecar import Sidecar
from crossfade.settings import nearest

if TYPE_CHECKING:
    from crossfade.clip import Named

FOLDER = "export"  # of a run: where its files go
METRICS = ("accuracy", "macro_f1")
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
        yield f"{file.path.name}: {target}: loses {loss['difference']:.3f} of accuracy{ends(loss)}; {sizes}"
    yield from (f"{file.path.name}: {note}" for note in file.about.notes)
    yield f"{file.path}: {file.bytes / 1e6:.2f} MB"


def ends(loss: Mapping[str, Any]) -> str:
    return "" if loss["low"] is None else f" [{loss['low']:.3f}, {loss['high']:.3f}]"


def entry(file: ExportedFile) -> dict[str, Any]:
    """What exports.json says of a file."""
    known = asdict(file.about)
    return {name: known[name] for name in ENTRY} | {"bytes": file.bytes}


def refuse(folder: Path, asked: Asked) -> None:
    """UserError where a format or an option of it is not there, or the run is none."""
    if asked.to not in FORMATS:
        raise UserError(f"--to: found {asked.to!r}; {nearest(asked.to, FORMATS)}")
    for option in ("int8", "fp16", "front_end"):
        if getattr(asked, option) and option not in FORMATS[asked.to].options:
            able = [name for name, format in FORMATS.items() if option in format.options]
            raise UserError(f"--{option.replace('_', '-')}: is not there with --to {asked.to}; it needs --to {' or '.join(able)}")
    if exported.is_exported(folder):
        raise UserError(f"{folder}: is an exported file; give the folder of the run that it was made from")


@contextlib.contextmanager
def left_as_found(place: Path) -> Iterator[None]:
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
class Shipment:
    """One run, the place for its files, what is asked, and what a file is held to."""

    folder: Path
    place: Path
    asked: Asked
    bar: Bar

    @property
    def format(self) -> Format:
        return FORMATS[self.asked.to]

    @property
    def path(self) -> Path:
        return self.place / self.asked.file

    def write(self, module: nn.Module, example: Named, free: set[str], targets: list[str]) -> Runner:
        """The file, opened. UserError where the model cannot be written so."""
        self.format.write(module, example, self.path, self.asked, free, targets)
        return open_runner(self.path, **({"fp16": True} if self.asked.fp16 else {}))

    def hold(self, parities: list[Parity], module: nn.Module, example: Named) -> None:
        """NotEqual where the file answers otherwise than the run; it names the layers that differ first, where they can be seen."""
        if complaints := self.bar.complaints(parities):
            otherwise = f"{self.path}: answers otherwise than {self.folder} and was removed"
            raise NotEqual(f"{otherwise}: {'; '.join(complaints)}{self._first(module, example)}")

    def _first(self, module: nn.Module, example: Named) -> str:
        """Of an ONNX file, whose nodes say where they come from."""
        if self.path.suffix != FORMATS["onnx"].suffix:
            return ""
        batch = {name: x[:1].numpy() for name, x in example.items()}
        layers = first_differences(module, self.path, batch, tolerance=self.bar.tolerance)
        return f"; the first layers that differ: {'; '.join(map(str, layers))}" if layers else ""

    def facts(self, runner: Runner) -> dict[str, Any]:
        """Of a sidecar: what is the same whatever the task."""
        return {
            "format": self.asked.to,
            "inputs": runner.inputs,
            "outputs": list(runner.outputs),
            "made_from": self.folder.resolve().name,
            "front_end": self.asked.front_end,
            "precision": "float16" if self.asked.fp16 else "float32",
            "fixed": self.asked.fixed or "fixed" not in self.format.options,
            "tolerance": self.bar.tolerance,
            "agreement": self.bar.agreement,
        }

    def keep(self, path: Path, about: Sidecar) -> ExportedFile:
        """Its sidecar is written, and the run's listing names it."""
        kept = ExportedFile(path, replace(about, digests=exported.digests(path)))
        sidecar.write(kept.about, path)
        record(self.folder, path, entry(kept))
        return kept

    @contextlib.contextmanager
    def removed_unless_right(self, path: Path) -> Iterator[None]:
        """An earlier file goes at once, this one where the block fails."""
        if path.exists() and not sidecar.beside(path).is_file():
            raise UserError(f"{path}: exists already and has no {sidecar.beside(path).name}, so it is none of ours; choose another --out")
        exported.remove(path)
        try:
            yield
        except BaseException:
            exported.remove(path)
            record(self.folder, path, None)
            raise


def record(folder: Path, path: Path, known: dict[str, Any] | None) -> None:
    """What exports.json, and with it the run's card, says of this file from now on; None: nothing."""
    listing = folder / card.EXPORTS
    before = bundles.read_json(listing) if listing.is_file() else {}
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path.absolute())
    entries = {key: value for key, value in before.items() if key != name} | ({name: known} if known else {})
    if entries or listing.is_file():
        bundles.write_json(listing, entries)
        card.write(folder)
