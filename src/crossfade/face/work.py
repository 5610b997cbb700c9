"""One training run of a talking face: divide, fit, judge the best state, write the bundle. Every step can be repeated after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crossfade.clip import seed_of
from crossfade.data.face.batches import Epoch, Faces, Part, Sides
from crossfade.deploy import bundle as bundles
from crossfade.deploy import card
from crossfade.evaluation.face import MEASURES
from crossfade.evaluation.face.scores import concatenate
from crossfade.face import build, page
from crossfade.face.judge import Ways, asked, curve, judge, spread, validate
from crossfade.face.published import extras
from crossfade.face.recipe import FaceRecipe
from crossfade.models.cost import multiply_adds
from crossfade.models.model import count
from crossfade.training.checkpoint import Checkpoints, save_weights
from crossfade.training.loop import HISTORY, Run, fit
from crossfade.training.rates import resolve
from crossfade.work import accelerator_for, flat

if TYPE_CHECKING:
    from accelerate import Accelerator

    from crossfade.data.face.prepared import Prepared
    from crossfade.face.published import Extra
    from crossfade.models.face_unet import FaceUnet
    from crossfade.screen import Terminal
    from crossfade.signals import Stop
    from crossfade.training.loop import Phase


@dataclass
class FaceWork:
    """A run under way: the recipe, where it writes, who watches and who may stop it."""

    recipe: FaceRecipe
    folder: Path
    screen: Terminal
    stop: Stop
    command: str = ""  # what a person typed, for the report
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.jsonl so far
    extras: list[Extra] = field(default_factory=list)  # scores by published networks

    def train(self) -> dict[str, Any]:
        """Returns the content of metrics.json, in the first process alone."""
        recipe = self.recipe
        prepared = build.prepared_for(recipe)
        sides = build.sides_of_run(self.folder, recipe, prepared)
        accelerator = accelerator_for(recipe, self.folder)
        self.screen.judged_by(recipe.select, MEASURES[recipe.select].label)
        model, phases = build.network(recipe), build.phases(recipe)
        for phase in phases:  # a mistyped pattern must not surface hours later
            resolve(model, phase.rates, where=f"phases.{phase.name}.rates")
        self.extras = extras(recipe)  # a wrong file of theirs too must be known before training
        notes = self._notes(model, prepared, sides)
        if recipe.track:
            accelerator.init_trackers("crossfade", config={"recipe": recipe.name, "seed": recipe.seed})
        ways = build.ways(recipe, prepared.crop)
        history = fit(self._run(model, ways.faces, sides, accelerator, notes), phases)
        for tracker in accelerator.trackers:
            tracker.finish()
        return self._finish(model, ways, sides, accelerator, notes, history) if accelerator.is_main_process else {}

    def _notes(self, model: FaceUnet, prepared: Prepared, sides: Sides) -> dict[str, Any]:
        """What a reader of the numbers must know, on disk before training starts; weights are loaded here, once."""
        path, recipe = self.folder / bundles.NOTES, self.recipe
        before = bundles.read_json(path) if path.is_file() else {}
        if before and Checkpoints(self.folder / "checkpoint").exist():  # then every weight comes from the checkpoint
            return before
        loads = [build.warm_start(model, recipe.model.init)] if recipe.model.init else []
        for line in loads:
            self.screen.say(line)
        notes = {
            "warnings": warnings_of(recipe, sides),
            "loads": loads,
            "counts": sides.counts(),
            "unseen": sides.whole,
            "parameters": [[name, count(part)] for name, part in model.named_children() if count(part)],
            "multiply_adds": multiply_adds(model, build.example(model)),
            "command": before.get("command", self.command),
        }
        for warning in notes["warnings"]:
            self.screen.warn(warning)
        if self.screen.first:
            bundles.write_text(self.folder / bundles.RECIPE, recipe.yaml())
            bundles.write_json(path, notes)
            build.write_sides(self.folder, sides)
        return notes

    def _run(self, model: FaceUnet, faces: Faces, sides: Sides, accelerator: Accelerator, notes: Mapping[str, Any]) -> Run:
        recipe, val = self.recipe, spread(sides.val, self.recipe.data.val_clips)
        before = self.folder / HISTORY
        self.rows = [json.loads(line) for line in bundles.read_text(before).splitlines()] if before.is_file() else []

        def batches(phase: Phase, epoch: int, start: int) -> Epoch:
            seed = seed_of(recipe.seed, "faces", phase.name, epoch)
            share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
            return Epoch(faces, sides.train, recipe.data.batch, seed, start, phase.steps, **share)

        def score(model: torch.nn.Module) -> dict[str, float]:
            return validate(asked(model, accelerator.device, lambda: accelerator.autocast()), faces, val, recipe.seed)

        def track(row: dict[str, Any], step: int) -> None:
            accelerator.log(flat(row), step=step)
            self.rows = [each for each in self.rows if (each["phase"], each["epoch"]) != (row["phase"], row["epoch"])] + [row]
            if self.screen.first:  # a person may look while it trains
                shown = page.samples(asked(model, accelerator.device, lambda: accelerator.autocast()), faces, val)
                page.write(self.folder, recipe, notes, self.rows, shown)

        return Run(
            model=model,
            accelerator=accelerator,
            batches=batches,
            score=score,
            select=build.Selector(recipe.select),
            hits=None,
            folder=self.folder,
            seed=recipe.seed,
            screen=self.screen,
            stop=self.stop,
            track=track,
        )

    def _finish(
        self,
        model: FaceUnet,
        ways: Ways,
        sides: Sides,
        accelerator: Accelerator,
        notes: Mapping[str, Any],
        history: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """Judge the best state and write the bundle; metrics.json comes last, for it says that the run is finished."""
        folder, recipe = self.folder, self.recipe
        save_weights(folder / bundles.WEIGHTS, model.state_dict())
        bundles.write_json(folder / bundles.LABELS, {})
        bundles.write_json(folder / bundles.ENVIRONMENT, bundles.environment(str(accelerator.device)))
        ask = asked(model.to(accelerator.device, memory_format=torch.channels_last), accelerator.device)  # type: ignore[call-overload]
        judged = {}
        for split in ("val", "test"):
            parts: list[Part] = getattr(sides, split)
            with self.screen.counting(f"judging {split}", len(parts)) as step:
                judged[split] = judge(ask, ways, parts, split, step, self.extras)
        concatenate([found.table for found in judged.values()]).write(folder / bundles.PREDICTIONS)
        metrics = {"task": recipe.task, **{split: found.metrics(recipe.seed) for split, found in judged.items()}}
        metrics |= {"by_shift": asdict(curve(ask, ways.faces, sides.test)), "frames_trained": sides.counts()["train"]["frames"]}
        page.write(folder, recipe, notes, history, page.samples(ask, ways.faces, sides.test), metrics=metrics)
        card.write(folder, metrics)
        bundles.write_json(folder / bundles.METRICS, metrics)
        Checkpoints(folder / "checkpoint").clear()
        return metrics


def warnings_of(recipe: FaceRecipe, sides: Sides) -> list[str]:
    """What bounds any claim."""
    found = []
    if not sides.whole:
        found.append("few clips: val and test are the last stretches of the same clips, so the numbers are of the same sitting")
    if not recipe.data.sound:
        found.append("data.sound is false: the network is given silence, to say what the picture alone gives")
    return found
