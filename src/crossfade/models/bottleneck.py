"""Bottleneck fusion (MBT, arXiv 2107.00135): streams in transformers of their own that meet in a few shared tokens alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from crossfade.clip import Tokens, UserError
from crossfade.models.fusion import module_dict
from crossfade.models.masks import full_mask, masked_mean
from crossfade.models.transformer import Layer, check_heads

if TYPE_CHECKING:
    from crossfade.clip import Named

SPREAD = 0.02  # deviation of learnt tokens and positions at the start, as in the paper
OUT = {"cls": slice(0, 1), "all": slice(None)}  # which of a stream's tokens are given on


class Tower(nn.Module):
    """One stream's own parts: a projection, a learnt CLS token before its tokens, learnt positions where `positions` > 0, and layers."""

    def __init__(self, name: str, width: int, layers: list[Layer], *, dim: int, positions: int, dropout: float):
        super().__init__()
        self.name, self.project = name, nn.Linear(width, dim)
        self.cls = nn.Parameter(torch.randn(1, dim) * SPREAD)
        self.positions = nn.Parameter(torch.randn(positions, dim) * SPREAD) if positions else None
        self.dropout, self.layers = nn.Dropout(dropout), nn.ModuleList(layers)

    def begin(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """(B, T, D_s) -> (B, 1 + T, D), CLS first, and its mask; CLS is real where any token is."""
        real = full_mask(tokens)
        x = self._placed(self.project(tokens.x.masked_fill(~real[:, :, None], 0.0)))
        x = torch.cat([self.cls.expand(x.shape[0], 1, -1), x], 1)
        return self.dropout(x), torch.cat([real.any(1, keepdim=True), real], 1)

    def _placed(self, x: Tensor) -> Tensor:
        if self.positions is None:
            return x
        if x.shape[1] > len(self.positions):
            raise UserError(f"bottleneck: positions.{self.name}: found {len(self.positions)}, but the stream has {x.shape[1]} tokens")
        return x + self.positions[: x.shape[1]]


class Bottleneck(nn.Module):
    """Layers before `fuse_from` see their own stream alone, later ones the shared tokens too, whose updates are averaged: a Mixer."""

    def __init__(self, towers: Mapping[str, Tower], *, takes: Mapping[str, int], dim: int, bottlenecks: int, fuse_from: int, out: str):
        super().__init__()
        self.takes, self.dims = dict(takes), dict.fromkeys(takes, dim)
        self.streams: Any = module_dict("stream", towers)
        self.bottlenecks = nn.Parameter(torch.randn(bottlenecks, dim) * SPREAD)
        self.norm = nn.LayerNorm(dim)
        self.fuse_from, self.depth, self.out = fuse_from, len(next(iter(towers.values())).layers), OUT[out]

    def forward(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """{stream: (B, T_s, D_s)} -> {stream: (B, 1, dim), the CLS token, or (B, 1 + T_s, dim)}"""
        begun = {name: self.streams[name].begin(found) for name, found in tokens.items()}
        own, real = ({name: pair[k] for name, pair in begun.items()} for k in (0, 1))
        for layer in range(self.fuse_from):
            own = {name: self.streams[name].layers[layer](x, real[name]) for name, x in own.items()}
        shared = self.bottlenecks.expand(next(iter(own.values())).shape[0], -1, -1)
        for layer in range(self.fuse_from, self.depth):
            own, shared = self._met(layer, own, real, shared)
        return {name: Tokens(self.norm(x[:, self.out]), real[name][:, self.out]) for name, x in own.items()}

    def _met(self, layer: int, own: Named, real: Named, shared: Tensor) -> tuple[Named, Tensor]:
        """{stream: (B, 1 + T_s, dim)}, their masks, shared (B, N, dim) -> streams and shared one layer on (equations 8 and 9)"""
        count, always = shared.shape[1], torch.ones(shared.shape[:2], dtype=torch.bool, device=shared.device)
        seen = {
            name: self.streams[name].layers[layer](torch.cat([x, shared], 1), torch.cat([real[name], always], 1)) for name, x in own.items()
        }
        updates = torch.stack([x[:, -count:].flatten(1) for x in seen.values()], 1)
        present = torch.stack([mask[:, 0] for mask in real.values()], 1)
        average = masked_mean(Tokens(updates, present)).unflatten(1, (count, -1))
        return {name: x[:, :-count] for name, x in seen.items()}, average


def bottleneck(
    dims: dict[str, int],
    *,
    dim: int = 256,
    layers: int = 4,
    heads: int = 4,
    bottlenecks: int = 4,
    fuse_from: int | None = None,
    mlp: int | None = None,
    out: Literal["cls", "all"] = "cls",
    positions: dict[str, int] | None = None,
    dropout: float = 0.1,
    drop_path: float = 0.1,
) -> Bottleneck:
    """MBT over any number of streams (stream -> width): `layers` pre-norm transformer layers a stream, `bottlenecks` tokens shared by all.

    Layers count from 0; those from `fuse_from` on (null: half of them, at least two; 0: all) see the shared tokens, and the mean of the
    present streams' updates goes on to the next, so a stream hears of others from layer `fuse_from` + 1 on. Learnt are a CLS token a stream
    and, of the streams in `positions` (stream -> most tokens), where a token is. `out: cls` gives on each stream's CLS token alone: then
    `merge: {use: mean, project: false}` and a linear head average the streams' scores, as the paper does; `all` gives on CLS and every
    token. `mlp` is the width of each layer's second half (null: four times dim).
    `drop_path` grows from 0 in the first layer to this chance in the last. UserError where numbers do not fit.
    """
    check_heads("bottleneck", dim, heads)
    fuse_from, positions = min(layers // 2, layers - 2) if fuse_from is None else fuse_from, positions or {}
    _check(dims, layers=layers, bottlenecks=bottlenecks, fuse_from=fuse_from, positions=positions)
    chances = [drop_path * index / max(layers - 1, 1) for index in range(layers)]
    towers = {
        name: Tower(
            name,
            width,
            [Layer(dim, heads=heads, mlp=mlp or 4 * dim, dropout=dropout, drop_path=chance, norm_first=True) for chance in chances],
            dim=dim,
            positions=positions.get(name, 0),
            dropout=dropout,
        )
        for name, width in dims.items()
    }
    return Bottleneck(towers, takes=dims, dim=dim, bottlenecks=bottlenecks, fuse_from=fuse_from, out=out)


def _check(dims: Mapping[str, int], *, layers: int, bottlenecks: int, fuse_from: int, positions: Mapping[str, int]) -> None:
    if layers < 2 or bottlenecks < 1:
        raise UserError(f"bottleneck: layers {layers}, bottlenecks {bottlenecks}; at least 2 and 1 are needed for streams to meet")
    if not 0 <= fuse_from <= layers - 2:
        why = "one writes into the shared tokens, the next reads them"
        raise UserError(f"bottleneck: fuse_from: found {fuse_from}; of {layers} layers at least two must fuse ({why}): 0 … {layers - 2}")
    unknown = [name for name in positions if name not in dims]
    if unknown:
        raise UserError(f"bottleneck: positions.{unknown[0]}: no such stream; there are {', '.join(dims)}")
