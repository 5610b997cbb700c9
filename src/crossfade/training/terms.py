"""What to minimise: named, weighted terms, each one value per clip; an Objective adds them up over the clips that have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from crossfade.clip import UNKNOWN, UserError

if TYPE_CHECKING:
    from crossfade.clip import Named


class Term(Protocol):
    @property
    def target(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def weight(self) -> float: ...

    def __call__(self, out: Named, batch: Named) -> tuple[Tensor, Tensor]:
        """(B,) values and (B,) bool, True where the clip has what the term needs."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    target: str
    output: str
    smoothing: float
    weight: float

    def __call__(self, out: Named, batch: Named) -> tuple[Tensor, Tensor]:
        """out[output] (B, C), batch[target] (B,) -> (B,) nats, (B,) bool."""
        labels = batch[self.target]
        if self.output not in out:  # an auxiliary head of a stream that this batch lacks
            return labels.new_zeros(labels.shape, dtype=torch.float32), torch.zeros_like(labels, dtype=torch.bool)
        logits = out[self.output].float()
        values = functional.cross_entropy(logits, labels, ignore_index=UNKNOWN, label_smoothing=self.smoothing, reduction="none")
        return values, labels != UNKNOWN


def cross_entropy(*, target: str, output: str | None = None, smoothing: float = 0.0, weight: float = 1.0) -> Term:
    """Cross-entropy of `output` (default: the head called like the target) with uniform label smoothing (arXiv 1512.00567 §7).

    `output: emotion.audio` trains a stream's own auxiliary head. Late fusion's output is log-probabilities, for which this is NLL.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"cross_entropy.smoothing: found {smoothing:g}; it lies from 0 up to 1, 1 excluded")
    if weight < 0:
        raise UserError(f"cross_entropy.weight: found {weight:g}; it may not be negative")
    return CrossEntropy(target, output or target, smoothing, weight)


class Objective:
    """Σ weight · mean over the clips that have the term. Called as (out, batch) -> (loss, {name: unweighted mean})."""

    def __init__(self, terms: Mapping[str, Term]):
        self.terms = dict(terms)

    def __call__(self, out: Named, batch: Named) -> tuple[Tensor, Named]:
        means: Named = {}
        for name, term in self.terms.items():
            values, known = term(out, batch)
            means[name] = values @ (known / known.sum().clamp(min=1)).to(values.dtype)
        first, *others = (mean if self.terms[name].weight == 1 else self.terms[name].weight * mean for name, mean in means.items())
        return sum(others, first), means
