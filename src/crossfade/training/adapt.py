"""Terms for clips without labels: what a teacher says of them, and how sure and how varied the answers are. None of them reads a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from crossfade.clip import UserError
from crossfade.training.balance import Counts
from crossfade.training.course import Amount, at, bounds
from crossfade.training.terms import Domain, Term, checked_weight, rows_of

if TYPE_CHECKING:
    from crossfade.clip import Named

    # (the student's logits, the teacher's (B, C), progress) -> (B,) values, (B,) bool
    Pair = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

Threshold = Amount | list[Amount] | dict[str, Amount]


def pseudo_label(
    counts: Counts | None = None,
    *,
    target: str,
    output: str | None = None,
    threshold: Threshold = 0.95,
    soft: bool = False,
    among: Literal["kept", "all"] = "kept",
    weight: Amount = 1.0,
    of: Domain = "target",
) -> Term:
    """Cross-entropy of the student on its own view against the teacher's most probable class, where that reaches its class's threshold.

    FixMatch (arXiv 2001.07685 eq. 4), with a threshold for all classes or one a class, each a number or a course through the phase, which
    makes a curriculum. `soft`: against all of the teacher's probabilities. `among: all` divides by all clips of the domain, as published;
    `kept` by those that reach their threshold.
    """
    _lie_in_share(threshold)

    def pair(student: Tensor, teacher: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        probability = teacher.softmax(1)
        sure, found = probability.max(1)
        kept = sure >= _thresholds(threshold, teacher, progress)[found]
        values = _cross_entropy(probability, student) if soft else -student.log_softmax(1).gather(1, found[:, None])[:, 0]
        return (values, kept) if among == "kept" else (values * kept, torch.ones_like(kept))

    return _taught(target, output, weight, of, pair, "pseudo_label")


def distill(
    counts: Counts | None = None,
    *,
    target: str,
    output: str | None = None,
    temperature: float = 4.0,
    direction: Literal["kl", "ce"] = "kl",
    only: str | int | None = None,
    margin: float = 0.0,
    weight: Amount = 1.0,
    of: Domain = "target",
) -> Term:
    """Soft answers of the teacher: `kl` is T² KL(teacher / T ‖ student / T) (arXiv 1503.02531 §2.1), `ce` the cross-entropy of the student
    at temperature 1 against teacher / T (arXiv 2106.07807, with T = 0.1).

    `margin`: only clips where the teacher's first class leads its second by that much; `only`: and is this class. To distil the
    negatives alone, as the reference system does, can make the recall of the positives collapse.
    """
    if temperature <= 0:
        raise UserError(f"distill.temperature: found {temperature:g}; it is above 0")
    if not 0 <= margin <= 1:
        raise UserError(f"distill.margin: found {margin:g}; it is a difference of probabilities, from 0 to 1")

    def pair(student: Tensor, teacher: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        return DIRECTIONS[direction](student, teacher, temperature), _leads(teacher, only, margin)

    return _taught(target, output, weight, of, pair, "distill")


def information(
    counts: Counts | None = None,
    *,
    target: str,
    output: str | None = None,
    diversity: float = 1.0,
    weight: Amount = 1.0,
    of: Domain = "target",
) -> Term:
    """Information maximisation: mean entropy of the answers minus `diversity` · entropy of their mean (arXiv 2002.08546 eq. 3 and 4).

    Each clip's value is its own entropy minus that of the mean answer over the batch's clips of the domain, so batches may not be small.
    The second part holds up the collapse onto one class, and so pulls towards classes that are equally frequent.
    """
    named = output or target

    def loss(out: Named, batch: Named, teacher: Named | None, progress: float) -> tuple[Tensor, Tensor]:
        rows = rows_of(batch, of)
        logs = out[named].float().log_softmax(1)
        mean = logs.exp().T @ (rows / rows.sum().clamp(min=1)).float()
        spread = -(mean * mean.clamp_min(1e-12).log()).sum()
        return -(logs.exp() * logs).sum(1) - diversity * spread, torch.ones_like(rows)

    return Term(target, named, checked_weight(weight, "information.weight"), of, loss)


def _taught(target: str, output: str | None, weight: Amount, of: Domain, pair: Pair, where: str) -> Term:
    named = output or target

    def loss(out: Named, batch: Named, teacher: Named | None, progress: float) -> tuple[Tensor, Tensor]:
        if teacher is None:
            raise UserError(f"{where}: there is nobody to learn from; give the phase a `teacher`")
        student = out[named].float()
        if named not in teacher:  # its view lacks the stream
            return student.new_zeros(len(student)), torch.zeros(len(student), dtype=torch.bool, device=student.device)
        return pair(student, teacher[named].float().detach(), progress)

    return Term(target, named, checked_weight(weight, f"{where}.weight"), of, loss, taught=True)


def _thresholds(threshold: Threshold, logits: Tensor, progress: float) -> Tensor:
    """(C,) at this progress."""
    if isinstance(threshold, dict):
        raise UserError("pseudo_label.threshold: which class is which was not handed in")
    values = [at(each, progress) for each in threshold] if isinstance(threshold, list) else [at(threshold, progress)] * logits.shape[1]
    if len(values) != logits.shape[1]:
        raise UserError(f"pseudo_label.threshold: found {len(values)} numbers; the output has {logits.shape[1]} classes")
    return torch.tensor(values, dtype=logits.dtype, device=logits.device)


def _lie_in_share(threshold: Threshold) -> None:
    each = threshold if isinstance(threshold, list) else threshold.values() if isinstance(threshold, dict) else [threshold]
    for amount in each:
        if not 0 <= bounds(amount)[0] <= bounds(amount)[1] <= 1:
            raise UserError(f"pseudo_label.threshold: found {bounds(amount)}; it is a probability, from 0 to 1")


def _leads(teacher: Tensor, only: str | int | None, margin: float) -> Tensor:
    if isinstance(only, str):
        raise UserError("distill.only: which class is which was not handed in")
    best = teacher.softmax(1).topk(2, dim=1)
    leads = best.values[:, 0] - best.values[:, 1] >= margin
    return leads if only is None else leads & (best.indices[:, 0] == only)


def _cross_entropy(probability: Tensor, logits: Tensor) -> Tensor:
    return -(probability * logits.log_softmax(1)).sum(1)


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    logs = (teacher / temperature).log_softmax(1)
    return temperature**2 * (logs.exp() * (logs - (student / temperature).log_softmax(1))).sum(1)


def _ce(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return _cross_entropy((teacher / temperature).softmax(1), student)


DIRECTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"kl": _kl, "ce": _ce}
