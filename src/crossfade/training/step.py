"""One step of an optimizer: batches forward and backward, in parts where memory is short, then the update."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim

from crossfade.clip import UserError
from crossfade.training import prune
from crossfade.training.teacher import students_view

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.training.loop import Phase, Progress, Run

Step = tuple[int, "Named", Tensor, Tensor]  # the number of clips, the losses, which answers are right and which known


def seed_step(seed: int, device: torch.device) -> None:
    """What torch.manual_seed does, without writing down the call stack thrice for devices that nobody uses."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.manual_seed(seed)


def backward(run: Run, phase: Phase, progress: Progress, model: nn.Module, batch: Named, total: int, seed: int) -> Step:
    """Forward and backward of one batch, whose random numbers come from `seed`.

    Where the memory does not hold it, from then on in halves, quarters …, with the same gradients but for BatchNorm, which then sees
    smaller batches. UserError where that cannot help.
    """
    while True:
        seed_step(seed, run.accelerator.device)
        try:
            return _in_parts(run, phase, progress, model, batch, total)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            _smaller(run, phase, progress, len(batch["index"]), error)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the processor's allocator, said that it has no more."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def clear_memory() -> None:
    """Give back what a failed attempt still holds."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def _smaller(run: Run, phase: Phase, progress: Progress, clips: int, error: RuntimeError) -> None:
    """Halve what goes through the model at once, and say so; gradients of the batch that failed are dropped."""
    size = -(-clips // run.parts)
    begun = progress.step % phase.accumulate  # gradients of earlier batches of this step, which cannot be told from the failed one's
    if size <= 1 or begun or run.accelerator.num_processes > 1:
        raise UserError(
            f"phases.{phase.name}: out of memory with {size} clips at once; set data.batch={max(size // 2, 1)} "
            f"and accumulate={2 * phase.accumulate}, or freeze more"
        ) from error
    run.parts *= 2
    for parameter in run.model.parameters():
        parameter.grad = None
    clear_memory()
    run.screen.warn(
        f"out of memory with {size} clips at once: from now on {-(-clips // run.parts)} at once, {run.parts} times a step; "
        f"the batch stays {clips}, but BatchNorm, where it learns, sees the parts"
    )


def _in_parts(run: Run, phase: Phase, progress: Progress, model: nn.Module, batch: Named, total: int) -> Step:
    clips = len(batch["index"])
    rows = torch.arange(clips).chunk(min(run.parts, clips))
    if len(rows) == 1:
        return _through(run, phase, progress, model, batch, total)
    cut = [{name: tensor[part] for name, tensor in batch.items()} for part in rows]
    shares = [phase.objective.shares(part, batch) for part in cut]
    done = [_through(run, phase, progress, model, part, total, share) for part, share in zip(cut, shares, strict=True)]
    losses = [step[1] for step in done]
    means = {
        f"terms.{name}": torch.stack([share[name] * each[f"terms.{name}"] for share, each in zip(shares, losses, strict=True)]).sum()
        for name in phase.objective.terms
    }
    loss = torch.stack([each["loss"] for each in losses]).sum()
    return clips, {"loss": loss, **means}, torch.cat([right for *_, right, _ in done]), torch.cat([known for *_, known in done])


def _through(
    run: Run, phase: Phase, progress: Progress, model: nn.Module, batch: Named, total: int, shares: dict[str, float] | None = None
) -> Step:
    """A batch, or a part of one, whose terms count for their `shares` of it."""
    batch = {name: tensor.to(run.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
    answers = run.shadow.answers(batch) if run.shadow else None
    batch = students_view(batch)
    out = model(batch)
    loss, means = phase.objective(out, batch, answers, along(phase, progress.epoch, progress.step, total), shares)
    first = progress.step - progress.step % phase.accumulate
    if loss.requires_grad:  # not so where a batch lacks the only stream that learns
        scaler, part = run.accelerator.scaler, loss / min(phase.accumulate, total - first)
        (scaler.scale(part) if scaler else part).backward()
    losses = {"loss": loss.detach(), **{f"terms.{name}": mean.detach() for name, mean in means.items()}}
    nothing = loss.new_zeros(0, dtype=torch.bool)
    return len(batch["index"]), losses, *(run.hits(out, batch) if run.hits else (nothing, nothing))


def along(phase: Phase, epoch: int, step: int, total: int) -> float:
    """How far through the phase the optimiser's step is that this batch, counted from 0, goes into."""
    steps = math.ceil(total / phase.accumulate)
    return (epoch * steps + step // phase.accumulate) / max(phase.epochs * steps, 1)


def update(run: Run, phase: Phase, progress: Progress, model: nn.Module, optimizer: optim.Optimizer, total: int) -> None:
    """The optimizer's step of the gradients that have gathered, at the rate of this moment."""
    factor = phase.schedule(along(phase, progress.epoch, progress.step - 1, total))
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    scaler = run.accelerator.scaler
    prune.still(run.held)
    if phase.clip_norm is not None:
        if scaler:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), phase.clip_norm)
    if scaler:
        scaler.step(optimizer)
    else:
        optimizer.step()
    stepped = _settled(run, scaler)
    prune.hold(run.held)
    optimizer.zero_grad()
    if run.shadow and stepped:
        run.shadow.after("step", run.model, progress.epoch)


def _settled(run: Run, scaler: Any) -> bool:
    """Let the scaler look at what its step gave; False where gradients overflowed, so that it left the step out."""
    if scaler is None:
        return True
    before = scaler.get_scale() if run.shadow else 0.0  # asking waits for the device
    scaler.update()
    return not run.shadow or scaler.get_scale() >= before
