"""Terms for classes of which there are few clips: focal loss, and logits adjusted by the classes' shares."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from crossfade.clip import UNKNOWN, UserError
from crossfade.training import balance as balances
from crossfade.training.balance import Counts
from crossfade.training.course import Amount
from crossfade.training.terms import Domain, Term, checked_smoothing, checked_weight, labelled


def focal(
    counts: Counts | None = None,
    *,
    target: str,
    output: str | None = None,
    gamma: float = 2.0,
    alpha: float | list[float] | dict[str, float] | Literal["balanced"] | None = None,
    tau: float = 0.0,
    smoothing: float = 0.0,
    weight: Amount = 1.0,
    of: Domain = "all",
) -> Term:
    """Focal loss, -α_c (1 - p_c)^γ ln p_c of the true class c (arXiv 1708.02002 eq. 5), with p a softmax over any number of classes.

    `alpha`: one number for all classes, one a class, or `balanced`, N / (C n_c). `tau` adjusts the logits first, as `logit_adjusted` does.
    With `smoothing` the smoothed label q takes the place of the true class, Σ_c q_c α_c (1 - p_c)^γ (-ln p_c); γ = 0 is cross-entropy.
    """
    _not_negative(gamma, "focal.gamma")
    _not_negative(tau, "focal.tau")
    checked_smoothing(smoothing, "focal.smoothing")
    alphas, shift = _alphas(alpha, counts, target), _shift(tau, counts, target, "focal.tau")

    def rows(logits: Tensor, labels: Tensor) -> Tensor:
        by_class = 1.0 if alpha is None else alpha if isinstance(alpha, float | int) else balances.ready(alphas, logits, "focal.alpha")
        logs = (logits + tau * balances.ready(shift, logits, "focal.tau") if tau else logits).log_softmax(1)
        missed = (-torch.expm1(logs)).clamp_min(1e-12)  # at p = 1 a root has no slope
        values = (smoothed(labels, logits.shape[1], smoothing) * by_class * missed**gamma * -logs).sum(1)
        return values.masked_fill(labels == UNKNOWN, 0.0)

    named = output or target
    return Term(target, named, checked_weight(weight, "focal.weight"), of, labelled(target, named, rows))


def logit_adjusted(
    counts: Counts | None = None,
    *,
    target: str,
    output: str | None = None,
    tau: float = 1.0,
    smoothing: float = 0.0,
    weight: Amount = 1.0,
    of: Domain = "all",
) -> Term:
    """Cross-entropy of logits + τ ln π, π the classes' shares of the labelled training clips (arXiv 2007.07314 eq. 10).

    The model's own logits, unadjusted, then answer as if all classes were equally frequent. A sampler that balances the classes does so
    already: with both, rare classes count twice.
    """
    _not_negative(tau, "logit_adjusted.tau")
    checked_smoothing(smoothing, "logit_adjusted.smoothing")
    shift = _shift(tau, counts, target, "logit_adjusted.tau")

    def rows(logits: Tensor, labels: Tensor) -> Tensor:
        adjusted = logits + tau * balances.ready(shift, logits, "logit_adjusted.tau") if tau else logits
        return functional.cross_entropy(adjusted, labels, ignore_index=UNKNOWN, label_smoothing=smoothing, reduction="none")

    named = output or target
    return Term(target, named, checked_weight(weight, "logit_adjusted.weight"), of, labelled(target, named, rows))


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """(B,) labels -> (B, C) distributions: 1 - ε of the true class and ε spread evenly over all; of UNKNOWN any one."""
    return functional.one_hot(labels.clamp_min(0), classes) * (1.0 - smoothing) + smoothing / classes


def _alphas(alpha: float | list[float] | dict[str, float] | str | None, counts: Counts | None, target: str) -> Tensor | None:
    if isinstance(alpha, float | int):
        _not_negative(alpha, "focal.alpha")
    if alpha is None or isinstance(alpha, float | int):
        return None
    return balances.weights("inverse" if isinstance(alpha, str) else alpha, counts, target, "focal.alpha", 0.0)


def _shift(tau: float, counts: Counts | None, target: str, where: str) -> Tensor | None:
    found = balances.counted(counts, target, where) if tau else None
    return None if found is None else balances.log_prior(found)


def _not_negative(value: float, where: str) -> None:
    if value < 0:
        raise UserError(f"{where}: found {value:g}; it may not be negative")
