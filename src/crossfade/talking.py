"""Arguments to the verbs of a talking face, and nothing else: `face prepare`, `drive`. Costly imports lie inside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from crossfade.inventory import Json

face = typer.Typer(help="A talking face: videos made ready to train from.", no_args_is_help=True)
Detector = Annotated[
    Path | None,
    typer.Option(envvar="CROSSFADE_DETECTOR", help="A YuNet face detector (.onnx), as OpenCV's model zoo has it."),
]


@face.command()
def prepare(
    video: Annotated[Path, typer.Argument(help="A video, a folder of videos, or a CSV with a column `video` and perhaps `group`.")],
    out: Annotated[Path, typer.Argument(help="The folder to train from; a preparation that was stopped goes on there.")],
    detector: Detector = None,
    size: Annotated[int, typer.Option(help="Pixels of a face: 96, 128, 160 or 192.")] = 160,
    features: Annotated[str, typer.Option(help="What the sound becomes: logmel256, wenet or wavlm.")] = "logmel256",
    weights: Annotated[str | None, typer.Option(help="Of wenet an .onnx file, of wavlm a checkpoint's folder.")] = None,
    min_size: Annotated[int, typer.Option(min=1, help="Pixels that a face is wide, at least.")] = 64,
    jump: Annotated[float, typer.Option(min=0, help="How far a face may move between two pictures, in sides of its box.")] = 0.25,
    gap: Annotated[int, typer.Option(min=0, help="How many pictures without a face are bridged.")] = 3,
    outside: Annotated[float, typer.Option(min=0, max=1, help="How much of the box's side may lie outside the picture.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Follow the one face through videos of a person who agreed to this: its crops, 25 a second, and the sound around each."""
    from crossfade import use
    from crossfade.clip import UserError
    from crossfade.data.face import FEATURES
    from crossfade.data.face.track import Rules
    from crossfade.face import preparing
    from crossfade.recipe import one_of
    from crossfade.screen import Terminal

    one_of(features, FEATURES, "--features")
    if use.accepts(FEATURES[features], "weights") != (weights is not None):
        raise UserError(f"--weights: {'missing; ' + features + ' needs a file of its own' if weights is None else features + ' has none'}")
    rules = Rules(min_size=min_size, jump=jump, gap=gap, outside=outside)
    spec: dict[str, Any] = {"use": features} | ({"weights": weights} if weights else {})
    done = preparing.prepare(video, out, detector=detector, size=size, features=spec, rules=rules, screen=Terminal(quiet=as_json))
    print(json.dumps(done.to_json(), ensure_ascii=False) if as_json else "\n".join(done.lines()))


def drive(
    run: Annotated[Path, typer.Argument(help="A finished run of a talking face, or its .onnx or .param file.")],
    audio: Annotated[Path, typer.Option(help="What is said: any file with sound.")],
    face: Annotated[Path, typer.Option(help="Who says it: a video, a picture, a folder of pictures, or what `face prepare` made.")],
    out: Annotated[Path, typer.Option(help="The film, an .mp4.")],
    detector: Detector = None,
    label: Annotated[str, typer.Option(help="How the comment in the film's metadata begins.")] = "synthetic",
    no_label: Annotated[bool, typer.Option("--no-label", help="Leave that word away; that Crossfade made it is said anyway.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor; default as the runtime likes.")] = None,
    as_json: Json = False,
) -> None:
    """Render speech to a film in which this face says it. Only with the consent of whose face and voice it is."""
    from crossfade.face import drive as rendering
    from crossfade.face.opened import open_face
    from crossfade.screen import Terminal

    speaker, said = open_face(run).speaker(threads=threads), None if no_label else label
    done = rendering.drive(speaker, audio, face, out, detector=detector, label=said, batch=batch, screen=Terminal(quiet=as_json))
    print(json.dumps(done.to_json(), ensure_ascii=False) if as_json else f"film: {done.out}")
