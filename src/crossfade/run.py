"""The verbs: train, resume, evaluate, predict, explain, check. Each reads as its docstring."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crossfade import build, explanation, judge, learnt, settings
from crossfade import recipe as recipes
from crossfade.clip import Clip, Corpus, UserError
from crossfade.data.check import Findings
from crossfade.data.check import check as check_corpus
from crossfade.data.inputs import clips_of
from crossfade.data.intake import Intake
from crossfade.data.labels import names_in
from crossfade.data.mel import SHARED
from crossfade.data.segments import sample_of, segments
from crossfade.data.split import ASIDE, SPLITS
from crossfade.deploy import bundle as bundles
from crossfade.deploy import exported
from crossfade.deploy.bundle import Bundle
from crossfade.deploy.file_model import FileModel
from crossfade.evaluation.explained import write_page
from crossfade.evaluation.segments import aggregate, official, write_results
from crossfade.evaluation.tables import Answers
from crossfade.evaluation.tables import read as read_table
from crossfade.explanation import Explainer
from crossfade.recipe import Recipe
from crossfade.screen import Terminal
from crossfade.signals import stopping
from crossfade.training.checkpoint import Checkpoints
from crossfade.training.loop import HISTORY

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.models.model import Fused


def train(recipe: Recipe, folder: Path | str, *, screen: Terminal | None = None, command: str = "") -> dict[str, Any]:
    """Train a resolved recipe into a new folder, which becomes the bundle; returns the content of metrics.json.

    Where it is refused before anything was learnt, the folder is left as it was found. `command` is what the report says was typed.
    Raises UserError for bad input and Interrupted, after a checkpoint, for SIGINT and SIGTERM.
    """
    folder = Path(folder)
    screen, existed = screen or Terminal(), folder.exists()
    if screen.first:
        claim(folder, recipe.yaml())
    try:
        text = recipe.yaml()  # as a resumed run will read it
        return _go_on(recipes.resolve(settings.read(text, recipe.name)), folder, screen, command)
    except (UserError, OSError):
        if screen.first:
            give_back(folder, existed)
        raise


def claim(folder: Path, recipe: str) -> None:
    """Begin a run's folder with its recipe. UserError where something is there."""
    for left in folder.glob(f".{bundles.RECIPE}.*.tmp"):  # by a run that was killed as it began
        left.unlink()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        begun = (folder / bundles.RECIPE).is_file()
        ways = f"go on with `crossfade train --resume {folder}` or choose another --out" if begun else "choose another --out"
        raise UserError(f"{folder}: exists already; {ways}")
    folder.mkdir(parents=True, exist_ok=True)
    bundles.write_text(folder / bundles.RECIPE, recipe)


def give_back(folder: Path, existed: bool) -> None:
    """Take away what a run wrote that never came to a checkpoint; nothing else was in the folder when it began."""
    if any(folder.rglob("state.pt")) or any(folder.rglob(bundles.METRICS)):
        return
    for begun in (*folder.glob("fold-*"), folder):
        for name in (bundles.RECIPE, bundles.NOTES, bundles.LOG, HISTORY):
            (begun / name).unlink(missing_ok=True)
        Checkpoints(begun / "checkpoint").clear()
        with contextlib.suppress(OSError):  # something else is in it by now: that stays
            if begun != folder or not existed:
                begun.rmdir()


def resume(folder: Path, *, screen: Terminal | None = None) -> dict[str, Any]:
    """Go on with a run from its last checkpoint to the same end, bit for bit on a CPU, as if it had never stopped."""
    screen = screen or Terminal()
    if not (folder / bundles.RECIPE).is_file():
        raise UserError(f"{folder}: has no {bundles.RECIPE}, so there is nothing to resume")
    done = finished(folder, screen)
    return done or _go_on(recipes.resolve(settings.read_file(folder / bundles.RECIPE), str(folder / bundles.RECIPE)), folder, screen)


def finished(folder: Path, screen: Terminal) -> dict[str, Any] | None:
    """What a run that is done came to, or None. A kill just after the numbers were written leaves a checkpoint, which goes now."""
    if not (folder / bundles.METRICS).is_file():
        return None
    Checkpoints(folder / "checkpoint").clear()
    screen.say(f"{folder} is finished already")
    return bundles.read_json(folder / bundles.METRICS)


def _go_on(recipe: Recipe, folder: Path, screen: Terminal, command: str = "") -> dict[str, Any]:
    from crossfade.work import Work  # Accelerate, which only training needs, takes long to import

    corpus = build.corpus(recipe)
    splits = learnt.kept_apart(recipe, corpus.clips, build.splits(recipe, corpus.clips))
    screen.log_to(folder / bundles.LOG)
    with stopping() as stop:
        work = Work(recipe, corpus, folder, screen, stop, command)
        try:
            return work.train_one(splits[0]) if len(splits) == 1 else work.train_folds(splits)
        finally:
            screen.close()
            screen.log_to(None)
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def next_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, -3 … where that exists."""
    candidates = (Path("runs") / (name if count == 1 else f"{name}-{count}") for count in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())


@dataclass(frozen=True)
class Opened:
    """A bundle with its model built and its weights in place, or an exported file in its model's place."""

    bundle: Bundle
    recipe: Recipe
    model: Fused | FileModel
    desk: judge.Desk


def open_run(folder: Path, overrides: Sequence[str] = (), *, corpus: Path | None = None, alone: bool = False) -> Opened:
    """Rebuild a bundle's model; `overrides` may change how it is fed (`data.…`), not what it is. `folder`: a run, or an exported file.

    `alone`: for files of a person's own, without the conditions (`data.degrade`) that the recipe puts its corpus under.
    """
    made = exported.read(folder) if exported.is_exported(folder) else None
    bundle = made.bundle if made else bundles.read(folder)
    where = str(folder if made else folder / bundles.RECIPE)
    raw = settings.read(bundle.recipe, where)
    if recipes.task_of(raw) != recipes.CLASSIFICATION:
        raise UserError(f"{folder}: is of a {recipes.task_of(raw).replace('_', ' ')}; this verb is for runs that classify")
    recipe = _fed(raw, where, overrides, corpus, alone)
    if not set(recipe.targets) <= set(bundle.classes):
        found = f"{bundles.LABELS} is of {', '.join(bundle.classes)} but {bundles.RECIPE} of {', '.join(recipe.targets)}"
        raise UserError(f"{folder}: {found}; they belong to different runs")
    model = made.model() if made else _rebuilt(bundle, recipe)
    device = torch.device("cuda" if not made and recipe.device != "cpu" and torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    return Opened(bundle, recipe, model, judge.open_desk(recipe, bundle.classes, device))


def _fed(raw: Any, where: str, overrides: Sequence[str], corpus: Path | None, alone: bool) -> Recipe:
    """The recipe of a finished run, fed differently."""
    for override in overrides:
        if not override.startswith(("data.", "device")):
            raise UserError(f"{override}: a finished run can be fed differently (data.…) but not changed; train it anew for that")
    kinds = [override for override in overrides if override.startswith("data.corpus.use=")]
    settings.override(raw, kinds)  # before the corpus is pointed at: another kind of corpus starts from its own defaults
    if corpus:
        recipes.point_at(raw, corpus)
    settings.override(raw, [override for override in overrides if override not in kinds])
    recipe = recipes.resolve(recipes.without_training(raw, alone=alone), where)
    for name, stream in recipe.data.streams.items():
        if stream.get("band") == SHARED:
            raise UserError(f"data.streams.{name}.band: found {SHARED!r}; a finished run hears what it learnt with: [low, high], or null")
    return recipe


def _rebuilt(bundle: Bundle, recipe: Recipe) -> Fused:
    model = build.model(recipe, bundle.classes, pretrained=False)
    bundle.load_into(model)
    return model


@dataclass(frozen=True)
class Assessed:
    """A bundle and what it says of labelled clips: a table a target."""

    opened: Opened
    intake: Intake
    tables: dict[str, Answers]


def assess(
    folder: Path,
    *,
    split: str = "test",
    corpus: Path | None = None,
    overrides: Sequence[str] = (),
    pieces: int = 1,
    screen: Terminal | None = None,
) -> Assessed:
    """A bundle's answers about a split of its own corpus, or all of another; of each clip's `pieces` in time, where there are several."""
    opened, screen = open_run(folder, overrides, corpus=corpus), screen or Terminal()
    found, clips = own_clips(opened, split, whole=corpus is not None)
    if corpus or (overrides and split != "train"):  # its own split, as it was, keeps them apart
        flattered = learnt.warning(clips, opened.bundle.recipe, opened.bundle.folder, opened.recipe, found.clips)
        if flattered:
            screen.warn(flattered)
    intake = take_in(opened.desk, found, segments(clips, pieces) if pieces > 1 else clips, screen)
    tables = judge.predictions(opened.desk, opened.model, intake.clips, intake, split)
    target = opened.recipe.targets[0]
    if not len(tables[target].known()):
        raise UserError(f"{folder}: none of these clips is labelled with {target}; `crossfade predict` needs no labels")
    return Assessed(opened, intake, tables)


def own_clips(opened: Opened, split: str, *, whole: bool = False) -> tuple[Corpus, list[Clip]]:
    """The corpus that a run is fed, and its clips of a split, or all of them. UserError where it has none, or classes that are unknown."""
    if split not in SPLITS and not (split == ASIDE and opened.recipe.data.domains):
        raise UserError(f"--split: found {split!r}; one of {', '.join(SPLITS)}")
    found = build.corpus(opened.recipe)
    _known_classes(found, opened)
    clips = found.clips if whole else build.splits(opened.recipe, found.clips)[0].sides[split]
    if not clips:
        raise UserError(f"{opened.bundle.folder}: its data.split leaves no clip to {split}")
    return found, clips


def evaluate(
    folder: Path,
    *,
    split: str = "test",
    corpus: Path | None = None,
    overrides: Sequence[str] = (),
    pieces: int = 1,
    how: str = "mean",
    results: Path | None = None,
    screen: Terminal | None = None,
) -> tuple[dict[str, Any], Answers]:
    """Judge a bundle on a split of its own corpus, or on all of another corpus; by streams, too, where it has several.

    With `pieces` each clip is judged in so many stretches of time, whose logits are put together by `how`, mean or max; `results` is
    then the file that MammAlps' own script reads. Returns what metrics.json would hold, and the table of predictions behind it.
    """
    found = assess(folder, split=split, corpus=corpus, overrides=overrides, pieces=pieces, screen=screen)
    opened, intake, target = found.opened, found.intake, found.opened.recipe.targets[0]
    if results:
        write_results(results, found.tables, sample_of)
    alone = judge.by_streams(opened.desk, opened.model, intake.clips, intake) if len(opened.desk.reader.streams) > 1 else {}
    whole = (lambda table: aggregate(table, sample_of, how)) if pieces > 1 else (lambda table: table)
    tables = {name: whole(table) for name, table in found.tables.items()}
    by_name = {name: whole(table) for name, table in judge.of_target(alone, target).items()}
    metrics = judge.measure({name: {split: table} for name, table in tables.items()}, by_name, opened.recipe)
    return metrics | (_official(results, found.tables) if results else {}), tables[target]


def _official(results: Path, tables: Mapping[str, Answers]) -> dict[str, Any]:
    """What the benchmark's own script would say of its result file; its classification reports go beside it as text."""
    numbers, text = official(results, tables)
    bundles.write_text(results.with_suffix(".txt"), text)
    return {"segments": numbers}


def _known_classes(corpus: Corpus, opened: Opened) -> None:
    for target in opened.recipe.targets:
        known = opened.desk.classes[target]
        for clip in corpus.clips:
            label = clip.labels.get(target)
            said = [] if label is None else names_in(label, opened.desk.several(target))
            for name in said:
                if name not in known:
                    raise UserError(f"{clip.id}: its {target} {name!r} is not a class of this model; {settings.nearest(name, known)}")


def take_in(desk: judge.Desk, corpus: Corpus, clips: list[Clip], screen: Terminal) -> Intake:
    """Read these clips of the corpus; what cannot be is said. UserError where none can."""
    with screen.counting("reading clips", len(clips)) as step:
        intake = desk.intake(clips, step)
    found = judge.bad(corpus, intake, desk.reader)
    screen.left_out(found.files)
    for warning in found.warnings():
        screen.warn(warning)
    if not intake.clips:
        raise UserError("none of these clips can be read")
    return intake


def predict(folder: Path, inputs: Sequence[Path], *, screen: Terminal | None = None) -> Iterator[dict[str, Any]]:
    """One row a clip of the files, folders or CSVs: clip, streams, predicted and each class's probability; and error, where a file of
    it cannot be read. Of several heads each has its columns: `command.predicted`, `command.p_bin`. Files that a CSV names and that
    are not there come last.
    """
    opened = open_run(folder, alone=True)
    corpus = clips_of(inputs)
    with (screen or Terminal()).counting("reading clips", len(corpus.clips)) as step:
        intake = opened.desk.intake(corpus.clips, step)
    found = judge.bad(corpus, intake, opened.desk.reader)
    tables = judge.predictions(opened.desk, opened.model, intake.clips, intake, "") if intake.clips else {}
    answers = dict(zip((clip.id for clip in intake.clips), _answers(tables), strict=True)) if tables else {}
    reasons = dict(found.files)
    for clip in corpus.clips:
        seen = {"streams": "+".join(intake.streams[clip.id]), **answers[clip.id]} if clip.id in answers else {}
        wrong = [f"{path}: {reasons[str(path)]}" for path in clip.media.values() if str(path) in reasons]
        if not seen and not wrong:
            wrong = [f"has none of {', '.join(opened.desk.reader.streams)}"]
        yield {"clip": clip.id, **seen, **({"error": "; ".join(wrong)} if wrong else {})}
    read = {str(path) for clip in corpus.clips for path in clip.media.values()}
    yield from ({"clip": path, "error": why} for path, why in found.files if path not in read)


def _answers(tables: Mapping[str, Answers]) -> Iterator[dict[str, Any]]:
    """One clip after another: the class and all probabilities of every target."""
    heads = {target: f"{target}." if len(tables) > 1 else "" for target in tables}
    said = {target: table.said for target, table in tables.items()}
    for row in range(len(next(iter(tables.values())))):
        answer: dict[str, Any] = {}
        for target, table in tables.items():
            answer[f"{heads[target]}predicted"] = said[target][row]
            shares = zip(table.classes, table.probability[row], strict=True)
            answer |= {f"{heads[target]}p_{name}": round(float(share), 6) for name, share in shares}
        yield answer


def explain(
    folder: Path,
    wanted: Sequence[str],
    *,
    out: Path | None = None,
    corpus: Path | None = None,
    screen: Terminal | None = None,
    command: str = "",
) -> Iterator[dict[str, Any]]:
    """One page a clip that says why: what each stream adds, where it looked, what hiding that changes. Yields what a page says in numbers.

    `wanted`: files, folders, CSVs, or ids of clips of the run's corpus (or of `corpus`). Pages go to `out`, by default RUN/explained.
    """
    opened, screen = open_run(folder, corpus=corpus, alone=True), screen or Terminal()
    clips = _wanted(opened, wanted)
    intake = take_in(opened.desk, Corpus(clips, {}), clips, screen)
    kind = WithoutMaps if isinstance(opened.model, FileModel) else Explainer
    explainer = kind(opened.desk, opened.model, intake, explanation.bases(_of_val(opened)))  # type: ignore[arg-type]
    pages = out or explanation.folder_of(opened.bundle.folder)
    pages.mkdir(parents=True, exist_ok=True)
    with screen.counting("explaining", len(intake.clips)) as step:
        for clip in intake.clips:
            found = explainer.explain(clip, title=f"{opened.recipe.name}: {clip.id}", command=command)
            page = write_page(pages / explanation.page_name(clip.id), found)
            step()
            yield {"clip": clip.id, "page": str(page), **explanation.numbers(found)}


class WithoutMaps(Explainer):
    """Of an exported file, which shows nothing of its inside: what each stream adds, and no maps."""

    def _places(self, batch: Named) -> dict[str, np.ndarray]:
        return {}


def _wanted(opened: Opened, wanted: Sequence[str]) -> list[Clip]:
    """Files that are there, as `predict` reads them; other words are ids of clips of the corpus."""
    files = [Path(each) for each in wanted if Path(each).exists()]
    clips = clips_of(files).clips if files else []
    names = [each for each in wanted if not Path(each).exists()]
    if names:
        by_id = {clip.id: clip for clip in build.corpus(opened.recipe).clips}
        for name in names:
            recipes.one_of(name, by_id, "explain: no such file, and no such clip in the run's corpus")
        clips += [by_id[name] for name in names]
    return clips


def _of_val(opened: Opened) -> dict[str, Answers]:
    """The tables of val that the run wrote, as far as they are there."""
    first = opened.recipe.targets[0]
    paths = {target: opened.bundle.folder / bundles.predictions_name(target, first) for target in opened.recipe.targets}
    return {target: read_table(path, opened.desk.several(target)).where(split="val") for target, path in paths.items() if path.is_file()}


def check(corpus: Path | None, name: str | None = None, overrides: Sequence[str] = (), *, screen: Terminal | None = None) -> Findings:
    """What is in a corpus and what would bias a result: a folder or CSV as it is, or as the recipe `name` would read it."""
    screen = screen or Terminal()
    found = build.corpus(recipes.load(name, overrides, corpus=corpus)) if name else build.guess_corpus(corpus)
    with screen.counting("reading clips", sum(len(clip.media) for clip in found.clips)) as step:
        return check_corpus(found, advance=step)
