"""What a phase is fed: batches in which everything that stands still comes from the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from crossfade import build, judge
from crossfade.activations import Activations, Cut, cuts
from crossfade.clip import TEACHER, Clip, UserError
from crossfade.data.intake import Intake
from crossfade.data.loader import Loader
from crossfade.data.sampling import Sampling
from crossfade.data.stored import Draws, Stored
from crossfade.training.frozen import Frozen, frozen
from crossfade.training.rates import resolve

if TYPE_CHECKING:
    from accelerate import Accelerator

    from crossfade.data.loader import Served
    from crossfade.judge import Desk
    from crossfade.models.model import Fused
    from crossfade.screen import Terminal
    from crossfade.signals import Stop
    from crossfade.training.loop import Phase


@dataclass
class Feed:
    """Batches for one run's phases, one after another; `begin` comes first in each."""

    desk: Desk
    model: Fused
    parts: dict[str, list[Clip]]
    intake: Intake
    accelerator: Accelerator
    screen: Terminal
    stop: Stop
    phases: Sequence[Phase] = ()  # all of them, in order: what a later one stores can be stored on the way
    _train: Any = field(default=None, repr=False)
    _val: Any = field(default=None, repr=False)
    _regretted: set[str] = field(default_factory=set, repr=False)  # cuts that could not be stored
    _before: Any = field(default=None, repr=False)  # what the model said of val as the phase began, where there are two domains
    _last: list[Cut] | None = field(default=None, repr=False)  # the cuts of the trained model

    def begin(self, phase: Phase) -> None:
        """Store what stands still in this phase, whose rates are set, and make its loaders."""
        found, sees = frozen(self.model), phase.sees
        random = self._changed(sees)
        draws = {name: Draws(phase.views, self.desk.recipe.seed) for name in found.stages if phase.views and name in random}
        if phase.views and not draws:
            self.screen.warn(f"phases.{phase.name}.views={phase.views} decides nothing: no stream that view {sees} changes begins frozen")
        train, val = self.parts["train"], self.parts["val"]
        self._train = self._val = None  # their workers end here
        activations = self._activations()
        chosen = self._cuts(whole=not random and phase.teacher is None)
        fixed = [cut for cut in chosen if not random & set(cut.streams) or set(cut.streams) <= set(draws)]
        self._say_what_is_not(phase, [cut for cut in chosen if cut not in fixed])
        below = self._below(phase)
        kept = {
            "train": [
                activations.stored(cut, train, *self._seen(cut, sees, draws), of="train ", below=below.get(cut.streams)) for cut in fixed
            ],
            "val": [activations.stored(cut, val, of="val ", below=below.get(cut.streams)) for cut in chosen],
        }
        share: dict[str, Any] = {"rank": self.accelerator.process_index, "world": self.accelerator.num_processes}
        share["workers"] = self.desk.workers(train)
        loader = self.desk.loader(train, self.intake, build.view(self.desk.recipe, sees))
        loader.samples.draws = draws
        taught = self._taught(phase, activations, chosen) if phase.teacher else []
        if phase.teacher:
            loader.samples.teacher = build.view(self.desk.recipe, phase.teacher.sees)
        self._train = replace(_with(loader, [*kept["train"], *taught]), order=self._order(phase, loader), **share)
        self._val = _with(self.desk.loader(val, self.intake), kept["val"])
        self._before = judge.answer(self.desk, self.model, self._val)[self.desk.recipe.targets[0]] if self.desk.domains else None
        self._align(phase)

    def _align(self, phase: Phase) -> None:
        """Let the teacher's answers keep the shares of classes that the model as it starts finds in the target domain, if that is asked."""
        spec = next((each.teacher for each in self.desk.recipe.phases if each.name == phase.name), None)
        if phase.teacher and spec and spec.prior == "start" and self._before is not None:
            phase.teacher.priors[self.desk.recipe.targets[0]] = torch.from_numpy(judge.target_shares(self.desk, self._before)).float()

    def _taught(self, phase: Phase, activations: Activations, chosen: Sequence[Cut]) -> list[Stored | None]:
        """What stands still of the clips as the teacher sees them, where it sees them clean."""
        changed = self._changed(phase.teacher.sees if phase.teacher else None)
        clean = [cut for cut in chosen if not changed & set(cut.streams)]
        found = [activations.stored(cut, self.parts["train"], of="train ") for cut in clean]
        return [replace(stored, suffix=TEACHER) if stored else None for stored in found]

    def _changed(self, view: str | None) -> set[str]:
        """The streams that a view changes at random."""
        return {name for name, specs in self.desk.recipe.data.views[view].items() if specs} if view else set()

    def _order(self, phase: Phase, loader: Loader) -> Callable[[torch.Generator], list[torch.Tensor]] | None:
        """Which rows each batch holds, where the phase says more than every clip once."""
        mix = None if phase.mix is None else (phase.mix.get("source", 0.0), phase.mix.get("target", 0.0))
        if mix is None and phase.balance == "none":
            return None
        labels = loader.labels[self._balanced(phase)]
        domains = loader.labels.get("domain", torch.zeros_like(labels))
        return lambda generator: Sampling(phase.balance, mix).batches(labels, domains, loader.batch, generator)

    def _balanced(self, phase: Phase) -> str:
        """The target whose classes are drawn evenly: the first with one class a clip."""
        single = [target for target in self.desk.recipe.targets if not self.desk.several(target)]
        if not single and phase.balance != "none":
            raise UserError(f"phases.{phase.name}.balance: clips are drawn by a target with one class a clip, and the model has none")
        return (single or self.desk.recipe.targets)[0]

    def batches(self, phase: Phase, epoch: int, start: int) -> Served:
        """What is left of an epoch's batches."""
        return self._train.shuffled(self.desk.recipe.seed, phase.name, epoch, start=start, limit=phase.steps)

    def score(self, model: Any) -> dict[str, float]:
        """Every metric of val."""
        return judge.validate(self.desk, model, self._val, self._before)

    def judging(self, clips: list[Clip]) -> Loader:
        """For the last word on a trained model: clean clips, streams apart, so that any of them can be hidden."""
        activations = Activations(
            self.desk, self.intake, self.screen, self.stop, workers=self.desk.workers(clips), regretted=self._regretted
        )
        if self._last is None:
            self.model.eval()
            self._last = self._cuts(whole=False)
        return _with(self.desk.loader(clips, self.intake), [activations.stored(cut, clips) for cut in self._last])

    def _activations(self) -> Activations:
        accelerator = self.accelerator
        return Activations(
            self.desk,
            self.intake,
            self.screen,
            self.stop,
            precision=self.desk.recipe.precision,
            autocast=lambda: accelerator.autocast(),
            workers=self.desk.workers(self.parts["train"]),
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            meet=accelerator.wait_for_everyone,
            regretted=self._regretted,
        )

    def _cuts(self, *, whole: bool) -> list[Cut]:
        if not self.desk.reader.store.keep:
            return []
        self.model.to(self.desk.device)
        alike = len({self.intake.streams[clip.id] for clip in self.intake.clips}) == 1  # else rows after the fusion differ in shape
        return cuts(self.desk, self.model, frozen(self.model), whole=whole and alike)

    def _below(self, phase: Phase) -> dict[tuple[str, ...], Cut]:
        """For encoders of which the next phase freezes less, in the same view: where that will be cut. One pass then serves both."""
        place = next((number for number, each in enumerate(self.phases) if each is phase), len(self.phases))
        after = next(iter(self.phases[place + 1 :]), None)
        if after is None or (after.sees, after.views) != (phase.sees, phase.views) or not self.desk.reader.store.keep:
            return {}
        rate_of = resolve(self.model, after.rates)
        learning = {parameter for name, parameter in self.model.named_parameters() if rate_of[name] is not None}
        now, then = frozen(self.model).stages, frozen(self.model, learning.__contains__).stages
        less = {name: count for name, count in then.items() if count < now.get(name, 0)}
        return {cut.streams: cut for cut in cuts(self.desk, self.model, Frozen(less, fusion=False), whole=False)}

    @staticmethod
    def _seen(cut: Cut, sees: str | None, draws: dict[str, Draws]) -> tuple[str | None, Draws | None]:
        drawn = draws.get(cut.streams[0])
        return (sees, drawn) if drawn else (None, None)

    def _say_what_is_not(self, phase: Phase, left: Sequence[Cut]) -> None:
        for cut in left:
            self.screen.say(
                f"not stored for training: {cut.what}, because view {phase.sees} is drawn anew each time; "
                f"phases.{phase.name}.views=4 would draw four of each clip and store them"
            )


def _with(loader: Loader, kept: Sequence[Stored | None]) -> Loader:
    """The loader with stored states in place of their streams."""
    stored = [each for each in kept if each]
    loader.samples.without = frozenset(f"{name}{each.suffix}" for each in stored for name in each.streams)
    return replace(loader, stored=stored)
