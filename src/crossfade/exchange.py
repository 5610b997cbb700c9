"""Arguments to the verbs that take models in and out, and nothing else: `export`, `bench`, `ncnn`. Costly imports lie inside them."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from crossfade.clip import UserError
from crossfade.inventory import Data, Json

ncnn = typer.Typer(help="ncnn models: what is in one, and how it becomes a run.", no_args_is_help=True)
Number = TypeVar("Number", int, float)


class Colours(StrEnum):
    """In which order a picture's channels come."""

    rgb = "rgb"
    bgr = "bgr"


class To(StrEnum):
    """What a run can be written as."""

    onnx = "onnx"
    ncnn = "ncnn"


def export(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    to: Annotated[To, typer.Option(help="onnx, or ncnn.")],
    int8: Annotated[bool, typer.Option("--int8", help="Also a file with weights of 8 bits (onnx).")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Weights of 16 bits (ncnn).")] = False,
    front_end: Annotated[bool, typer.Option("--front-end", help="Begin with the waveform and with uint8 pictures (onnx).")] = False,
    fixed: Annotated[bool, typer.Option("--fixed", help="One clip of fixed sizes at a time; ncnn's files are so always.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder of the files; default RUN/export.")] = None,
    data: Data = None,
    max_loss: Annotated[float, typer.Option(min=0, max=1, help="How much accuracy int8 may lose.")] = 0.02,
    as_json: Json = False,
) -> None:
    """Write a run as ONNX or ncnn; compared with it on real clips, and removed (exit code 1) where it answers otherwise."""
    from crossfade import tasks
    from crossfade.screen import Terminal, print_rows

    asked = {"int8": int8, "fp16": fp16, "front_end": front_end, "fixed": fixed}
    made = tasks.export(run, to.value, **asked, out=out, corpus=data, max_loss=max_loss, screen=Terminal(quiet=as_json))
    if as_json:
        print(json.dumps(made.to_json(), ensure_ascii=False))
        return
    print_rows(made.rows())
    print("\n".join(made.sentences()))


def bench(run: Annotated[Path, typer.Argument(help="A finished run.")], as_json: Json = False) -> None:
    """Size, work, time of one clip and clips a second of a run and of the files made of it, on this machine."""
    from crossfade import tasks
    from crossfade.screen import Terminal, print_rows

    found = tasks.bench(run, screen=Terminal(quiet=as_json))
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
        return
    print_rows(found.table())
    print(found.sentence())


Param = Annotated[Path, typer.Argument(help="The .param (text), or .param.bin.")]


@ncnn.command("show")
def show(
    param: Param,
    weights: Annotated[Path | None, typer.Option(help="The .bin; default the one beside it.")] = None,
    given: Annotated[str | None, typer.Option("--input", help="Its shape, such as 3,224,224, where the model does not say.")] = None,
    as_json: Json = False,
) -> None:
    """Every layer: kind, inputs, shape, parameters, weights and multiply-adds."""
    from crossfade.importing import show as shown
    from crossfade.screen import print_rows

    found = shown(param, weights, _numbers("--input", given, int))
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
        return
    print_rows(found.table())
    print(found.total())


@ncnn.command("import")
def import_(
    param: Param,
    out: Annotated[Path, typer.Option(help="The folder of the run that it becomes.")],
    weights: Annotated[Path | None, typer.Option(help="The .bin; default the one beside it.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file with a class name a line; default class0, class1 …")] = None,
    target: Annotated[str, typer.Option(help="What the classes are of.")] = "label",
    size: Annotated[int | None, typer.Option(help="Side of the picture in pixels, where the model does not say.")] = None,
    mean: Annotated[str | None, typer.Option(help="Red, green, blue: what is taken from pixels, such as 104,117,123.")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers that the rest is divided by.")] = None,
    white: Annotated[float, typer.Option(help="What a white pixel is in mean and std: 1, or 255.")] = 1.0,
    colours: Annotated[Colours, typer.Option(help="The order that the model takes.")] = Colours.rgb,
    as_json: Json = False,
) -> None:
    """A classifier becomes a run: predict with it, fine-tune it, export it again."""
    from crossfade.deploy import bundle as bundles
    from crossfade.importing import import_ncnn
    from crossfade.screen import Terminal

    command = shlex.join(["crossfade", *sys.argv[1:]])
    pixels = {
        "mean": _numbers("--mean", mean, float),
        "std": _numbers("--std", std, float),
        "white": white,
        "colours": colours.value,
    }
    run = import_ncnn(param, weights, out, labels=labels, target=target, command=command, size=size, **pixels)
    for warning in bundles.read_json(run / bundles.NOTES).get("warnings", []):
        Terminal(quiet=as_json).warn(warning)
    print(json.dumps({"run": str(run)}) if as_json else f"run: {run}\nfine-tune it: crossfade train {run / 'fine-tuning.yaml'} --data DATA")


def _numbers(option: str, text: str | None, kind: type[Number]) -> tuple[Number, ...] | None:
    """ "104,117,123" -> (104, 117, 123)"""
    if text is None:
        return None
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 3:
        raise UserError(f"{option}: found {text!r}; it needs three numbers such as 104,117,123")
    return found


@ncnn.command("load")
def load(
    param: Param,
    run: Annotated[Path, typer.Argument(help="A finished run of the same structure.")],
    out: Annotated[Path, typer.Option(help="The folder for the run with the model's weights.")],
    as_json: Json = False,
) -> None:
    """Put an ncnn model's weights into a copy of a run, and prove it layer by layer (exit code 1 where they differ)."""
    from crossfade import structures

    found = structures.load(param, run, out)
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else "\n".join([*found.lines(), f"run: {out}"]))
    if not found.equal:
        raise typer.Exit(1)


def compare_structure(sides: list[Path], report: Path | None, as_json: bool) -> None:
    """What `compare --structure` prints and writes."""
    from crossfade import structures, tasks
    from crossfade.deploy.structure.page import page
    from crossfade.deploy.structure.text import data, text

    if len(sides) != 2:
        raise UserError(f"compare --structure: found {len(sides)} networks; give two of a run, a .param and an .onnx")
    found = structures.compare(*sides, of_run=tasks.structure)
    if report:
        report.write_text(page(found), encoding="utf-8")
    print(json.dumps(data(found), ensure_ascii=False) if as_json else text(found), end="\n" if as_json else "")
    if report and not as_json:
        print(f"report: {report}")
