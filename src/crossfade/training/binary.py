"""A term for targets of which a clip may have several classes at once: one yes or no a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from crossfade.clip import UNKNOWN, UserError
from crossfade.training import balance as balances
from crossfade.training.balance import Balance, Counts
from crossfade.training.course import Amount
from crossfade.training.terms import Domain, Term, checked_beta, checked_smoothing, checked_weight

if TYPE_CHECKING:
    from crossfade.clip import Named


def binary_cross_entropy(
    counts: Counts | None = None,
    *,
    target: str,
    output: str | None = None,
    smoothing: float = 0.0,
    balance: Balance | list[float] | dict[str, float] = "none",
    beta: float = 0.999,
    weight: Amount = 1.0,
    of: Domain = "all",
) -> Term:
    """The mean over the classes of the cross-entropy of yes and no; for targets whose clips may have several classes, or none.

    `balance` says what a yes weighs beside a no, class by class: `inverse` clips without it over clips with it, `root` the square root of
    that, `effective` the ratio of the effective numbers (1 - β^n) / (1 - β) of the two (arXiv 1901.05555), or numbers by class. `smoothing`
    ε makes the labels ε/2 and 1 - ε/2.
    """
    checked_smoothing(smoothing, "binary_cross_entropy.smoothing")
    checked_beta(beta, "binary_cross_entropy.beta")
    where = "binary_cross_entropy.balance"
    weights = None if balance == "none" else _weights(balance, counts, target, where, beta)

    def loss(out: Named, batch: Named, teacher: Named | None, progress: float) -> tuple[Tensor, Tensor]:
        logits, labels = out[named].float(), batch[target].float()
        known = labels[:, 0] != UNKNOWN
        wanted = labels.clamp_min(0) * (1 - smoothing) + smoothing / 2
        yes = None if balance == "none" else balances.ready(weights, logits, where)
        rows = functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=yes, reduction="none").mean(1)
        return rows.masked_fill(~known, 0.0), known

    named = output or target
    return Term(target, named, checked_weight(weight, "binary_cross_entropy.weight"), of, loss, several=True)


def ratio(without: Tensor, having: Tensor, *, beta: float) -> Tensor:
    """(C,), (C,) -> (C,) clips without a class for each clip that has it."""
    return without / having


def root(without: Tensor, having: Tensor, *, beta: float) -> Tensor:
    """(C,), (C,) -> (C,) the square root of `ratio`."""
    return (without / having).sqrt()


def effective(without: Tensor, having: Tensor, *, beta: float) -> Tensor:
    """(C,), (C,) -> (C,) the ratio of the effective numbers."""
    return ((1 - beta ** without.double()) / (1 - beta ** having.double())).float()


YES: dict[str, Callable[..., Tensor]] = {"inverse": ratio, "root": root, "effective": effective}


def _weights(
    balance: str | Sequence[float] | Mapping[str, float], counts: Counts | None, target: str, where: str, beta: float
) -> Tensor | None:
    """(C,) what a yes of each class weighs; None while nobody has counted."""
    if not isinstance(balance, str):
        return balances.weights(balance, counts, target, where, beta)
    found = (counts or {}).get(target)
    if found is None:
        return None
    without, having = torch.as_tensor(found, dtype=torch.float32)
    if (having <= 0).any() or (without <= 0).any():
        number = int(((having <= 0) | (without <= 0)).nonzero()[0])
        raise UserError(f"{where}: all or none of the labelled clips in train have class {number + 1} of {target}; leave it out")
    return YES[balance](without, having, beta=beta)
