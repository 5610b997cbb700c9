"""Which clips an epoch shows, and how often: as they are, rare classes more often, or two domains in fixed shares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Generator, Tensor

from crossfade.clip import SOURCE, TARGET, UNKNOWN, UserError

BALANCES = {"none": 0.0, "root": 0.5, "class": 1.0}  # of a class with n clips, each is drawn n ** -power as often


@dataclass(frozen=True)
class Sampling:
    """`balance` is a key of BALANCES; `mix` says how many source rows there are to how many target rows, in every batch."""

    balance: str = "none"
    mix: tuple[float, float] | None = None

    def batches(self, labels: Tensor, domains: Tensor, size: int, generator: Generator) -> list[Tensor]:
        """Rows (≤ size,) of every batch of an epoch. `labels` (N,) class indices, UNKNOWN where there is none; `domains` (N,).

        With `mix` an epoch shows each target row once, or each source row where no target row is wanted. Raises UserError.
        """
        if self.mix is None:
            rows = torch.arange(len(labels))
            return list(self._drawn(rows, labels, len(rows), generator).split(size))
        source, target = ((domains == number).nonzero().flatten() for number in (SOURCE, TARGET))
        few = round(size * self.mix[0] / sum(self.mix))
        few = min(max(few, int(self.mix[0] > 0)), size - int(self.mix[1] > 0))
        _refuse_absent(source, target, few, size)
        shown = target[torch.randperm(len(target), generator=generator)].split(size - few) if size > few else []
        if not few:
            return list(shown)
        drawn = self._drawn(source, labels, few * len(shown) or len(source), generator).split(few)
        return [torch.cat([mine, theirs]) for mine, theirs in zip(drawn, shown or repeat(target[:0]), strict=False)]

    def _drawn(self, rows: Tensor, labels: Tensor, count: int, generator: Generator) -> Tensor:
        """So many of these rows: by weight with replacement, or all of them in turn, anew shuffled each time round."""
        power = BALANCES[self.balance]
        if power:
            return rows[torch.multinomial(weights(labels[rows], power), count, replacement=True, generator=generator)]
        rounds = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-count // max(len(rows), 1)))]
        return torch.cat([*rounds, rows[:0]])[:count]


def weights(labels: Tensor, power: float) -> Tensor:
    """(N,) float64: how often each row is drawn, n ** -power for a class of n; rows without a label as often as the mean row."""
    known = labels != UNKNOWN
    counts = torch.bincount(labels[known], minlength=1).double()
    found = torch.ones(len(labels), dtype=torch.float64)
    if known.any():
        found[known] = counts[labels[known]] ** -power
        found[~known] = found[known].mean()
    return found


def _refuse_absent(source: Tensor, target: Tensor, few: int, size: int) -> None:
    for name, rows, wanted in (("source", source, few), ("target", target, size - few)):
        if wanted and not len(rows):
            raise UserError(f"mix: wants clips of the {name} domain in every batch, but train has none; set data.domains.{name}")
