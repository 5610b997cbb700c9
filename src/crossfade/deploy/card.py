"""The model card: a run's README.md, from what the run wrote of itself; it claims nothing that the data does not bear."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossfade import settings
from crossfade.deploy import bundle as bundles
from crossfade.deploy import face_card

CARD, EXPORTS = "README.md", "exports.json"
FILL_IN = "not stated; fill in"
LICENCES = ("Licence of the weights", "Licence of the data")
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "balanced_accuracy": "UAR"}
SPLITS = {"val": "validation", "test": "test", "source": "test of the source", "before": "test, before adaptation"}
MARKS = re.compile(r"([\\`*\[\]<>|#&~])")
SHOWN = 40  # classes; of more the rest is counted
LAST, UNLABELLED = "last", "target."  # what a phase may select by that needs no label


def write(folder: Path, metrics: Mapping[str, Any] | None = None) -> Path:
    """The card of a run, from the files in its folder. `metrics`: what metrics.json will hold, where it is not there yet.

    What a person filled in for the licences stays.
    """
    path = folder / CARD
    licences = _filled_in(bundles.read_text(path) if path.is_file() else "")
    run = _Run(folder, metrics if metrics is not None else _read(folder / bundles.METRICS))
    bundles.write_text(path, "\n".join(_lines(run, licences)) + "\n")
    return path


def _read(path: Path) -> dict[str, Any]:
    found = bundles.read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _filled_in(text: str) -> dict[str, str]:
    """Licence -> what the card says of it."""
    found = {name: re.search(rf"^- {name}: (.+)$", text, re.MULTILINE) for name in LICENCES}
    return {name: match[1].strip() if match else FILL_IN for name, match in found.items()}


class _Run:
    """What a run's folder says."""

    def __init__(self, folder: Path, metrics: Mapping[str, Any]):
        self.folder, self.metrics = folder, metrics
        text = bundles.read_text(folder / bundles.RECIPE) if (folder / bundles.RECIPE).is_file() else "{}"
        self.recipe: dict[str, Any] = settings.read(text, str(folder / bundles.RECIPE)) or {}
        self.notes, self.classes = _read(folder / bundles.NOTES), _read(folder / bundles.LABELS)
        self.environment, self.exports = _read(folder / bundles.ENVIRONMENT), _read(folder / EXPORTS)

    @property
    def parts(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(head, split, summary) of whatever was measured."""
        first = str(self.metrics.get("target", ""))
        heads = {first: self.metrics, **self.metrics.get("heads", {})}
        return [(head, shown, found[split]) for head, found in heads.items() for split, shown in SPLITS.items() if split in found]


def _lines(run: _Run, licences: Mapping[str, str]) -> Iterator[str]:
    yield f"# {plain(run.recipe.get('name', run.folder.name))}"
    yield from PARTS.get(str(run.recipe.get("task")), _of_classifier)(run)
    yield from _section("Licence", [f"- {name}: {text}" for name, text in licences.items()])
    yield from _section("Formats", _formats(run))
    yield from _section("Made with", _made_with(run))


def _of_classifier(run: _Run) -> Iterator[str]:
    yield from _section("What it is for", _purpose(run))
    yield from _section("Data", _data(run))
    yield from _section("How good it is", _quality(run))
    yield from _section("Limits", [f"- {line}" for line in _limits(run)])


def _of_face(run: _Run) -> Iterator[str]:
    yield from _section("What it is for", face_card.purpose(run.recipe, run.notes))
    yield from _section("Data", table(("side", "clips", "pictures"), face_card.data(run.notes)))
    heads = ("judged", *face_card.SHOWN.values(), "pictures", "groups")
    yield from _section("How good it is", table(heads, face_card.quality(run.metrics)))
    yield from _section("Limits", [f"- {plain(line)}" for line in face_card.limits(run.notes)])


PARTS: dict[str, Callable[[_Run], Iterator[str]]] = {"talking_face": _of_face}  # task -> its sections; of all others a classifier's


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield from ("", f"## {title}", "", *lines)


def _purpose(run: _Run) -> Iterator[str]:
    if run.recipe.get("about"):
        yield from (plain(run.recipe["about"]), "")
    streams, encoders = run.recipe.get("data", {}).get("streams", {}), run.recipe.get("model", {}).get("encoders", {})
    for name, stream in streams.items():
        yield f"- It takes {plain(name)} ({plain(_use(stream))}), by the encoder {plain(_use(encoders.get(name)))}."
    several = run.recipe.get("data", {}).get("several", [])
    for target, names in run.classes.items():
        kind = "any number of" if target in several else "one of"
        yield f"- It says of {plain(target)} {kind} {len(names)} classes: {_some(names)}."
    for part, total in run.notes.get("parameters", [])[-1:]:
        work = f", {run.notes['multiply_adds']:,} multiply-adds a clip" if run.notes.get("multiply_adds") else ""
        yield f"- It has {total:,} parameters in {plain(part)}{work}."


def _use(spec: Any) -> str:
    return str(spec.get("use", "not known")) if isinstance(spec, dict) else str(spec)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(plain, names[:SHOWN])) + rest


def _data(run: _Run) -> Iterator[str]:
    counts: Mapping[str, Mapping[str, int]] = run.notes.get("counts", {})
    yield f"The corpus is of the kind {plain(_use(run.recipe.get('data', {}).get('corpus')))}; {_divided(run)}."
    yield from _domains(run)
    if not counts:
        yield from ("", "No clips of it were counted: this model was not trained here.")
        return
    groups = {split: found for head, split, found in run.parts if head == run.metrics.get("target")}
    totals = {split: _clips(run, split, sum(each.values())) for split, each in counts.items()}
    rows = [(plain(split), f"{total:,}", _groups(groups, split)) for split, total in totals.items()]
    yield from ("", *table(("split", "labelled clips", "groups"), rows), "")
    names = list(dict.fromkeys(name for each in counts.values() for name in each))
    yield from table(
        ("class", *map(plain, counts)), [(plain(n), *(f"{each.get(n, 0):,}" for each in counts.values())) for n in names[:SHOWN]]
    )
    if len(names) > SHOWN:
        yield from ("", f"{len(names) - SHOWN} more classes are not shown.")
    if run.notes.get("streams"):
        yield from ("", "Clips by what they have: " + ", ".join(f"{plain(k)} {count:,}" for k, count in run.notes["streams"].items()) + ".")
    if run.notes.get("skipped"):
        yield from ("", f"{len(run.notes['skipped']):,} files were left out, as report.html lists.")


def _domains(run: _Run) -> Iterator[str]:
    """Of a run over two domains: which had labels, which is tested, and what was learnt from clips without labels."""
    domains = run.recipe.get("data", {}).get("domains")
    if not domains:
        return
    source, target = (plain(", ".join(map(str, domains.get(side, [])))) for side in ("source", "target"))
    share = domains.get("labelled") or 0
    besides = f" and of {share:.3g} of the training clips of {target}" if share else ""
    yield f"\nIt learnt from labels of {source}{besides}; its test is of {target}, its labelled validation clips of {source}."
    if not any(_adapts(phase) for phase in run.recipe.get("phases") or []):
        yield f"Nothing was learnt from clips of {target} without labels."
    else:
        count = _unlabelled(run, domains.get("source", []))
        yield f"It learnt from {'clips' if count is None else f'{count:,} training clips'} without labels, too, those of {target}."


def _adapts(phase: Mapping[str, Any]) -> bool:
    """Whether it learns from the target domain's clips without their labels."""
    sees = not phase.get("mix") or phase["mix"].get("target", 0) > 0
    return sees and bool(phase.get("teacher") or any(term.get("of") == "target" for term in phase.get("terms", {}).values()))


def _unlabelled(run: _Run, source: Collection[str]) -> int | None:
    """The target's training clips without labels: all clips but the labelled ones and those judged. None where that is not so simple."""
    total = run.notes.get("heads", {}).get(run.metrics.get("target", ""), {}).get("total")
    path = run.folder / bundles.PREDICTIONS
    if total is None or not run.notes.get("streams") or run.notes.get("skipped") or not path.is_file():
        return None
    judged = list(csv.DictReader(io.StringIO(bundles.read_text(path), newline="")))
    if any(row["domain"] in source and not row["true"] for row in judged):
        return None  # then some of its training clips have no label either
    return sum(run.notes["streams"].values()) - total - len(judged)


def _clips(run: _Run, split: str, counted: int) -> int:
    """How many clips are labelled: not the sum over classes, for of some heads a clip has several."""
    target = run.metrics.get("target", "")
    judged = {part: found["n_clips"] for head, part, found in run.parts if head == target}
    trained = run.notes.get("heads", {}).get(target, {}).get("total", counted)
    return {"train": trained, **judged}.get(split, counted)


def _divided(run: _Run) -> str:
    by = run.recipe.get("data", {}).get("split", {}).get("by")
    return f"it was divided by {plain(by)}" if by else "how it was divided is not known"


def _groups(found: Mapping[str, Mapping[str, Any]], split: str) -> str:
    """As far as they were counted, which is where something was measured."""
    summary = found.get(SPLITS.get(split, split))
    return f"{summary['n_groups']:,}" if summary else "not counted"


def _quality(run: _Run) -> Iterator[str]:
    if not run.parts:
        yield "It was not measured."
        return
    rows = [
        (plain(head), split, *(_value(found, metric) for metric in METRICS), f"{found['n_clips']:,}", f"{found['n_groups']:,}")
        for head, split, found in run.parts
    ]
    yield from table(("head", "split", *METRICS.values(), "clips", "groups"), rows)
    yield from ("", f"In brackets: the 95 % interval, by bootstrap over whole groups. {_kept(run)}")
    yield from (f"\n{line}" for line in dict.fromkeys(plain(note) for _, _, found in run.parts for note in found.get("notes", [])))
    yield from _by_class(run)
    if run.metrics.get("streams"):
        alone = [(plain(name), *(_value(found, metric) for metric in METRICS)) for name, found in run.metrics["streams"].items()]
        yield from ("", "The test by what the model is given:", "", *table(("given", *METRICS.values()), alone))


def _kept(run: _Run) -> str:
    """What chose the state that is kept, and so whether validation flatters it: the last phase, which began as an earlier one ended."""
    deciders = [phase.get("select") or run.recipe.get("select") for phase in run.recipe.get("phases") or []]
    last = deciders[-1] if deciders else None
    if last != LAST and not str(last).startswith(UNLABELLED):
        return "Validation chose the state that is kept, so it flatters."
    text = (
        "The state that is kept is that of the last epoch, as asked"
        if last == LAST
        else f"`{last}`, without labels, chose the state that is kept"
    )
    before = any(name != LAST and not str(name).startswith(UNLABELLED) for name in deciders)
    return f"{text}; validation chose that of an earlier phase, so it may flatter." if before else f"{text}."


def _by_class(run: _Run) -> Iterator[str]:
    for head, split, found in run.parts:
        rows = [
            (plain(name), *(f"{each[key]:.3f}" for key in ("precision", "recall", "f1")), f"{each['support']:,}")
            for name, each in list(found.get("per_class", {}).items())[:SHOWN]
        ]
        if split == SPLITS["test"] and rows:
            yield from ("", f"The classes of {plain(head)} on the test:", "", *table(("class", "precision", "recall", "F1", "clips"), rows))


def _value(found: Mapping[str, Any], metric: str) -> str:
    if metric not in found:
        return "not measured"
    interval = (found.get("intervals") or {}).get(metric)
    return f"{found[metric]:.3f} " + (f"({interval[0]:.3f} to {interval[1]:.3f})" if interval else "(no interval)")


def _limits(run: _Run) -> Iterator[str]:
    yield from (plain(warning) for warning in run.notes.get("warnings", []))
    tested = [found for _, split, found in run.parts if split == SPLITS["test"]]
    if tested:
        yield UNSEEN[run.notes.get("unseen")]
    else:
        yield "There is no test: nothing is known of how it does on clips that nothing was chosen by."
    if any(not _has_interval(found) for _, _, found in run.parts):
        yield "Where no interval is given there are too few groups to give one: how sure such a number is, is not known."
    if any(pair and pair[0] == pair[1] for _, _, found in run.parts for pair in (found.get("intervals") or {}).values()):
        yield "An interval without width is no certainty: it means that these few groups do not differ in that number."
    yield "It was not tested on recordings made elsewhere, with other devices or of other people or places than those of this corpus."
    if len(run.recipe.get("data", {}).get("streams", {})) > 1 and not run.metrics.get("streams"):
        yield "It was not tested on clips that lack a stream."
    yield "Its probabilities are shares of the classes it knows: of anything else it says one of them, or none where it may."
    yield "It was not examined for what it gets wrong more often of some people or places than of others."


UNSEEN = {
    True: "No group of the test was trained on: the numbers of the test are of unseen groups.",
    False: "Groups of the test were trained on too: nothing is known of unseen groups, where it may well do worse.",
    None: "Whether groups of the test were trained on is not known.",
}


def _has_interval(found: Mapping[str, Any]) -> bool:
    return any((found.get("intervals") or {}).values())


def _formats(run: _Run) -> Iterator[str]:
    if (run.folder / bundles.WEIGHTS).is_file():
        yield f"- `{bundles.WEIGHTS}` with `{bundles.RECIPE}`: this run, for PyTorch by Crossfade."
    else:
        yield "- There is no single model here: each fold has its own, with a card of its own."
        return
    if not run.exports:
        yield "- No other format was made; `crossfade export` makes ONNX and ncnn, and compares them."
        return
    rows = [row for name, entry in run.exports.items() for row in _format_rows(name, entry)]
    heads = ("file", "precision", "MB", "output", "clips", "max abs", "max rel", "same decision", "accuracy, run → file")
    yield from ("", "Compared with this run on real clips, output by output:", "", *table(heads, rows))
    notes = [f"- {plain(name)}: {plain(note)}" for name, entry in run.exports.items() for note in entry.get("notes", [])]
    yield from ("", *notes) if notes else ()


def _format_rows(name: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for each in entry["parity"]:
        score = entry["scores"].get(each["output"])
        accuracy = f"{score['run']['accuracy']:.3f} → {score['file']['accuracy']:.3f}" if score else ""
        agree = "" if each["agree"] is None else f"{each['agree']:.2%}"
        numbers = (f"{each['clips']:,}", f"{each['max_abs']:.2g}", f"{each['max_rel']:.2g}")
        yield (plain(name), entry["precision"], f"{entry['bytes'] / 1e6:.2f}", plain(each["output"]), *numbers, agree, accuracy)


def _made_with(run: _Run) -> Iterator[str]:
    yield from (f"- {plain(name)}: {plain(value)}" for name, value in run.environment.items())
    if run.notes.get("command"):
        yield f"- command: {plain(run.notes['command'])}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown; the cells are plain already."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def plain(text: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    return MARKS.sub(r"\\\1", " ".join(str(text).split()))
