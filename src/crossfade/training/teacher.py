"""A teacher: a copy of the model as a phase begins, which follows the student slowly and says what it thinks of clips without labels.

Always in eval mode, without gradients. It follows in parameters and buffers; what stands still in the student is the same memory in both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from crossfade.clip import TEACHER
from crossfade.training.checkpoint import restore, snapshot
from crossfade.training.terms import DOMAINS

if TYPE_CHECKING:
    from crossfade.clip import Named

FUSED = "heads"  # what enters the heads is made of all streams as the student sees them
RARE = 1e-6  # no class is taken for rarer than that, or alignment would divide by nought


@dataclass(frozen=True)
class Teacher:
    """How a phase's teacher follows, what it sees, and what is done to its answers against a collapse onto one class."""

    momentum: float = 0.999  # m of θ_t ← m θ_t + (1 - m) θ_s
    sees: str | None = None  # a view's name; None = the clean clips
    warmup: int = 0  # epochs in which it stands still
    every: Literal["step", "epoch"] = "step"
    rising: bool = False  # momentum min(1 - 1 / (n + 1), m) in update n = 1, 2 …: it follows at once while it is young (arXiv 1703.01780)
    center: float | None = (
        None  # decay of the mean of its logits, which is taken off them (arXiv 2104.14294 eq. 4; 0.9 in arXiv 2106.07807)
    )
    align: float | None = None  # decay of the mean of its answers, for distribution alignment (arXiv 1911.09785 §3.1)
    priors: dict[str, Tensor] = field(default_factory=dict)  # target -> (C,) shares to align to; uniform where absent

    def momentum_of(self, update: int) -> float:
        """m of update 1, 2 …"""
        return min(1 - 1 / (update + 1), self.momentum) if self.rising else self.momentum


class Shadow:
    """The copy itself. `outputs`: which of its outputs are centred and aligned, and the target of each."""

    def __init__(self, teacher: Teacher, student: nn.Module, outputs: Mapping[str, str]):
        self.teacher, self.outputs = teacher, outputs
        self.model = copy.deepcopy(student, {id(tensor): tensor for tensor in still(student)}).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.updates = 0
        self.centers: Named = {}  # output -> (C,), a running mean of logits that begins at 0
        self.totals: Named = {}  # output -> (C,), a running sum of probabilities; divided by its sum it is their mean

    @torch.no_grad()
    def answers(self, batch: Named) -> Named:
        """The outputs of its own view of the batch, (B, C) logits, centred and aligned where that is asked for."""
        out = self.model(teachers_view(batch))
        rows = unlabelled(batch)
        for name, target in self.outputs.items():
            if name in out:
                out[name] = self._aligned(name, target, self._centred(name, out[name].float(), rows), rows)
        return out

    def _centred(self, name: str, logits: Tensor, rows: Tensor) -> Tensor:
        decay = self.teacher.center
        if decay is None:
            return logits
        before = self.centers.get(name, torch.zeros_like(logits[0]))
        if rows.any():
            self.centers[name] = decay * before + (1 - decay) * logits[rows].mean(0)
        return logits - before

    def _aligned(self, name: str, target: str, logits: Tensor, rows: Tensor) -> Tensor:
        """ln of p · prior / mean p, normalised: arXiv 1911.09785 §3.1 with a running mean in place of the last 128 batches."""
        decay = self.teacher.align
        if decay is None:
            return logits
        logs = logits.log_softmax(1)
        total = self.totals.get(name, torch.zeros_like(logs[0]))
        if rows.any():
            total = self.totals[name] = decay * total + (1 - decay) * logs[rows].exp().mean(0)
        if not total.any():
            return logits
        shift = self._prior(target, logs).clamp_min(RARE).log() - (total / total.sum()).clamp_min(RARE).log()
        return (logs + shift).log_softmax(1)

    def _prior(self, target: str, like: Tensor) -> Tensor:
        found = self.teacher.priors.get(target)
        return torch.full_like(like[0], 1 / like.shape[1]) if found is None else (found / found.sum()).to(like)

    @torch.no_grad()
    def after(self, what: Literal["step", "epoch"], student: nn.Module, epoch: int) -> None:
        """Follow the student after a step or an epoch, if that is when it follows; `epoch` counts from 0."""
        if what != self.teacher.every or epoch < self.teacher.warmup:
            return
        self.updates += 1
        keep = self.teacher.momentum_of(self.updates)
        for mine, theirs in zip(_tensors(self.model), _tensors(student), strict=True):
            if mine is not theirs:
                _move(mine, theirs, keep)

    def state(self, names: Iterable[str]) -> dict[str, Any]:
        """All that moves: the named entries, and what it remembers of its answers; on the CPU."""
        return {"model": snapshot(self.model, names), **self.memory()}

    def memory(self) -> dict[str, Any]:
        means = {"centers": self.centers, "totals": self.totals}
        return {"updates": self.updates, **{key: {name: mean.cpu() for name, mean in each.items()} for key, each in means.items()}}

    def recall(self, memory: Mapping[str, Any], device: torch.device) -> None:
        self.updates = memory["updates"]
        self.centers, self.totals = ({name: mean.to(device) for name, mean in memory[key].items()} for key in ("centers", "totals"))

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        restore(self.model, state["model"])
        self.recall(state, device)


def still(model: nn.Module) -> Iterator[Tensor]:
    """What no step changes: parameters that take no gradient, and the buffers of modules in eval mode."""
    yield from (parameter for parameter in model.parameters() if not parameter.requires_grad)
    for module in model.modules():
        if not module.training:
            yield from module.buffers(recurse=False)


def teachers_view(batch: Named) -> Named:
    """The batch as the teacher sees it: where a stream is there in the teacher's view, that takes the stream's place."""
    own = {name.partition(TEACHER)[0] for name in batch if TEACHER in name}
    replaced = own | {FUSED} if own else own
    others = {name: tensor for name, tensor in batch.items() if TEACHER not in name and not _is_of(name, replaced)}
    return others | {name.replace(TEACHER, ""): tensor for name, tensor in batch.items() if TEACHER in name}


def students_view(batch: Named) -> Named:
    """The batch without what the teacher sees."""
    return {name: tensor for name, tensor in batch.items() if TEACHER not in name}


def unlabelled(batch: Named) -> Tensor:
    """(B,) bool: the clips of the target domain, or all where there are no domains."""
    first = next(iter(batch.values()))
    return batch["domain"] == DOMAINS["target"] if "domain" in batch else torch.ones(len(first), dtype=torch.bool, device=first.device)


def _is_of(name: str, streams: set[str]) -> bool:
    return any(name == stream or name.startswith((f"{stream}.", f"{stream}[")) for stream in streams)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _move(mine: Tensor, theirs: Tensor, keep: float) -> None:
    """mine ← keep · mine + (1 - keep) · theirs; what counts, as BatchNorm counts batches, is taken over."""
    if mine.is_floating_point():
        mine.lerp_(theirs.to(mine.dtype), 1 - keep)
    else:
        mine.copy_(theirs)
