"""Phases, and `fit`: every phase trains, scores validation each epoch, keeps its best state, and can be killed at any moment."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn, optim

from crossfade.clip import UserError, seed_of
from crossfade.training import prune, rates
from crossfade.training.checkpoint import Checkpoints, moving_names, replace_file, restore, snapshot
from crossfade.training.processes import any_signal, of_first, share_buffers, share_parameters
from crossfade.training.prune import Held, Prune
from crossfade.training.schedules import Schedule
from crossfade.training.step import backward, update
from crossfade.training.tally import Tally
from crossfade.training.teacher import Shadow, Teacher
from crossfade.training.terms import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

    from crossfade.clip import Named

HISTORY = "metrics.jsonl"
LAST = "last"  # a phase that selects by it ends as its last epoch does
SAVE_EVERY = 600.0  # seconds of an epoch that a kill can cost at most
SAVE_AFTER = 2.0  # seconds: epochs shorter than this share a checkpoint, which would cost more than they do


@dataclass(frozen=True)
class Phase:
    """One stretch of training: who learns (`rates`), from what (`objective`, `sees` a view), how long, and when to stop."""

    name: str
    epochs: int
    rates: rates.Rates
    objective: Objective
    optimizer: Callable[[list], optim.Optimizer]
    schedule: Schedule
    sees: str | None = None  # a view's name; None = the clean clips
    views: int | None = None  # how often that view is drawn and stored of what comes before a frozen part; None = drawn anew each time
    patience: int = 0  # epochs without a better score before the phase ends; 0 = never
    clip_norm: float | None = None
    accumulate: int = 1  # batches an optimiser step
    steps: int | None = None  # at most so many batches an epoch
    prune: Prune | None = None  # which share of the weights that learn becomes 0 and stays so
    teacher: Teacher | None = None  # a copy of the model that follows it, for the terms that look at one
    keep: Literal["student", "teacher"] = "student"  # which of the two is scored, and becomes the model
    select: Callable[[dict[str, float]], float] | None = None  # what val is judged by in this phase; None = as the run says
    balance: str = "none"  # how often each class is drawn; read by `batches`
    mix: Mapping[str, float] | None = None  # how many clips of each domain a batch holds; read by `batches`

    def __post_init__(self) -> None:
        if self.keep == "teacher" and (self.teacher is None or self.prune):
            raise UserError(f"phases.{self.name}.keep: found 'teacher', which needs a phase with a teacher and without prune")


class Interrupted(Exception):
    """A signal asked the run to stop; a checkpoint is on disk."""

    def __init__(self, signal: int):
        self.signal = signal
        super().__init__(f"stopped by signal {signal}")


class Screen(Protocol):
    """What a person sees while it trains."""

    def phase(self, phase: Phase, model: nn.Module) -> None: ...
    def epoch(self, phase: Phase, epoch: int, steps: int, done: int) -> None: ...
    def step(self, loss: float, accuracy: float | None, steps: int) -> None: ...
    def scored(self, row: dict[str, Any]) -> None: ...
    def warn(self, text: str) -> None: ...
    def kept(self, phase: Phase, best: dict[str, Any]) -> None: ...


class Batches(Protocol):
    """Named tensors, batch after batch, and how many batches there are."""

    def __iter__(self) -> Iterator[Named]: ...
    def __len__(self) -> int: ...


@dataclass
class Progress:
    """Everything that moves, besides the model and its optimiser; saved whole in every checkpoint."""

    phase: int = 0
    epoch: int = 0  # finished epochs of this phase
    step: int = 0  # finished batches of the epoch under way
    sums: dict[str, float] = field(default_factory=dict)  # of the epoch under way
    best: dict[str, Any] | None = None  # {"epoch", "score", "state"}; epoch 0 = as the phase began
    stale: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    pruned: Named = field(default_factory=dict)  # parameter -> where (bool) it stays 0, from the phase that pruned it on


@dataclass
class Run:
    """The parts of one training run, handed over once by `fit`."""

    model: nn.Module
    accelerator: Accelerator
    batches: Callable[[Phase, int, int], Batches]  # (phase, epoch, first batch) -> what is left of the epoch's batches
    score: Callable[[nn.Module], dict[str, float]]
    select: Callable[[dict[str, float]], float]  # higher is better
    hits: Callable[[Named, Named], tuple[Tensor, Tensor]] | None  # (correct, known), where answers are right or wrong
    folder: Path
    seed: int
    screen: Screen
    stop: Callable[[], int | None]  # the signal that asked to stop, if one did
    track: Callable[[dict[str, Any], int], None]
    begin: Callable[[Phase], None] = lambda phase: None  # called with the model as a phase begins, once it is set who learns
    saved_at: float = field(default_factory=time.monotonic)
    held: Held = ()  # of the phase under way
    shadow: Shadow | None = None  # its teacher
    parts: int = 1  # in which each batch goes through the model, where it is too large for the memory at once

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoint")


def fit(run: Run, phases: list[Phase]) -> list[dict[str, Any]]:
    """Train through the phases from wherever the folder's checkpoint stands; the model ends as the last phase's best state.

    Returns the rows of metrics.jsonl. Raises Interrupted after saving a checkpoint when a signal arrived.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    saved = run.checkpoints.load()
    progress = Progress(**saved["progress"]) if saved else Progress()
    _write_history(run, progress)
    for index in range(progress.phase, len(phases)):
        if index > progress.phase:  # an unfreezing that helps nobody is not kept: the phase's start is a candidate
            same = not (phases[index].prune or phases[index].select or phases[index - 1].select)  # model and measure of the last best
            start = {"epoch": 0, "score": progress.best["score"], "state": {}} if progress.best and same else None
            progress.phase, progress.epoch, progress.stale, progress.best = index, 0, 0, start
        _run_phase(run, phases[index], progress, saved)
        saved = None
    return progress.rows


def _run_phase(run: Run, phase: Phase, progress: Progress, saved: dict[str, Any] | None) -> None:
    resolved = rates.resolve(run.model, phase.rates, where=f"phases.{phase.name}.rates")
    rates.freeze(run.model, resolved)
    if saved:
        run.checkpoints.load_start(progress.phase, run.model)
    else:
        prune_start(run, phase, progress)
        if run.accelerator.is_main_process:
            run.checkpoints.begin_phase(progress.phase, run.model)
    run.screen.phase(phase, run.model)
    groups = rates.groups(run.model, resolved)
    if groups and phase.epochs:
        _run_epochs(run, phase, progress, saved, phase.optimizer(groups))
    _keep_best(run, phase, progress)


def prune_start(run: Run, phase: Phase, progress: Progress) -> None:
    """What the phase prunes at once, before it begins."""
    if phase.prune and not phase.prune.over:
        run.model.to(run.accelerator.device)
        share_parameters(run.accelerator, run.model)  # or each process would choose other weights
        prune.prune(run.model, phase.prune.to, progress.pruned, where=f"phases.{phase.name}.prune")


def _run_epochs(run: Run, phase: Phase, progress: Progress, saved: dict[str, Any] | None, optimizer: optim.Optimizer) -> None:
    rates.set_modes(run.model)
    run.begin(phase)  # which sees the model as the phase began, whenever it is called
    if saved:
        restore(run.model, saved["model"])
    begin_teacher(run, phase)
    model: nn.Module = run.accelerator.prepare(run.model)  # the optimizer's wrapper looks for packages on disk at every step
    if saved:
        optimizer.load_state_dict(saved["optimizer"])  # once the parameters are where they stay
    if saved and saved["scaler"] and run.accelerator.scaler:
        run.accelerator.scaler.load_state_dict(saved["scaler"])
    if saved and run.shadow:
        run.shadow.load(saved["teacher"], run.accelerator.device)
    try:
        run.held = prune.held(run.model, progress.pruned)
        if not saved and progress.best is None and _start_counts(phase, progress):
            progress.best = {"epoch": 0, "score": _score(run, phase, 0)[1], "state": {}}
        while progress.epoch < phase.epochs and not (phase.patience and progress.stale >= phase.patience):
            started = time.perf_counter()
            _prune_more(run, phase, progress)
            _train_epoch(run, phase, progress, model, optimizer)
            _finish_epoch(run, phase, progress, time.perf_counter() - started)
            signal = any_signal(run.accelerator, run.stop())
            if signal is not None or time.monotonic() - run.saved_at > SAVE_AFTER:
                _save(run, progress, optimizer)
            if signal is not None:
                raise Interrupted(signal)
        _save(run, progress, optimizer)
    finally:
        release(run)


def _start_counts(phase: Phase, progress: Progress) -> bool:
    """Whether the phase's start may be what is kept of it: not where nothing has learnt yet, nor what is not pruned in full yet."""
    return bool(progress.phase or phase.select) and not (phase.prune and phase.prune.over)


def begin_teacher(run: Run, phase: Phase) -> None:
    """Copy the model as it is, before `prepare` wraps it; in every process the same."""
    if phase.teacher:
        run.model.to(run.accelerator.device)
        share_parameters(run.accelerator, run.model)
        share_buffers(run.accelerator, run.model)
        rates.set_modes(run.model)  # `begin` may leave it in eval mode, in which nothing seems to move
        run.shadow = Shadow(phase.teacher, run.model, phase.objective.taught)
        run.accelerator.prepare_model(run.shadow.model, evaluation_mode=True)  # the student's precision


def _prune_more(run: Run, phase: Phase, progress: Progress) -> None:
    """What the phase prunes as this epoch begins. A checkpoint inside the epoch has it already, one before the epoch has not."""
    if phase.prune and phase.prune.grows(progress.epoch) and not progress.step:
        prune.prune(run.model, phase.prune.share(progress.epoch), progress.pruned, where=f"phases.{phase.name}.prune")
        run.held = prune.held(run.model, progress.pruned)


def release(run: Run) -> None:
    """Undo `prepare`: else Accelerate takes the model for prepared in the next phase and leaves its precision out there."""
    for wrapped in ("forward", "_original_forward", "_is_accelerate_prepared"):
        vars(run.model).pop(wrapped, None)
    run.shadow = None
    run.accelerator.free_memory()


def _train_epoch(run: Run, phase: Phase, progress: Progress, model: nn.Module, optimizer: optim.Optimizer) -> None:
    rates.set_modes(run.model)
    remaining = run.batches(phase, progress.epoch, progress.step)
    total = progress.step + len(remaining)
    run.screen.epoch(phase, progress.epoch, total, progress.step)
    rank, tally = run.accelerator.process_index, Tally(progress.sums)
    for batch in remaining:
        seed = seed_of(run.seed, phase.name, progress.epoch, progress.step, rank)
        boundary = (progress.step + 1) % phase.accumulate == 0 or progress.step + 1 == total
        with nullcontext() if boundary else run.accelerator.no_sync(model):
            tally.add(*backward(run, phase, progress, model, batch, total, seed))
        progress.step += 1
        if boundary:
            update(run, phase, progress, model, optimizer, total)
        signal = any_signal(run.accelerator, run.stop()) if boundary else None
        saves = boundary and (signal is not None or time.monotonic() - run.saved_at > SAVE_EVERY)
        if saves or tally.due or progress.step == total:
            _look(run, phase, progress, tally)
        if saves:
            _save(run, progress, optimizer)
        if signal is not None:
            raise Interrupted(signal)


def _look(run: Run, phase: Phase, progress: Progress, tally: Tally) -> None:
    """Show how it goes; UserError where the loss is no number any more, before that can be saved."""
    steps, sums = tally.look(), progress.sums
    if not math.isfinite(sums["loss"]):
        raise UserError(f"phases.{phase.name}: the loss is {sums['loss']} in epoch {progress.epoch + 1}; lower its rates or set clip_norm")
    run.screen.step(sums["loss"] / sums["clips"], sums["correct"] / max(sums["known"], 1.0) if run.hits else None, steps)


def _finish_epoch(run: Run, phase: Phase, progress: Progress, seconds: float) -> None:
    sums, clips = progress.sums, max(progress.sums.get("clips", 0.0), 1.0)
    train = {name: value / clips for name, value in sums.items() if name == "loss" or name.startswith("terms.")}
    train |= {"accuracy": sums.get("correct", 0.0) / max(sums.get("known", 0.0), 1.0)} if run.hits else {}
    share_buffers(run.accelerator, run.model)
    _teacher_after_epoch(run, progress)
    val, score = _score(run, phase, progress.epoch + 1)
    progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
    whole = phase.prune is None or not phase.prune.grows(progress.epoch)  # what is not pruned in full yet is no candidate
    better = whole and (progress.best is None or score > progress.best["score"])
    progress.stale = 0 if better or not whole else progress.stale + 1
    if better:
        rates.set_modes(run.model)  # `score` left everything in eval mode, which would hide the buffers that move
        progress.best = {"epoch": progress.epoch, "score": score, "state": snapshot(_kept(run, phase), moving_names(run.model))}
    row = {"phase": phase.name, "epoch": progress.epoch, "train": train, "val": val, "best": better, "seconds": round(seconds, 6)}
    progress.rows.append(row)
    run.screen.scored(row)
    run.track(row, len(progress.rows))


def _teacher_after_epoch(run: Run, progress: Progress) -> None:
    if run.shadow:
        run.shadow.after("epoch", run.model, progress.epoch)
        share_buffers(run.accelerator, run.shadow.model)
        run.shadow.recall(of_first(run.accelerator, run.shadow.memory()), run.accelerator.device)


def _kept(run: Run, phase: Phase) -> nn.Module:
    return run.shadow.model if run.shadow and phase.keep == "teacher" else run.model


def _score(run: Run, phase: Phase, epoch: int) -> tuple[dict[str, float], float]:
    """Every metric of val after so many epochs, and the one that decides; LAST is always better later."""
    val = {name: float(value) for name, value in of_first(run.accelerator, run.score(_kept(run, phase))).items()}
    score = float((phase.select or run.select)({**val, LAST: float(epoch)}))
    if math.isnan(score):
        raise UserError(f"select: the score on val is not a number after epoch {epoch} of phase {phase.name}; choose another")
    return val, score


def _keep_best(run: Run, phase: Phase, progress: Progress) -> None:
    if not progress.best:
        return
    run.accelerator.wait_for_everyone()
    if progress.best["epoch"]:
        restore(run.model, progress.best["state"])
    else:
        run.checkpoints.load_start(progress.phase, run.model)
    run.screen.kept(phase, progress.best)


def _save(run: Run, progress: Progress, optimizer: optim.Optimizer) -> None:
    """The checkpoint, and then the rows that it knows of."""
    run.saved_at = time.monotonic()
    if not run.accelerator.is_main_process:
        return
    rates.set_modes(run.model)
    scaler = run.accelerator.scaler
    run.checkpoints.save(
        {
            "phase": progress.phase,
            "progress": vars(progress),
            "model": snapshot(run.model, moving_names(run.model)),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "teacher": run.shadow.state(moving_names(run.model)) if run.shadow else None,
        }
    )
    _write_history(run, progress)


def _write_history(run: Run, progress: Progress) -> None:
    if run.accelerator.is_main_process:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in progress.rows)
        replace_file(run.folder / HISTORY, lambda temporary: temporary.write_text(text, encoding="utf-8"))
