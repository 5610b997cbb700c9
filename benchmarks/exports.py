"""Every packaged recipe, trained for a step on real clips, as ONNX and ncnn beside itself: the table of docs/exports.md."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import crossfade
from crossfade import exporting
from crossfade import recipe as recipes
from crossfade.clip import UserError
from crossfade.exporting import NotEqual
from crossfade.screen import Terminal

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SMALL_WAVLM = "{num_hidden_layers: 4}"
LESS: dict[str, dict[str, str]] = {  # encoder -> options: no weights from elsewhere, and of the two giants a third of the layers
    "wavlm": {"weights": "null", "config": SMALL_WAVLM},
    "videomae": {"weights": "null", "layers": "4", "size": "112"},
    "resnet18": {"weights": "null"},
    "mobilenet_v2": {"weights": "null"},
}
STORED = ["data.streams.video={use: frames, count: 16, size: 112}", "data.streams.audio={use: log_mel, mels: 128}"]  # made here
STEP = ("data.workers=0", "data.batch=4", "store=off")


def run(quick: bool) -> list[dict[str, Any]]:
    """Print the table; a row a recipe and format."""
    rows = []
    with TemporaryDirectory() as place:
        for name in ["audio", "digits"] if quick else recipes.names():
            for row in _rows(name, Path(place)):
                rows.append(row)
                print(_line(row), flush=True)
    return rows


HEADER = "| recipe | format | clips | largest relative difference | same decisions | size | note |\n|---|---|---:|---:|---:|---:|---|"


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| `{row['recipe']}` | {row['format']} | | | | | {row['error']} |"
    same = f"{row['agree']:.1%}"
    cells = (f"`{row['recipe']}`", row["format"], row["clips"], f"{row['max_rel']:.1e}", same, f"{row['megabytes']:.2f} MB", row["note"])
    return f"| {' | '.join(map(str, cells))} |"


def _rows(name: str, place: Path) -> Iterator[dict[str, Any]]:
    folder, started = place / name, time.perf_counter()
    try:
        crossfade.train(_recipe(name, place), folder, screen=Terminal(quiet=True))
    except UserError as error:
        yield {"recipe": name, "format": "train", "error": str(error)}
        return
    for to, options in (("onnx", {}), ("ncnn", {}), ("ncnn", {"fp16": True})):
        label = " ".join([to, *options])
        try:
            made = exporting.export(folder, to, screen=Terminal(quiet=True), **options)
        except (UserError, NotEqual) as error:
            yield {"recipe": name, "format": label, "error": " ".join(str(error).split())[:300]}
            continue
        file = made.files[0]
        parity = file.about.parity
        agreed = [each.agree for each in parity if each.agree is not None]
        yield {
            "recipe": name,
            "format": label,
            "clips": max(each.clips for each in parity),
            "max_rel": max(each.max_rel for each in parity),
            "agree": min(agreed),
            "megabytes": file.bytes / 1e6,
            "note": f"{time.perf_counter() - started:.0f} s",
        }


def _recipe(name: str, place: Path) -> Any:
    """One step a phase, at the recipe's own sizes but for the largest encoders, on real clips that it can read."""
    raw = recipes.find(name)[1]
    overrides = [*STEP, *(f"phases.{phase['name']}.{key}" for phase in raw["phases"] for key in ("epochs=1", "steps=1"))]
    for stream, spec in raw["model"]["encoders"].items():
        overrides += [f"model.encoders.{stream}.{key}={value}" for key, value in LESS.get(spec["use"], {}).items()]
        overrides += [f"data.streams.{stream}.size=112"] if spec["use"] == "videomae" else []
    overrides += ["model.init={}"] if raw["model"].get("init") else []
    corpus = next(find for holds, find in CORPORA if holds(name, raw))
    return corpus(name, overrides, place)


def _pictures(name: str, overrides: list[str], place: Path) -> Any:
    return crossfade.load(name, [*overrides, "data.workers=0"], corpus=DATA / "images" / "cifar10_small")


def _coughs(name: str, overrides: list[str], place: Path) -> Any:
    domains = "data.domains={source: [telegram], target: [callcentre]}"
    return crossfade.load(name, [*overrides, domains], corpus=DATA / "cough")


def _animals(name: str, overrides: list[str], place: Path) -> Any:
    """GRID's sentences as if they were animals: command for species, colour for activity, preposition and digit for actions."""
    table = _few(place, {"species": "command", "activity": "colour"}, several=True)
    own = ["data.corpus={use: manifest}", "data.views={}"]
    own += [f"phases.{phase['name']}.{key}=null" for phase in recipes.find(name)[1]["phases"] for key in ("sees", "views")]
    own += STORED if name == "wildlife-original" else []
    heads = "" if name == "mammalps" else "action"
    return crossfade.load(name, [*overrides, *own, f"data.corpus.targets={_targets(heads)}"], corpus=table)


def _targets(without: str) -> str:
    return f"[{', '.join(target for target in ('species', 'activity', 'action') if target != without)}]"


def _speech(name: str, overrides: list[str], place: Path) -> Any:
    """Sound, pictures or both of one speaker's sentences."""
    table = _few(place, {"command": "command"})
    return crossfade.load(name, [*overrides, "data.corpus.use=manifest"], corpus=table, target="command")


def _few(place: Path, columns: dict[str, str], *, several: bool = False, clips: int = 48) -> Path:
    """A table of a few of GRID's clips, with some of its columns under other names."""
    with (DATA / "grid" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::8][:clips]
    path = place / f"{'-'.join(columns)}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", *columns, *(["action"] if several else []), "group"])
        for row in rows:
            actions = [f"{row['preposition']}|{row['digit']}"] if several else []
            writer.writerow([DATA / "grid" / row["video"], *(row[column] for column in columns.values()), *actions, row["group"]])
    return path


CORPORA: list[tuple[Callable[[str, Any], bool], Callable[[str, list[str], Path], Any]]] = [
    (lambda name, raw: "image" in raw["data"]["streams"], _pictures),
    (lambda name, raw: "domains" in raw["data"], _coughs),
    (lambda name, raw: "species" in raw["model"]["heads"], _animals),
    (lambda name, raw: True, _speech),
]
