"""Heads: an embedding (B, D) -> one score a class (B, C)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from crossfade.clip import UserError


def linear(dim: int, classes: int, *, dropout: float = 0.0) -> nn.Sequential:
    """(B, dim) -> (B, classes) by one linear layer."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, classes))


def mlp(dim: int, classes: int, *, hidden: int | None = None, dropout: float = 0.2, input_dropout: float = 0.0) -> nn.Sequential:
    """(B, dim) -> (B, classes) through one hidden layer as wide as the embedding, or `hidden`; dropout before it and after."""
    hidden = hidden or dim
    layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))
    # under a name of its own, so that the weights keep the names they have in bundles
    return nn.Sequential(OrderedDict([("input", nn.Dropout(input_dropout)), *layers.named_children()]))


def identity(dim: int, classes: int) -> nn.Identity:
    """(B, C) -> (B, C): an embedding that is the scores already. UserError where it is not one a class."""
    if dim != classes:
        raise UserError(f"identity: the embedding has {dim} values, but there are {classes} classes; a linear head makes one of the other")
    return nn.Identity()
