"""`show` and `store`: what there is to choose from, what a run came to, and what is kept between runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from crossfade.clip import UserError

show = typer.Typer(help="What there is: recipes, models, or one finished run.", no_args_is_help=True)
store = typer.Typer(help="What is kept between runs, decoded clips and activations; `store clear` deletes it.")

Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
Data = Annotated[Path | None, typer.Option("--data", help="A folder, or a CSV with one clip a row, in place of the recipe's corpus.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides such as data.batch=32 or phases.unfreeze.epochs=10.")]


@show.command("recipes")
def show_recipes(as_json: Json = False) -> None:
    """The recipes that come with the package."""
    from crossfade import shelf

    print_rows(shelf.recipe_rows(), as_json)


@show.command("recipe")
def show_recipe(name: str, overrides: Overrides = None, data: Data = None) -> None:
    """One recipe, resolved: every key and every default written out."""
    from crossfade import tasks

    sys.stdout.write(tasks.load(name, overrides or [], corpus=data).yaml())


@show.command("models")
def show_models(as_json: Json = False) -> None:
    """Encoders, mixers, mergers and heads, with their parameters and options."""
    from crossfade import shelf

    print_rows(shelf.model_rows(), as_json)
    if not as_json:
        print(shelf.counted_for())


@show.command("run")
def show_run(run: Path, as_json: Json = False) -> None:
    """A finished run: what it is, how good it was."""
    from crossfade.deploy import bundle as bundles

    if not (run / bundles.METRICS).is_file():
        raise UserError(f"{run}: has no {bundles.METRICS}, so it is not a finished run")
    print_metrics(bundles.read_json(run / bundles.METRICS), run, as_json)


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
        print_rows([entry.row() for entry in entries], as_json)
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


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    from crossfade import screen

    screen.print_rows(rows)


def print_metrics(metrics: dict[str, Any], folder: Path | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": str(folder), **metrics} if folder else metrics, ensure_ascii=False))
        return
    from crossfade import screen, tasks

    rows = tasks.numbers(metrics)
    if rows is None:
        screen.print_metrics(metrics)
    else:
        screen.print_rows(rows)
    if folder and (folder / "report.html").is_file():
        print(f"report: {folder / 'report.html'}")
