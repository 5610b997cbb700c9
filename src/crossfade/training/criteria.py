"""How good a model seems on clips without labels: (N, C) probabilities -> a number, higher is better. What fools each is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 1024  # of the N x N similarities that are held at once


@dataclass(frozen=True)
class Criterion:
    """Called with (N, C) probabilities, and where `pair` is set with those of the same clips in another view or by another model."""

    measure: Callable[..., float]
    label: str
    pair: bool = False

    def __call__(self, *probabilities: Any) -> float:
        return self.measure(*(torch.as_tensor(each, dtype=torch.float64) for each in probabilities))


def entropy(probability: Tensor) -> float:
    """Minus the mean entropy, in nats: how sure the answers are (arXiv 1711.10288).

    Fooled by certainty itself: a model that calls everything by one class, or is overconfident, has the best value, 0.
    """
    return -float(_entropies(probability).mean())


def information(probability: Tensor) -> float:
    """Entropy of the mean answer minus the mean entropy, in nats: the answers' mutual information with the clips (arXiv 2002.08546).

    Fooled by sure answers at random in equal shares, and prefers equal shares even where the truth is imbalanced.
    """
    return float(_entropies(probability.mean(0, keepdim=True))[0] - _entropies(probability).mean())


def snd(probability: Tensor, temperature: float = 0.05) -> float:
    """Soft neighbourhood density (arXiv 2108.10860 eq. 1 to 3): the mean entropy of softmax(similarity to the other clips / temperature).

    Fooled by a collapse: where all answers are equal, every clip has all others for neighbours, and the value is its highest, ln(N - 1).
    """
    if len(probability) < 2:
        return 0.0
    features = functional.normalize(probability, dim=1)
    return sum(float(each) for each in _densities(features, temperature)) / len(features)


def _densities(features: Tensor, temperature: float):
    """Sums over some rows at a time of the entropies of their neighbourhoods."""
    for first in range(0, len(features), ROWS):
        part = features[first : first + ROWS] @ features.T / temperature
        own = torch.arange(len(part))
        part[own, first + own] = -math.inf  # a clip is no neighbour of itself
        yield _entropies(part.softmax(1)).sum()


def agreement(probability: Tensor, other: Tensor) -> float:
    """How often two draws from the two answers to a clip give the same class: the mean of Σ_c p_c q_c, in which sure answers count most.

    `other`: the same clips in a strong view, or judged by the model that training began with. Fooled by a collapse onto one class in both;
    against the model that training began with it is highest for what changed nothing.
    """
    return float((probability * other).sum(1).mean())


def _entropies(probability: Tensor) -> Tensor:
    """(N, C) -> (N,) nats."""
    return torch.special.entr(probability).sum(1)
