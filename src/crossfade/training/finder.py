"""How high the rates may be: a few steps in which all of them rise together, and where the loss falls fastest (arXiv 1506.01186 §3.3)."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from crossfade.clip import UserError, seed_of
from crossfade.training import loop, rates
from crossfade.training.loop import Phase, Progress, Run
from crossfade.training.schedules import Schedule
from crossfade.training.step import backward, update

if TYPE_CHECKING:
    from crossfade.clip import Named

LOWEST, HIGHEST = 1e-7, 10.0  # what the highest of the rates runs through, a fixed ratio a step; fastai's range
STOP = 4.0  # times the lowest smoothed loss: here it has diverged; fastai's
INERTIA = 0.9  # of the running mean that says when to stop
HALF = 0.08  # of the steps: half of the window within which the curve is taken for a line


@dataclass(frozen=True)
class Curve:
    """One value a step taken: the factor of the recipe's own rates, the loss before that step, and the same smoothed.

    `suggestion` is the factor at which the loss falls fastest; `fell`, by which share it fell from its beginning to its lowest.
    """

    factors: list[float]
    losses: list[float]
    smooth: list[float]
    suggestion: float
    fell: float


def find_rate(run: Run, phase: Phase, steps: int = 100) -> Curve:
    """A range test of the phase from the model as it is, which is bit for bit the same afterwards, as are the random numbers.

    Raises UserError where nothing learns or no step can be taken.
    """
    if steps < 10:
        raise UserError(f"find-rate: found {steps} steps; a curve needs 10 or more")
    with untouched(run.model, run.accelerator.device):
        resolved = rates.resolve(run.model, phase.rates, where=f"phases.{phase.name}.rates")
        rates.freeze(run.model, resolved)
        groups = rates.groups(run.model, resolved)
        if not groups:
            raise UserError(f"phases.{phase.name}.rates: nothing learns in this phase, so there is no rate to find")
        highest = max(rate for rate in resolved.values() if rate is not None)
        rising = replace(phase, epochs=1, schedule=exponential(LOWEST / highest, HIGHEST / highest))
        losses = _range_test(run, phase, rising, phase.optimizer(groups), steps)
    return curve([rising.schedule(step / steps) for step in range(len(losses))], losses)


def exponential(low: float, high: float) -> Schedule:
    """From low to high, each step by the same ratio."""
    return lambda progress: low * (high / low) ** progress


def _range_test(run: Run, phase: Phase, rising: Phase, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    progress = Progress()
    loop.prune_start(run, phase, progress)
    rates.set_modes(run.model)
    run.begin(phase)
    loop.begin_teacher(run, phase)
    try:
        model: nn.Module = run.accelerator.prepare(run.model)
        return list(_until_it_diverges(_losses(run, rising, progress, model, optimizer, steps)))
    finally:
        loop.release(run)


def _losses(run: Run, phase: Phase, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[float]:
    """The mean loss of each step's batches; the step is taken when the next one is asked for."""
    total, parts = steps * phase.accumulate, []
    run.held = loop.prune.held(run.model, progress.pruned)
    for batch in itertools.islice(_endless(run, phase), total):
        seed = seed_of(run.seed, phase.name, "find-rate", progress.step)
        parts.append(backward(run, phase, progress, model, batch, total, seed)[1]["loss"].item())
        progress.step += 1
        if len(parts) == phase.accumulate:
            yield sum(parts) / len(parts)
            parts.clear()
            update(run, phase, progress, model, optimizer, total)


def _endless(run: Run, phase: Phase) -> Iterator[Named]:
    """Epoch after epoch of the phase's batches."""
    for epoch in itertools.count():
        yield from run.batches(replace(phase, steps=None), epoch, 0)


def _until_it_diverges(losses: Iterator[float]) -> Iterator[float]:
    """What comes before the loss is no number or its running mean STOP times the lowest so far."""
    mean, lowest = 0.0, math.inf
    settled = 1 / (1 - INERTIA)  # steps from which on the running mean is one
    for step, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            return
        yield loss
        mean = INERTIA * mean + (1 - INERTIA) * loss
        if step >= settled:
            unbiased = mean / (1 - INERTIA**step)
            lowest = min(lowest, unbiased)
            if unbiased > STOP * lowest:
                return


def curve(factors: list[float], losses: list[float]) -> Curve:
    """Smooth the losses by short lines and suggest the factor where such a line falls most steeply, before the lowest loss."""
    if len(losses) < 3:
        raise UserError(
            f"find-rate: the loss is no number after {len(losses)} steps at the lowest rate; is something wrong with the clips?"
        )
    half = max(1, round(HALF * len(losses)))
    smooth, slopes = _lines(np.asarray(losses), half)
    lowest = int(np.argmin(smooth))
    steepest = int(np.argmin(slopes[: lowest + 1]))
    fell = 1 - smooth[lowest] / smooth[0] if smooth[0] > 0 else 0.0
    return Curve(factors, losses, smooth.tolist(), factors[steepest], float(fell))


def _lines(losses: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares lines through the `half` neighbours to each side of every step: their values there, and their slopes a step."""
    steps = np.arange(len(losses))
    near = [slice(max(step - half, 0), step + half + 1) for step in steps]
    fits = np.array([np.polyfit(steps[part], losses[part], 1) for part in near])
    return fits[:, 0] * steps + fits[:, 1], fits[:, 0]


@contextlib.contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Afterwards the model's weights, buffers, gradients, modes and who learns are as they were, and torch's random numbers too."""
    before = {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    learners = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter in model.parameters():
        parameter.grad = None  # or what is put back later would be added to
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):  # by name: a buffer that moved is another object
                tensor.data.copy_(before[name])
            for parameter, learns, gradient in learners:
                parameter.requires_grad_(learns)
                parameter.grad = gradient
            for module, training in modes:
                module.training = training
