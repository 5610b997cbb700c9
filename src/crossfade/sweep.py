"""`train --over`: the variants of a recipe, every combination of some values, trained one after another and compared."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade import recipe as recipes
from crossfade import run, settings
from crossfade.clip import UserError
from crossfade.comparison import compare
from crossfade.deploy import bundle as bundles
from crossfade.evaluation import METRICS
from crossfade.screen import Terminal

if TYPE_CHECKING:
    from crossfade.evaluation.intervals import Table
    from crossfade.recipe import Recipe

PLAN, PAGE = "sweep.json", "comparison.html"  # in the sweep's folder: every variant's resolved recipe, and the comparison
OPENS, CLOSES, QUOTES = "[{(", "]})", "'\""
LONGEST = 60  # letters of one value in a folder's name


@dataclass(frozen=True)
class Variant:
    """One combination: the folder's name, its overrides, and what of them is not the seed."""

    name: str
    overrides: tuple[str, ...]
    but_for_seed: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """One metric over runs that differ in their seed only."""

    of: str  # the other choices, or "" where there are none
    metric: str
    mean: float
    deviation: float  # of the sample, with n - 1
    runs: int

    def line(self) -> str:
        before = f"{self.of}: " if self.of else ""
        return f"{before}{self.metric} {self.mean:.4f} ± {self.deviation:.4f} (mean and standard deviation of {self.runs} seeds)"


@dataclass(frozen=True)
class Swept:
    """What a sweep came to: each variant's folder and metrics.json, why others failed, and how those that finished compare."""

    folders: dict[str, Path]
    metrics: dict[str, dict[str, Any]]
    failed: dict[str, str]
    metric: str
    spreads: list[Spread] = field(default_factory=list)
    table: Table | None = None
    report: Path | None = None
    notes: list[str] = field(default_factory=list)

    def scores(self) -> dict[str, float]:
        """Each run's own number: of its test, or of its val where it has none."""
        return {name: _score(metrics, self.metric) for name, metrics in self.metrics.items()}

    def lines(self) -> list[str]:
        """What to say besides the comparison: where there is none each run's own number, the spread over seeds, where the page is."""
        own = [] if self.table else [f"{name}: {self.metric} {score:.4f}" for name, score in self.scores().items()]
        page = [f"report: {self.report}"] if self.report else []
        return [*own, *(spread.line() for spread in self.spreads), *self.notes, *page]

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": {name: str(folder) for name, folder in self.folders.items()},
            "metric": self.metric,
            "scores": self.scores(),
            "failed": self.failed,
            "spreads": [asdict(spread) for spread in self.spreads],
            "comparison": asdict(self.table) if self.table else None,
            "report": str(self.report) if self.report else None,
            "notes": self.notes,
        }


def sweep(
    recipe: str,
    over: Sequence[str],
    folder: Path | str,
    overrides: Sequence[str] = (),
    *,
    corpus: Path | str | None = None,
    target: str | None = None,
    screen: Terminal | None = None,
    start: Path | None = None,
    command: str = "",
) -> Swept:
    """Train every combination of `over` ("path=value,value…") into `folder`/NAME and compare those that finish.

    All recipes are checked before the first trains. What is finished already is not trained again, what was begun goes on. A variant that
    is refused on the way is noted in `failed` and the others train. Raises UserError for what is wrong with all of them, and Interrupted.
    """
    screen, folder = screen or Terminal(), Path(folder)
    variants = plan(over)
    chosen = {
        each.name: recipes.load(recipe, [*overrides, *each.overrides], corpus=corpus, target=target, start=start) for each in variants
    }
    _agree_with_before(folder, {name: each.yaml() for name, each in chosen.items()}, screen)
    folders = {name: folder / name for name in chosen}
    metrics: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for number, (name, each) in enumerate(chosen.items(), 1):
        screen.say(f"{name} ({number} of {len(chosen)})")
        try:
            metrics[name] = _train(each, folders[name], screen, command)
        except (UserError, OSError) as error:
            failed[name] = str(error)
            screen.warn(f"{name}: {error}")
    done = {name: folders[name] for name in folders if metrics.get(name)}
    return _compared(variants, chosen, Swept(folders, {name: metrics[name] for name in done}, failed, _metric(chosen)), folder, screen)


def _train(recipe: Recipe, folder: Path, screen: Terminal, command: str) -> dict[str, Any]:
    if (folder / bundles.RECIPE).is_file():
        return run.resume(folder, screen=screen)
    return run.train(recipe, folder, screen=screen, command=command)


def _agree_with_before(folder: Path, texts: Mapping[str, str], screen: Terminal) -> None:
    """Write down what is to be trained. A variant that was begun must be the same one, or its numbers would be another recipe's."""
    path = folder / PLAN
    before = bundles.read_json(path) if path.is_file() else {}
    for name, text in texts.items():
        begun = (folder / name / bundles.RECIPE).is_file()
        if begun and before.get(name) != text:
            raise UserError(f"{folder / name}: was begun with another recipe ({_difference(before.get(name), text)}); choose another --out")
    if screen.first:
        folder.mkdir(parents=True, exist_ok=True)
        bundles.write_json(path, before | dict(texts))


def _difference(before: str | None, now: str) -> str:
    if before is None:
        return f"it is not in {PLAN}"
    pairs = itertools.zip_longest(before.splitlines(), now.splitlines(), fillvalue="nothing")
    return next(f"{old.strip()}, now {new.strip()}" for old, new in pairs if old != new)


# ---- which variants


def plan(over: Sequence[str]) -> list[Variant]:
    """Every combination, in the order given, the last choice changing fastest."""
    axes = [_axis(setting) for setting in over]
    paths = [path for path, _ in axes]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"--over {path}: is given twice; put all its values into one")
    labels = [_labels(path, values, _key(path, paths)) for path, values in axes]
    told = [len(values) > 1 for _, values in axes] if any(len(values) > 1 for _, values in axes) else [True] * len(axes)
    variants = []
    for places in itertools.product(*(range(len(values)) for _, values in axes)):
        names = [each[place] for each, place in zip(labels, places, strict=True)]
        words = [f"{path}={values[place]}" for (path, values), place in zip(axes, places, strict=True)]
        shown = [(name, path) for name, path, tell in zip(names, paths, told, strict=True) if tell]
        rest = tuple(name for name, path in shown if path != "seed")
        variants.append(Variant("_".join(name for name, _ in shown), tuple(words), rest))
    return variants


def _axis(setting: str) -> tuple[str, list[str]]:
    path, equals, given = setting.partition("=")
    values = [value.strip() for value in split(given)]
    if not equals or not path.strip() or not all(values):
        raise UserError(f"--over {setting}: is written key=value,value such as seed=0,1,2")
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"--over {path}: {value} is given twice")
    return path.strip(), values


def split(text: str) -> list[str]:
    """At the commas that lie in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        else:
            depth += (letter in OPENS) - (letter in CLOSES)
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _key(path: str, paths: Sequence[str]) -> str:
    """The last part of a path, or as many as tell it from the others'."""
    parts = {each: _slug(each).split(".") for each in paths}
    counts = range(1, len(parts[path]) + 1)
    return next((key for count in counts if (key := ".".join(parts[path][-count:])) and _only(key, path, parts, count)), _slug(path))


def _only(key: str, path: str, parts: Mapping[str, list[str]], count: int) -> bool:
    return all(".".join(other[-count:]) != key for each, other in parts.items() if each != path)


def _labels(path: str, values: Sequence[str], key: str) -> list[str]:
    """What to call each value: a word stands for itself, a number says of what; a whole spec is its `use` and what tells it apart."""
    parsed = [settings.read(value, f"--over {path}") for value in values]
    if all(isinstance(each, dict) and isinstance(each.get("use"), str) for each in parsed):
        return _numbered([_short("-".join([each["use"], *_apart(each, parsed)])) for each in parsed])
    uses = [each.get("use") if isinstance(each, dict) else each for each in parsed]
    words = all(isinstance(use, str) for use in uses) and len(set(map(str, uses))) == len(values)
    found = [_short(str(use)) if words else f"{key}-{_short(value)}" for use, value in zip(uses, values, strict=True)]
    return _numbered(found)


def _apart(spec: Mapping[str, Any], specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of a spec, the options in which others of its `use` differ from it."""
    rivals = [each for each in specs if each["use"] == spec["use"] and each is not spec]
    return [f"{key}-{_short(str(value))}" for key, value in spec.items() if any(each.get(key) != value for each in rivals)]


def _numbered(names: list[str]) -> list[str]:
    repeated = len(set(names)) < len(names)
    return [f"{each}-{number}" for number, each in enumerate(names, 1)] if repeated else names


def _short(value: str) -> str:
    """A value as part of a folder's name; of a path its last part."""
    last = Path(value).stem if "/" in value and not set(value) & set("[{") else value
    return _slug(last)[:LONGEST].strip("-.") or "empty"


def _slug(text: str) -> str:
    """Only what is safe in a folder's name."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^\w.+-]", "-", text)).strip("-.")


# ---- what came of them


def _metric(chosen: Mapping[str, Recipe]) -> str:
    """What all of them were selected by; else macro-F1."""
    names = {each.select for each in chosen.values()}
    return names.pop() if len(names) == 1 else next(iter(METRICS))


def _score(metrics: Mapping[str, Any], metric: str) -> float:
    found = metrics.get("test", metrics.get("val", {})).get(metric)
    return float("nan") if found is None else float(found)  # AUROC of one class is None


def _compared(variants: list[Variant], chosen: Mapping[str, Recipe], swept: Swept, folder: Path, screen: Terminal) -> Swept:
    """Add the spread over seeds, and where two finished the comparison and its page."""
    done = [swept.folders[name] for name in swept.metrics]
    given: dict[str, Any] = {**vars(swept), "spreads": spreads(variants, swept.scores(), swept.metric)}
    if len({json.dumps(each.data.split, sort_keys=True) for each in chosen.values()}) > 1:
        hold = "; data.split.seed=0 would hold the split" if len({each.seed for each in chosen.values()}) > 1 else ""
        given["notes"] = [f"the runs split the clips differently, so they are compared on what all of them test{hold}"]
    if len(done) > 1 and screen.first:
        try:
            page = folder / PAGE
            has_test = all("test" in metrics for metrics in swept.metrics.values())
            table = compare(done, metric=swept.metric, split="test" if has_test else "val", report=page, time=True)
            given |= {"table": table, "report": page}
        except UserError as error:
            given["notes"] = [*given.get("notes", []), f"not compared: {error}"]
    return Swept(**given)


def spreads(variants: Sequence[Variant], scores: Mapping[str, float], metric: str) -> list[Spread]:
    """One for each set of two or more finished variants that differ in the seed only."""
    found: dict[tuple[str, ...], list[float]] = {}
    for each in variants:
        if each.name in scores:
            found.setdefault(each.but_for_seed, []).append(scores[each.name])
    return [
        Spread("_".join(rest), metric, statistics.fmean(values), statistics.stdev(values), len(values))
        for rest, values in found.items()
        if len(values) > 1
    ]
