"""What to minimise: named, weighted terms, each one value per clip; an Objective adds them up over the clips that have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from crossfade.clip import SOURCE, TARGET, UNKNOWN, UserError
from crossfade.training import balance as balances
from crossfade.training.balance import Balance, Counts
from crossfade.training.course import Amount, at, bounds

if TYPE_CHECKING:
    from crossfade.clip import Named

    # (out, batch, the teacher's outputs, progress through the phase) -> (B,) values and (B,) bool, True where the clip has the term
    Loss = Callable[[Named, Named, Named | None, float], tuple[Tensor, Tensor]]

Domain = Literal["source", "target", "all"]
DOMAINS = {"source": SOURCE, "target": TARGET}


@dataclass(frozen=True)
class Term:
    """A loss, what it is about, what it weighs, and the domain of the clips that it is for."""

    target: str
    output: str
    weight: Amount
    of: Domain
    loss: Loss
    taught: bool = False  # whether it looks at the teacher
    several: bool = False  # whether it is for targets of which a clip may have several classes

    def __call__(self, out: Named, batch: Named, teacher: Named | None = None, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """(B,) values and (B,) bool, True where the clip is of the term's domain and has what the term needs."""
        rows = rows_of(batch, self.of)
        if self.output not in out:  # an auxiliary head of a stream that this batch lacks
            return rows.new_zeros(rows.shape, dtype=torch.float32), torch.zeros_like(rows)
        values, known = self.loss(out, batch, teacher, progress)
        return values, known & rows


def rows_of(batch: Named, domain: Domain) -> Tensor:
    """(B,) bool: which clips of the batch are of this domain."""
    first = next(iter(batch.values()))
    if domain not in DOMAINS:
        return torch.ones(len(first), dtype=torch.bool, device=first.device)
    if "domain" not in batch:
        raise UserError(f"a term is of the {domain}, but the clips have no domains; name them in data.domains, or say of: all")
    return batch["domain"] == DOMAINS[domain]


def labelled(target: str, output: str, rows: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A loss of logits (B, C) and labels (B,) -> (B,), 0 where the label is UNKNOWN; half precision is judged in single."""

    def loss(out: Named, batch: Named, teacher: Named | None, progress: float) -> tuple[Tensor, Tensor]:
        return rows(out[output].float(), batch[target]), batch[target] != UNKNOWN

    return loss


def checked_weight(weight: Amount, where: str) -> Amount:
    if bounds(weight)[0] < 0:
        raise UserError(f"{where}: found {bounds(weight)[0]:g}; it may not be negative")
    return weight


def checked_beta(beta: float, where: str) -> float:
    if not 0 <= beta < 1:
        raise UserError(f"{where}: found {beta:g}; it lies from 0 up to 1, 1 excluded")
    return beta


def checked_smoothing(smoothing: float, where: str) -> float:
    if not 0 <= smoothing < 1:
        raise UserError(f"{where}: found {smoothing:g}; it lies from 0 up to 1, 1 excluded")
    return smoothing


def cross_entropy(
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
    """Cross-entropy of `output` (default: the head called like the target) with uniform label smoothing (arXiv 1512.00567 §7).

    `output: emotion.audio` trains a stream's own auxiliary head. Late fusion's output is log-probabilities, for which this is NLL.
    `balance` weighs the classes: `inverse` N / (C n_c); `root`, in proportion to n_c^-1/2; `effective` (1 - β) / (1 - β^n_c) (arXiv
    1901.05555); or numbers by class, of which {cough: 2, non-cough: 1} is a BCE with pos_weight 2. Label Over-Smooth (ICLR 2025) is
    `smoothing: 0.98` where only the heads learn.
    """
    checked_smoothing(smoothing, "cross_entropy.smoothing")
    checked_beta(beta, "cross_entropy.beta")
    even, where = balance == "none", "cross_entropy.balance"
    weights = None if even else balances.weights(balance, counts, target, where, beta)

    def rows(logits: Tensor, labels: Tensor) -> Tensor:
        by_class = None if even else balances.ready(weights, logits, where)
        return functional.cross_entropy(logits, labels, weight=by_class, ignore_index=UNKNOWN, label_smoothing=smoothing, reduction="none")

    named = output or target
    return Term(target, named, checked_weight(weight, "cross_entropy.weight"), of, labelled(target, named, rows))


class Objective:
    """Σ weight · mean over the clips that have the term: (out, batch, teacher's outputs, progress) -> (loss, {name: unweighted mean})."""

    def __init__(self, terms: Mapping[str, Term]):
        self.terms = dict(terms)

    @property
    def taught(self) -> dict[str, str]:
        """The outputs of a teacher that some term looks at, and each one's target."""
        return {term.output: term.target for term in self.terms.values() if term.taught}

    def shares(self, part: Named, whole: Named) -> dict[str, float]:
        """How much of each term's mean over a batch a part of it stands for: by labelled clips of its domain, or all where none is."""
        found: dict[str, float] = {}
        for name, term in self.terms.items():
            (labelled, every), (all_labelled, all_every) = _clips(term, part), _clips(term, whole)
            found[name] = labelled / all_labelled if all_labelled else every / max(all_every, 1)
        return found

    def __call__(
        self,
        out: Named,
        batch: Named,
        teacher: Named | None = None,
        progress: float = 0.0,
        shares: Mapping[str, float] | None = None,
    ) -> tuple[Tensor, Named]:
        """`shares`: where the batch is a part of one, how much of each term's mean it stands for."""
        means: Named = {}
        for name, term in self.terms.items():
            values, known = term(out, batch, teacher, progress)
            means[name] = values @ (known / known.sum().clamp(min=1)).to(values.dtype)
        weights = {name: at(term.weight, progress) * (1.0 if shares is None else shares[name]) for name, term in self.terms.items()}
        first, *others = (mean if weights[name] == 1 else weights[name] * mean for name, mean in means.items())
        return sum(others, first), means


def _clips(term: Term, batch: Named) -> tuple[int, int]:
    """Of a term's domain: clips with the label, and all."""
    rows, labels = rows_of(batch, term.of), batch.get(term.target)
    known = rows if labels is None else rows & (labels.reshape(len(labels), -1)[:, 0] != UNKNOWN).to(rows.device)
    return int(known.sum()), int(rows.sum())
