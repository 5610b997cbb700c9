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

app = typer.Typer(
    help="Fine-tune pretrained audio, image and video models on the clips you have, alone or fused; judge them honestly; ship them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
show = typer.Typer(help="What there is: recipes, models, or one finished run.", no_args_is_help=True)
app.add_typer(show, name="show")
store = typer.Typer(help="What is kept between runs, decoded clips and activations; `store clear` deletes it.")
app.add_typer(store, name="store")

Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
Data = Annotated[Path | None, typer.Option("--data", help="A folder, or a CSV with one clip a row, in place of the recipe's corpus.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides such as data.batch=32 or phases.unfreeze.epochs=10.")]


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
    if over and start:
        raise UserError("train --over trains whole recipes; leave --from out, or say model.init")
    if over:
        _train_over(str(recipe), over, overrides or [], data, target, out, as_json)
        return
    with _imports():
        from crossfade import recipe as recipes
        from crossfade import run
        from crossfade.screen import Terminal

    screen = Terminal(quiet=as_json)
    folder = resume or out or run.next_folder(Path(str(recipe)).stem)
    with _stoppable(f"crossfade train --resume {folder}"):
        if resume:
            metrics = run.resume(folder, screen=screen)
        else:
            chosen = recipes.load(str(recipe), overrides or [], corpus=data, target=target, start=start)
            metrics = run.train(chosen, folder, screen=screen, command=shlex.join(["crossfade", *sys.argv[1:]]))
    if metrics:
        _print_metrics(metrics, folder, as_json)


def _train_over(
    recipe: str, over: list[str], overrides: list[str], data: Path | None, target: str | None, out: Path | None, as_json: bool
) -> None:
    with _imports():
        from crossfade.screen import Terminal, print_comparison
        from crossfade.sweep import sweep

    folder, command = out or Path("runs") / f"{Path(recipe).stem}-over", shlex.join(["crossfade", *sys.argv[1:]])
    with _stoppable(command):
        swept = sweep(recipe, over, folder, overrides, corpus=data, target=target, screen=Terminal(quiet=as_json), command=command)
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
    steps: Annotated[int, typer.Option(help="How many, at most; it ends where the loss diverges.")] = 100,
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
    split: Annotated[str, typer.Option(help="train, val or test of the run's own corpus.")] = "test",
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Write the predictions to this CSV.")] = None,
    as_json: Json = False,
) -> None:
    """Judge a run: on its own test clips, or on all of another corpus; `data.…` overrides change how it is fed."""
    with _imports():
        from crossfade import run as verbs
        from crossfade.screen import Terminal

    if split not in ("train", "val", "test"):
        raise UserError(f"--split: found {split!r}; one of train, val, test")
    metrics, table = verbs.evaluate(run, split=split, corpus=data, overrides=overrides or [], screen=Terminal(quiet=as_json))
    if out:
        table.write(out)
    _print_metrics(metrics, None, as_json)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    inputs: Annotated[list[Path], typer.Argument(help="Files, folders, or a CSV with media columns.")],
    out: Annotated[Path | None, typer.Option(help="Write the table to this file instead of standard output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of CSV.")] = False,
) -> None:
    """Classify files, any subset of the streams; unreadable ones are reported and the rest are done."""
    with _imports():
        from crossfade import run as verbs
        from crossfade.screen import Terminal

    rows = list(verbs.predict(run, inputs, screen=Terminal(quiet=as_json)))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) if as_json else _csv(rows)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    else:
        sys.stdout.write(text)
    if all("streams" not in row for row in rows):
        raise UserError("none of these clips can be read")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more finished runs, or predictions.csv files.")],
    metric: Annotated[str, typer.Option(help="accuracy, balanced_accuracy, macro_f1, nll or ece.")] = "macro_f1",
    split: Annotated[str, typer.Option(help="val or test.")] = "test",
    report: Annotated[Path | None, typer.Option(help="Write the comparison as an HTML page.")] = None,
    time: Annotated[bool, typer.Option("--time", help="Measure how long each takes over one clip on this machine.")] = False,
    as_json: Json = False,
) -> None:
    """Paired comparison on the clips that all the runs saw, with intervals over groups."""
    from dataclasses import asdict

    with _imports():
        from crossfade.comparison import compare as compared

    table = compared(runs, metric=metric, split=split, report=report, time=time)
    if as_json:
        print(json.dumps(asdict(table), ensure_ascii=False))
        return
    from crossfade.screen import print_comparison

    print_comparison(table)
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


@show.command("recipes")
def show_recipes(as_json: Json = False) -> None:
    """The recipes that come with the package."""
    from crossfade import shelf

    _print_rows(shelf.recipe_rows(), as_json)


@show.command("recipe")
def show_recipe(name: str, overrides: Overrides = None, data: Data = None) -> None:
    """One recipe, resolved: every key and every default written out."""
    from crossfade import recipe as recipes

    sys.stdout.write(recipes.load(name, overrides or [], corpus=data).yaml())


@show.command("models")
def show_models(as_json: Json = False) -> None:
    """Encoders, mixers, mergers and heads, with their parameters and options."""
    from crossfade import shelf

    _print_rows(shelf.model_rows(), as_json)
    if not as_json:
        print(shelf.counted_for())


@show.command("run")
def show_run(run: Path, as_json: Json = False) -> None:
    """A finished run: what it is, how good it was."""
    from crossfade.deploy import bundle as bundles

    if not (run / bundles.METRICS).is_file():
        raise UserError(f"{run}: has no {bundles.METRICS}, so it is not a finished run")
    _print_metrics(bundles.read_json(run / bundles.METRICS), run, as_json)


@store.callback(invoke_without_command=True)
def store_listing(context: typer.Context, as_json: Json = False) -> None:
    """What is kept between runs: which computation, which recipes used it, how large, when last; `store clear` deletes it."""
    if context.invoked_subcommand:
        return
    from dataclasses import asdict

    from crossfade.stock import listing
    from crossfade.store import Store, limit_text, size_text

    kept = Store()
    entries = listing(kept.root)
    size = sum(entry.bytes for entry in entries)
    if as_json:
        print(json.dumps({"root": kept.root, "bytes": size, "shelves": [asdict(entry) for entry in entries]}, default=str))
        return
    if entries:
        _print_rows([entry.row() for entry in entries], as_json)
    print(f"{size_text(size)} in {kept.root}; limit: {limit_text(kept.limit)}, unless the recipe's store.limit says otherwise")


@store.command("clear")
def store_clear(
    names: Annotated[list[str] | None, typer.Argument(help="Only these, by the names that `crossfade store` lists.")] = None,
    older_than: Annotated[float | None, typer.Option(min=0, metavar="DAYS", help="Only what no run has used for so many days.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Only what this recipe has used.")] = None,
    as_json: Json = False,
) -> None:
    """Delete what is kept, all of it or what fits every choice made here. Nothing is lost: it is computed anew when it is needed."""
    from crossfade.settings import nearest
    from crossfade.stock import clear, listing
    from crossfade.store import default_root, size_text

    root = default_root()
    entries = listing(root)
    known = {"NAME": [entry.name for entry in entries], "--recipe": sorted({name for entry in entries for name in entry.recipes})}
    for what, found in [*(("NAME", name) for name in names or []), *([("--recipe", recipe)] if recipe else [])]:
        if found not in known[what]:
            raise UserError(f"store clear {what}: found {found!r}, {nearest(found, known[what])}")
    freed = clear(root, names=names or [], older_than_days=older_than, recipe=recipe)
    print(json.dumps({"root": str(root), "freed": freed}) if as_json else f"freed {size_text(freed)} in {root}")


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


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    from crossfade.screen import print_rows

    print_rows(rows)


def _print_metrics(metrics: dict[str, Any], folder: Path | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": str(folder), **metrics} if folder else metrics, ensure_ascii=False))
        return
    from crossfade.screen import print_metrics

    print_metrics(metrics)
    if folder and (folder / "report.html").is_file():
        print(f"report: {folder / 'report.html'}")


def _csv(rows: list[dict[str, Any]]) -> str:
    import csv

    longest = max(rows, key=len)
    columns = [*(column for column in longest if column != "error"), "error"] if "streams" in longest else ["clip", "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _spare_the_last_sweep() -> None:
    """The process ends and its memory with it; but triton complains, line by line, of what no sweep found."""
    (gc.unfreeze if "triton" in sys.modules else gc.freeze)()


def main() -> None:
    """The console command: one line and exit code 2 for bad input, 130 when interrupted."""
    atexit.register(_spare_the_last_sweep)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8
            stream.reconfigure(errors="surrogateescape")
    try:
        app()
    except UserError as error:
        print(f"crossfade: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"crossfade: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("crossfade: interrupted", file=sys.stderr)
        sys.exit(130)
