"""A transformer layer, normed before or after each of its halves, whose attention can be watched."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfade.clip import UserError
from crossfade.models.fusion import drop_path
from crossfade.models.masks import attendable


class Attention(nn.Module):
    """Multi-head self-attention, no key of which is padding. While `watched` is a list, each forward adds its probabilities to it."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.watched: list[Tensor] | None = None  # of (B, heads, T, T)
        self.heads, self.dropout = heads, dropout
        self.ask, self.tell = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.ask.weight)
        for part in (self.ask, self.tell):
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, D), real (B, T) -> (B, T, D)"""
        query, key, value = self.ask(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        allowed = attendable(real)[:, None, None, :]
        if self.watched is not None:
            self.watched.append(probabilities(query, key, allowed))
        dropout = self.dropout if self.training else 0.0
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
        return self.tell(heard.transpose(1, 2).flatten(2))


def probabilities(query: Tensor, key: Tensor, allowed: Tensor) -> Tensor:
    """(B, heads, Q, E), (B, heads, K, E), allowed (B, 1, 1, K) -> (B, heads, Q, K), what scaled_dot_product_attention keeps to itself."""
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return scores.masked_fill(~allowed, -torch.inf).softmax(3)


class Layer(nn.Module):
    """Attention, then two linear layers on each token, each added to what it saw; sizes and dropout as nn.TransformerEncoderLayer's."""

    def __init__(self, dim: int, *, heads: int, mlp: int, dropout: float, drop_path: float = 0.0, norm_first: bool):
        super().__init__()
        self.attention, self.norm1, self.norm2 = Attention(dim, heads, dropout), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, dim))
        self.dropout, self.drop_path, self.norm_first = nn.Dropout(dropout), drop_path, norm_first

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, D), real (B, T) -> (B, T, D)"""
        if self.norm_first:
            x = x + self._kept(self.attention(self.norm1(x), real))
            return x + self._kept(self.mlp(self.norm2(x)))
        x = self.norm1(x + self._kept(self.attention(x, real)))
        return self.norm2(x + self._kept(self.mlp(x)))

    def _kept(self, x: Tensor) -> Tensor:
        return drop_path(self.dropout(x), self.drop_path, training=self.training)


def check_heads(where: str, dim: int, heads: int) -> None:
    """UserError where heads do not divide dim."""
    if heads < 1 or dim % heads:
        raise UserError(f"{where}: dim {dim} is not a multiple of heads {heads}")
