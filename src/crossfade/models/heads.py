"""Heads: an embedding (B, D) -> one score a class (B, C)."""

from __future__ import annotations

from torch import nn


def linear(dim: int, classes: int, *, dropout: float = 0.0) -> nn.Sequential:
    """(B, dim) -> (B, classes) by one linear layer."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, classes))


def mlp(dim: int, classes: int, *, hidden: int | None = None, dropout: float = 0.2) -> nn.Sequential:
    """(B, dim) -> (B, classes) through one hidden layer as wide as the embedding, or `hidden`."""
    hidden = hidden or dim
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))
