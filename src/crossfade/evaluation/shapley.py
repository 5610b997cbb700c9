"""What each stream adds to an answer: exact Shapley values from the answers to every subset of the streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations
from math import comb

import numpy as np


def values(outcomes: Mapping[frozenset[str], np.ndarray] | Mapping[tuple[str, ...], np.ndarray]) -> dict[str, np.ndarray]:
    """The outcome (N,) or (N, C) of every subset of streams, the empty one too -> what each stream adds, of the same shape.

    The mean, over all orders in which streams can arrive, of what one adds when it does (Shapley 1953). Over the streams they sum
    to outcome(all) - outcome(none). ValueError names a subset that is missing.
    """
    found = {frozenset(subset): np.asarray(outcome, dtype=np.float64) for subset, outcome in outcomes.items()}
    streams = sorted(frozenset().union(*found))
    missing = [subset for subset in subsets(streams) if subset not in found]
    if missing:
        raise ValueError(f"no outcome for the streams {sorted(missing[0])}: Shapley values need every subset, the empty one too")
    return {stream: _value(stream, found, len(streams)) for stream in streams}


def subsets(streams: Collection[str]) -> list[frozenset[str]]:
    """All 2^n of them, the empty one first."""
    return [frozenset(chosen) for count in range(len(streams) + 1) for chosen in combinations(streams, count)]


def _value(stream: str, found: Mapping[frozenset[str], np.ndarray], count: int) -> np.ndarray:
    without = [subset for subset in found if stream not in subset]
    return np.sum([(found[subset | {stream}] - found[subset]) / (count * comb(count - 1, len(subset))) for subset in without], axis=0)
