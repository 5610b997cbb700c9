"""Events in a recording, found and true: which of them are the same, and so precision, recall and F1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

COLLAR = 0.2  # seconds an onset may be off: the usual collar of sound event detection (Mesaros et al. 2016, doi:10.3390/app6060162)
OVERLAP = 0.5  # of intersection over union


@dataclass(frozen=True)
class Event:
    """Something heard from `start` to `end`, seconds."""

    start: float
    end: float
    label: str
    probability: float = 1.0


@dataclass(frozen=True)
class EventScores:
    """How many events were found rightly; shares are 0 where nothing was there to divide by."""

    matched: int
    predicted: int
    true: int
    by: str  # what counts as the same event, in words
    per_class: dict[str, EventScores] = field(default_factory=dict)

    @property
    def precision(self) -> float:
        return self.matched / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.matched / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        total = self.predicted + self.true
        return 2 * self.matched / total if total else 0.0


def by_onset(predicted: Sequence[Event], true: Sequence[Event], *, collar: float = COLLAR) -> EventScores:
    """The same where the class agrees and the beginnings lie within `collar` seconds."""
    return _score(predicted, true, lambda a, b: abs(a.start - b.start) <= collar + 1e-9, f"onsets within {collar:g} s")


def by_overlap(predicted: Sequence[Event], true: Sequence[Event], *, overlap: float = OVERLAP) -> EventScores:
    """The same where the class agrees and intersection over union is at least `overlap`."""
    return _score(predicted, true, lambda a, b: intersection_over_union(a, b) >= overlap - 1e-9, f"intersection over union ≥ {overlap:g}")


MATCHING: dict[str, Callable[..., EventScores]] = {"onset": by_onset, "overlap": by_overlap}


def intersection_over_union(a: Event, b: Event) -> float:
    """Shared seconds over seconds covered by either."""
    shared = max(0.0, min(a.end, b.end) - max(a.start, b.start))
    either = a.end - a.start + b.end - b.start - shared
    return shared / either if either > 0 else 0.0


Same = Callable[[Event, Event], bool]


def _score(predicted: Sequence[Event], true: Sequence[Event], same: Same, by: str) -> EventScores:
    labels = sorted({event.label for event in (*predicted, *true)})
    kinds = {label: _of_class(_labelled(predicted, label), _labelled(true, label), same, by) for label in labels}
    return EventScores(sum(kind.matched for kind in kinds.values()), len(predicted), len(true), by, kinds)


def _labelled(events: Sequence[Event], label: str) -> list[Event]:
    return [event for event in events if event.label == label]


def _of_class(predicted: list[Event], true: list[Event], same: Same, by: str) -> EventScores:
    return EventScores(matches(predicted, true, same), len(predicted), len(true), by)


def matches(predicted: Sequence[Event], true: Sequence[Event], same: Same) -> int:
    """The most pairs that can be made when every event may belong to one pair only."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    allowed = np.array([[same(found, real) for real in true] for found in predicted], dtype=bool).reshape(len(predicted), len(true))
    if not allowed.any():
        return 0
    return int((maximum_bipartite_matching(csr_array(allowed), perm_type="column") >= 0).sum())
