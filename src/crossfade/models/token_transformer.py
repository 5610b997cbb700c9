"""A transformer over one token a stream: the wildlife original's fusion, which it called MBT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from crossfade.clip import Tokens
from crossfade.models.fusion import Embeddings, Joint
from crossfade.models.masks import masked_mean
from crossfade.models.transformer import Layer, check_heads

if TYPE_CHECKING:
    from crossfade.clip import Named


class TokenTransformer(nn.Module):
    """Each embedding, plus a learnt mark of its stream, is a token; post-norm layers; the mean over the present; LayerNorm."""

    def __init__(self, streams: int, layers: list[Layer], dim: int):
        super().__init__()
        self.marks = nn.Parameter(torch.zeros(streams, dim))
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(dim)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Named:
        """n × (B, D), (B, n) -> {"joint": (B, D)}"""
        x = torch.stack(embeddings, 1) + self.marks
        for layer in self.layers:
            x = layer(x, present)
        return {"joint": self.norm(masked_mean(Tokens(x, present)))}


def token_transformer(
    dims: dict[str, int], *, dim: int = 512, layers: int = 2, heads: int = 8, mlp: int = 2048, dropout: float = 0.1
) -> Joint:
    """Streams (stream -> width), pooled and brought to `dim`, attend to one another as single tokens -> (B, dim).

    6,963,200 parameters with streams 768 and 512 wide, as the wildlife original's, of which 1,024 were declared but unused there:
    here they mark the streams, and begin at 0. UserError where heads do not divide dim.
    """
    check_heads("merge: token_transformer", dim, heads)
    stack = [Layer(dim, heads=heads, mlp=mlp, dropout=dropout, norm_first=False) for _ in range(layers)]
    return Joint(Embeddings(dims, dim), TokenTransformer(len(dims), stack, dim), dim=dim)
