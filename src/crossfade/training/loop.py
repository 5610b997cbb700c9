"""Phases, and `fit`: every phase trains, scores validation each epoch, keeps its best state, and can be killed at any moment."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn, optim

from crossfade.clip import UserError, seed_of
from crossfade.training import rates
from crossfade.training.checkpoint import Checkpoints, moving_names, replace_file, restore, snapshot
from crossfade.training.processes import any_signal, of_first, share_buffers
from crossfade.training.schedules import Schedule
from crossfade.training.tally import Tally
from crossfade.training.terms import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

    from crossfade.clip import Named

HISTORY = "metrics.jsonl"
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


class Interrupted(Exception):
    """A signal asked the run to stop; a checkpoint is on disk."""

    def __init__(self, signal: int):
        self.signal = signal
        super().__init__(f"stopped by signal {signal}")


class Screen(Protocol):
    """What a person sees while it trains."""

    def phase(self, phase: Phase, model: nn.Module) -> None: ...
    def epoch(self, phase: Phase, epoch: int, steps: int, done: int) -> None: ...
    def step(self, loss: float, accuracy: float, steps: int) -> None: ...
    def scored(self, row: dict[str, Any]) -> None: ...
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


@dataclass
class Run:
    """The parts of one training run, handed over once by `fit`."""

    model: nn.Module
    accelerator: Accelerator
    batches: Callable[[Phase, int, int], Batches]  # (phase, epoch, first batch) -> what is left of the epoch's batches
    score: Callable[[nn.Module], dict[str, float]]
    select: Callable[[dict[str, float]], float]  # higher is better
    hits: Callable[[Named, Named], tuple[Tensor, Tensor]]  # (correct, known) for the running accuracy
    folder: Path
    seed: int
    screen: Screen
    stop: Callable[[], int | None]  # the signal that asked to stop, if one did
    track: Callable[[dict[str, Any], int], None]
    begin: Callable[[Phase], None] = lambda phase: None  # called once it is set who learns, before a phase's first batch
    saved_at: float = field(default_factory=time.monotonic)

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
            start = {"epoch": 0, "score": progress.best["score"], "state": {}} if progress.best else None
            progress.phase, progress.epoch, progress.stale, progress.best = index, 0, 0, start
        _run_phase(run, phases[index], progress, saved)
        saved = None
    return progress.rows


def _run_phase(run: Run, phase: Phase, progress: Progress, saved: dict[str, Any] | None) -> None:
    if saved:
        run.checkpoints.load_start(progress.phase, run.model)
    elif run.accelerator.is_main_process:
        run.checkpoints.begin_phase(progress.phase, run.model)
    resolved = rates.resolve(run.model, phase.rates, where=f"phases.{phase.name}.rates")
    rates.freeze(run.model, resolved)
    run.screen.phase(phase, run.model)
    groups = rates.groups(run.model, resolved)
    if groups and phase.epochs:
        _run_epochs(run, phase, progress, saved, phase.optimizer(groups))
    _keep_best(run, phase, progress)


def _run_epochs(run: Run, phase: Phase, progress: Progress, saved: dict[str, Any] | None, optimizer: optim.Optimizer) -> None:
    rates.set_modes(run.model)
    if saved:
        restore(run.model, saved["model"])
    run.begin(phase)
    model: nn.Module = run.accelerator.prepare(run.model)  # the optimizer's wrapper looks for packages on disk at every step
    if saved:
        optimizer.load_state_dict(saved["optimizer"])  # once the parameters are where they stay
    if saved and saved["scaler"] and run.accelerator.scaler:
        run.accelerator.scaler.load_state_dict(saved["scaler"])
    try:
        while progress.epoch < phase.epochs and not (phase.patience and progress.stale >= phase.patience):
            started = time.perf_counter()
            _train_epoch(run, phase, progress, model, optimizer)
            _finish_epoch(run, phase, progress, time.perf_counter() - started)
            signal = any_signal(run.accelerator, run.stop())
            if signal is not None or time.monotonic() - run.saved_at > SAVE_AFTER:
                _save(run, progress, optimizer)
            if signal is not None:
                raise Interrupted(signal)
        _save(run, progress, optimizer)
    finally:
        _release(run)


def _release(run: Run) -> None:
    """Undo `prepare`: else Accelerate takes the model for prepared in the next phase and leaves its precision out there."""
    for wrapped in ("forward", "_original_forward", "_is_accelerate_prepared"):
        vars(run.model).pop(wrapped, None)
    run.accelerator.free_memory()


def _train_epoch(run: Run, phase: Phase, progress: Progress, model: nn.Module, optimizer: optim.Optimizer) -> None:
    rates.set_modes(run.model)
    remaining = run.batches(phase, progress.epoch, progress.step)
    total = progress.step + len(remaining)
    run.screen.epoch(phase, progress.epoch, total, progress.step)
    rank, tally = run.accelerator.process_index, Tally(progress.sums)
    for batch in remaining:
        seed_step(seed_of(run.seed, phase.name, progress.epoch, progress.step, rank), run.accelerator.device)
        boundary = (progress.step + 1) % phase.accumulate == 0 or progress.step + 1 == total
        with nullcontext() if boundary else run.accelerator.no_sync(model):
            tally.add(*_backward(run, phase, progress, model, batch, total))
        progress.step += 1
        if boundary:
            _update(run, phase, progress, model, optimizer, total)
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
    run.screen.step(sums["loss"] / sums["clips"], sums["correct"] / max(sums["known"], 1.0), steps)


def seed_step(seed: int, device: torch.device) -> None:
    """What torch.manual_seed does, without writing down the call stack thrice for devices that nobody uses."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.manual_seed(seed)


def _backward(run: Run, phase: Phase, progress: Progress, model: nn.Module, batch: Named, total: int) -> tuple[int, Named, Tensor, Tensor]:
    """-> the number of clips, the losses, and which answers are right and which known."""
    batch = {name: tensor.to(run.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
    out = model(batch)
    loss, means = phase.objective(out, batch)
    first = progress.step - progress.step % phase.accumulate
    if loss.requires_grad:  # not so where a batch lacks the only stream that learns
        scaler, share = run.accelerator.scaler, loss / min(phase.accumulate, total - first)
        (scaler.scale(share) if scaler else share).backward()
    return len(batch["index"]), {"loss": loss, **{f"terms.{name}": mean for name, mean in means.items()}}, *run.hits(out, batch)


def _update(run: Run, phase: Phase, progress: Progress, model: nn.Module, optimizer: optim.Optimizer, total: int) -> None:
    steps = math.ceil(total / phase.accumulate)
    done = progress.epoch * steps + math.ceil(progress.step / phase.accumulate) - 1
    factor = phase.schedule(done / max(phase.epochs * steps, 1))
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    scaler = run.accelerator.scaler
    if phase.clip_norm is not None:
        if scaler:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), phase.clip_norm)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad()


def _finish_epoch(run: Run, phase: Phase, progress: Progress, seconds: float) -> None:
    sums, clips = progress.sums, max(progress.sums.get("clips", 0.0), 1.0)
    train = {name: value / clips for name, value in sums.items() if name == "loss" or name.startswith("terms.")}
    train["accuracy"] = sums.get("correct", 0.0) / max(sums.get("known", 0.0), 1.0)
    share_buffers(run.accelerator, run.model)
    val = {name: float(value) for name, value in of_first(run.accelerator, run.score(run.model)).items()}
    score = float(run.select(val))
    if math.isnan(score):
        raise UserError(f"select: the score on val is not a number after epoch {progress.epoch + 1} of phase {phase.name}; choose another")
    progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
    better = progress.best is None or score > progress.best["score"]
    progress.stale = 0 if better else progress.stale + 1
    if better:
        rates.set_modes(run.model)  # `score` left everything in eval mode, which would hide the buffers that move
        progress.best = {"epoch": progress.epoch, "score": score, "state": snapshot(run.model, moving_names(run.model))}
    row = {"phase": phase.name, "epoch": progress.epoch, "train": train, "val": val, "best": better, "seconds": round(seconds, 6)}
    progress.rows.append(row)
    run.screen.scored(row)
    run.track(row, len(progress.rows))


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
        }
    )
    _write_history(run, progress)


def _write_history(run: Run, progress: Progress) -> None:
    if run.accelerator.is_main_process:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in progress.rows)
        replace_file(run.folder / HISTORY, lambda temporary: temporary.write_text(text, encoding="utf-8"))
