"""How much each class counts, from how many labelled training clips there are of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from crossfade.clip import UserError

# target -> (C,) labelled training clips of each class, or of a target with several classes a clip (2, C): without and with each; empty
# while a recipe is only checked
Counts = Mapping[str, Tensor]
Balance = Literal["none", "inverse", "root", "effective"]


def inverse(counts: Tensor, *, beta: float = 0.0) -> Tensor:
    """(C,) -> (C,): N / (C n_c), so that the mean weight of the training clips is 1 (scikit-learn's "balanced")."""
    return counts.sum() / (len(counts) * counts)


def root(counts: Tensor, *, beta: float = 0.0) -> Tensor:
    """(C,) -> (C,): n_c^-1/2, scaled so that the mean weight of the training clips is 1."""
    weights = counts.rsqrt()
    return weights * counts.sum() / (counts * weights).sum()


def effective(counts: Tensor, *, beta: float) -> Tensor:
    """(C,) -> (C,): 1 over the effective number, (1 - β) / (1 - β^n_c), scaled so that they sum to C (arXiv 1901.05555 eq. 2 and §4)."""
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights * len(counts) / weights.sum()).float()


WEIGHTS: dict[str, Callable[..., Tensor]] = {"inverse": inverse, "root": root, "effective": effective}


def log_prior(counts: Tensor) -> Tensor:
    """(C,) -> (C,): ln of each class's share of the labelled training clips."""
    return (counts / counts.sum()).log()


def counted(counts: Counts | None, target: str, where: str) -> Tensor | None:
    """(C,) of the target, None while nobody has counted. UserError where there is a class without a labelled clip."""
    found = (counts or {}).get(target)
    if found is None:
        return None
    found = torch.as_tensor(found, dtype=torch.float32)
    if (found <= 0).any():
        missing = int((found <= 0).nonzero()[0])
        raise UserError(f"{where}: class {missing + 1} of {target} has no labelled clip in train, so it has no weight; leave it out")
    return found


def weights(
    given: str | Sequence[float] | Mapping[str, float], counts: Counts | None, target: str, where: str, beta: float
) -> Tensor | None:
    """(C,) weights: by a rule of WEIGHTS, or as given in the order of the classes; None while nobody has counted."""
    if isinstance(given, str):
        found = counted(counts, target, where)
        return None if found is None else WEIGHTS[given](found, beta=beta)
    if isinstance(given, Mapping):  # by class name, which nobody has put in order: see by_class
        return None
    if not given or min(given) < 0 or max(given) <= 0:
        raise UserError(f"{where}: found {list(given)}; these are weights, one a class, none negative and not all 0")
    return torch.tensor(given, dtype=torch.float32)


def ready(weights: Tensor | None, logits: Tensor, where: str) -> Tensor:
    """(C,) beside the logits (B, C). UserError where it is not known yet, or of another number of classes."""
    if weights is None:
        raise UserError(f"{where}: how many labelled clips each class has, or which class is which, was not handed in")
    if len(weights) != logits.shape[1]:
        raise UserError(f"{where}: found {len(weights)} numbers; the output has {logits.shape[1]} classes")
    return weights.to(logits.device)
