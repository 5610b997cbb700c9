"""Arguments to verbs, and nothing else. Every import that costs time lies inside the verb that needs it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from crossfade.clip import UserError
from crossfade.deploy.refusal import NotEqual
from crossfade.exchange import bench, compare_structure, export, ncnn
from crossfade.inventory import Data, Json, Overrides, print_metrics, show, store
from crossfade.talking import drive, face

app = typer.Typer(
    help="Fine-tune pretrained audio, image and video models on the clips you have, alone or fused; judge them honestly; ship them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(show, name="show")
app.add_typer(store, name="store")
app.add_typer(ncnn, name="ncnn")
app.add_typer(face, name="face")


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name (see `crossfade show recipes`) or a YAML file.")] = None,
    overrides: Overrides = None,
    data: Data = None,
    target: Annotated[str | None, typer.Option(help="The label to learn, in place of the recipe's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/RECIPE.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run after a stop, a kill or a crash.")] = None,
    start: Annotated[Path | None, typer.Option("--from", help="Begin with this finished run's weights, without its phases.")] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="Train one run a value, of several --over one a combination, into --out/NAME."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a recipe; the run folder is the bundle."""
    if resume and (recipe or overrides or data or target or out or over or start):
        raise UserError("train --resume RUN takes nothing else: the run goes on as it began")
    if recipe is None and resume is None:
        raise UserError("train: give a recipe (`crossfade show recipes` lists them), or --resume RUN")
    if over:
        _train_over(str(recipe), over, overrides or [], out, as_json, corpus=data, target=target, start=start)
        return
    with _imports():
        from crossfade import run, tasks
        from crossfade.screen import Terminal

    screen = Terminal(quiet=as_json)
    folder = resume or out or run.next_folder(Path(str(recipe)).stem)
    with _stoppable(f"crossfade train --resume {folder}"):
        if resume:
            metrics = tasks.resume(folder, screen=screen)
        else:
            chosen = tasks.load(str(recipe), overrides or [], corpus=data, target=target, start=start)
            metrics = tasks.train(chosen, folder, screen=screen, command=shlex.join(["crossfade", *sys.argv[1:]]))
    if metrics:
        print_metrics(metrics, folder, as_json)


def _train_over(recipe: str, over: list[str], overrides: list[str], out: Path | None, as_json: bool, **given: Any) -> None:
    with _imports():
        from crossfade.screen import Terminal, print_comparison
        from crossfade.sweep import sweep

    folder, command = out or Path("runs") / f"{Path(recipe).stem}-over", shlex.join(["crossfade", *sys.argv[1:]])
    with _stoppable(command):
        swept = sweep(recipe, over, folder, overrides, screen=Terminal(quiet=as_json), command=command, **given)
    if as_json:
        print(json.dumps(swept.to_json(), ensure_ascii=False))
    else:
        if swept.table:
            print_comparison(swept.table)
        print("\n".join(swept.lines()))
    if swept.failed:
        raise UserError(f"{len(swept.failed)} of {len(swept.folders)} failed: " + "; ".join(map(": ".join, swept.failed.items())))


@app.command("find-rate")
def find_rate(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Overrides = None,
    data: Data = None,
    phase: Annotated[str | None, typer.Option(help="Of this phase; default the first that trains.")] = None,
    steps: Annotated[int, typer.Option(min=20, help="How many, at most; it ends where the loss diverges.")] = 100,
    start: Annotated[Path | None, typer.Option("--from", help="Begin from a finished run's weights, not from the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the curve to this file as an SVG picture.")] = None,
    as_json: Json = False,
) -> None:
    """How high a phase's rates may be: all rise together until the loss diverges; those at which it fell fastest are suggested."""
    with _imports():
        from crossfade import recipe as recipes
        from crossfade import tuning
        from crossfade.screen import Terminal

    screen = Terminal(quiet=as_json)
    found = tuning.find_rate(recipes.load(recipe, overrides or [], corpus=data), phase, steps, start=start, screen=screen)
    if out:
        found.write(out)
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else "\n".join(found.lines()))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, val or test of the run's own corpus, or source where it has domains.")] = "test",
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Write the predictions to this CSV.")] = None,
    segments: Annotated[int, typer.Option(min=1, help="Judge each clip in so many stretches of time, put together.")] = 1,
    aggregate: Annotated[str, typer.Option(help="How their logits are put together: mean or max.")] = "mean",
    results: Annotated[Path | None, typer.Option(help="Write the segments as MammAlps' own script reads them.")] = None,
    as_json: Json = False,
) -> None:
    """Judge a run: on its own test clips, or on all of another corpus; `data.…` overrides change how it is fed."""
    with _imports():
        from crossfade import tasks
        from crossfade.screen import Terminal

        tasks.ready("evaluate", run)

    if split not in ("train", "val", "test") and (split != "source" or tasks.of_run(run) != tasks.CLASSIFICATION):
        raise UserError(f"--split: found {split!r}; one of train, val, test")
    if results and segments == 1:
        raise UserError("--results: is of segments; say --segments N too")
    screen, asked = Terminal(quiet=as_json), {"pieces": segments, "how": aggregate, "results": results}
    metrics, table = tasks.evaluate(run, split=split, corpus=data, overrides=overrides or [], screen=screen, **asked)
    if out:
        table.write(out)
    print_metrics(metrics, None, as_json)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    inputs: Annotated[list[Path], typer.Argument(help="Files, folders, or a CSV with media columns.")],
    out: Annotated[Path | None, typer.Option(help="Write the table to this file instead of standard output.")] = None,
    window: Annotated[float | None, typer.Option(help="Slide over long recordings so many seconds at a time; lists events.")] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds from one window to the next; default half a window.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability of an event; default as validation chose, or 0.5.")] = None,
    background: Annotated[str | None, typer.Option(help="The class that is no event; default the most frequent.")] = None,
    silence: Annotated[float, typer.Option(help="Skip windows so many decibels below the loudest; inf skips none.")] = 30.0,
    picture: Annotated[Path | None, typer.Option(help="A folder for one SVG a recording, its events under the waveform.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of CSV.")] = False,
) -> None:
    """Classify files, or with --window find events in them; unreadable ones are reported and the rest are done. A talking face is drawn."""
    with _imports():
        from crossfade import tasks, windows
        from crossfade.screen import Terminal

    screen, asked = Terminal(quiet=as_json), {"hop": hop, "threshold": threshold, "background": background, "picture": picture}
    if window is None and (without := [f"--{name}" for name, value in asked.items() if value is not None]):
        raise UserError(f"{', '.join(without)}: needs --window SECONDS")
    found = tasks.events(run, inputs, window=window, silence=silence, screen=screen, **asked) if window is not None else None
    rows = list(found or tasks.predict(run, inputs, screen=screen, beside=out.parent if out else None))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) if as_json else windows.table(rows) if found else _csv(rows)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    else:
        sys.stdout.write(text)
    if window is None and all(row.keys() <= {"clip", "error"} for row in rows):
        raise UserError("none of these clips can be read")


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    clips: Annotated[list[str], typer.Argument(help="Files, folders, a CSV, or ids of clips of the run's corpus.")],
    out: Annotated[Path | None, typer.Option(help="The folder for the pages; default RUN/explained.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Why it says so: what each stream adds, where it looked, and whether hiding that place changes the answer; one page a clip."""
    with _imports():
        from crossfade import tasks
        from crossfade.screen import Terminal

        tasks.ready("explain", run)

    command = shlex.join(["crossfade", *sys.argv[1:]])
    for found in tasks.explain(run, clips, out=out, corpus=data, screen=Terminal(quiet=as_json), command=command):
        if as_json:
            print(json.dumps(found, ensure_ascii=False))
            continue
        for head, answer in found["heads"].items():
            print(f"{found['clip']}: {head} {answer['said']}" + (f" (truly {answer['true']})" if answer["true"] else ""))
        print(f"page: {found['page']}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more finished runs, or predictions.csv files.")],
    metric: Annotated[str | None, typer.Option(help="accuracy, macro_f1 (default), nll …; of talking faces mouth_psnr (default) …")] = None,
    split: Annotated[str, typer.Option(help="val or test.")] = "test",
    report: Annotated[Path | None, typer.Option(help="Write the comparison as an HTML page.")] = None,
    time: Annotated[bool, typer.Option("--time", help="Measure how long each takes over one clip on this machine.")] = False,
    structure: Annotated[bool, typer.Option("--structure", help="Two runs, .param or .onnx files: what their layers differ in.")] = False,
    as_json: Json = False,
) -> None:
    """Paired comparison on the clips that all the runs saw, with intervals over groups; or, of two networks, layer by layer."""
    from dataclasses import asdict

    if structure:
        compare_structure(runs, report, as_json)
        return
    with _imports():
        from crossfade import tasks

    table = tasks.compare(runs, metric=metric, split=split, report=report, time=time)
    if as_json:
        print(json.dumps(asdict(table), ensure_ascii=False))
        return
    from crossfade.screen import print_comparison

    print_comparison(table)
    if report:
        print(f"report: {report}")


@app.command()
def robustness(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs with the same test clips.")],
    levels: Annotated[str, typer.Option(help="Signal-to-noise ratios in dB; clean is judged besides.")] = "20,10,0,-10",
    stream: Annotated[str, typer.Option(help="What the noise is added to.")] = "audio",
    metric: Annotated[str, typer.Option(help="Any metric of metrics.json.")] = "macro_f1",
    target: Annotated[str | None, typer.Option(help="Which head; default the first.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the curves as an HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """How well runs hold as the sound gets noisier, with intervals and paired comparisons at every level."""
    with _imports():
        from crossfade import robustness as verbs
        from crossfade.screen import Terminal, print_rows

    found = verbs.robustness(runs, verbs.levels_in(levels), stream=stream, metric=metric, target=target, screen=Terminal(quiet=as_json))
    if report:
        found.write(report)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
        return
    print_rows(found.rows())
    print("\n".join(found.sentences()))
    if report:
        print(f"report: {report}")


@app.command()
def check(
    data: Annotated[Path | None, typer.Argument(help="A folder or a CSV.")] = None,
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option(help="Read it as this recipe would.")] = None,
    as_json: Json = False,
) -> None:
    """What is in a corpus, and what of it would bias a result (exit code 1)."""
    if recipe is None and (data is None or overrides):
        raise UserError("check: overrides are for --recipe NAME" if data else "check: give a folder or a CSV, or --recipe NAME")
    with _imports():
        from crossfade import run as verbs
        from crossfade.screen import Terminal

    findings = verbs.check(data, recipe, overrides or [], screen=Terminal(quiet=as_json))
    print(json.dumps(findings.to_json(), ensure_ascii=False) if as_json else "\n".join(findings.lines()))
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Where the clips and the runs go.")] = Path("demo"), as_json: Json = False) -> None:
    """Make a small corpus, train sound, picture and their fusion, compare them: everything offline."""
    with _imports():
        from crossfade import demo as verbs
        from crossfade.screen import Terminal, print_comparison

    with _stoppable(f"crossfade demo --out {out}"):
        table, report = verbs.demo(out, screen=Terminal(quiet=as_json))
    if as_json:
        print(json.dumps({"scores": {score.name: score.value for score in table.scores}, "report": str(report)}))
        return
    print_comparison(table)
    print(f"report: {report}")


app.command()(export)
app.command()(bench)
app.command()(drive)


@contextlib.contextmanager
def _imports() -> Iterator[None]:
    """What is imported stays to the end: the garbage collector need not search it, neither meanwhile nor whenever it sweeps later."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if not gc.get_freeze_count():
            gc.freeze()


@contextlib.contextmanager
def _stoppable(command: str) -> Iterator[None]:
    """Where a signal stopped it after a checkpoint: how to go on, and the signal's exit code."""
    from crossfade.training.loop import Interrupted

    try:
        yield
    except Interrupted as stopped:
        print(f"stopped; go on with: {command}", file=sys.stderr)
        raise typer.Exit(128 + stopped.signal) from None


def _csv(rows: list[dict[str, Any]]) -> str:
    import csv

    longest = max(rows, key=len)
    columns = [*(column for column in longest if column != "error"), "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _spare_the_last_sweep() -> None:
    """The process ends and its memory with it; but triton complains, line by line, of what no sweep found."""
    (gc.unfreeze if "triton" in sys.modules else gc.freeze)()


def main() -> None:
    """The console command: one line and exit code 2 for bad input, 1 for an export that is not kept, 130 when interrupted."""
    atexit.register(_spare_the_last_sweep)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8
            stream.reconfigure(errors="surrogateescape")
    try:
        app()
    except UserError as error:
        print(f"crossfade: {error}", file=sys.stderr)
        sys.exit(2)
    except NotEqual as error:
        print(f"crossfade: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"crossfade: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("crossfade: interrupted", file=sys.stderr)
        sys.exit(130)
