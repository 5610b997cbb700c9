"""One name a verb, whatever a recipe, a run or a file is for: its task says which module does it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade.clip import UserError

if TYPE_CHECKING:
    from crossfade.bench import Bench
    from crossfade.deploy.structure.layer import Structure
    from crossfade.evaluation.intervals import Table
    from crossfade.shipping import Exported

CLASSIFICATION = "classification"
TASKS: dict[str, dict[str, str]] = {  # task -> verb -> the module whose function of that name does it
    CLASSIFICATION: {
        "load": "crossfade.recipe",
        "train": "crossfade.run",
        "resume": "crossfade.run",
        "evaluate": "crossfade.run",
        "predict": "crossfade.run",
        "events": "crossfade.windows",
        "explain": "crossfade.run",
        "export": "crossfade.exporting",
        "bench": "crossfade.bench",
        "compare": "crossfade.comparison",
        "structure": "crossfade.structures",
    },
    "talking_face": {
        "load": "crossfade.face.recipe",
        "train": "crossfade.face.verbs",
        "resume": "crossfade.face.verbs",
        "numbers": "crossfade.face.verbs",
        "evaluate": "crossfade.face.answers",
        "predict": "crossfade.face.answers",
        "export": "crossfade.face.exporting",
        "bench": "crossfade.face.exporting",
        "structure": "crossfade.face.exporting",
        "compare": "crossfade.face.comparing",
    },
}
TYPED = {  # option of a verb -> as a person types it, where that is another word
    "corpus": "--data",
    "start": "--from",
    "pieces": "--segments",
    "how": "--aggregate",
    "events": "--window",
}


@dataclass(frozen=True)
class Verb:
    """What one task does under a verb's name. Options that only other tasks have are refused, unless they say nothing (None, False)."""

    name: str
    task: str

    @property
    def does(self) -> Callable[..., Any]:
        """Looked up at each call."""
        known = TASKS[self.task]
        if self.name not in known:
            raise UserError(f"{typed(self.name, prefix='')}: is not for {said(self.task)}")
        return getattr(importlib.import_module(known[self.name]), self.name)

    def __call__(self, *given: Any, **options: Any) -> Any:
        return self.does(*given, **{name: value for name, value in options.items() if self.takes(name) or self._says(name, value)})

    def takes(self, option: str) -> bool:
        known = inspect.signature(self.does).parameters
        return option in known or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())

    def _says(self, name: str, value: Any) -> bool:
        """False where it says nothing. UserError where it says something that nobody would hear."""
        if value is None or value is False or value == self._usual(name):
            return False
        raise UserError(f"{typed(name)}: is not for {said(self.task)}")

    def _usual(self, name: str) -> Any:
        """What a classifier's verb takes where nothing is said."""
        theirs = inspect.signature(Verb(self.name, CLASSIFICATION).does).parameters
        return theirs[name].default if name in theirs else None


def typed(name: str, prefix: str = "--") -> str:
    return TYPED.get(name, f"{prefix}{name.replace('_', '-')}")


def said(task: str) -> str:
    """A talking face"""
    return f"a {task.replace('_', ' ')}" if task != CLASSIFICATION else "runs that classify"


def of_recipe(name: str) -> str:
    """The task of a packaged recipe, or of a YAML file. UserError."""
    from crossfade import recipe as recipes

    return _known(recipes.task_of(recipes.find(name)[1]), name)


def of_run(path: Path) -> str:
    """The task of a run's folder or of an exported file; where none is to be found there, the verb of a classifier says what is wrong."""
    from crossfade import recipe as recipes
    from crossfade import settings
    from crossfade.deploy import bundle, exported, sidecar

    path = Path(path)
    if exported.is_exported(path):
        raw = settings.read(sidecar.read(path).recipe, str(path)) if sidecar.beside(path).is_file() else None
    else:
        recipe = path / bundle.RECIPE
        raw = settings.read_file(recipe) if recipe.is_file() else None
    return _known(recipes.task_of(raw), str(path))


def _known(task: str, where: str) -> str:
    from crossfade.settings import nearest

    if task not in TASKS:
        raise UserError(f"{where}: task: found {task!r}, {nearest(task, TASKS)}")
    return task


def ready(verb: str, path: Path) -> None:
    """Import what it needs for this run. UserError where there is no such verb for it."""
    _ = Verb(verb, of_run(path)).does


def load(name: str, overrides: Sequence[str] = (), **options: Any) -> Any:
    """Find a recipe, override, check and resolve it; see `load` in crossfade.recipe and crossfade.face.recipe."""
    return Verb("load", of_recipe(name))(name, overrides, **options)


def train(recipe: Any, folder: Path | str, **options: Any) -> dict[str, Any]:
    """Train a resolved recipe into a new folder, which becomes the bundle; returns the content of metrics.json. See crossfade.run.train."""
    return Verb("train", getattr(recipe, "task", CLASSIFICATION))(recipe, folder, **options)


def resume(folder: Path, **options: Any) -> dict[str, Any]:
    """Go on with a run from its last checkpoint to the same end, as if it had never stopped."""
    return Verb("resume", of_run(folder))(folder, **options)


def evaluate(folder: Path, **options: Any) -> tuple[dict[str, Any], Any]:
    """Judge a run on a split of its own corpus, or on all of another: what metrics.json would hold, and the table behind it.

    See `evaluate` in crossfade.run and crossfade.face.answers.
    """
    return Verb("evaluate", of_run(folder))(folder, **options)


def predict(folder: Path, inputs: Sequence[Path], *, beside: Path | None = None, **options: Any) -> Iterator[dict[str, Any]]:
    """What a run says of files, a row each; see `predict` in crossfade.run and crossfade.face.answers.

    `beside`: where the table goes, and with it the pictures of a task that draws some.
    """
    verb = Verb("predict", of_run(folder))
    return verb(folder, inputs, **options, **({"beside": beside} if beside and verb.takes("beside") else {}))


def events(folder: Path, inputs: Sequence[Path], **options: Any) -> Any:
    """What a run hears in recordings; see crossfade.windows.events."""
    return Verb("events", of_run(folder))(folder, inputs, **options)


def explain(folder: Path, wanted: Sequence[str], **options: Any) -> Iterator[dict[str, Any]]:
    """Why a run says so; see crossfade.run.explain."""
    return Verb("explain", of_run(folder))(folder, wanted, **options)


def export(folder: Path, to: str, **options: Any) -> Exported:
    """Write a run in another format; see `export` in crossfade.exporting and crossfade.face.exporting."""
    return Verb("export", of_run(folder))(folder, to, **options)


def bench(folder: Path, **options: Any) -> Bench:
    """Time a run and the files made of it; see crossfade.bench."""
    return Verb("bench", of_run(folder))(folder, **options)


def compare(folders: Sequence[Path], **options: Any) -> Table:
    """Finished runs of one task beside each other; see `compare` in crossfade.comparison and crossfade.face.comparing."""
    found = {of_run(folder) for folder in folders}
    if len(found) > 1:
        raise UserError(f"compare: these runs are of {' and of '.join(sorted(map(said, found)))}; compare runs of one task")
    given = {name: value for name, value in options.items() if value is not None}
    return Verb("compare", *found or [CLASSIFICATION])(folders, **given)


def structure(folder: Path, **options: Any) -> Structure:
    """A run's network, layer by layer; see crossfade.structures."""
    return Verb("structure", of_run(folder))(folder, **options)


def numbers(metrics: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """What a terminal shows of a run's metrics.json as rows; None of a classifier, which has a table of its own."""
    task = str(metrics.get("task", CLASSIFICATION))
    return Verb("numbers", task)(metrics) if "numbers" in TASKS.get(task, {}) else None
