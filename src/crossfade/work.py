"""One training run: take the clips in, fit, judge the best state, write the bundle. Every step can be repeated after a kill."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from crossfade import build, judge, readiness
from crossfade.clip import Clip, Corpus, UserError, seed_of
from crossfade.data.intake import Intake, count_by_streams
from crossfade.data.split import Splits
from crossfade.deploy import bundle as bundles
from crossfade.deploy import card
from crossfade.evaluation import METRICS
from crossfade.evaluation.contributions import Contributions
from crossfade.evaluation.contributions import write as write_contributions
from crossfade.evaluation.explained import Explained
from crossfade.evaluation.heads import TrainingClips
from crossfade.evaluation.report import ReportContent, write_report
from crossfade.evaluation.tables import Answers, concatenate, summary
from crossfade.evaluation.tables import read as read_table
from crossfade.explanation import Explainer, bases
from crossfade.feed import Feed
from crossfade.models.cost import multiply_adds
from crossfade.models.model import describe
from crossfade.recipe import Recipe
from crossfade.signals import Stop
from crossfade.training.checkpoint import Checkpoints, save_weights
from crossfade.training.loop import Interrupted, Run, fit
from crossfade.training.prune import sparsity
from crossfade.training.rates import resolve

if TYPE_CHECKING:
    from crossfade.models.model import Fused
    from crossfade.screen import Terminal
    from crossfade.training.loop import Phase

BEFORE = "predictions-before.csv"  # of the test clips, by the model before it adapted
CONTRIBUTIONS = "contributions.csv"  # of the test clips: what each stream adds to the probability of what is true
STREAM_PREDICTIONS = "predictions-{}.csv"


class Trained(Protocol):
    """What any recipe says of where it trains."""

    @property
    def track(self) -> Sequence[str]: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...


@dataclass(frozen=True)
class Work:
    """A run under way: the recipe, its corpus, where it writes, who watches and who may stop it."""

    recipe: Recipe
    corpus: Corpus
    folder: Path
    screen: Terminal
    stop: Stop
    command: str = ""  # what a person typed, for the report

    def train_folds(self, splits: list[Splits]) -> dict[str, Any]:
        """One bundle a fold in `fold-1` …; the pooled test predictions, each clip once, are what is judged."""
        for number, split in enumerate(splits, 1):
            folder = self.folder / f"fold-{number}"
            if (folder / bundles.METRICS).is_file():
                Checkpoints(folder / "checkpoint").clear()  # left by a kill just after the numbers were written
                continue
            self.screen.say(f"fold {number} of {len(splits)}")
            given = {**self.recipe.data.split, "fold": number - 1}
            recipe = self.recipe.model_copy(update={"data": self.recipe.data.model_copy(update={"split": given})})
            if self.screen.first:
                folder.mkdir(exist_ok=True)
                bundles.write_text(folder / bundles.RECIPE, recipe.yaml())
            replace(self, recipe=recipe, folder=folder).train_one(split)
        return self._pool(len(splits)) if self.screen.first else {}

    def train_one(self, split: Splits) -> dict[str, Any]:
        """Take in, fit, judge, write; returns the content of metrics.json, in the first process alone."""
        feed, notes = self.prepare(split)
        accelerator = feed.accelerator
        self._track(accelerator)
        history = fit(self.run(feed), list(feed.phases))
        for tracker in accelerator.trackers:  # `end_training` would also part the processes, which have more folds to train
            tracker.finish()
        return self._finish(feed, notes, history) if accelerator.is_main_process else {}

    def prepare(self, split: Splits) -> tuple[Feed, dict[str, Any]]:
        """Everything before the first step: clips read, the model built with its weights, and the notes about both."""
        recipe, accelerator = self.recipe, accelerator_for(self.recipe, self.folder)
        self.screen.judged_by(recipe.select, METRICS[recipe.select].label)
        desk = judge.open_desk(recipe, {target: self.corpus.classes[target] for target in recipe.targets}, accelerator.device)
        intake = self._take_in(desk, split)
        parts = {name: [clip for clip in side if clip.id in intake.streams] for name, side in split.sides.items()}
        readiness.refuse_empty(parts, recipe, desk.classes)
        readiness.refuse_deaf(parts["train"], intake, desk)
        desk, bands = self._settle_bands(desk, parts["train"], intake)
        model = self._model(desk.classes)
        notes = self._notes(desk, split, intake, model, bands)
        build.check_views(recipe, self.corpus.classes)
        phases = build.phases(recipe, desk.classes, readiness.class_counts(parts["train"], desk))
        return Feed(desk, model, parts, intake, accelerator, self.screen, self.stop, phases), notes

    def _track(self, accelerator: Accelerator) -> None:
        if self.recipe.track:
            accelerator.init_trackers("crossfade", config={"recipe": self.recipe.name, "seed": self.recipe.seed})

    def _take_in(self, desk: judge.Desk, split: Splits) -> Intake:
        clips = [*split.train, *split.val, *split.test, *split.aside]

        def advance() -> None:
            step()
            if self.stop() is not None:
                raise Interrupted(self.stop() or 0)

        with self.screen.counting("reading clips", len(clips)) as step:
            intake = desk.intake(clips, advance)
        found = judge.bad(self.corpus, intake, desk.reader)
        judge.refuse_if_too_many(found, clips, self.recipe.data.bad_fraction)
        self.screen.left_out(found.files)
        if desk.reader.store.full:
            self.screen.warn(f"{desk.reader.store.trouble}: clips are decoded anew each time")
        return intake

    def _settle_bands(self, desk: judge.Desk, clips: list[Clip], intake: Intake) -> tuple[judge.Desk, readiness.Bands]:
        """Let recipe.yaml say in hertz what the domains share, where it is to be found in their clips; and what to know of it."""
        bands = readiness.bands(desk, clips, intake)
        if not bands.found:
            return desk, bands
        data, found = self.recipe.data, bands.found
        data.streams = {name: {**spec, "band": found[name]} if name in found else spec for name, spec in data.streams.items()}
        return replace(desk, reader=replace(desk.reader, streams=build.streams(self.recipe))), bands

    def _model(self, classes: Mapping[str, list[str]]) -> Fused:
        resumed = Checkpoints(self.folder / "checkpoint").exist()  # then every weight comes from the checkpoint
        torch.manual_seed(seed_of(self.recipe.seed, "model"))
        model = build.model(self.recipe, classes, pretrained=not resumed)
        for phase in self.recipe.phases:  # a mistyped pattern must not surface hours later
            resolve(model, phase.rates, where=f"phases.{phase.name}.rates")
        if not resumed:
            self._describe_weights(model)
        return model

    def _describe_weights(self, model: Fused) -> None:
        """Let recipe.yaml say what only the weights' own files said, so that the bundle can be rebuilt without them."""
        for name, encoder in model.encoders.items():
            self.recipe.model.encoders[name] |= encoder.rebuild  # type: ignore[operator]
        if self.screen.first:
            bundles.write_text(self.folder / bundles.RECIPE, self.recipe.yaml())

    def _notes(self, desk: judge.Desk, split: Splits, intake: Intake, model: Fused, bands: readiness.Bands) -> dict[str, Any]:
        """What a reader of the numbers must know, on disk before training starts; weights are loaded here, once."""
        path = self.folder / bundles.NOTES
        before = bundles.read_json(path) if path.is_file() else {}
        if before and Checkpoints(self.folder / "checkpoint").exist():
            return before
        loads = [f"{name}: {encoder.report.line()}" for name, encoder in model.encoders.items() if encoder.report]  # type: ignore[union-attr]
        for part, source in self.recipe.model.init.items():
            loads.append(f"{part}: {readiness.warm_start(model, part, source, self.recipe.model.allow_missing).line()}")
        for line in [*loads, *bands.heard]:
            self.screen.say(line)
        found = judge.bad(self.corpus, intake, desk.reader)
        own = [f"{name}: {encoder.note}" for name, encoder in model.encoders.items() if encoder.note]
        warnings = [
            *own,
            *split.warnings,
            *found.warnings(),
            *readiness.random_and_frozen(model, self.recipe),
            *readiness.faceless(intake, desk),
            *bands.warnings,
        ]
        for warning in warnings:
            self.screen.warn(warning)
        notes = {
            "warnings": warnings,
            "skipped": [list(entry) for entry in found.files],
            "partly": [list(entry) for entry in found.partly],
            "loads": loads,
            "heard": bands.heard,
            "unseen": _unseen(split),
            "streams": count_by_streams(intake.streams),
            "counts": split.counts(self.recipe.targets[0], several=desk.several(self.recipe.targets[0])),
            "heads": {target: self._training_clips(desk, split, target) for target in self.recipe.targets},
            "parameters": [[name, count] for name, count in describe(model)],
            "multiply_adds": multiply_adds(model, desk.one_clip()),
            "learning": {phase.name: readiness.learning(model, phase.rates) for phase in self.recipe.phases},
            "command": before.get("command", self.command),
        }
        if self.screen.first:
            bundles.write_json(path, notes)
        return notes

    @staticmethod
    def _training_clips(desk: judge.Desk, split: Splits, target: str) -> dict[str, Any]:
        """What training has of a head: its labelled clips, and those of every class."""
        counts = split.counts(target, several=desk.several(target))["train"]
        return {"total": sum(target in clip.labels for clip in split.train), "by_class": counts}

    def _add_sparsity(self, notes: dict[str, Any], model: Fused) -> dict[str, Any]:
        """Say of a pruned model how much of it is zero; only the trained one shows it."""
        if not any(phase.prune for phase in self.recipe.phases):
            return notes
        notes = notes | {"sparsity": sparsity(model)}
        bundles.write_json(self.folder / bundles.NOTES, notes)
        return notes

    def run(self, feed: Feed) -> Run:
        """What `fit` needs of this run."""
        recipe = self.recipe
        return Run(
            model=feed.model,
            accelerator=feed.accelerator,
            batches=feed.batches,
            score=feed.score,
            select=build.Selector(recipe.select),
            hits=judge.hits(recipe),
            folder=self.folder,
            seed=recipe.seed,
            screen=self.screen,
            stop=self.stop,
            track=lambda row, step: feed.accelerator.log(flat(row), step=step),
            begin=lambda phase: self._begin(feed, phase),
        )

    def _begin(self, feed: Feed, phase: Phase) -> None:
        """Ask the model about the test before the first phase that learns from the target domain: the report says what that gave."""
        feed.begin(phase)
        path = self.folder / BEFORE
        sees_target = phase.mix is None or phase.mix.get("target", 0.0) > 0
        adapts = sees_target and (phase.teacher is not None or any(term.of == "target" for term in phase.objective.terms.values()))
        if adapts and feed.desk.domains and self.screen.first and not path.is_file():
            found = judge.predictions(feed.desk, feed.model, feed.parts["test"], feed.intake, "test")
            if found:
                found[self.recipe.targets[0]].write(path)

    def _finish(self, feed: Feed, notes: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
        """Judge the best state and write the bundle; metrics.json comes last, for it says that the run is finished."""
        folder, recipe = self.folder, self.recipe
        desk, model, parts, intake = feed.desk, feed.model, feed.parts, feed.intake
        save_weights(folder / bundles.WEIGHTS, model.state_dict())
        notes = self._add_sparsity(notes, model)
        bundles.write_json(folder / bundles.LABELS, dict(desk.classes))
        bundles.write_json(folder / bundles.ENVIRONMENT, bundles.environment(str(desk.device)))
        by_split = {
            split: judge.predictions(desk, model, parts[split], intake, split, serve=feed.judging)
            for split in ("val", "test", "source")
            if parts[split]
        }
        tables = {target: {split: found[target] for split, found in by_split.items()} for target in recipe.targets}
        for target, table in judge.pooled(tables).items():
            table.write(folder / bundles.predictions_name(target, recipe.targets[0]))
        streams = judge.by_streams(desk, model, parts["test"], intake, serve=feed.judging) if len(desk.reader.streams) > 1 else {}
        alone = judge.of_target(streams, recipe.targets[0])
        for name, table in alone.items():
            table.write(folder / STREAM_PREDICTIONS.format(name))
        added = judge.contributions(streams, by_split.get("val", {}))
        if added:
            write_contributions(folder / CONTRIBUTIONS, added)
        metrics = judge.measure(tables, alone, recipe, train_counts=notes["counts"]["train"])
        asked = self._read(folder / BEFORE) if (folder / BEFORE).is_file() else None
        before = asked.known() if asked and len(asked.known()) else None  # without labels nothing can be said of the target
        if before:
            metrics["before"] = summary(before, seed=recipe.seed)
        looked = Explainer(desk, model, intake, bases(by_split.get("val", {}))).few(parts["test"], recipe.seed)
        first = judge.pooled(tables)[recipe.targets[0]]
        self._report(metrics, first, notes, history, judge.examples(intake, desk.reader), before, added, looked)
        card.write(folder, metrics)
        bundles.write_json(folder / bundles.METRICS, metrics)
        Checkpoints(folder / "checkpoint").clear()
        return metrics

    def _report(
        self,
        metrics: dict[str, Any],
        table: Answers,
        notes: dict[str, Any],
        history: list[dict[str, Any]],
        examples: Callable,
        before: Answers | None = None,
        parts: Sequence[Contributions] = (),
        looked: Sequence[Explained] = (),
    ) -> None:
        domains = self.recipe.data.domains
        content = ReportContent(
            title=f"{self.recipe.name}: {metrics['target']}",
            warnings=notes["warnings"],
            predictions=table,
            metrics=metrics,
            history=history,
            by_streams=metrics.get("streams", {}),
            parameters={**dict(notes["parameters"]), **{f"learning in phase {name}": count for name, count in notes["learning"].items()}},
            recipe=self.recipe.yaml(),
            environment=bundles.read_json(self.folder / bundles.ENVIRONMENT),
            counts=notes["counts"],
            skipped=[(path, reason) for path, reason in notes["skipped"]],
            loads=notes["loads"],
            heard=notes.get("heard", []),
            examples=examples,
            command=notes["command"],
            group_name=self.corpus.group_name,
            groups_unseen=notes["unseen"],
            seed=self.recipe.seed,
            multiply_adds=notes.get("multiply_adds"),
            sparsity=notes.get("sparsity", 0.0),
            before=before,
            source=metrics.get("source", {}),
            source_name=", ".join(domains.source) if domains else "",
            training={target: TrainingClips(**found) for target, found in notes.get("heads", {}).items()},
            contributions=list(parts),
            explained=list(looked),
        )
        write_report(self.folder / bundles.REPORT, content)

    def _read(self, path: Path) -> Answers:
        """A table of the first target."""
        return read_table(path, several=self.recipe.targets[0] in self.recipe.data.several)

    def _pooled(self, folders: list[Path], target: str) -> Answers:
        """One target's test predictions of all folds, written too."""
        name = bundles.predictions_name(target, self.recipe.targets[0])
        read = partial(read_table, several=target in self.recipe.data.several)
        pooled = concatenate([read(folder / name).where(split="test") for folder in folders])
        pooled.write(self.folder / name)
        return pooled

    def _pool(self, folds: int) -> dict[str, Any]:
        """Judge the folds' pooled test predictions; the folder holds everything but a single model."""
        folders = [self.folder / f"fold-{number}" for number in range(1, folds + 1)]
        tables = {target: self._pooled(folders, target) for target in self.recipe.targets}
        pooled = tables[self.recipe.targets[0]]
        notes = [bundles.read_json(folder / bundles.NOTES) for folder in folders]
        merged = {
            **notes[0],
            "warnings": list(dict.fromkeys(warning for each in notes for warning in each["warnings"])),
            "counts": {f"test of fold {number}": each["counts"]["test"] for number, each in enumerate(notes, 1)},
        }
        for name in (bundles.LABELS, bundles.ENVIRONMENT):
            bundles.write_text(self.folder / name, bundles.read_text(folders[0] / name))
        bundles.write_json(self.folder / bundles.NOTES, merged)
        metrics = judge.measure({target: {"test": table} for target, table in tables.items()}, {}, self.recipe) | {"folds": folds}
        self._report(metrics, pooled, merged, [], lambda clip: [])
        card.write(self.folder, metrics)
        bundles.write_json(self.folder / bundles.METRICS, metrics)
        return metrics


def accelerator_for(recipe: Trained, folder: Path) -> Accelerator:
    """Device, precision and trackers, as a recipe asks. UserError where they are not here."""
    for tracker in recipe.track:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(f"track: {tracker} is not installed: pip install crossfade[{tracker}]")
    if not torch.distributed.is_initialized():  # else a second run in this process keeps the first one's device and precision
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision=recipe.precision,
        cpu=recipe.device == "cpu",
        log_with=list(recipe.track) or None,
        project_dir=folder,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # a batch may lack a stream
    )
    if recipe.device == "cuda" and accelerator.device.type != "cuda":
        raise UserError("device: found 'cuda', but PyTorch sees no CUDA device here; say auto or cpu")
    if recipe.precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("precision: found 'fp16', which needs a GPU; nearest for a processor is 'bf16', or 'no'")
    return accelerator


def _unseen(split: Splits) -> bool | None:
    """Whether no group of the test was trained on; None where nobody said what belongs together, so that each clip stands for itself."""
    if all(clip.group == clip.id for clip in (*split.train, *split.test)):
        return None
    return not {clip.group for clip in split.train} & {clip.group for clip in split.test}


def flat(row: Mapping[str, Any]) -> dict[str, float]:
    """{"train": {"loss": 1}} -> {"train/loss": 1}, which is how trackers name things."""
    return {f"{split}/{name}": value for split in ("train", "val") for name, value in row[split].items()}
