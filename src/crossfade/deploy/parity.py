"""Whether two runners answer alike: each output by name, how far apart its numbers are and how many decisions are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from crossfade.clip import UserError

if TYPE_CHECKING:
    from crossfade.deploy.runner import Runner

Decision = Literal["class", "several"]


@dataclass(frozen=True)
class Parity:
    """One output over all clips. With a the reference's numbers and b the candidate's: |a − b| is `abs`, and `rel` is |a − b| / max |a|.

    max |a| is taken over the whole output of all clips; `max_own` is the greatest |a − b| / |a|, number by number, which says little
    where a is near 0. Numbers that are finite on one side alone are infinitely far apart. `agree` is the share of clips with the same
    decision, None where the output makes none.
    """

    output: str
    clips: int
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    max_own: float
    agree: float | None


def compare(
    reference: Runner, candidate: Runner, batches: Iterable[Mapping[str, np.ndarray]], decisions: Mapping[str, Decision]
) -> list[Parity]:
    """Both runners on the same batches, output by output. `decisions`: output -> "class" (the greatest) or "several" (each above 0).

    An output that the reference does not give for a batch (of a stream that its clips lack) is left out there. UserError where the
    candidate gives an output that the reference never has, or lacks one on which something is decided.
    """
    totals: dict[str, _Total] = {}
    for batch in batches:
        expected, found = reference(batch), candidate(batch)
        for name in found:
            if name in expected:
                totals.setdefault(name, _Total(DECISIONS.get(decisions.get(name, "")))).add(expected[name], found[name], name)
    if not totals:
        raise UserError("comparing needs at least one batch, of which both give an output of one name")
    absent = [name for name in (*decisions, *candidate.outputs) if name not in totals]
    if absent:
        raise UserError(f"{absent[0]}: no clip has it from both; these are compared: {', '.join(totals)}")
    return [total.parity(name) for name, total in totals.items()]


def acceptable(parities: Iterable[Parity], tolerance: float, agreement: float) -> list[str]:
    """What is wrong, a line each: an output further off than `tolerance` (of max_rel), or with fewer equal decisions than `agreement`."""
    far = "{0.output}: {0.max_rel:.2g} of its range apart at most, above {1:g}"
    differ = "{0.output}: the same decision for {0.agree:.2%} of {0.clips} clips, below {1:.2%}"
    found = list(parities)
    return [
        *[far.format(each, tolerance) for each in found if not each.max_rel <= tolerance],
        *[differ.format(each, agreement) for each in found if each.agree is not None and each.agree < agreement],
    ]


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a − b| in float64; 0 where both are the same infinity or no number, infinite where one alone is."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def ratio(part: float, whole: float) -> float:
    """part / whole; 0 / 0 is 0, and anything else over 0 is infinite."""
    return part / whole if whole else (np.inf if part else 0.0)


def _same_class(a: np.ndarray, b: np.ndarray) -> int:
    return int((a.argmax(-1) == b.argmax(-1)).sum())


def _same_several(a: np.ndarray, b: np.ndarray) -> int:
    return int(((a > 0) == (b > 0)).reshape(len(a), -1).all(1).sum())


DECISIONS: dict[str, Callable[[np.ndarray, np.ndarray], int]] = {"class": _same_class, "several": _same_several}


@dataclass
class _Total:
    """What is known of one output after some batches."""

    same: Callable[[np.ndarray, np.ndarray], int] | None
    clips: int = 0
    numbers: int = 0
    agreed: int = 0
    scale: float = 0.0
    greatest: float = 0.0
    own: float = 0.0
    sums: list[float] = field(default_factory=list)

    def add(self, a: np.ndarray, b: np.ndarray, name: str) -> None:
        if a.shape != b.shape:
            raise UserError(f"{name}: one gives {a.shape}, the other {b.shape}")
        apart, size = difference(a, b), np.abs(a[np.isfinite(a)]).astype(np.float64)
        self.clips, self.numbers = self.clips + len(a), self.numbers + a.size
        self.scale = max(self.scale, size.max(initial=0.0))
        self.greatest, self.sums = max(self.greatest, apart.max(initial=0.0)), [*self.sums, float(apart.sum())]
        some = np.isfinite(a) & (a != 0)
        self.own = max(self.own, (apart[some] / np.abs(a[some])).max(initial=0.0))
        self.agreed += 0 if self.same is None else self.same(a, b)

    def parity(self, name: str) -> Parity:
        mean = sum(self.sums) / max(self.numbers, 1)
        far = (ratio(self.greatest, self.scale), ratio(mean, self.scale), float(self.own))
        return Parity(name, self.clips, self.greatest, mean, *far, None if self.same is None else self.agreed / max(self.clips, 1))
